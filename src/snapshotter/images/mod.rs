//! Images behind the snapshotter: admitted once, opened once, mounted once for each number of
//! layers, kept for restarts, confirmed in the background.
//!
//! A lower directory is made wholly of the layers of its own manifest, whatever containerd stacks
//! its snapshots on, so what an image shows never depends on what another one planted. Why a
//! snapshot may be used before its DiffID has been checked, and what happens when the check fails:
//! `docs/decisions/0006-chain-id-confirmation.md`.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared as SharedFuture},
};
use serde::Serialize;
use tokio::{task::AbortHandle, time::Instant};

use self::{
    admit::Wanted, confirm::Queue, image::Image, keep::Keep, kept::Mode, measured::Measured,
    mounts::Mounts,
};
use super::lazy::{Evidence, LayerRequest, LazyImages, Verdict};
use crate::{
    engine::Background,
    error::{Error, Kind, Result},
    index::ChunkTable,
    oci::Digest,
    open::Findings,
};

mod admit;
mod adopt;
mod config;
mod confirm;
mod front_end;
mod image;
mod keep;
mod kept;
mod lower;
mod measured;
mod mounts;
mod report;

pub use self::{
    config::{Confirm, ImagesConfig, Ordinary, PolicySource, Repositories},
    front_end::{FrontEnd, FrontEnds, Mount, devices_of},
    measured::ImagesCounts,
    report::{AdoptionReport, ConfirmReport, ImageReport, MountReport},
};

/// All images of this node. See the module.
#[derive(Debug)]
pub struct Images {
    shared: Arc<Shared>,
    worker: AbortHandle,
}

/// What the images did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImagesSnapshot {
    /// Images that were admitted and opened.
    pub admitted: u64,
    /// Images that were not.
    pub refused: u64,
    /// Lower directories that are mounted.
    pub mounts: u64,
    /// Layers that were confirmed.
    pub confirmed: u64,
    /// Attempts to confirm a layer that came to nothing.
    pub unconfirmed: u64,
    /// Layers that were found to be other than their image claims.
    pub poisoned: u64,
}

#[derive(Debug)]
struct Shared {
    config: ImagesConfig,
    keep: Arc<Keep>,
    findings: Findings,
    mounts: Mounts,
    queue: Queue,
    /// Fetches the rest of mounted images, if that is wanted.
    background: Option<Arc<Background>>,
    counters: Counters,
    measured: Measured,
    /// By reference, and by digest where one was asked for.
    images: Mutex<HashMap<(String, Option<Digest>), Known>>,
    flights: Mutex<HashMap<Wanted, Flight>>,
    /// Chunk tables by layer and index, shared by all images that have them.
    tables: Mutex<Tables>,
}

#[derive(Clone, Debug)]
struct Known {
    image: Arc<Image>,
    asked: Instant,
}

#[derive(Debug, Default)]
struct Counters {
    admitted: AtomicU64,
    refused: AtomicU64,
    confirmed: AtomicU64,
    unconfirmed: AtomicU64,
    poisoned: AtomicU64,
}

type Tables = HashMap<(Digest, Option<Digest>), Weak<ChunkTable>>;

/// An image that is being opened, for all who want it.
type Flight = SharedFuture<BoxFuture<'static, Result<Arc<Image>, Arc<Error>>>>;

// === impl Images ===

impl Images {
    /// Opens the directory. Must be called on a tokio runtime, which then confirms layers.
    ///
    /// # Errors
    /// `Io` if the directory cannot be used.
    pub fn new(config: ImagesConfig) -> Result<Self> {
        let (queue, jobs) = Queue::new();
        let root = config.root.clone();
        let shared = Arc::new(Shared {
            keep: Arc::new(Keep::open(root.join("kept"))?),
            mounts: Mounts::open(root.join("images"))?,
            findings: Findings::open(root.join("findings.json")),
            background: config.complete.map(|it| Arc::new(Background::new(it))),
            config,
            queue,
            counters: Counters::default(),
            measured: Measured::default(),
            images: Mutex::default(),
            flights: Mutex::default(),
            tables: Mutex::default(),
        });
        let worker = tokio::spawn(confirm::work(Arc::downgrade(&shared), jobs));
        Ok(Self {
            shared,
            worker: worker.abort_handle(),
        })
    }

