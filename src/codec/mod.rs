//! Codecs: what turns a unit's compressed bytes into plain ones.

use crate::{error::Result, index::Codec};

/// temporary, replaced on merge
pub fn decode(codec: Codec, compressed: &[u8], limit: usize) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut out = vec![0; limit];
    match codec {
        Codec::Raw => out.copy_from_slice(&compressed[..limit]),
        Codec::Gzip => flate2::read::GzDecoder::new(compressed)
            .read_exact(&mut out)
            .map_err(|e| crate::Error::io("gzip", e))?,
        Codec::Zstd => zstd::Decoder::new(compressed)
            .and_then(|mut d| d.read_exact(&mut out))
            .map_err(|e| crate::Error::io("zstd", e))?,
    }
    Ok(out)
}
