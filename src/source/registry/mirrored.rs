//! A repository that several hosts serve: whatever one of them cannot give, the next one is asked
//! for, in the middle of a read too.

use std::{
    collections::VecDeque,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::BoxFuture};

use super::{
    blob::{Inner, RegistryBlob},
    body::Reader,
    handed::RepositoryLogins,
    hosts::Capabilities,
    peers::{self, Peers},
    pieces::{self, Pieces},
    repository::RegistryRepository,
    retry::Retry,
    wanted::Wanted,
};
use crate::{
    error::{Error, Result},
    oci::{Descriptor, Digest, Location, RawManifest},
    source::{
        BlobSource, BlobStream, DetachedSignature, PlacedStream, Repository, Traffic, check_range,
        check_ranges,
    },
};

/// A repository on all hosts of its registry.
#[derive(Debug)]
pub(super) struct MirroredRepository {
    peers: Arc<Peers>,
    path: String,
    traffic: Arc<Traffic>,
    /// The repository on each host.
    repositories: Vec<RegistryRepository>,
}

/// A blob on all hosts of its registry.
#[derive(Debug)]
pub(super) struct MirroredBlob(Arc<Shared>);

struct Shared {
    peers: Arc<Peers>,
    path: String,
    digest: Digest,
    size: u64,
    /// The blob on each host.
    blobs: Vec<Arc<Inner>>,
    served: Mutex<Served>,
}

/// Which host gave which bytes: disjoint ranges, the oldest first.
#[derive(Default)]
struct Served(VecDeque<(Range<u64>, usize)>);

/// Reads what is wanted, each round from one host after the other.
struct Failover {
    blob: Arc<Shared>,
    wanted: Wanted,
    open: Option<(usize, Reader)>,
    /// Hosts that have not been asked in this round.
    round: VecDeque<usize>,
    /// What those said that have.
    errors: Vec<(usize, Error)>,
    avoid: Vec<usize>,
    retry: Retry,
}

/// Ranges whose host is remembered for one blob: more than are on their way at once, from the
/// request to the check of their chunks.
const MAX_SERVED: usize = 256;

const PULL: (&str, fn(Capabilities) -> bool) = ("pull", |has| has.pull);
const RESOLVE: (&str, fn(Capabilities) -> bool) = ("resolve", |has| has.resolve);
const REFERRERS: (&str, fn(Capabilities) -> bool) = ("referrers", Capabilities::lists_referrers);

// === impl MirroredRepository ===

impl MirroredRepository {
    pub(super) fn new(
        peers: Arc<Peers>,
        path: &str,
        handed: Option<&Arc<RepositoryLogins>>,
    ) -> Self {
        let traffic = Arc::<Traffic>::default();
        let on_host = |registry: &Arc<_>| {
            let traffic = Arc::clone(&traffic);
            RegistryRepository::on_one_of_several(Arc::clone(registry), path, traffic)
                .with_handed(handed.cloned())
        };
        let repositories = peers
            .hosts()
            .iter()
            .map(|peer| on_host(&peer.registry))
            .collect();
        Self {
            path: path.to_owned(),
            repositories,
            traffic,
            peers,
        }
    }
}

impl Repository for MirroredRepository {
    fn name(&self) -> String {
        format!("{}/{}", self.peers.name(), self.path)
    }

    fn manifest<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<RawManifest>> {
        Box::pin(async move {
            let wanted = match location {
                Location::Tag(_) => RESOLVE,
                Location::Digest(_) => PULL,
            };
            let what = format!("manifest {location} of {}", self.name());
            let each = |host: usize| self.repositories[host].manifest(location);
            self.peers.ask(&what, wanted, each, |_| true).await
        })
    }

    fn blob(&self, descriptor: &Descriptor) -> Arc<dyn BlobSource> {
        let on_host =
            |repository: &RegistryRepository| RegistryBlob::of(repository, descriptor).into_inner();
        Arc::new(MirroredBlob(Arc::new(Shared {
            peers: Arc::clone(&self.peers),
            path: self.path.clone(),
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            blobs: self.repositories.iter().map(on_host).collect(),
            served: Mutex::default(),
        })))
    }

    /// A mirror that knows of none may not have been told: the next host is asked.
    fn referrers<'a>(&'a self, subject: &'a Digest) -> BoxFuture<'a, Result<Vec<Descriptor>>> {
        Box::pin(async move {
            let what = format!("referrers of {subject} in {}", self.name());
            let each = |host: usize| self.repositories[host].referrers(subject);
            let enough = |found: &Vec<Descriptor>| !found.is_empty();
            self.peers.ask(&what, REFERRERS, each, enough).await
        })
    }

    /// A mirror that has no store of signatures says nothing about the others.
    fn signatures<'a>(
        &'a self,
        subject: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<Vec<DetachedSignature>>>> {
        Box::pin(async move {
            let what = format!("signatures of {subject} in {}", self.name());
            let each = |host: usize| self.repositories[host].signatures(subject);
            let enough = |found: &Option<Vec<_>>| found.as_ref().is_some_and(|it| !it.is_empty());
            self.peers.ask(&what, PULL, each, enough).await
        })
    }

    fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }
}

// === impl MirroredBlob ===

impl BlobSource for MirroredBlob {
    fn digest(&self) -> &Digest {
        &self.0.digest
    }

