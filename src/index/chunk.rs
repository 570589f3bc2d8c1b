//! Checking a chunk's bytes: what stands between decoding and serving.

use sha2::{Digest as _, Sha256};

use super::{Chunk, ChunkTable, Codec, Place};
use crate::{
    codec,
    error::{Error, Result},
};

/// What a table's digests are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256: of formats that demand it.
    #[default]
    Sha256,
    /// BLAKE3: four times as fast; of indexes that nacre makes.
    Blake3,
}

/// Digest of a chunk's plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChunkDigest {
    /// SHA-256.
    Sha256([u8; 32]),
    /// BLAKE3.
    Blake3([u8; 32]),
}

// === impl Algorithm ===

impl Algorithm {
    /// The digest of `bytes`.
    #[must_use]
    pub fn digest(self, bytes: &[u8]) -> ChunkDigest {
        match self {
            Self::Sha256 => ChunkDigest::Sha256(Sha256::digest(bytes).into()),
            Self::Blake3 => ChunkDigest::Blake3(blake3::hash(bytes).into()),
        }
    }

    /// The digest that these bytes are.
    #[must_use]
    pub fn of(self, digest: [u8; 32]) -> ChunkDigest {
        match self {
            Self::Sha256 => ChunkDigest::Sha256(digest),
            Self::Blake3 => ChunkDigest::Blake3(digest),
        }
    }
}

// === impl ChunkDigest ===

impl ChunkDigest {
    /// Which it is.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Blake3(_) => Algorithm::Blake3,
        }
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        match self {
            Self::Sha256(bytes) | Self::Blake3(bytes) => bytes,
        }
    }

    /// Whether `bytes` have this digest.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.algorithm().digest(bytes) == *self
    }
}

// === impl ChunkTable ===

impl ChunkTable {
    /// The chunk's digest.
    #[must_use]
    pub fn digest(&self, chunk: &Chunk) -> ChunkDigest {
        self.algorithm.of(chunk.digest)
    }

    /// Whether `bytes` are the chunk's: its length and its digest. Bytes of a hole are zeros.
    #[must_use]
    pub fn verify(&self, chunk: &Chunk, bytes: &[u8]) -> bool {
        if bytes.len() != chunk.length as usize {
            return false;
        }
        match chunk.place {
            // Nothing is known of it but its length.
            Place::Unit { .. } if !self.spans.is_empty() => true,
            Place::Unit { .. } => self.digest(chunk).matches(bytes),
            Place::Zeros => bytes.iter().all(|b| *b == 0),
        }
    }

    /// The chunk's bytes out of its unit's decoded bytes, verified.
    ///
    /// # Errors
    /// `Corrupt` if the unit is too short or the digest does not match; `Internal` for a hole.
    pub fn chunk_bytes<'a>(&self, unit_plain: &'a [u8], chunk: &Chunk) -> Result<&'a [u8]> {
        let Place::Unit { offset, .. } = chunk.place else {
            return Err(Error::internal("chunk: a hole has no unit"));
        };
        let start = offset as usize;
        let bytes = start
            .checked_add(chunk.length as usize)
            .and_then(|end| unit_plain.get(start..end))
            .ok_or_else(|| {
                Error::corrupt(format!(
                    "chunk of {} bytes at {start}: its unit has {}",
                    chunk.length,
                    unit_plain.len()
                ))
            })?;
        if !self.verify(chunk, bytes) {
            return Err(Error::corrupt(format!(
                "chunk of {} bytes at {start} of its unit: digest mismatch",
                chunk.length
            )));
        }
        Ok(bytes)
    }

    /// Decodes the first `limit` bytes of a unit, whose bytes in the plain blob are `compressed`.
    ///
    /// # Errors
    /// `Corrupt` if the data is malformed or gives fewer bytes; `Internal` if there is no such unit.
    pub fn decode(&self, unit: u32, compressed: &[u8], limit: usize) -> Result<Vec<u8>> {
        let number = unit as usize;
        let unit = self
            .units
            .get(number)
            .ok_or_else(|| Error::internal(format!("no unit of number {number}")))?;
        match unit.codec {
            Codec::Deflate => self.checkpoints.decode(number, compressed, limit),
            codec => codec::decode(codec, compressed, limit),
        }
    }

    /// How many decoded bytes of each unit its chunks need: the limit for
    /// [`decode`](Self::decode). One number for every unit, in their order.
    #[must_use]
    pub fn plain_lengths(&self) -> Vec<u32> {
        let mut needs = vec![0u32; self.units.len()];
        for chunk in &self.chunks {
            if let Place::Unit { unit, offset } = chunk.place
                && let Some(need) = needs.get_mut(unit as usize)
            {
                *need = (*need).max(offset.saturating_add(chunk.length));
            }
        }
        needs
    }
}
