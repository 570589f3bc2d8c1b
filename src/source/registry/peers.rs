//! The hosts that stand for one registry: in which order they are asked, and what it means when one
//! of them says no.
//!
//! The last one is the registry itself (or the `server` of `hosts.toml`): its no is final. The
//! others are mirrors, which may lack anything.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;

use super::{
    hosts::Capabilities,
    retry::{Failure, Retry, RetryPolicy},
    transport::Registry,
};
use crate::error::{Error, Kind, Result};

/// The hosts of one registry, in the order of the file.
pub(super) struct Peers {
    /// `host[:port]` as references name the registry.
    name: String,
    /// The file that names them, for messages.
    file: PathBuf,
    hosts: Vec<Peer>,
    /// Those that failed lately.
    failing: Mutex<Vec<Option<Failing>>>,
}

/// A host that failed.
#[derive(Clone, Copy, Debug)]
struct Failing {
    /// It is asked after the others until then.
    until: Instant,
    /// Somebody is finding out whether it is back.
    probed: bool,
}

/// One of them.
pub(super) struct Peer {
    pub(super) registry: Arc<Registry>,
    pub(super) capabilities: Capabilities,
}

/// A registry, as it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryState {
    /// `host[:port]` as references name it.
    pub registry: String,
    /// The `hosts.toml` that says so, if there is one.
    pub hosts_file: Option<PathBuf>,
    /// In the order in which they are asked.
    pub hosts: Vec<HostState>,
}

/// One host of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState {
    /// `host[:port]`
    pub host: String,
    /// It failed lately and is asked after the others.
    pub failing: bool,
    /// Requests sent to it for any registry.
    pub requests: u64,
    /// Bytes that came from it.
    pub bytes: u64,
}

/// How long a host that failed is asked after the others. A registry that restarts is back by then;
/// one that stays away costs one slow request each time, however many are under way.
const COOL_DOWN: Duration = Duration::from_secs(30);

// === impl Peers ===

impl Peers {
    pub(super) fn new(name: &str, file: PathBuf, hosts: Vec<Peer>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            file,
            failing: Mutex::new(vec![None; hosts.len()]),
            hosts,
        })
    }

    /// `host[:port]` as references name the registry.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn hosts(&self) -> &[Peer] {
        &self.hosts
    }

    /// What is known of the hosts.
    pub(super) fn state(&self) -> RegistryState {
        let (now, failing) = (self.now(), self.failing().clone());
        let hosts = self.hosts.iter().zip(failing);
        RegistryState {
            registry: self.name.clone(),
            hosts_file: (!self.file.as_os_str().is_empty()).then(|| self.file.clone()),
            hosts: hosts
                .map(|(peer, failing)| {
                    let traffic = peer.registry.meter.traffic.snapshot();
                    HostState {
                        host: peer.registry.host().to_owned(),
                        failing: failing.is_some_and(|it| now < it.until),
                        requests: traffic.requests,
                        bytes: traffic.bytes,
                    }
                })
                .collect(),
        }
    }

    /// The only host, if it is the registry itself and is asked for everything.
    pub(super) fn only(&self) -> Option<&Arc<Registry>> {
        match &self.hosts[..] {
            [peer]
                if peer.registry.host() == self.name
                    && peer.capabilities.pull
                    && peer.capabilities.resolve =>
            {
                Some(&peer.registry)
            }
            _ => None,
        }
    }

    /// Where uploads go.
    ///
    /// # Errors
    /// `Denied` if no host is there for it.
    pub(super) fn for_push(&self) -> Result<&Arc<Registry>> {
        let mut hosts = self.hosts.iter();
        let found = hosts.find(|peer| peer.capabilities.push);
        found
            .map(|peer| &peer.registry)
            .ok_or_else(|| self.nobody("push"))
    }

    /// Those with the capability: as written, but after all others those that failed lately, and
    /// after these the ones to avoid. Once its time is over, one caller is sent to a host that
    /// failed; the others follow when it has answered.
    pub(super) fn order(
        &self,
        wanted: impl Fn(Capabilities) -> bool,
        avoid: &[usize],
    ) -> Vec<usize> {
        let mut failing = self.failing();
        let now = self.now();
        let mut order: Vec<usize> = (0..self.hosts.len())
            .filter(|host| wanted(self.hosts[*host].capabilities))
            .collect();
        let cools = |failing: &Option<Failing>| failing.is_some_and(|f| now < f.until);
        order.sort_by_key(|host| (avoid.contains(host), cools(&failing[*host])));
        let (first, others) = match order.split_first() {
            Some((first, others)) => (*first, others),
            None => return order,
        };
        // Without another host there is nobody to ask in the meantime.
        let spared = others.iter().any(|host| !cools(&failing[*host]));
        if let Some(failing) = &mut failing[first]
            && now >= failing.until
            && spared
        {
            *failing = Failing {
                until: now + COOL_DOWN,
                probed: true,
            };
        }
        order
    }

    /// Takes note of a failure. A no about one object says nothing about the host.
    pub(super) fn note(&self, host: usize, error: &Error) {
        let name = self.host_name(host);
        if !matches!(error.kind(), Kind::Unavailable | Kind::Corrupt) {
            tracing::debug!(host = name, %error, "asking the next host");
            return;
        }
        self.blame(host);
        self.hosts[host].registry.meter.failed_over();
        tracing::info!(
            event = "registry_failover",
            host = name,
            registry = self.name,
            kind = error.kind().as_str(),
            %error,
            "asking the next host"
        );
    }

    /// Has a host asked last for a while.
    pub(super) fn blame(&self, host: usize) {
        let until = self.now() + COOL_DOWN;
        self.failing()[host] = Some(Failing {
            until,
            probed: false,
        });
    }

    /// Takes note that a host is there: one that was away is back.
    pub(super) fn answered(&self, host: usize) {
        let now = self.now();
        let failing = &mut self.failing()[host];
        if failing.is_some_and(|failing| failing.probed || now >= failing.until) {
            *failing = None;
        }
    }

    pub(super) fn host_name(&self, host: usize) -> &str {
        self.hosts[host].registry.host()
    }

    /// Asks one host after the other until `enough`, in rounds until the deadline.
    pub(super) async fn ask<'a, T: Send + 'a>(
        &self,
        what: &str,
        wanted: (&str, fn(Capabilities) -> bool),
        each: impl Fn(usize) -> BoxFuture<'a, Result<T>>,
        enough: fn(&T) -> bool,
    ) -> Result<T> {
        let deadline = self.deadline();
        tokio::time::timeout(deadline, self.rounds(wanted, each, enough))
            .await
            .map_err(|_| Error::unavailable(format!("{what}: not here after {deadline:?}")))?
            // The hosts' own messages name the hosts; the user named the registry.
            .map_err(|error| error.context(what))
    }

    async fn rounds<'a, T: Send + 'a>(
        &self,
        (capability, wanted): (&str, fn(Capabilities) -> bool),
        each: impl Fn(usize) -> BoxFuture<'a, Result<T>>,
        enough: fn(&T) -> bool,
    ) -> Result<T> {
        let mut retry = self.retry();
        loop {
            let order = self.order(wanted, &[]);
            let Some(last) = order.iter().max().copied() else {
                return Err(self.nobody(capability));
            };
            let (mut errors, mut lacking) = (Vec::new(), None);
            for host in order {
                match each(host).await {
                    Ok(answer) => {
                        self.answered(host);
                        if enough(&answer) {
                            return Ok(answer);
                        }
                        lacking = Some((host, answer));
                    }
                    Err(error) => {
                        self.note(host, &error);
                        errors.push((host, error));
                    }
                }
            }
            match lacking {
                Some((host, answer)) if host == last || errors.is_empty() => return Ok(answer),
                _ => retry.wait(verdict(errors, last)).await?,
            }
        }
    }

    /// The rounds of one operation, counted as those of the last host: of the registry itself.
    pub(super) fn retry(&self) -> Retry {
        self.hosts[self.hosts.len() - 1].registry.retry()
    }

    /// How long one operation may take.
    pub(super) fn deadline(&self) -> Duration {
        self.hosts[0].registry.options.deadline
    }

    pub(super) fn nobody(&self, capability: &str) -> Error {
        Error::denied(format!(
            "registry {}: {} names no host with the capability {capability}",
            self.name,
            self.file.display()
        ))
    }

    fn now(&self) -> Instant {
        self.hosts[0].registry.options.environment.now()
    }

    fn failing(&self) -> std::sync::MutexGuard<'_, Vec<Option<Failing>>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.hosts.iter().map(|peer| peer.registry.host());
        f.debug_list().entries(hosts).finish()
    }
}

