//! What the images are and do, as plain data for those who ask.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use super::{Confirm, Images, ImagesCounts, image::Image};
use crate::{
    engine::{EngineSnapshot, Meter},
    keys::{KeyConfig, Keyring, KeysReport},
    mount::FrontEnd,
    oci::Digest,
    open::IndexKind,
    source::registry::{HostCounts, RegistryState},
    store::Store,
    trust::{Class, PolicyReport, Rule},
};

/// What is known of a mount beside its directory.
#[derive(Debug)]
pub(super) struct About {
    reference: String,
    manifest: Digest,
    class: Class,
    /// Digest and size of the layers that it shows, the lowest first.
    layers: Vec<(Digest, u64)>,
    /// What they were opened by.
    indexes: Vec<IndexKind>,
    /// How many the image has.
    of_layers: usize,
    since: SystemTime,
    meter: Meter,
    front_end: FrontEnd,
}

/// A lower directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountReport {
    /// The image, as the user named it.
    pub reference: String,
    /// The admitted manifest.
    pub manifest: Digest,
    /// Place of the topmost layer that it shows; the lowest is 0.
    pub layer_number: u16,
    /// How many layers the image has.
    pub of_layers: usize,
    /// What each layer that it shows was opened by, the lowest first.
    pub indexes: Vec<IndexKind>,
    /// Class of the grant.
    pub class: Class,
    /// Where it is.
    pub directory: PathBuf,
    /// Since when.
    pub since: SystemTime,
    /// How the kernel sees it.
    pub front_end: FrontEnd,
    /// Whether the kernel has it.
    pub alive: bool,
    /// Bytes of the blobs of the layers that it shows.
    pub bytes: u64,
    /// Bytes of these blobs that came from their registry since this process started, for whichever
    /// image wanted them.
    pub fetched: u64,
    /// What its engine did.
    pub engine: EngineSnapshot,
    /// Why its reads fail, if they do.
    pub poisoned: Option<String>,
}

/// A directory that an earlier daemon mounted and whose image is not open yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptionReport {
    /// The image, as the user named it.
    pub reference: String,
    /// The admitted manifest.
    pub manifest: Digest,
    /// Place of the topmost layer that it shows; the lowest is 0.
    pub layer_number: u16,
    /// Where it is.
    pub directory: PathBuf,
    /// Since when.
    pub since: SystemTime,
    /// Why its requests fail; none while they wait.
    pub error: Option<String>,
}

/// An image that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReport {
    /// As the user named it.
    pub reference: String,
    /// The admitted manifest.
    pub manifest: Digest,
    /// Class of the grant.
    pub class: Class,
    /// What admitted it.
    pub rule: Rule,
    /// The lowest so many layers are lazy.
    pub lazy: usize,
    /// How many layers there are.
    pub layers: usize,
    /// What each lazy layer was opened by, the lowest first.
    pub indexes: Vec<IndexKind>,
    /// Bytes of their blobs.
    pub bytes: u64,
    /// How long ago it was last asked for.
    pub idle: Duration,
}

/// The confirmation of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfirmReport {
    /// What may rely on a layer that has not been confirmed.
    pub mode: Confirm,
    /// Layers that wait for their confirmation.
    pub waiting: usize,
}

// === impl Images ===

impl Images {
    /// All counts so far that [`snapshot`](Self::snapshot) does not give.
    #[must_use]
    pub fn counts(&self) -> ImagesCounts {
        self.shared.measured.counts()
    }

    /// All mounts, by directory. Blocks on the table of mounts.
    #[must_use]
    pub fn mounts(&self) -> Vec<MountReport> {
        let described = self.shared.mounts.described();
        let mut mounts: Vec<_> = described
            .iter()
            .map(|(slot, about)| {
                let fetched = about.layers.iter().map(|(layer, _)| {
                    let fetched = self.shared.keep.fetched(layer);
                    fetched.load(Ordering::Relaxed)
                });
                MountReport {
                    reference: about.reference.clone(),
                    manifest: about.manifest.clone(),
                    layer_number: u16::try_from(about.layers.len() - 1).unwrap_or(u16::MAX),
                    of_layers: about.of_layers,
                    indexes: about.indexes.clone(),
                    class: about.class,
                    directory: slot.directory.clone(),
                    since: about.since,
                    front_end: about.front_end,
                    alive: slot.is_alive(),
                    bytes: about.bytes(),
                    fetched: fetched.sum(),
                    engine: about.meter.snapshot(),
                    poisoned: slot.poisoned(),
                }
            })
            .collect();
        mounts.sort_by(|a, b| a.directory.cmp(&b.directory));
        mounts
    }

