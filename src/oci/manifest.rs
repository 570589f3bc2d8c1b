//! Descriptors, manifests and indexes.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Digest, Platform, media_type};
use crate::error::{Error, Result};

/// Largest manifest or index that is read (registries cap at 4 MiB).
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;

/// Points at content: media type, digest, size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    pub media_type: String,
    /// Digest of the content's bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Key to value; what binds a layer index to the manifest.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub annotations: BTreeMap<String, String>,
    /// In an index: what the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Type of an artifact that a referrers list points at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// An image manifest, OCI or Docker version 2 schema 2.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of the manifest itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Type of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image configuration.
    pub config: Descriptor,
    /// Layers, lowest first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// The manifest this one refers to (OCI 1.1 referrers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations of the image.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// An image index or manifest list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of the index itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// One descriptor a platform (and what else a builder put there).
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// Annotations of the index.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// A manifest's or index's exact bytes with their digest, as a source gave them.
#[derive(Clone, Debug)]
pub struct RawManifest {
    /// Media type by which the source named it.
    pub media_type: String,
    /// Digest of `bytes`; computed, never taken from a header.
    pub digest: Digest,
    /// The document.
    pub bytes: Bytes,
}

/// A parsed [`RawManifest`].
#[derive(Clone, Debug)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several images to choose from.
    Index(Index),
}

fn or_default<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

// === impl Descriptor ===

impl Descriptor {
    /// A descriptor of `bytes`.
    #[must_use]
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.into(),
            digest: Digest::sha256(bytes),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }

    /// Whether this is one of BuildKit's attestation manifests, which are not images.
    #[must_use]
    pub fn is_buildkit_attestation(&self) -> bool {
        self.annotations
            .get("vnd.docker.reference.type")
            .is_some_and(|v| v == "attestation-manifest")
            || self
                .platform
                .as_ref()
                .is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
    }
}

// === impl RawManifest ===

impl RawManifest {
    /// Names `bytes` by their SHA-256.
    #[must_use]
    pub fn new(media_type: impl Into<String>, bytes: Bytes) -> Self {
        Self {
            media_type: media_type.into(),
            digest: Digest::sha256(&bytes),
            bytes,
        }
    }

    /// A descriptor of this document.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            digest: self.digest.clone(),
            ..Descriptor::of(self.media_type.clone(), &self.bytes)
        }
    }

    /// Parses the document. What it is, is decided by its own `mediaType` where it has one, and the
    /// source's word must agree with it, so that one digest cannot be read as two things.
    ///
    /// # Errors
    /// `Invalid` if it is not an image manifest or index, is ambiguous, or is malformed.
    pub fn parse(&self) -> Result<Document> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
        }
        let bad = |what: String| Error::invalid(format!("manifest {}: {what}", self.digest));
        let shape: Shape =
            serde_json::from_slice(&self.bytes).map_err(|e| bad(format!("not a manifest: {e}")))?;
        if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
            return Err(bad(
                "has both manifests and layers: it could be read as two images".into(),
            ));
        }
        let named = shape.media_type.as_deref().unwrap_or(&self.media_type);
        if media_type::is_index(named) && shape.manifests.is_some() {
            serde_json::from_slice(&self.bytes).map(Document::Index)
        } else if media_type::is_manifest(named) && shape.manifests.is_none() {
            serde_json::from_slice(&self.bytes).map(|m| Document::Manifest(Box::new(m)))
        } else {
            return Err(bad(format!(
                "media type {named:?} is not an image manifest or index"
            )));
        }
        .map_err(|e| bad(e.to_string()))
    }
}

// === impl Index ===

impl Index {
    /// The first manifest for `platform`, attestation manifests left out. An entry with no platform
    /// counts only if it is alone.
    ///
    /// # Errors
    /// `NotFound`, naming the platforms that are there.
    pub fn choose(&self, platform: &Platform) -> Result<&Descriptor> {
        let images: Vec<&Descriptor> = self
            .manifests
            .iter()
            .filter(|d| !d.is_buildkit_attestation() && media_type::is_manifest(&d.media_type))
            .collect();
        if let [only] = images[..]
            && only.platform.is_none()
        {
            return Ok(only);
        }
        images
            .iter()
            .find(|d| {
                d.platform
                    .as_ref()
                    .is_some_and(|offered| platform.accepts(offered))
            })
            .copied()
            .ok_or_else(|| {
                let offered: Vec<String> = images
                    .iter()
                    .filter_map(|d| d.platform.as_ref())
                    .map(ToString::to_string)
                    .collect();
                Error::not_found(format!(
                    "no image for {platform}; the index has {}",
                    offered.join(", ")
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(media_type: &str, text: &str) -> RawManifest {
        RawManifest::new(media_type, Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn refuses_a_document_that_is_two_things() {
        let both = raw(
            media_type::OCI_INDEX,
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
        );
        assert!(both.parse().unwrap_err().to_string().contains("two images"));
        let lied = raw(
            media_type::OCI_MANIFEST,
            r#"{"schemaVersion":2,"manifests":[]}"#,
        );
        assert!(lied.parse().is_err());
    }

    #[test]
    fn chooses_a_platform_and_skips_attestations() {
        let zeros = format!("sha256:{}", "0".repeat(64));
        let ones = format!("sha256:{}", "1".repeat(64));
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[
            {{"mediaType":"{m}","digest":"{zeros}","size":1,"platform":{{"os":"unknown","architecture":"unknown"}},
              "annotations":{{"vnd.docker.reference.type":"attestation-manifest"}}}},
            {{"mediaType":"{m}","digest":"{ones}","size":1,"platform":{{"os":"linux","architecture":"arm64","variant":"v8"}}}}]}}"#,
            m = media_type::OCI_MANIFEST
        );
        let Document::Index(index) = raw(media_type::OCI_INDEX, &text).parse().unwrap() else {
            panic!("an index")
        };
        let chosen = index
            .choose(&Platform::parse("linux/arm64").unwrap())
            .unwrap();
        assert_eq!(chosen.digest.to_string(), ones);
        let error = index
            .choose(&Platform::parse("linux/s390x").unwrap())
            .unwrap_err();
        assert!(error.to_string().contains("linux/arm64/v8"), "{error}");
    }
}
