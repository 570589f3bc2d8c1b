//! The signatures that a policy demands: looked for only if one is, and only until all that are have
//! been found.

use std::pin::pin;

use futures::StreamExt as _;

use super::{Case, Request, refusal::refusal};
use crate::{
    error::{Error, Result},
    oci::{Digest, Reference},
    trust::{
        evidence::{self, By, Candidate, Kinds},
        grant::Evidence,
        identity::SignedIdentity,
        policy::Requirement,
    },
};

/// A `sigstoreSigned` or `signedBy` requirement and how it stands.
pub(in crate::trust) struct Demand<'a> {
    pub(in crate::trust) by: By<'a>,
    identity: &'a SignedIdentity,
    /// The index that has to be signed itself.
    index: Option<&'a Digest>,
    pub(in crate::trust) met: Option<Evidence>,
    pub(in crate::trust) reasons: Vec<String>,
}

/// Holds the image against all requirements; gives the signatures that met them. Signatures are
/// looked for only if one is required, and only until all that are required have been found.
pub(super) async fn evaluate(case: &Case<'_>) -> Result<Vec<Evidence>> {
    let index = case.resolved.index.as_ref().map(|it| &it.digest);
    let mut demands: Vec<Demand<'_>> = Vec::new();
    for requirement in case.applied.requirements {
        let (by, identity, unsigned_index) = match requirement {
            // These are looked at elsewhere.
            Requirement::InsecureAcceptAnything
            | Requirement::Encrypted
            | Requirement::DigestPin
            | Requirement::AllowUnsignedLayerIndex
            | Requirement::Attestation(_) => continue,
            Requirement::Reject => return Err(Error::internal("reject was not evaluated first")),
            Requirement::SigstoreSigned {
                signer,
                identity,
                unsigned_index,
            } => (By::Sigstore(signer), identity, unsigned_index),
            Requirement::SignedBy {
                keys,
                identity,
                unsigned_index,
            } => (By::Gpg(keys), identity, unsigned_index),
        };
        let index = index.filter(|_| !unsigned_index);
        demands.push(Demand::of(by, identity, index));
    }
    let failure = match demands.is_empty() {
        true => None,
        false => look(case, &mut demands).await,
    };
    let mut evidence: Vec<Evidence> = Vec::new();
    for demand in demands {
        match (demand.met, &failure) {
            (Some(met), _) if evidence.contains(&met) => {}
            (Some(met), _) => evidence.push(met),
            (None, None) => return Err(refusal(case, demand.by, demand.identity, &demand.reasons)),
            (None, Some(_)) => {}
        }
    }
    match failure {
        Some(failure) => Err(failure.context(format!(
            "{}: {}: no signature that was found serves, and not all could be looked for",
            case.request.reference, case.resolved.manifest.digest
        ))),
        None => Ok(evidence),
    }
}

/// Looks in one place after the other until all demands are met. If one is not, and a place could
/// not be asked, gives why.
async fn look(case: &Case<'_>, demands: &mut [Demand<'_>]) -> Option<Error> {
    let kinds = Demand::kinds(demands);
    let Request {
        repository,
        reference,
        ..
    } = *case.request;
    let places = evidence::places(repository, case.lists, reference, case.subjects, kinds);
    let mut places = pin!(places);
    let mut failure = None;
    while let Some(place) = places.next().await {
        match place {
            Ok(candidates) => {
                failure = failure.or(candidates.iter().find_map(Candidate::away));
                for demand in demands.iter_mut() {
                    demand.try_all(&candidates, reference);
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
    pub(in crate::trust) fn of(
        by: By<'a>,
        identity: &'a SignedIdentity,
        index: Option<&'a Digest>,
    ) -> Self {
        Self {
            by,
            identity,
            index,
            met: None,
            reasons: Vec::new(),
        }
    }

    /// What has to be looked for.
    pub(in crate::trust) fn kinds(demands: &[Self]) -> Kinds {
        Kinds {
            sigstore: demands.iter().any(|it| matches!(it.by, By::Sigstore(_))),
            gpg: demands.iter().any(|it| matches!(it.by, By::Gpg(_))),
        }
    }

    /// Takes the first of `candidates` that serves, unless one was found before.
    pub(in crate::trust) fn try_all(&mut self, candidates: &[Candidate], asked: &Reference) {
        for candidate in candidates.iter().filter(|it| self.by.takes(it)) {
            if self.met.is_some() {
                return;
            }
            match candidate.check(self.by, self.identity, asked) {
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