    /// After a restart: what committed snapshots there are. Their mounts that an earlier daemon left
    /// are adopted, and served as soon as their images are open again; gives how many. Other images
    /// are not opened before their first use; mounts and kept files that no snapshot names are
    /// removed.
    ///
    /// # Errors
    /// What the system says.
    pub async fn adopt(&self, evidence: &[Evidence]) -> Result<usize> {
        let adopted = self.shared.adopt(evidence).await;
        self.retain(evidence).await?;
        Ok(adopted)
    }

    /// Waits until every layer in use has been confirmed, as far as it can be.
    pub async fn settled(&self) {
        self.shared.queue.settles().await;
    }

    /// What the images did so far.
    #[must_use]
    pub fn snapshot(&self) -> ImagesSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        ImagesSnapshot {
            admitted: load(&counters.admitted),
            refused: load(&counters.refused),
            mounts: self.shared.mounts.count() as u64,
            confirmed: load(&counters.confirmed),
            unconfirmed: load(&counters.unconfirmed),
            poisoned: load(&counters.poisoned),
        }
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

impl LazyImages for Images {
    fn layer<'a>(&'a self, request: &'a LayerRequest) -> BoxFuture<'a, Result<Verdict>> {
        Box::pin(self.shared.layer(request))
    }

    fn lower<'a>(&'a self, evidence: &'a Evidence) -> BoxFuture<'a, Result<PathBuf>> {
        Box::pin(self.shared.lower(evidence))
    }

    fn retain<'a>(&'a self, alive: &'a [Evidence]) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.shared.retain(alive))
    }

    fn usage(&self, evidence: &Evidence) -> (u64, u64) {
        let fetched = self.shared.keep.fetched(&evidence.layer);
        let key = (evidence.reference.clone(), Some(evidence.manifest.clone()));
        let images = self.shared.images();
        let open = images.get(&key).and_then(|known| {
            let layer = known.image.layers.get(usize::from(evidence.layer_number))?;
            layer.open.as_ref()
        });
        let inodes = open.map_or(0, |it| it.inodes);
        (inodes, fetched.load(Ordering::Relaxed))
    }
}

// === impl Shared ===

impl Shared {
    async fn layer(self: &Arc<Self>, request: &LayerRequest) -> Result<Verdict> {
        let mut wanted = Wanted {
            reference: request.reference.clone(),
            digest: request.manifest_digest.clone(),
            at_least: 0,
            mode: Mode::Fresh,
        };
        let mut image = self.image(&wanted).await?;
        let mut number = image.number(request);
        if number.is_err() && wanted.digest.is_none() {
            // The tag may have moved since.
            self.images().remove(&wanted.key());
            wanted.mode = Mode::Fresh;
            image = self.image(&wanted).await?;
            number = image.number(request);
        }
        let number = number?;
        image.check_findings(&self.findings, number)?;
        let verdict = image.verdict(number)?;
        if let Verdict::Lazy(evidence) = &verdict {
            if number + 1 == image.lazy && self.fetches_ahead(&image) {
                self.mount_ahead(evidence.clone());
            }
            match self.config.confirm {
                Confirm::Never => {}
                Confirm::Trusted => self.queue.add(self, &image, number + 1),
                Confirm::Always => {
                    confirm::confirm(self, &image, number).await?;
                    image.check_findings(&self.findings, number)?;
                }
            }
        }
        Ok(verdict)
    }

    /// Whether something is fetched when the image is mounted, before anybody reads.
    fn fetches_ahead(&self, image: &Image) -> bool {
        let follows = image.profile.is_some() && self.config.engine.follow.is_some();
        let complete = self.config.complete.as_ref();
        follows || complete.is_some_and(|it| !it.at_once.is_zero())
    }

