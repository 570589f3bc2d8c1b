//! Images whose layers become others, or get other annotations, and stay the same otherwise: what
//! encrypting, decrypting and rewrapping have in common.

use std::{collections::HashMap, sync::Mutex};

use futures::future::BoxFuture;
use serde::Serialize;

use super::{
    From, OnProgress, Step,
    convert::Platforms,
    document::{Object, check_destination, encode, object, set, to_value},
    mover::Mover,
};
use crate::{
    error::{Error, Result},
    oci::{Descriptor, Digest, Document, Index, Location, Manifest, RawManifest, media_type},
    ocicrypt,
    source::RepositoryWriter,
};

/// What was made.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Digest of the new manifest or index.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Layers of all images, each blob once.
    pub layers: Vec<LayerReport>,
    /// Indexes that were attached to the image and are to the new one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<Digest>,
}

/// What became of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerReport {
    /// Digest before.
    pub from: Digest,
    /// Digest after.
    pub to: Digest,
    /// Bytes after.
    pub size: u64,
    /// What was done.
    pub how: How,
}

/// What was done with a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Encrypted, without an index that could be vouched for.
    Encrypted,
    /// Encrypted, with the digest of its index beside the key.
    EncryptedLazy,
    /// Decrypted.
    Decrypted,
    /// Its key was wrapped for others; its blob is the same.
    Rewrapped,
    /// Copied as it is, or found where it was to go.
    Copied,
    /// Taken by the registry from another of its repositories.
    Mounted,
    /// Not copied: its publisher keeps it.
    LeftOut,
}

/// Makes one layer.
pub(super) trait Layers: Sync {
    /// Whether an image of these layers can be made at all: asked before anything is.
    fn check(&self, layers: &[Descriptor]) -> Result<()>;

    /// Whether the layer at this height is to be changed, rather than copied.
    fn is_for(&self, layer: &Descriptor, number: usize, count: usize) -> bool;

    /// Looks at an image before its layers are made.
    fn begin<'a>(
        &'a self,
        manifest: &'a Manifest,
        mover: &'a Mover<'a>,
    ) -> BoxFuture<'a, Result<()>> {
        let _of_no_concern = (manifest, mover);
        Box::pin(async { Ok(()) })
    }

    /// The new descriptor of a layer that is to be changed, whose blob has been stored.
    fn layer<'a>(
        &'a self,
        layer: &'a Descriptor,
        mover: &'a Mover<'a>,
    ) -> BoxFuture<'a, Result<(Descriptor, How)>>;

    /// An image was made of the one whose manifest had the digest `before`.
    fn made(&self, before: &Digest, after: &RawManifest) {
        let _of_no_concern = (before, after);
    }
}

/// Makes the image at `from` anew and stores it at `location` of `to`.
pub(super) async fn rewrite(
    from: &From,
    to: &dyn RepositoryWriter,
    location: &Location,
    layers: &dyn Layers,
    progress: &OnProgress,
) -> Result<Report> {
    let rewriting = Rewriting {
        mover: Mover { from, to, progress },
        layers,
        done: Mutex::default(),
    };
    let raw = from.repository.manifest(&from.location).await?;
    let mut reports = Vec::new();
    let made = match raw.parse()? {
        Document::Manifest(manifest) => rewriting.image(&raw, &manifest, &mut reports).await?,
        Document::Index(index) => match &from.platforms {
            Platforms::One(platform) => {
                let (raw, manifest) = manifest_of(from, index.choose(platform)?).await?;
                rewriting.image(&raw, &manifest, &mut reports).await?
            }
            Platforms::All => rewriting.index(&raw, &index, &mut reports).await?,
        },
    };
    check_destination(location, &made)?;
    to.put_manifest(location, &made).await?;
    Ok(Report {
        digest: made.digest,
        media_type: made.media_type,
        layers: reports,
        indexes: Vec::new(),
    })
}

/// That there is something to decrypt.
pub(super) fn some_encrypted(layers: &[Descriptor]) -> Result<()> {
    if layers.iter().any(ocicrypt::is_encrypted) {
        return Ok(());
    }
    Err(Error::invalid("no layer is encrypted")
        .with_hint("nacre image copy copies an image as it is"))
}

/// The image that an index names.
pub(super) async fn manifest_of(
    from: &From,
    descriptor: &Descriptor,
) -> Result<(RawManifest, Manifest)> {
    let location = Location::Digest(descriptor.digest.clone());
    let raw = from.repository.manifest(&location).await?;
    match raw.parse()? {
        Document::Manifest(manifest) => Ok((raw, *manifest)),
        Document::Index(_) => Err(Error::unsupported(format!(
            "manifest {}: an index within an index",
            raw.digest
        ))),
    }
}

