//! The border between the snapshots service and the images behind it.

use std::{fmt::Debug, path::PathBuf};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{error::Result, oci::Digest};

/// One layer that containerd asks for by its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRequest {
    /// The image, as the user named it.
    pub reference: String,
    /// Digest of the image's manifest or index, if the labels name it.
    pub manifest_digest: Option<Digest>,
    /// Digest of the layer's blob.
    pub layer_digest: Digest,
    /// Name of the committed snapshot (`containerd.io/snapshot.ref`).
    pub chain_id: String,
}

/// What a committed lazy snapshot records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The image, as the user named it.
    pub reference: String,
    /// Digest of the admitted manifest.
    pub manifest: Digest,
    /// Digest of the layer's blob.
    pub layer: Digest,
    /// Which layer of the manifest, counted from the lowest.
    pub layer_number: u16,
    /// Digest of the layer's tar, as the image's configuration claims.
    pub diff_id: Digest,
    /// Digest of the layer's index, as the manifest names it.
    pub index: Option<Digest>,
    /// Class of the grant.
    pub class: String,
    /// Chain id of the layers up to this one.
    pub chain_id: String,
}

/// What becomes of a layer.
#[allow(
    clippy::large_enum_variant,
    reason = "one for each pulled layer, soon taken apart"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It need not be downloaded.
    Lazy(Evidence),
    /// The normal path: containerd unpacks, but policy has admitted the image.
    Unpack {
        /// Why it is not lazy.
        why: String,
    },
}

/// Images as the snapshots service sees them.
pub trait LazyImages: Send + Sync + Debug {
    /// Admits the image (once per image), opens its indexes, and says whether this layer is lazy.
    /// An error refuses the pull.
    fn layer<'a>(&'a self, request: &'a LayerRequest) -> BoxFuture<'a, Result<Verdict>>;

    /// A read-only directory with the merged tree of layers `0..=evidence.layer_number` of that
    /// image; mounted when first needed; shared by all who ask.
    fn lower<'a>(&'a self, evidence: &'a Evidence) -> BoxFuture<'a, Result<PathBuf>>;

    /// Mounts not named by any of these evidences may be taken away (called after Remove and
    /// Cleanup with what still exists).
    fn retain<'a>(&'a self, alive: &'a [Evidence]) -> BoxFuture<'a, Result<()>>;

    /// For Usage: inodes of the layer, and bytes of the layer's blob known so far.
    fn usage(&self, evidence: &Evidence) -> (u64, u64);
}
