//! Collecting the signatures that are attached to a manifest, and holding them against
//! requirements.
//!
//! Both storage forms are asked at once, the tag `sha256-HEX.sig` and the referrers. Whatever
//! cannot serve is kept as a reason, so that a refusal says what was found; a signature by somebody
//! else beside ours never stands in the way.

use futures::{Stream, StreamExt, future::BoxFuture, stream};

use super::{
    bundle::{self, Bundle},
    cosign,
    grant::{CertifiedSigner, Evidence, EvidenceKind},
    identity::SignedIdentity,
    key::PublicKey,
    signer::{Log, Signer},
    sigstore::{Attached, Proof},
};
use crate::{
    error::{Error, Kind, Result},
    oci::{Descriptor, Digest, Document, Location, Manifest, RawManifest, Reference},
    source::{Repository, read_verified},
};

/// One attached signature, or why it is none.
#[derive(Debug)]
pub(super) struct Candidate {
    /// For messages: kind and digest.
    name: String,
    kind: EvidenceKind,
    blob: Digest,
    /// The manifest or index it is attached to.
    subject: RawManifest,
    content: Result<Content>,
}

#[derive(Debug)]
enum Content {
    Simple {
        payload: Vec<u8>,
        signature: Vec<u8>,
        attached: Box<Attached>,
    },
    Bundle(Box<Bundle>),
}

/// Most signatures of one manifest that are looked at, in the order in which they were attached
/// (cosign has the same cap).
const MAX_CANDIDATES: usize = 100;
/// Signature blobs that are fetched at once.
const CONCURRENT: usize = 8;

/// Everything attached to any of `subjects` (the manifest, and the index it is from), one item for
/// each place that is asked. All places are asked at once; the order of the items is always the
/// same, so that the same image gives the same evidence.
pub(super) fn places<'a>(
    repository: &'a dyn Repository,
    asked: &'a Reference,
    subjects: &'a [RawManifest],
) -> impl Stream<Item = Result<Vec<Candidate>>> + 'a {
    let each = subjects.iter().flat_map(move |subject| {
        let tagged: BoxFuture<'a, Result<Vec<Candidate>>> =
            Box::pin(tagged(repository, asked, subject));
        [tagged, Box::pin(referrers(repository, asked, subject))]
    });
    stream::iter(each).buffered(2 * subjects.len().max(1))
}

