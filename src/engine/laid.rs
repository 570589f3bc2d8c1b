//! Units that have come and that nobody waits for: they are decoded in their turn, or at once when
//! somebody wants one.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::fetch::Why;

/// What has come and is to be decoded later.
#[derive(Debug, Default)]
pub(super) struct Laid {
    state: Mutex<State>,
    /// Told when some of it is taken.
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    units: HashMap<(u16, u32), (Bytes, Why)>,
    /// Those that were laid first come first; some may have been taken out of turn.
    order: VecDeque<(u16, u32)>,
    bytes: usize,
}

/// A unit to decode.
pub(super) struct LaidUnit {
    pub(super) layer: u16,
    pub(super) unit: u32,
    pub(super) compressed: Bytes,
    pub(super) why: Why,
}

/// More is not fetched before some of it has been decoded.
const ENOUGH: usize = 8 << 20;

// === impl Laid ===

impl Laid {
    /// Lays down a unit.
    pub(super) fn add(&self, it: LaidUnit) {
        let mut state = self.lock();
        state.bytes += it.compressed.len();
        state.order.push_back((it.layer, it.unit));
        let before = state
            .units
            .insert((it.layer, it.unit), (it.compressed, it.why));
        if let Some((compressed, _)) = before {
            state.bytes -= compressed.len();
        }
    }

    /// Takes the one that is next.
    pub(super) fn next(&self) -> Option<LaidUnit> {
        let mut state = self.lock();
        loop {
            let (layer, unit) = state.order.pop_front()?;
            if let Some(it) = state.take(layer, unit) {
                drop(state);
                self.taken.notify_waiters();
                return Some(it);
            }
        }
    }

    /// Takes this one, out of turn.
    pub(super) fn take(&self, layer: u16, unit: u32) -> Option<LaidUnit> {
        let taken = self.lock().take(layer, unit);
        if taken.is_some() {
            self.taken.notify_waiters();
        }
        taken
    }

    /// Ends when there is little.
    pub(super) async fn room(&self) {
        loop {
            let mut taken = std::pin::pin!(self.taken.notified());
            // Before the look: what happens after it is told.
            taken.as_mut().enable();
            if self.lock().bytes < ENOUGH {
                return;
            }
            taken.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn take(&mut self, layer: u16, unit: u32) -> Option<LaidUnit> {
        let (compressed, why) = self.units.remove(&(layer, unit))?;
        self.bytes -= compressed.len();
        Some(LaidUnit {
            layer,
            unit,
            compressed,
            why,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn unit(unit: u32, length: usize) -> LaidUnit {
        LaidUnit {
            layer: 0,
            unit,
            compressed: Bytes::from(vec![0; length]),
            why: Why::Ahead,
        }
    }

    #[tokio::test]
    async fn units_come_in_turn_unless_somebody_wants_one() {
        let laid = Laid::default();
        for number in 0..4 {
            laid.add(unit(number, 10));
        }
        assert_eq!(laid.take(0, 2).map(|it| it.unit), Some(2));
        assert!(laid.take(0, 2).is_none(), "once");
        assert!(laid.take(1, 1).is_none(), "of another layer");
        let rest: Vec<u32> = std::iter::from_fn(|| laid.next())
            .map(|it| it.unit)
            .collect();
        assert_eq!(rest, [0, 1, 3]);
        assert_eq!(laid.lock().bytes, 0);
    }

    #[tokio::test]
    async fn there_is_room_when_little_is_laid() {
        let laid = Laid::default();
        laid.add(unit(0, ENOUGH - 1));
        laid.room().await;
        laid.add(unit(1, 1));
        let mut room = Box::pin(laid.room());
        assert!(room.as_mut().now_or_never().is_none());
        assert!(laid.next().is_some());
        room.await;
    }
}
