//! Layer keys and where they come from.
//!
//! A [`LayerKey`] is made by [`Keyring::unwrap`], from a layer's ocicrypt annotations and the keys
//! that are configured: private key files, key files for Confidential Containers' packets, and key
//! providers; or by whoever encrypts a layer. [`Recipients`] wrap it. Keys live in memory, are zeroized on drop, and have no `Debug`.

mod config;
mod keyring;
mod layer_key;
mod meter;
mod provider;
mod recipients;
mod report;

pub(crate) use self::layer_key::{CipherOptions, INDEX_OPTION};
pub use self::{
    config::{CocoKeyFile, KeyConfig, KeyFile, Password},
    keyring::Keyring,
    layer_key::LayerKey,
    meter::{KeyCounts, KeyMeter, LastUnwrap},
    recipients::Recipients,
    report::{CocoKeyReport, KeysReport, ProviderReport},
};
