//! A repository that several hosts serve: whatever one of them cannot give, the next one is asked
//! for, in the middle of a read too.

use std::{
    collections::VecDeque,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use tokio::time::Instant;

use super::{
    blob::{Inner, RegistryBlob},
    body::Reader,
    handed::RepositoryLogins,
    hosts::Capabilities,
    peers::{self, Peers},
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
            self.0.read(range, Vec::new()).await
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
            self.0.read(range, avoid).await
        })
    }

    fn read_pieces(&self, range: Range<u64>) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(async move {
            check_range(self, &range)?;
            let pieces = self.0.placed(Wanted::new([range.clone()]), range);
            Ok(pieces.map_ok(|(_, piece)| piece).boxed())
        })
    }

    fn read_ranges(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<PlacedStream>> {
        Box::pin(async move {
            check_ranges(self, &ranges)?;
            let wanted = Wanted::new(ranges);
            let all = wanted.next().map_or(0, |next| next.start)..wanted.end();
            Ok(self.0.placed(wanted, all))
        })
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        let whole = Wanted::new([Range {
            start: 0,
            end: self.0.size,
        }]);
        let reader = Failover::new(&self.0, whole, Vec::new());
        let deadline = self.0.peers.deadline();
        let what = self.0.what();
        let pieces = stream::try_unfold((reader, what), move |(mut reader, what)| async move {
            reader.retry.restart();
            match tokio::time::timeout(deadline, reader.piece()).await {
                Ok(piece) => Ok(piece?.map(|(_, piece)| (piece, (reader, what)))),
                Err(_) => Err(Error::unavailable(format!(
                    "{what}: no byte in {deadline:?}"
                ))),
            }
        });
        Box::pin(async move { Ok(pieces.boxed()) })
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

    /// What is wanted as it arrives; `all` is for the message when the deadline has passed.
    fn placed(self: &Arc<Self>, wanted: Wanted, all: Range<u64>) -> PlacedStream {
        let deadline = Instant::now() + self.peers.deadline();
        let reader = Failover::new(self, wanted, Vec::new());
        let blob = Arc::clone(self);
        stream::try_unfold(reader, move |mut reader| {
            let (blob, all) = (Arc::clone(&blob), all.clone());
            async move {
                let piece = tokio::time::timeout_at(deadline, reader.piece()).await;
                let piece = piece.unwrap_or_else(|_| Err(blob.late(&all)))?;
                Ok(piece.map(|piece| (piece, reader)))
            }
        })
        .boxed()
    }

    async fn read(self: &Arc<Self>, range: Range<u64>, avoid: Vec<usize>) -> Result<Bytes> {
        let deadline = self.peers.deadline();
        let mut reader = Failover::new(self, Wanted::new([range.clone()]), avoid);
        tokio::time::timeout(deadline, reader.whole())
            .await
            .unwrap_or_else(|_| Err(self.late(&range)))
    }

    /// The deadline has passed.
    fn late(&self, range: &Range<u64>) -> Error {
        Error::unavailable(format!(
            "{}: bytes {}..{} not here after {:?}",
            self.what(),
            range.start,
            range.end,
            self.peers.deadline()
        ))
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

    async fn whole(&mut self) -> Result<Bytes> {
        let length: u64 = self.wanted.iter().map(|run| run.end - run.start).sum();
        let length = usize::try_from(length).map_err(|_| Error::internal("range over usize"))?;
        let Some((_, first)) = self.piece().await? else {
            return Ok(Bytes::new());
        };
        if first.len() == length {
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity(length);
        all.extend_from_slice(&first);
        while let Some((_, piece)) = self.piece().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// The next bytes and where they belong; `None` once all are there.
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
