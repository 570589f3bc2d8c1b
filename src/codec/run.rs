//! Decoding a run of a gzip stream: what lies between two of its checkpoints.
//!
//! libdeflate is the fastest inflate there is, but begins at a byte and ends with a last block. Both can be
//! had: the window goes before the run as a stored block, the run is moved to whole bytes, and an empty
//! last block ends it. What does not decode in that way (a run over several gzip members, a part of a
//! run) is left to zlib-rs, which can begin at a bit.

use std::cell::RefCell;

use super::{
    checkpoint::{Run, WINDOW},
    zlib::{At, Inflate, Until, Wrapping},
};
use crate::error::{Error, Result};

/// Longest run that is decoded in one go: the buffer is kept for good.
const MAX_WHOLE: u64 = 8 << 20;
/// An empty last block with fixed codes: 10 bits, the lowest first.
const LAST_BLOCK: u32 = 0b11;
/// Checksum and size behind a gzip member.
const TRAILER: usize = 8;
/// What is allocated before anything has been decoded.
const FIRST_CAPACITY: usize = 4 << 20;
/// Room for one step of a stream.
const STEP: usize = 128 << 10;

thread_local! {
    static WHOLE: RefCell<Whole> = RefCell::default();
}

/// What a thread keeps between runs.
#[derive(Default)]
struct Whole {
    decoder: Option<libdeflater::Decompressor>,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// The first `limit` bytes of a run.
pub(super) fn decode(run: Run<'_>, compressed: &[u8], limit: usize) -> Result<Vec<u8>> {
    let window = run.start.window()?;
    // Of a run that is only begun, the slower decoder has less to do.
    if run.plain <= MAX_WHOLE
        && limit as u64 > run.plain / 4 * 3
        && let Some(plain) = WHOLE.with_borrow_mut(|it| it.decode(run, &window, compressed, limit))
    {
        return Ok(plain);
    }
    stream(run, &window, compressed, limit)
}

/// By zlib-rs, over as many members as it takes.
pub(super) fn stream(
    run: Run<'_>,
    window: &[u8],
    compressed: &[u8],
    limit: usize,
) -> Result<Vec<u8>> {
    let mut plain = Vec::with_capacity(limit.min(FIRST_CAPACITY));
    let mut rest = compressed;
    let mut inflate = Inflate::new(Wrapping::Raw)?;
    if !window.is_empty() {
        inflate.window(window)?;
    }
    if run.start.bits > 0
        && let Some((first, others)) = rest.split_first()
    {
        inflate.prime(8 - run.start.bits, first >> run.start.bits)?;
        rest = others;
    }
    let mut trailer = TRAILER;
    while plain.len() < limit {
        let room = STEP.min(limit - plain.len());
        let step = inflate.step(rest, &mut plain, room, Until::End)?;
        rest = &rest[step.consumed..];
        if step.at == At::End {
            rest = rest.get(trailer..).unwrap_or_default();
            // The next member has its header, and the decoder takes its trailer.
            trailer = 0;
            inflate.reset(Wrapping::Gzip)?;
        } else if step.consumed == 0 && step.produced == 0 {
            let got = plain.len();
            return Err(Error::corrupt(format!(
                "gzip data gives {got} bytes where {limit} are needed"
            )));
        }
    }
    Ok(plain)
}

// === impl Whole ===

impl Whole {
    /// By libdeflate; `None` if the run is not what it takes.
    fn decode(
        &mut self,
        run: Run<'_>,
        window: &[u8],
        compressed: &[u8],
        limit: usize,
    ) -> Option<Vec<u8>> {
        let length = window.len() + usize::try_from(run.plain).ok()?;
        self.input.clear();
        stored(window, &mut self.input)?;
        let before = self.input.len();
        shift(compressed, run.start.bits, &mut self.input);
        if let Some(next) = run.next {
            let bytes = usize::try_from(next.offset.checked_sub(run.start.offset)?).ok()?;
            let bits = (bytes * 8 + usize::from(next.bits)).checked_sub(run.start.bits.into())?;
            end_at(&mut self.input, before * 8 + bits)?;
        }
        if self.output.len() < length {
            self.output.resize(length, 0);
        }
        let decoder = self
            .decoder
            .get_or_insert_with(libdeflater::Decompressor::new);
        let output = &mut self.output[..length];
        let got = decoder.deflate_decompress(&self.input, output).ok()?;
        (got == length).then(|| output[window.len()..].get(..limit).map(<[u8]>::to_vec))?
    }
}

/// Appends a stored block of `bytes`; nothing if there are none.
fn stored(bytes: &[u8], to: &mut Vec<u8>) -> Option<()> {
    if bytes.is_empty() {
        return Some(());
    }
    let length = u16::try_from(bytes.len())
        .ok()
        .filter(|it| usize::from(*it) <= WINDOW)?;
    to.push(0);
    to.extend_from_slice(&length.to_le_bytes());
    to.extend_from_slice(&(!length).to_le_bytes());
    to.extend_from_slice(bytes);
    Some(())
}

/// Appends `bytes` without their lowest `bits` bits.
fn shift(bytes: &[u8], bits: u8, to: &mut Vec<u8>) {
    if bits == 0 {
        to.extend_from_slice(bytes);
        return;
    }
    let joined = |pair: &[u8]| (pair[0] >> bits) | (pair[1] << (8 - bits));
    to.extend(bytes.windows(2).map(joined));
    to.extend(bytes.last().map(|last| last >> bits));
}

/// Cuts after `bits` bits and appends an empty last block; `None` if there are not so many.
fn end_at(bytes: &mut Vec<u8>, bits: usize) -> Option<()> {
    if bytes.len() * 8 < bits {
        return None;
    }
    bytes.truncate(bits.div_ceil(8));
    let used = bits % 8;
    let mut last = LAST_BLOCK << used;
    if used > 0 {
        let partial = bytes.pop()?;
        last |= u32::from(partial) & ((1 << used) - 1);
    }
    bytes.extend_from_slice(&last.to_le_bytes()[..3]);
    Some(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::{codec::Walk, oci::media_type::Compression};

    /// The short way must be one: what it refuses is decoded, but slowly.
    #[test]
    fn runs_of_one_member_take_the_short_way() {
        let plain: Vec<u8> = (0..400_000_u32)
            .flat_map(|i| (i / 3).to_le_bytes())
            .collect();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(&plain).unwrap();
        let blob = encoder.finish().unwrap();
        let mut walk = Walk::new(Compression::Gzip, 100_000).unwrap();
        walk.push(&blob, &mut |_| Ok(())).unwrap();
        let checkpoints = walk.finish(&mut |_| Ok(())).unwrap().checkpoints;
        assert!(checkpoints.list.len() > 5);
        let mut whole = Whole::default();
        for (number, start) in checkpoints.list.iter().enumerate() {
            let run = Run {
                start,
                next: checkpoints.list.get(number + 1),
                plain: checkpoints.plain_length(number).unwrap(),
            };
            let extent = checkpoints.extent(number, blob.len() as u64).unwrap();
            let extent =
                usize::try_from(extent.start).unwrap()..usize::try_from(extent.end).unwrap();
            let window = start.window().unwrap();
            let length = usize::try_from(run.plain).unwrap();
            let begin = usize::try_from(start.plain).unwrap();
            let want = &plain[begin..begin + length];
            let got = whole.decode(run, &window, &blob[extent.clone()], length);
            assert!(got.as_deref() == Some(want), "run {number}");
            let slow = stream(run, &window, &blob[extent], length).unwrap();
            assert!(slow == want, "run {number}");
        }
    }
}
