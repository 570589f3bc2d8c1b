//! Places where a gzip stream can be entered: between two deflate blocks, with the 32 KiB that lie
//! before them.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, OnceLock},
};

use futures::future::BoxFuture;

use crate::error::{Error, Result};

/// A place where a gzip stream can be entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Offset in the plain blob of the byte that holds the first bit of the block.
    pub offset: u64,
    /// How many bits of that byte, the lowest ones, belong to what lies before: 0 to 7.
    pub bits: u8,
    /// Offset in the decompressed stream of the block's first byte.
    pub plain: u64,
    /// What lies before it in the decompressed stream, zstd; empty if nothing of it is needed, unset
    /// as long as it is somewhere else.
    window: OnceLock<Box<[u8]>>,
}

/// All checkpoints of a gzip stream. Between one and the next lies a run, which is a
/// [`Unit`](crate::index::Unit) of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoints {
    /// In ascending order; the first is behind the header of the stream.
    pub list: Vec<Checkpoint>,
    /// Bytes of the whole decompressed stream.
    pub plain_size: u64,
    /// Where windows are that are not here.
    pub windows: Elsewhere,
}

/// Fetches the windows of checkpoints.
pub trait WindowSource: Send + Sync + fmt::Debug {
    /// Brings the windows of these runs to their checkpoints, if they are not there yet.
    ///
    /// # Errors
    /// `Corrupt` if they are damaged, and what the other side says.
    fn bring<'a>(
        &'a self,
        checkpoints: &'a Checkpoints,
        runs: &'a [u32],
    ) -> BoxFuture<'a, Result<()>>;
}

/// Where windows are that are not with their checkpoints; nowhere if all are. Says nothing of what
/// the checkpoints are, so that any two are equal.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere(Option<Arc<dyn WindowSource>>);

/// A run as the decoder wants it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    pub(super) start: &'a Checkpoint,
    /// Where the next run begins; none behind the last one.
    pub(super) next: Option<&'a Checkpoint>,
    /// Decompressed bytes.
    pub(super) plain: u64,
}

/// Packs windows; what takes long to set up is kept.
pub(super) struct Packer(zstd::bulk::Compressor<'static>);

/// What a block may refer to (RFC 1951).
pub const WINDOW: usize = 32 << 10;
/// Most bytes of a packed window: what zstd makes of one that it cannot compress.
pub const MAX_PACKED_WINDOW: usize = WINDOW + 1024;
/// Level of windows: 3 saves a twentieth for a third more time, 9 a tenth for six times as much.
const WINDOW_LEVEL: i32 = 1;

// === impl Checkpoint ===

impl Checkpoint {
    /// A checkpoint; of `window` the last 32 KiB count.
    ///
    /// # Errors
    /// `Internal` if the window cannot be packed.
    pub fn new(offset: u64, bits: u8, plain: u64, window: &[u8]) -> Result<Self> {
        Ok(Self::packed(offset, bits, plain, pack(window)?))
    }

    /// A checkpoint whose window is packed already, as [`packed_window`](Self::packed_window) gave
    /// it. Not looked at before it is used.
    #[must_use]
    pub fn packed(offset: u64, bits: u8, plain: u64, window: Box<[u8]>) -> Self {
        Self {
            offset,
            bits,
            plain,
            window: window.into(),
        }
    }

    /// A checkpoint whose window is somewhere else.
    #[must_use]
    pub fn elsewhere(offset: u64, bits: u8, plain: u64) -> Self {
        Self {
            offset,
            bits,
            plain,
            window: OnceLock::new(),
        }
    }

    /// Brings the window, packed; for nothing if it is here.
    pub fn bring(&self, window: Box<[u8]>) {
        // Whoever was first brought the same.
        let _here = self.window.set(window);
    }

    /// Brings the window; of `window` the last 32 KiB count.
    ///
    /// # Errors
    /// `Internal` if it cannot be packed.
    pub fn bring_plain(&self, window: &[u8]) -> Result<()> {
        if self.window.get().is_none() {
            self.bring(pack(window)?);
        }
        Ok(())
    }

    /// The window as one zstd frame; empty if there is none, or if it is somewhere else.
    #[must_use]
    pub fn packed_window(&self) -> &[u8] {
        self.window.get().map_or(&[], |it| it)
    }

    /// The window.
    ///
    /// # Errors
    /// `Corrupt` if it is malformed or longer than a window can be, `Internal` if it is somewhere else.
    pub fn window(&self) -> Result<Vec<u8>> {
        let window = self.window.get();
        let window = window.ok_or_else(|| {
            Error::internal(format!(
                "the window of the checkpoint at {} is not here",
                self.offset
            ))
        })?;
        if window.is_empty() {
            return Ok(Vec::new());
        }
        zstd::bulk::decompress(window, WINDOW).map_err(|e| {
            Error::corrupt(format!("window of the checkpoint at {}", self.offset)).with_source(e)
        })
    }
}

fn pack(window: &[u8]) -> Result<Box<[u8]>> {
    Packer::new()?.pack(window)
}

// === impl Packer ===

impl Packer {
    pub(super) fn new() -> Result<Self> {
        zstd::bulk::Compressor::new(WINDOW_LEVEL)
            .map(Self)
            .map_err(not_packed)
    }

    /// The last 32 KiB of a window as one zstd frame; empty if it is.
    pub(super) fn pack(&mut self, window: &[u8]) -> Result<Box<[u8]>> {
        let window = &window[window.len().saturating_sub(WINDOW)..];
        if window.is_empty() {
            return Ok(Box::default());
        }
        self.0.compress(window).map(Into::into).map_err(not_packed)
    }
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packer")
    }
}

