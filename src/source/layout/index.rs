//! `index.json` and the manifests it names, read with bounds.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

use bytes::Bytes;
use serde::Deserialize;

use super::{blob_path, name};
use crate::{
    error::{Error, Kind, Result},
    oci::{Descriptor, Digest, Index, MAX_MANIFEST, RawManifest, media_type},
};

/// Annotation that holds a tag in `index.json`.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Largest `index.json` that is read: some 100,000 tags.
const MAX_INDEX: u64 = 64 << 20;

/// Reads `index.json`.
pub(super) fn read(root: &Path) -> Result<Index> {
    let path = root.join("index.json");
    let what = || path.display().to_string();
    let bytes = read_file(&path, MAX_INDEX)
        .map_err(|e| Error::io(what(), e))?
        .ok_or_else(|| Error::invalid(format!("{}: over {MAX_INDEX} bytes", what())))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::invalid(format!("{}: not an image index: {e}", what())))
}

/// An `index.json` without entries.
pub(super) fn empty() -> Index {
    Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.into()),
        manifests: Vec::new(),
        annotations: BTreeMap::new(),
    }
}

/// The tag of an entry.
pub(super) fn tag(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(REF_NAME).map(String::as_str)
}

/// Reads a manifest by digest and checks it. `media_type` is what an entry calls it, if there is
/// one.
pub(super) fn manifest(
    root: &Path,
    digest: &Digest,
    media_type: Option<&str>,
) -> Result<RawManifest> {
    let what = || format!("manifest {digest} of {}", name(root));
    let bytes = match read_file(&blob_path(root, digest), MAX_MANIFEST) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            return Err(Error::invalid(format!(
                "{}: over {MAX_MANIFEST} bytes",
                what()
            )));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::not_found(format!(
                "no manifest {digest} in {}",
                name(root)
            )));
        }
        Err(error) => return Err(Error::new(Kind::Io, what()).with_source(error)),
    };
    if !digest.matches(&bytes) {
        return Err(Error::corrupt(format!("{}: digest mismatch", what())));
    }
    let media_type = media_type.map_or_else(|| own_media_type(&bytes), ToOwned::to_owned);
    Ok(RawManifest {
        digest: digest.clone(),
        ..RawManifest::new(media_type, bytes)
    })
}

/// What a document calls itself, or what its shape says; there is no `Content-Type` in a directory.
fn own_media_type(bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let shape = serde_json::from_slice::<Shape>(bytes).unwrap_or(Shape {
        media_type: None,
        manifests: None,
    });
    shape.media_type.unwrap_or_else(|| {
        match shape.manifests {
            Some(_) => media_type::OCI_INDEX,
            None => media_type::OCI_MANIFEST,
        }
        .to_owned()
    })
}

/// A regular file's bytes; `None` if there are more than `limit`.
fn read_file(path: &Path, limit: u64) -> io::Result<Option<Bytes>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then(|| bytes.into()))
}
