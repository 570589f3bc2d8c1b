//! The attestations that a policy demands.

use super::{
    Case,
    refusal::{say, unmet},
};
use crate::{
    error::{Error, Result},
    trust::{
        attestation::{self, Attested, Wanted},
        policy::Requirement,
    },
};

/// Looks for the attestations that are required; gives those that met them.
pub(super) async fn attest(case: &Case<'_>) -> Result<Vec<Attested>> {
    let wanted: Vec<&Wanted> = case
        .applied
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
    let (found, failure) = attestation::collect(
        case.request.repository,
        case.lists,
        case.subjects,
        Some(&types),
    )
    .await;
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
                        unmet(case.request, case.rule, case.resolved)
                    ),
                ));
            }
            (None, None) => {
                let mut message = format!(
                    "{}: {wanted}",
                    unmet(case.request, case.rule, case.resolved)
                );
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
