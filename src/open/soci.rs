//! SOCI's index of an image: which layers have a zTOC, and where it is (docs/formats/soci.md).
//!
//! Version 2 is named by an annotation of the image's own manifest, and as good as that. Version 1 is found
//! among the referrers, and has to be vouched for.

use std::sync::Arc;

use super::{Layer, attached::Search};
use crate::{
    error::{Error, Result},
    index::{self, LayerIndex},
    oci::{Descriptor, Digest, Document, Location, Manifest},
    ocicrypt,
    source::{BlobSource, Repository},
    trust::{Vouching, vouch},
};

/// A SOCI index that is to be believed.
#[derive(Clone, Debug)]
pub(crate) struct Soci {
    /// Of its manifest.
    digest: Digest,
    /// A layer's digest and where its zTOC is.
    ztocs: Vec<(Digest, Arc<dyn BlobSource>)>,
}

/// Annotation of an image that names its index of version 2.
pub(super) const INDEX_DIGEST: &str = "com.amazon.soci.index-digest";
/// Annotation of a zTOC that names its layer.
const LAYER_DIGEST: &str = "com.amazon.soci.image-layer-digest";
const V1: &str = "application/vnd.amazon.soci.index.v1+json";
const V2: &str = "application/vnd.amazon.soci.index.v2+json";
/// Largest zTOC that is read: of a layer of 30 GB.
const MAX_ZTOC: u64 = 256 << 20;

/// The SOCI index that the image's manifest names, or else one of its referrers that somebody who
/// counts vouches for.
///
/// # Errors
/// What keeps the index from being read or believed.
pub(super) async fn find(search: &Search<'_>, referrers: &[Descriptor]) -> Result<Option<Soci>> {
    let manifest = search.grant.manifest();
    if let Some(named) = manifest.annotations.get(INDEX_DIGEST) {
        let digest: Digest = named
            .parse()
            .map_err(|_| Error::invalid(format!("annotation {INDEX_DIGEST}: {named:?}")))?;
        let raw = search
            .repository
            .manifest(&Location::Digest(digest.clone()))
            .await?;
        if !digest.matches(&raw.bytes) {
            return Err(Error::corrupt(format!(
                "SOCI index {digest}: digest mismatch"
            )));
        }
        let Document::Manifest(index) = raw.parse()? else {
            return Err(Error::invalid(format!("SOCI index {digest}: not one")));
        };
        return Soci::of(digest, &index, V2, search.repository).map(Some);
    }
    let ours = |it: &&Descriptor| it.artifact_type.as_deref() == Some(V1);
    let Some(artifact) = referrers.iter().find(ours) else {
        return Ok(None);
    };
    let vouched = vouch(
        search.policy,
        search.grant.reference(),
        search.repository,
        search.grant.manifest_digest(),
        artifact,
    )
    .await?;
    match vouched.standing() {
        Vouching::Signed(_) | Vouching::Allowed => {}
        Vouching::Unsigned(_) => {
            return Err(Error::denied(format!(
                "SOCI index {}: nobody whom the policy names has signed it",
                artifact.digest
            ))
            .with_hint("nacreAllowUnsignedLayerIndex in the policy, or SOCI v2"));
        }
    }
    let digest = artifact.digest.clone();
    Soci::of(digest, vouched.manifest(), V1, search.repository).map(Some)
}

// === impl Soci ===

impl Soci {
    fn of(
        digest: Digest,
        index: &Manifest,
        kind: &str,
        repository: &dyn Repository,
    ) -> Result<Self> {
        if index.config.media_type != kind {
            return Err(Error::invalid(format!(
                "SOCI index {digest}: its kind is {:?}, not {kind:?}",
                index.config.media_type
            )));
        }
        let ztocs = index.layers.iter().filter_map(|ztoc| {
            let layer = ztoc.annotations.get(LAYER_DIGEST)?.parse().ok()?;
            Some((layer, repository.blob(ztoc)))
        });
        Ok(Self {
            ztocs: ztocs.collect(),
            digest,
        })
    }

    /// Digest of its manifest.
    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The index of a layer; `None` if it has none that can be read, for which the log says why.
    pub(super) async fn index(&self, layer: &Layer) -> Option<LayerIndex> {
        let blob = &layer.descriptor.digest;
        let of_layer = |it: &&(Digest, _)| it.0 == *blob;
        // Spans are of the blob as it is stored, which is no gzip if it is encrypted.
        let (_, ztoc) = self
            .ztocs
            .iter()
            .find(of_layer)
            .filter(|_| !ocicrypt::is_encrypted(&layer.descriptor))?;
        read(ztoc, layer.descriptor.size)
            .await
            .inspect_err(|error| {
                tracing::warn!(
                    event = "index_passed_over",
                    layer = %blob, index = %self.digest, %error, "zTOC passed over"
                );
            })
            .ok()
    }
}

async fn read(ztoc: &Arc<dyn BlobSource>, size: u64) -> Result<LayerIndex> {
    if ztoc.size() > MAX_ZTOC {
        return Err(Error::invalid(format!(
            "zTOC {}: {} bytes, at most {MAX_ZTOC} are read",
            ztoc.digest(),
            ztoc.size()
        )));
    }
    let mut bytes = ztoc.read_at(0..ztoc.size()).await?;
    if !ztoc.digest().matches(&bytes) {
        bytes = ztoc.read_elsewhere(0..ztoc.size()).await?;
    }
    if !ztoc.digest().matches(&bytes) {
        return Err(Error::corrupt(format!(
            "zTOC {}: digest mismatch",
            ztoc.digest()
        )));
    }
    let digest = ztoc.digest().clone();
    let parsed = tokio::task::spawn_blocking(move || index::parse_ztoc(&bytes, size));
    parsed
        .await
        .map_err(|e| Error::internal("reading a zTOC").with_source(e))?
        .map_err(|what| Error::invalid(format!("{digest}: {what}")))
}