fn not_packed(error: std::io::Error) -> Error {
    Error::internal("window of a checkpoint").with_source(error)
}

// === impl Elsewhere ===

impl From<Option<Arc<dyn WindowSource>>> for Elsewhere {
    fn from(source: Option<Arc<dyn WindowSource>>) -> Self {
        Self(source)
    }
}

impl PartialEq for Elsewhere {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Elsewhere {}

// === impl Checkpoints ===

impl Checkpoints {
    /// Brings the windows of these runs here, if they are somewhere else.
    ///
    /// # Errors
    /// As [`WindowSource::bring`].
    pub async fn bring(&self, runs: &[u32]) -> Result<()> {
        let Some(source) = &self.windows.0 else {
            return Ok(());
        };
        let missing = runs.iter().filter(|run| !self.has_window(**run as usize));
        let missing: Vec<u32> = missing.copied().collect();
        match missing.is_empty() {
            true => Ok(()),
            false => source.bring(self, &missing).await,
        }
    }

    /// Whether the window of the run of this number is here, or none is needed.
    #[must_use]
    pub fn has_window(&self, run: usize) -> bool {
        self.list
            .get(run)
            .is_some_and(|it| it.window.get().is_some())
    }

    /// The bytes of the plain blob that the run of this number is in; the last one ends with the
    /// blob, whose size is `blob`.
    #[must_use]
    pub fn extent(&self, run: usize, blob: u64) -> Option<Range<u64>> {
        let start = self.list.get(run)?.offset;
        let end = match self.list.get(run + 1) {
            // A byte that is shared belongs to both.
            Some(next) => next.offset + u64::from(next.bits > 0),
            None => blob,
        };
        Some(start..end)
    }

    /// Decompressed bytes of the run of this number.
    #[must_use]
    pub fn plain_length(&self, run: usize) -> Option<u64> {
        let start = self.list.get(run)?.plain;
        let end = self
            .list
            .get(run + 1)
            .map_or(self.plain_size, |it| it.plain);
        end.checked_sub(start)
    }

    /// Decodes a run's first `limit` bytes; `compressed` is its [`extent`](Self::extent).
    ///
    /// # Errors
    /// `Corrupt` if the data is malformed or gives fewer bytes; `Internal` if there is no such run.
    pub fn decode(&self, run: usize, compressed: &[u8], limit: usize) -> Result<Vec<u8>> {
        let no_run = || Error::internal(format!("no checkpoint of number {run}"));
        let run = Run {
            start: self.list.get(run).ok_or_else(no_run)?,
            next: self.list.get(run + 1),
            plain: self.plain_length(run).ok_or_else(no_run)?,
        };
        super::run::decode(run, compressed, limit)
    }

    /// Whether they can be those of a stream in a blob of `blob` bytes, by their numbers.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, blob: u64) -> Result<(), String> {
        if self.list.first().is_some_and(|first| first.plain != 0) {
            return Err("the first checkpoint is not at the beginning".into());
        }
        for pair in self.list.windows(2) {
            let begin = |it: &Checkpoint| (u128::from(it.offset) << 3) + u128::from(it.bits);
            if begin(&pair[1]) <= begin(&pair[0]) || pair[1].plain < pair[0].plain {
                return Err(format!(
                    "the checkpoint at {} is out of order",
                    pair[1].offset
                ));
            }
        }
        for it in &self.list {
            if it.bits > 7 || it.offset >= blob || it.plain > self.plain_size {
                return Err(format!("the checkpoint at {} is out of place", it.offset));
            }
            if it.packed_window().len() > MAX_PACKED_WINDOW {
                return Err(format!("the checkpoint at {} has no window", it.offset));
            }
        }
        Ok(())
    }
}
