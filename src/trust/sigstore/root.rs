//! Whom to believe: certificate authorities, logs and timestamp authorities, and the verification
//! against them.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
};

use base64::Engine as _;
use serde_json::json;
use sha2::Digest as _;
use sigstore_verify::{
    IdentityMatcher, PublicKeyVerificationPolicy, SubjectAltName, VerificationPolicy,
    VerificationResult, Verifier,
    trust_root::{self, SigstoreInstance},
    types::{self, Artifact, DerPublicKey},
};

use super::{
    Bundle, Claims, Person, Proof, Rigour, Subject,
    intoto::{Holder, Restater},
};
use crate::{
    error::{Error, Result},
    oci::Digest,
    trust::key::PublicKey,
};

/// Authorities and logs, ready to verify.
#[derive(Clone)]
pub struct TrustRoot {
    parts: Arc<Parts>,
    origin: String,
    digest: Digest,
}

struct Parts {
    verifier: Verifier,
    root: trust_root::TrustedRoot,
    json: String,
    /// Made when an entry has to be restated for the first time.
    restater: OnceLock<Result<Restater, String>>,
}

/// Largest trusted_root.json that is read; that of the public instance has 10 KiB.
pub(crate) const MAX_ROOT: u64 = 1 << 20;

const MEDIA_TYPES: [&str; 2] = [
    "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    "application/vnd.dev.sigstore.trustedroot.v0.2+json",
];
/// Since when authorities of a policy count: containers-policy.json(5) gives no time.
const ALWAYS: &str = "1970-01-01T00:00:00Z";

// === impl TrustRoot ===

impl TrustRoot {
    /// Reads a `trusted_root.json`.
    ///
    /// # Errors
    /// `Invalid` if it is malformed or something in it cannot be used.
    pub(crate) fn parse(json: &[u8], origin: impl Into<String>) -> Result<Self> {
        let origin = origin.into();
        let invalid = |why: String| Error::invalid(format!("trusted root {origin}: {why}"));
        let text = std::str::from_utf8(json).map_err(|_| invalid("not UTF-8".into()))?;
        let root = trust_root::TrustedRoot::from_json(text).map_err(|e| invalid(e.to_string()))?;
        if !MEDIA_TYPES.contains(&root.media_type.as_str()) {
            return Err(invalid(format!("unknown media type {:?}", root.media_type)));
        }
        let verifier = Verifier::new(&root).map_err(|e| invalid(e.to_string()))?;
        Ok(Self {
            parts: Arc::new(Parts {
                verifier,
                root,
                json: text.to_owned(),
                restater: OnceLock::new(),
            }),
            origin,
            digest: Digest::sha256(json),
        })
    }

    /// The public instance, as it was when this program was built.
    ///
    /// # Errors
    /// `Internal`; a test reads it.
    pub(crate) fn production() -> Result<Self> {
        // A policy is read for every decision, and may name it in many scopes.
        static ONCE: OnceLock<TrustRoot> = OnceLock::new();
        if let Some(root) = ONCE.get() {
            return Ok(root.clone());
        }
        let root = Self::built_in(SigstoreInstance::PublicGood, "of the public Sigstore")?;
        Ok(ONCE.get_or_init(|| root).clone())
    }

    /// The public staging instance, for the conformance suite.
    ///
    /// # Errors
    /// As [`production`](Self::production).
    pub(crate) fn staging() -> Result<Self> {
        Self::built_in(SigstoreInstance::Staging, "of Sigstore's staging")
    }

    fn built_in(instance: SigstoreInstance, origin: &str) -> Result<Self> {
        Self::parse(instance.embedded_trusted_root_json().as_bytes(), origin)
            .map_err(|e| Error::internal(e.to_string()))
    }

    /// Logs and certificate authorities (DER) as a policy lists them one by one. An authority's
    /// certificate is believed whenever it is valid itself, and so is a log's key at all times.
    ///
    /// # Errors
    /// `Invalid` if a key or certificate cannot be used, or one is there twice.
    pub(crate) fn of_policy(
        logs: &[PublicKey],
        authorities: &[Vec<u8>],
        origin: impl Into<String>,
    ) -> Result<Self> {
        let b64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let logs: Vec<serde_json::Value> = logs
            .iter()
            .map(|key| {
                json!({
                    "baseUrl": "", "hashAlgorithm": "SHA2_256",
                    "publicKey": {
                        "rawBytes": b64(key.spki()), "keyDetails": key.kind().to_string(),
                        "validFor": { "start": ALWAYS },
                    },
                    "logId": { "keyId": b64(&sha2::Sha256::digest(key.spki())) },
                })
            })
            .collect();
        let authorities: Vec<serde_json::Value> = authorities
            .iter()
            .map(|der| {
                json!({
                    "subject": {}, "uri": "",
                    "certChain": { "certificates": [{ "rawBytes": b64(der) }] },
                    "validFor": { "start": ALWAYS },
                })
            })
            .collect();
        let root = json!({
            "mediaType": MEDIA_TYPES[0], "tlogs": logs, "certificateAuthorities": authorities,
        });
        Self::parse(root.to_string().as_bytes(), origin)
    }

