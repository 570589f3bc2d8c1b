//! Collecting the attestations that are attached to a manifest: layers of `sha256-HEX.att`, and
//! bundles among the referrers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use futures::{StreamExt, future::join, stream};

use super::{Attestation, Content, Form, statement::Envelope};
use crate::{
    error::{Error, Kind, Result},
    oci::{Descriptor, Digest, Document, Location, RawManifest},
    source::{Repository, read_verified},
    trust::{
        bundle::{ARTIFACT_PREFIX, PREDICATE_ANNOTATION, SIGN_PREDICATE},
        json,
        referrers::Referrers,
        sigstore::Attached,
    },
};

/// Which types of predicate are looked for; `None` for all.
type Types<'a> = Option<&'a [&'a str]>;

/// Media type of a layer that is an envelope.
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
/// Annotation of such a layer.
const PREDICATE: &str = "predicateType";
/// Largest attestation that is read, and most bytes of all that one image has. Provenance has some
/// KiB; an SBOM of a large image has tens of megabytes, and more again in base64.
const MAX_ATTESTATION: u64 = 64 << 20;
const MAX_TOGETHER: u64 = 96 << 20;
/// Most attestations of one manifest that are looked at (cosign has the same cap).
const MAX_CANDIDATES: usize = 100;
/// Attestations that are fetched at once.
const CONCURRENT: usize = 4;

/// Bytes that may still be read.
struct Budget(AtomicU64);

// === impl Budget ===

impl Budget {
    async fn read(&self, repository: &dyn Repository, blob: &Descriptor) -> Result<Bytes> {
        let take = |left: u64| left.checked_sub(blob.size);
        if self.0.fetch_update(Relaxed, Relaxed, take).is_err() {
            return Err(Error::invalid(format!(
                "blob {}: {} bytes; of one image's attestations at most {MAX_TOGETHER} are read",
                blob.digest, blob.size
            )));
        }
        read_verified(repository, blob, MAX_ATTESTATION).await
    }
}

/// Everything attached to any of `subjects` that is of one of `types` as far as unsigned
/// annotations say, and why a place could not be asked.
pub(in crate::trust) async fn collect(
    repository: &dyn Repository,
    lists: &Referrers<'_>,
    subjects: &[RawManifest],
    types: Types<'_>,
) -> (Vec<Attestation>, Option<Error>) {
    let budget = Budget(AtomicU64::new(MAX_TOGETHER));
    let mut found = Vec::new();
    let mut failure = None;
    for subject in subjects {
        let (layers, bundles) = join(
            layers(repository, &budget, subject, types),
            bundles(repository, &budget, lists, subject, types),
        )
        .await;
        for place in [layers, bundles] {
            match place {
                Ok(attestations) => found.extend(attestations),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
    }
    failure = failure.or(found.iter().find_map(Attestation::away));
    (found, failure)
}

/// The layers of `sha256-HEX.att`.
async fn layers(
    repository: &dyn Repository,
    budget: &Budget,
    subject: &RawManifest,
    types: Types<'_>,
) -> Result<Vec<Attestation>> {
    let tag = format!(
        "{}-{}.att",
        subject.digest.algorithm(),
        subject.digest.hex()
    );
    let raw = match repository.manifest(&Location::Tag(tag.clone())).await {
        Ok(raw) => raw,
        Err(error) if error.kind() == Kind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.context(format!("attestations in tag {tag}"))),
    };
    let manifest = match raw.parse() {
        Ok(Document::Manifest(manifest)) => manifest,
        Ok(Document::Index(_)) => {
            let why = Error::invalid(format!("tag {tag} is an index, not an image"));
            return Ok(vec![attestation(&raw.digest, subject, Err(why))]);
        }
        Err(error) => return Ok(vec![attestation(&raw.digest, subject, Err(error))]),
    };
    let fetches: Vec<_> = manifest
        .layers
        .iter()
        .filter(|layer| layer.media_type == ENVELOPE)
        .filter(|layer| is_wanted(layer.annotations.get(PREDICATE), types))
        .take(MAX_CANDIDATES)
        .map(|layer| of_layer(repository, budget, subject, layer))
        .collect();
    Ok(stream::iter(fetches).buffered(CONCURRENT).collect().await)
}

async fn of_layer(
    repository: &dyn Repository,
    budget: &Budget,
    subject: &RawManifest,
    layer: &Descriptor,
) -> Attestation {
    let content = budget.read(repository, layer).await.and_then(|bytes| {
        let read = || -> Result<Content, String> {
            let envelope = Envelope::parse(&bytes)?;
            Ok(Content {
                statement: envelope.statement()?,
                envelope,
                form: Form::Layer {
                    envelope: bytes.to_vec(),
                    attached: Box::new(Attached::of(layer)),
                },
            })
        };
        read().map_err(Error::invalid)
    });
    attestation(&layer.digest, subject, content)
}

/// The bundles among the referrers that hold a statement which does not sign the image.
async fn bundles(
    repository: &dyn Repository,
    budget: &Budget,
    lists: &Referrers<'_>,
    subject: &RawManifest,
    types: Types<'_>,
) -> Result<Vec<Attestation>> {
    let all = lists.of(&subject.digest).await?;
    let fetches: Vec<_> = all
        .iter()
        .filter(|it| {
            it.artifact_type
                .as_deref()
                .is_none_or(|kind| kind.starts_with(ARTIFACT_PREFIX))
        })
        .take(MAX_CANDIDATES)
        .map(|descriptor| of_referrer(repository, budget, subject, descriptor, types))
        .collect();
    let fetched: Vec<Option<Attestation>> =
        stream::iter(fetches).buffered(CONCURRENT).collect().await;
    Ok(fetched.into_iter().flatten().collect())
}

async fn of_referrer(
    repository: &dyn Repository,
    budget: &Budget,
    subject: &RawManifest,
    descriptor: &Descriptor,
    types: Types<'_>,
) -> Option<Attestation> {
    let refuse = |error: Error| Some(attestation(&descriptor.digest, subject, Err(error)));
    let location = Location::Digest(descriptor.digest.clone());
    let manifest = match repository.manifest(&location).await {
        Ok(raw) if !descriptor.digest.matches(&raw.bytes) => {
            return refuse(Error::corrupt("referrer: digest mismatch"));
        }
        Ok(raw) => match raw.parse() {
            Ok(Document::Manifest(manifest)) => manifest,
            Ok(Document::Index(_)) => return None,
            Err(error) => return refuse(error),
        },
        Err(error) => return refuse(error),
    };
    let [layer] = &manifest.layers[..] else {
        return None;
    };
    if !layer.media_type.starts_with(ARTIFACT_PREFIX)
        || !is_wanted(manifest.annotations.get(PREDICATE_ANNOTATION), types)
    {
        return None;
    }
    let read = |bytes: &[u8]| -> Result<Option<Content>, String> {
        let root = json::parse(bytes).map_err(|f| format!("bundle: {f}"))?;
        // A signature over the manifest itself is no statement.
        let Some(envelope) = root.get("dsseEnvelope") else {
            return Ok(None);
        };
        let envelope = Envelope::of(envelope)?;
        let statement = envelope.statement()?;
        Ok(
            (statement.predicate_type != SIGN_PREDICATE).then(|| Content {
                statement,
                envelope,
                form: Form::Bundle(bytes.to_vec()),
            }),
        )
    };
    let content = match budget.read(repository, layer).await {
        Ok(bytes) => read(&bytes).map_err(Error::invalid).transpose()?,
        Err(error) => Err(error),
    };
    Some(attestation(&layer.digest, subject, content))
}

/// Whether an annotation, which nobody signs, leaves it open that the attestation is of one of
/// `types`; saves fetching SBOMs where provenance is asked for.
fn is_wanted(annotation: Option<&String>, types: Types<'_>) -> bool {
    match (annotation, types) {
        (Some(annotation), _) if annotation == SIGN_PREDICATE => false,
        (Some(annotation), Some(types)) => types.contains(&annotation.as_str()),
        _ => true,
    }
}

fn attestation(blob: &Digest, subject: &RawManifest, content: Result<Content>) -> Attestation {
    Attestation {
        blob: blob.clone(),
        subject: subject.clone(),
        content,
    }
}
