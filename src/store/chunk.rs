//! Chunks that have been checked, and the names under which a store keeps them.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::seal::Seal;

/// A chunk's plain bytes whose SHA-256 has been compared with the verified index. Only
/// [`VerifiedChunk::check`] makes one:
///
/// ```compile_fail
/// let forged = nacre::store::VerifiedChunk(bytes::Bytes::new());
/// ```
#[derive(Clone, Debug)]
pub struct VerifiedChunk(Bytes);

/// Under which name and in which form a chunk is kept.
#[derive(Clone, Debug)]
pub enum Space {
    /// As it is, named by its digest and shared by all images.
    Plain,
    /// Sealed, named by a keyed hash, shared by the layers that have the same key.
    Sealed(Seal),
}

/// Name of a chunk in the store: its SHA-256, or a keyed hash of that where the space is sealed (the
/// digest of a secret file would tell which file it is).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkId(pub(super) [u8; 32]);

// === impl VerifiedChunk ===

impl VerifiedChunk {
    /// Checks `bytes` against the digest that a verified index gives; `None` if they differ.
    #[must_use]
    pub fn check(bytes: Bytes, digest: &[u8; 32]) -> Option<Self> {
        (sha256(&bytes) == *digest).then_some(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

// === impl Space ===

impl Space {
    /// The name that the chunk with this digest has here.
    #[must_use]
    pub fn id(&self, digest: &[u8; 32]) -> ChunkId {
        match self {
            Space::Plain => ChunkId(*digest),
            Space::Sealed(seal) => ChunkId(seal.name(digest)),
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_with_the_digest_pass() {
        let digest = sha256(b"plain");
        assert!(VerifiedChunk::check(Bytes::from_static(b"plain"), &digest).is_some());
        assert!(VerifiedChunk::check(Bytes::from_static(b"plaim"), &digest).is_none());
    }
}
