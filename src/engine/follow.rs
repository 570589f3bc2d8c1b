//! Following a profile: its extents are fetched in its order, a few at a time, and out of turn when a
//! reader wants one.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    sync::{Notify, Semaphore, oneshot},
    task::spawn_blocking,
};

use super::{
    Shared,
    fetch::Why,
    plan::{self, Extent},
    profile,
    workers::Queues,
};

/// Extents of a profile that have not been asked for yet, the next one first. Their units are on
/// their way for all who look: whoever wants one has its extent fetched now.
#[derive(Debug, Default)]
pub(super) struct Pending {
    extents: Mutex<Vec<(u16, Extent)>>,
    /// How many there are, for those who need not look.
    count: AtomicUsize,
    /// How many are being fetched, or planned.
    flying: AtomicUsize,
    /// Told when all have come.
    over: Notify,
}

/// Extents of a profile that are fetched at a time, at most. The next one is begun when what is left of
/// the last one comes within the time that an answer takes: the link is never idle, and what is
/// needed first has it for itself.
const AT_A_TIME: usize = 3;
/// What another run in a request costs the other side, as a part of what a request costs: registries
/// open and read the blob anew for each.
const RUNS_PER_ANSWER: u64 = 8;

// === impl Shared ===

impl Shared {
    /// Fetches the extents, those of their units that are not kept or on their way. Runs on a worker.
    pub(super) fn follow(self: &Arc<Self>, queues: &Queues, extents: Vec<(u16, Extent)>) {
        let begun: Vec<(u16, Extent)> = extents
            .into_iter()
            .filter_map(|(layer, extent)| Some((layer, self.begun(layer, extent)?)))
            .collect();
        self.pending.add(begun);
        self.pending.landed();
        let (shared, queues) = (Arc::clone(self), queues.clone());
        self.runtime.spawn(async move {
            let room = Arc::new(Semaphore::new(AT_A_TIME));
            while let Ok(permit) = Arc::clone(&room).acquire_owned().await
                && let Some((layer, extent)) = shared.pending.next()
            {
                let extent = shared.regapped(layer, extent);
                let (nearly, soon) = oneshot::channel();
                let (carrying, queues) = (Arc::clone(&shared), queues.clone());
                tokio::spawn(async move {
                    let nearly = Some(nearly);
                    carrying
                        .carry(&queues, layer, extent, Why::Ahead, nearly)
                        .await;
                    carrying.pending.landed();
                    drop(permit);
                });
                // Dropped when it has come, or will not come.
                let _ = soon.await;
                shared.laid.room().await;
                shared.store_keeps_up().await;
            }
        });
    }

    /// Ends when little waits to be written: what the store cannot take would be fetched twice.
    async fn store_keeps_up(&self) {
        if self.store.is_behind() {
            let store = Arc::clone(&self.store);
            // It fails only where the runtime ends.
            let _ = spawn_blocking(move || store.flush()).await;
        }
    }

    /// A reader wants a unit that is on its way: if it has come it is decoded now, and if only a profile
    /// was going to fetch it, it is fetched now.
    pub(super) fn demand(self: &Arc<Self>, queues: &Queues, layer: u16, unit: u32) {
        if self.decode_now(queues, layer, unit) {
            return;
        }
        if let Some(extent) = self.pending.take(layer, unit) {
            self.request(queues, layer, extent, Why::Read);
        }
    }

    /// Fetches nothing more of what was to be followed but what readers wait for.
    pub(super) fn abandon(self: &Arc<Self>, queues: &Queues) {
        for (layer, mut extent) in self.pending.take_all() {
            // Who comes from here on fetches it himself.
            extent
                .units
                .retain(|&unit| !self.flights.end_idle(layer, unit));
            if !extent.units.is_empty() {
                let table = &self.layers[usize::from(layer)].data.table;
                let wanted = plan::apart(table, extent.units, profile::GAP);
                self.request(queues, layer, wanted, Why::Read);
            }
        }
    }

    /// The extent with the units whose flights begin now; `None` if there are none.
    pub(super) fn begun(&self, layer: u16, mut extent: Extent) -> Option<Extent> {
        let data = &self.layers[usize::from(layer)];
        extent
            .units
            .retain(|&unit| self.begins_ahead(data, layer, unit));
        let table = &data.data.table;
        (!extent.units.is_empty()).then(|| plan::apart(table, extent.units, profile::GAP))
    }

    /// The same units, with gaps fetched over that cost less than another run in the request.
    fn regapped(&self, layer: u16, extent: Extent) -> Extent {
        let gap = (self.pace.extent() / RUNS_PER_ANSWER).max(profile::GAP);
        plan::apart(
            &self.layers[usize::from(layer)].data.table,
            extent.units,
            gap,
        )
    }
}

// === impl Pending ===

impl Pending {
    fn add(&self, extents: Vec<(u16, Extent)>) {
        let mut pending = self.lock();
        pending.extend(extents);
        self.count.store(pending.len(), Ordering::Release);
    }

    /// Nothing more is fetched.
    pub(super) fn clear(&self) {
        self.take_all();
    }

    /// All that has not been asked for; nothing is any more.
    fn take_all(&self) -> Vec<(u16, Extent)> {
        let all = std::mem::take(&mut *self.lock());
        self.count.store(0, Ordering::Release);
        self.tell();
        all
    }

    /// Whether all of it has come, or there was nothing.
    pub(super) fn is_over(&self) -> bool {
        self.is_empty() && self.flying.load(Ordering::Acquire) == 0
    }

    /// Ends when it is over.
    pub(super) async fn over(&self) {
        loop {
            let mut told = std::pin::pin!(self.over.notified());
            // Before the look: what happens after it is told.
            told.as_mut().enable();
            if self.is_over() {
                return;
            }
            told.await;
        }
    }

    /// Extents will be added.
    pub(super) fn expect(&self) {
        self.flying.fetch_add(1, Ordering::AcqRel);
    }

    /// An extent that was next has come or has failed, or what was expected has been added.
    fn landed(&self) {
        self.flying.fetch_sub(1, Ordering::AcqRel);
        self.tell();
    }

    fn tell(&self) {
        if self.is_over() {
            self.over.notify_waiters();
        }
    }

    /// Whether all of it has been asked for, or there was nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn next(&self) -> Option<(u16, Extent)> {
        let mut pending = self.lock();
        let next = (!pending.is_empty()).then(|| pending.remove(0));
        if next.is_some() {
            self.expect();
        }
        self.count.store(pending.len(), Ordering::Release);
        next
    }

    /// The extent that has the unit.
    fn take(&self, layer: u16, unit: u32) -> Option<Extent> {
        if self.is_empty() {
            return None;
        }
        let mut pending = self.lock();
        let has = |(of, extent): &(u16, Extent)| *of == layer && extent.units.contains(&unit);
        let at = pending.iter().position(has)?;
        let (_, extent) = pending.remove(at);
        self.count.store(pending.len(), Ordering::Release);
        drop(pending);
        self.tell();
        Some(extent)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u16, Extent)>> {
        // Nothing that can panic runs under it.
        self.extents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
