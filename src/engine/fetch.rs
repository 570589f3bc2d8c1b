//! From a missing chunk to its bytes: planning, the request, decoding, checking.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use futures::{StreamExt, future::try_join, stream};
use tokio::sync::oneshot;

use super::{
    FileData, Layer, ServedFrom, Shared,
    arriving::Arriving,
    counters::Counters,
    flights::Waiter,
    laid::LaidUnit,
    operation::Fault,
    plan::{self, Extent, Joining},
    workers::{Queues, Task},
};
use crate::{
    error::{Error, Result},
    index::{Algorithm, Chunk, ChunkDigest, ChunkTable, Place},
    source::{BlobSource, PlacedStream},
    store::VerifiedChunk,
};

/// Why units are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// A reader waits for one of them.
    Read,
    /// A reader will probably want them.
    Ahead,
    /// What came was not what was signed.
    Again,
    /// Nobody may ever want them; the store does.
    Rest,
}

impl Shared {
    /// Serves what is on disk and has the rest fetched. Runs on a worker.
    pub(super) fn look(
        self: &Arc<Self>,
        queues: &Queues,
        layer_number: u16,
        waiters: Vec<Waiter>,
        ahead: Option<(FileData, Range<u64>)>,
    ) {
        let layer = &self.layers[usize::from(layer_number)];
        let mut wanted = Vec::new();
        for waiter in waiters {
            let Place::Unit { unit, .. } =
                layer.data.table.chunks[waiter.part.chunk as usize].place
            else {
                continue;
            };
            // The flight comes before the disk, so that a chunk is read from there once, too.
            if self.flights.join(layer_number, unit, Some(waiter)) {
                if !self.serve_kept(layer, layer_number, unit) {
                    wanted.push(unit);
                }
            } else {
                self.demand(queues, layer_number, unit);
            }
        }
        let demanded = wanted.len();
        let length = self.pace.extent();
        for i in 0..demanded {
            for unit in plan::following(&layer.data.table, wanted[i], length) {
                if self.begins_ahead(layer, layer_number, unit) {
                    wanted.push(unit);
                }
            }
        }
        let neighbours_of = wanted[..demanded].to_vec();
        let bytes = self.fetch(queues, layer_number, wanted, Why::Read);
        self.needed(queues, layer_number, &neighbours_of, bytes);
        if let Some((file, range)) = ahead {
            self.fetch_ahead(
                queues,
                layer_number,
                units_of(&layer.data.table, file, &range),
            );
        }
    }

    /// Serves who waits for the unit from the store. Says whether nobody waits any more, and the
    /// flight has ended; otherwise the unit has to be fetched.
    fn serve_kept(&self, layer: &Layer, number: u16, unit: u32) -> bool {
        let mut missing = Vec::new();
        loop {
            while let Some(chunk) = self.flights.awaited(number, unit, &missing) {
                let digest = layer.digest(chunk);
                match digest.and_then(|it| self.store.get(&layer.data.space, &it)) {
                    Some(kept) => {
                        let waiters = self.flights.leave(number, unit, chunk);
                        waiters
                            .iter()
                            .for_each(|waiter| waiter.fill(&kept, ServedFrom::Disk));
                    }
                    None => missing.push(chunk),
                }
            }
            if !missing.is_empty() {
                return false;
            }
            // Somebody may have joined since the last look, for a chunk that is kept as well.
            if self.flights.end_idle(number, unit) {
                return true;
            }
        }
    }

    /// Fetches units that nobody waits for, except those that are kept or on their way.
    pub(super) fn fetch_ahead(self: &Arc<Self>, queues: &Queues, layer: u16, mut units: Vec<u32>) {
        let data = &self.layers[usize::from(layer)];
        units.retain(|&unit| self.begins_ahead(data, layer, unit));
        self.fetch(queues, layer, units, Why::Ahead);
    }

