//! The client protocol of the sigstore project's conformance suite
//! (`nacre conformance verify-bundle`): one bundle, one artifact, one signer.

use sigstore_verify::types::{Artifact as Input, Sha256Hash};

use super::{Bundle, Person, Rigour, Subject, TrustRoot};
use crate::{
    error::{Error, Result},
    trust::key::PublicKey,
};

/// What is to be verified.
#[derive(Clone, Copy, Debug)]
pub struct BundleRequest<'a> {
    /// The bundle, as JSON.
    pub bundle: &'a [u8],
    /// What it has to sign.
    pub artifact: Artifact<'a>,
    /// Who has to have signed it.
    pub who: Who<'a>,
    /// Whom to believe.
    pub roots: Roots<'a>,
}

/// What a bundle has to sign.
#[derive(Clone, Copy, Debug)]
pub enum Artifact<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Bytes with this SHA-256.
    Sha256([u8; 32]),
}

/// Who has to have signed.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// The holder of a certificate.
    Identity {
        /// The subject alternative name.
        subject: &'a str,
        /// The OpenID Connect issuer.
        issuer: &'a str,
    },
    /// The holder of a key (PEM).
    Key(&'a [u8]),
}

/// Which trusted root counts.
#[derive(Clone, Copy, Debug)]
pub enum Roots<'a> {
    /// That of the public Sigstore, built in.
    Production,
    /// That of its staging instance, built in.
    Staging,
    /// This `trusted_root.json`.
    Json(&'a [u8]),
}

/// Verifies a bundle.
///
/// # Errors
/// `Invalid` if bundle, key or trusted root is malformed, `Denied` if the bundle does not prove
/// that the signer signed the artifact.
pub fn verify_bundle(request: &BundleRequest<'_>) -> Result<()> {
    let root = match request.roots {
        Roots::Production => TrustRoot::production()?,
        Roots::Staging => TrustRoot::staging()?,
        Roots::Json(json) => TrustRoot::parse(json, "of the command line")?,
    };
    let bundle = Bundle::parse(request.bundle).map_err(Error::invalid)?;
    let input: Input<'_> = match request.artifact {
        Artifact::Bytes(bytes) => bytes.into(),
        Artifact::Sha256(digest) => Sha256Hash::new(digest).into(),
    };
    let verified = match request.who {
        Who::Identity { subject, issuer } => {
            let person = Person {
                subject: Subject::Exact(subject.to_owned()),
                issuer: issuer.to_owned(),
            };
            root.verify_person(&bundle, input, Some(&person), Rigour::default())
        }
        Who::Key(pem) => {
            let key = PublicKey::from_pem(pem, "key")?;
            root.verify_key(&bundle, input, key.spki(), Rigour::default())
        }
    };
    verified
        .map(|_| ())
        .map_err(|why| Error::denied(format!("bundle: {why}")))
}
