//! When to try again and how long to wait before: exponential backoff with full jitter, the
//! server's `Retry-After`, a deadline.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures::future::BoxFuture;

use super::meter::HostMeter;
use crate::error::{Error, Result};

/// Time and randomness of a client, given from outside so that tests are deterministic.
pub trait Environment: Send + Sync + fmt::Debug {
    /// Waits.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// A number from 0 (included) to 1 (excluded).
    fn fraction(&self) -> f64;

    /// The monotonic clock.
    fn now(&self) -> Instant;

    /// The calendar, for dates in headers.
    fn calendar(&self) -> SystemTime;
}

/// The machine's clock and randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

/// How often and how patiently a request is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first one included; 6 unless told. Bytes received start the count anew.
    pub attempts: u32,
    /// Upper bound of the first wait, doubled each time; 100 ms unless told.
    pub base: Duration,
    /// Upper bound of any wait, a server's `Retry-After` included; 10 s unless told.
    pub cap: Duration,
}

/// Why one try did not work, and whether another one could.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) again: Again,
}

/// Whether a failed try is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It would fail in the same way.
    Never,
    /// After a backoff.
    Backoff,
    /// After what the server asked for.
    After(Duration),
}

/// The tries of one operation.
#[derive(Debug)]
pub(super) struct Retry {
    policy: RetryPolicy,
    environment: Arc<dyn Environment>,
    deadline: Duration,
    started: Instant,
    failed: u32,
    meter: Arc<HostMeter>,
}

// === impl System ===

impl Environment for System {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn fraction(&self) -> f64 {
        // Without randomness the longest wait is the safe one.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        f64::from(random) / (f64::from(u32::MAX) + 1.0)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn calendar(&self) -> SystemTime {
        SystemTime::now()
    }
}

// === impl RetryPolicy ===

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 6,
            base: Duration::from_millis(100),
            cap: Duration::from_secs(10),
        }
    }
}

impl RetryPolicy {
    /// The wait after `failed` failures in a row: a random part of the doubled base.
    fn backoff(&self, failed: u32, fraction: f64) -> Duration {
        let factor = 2_u32.saturating_pow(failed.saturating_sub(1));
        self.base
            .saturating_mul(factor)
            .min(self.cap)
            .mul_f64(fraction)
    }
}

// === impl Failure ===

impl Failure {
    /// Will not get better.
    pub(super) fn fatal(error: Error) -> Self {
        Self {
            error,
            again: Again::Never,
        }
    }

    /// May get better.
    pub(super) fn passing(error: Error) -> Self {
        Self {
            error,
            again: Again::Backoff,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::fatal(error)
    }
}

// === impl Retry ===

impl Retry {
    pub(super) fn new(
        policy: RetryPolicy,
        environment: Arc<dyn Environment>,
        deadline: Duration,
    ) -> Self {
        let started = environment.now();
        Self {
            policy,
            environment,
            deadline,
            started,
            failed: 0,
            meter: Arc::default(),
        }
    }

    /// Counts tries after the first as this host's.
    pub(super) fn counted_by(self, meter: Arc<HostMeter>) -> Self {
        Self { meter, ..self }
    }

    /// Something arrived: failures before it no longer count.
    pub(super) fn progress(&mut self) {
        self.failed = 0;
    }

    /// The deadline counts from now.
    pub(super) fn restart(&mut self) {
        self.started = self.environment.now();
    }

    /// Waits until the next try.
    ///
    /// # Errors
    /// The failure's own, if there is to be no other try.
    pub(super) async fn wait(&mut self, failure: Failure) -> Result<()> {
        self.failed += 1;
        if failure.again == Again::Never || self.failed >= self.policy.attempts {
            return Err(failure.error);
        }
        let wait = match failure.again {
            Again::After(wait) => wait.min(self.policy.cap),
            _ => self
                .policy
                .backoff(self.failed, self.environment.fraction()),
        };
        let spent = self
            .environment
            .now()
            .saturating_duration_since(self.started);
        if spent.saturating_add(wait) >= self.deadline {
            return Err(failure.error);
        }
        self.meter.retried();
        tracing::info!(
            event = "registry_retry",
            kind = failure.error.kind().as_str(),
            attempt = self.failed + 1,
            seconds = wait.as_secs_f64(),
            error = %failure.error,
            "trying again"
        );
        self.environment.sleep(wait).await;
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::source::registry::meter::HostMeters;
    use std::sync::Mutex;

    /// Records waits and moves its clock by them.
    #[derive(Debug)]
    pub(in crate::source) struct Manual {
        start: Instant,
        pub(in crate::source) waits: Mutex<Vec<Duration>>,
    }

    impl Manual {
        pub(in crate::source) fn new() -> Arc<Self> {
            Arc::new(Self {
                start: Instant::now(),
                waits: Mutex::default(),
            })
        }
    }

    impl Environment for Manual {
        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            self.waits.lock().unwrap().push(duration);
            Box::pin(std::future::ready(()))
        }

        fn fraction(&self) -> f64 {
            0.5
        }

        fn now(&self) -> Instant {
            self.start + self.waits.lock().unwrap().iter().sum::<Duration>()
        }

        fn calendar(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }
    }

    fn away() -> Failure {
        Failure::passing(Error::unavailable("away"))
    }

    #[tokio::test]
    async fn backs_off_doubling_up_to_the_cap_and_gives_up() {
        let clock = Manual::new();
        let policy = RetryPolicy {
            attempts: 5,
            base: Duration::from_millis(100),
            cap: Duration::from_millis(300),
        };
        let meters = HostMeters::default();
        let mut retry = Retry::new(policy, clock.clone(), Duration::from_secs(60))
            .counted_by(meters.of("r.example"));
        for _ in 0..4 {
            retry.wait(away()).await.unwrap();
        }
        assert!(retry.wait(away()).await.is_err());
        let waits: Vec<u128> = clock
            .waits
            .lock()
            .unwrap()
            .iter()
            .map(Duration::as_millis)
            .collect();
        assert_eq!(waits, [50, 100, 150, 150]);
        assert_eq!(meters.counts()[0].retries, 4);
    }

    #[tokio::test]
    async fn deadline_fatal_and_server_waits() {
        let clock = Manual::new();
        let policy = RetryPolicy {
            attempts: 100,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(4),
        };
        let mut retry = Retry::new(policy, clock.clone(), Duration::from_secs(6));
        let asked = |seconds| Failure {
            again: Again::After(Duration::from_secs(seconds)),
            ..away()
        };
        retry.wait(asked(1)).await.unwrap();
        retry.wait(asked(3600)).await.unwrap();
        assert_eq!(
            *clock.waits.lock().unwrap(),
            [1, 4].map(Duration::from_secs),
            "the server's wish is capped"
        );
        assert!(retry.wait(asked(1)).await.is_err(), "beyond the deadline");
        let mut retry = Retry::new(policy, clock, Duration::from_secs(6));
        let fatal = Failure::fatal(Error::denied("no"));
        assert!(retry.wait(fatal).await.is_err());
    }
}