    /// Mounts of earlier daemons whose image is not open yet, by directory.
    #[must_use]
    pub fn adopting(&self) -> Vec<AdoptionReport> {
        let adopting = self.shared.mounts.adopting().into_iter();
        let mut reports: Vec<_> = adopting
            .map(
                |((manifest, layer_number), slot, adopting)| AdoptionReport {
                    reference: adopting.reference,
                    manifest,
                    layer_number,
                    directory: slot.directory.clone(),
                    since: adopting.since,
                    error: adopting.error,
                },
            )
            .collect();
        reports.sort_by(|a, b| a.directory.cmp(&b.directory));
        reports
    }

    /// How many mounts fail all reads because a layer is not what its image claims.
    #[must_use]
    pub fn poisoned_mounts(&self) -> usize {
        let described = self.shared.mounts.described();
        let poisoned = described
            .iter()
            .filter(|(slot, _)| slot.poisoned().is_some());
        poisoned.count()
    }

    /// All images that are open, by reference.
    #[must_use]
    pub fn images(&self) -> Vec<ImageReport> {
        let mut seen: Vec<Arc<Image>> = Vec::new();
        let mut reports: Vec<ImageReport> = Vec::new();
        for known in self.shared.images().values() {
            let image = &known.image;
            // It is there by tag and by digest.
            if let Some(at) = seen.iter().position(|it| Arc::ptr_eq(it, image)) {
                reports[at].idle = reports[at].idle.min(known.asked.elapsed());
                continue;
            }
            seen.push(Arc::clone(image));
            reports.push(ImageReport {
                reference: image.reference.clone(),
                manifest: image.grant.manifest_digest().clone(),
                class: image.grant.class(),
                rule: image.grant.rule().clone(),
                lazy: image.lazy,
                layers: image.layers.len(),
                indexes: image.kinds(image.lazy),
                bytes: image.bytes(image.layers.len()),
                idle: known.asked.elapsed(),
            });
        }
        reports.sort_by(|a, b| {
            let key = |it: &ImageReport| (it.reference.clone(), it.manifest.to_string());
            key(a).cmp(&key(b))
        });
        reports
    }

    /// The confirmation of layers.
    #[must_use]
    pub fn confirmation(&self) -> ConfirmReport {
        ConfirmReport {
            mode: self.shared.config.confirm,
            waiting: self.shared.queue.left(),
        }
    }

    /// Where chunks are kept.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.config.store
    }

    /// What passed between this node and each host so far.
    #[must_use]
    pub fn hosts(&self) -> Vec<HostCounts> {
        self.shared.config.repositories.hosts()
    }

    /// The registries that were reached for so far.
    #[must_use]
    pub fn registries(&self) -> Vec<RegistryState> {
        self.shared.config.repositories.registries()
    }

    /// What the policy says now, or why it says nothing. Reads its file.
    #[must_use]
    pub fn policy(&self) -> PolicyReport {
        self.shared.config.policy.report()
    }

    /// Which keys are configured, and whether they can be read. Reads their files.
    #[must_use]
    pub fn keys(&self) -> KeysReport {
        KeysReport::of(&self.shared.config.keys)
    }

    /// Whether the keys can be read. Reads their files.
    ///
    /// # Errors
    /// As [`Keyring::new`].
    pub fn check_keys(&self) -> crate::Result<()> {
        let config: &KeyConfig = &self.shared.config.keys;
        Keyring::new(config).map(drop)
    }

    /// Whether the policy can be read. Reads its file.
    ///
    /// # Errors
    /// As [`PolicySource::load`](super::PolicySource::load).
    pub fn check_policy(&self) -> crate::Result<()> {
        self.shared.config.policy.load().map(drop)
    }
}

// === impl About ===

impl About {
    pub(super) fn new(image: &Image, number: usize, meter: Meter, front_end: FrontEnd) -> Self {
        let layers = image.layers[..=number].iter();
        Self {
            reference: image.reference.clone(),
            manifest: image.grant.manifest_digest().clone(),
            class: image.grant.class(),
            layers: layers
                .map(|it| (it.descriptor.digest.clone(), it.descriptor.size))
                .collect(),
            indexes: image.kinds(number + 1),
            of_layers: image.layers.len(),
            since: SystemTime::now(),
            meter,
            front_end,
        }
    }

    fn bytes(&self) -> u64 {
        self.layers.iter().map(|(_, size)| size).sum()
    }

    pub(super) fn log_mounted(&self, directory: &Path, took: Duration) {
        tracing::info!(
            event = "image_mounted",
            image = self.reference,
            manifest = %self.manifest,
            class = %self.class,
            layers = self.layers.len(),
            indexes = IndexKind::summary(&self.indexes),
            bytes = self.bytes(),
            directory = %directory.display(),
            front_end = %self.front_end,
            seconds = took.as_secs_f64(),
            "mounted"
        );
    }
}