/// One try on each host: the round is what is repeated.
pub(super) fn once(policy: RetryPolicy) -> RetryPolicy {
    RetryPolicy {
        attempts: 1,
        ..policy
    }
}

/// What it means that every host failed. The word of the last one counts if it is a final no; else
/// another round may help if one of them was away.
pub(super) fn verdict(errors: Vec<(usize, Error)>, last: usize) -> Failure {
    let final_no =
        |(host, error): &(usize, Error)| *host == last && error.kind() != Kind::Unavailable;
    let told = errors.iter().position(final_no).or_else(|| {
        let mut reversed = errors.iter();
        reversed.rposition(|(_, error)| error.kind() == Kind::Unavailable)
    });
    let told = told.unwrap_or(errors.len().saturating_sub(1));
    let mut others = Vec::new();
    let mut main = None;
    for (at, (_, error)) in errors.into_iter().enumerate() {
        if at == told {
            main = Some(error);
        } else if error.kind() != Kind::NotFound {
            others.push(error.to_string());
        }
    }
    let Some(main) = main else {
        return Failure::fatal(Error::internal("no host failed"));
    };
    let error = if others.is_empty() {
        main
    } else {
        let hint = main.hint().map(ToOwned::to_owned);
        let said = format!("{main}; before that: {}", others.join("; "));
        let error = Error::new(main.kind(), said);
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    };
    if error.kind() == Kind::Unavailable {
        Failure::passing(error)
    } else {
        Failure::fatal(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::registry::retry::Again;

    #[test]
    fn the_last_hosts_no_is_final_and_a_mirrors_is_not() {
        let away = || Error::unavailable("away");
        let none = || Error::not_found("none");
        let no = || Error::denied("no").with_hint("log in");
        let cases = [
            (vec![(0, away()), (1, none())], Kind::NotFound, Again::Never),
            (
                vec![(0, none()), (1, away())],
                Kind::Unavailable,
                Again::Backoff,
            ),
            (
                vec![(1, away()), (0, no())],
                Kind::Unavailable,
                Again::Backoff,
            ),
            (vec![(0, none()), (1, no())], Kind::Denied, Again::Never),
            (vec![(0, no()), (1, none())], Kind::NotFound, Again::Never),
        ];
        for (errors, kind, again) in cases {
            let said = format!("{errors:?}");
            let failure = verdict(errors, 1);
            assert_eq!(
                (failure.error.kind(), failure.again),
                (kind, again),
                "{said}"
            );
        }
        let failure = verdict(vec![(0, away()), (1, no())], 1);
        assert_eq!(failure.error.to_string(), "no; before that: away");
        assert_eq!(failure.error.hint(), Some("log in"));
    }
}