    /// Mounts an image that somebody wants to start soon: what is fetched ahead is on its way when the
    /// first container asks for the mount.
    fn mount_ahead(self: &Arc<Self>, evidence: Evidence) {
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = shared.lower(&evidence).await {
                // Who asks for the mount will be told.
                let image = &evidence.reference;
                tracing::debug!(image, %error, "not mounted ahead");
            }
        });
    }

    /// The image, if it is open and still admitted; else opens it, once for all who ask.
    async fn image(self: &Arc<Self>, wanted: &Wanted) -> Result<Arc<Image>> {
        let key = wanted.key();
        let known = self.images().get_mut(&key).map(|known| {
            known.asked = Instant::now();
            Arc::clone(&known.image)
        });
        let mut wanted = wanted.clone();
        if let Some(image) = known {
            if self.is_still_admitted(&image).await? {
                if image.lazy >= wanted.at_least {
                    return Ok(image);
                }
            } else {
                // A grant of another policy is none.
                tracing::info!(
                    event = "policy_changed",
                    image = wanted.reference,
                    manifest = %image.grant.manifest_digest(),
                    "the policy says something else now; asking it again"
                );
                self.images().remove(&key);
            }
            // Its documents are kept; what is missing is fetched.
            wanted.mode = Mode::Again;
        }
        let flight = self.flight(wanted);
        flight.await.map_err(|error| {
            let again = Error::new(error.kind(), error.to_string());
            match error.hint() {
                Some(hint) => again.with_hint(hint),
                None => again,
            }
        })
    }

    fn flight(self: &Arc<Self>, wanted: Wanted) -> Flight {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&wanted) {
            return flight.clone();
        }
        let (shared, key) = (Arc::clone(self), wanted.clone());
        // On its own, so that it ends well even if all who want it give up.
        let opening = tokio::spawn(async move {
            let begin = Instant::now();
            let opened = admit::open_image(&shared, &wanted).await.map(Arc::new);
            shared.opened(&wanted, begin, &opened);
            opened
        });
        let flight = opening
            .map(|opened| match opened {
                Ok(result) => result.map_err(Arc::new),
                Err(error) => Err(Arc::new(
                    Error::internal("opening an image").with_source(error),
                )),
            })
            .boxed()
            .shared();
        flights.insert(key, flight.clone());
        flight
    }

    /// Remembers a success, counts, and ends the flight: a refusal is not remembered.
    fn opened(&self, wanted: &Wanted, begin: Instant, opened: &Result<Arc<Image>>) {
        match opened {
            Ok(image) => {
                self.counters.admitted.fetch_add(1, Ordering::Relaxed);
                self.measured.admitted(image.grant.class());
                self.measured.opened.record(begin.elapsed());
                image.log_admitted(begin.elapsed());
                let known = Known {
                    image: Arc::clone(image),
                    asked: Instant::now(),
                };
                let manifest = image.grant.manifest_digest().clone();
                let by_manifest = (wanted.reference.clone(), Some(manifest));
                let mut images = self.images();
                images.insert(by_manifest, known.clone());
                images.insert(wanted.key(), known);
            }
            Err(error) => {
                if error.kind() == Kind::Denied {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                }
                self.measured.not_opened(error);
                tracing::warn!(
                    event = "image_refused",
                    image = wanted.reference,
                    manifest = wanted.digest.as_ref().map(tracing::field::display),
                    kind = error.kind().as_str(),
                    seconds = begin.elapsed().as_secs_f64(),
                    %error,
                    "refused"
                );
            }
        }
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.remove(wanted);
    }

    /// Whether the policy as it is now says the same as when the image was admitted.
    async fn is_still_admitted(&self, image: &Image) -> Result<bool> {
        let policy = self.config.policy.now().await?;
        let applied = policy.applied(image.grant.reference())?;
        let rule = image.grant.rule();
        let now = applied.requirements.iter().map(ToString::to_string);
        Ok(applied.scope == rule.scope && now.eq(rule.requirements.iter().cloned()))
    }

    async fn retain(self: &Arc<Self>, alive: &[Evidence]) -> Result<()> {
        let grace = self.config.grace;
        let images: HashSet<(&str, &Digest)> = alive
            .iter()
            .map(|it| (it.reference.as_str(), &it.manifest))
            .collect();
        let mut open = HashSet::new();
        self.images().retain(|(reference, _), known| {
            let manifest = known.image.grant.manifest_digest();
            let keep =
                images.contains(&(reference.as_str(), manifest)) || known.asked.elapsed() < grace;
            if keep {
                open.insert((reference.clone(), manifest.clone()));
            }
            keep
        });
        let tables = || self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables().retain(|_, table| table.strong_count() > 0);
        let named = images.iter().map(|&(r, m)| (r.to_owned(), m.clone()));
        open.extend(named);
        let keep = Arc::clone(&self.keep);
        mounts::blocking(move || {
            keep.sweep(|reference, manifest| {
                open.contains(&(reference.to_owned(), manifest.clone()))
            });
            Ok(())
        })
        .await?;
        let keys = { alive.iter() }.map(|it| (it.manifest.clone(), it.layer_number));
        let keys = keys.collect();
        let front_end = &self.config.front_end;
        self.mounts.retain(&keys, grace, front_end).await
    }

    fn images(&self) -> MutexGuard<'_, HashMap<(String, Option<Digest>), Known>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Wanted ===

impl Wanted {
    fn key(&self) -> (String, Option<Digest>) {
        (self.reference.clone(), self.digest.clone())
    }
}
