//! What `nacre serve` tells about itself: metrics for Prometheus, health and readiness for probes,
//! its status for people.
//!
//! The rooms below count ([`measure`](crate::measure)) and describe themselves as plain data; here
//! that is collected when somebody asks, and written down. Nothing is counted twice, and nothing is
//! done between two questions. The pages are served on the socket that containerd talks to, for whom
//! its mode lets in, and, without the status, on a TCP address if one is configured.
//!
//! Names of metrics: `docs/metrics.md`; the status: `docs/status.md`.

mod client;
mod exposition;
mod listener;
mod pages;
mod readiness;
mod sample;
mod sources;
pub mod status;

pub use self::{
    client::ask,
    exposition::Format,
    listener::Listener,
    readiness::{Check, Readiness},
    sources::{Sources, Telemetry},
};
