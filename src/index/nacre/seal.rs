//! Sealing what the index of an encrypted layer says, under the layer's key: it holds names, and
//! windows are pieces of files.
//!
//! AES-256-GCM. The same index gives the same bytes: the key comes from the layer's key and a salt, the
//! salt from all that is sealed, so that no key is used for two contents, and nonces only count.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Nonce, Payload},
};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    keys::LayerKey,
    oci::Digest,
};

/// Seals and opens the indexes of one encrypted layer.
#[derive(Clone)]
pub struct IndexKey {
    secret: Zeroizing<[u8; 32]>,
    layer: Digest,
}

/// Seals or opens one index.
pub(super) struct Sealer {
    cipher: Aes256Gcm,
    layer: Digest,
}

/// Of all that an index seals.
pub(super) type Salt = [u8; 32];

/// Bytes that sealing adds.
pub(super) const TAG: usize = 16;
/// Label under which it is derived from the layer's key.
const LABEL: &[u8] = b"nacre index";

// === impl IndexKey ===

impl IndexKey {
    /// Derives it from a layer's key; `layer` is the digest of the blob as it is stored.
    pub(crate) fn of(key: &LayerKey, layer: &Digest) -> Self {
        Self {
            secret: key.derive(LABEL),
            layer: layer.clone(),
        }
    }

    /// The salt for these contents.
    pub(super) fn salt<'a>(&self, contents: impl Iterator<Item = &'a [u8]>) -> Salt {
        let mut mac = self.mac(b"salt");
        for content in contents {
            mac.update(&(content.len() as u64).to_le_bytes());
            mac.update(content);
        }
        mac.finalize().into_bytes().into()
    }

    pub(super) fn sealer(&self, salt: &Salt) -> Sealer {
        let mut mac = self.mac(b"seal");
        mac.update(salt);
        let key = Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()));
        Sealer {
            cipher: Aes256Gcm::new((&*key).into()),
            layer: self.layer.clone(),
        }
    }

    fn mac(&self, purpose: &[u8]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256>>::new_from_slice(&self.secret[..])
            .expect("HMAC takes keys of any length");
        mac.update(purpose);
        mac
    }
}

impl fmt::Debug for IndexKey {
    /// Says that there is a key, and nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IndexKey")
    }
}

// === impl Sealer ===

impl Sealer {
    /// The content of this number: 0 is the table, others are windows.
    pub(super) fn seal(&self, number: u64, content: &[u8]) -> Result<Vec<u8>> {
        let aad = self.layer.to_string();
        let payload = Payload {
            msg: content,
            aad: aad.as_bytes(),
        };
        let sealed = self.cipher.encrypt(&nonce(number), payload);
        sealed.map_err(|_| Error::internal("sealing an index"))
    }

    /// The content; `None` if it was not sealed by this key, for this layer, as this number.
    pub(super) fn open(&self, number: u64, sealed: &[u8]) -> Option<Vec<u8>> {
        let aad = self.layer.to_string();
        let payload = Payload {
            msg: sealed,
            aad: aad.as_bytes(),
        };
        self.cipher.decrypt(&nonce(number), payload).ok()
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

fn nonce(number: u64) -> Nonce<Aes256Gcm> {
    let mut nonce = Nonce::<Aes256Gcm>::default();
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> IndexKey {
        let key = LayerKey::new(Zeroizing::new([byte; 32]), [0; 16], [0; 32], None, "jwe");
        IndexKey::of(&key, &Digest::sha256(b"layer"))
    }

    #[test]
    fn opens_only_what_it_sealed() {
        let contents = [&b"table"[..], b"window"];
        let salt = key(1).salt(contents.into_iter());
        let sealed = key(1).sealer(&salt).seal(0, b"table").unwrap();
        assert_eq!(sealed.len(), 5 + TAG);
        assert_eq!(sealed, key(1).sealer(&salt).seal(0, b"table").unwrap());
        assert_eq!(key(1).sealer(&salt).open(0, &sealed).unwrap(), b"table");
        assert_eq!(key(1).sealer(&salt).open(1, &sealed), None);
        assert_eq!(key(2).sealer(&salt).open(0, &sealed), None);
        assert_eq!(key(1).sealer(&[0; 32]).open(0, &sealed), None);
        assert_eq!(key(1).sealer(&salt).open(0, &sealed[..TAG - 1]), None);
        let other = IndexKey {
            layer: Digest::sha256(b"other"),
            ..key(1)
        };
        assert_eq!(other.sealer(&salt).open(0, &sealed), None);
        assert_eq!(format!("{:?}", key(1)), "IndexKey");
    }

    #[test]
    fn every_content_has_its_salt() {
        let salt = |contents: &[&[u8]]| key(1).salt(contents.iter().copied());
        assert_eq!(salt(&[b"ab", b"c"]), salt(&[b"ab", b"c"]));
        assert_ne!(salt(&[b"ab", b"c"]), salt(&[b"a", b"bc"]));
        assert_ne!(salt(&[b"ab", b"c"]), salt(&[b"ab", b"c", b""]));
    }
}
