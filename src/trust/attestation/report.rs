//! Which attestations an image has and what each is worth: `nacre verify --attestations`.

use std::fmt;

use serde::Serialize;

use super::{
    Attestation, Attested, Content, Provenance, collect,
    statement::{Statement, predicate_text},
};
use crate::{
    error::Result,
    oci::{Digest, RawManifest},
    source::Repository,
    trust::{
        grant::Grant,
        policy::Policy,
        referrers::Referrers,
        signer::{Log, Signer},
        sigstore::{Proof, TrustRoot},
    },
};

/// One attestation of an image, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttestationReport {
    /// Digest of the blob that is or holds it.
    pub blob: Digest,
    /// Digest of the manifest or index that it is attached to.
    pub signed_digest: Digest,
    /// What kind of statement; by its own word if nobody is known to have signed it.
    pub predicate_type: Option<String>,
    /// Whose word it is.
    pub standing: Standing,
    /// Who built what from where, if it says so.
    pub provenance: Option<Provenance>,
}

/// Whose word an attestation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Standing {
    /// That of a signer whom the policy names for this image.
    Policy {
        /// Who.
        signer: String,
    },
    /// That of somebody whom a trusted root vouches for, but the policy does not name.
    Certified {
        /// Who.
        signer: String,
    },
    /// Nobody's that could be proven.
    Unproven {
        /// Why.
        reason: String,
    },
}

/// The attestations of what `grant` admitted, in the order in which they are attached.
///
/// # Errors
/// As the registry; `Unavailable` if not all could be read.
pub async fn attestations(
    policy: &Policy,
    grant: &Grant,
    repository: &dyn Repository,
) -> Result<Vec<AttestationReport>> {
    let found = find(policy, grant, repository, None).await?;
    Ok(found.into_iter().map(|(report, _)| report).collect())
}

/// The attestations of these types, with what they say, whoever says it: of one that is a string, its
/// text. What cannot be read is left out.
///
/// # Errors
/// As [`attestations`].
pub async fn predicates(
    policy: &Policy,
    grant: &Grant,
    repository: &dyn Repository,
    types: &[&str],
) -> Result<Vec<(AttestationReport, Vec<u8>)>> {
    let found = find(policy, grant, repository, Some(types)).await?;
    let said = |(report, attestation): (AttestationReport, Attestation)| {
        let content = attestation.content.ok()?;
        if !types.contains(&content.statement.predicate_type.as_str()) {
            return None;
        }
        let text = predicate_text(&content.envelope.payload);
        Some((report, text.ok()?))
    };
    Ok(found.into_iter().filter_map(said).collect())
}

/// What a statement that nobody signs says about an image.
///
/// # Errors
/// If it is none, or about something else.
pub(crate) fn statement_predicate(statement: &[u8], image: &Digest) -> Result<Vec<u8>, String> {
    Statement::parse(statement)?.about(image)?;
    predicate_text(statement)
}

async fn find(
    policy: &Policy,
    grant: &Grant,
    repository: &dyn Repository,
    types: Option<&[&str]>,
) -> Result<Vec<(AttestationReport, Attestation)>> {
    let applied = policy.applied(grant.reference())?;
    let signers: Vec<&Signer> = applied
        .requirements
        .iter()
        .filter_map(|it| it.signer())
        .collect();
    let mut roots: Vec<TrustRoot> = signers
        .iter()
        .filter_map(|it| match it {
            Signer::Person { log, .. } => Some(log.root.clone()),
            Signer::Keys { .. } | Signer::Pki(_) => None,
        })
        .collect();
    roots.push(TrustRoot::production()?);
    let mut subjects: Vec<RawManifest> = Vec::new();
    for digest in [Some(grant.manifest_digest()), grant.index_digest()]
        .into_iter()
        .flatten()
    {
        let location = crate::oci::Location::Digest(digest.clone());
        let raw = repository.manifest(&location).await?;
        if !digest.matches(&raw.bytes) {
            return Err(crate::Error::corrupt(format!(
                "manifest {digest}: digest mismatch"
            )));
        }
        subjects.push(RawManifest {
            digest: digest.clone(),
            ..raw
        });
    }
    let lists = Referrers::new(repository, &subjects);
    let (found, failure) = collect(repository, &lists, &subjects, types).await;
    match failure {
        Some(failure) => Err(failure),
        None => Ok(found
            .into_iter()
            .map(|it| (it.report(&signers, &roots), it))
            .collect()),
    }
}

