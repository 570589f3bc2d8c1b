//! GPG signatures (`signedBy`): OpenPGP messages that hold a simple signing payload.
//!
//! The crate `pgp` reads packets and does the mathematics; what may serve is decided here. A
//! `message` is one signed document and nothing else. Its signer is a key of the policy's keyring,
//! or a subkey that the key has bound for signing (`certificate`), neither expired nor revoked. No
//! web of trust is asked: what is in the keyring is trusted, as in containers-policy.json(5).

mod certificate;
mod message;
#[cfg(test)]
mod tests;

use std::fmt;

use pgp::packet::Signature;

use self::certificate::Certificate;
pub(crate) use self::message::MAX_MESSAGE;

/// Keys that may have signed, any of them.
#[derive(Clone, Debug)]
pub struct Keyring {
    certificates: Vec<Certificate>,
    origins: Vec<String>,
}

/// A message whose signature is good.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    /// What was signed.
    pub(crate) payload: Vec<u8>,
    /// Fingerprint of the primary key, in hexadecimal.
    pub(crate) fingerprint: String,
    /// The key or subkey that signed, as a packet's body.
    pub(crate) key: Vec<u8>,
}

/// Most keys of one requirement: each signature is tried with each of them.
const MAX_CERTIFICATES: usize = 64;
/// How far a signer's clock may be ahead of ours, in seconds.
const CLOCK_SKEW: u64 = 600;

// === impl Keyring ===

impl Keyring {
    /// Reads keyrings as `gpg --export` writes them, armored or not, each with where it is from.
    ///
    /// # Errors
    /// Which of them is malformed, or has no key that can serve, and why.
    pub(crate) fn parse(files: &[(Vec<u8>, String)]) -> Result<Self, String> {
        let mut certificates = Vec::new();
        for (bytes, origin) in files {
            let read = certificate::read(bytes).map_err(|why| format!("{origin}: {why}"))?;
            certificates.extend(read);
        }
        if certificates.len() > MAX_CERTIFICATES {
            let count = certificates.len();
            return Err(format!("{count} keys, want at most {MAX_CERTIFICATES}"));
        }
        let origins = files.iter().map(|(_, origin)| origin.clone()).collect();
        Ok(Self {
            certificates,
            origins,
        })
    }

    /// Checks a signed message. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// Why it does not serve.
    pub(crate) fn verify(&self, message: &[u8], now: u64) -> Result<Verified, String> {
        let message = message::parse(message)?;
        let signed_at = check_signature(&message.signature, now)?;
        let mut reason = None;
        for certificate in &self.certificates {
            for signer in certificate.components() {
                if !is_issuer(&message.signature, &signer.id()) {
                    continue;
                }
                if let Err(error) = signer.verify(&message.signature, &message.content) {
                    reason = Some(format!("key {}: bad signature: {error}", signer.id()));
                    continue;
                }
                // The same key may be there again, renewed.
                if let Err(why) = certificate.may_sign(signer, signed_at, now) {
                    reason = Some(format!("key {}: {why}", signer.id()));
                    continue;
                }
                return Ok(Verified {
                    payload: message.content,
                    fingerprint: certificate.fingerprint(),
                    key: signer.to_bytes().map_err(|e| e.to_string())?,
                });
            }
        }
        Err(
            reason.unwrap_or_else(|| match issuers(&message.signature).first() {
                Some(issuer) => format!("signed by key {issuer}, which the policy does not name"),
                None => "signed by a key that the policy does not name".into(),
            }),
        )
    }
}

impl fmt::Display for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, certificate) in self.certificates.iter().enumerate() {
            let separator = if n == 0 { "" } else { " or " };
            write!(f, "{separator}{}", certificate.fingerprint())?;
        }
        write!(f, " ({})", self.origins.join(", "))
    }
}

/// Whether it is a signed message, whoever signed it.
pub(crate) fn is_message(bytes: &[u8]) -> bool {
    message::parse(bytes).is_ok()
}

/// What must hold of a signature whoever made it; gives when it was made.
fn check_signature(signature: &Signature, now: u64) -> Result<u64, String> {
    certificate::check_strength(signature, certificate::Use::Document)?;
    let Some(created) = signature.created() else {
        return Err("the signature has no time".into());
    };
    let created = u64::from(created.as_secs());
    if created > now + CLOCK_SKEW {
        return Err("the signature was made in the future".into());
    }
    match signature.signature_expiration_time() {
        Some(life) if life.as_secs() > 0 && created + u64::from(life.as_secs()) <= now => {
            Err("the signature has expired".into())
        }
        _ => Ok(created),
    }
}

/// Whom the signature itself names as its signer; a hint, which nobody needs to believe.
fn issuers(signature: &Signature) -> Vec<String> {
    let fingerprints = signature.issuer_fingerprint().into_iter();
    let ids = signature.issuer_key_id().into_iter();
    fingerprints
        .map(|it| format!("{it:X}"))
        .chain(ids.map(hex::encode_upper))
        .collect()
}

fn is_issuer(signature: &Signature, fingerprint: &str) -> bool {
    let named = issuers(signature);
    named.is_empty()
        || named
            .iter()
            .any(|it| fingerprint.ends_with(it.as_str()) || fingerprint.starts_with(it.as_str()))
}
