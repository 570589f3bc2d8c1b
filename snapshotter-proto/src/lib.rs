//! Generated protobuf messages and gRPC stubs; `scripts/regenerate-proto` makes them anew from
//! `proto/`, and the result is checked in, so that building nacre needs no `protoc`.

/// ocicrypt's key provider protocol (`keyprovider.KeyProviderService`).
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations)]
#[path = "generated/keyprovider.rs"]
pub mod keyprovider;

/// containerd's services and types, from `github.com/containerd/containerd/api` v1.12.0.
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations)]
#[allow(rustdoc::invalid_html_tags)]
pub mod containerd {
    /// What several services share (`containerd.types`).
    pub mod types {
        include!("generated/containerd.types.rs");
    }
    /// Services, by name and version.
    pub mod services {
        /// The snapshots service.
        pub mod snapshots {
            /// `containerd.services.snapshots.v1`.
            pub mod v1 {
                include!("generated/containerd.services.snapshots.v1.rs");
            }
        }
    }
}

/// Well-known types that the messages use.
pub use prost_types::{FieldMask, Timestamp};
