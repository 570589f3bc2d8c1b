//! Converting an image into one whose layers can be mounted lazily.
//!
//! Each layer is streamed to a temporary file, checked against its digest, and written anew as eStargz
//! or zstd:chunked; the configuration gets the new diff ids, the manifest the new descriptors with the
//! annotations that bind each index. Nothing else changes, and the same input gives the same bytes.

use std::path::PathBuf;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::document::{Object, check_destination, encode, object, set, to_value};
use crate::{
    error::{Error, Result},
    index::{
        Binding, Dialect,
        write::{DEFAULT_CHUNK_SIZE, Format, WriteOptions},
    },
    oci::{
        Descriptor, Digest, Document, ImageConfig, Index, Location, Manifest, Platform,
        RawManifest, media_type,
    },
    source::{BlobContent, Repository, RepositoryWriter, read_verified},
};

mod layer;

/// What to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// The lazy format.
    pub format: Format,
    /// Whose annotations zstd:chunked layers get.
    pub dialect: Dialect,
    /// Most bytes in a chunk.
    pub chunk_size: u32,
    /// Compression level; the format's default if not given.
    pub level: Option<i32>,
    /// Which images of an index.
    pub platforms: Platforms,
    /// Directory for temporary files: the compressed source layer and its conversion.
    pub temporary: PathBuf,
    /// Threads that compress.
    pub threads: usize,
    /// Latest time (seconds since 1970) that the configuration may tell; what is later becomes this.
    pub latest: Option<u64>,
}

/// Which images of an image index are converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Platforms {
    /// One, which becomes an image without an index.
    One(Platform),
    /// All, in a new index. What is not an image (attestations of a builder) is left out, since it
    /// speaks of the images before the conversion.
    All,
}

/// How far a conversion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A layer begins.
    Layer {
        /// Which, from 1.
        number: usize,
        /// Of how many.
        count: usize,
        /// Its descriptor.
        layer: &'a Descriptor,
    },
    /// Bytes of it were read.
    Read(u64),
}

/// What was made.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Digest of the new manifest or index.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Layers of all images, old and new.
    pub layers: Vec<LayerReport>,
}

/// One layer's conversion.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// Digest before.
    pub from: Digest,
    /// Digest after; the same if it was copied.
    pub to: Digest,
    /// Bytes before.
    pub from_size: u64,
    /// Bytes after.
    pub to_size: u64,
    /// Whether it was lazy in the wanted format already.
    pub copied: bool,
}

