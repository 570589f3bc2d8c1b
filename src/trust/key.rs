//! Public keys that policies trust: PEM, what kind they are, and the signatures they verify.
//!
//! A key is a SubjectPublicKeyInfo, as `cosign.pub` and `openssl pkey -pubout` write it. Which hash a
//! signature uses is not said anywhere in a cosign signature: cosign 3 takes the one that fits the
//! curve, cosign 2 always SHA-256, so both are tried. All of them are strong, so that a signature
//! that verifies under either is by the holder of the key.

use std::fmt;

use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;

use crate::{
    error::{Error, Result},
    oci::Digest,
};

/// A public key and where the policy has it from.
#[derive(Clone)]
pub struct PublicKey {
    kind: KeyKind,
    verifiers: Vec<ParsedPublicKey>,
    fingerprint: Digest,
    origin: String,
}

/// Kind of a [`PublicKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256 with SHA-256.
    EcdsaP256,
    /// ECDSA on P-384 with SHA-384 (cosign 2: SHA-256).
    EcdsaP384,
    /// ECDSA on P-521 with SHA-512 (cosign 2: SHA-256).
    EcdsaP521,
    /// RSA of 2048 to 8192 bits, PKCS#1 v1.5 or PSS, with SHA-256.
    Rsa,
    /// Ed25519 over the message itself (RFC 8032's `PureEdDSA`).
    Ed25519,
}

/// Largest key file or key data that is read; an 8192-bit RSA key takes 1.5 KiB of PEM.
pub(crate) const MAX_KEY: u64 = 64 << 10;

/// The AlgorithmIdentifier (RFC 5480, 3279, 8410) of each kind, whole, as DER has exactly one form.
const ALGORITHMS: [(KeyKind, &[u8]); 5] = [
    (
        KeyKind::EcdsaP256,
        &[
            0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
            0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
        ],
    ),
    (
        KeyKind::EcdsaP384,
        &[
            0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
            0x81, 0x04, 0x00, 0x22,
        ],
    ),
    (
        KeyKind::EcdsaP521,
        &[
            0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
            0x81, 0x04, 0x00, 0x23,
        ],
    ),
    (
        KeyKind::Rsa,
        &[
            0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05,
            0x00,
        ],
    ),
    (
        KeyKind::Ed25519,
        &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70],
    ),
];

/// DER length of the SubjectPublicKeyInfo of a 2048-bit RSA key with exponent 3, the smallest that
/// is accepted.
const MIN_RSA_SPKI: usize = 292;

// === impl PublicKey ===

impl PublicKey {
    /// Reads one PEM public key; `origin` says where it is from, for messages.
    ///
    /// # Errors
    /// `Invalid` if it is not one PEM block of a well-formed key, `Unsupported` if the key is of a
    /// kind that is not verified here.
    pub fn from_pem(pem: &[u8], origin: impl Into<String>) -> Result<Self> {
        let origin = origin.into();
        let (label, der) =
            decode_pem(pem).map_err(|why| Error::invalid(format!("{origin}: {why}")))?;
        if label != "PUBLIC KEY" {
            return Err(Error::invalid(format!(
                "{origin}: want a PEM block PUBLIC KEY, have {label}"
            )));
        }
        Self::from_spki(&der, origin)
    }

    fn from_spki(der: &[u8], origin: String) -> Result<Self> {
        let kind = kind_of(der).ok_or_else(|| {
            Error::new(
                crate::Kind::Unsupported,
                format!("{origin}: not an ECDSA P-256, P-384, P-521, RSA or Ed25519 public key"),
            )
        })?;
        if kind == KeyKind::Rsa && der.len() < MIN_RSA_SPKI {
            return Err(Error::invalid(format!(
                "{origin}: RSA key of fewer than 2048 bits"
            )));
        }
        let verifiers = kind
            .algorithms()
            .iter()
            .map(|algorithm| ParsedPublicKey::new(*algorithm, der))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Error::invalid(format!("{origin}: malformed {kind} public key")))?;
        Ok(Self {
            kind,
            verifiers,
            fingerprint: Digest::sha256(der),
            origin,
        })
    }

    /// Whether `signature` over `message` was made by this key.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.verifiers
            .iter()
            .any(|key| key.verify_sig(message, signature).is_ok())
    }

    /// SHA-256 of the DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn fingerprint(&self) -> &Digest {
        &self.fingerprint
    }

    /// Kind of key.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// File or policy line it is from.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.kind, self.fingerprint)
    }
}

// === impl KeyKind ===

impl KeyKind {
    fn algorithms(self) -> &'static [&'static dyn VerificationAlgorithm] {
        match self {
            KeyKind::EcdsaP256 => &[&signature::ECDSA_P256_SHA256_ASN1],
            KeyKind::EcdsaP384 => &[
                &signature::ECDSA_P384_SHA384_ASN1,
                &signature::ECDSA_P384_SHA256_ASN1,
            ],
            KeyKind::EcdsaP521 => &[
                &signature::ECDSA_P521_SHA512_ASN1,
                &signature::ECDSA_P521_SHA256_ASN1,
            ],
            KeyKind::Rsa => &[
                &signature::RSA_PKCS1_2048_8192_SHA256,
                &signature::RSA_PSS_2048_8192_SHA256,
            ],
            KeyKind::Ed25519 => &[&signature::ED25519],
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyKind::EcdsaP256 => "ecdsa-p256",
            KeyKind::EcdsaP384 => "ecdsa-p384",
            KeyKind::EcdsaP521 => "ecdsa-p521",
            KeyKind::Rsa => "rsa",
            KeyKind::Ed25519 => "ed25519",
        })
    }
}

/// The label and bytes of the only PEM block in `text`.
pub(crate) fn decode_pem(text: &[u8]) -> Result<(String, zeroize::Zeroizing<Vec<u8>>), String> {
    let text = std::str::from_utf8(text).map_err(|_| "not PEM text".to_owned())?;
    let (_, rest) = text
        .split_once("-----BEGIN ")
        .ok_or("not PEM text: no BEGIN line")?;
    let (label, rest) = rest.split_once("-----").ok_or("malformed PEM BEGIN line")?;
    let (body, rest) = rest
        .split_once(&format!("-----END {label}-----"))
        .ok_or("PEM block without its END line")?;
    if rest.contains("-----BEGIN ") {
        return Err("more than one PEM block".into());
    }
    let body: zeroize::Zeroizing<String> =
        zeroize::Zeroizing::new(body.chars().filter(|c| !c.is_ascii_whitespace()).collect());
    let der = base64::engine::general_purpose::STANDARD
        .decode(body.as_bytes())
        .map_err(|_| format!("PEM block {label}: malformed base64"))?;
    Ok((label.to_owned(), zeroize::Zeroizing::new(der)))
}

/// Kind of a SubjectPublicKeyInfo by the AlgorithmIdentifier that follows its outer header.
fn kind_of(der: &[u8]) -> Option<KeyKind> {
    let rest = match der {
        [0x30, length, rest @ ..] if *length < 0x80 => rest,
        [0x30, 0x81, _, rest @ ..] | [0x30, 0x82, _, _, rest @ ..] => rest,
        _ => return None,
    };
    ALGORITHMS
        .iter()
        .find(|(_, algorithm)| rest.starts_with(algorithm))
        .map(|(kind, _)| *kind)
}
