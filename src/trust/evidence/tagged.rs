//! cosign's simple signing: layers of `sha256-HEX.sig`, or of a referrer of the same form.

use futures::{StreamExt, stream};

use super::{CONCURRENT, Candidate, Content, MAX_CANDIDATES, candidate, refused, too_many};
use crate::{
    error::{Error, Kind, Result},
    oci::{Descriptor, Document, Location, Manifest, RawManifest, Reference},
    source::{Repository, read_verified},
    trust::{cosign, grant::EvidenceKind, sigstore::Attached},
};

/// The layers of `sha256-HEX.sig`.
pub(super) async fn tagged(
    repository: &dyn Repository,
    asked: &Reference,
    subject: &RawManifest,
) -> Result<Vec<Candidate>> {
    let tag = cosign::tag_of(&subject.digest);
    let raw = match repository.manifest(&Location::Tag(tag.clone())).await {
        Ok(raw) => raw,
        Err(error) if error.kind() == Kind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.context(format!("signatures in tag {tag}"))),
    };
    match raw.parse() {
        Ok(Document::Manifest(manifest)) => Ok(simple(repository, asked, subject, &manifest).await),
        Ok(Document::Index(_)) => Ok(vec![refused(
            EvidenceKind::CosignSignature,
            &raw.digest,
            subject,
            format!("tag {tag} is an index, not an image of signatures"),
        )]),
        Err(error) => Ok(vec![refused(
            EvidenceKind::CosignSignature,
            &raw.digest,
            subject,
            error.to_string(),
        )]),
    }
}

/// The simple signing layers of a signature image.
pub(super) async fn simple(
    repository: &dyn Repository,
    asked: &Reference,
    subject: &RawManifest,
    manifest: &Manifest,
) -> Vec<Candidate> {
    let expected = match asked {
        Reference::Registry(name) => {
            Some(cosign::write_payload(&subject.digest, &name.repository()))
        }
        Reference::Layout { .. } => None,
    };
    let expected = expected.as_deref();
    // Collected first: a stream over the closure itself would not be `Send`.
    let fetches: Vec<_> = manifest
        .layers
        .iter()
        .take(MAX_CANDIDATES)
        .map(|layer| signature_layer(repository, expected, subject, layer))
        .collect();
    let mut candidates: Vec<Candidate> = stream::iter(fetches).buffered(CONCURRENT).collect().await;
    if manifest.layers.len() > MAX_CANDIDATES {
        candidates.push(too_many(
            EvidenceKind::CosignSignature,
            subject,
            manifest.layers.len(),
        ));
    }
    candidates
}

/// One layer of a signature image.
async fn signature_layer(
    repository: &dyn Repository,
    expected: Option<&[u8]>,
    subject: &RawManifest,
    layer: &Descriptor,
) -> Candidate {
    let content = match signature(layer) {
        Ok(signature) => {
            payload(repository, layer, expected)
                .await
                .map(|payload| Content::Simple {
                    payload,
                    signature,
                    attached: Box::new(Attached::of(layer)),
                })
        }
        Err(why) => Err(Error::invalid(why)),
    };
    candidate(
        EvidenceKind::CosignSignature,
        &layer.digest,
        subject,
        content,
    )
}

/// The payload's bytes. The one that cosign writes for this image and name is known beforehand: if
/// the layer has its digest, nothing is fetched, which saves a round trip before every mount.
async fn payload(
    repository: &dyn Repository,
    layer: &Descriptor,
    expected: Option<&[u8]>,
) -> Result<Vec<u8>> {
    match expected {
        Some(expected) if layer.digest.matches(expected) => Ok(expected.to_vec()),
        _ => read_verified(repository, layer, cosign::MAX_PAYLOAD)
            .await
            .map(|payload| payload.to_vec()),
    }
}

fn signature(layer: &Descriptor) -> Result<Vec<u8>, String> {
    if layer.media_type != cosign::SIMPLE_SIGNING {
        return Err(format!(
            "media type {:?} is not a signature",
            layer.media_type
        ));
    }
    cosign::signature_of(layer)
}
