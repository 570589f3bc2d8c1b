//! One whole unit in one call: no window to keep, no pieces to hand over, and decoders that each
//! thread sets up once.
//!
//! Anything unusual gives `None`, never an error: the stream decoder then says what is wrong, or
//! finds that nothing is.

use std::{cell::RefCell, io};

/// Largest unit that is decoded here. Streams take larger ones: the buffer is kept for good.
const MAX_UNIT: usize = 8 << 20;
/// A unit may hold so much behind its last chunk: padding and headers of the archive.
const MAX_REST: usize = 64 << 10;

thread_local! {
    static DECODERS: RefCell<Decoders> = RefCell::default();
}

/// What a thread keeps between units.
#[derive(Default)]
struct Decoders {
    deflate: Option<libdeflater::Decompressor>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    /// Where gzip members are decoded: libdeflate wants initialised memory, and to initialise it
    /// anew for every unit costs more than to copy what came out.
    buffer: Vec<u8>,
}

/// The first `limit` bytes of a gzip member that fills `compressed`.
pub(super) fn gzip(compressed: &[u8], limit: usize) -> Option<Vec<u8>> {
    // A member ends with its size (RFC 1952, ISIZE).
    let size = compressed.last_chunk().map(|it| u32::from_le_bytes(*it))?;
    let size = fitting(u64::from(size), limit)?;
    DECODERS.with_borrow_mut(|decoders| {
        let decoder = decoders
            .deflate
            .get_or_insert_with(libdeflater::Decompressor::new);
        if decoders.buffer.len() < size {
            decoders.buffer.resize(size, 0);
        }
        let buffer = &mut decoders.buffer[..size];
        let got = decoder.gzip_decompress(compressed, buffer).ok()?;
        (got == size).then(|| buffer[..limit].to_vec())
    })
}

/// The first `limit` bytes of a zstd frame that fills `compressed` and says its size.
pub(super) fn zstd(compressed: &[u8], limit: usize) -> Option<Vec<u8>> {
    let size = zstd::zstd_safe::get_frame_content_size(compressed).ok()??;
    let size = fitting(size, limit)?;
    DECODERS.with_borrow_mut(|decoders| {
        let decoder = match &mut decoders.zstd {
            Some(decoder) => decoder,
            none => none.insert(new_zstd().ok()?),
        };
        let mut plain = Vec::with_capacity(size);
        let got = decoder.decompress_to_buffer(compressed, &mut plain).ok()?;
        plain.truncate(limit);
        (got == size).then_some(plain)
    })
}

fn new_zstd() -> io::Result<zstd::bulk::Decompressor<'static>> {
    zstd::bulk::Decompressor::new()
}

/// The size, if it has `limit` bytes and not many more.
fn fitting(size: u64, limit: usize) -> Option<usize> {
    let size = usize::try_from(size).ok()?;
    let fits = size >= limit && size - limit <= MAX_REST && size <= MAX_UNIT;
    fits.then_some(size)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn member(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn sample(length: u32) -> Vec<u8> {
        (0..length / 4)
            .flat_map(|i| (i / 5).to_le_bytes())
            .collect()
    }

    #[test]
    fn whole_units_are_taken_and_cut() {
        let plain = sample(300_000);
        let frame = ::zstd::bulk::compress(&plain, 3).unwrap();
        for limit in [plain.len(), plain.len() - 1, plain.len() - MAX_REST] {
            assert_eq!(gzip(&member(&plain), limit).unwrap(), plain[..limit]);
            assert_eq!(zstd(&frame, limit).unwrap(), plain[..limit]);
        }
        // Twice, and a smaller one after a larger one: what a thread keeps is not seen.
        assert_eq!(gzip(&member(b"small"), 5).unwrap(), b"small");
        assert_eq!(gzip(&member(b""), 0).unwrap(), b"");
    }

    #[test]
    fn what_is_unusual_is_left_to_the_stream() {
        let plain = sample(300_000);
        let (gz, frame) = (member(&plain), ::zstd::bulk::compress(&plain, 3).unwrap());
        for limit in [plain.len() + 1, 10] {
            assert_eq!(gzip(&gz, limit), None);
            assert_eq!(zstd(&frame, limit), None);
        }
        assert_eq!(gzip(&gz[..gz.len() - 1], plain.len()), None);
        assert_eq!(zstd(&frame[..frame.len() - 1], plain.len()), None);
        let mut other = gz;
        let size = other.len() - 4;
        other[size] ^= 1;
        assert_eq!(gzip(&other, plain.len()), None, "a size that is not so");
        let large = vec![0; MAX_UNIT + 1];
        assert_eq!(gzip(&member(&large), large.len()), None);
        assert_eq!(gzip(b"", 0), None);
        assert_eq!(zstd(b"", 0), None);
    }
}
