//! All numbers at one moment.

use std::{sync::Arc, time::SystemTime};

use super::{Readiness, Telemetry};
use crate::{
    error::{Error, Result},
    snapshotter::{
        MethodCounts, SnapshotCounts,
        images::{Images, ImagesCounts, ImagesSnapshot},
    },
    source::registry::HostCounts,
    store::{StoreLimits, StoreSnapshot},
    sys::usage::{self, Usage},
};

/// What a scrape shows.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) started: SystemTime,
    pub(super) readiness: Readiness,
    pub(super) process: Usage,
    pub(super) operations: Vec<MethodCounts>,
    /// None if the database cannot be read, which the readiness says.
    pub(super) snapshots: Option<SnapshotCounts>,
    pub(super) images: Option<ImagesSample>,
}

/// What it shows of images.
#[derive(Debug)]
pub(super) struct ImagesSample {
    pub(super) numbers: ImagesSnapshot,
    pub(super) counts: ImagesCounts,
    pub(super) open: usize,
    pub(super) poisoned_mounts: usize,
    pub(super) adopting: usize,
    pub(super) waiting: usize,
    pub(super) store: StoreSnapshot,
    pub(super) limits: StoreLimits,
    pub(super) hosts: Vec<HostCounts>,
}

// === impl Sample ===

impl Sample {
    pub(super) async fn take(telemetry: &Telemetry) -> Result<Self> {
        let sources = telemetry.sources();
        let process = tokio::task::spawn_blocking(usage::usage).await;
        Ok(Self {
            started: sources.started,
            readiness: telemetry.readiness().await,
            process: process
                .map_err(|e| Error::internal("looking at this process").with_source(e))??,
            operations: sources.snapshotter.operation_counts(),
            snapshots: sources.snapshotter.count().await.ok(),
            images: sources.images.as_ref().map(ImagesSample::take),
        })
    }
}

// === impl ImagesSample ===

impl ImagesSample {
    fn take(images: &Arc<Images>) -> Self {
        Self {
            numbers: images.snapshot(),
            counts: images.counts(),
            open: images.images().len(),
            poisoned_mounts: images.poisoned_mounts(),
            adopting: images.adopting().len(),
            waiting: images.confirmation().waiting,
            store: images.store().snapshot(),
            limits: images.store().limits(),
            hosts: images.hosts(),
        }
    }
}