/// The layers of `sha256-HEX.sig`.
async fn tagged(
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
async fn simple(
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

/// The bundles and signature images among the referrers.
async fn referrers(
    repository: &dyn Repository,
    asked: &Reference,
    subject: &RawManifest,
) -> Result<Vec<Candidate>> {
    let all = match repository.referrers(&subject.digest).await {
        Ok(all) => all,
        Err(error) if error.kind() == Kind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error.context(format!("referrers of {}", subject.digest)));
        }
    };
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

// === impl Candidate ===

impl Candidate {
    /// Holds the signature against one requirement.
    ///
    /// # Errors
    /// Why it does not serve, as one line.
    pub(super) fn check(
        &self,
        signer: &Signer,
        identity: &SignedIdentity,
        asked: &Reference,
    ) -> Result<Evidence, String> {
        let content = self
            .content
            .as_ref()
            .map_err(|why| self.because(&why.to_string()))?;
        let proof = self
            .proof(content, signer)
            .map_err(|why| self.because(&why))?;
        let name = self
            .accepted(content, identity, asked)
            .map_err(|why| self.because(&why))?;
        Ok(Evidence {
            kind: self.kind,
            signed_digest: self.subject.digest.clone(),
            key: Digest::sha256(&proof.key),
            signer: proof.certificate.map(|claims| CertifiedSigner {
                subject: claims.subject,
                issuer: claims.issuer,
            }),
            signed_at: proof.time,
            identity: name,
            blob: self.blob.clone(),
        })
    }

    /// Gives the manifest that it is attached to, where only the digest was known so far.
    pub(super) fn is_about(&mut self, subject: &RawManifest) {
        self.subject = subject.clone();
    }

    /// Whether `signer` made the signature; what it is about is not looked at yet.
    fn proof(&self, content: &Content, signer: &Signer) -> Result<Proof, String> {
        match signer {
            Signer::Keys { keys, log } => {
                let mut reasons: Vec<String> = Vec::new();
                for key in keys {
                    match self.proof_by_key(content, key, log.as_ref()) {
                        Ok(proof) => return Ok(proof),
                        Err(why) => reasons.push(format!("key {}: {why}", key.origin())),
                    }
                }
                Err(reasons.join(", "))
            }
            Signer::Person { person, log } => match content {
                Content::Simple {
                    payload,
                    signature,
                    attached,
                } => {
                    let bundle = attached.message(payload, signature, false)?;
                    let over = payload.as_slice();
                    log.root
                        .verify_person(&bundle, over, Some(person), log.rigour)
                }
                Content::Bundle(bundle) => {
                    let over = self.subject.bytes.as_ref();
                    let bundle = bundle.sigstore()?;
                    log.root
                        .verify_person(&bundle, over, Some(person), log.rigour_of_bundles())
                }
            },
            Signer::Pki(pki) => match content {
                Content::Simple {
                    payload,
                    signature,
                    attached,
                } => {
                    let certificates = attached.certificates()?;
                    let certificates: Vec<&[u8]> = certificates.iter().map(Vec::as_slice).collect();
                    let (key, proof) = pki.verify(&certificates)?;
                    match key.verifies(payload, signature) {
                        true => Ok(proof),
                        false => Err("not signed by the certificate's key".into()),
                    }
                }
                Content::Bundle(bundle) => {
                    let (key, proof) = pki.verify(&bundle.sigstore()?.certificates())?;
                    bundle.verify(&key, &self.subject).map(|_| proof)
                }
            },
        }
    }

    fn proof_by_key(
        &self,
        content: &Content,
        key: &PublicKey,
        log: Option<&Log>,
    ) -> Result<Proof, String> {
        let over = match content {
            Content::Simple {
                payload, signature, ..
            } => {
                if !key.verifies(payload, signature) {
                    return Err("not signed by this key".into());
                }
                payload.as_slice()
            }
            Content::Bundle(bundle) if bundle.is_by_key() => {
                bundle.verify(key, &self.subject)?;
                self.subject.bytes.as_ref()
            }
            Content::Bundle(_) => {
                return Err("signed by a certificate (keyless), not by a key".into());
            }
        };
        let Some(log) = log else {
            return Ok(Proof::by_key(key));
        };
        let (bundle, rigour) = match content {
            Content::Simple {
                payload,
                signature,
                attached,
            } => (attached.message(payload, signature, true)?, log.rigour),
            Content::Bundle(bundle) => (bundle.sigstore()?, log.rigour_of_bundles()),
        };
        log.root.verify_key(&bundle, over, key.spki(), rigour)
    }

    /// Whether the signature, which has been verified, is for this digest and an accepted name;
    /// gives the name.
    fn accepted(
        &self,
        content: &Content,
        identity: &SignedIdentity,
        asked: &Reference,
    ) -> Result<Option<String>, String> {
        let name = match content {
            Content::Simple { payload, .. } => {
                let payload = cosign::parse_payload(payload)?;
                if payload.digest != self.subject.digest {
                    return Err(format!("signs {}, not this digest", payload.digest));
                }
                Some(payload.reference)
            }
            Content::Bundle(bundle) => bundle.says(&self.subject)?.name,
        };
        match (&name, identity) {
            (_, SignedIdentity::MatchDigest) => {}
            (Some(signed), _) if identity.accepts(asked, signed) => {}
            (Some(signed), _) => {
                return Err(format!(
                    "is for {signed:?}, which {identity} does not accept"
                ));
            }
            (None, _) => return Err(format!("{NAMELESS} {identity} cannot be checked on it")),
        }
        Ok(name)
    }

    fn because(&self, why: &str) -> String {
        format!("{}: {why}", self.name)
    }

    /// Why it could not be read, if another try may help.
    pub(super) fn away(&self) -> Option<Error> {
        match &self.content {
            Err(error) if error.kind() == Kind::Unavailable => {
                Some(Error::unavailable(self.because(&error.to_string())))
            }
            _ => None,
        }
    }

    /// Whether `reason` is that a good signature carries no name.
    pub(super) fn is_nameless(reason: &str) -> bool {
        reason.contains(NAMELESS)
    }
}

const NAMELESS: &str = "the bundle names no repository, so signedIdentity";

fn candidate(
    kind: EvidenceKind,
    blob: &Digest,
    subject: &RawManifest,
    content: Result<Content>,
) -> Candidate {
    Candidate {
        name: format!("{kind} {blob}"),
        kind,
        blob: blob.clone(),
        subject: subject.clone(),
        content,
    }
}

fn refused(
    kind: EvidenceKind,
    blob: &Digest,
    subject: &RawManifest,
    why: impl Into<String>,
) -> Candidate {
    candidate(kind, blob, subject, Err(Error::invalid(why)))
}

fn too_many(kind: EvidenceKind, subject: &RawManifest, count: usize) -> Candidate {
    Candidate {
        name: format!("{kind}s of {}", subject.digest),
        ..refused(
            kind,
            &subject.digest,
            subject,
            format!("{count} of them, only the first {MAX_CANDIDATES} were looked at"),
        )
    }
}
