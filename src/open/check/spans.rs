//! Holding what an index's spans decode to against the tar, span by span, while both stream by.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, BytesMut};

use crate::index::{Algorithm, Chunk, ChunkTable, Codec, Place, limits::MAX_UNIT_PLAIN};

/// The blob as far as it was read and is still wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Raw(Arc<Mutex<BytesMut>>);

/// See the module.
pub(super) struct Spans<'a> {
    table: &'a ChunkTable,
    raw: Raw,
    /// Offset in the blob of the first byte of `raw`.
    raw_begin: u64,
    /// The tar from the next span on.
    plain: BytesMut,
    /// The next span.
    next: usize,
    /// The first difference.
    difference: Option<String>,
}

// === impl Raw ===

impl Raw {
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut raw = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        raw.extend_from_slice(bytes);
    }
}

// === impl Spans ===

impl<'a> Spans<'a> {
    pub(super) fn new(table: &'a ChunkTable, raw: Raw) -> Self {
        Self {
            table,
            raw,
            raw_begin: 0,
            plain: BytesMut::new(),
            next: 0,
            difference: None,
        }
    }

    /// Where in the tar a chunk's bytes are, as the index has it.
    pub(super) fn place(&self, chunk: &Chunk) -> Option<u64> {
        let Place::Unit { unit, offset } = chunk.place else {
            return None;
        };
        Some(self.begin(unit as usize)? + u64::from(offset))
    }

    /// Takes what follows of the tar; the decoder has read the blob at least as far as that needs.
    pub(super) fn take(&mut self, plain: &[u8]) {
        if self.difference.is_none() {
            self.plain.extend_from_slice(plain);
            self.compare();
        }
    }

    /// At the end of the tar: the first difference.
    pub(super) fn finish(mut self) -> Option<String> {
        self.compare();
        let left = self.table.units.len() - self.next;
        let missing = || format!("{left} spans of its index are beyond its tar");
        self.difference.or_else(|| (left > 0).then(missing))
    }

    /// Where a span's bytes begin in the tar.
    fn begin(&self, unit: usize) -> Option<u64> {
        match self.table.units.get(unit)?.codec {
            Codec::Deflate => Some(self.table.checkpoints.list.get(unit)?.plain),
            _ => Some(self.table.units.get(unit)?.offset),
        }
    }

    fn length(&self, unit: usize) -> Option<usize> {
        let length = match self.table.units.get(unit)?.codec {
            Codec::Deflate => self.table.checkpoints.plain_length(unit)?,
            _ => u64::from(self.table.units.get(unit)?.length),
        };
        usize::try_from(length).ok()
    }

    /// Compares the spans of which both sides are there.
    fn compare(&mut self) {
        while self.difference.is_none() && self.next < self.table.units.len() {
            let number = self.next;
            let Some(length) = self
                .length(number)
                .filter(|it| *it <= MAX_UNIT_PLAIN as usize)
            else {
                self.difference = Some(format!("span {number} of its index is too long"));
                return;
            };
            if self.plain.len() < length {
                return;
            }
            let Some(found) = self.span(number, length) else {
                return;
            };
            match found {
                Ok(plain) if plain[..] == self.plain[..length] => {
                    self.plain.advance(length);
                    self.next += 1;
                }
                Ok(_) => {
                    let what = format!("span {number} of its index gives something else");
                    self.difference = Some(what);
                }
                Err(what) => self.difference = Some(what),
            }
        }
        if self.next == self.table.units.len() || self.difference.is_some() {
            self.plain.clear();
        }
    }

    /// What a span decodes to; `None` as long as the blob was not read so far.
    fn span(&mut self, number: usize, length: usize) -> Option<Result<Vec<u8>, String>> {
        let unit = self.table.units[number];
        let mut raw = self.raw.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = usize::try_from(unit.offset.saturating_sub(self.raw_begin)).ok()?;
        if raw.len() < passed.checked_add(unit.length as usize)? {
            return None;
        }
        raw.advance(passed);
        self.raw_begin = unit.offset;
        let compressed = &raw[..unit.length as usize];
        let digest = self.table.spans.get(number).copied().unwrap_or_default();
        if !Algorithm::Sha256.of(digest).matches(compressed) {
            return Some(Err(format!(
                "span {number} of its index has another digest"
            )));
        }
        let run = u32::try_from(number).ok()?;
        let plain = self.table.decode(run, compressed, length);
        Some(plain.map_err(|error| format!("span {number} of its index: {error}")))
    }
}
