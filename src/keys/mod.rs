//! Layer keys and where they come from.
//!
//! A [`LayerKey`] is made only by [`Keyring::unwrap`], from a layer's ocicrypt annotations and the
//! keys that are configured: private key files, key files for Confidential Containers' packets, and
//! key providers. Keys live in memory, are zeroized on drop, and have no `Debug`.

mod config;
mod keyring;
mod layer_key;
mod meter;
mod provider;
mod report;

pub(crate) use self::layer_key::CipherOptions;
pub use self::{
    config::{CocoKeyFile, KeyConfig, KeyFile, Password},
    keyring::Keyring,
    layer_key::LayerKey,
    meter::{KeyCounts, KeyMeter, LastUnwrap},
    report::{CocoKeyReport, KeysReport, ProviderReport},
};
