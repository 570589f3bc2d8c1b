//! Encrypts a layer as it streams by: `AES_256_CTR_HMAC_SHA256` with a key and nonce of its own.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{LayerCipher, random::random};
use crate::{
    error::Result,
    keys::{CipherOptions, LayerKey},
    oci::Hasher,
};

/// Takes a layer's plain blob from first byte to last and makes the encrypted blob of it, in place.
pub struct LayerEncryptor {
    symmetric: Zeroizing<[u8; 32]>,
    nonce: [u8; 16],
    cipher: LayerCipher,
    hmac: Hmac<Sha256>,
    plain: Hasher,
    offset: u64,
}

// === impl LayerEncryptor ===

impl LayerEncryptor {
    /// With a new random key and nonce: nothing that is made twice is the same.
    ///
    /// # Errors
    /// `Internal` if the system has no randomness.
    pub fn new() -> Result<Self> {
        Ok(Self::with(random()?, *random()?))
    }

    fn with(symmetric: Zeroizing<[u8; 32]>, nonce: [u8; 16]) -> Self {
        Self {
            cipher: LayerCipher::new(&symmetric, nonce),
            hmac: Hmac::new_from_slice(&symmetric[..]).expect("HMAC takes keys of any length"),
            plain: Hasher::sha256(),
            offset: 0,
            symmetric,
            nonce,
        }
    }

    /// Encrypts the next bytes.
    pub fn update(&mut self, bytes: &mut [u8]) {
        self.plain.update(bytes);
        self.cipher.apply(self.offset, bytes);
        self.hmac.update(bytes);
        self.offset += bytes.len() as u64;
    }

    /// The key of everything that was encrypted, with these private cipher options besides the nonce.
    pub(crate) fn finish(self, options: CipherOptions) -> LayerKey {
        let hmac = self.hmac.finalize().into_bytes().into();
        let plain = self.plain.finish();
        LayerKey::new(self.symmetric, self.nonce, hmac, Some(plain), "made here")
            .with_options(options)
    }
}

impl fmt::Debug for LayerEncryptor {
    /// Says that there is one, and nothing of its key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LayerEncryptor")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        oci::Digest,
        ocicrypt::{Authenticator, LayerCipher},
    };

    #[test]
    fn any_division_into_pieces_gives_one_ciphertext_that_decrypts() {
        let plain: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let encrypt = |step: usize| {
            let mut encryptor = LayerEncryptor::with(Zeroizing::new([3; 32]), [0xff; 16]);
            let mut bytes = plain.clone();
            bytes
                .chunks_mut(step)
                .for_each(|piece| encryptor.update(piece));
            (bytes, encryptor.finish(CipherOptions::new()))
        };
        let (whole, key) = encrypt(plain.len());
        assert_ne!(whole, plain);
        for step in [1, 15, 16, 17, 4096] {
            let (bytes, other) = encrypt(step);
            assert_eq!((bytes, other.hmac()), (whole.clone(), key.hmac()));
        }
        let mut authenticator = Authenticator::of(&key);
        authenticator.update(&whole);
        assert!(authenticator.verify());
        let mut back = whole;
        LayerCipher::of(&key).apply(0, &mut back);
        assert_eq!(back, plain);
        assert_eq!(key.plain_digest(), Some(&Digest::sha256(&plain)));
    }

    #[test]
    fn every_layer_has_a_key_of_its_own() {
        let encrypt = || {
            let mut encryptor = LayerEncryptor::new().unwrap();
            let mut bytes = *b"the same bytes";
            encryptor.update(&mut bytes);
            (bytes, encryptor.finish(CipherOptions::new()))
        };
        let (first, second) = (encrypt(), encrypt());
        assert_ne!(first.0, second.0);
        assert_ne!(first.1.symmetric(), second.1.symmetric());
        assert_ne!(first.1.nonce(), second.1.nonce());
    }
}
