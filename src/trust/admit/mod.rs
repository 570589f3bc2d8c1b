//! Admission: from a reference to a grant, or to a refusal that says why.
//!
//! Only manifests and signature blobs are fetched here. The tag is resolved once (`resolve`);
//! everything after goes by the digest it had.

mod attestations;
mod refusal;
mod resolve;
mod signatures;

use futures::future::join;

pub(super) use self::signatures::Demand;

use self::{
    attestations::attest,
    refusal::unmet,
    resolve::{Resolved, resolve},
    signatures::evaluate,
};
use super::{
    grant::{Class, Grant, Parts, Rule},
    policy::{Applied, Policy, Requirement},
    referrers::Referrers,
};
use crate::{
    error::{Error, Result},
    oci::{Descriptor, Digest, Location, Manifest, Platform, RawManifest, Reference, media_type},
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

/// What is held against the requirements.
struct Case<'a> {
    request: &'a Request<'a>,
    applied: &'a Applied<'a>,
    rule: &'a Rule,
    resolved: &'a Resolved,
    /// What a signature or attestation may be about.
    subjects: &'a [RawManifest],
    lists: &'a Referrers<'a>,
}

/// Resolves a reference and evaluates the policy on it.
///
/// A signature on the platform's manifest or on the index it was chosen from is good for both: the
/// index names the manifest by digest.
///
/// # Errors
/// `Denied` if the policy refuses, with the rule and every signature's reason; `Denied` if the tag
/// has moved from `expected_digest`; `Unavailable` if a signature could not be looked for and none
/// that was found serves; `NotFound`, `Invalid`, `Corrupt` for the image itself.
/// `Io` if the policy is watched and the decision cannot be written down.
pub async fn admit(request: &Request<'_>) -> Result<Grant> {
    let decided = decide(request).await;
    request.policy.watch().see(request, decided).await
}

async fn decide(request: &Request<'_>) -> Result<Grant> {
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
    let lists = Referrers::new(request.repository, &subjects);
    let case = Case {
        request,
        applied: &applied,
        rule: &rule,
        resolved: &resolved,
        subjects: &subjects,
        lists: &lists,
    };
    let (evidence, attestations) = join(evaluate(&case), attest(&case)).await;
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
