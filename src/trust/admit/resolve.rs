//! From a reference to the manifest that it names for a platform.

use super::Request;
use crate::{
    error::{Error, Result},
    oci::{Descriptor, Digest, Document, Location, Manifest, RawManifest, Reference},
    source::Repository,
};

/// A manifest, and the index it was chosen from.
pub(super) struct Resolved {
    pub(super) index: Option<RawManifest>,
    pub(super) manifest: RawManifest,
    pub(super) parsed: Manifest,
}

// === impl Resolved ===

impl Resolved {
    /// What a signature or attestation may be about.
    pub(super) fn subjects(&self) -> Vec<RawManifest> {
        [&self.manifest]
            .into_iter()
            .chain(self.index.as_ref())
            .cloned()
            .collect()
    }
}

/// Fetches what the reference names; from an index, what it has for the platform.
pub(super) async fn resolve(request: &Request<'_>) -> Result<Resolved> {
    let pinned = match request.reference {
        Reference::Registry(reference) => reference.digest(),
        Reference::Layout { name, .. } => match name {
            Some(Location::Digest(digest)) => Some(digest),
            _ => None,
        },
    };
    let by_digest = pinned.map(|digest| Location::Digest(digest.clone()));
    let location = by_digest.as_ref().unwrap_or(request.location);
    let top = fetch(request.repository, location).await?;
    if let Some(wanted) = request.expected_digest
        && *wanted != top.digest
    {
        return Err(Error::denied(format!(
            "tag moved: wanted {wanted}, is {}",
            top.digest
        )));
    }
    let index = match top.parse()? {
        Document::Manifest(parsed) => {
            return Ok(Resolved {
                index: None,
                manifest: top,
                parsed: *parsed,
            });
        }
        Document::Index(index) => index,
    };
    let chosen = index.choose(request.platform)?;
    let manifest = fetch_chosen(request.repository, chosen).await?;
    match manifest.parse()? {
        Document::Manifest(parsed) => Ok(Resolved {
            index: Some(top),
            manifest,
            parsed: *parsed,
        }),
        Document::Index(_) => Err(Error::invalid(format!(
            "manifest {}: an index inside an index",
            manifest.digest
        ))),
    }
}

async fn fetch_chosen(repository: &dyn Repository, chosen: &Descriptor) -> Result<RawManifest> {
    let raw = fetch(repository, &Location::Digest(chosen.digest.clone())).await?;
    if raw.bytes.len() as u64 != chosen.size {
        return Err(Error::corrupt(format!(
            "manifest {}: {} bytes where the index says {}",
            chosen.digest,
            raw.bytes.len(),
            chosen.size
        )));
    }
    Ok(raw)
}

/// Reads a manifest and names it by a digest that has been computed here: the one it was asked by,
/// or SHA-256.
async fn fetch(repository: &dyn Repository, location: &Location) -> Result<RawManifest> {
    let raw = repository.manifest(location).await?;
    let digest = match location {
        Location::Digest(digest) if digest.matches(&raw.bytes) => digest.clone(),
        Location::Digest(digest) => {
            return Err(Error::corrupt(format!(
                "manifest {digest}: digest mismatch"
            )));
        }
        Location::Tag(_) => Digest::sha256(&raw.bytes),
    };
    Ok(RawManifest { digest, ..raw })
}