    fn size(&self) -> u64 {
        self.0.size
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            check_range(self, &range)?;
            pieces::whole(self.read([range]), self.deadline()).await
        })
    }

    fn read_elsewhere(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            check_range(self, &range)?;
            let avoid = self.0.givers_of(&range);
            for &host in &avoid {
                self.0.peers.blame(host);
                tracing::warn!(
                    event = "registry_lies",
                    host = self.0.peers.host_name(host),
                    blob = %self.0.digest,
                    "served bytes that are not what was signed; asking another host if there is one"
                );
            }
            let reader = Failover::new(&self.0, Wanted::new([range]), avoid);
            pieces::whole(reader, self.deadline()).await
        })
    }

    fn read_pieces(&self, range: Range<u64>) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(async move {
            check_range(self, &range)?;
            let pieces = pieces::placed(self.read([range]), self.deadline());
            Ok(pieces.map_ok(|(_, piece)| piece).boxed())
        })
    }

    fn read_ranges(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<PlacedStream>> {
        Box::pin(async move {
            check_ranges(self, &ranges)?;
            Ok(pieces::placed(self.read(ranges), self.deadline()))
        })
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        let whole = Range {
            start: 0,
            end: self.0.size,
        };
        let stream = pieces::streamed(self.read([whole]), self.deadline());
        Box::pin(async move { Ok(stream) })
    }
}

impl MirroredBlob {
    fn read(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> Failover {
        Failover::new(&self.0, Wanted::new(ranges), Vec::new())
    }

    fn deadline(&self) -> Duration {
        self.0.peers.deadline()
    }
}

// === impl Shared ===

impl Shared {
    fn what(&self) -> String {
        format!(
            "blob {} of {}/{}",
            self.digest,
            self.peers.name(),
            self.path
        )
    }

    /// The hosts that the bytes came from; if that has been forgotten, the one that is asked first.
    fn givers_of(&self, range: &Range<u64>) -> Vec<usize> {
        let known = self.served().givers_of(range);
        if known.is_empty() {
            self.order(&[]).into_iter().take(1).collect()
        } else {
            known
        }
    }

    fn order(&self, avoid: &[usize]) -> VecDeque<usize> {
        self.peers.order(PULL.1, avoid).into()
    }

    fn served(&self) -> std::sync::MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what())
    }
}

// === impl Served ===

impl Served {
    /// Remembers a host; what was known of these bytes before no longer counts.
    fn note(&mut self, range: Range<u64>, host: usize) {
        let mut new = range.clone();
        let mut kept = VecDeque::with_capacity(self.0.len() + 2);
        for (old, by) in self.0.drain(..) {
            if by == host && old.end == range.start {
                new.start = old.start;
                continue;
            }
            let (before, after) = (
                old.start..old.end.min(range.start),
                old.start.max(range.end)..old.end,
            );
            kept.extend(
                [before, after]
                    .into_iter()
                    .filter(|r| !r.is_empty())
                    .map(|r| (r, by)),
            );
        }
        kept.push_back((new, host));
        while kept.len() > MAX_SERVED {
            kept.pop_front();
        }
        self.0 = kept;
    }

    fn givers_of(&self, range: &Range<u64>) -> Vec<usize> {
        let overlaps = |known: &Range<u64>| known.start < range.end && range.start < known.end;
        let mut hosts: Vec<usize> = self
            .0
            .iter()
            .filter(|(known, _)| overlaps(known))
            .map(|(_, host)| *host)
            .collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }
}

// === impl Failover ===

impl Pieces for Failover {
    async fn piece(&mut self) -> Result<Option<(u64, Bytes)>> {
        while self.wanted.next().is_some() {
            let Some((host, reader)) = &mut self.open else {
                self.open_next().await?;
                continue;
            };
            let host = *host;
            match reader.piece().await {
                Ok(Some((at, bytes))) => {
                    self.wanted.came(bytes.len());
                    let end = at + bytes.len() as u64;
                    self.blob.served().note(at..end, host);
                    self.blob.peers.answered(host);
                    self.retry.progress();
                    return Ok(Some((at, bytes)));
                }
                Ok(None) => self.open = None,
                Err(error) => {
                    self.blob.peers.note(host, &error);
                    self.errors.push((host, error));
                    self.open = None;
                }
            }
        }
        Ok(None)
    }

    fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    fn restart_deadline(&mut self) {
        self.retry.restart();
    }

    fn what(&self) -> String {
        self.blob.what()
    }
}

impl Failover {
    fn new(blob: &Arc<Shared>, wanted: Wanted, avoid: Vec<usize>) -> Self {
        Self {
            wanted,
            open: None,
            round: blob.order(&avoid),
            errors: Vec::new(),
            avoid,
            retry: blob.peers.retry(),
            blob: Arc::clone(blob),
        }
    }

    /// Turns to the next host; when all have failed, waits and begins a new round.
    async fn open_next(&mut self) -> Result<()> {
        if self.round.is_empty() {
            if self.errors.is_empty() {
                return Err(self.blob.peers.nobody(PULL.0));
            }
            let errors = std::mem::take(&mut self.errors);
            let last = errors.iter().map(|(host, _)| *host).max().unwrap_or(0);
            self.retry.wait(peers::verdict(errors, last)).await?;
            self.round = self.blob.order(&self.avoid);
        }
        if let Some(host) = self.round.pop_front() {
            let blob = Arc::clone(&self.blob.blobs[host]);
            self.open = Some((host, Reader::new(blob, self.wanted.clone())));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_giver_counts() {
        let mut served = Served::default();
        served.note(0..100, 0);
        served.note(100..200, 0);
        assert_eq!(served.0.len(), 1, "neighbours of one host are one range");
        served.note(50..150, 1);
        for (range, want) in [
            (0..50, vec![0]),
            (50..150, vec![1]),
            (49..51, vec![0, 1]),
            (150..200, vec![0]),
            (200..300, vec![]),
        ] {
            assert_eq!(served.givers_of(&range), want, "{range:?}");
        }
        for at in 0..1000 {
            served.note(at * 10..at * 10 + 5, 1);
        }
        assert_eq!(served.0.len(), MAX_SERVED);
    }
}
