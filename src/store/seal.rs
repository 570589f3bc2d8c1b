//! Sealing: AES-256-GCM over chunks of encrypted layers, so that their plaintext never reaches disk.
//!
//! The keys are derived from the layer's own key (HKDF-SHA256), not from a key of the store: who may
//! mount the layer can use the cache, after a restart too, and nobody else; nothing new has to be
//! kept secret (docs/decisions/0004).

use std::{fmt, sync::Arc};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, Result};

/// A random nonce stands before the ciphertext, the tag behind it.
const NONCE: usize = 12;
const TAG: usize = 16;

/// Keys that seal and name the chunks of one layer key.
#[derive(Clone)]
pub struct Seal(Arc<Keys>);

struct Keys {
    cipher: LessSafeKey,
    name: Zeroizing<[u8; 32]>,
}

// === impl Seal ===

impl Seal {
    /// Derives the keys from 32 secret bytes.
    #[must_use]
    pub fn new(secret: &Zeroizing<[u8; 32]>) -> Self {
        let hkdf = Hkdf::<Sha256>::new(None, &secret[..]);
        let expand = |label: &[u8]| {
            let mut key = Zeroizing::new([0; 32]);
            hkdf.expand(label, &mut key[..])
                .expect("32 bytes are within what HKDF-SHA256 gives");
            key
        };
        let mut seal = expand(b"nacre store seal");
        let cipher =
            UnboundKey::new(&AES_256_GCM, &seal[..]).expect("AES-256-GCM takes keys of 32 bytes");
        seal.zeroize();
        Self(Arc::new(Keys {
            cipher: LessSafeKey::new(cipher),
            name: expand(b"nacre store name"),
        }))
    }

    /// Keyed hash of a chunk's digest; `label` tells digests of other algorithms from SHA-256.
    pub(super) fn name(&self, digest: &[u8; 32], label: &[u8]) -> [u8; 32] {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0.name[..])
            .expect("HMAC takes keys of any length");
        mac.update(digest);
        mac.update(label);
        mac.finalize().into_bytes().into()
    }

    /// Nonce, ciphertext, tag; bound to the chunk's name.
    pub(super) fn seal(&self, plain: &[u8], name: &[u8; 32]) -> Result<Vec<u8>> {
        let mut record = vec![0; NONCE];
        getrandom::fill(&mut record)
            .map_err(|e| Error::internal(format!("random numbers: {e}")))?;
        let failed = |_| Error::internal("sealing a chunk: too long for AES-GCM");
        let nonce = Nonce::try_assume_unique_for_key(&record).map_err(failed)?;
        record.reserve_exact(plain.len() + TAG);
        record.extend_from_slice(plain);
        let tag = self
            .0
            .cipher
            .seal_in_place_separate_tag(nonce, Aad::from(name), &mut record[NONCE..])
            .map_err(failed)?;
        record.extend_from_slice(tag.as_ref());
        Ok(record)
    }

    /// The plain bytes; `None` if the record was not sealed by these keys under this name.
    pub(super) fn open(&self, mut record: Vec<u8>, name: &[u8; 32]) -> Option<Vec<u8>> {
        let (nonce, sealed) = record.split_at_mut_checked(NONCE)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.0.cipher.open_in_place(nonce, Aad::from(name), sealed);
        let length = opened.ok()?.len();
        record.truncate(NONCE + length);
        record.drain(..NONCE);
        Some(record)
    }
}

impl fmt::Debug for Seal {
    /// Says that there are keys, and nothing of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(byte: u8) -> Seal {
        Seal::new(&Zeroizing::new([byte; 32]))
    }

    #[test]
    fn opens_only_what_the_same_key_sealed_under_the_same_name() {
        let (name, other) = ([1; 32], [2; 32]);
        let record = seal(7).seal(b"secret", &name).unwrap();
        assert_eq!(record.len(), 6 + (NONCE + TAG));
        assert!(!record.windows(6).any(|w| w == b"secret"));
        assert_eq!(
            seal(7).open(record.clone(), &name).as_deref(),
            Some(&b"secret"[..])
        );
        assert_eq!(seal(8).open(record.clone(), &name), None);
        assert_eq!(seal(7).open(record.clone(), &other), None);
        for at in 0..record.len() {
            let mut flipped = record.clone();
            flipped[at] ^= 1;
            assert_eq!(seal(7).open(flipped, &name), None, "byte {at}");
        }
        assert_eq!(seal(7).open(vec![0; NONCE + TAG - 1], &name), None);
    }

    #[test]
    fn names_depend_on_the_key() {
        let name = |key: u8| seal(key).name(&[0; 32], b"");
        assert_ne!(name(1), name(2));
        assert_eq!(name(1), name(1));
    }
}