    /// Decodes a unit, checks and keeps all its chunks, and answers who waits for them. What fails
    /// its check is fetched once more: the fault may have been on the way. Runs on a worker.
    pub(super) fn decode(
        self: &Arc<Self>,
        queues: &Queues,
        layer_number: u16,
        unit: u32,
        compressed: &Bytes,
        why: Why,
    ) {
        let layer = &self.layers[usize::from(layer_number)];
        let checked = layer.decode(unit, compressed);
        let waiting = |chunk: u32| self.flights.waits_for(layer_number, unit, chunk);
        if why != Why::Again
            && checked
                .iter()
                .any(|(chunk, result)| result.is_err() && waiting(*chunk))
        {
            Counters::add(&self.counters.mismatches, 1);
            tracing::warn!(
                event = "chunk_mismatch",
                layer = %layer.data.digest,
                unit,
                "fetched bytes are not what was signed; fetching again"
            );
            self.fetch_one(queues, layer_number, unit);
            return;
        }
        for (chunk, result) in &checked {
            match result {
                Ok(verified) => {
                    Counters::add(&self.counters.chunks, 1);
                    if let Some(digest) = layer.digest(*chunk) {
                        match why {
                            Why::Rest => self.store.put_apart(&layer.data.space, &digest, verified),
                            _ => self.store.put(&layer.data.space, &digest, verified),
                        }
                    }
                }
                Err(_) => Counters::add(&self.counters.mismatches, 1),
            }
        }
        for waiter in self.flights.land(layer_number, unit) {
            match checked
                .iter()
                .find(|(chunk, _)| *chunk == waiter.part.chunk)
            {
                Some((_, Ok(verified))) => waiter.fill(verified, ServedFrom::Source),
                Some((_, Err(fault))) => waiter.operation.fail(fault),
                None => waiter
                    .operation
                    .fail(&layer.corrupt(waiter.part.chunk, "not in its unit")),
            }
        }
    }

    /// Begins the flight of a unit that nobody waits for; says whether it has to be fetched. It is
    /// looked for in the store after the flight has begun: before that, another could land between.
    pub(super) fn begins_ahead(&self, layer: &Layer, number: u16, unit: u32) -> bool {
        self.flights.join(number, unit, None)
            && !(self.is_kept(layer, unit) && self.serve_kept(layer, number, unit))
    }

    /// Whether the unit's first chunk is kept. The others usually are too; if not, a read fetches
    /// them.
    fn is_kept(&self, layer: &Layer, unit: u32) -> bool {
        layer.by_unit.chunks(unit).first().is_none_or(|&chunk| {
            let digest = layer.digest(chunk);
            digest.is_some_and(|it| self.store.contains(&layer.data.space, &it))
        })
    }

    /// Sends one request for each extent; gives how many bytes they are for.
    fn fetch(self: &Arc<Self>, queues: &Queues, layer: u16, mut units: Vec<u32>, why: Why) -> u64 {
        units.sort_unstable();
        let joining = Joining {
            gap: self.config.join_gap,
            max: self.config.max_extent,
        };
        let table = &self.layers[usize::from(layer)].data.table;
        let mut bytes = 0;
        for extent in plan::extents(table, &units, joining) {
            bytes += extent.length();
            self.request(queues, layer, extent, why);
        }
        bytes
    }

    /// Fetches a single unit again.
    fn fetch_one(self: &Arc<Self>, queues: &Queues, layer: u16, unit: u32) {
        let table = &self.layers[usize::from(layer)].data.table;
        let joining = Joining { gap: 0, max: 0 };
        for extent in plan::extents(table, &[unit], joining) {
            self.request(queues, layer, extent, Why::Again);
        }
    }

    pub(super) fn request(self: &Arc<Self>, queues: &Queues, layer: u16, extent: Extent, why: Why) {
        let (shared, queues) = (Arc::clone(self), queues.clone());
        self.runtime
            .spawn(async move { shared.carry(&queues, layer, extent, why, None).await });
    }

