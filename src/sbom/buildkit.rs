//! BuildKit's attestation manifests: in-toto statements that nobody signs, beside the images of an
//! index. A signed index vouches for them.

use super::{MAX_SBOM, Place, Sbom, Trust, format::PREDICATES};
use crate::{
    error::{Error, Result},
    oci::{Descriptor, Document, Location},
    source::{Repository, read_verified},
    trust::{Grant, statement_predicate},
};

const TYPE: &str = "vnd.docker.reference.type";
const ATTESTATION: &str = "attestation-manifest";
const DIGEST: &str = "vnd.docker.reference.digest";
const PREDICATE: &str = "in-toto.io/predicate-type";
const STATEMENT: &str = "application/vnd.in-toto+json";
/// Most statements of one image.
const MAX_STATEMENTS: usize = 16;

pub(super) async fn find(grant: &Grant, repository: &dyn Repository) -> Result<Vec<Sbom>> {
    let Some(index_digest) = grant.index_digest() else {
        return Ok(Vec::new());
    };
    let location = Location::Digest(index_digest.clone());
    let Document::Index(index) = repository.manifest(&location).await?.parse()? else {
        return Err(Error::corrupt(format!("index {index_digest}: is none")));
    };
    let signed = grant
        .evidence()
        .iter()
        .any(|it| it.signed_digest == *index_digest);
    let trust = match signed {
        true => Trust::InSignedImage,
        false => Trust::unsigned("the index that has it is not signed, as far as the policy asks"),
    };
    let image = grant.manifest_digest().to_string();
    let wanted = |it: &&Descriptor| {
        let says = |key: &str| it.annotations.get(key).map(String::as_str);
        says(TYPE) == Some(ATTESTATION) && says(DIGEST) == Some(image.as_str())
    };
    let mut found = Vec::new();
    for descriptor in index.manifests.iter().filter(wanted) {
        let location = Location::Digest(descriptor.digest.clone());
        let Document::Manifest(manifest) = repository.manifest(&location).await?.parse()? else {
            continue;
        };
        let layers = manifest.layers.iter().filter(|it| {
            let kind = it.annotations.get(PREDICATE).map(String::as_str);
            it.media_type == STATEMENT && kind.is_some_and(|it| PREDICATES.contains(&it))
        });
        for layer in layers.take(MAX_STATEMENTS) {
            let bytes = read_verified(repository, layer, MAX_SBOM).await?;
            let predicate = statement_predicate(&bytes, grant.manifest_digest())
                .map_err(|why| Error::invalid(format!("attestation {}: {why}", layer.digest)))?;
            let (digest, place) = (layer.digest.clone(), Place::BuildKit);
            found.push(Sbom::new(trust.clone(), place, digest, predicate.into()));
        }
    }
    Ok(found)
}
