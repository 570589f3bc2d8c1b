//! Whose turn it is to fetch what nobody waits for: one request at a time for all images, bounded in
//! rate, and none while readers wait for the network.

use std::time::Duration;

use tokio::{
    sync::{Mutex, MutexGuard, watch},
    time::{Instant, sleep_until, timeout},
};

/// How images are completed that are mounted: what they lack is fetched into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackgroundConfig {
    /// How long after the mount, so that it does not compete with the start of the container.
    pub after: Duration,
    /// Bytes a second for all images together; 0 is no limit.
    pub rate: u64,
    /// An image without a profile whose rest comes within so long, and sooner than some dozens of answers
    /// one after another, is fetched at once and at full speed, beside what readers need.
    pub at_once: Duration,
    /// How long a source that does not answer is left alone, at first; then longer.
    pub pause: Duration,
}

/// Takes turns. One for all engines of a process.
#[derive(Debug)]
pub struct Background {
    config: BackgroundConfig,
    /// When the next request may begin.
    next: Mutex<Instant>,
    /// Requests on their way that are not the background's.
    others: watch::Sender<usize>,
}

/// The right to make one request.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    rate: u64,
    next: MutexGuard<'a, Instant>,
}

/// A request that goes before the background's, until it is dropped.
#[derive(Debug)]
pub(super) struct Other<'a>(&'a Background);

/// How long nothing else must have been fetched: readers that go on do so sooner.
const QUIET: Duration = Duration::from_millis(250);

// === impl BackgroundConfig ===

impl BackgroundConfig {
    /// What disturbs nobody.
    pub const RECOMMENDED: Self = Self {
        after: Duration::from_secs(30),
        rate: 8 << 20,
        at_once: Duration::from_secs(2),
        pause: Duration::from_secs(10),
    };
}

// === impl Background ===

impl Background {
    /// Nothing is on its way.
    #[must_use]
    pub fn new(config: BackgroundConfig) -> Self {
        Self {
            config,
            next: Mutex::new(Instant::now()),
            others: watch::Sender::new(0),
        }
    }

    pub(super) fn config(&self) -> BackgroundConfig {
        self.config
    }

    /// Notes a request that is not the background's.
    pub(super) fn other(&self) -> Other<'_> {
        self.others.send_modify(|others| *others += 1);
        Other(self)
    }

    /// Waits until a request may be made.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let next = self.next.lock().await;
        sleep_until(*next).await;
        self.quiet().await;
        Turn {
            rate: self.config.rate,
            next,
        }
    }

    /// Waits until nothing else has been on its way for a while.
    async fn quiet(&self) {
        let mut others = self.others.subscribe();
        loop {
            // The sender is in self.
            let _ = others.wait_for(|others| *others == 0).await;
            if timeout(QUIET, others.changed()).await.is_err() {
                return;
            }
        }
    }
}

// === impl Turn ===

impl Turn<'_> {
    /// Ends the turn: `bytes` were fetched since `begin`.
    pub(super) fn spend(mut self, begin: Instant, bytes: u64) {
        let millis = bytes.saturating_mul(1000).checked_div(self.rate);
        *self.next = begin + Duration::from_millis(millis.unwrap_or(0));
    }
}

// === impl Other ===

impl Drop for Other<'_> {
    fn drop(&mut self) {
        self.0.others.send_modify(|others| *others -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn background(rate: u64) -> Background {
        Background::new(BackgroundConfig {
            after: Duration::ZERO,
            rate,
            ..BackgroundConfig::RECOMMENDED
        })
    }

    #[tokio::test]
    async fn turns_keep_to_the_rate() {
        let background = background(5000);
        let begin = Instant::now();
        for _ in 0..3 {
            let turn = background.turn().await;
            turn.spend(Instant::now(), 3000);
        }
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(1200), "{took:?}");
    }

    #[tokio::test]
    async fn one_has_the_turn_at_a_time() {
        let background = background(0);
        let turn = background.turn().await;
        let mut second = Box::pin(background.turn());
        assert!(timeout(QUIET * 2, &mut second).await.is_err());
        turn.spend(Instant::now(), u64::MAX);
        // Without a rate it may be asked for at once.
        second.await;
    }

    #[tokio::test]
    async fn others_go_first_and_leave_a_moment() {
        let background = background(0);
        let others = [background.other(), background.other()];
        let mut turn = Box::pin(background.turn());
        for other in others {
            assert!(timeout(QUIET * 2, &mut turn).await.is_err());
            drop(other);
        }
        assert!(turn.as_mut().now_or_never().is_none());
        // Who comes back meanwhile goes first once more.
        let again = background.other();
        assert!(timeout(QUIET * 2, &mut turn).await.is_err());
        drop(again);
        turn.await;
    }
}
