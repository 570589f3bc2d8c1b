//! What of a window is needed: only bytes that the blocks behind a checkpoint refer to. The others are made
//! zeros, which pack to nothing; of a usual layer that is nine tenths.
//!
//! Deflate copies bytes without looking at them, so that decoding over windows that say where each of
//! their bytes is shows where each copied byte came from.

use super::{
    WINDOW,
    zlib::{At, Inflate, Until, Wrapping},
};
use crate::error::Result;

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
/// Room for one step.
const STEP: usize = 4 << 10;

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
    ///
    /// # Errors
    /// `Internal` if a decoder cannot be set up.
    pub(super) fn window(self) -> Result<Vec<u8>> {
        if self.compressed.len() > MOST {
            return Ok(self.window);
        }
        let places = 0..self.window.len();
        let high = |place: usize| place.to_le_bytes()[1];
        let low: Vec<u8> = places.clone().map(|it| it.to_le_bytes()[0]).collect();
        let once: Vec<u8> = places.clone().map(high).collect();
        // Differs from the one before everywhere, and in nothing else that is decoded.
        let twice: Vec<u8> = places.map(|it| high(it) ^ 0x80).collect();
        let (low, once, twice) = (self.over(&low)?, self.over(&once)?, self.over(&twice)?);
        let mut needed = vec![0; self.window.len()];
        let mut first = self.window.len();
        for ((low, high), other) in low.iter().zip(once).zip(twice) {
            if high != other {
                let place = usize::from(u16::from_le_bytes([*low, high]));
                if let (Some(to), Some(from)) = (needed.get_mut(place), self.window.get(place)) {
                    *to = *from;
                    first = first.min(place);
                }
            }
        }
        Ok(needed.split_off(first))
    }

    /// What comes first, decoded over a window.
    fn over(&self, window: &[u8]) -> Result<Vec<u8>> {
        let mut inflate = Inflate::new(Wrapping::Raw)?;
        inflate.window(window)?;
        let mut rest = &self.compressed[..];
        if self.bits > 0
            && let Some((first, others)) = rest.split_first()
        {
            inflate.prime(8 - self.bits, first >> self.bits)?;
            rest = others;
        }
        let mut plain = Vec::with_capacity(WINDOW + STEP);
        while plain.len() < WINDOW {
            // What is malformed shows when it is decoded for good.
            let Ok(step) = inflate.step(rest, &mut plain, STEP, Until::End) else {
                break;
            };
            rest = &rest[step.consumed..];
            if step.at == At::End || (step.consumed, step.produced) == (0, 0) {
                break;
            }
        }
        plain.truncate(WINDOW);
        Ok(plain)
    }
}
