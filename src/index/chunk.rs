//! Checking a chunk's bytes: what stands between decoding and serving.

use sha2::{Digest as _, Sha256};

use super::{Chunk, ChunkTable, Place};
use crate::error::{Error, Result};

/// Whether `bytes` are the chunk's: its length and its digest. Bytes of a hole are zeros.
#[must_use]
pub fn verify(chunk: &Chunk, bytes: &[u8]) -> bool {
    if bytes.len() != chunk.length as usize {
        return false;
    }
    match chunk.place {
        Place::Unit { .. } => Sha256::digest(bytes).as_slice() == chunk.digest,
        Place::Zeros => bytes.iter().all(|b| *b == 0),
    }
}

/// The chunk's bytes out of its unit's decoded bytes, verified.
///
/// # Errors
/// `Corrupt` if the unit is too short or the digest does not match; `Internal` for a hole.
pub fn chunk_bytes<'a>(unit_plain: &'a [u8], chunk: &Chunk) -> Result<&'a [u8]> {
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
    if !verify(chunk, bytes) {
        return Err(Error::corrupt(format!(
            "chunk of {} bytes at {start} of its unit: digest mismatch",
            chunk.length
        )));
    }
    Ok(bytes)
}

// === impl ChunkTable ===

impl ChunkTable {
    /// How many decoded bytes of each unit its chunks need: the limit for
    /// [`codec::decode`](crate::codec::decode). One number for every unit, in their order.
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
