//! The key of one encrypted layer.

use std::{collections::BTreeMap, fmt, sync::Arc};

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    oci::Digest,
};

/// What opens one encrypted layer: the ocicrypt private options joined with the public ones.
#[derive(Clone)]
pub struct LayerKey(Arc<Parts>);

/// Private cipher option that holds the digest of the layer's index, as text. Other tools pass it
/// over.
pub(crate) const INDEX_OPTION: &str = "dev.nacre.index";

/// Private cipher options other than the nonce.
pub(crate) type CipherOptions = BTreeMap<String, Zeroizing<Vec<u8>>>;

#[derive(Clone)]
struct Parts {
    symmetric: Zeroizing<[u8; 32]>,
    nonce: [u8; 16],
    hmac: [u8; 32],
    plain_digest: Option<Digest>,
    packet: &'static str,
    options: CipherOptions,
}

// === impl LayerKey ===

impl LayerKey {
    /// Joins what the private and public options say.
    pub(crate) fn new(
        symmetric: Zeroizing<[u8; 32]>,
        nonce: [u8; 16],
        hmac: [u8; 32],
        plain_digest: Option<Digest>,
        packet: &'static str,
    ) -> Self {
        Self(Arc::new(Parts {
            symmetric,
            nonce,
            hmac,
            plain_digest,
            packet,
            options: CipherOptions::new(),
        }))
    }

    /// Adds the private cipher options that are not the nonce.
    pub(crate) fn with_options(mut self, options: CipherOptions) -> Self {
        Arc::make_mut(&mut self.0).options = options;
        self
    }

    /// AES-256 key, which is also the HMAC key.
    pub(crate) fn symmetric(&self) -> &[u8; 32] {
        &self.0.symmetric
    }

    /// A key of its own for the purpose that `label` names: HKDF-SHA256 of the symmetric key.
    pub(crate) fn derive(&self, label: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut derived = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, self.symmetric())
            .expand(label, &mut derived[..])
            .expect("HKDF-SHA256 gives up to 8160 bytes");
        derived
    }

    /// Initial 128-bit big-endian counter block.
    #[must_use]
    pub fn nonce(&self) -> &[u8; 16] {
        &self.0.nonce
    }

    /// HMAC-SHA256 of the whole ciphertext.
    #[must_use]
    pub fn hmac(&self) -> &[u8; 32] {
        &self.0.hmac
    }

    /// Digest of the plain (still compressed) blob, if the private options name it.
    #[must_use]
    pub fn plain_digest(&self) -> Option<&Digest> {
        self.0.plain_digest.as_ref()
    }

    /// A private cipher option by name; as authentic as the key, since it was wrapped with it.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&[u8]> {
        self.0.options.get(name).map(|value| &value[..])
    }

    /// All private cipher options but the nonce, sorted by name.
    pub(crate) fn options(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let all = self.0.options.iter();
        all.map(|(name, value)| (name.as_str(), &value[..]))
    }

    /// Digest of the layer's index that whoever encrypted the layer vouches for (see
    /// `docs/formats/ocicrypt.md`); `None` if there is none.
    ///
    /// # Errors
    /// `Invalid` if it is not a digest.
    pub fn index_digest(&self) -> Result<Option<Digest>> {
        let Some(value) = self.option(INDEX_OPTION) else {
            return Ok(None);
        };
        std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse().ok())
            .map(Some)
            .ok_or_else(|| Error::invalid(format!("private option {INDEX_OPTION}: not a digest")))
    }

    /// Which kind of packet gave it: `jwe`, `pkcs7`, `pgp`, `pkcs11`, `provider` or `coco`.
    #[must_use]
    pub fn packet(&self) -> &'static str {
        self.0.packet
    }
}

impl fmt::Debug for LayerKey {
    /// Says that there is a key, and nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LayerKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_keys_differ_by_label_and_from_the_key() {
        let key = |byte| LayerKey::new(Zeroizing::new([byte; 32]), [0; 16], [0; 32], None, "jwe");
        let store = key(1).derive(b"store");
        assert_eq!(store, key(1).derive(b"store"));
        assert_ne!(store, key(1).derive(b"index"));
        assert_ne!(store, key(2).derive(b"store"));
        assert_ne!(store[..], [1; 32]);
        // python: hmac(hmac(0*32, 1*32), b"store" + b"\x01"), SHA-256
        assert_eq!(hex::encode(&store[..]), EXPECTED);
        assert_eq!(format!("{:?}", key(1)), "LayerKey");
    }

    const EXPECTED: &str = "3d12b0a8356a63d9fab72f79127e487a2938fd51560cfe156c17c638bff4263f";
}
