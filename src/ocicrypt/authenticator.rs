//! `AES_256_CTR_HMAC_SHA256`'s HMAC, over the whole ciphertext.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::keys::LayerKey;

/// Takes a layer's ciphertext from first byte to last and says whether it is authentic.
pub struct Authenticator {
    state: Hmac<Sha256>,
    expected: [u8; 32],
}

// === impl Authenticator ===

impl Authenticator {
    /// Checks against `expected`, the HMAC in the public options.
    #[must_use]
    pub fn new(key: &[u8; 32], expected: [u8; 32]) -> Self {
        Self {
            state: Hmac::new_from_slice(key).expect("HMAC takes keys of any length"),
            expected,
        }
    }

    /// The authenticator of one layer.
    #[must_use]
    pub fn of(key: &LayerKey) -> Self {
        Self::new(key.symmetric(), *key.hmac())
    }

    /// Adds the next bytes of ciphertext.
    pub fn update(&mut self, ciphertext: &[u8]) {
        self.state.update(ciphertext);
    }

    /// Whether the ciphertext is what was encrypted; takes the same time either way.
    #[must_use]
    pub fn verify(self) -> bool {
        self.state.verify_slice(&self.expected).is_ok()
    }
}

impl fmt::Debug for Authenticator {
    /// Says that there is one, and nothing of its key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authenticator")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_division_into_pieces_gives_one_verdict() {
        // RFC 4231 test case 2 has a short key; ours are 32 bytes, zero padded HMAC keys are equal.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let tag = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let tag: [u8; 32] = hex::decode(tag).unwrap().try_into().unwrap();
        let text = b"what do ya want for nothing?";
        for at in 0..text.len() {
            let mut whole = Authenticator::new(&key, tag);
            whole.update(&text[..at]);
            whole.update(&text[at..]);
            assert!(whole.verify());
            let mut short = Authenticator::new(&key, tag);
            short.update(&text[..at]);
            assert!(!short.verify());
        }
    }
}
