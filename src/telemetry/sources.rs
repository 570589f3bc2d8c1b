//! Where the answers come from.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{
    exposition::{self, Format},
    readiness::{self, Files, Readiness, Turns},
    sample::Sample,
    status::Status,
};
use crate::{
    error::Result,
    snapshotter::{Snapshotter, images::Images},
};

/// What a daemon consists of, as far as it tells about itself.
#[derive(Debug)]
pub struct Sources {
    /// When it started.
    pub started: SystemTime,
    /// Directory of everything that outlives it.
    pub root: PathBuf,
    /// The socket that it listens on, if it has a name.
    pub socket: Option<PathBuf>,
    /// The address that answers HTTP, if there is one.
    pub address: Option<std::net::SocketAddr>,
    /// The snapshots.
    pub snapshotter: Snapshotter,
    /// The images, unless it mounts none.
    pub images: Option<Arc<Images>>,
}

/// Answers what is asked about a daemon; clones are the same.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: Sources,
    begin: Instant,
    turns: Turns,
    files: Files,
}

// === impl Telemetry ===

impl Telemetry {
    /// Tells about a daemon.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        Self(Arc::new(Inner {
            sources,
            begin: Instant::now(),
            turns: Turns::default(),
            files: Files::default(),
        }))
    }

    pub(super) fn sources(&self) -> &Sources {
        &self.0.sources
    }

    pub(super) fn uptime(&self) -> std::time::Duration {
        self.0.begin.elapsed()
    }

    /// Whether containers can be started, found out now. Questions that come while one is being
    /// answered share the next answer.
    pub async fn readiness(&self) -> Readiness {
        let Inner { sources, files, .. } = &*self.0;
        self.0.turns.next(|| readiness::look(sources, files)).await
    }

    /// All metrics, as they are now.
    ///
    /// # Errors
    /// `Internal` if a task or the writing fails.
    pub async fn metrics(&self, format: Format) -> Result<String> {
        let sample = Sample::take(self).await?;
        exposition::write(sample, format)
    }

    /// Everything that `nacre status` shows.
    ///
    /// # Errors
    /// `Internal` if a task fails, `Io` if the database cannot be read.
    pub async fn status(&self) -> Result<Status> {
        Status::of(self).await
    }
}
