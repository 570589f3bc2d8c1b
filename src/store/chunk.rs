//! Chunks that have been checked, and the names under which a store keeps them.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::seal::Seal;
use crate::index::{Algorithm, ChunkDigest};

/// A chunk's plain bytes whose digest has been compared with the verified index. Only
/// [`VerifiedChunk::check`] makes one, and [`VerifiedChunk::digested`], which gives the digest too:
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

/// Name of a chunk in the store: its SHA-256 (or one made of its BLAKE3), or a keyed hash of that where the space is sealed (the
/// digest of a secret file would tell which file it is).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkId(pub(super) [u8; 32]);

// === impl VerifiedChunk ===

impl VerifiedChunk {
    /// Checks `bytes` against the digest that a verified index gives; `None` if they differ.
    #[must_use]
    pub fn check(bytes: Bytes, digest: &ChunkDigest) -> Option<Self> {
        digest.matches(&bytes).then_some(Self(bytes))
    }

    /// The digest that `bytes` have, and them under it: for a layer whose index is being made.
    #[must_use]
    pub fn digested(bytes: Bytes, algorithm: Algorithm) -> (ChunkDigest, Self) {
        (algorithm.digest(&bytes), Self(bytes))
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
    pub fn id(&self, digest: &ChunkDigest) -> ChunkId {
        match (self, digest) {
            (Space::Plain, ChunkDigest::Sha256(digest)) => ChunkId(*digest),
            // Hashed with a label, so that no index can give it the name of another chunk, which
            // would then be taken for corrupt and forgotten.
            (Space::Plain, ChunkDigest::Blake3(digest)) => ChunkId(
                Sha256::new()
                    .chain_update(BLAKE3)
                    .chain_update(digest)
                    .finalize()
                    .into(),
            ),
            (Space::Sealed(seal), ChunkDigest::Sha256(digest)) => ChunkId(seal.name(digest, b"")),
            (Space::Sealed(seal), ChunkDigest::Blake3(digest)) => {
                ChunkId(seal.name(digest, BLAKE3))
            }
        }
    }
}

/// Label of names of chunks that have a BLAKE3 digest.
const BLAKE3: &[u8] = b"blake3 ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_with_the_digest_pass() {
        let digest = Algorithm::Sha256.digest(b"plain");
        assert!(VerifiedChunk::check(Bytes::from_static(b"plain"), &digest).is_some());
        assert!(VerifiedChunk::check(Bytes::from_static(b"plaim"), &digest).is_none());
        let other = Algorithm::Blake3.of(*digest.bytes());
        assert!(VerifiedChunk::check(Bytes::from_static(b"plain"), &other).is_none());
        let blake3 = Algorithm::Blake3.digest(b"plain");
        assert!(VerifiedChunk::check(Bytes::from_static(b"plain"), &blake3).is_some());
    }

    #[test]
    fn digests_of_two_algorithms_have_two_names() {
        let seal = Seal::new(&zeroize::Zeroizing::new([1; 32]));
        for space in [Space::Plain, Space::Sealed(seal)] {
            let name = |it: Algorithm| space.id(&it.of([7; 32]));
            assert_ne!(name(Algorithm::Sha256), name(Algorithm::Blake3));
        }
    }
}
