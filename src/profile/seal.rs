//! Sealing the profile of an encrypted image: AES-256-GCM under a key derived from that of its lowest
//! encrypted layer, bound to the manifest. Who may read the image may read its profile.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Nonce, Payload},
};
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    keys::LayerKey,
    oci::Digest,
};

/// Seals and opens the profile of one encrypted image.
#[derive(Clone)]
pub struct ProfileKey(Zeroizing<[u8; 32]>);

/// Label under which it is derived from the layer's key.
const LABEL: &[u8] = b"nacre profile";
const NONCE: usize = 12;

// === impl ProfileKey ===

impl ProfileKey {
    /// Derives it from a layer's key.
    pub(crate) fn of(key: &LayerKey) -> Self {
        Self(key.derive(LABEL))
    }

    /// Nonce, ciphertext, tag.
    pub(super) fn seal(&self, document: &[u8], manifest: &Digest) -> Result<Vec<u8>> {
        let mut sealed = vec![0; NONCE];
        getrandom::fill(&mut sealed)
            .map_err(|e| Error::internal(format!("random numbers: {e}")))?;
        let aad = manifest.to_string();
        let payload = Payload {
            msg: document,
            aad: aad.as_bytes(),
        };
        let ciphertext = self.cipher().encrypt(&nonce(&sealed), payload);
        sealed.extend(ciphertext.map_err(|_| Error::internal("sealing a profile"))?);
        Ok(sealed)
    }

    /// The document; `None` if it was not sealed by this key for this manifest.
    pub(super) fn open(&self, sealed: &[u8], manifest: &Digest) -> Option<Vec<u8>> {
        let (_, ciphertext) = sealed.split_at_checked(NONCE)?;
        let aad = manifest.to_string();
        let payload = Payload {
            msg: ciphertext,
            aad: aad.as_bytes(),
        };
        self.cipher().decrypt(&nonce(sealed), payload).ok()
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new((&*self.0).into())
    }
}

impl fmt::Debug for ProfileKey {
    /// Says that there is a key, and nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProfileKey")
    }
}

fn nonce(sealed: &[u8]) -> Nonce<Aes256Gcm> {
    let mut nonce = Nonce::<Aes256Gcm>::default();
    nonce.copy_from_slice(&sealed[..NONCE]);
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_by_its_key_for_its_manifest() {
        let key = |byte| ProfileKey(Zeroizing::new([byte; 32]));
        let (manifest, other) = (Digest::sha256(b"m"), Digest::sha256(b"n"));
        let sealed = key(1).seal(b"document", &manifest).unwrap();
        assert!(!sealed.windows(8).any(|it| it == b"document"));
        assert_eq!(key(1).open(&sealed, &manifest).unwrap(), b"document");
        assert_eq!(key(2).open(&sealed, &manifest), None);
        assert_eq!(key(1).open(&sealed, &other), None);
        assert_eq!(key(1).open(&sealed[..5], &manifest), None);
        assert_eq!(format!("{:?}", key(1)), "ProfileKey");
    }
}
