//! Layer keys and where they come from.
//!
//! A [`LayerKey`] is made only by `Keyring::unwrap`, from a layer's ocicrypt annotations and the
//! key providers that are configured. Keys live in memory, are zeroized on drop, and have no `Debug`.

use std::{fmt, sync::Arc};

use zeroize::Zeroizing;

use crate::oci::Digest;

/// What opens one encrypted layer: the ocicrypt private options joined with the public ones.
#[derive(Clone)]
pub struct LayerKey(Arc<Parts>);

struct Parts {
    symmetric: Zeroizing<[u8; 32]>,
    nonce: [u8; 16],
    hmac: [u8; 32],
    plain_digest: Option<Digest>,
    packet: &'static str,
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
        }))
    }

    /// AES-256 key, which is also the HMAC key.
    pub(crate) fn symmetric(&self) -> &[u8; 32] {
        &self.0.symmetric
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

    /// Which kind of packet gave it: `jwe`, `provider.NAME`'s kind, …
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
