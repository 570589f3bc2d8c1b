//! What of a window is needed: only bytes that the blocks behind a checkpoint refer to. The others are made
//! zeros, which pack to nothing; of a usual layer that is nine tenths.
//!
//! Deflate copies bytes without looking at them, so that decoding over windows that say where each of
//! their bytes is shows where each copied byte came from.

use super::{
    WINDOW,
    checkpoint::Packer,
    zlib::{At, Inflate, Until, Wrapping},
};
use crate::error::Result;

/// Makes windows of what lies before checkpoints; what takes long to set up is kept.
#[derive(Debug)]
pub(super) struct Windows {
    inflate: Inflate,
    packer: Packer,
}

/// A checkpoint whose blocks are still to come.
#[derive(Debug)]
pub(super) struct Pending {
    /// What lies before it.
    window: Vec<u8>,
    bits: u8,
    /// What comes from its byte on.
    compressed: Vec<u8>,
    /// Where it is in the decompressed stream.
    plain: u64,
}

/// Most compressed bytes that are looked at: stored blocks of a whole window are shorter. If there are
/// more, all of the window is kept.
const MOST: usize = 4 * WINDOW;

// === impl Windows ===

impl Windows {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            inflate: Inflate::new(Wrapping::Raw)?,
            packer: Packer::new()?,
        })
    }

    /// What a checkpoint needs of the bytes before it, packed; empty if it needs nothing.
    ///
    /// # Errors
    /// `Internal` if the decoder cannot begin anew or the window not be packed.
    pub(super) fn needed(&mut self, pending: Pending) -> Result<Box<[u8]>> {
        let window = pending.window(&mut self.inflate)?;
        self.packer.pack(&window)
    }
}

// === impl Pending ===

impl Pending {
    /// A checkpoint at `plain`; `shared` is the byte that it shares with what lies before, if it does.
    pub(super) fn new(window: &[u8], bits: u8, shared: u8, plain: u64) -> Self {
        Self {
            window: window[window.len().saturating_sub(WINDOW)..].to_vec(),
            bits,
            compressed: if bits > 0 { vec![shared] } else { Vec::new() },
            plain,
        }
    }

    /// Takes the next compressed bytes.
    pub(super) fn push(&mut self, compressed: &[u8]) {
        if self.compressed.len() <= MOST {
            self.compressed.extend_from_slice(compressed);
        }
    }

    /// Whether all that can refer to the window has come, once `produced` bytes have been decoded.
    pub(super) fn is_done(&self, produced: u64) -> bool {
        produced - self.plain >= WINDOW as u64 || self.compressed.len() > MOST
    }

    /// The window without what is not needed; empty if nothing is.
    fn window(self, inflate: &mut Inflate) -> Result<Vec<u8>> {
        if self.compressed.len() > MOST {
            return Ok(self.window);
        }
        let places = (0..self.window.len()).map(usize::to_le_bytes);
        let (low, high): (Vec<u8>, Vec<u8>) = places
            // A place has 15 bits. The sixteenth says that the two are never alike, as whatever does
            // not come from the window is.
            .map(|[low, high, ..]| (low, high | (!low & 0x80)))
            .unzip();
        let (low, high) = (self.over(&low, inflate)?, self.over(&high, inflate)?);
        let mut needed = vec![0; self.window.len()];
        let mut first = self.window.len();
        for (low, high) in low.into_iter().zip(high) {
            if low != high {
                let place = usize::from(u16::from_le_bytes([low, high & 0x7f]));
                if let (Some(to), Some(from)) = (needed.get_mut(place), self.window.get(place)) {
                    *to = *from;
                    first = first.min(place);
                }
            }
        }
        Ok(needed.split_off(first))
    }

    /// What comes first, decoded over a window.
    fn over(&self, window: &[u8], inflate: &mut Inflate) -> Result<Vec<u8>> {
        inflate.reset(Wrapping::Raw)?;
        inflate.window(window)?;
        let mut rest = &self.compressed[..];
        if self.bits > 0
            && let Some((first, others)) = rest.split_first()
        {
            inflate.prime(8 - self.bits, first >> self.bits)?;
            rest = others;
        }
        let mut plain = Vec::with_capacity(WINDOW);
        while plain.len() < WINDOW {
            // What is malformed shows when it is decoded for good.
            let room = WINDOW - plain.len();
            let Ok(step) = inflate.step(rest, &mut plain, room, Until::End) else {
                break;
            };
            rest = &rest[step.consumed..];
            if step.at == At::End || (step.consumed, step.produced) == (0, 0) {
                break;
            }
        }
        Ok(plain)
    }
}
