//! What integration tests share; each test binary uses a part of it.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations
)]

pub mod docker_registry;
pub mod registry;
mod registry_http;
