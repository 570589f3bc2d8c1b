//! A profile as an artifact that refers to its image (OCI 1.1 referrers).
//!
//! The document is in an annotation of the artifact's manifest, which lists of referrers repeat: the
//! list that is asked for signatures brings the profile along, without a request of its own.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

use super::{ProfileKey, decode, encode};
use crate::{
    engine::Profile,
    error::{Error, Result},
    oci::{Descriptor, Digest, Location, Manifest, RawManifest, media_type},
    source::{BlobContent, Repository, RepositoryWriter},
};

/// Artifact type of a profile.
pub const ARTIFACT_TYPE: &str = "application/vnd.nacre.profile.v1";

/// The document in base64.
const PLAIN: &str = "vnd.nacre.profile.v1";
/// The sealed document in base64.
const SEALED: &str = "vnd.nacre.profile.v1.sealed";
/// When it was made (OCI); the newest profile counts.
const CREATED: &str = "org.opencontainers.image.created";
/// Largest annotation that is written or read: registries bound manifests at 4 MiB, and a list holds
/// several.
const MAX_TEXT: usize = 512 << 10;
/// The empty JSON object, which an artifact without content consists of.
const EMPTY: &[u8] = b"{}";

/// The newest profile that refers to the manifest and can be read; none is no error.
pub async fn find(
    repository: &dyn Repository,
    manifest: &Digest,
    key: Option<&ProfileKey>,
) -> Option<Profile> {
    let mut referrers = match repository.referrers(manifest).await {
        Ok(referrers) => referrers,
        Err(error) => {
            tracing::debug!(%manifest, %error, "no profile: referrers cannot be listed");
            return None;
        }
    };
    referrers.retain(|it| it.artifact_type.as_deref() == Some(ARTIFACT_TYPE));
    let created = |it: &Descriptor| it.annotations.get(CREATED).cloned().unwrap_or_default();
    referrers.sort_by_key(|it| std::cmp::Reverse((created(it), it.digest.to_string())));
    referrers.iter().find_map(|referrer| {
        let read = read(&referrer.annotations, manifest, key);
        read.inspect_err(|error| {
            tracing::warn!(%manifest, profile = %referrer.digest, %error, "profile passed over");
        })
        .ok()
    })
}

/// Attaches a profile to the manifest; sealed if there is a key. Gives the artifact's digest.
///
/// # Errors
/// `Invalid` if the profile is too large, and what the registry says.
pub async fn push(
    writer: &dyn RepositoryWriter,
    subject: &Descriptor,
    profile: &Profile,
    key: Option<&ProfileKey>,
    created: &str,
) -> Result<Digest> {
    let document = encode(profile)?;
    let (name, document) = match key {
        Some(key) => (SEALED, key.seal(&document, &subject.digest)?),
        None => (PLAIN, document),
    };
    let text = STANDARD.encode(document);
    if text.len() > MAX_TEXT {
        return Err(Error::invalid(format!(
            "profile of {} bytes in base64, at most {MAX_TEXT} are read",
            text.len()
        )));
    }
    let empty = Descriptor::of(media_type::OCI_EMPTY, EMPTY);
    let content = BlobContent::Bytes(Bytes::from_static(EMPTY));
    writer.put_blob(&empty, content).await?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.into()),
        artifact_type: Some(ARTIFACT_TYPE.into()),
        config: empty.clone(),
        layers: vec![empty],
        subject: Some(subject.clone()),
        annotations: BTreeMap::from([
            (name.to_owned(), text),
            (CREATED.to_owned(), created.to_owned()),
        ]),
    };
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|e| Error::internal("manifest of a profile").with_source(e))?;
    let raw = RawManifest::new(media_type::OCI_MANIFEST, bytes.into());
    let location = Location::Digest(raw.digest.clone());
    writer.put_manifest(&location, &raw).await?;
    Ok(raw.digest)
}

fn read(
    annotations: &BTreeMap<String, String>,
    manifest: &Digest,
    key: Option<&ProfileKey>,
) -> Result<Profile> {
    let text = |name: &str| {
        let text = annotations.get(name)?;
        Some(if text.len() > MAX_TEXT {
            Err(Error::invalid(format!("{} bytes in base64", text.len())))
        } else {
            let bytes = STANDARD.decode(text);
            bytes.map_err(|e| Error::invalid("not base64").with_source(e))
        })
    };
    match (text(SEALED), key) {
        (Some(sealed), Some(key)) => {
            let document = key.open(&sealed?, manifest);
            let not_ours = || Error::denied("sealed by another key or for another image");
            decode(&document.ok_or_else(not_ours)?)
        }
        (Some(_), None) => Err(Error::denied("sealed, and the image is not encrypted")),
        // An open profile of an encrypted image is somebody's choice, and as harmless as any.
        (None, _) => decode(&text(PLAIN).ok_or_else(|| Error::invalid("no document"))??),
    }
}
