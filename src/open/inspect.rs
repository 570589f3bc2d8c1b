//! What an image is, without admitting or decrypting it: for `nacre inspect`.

use std::path::Path;

use serde::Serialize;

use super::{kind::IndexKind, ordinary::is_ordinary, soci};
use crate::{
    error::{Error, Result},
    index::{
        Binding, Subject,
        nacre::{self, Candidate, MAX_TABLES},
    },
    oci::{
        Descriptor, Digest, Document, ImageConfig, Location, Manifest, Platform, RawManifest,
        media_type,
    },
    ocicrypt::{self, PacketInfo},
    source::{Repository, read_verified},
    store::Indexes,
};

/// An image as its manifest describes it. Nothing in it is trusted.
#[derive(Clone, Debug, Serialize)]
pub struct ImageReport {
    /// Digest of the index the image was chosen from, if there was one.
    pub index_digest: Option<Digest>,
    /// Digest of the manifest.
    pub manifest_digest: Digest,
    /// Media type of the manifest.
    pub media_type: String,
    /// `encrypted` if every layer is, `partly encrypted`, or `plain`.
    pub encryption: &'static str,
    /// Whether every layer is lazy.
    pub lazy: bool,
    /// Bytes of all layers.
    pub size: u64,
    /// Lowest first.
    pub layers: Vec<LayerReport>,
}

/// One layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// As the manifest says.
    pub media_type: String,
    /// Which keys open it; empty if it is not encrypted.
    pub keys: Vec<PacketInfo>,
    /// What it would be opened by, if whoever has to vouches for it.
    pub index: Option<IndexKind>,
    /// Where that is found.
    pub index_from: Option<IndexFrom>,
    /// Whether it can be mounted lazily.
    pub lazy: bool,
    /// Why not, if not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

/// Where an index is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexFrom {
    /// The image's manifest names it.
    Manifest,
    /// This node made it.
    Node,
    /// It is attached to the image, and somebody has to vouch for it.
    Referrer,
}

/// Largest image configuration that is read.
const MAX_CONFIG: u64 = 8 << 20;

/// Describes the image at `location`, of `platform` if there are several. `kept` is the directory of
/// indexes that this node made of ordinary layers.
///
/// # Errors
/// `NotFound`, `Invalid`, and what the registry says.
pub async fn inspect(
    repository: &dyn Repository,
    location: &Location,
    platform: &Platform,
    kept: Option<&Path>,
) -> Result<ImageReport> {
    let raw = repository.manifest(location).await?;
    match raw.parse()? {
        Document::Manifest(manifest) => {
            let found = found(repository, &raw, &manifest, kept).await;
            Ok(report(None, &raw, &manifest.layers, &found))
        }
        Document::Index(index) => {
            let chosen = Location::Digest(index.choose(platform)?.digest.clone());
            let image = repository.manifest(&chosen).await?;
            match image.parse()? {
                Document::Manifest(manifest) => {
                    let found = found(repository, &image, &manifest, kept).await;
                    Ok(report(Some(raw.digest), &image, &manifest.layers, &found))
                }
                Document::Index(_) => Err(Error::invalid(format!(
                    "index {}: names another index",
                    raw.digest
                ))),
            }
        }
    }
}

type Found = Vec<Option<(IndexKind, IndexFrom)>>;

