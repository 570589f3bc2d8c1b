//! Windows that cannot be had from where they were attached: made again out of the layer itself.
//!
//! The layer is decoded from the nearest checkpoint before whose window is here, at worst from its
//! beginning, and its files are held against their digests on the way. It costs what laziness spares, so
//! it is the last resort; but what it gives is kept, windows in memory and chunks in the store.

use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::StreamExt;
use tokio::task::spawn_blocking;

use super::{Layer, Shared};
use crate::{
    codec::WINDOW,
    error::{Error, Result},
    index::{ChunkTable, Place},
    source::BlobStream,
    store::{Space, Store, VerifiedChunk},
};

/// What is done with each run on the way.
#[derive(Clone)]
struct Decoding {
    table: Arc<ChunkTable>,
    store: Arc<Store>,
    space: Space,
}

/// The blob from some offset on.
struct Reading {
    pieces: BlobStream,
    buffer: BytesMut,
    /// Offset of the buffer's first byte.
    begin: u64,
}

impl Shared {
    /// Brings the windows that these units need, made again if they cannot be fetched.
    ///
    /// # Errors
    /// Why they cannot be fetched, if the layer cannot be read either.
    pub(super) async fn windows(&self, layer: u16, units: &[u32]) -> Result<()> {
        let layer = &self.layers[usize::from(layer)];
        let checkpoints = &layer.data.table.checkpoints;
        let Err(lost) = checkpoints.bring(units).await else {
            return Ok(());
        };
        // Others who wait here find that it has been done.
        let _one = layer.recovering.lock().await;
        let mut missing: Vec<usize> = units.iter().map(|it| *it as usize).collect();
        missing.retain(|run| !checkpoints.has_window(*run));
        missing.sort_unstable();
        if missing.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            event = "windows_lost",
            layer = %layer.data.digest,
            kind = lost.kind().as_str(), error = %lost,
            "the attached index has become unreadable; reading the layer from the checkpoint before"
        );
        for run in missing {
            if let Err(error) = self.rebuild(layer, run).await {
                tracing::warn!(layer = %layer.data.digest, %error, "nor can the layer be read");
                return Err(lost);
            }
        }
        Ok(())
    }

    /// Makes the window of a run, and of all runs between it and the checkpoint where it begins.
    async fn rebuild(&self, layer: &Layer, target: usize) -> Result<()> {
        let data = &layer.data;
        let checkpoints = &data.table.checkpoints;
        // Windows leave out what their own run does not need. So the first run has to be as long as a
        // window, for the next one's to be of decoded bytes only.
        let length = |run: usize| checkpoints.plain_length(run).unwrap_or(0);
        let is_start = |run: &usize| {
            *run == 0 || length(*run) >= WINDOW as u64 && checkpoints.has_window(*run)
        };
        let start = (0..target).rev().find(is_start);
        let lost = || Error::internal(format!("no run {target}"));
        let start = start.ok_or_else(lost)?;
        let extent = |run: usize| {
            let extent = checkpoints.extent(run, data.source.size());
            extent.ok_or_else(lost)
        };
        let (first, end) = (extent(start)?.start, extent(target - 1)?.end);
        let mut reading = Reading {
            pieces: data.source.read_pieces(first..end).await?,
            buffer: BytesMut::new(),
            begin: first,
        };
        let decoding = Decoding {
            table: Arc::clone(&data.table),
            store: Arc::clone(&self.store),
            space: data.space.clone(),
        };
        let mut tail = Vec::new();
        for run in start..target {
            let range = extent(run)?;
            let compressed = reading.take(range.start, range.end).await?;
            let chunks = match u32::try_from(run) {
                Ok(unit) => layer.by_unit.chunks(unit).to_vec(),
                Err(_) => Vec::new(),
            };
            let plain = match decoding.run(run, compressed, &chunks).await {
                Ok(plain) => plain,
                // The fault may have been on the way.
                Err(_) => {
                    let elsewhere = data.source.read_elsewhere(range).await?;
                    decoding.run(run, elsewhere, &chunks).await?
                }
            };
            tail.extend_from_slice(&plain);
            tail.drain(..tail.len().saturating_sub(WINDOW));
            if let Some(next) = checkpoints.list.get(run + 1) {
                next.bring_plain(&tail)?;
            }
        }
        Ok(())
    }
}

// === impl Reading ===

impl Reading {
    /// The bytes from `start` to `end`; what lies before is not asked for again.
    async fn take(&mut self, start: u64, end: u64) -> Result<Bytes> {
        let at = |offset: u64, begin: u64| {
            let at = offset
                .checked_sub(begin)
                .and_then(|it| usize::try_from(it).ok());
            at.ok_or_else(|| Error::internal("a run that begins before the last one"))
        };
        while self.buffer.len() < at(end, self.begin)? {
            match self.pieces.next().await {
                Some(piece) => self.buffer.extend_from_slice(&piece?),
                None => return Err(Error::unavailable("answer cut off")),
            }
        }
        self.buffer.advance(at(start, self.begin)?);
        self.begin = start;
        Ok(Bytes::copy_from_slice(&self.buffer[..at(end, start)?]))
    }
}

// === impl Decoding ===

impl Decoding {
    /// Decodes a run and holds its files against their digests.
    async fn run(&self, run: usize, compressed: Bytes, chunks: &[u32]) -> Result<Vec<u8>> {
        let (own, chunks) = (self.clone(), chunks.to_vec());
        let decoded = spawn_blocking(move || own.decode(run, &compressed, &chunks));
        decoded
            .await
            .map_err(|e| Error::internal("decoding a run").with_source(e))?
    }

    fn decode(&self, run: usize, compressed: &[u8], chunks: &[u32]) -> Result<Vec<u8>> {
        let bad = || Error::corrupt(format!("run {run} of the layer: digest mismatch"));
        let table = &self.table;
        let length = table.checkpoints.plain_length(run);
        let length = length.and_then(|it| usize::try_from(it).ok());
        let plain = table
            .checkpoints
            .decode(run, compressed, length.ok_or_else(bad)?)?;
        for chunk in chunks {
            let chunk = &table.chunks[*chunk as usize];
            let Place::Unit { offset, .. } = chunk.place else {
                continue;
            };
            let bytes = plain.get(offset as usize..offset as usize + chunk.length as usize);
            let bytes = Bytes::copy_from_slice(bytes.ok_or_else(bad)?);
            let digest = table.digest(chunk);
            let verified = VerifiedChunk::check(bytes, &digest).ok_or_else(bad)?;
            self.store.put_whole(&self.space, &digest, &verified);
        }
        Ok(plain)
    }
}

#[cfg(test)]
mod tests;