struct Rewriting<'a> {
    mover: Mover<'a>,
    layers: &'a dyn Layers,
    /// Images of several platforms share layers, and an image may have one twice: each is made once.
    done: Mutex<HashMap<(String, bool), Descriptor>>,
}

// === impl Rewriting ===

impl Rewriting<'_> {
    /// Makes every image of an index; each is stored by its digest. What is not an image (attestations
    /// of a builder) is left out, since it speaks of the images before.
    async fn index(
        &self,
        raw: &RawManifest,
        index: &Index,
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
            let (raw, manifest) = manifest_of(self.mover.from, descriptor).await?;
            let image = self.image(&raw, &manifest, reports).await?;
            let location = Location::Digest(image.digest.clone());
            self.mover.to.put_manifest(&location, &image).await?;
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

    /// Makes one image: layers and configuration are stored, the manifest is given back.
    async fn image(
        &self,
        raw: &RawManifest,
        manifest: &Manifest,
        reports: &mut Vec<LayerReport>,
    ) -> Result<RawManifest> {
        self.layers
            .check(&manifest.layers)
            .map_err(|e| e.context(format!("manifest {}", raw.digest)))?;
        self.layers.begin(manifest, &self.mover).await?;
        let mut document = object(&raw.bytes, &raw.digest)?;
        let Some(serde_json::Value::Array(layers)) = document.get_mut("layers") else {
            return Err(Error::invalid(format!(
                "manifest {}: no layers",
                raw.digest
            )));
        };
        let count = manifest.layers.len();
        for (number, (layer, value)) in manifest.layers.iter().zip(layers).enumerate() {
            let made = self
                .layer(layer, number, count, reports)
                .await
                .map_err(|e| e.context(format!("layer {}", layer.digest)))?;
            let Some(value) = value.as_object_mut() else {
                return Err(Error::invalid(format!(
                    "manifest {}: a layer that is no object",
                    raw.digest
                )));
            };
            replace(value, layer, &made)?;
        }
        self.mover.blob(&manifest.config).await?;
        if let Some(serde_json::Value::Object(config)) = document.get_mut("config")
            && manifest.config.media_type == DOCKER_CONFIG
        {
            set(config, "mediaType", media_type::OCI_CONFIG.into());
        }
        set(&mut document, "mediaType", media_type::OCI_MANIFEST.into());
        let made = encode(media_type::OCI_MANIFEST, &document)?;
        self.layers.made(&raw.digest, &made);
        Ok(made)
    }

    async fn layer(
        &self,
        layer: &Descriptor,
        number: usize,
        count: usize,
        reports: &mut Vec<LayerReport>,
    ) -> Result<Descriptor> {
        let is_for = self.layers.is_for(layer, number, count);
        // The same blob with other annotations, or not to be changed at this height, is another layer.
        let key = (to_value(layer)?.to_string(), is_for);
        let known = {
            let done = self
                .done
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            done.get(&key).cloned()
        };
        if let Some(made) = known {
            return Ok(made);
        }
        (self.mover.progress)(Step::Layer(layer.size));
        let (made, how) = if is_for {
            self.layers.layer(layer, &self.mover).await?
        } else {
            let how = self.mover.blob(layer).await?;
            let media_type = media_type::as_oci(&layer.media_type);
            let made = Descriptor {
                media_type: media_type.unwrap_or_else(|| layer.media_type.clone()),
                ..layer.clone()
            };
            (made, how)
        };
        reports.push(LayerReport {
            from: layer.digest.clone(),
            to: made.digest.clone(),
            size: made.size,
            how,
        });
        let mut done = self
            .done
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        done.insert(key, made.clone());
        Ok(made)
    }
}

const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Puts what was made in place of a layer's descriptor; fields that are not known stay, unless they
/// hold or lead to the bytes of before.
fn replace(value: &mut Object, before: &Descriptor, made: &Descriptor) -> Result<()> {
    if made.digest != before.digest {
        value.remove("data");
        value.remove("urls");
    }
    set(value, "mediaType", made.media_type.clone().into());
    set(value, "digest", made.digest.to_string().into());
    set(value, "size", made.size.into());
    if made.annotations.is_empty() {
        value.remove("annotations");
    } else {
        set(value, "annotations", to_value(&made.annotations)?);
    }
    Ok(())
}
