//! The OCI words: digest, reference, descriptor, manifest, index, config, platform, media types.
//!
//! Follows the OCI image and distribution specifications v1.1 and Docker's image manifest version 2
//! schema 2. Documents are parsed from their exact bytes, since their digest is what is signed.

mod config;
mod digest;
mod manifest;
pub mod media_type;
mod platform;
mod reference;
mod scopes;

pub(crate) use self::manifest::MAX_MANIFEST;
pub use self::{
    config::{ImageConfig, RootFs, RunConfig},
    digest::{Digest, Hasher, Sha256Digest},
    manifest::{Descriptor, Document, Index, Manifest, RawManifest},
    platform::Platform,
    reference::{Location, Reference, RegistryReference},
};
