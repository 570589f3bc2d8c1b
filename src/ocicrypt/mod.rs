//! The ocicrypt specification: annotations, packets, the layer cipher.
//!
//! An encrypted layer's descriptor carries public options (cipher, HMAC) and, for each way to open
//! it, a list of packets that wrap the same private options (key, nonce, digest of the plain blob).
//! `annotations` reads them, `jwe` and `coco` open packets, `options` makes the
//! [`LayerKey`](crate::keys::LayerKey), and [`LayerCipher`] decrypts at any offset. Key providers
//! are asked by [`keys`](crate::keys).

mod annotations;
mod authenticator;
mod cipher;
pub(crate) mod coco;
pub(crate) mod json;
pub(crate) mod jwe;
mod options;
pub(crate) mod private_key;
mod source;

pub(crate) use self::{
    annotations::{Annotations, Packet, PacketKind},
    options::Options,
};
pub use self::{
    annotations::{PacketInfo, is_encrypted, packets},
    authenticator::Authenticator,
    cipher::LayerCipher,
    source::{DecryptingSource, authenticate},
};
