//! A layer from first to last, in pieces, and on the way the places where it can be entered later.
//!
//! What lies between two of them is a run; each becomes a [`Unit`] of an index: a run of a gzip stream
//! between checkpoints, a zstd frame, a stretch of a plain tar. A piece never belongs to two runs.

use bytes::Bytes;
use zstd::stream::raw::{Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use super::{
    MAX_WINDOW_LOG,
    checkpoint::{Checkpoint, Checkpoints, WINDOW},
    needed::{Pending, Windows},
    zlib::{At, Inflate, Until, Wrapping},
};
use crate::{
    error::{Error, Result},
    index::{Codec, MAX_CHUNK, MAX_UNIT, Unit},
    oci::media_type::Compression,
};

/// A piece of what a layer decompresses to.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Its bytes; never none.
    pub bytes: Bytes,
    /// Number of the run that it belongs to.
    pub run: u32,
}

/// What a walk learnt.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// The runs, by their number.
    pub units: Vec<Unit>,
    /// Of a gzip layer, one for each unit; empty for others.
    pub checkpoints: Checkpoints,
}

/// Where pieces go. An error ends the walk.
pub type Sink<'a> = &'a mut dyn FnMut(Piece) -> Result<()>;

/// Decodes a layer that is handed over piece by piece.
#[derive(Debug)]
pub struct Walk(Kind);

#[derive(Debug)]
enum Kind {
    Gzip(Box<Gzip>),
    Zstd(Box<Zstd>),
    Raw(Raw),
}

/// Decompressed bytes between two checkpoints, unless told otherwise: windows are then a thirtieth of the
/// blob, and a read decodes 1.5 ms of what it does not need (docs/decisions/0013).
pub const DEFAULT_SPACING: u32 = 1 << 20;
/// Longest run, decompressed: what a read may cost in memory. Encoders end blocks long before; of a
/// zstd layer it is the longest frame.
pub const MAX_RUN: u64 = MAX_CHUNK as u64;
/// Decoded bytes in a piece.
const PIECE: usize = 128 << 10;

// === impl Walk ===

impl Walk {
    /// Begins a layer; `spacing` is about how many decompressed bytes lie between checkpoints.
    ///
    /// # Errors
    /// `Internal` if a decoder cannot be set up.
    pub fn new(compression: Compression, spacing: u32) -> Result<Self> {
        let spacing = u64::from(spacing.max(1)).min(MAX_RUN);
        Ok(Self(match compression {
            Compression::Gzip => Kind::Gzip(Box::new(Gzip::new(spacing)?)),
            Compression::Zstd => Kind::Zstd(Box::new(Zstd::new()?)),
            Compression::None => Kind::Raw(Raw::new(spacing)),
        }))
    }

    /// Decodes the next bytes of the layer.
    ///
    /// # Errors
    /// `Corrupt` if they are malformed, `Unsupported` if the layer cannot be entered often enough,
    /// and what the sink says.
    pub fn push(&mut self, input: &[u8], sink: Sink<'_>) -> Result<()> {
        match &mut self.0 {
            Kind::Gzip(it) => it.push(input, sink),
            Kind::Zstd(it) => it.push(input, sink),
            Kind::Raw(it) => it.push(input, sink),
        }
    }

    /// Ends the layer.
    ///
    /// # Errors
    /// `Corrupt` if it ends early, and as [`push`](Self::push).
    pub fn finish(self, sink: Sink<'_>) -> Result<Runs> {
        match self.0 {
            Kind::Gzip(it) => it.finish(sink),
            Kind::Zstd(it) => it.finish(),
            Kind::Raw(it) => Ok(it.finish()),
        }
    }
}

#[derive(Debug)]
struct Gzip {
    inflate: Inflate,
    spacing: u64,
    list: Vec<Checkpoint>,
    /// The last of them, until it is known what of its window is needed.
    pending: Option<Pending>,
    windows: Windows,
    /// The last byte that was taken.
    last: u8,
    piece: Vec<u8>,
    /// The last bytes before the piece, of this member.
    tail: Vec<u8>,
    consumed: u64,
    produced: u64,
    state: Member,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    /// No byte of its header has been seen.
    Next,
    Header,
    Blocks,
}

impl Gzip {
    fn new(spacing: u64) -> Result<Self> {
        Ok(Self {
            inflate: Inflate::new(Wrapping::Gzip)?,
            spacing,
            list: Vec::new(),
            pending: None,
            windows: Windows::new()?,
            last: 0,
            piece: Vec::new(),
            tail: Vec::with_capacity(2 * WINDOW),
            consumed: 0,
            produced: 0,
            state: Member::Next,
        })
    }

