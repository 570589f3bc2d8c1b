//! The pace of a link: when the last bit of a segment has left, and when it arrives.
//!
//! Every connection reserves its segments on one clock a direction, so that all together never
//! exceed the rate. The clock is kept in due times, not in sleeps: waking late does not add up.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A link, shared by all connections.
#[derive(Debug)]
pub(crate) struct Link {
    /// Bytes a second; 0: no limit.
    rate: AtomicU64,
    /// One way, in nanoseconds.
    delay: AtomicU64,
    /// When the last reserved bit has left, each way.
    free: [Mutex<Instant>; 2],
}

/// Which way a segment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the registry.
    Up,
    /// To the client.
    Down,
}

/// What a wake-up that comes late may catch up.
const CREDIT: Duration = Duration::from_millis(1);

/// Waits shorter than this are not worth a sleep; the clock keeps them.
const SLACK: Duration = Duration::from_micros(100);

/// A segment takes about this long on the link, so that connections take turns.
const TURN: Duration = Duration::from_millis(1);

/// The largest segment: what is read at once without a rate.
pub(crate) const SEGMENT: usize = 256 * 1024;

// === impl Link ===

impl Link {
    pub(crate) fn set(&self, rate: u64, delay: Duration) {
        self.rate.store(rate, Ordering::Relaxed);
        let delay = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        self.delay.store(delay, Ordering::Relaxed);
    }

    /// One way.
    pub(crate) fn delay(&self) -> Duration {
        Duration::from_nanos(self.delay.load(Ordering::Relaxed))
    }

    /// How many bytes to take at once.
    pub(crate) fn segment(&self) -> usize {
        match self.rate.load(Ordering::Relaxed) {
            0 => SEGMENT,
            rate => {
                let bytes = u128::from(rate) * TURN.as_nanos() / 1_000_000_000;
                usize::try_from(bytes).map_or(SEGMENT, |it| it.clamp(4096, SEGMENT))
            }
        }
    }

    /// Puts `bytes` on the link behind what is there; gives when the last bit has left.
    pub(crate) fn reserve(&self, direction: Direction, bytes: usize) -> Instant {
        let now = Instant::now();
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return now;
        }
        let clock = &self.free[usize::from(direction == Direction::Down)];
        let mut free = clock.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(CREDIT).unwrap_or(now);
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(rate);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        *free = (*free).max(earliest) + takes;
        *free
    }
}

impl Default for Link {
    fn default() -> Self {
        Self {
            rate: AtomicU64::new(0),
            delay: AtomicU64::new(0),
            free: [Mutex::new(Instant::now()), Mutex::new(Instant::now())],
        }
    }
}

/// Returns at that time.
#[expect(
    clippy::disallowed_methods,
    reason = "the pace of a link is a matter of the clock"
)]
pub(crate) fn wait_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if left > SLACK {
        std::thread::sleep(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_queue_behind_each_other_at_the_rate() {
        let link = Link::default();
        link.set(1_000_000, Duration::ZERO);
        let start = Instant::now();
        let due: Vec<_> = (0..10)
            .map(|_| link.reserve(Direction::Down, 100_000))
            .collect();
        let took = due[9] - start;
        // A second for a megabyte, but for the credit.
        assert!(
            took <= Duration::from_secs(1) + Duration::from_millis(100),
            "{took:?}"
        );
        assert!(took >= Duration::from_secs(1) - CREDIT, "{took:?}");
        assert_eq!(due[9] - due[8], Duration::from_millis(100));
        // The other way is free.
        assert!(link.reserve(Direction::Up, 1000) <= Instant::now() + Duration::from_millis(1));
    }

    #[test]
    fn no_rate_is_no_wait() {
        let link = Link::default();
        assert!(link.reserve(Direction::Down, usize::MAX) <= Instant::now());
        assert_eq!(link.segment(), SEGMENT);
        link.set(12_500_000, Duration::ZERO);
        assert_eq!(link.segment(), 12_500);
    }
}
