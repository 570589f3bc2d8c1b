//! What integration tests share; each test binary uses a part of it.
#![allow(dead_code, reason = "no test uses all of it")]
#![allow(
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "not an API"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

pub mod cosign;
pub mod docker_registry;
pub mod exposition;
pub mod go;
pub mod gpg;
pub mod images;
pub mod ordinary;
pub mod pipeline;
pub mod private_sigstore;
pub mod program;
pub mod registry;
mod registry_http;
pub mod samples;
pub mod serve;
pub mod sigstore;
pub mod token_server;
pub mod toy;
pub mod tree_compare;
