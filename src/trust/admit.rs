//! Admission: from a reference to a grant, or to a refusal that says why.
//!
//! Only manifests and signature blobs are fetched here. The tag is resolved once; everything after
//! goes by the digest it had.

use std::pin::pin;

use futures::{StreamExt as _, future::join};

use super::{
    attestation::{self, Attested, Wanted},
    evidence::{self, Candidate},
    grant::{Class, Evidence, Grant, Parts, Rule},
    identity::SignedIdentity,
    policy::{Applied, Policy, Requirement},
    signer::Signer,
};
use crate::{
    error::{Error, Kind, Result},
    oci::{
        Descriptor, Digest, Document, Location, Manifest, Platform, RawManifest, Reference,
        media_type,
    },
    source::Repository,
};

/// What is to be admitted.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The policy that decides.
    pub policy: &'a Policy,
    /// The reference as the user asked for it, before mirrors and aliases.
    pub reference: &'a Reference,
    /// Where it is read from.
    pub repository: &'a dyn Repository,
    /// What to read there. A reference with a digest is read by that digest.
    pub location: &'a Location,
    /// Which image to take from an index.
    pub platform: &'a Platform,
    /// Digest that the reference must resolve to (of the index, if it names one), if the caller
    /// knows it from before.
    pub expected_digest: Option<&'a Digest>,
}

struct Resolved {
    index: Option<RawManifest>,
    manifest: RawManifest,
    parsed: Manifest,
}

// === impl Resolved ===

impl Resolved {
    /// What a signature or attestation may be about.
    fn subjects(&self) -> Vec<RawManifest> {
        [&self.manifest]
            .into_iter()
            .chain(self.index.as_ref())
            .cloned()
            .collect()
    }
}

/// Reasons that a refusal prints; the rest is counted.
const MAX_REASONS: usize = 20;

/// Resolves a reference and evaluates the policy on it.
///
/// A signature on the platform's manifest or on the index it was chosen from is good for both: the
/// index names the manifest by digest.
///
/// # Errors
/// `Denied` if the policy refuses, with the rule and every signature's reason; `Denied` if the tag
/// has moved from `expected_digest`; `Unavailable` if a signature could not be looked for and none
/// that was found serves; `NotFound`, `Invalid`, `Corrupt` for the image itself.
pub async fn admit(request: &Request<'_>) -> Result<Grant> {
    let applied = request.policy.applied(request.reference)?;
    let rule = Rule {
        policy: request.policy.origin().to_string(),
        scope: applied.scope.clone(),
        requirements: applied
            .requirements
            .iter()
            .map(ToString::to_string)
            .collect(),
    };
    if applied
        .requirements
        .iter()
        .any(|r| matches!(r, Requirement::Reject))
    {
        return Err(Error::denied(format!(
            "{}: policy {}, {}: reject",
            request.reference, rule.policy, rule.scope
        )));
    }
    let by_digest = match request.reference {
        Reference::Registry(reference) => reference.digest().is_some(),
        Reference::Layout { name, .. } => matches!(name, Some(Location::Digest(_))),
    };
    if !by_digest
        && request.expected_digest.is_none()
        && demands(&applied, |r| matches!(r, Requirement::DigestPin))
    {
        return Err(Error::denied(format!(
            "{}: policy {}, {}: {}: the reference has no digest",
            request.reference,
            rule.policy,
            rule.scope,
            Requirement::DigestPin
        ))
        .with_hint("ask for the image as NAME@sha256:..., or give --expected-digest"));
    }
    let resolved = resolve(request)
        .await
        .map_err(|e| e.context(request.reference.to_string()))?;
    let encrypted = is_encrypted(&resolved.parsed);
    if !encrypted && demands(&applied, |r| matches!(r, Requirement::Encrypted)) {
        let message = format!(
            "{}: {}",
            unmet(request, &rule, &resolved),
            plain_layers(&resolved.parsed)
        );
        return Err(Error::denied(message)
            .with_hint("encrypt the image (nacre image convert --encrypt, or skopeo copy)"));
    }
    let subjects = resolved.subjects();
    let (evidence, attestations) = join(
        evaluate(request, &applied, &rule, &resolved),
        attest(request, &applied, &rule, &resolved, &subjects),
    )
    .await;
    let (evidence, attestations) = (evidence?, attestations?);
    if evidence.is_empty() {
        tracing::warn!(
            reference = %request.reference, policy = %rule.policy, scope = %rule.scope,
            "admitted without a signature: the policy asks for none"
        );
    }
    Ok(Grant::new(Parts {
        reference: request.reference.clone(),
        repository: request.repository.name(),
        platform: request.platform.clone(),
        manifest: resolved.parsed,
        manifest_digest: resolved.manifest.digest,
        index_digest: resolved.index.map(|index| index.digest),
        class: Class::of(encrypted, !evidence.is_empty()),
        rule,
        evidence,
        attestations,
    }))
}

