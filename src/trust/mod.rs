//! The policy engine: what makes a grant.
//!
//! [`admit`] resolves a reference, evaluates the [`Policy`] on it and returns a [`Grant`], the only
//! thing that opens the way to an image's layers. A policy is a list of requirements by scope
//! (`policy`, `scope`); a requirement is met by evidence (`evidence`), which is a signature in one
//! of the forms `cosign`, `bundle` and `pgp` read, by whom the requirement names (`signer`: a `key`,
//! or the holder of a certificate by way of `sigstore`; or a keyring of `pgp`) and speaking for an
//! accepted `identity`, or an `attestation`.
//!
//! A further requirement is a variant of [`Requirement`] with its parser in `policy::parse`, a
//! module beside `cosign` and `bundle` that reads its form, and an arm in `evidence` that holds the
//! one against the other. Until then the policy parser refuses its words by name.

mod admit;
pub(crate) mod attestation;
pub(crate) mod bundle;
pub(crate) mod cosign;
mod evidence;
mod grant;
mod identity;
pub(crate) mod json;
pub(crate) mod key;
#[cfg_attr(not(feature = "pgp"), path = "pgp/absent.rs")]
pub(crate) mod pgp;
mod policy;
mod referrers;
mod scope;
mod signer;
pub mod sigstore;
#[cfg(test)]
mod tests;
mod vouch;
mod watch;

pub(crate) use self::attestation::statement_predicate;
pub use self::{
    admit::{Request, admit},
    attestation::{
        AttestationReport, Attested, Origins, Provenance, Standing, Wanted, attestations,
        predicates,
    },
    grant::{CertifiedSigner, Class, Evidence, EvidenceKind, Grant, Rule},
    identity::{Name, SignedIdentity},
    key::{KeyKind, PublicKey},
    pgp::Keyring,
    policy::{Origin, Policy, PolicyReport, Requirement, default_policy_paths},
    signer::{Log, Signer},
    vouch::{Vouched, Vouching, vouch},
    watch::{AuditLog, TagHistory, Watch},
};
