//! What a refusal says: the image, the rule, and what became of each signature.

use super::{Case, Request, resolve::Resolved};
use crate::{
    error::Error,
    trust::{
        evidence::{By, Candidate},
        grant::Rule,
        identity::SignedIdentity,
    },
};

/// Reasons that a refusal prints; the rest is counted.
const MAX_REASONS: usize = 20;

/// One line for each reason, up to a number.
pub(super) fn say(message: &mut String, reasons: &[String]) {
    for reason in reasons.iter().take(MAX_REASONS) {
        *message += &format!("\n  {reason}");
    }
    if reasons.len() > MAX_REASONS {
        *message += &format!("\n  and {} more", reasons.len() - MAX_REASONS);
    }
}

/// Names the image and the rule.
pub(super) fn unmet(request: &Request<'_>, rule: &Rule, resolved: &Resolved) -> String {
    let mut message = format!("{}: {}", request.reference, resolved.manifest.digest);
    if let Some(index) = &resolved.index {
        message += &format!(" (from index {})", index.digest);
    }
    message + &format!(": policy {}, {}", rule.policy, rule.scope)
}

/// Names the image, the rule and what became of each signature.
pub(super) fn refusal(
    case: &Case<'_>,
    by: By<'_>,
    identity: &SignedIdentity,
    reasons: &[String],
) -> Error {
    let what = match by {
        By::Sigstore(_) => "a signature",
        By::Gpg(_) => "a GPG signature",
    };
    let mut message = unmet(case.request, case.rule, case.resolved);
    message += &format!(": {what} is required, and ");
    if reasons.is_empty() {
        message += "the image has none";
    } else {
        message += "none of those found serves:";
        say(&mut message, reasons);
    }
    let error = Error::denied(message);
    if matches!(by, By::Gpg(_)) {
        return match reasons.is_empty() {
            true => error.with_hint(
                "GPG signatures lie in a lookaside: registries.d (--registries-dir) says where",
            ),
            false => error,
        };
    }
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
