//! What an image is, without admitting or decrypting it: for `nacre inspect`.

use serde::Serialize;

use crate::{
    error::{Error, Result},
    index::{Binding, Dialect},
    oci::{Descriptor, Digest, Document, Location, Platform, RawManifest, media_type},
    ocicrypt::{self, PacketInfo},
    source::Repository,
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
    /// Which index the manifest vouches for: `estargz`, `zstd:chunked`.
    pub index: Option<&'static str>,
    /// Whether it can be mounted lazily.
    pub lazy: bool,
    /// Why not, if not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

/// Describes the image at `location`, of `platform` if there are several.
///
/// # Errors
/// `NotFound`, `Invalid`, and what the registry says.
pub async fn inspect(
    repository: &dyn Repository,
    location: &Location,
    platform: &Platform,
) -> Result<ImageReport> {
    let raw = repository.manifest(location).await?;
    match raw.parse()? {
        Document::Manifest(manifest) => Ok(report(None, &raw, &manifest.layers)),
        Document::Index(index) => {
            let chosen = Location::Digest(index.choose(platform)?.digest.clone());
            let image = repository.manifest(&chosen).await?;
            match image.parse()? {
                Document::Manifest(manifest) => {
                    Ok(report(Some(raw.digest), &image, &manifest.layers))
                }
                Document::Index(_) => Err(Error::invalid(format!(
                    "index {}: names another index",
                    raw.digest
                ))),
            }
        }
    }
}

fn report(index_digest: Option<Digest>, raw: &RawManifest, layers: &[Descriptor]) -> ImageReport {
    let encrypted = layers.iter().filter(|l| ocicrypt::is_encrypted(l)).count();
    let layers: Vec<LayerReport> = layers.iter().map(LayerReport::of).collect();
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
    fn of(layer: &Descriptor) -> Self {
        let (index, why_not) = match (
            media_type::layer_kind(&layer.media_type),
            Binding::of(layer),
        ) {
            (None, _) => (None, Some("not a tar layer".to_owned())),
            (Some(_), Ok(Some(binding))) => (Some(format_of(&binding)), None),
            (Some(_), Ok(None)) => (
                None,
                Some(
                    "no index annotation: read whole at its first mount on a node, lazily from then \
                     on; see `nacre image convert`"
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
            index,
            why_not,
        }
    }
}

fn format_of(binding: &Binding) -> &'static str {
    match binding {
        Binding::Estargz { .. } => "estargz",
        Binding::ZstdChunked {
            dialect: Dialect::Stargz,
            ..
        } => "zstd:chunked (stargz)",
        Binding::ZstdChunked {
            dialect: Dialect::Podman,
            ..
        } => "zstd:chunked (podman)",
    }
}
