//! SOCI's index of an image: which layers have a zTOC, and where it is (docs/formats/soci.md).
//!
//! Version 2 is named by an annotation of the image's own manifest, and as good as that. Version 1 is found
//! among the referrers, and has to be vouched for.

use std::sync::Arc;

use super::{
    Layer,
    attached::Search,
    kind::{IndexKind, Opened},
};
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
    /// Nobody vouches for it, with which the policy puts up.
    is_unvouched: bool,
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
        return by_manifest(named, search.repository).await.map(Some);
    }
    let Some(artifact) = of_version_1(referrers) else {
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
    let is_unvouched = match vouched.standing() {
        Vouching::Signed(_) => false,
        Vouching::Allowed => true,
        Vouching::Unsigned(_) => {
            return Err(Error::denied(format!(
                "SOCI index {}: nobody whom the policy names has signed it",
                artifact.digest
            ))
            .with_hint("nacreAllowUnsignedLayerIndex in the policy, or SOCI v2"));
        }
    };
    let digest = artifact.digest.clone();
    let kind = (V1, is_unvouched);
    Soci::of(digest, vouched.manifest(), kind, search.repository).map(Some)
}

/// The SOCI index that the image's manifest names, or one of its referrers, whoever vouches for it, and
/// whether the manifest does.
pub(super) async fn look(
    manifest: &Manifest,
    referrers: &[Descriptor],
    repository: &dyn Repository,
) -> Result<Option<(Soci, bool)>> {
    if let Some(named) = manifest.annotations.get(INDEX_DIGEST) {
        return Ok(Some((by_manifest(named, repository).await?, true)));
    }
    let Some(artifact) = of_version_1(referrers) else {
        return Ok(None);
    };
    let index = read_index(&artifact.digest, repository).await?;
    let soci = Soci::of(artifact.digest.clone(), &index, (V1, true), repository)?;
    Ok(Some((soci, false)))
}

fn of_version_1(referrers: &[Descriptor]) -> Option<&Descriptor> {
    let ours = |it: &&Descriptor| it.artifact_type.as_deref() == Some(V1);
    referrers.iter().find(ours)
}

async fn by_manifest(named: &str, repository: &dyn Repository) -> Result<Soci> {
    let digest: Digest = named
        .parse()
        .map_err(|_| Error::invalid(format!("annotation {INDEX_DIGEST}: {named:?}")))?;
    let index = read_index(&digest, repository).await?;
    Soci::of(digest, &index, (V2, false), repository)
}

async fn read_index(digest: &Digest, repository: &dyn Repository) -> Result<Manifest> {
    let raw = repository
        .manifest(&Location::Digest(digest.clone()))
        .await?;
    if !digest.matches(&raw.bytes) {
        return Err(Error::corrupt(format!(
            "SOCI index {digest}: digest mismatch"
        )));
    }
    match raw.parse()? {
        Document::Manifest(index) => Ok(*index),
        Document::Index(_) => Err(Error::invalid(format!("SOCI index {digest}: not one"))),
    }
}

// === impl Soci ===

impl Soci {
    fn of(
        digest: Digest,
        index: &Manifest,
        (kind, is_unvouched): (&str, bool),
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
            is_unvouched,
            digest,
        })
    }

    /// Digest of its manifest.
    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Whether it has a zTOC of this layer.
    pub(super) fn covers(&self, layer: &Descriptor) -> bool {
        self.ztoc(layer).is_some()
    }

    fn ztoc(&self, layer: &Descriptor) -> Option<&Arc<dyn BlobSource>> {
        let of_layer = |it: &&(Digest, _)| it.0 == layer.digest;
        let (_, ztoc) = self.ztocs.iter().find(of_layer)?;
        // Spans are of the blob as it is stored, which is no gzip if it is encrypted.
        (!ocicrypt::is_encrypted(layer)).then_some(ztoc)
    }

    /// The index of a layer; `None` if it has none that can be read, for which the log says why.
    pub(super) async fn index(&self, layer: &Layer) -> Option<Opened> {
        let ztoc = self.ztoc(&layer.descriptor)?;
        let passed_over = |error: &Error| {
            tracing::warn!(
                event = "index_passed_over",
                layer = %layer.descriptor.digest, index = %self.digest, %error,
                "zTOC passed over"
            );
        };
        let read = read(ztoc, layer.descriptor.size).await;
        Some(Opened {
            index: read.inspect_err(passed_over).ok()?,
            kind: IndexKind::Soci,
            artifact: Some(self.digest.clone()),
            is_unvouched: self.is_unvouched,
        })
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
