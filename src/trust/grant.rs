//! The grant: the decision that admits one manifest for one reference, with its evidence.

use std::fmt;

use serde::{Serialize, Serializer};

use super::attestation::Attested;
use crate::oci::{Digest, Manifest, Platform, Reference};

/// Admits one manifest for one reference. Only [`admit`](super::admit) makes one.
///
/// ```compile_fail
/// let grant = nacre::trust::Grant {};
/// ```
///
/// ```compile_fail
/// let new = nacre::trust::Grant::new;
/// ```
///
/// ```compile_fail
/// let grant: nacre::trust::Grant = Default::default();
/// ```
#[derive(Clone, Debug)]
pub struct Grant(Parts);

/// What a [`Grant`] consists of.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) reference: Reference,
    pub(super) repository: String,
    pub(super) platform: Platform,
    pub(super) manifest: Manifest,
    pub(super) manifest_digest: Digest,
    pub(super) index_digest: Option<Digest>,
    pub(super) class: Class,
    pub(super) rule: Rule,
    pub(super) evidence: Vec<Evidence>,
    pub(super) attestations: Vec<Attested>,
}

/// Which of the four kinds of image was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Class {
    /// Every layer is encrypted; a signature was demanded and found.
    #[serde(rename = "encrypted+signed")]
    EncryptedSigned,
    /// Every layer is encrypted; no signature was demanded.
    #[serde(rename = "encrypted+unsigned")]
    EncryptedUnsigned,
    /// Some layer is not encrypted; a signature was demanded and found.
    #[serde(rename = "plain+signed")]
    PlainSigned,
    /// Some layer is not encrypted; no signature was demanded.
    #[serde(rename = "plain+unsigned")]
    PlainUnsigned,
}

/// The part of the policy that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The policy file, or the option that stood in for it.
    pub policy: String,
    /// `transports.docker["registry.example/team"]` or `default`.
    pub scope: String,
    /// Each requirement in one line; all were met.
    pub requirements: Vec<String>,
}

/// One signature that met a requirement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// What kind of signature.
    pub kind: EvidenceKind,
    /// Digest of the manifest or index that was signed.
    pub signed_digest: Digest,
    /// SHA-256 of the public key that verified it (DER SubjectPublicKeyInfo; of GPG's, the packet's
    /// body).
    pub key: Digest,
    /// Whose certificate holds the key; `None` if the policy names the key itself. Of GPG's, the
    /// fingerprint of the primary key (`openpgp4fpr:...`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<CertifiedSigner>,
    /// When it was signed, in seconds since 1970, by the word of a log or a timestamp authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<i64>,
    /// The image name that the signature carries; `None` if it carries none.
    pub identity: Option<String>,
    /// Digest of the blob that is or holds the signature.
    pub blob: Digest,
}

/// Who signed, as the certificate says that an authority of the policy vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertifiedSigner {
    /// E-mail address, URI or host.
    pub subject: String,
    /// The OpenID Connect issuer that vouched for the subject, if one did.
    pub issuer: Option<String>,
}

/// Kind of an [`Evidence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceKind {
    /// cosign's simple signing (`sha256-HEX.sig`).
    CosignSignature,
    /// A sigstore bundle attached as a referrer.
    SigstoreBundle,
    /// GPG's simple signing, from a lookaside or the registry's extension.
    GpgSignature,
}

// === impl Grant ===

impl Grant {
    pub(super) fn new(parts: Parts) -> Self {
        Self(parts)
    }

    /// The reference that was asked for.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.0.reference
    }

    /// Name of the repository that the manifest was read from.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.0.repository
    }

    /// The platform that was asked for.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        &self.0.platform
    }

    /// The admitted manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// Digest of the admitted manifest.
    #[must_use]
    pub fn manifest_digest(&self) -> &Digest {
        &self.0.manifest_digest
    }

    /// Digest of the index that the manifest was chosen from, if the reference named one.
    #[must_use]
    pub fn index_digest(&self) -> Option<&Digest> {
        self.0.index_digest.as_ref()
    }

    /// Digest that the reference resolved to: the index's if there is one, else the manifest's.
    #[must_use]
    pub fn resolved_digest(&self) -> &Digest {
        self.index_digest().unwrap_or(self.manifest_digest())
    }

    /// Class of the image.
    #[must_use]
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// The rule that decided.
    #[must_use]
    pub fn rule(&self) -> &Rule {
        &self.0.rule
    }

    /// The signatures that met the requirements; empty if none was demanded.
    #[must_use]
    pub fn evidence(&self) -> &[Evidence] {
        &self.0.evidence
    }

    /// The attestations that met the requirements; empty if none was demanded.
    #[must_use]
    pub fn attestations(&self) -> &[Attested] {
        &self.0.attestations
    }
}

