//! nacre mounts encrypted, signed OCI images lazily: a container starts as soon as its manifest is
//! admitted by policy and its file index is verified; every chunk is fetched, decrypted,
//! decompressed and verified when it is first read, then cached.

pub mod bundle;
pub mod cli;
pub mod codec;
pub mod engine;
pub mod error;
pub mod fuse;
pub mod image;
pub mod index;
pub mod keys;
pub mod mount;
pub mod oci;
pub mod ocicrypt;
pub mod open;
pub mod source;
pub mod store;
#[allow(unsafe_code)]
pub mod sys;
pub mod tree;
pub mod trust;

pub use error::{Error, Kind, Result};
