//! Layers that nobody made an index of: read whole when a node meets them, lazily from then on.
//!
//! The layer is streamed once, held against its blob digest, its HMAC and its DiffID, indexed on the way,
//! and its chunks land in the store. The index is kept, so that the next opening needs no stream, even if
//! the chunks are gone (docs/decisions/0014).

use std::{sync::Arc, time::Instant};

use futures::future::OptionFuture;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{
    Findings, Layer, Opener,
    kind::{IndexKind, Opened},
    open_index,
};
use crate::{
    codec::DEFAULT_SPACING,
    error::{Error, Result},
    index::{self, Algorithm, Binding, BuiltIndex, Claim, KeepChunk, Subject},
    oci::{Descriptor, Digest, ImageConfig},
    source::{Repository, read_verified},
    store::{Store, VerifiedChunk},
    trust::Grant,
};

/// Layers that are read whole at the same time: as many as others download, and each has four threads.
static READING: Semaphore = Semaphore::const_new(3);

/// Largest image configuration that is read.
const MAX_CONFIG: u64 = 8 << 20;

// === impl Opener ===

impl Opener {
    /// The DiffIDs that the image's configuration claims, if an ordinary layer needs one.
    pub(crate) async fn claims(
        &self,
        grant: &Grant,
        repository: &dyn Repository,
    ) -> Result<Option<Vec<Digest>>> {
        let layers = &grant.manifest().layers;
        let ordinary = layers.iter().any(is_ordinary);
        let claims = ordinary.then(|| diff_ids(grant, repository));
        OptionFuture::from(claims).await.transpose()
    }

    /// Opens the index of layer `number`: the one that the manifest names, or one that was made here.
    pub(crate) async fn open_layer(
        &self,
        layer: &Layer,
        number: usize,
        grant: &Grant,
        claims: Option<&[Digest]>,
    ) -> Result<Opened> {
        match claims.and_then(|it| it.get(number)) {
            Some(diff_id) if is_ordinary(&layer.descriptor) => {
                ordinary(&self.store, layer, diff_id, self.findings.as_deref()).await
            }
            _ => open_index(layer, grant.class()).await,
        }
    }
}

/// The index of an ordinary layer: the kept one, one that is attached to the image and was not found to
/// lie, or a new one.
///
/// # Errors
/// As [`index::build`].
pub(crate) async fn ordinary(
    store: &Arc<Store>,
    layer: &Layer,
    diff_id: &Digest,
    findings: Option<&Findings>,
) -> Result<Opened> {
    let subject = Subject {
        blob: layer.descriptor.digest.clone(),
        blob_size: layer.descriptor.size,
        diff_id: diff_id.clone(),
    };
    if let Some(kept) = kept(store, layer, subject.clone()).await? {
        return Ok(kept_here(kept));
    }
    let attached = layer.attached.index(layer).await?;
    if let Some(index) = attached.and_then(|it| it.judged(layer, diff_id, findings)) {
        return Ok(index);
    }
    let _one_of_few = READING.acquire().await;
    // Somebody else may have read it meanwhile.
    if let Some(kept) = kept(store, layer, subject).await? {
        return Ok(kept_here(kept));
    }
    let begin = Instant::now();
    let claim = Claim {
        compression: layer.kind.compression,
        diff_id: diff_id.clone(),
        spacing: DEFAULT_SPACING,
    };
    let keep = keep_chunk(Arc::clone(store), layer);
    let built = index::build(Arc::clone(&layer.source), claim, keep).await?;
    tracing::info!(
        event = "layer_indexed",
        layer = %layer.descriptor.digest,
        bytes = layer.descriptor.size,
        entries = built.get().entries.len(),
        runs = built.get().table.units.len(),
        seconds = begin.elapsed().as_secs_f64(),
        "read whole, verified and indexed"
    );
    let (store, seal) = (Arc::clone(store), layer.index_seal.clone());
    let kept = spawn_blocking(move || {
        if let Some(indexes) = store.indexes() {
            indexes.keep(&built, seal.as_ref());
        }
        kept_here(built)
    });
    kept.await.map_err(gone)
}

fn kept_here(index: BuiltIndex) -> Opened {
    Opened::certain(index.into_index(), IndexKind::Kept)
}

async fn kept(store: &Arc<Store>, layer: &Layer, subject: Subject) -> Result<Option<BuiltIndex>> {
    let (store, seal) = (Arc::clone(store), layer.index_seal.clone());
    let kept = spawn_blocking(move || store.indexes()?.get(&subject, seal.as_ref()));
    let kept = kept.await.map_err(gone)?;
    if kept.is_some() {
        tracing::debug!(layer = %layer.descriptor.digest, "its kept index serves");
    }
    Ok(kept)
}

fn keep_chunk(store: Arc<Store>, layer: &Layer) -> KeepChunk {
    let space = layer.space.clone();
    Box::new(move |bytes| {
        let (digest, chunk) = VerifiedChunk::digested(bytes, Algorithm::Blake3);
        store.put_whole(&space, &digest, &chunk);
        digest
    })
}

/// Whether the manifest names no index for the layer. A malformed annotation is an error elsewhere, not
/// an ordinary layer.
pub(crate) fn is_ordinary(layer: &Descriptor) -> bool {
    matches!(Binding::of(layer), Ok(None))
}

/// The DiffIDs of all layers, by the configuration that the manifest names.
///
/// # Errors
/// `Invalid` if it does not fit the manifest, `Corrupt` if it is not the one that the manifest names, and
/// what the registry says.
pub(crate) async fn diff_ids(grant: &Grant, repository: &dyn Repository) -> Result<Vec<Digest>> {
    let descriptor = &grant.manifest().config;
    let raw = read_verified(repository, descriptor, MAX_CONFIG).await?;
    let config: ImageConfig = serde_json::from_slice(&raw)
        .map_err(|e| Error::invalid(format!("config {}: {e}", descriptor.digest)))?;
    let (layers, diff_ids) = (&grant.manifest().layers, config.rootfs.diff_ids);
    if layers.len() != diff_ids.len() {
        return Err(Error::invalid(format!(
            "config {}: {} diff ids for {} layers",
            descriptor.digest,
            diff_ids.len(),
            layers.len()
        )));
    }
    Ok(diff_ids)
}

fn gone(error: tokio::task::JoinError) -> Error {
    Error::internal("a thread that keeps an index").with_source(error)
}
