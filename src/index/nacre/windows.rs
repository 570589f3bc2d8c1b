//! The windows of one layer's checkpoints: fetched when a run is read that needs one, with those of its
//! neighbours.
//!
//! A window needs no digest of its own: what is decoded with a wrong one has the wrong digest.

use std::{fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use futures::future::{BoxFuture, try_join_all};
use tokio::sync::OnceCell;

use super::seal::Sealer;
use crate::{
    codec::{Checkpoint, Checkpoints, MAX_PACKED_WINDOW, WINDOW, WindowSource},
    error::{Error, Result},
    oci::Digest,
    source::BlobSource,
};

/// Where the windows of one layer are.
pub(super) struct Windows {
    /// For messages.
    layer: Digest,
    source: Arc<dyn BlobSource>,
    /// In the source; empty where a run needs none.
    places: Vec<Range<u64>>,
    sealer: Option<Sealer>,
    /// Runs whose windows are fetched at once.
    pages: Vec<Page>,
}

struct Page {
    runs: Range<usize>,
    here: OnceCell<()>,
}

/// Windows in one request: as much as comes in the time of its answer.
const PAGE: u64 = 256 << 10;
/// Windows are written once and fetched often.
const LEVEL: i32 = 19;

/// A layer's windows as they are stored, each packed; empty where there is none.
pub(super) fn pack(list: &[Checkpoint]) -> Result<Vec<Vec<u8>>> {
    let failed = |e| Error::internal("window of a checkpoint").with_source(e);
    let mut packer = zstd::bulk::Compressor::new(LEVEL).map_err(failed)?;
    packer.include_checksum(true).map_err(failed)?;
    let mut pack = |window: Vec<u8>| match window.is_empty() {
        true => Ok(Vec::new()),
        false => packer.compress(&window).map_err(failed),
    };
    list.iter().map(|point| pack(point.window()?)).collect()
}

// === impl Windows ===

impl Windows {
    /// Those of `lengths`, one behind the other in `source` from `begin` on.
    pub(super) fn new(
        layer: Digest,
        source: Arc<dyn BlobSource>,
        begin: u64,
        lengths: &[u32],
        sealer: Option<Sealer>,
    ) -> Self {
        let mut end = begin;
        let places: Vec<Range<u64>> = lengths
            .iter()
            .map(|length| {
                let begin = end;
                end += u64::from(*length);
                begin..end
            })
            .collect();
        let mut pages: Vec<Page> = Vec::new();
        for (run, place) in places.iter().enumerate() {
            let fits = |page: &&mut Page| place.end - places[page.runs.start].start <= PAGE;
            match pages.last_mut().filter(fits) {
                Some(page) => page.runs.end = run + 1,
                None => pages.push(Page {
                    runs: run..run + 1,
                    here: OnceCell::new(),
                }),
            }
        }
        Self {
            layer,
            source,
            places,
            sealer,
            pages,
        }
    }

    /// Fetches a page and gives its windows to the checkpoints. What is damaged is fetched again
    /// from somewhere else, once.
    async fn fetch(&self, page: &Page, checkpoints: &Checkpoints) -> Result<()> {
        let first = self.places[page.runs.start].start;
        let range = first..self.places[page.runs.end - 1].end;
        let bytes = self.source.read_at(range.clone()).await?;
        if self.give(page, first, &bytes, checkpoints).is_ok() {
            return Ok(());
        }
        tracing::warn!(layer = %self.layer, "windows of its index are damaged; fetching again");
        let bytes = self.source.read_elsewhere(range).await?;
        self.give(page, first, &bytes, checkpoints)
    }

    fn give(
        &self,
        page: &Page,
        first: u64,
        bytes: &Bytes,
        checkpoints: &Checkpoints,
    ) -> Result<()> {
        for run in page.runs.clone() {
            let place = &self.places[run];
            let damaged = || {
                Error::corrupt(format!(
                    "layer {}: window {run} of its index is damaged",
                    self.layer
                ))
            };
            let at = |offset: u64| usize::try_from(offset - first).ok();
            let stored = at(place.start).zip(at(place.end));
            let stored = stored.and_then(|(begin, end)| bytes.get(begin..end));
            let stored = stored.ok_or_else(damaged)?;
            let Some(point) = checkpoints.list.get(run).filter(|_| !stored.is_empty()) else {
                continue;
            };
            let packed = match &self.sealer {
                Some(sealer) => sealer.open(number(run), stored).ok_or_else(damaged)?,
                None => stored.to_vec(),
            };
            if packed.len() > MAX_PACKED_WINDOW || zstd::bulk::decompress(&packed, WINDOW).is_err()
            {
                return Err(damaged());
            }
            point.bring(packed.into());
        }
        Ok(())
    }
}

impl WindowSource for Windows {
    fn bring<'a>(
        &'a self,
        checkpoints: &'a Checkpoints,
        runs: &'a [u32],
    ) -> BoxFuture<'a, Result<()>> {
        let mut wanted: Vec<usize> = runs
            .iter()
            .map(|run| *run as usize)
            .filter(|run| self.places.get(*run).is_some_and(|it| !it.is_empty()))
            .map(|run| self.pages.partition_point(|page| page.runs.end <= run))
            .collect();
        wanted.dedup();
        Box::pin(async move {
            let pages = wanted.into_iter().filter_map(|it| self.pages.get(it));
            let fetched = pages.map(|page| {
                let fetch = move || self.fetch(page, checkpoints);
                page.here.get_or_try_init(fetch)
            });
            try_join_all(fetched).await.map(|_| ())
        })
    }
}

impl fmt::Debug for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Windows({}, {} pages)", self.layer, self.pages.len())
    }
}

/// Under which number the window of a run is sealed: the table is number 0.
pub(super) fn number(run: usize) -> u64 {
    run as u64 + 1
}

/// Seals each window under its number.
pub(super) fn seal(sealer: &Sealer, windows: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    let sealed = windows
        .into_iter()
        .enumerate()
        .map(|(run, window)| match window.is_empty() {
            true => Ok(window),
            false => sealer.seal(number(run), &window),
        });
    sealed.collect()
}