// === impl Attestation ===

impl Attestation {
    fn report(&self, signers: &[&Signer], roots: &[TrustRoot]) -> AttestationReport {
        let mut report = AttestationReport {
            blob: self.blob.clone(),
            signed_digest: self.subject.digest.clone(),
            predicate_type: None,
            standing: Standing::Unproven {
                reason: String::new(),
            },
            provenance: None,
        };
        let content = match &self.content {
            Ok(content) => content,
            Err(error) => {
                report.standing = Standing::Unproven {
                    reason: error.to_string(),
                };
                return report;
            }
        };
        report.predicate_type = Some(content.statement.predicate_type.clone());
        report.provenance = Provenance::of(&content.statement).ok().flatten();
        report.standing = self.standing(content, signers, roots);
        report
    }

    fn standing(&self, content: &Content, signers: &[&Signer], roots: &[TrustRoot]) -> Standing {
        let mut reason = String::new();
        for signer in signers {
            match self
                .proof(content, signer)
                .and_then(|proof| self.trusted(content, proof))
            {
                Ok(attested) => {
                    return Standing::Policy {
                        signer: attested.who(),
                    };
                }
                Err(why) => reason = why,
            }
        }
        for root in roots {
            let log = Log {
                root: root.clone(),
                rigour: Default::default(),
            };
            let anybody = content.bundle(false).and_then(|bundle| {
                let over = self.subject.bytes.as_ref();
                root.verify_person(&bundle, over, None, content.rigour(&log))
            });
            match anybody.and_then(|proof| self.trusted(content, proof)) {
                Ok(attested) => {
                    return Standing::Certified {
                        signer: attested.who(),
                    };
                }
                Err(why) if reason.is_empty() => reason = why,
                Err(_) => {}
            }
        }
        Standing::Unproven { reason }
    }

    /// Provenance has to fit its signer whether or not a policy asks for more.
    fn trusted(&self, content: &Content, proof: Proof) -> Result<Attested, String> {
        let attested = self.attested(content, proof.clone())?;
        if let Some(provenance) = &attested.provenance {
            provenance.meets(&Default::default(), proof.certificate.as_ref())?;
        }
        Ok(attested)
    }
}

// === impl Attested ===

impl Attested {
    fn who(&self) -> String {
        match &self.signer {
            Some(signer) => signer.to_string(),
            None => format!("key {}", self.key),
        }
    }
}

// === impl AttestationReport ===

impl fmt::Display for AttestationReport {
    /// Several lines, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "attestation {}", self.blob)?;
        writeln!(f, "  about     {}", self.signed_digest)?;
        if let Some(kind) = &self.predicate_type {
            writeln!(f, "  type      {kind}")?;
        }
        match &self.standing {
            Standing::Policy { signer } => {
                write!(f, "  signed by {signer}, whom the policy names")?;
            }
            Standing::Certified { signer } => {
                write!(f, "  signed by {signer}, whom the policy does not name")?;
            }
            Standing::Unproven { reason } => write!(f, "  not proven: {reason}")?,
        }
        let Some(provenance) = &self.provenance else {
            return Ok(());
        };
        for (name, value) in [
            ("built by ", &provenance.builder),
            ("from     ", &provenance.source),
            ("reference", &provenance.reference),
            ("revision ", &provenance.revision),
            ("kind     ", &provenance.build_type),
        ] {
            if let Some(value) = value {
                write!(f, "\n  {name} {value}")?;
            }
        }
        Ok(())
    }
}