/// Callback for [`Progress`].
pub type OnProgress<'a> = &'a (dyn Fn(Progress<'_>) + Send + Sync);

/// Largest image configuration that is read.
const MAX_CONFIG: u64 = 8 << 20;

// === impl Options ===

impl Options {
    /// The defaults for `format`, for the host's platform.
    #[must_use]
    pub fn new(format: Format, temporary: PathBuf) -> Self {
        let write = WriteOptions::new(format);
        Self {
            format,
            dialect: write.dialect,
            chunk_size: DEFAULT_CHUNK_SIZE,
            level: None,
            platforms: Platforms::One(Platform::host()),
            temporary,
            threads: write.threads,
            latest: None,
        }
    }

    fn write(&self) -> WriteOptions {
        let defaults = WriteOptions::new(self.format);
        WriteOptions {
            dialect: self.dialect,
            chunk_size: self.chunk_size,
            level: self.level.unwrap_or(defaults.level),
            threads: self.threads,
            ..defaults
        }
    }
}

/// Converts the image at `location` of `from` and stores it at `to_location` of `to`.
///
/// # Errors
/// `Unsupported` for encrypted layers and artifacts, `Corrupt` if the source is not what its digests
/// say, `NotFound` if the index has no such platform, and what reading and writing say.
pub async fn convert(
    from: &dyn Repository,
    location: &Location,
    to: &dyn RepositoryWriter,
    to_location: &Location,
    options: &Options,
    progress: OnProgress<'_>,
) -> Result<Report> {
    let conversion = Conversion {
        from,
        to,
        options,
        progress,
    };
    let raw = from.manifest(location).await?;
    let mut layers = Vec::new();
    let made = match raw.parse()? {
        Document::Manifest(manifest) => conversion.image(&raw, *manifest, &mut layers).await?,
        Document::Index(index) => match &options.platforms {
            Platforms::One(platform) => {
                let chosen = index.choose(platform)?;
                let (raw, manifest) = conversion.manifest_of(chosen).await?;
                conversion.image(&raw, manifest, &mut layers).await?
            }
            Platforms::All => conversion.index(&raw, index, &mut layers).await?,
        },
    };
    check_destination(to_location, &made)?;
    to.put_manifest(to_location, &made).await?;
    Ok(Report {
        digest: made.digest,
        media_type: made.media_type,
        layers,
    })
}

struct Conversion<'a> {
    from: &'a dyn Repository,
    to: &'a dyn RepositoryWriter,
    options: &'a Options,
    progress: OnProgress<'a>,
}

// === impl Conversion ===

impl Conversion<'_> {
    async fn manifest_of(&self, descriptor: &Descriptor) -> Result<(RawManifest, Manifest)> {
        let location = Location::Digest(descriptor.digest.clone());
        let raw = self.from.manifest(&location).await?;
        match raw.parse()? {
            Document::Manifest(manifest) => Ok((raw, *manifest)),
            Document::Index(_) => Err(Error::unsupported(format!(
                "manifest {}: an index within an index",
                raw.digest
            ))),
        }
    }

    /// Converts every image of an index; each is stored by its digest.
    async fn index(
        &self,
        raw: &RawManifest,
        index: Index,
        reports: &mut Vec<LayerReport>,
    ) -> Result<RawManifest> {
        let mut document = object(&raw.bytes, &raw.digest)?;
        let mut made = Vec::new();
        for descriptor in &index.manifests {
            if descriptor.is_buildkit_attestation()
                || !media_type::is_manifest(&descriptor.media_type)
            {
                continue;
            }
            let (raw, manifest) = self.manifest_of(descriptor).await?;
            let image = self.image(&raw, manifest, reports).await?;
            self.to
                .put_manifest(&Location::Digest(image.digest.clone()), &image)
                .await?;
            made.push(Descriptor {
                annotations: descriptor.annotations.clone(),
                platform: descriptor.platform.clone(),
                ..image.descriptor()
            });
        }
        if made.is_empty() {
            return Err(Error::not_found(format!(
                "index {}: no image in it",
                raw.digest
            )));
        }
        set(&mut document, "mediaType", media_type::OCI_INDEX.into());
        set(&mut document, "manifests", to_value(&made)?);
        encode(media_type::OCI_INDEX, &document)
    }

    /// Converts one image: layers and configuration are stored, the manifest is given back.
    async fn image(
        &self,
        raw: &RawManifest,
        manifest: Manifest,
        reports: &mut Vec<LayerReport>,
    ) -> Result<RawManifest> {
        for layer in &manifest.layers {
            refuse_unfit(layer)?;
        }
        let config_bytes = read_verified(self.from, &manifest.config, MAX_CONFIG).await?;
        let config: ImageConfig = serde_json::from_slice(&config_bytes)
            .map_err(|e| Error::invalid(format!("config {}: {e}", manifest.config.digest)))?;
        let count = manifest.layers.len();
        if config.rootfs.diff_ids.len() != count {
            return Err(Error::invalid(format!(
                "config {}: {} diff ids for {count} layers",
                manifest.config.digest,
                config.rootfs.diff_ids.len()
            )));
        }
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for (index, (layer, diff_id)) in manifest
            .layers
            .iter()
            .zip(&config.rootfs.diff_ids)
            .enumerate()
        {
            (self.progress)(Progress::Layer {
                number: index + 1,
                count,
                layer,
            });
            let (made, made_id, copied) = self
                .layer(layer, diff_id)
                .await
                .map_err(|e| e.context(format!("layer {}", layer.digest)))?;
            reports.push(LayerReport {
                from: layer.digest.clone(),
                to: made.digest.clone(),
                from_size: layer.size,
                to_size: made.size,
                copied,
            });
            layers.push(made);
            diff_ids.push(made_id);
        }
        let mut config = object(&config_bytes, &manifest.config.digest)?;
        set_diff_ids(&mut config, &manifest.config.digest, &diff_ids)?;
        if let Some(latest) = self.options.latest {
            clamp_times(&mut config, latest)?;
        }
        let config: Bytes = serde_json::to_vec(&config)
            .map_err(|e| Error::internal("config").with_source(e))?
            .into();
        let descriptor = Descriptor {
            annotations: manifest.config.annotations,
            ..Descriptor::of(media_type::OCI_CONFIG, &config)
        };
        self.to
            .put_blob(&descriptor, BlobContent::Bytes(config))
            .await?;
        let mut document = object(&raw.bytes, &raw.digest)?;
        set(&mut document, "mediaType", media_type::OCI_MANIFEST.into());
        set(&mut document, "config", to_value(&descriptor)?);
        set(&mut document, "layers", to_value(&layers)?);
        encode(media_type::OCI_MANIFEST, &document)
    }

    /// The converted layer's descriptor and diff id, and whether it was only copied.
    async fn layer(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
    ) -> Result<(Descriptor, Digest, bool)> {
        let source = self.from.blob(layer);
        let fetched = layer::fetch(&*source, &self.options.temporary, &|bytes| {
            (self.progress)(Progress::Read(bytes));
        })
        .await?;
        if self.is_lazy(layer)? {
            let made = Descriptor {
                media_type: oci_layer(layer)?.into(),
                ..layer.clone()
            };
            let content = BlobContent::File(fetched.path().to_path_buf());
            self.to.put_blob(&made, content).await?;
            return Ok((made, diff_id.clone(), true));
        }
        let (written, file) = layer::rewrite(
            layer,
            diff_id,
            fetched,
            &self.options.temporary,
            self.options.write(),
        )
        .await?;
        let mut annotations = layer.annotations.clone();
        annotations.retain(|key, _| !is_binding(key));
        annotations.extend(written.annotations);
        let made = Descriptor {
            media_type: written.media_type.into(),
            digest: written.digest,
            size: written.size,
            annotations,
            platform: None,
            artifact_type: None,
        };
        let content = BlobContent::File(file.path().to_path_buf());
        self.to.put_blob(&made, content).await?;
        Ok((made, written.diff_id, false))
    }

    fn is_lazy(&self, layer: &Descriptor) -> Result<bool> {
        Ok(match (Binding::of(layer)?, self.options.format) {
            (Some(Binding::Estargz { .. }), Format::Estargz) => true,
            (Some(Binding::ZstdChunked { dialect, .. }), Format::ZstdChunked) => {
                dialect == self.options.dialect
            }
            _ => false,
        })
    }
}

