//! Holding one signature against one requirement: who made it, what it is about, for which name.

use std::time::{Duration, SystemTime};

use super::{By, Candidate, Content};
use crate::{
    error::{Error, Kind},
    oci::{Digest, RawManifest, Reference},
    trust::{
        cosign::{self, Payload},
        grant::{CertifiedSigner, Evidence},
        identity::SignedIdentity,
        key::PublicKey,
        pgp::Keyring,
        signer::{self, Log, Signer},
        sigstore::Proof,
    },
};

// === impl Candidate ===

impl Candidate {
    /// Gives the manifest that it is attached to, where only the digest was known so far.
    pub(in crate::trust) fn is_about(&mut self, subject: &RawManifest) {
        self.subject = subject.clone();
    }

    /// Holds the signature against one requirement.
    ///
    /// # Errors
    /// Why it does not serve, as one line.
    pub(in crate::trust) fn check(
        &self,
        by: By<'_>,
        identity: &SignedIdentity,
        asked: &Reference,
    ) -> Result<Evidence, String> {
        let content = self
            .content
            .as_ref()
            .map_err(|why| self.because(&why.to_string()))?;
        let checked = match by {
            By::Sigstore(signer) => self.by_sigstore(content, signer, identity, asked),
            By::Gpg(keyring) => self.by_gpg(content, keyring, identity, asked),
        };
        checked.map_err(|why| self.because(&why))
    }

    fn by_sigstore(
        &self,
        content: &Content,
        signer: &Signer,
        identity: &SignedIdentity,
        asked: &Reference,
    ) -> Result<Evidence, String> {
        let proof = self.proof(content, signer)?;
        let name = match content {
            Content::Simple { payload, .. } => Some(self.name_in(cosign::parse_payload(payload)?)?),
            Content::Bundle(bundle) => bundle.says(&self.subject)?.name,
            Content::Gpg(_) => return Err(NOT_SIGSTORE.into()),
        };
        accept(name.as_deref(), identity, asked)?;
        let signer = proof.certificate.map(|claims| CertifiedSigner {
            subject: claims.subject,
            issuer: claims.issuer,
        });
        Ok(self.evidence(&proof.key, signer, proof.time, name))
    }

    fn by_gpg(
        &self,
        content: &Content,
        keyring: &Keyring,
        identity: &SignedIdentity,
        asked: &Reference,
    ) -> Result<Evidence, String> {
        let Content::Gpg(message) = content else {
            return Err("no GPG signature".into());
        };
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let verified = keyring.verify(message, now.as_secs())?;
        // Nothing inside is read before the signature has been verified.
        let name = self.name_in(cosign::parse_atomic(&verified.payload)?)?;
        accept(Some(&name), identity, asked)?;
        let signer = CertifiedSigner {
            subject: format!("openpgp4fpr:{}", verified.fingerprint),
            issuer: None,
        };
        Ok(self.evidence(&verified.key, Some(signer), None, Some(name)))
    }

    /// The name that a payload carries, which has to be about this manifest.
    fn name_in(&self, payload: Payload) -> Result<String, String> {
        match payload.digest == self.subject.digest {
            true => Ok(payload.reference),
            false => Err(format!("signs {}, not this digest", payload.digest)),
        }
    }

    fn evidence(
        &self,
        key: &[u8],
        signer: Option<CertifiedSigner>,
        signed_at: Option<i64>,
        identity: Option<String>,
    ) -> Evidence {
        Evidence {
            kind: self.kind,
            signed_digest: self.subject.digest.clone(),
            key: Digest::sha256(key),
            signer,
            signed_at,
            identity,
            blob: self.blob.clone(),
        }
    }

