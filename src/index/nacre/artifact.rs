//! The indexes of an image as an artifact that refers to it (OCI 1.1 referrers): what is found, and
//! what is pushed.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Part, directory};
use crate::{
    error::{Error, Result},
    oci::{Descriptor, Digest, Location, Manifest, RawManifest, media_type},
    source::{BlobContent, RepositoryWriter},
};

/// Artifact type of an index.
pub const ARTIFACT_TYPE: &str = "application/vnd.nacre.index.v1";
/// Media type of the tables of all layers.
pub const TABLES: &str = "application/vnd.nacre.index.tables.v1";
/// Media type of the windows of all layers.
pub const WINDOWS: &str = "application/vnd.nacre.index.windows.v1";
/// Annotation with digest and size of the tables. Lists of referrers repeat it, so that the tables
/// can be asked for at the same time as the manifest that vouches for them.
const TABLES_ANNOTATION: &str = "vnd.nacre.index.v1.tables";
/// Largest blob of tables that is read: those of the largest layers come to half of it.
pub const MAX_TABLES: u64 = 256 << 20;
/// Most indexes of one image that are looked at.
const MAX_CANDIDATES: usize = 16;
/// The empty JSON object, which an artifact without configuration has for one.
const EMPTY: &[u8] = b"{}";

/// An index of an image that somebody attached.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Of its manifest.
    pub descriptor: Descriptor,
    /// Its tables, by the word of the list of referrers.
    pub tables: Option<Descriptor>,
}

/// The indexes among an image's referrers.
#[must_use]
pub fn candidates(referrers: &[Descriptor]) -> Vec<Candidate> {
    let ours = |it: &&Descriptor| it.artifact_type.as_deref() == Some(ARTIFACT_TYPE);
    let candidate = |it: &Descriptor| Candidate {
        descriptor: it.clone(),
        tables: it.annotations.get(TABLES_ANNOTATION).and_then(|it| {
            let (digest, size) = it.split_once(' ')?;
            Some(Descriptor {
                digest: digest.parse().ok()?,
                size: size.parse().ok()?,
                ..Descriptor::of(TABLES, b"")
            })
        }),
    };
    let ours = referrers.iter().filter(ours).take(MAX_CANDIDATES);
    ours.map(candidate).collect()
}

/// The blobs that the manifest of an index names: its tables, and its windows if it has any.
///
/// # Errors
/// `Invalid` if it is not the manifest of an index.
pub fn blobs(manifest: &Manifest) -> Result<(&Descriptor, Option<&Descriptor>)> {
    let (tables, windows) = match &manifest.layers[..] {
        [tables] => (tables, None),
        [tables, windows] => (tables, Some(windows)),
        _ => return Err(Error::invalid("it has other blobs than tables and windows")),
    };
    if tables.media_type != TABLES || windows.is_some_and(|it| it.media_type != WINDOWS) {
        return Err(Error::invalid("its blobs are not tables and windows"));
    }
    if tables.size > MAX_TABLES {
        return Err(Error::invalid(format!(
            "its tables have {} bytes, at most {MAX_TABLES} are read",
            tables.size
        )));
    }
    Ok((tables, windows))
}

/// The manifest of an index, of another image that has the same layers.
///
/// # Errors
/// `Internal` if it cannot be written.
pub fn of_subject(manifest: &Manifest, subject: &Descriptor) -> Result<RawManifest> {
    let manifest = Manifest {
        subject: Some(subject.clone()),
        ..manifest.clone()
    };
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|e| Error::internal("manifest of an index").with_source(e))?;
    Ok(RawManifest::new(media_type::OCI_MANIFEST, bytes.into()))
}

/// An artifact that is ready to be pushed: the same for the same parts.
#[derive(Clone, Debug)]
pub struct Artifact {
    manifest: RawManifest,
    blobs: Vec<(Descriptor, Bytes)>,
}

// === impl Artifact ===

impl Artifact {
    /// Makes the artifact of `parts` that refers to `subject`.
    ///
    /// # Errors
    /// `Internal` if the manifest cannot be written.
    pub fn new(parts: &[Part], subject: &Descriptor) -> Result<Self> {
        let (tables, windows) = directory::join(parts);
        let mut blobs = vec![(Descriptor::of(TABLES, &tables), Bytes::from(tables))];
        if !windows.is_empty() {
            blobs.push((Descriptor::of(WINDOWS, &windows), Bytes::from(windows)));
        }
        let layers: Vec<Descriptor> = blobs.iter().map(|(it, _)| it.clone()).collect();
        let named = format!("{} {}", layers[0].digest, layers[0].size);
        let config = Descriptor::of(media_type::OCI_EMPTY, EMPTY);
        blobs.push((config.clone(), Bytes::from_static(EMPTY)));
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            artifact_type: Some(ARTIFACT_TYPE.into()),
            config,
            layers,
            subject: Some(subject.clone()),
            annotations: BTreeMap::from([(TABLES_ANNOTATION.to_owned(), named)]),
        };
        let bytes = serde_json::to_vec(&manifest)
            .map_err(|e| Error::internal("manifest of an index").with_source(e))?;
        Ok(Self {
            manifest: RawManifest::new(media_type::OCI_MANIFEST, bytes.into()),
            blobs,
        })
    }

    /// Digest of its manifest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.manifest.digest
    }

    /// Bytes of its tables and windows.
    #[must_use]
    pub fn sizes(&self) -> (u64, u64) {
        let of = |kind: &str| {
            let blobs = self.blobs.iter();
            let ours = blobs.filter(|(it, _)| it.media_type == kind);
            ours.map(|(it, _)| it.size).sum()
        };
        (of(TABLES), of(WINDOWS))
    }

    /// Stores it beside the image; its manifest last.
    ///
    /// # Errors
    /// What the writer says.
    pub async fn push(&self, writer: &dyn RepositoryWriter) -> Result<()> {
        for (descriptor, bytes) in &self.blobs {
            let content = BlobContent::Bytes(bytes.clone());
            writer.put_blob(descriptor, content).await?;
        }
        let location = Location::Digest(self.manifest.digest.clone());
        writer.put_manifest(&location, &self.manifest).await
    }
}
