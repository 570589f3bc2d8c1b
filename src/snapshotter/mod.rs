//! containerd's snapshots: what `nacre serve` answers with.
//!
//! [`Snapshotter`] is the service without its wire form ([`SnapshotsService`]): it joins the database
//! ([`metadata`]), the directories and lazily mounted images ([`lazy`]). Layers that are
//! not lazy are unpacked by containerd into directories, as with its overlay snapshotter; on top of a
//! lazy prefix, if there is one.

pub mod error;
mod filter;
pub mod images;
mod labels;
pub mod lazy;
pub mod metadata;
mod mounts;
mod operations;
mod report;
pub mod server;
mod service;
mod storage;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::RwLock;

use self::{
    error::{Result, SnapshotError},
    metadata::{Commit, Info, Kind, Metadata, Record, Remote},
    storage::Storage,
};
pub use self::{
    filter::{Fields, Filters},
    labels::Labels,
    lazy::{Evidence, LayerRequest, LazyImages, NoLazyImages, Verdict},
    mounts::{Mount, OverlayOptions},
    operations::{Method, MethodCounts, Operations},
    report::{SnapshotCounts, Uses},
    service::SnapshotsService,
    storage::Usage,
};
use crate::error::Error;

/// How a [`Snapshotter`] is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of database and snapshots.
    pub root: PathBuf,
    /// Leave directories of removed snapshots to [`Snapshotter::cleanup`], which containerd's garbage
    /// collector calls when it is done.
    pub async_remove: bool,
    /// Options of overlay mounts.
    pub overlay: OverlayOptions,
    /// The time of records.
    pub clock: fn() -> SystemTime,
}

/// The snapshots of one root; clones are the same.
#[derive(Clone, Debug)]
pub struct Snapshotter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metadata: Metadata,
    storage: Storage,
    options: Options,
    images: Arc<dyn LazyImages>,
    operations: Operations,
    /// Read while a lower directory is being put to use, written while unused ones are taken away.
    in_use: RwLock<()>,
    /// Somebody wanted to take unused mounts away and could not.
    sweep_due: AtomicBool,
}

/// What the start found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Directories that no snapshot owned, removed.
    pub removed: usize,
    /// Snapshots whose directory is gone.
    pub damaged: Vec<String>,
}

// === impl Options ===

impl Options {
    /// Options for `root` on this machine.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            async_remove: true,
            overlay: OverlayOptions::detect(),
            clock: SystemTime::now,
        }
    }
}

// === impl Snapshotter ===

impl Snapshotter {
    /// Opens the root and brings database and directories into agreement; repeatable.
    ///
    /// # Errors
    /// [`Busy`](crate::Kind::Busy) if another process serves it, [`Io`](crate::Kind::Io).
    pub fn open(
        options: Options,
        images: Arc<dyn LazyImages>,
    ) -> crate::Result<(Self, Reconciled)> {
        let storage = Storage::open(&options.root)?;
        let metadata = Metadata::open(&options.root.join("metadata.redb"))?;
        let inner = Inner {
            metadata,
            storage,
            options,
            images,
            operations: Operations::default(),
            in_use: RwLock::new(()),
            sweep_due: AtomicBool::new(false),
        };
        let reconciled = inner.reconcile().map_err(|error| match error {
            SnapshotError::Other(error) => error,
            other => Error::internal("reconciling snapshots").with_source(other),
        })?;
        Ok((Self(Arc::new(inner)), reconciled))
    }

