//! Compression of layers: decoding one unit of a lazy layer, and a whole layer from first to last.
//!
//! Both are bounded: a unit is decoded only as far as its chunks need, and a zstd window larger than
//! [`MAX_WINDOW_LOG`] is refused. The digest of what comes out is not checked here.
//!
//! A layer that was not made to be read lazily has no units of its own. A [`Walk`] finds some while it decodes
//! the whole: [`Checkpoints`] of a gzip stream, frames, stretches of a tar.

mod checkpoint;
mod needed;
mod run;
mod unit;
mod walk;
mod zlib;

use std::io::{BufReader, Read};

use crate::{
    error::{Error, Result},
    index::Codec,
    oci::media_type::Compression,
};

pub use self::{
    checkpoint::{Checkpoint, Checkpoints, Elsewhere, MAX_PACKED_WINDOW, WINDOW, WindowSource},
    walk::{DEFAULT_SPACING, MAX_RUN, Piece, Runs, Sink, Walk},
};

/// Largest zstd window, as a power of two: what the highest regular level (22) uses; more needs
/// `--long=28` and the like, and that much memory for one read.
pub const MAX_WINDOW_LOG: u32 = 27;

/// Decodes the first gzip member or zstd frame of `compressed` until `limit` bytes are out. What
/// follows in `compressed` does not matter.
///
/// A unit as indexes describe it, one whole member or frame and nothing else, takes a shorter way;
/// whatever does not decode in that way is left to a stream, which stops at `limit`.
///
/// # Errors
/// `Corrupt` if the data is malformed or gives fewer than `limit` bytes.
pub fn decode(codec: Codec, compressed: &[u8], limit: usize) -> Result<Vec<u8>> {
    match codec {
        Codec::Raw => compressed
            .get(..limit)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| short(codec, compressed.len(), limit)),
        Codec::Gzip => match unit::gzip(compressed, limit) {
            Some(plain) => Ok(plain),
            None => fill(codec, flate2::bufread::GzDecoder::new(compressed), limit),
        },
        Codec::Zstd => match unit::zstd(compressed, limit) {
            Some(plain) => Ok(plain),
            None => stream_zstd(compressed, limit),
        },
        Codec::Deflate => Err(Error::internal("a run without its checkpoint")),
    }
}

/// The tar of a layer: gzip of any number of members, zstd of any number of frames (skippable ones
/// left out), or as it is.
///
/// # Errors
/// `Internal` if the decoder cannot be set up. Malformed data shows as an I/O error while reading.
pub fn reader(
    compression: Compression,
    input: impl Read + Send + 'static,
) -> Result<Box<dyn Read + Send>> {
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(
            BufReader::with_capacity(READ_BUFFER, input),
        )),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(input)
                .map_err(|e| Error::internal("zstd decoder").with_source(e))?;
            decoder
                .window_log_max(MAX_WINDOW_LOG)
                .map_err(|e| Error::internal("zstd decoder").with_source(e))?;
            Box::new(decoder)
        }
    })
}

fn stream_zstd(compressed: &[u8], limit: usize) -> Result<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)
        .and_then(|mut decoder| {
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            Ok(decoder)
        })
        .map_err(|e| Error::internal("zstd decoder").with_source(e))?
        .single_frame();
    fill(Codec::Zstd, &mut decoder, limit)
}

fn fill(codec: Codec, decoder: impl Read, limit: usize) -> Result<Vec<u8>> {
    // Grows with what really comes out, so that a lie about the size costs no memory.
    let mut plain = Vec::with_capacity(limit.min(FIRST_CAPACITY));
    decoder
        .take(limit as u64)
        .read_to_end(&mut plain)
        .map_err(|e| Error::corrupt(format!("malformed {}", name(codec))).with_source(e))?;
    if plain.len() < limit {
        return Err(short(codec, plain.len(), limit));
    }
    Ok(plain)
}

fn short(codec: Codec, got: usize, limit: usize) -> Error {
    Error::corrupt(format!(
        "{} gives {got} bytes where {limit} are needed",
        name(codec)
    ))
}

fn name(codec: Codec) -> &'static str {
    match codec {
        Codec::Gzip => "gzip member",
        Codec::Zstd => "zstd frame",
        Codec::Raw => "raw unit",
        Codec::Deflate => "run of a gzip stream",
    }
}

/// What is allocated before anything has been decoded: the usual chunk and a little.
const FIRST_CAPACITY: usize = (4 << 20) + (64 << 10);
const READ_BUFFER: usize = 128 << 10;

#[cfg(test)]
mod tests;
