//! Sigstore: signatures by short-lived certificates of a Fulcio authority, or by keys, that are
//! entered in a Rekor log or stamped by a timestamp authority.
//!
//! The only place that knows the crate `sigstore-verify` (docs/decisions/0012-sigstore.md): bytes
//! go in, what they prove comes out as a `Proof`. A [`TrustRoot`] holds whom to believe; where a
//! policy gives a certificate authority and a log's key instead, one is made of these. Signatures
//! in the older form (layers of a `.sig` or `.att` image, `attached`) are verified as the bundles
//! that they amount to; an entry of a kind that only that form has is restated first (`intoto`). `pki`
//! is the requirement of the same name, which knows neither log nor
//! Fulcio.
//!
//! The whole conformance suite of the sigstore project runs as `tests/sigstore_conformance.rs`.

mod attached;
mod conformance;
mod intoto;
mod pki;
mod root;

use std::fmt;

use sigstore_verify::types::{self, VerificationMaterialContent};

use super::key::PublicKey;

pub(crate) use self::{attached::Attached, pki::certificates_of_pem, root::MAX_ROOT};
pub use self::{
    conformance::{Artifact, BundleRequest, Roots, Who, verify_bundle},
    pki::Pki,
    root::TrustRoot,
};

/// Who must have signed, by what the certificate says.
#[derive(Clone, Debug)]
pub struct Person {
    /// The subject that the certificate names.
    pub subject: Subject,
    /// The OpenID Connect issuer that vouched for the subject, character by character.
    pub issuer: String,
}

/// The subject (alternative name) of a certificate.
#[derive(Clone, Debug)]
pub enum Subject {
    /// An e-mail address or URI, character by character.
    Exact(String),
    /// An e-mail address, character by character.
    Email(String),
    /// An e-mail address or URI that the pattern matches from beginning to end.
    Pattern(regex::Regex),
}

/// How a signature has to be proven, whoever made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rigour {
    /// The log must prove that the entry is in it; its promise to take it up is not enough.
    pub(crate) inclusion_proof: bool,
    /// The certificate need not carry the timestamp of a certificate transparency log.
    pub(crate) no_sct: bool,
}

/// What a verified signature proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proof {
    /// SubjectPublicKeyInfo of the key that signed.
    pub(crate) key: Vec<u8>,
    /// What the certificate says, if one signed.
    pub(crate) certificate: Option<Claims>,
    /// When, in seconds since 1970, by the word of the log or of a timestamp authority.
    pub(crate) time: Option<i64>,
}

/// What the certificate of a verified signature says about its holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) subject: String,
    pub(crate) issuer: Option<String>,
    /// The workflow that built: URI with reference.
    pub(crate) builder: Option<String>,
    /// The repository that was built, as URI, its revision and its reference (`refs/...`).
    pub(crate) source: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) reference: Option<String>,
}

/// A bundle that can be read. Nothing in it has been verified.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    inner: types::Bundle,
    /// The log's entry, if it is of the kind that no bundle can have.
    intoto: Option<intoto::Intoto>,
}

// === impl Bundle ===

impl Bundle {
    /// Parses a bundle of version 0.1, 0.2 or 0.3.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "bundle: not UTF-8")?;
        types::Bundle::from_json(text)
            .map(|inner| Self {
                inner,
                intoto: None,
            })
            .map_err(|e| format!("bundle: {e}"))
    }

    /// The certificates that it brings, the signer's first; none if a key signed.
    pub(crate) fn certificates(&self) -> Vec<&[u8]> {
        match &self.inner.verification_material.content {
            VerificationMaterialContent::Certificate(one) => vec![one.raw_bytes.as_bytes()],
            VerificationMaterialContent::X509CertificateChain { certificates } => certificates
                .iter()
                .map(|it| it.raw_bytes.as_bytes())
                .collect(),
            _ => Vec::new(),
        }
    }
}

// === impl Proof ===

impl Proof {
    /// That a key which the policy names verified it, and no more.
    pub(crate) fn by_key(key: &PublicKey) -> Self {
        Self {
            key: key.spki().to_vec(),
            certificate: None,
            time: None,
        }
    }
}

// === impl Person ===

impl fmt::Display for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.subject, self.issuer)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Exact(text) => f.write_str(text),
            Subject::Email(text) => write!(f, "e-mail {text}"),
            Subject::Pattern(pattern) => write!(f, "pattern {pattern}"),
        }
    }
}