fn demands(applied: &Applied<'_>, what: impl Fn(&Requirement) -> bool) -> bool {
    applied.requirements.iter().any(what)
}

/// Why an image does not count as encrypted.
fn plain_layers(manifest: &Manifest) -> String {
    let plain: Vec<&Descriptor> = manifest
        .layers
        .iter()
        .filter(|layer| {
            !media_type::layer_kind(&layer.media_type).is_some_and(|kind| kind.encrypted)
        })
        .collect();
    match plain.first() {
        Some(first) => format!(
            "{}: {} of {} layers are not encrypted, the first is {} ({})",
            Requirement::Encrypted,
            plain.len(),
            manifest.layers.len(),
            first.digest,
            first.media_type
        ),
        None => format!("{}: the image has no layer", Requirement::Encrypted),
    }
}

/// Whether every layer (of at least one) is encrypted by its media type.
fn is_encrypted(manifest: &Manifest) -> bool {
    !manifest.layers.is_empty()
        && manifest
            .layers
            .iter()
            .all(|layer| media_type::layer_kind(&layer.media_type).is_some_and(|k| k.encrypted))
}

async fn resolve(request: &Request<'_>) -> Result<Resolved> {
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

/// A `sigstoreSigned` requirement and how it stands.
pub(super) struct Demand<'a> {
    signer: &'a Signer,
    identity: &'a SignedIdentity,
    /// The index that has to be signed itself.
    index: Option<&'a Digest>,
    pub(super) met: Option<Evidence>,
    pub(super) reasons: Vec<String>,
}

/// Holds the image against all requirements; gives the signatures that met them. Signatures are
/// looked for only if one is required, and only until all that are required have been found.
async fn evaluate(
    request: &Request<'_>,
    applied: &Applied<'_>,
    rule: &Rule,
    resolved: &Resolved,
) -> Result<Vec<Evidence>> {
    let mut demands: Vec<Demand<'_>> = Vec::new();
    for requirement in applied.requirements {
        match requirement {
            // These are looked at elsewhere.
            Requirement::InsecureAcceptAnything
            | Requirement::Encrypted
            | Requirement::DigestPin
            | Requirement::AllowUnsignedLayerIndex
            | Requirement::Attestation(_) => {}
            Requirement::Reject => return Err(Error::internal("reject was not evaluated first")),
            Requirement::SigstoreSigned {
                signer,
                identity,
                unsigned_index,
            } => demands.push(Demand::of(
                signer,
                identity,
                match (&resolved.index, unsigned_index) {
                    (Some(index), false) => Some(&index.digest),
                    _ => None,
                },
            )),
        }
    }
    let failure = if demands.is_empty() {
        None
    } else {
        look(request, resolved, &mut demands).await
    };
    let mut evidence: Vec<Evidence> = Vec::new();
    for demand in demands {
        match (demand.met, &failure) {
            (Some(met), _) if evidence.contains(&met) => {}
            (Some(met), _) => evidence.push(met),
            (None, None) => {
                let Demand {
                    identity, reasons, ..
                } = demand;
                return Err(refusal(request, rule, resolved, identity, &reasons));
            }
            (None, Some(_)) => {}
        }
    }
    match failure {
        Some(failure) => Err(failure.context(format!(
            "{}: {}: no signature that was found serves, and not all could be looked for",
            request.reference, resolved.manifest.digest
        ))),
        None => Ok(evidence),
    }
}

/// Looks for the attestations that are required; gives those that met them.
async fn attest(
    request: &Request<'_>,
    applied: &Applied<'_>,
    rule: &Rule,
    resolved: &Resolved,
    subjects: &[RawManifest],
) -> Result<Vec<Attested>> {
    let wanted: Vec<&Wanted> = applied
        .requirements
        .iter()
        .filter_map(|requirement| match requirement {
            Requirement::Attestation(wanted) => Some(&**wanted),
            _ => None,
        })
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let types: Vec<&str> = wanted.iter().map(|it| &*it.predicate_type).collect();
    let (found, failure) = attestation::collect(request.repository, subjects, Some(&types)).await;
    let mut met: Vec<Attested> = Vec::new();
    for wanted in wanted {
        let mut reasons = Vec::new();
        let serves = found.iter().find_map(|it| match it.check(wanted) {
            Ok(attested) => Some(attested),
            Err(why) => {
                reasons.push(why);
                None
            }
        });
        match (serves, &failure) {
            (Some(attested), _) if met.contains(&attested) => {}
            (Some(attested), _) => met.push(attested),
            (None, Some(failure)) => {
                return Err(Error::new(
                    failure.kind(),
                    format!(
                        "{}: no attestation that was found serves, and not all could be looked \
                         for: {failure}",
                        unmet(request, rule, resolved)
                    ),
                ));
            }
            (None, None) => {
                let mut message = format!("{}: {wanted}", unmet(request, rule, resolved));
                message += match reasons.is_empty() {
                    true => ": the image has none of this type",
                    false => ": none of those found serves:",
                };
                say(&mut message, &reasons);
                return Err(Error::denied(message).with_hint(
                    "nacre verify --attestations (with a policy that admits the image) shows what \
                     it has",
                ));
            }
        }
    }
    Ok(met)
}