    /// Whether `signer` made the signature; what it is about is not looked at yet.
    fn proof(&self, content: &Content, signer: &Signer) -> Result<Proof, String> {
        match signer {
            Signer::Keys { keys, log } => {
                signer::by_any(keys, |key| self.proof_by_key(content, key, log.as_ref()))
            }
            Signer::Person { person, log } => match content {
                Content::Simple {
                    payload,
                    signature,
                    attached,
                } => {
                    let bundle = attached.message(payload, signature, false)?;
                    let over = payload.as_slice();
                    log.root
                        .verify_person(&bundle, over, Some(person), log.rigour)
                }
                Content::Bundle(bundle) => {
                    let over = self.subject.bytes.as_ref();
                    let bundle = bundle.sigstore()?;
                    log.root
                        .verify_person(&bundle, over, Some(person), log.rigour_of_bundles())
                }
                Content::Gpg(_) => Err(NOT_SIGSTORE.into()),
            },
            Signer::Pki(pki) => match content {
                Content::Simple {
                    payload,
                    signature,
                    attached,
                } => {
                    let certificates = attached.certificates()?;
                    let certificates: Vec<&[u8]> = certificates.iter().map(Vec::as_slice).collect();
                    let (key, proof) = pki.verify(&certificates)?;
                    match key.verifies(payload, signature) {
                        true => Ok(proof),
                        false => Err("not signed by the certificate's key".into()),
                    }
                }
                Content::Bundle(bundle) => {
                    let (key, proof) = pki.verify(&bundle.sigstore()?.certificates())?;
                    bundle.verify(&key, &self.subject).map(|_| proof)
                }
                Content::Gpg(_) => Err(NOT_SIGSTORE.into()),
            },
        }
    }

    fn proof_by_key(
        &self,
        content: &Content,
        key: &PublicKey,
        log: Option<&Log>,
    ) -> Result<Proof, String> {
        let over = match content {
            Content::Simple {
                payload, signature, ..
            } => {
                if !key.verifies(payload, signature) {
                    return Err("not signed by this key".into());
                }
                payload.as_slice()
            }
            Content::Bundle(bundle) if bundle.is_by_key() => {
                bundle.verify(key, &self.subject)?;
                self.subject.bytes.as_ref()
            }
            Content::Bundle(_) => {
                return Err("signed by a certificate (keyless), not by a key".into());
            }
            Content::Gpg(_) => return Err(NOT_SIGSTORE.into()),
        };
        let Some(log) = log else {
            return Ok(Proof::by_key(key));
        };
        let (bundle, rigour) = match content {
            Content::Simple {
                payload,
                signature,
                attached,
            } => (attached.message(payload, signature, true)?, log.rigour),
            Content::Bundle(bundle) => (bundle.sigstore()?, log.rigour_of_bundles()),
            Content::Gpg(_) => return Err(NOT_SIGSTORE.into()),
        };
        log.root.verify_key(&bundle, over, key.spki(), rigour)
    }

    fn because(&self, why: &str) -> String {
        format!("{}: {why}", self.name)
    }

    /// Why it could not be read, if another try may help.
    pub(in crate::trust) fn away(&self) -> Option<Error> {
        match &self.content {
            Err(error) if error.kind() == Kind::Unavailable => {
                Some(Error::unavailable(self.because(&error.to_string())))
            }
            _ => None,
        }
    }

    /// Whether `reason` is that a good signature carries no name.
    pub(in crate::trust) fn is_nameless(reason: &str) -> bool {
        reason.contains(NAMELESS)
    }
}

/// Whether a verified signature is for an accepted name.
fn accept(name: Option<&str>, identity: &SignedIdentity, asked: &Reference) -> Result<(), String> {
    match (name, identity) {
        (_, SignedIdentity::MatchDigest) => Ok(()),
        (Some(signed), _) if identity.accepts(asked, signed) => Ok(()),
        (Some(signed), _) => Err(format!(
            "is for {signed:?}, which {identity} does not accept"
        )),
        (None, _) => Err(format!("{NAMELESS} {identity} cannot be checked on it")),
    }
}

const NAMELESS: &str = "the bundle names no repository, so signedIdentity";
const NOT_SIGSTORE: &str = "a GPG signature, not one of sigstore";
