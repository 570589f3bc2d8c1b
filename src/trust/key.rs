//! Public keys that policies trust: PEM, what kind they are, and the signatures they verify.
//!
//! A key is a SubjectPublicKeyInfo, as `cosign.pub` and `openssl pkey -pubout` write it. Which hash
//! a signature uses is not said anywhere in a cosign signature: cosign 3 takes the one that fits
//! the curve, cosign 2 always SHA-256, so both are tried. All of them are strong, so that a
//! signature that verifies under either is by the holder of the key.

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
    spki: Vec<u8>,
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
    /// Ed25519 over the message itself (RFC 8032's `PureEdDSA`), as cosign 2 signs. cosign 3 signs
    /// with `Ed25519ph`, which this is not; version 3.1.2 refuses its own such signatures.
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

    /// Reads one DER SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem).
    pub(crate) fn from_spki(der: &[u8], origin: String) -> Result<Self> {
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
            spki: der.to_vec(),
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

    /// The DER SubjectPublicKeyInfo.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
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

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::{AsDer, PublicKeyX509Der},
        rand::SystemRandom,
        rsa::{KeyPair, KeySize},
        signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256},
    };

    use super::*;

    const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----\nMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC7u1E0meEbGFP2cb4q9Umhw1sD\nJL+FbWTgYB71w3GO0YjB/DWCQzCjClNcsCWM9kmO86n9rxwx0yrhF9DgJGHcgy/7\naudmvEE3oNFnMRDy52mzkgvjLJZi9ualSsS0guKTT53E08MWItRVipb0YAHVrHCI\nP9fb6hzj0zoRa3itQwIDAQAB\n-----END PUBLIC KEY-----";
    const SECP256K1: &str = "-----BEGIN PUBLIC KEY-----\nMFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAECEmbPJG3NJj5RFDbskJz7BBs44npzBlh\nLYhbEpQ58aHaXEuWbEZfumkZoE3N9g2hnCq857qcxwoWfvE/XyIPBQ==\n-----END PUBLIC KEY-----";
    /// Keys and signatures over `hello` with SHA-256, made by openssl, as cosign 2 signs.
    const P384: (&str, &str) = (
        "-----BEGIN PUBLIC KEY-----\nMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEh2kagIHaoPPCaRexfiAnt3hCvu6Qjq9U\nuvUm/ZfFlwNd40V8p8yyj/0nJ5802gxzTgcubALwWoX6MC0T/jWo4td4+QXDTTgR\nuaRvzB292WZcxUVzA4GJrBmfbtFNaGYa\n-----END PUBLIC KEY-----",
        "MGQCMBsE4iOWQ3YaDaFauFDF4H+qEfWj68wnApxE/HUXOCHwdBi8TEVklywbusnfx2K9cQIwYTDr4WPe63xT4bZ2ytYrVf9nHNUn0o6zlLuDda0/iznpSTpCpvBprlraNapJqtHR",
    );
    const P521: (&str, &str) = (
        "-----BEGIN PUBLIC KEY-----\nMIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBM4XiW6wEfyWBOq6O+qgbviOTm7pM\n2wIKWxbIkiwEricxeAT9J3jTw0UZznCJkO6KyA4rRil2ny6fIzEhl66fTY0B4/iD\nnncudY/yuBgWlDbJz6GetbCFTGPAhaiFFIHmFVZP1nwvYXoFNqywCoX+aiRY9mlJ\nJ+tIcdPbmIvWPzp1zkQ=\n-----END PUBLIC KEY-----",
        "MIGIAkIBlV5YFPicZ1o5TwR88xyu/qj/bU6LWHCvHutGcqzL+RuYcZO+7Fq0M56hBCD8gbfG5C1cFK3IV/Hbzn8FcuVbFwUCQgFbjay2eVS/tBXUVNAWNBzwQ4MmGNClRyNpxzjEunZ3DGoV/yHlKMypoCfIKbZhKoFZZ41X9UHzv8PFwsgMZCQEYw==",
    );

    fn pem(der: &[u8]) -> String {
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }

    fn read(pem: &str) -> PublicKey {
        PublicKey::from_pem(pem.as_bytes(), "k").unwrap()
    }

    #[test]
    fn the_larger_curves_with_sha256() {
        for ((pem, signature), kind) in [(P384, KeyKind::EcdsaP384), (P521, KeyKind::EcdsaP521)] {
            let key = read(pem);
            assert_eq!(key.kind(), kind);
            let signature = base64::engine::general_purpose::STANDARD
                .decode(signature)
                .unwrap();
            assert!(key.verifies(b"hello", &signature));
            assert!(!key.verifies(b"hellp", &signature));
            assert!(!key.verifies(b"hello", &signature[1..]));
        }
    }

    #[test]
    fn rsa_in_both_paddings_and_ed25519() {
        let rsa = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let spki: PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
        let key = read(&pem(spki.as_ref()));
        assert_eq!(key.kind(), KeyKind::Rsa);
        for padding in [&RSA_PKCS1_SHA256, &RSA_PSS_SHA256] {
            let mut signature = vec![0; rsa.public_modulus_len()];
            rsa.sign(padding, &SystemRandom::new(), b"hello", &mut signature)
                .unwrap();
            assert!(key.verifies(b"hello", &signature));
            assert!(!key.verifies(b"hellp", &signature));
        }

        let ed25519 = Ed25519KeyPair::generate().unwrap();
        let spki: PublicKeyX509Der<'_> = ed25519.public_key().as_der().unwrap();
        let key = read(&pem(spki.as_ref()));
        assert_eq!(key.kind(), KeyKind::Ed25519);
        assert_eq!(*key.fingerprint(), Digest::sha256(spki.as_ref()));
        let signature = ed25519.sign(b"hello");
        assert!(key.verifies(b"hello", signature.as_ref()));
        assert!(!key.verifies(b"hellp", signature.as_ref()));
    }

    #[test]
    fn refuses_weak_and_unknown_keys() {
        for (pem, want) in [
            (RSA_1024, "k: RSA key of fewer than 2048 bits"),
            (SECP256K1, "k: not an ECDSA P-256"),
            (&pem(&[0x30, 0]), "k: not an ECDSA P-256"),
            ("", "k: not PEM text"),
        ] {
            let error = PublicKey::from_pem(pem.as_bytes(), "k").unwrap_err();
            assert!(error.to_string().contains(want), "{error}");
        }
    }
}
