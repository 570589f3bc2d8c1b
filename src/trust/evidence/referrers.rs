//! Signatures among the referrers: bundles (cosign 3), and images of simple signing.

use futures::{StreamExt, stream};

use super::{
    CONCURRENT, Candidate, Content, MAX_CANDIDATES, candidate, refused, tagged::simple, too_many,
};
use crate::{
    error::{Error, Result},
    oci::{Descriptor, Document, Location, RawManifest, Reference},
    source::{Repository, read_verified},
    trust::{
        bundle::{self, Bundle},
        cosign,
        grant::EvidenceKind,
        referrers::Referrers,
    },
};

/// The bundles and signature images among the referrers.
pub(super) async fn referrers(
    repository: &dyn Repository,
    lists: &Referrers<'_>,
    asked: &Reference,
    subject: &RawManifest,
) -> Result<Vec<Candidate>> {
    let all = lists.of(&subject.digest).await?;
    // A referrer without a type may be a bundle: fallback tags of some writers leave it out.
    let bundles: Vec<&Descriptor> = all
        .iter()
        .filter(|d| d.artifact_type.as_deref().is_none_or(is_signature_artifact))
        .collect();
    let fetches: Vec<_> = bundles
        .iter()
        .take(MAX_CANDIDATES)
        .map(|descriptor| referrer(repository, asked, subject, descriptor))
        .collect();
    let fetched: Vec<Vec<Candidate>> = stream::iter(fetches).buffered(CONCURRENT).collect().await;
    let mut candidates: Vec<Candidate> = fetched.into_iter().flatten().collect();
    if bundles.len() > MAX_CANDIDATES {
        candidates.push(too_many(
            EvidenceKind::SigstoreBundle,
            subject,
            bundles.len(),
        ));
    }
    Ok(candidates)
}

/// One referrer: a bundle, a signature image, or something that is no concern of ours.
async fn referrer(
    repository: &dyn Repository,
    asked: &Reference,
    subject: &RawManifest,
    descriptor: &Descriptor,
) -> Vec<Candidate> {
    let refuse = |why: String| {
        vec![refused(
            EvidenceKind::SigstoreBundle,
            &descriptor.digest,
            subject,
            why,
        )]
    };
    let location = Location::Digest(descriptor.digest.clone());
    let manifest = match repository.manifest(&location).await {
        Ok(raw) if !descriptor.digest.matches(&raw.bytes) => {
            return refuse("referrer: digest mismatch".into());
        }
        Ok(raw) => match raw.parse() {
            Ok(Document::Manifest(manifest)) => manifest,
            Ok(Document::Index(_)) => return Vec::new(),
            Err(error) => return refuse(error.to_string()),
        },
        Err(error) => {
            return vec![candidate(
                EvidenceKind::SigstoreBundle,
                &descriptor.digest,
                subject,
                Err(error),
            )];
        }
    };
    let kind = manifest
        .artifact_type
        .as_deref()
        .unwrap_or(&manifest.config.media_type);
    if kind == cosign::SIGNATURE_ARTIFACT {
        return simple(repository, asked, subject, &manifest).await;
    }
    let [layer] = &manifest.layers[..] else {
        return match is_signature_artifact(kind) {
            true => refuse(format!(
                "{} layers where a bundle has one",
                manifest.layers.len()
            )),
            false => Vec::new(),
        };
    };
    if !layer.media_type.starts_with(bundle::ARTIFACT_PREFIX) {
        return Vec::new();
    }
    // The annotation is not signed; it only saves fetching what says itself that it is something
    // else. The signed predicate type is what decides.
    if let Some(predicate) = manifest.annotations.get(bundle::PREDICATE_ANNOTATION)
        && predicate != bundle::SIGN_PREDICATE
    {
        return refuse(format!("attestation of type {predicate}, not a signature"));
    }
    let content = match read_verified(repository, layer, bundle::MAX_BUNDLE).await {
        Ok(bytes) => Bundle::parse(&bytes)
            .map(|bundle| Content::Bundle(Box::new(bundle)))
            .map_err(Error::invalid),
        Err(error) => Err(error),
    };
    vec![candidate(
        EvidenceKind::SigstoreBundle,
        &layer.digest,
        subject,
        content,
    )]
}

fn is_signature_artifact(artifact_type: &str) -> bool {
    artifact_type.starts_with(bundle::ARTIFACT_PREFIX)
        || artifact_type == cosign::SIGNATURE_ARTIFACT
}