/// Looks in one place after the other until all demands are met. If one is not, and a place could
/// not be asked, gives why.
async fn look(
    request: &Request<'_>,
    resolved: &Resolved,
    demands: &mut [Demand<'_>],
) -> Option<Error> {
    let subjects = resolved.subjects();
    let mut places = pin!(evidence::places(
        request.repository,
        request.reference,
        &subjects
    ));
    let mut failure = None;
    while let Some(place) = places.next().await {
        match place {
            Ok(candidates) => {
                failure = failure.or(candidates.iter().find_map(Candidate::away));
                for demand in demands.iter_mut() {
                    demand.try_all(&candidates, request.reference);
                }
            }
            Err(error) => failure = failure.or(Some(error)),
        }
        if demands.iter().all(|demand| demand.met.is_some()) {
            return None;
        }
    }
    failure
}

const ON_MANIFEST: &str =
    "signs the platform's manifest, not the index (nacreAllowUnsignedIndex is false)";

// === impl Demand ===

impl<'a> Demand<'a> {
    pub(super) fn of(
        signer: &'a Signer,
        identity: &'a SignedIdentity,
        index: Option<&'a Digest>,
    ) -> Self {
        Self {
            signer,
            identity,
            index,
            met: None,
            reasons: Vec::new(),
        }
    }

    /// Takes the first of `candidates` that serves, unless one was found before.
    pub(super) fn try_all(&mut self, candidates: &[Candidate], asked: &Reference) {
        for candidate in candidates {
            if self.met.is_some() {
                return;
            }
            match candidate.check(self.signer, self.identity, asked) {
                Ok(evidence) if self.index.is_some_and(|it| *it != evidence.signed_digest) => {
                    self.reasons.push(format!(
                        "{} {}: {ON_MANIFEST}",
                        evidence.kind, evidence.blob
                    ));
                }
                Ok(evidence) => self.met = Some(evidence),
                Err(why) => self.reasons.push(why),
            }
        }
    }
}

/// One line for each reason, up to a number.
fn say(message: &mut String, reasons: &[String]) {
    for reason in reasons.iter().take(MAX_REASONS) {
        *message += &format!("\n  {reason}");
    }
    if reasons.len() > MAX_REASONS {
        *message += &format!("\n  and {} more", reasons.len() - MAX_REASONS);
    }
}

/// Names the image and the rule.
fn unmet(request: &Request<'_>, rule: &Rule, resolved: &Resolved) -> String {
    let mut message = format!("{}: {}", request.reference, resolved.manifest.digest);
    if let Some(index) = &resolved.index {
        message += &format!(" (from index {})", index.digest);
    }
    message + &format!(": policy {}, {}", rule.policy, rule.scope)
}

/// Names the image, the rule and what became of each signature.
fn refusal(
    request: &Request<'_>,
    rule: &Rule,
    resolved: &Resolved,
    identity: &SignedIdentity,
    reasons: &[String],
) -> Error {
    let mut message = format!("{}: ", unmet(request, rule, resolved));
    if reasons.is_empty() {
        message += "a signature is required, and the image has none";
    } else {
        message += "a signature is required, and none of those found serves:";
        say(&mut message, reasons);
    }
    let error = Error::new(Kind::Denied, message);
    if reasons.iter().any(|r| Candidate::is_nameless(r)) {
        return error.with_hint(
            "cosign 3 bundles carry no image name; where the signed digest alone is enough, \
             write \"signedIdentity\": {\"type\": \"nacreMatchDigest\"}, or sign with \
             cosign sign --new-bundle-format=false",
        );
    }
    let tag_only = matches!(
        identity,
        SignedIdentity::MatchExact | SignedIdentity::MatchRepoDigestOrExact
    );
    if tag_only && reasons.iter().any(|r| r.contains("does not accept")) {
        return error.with_hint(
            "cosign signs for a repository without tag; write \
             \"signedIdentity\": {\"type\": \"matchRepository\"} to accept that",
        );
    }
    error
}