    /// Reads an extent; what does not come fails whoever waits for it. `nearly` is told when the next
    /// one should be asked for, so that its answer comes when this one has ended. Says whether all came.
    pub(super) async fn carry(
        &self,
        queues: &Queues,
        layer: u16,
        extent: Extent,
        why: Why,
        nearly: Option<oneshot::Sender<()>>,
    ) -> bool {
        let background = self.background.get().filter(|_| why != Why::Rest);
        let _first = background.map(|it| it.other());
        let length = extent.length();
        Counters::add(&self.counters.extents, 1);
        Counters::add(&self.counters.extent_bytes, length);
        match why {
            Why::Ahead => Counters::add(&self.counters.ahead_bytes, length),
            Why::Rest => Counters::add(&self.counters.rest_bytes, length),
            Why::Read | Why::Again => {}
        }
        let mut arriving = Arriving::new(extent);
        let received = self
            .receive(queues, layer, &mut arriving, why, nearly)
            .await;
        let came = received.is_ok();
        if let Err(error) = received {
            let digest = &self.layers[usize::from(layer)].data.digest;
            let fault = Fault::from(&error.context(format!("layer {digest}")));
            for unit in arriving.missing() {
                for waiter in self.flights.land(layer, unit) {
                    waiter.operation.fail(&fault);
                }
            }
        }
        came
    }

    /// Reads an extent and has each unit decoded as soon as it is whole.
    async fn receive(
        &self,
        queues: &Queues,
        layer: u16,
        arriving: &mut Arriving,
        why: Why,
        mut nearly: Option<oneshot::Sender<()>>,
    ) -> Result<()> {
        let data = &self.layers[usize::from(layer)].data;
        let ranges = arriving.ranges().to_vec();
        // What units need besides is asked for at the same time. The extent is read on meanwhile:
        // who holds a connection must not wait for another one.
        let units: Vec<u32> = arriving.missing().collect();
        let ready = AtomicBool::new(false);
        let windows = async {
            self.windows(layer, &units).await?;
            ready.store(true, Ordering::Relaxed);
            Ok(())
        };
        let reading = async {
            let begin = Instant::now();
            let mut first = None;
            let mut rest = 0;
            let mut left: u64 = ranges.iter().map(|run| run.end - run.start).sum();
            let mut pieces = if why == Why::Again {
                elsewhere(&*data.source, ranges).await?
            } else {
                data.source.read_ranges(ranges).await?
            };
            while let Some(piece) = pieces.next().await {
                let (at, piece) = piece?;
                match first {
                    None => first = Some(Instant::now()),
                    Some(_) => rest += piece.len() as u64,
                }
                arriving.push(at, &piece, &data.table);
                left = left.saturating_sub(piece.len() as u64);
                if left <= self.pace.in_flight() {
                    // Nobody listens any more if the engine ends.
                    let _ = nearly.take().map(|it| it.send(()));
                }
                if ready.load(Ordering::Relaxed) {
                    self.hand_over(queues, layer, arriving, why);
                }
            }
            if let Some(first) = first {
                self.pace.note(first - begin, rest, first.elapsed());
            }
            Ok::<_, Error>(())
        };
        try_join(windows, reading).await?;
        self.hand_over(queues, layer, arriving, why);
        match arriving.missing().next() {
            None => Ok(()),
            Some(unit) => Err(Error::unavailable(format!("unit {unit}: answer cut off"))),
        }
    }

    /// Has the units decoded that are whole.
    fn hand_over(&self, queues: &Queues, layer: u16, arriving: &mut Arriving, why: Why) {
        while let Some((unit, compressed)) = arriving.whole_unit() {
            if self.flights.is_wanted(layer, unit) {
                queues.send(Task::Decode {
                    layer,
                    unit,
                    compressed,
                    why,
                });
                continue;
            }
            self.laid.add(LaidUnit {
                layer,
                unit,
                compressed,
                why,
            });
            // Who came before it was laid down did not find it; who comes from here on takes it.
            if !(self.flights.is_wanted(layer, unit) && self.decode_now(queues, layer, unit)) {
                queues.send(Task::DecodeNext);
            }
        }
    }

    /// Has a unit decoded out of turn if it has come; says whether it has.
    pub(super) fn decode_now(&self, queues: &Queues, layer: u16, unit: u32) -> bool {
        let laid = self.laid.take(layer, unit);
        let came = laid.is_some();
        if let Some(LaidUnit {
            layer,
            unit,
            compressed,
            why,
        }) = laid
        {
            queues.send(Task::Decode {
                layer,
                unit,
                compressed,
                why,
            });
        }
        came
    }
}

