//! Generated protobuf messages and gRPC stubs; `scripts/regenerate-proto` makes them anew from
//! `proto/`, and the result is checked in, so that building nacre needs no `protoc`.

/// ocicrypt's key provider protocol (`keyprovider.KeyProviderService`).
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations)]
#[path = "generated/keyprovider.rs"]
pub mod keyprovider;

pub mod hub;
pub mod ttrpc;

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

/// The image service of the Kubernetes CRI (`runtime.v1.ImageService`), from `k8s.io/cri-api` v0.37.2.
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations)]
#[allow(rustdoc::bare_urls, rustdoc::invalid_html_tags)]
pub mod cri {
    include!("generated/runtime.v1.rs");

    impl std::fmt::Debug for AuthConfig {
        /// Prints no secret.
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("AuthConfig")
                .field("server_address", &self.server_address)
                .finish_non_exhaustive()
        }
    }
}

/// Reads and writes messages.
pub use prost::Message;
/// Well-known types that the messages use.
pub use prost_types::{FieldMask, Timestamp};