impl fmt::Display for Grant {
    /// Several lines, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts {
            rule,
            manifest_digest,
            ..
        } = &self.0;
        writeln!(f, "admitted    {}", self.0.reference)?;
        writeln!(f, "repository  {}", self.0.repository)?;
        if let Some(index) = &self.0.index_digest {
            writeln!(f, "index       {index}")?;
        }
        writeln!(f, "manifest    {manifest_digest} ({})", self.0.platform)?;
        writeln!(f, "class       {}", self.0.class)?;
        writeln!(f, "policy      {}", rule.policy)?;
        write!(f, "rule        {}", rule.scope)?;
        for requirement in &rule.requirements {
            write!(f, "\n            {requirement}")?;
        }
        for evidence in &self.0.evidence {
            write!(f, "\nevidence    {evidence}")?;
        }
        for attested in &self.0.attestations {
            write!(f, "\nattested    {attested}")?;
        }
        Ok(())
    }
}

impl Serialize for Grant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Printed<'a> {
            reference: String,
            repository: &'a str,
            platform: String,
            index_digest: Option<&'a Digest>,
            manifest_digest: &'a Digest,
            class: Class,
            rule: &'a Rule,
            evidence: &'a [Evidence],
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            attestations: &'a [Attested],
        }
        Printed {
            reference: self.0.reference.to_string(),
            repository: &self.0.repository,
            platform: self.0.platform.to_string(),
            index_digest: self.0.index_digest.as_ref(),
            manifest_digest: &self.0.manifest_digest,
            class: self.0.class,
            rule: &self.0.rule,
            evidence: &self.0.evidence,
            attestations: &self.0.attestations,
        }
        .serialize(serializer)
    }
}

// === impl Class ===

impl Class {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [
        Self::EncryptedSigned,
        Self::EncryptedUnsigned,
        Self::PlainSigned,
        Self::PlainUnsigned,
    ];

    /// As logs and metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Class::EncryptedSigned => "encrypted+signed",
            Class::EncryptedUnsigned => "encrypted+unsigned",
            Class::PlainSigned => "plain+signed",
            Class::PlainUnsigned => "plain+unsigned",
        }
    }

    pub(super) fn of(encrypted: bool, signed: bool) -> Self {
        match (encrypted, signed) {
            (true, true) => Class::EncryptedSigned,
            (true, false) => Class::EncryptedUnsigned,
            (false, true) => Class::PlainSigned,
            (false, false) => Class::PlainUnsigned,
        }
    }

    /// Whether every layer is encrypted.
    #[must_use]
    pub fn is_encrypted(self) -> bool {
        matches!(self, Class::EncryptedSigned | Class::EncryptedUnsigned)
    }

    /// Whether a signature was demanded and found.
    #[must_use]
    pub fn is_signed(self) -> bool {
        matches!(self, Class::EncryptedSigned | Class::PlainSigned)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Evidence ===

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.identity.as_deref().unwrap_or("no name");
        write!(
            f,
            "{} {} signs {} for {name} by ",
            self.kind, self.blob, self.signed_digest
        )?;
        match &self.signer {
            Some(signer) => signer.fmt(f),
            None => write!(f, "key {}", self.key),
        }
    }
}

impl fmt::Display for CertifiedSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subject)?;
        match &self.issuer {
            Some(issuer) => write!(f, " of {issuer}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for EvidenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EvidenceKind::CosignSignature => "cosign-signature",
            EvidenceKind::SigstoreBundle => "sigstore-bundle",
            EvidenceKind::GpgSignature => "gpg-signature",
        })
    }
}
