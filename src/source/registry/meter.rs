//! What passes between this node and each host, counted for as long as the client lives, whatever
//! becomes of `hosts.toml` meanwhile.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use crate::{
    measure::{Histogram, Times, add, load},
    source::{AnswerClass, Traffic, TrafficSnapshot},
};

/// One host.
#[derive(Debug, Default)]
pub(super) struct HostMeter {
    /// Requests and bytes of all its repositories.
    pub(super) traffic: Arc<Traffic>,
    /// Tries after the first.
    retries: AtomicU64,
    /// Times that another host was asked instead.
    failovers: AtomicU64,
    /// From a request to the head of its answer.
    pub(super) took: Histogram,
}

/// What passed between this node and one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostCounts {
    /// `host[:port]` as references or `hosts.toml` name it.
    pub host: String,
    /// Requests and bytes, redirects and tokens included.
    pub traffic: TrafficSnapshot,
    /// What came of the requests.
    pub answers: Vec<(AnswerClass, u64)>,
    /// Tries after the first.
    pub retries: u64,
    /// Times that another host was asked instead.
    pub failovers: u64,
    /// From a request to the head of its answer.
    pub took: Times,
}

/// The meters of all hosts, the first first.
#[derive(Debug, Default)]
pub(super) struct HostMeters(Mutex<Vec<(String, Arc<HostMeter>)>>);

/// Hosts that are counted one by one. References choose hosts, so there could be any number of them;
/// a node that pulls from so many has other troubles.
const MAX_HOSTS: usize = 64;
/// What those beyond are counted as.
const OTHERS: &str = "other";

// === impl HostMeter ===

impl HostMeter {
    pub(super) fn retried(&self) {
        add(&self.retries, 1);
    }

    pub(super) fn failed_over(&self) {
        add(&self.failovers, 1);
    }

    fn counts(&self, host: &str) -> HostCounts {
        HostCounts {
            host: host.to_owned(),
            traffic: self.traffic.snapshot(),
            answers: self.traffic.answers().to_vec(),
            retries: load(&self.retries),
            failovers: load(&self.failovers),
            took: self.took.times(),
        }
    }
}

// === impl HostMeters ===

impl HostMeters {
    /// The meter of a host.
    pub(super) fn of(&self, host: &str) -> Arc<HostMeter> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |all: &[(String, Arc<HostMeter>)], name: &str| {
            let found = all.iter().find(|(known, _)| known == name);
            found.map(|(_, meter)| Arc::clone(meter))
        };
        let name = match find(&all, host) {
            Some(meter) => return meter,
            None if all.len() < MAX_HOSTS => host,
            None => OTHERS,
        };
        find(&all, name).unwrap_or_else(|| {
            let meter = Arc::<HostMeter>::default();
            all.push((name.to_owned(), Arc::clone(&meter)));
            meter
        })
    }

    pub(super) fn counts(&self) -> Vec<HostCounts> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(host, meter)| meter.counts(host)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_beyond_the_limit_are_counted_together() {
        let meters = HostMeters::default();
        for n in 0..2 * MAX_HOSTS {
            meters.of(&format!("r{n}.example")).retried();
        }
        meters.of("r0.example").retried();
        let counts = meters.counts();
        assert_eq!(counts.len(), MAX_HOSTS + 1);
        assert_eq!(
            (counts[0].host.as_str(), counts[0].retries),
            ("r0.example", 2)
        );
        let others = &counts[MAX_HOSTS];
        assert_eq!(
            (others.host.as_str(), others.retries),
            (OTHERS, MAX_HOSTS as u64)
        );
    }
}