    /// A new snapshot to write to. If the labels ask for a layer that is lazy, it is committed instead
    /// and `AlreadyExists` says so, as the protocol of remote snapshotters wants it.
    ///
    /// # Errors
    /// As [`Self::view`]; what policy says about the image.
    pub async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        if let Some(request) = LayerRequest::from_labels(&labels)? {
            self.remote(&request, parent, &labels).await?;
        }
        self.create(Kind::Active, key, parent, labels).await
    }

    /// A new read-only snapshot.
    ///
    /// # Errors
    /// `NotFound` without its parent, `InvalidArgument` if that is not committed, `AlreadyExists`.
    pub async fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::View, key, parent, labels).await
    }

    /// The mounts of an active snapshot or view.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` if it is committed.
    pub async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let mut chain = self.chain(key).await?;
        let own = chain.remove(0);
        if own.kind == Kind::Committed {
            let what = format!("snapshot {key} is committed");
            return Err(SnapshotError::FailedPrecondition(what));
        }
        let lowers = self.using(async |inner| inner.lowers(&chain).await).await?;
        Ok(self.0.mounts(own.kind, own.id, &lowers))
    }

    /// Makes an active snapshot a committed one.
    ///
    /// # Errors
    /// As [`metadata::Write::commit_active`].
    pub async fn commit(&self, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        let (name, key, parent) = (name.to_owned(), key.to_owned(), parent.to_owned());
        self.blocking(move |inner| {
            // Measured outside the transaction: large layers take their time, and nobody writes to
            // them any more.
            let record = inner.metadata.get(&key)?;
            let usage = match record.kind {
                Kind::Active => inner.storage.usage(record.id)?,
                Kind::View | Kind::Committed => Usage::default(),
            };
            let write = inner.metadata.write()?;
            let commit = Commit {
                key: &key,
                name: &name,
                parent: &parent,
                labels,
                usage,
            };
            write.commit_active(commit, (inner.options.clock)())?;
            write.commit()
        })
        .await
    }

    /// Removes a snapshot that nothing stands on.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` if it has children.
    pub async fn remove(&self, key: &str) -> Result<()> {
        let key = key.to_owned();
        let removed = self
            .blocking(move |inner| {
                let write = inner.metadata.write()?;
                let removed = write.remove(&key)?;
                write.commit()?;
                if !inner.options.async_remove {
                    inner.remove_orphans()?;
                }
                Ok(removed)
            })
            .await?;
        if removed.evidence.is_some() {
            // Taking mounts away must not hold containerd's garbage collector.
            let this = self.clone();
            tokio::spawn(async move { this.sweep().await });
        }
        Ok(())
    }

    /// One snapshot.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn stat(&self, key: &str) -> Result<Info> {
        let name = key.to_owned();
        self.blocking(move |inner| {
            let record = inner.metadata.get(&name)?;
            Ok(Info { name, record })
        })
        .await
    }

    /// Changes labels.
    ///
    /// # Errors
    /// As [`metadata::Write::update`].
    pub async fn update(&self, name: &str, labels: Labels, paths: Vec<String>) -> Result<Info> {
        let name = name.to_owned();
        self.blocking(move |inner| {
            let write = inner.metadata.write()?;
            let record = write.update(&name, labels, &paths, (inner.options.clock)())?;
            write.commit()?;
            Ok(Info { name, record })
        })
        .await
    }

    /// All snapshots that pass the filters, by name.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io).
    pub async fn list(&self, filters: Filters) -> Result<Vec<Info>> {
        self.blocking(move |inner| {
            let mut all = inner.metadata.all()?;
            all.retain(|info| filters.matches(info));
            Ok(all)
        })
        .await
    }

    /// What a snapshot takes, without those it stands on: measured now if it is active, when it was
    /// committed otherwise; of a lazy one, what is here of its layer.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn usage(&self, key: &str) -> Result<Usage> {
        let key = key.to_owned();
        self.blocking(move |inner| {
            let record = inner.metadata.get(&key)?;
            if let Some(evidence) = &record.evidence {
                let (inodes, bytes) = inner.images.usage(evidence);
                return Ok(Usage { inodes, bytes });
            }
            Ok(match record.kind {
                Kind::Active => inner.storage.usage(record.id)?,
                Kind::View | Kind::Committed => record.usage,
            })
        })
        .await
    }

    /// Removes directories and takes mounts away that nobody needs.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io).
    pub async fn cleanup(&self) -> Result<()> {
        self.blocking(|inner| inner.remove_orphans().map(drop))
            .await?;
        self.sweep().await;
        Ok(())
    }

    /// What all committed lazy snapshots record.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io).
    pub async fn evidence(&self) -> Result<Vec<Evidence>> {
        self.blocking(|inner| inner.metadata.evidence()).await
    }

    /// Where database and disk disagree; empty unless something is wrong or a removal is pending.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io).
    pub async fn audit(&self) -> Result<Vec<String>> {
        self.blocking(|inner| {
            let mut found = inner.metadata.contradictions()?;
            found.extend(
                inner
                    .damaged()?
                    .into_iter()
                    .map(|it| format!("{it}: no directory")),
            );
            let owned = inner.metadata.all()?.into_iter().map(|it| it.record.id);
            let orphans = inner.storage.orphans(&owned.collect())?.into_iter();
            found.extend(orphans.map(|path| format!("{}: nobody's", path.display())));
            Ok(found)
        })
        .await
    }

    /// Asks whether the layer is lazy. `Ok` means the normal path; a lazy one is committed and ends
    /// with `AlreadyExists`.
    async fn remote(&self, request: &LayerRequest, parent: &str, labels: &Labels) -> Result<()> {
        let (layer, image) = (&request.layer_digest, &request.reference);
        let unpacked = match self.0.images.layer(request).await? {
            Verdict::Unpack { why } => why,
            Verdict::Lazy(evidence) => {
                let (parent, mut labels) = (parent.to_owned(), labels.clone());
                labels.insert(labels::REMOTE.to_owned(), labels::REMOTE_VALUE.to_owned());
                let evidence = Evidence {
                    chain_id: request.chain_id.clone(),
                    ..evidence
                };
                let remote = self.blocking(move |inner| {
                    let now = (inner.options.clock)();
                    let write = inner.metadata.write()?;
                    let remote = write.commit_remote(&parent, labels, evidence, now)?;
                    if remote == Remote::Committed {
                        write.commit()?;
                    }
                    Ok(remote)
                });
                match remote.await? {
                    Remote::Committed => {
                        tracing::info!(
                            event = "layer_lazy",
                            image,
                            %layer,
                            chain_id = request.chain_id,
                            "layer is mounted lazily"
                        );
                        let what = format!("snapshot {}", request.chain_id);
                        return Err(SnapshotError::AlreadyExists(what));
                    }
                    Remote::Unfit(why) => why,
                }
            }
        };
        tracing::info!(
            event = "layer_unpacked",
            image,
            %layer,
            why = unpacked,
            "layer is unpacked"
        );
        Ok(())
    }

    async fn create(
        &self,
        kind: Kind,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let chain = match parent {
            "" => Vec::new(),
            name => self.parents(name, key).await?,
        };
        let (key, parent) = (key.to_owned(), parent.to_owned());
        self.using(async |inner| {
            let lowers = inner.lowers(&chain).await?;
            let like = lowers.first().cloned();
            let create = move |inner: &Inner| inner.create(kind, &key, &parent, labels, like);
            let id = self.blocking(create).await?;
            Ok(inner.mounts(kind, id, &lowers))
        })
        .await
    }

    /// What a new snapshot would stand on. A key that is taken is told here already: mounting a lower
    /// directory for it would be in vain.
    async fn parents(&self, parent: &str, key: &str) -> Result<Vec<Record>> {
        let (parent, key) = (parent.to_owned(), key.to_owned());
        self.blocking(move |inner| {
            let chain = inner.metadata.chain(&parent).map_err(|error| match error {
                SnapshotError::NotFound(what) => SnapshotError::NotFound(format!("parent {what}")),
                other => other,
            })?;
            match inner.metadata.get(&key) {
                Err(SnapshotError::NotFound(_)) => Ok(chain),
                Ok(_) if chain[0].kind == Kind::Committed => {
                    Err(SnapshotError::AlreadyExists(format!("snapshot {key}")))
                }
                // The transaction finds the reason anew.
                Ok(_) => Ok(chain),
                Err(other) => Err(other),
            }
        })
        .await
    }

    async fn chain(&self, name: &str) -> Result<Vec<Record>> {
        let name = name.to_owned();
        self.blocking(move |inner| inner.metadata.chain(&name))
            .await
    }

    /// Runs what puts lower directories to use, so that none is taken away meanwhile.
    async fn using<T>(&self, work: impl AsyncFnOnce(&Inner) -> Result<T>) -> Result<T> {
        let guard = self.0.in_use.read().await;
        let result = work(&self.0).await;
        drop(guard);
        if self.0.sweep_due.load(Ordering::Acquire) {
            self.sweep().await;
        }
        result
    }

    /// Takes unused mounts away, or leaves it to those who use some at the moment: a start must never
    /// wait behind one that waits for the network.
    async fn sweep(&self) {
        let inner = &self.0;
        inner.sweep_due.store(true, Ordering::Release);
        while inner.sweep_due.load(Ordering::Acquire) {
            let Ok(_alone) = inner.in_use.try_write() else {
                return;
            };
            inner.sweep_due.store(false, Ordering::Release);
            let swept = async {
                let alive = self.blocking(|inner| inner.metadata.evidence()).await?;
                Ok::<_, SnapshotError>(inner.images.retain(&alive).await?)
            };
            if let Err(error) = swept.await {
                tracing::warn!(%error, "unused mounts stay for now");
            }
        }
    }

    /// Runs what waits for the disk where it may wait.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.map_err(|e| Error::internal("snapshot operation").with_source(e))?
    }
}