/// The indexes of ordinary layers, in the order in which a mount would look for them. What cannot be
/// read is passed over, as a mount does.
async fn found(
    repository: &dyn Repository,
    raw: &RawManifest,
    manifest: &Manifest,
    kept: Option<&Path>,
) -> Found {
    let mut found: Found = vec![None; manifest.layers.len()];
    if !manifest.layers.iter().any(is_ordinary) {
        return found;
    }
    let mut fill = |kind: IndexKind, from: IndexFrom, has: &dyn Fn(usize, &Descriptor) -> bool| {
        for (number, layer) in manifest.layers.iter().enumerate() {
            if found[number].is_none() && is_ordinary(layer) && has(number, layer) {
                found[number] = Some((kind, from));
            }
        }
    };
    if let Some(directory) = kept {
        let tars = tars(repository, manifest).await.unwrap_or_default();
        fill(IndexKind::Kept, IndexFrom::Node, &|number, layer| {
            let subject = tars.get(number).map(|diff_id| Subject {
                blob: layer.digest.clone(),
                blob_size: layer.size,
                diff_id: diff_id.clone(),
            });
            // Who has not its key does not find that of an encrypted layer.
            let plain = subject.filter(|_| !ocicrypt::is_encrypted(layer));
            plain.is_some_and(|subject| Indexes::seem_to_have(directory, &subject))
        });
    }
    let referrers = repository
        .referrers(&raw.digest)
        .await
        .unwrap_or_else(|error| {
            tracing::warn!(manifest = %raw.digest, %error, "referrers cannot be listed");
            Vec::new()
        });
    for candidate in nacre::candidates(&referrers) {
        match tables(repository, &candidate).await {
            Ok(tables) => fill(IndexKind::Attached, IndexFrom::Referrer, &|_, layer| {
                nacre::covers(&tables, &layer.digest)
            }),
            Err(error) => {
                let index = &candidate.descriptor.digest;
                tracing::warn!(%index, %error, "attached index passed over");
            }
        }
    }
    match soci::look(manifest, &referrers, repository).await {
        Ok(None) => {}
        Ok(Some((soci, is_named))) => {
            let from = if is_named {
                IndexFrom::Manifest
            } else {
                IndexFrom::Referrer
            };
            fill(IndexKind::Soci, from, &|_, layer| soci.covers(layer));
        }
        Err(error) => tracing::warn!(manifest = %raw.digest, %error, "SOCI index passed over"),
    }
    found
}

async fn tables(repository: &dyn Repository, candidate: &Candidate) -> Result<bytes::Bytes> {
    let digest = &candidate.descriptor.digest;
    let raw = repository
        .manifest(&Location::Digest(digest.clone()))
        .await?;
    match raw.parse()? {
        Document::Manifest(manifest) if digest.matches(&raw.bytes) => {
            let (tables, _) = nacre::blobs(&manifest)?;
            read_verified(repository, tables, MAX_TABLES).await
        }
        _ => Err(Error::invalid("it is not an index")),
    }
}

/// The DiffIDs that the configuration claims.
async fn tars(repository: &dyn Repository, manifest: &Manifest) -> Result<Vec<Digest>> {
    let raw = read_verified(repository, &manifest.config, MAX_CONFIG).await?;
    let config: ImageConfig = serde_json::from_slice(&raw)
        .map_err(|e| Error::invalid(format!("config {}: {e}", manifest.config.digest)))?;
    Ok(config.rootfs.diff_ids)
}

fn report(
    index_digest: Option<Digest>,
    raw: &RawManifest,
    layers: &[Descriptor],
    found: &Found,
) -> ImageReport {
    let encrypted = layers.iter().filter(|l| ocicrypt::is_encrypted(l)).count();
    let reports = layers.iter().zip(found);
    let layers: Vec<LayerReport> = reports
        .map(|(it, found)| LayerReport::of(it, *found))
        .collect();
    ImageReport {
        index_digest,
        manifest_digest: raw.digest.clone(),
        media_type: raw.media_type.clone(),
        encryption: match encrypted {
            0 => "plain",
            n if n == layers.len() => "encrypted",
            _ => "partly encrypted",
        },
        lazy: layers.iter().all(|layer| layer.lazy),
        size: layers.iter().map(|layer| layer.size).sum(),
        layers,
    }
}

impl LayerReport {
    fn of(layer: &Descriptor, found: Option<(IndexKind, IndexFrom)>) -> Self {
        let (index, why_not) = match (
            media_type::layer_kind(&layer.media_type),
            Binding::of(layer),
        ) {
            (None, _) => (None, Some("not a tar layer".to_owned())),
            (Some(_), Ok(Some(binding))) => {
                (Some((IndexKind::of(&binding), IndexFrom::Manifest)), None)
            }
            (Some(_), Ok(None)) if found.is_some() => (found, None),
            (Some(_), Ok(None)) => (
                None,
                Some(
                    "no index: read whole at its first mount on a node, lazily from then on; see \
                     `nacre image index` and `nacre image convert`"
                        .to_owned(),
                ),
            ),
            (Some(_), Err(error)) => (None, Some(error.to_string())),
        };
        Self {
            digest: layer.digest.clone(),
            size: layer.size,
            media_type: layer.media_type.clone(),
            keys: ocicrypt::packets(layer),
            lazy: why_not.is_none(),
            index: index.map(|(kind, _)| kind),
            index_from: index.map(|(_, from)| from),
            why_not,
        }
    }
}
