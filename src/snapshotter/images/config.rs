//! What [`Images`](super::Images) are opened with.

use std::{fmt::Debug, path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;

use super::front_end::FrontEnd;
use crate::{
    engine::{BackgroundConfig, EngineConfig},
    error::Result,
    keys::KeyConfig,
    oci::{Location, Platform, Reference},
    resource::{Resources, off_thread},
    source::{
        Access, Repository,
        registry::{HostCounts, RegistryState},
    },
    store::Store,
    trust::{Policy, PolicyReport, Watch},
};

/// Where images are, how they are admitted, opened, confirmed and mounted.
#[derive(Clone, Debug)]
pub struct ImagesConfig {
    /// Directory of mounts (`images`), of what is kept for restarts (`kept`) and of findings.
    pub root: PathBuf,
    /// Reaches registries, with their credentials and mirrors.
    pub repositories: Arc<dyn Repositories>,
    /// Decides what is admitted; read again for every layer and mount.
    pub policy: PolicySource,
    /// What is told of every decision.
    pub watch: Watch,
    /// Opens encrypted layers; key files are read again for every image.
    pub keys: KeyConfig,
    /// Keeps chunks of all images.
    pub store: Arc<Store>,
    /// How chunks are fetched.
    pub engine: EngineConfig,
    /// How the rest of mounted images is fetched; none is not.
    pub complete: Option<BackgroundConfig>,
    /// Which image to take from an index.
    pub platform: Platform,
    /// Stores chunks of encrypted layers unsealed.
    pub insecure_plaintext_store: bool,
    /// Plain layers below this size are unpacked, if no larger one lies above them.
    pub min_lazy_bytes: u64,
    /// What becomes of plain layers without an index that somebody vouches for.
    pub ordinary: Ordinary,
    /// What may rely on a layer that has not been confirmed.
    pub confirm: Confirm,
    /// Bytes a second that confirmation may fetch; 0 is no limit.
    pub confirm_rate: u64,
    /// How long a layer waits for its confirmation, so that it does not compete with the start of
    /// the container.
    pub confirm_after: Duration,
    /// How long images and mounts that no snapshot names are spared: a pull may be under way.
    pub grace: Duration,
    /// How long requests to a mount of an earlier daemon wait for its image to be opened again.
    pub adoption_deadline: Duration,
    /// Mounts trees.
    pub front_end: Arc<dyn FrontEnd>,
}

/// What becomes of plain layers that have no index for which somebody vouches. Encrypted ones are always
/// read here: containerd has no key for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordinary {
    /// Read whole once, verified and indexed on the way; lazy from then on.
    Lazy,
    /// Unpacked by containerd.
    Unpack,
}

/// What may rely on a layer whose DiffID has not been checked over the whole layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// Signed images; layers of others are unpacked by containerd unless they have been confirmed.
    /// Layers in use are confirmed in the background.
    Trusted,
    /// Nothing: a layer is read whole and confirmed before its snapshot is made.
    Always,
    /// All images that the policy admits, and nothing is confirmed.
    Never,
}

/// Opens repositories by reference.
pub trait Repositories: Send + Sync + Debug {
    /// The repository of `reference`, and what to ask it for.
    fn open<'a>(
        &'a self,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<(Arc<dyn Repository>, Location)>>;

    /// What passed between this node and each host so far.
    fn hosts(&self) -> Vec<HostCounts> {
        Vec::new()
    }

    /// The registries that were reached for so far.
    fn registries(&self) -> Vec<RegistryState> {
        Vec::new()
    }
}

impl Repositories for Access {
    fn open<'a>(
        &'a self,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<(Arc<dyn Repository>, Location)>> {
        Box::pin(Access::open(self, reference))
    }

    fn hosts(&self) -> Vec<HostCounts> {
        let client = self.known_client();
        client.map_or_else(Vec::new, |it| it.counts())
    }

    fn registries(&self) -> Vec<RegistryState> {
        let client = self.known_client();
        client.map_or_else(Vec::new, |it| it.states())
    }
}

/// Where the policy comes from.
#[derive(Clone, Debug)]
pub enum PolicySource {
    /// A file, read each time: what it says now counts.
    File(PathBuf),
    /// A file or a resource by its URI, which may name resources too.
    Document(PathBuf, Resources),
    /// A policy that does not change.
    Fixed(Policy),
}

// === impl PolicySource ===

impl PolicySource {
    /// The policy as it is now.
    ///
    /// # Errors
    /// As [`Policy::load`]: without a policy nothing is admitted.
    pub fn load(&self) -> Result<Policy> {
        match self {
            PolicySource::File(file) => Policy::load(file),
            PolicySource::Document(place, resources) => Policy::load_by(place, resources),
            PolicySource::Fixed(policy) => Ok(policy.clone()),
        }
    }

    /// As [`load`](Self::load), for tasks that others wait for.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(super) async fn now(&self) -> Result<Policy> {
        let source = self.clone();
        off_thread(move || source.load()).await
    }

    /// What it says now, or why it says nothing.
    #[must_use]
    pub fn report(&self) -> PolicyReport {
        match self {
            PolicySource::File(file) => PolicyReport::of_file(file, &Resources::default()),
            PolicySource::Document(place, resources) => PolicyReport::of_file(place, resources),
            PolicySource::Fixed(policy) => PolicyReport::of(policy),
        }
    }
}
