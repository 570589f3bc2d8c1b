//! Following a profile: its extents are fetched in its order, a few at a time, and out of turn when a
//! reader wants one.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use super::{Shared, fetch::Why, plan::Extent, workers::Queues};

/// Extents of a profile that have not been asked for yet, the next one first. Their units are on
/// their way for all who look: whoever wants one has its extent fetched now.
#[derive(Debug, Default)]
pub(super) struct Pending {
    extents: Mutex<Vec<(u16, Extent)>>,
    /// How many there are, for those who need not look.
    count: AtomicUsize,
}

/// Extents of a profile that are fetched at a time: enough to fill a link over its round trips, few
/// enough that what is needed first arrives first.
const AT_A_TIME: usize = 3;

// === impl Shared ===

impl Shared {
    /// Fetches the extents, those of their units that are not kept or on their way. Runs on a worker.
    pub(super) fn follow(self: &Arc<Self>, queues: &Queues, extents: Vec<(u16, Extent)>) {
        let begun: Vec<(u16, Extent)> = extents
            .into_iter()
            .filter_map(|(layer, extent)| Some((layer, self.begun(layer, extent)?)))
            .collect();
        self.pending.add(begun);
        for _ in 0..AT_A_TIME {
            let (shared, queues) = (Arc::clone(self), queues.clone());
            self.runtime.spawn(async move {
                while let Some((layer, extent)) = shared.pending.next() {
                    shared.carry(&queues, layer, extent, Why::Ahead).await;
                }
            });
        }
    }

    /// A reader wants a unit that is on its way: if only a profile was going to fetch it, it is
    /// fetched now.
    pub(super) fn demand(self: &Arc<Self>, queues: &Queues, layer: u16, unit: u32) {
        if let Some(extent) = self.pending.take(layer, unit) {
            self.request(queues, layer, extent, Why::Read);
        }
    }

    /// The extent with the units whose flights begin now; `None` if there are none.
    fn begun(&self, layer: u16, mut extent: Extent) -> Option<Extent> {
        let data = &self.layers[usize::from(layer)];
        extent
            .units
            .retain(|&unit| self.begins_ahead(data, layer, unit));
        let place = |unit: u32| {
            let unit = &data.data.table.units[unit as usize];
            unit.offset..unit.offset + u64::from(unit.length)
        };
        let start = place(*extent.units.first()?).start;
        let end = extent.units.iter().map(|&unit| place(unit).end).max()?;
        extent.bytes = start..end;
        Some(extent)
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
        self.lock().clear();
        self.count.store(0, Ordering::Release);
    }

    fn next(&self) -> Option<(u16, Extent)> {
        let mut pending = self.lock();
        let next = (!pending.is_empty()).then(|| pending.remove(0));
        self.count.store(pending.len(), Ordering::Release);
        next
    }

    /// The extent that has the unit.
    fn take(&self, layer: u16, unit: u32) -> Option<Extent> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut pending = self.lock();
        let has = |(of, extent): &(u16, Extent)| *of == layer && extent.units.contains(&unit);
        let at = pending.iter().position(has)?;
        let (_, extent) = pending.remove(at);
        self.count.store(pending.len(), Ordering::Release);
        Some(extent)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u16, Extent)>> {
        // Nothing that can panic runs under it.
        self.extents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
