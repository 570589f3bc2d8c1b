//! The seam between the snapshots service and lazily mounted images.
//!
//! The service knows keys, parents and directories; what is behind [`LazyImages`] knows references,
//! policy and mounts. They meet in [`Evidence`], which a snapshot keeps and hands back when a
//! container needs its tree.

use std::{fmt::Debug, path::PathBuf};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    oci::Digest,
};

/// One layer that containerd asks for by its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRequest {
    /// The image, as the user named it.
    pub reference: String,
    /// The platform's manifest, where containerd says which.
    pub manifest_digest: Option<Digest>,
    /// The layer's blob.
    pub layer_digest: Digest,
    /// Name under which containerd will look for the committed snapshot
    /// (`containerd.io/snapshot.ref`).
    pub chain_id: String,
}

/// What a committed lazy snapshot records: enough to mount it again, and what vouches for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The image, as the user named it when it was admitted.
    pub reference: String,
    /// The admitted manifest.
    pub manifest: Digest,
    /// The layer's blob.
    pub layer: Digest,
    /// Place of the layer in the image; the lowest is 0.
    pub layer_number: u16,
    /// What the image's configuration claims the unpacked layer to be.
    pub diff_id: Digest,
    /// The index that the layer was opened with.
    pub index: Option<Digest>,
    /// Class of the grant.
    pub class: String,
    /// Name of the committed snapshot.
    pub chain_id: String,
}

/// What becomes of a layer.
#[allow(
    clippy::large_enum_variant,
    reason = "one a layer of a pull, and most are the large one"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is mounted lazily; containerd downloads nothing.
    Lazy(Evidence),
    /// The normal path: containerd unpacks it, but policy has admitted the image.
    Unpack {
        /// Why it is not lazy, for the log.
        why: String,
    },
}

/// Images whose layers containerd does not unpack.
pub trait LazyImages: Send + Sync + Debug {
    /// Admits the image (once per image), opens its indexes, and says whether this layer is lazy. An
    /// error of kind [`Denied`](crate::Kind::Denied) refuses the pull.
    fn layer<'a>(&'a self, request: &'a LayerRequest) -> BoxFuture<'a, Result<Verdict>>;

    /// A read-only directory with the merged tree of layers `0..=evidence.layer_number` of that
    /// image; mounted when first needed; shared by all who ask.
    fn lower<'a>(&'a self, evidence: &'a Evidence) -> BoxFuture<'a, Result<PathBuf>>;

    /// Mounts not named by any of these evidences may be taken away (called after Remove and Cleanup
    /// with what still exists).
    fn retain<'a>(&'a self, alive: &'a [Evidence]) -> BoxFuture<'a, Result<()>>;

    /// For Usage: inodes, and bytes of the layer's blob known so far.
    fn usage(&self, evidence: &Evidence) -> (u64, u64);
}

/// No image is lazy (`lazy = false`): containerd unpacks every layer, as with its overlay
/// snapshotter, and no policy is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLazyImages;

impl LazyImages for NoLazyImages {
    fn layer<'a>(&'a self, _request: &'a LayerRequest) -> BoxFuture<'a, Result<Verdict>> {
        let why = "lazily mounted images are switched off".to_owned();
        Box::pin(async { Ok(Verdict::Unpack { why }) })
    }

    /// Only snapshots made while it was switched on ask for it.
    fn lower<'a>(&'a self, evidence: &'a Evidence) -> BoxFuture<'a, Result<PathBuf>> {
        Box::pin(async {
            Err(Error::unsupported(format!(
                "snapshot {} of {} is mounted lazily, and that is switched off",
                evidence.chain_id, evidence.reference
            ))
            .with_hint("set lazy = true, or remove the image and pull it again"))
        })
    }

    fn retain<'a>(&'a self, _alive: &'a [Evidence]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn usage(&self, _evidence: &Evidence) -> (u64, u64) {
        (0, 0)
    }
}
