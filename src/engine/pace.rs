//! How the source answers: how long until the first byte, and how fast the rest.
//!
//! A request costs its latency, whatever it is for. What comes in a few times that time at the source's
//! own speed is fetched beside what a reader needs, so that most of the link is used even if readers
//! wait for each other. On a slow link near by that is little, on a fast one far away it is much.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

/// Twice what is fetched beside, in such products: measured with starts of large images, where most of
/// what lies behind is needed too and a request costs the other side work besides its time.
const WORTH: u64 = 5;
/// Answers that are remembered.
const REMEMBERED: usize = 16;
/// Shorter rests say more about buffers than about the link.
const TELLING: u64 = 48 << 10;
/// Rests that come at once are as fast as this, in bytes a second.
const FASTEST: f64 = 4e9;

/// What the last answers were like.
#[derive(Debug)]
pub(super) struct Pace {
    /// The least and the most that an extent may be grown to.
    bounds: (u64, u64),
    /// Without answers to go by.
    default: u64,
    answers: Mutex<Answers>,
    /// Told when a speed is noted.
    told: Notify,
}

#[derive(Debug, Default)]
struct Answers {
    /// Seconds until the first byte.
    latencies: Recent,
    /// Bytes a second after that.
    speeds: Recent,
}

/// The last few figures.
#[derive(Debug, Default)]
struct Recent {
    figures: [f64; REMEMBERED],
    count: usize,
}

// === impl Pace ===

impl Pace {
    /// Extents are grown to `default` bytes at first, later to what is within `bounds`.
    pub(super) fn new(default: u64, bounds: (u64, u64)) -> Self {
        Self {
            bounds,
            default,
            answers: Mutex::default(),
            told: Notify::new(),
        }
    }

    /// Notes an answer: time until its first bytes, and how many came in which time after them.
    pub(super) fn note(&self, first: Duration, rest: u64, took: Duration) {
        let mut answers = self.lock();
        answers.latencies.add(first.as_secs_f64());
        if rest >= TELLING {
            #[allow(clippy::cast_precision_loss, reason = "an estimate")]
            let speed = rest as f64 / took.as_secs_f64().max(1e-9);
            answers.speeds.add(speed.min(FASTEST));
            drop(answers);
            self.told.notify_waiters();
        }
    }

    /// Bytes that a request should at least be for.
    pub(super) fn extent(&self) -> u64 {
        let product = self.product();
        product.map_or(self.default, |it| {
            (it.saturating_mul(WORTH) / 2).clamp(self.bounds.0, self.bounds.1)
        })
    }

    /// Bytes that come while an answer is waited for; all there are until that is known.
    pub(super) fn in_flight(&self) -> u64 {
        self.product().unwrap_or(u64::MAX)
    }

    /// Ends when so many bytes seem to take no longer than `limit`, and than `answers` one after another.
    pub(super) async fn is_quick(&self, bytes: u64, limit: Duration, answers: u32) {
        loop {
            let mut told = std::pin::pin!(self.told.notified());
            // Before the look: what happens after it is told.
            told.as_mut().enable();
            let limit = self
                .latency()
                .map(|it| limit.min(it.saturating_mul(answers)));
            if self
                .takes(bytes)
                .zip(limit)
                .is_some_and(|(it, limit)| it <= limit)
            {
                return;
            }
            told.await;
        }
    }

    /// Whether it is known how fast the source is.
    pub(super) fn is_known(&self) -> bool {
        self.takes(0).is_some()
    }

    /// How long an answer takes to begin, once that is known.
    fn latency(&self) -> Option<Duration> {
        let seconds = self.lock().latencies.iter().reduce(f64::min)?;
        Some(Duration::from_secs_f64(seconds))
    }

    /// How long so many bytes take, once that is known.
    fn takes(&self, bytes: u64) -> Option<Duration> {
        let answers = self.lock();
        let paces = answers.speeds.iter().map(f64::recip);
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let (bytes, count) = (bytes as f64, answers.speeds.iter().count() as f64);
        // What came out of a buffer in no time counts as one answer of many.
        let seconds = bytes * paces.reduce(|sum, it| sum + it)? / count;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    fn product(&self) -> Option<u64> {
        let answers = self.lock();
        // The best of each: what is worse was waiting for something else.
        let latency = answers.latencies.iter().reduce(f64::min)?;
        let speed = answers.speeds.iter().reduce(f64::max)?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is positive, and too large is as good as the largest"
        )]
        let product = (latency * speed) as u64;
        Some(product)
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        // Nothing that can panic runs under it.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Recent ===

impl Recent {
    fn add(&mut self, figure: f64) {
        self.figures[self.count % REMEMBERED] = figure;
        self.count += 1;
    }

    fn iter(&self) -> impl Iterator<Item = f64> {
        self.figures[..self.count.min(REMEMBERED)].iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(pace: &Pace, milliseconds: u64, bytes: u64, bytes_per_second: u64) {
        let took = Duration::from_nanos(bytes * 1_000_000_000 / bytes_per_second);
        pace.note(Duration::from_millis(milliseconds), bytes, took);
    }

    #[test]
    fn extents_grow_with_latency_and_speed() {
        for (milliseconds, speed, want) in [
            (2, 12_500_000, 64 << 10),
            (10, 12_500_000, 312_500),
            (2, 250_000_000, 1_250_000),
            (80, 1_000_000_000, 4 << 20),
        ] {
            let pace = Pace::new(1000, (64 << 10, 4 << 20));
            assert_eq!(pace.extent(), 1000, "nothing is known yet");
            answer(&pace, milliseconds, 100_000, speed);
            let extent = pace.extent();
            assert!(extent.abs_diff(want) < want / 100, "{extent}, not {want}");
        }
    }

    #[test]
    fn one_slow_answer_says_little_and_many_say_much() {
        let pace = Pace::new(0, (1, u64::MAX));
        answer(&pace, 10, 100_000, 100_000_000);
        let usual = pace.extent();
        answer(&pace, 500, 100_000, 1_000_000);
        assert_eq!(pace.extent(), usual);
        // Short answers tell the latency, not the speed.
        answer(&pace, 5, 100, 1_000);
        assert!(pace.extent().abs_diff(usual / 2) < 100);
        for _ in 0..REMEMBERED {
            answer(&pace, 100, 100_000, 1_000_000);
        }
        assert!(pace.extent().abs_diff(250_000) < 250);
    }

    #[tokio::test]
    async fn what_takes_long_is_not_quick_until_the_source_is() {
        use futures::FutureExt;

        let pace = Pace::new(0, (1, u64::MAX));
        let mut quick = Box::pin(pace.is_quick(1_000_000, Duration::from_secs(1), 100));
        assert!(quick.as_mut().now_or_never().is_none(), "nothing is known");
        answer(&pace, 10, 100_000, 500_000);
        assert!(quick.as_mut().now_or_never().is_none(), "two seconds");
        answer(&pace, 10, 100_000, 500_000_000);
        assert!(quick.as_mut().now_or_never().is_none(), "one, and a bit");
        answer(&pace, 10, 100_000, 2_000_000);
        quick.await;
        let mut quick = Box::pin(pace.is_quick(1_000_000, Duration::from_secs(1), 10));
        assert!(
            quick.as_mut().now_or_never().is_none(),
            "ten answers take less"
        );
        for _ in 0..REMEMBERED {
            answer(&pace, 10, 100_000, 20_000_000);
        }
        quick.await;
    }
}
