//! nacre mounts encrypted, signed OCI images lazily: a container starts as soon as its manifest is
//! admitted by policy and its file index is verified; every chunk is fetched, decrypted,
//! decompressed and verified when it is first read, then cached.
//!
//! # Mount in ten lines
//!
//! ```no_run
//! # async fn example() -> nacre::Result<()> {
//! use nacre::{engine, keys, mount, oci, open, source, store, trust};
//!
//! let reference: oci::Reference = "registry.example/app:1".parse()?;
//! let (repository, location) = source::Access::default().open(&reference).await?;
//! let opener = open::Opener {
//!     policy: trust::Policy::load("/etc/containers/policy.json".as_ref())?,
//!     keyring: keys::Keyring::new(&keys::KeyConfig::default())?,
//!     store: std::sync::Arc::new(store::Store::open(&store::StoreConfig {
//!         memory_bytes: 32 << 20,
//!         disk: Some(("/var/lib/nacre/store".into(), 10 << 30)),
//!         indexes: None,
//!     })?),
//!     engine: engine::EngineConfig::RECOMMENDED,
//!     platform: oci::Platform::host(),
//!     expected_digest: None,
//!     findings: None,
//!     insecure_plaintext_store: false,
//! };
//! let image = opener.open(&reference, &repository, &location).await?;
//! let options = mount::MountOptions::new(reference.to_string());
//! let mounted = mount::mount(image.tree, image.engine, "/mnt".as_ref(), &options)?;
//! mounted.ended().await
//! # }
//! ```
//!
//! # Threat model
//!
//! The registry, every mirror, the network and the local disk may be hostile: they may lie, replay,
//! truncate, flip bits. Trusted are the policy file, the keys, this process and the kernel. What is
//! not verified cannot be passed on: [`trust::Grant`], [`keys::LayerKey`], [`index::VerifiedIndex`]
//! and [`store::VerifiedChunk`] are made only by the function that checks.
//!
//! # Rooms
//!
//! The modules follow a byte on its way down ([`cli`], [`keeper`], [`mount`], [`fuse`], [`open`], [`tree`],
//! [`engine`], [`store`], [`index`], [`tar`], [`codec`], [`ocicrypt`], [`keys`], [`trust`], [`source`],
//! [`resource`], [`oci`]); [`image`] is the producing side and [`bundle`] the eager one, [`telemetry`] tells what a
//! daemon does. A dependency points down that list. `docs/architecture.md` tells the way of a read and
//! the chain of trust.
//!
//! # Why not another tool
//!
//! stargz, SOCI and overlaybd mount lazily, but verify no signatures and decrypt nothing. nydus has
//! encryption that its mount path does not use. image-rs decrypts and checks signatures, but pulls
//! and unpacks everything first.

pub mod bundle;
pub mod cli;
pub mod codec;
pub mod config;
pub mod cri;
pub mod discover;
pub mod engine;
pub mod erofs;
pub mod error;
pub mod fuse;
#[doc(hidden)]
pub mod fuzzing;
pub mod image;
pub mod index;
pub mod keeper;
pub mod keys;
pub mod measure;
pub mod mount;
pub mod oci;
pub mod ocicrypt;
pub mod open;
pub mod profile;
pub mod resource;
pub mod sbom;
pub mod snapshotter;
pub mod source;
pub mod store;
#[allow(unsafe_code)]
pub mod sys;
pub mod tar;
pub mod telemetry;
pub mod tree;
pub mod trust;

pub use error::{Error, Kind, Result};
