//! The ocicrypt specification: annotations, packets, the layer cipher.
//!
//! An encrypted layer's descriptor carries public options (cipher, HMAC) and, for each way to open
//! it, a list of packets that wrap the same private options (key, nonce, digest of the plain blob).
//! `annotations` reads and writes them, `jwe`, `pkcs7`, `pgp` and `coco` open packets, `pkcs11` reads those
//! of tokens, `options` makes the
//! [`LayerKey`](crate::keys::LayerKey), and [`LayerCipher`] decrypts at any offset.
//! [`LayerEncryptor`] is the other direction; `jwe` and `pkcs7` also make packets. Key providers are
//! asked by [`keys`](crate::keys).

mod annotations;
mod authenticator;
mod cipher;
pub(crate) mod coco;
mod encryptor;
pub(crate) mod json;
pub(crate) mod jwe;
mod options;
#[cfg_attr(not(feature = "pgp"), path = "pgp/absent.rs")]
pub(crate) mod pgp;
pub(crate) mod pkcs11;
pub(crate) mod pkcs7;
pub(crate) mod private_key;
pub(crate) mod public_key;
mod random;
mod source;
mod tlv;

pub(crate) use self::{
    annotations::{Annotations, PREFIX, Packet, PacketKind},
    options::Options,
};
pub use self::{
    annotations::{PacketInfo, is_encrypted, packets},
    authenticator::Authenticator,
    cipher::LayerCipher,
    encryptor::LayerEncryptor,
    source::{DecryptingSource, authenticate},
};