    fn push(&mut self, mut input: &[u8], sink: Sink<'_>) -> Result<()> {
        while !input.is_empty() {
            let taken = self.step(input, sink)?;
            input = &input[taken.0..];
            if taken == (0, 0) {
                break;
            }
        }
        Ok(())
    }

    /// One step of the decoder: how many bytes it took and gave.
    fn step(&mut self, input: &[u8], sink: Sink<'_>) -> Result<(usize, usize)> {
        if self.state == Member::Next {
            if self.consumed > 0 {
                self.inflate.reset(Wrapping::Gzip)?;
            }
            self.tail.clear();
            self.state = Member::Header;
        }
        let run = self
            .list
            .last()
            .map_or(0, |last| self.produced - last.plain);
        let until = match self.state {
            Member::Blocks if run < self.spacing => Until::End,
            _ => Until::Block,
        };
        let room = PIECE - self.piece.len();
        let step = self.inflate.step(input, &mut self.piece, room, until)?;
        self.consumed += step.consumed as u64;
        self.produced += step.produced as u64;
        let taken = &input[..step.consumed];
        self.last = taken.last().copied().unwrap_or(self.last);
        if let Some(pending) = &mut self.pending {
            pending.push(taken);
            if pending.is_done(self.produced) {
                self.settle()?;
            }
        }
        let run = run + step.produced as u64;
        if run > MAX_RUN {
            return Err(no_entry("gzip blocks"));
        }
        match step.at {
            At::Boundary { .. } if self.state == Member::Header => {
                self.state = Member::Blocks;
                // A run in one member is decoded faster, so a shorter one will do.
                if self.list.is_empty() || run >= self.spacing.div_ceil(2) {
                    self.emit(sink)?;
                    self.tail.clear();
                    self.add(0, &[])?;
                }
            }
            At::Boundary { unused } if run >= self.spacing => {
                self.emit(sink)?;
                let window = std::mem::take(&mut self.tail);
                self.add(unused, &window)?;
                self.tail = window;
            }
            At::End => {
                // Windows do not reach over the end of a member.
                self.emit(sink)?;
                self.settle()?;
                self.state = Member::Next;
            }
            At::Boundary { .. } | At::Inside if self.piece.len() == PIECE => self.emit(sink)?,
            At::Boundary { .. } | At::Inside => {}
        }
        Ok((step.consumed, step.produced))
    }

    /// Hands the piece on.
    fn emit(&mut self, sink: Sink<'_>) -> Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::take(&mut self.piece));
        let last = &bytes[bytes.len().saturating_sub(WINDOW)..];
        let keep = WINDOW - last.len();
        self.tail.drain(..self.tail.len().saturating_sub(keep));
        self.tail.extend_from_slice(last);
        sink(Piece {
            run: number(self.list.len().saturating_sub(1))?,
            bytes,
        })
    }

    /// A checkpoint here; `unused` bits of the last byte belong to what follows.
    fn add(&mut self, unused: u8, window: &[u8]) -> Result<()> {
        self.settle()?;
        let bits = (8 - unused) % 8;
        let offset = self.consumed - u64::from(unused > 0);
        // Until it is settled it has no window.
        let checkpoint = Checkpoint::elsewhere(offset, bits, self.produced);
        match window.is_empty() {
            true => checkpoint.bring(Box::default()),
            false => self.pending = Some(Pending::new(window, bits, self.last, self.produced)),
        }
        self.list.push(checkpoint);
        Ok(())
    }

    /// Gives the last checkpoint what it needs of its window.
    fn settle(&mut self) -> Result<()> {
        if let (Some(pending), Some(last)) = (self.pending.take(), self.list.last_mut()) {
            last.bring(self.windows.needed(pending)?);
        }
        Ok(())
    }

    fn finish(mut self, sink: Sink<'_>) -> Result<Runs> {
        // What the decoder holds back for want of room.
        while self.state != Member::Next && self.step(&[], sink)? != (0, 0) {}
        if self.state != Member::Next || self.consumed == 0 {
            return Err(Error::corrupt("gzip data ends early"));
        }
        let checkpoints = Checkpoints {
            list: self.list,
            plain_size: self.produced,
            ..Checkpoints::default()
        };
        let mut units = Vec::with_capacity(checkpoints.list.len());
        for run in 0..checkpoints.list.len() {
            let extent = checkpoints.extent(run, self.consumed).unwrap_or_default();
            units.push(unit(extent.start, extent.end, Codec::Deflate)?);
        }
        Ok(Runs { units, checkpoints })
    }
}

