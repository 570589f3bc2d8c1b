//! Layer keys and where they come from.
//!
//! A [`LayerKey`] is made by [`Keyring::unwrap`], from a layer's ocicrypt annotations and the keys
//! that are configured: private keys in files, in a key broker or on tokens, keys for Confidential
//! Containers' packets, and key providers; or by whoever encrypts a layer. [`Recipients`] wrap it. Keys
//! live in memory, are zeroized on drop, and have no `Debug`.

mod config;
mod held;
mod keyring;
mod layer_key;
mod meter;
mod provider;
mod recipients;
mod report;
mod token;

pub use self::{
    config::{CocoKeyFile, KeyConfig, KeyFile, Password},
    keyring::Keyring,
    layer_key::LayerKey,
    meter::{KeyCounts, KeyMeter, LastUnwrap},
    recipients::Recipients,
    report::{CocoKeyReport, KeysReport, ProviderReport},
};
pub(crate) use self::{
    layer_key::{CipherOptions, INDEX_OPTION},
    token::answer as answer_for_token,
};
