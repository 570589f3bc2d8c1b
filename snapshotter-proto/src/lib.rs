//! Generated protobuf messages and gRPC stubs; `scripts/regenerate-proto` makes them anew from
//! `proto/`, and the result is checked in, so that building nacre needs no `protoc`.

/// ocicrypt's key provider protocol (`keyprovider.KeyProviderService`).
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations)]
#[path = "generated/keyprovider.rs"]
pub mod keyprovider;