struct Zstd {
    decoder: ZstdDecoder<'static>,
    /// Where the present frame begins, and what it has given.
    begin: u64,
    produced: u64,
    consumed: u64,
    inside: bool,
    units: Vec<Unit>,
}

impl Zstd {
    fn new() -> Result<Self> {
        let failed = |e| Error::internal("zstd decoder").with_source(e);
        let mut decoder = ZstdDecoder::new().map_err(failed)?;
        let most = zstd::zstd_safe::DParameter::WindowLogMax(MAX_WINDOW_LOG);
        decoder.set_parameter(most).map_err(failed)?;
        Ok(Self {
            decoder,
            begin: 0,
            produced: 0,
            consumed: 0,
            inside: false,
            units: Vec::new(),
        })
    }

    fn push(&mut self, input: &[u8], sink: Sink<'_>) -> Result<()> {
        let mut input = InBuffer::around(input);
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let mut output = OutBuffer::around(&mut piece);
            let before = input.pos();
            let left = self
                .decoder
                .run(&mut input, &mut output)
                .map_err(|e| Error::corrupt("malformed zstd data").with_source(e))?;
            let (taken, given) = (input.pos() - before, output.pos());
            self.consumed += taken as u64;
            self.produced += given as u64;
            self.inside |= taken > 0 && left > 0;
            if self.produced > MAX_RUN {
                return Err(no_entry("zstd frames"));
            }
            if given > 0 {
                let run = number(self.units.len())?;
                let bytes = piece.into();
                sink(Piece { bytes, run })?;
            }
            if left == 0 && (taken > 0 || given > 0) {
                self.end_frame()?;
            }
            if given < PIECE && input.pos() == input.src.len() {
                return Ok(());
            }
        }
    }

    fn end_frame(&mut self) -> Result<()> {
        // A skippable frame, or an empty one, holds nothing to be entered for.
        if self.produced > 0 {
            self.units
                .push(unit(self.begin, self.consumed, Codec::Zstd)?);
        }
        (self.begin, self.produced, self.inside) = (self.consumed, 0, false);
        Ok(())
    }

    fn finish(self) -> Result<Runs> {
        if self.inside || self.consumed == 0 {
            return Err(Error::corrupt("zstd data ends early"));
        }
        Ok(Runs {
            units: self.units,
            checkpoints: Checkpoints::default(),
        })
    }
}

impl std::fmt::Debug for Zstd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Zstd")
    }
}

#[derive(Debug)]
struct Raw {
    spacing: u64,
    size: u64,
}

impl Raw {
    fn new(spacing: u64) -> Self {
        Self { spacing, size: 0 }
    }

    fn push(&mut self, mut input: &[u8], sink: Sink<'_>) -> Result<()> {
        while !input.is_empty() {
            let run = self.size / self.spacing;
            let left = (run + 1) * self.spacing - self.size;
            let length = usize::try_from(left)
                .unwrap_or(PIECE)
                .min(PIECE)
                .min(input.len());
            let (bytes, rest) = input.split_at(length);
            self.size += length as u64;
            sink(Piece {
                bytes: Bytes::copy_from_slice(bytes),
                run: u32::try_from(run).map_err(|_| too_many())?,
            })?;
            input = rest;
        }
        Ok(())
    }

    fn finish(self) -> Runs {
        let begins = (0..self.size).step_by(usize::try_from(self.spacing).unwrap_or(PIECE));
        let unit = |begin: u64| Unit {
            offset: begin,
            length: u32::try_from((self.size - begin).min(self.spacing)).unwrap_or(u32::MAX),
            codec: Codec::Raw,
        };
        Runs {
            units: begins.map(unit).collect(),
            checkpoints: Checkpoints::default(),
        }
    }
}

fn unit(begin: u64, end: u64, codec: Codec) -> Result<Unit> {
    let length = u32::try_from(end - begin).ok().filter(|it| *it <= MAX_UNIT);
    Ok(Unit {
        offset: begin,
        length: length.ok_or_else(|| no_entry("blocks or frames"))?,
        codec,
    })
}

fn number(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(|_| too_many())
}

fn too_many() -> Error {
    Error::unsupported("more runs than an index can number")
}

fn no_entry(what: &str) -> Error {
    Error::unsupported(format!(
        "its {what} are longer than {MAX_RUN} bytes, so that it cannot be read in parts"
    ))
    .with_hint("make a lazy image of it: nacre image convert")
}

#[cfg(test)]
mod tests;
