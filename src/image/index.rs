//! Making the index of an image's ordinary layers: every layer streamed once, decoded, verified against
//! blob digest, HMAC and DiffID, and written down. The image itself is not touched.
//!
//! The same image gives the same artifact, whenever and wherever it is made.

use serde::Serialize;

use crate::{
    error::{Error, Result},
    index::{
        self, Algorithm, Claim, LayerIndex,
        nacre::{self, Artifact, IndexKey, Part},
    },
    oci::{Descriptor, Digest},
    open::{Layer, Opener, diff_ids, is_ordinary},
    source::{self, Repository},
    trust::Grant,
};

/// How it is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decompressed bytes between the places at which a layer can be entered: what the smallest read
    /// costs, and what the index is the smaller for.
    pub spacing: u32,
}

/// Bytes between checkpoints unless told otherwise: half of what SOCI takes, and the index is still a seventh
/// of SOCI's.
pub const DEFAULT_SPACING: u32 = 2 << 20;

/// What was made of an image.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The image's manifest.
    pub manifest: Digest,
    /// The artifact's manifest.
    pub index: Digest,
    /// Whether every layer in it is sealed.
    pub sealed: bool,
    /// Bytes that every mount reads.
    pub tables_size: u64,
    /// Bytes of which a read takes what it needs.
    pub windows_size: u64,
    /// Bytes of the tars of the layers in it.
    pub tar_size: u64,
    /// Lowest first.
    pub layers: Vec<LayerReport>,
}

/// What was made of one layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// Digest of its blob.
    pub digest: Digest,
    /// Bytes of its blob.
    pub size: u64,
    /// Whether it is in the index; otherwise it has one of its own.
    pub indexed: bool,
    /// Bytes of its tar, if it is in the index.
    pub tar_size: u64,
    /// Bytes of the index that are for it.
    pub index_size: u64,
    /// Entries of its tar.
    pub entries: usize,
}

/// Something to tell while it is made.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A layer begins.
    Layer(&'a Descriptor),
    /// A layer is done.
    Done(&'a Descriptor),
}

/// Makes the index of all layers of an admitted image that have none of their own.
///
/// # Errors
/// `Invalid` if there is no such layer or the configuration does not fit the manifest, `Corrupt` if a layer is
/// not what manifest and configuration say, `Denied` for want of a key, and what the registry says.
pub async fn build(
    opener: &Opener,
    grant: &Grant,
    repository: &dyn Repository,
    options: Options,
    progress: &(dyn Fn(Progress<'_>) + Send + Sync),
) -> Result<(Artifact, Report)> {
    let manifest = grant.manifest_digest();
    let diff_ids = diff_ids(grant, repository).await?;
    let mut parts: Vec<Part> = Vec::new();
    let mut layers: Vec<LayerReport> = Vec::new();
    for (descriptor, diff_id) in grant.manifest().layers.iter().zip(diff_ids) {
        let mut report = LayerReport {
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            indexed: false,
            tar_size: 0,
            index_size: 0,
            entries: 0,
        };
        let again = parts.iter().any(|it| it.layer == descriptor.digest);
        if is_ordinary(descriptor) && !again {
            progress(Progress::Layer(descriptor));
            let layer = opener.whole_layer(descriptor, repository).await?;
            let (part, index) = index_layer(layer, diff_id, options).await?;
            report.indexed = true;
            report.tar_size = index.tar_size;
            report.index_size = part.size();
            report.entries = index.entries;
            parts.push(part);
            progress(Progress::Done(descriptor));
        }
        layers.push(report);
    }
    if parts.is_empty() {
        return Err(Error::invalid(format!(
            "manifest {manifest}: names the indexes of all its layers; it needs no other"
        )));
    }
    let subject = source::subject(repository, manifest).await?;
    let artifact = Artifact::new(&parts, &subject)?;
    let (tables_size, windows_size) = artifact.sizes();
    let report = Report {
        manifest: manifest.clone(),
        index: artifact.digest().clone(),
        sealed: parts.iter().all(Part::is_sealed),
        tables_size,
        windows_size,
        tar_size: layers.iter().map(|it| it.tar_size).sum(),
        layers,
    };
    Ok((artifact, report))
}

/// What the report says of a layer's index.
struct Indexed {
    tar_size: u64,
    entries: usize,
}

async fn index_layer(layer: Layer, diff_id: Digest, options: Options) -> Result<(Part, Indexed)> {
    let claim = Claim {
        compression: layer.kind.compression,
        diff_id: diff_id.clone(),
        spacing: options.spacing,
    };
    // Nobody will read these files here: their chunks are only measured.
    let keep = Box::new(|bytes: bytes::Bytes| Algorithm::Blake3.digest(&bytes));
    let (blob, key) = (layer.descriptor.digest.clone(), layer.index_key.clone());
    let built = index::build(layer.source, claim, keep).await?;
    let index = built.into_index();
    let tar_size = tar_size(&index);
    let Digest::Sha256(diff_id) = diff_id else {
        return Err(Error::unsupported(format!(
            "layer {blob}: its DiffID is not sha256"
        )));
    };
    let encoding = tokio::task::spawn_blocking(move || {
        let layer = nacre::Layer {
            index,
            tar_size,
            diff_id,
        };
        let key: Option<&IndexKey> = key.as_ref();
        let entries = layer.index.entries.len();
        let part = nacre::encode(&layer, &blob, key)?;
        Ok((part, Indexed { tar_size, entries }))
    });
    encoding
        .await
        .map_err(|e| Error::internal("writing an index").with_source(e))?
}

/// Bytes of the layer's tar; where nobody has counted them, those that its files need.
fn tar_size(index: &LayerIndex) -> u64 {
    let table = &index.table;
    match table.checkpoints.plain_size {
        0 => table.plain_lengths().into_iter().map(u64::from).sum(),
        size => size,
    }
}
