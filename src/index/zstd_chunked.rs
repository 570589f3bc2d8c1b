//! The frame of zstd:chunked: documents in skippable frames at the end of a zstd layer.
//! Format page: `docs/formats/zstd-chunked.md`.

use super::binding::{Position, TYPE_CRFS};
use crate::{codec, error::Result, index::Codec};

/// The JSON of a table of contents whose checksum has been checked.
///
/// # Errors
/// `Corrupt` if it does not give `uncompressed` bytes.
pub(super) fn toc_json(packed: &[u8], uncompressed: u64) -> Result<Vec<u8>> {
    let length = usize::try_from(uncompressed).unwrap_or(usize::MAX);
    codec::decode(Codec::Zstd, packed, length).map_err(|e| e.context("its table of contents"))
}

/// `content` in a frame that decoders skip; `None` if it is longer than a frame can be.
pub(super) fn skippable(content: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(content.len()).ok()?;
    let mut frame = Vec::with_capacity(content.len() + 8);
    frame.extend_from_slice(&[0x50, 0x2a, 0x4d, 0x18]);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(content);
    Some(frame)
}

/// The content of the last frame, from which containerd's stargz finds the table of contents. Podman
/// has another one, which it never reads.
pub(super) fn footer(toc: &Position) -> Vec<u8> {
    let mut footer = Vec::with_capacity(40);
    for number in [toc.offset, toc.length, toc.uncompressed, TYPE_CRFS] {
        footer.extend_from_slice(&number.to_le_bytes());
    }
    footer.extend_from_slice(b"GnUlInUx");
    footer
}
