//! What is behind the snapshots of `nacre serve`: lazily mounted images, those of an earlier daemon
//! among them.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    config::{Config, Surroundings},
    error::{Error, Kind, Result},
    fuse::Reads,
    keeper::{self, HandOver, Lock, Opened, Places},
    mount::MountOptions,
    snapshotter::{
        LazyImages, NoLazyImages, Snapshotter,
        images::{FrontEnds, Images},
    },
    source::registry::HandedLogins,
};

/// Images, unless `lazy = false`.
pub(super) struct Behind {
    pub(super) images: Option<Arc<Images>>,
    reads: Reads,
}

/// How long reads under way may take when the daemon is told to stop; a successor answers the rest.
const READS_GRACE: Duration = Duration::from_secs(2);
/// How long a predecessor that has been killed may hold its root.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

// === impl Behind ===

impl Behind {
    pub(super) fn open(
        config: &Config,
        handed: Option<&HandedLogins>,
        places: Places,
    ) -> Result<Self> {
        let reads = Reads::default();
        if !config.lazy {
            let Opened { kept, .. } = keeper::open(HandOver::Off, places)?;
            if !kept.is_empty() {
                let count = kept.len();
                tracing::error!(
                    event = "mounts_ended",
                    count,
                    "mounts of an earlier daemon end here (lazy = false)"
                );
            }
            let images = None;
            return Ok(Self { images, reads });
        }
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let surroundings = Surroundings {
            home: home.as_deref(),
            variable: |name| std::env::var_os(name),
        };
        let mut images = config.images(&surroundings, handed)?;
        let Opened { keeper, kept } = keeper::open(config.hand_over, places)?;
        let options = MountOptions {
            reads: reads.clone(),
            ..MountOptions::new("image")
        };
        let (choice, root) = (config.front_end, config.root.clone());
        let front_end = FrontEnds::handing_over(choice, root, options, keeper, kept);
        images.front_end = Arc::new(front_end);
        let images = Some(Arc::new(Images::new(images)?));
        Ok(Self { images, reads })
    }

    pub(super) fn dynamic(&self) -> Arc<dyn LazyImages> {
        match &self.images {
            Some(images) => Arc::clone(images) as _,
            None => Arc::new(NoLazyImages),
        }
    }

    /// Takes over what an earlier process mounted, and takes away what nobody needs of it.
    pub(super) async fn adopt(&self, snapshotter: &Snapshotter) -> Result<usize> {
        let what = |e| Error::internal("cleaning up at the start").with_source(e);
        let adopted = match &self.images {
            Some(images) => {
                let alive = snapshotter.evidence().await.map_err(what)?;
                images.adopt(&alive).await?
            }
            None => 0,
        };
        snapshotter.cleanup().await.map_err(what)?;
        Ok(adopted)
    }

    /// At the end: answers reads under way, and writes what is to be kept.
    pub(super) async fn settle(self) -> Result<()> {
        let Some(images) = self.images else {
            return Ok(());
        };
        let settled = tokio::task::spawn_blocking(move || {
            if !self.reads.wait_none(READS_GRACE) {
                tracing::info!("reads under way are left to a successor");
            }
            images.store().flush();
        });
        settled
            .await
            .map_err(|e| Error::internal("ending reads").with_source(e))
    }
}

/// Keeps other daemons, and `nacre release`, from a root.
pub(super) fn lock_root(root: &Path) -> Result<Lock> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)
        .map_err(|e| Error::io(root.display().to_string(), e))?;
    Lock::take(&keeper::lock_of(root), LOCK_PATIENCE).map_err(|error| match error.kind() {
        Kind::Busy => Error::new(Kind::Busy, format!("{}: in use", root.display()))
            .with_hint("another nacre serves it"),
        _ => error,
    })
}
