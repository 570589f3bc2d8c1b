//! What is attached to an image without a signature: cosign's `.sbom` tag, and referrers whose type is
//! that of a bill of materials (oras, trivy, syft).

use super::{MAX_SBOM, Place, Sbom, Trust};
use crate::{
    error::{Error, Kind, Result},
    oci::{Descriptor, Digest, Document, Location, Manifest},
    source::{Repository, read_verified},
    trust::Grant,
};

/// Media types of documents, before any `+json`.
const TYPES: [&str; 5] = [
    "application/spdx",
    "text/spdx",
    "application/vnd.cyclonedx",
    "application/vnd.syft",
    "application/vnd.goharbor.harbor.sbom",
];
/// Most documents of one image and place.
const MAX_DOCUMENTS: usize = 32;

pub(super) async fn find(grant: &Grant, repository: &dyn Repository) -> Result<Vec<Sbom>> {
    let mut found = Vec::new();
    let subjects = [Some(grant.manifest_digest()), grant.index_digest()];
    for subject in subjects.into_iter().flatten() {
        found.extend(tagged(repository, subject).await?);
    }
    for subject in subjects.into_iter().flatten() {
        found.extend(referring(repository, subject).await?);
    }
    Ok(found)
}

async fn tagged(repository: &dyn Repository, subject: &Digest) -> Result<Vec<Sbom>> {
    let tag = format!("{}-{}.sbom", subject.algorithm(), subject.hex());
    let raw = match repository.manifest(&Location::Tag(tag.clone())).await {
        Ok(raw) => raw,
        Err(error) if error.kind() == Kind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.context(format!("SBOM in tag {tag}"))),
    };
    let Document::Manifest(manifest) = raw.parse()? else {
        return Err(Error::invalid(format!("tag {tag} is an index")));
    };
    documents(repository, &manifest, Place::CosignTag).await
}

async fn referring(repository: &dyn Repository, subject: &Digest) -> Result<Vec<Sbom>> {
    let all = match repository.referrers(subject).await {
        Ok(all) => all,
        Err(error) if error.kind() == Kind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.context(format!("referrers of {subject}"))),
    };
    let mut found = Vec::new();
    let wanted = |it: &&Descriptor| it.artifact_type.as_deref().is_some_and(is_sbom);
    for referrer in all.iter().filter(wanted).take(MAX_DOCUMENTS) {
        let location = Location::Digest(referrer.digest.clone());
        let raw = repository.manifest(&location).await?;
        if let Document::Manifest(manifest) = raw.parse()? {
            found.extend(documents(repository, &manifest, Place::Referrer).await?);
        }
    }
    Ok(found)
}

async fn documents(
    repository: &dyn Repository,
    manifest: &Manifest,
    place: Place,
) -> Result<Vec<Sbom>> {
    let mut found = Vec::new();
    let layers = manifest.layers.iter().filter(|it| is_sbom(&it.media_type));
    for layer in layers.take(MAX_DOCUMENTS) {
        let bytes = read_verified(repository, layer, MAX_SBOM).await?;
        let trust = Trust::unsigned("it is attached, and nobody signed it");
        found.push(Sbom::new(trust, place, layer.digest.clone(), bytes));
    }
    Ok(found)
}

fn is_sbom(media_type: &str) -> bool {
    TYPES.iter().any(|it| media_type.starts_with(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_documents() {
        for (media_type, want) in [
            ("application/spdx+json", true),
            ("text/spdx", true),
            ("text/spdx+json", true),
            ("application/vnd.cyclonedx+xml", true),
            ("application/vnd.syft+json", true),
            ("application/vnd.oci.image.layer.v1.tar+gzip", false),
            ("application/vnd.dev.sigstore.bundle.v0.3+json", false),
        ] {
            assert_eq!(is_sbom(media_type), want, "{media_type}");
        }
    }
}
