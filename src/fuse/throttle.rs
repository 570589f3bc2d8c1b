//! Keeps a broken image from flooding the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Admits a burst, then one event a period, and counts what it turned away.
#[derive(Debug)]
pub(crate) struct Throttle {
    burst: u32,
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    left: u32,
    refilled: Option<Instant>,
    suppressed: u64,
}

// === impl Throttle ===

impl Throttle {
    pub(crate) fn new(burst: u32, period: Duration) -> Throttle {
        let state = State {
            left: burst,
            refilled: None,
            suppressed: 0,
        };
        Throttle {
            burst,
            period,
            state: Mutex::new(state),
        }
    }

    /// Whether the event at `now` may be logged, and how many were not since the last that was.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = state
            .refilled
            .map(|then| now.saturating_duration_since(then));
        let periods = since.map_or(0, |since| since.as_nanos() / self.period.as_nanos());
        if periods > 0 || state.refilled.is_none() {
            let gained = u32::try_from(periods).unwrap_or(u32::MAX);
            state.left = state.left.saturating_add(gained).min(self.burst);
            state.refilled = Some(now);
        }
        if state.left == 0 {
            state.suppressed += 1;
            return None;
        }
        state.left -= 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_a_period_with_the_count_of_the_others() {
        let throttle = Throttle::new(2, Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(throttle.admit(at(0)), Some(0));
        assert_eq!(throttle.admit(at(1)), Some(0));
        assert_eq!(throttle.admit(at(2)), None);
        assert_eq!(throttle.admit(at(3)), None);
        assert_eq!(throttle.admit(at(11)), Some(2));
        assert_eq!(throttle.admit(at(12)), None);
        assert_eq!(throttle.admit(at(100)), Some(1));
        assert_eq!(
            throttle.admit(at(100)),
            Some(0),
            "a quiet time refills the burst"
        );
        assert_eq!(throttle.admit(at(100)), None);
    }
}