fn refuse_unfit(layer: &Descriptor) -> Result<()> {
    match media_type::layer_kind(&layer.media_type) {
        Some(kind) if kind.encrypted => Err(Error::unsupported(format!(
            "layer {}: encrypted layers are not converted",
            layer.digest
        ))
        .with_hint("decrypt the image first: nacre image decrypt SRC DST --decryption-key KEY")),
        Some(_) => Ok(()),
        None => Err(Error::unsupported(format!(
            "layer {}: media type {:?} is not a tar layer",
            layer.digest, layer.media_type
        ))),
    }
}

/// The OCI media type of a layer of the same compression.
fn oci_layer(layer: &Descriptor) -> Result<&'static str> {
    match media_type::layer_kind(&layer.media_type).map(|kind| kind.compression) {
        Some(media_type::Compression::Gzip) => Ok(media_type::OCI_LAYER_GZIP),
        Some(media_type::Compression::Zstd) => Ok(media_type::OCI_LAYER_ZSTD),
        _ => Err(Error::internal("a lazy layer that is not compressed")),
    }
}

/// Annotations that speak of an index of the layer before.
fn is_binding(key: &str) -> bool {
    use crate::index::binding::{
        PODMAN_PREFIX, STARGZ_PREFIX, TOC_DIGEST, TOC_OFFSET, UNCOMPRESSED_SIZE,
    };
    key.starts_with(PODMAN_PREFIX)
        || key.starts_with(STARGZ_PREFIX)
        || [TOC_DIGEST, TOC_OFFSET, UNCOMPRESSED_SIZE].contains(&key)
}

/// Gives the configuration other diff ids and leaves everything else as it was.
fn set_diff_ids(config: &mut Object, digest: &Digest, diff_ids: &[Digest]) -> Result<()> {
    match config.get_mut("rootfs") {
        Some(Value::Object(rootfs)) => rootfs.insert("diff_ids".into(), to_value(diff_ids)?),
        _ => return Err(Error::invalid(format!("config {digest}: no rootfs"))),
    };
    Ok(())
}

/// Makes `created`, the image's and its history's, not later than `latest`.
fn clamp_times(config: &mut Object, latest: u64) -> Result<()> {
    let limit = i64::try_from(latest)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| Error::invalid(format!("time {latest}: beyond the year 9999")))?;
    let text = limit
        .format(&Rfc3339)
        .map_err(|e| Error::internal("time").with_source(e))?;
    let clamp = |object: &mut Object| {
        if let Some(Value::String(created)) = object.get_mut("created") {
            // What is no time is as little reproducible as one that is late.
            let early = OffsetDateTime::parse(created, &Rfc3339).is_ok_and(|time| time <= limit);
            if !early {
                created.clone_from(&text);
            }
        }
    };
    clamp(config);
    if let Some(Value::Array(history)) = config.get_mut("history") {
        history
            .iter_mut()
            .filter_map(Value::as_object_mut)
            .for_each(clamp);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_are_later_become_the_latest() {
        let config = serde_json::json!({
            "created": "2020-01-01T00:00:00.5Z",
            "history": [
                {"created": "1999-12-31T23:59:59+01:00", "created_by": "a"},
                {"created": "2001-02-03T04:05:06Z"},
                {"created": "yesterday"},
                {"empty_layer": true},
            ],
        });
        let Value::Object(mut config) = config else {
            panic!("an object")
        };
        clamp_times(&mut config, 978_307_200).unwrap();
        let latest = "2001-01-01T00:00:00Z";
        assert_eq!(config["created"], latest);
        assert_eq!(config["history"][0]["created"], "1999-12-31T23:59:59+01:00");
        assert_eq!(config["history"][1]["created"], latest);
        assert_eq!(config["history"][2]["created"], latest);
        assert_eq!(
            config["history"][3],
            serde_json::json!({"empty_layer": true})
        );
        assert!(clamp_times(&mut config, u64::MAX).is_err());
    }
}