    /// Where it is from, for messages.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// Verifies that `person` signed the artifact. The certificate, its chain, its transparency
    /// timestamp, the log's entry and every time are checked; `None` accepts any person and is for
    /// showing who signed.
    ///
    /// # Errors
    /// Why the bundle does not prove it.
    pub(crate) fn verify_person<'a>(
        &self,
        bundle: &Bundle,
        artifact: impl Into<Artifact<'a>>,
        person: Option<&Person>,
        rigour: Rigour,
    ) -> Result<Proof, String> {
        let mut policy = match person {
            None => VerificationPolicy::any_identity(),
            Some(Person { subject, issuer }) => match subject {
                Subject::Exact(text) => {
                    VerificationPolicy::new(IdentityMatcher::Exact(text.clone()), issuer)
                }
                Subject::Email(text) => {
                    VerificationPolicy::new(IdentityMatcher::Email(text.clone()), issuer)
                }
                Subject::Pattern(_) => VerificationPolicy::any_identity().require_issuer(issuer),
            },
        };
        if rigour.no_sct {
            policy = policy.skip_sct();
        }
        let certificates = bundle.certificates();
        let holder = Holder {
            label: "CERTIFICATE",
            der: certificates.first().copied().unwrap_or_default(),
        };
        let (verifier, bundle) = self.readable(bundle, &holder)?;
        let result = verifier
            .verify(artifact, &bundle, &policy)
            .map_err(|e| e.to_string())?;
        // What must hold on success anyway; a change of the crate's defaults is not to pass.
        if !result.certificate_verified()
            || !result.tlog_verified()
            || !(rigour.no_sct || result.sct_verified())
        {
            return Err("not everything was verified".into());
        }
        proven(&bundle, rigour)?;
        let certificate = result.certificate().ok_or("no certificate")?;
        let subject = result.identity().map_or("", SubjectAltName::as_str);
        if let Some(Subject::Pattern(pattern)) = person.map(|it| &it.subject)
            && !pattern.is_match(subject)
        {
            return Err(format!(
                "identity mismatch: expected pattern {pattern}, got {subject}"
            ));
        }
        let build = &certificate.ci_claims;
        Ok(Proof {
            key: certificate.public_key.as_bytes().to_vec(),
            certificate: Some(Claims {
                subject: subject.to_owned(),
                issuer: result.issuer().map(ToOwned::to_owned),
                builder: build.build_signer_uri.clone(),
                source: build.source_repository_uri.clone(),
                revision: build.source_repository_digest.clone(),
                reference: build.source_repository_ref.clone(),
            }),
            time: time_of(&result),
        })
    }

    /// Verifies that `key` (SubjectPublicKeyInfo) signed the artifact and that a log took it up.
    ///
    /// # Errors
    /// Why the bundle does not prove it.
    pub(crate) fn verify_key<'a>(
        &self,
        bundle: &Bundle,
        artifact: impl Into<Artifact<'a>>,
        key: &[u8],
        rigour: Rigour,
    ) -> Result<Proof, String> {
        let policy = PublicKeyVerificationPolicy::new(DerPublicKey::from_bytes(key));
        let holder = Holder {
            label: "PUBLIC KEY",
            der: key,
        };
        let (verifier, bundle) = self.readable(bundle, &holder)?;
        let result = verifier
            .verify(artifact, &bundle, &policy)
            .map_err(|e| e.to_string())?;
        if !result.tlog_verified() {
            return Err("not everything was verified".into());
        }
        proven(&bundle, rigour)?;
        Ok(Proof {
            key: key.to_vec(),
            certificate: None,
            time: time_of(&result),
        })
    }

    /// The bundle as the verifier can read it, and the verifier: where the log's entry is of a kind
    /// that it does not know, one that says the same.
    fn readable<'a>(
        &self,
        bundle: &'a Bundle,
        holder: &Holder<'_>,
    ) -> Result<(&Verifier, Cow<'a, types::Bundle>), String> {
        let parts = &*self.parts;
        let Some(intoto) = &bundle.intoto else {
            return Ok((&parts.verifier, Cow::Borrowed(&bundle.inner)));
        };
        let restater = parts
            .restater
            .get_or_init(|| Restater::new(parts.json.as_bytes()));
        let restater = restater.as_ref().map_err(Clone::clone)?;
        let restated = intoto.restate(&bundle.inner, holder, &parts.root, restater)?;
        Ok((&restater.verifier, Cow::Owned(restated)))
    }
}

impl fmt::Debug for TrustRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustRoot({} {})", self.origin, self.digest)
    }
}

/// Holds a verified bundle against what more is asked. Whatever proof and promise a bundle brings
/// have been verified; its version, which decides what it must bring, is not signed, so a bundle
/// that is said to be of version 0.1 may have lost its proof.
fn proven(bundle: &types::Bundle, rigour: Rigour) -> Result<(), String> {
    if rigour.inclusion_proof && !bundle.has_inclusion_proof() {
        return Err("only promised by the log: no inclusion proof".into());
    }
    if !bundle.has_inclusion_proof() && !bundle.has_inclusion_promise() {
        return Err("neither proof nor promise of a log".into());
    }
    Ok(())
}

/// The earliest time that was proven.
fn time_of(result: &VerificationResult) -> Option<i64> {
    result
        .verified_timestamps()
        .iter()
        .map(|time| time.as_second())
        .min()
}
