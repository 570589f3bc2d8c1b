//! Completing an image: what of it is not kept is fetched, into the store, while nobody waits.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::{
    Layer, Shared,
    background::Background,
    fetch::Why,
    plan::{self, Extent},
    profile,
    workers::{Queues, Task},
};

/// Bytes of a request, about: a reader who comes meanwhile has to share the link with it.
const EXTENT: u64 = 1 << 20;
/// Bytes of the request that tells how the source answers.
const PROBE: u64 = 512 << 10;
/// Bytes of a request of those who fetch at once.
const AT_ONCE_EXTENT: u64 = 2 << 20;
/// How many answers a start waits for, one after another, as a rule. If they come sooner than all of the
/// image, there is nothing to gain.
const ANSWERS: u32 = 48;
/// How many times longer than was expected the rest may take before it is given up: the source was not
/// as fast as it seemed, and others need the link.
const PATIENCE: u32 = 2;
/// How long to leave a source alone that does not answer, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Completes one image.
pub(super) struct Completion {
    pub(super) shared: Weak<Shared>,
    pub(super) queues: Queues,
    pub(super) background: Arc<Background>,
    /// Its name, for the log.
    pub(super) image: String,
    /// Nothing is known of what is needed first, so all may be fetched at once.
    pub(super) at_once: bool,
}

/// Where in the image the next request begins.
#[derive(Clone, Copy, Default)]
struct At {
    layer: u16,
    unit: u32,
}

/// How it ended.
enum End {
    /// All is kept, but for what failed its check.
    Complete,
    /// There is no room for the rest.
    Full,
}

// === impl Completion ===

impl Completion {
    /// Ends when the image is complete, or the engine ends. `may_begin` holds it up.
    pub(super) async fn run(self, may_begin: impl Future<Output = ()>) {
        let begin = Instant::now();
        let due = begin + self.background.config().after;
        if self.at_once {
            self.all_at_once(due).await;
        }
        sleep_until(due).await;
        may_begin.await;
        let before = self.counted();
        let Some(end) = self.rest().await else { return };
        let bytes = self.counted() - before;
        match end {
            End::Complete => {
                tracing::info!(
                    event = "image_complete",
                    image = self.image,
                    bytes,
                    seconds = begin.elapsed().as_secs_f64(),
                    "all of the image is in the store"
                );
            }
            End::Full => tracing::info!(
                event = "image_not_completed",
                image = self.image,
                bytes,
                "the store has no room for the rest of the image"
            ),
        }
    }

    /// Fetches everything now if it comes soon; nothing if that is not known by `due`.
    async fn all_at_once(&self, due: Instant) {
        let at_once = self.background.config().at_once;
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        if !shared.pace.is_known()
            && let Some((layer, extent, _)) = shared.next_missing(At::default(), PROBE)
            && let Some(extent) = shared.begun(layer, extent)
        {
            shared
                .carry(&self.queues, layer, extent, Why::Ahead, None)
                .await;
        }
        let extents = shared.missing();
        let bytes = extents.iter().map(|(_, extent)| extent.length()).sum();
        let quick = shared.pace.is_quick(bytes, at_once, ANSWERS);
        if timeout_at(due, quick).await.is_err() || !shared.has_room(&extents) {
            return;
        }
        tracing::debug!(
            image = self.image,
            bytes,
            "the rest comes soon: fetched at once"
        );
        shared.pending.expect();
        self.queues.send(Task::Follow { extents });
        if timeout(at_once * PATIENCE, shared.pending.over())
            .await
            .is_err()
        {
            tracing::debug!(image = self.image, "the rest does not come soon");
            shared.abandon(&self.queues);
        }
    }

    /// Fetches what is missing, request by request. Nothing if the engine ends.
    async fn rest(&self) -> Option<End> {
        let mut at = At::default();
        let mut pause = self.background.config().pause;
        loop {
            let turn = self.background.turn().await;
            let shared = self.shared.upgrade()?;
            let begin = Instant::now();
            let Some((layer, extent, next)) = shared.next_missing(at, EXTENT) else {
                return Some(End::Complete);
            };
            let extents = [(layer, extent)];
            if !shared.has_room(&extents) {
                return Some(End::Full);
            }
            let [(layer, extent)] = extents;
            let bytes = extent.length();
            let Some(extent) = shared.begun(layer, extent) else {
                at = next;
                continue;
            };
            let carried = shared.carry(&self.queues, layer, extent, Why::Rest, None);
            let came = carried.await;
            turn.spend(begin, bytes);
            drop(shared);
            if came {
                (at, pause) = (next, self.background.config().pause);
            } else {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Bytes fetched so far to complete the image.
    fn counted(&self) -> u64 {
        let shared = self.shared.upgrade();
        shared.map_or(0, |it| it.counters.snapshot().rest_bytes)
    }
}

// === impl Shared ===

impl Shared {
    /// All that is not kept.
    fn missing(&self) -> Vec<(u16, Extent)> {
        let mut missing = Vec::new();
        let mut at = At::default();
        while let Some((layer, extent, next)) = self.next_missing(at, AT_ONCE_EXTENT) {
            missing.push((layer, extent));
            at = next;
        }
        missing
    }

    /// The next extent of what is not kept, of about `limit` bytes, and where the one after it begins.
    fn next_missing(&self, mut at: At, limit: u64) -> Option<(u16, Extent, At)> {
        while let Some(layer) = self.layers.get(usize::from(at.layer)) {
            let table = &layer.data.table;
            let (mut units, mut bytes) = (Vec::new(), 0);
            for (number, unit) in (at.unit..).zip(table.units.iter().skip(at.unit as usize)) {
                let length = u64::from(unit.length);
                if !units.is_empty() && bytes + length > limit {
                    break;
                }
                at.unit = number + 1;
                if !self.settles(layer, number) {
                    bytes += length;
                    units.push(number);
                }
            }
            if !units.is_empty() {
                let extent = plan::apart(table, units, profile::GAP);
                return Some((at.layer, extent, at));
            }
            at = At {
                layer: at.layer + 1,
                unit: 0,
            };
        }
        None
    }

    /// Whether all chunks of the unit are on disk, or soon will be.
    fn settles(&self, layer: &Layer, unit: u32) -> bool {
        let settles = |it| self.store.settles(&layer.data.space, &it);
        let mut chunks = layer.by_unit.chunks(unit).iter();
        chunks.all(|&chunk| layer.digest(chunk).is_some_and(settles))
    }

    /// Whether the store keeps the chunks of these units without dropping others.
    fn has_room(&self, extents: &[(u16, Extent)]) -> bool {
        let plain = |(layer, extent): &(u16, Extent)| {
            let layer = &self.layers[usize::from(*layer)];
            extent
                .units
                .iter()
                .map(|&unit| layer.plain_length(unit))
                .sum::<u64>()
        };
        extents.iter().map(plain).sum::<u64>() <= self.store.room()
    }
}

// === impl Layer ===

impl Layer {
    /// Bytes of the unit's chunks.
    fn plain_length(&self, unit: u32) -> u64 {
        let chunks = self.by_unit.chunks(unit).iter();
        let length = |&chunk: &u32| u64::from(self.data.table.chunks[chunk as usize].length);
        chunks.map(length).sum()
    }
}