/// The ranges once more, from somewhere else.
async fn elsewhere(source: &dyn BlobSource, ranges: Vec<Range<u64>>) -> Result<PlacedStream> {
    let mut pieces = Vec::with_capacity(ranges.len());
    for range in ranges {
        let at = range.start;
        pieces.push(Ok((at, source.read_elsewhere(range).await?)));
    }
    Ok(stream::iter(pieces).boxed())
}

/// The units that hold `range` of the file, ascending.
fn units_of(table: &ChunkTable, file: FileData, range: &Range<u64>) -> Vec<u32> {
    let length = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
    let mut units: Vec<u32> = plan::parts(table, file, range.start, length)
        .iter()
        .filter_map(|part| match table.chunks[part.chunk as usize].place {
            Place::Unit { unit, .. } => Some(unit),
            Place::Zeros => None,
        })
        .collect();
    units.sort_unstable();
    units.dedup();
    units
}

impl Layer {
    /// The chunk's digest; none if it is still to be learnt.
    pub(super) fn digest(&self, chunk: u32) -> Option<ChunkDigest> {
        let table = &self.data.table;
        match table.spans.is_empty() {
            true => Some(table.digest(&table.chunks[chunk as usize])),
            false => self.learnt.get(chunk as usize)?.get().copied(),
        }
    }

    /// A chunk's bytes, checked; of a unit that has been verified itself, the digest is learnt.
    fn check(&self, chunk: u32, bytes: Bytes) -> Option<VerifiedChunk> {
        if let Some(digest) = self.digest(chunk) {
            return VerifiedChunk::check(bytes, &digest);
        }
        let (digest, verified) = VerifiedChunk::digested(bytes, self.data.table.algorithm);
        let learnt = self.learnt.get(chunk as usize)?;
        (*learnt.get_or_init(|| digest) == digest).then_some(verified)
    }

    /// Whether the bytes of a unit are what was signed, if that is known before they are decoded.
    fn is_span(&self, unit: u32, compressed: &[u8]) -> bool {
        let spans = &self.data.table.spans;
        spans.is_empty()
            || spans
                .get(unit as usize)
                .is_some_and(|digest| Algorithm::Sha256.of(*digest).matches(compressed))
    }

    /// All chunks of a unit, each checked against its digest.
    fn decode(&self, unit: u32, compressed: &[u8]) -> Vec<(u32, Result<VerifiedChunk, Fault>)> {
        let table = &self.data.table;
        let chunks = self.by_unit.chunks(unit);
        let end_of = |chunk: &Chunk| match chunk.place {
            Place::Unit { offset, .. } => offset as usize + chunk.length as usize,
            Place::Zeros => 0,
        };
        let chunk_of = |index: u32| &table.chunks[index as usize];
        let length = chunks
            .iter()
            .map(|&c| end_of(chunk_of(c)))
            .max()
            .unwrap_or(0);
        let decoded = match self.is_span(unit, compressed) {
            true => table.decode(unit, compressed, length),
            false => Err(Error::corrupt(format!("unit {unit}: digest mismatch"))),
        };
        let plain = match decoded {
            Ok(plain) => Bytes::from(plain),
            Err(error) => {
                return chunks
                    .iter()
                    .map(|&c| (c, Err(self.corrupt(c, &error.to_string()))))
                    .collect();
            }
        };
        chunks
            .iter()
            .map(|&index| {
                let chunk = chunk_of(index);
                let end = end_of(chunk);
                let bytes = plain.slice(end - chunk.length as usize..end);
                // A small chunk must not keep a large unit in memory.
                let bytes = if bytes.len() * 2 < plain.len() {
                    Bytes::copy_from_slice(&bytes)
                } else {
                    bytes
                };
                let verified = self
                    .check(index, bytes)
                    .ok_or_else(|| self.corrupt(index, "digest mismatch"));
                (index, verified)
            })
            .collect()
    }
}