// === impl Inner ===

impl Inner {
    fn create(
        &self,
        kind: Kind,
        key: &str,
        parent: &str,
        labels: Labels,
        like: Option<PathBuf>,
    ) -> Result<u64> {
        let write = self.metadata.write()?;
        let id = write.create(kind, key, parent, labels, (self.options.clock)())?;
        let staged = self.storage.stage(kind, like.as_deref())?;
        self.storage.place(staged, id)?;
        // If this fails, the directory is nobody's and the next clean-up takes it.
        write.commit()?;
        Ok(id)
    }

    /// Directories of a chain, the nearest first: those that were unpacked, then one for all lazy
    /// layers below them.
    async fn lowers(&self, chain: &[Record]) -> Result<Vec<PathBuf>> {
        let mut lowers = Vec::new();
        for record in chain {
            if let Some(evidence) = &record.evidence {
                lowers.push(self.images.lower(evidence).await?);
                break;
            }
            lowers.push(self.storage.upper(record.id));
        }
        Ok(lowers)
    }

    fn mounts(&self, kind: Kind, id: u64, lowers: &[PathBuf]) -> Vec<Mount> {
        mounts::mounts(&self.storage, kind, id, lowers, &self.options.overlay)
    }

    fn reconcile(&self) -> Result<Reconciled> {
        let removed = self.remove_orphans()?;
        let damaged = self.damaged()?;
        Ok(Reconciled { removed, damaged })
    }

    /// Removes directories without a record and says how many.
    fn remove_orphans(&self) -> Result<usize> {
        let write = self.metadata.write()?;
        let aside = self.storage.set_aside(&write.ids()?)?;
        // The transaction changed nothing; it kept others from making directories.
        drop(write);
        self.storage.clear()?;
        Ok(aside.len())
    }

    /// Snapshots whose directory is gone.
    fn damaged(&self) -> Result<Vec<String>> {
        let there = self.storage.ids()?;
        let all = self.metadata.all()?.into_iter();
        let gone = |info: &Info| info.record.evidence.is_none() && !there.contains(&info.record.id);
        Ok(all.filter(gone).map(|info| info.name).collect())
    }
}

/// The root that a daemon serves unless it is told otherwise.
#[must_use]
pub fn default_root() -> &'static Path {
    Path::new("/var/lib/nacre/snapshotter")
}
