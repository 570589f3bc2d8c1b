//! Attestations: signed statements about an image that do not sign it (provenance, SBOMs, scans).
//!
//! They are read in both of cosign's forms (`collect`) and meet `nacreRequireAttestation` if whom
//! the policy names signed them, they are about the image, and, for provenance, builder and source
//! are the wanted ones. They never count as a signature of the image, nor does a signature of the
//! image count as one.

mod collect;
mod provenance;
mod report;
pub(crate) mod statement;

use std::fmt;

use serde::Serialize;

pub(crate) use self::report::statement_predicate;
use self::statement::{Envelope, Statement};
pub(super) use self::{
    collect::collect,
    provenance::{V0_2, V1},
};
pub use self::{
    provenance::{Origins, Provenance},
    report::{AttestationReport, Standing, attestations, predicates},
};
use super::{
    grant::CertifiedSigner,
    key::PublicKey,
    signer::{self, Log, Signer},
    sigstore::{self, Attached, Proof, Rigour},
};
use crate::{
    error::{Error, Kind},
    oci::{Digest, RawManifest},
};

/// What `nacreRequireAttestation` asks.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Predicate type, character by character.
    pub predicate_type: String,
    /// What provenance must say.
    pub origins: Origins,
    /// Who must have signed it.
    pub signer: Signer,
}

/// An attestation that met a requirement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attested {
    /// What kind of statement.
    pub predicate_type: String,
    /// Digest of the manifest or index that it is about.
    pub signed_digest: Digest,
    /// SHA-256 of the public key (DER SubjectPublicKeyInfo) that verified it.
    pub key: Digest,
    /// Whose certificate holds the key; `None` if the policy names the key itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<CertifiedSigner>,
    /// When it was signed, in seconds since 1970, by the word of a log or a timestamp authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<i64>,
    /// Digest of the blob that is or holds it.
    pub blob: Digest,
    /// Who built what from where, if it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

/// One attached attestation, or why it is none. Nothing in it has been verified.
#[derive(Debug)]
pub(super) struct Attestation {
    blob: Digest,
    /// The manifest or index that it is attached to.
    subject: RawManifest,
    content: crate::Result<Content>,
}

#[derive(Debug)]
struct Content {
    envelope: Envelope,
    statement: Statement,
    form: Form,
}

/// What proves it, beside its signature.
#[derive(Debug)]
enum Form {
    /// A layer of a `.att` image: the envelope's text, and the layer's annotations.
    Layer {
        envelope: Vec<u8>,
        attached: Box<Attached>,
    },
    /// A bundle's text.
    Bundle(Vec<u8>),
}

// === impl Attestation ===

impl Attestation {
    /// Holds it against a requirement.
    ///
    /// # Errors
    /// Why it does not serve, as one line.
    pub(super) fn check(&self, wanted: &Wanted) -> Result<Attested, String> {
        let because = |why: String| format!("attestation {}: {why}", self.blob);
        let content = self
            .content
            .as_ref()
            .map_err(|why| because(why.to_string()))?;
        if content.statement.predicate_type != wanted.predicate_type {
            return Err(because(format!(
                "is of type {}",
                content.statement.predicate_type
            )));
        }
        let proof = self.proof(content, &wanted.signer).map_err(because)?;
        let attested = self.attested(content, proof.clone()).map_err(because)?;
        if wanted.origins != Origins::default() {
            attested
                .provenance
                .as_ref()
                .ok_or("is no provenance".to_owned())
                .and_then(|it| it.meets(&wanted.origins, proof.certificate.as_ref()))
                .map_err(because)?;
        }
        Ok(attested)
    }

    /// What a proven attestation says about the image.
    fn attested(&self, content: &Content, proof: Proof) -> Result<Attested, String> {
        content.statement.about(&self.subject.digest)?;
        Ok(Attested {
            predicate_type: content.statement.predicate_type.clone(),
            signed_digest: self.subject.digest.clone(),
            key: Digest::sha256(&proof.key),
            signer: proof.certificate.map(|claims| CertifiedSigner {
                subject: claims.subject,
                issuer: claims.issuer,
            }),
            signed_at: proof.time,
            blob: self.blob.clone(),
            provenance: Provenance::of(&content.statement)?,
        })
    }

    /// Whether `signer` signed it.
    fn proof(&self, content: &Content, signer: &Signer) -> Result<Proof, String> {
        let over = self.subject.bytes.as_ref();
        match signer {
            Signer::Keys { keys, log } => {
                signer::by_any(keys, |key| self.proof_by_key(content, key, log.as_ref()))
            }
            Signer::Person { person, log } => log.root.verify_person(
                &content.bundle(false)?,
                over,
                Some(person),
                content.rigour(log),
            ),
            Signer::Pki(pki) => {
                let (key, proof) = match &content.form {
                    Form::Layer { attached, .. } => {
                        let all = attached.certificates()?;
                        pki.verify(&all.iter().map(Vec::as_slice).collect::<Vec<_>>())?
                    }
                    Form::Bundle(_) => pki.verify(&content.bundle(false)?.certificates())?,
                };
                match content.envelope.is_by(&key) {
                    true => Ok(proof),
                    false => Err("not signed by the certificate's key".into()),
                }
            }
        }
    }

    fn proof_by_key(
        &self,
        content: &Content,
        key: &PublicKey,
        log: Option<&Log>,
    ) -> Result<Proof, String> {
        if !content.envelope.is_by(key) {
            return Err("not signed by this key".into());
        }
        match log {
            None => Ok(Proof::by_key(key)),
            Some(log) => log.root.verify_key(
                &content.bundle(true)?,
                self.subject.bytes.as_ref(),
                key.spki(),
                content.rigour(log),
            ),
        }
    }

    /// Why it could not be read, if another try may help.
    pub(super) fn away(&self) -> Option<Error> {
        match &self.content {
            Err(error) if error.kind() == Kind::Unavailable => Some(Error::unavailable(format!(
                "attestation {}: {error}",
                self.blob
            ))),
            _ => None,
        }
    }
}

// === impl Content ===

impl Content {
    fn bundle(&self, by_key: bool) -> Result<sigstore::Bundle, String> {
        match &self.form {
            Form::Layer { envelope, attached } => attached.envelope(envelope, by_key),
            Form::Bundle(bytes) => sigstore::Bundle::parse(bytes),
        }
    }

    fn rigour(&self, log: &Log) -> Rigour {
        match &self.form {
            Form::Layer { .. } => log.rigour,
            Form::Bundle(_) => log.rigour_of_bundles(),
        }
    }
}

// === impl Attested ===

impl fmt::Display for Attested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} by ", self.predicate_type, self.blob)?;
        match &self.signer {
            Some(signer) => signer.fmt(f),
            None => write!(f, "key {}", self.key),
        }
    }
}

// === impl Wanted ===

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "nacreRequireAttestation {} by {}",
            self.predicate_type, self.signer
        )?;
        for (name, value) in [
            ("builder", &self.origins.builder),
            ("source", &self.origins.source),
            ("ref", &self.origins.reference),
        ] {
            if let Some(value) = value {
                write!(f, ", {name} {value}")?;
            }
        }
        Ok(())
    }
}
