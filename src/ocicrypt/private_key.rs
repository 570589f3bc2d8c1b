//! Private keys of JWE and PKCS7 recipients: PEM, DER and JWK files.
//!
//! PKCS#1 and PKCS#8 for RSA, SEC1 and PKCS#8 for P-256, P-384 and P-521; PKCS#8 also encrypted
//! (PBES2). PEM as OpenSSL writes it: text and `EC PARAMETERS` before the key are passed over.

use std::fmt;

use aws_lc_rs::{
    agreement::{self, ECDH_P256, ECDH_P384, ECDH_P521},
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{
        KeyPair, KeyPairComponents, OaepPrivateDecryptingKey, Pkcs1PrivateDecryptingKey,
        PrivateDecryptingKey, PublicKeyComponents,
    },
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// A private key that can open JWE packets and, if it is RSA, PKCS7 packets.
pub(crate) enum PrivateKey {
    /// RSA in the paddings that packets have.
    Rsa(Box<RsaKey>),
    /// For ECDH-ES with key wrap.
    Ec(Curve, Box<agreement::PrivateKey>),
}

/// One RSA key by padding.
pub(crate) struct RsaKey {
    /// For `RSA-OAEP` and `RSA-OAEP-256` of JWE and for OAEP in PKCS7.
    pub(super) oaep: OaepPrivateDecryptingKey,
    /// For PKCS7.
    pub(super) pkcs1: Pkcs1PrivateDecryptingKey,
}

/// An elliptic curve of JOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
}

/// Secret part of a JWK; `kty` says which fields are there.
#[derive(Deserialize)]
struct Jwk<'a> {
    kty: &'a str,
    #[serde(default)]
    crv: Option<&'a str>,
    #[serde(default)]
    d: Option<&'a str>,
    #[serde(default)]
    n: Option<&'a str>,
    #[serde(default)]
    e: Option<&'a str>,
    #[serde(default)]
    p: Option<&'a str>,
    #[serde(default)]
    q: Option<&'a str>,
    #[serde(default)]
    dp: Option<&'a str>,
    #[serde(default)]
    dq: Option<&'a str>,
    #[serde(default)]
    qi: Option<&'a str>,
}

/// Label and contents of one PEM block.
pub(super) type Block<'a> = (&'a str, Zeroizing<Vec<u8>>);

/// Largest key file: an RSA key of 8192 bits takes 6.5 KiB in PEM, a JWK a little more.
pub(crate) const MAX_KEY_FILE: usize = 64 << 10;

// === impl PrivateKey ===

impl PrivateKey {
    /// Reads a key file's contents, whichever of the formats it is in.
    ///
    /// # Errors
    /// `Invalid` if it is no private key or the password does not fit, `Denied` if it needs one,
    /// `Unsupported` for kinds of keys that ocicrypt's JWE cannot use.
    pub(crate) fn parse(file: &[u8], password: Option<&[u8]>) -> Result<Self> {
        if file.len() > MAX_KEY_FILE {
            return Err(Error::invalid(format!(
                "over {MAX_KEY_FILE} bytes: not a key"
            )));
        }
        let start = file.trim_ascii_start();
        if start.starts_with(b"{") {
            return Self::from_jwk(start);
        }
        match std::str::from_utf8(file) {
            Ok(text) if text.contains("-----BEGIN ") => Self::from_pem(text, password),
            _ => Self::from_der(file, password),
        }
    }

    fn from_pem(text: &str, password: Option<&[u8]>) -> Result<Self> {
        let mut passed_over = None;
        let mut rest = text;
        while let Some((block, after)) = next_block(rest)? {
            rest = after;
            match block.0 {
                "EC PARAMETERS" => {}
                "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => {
                    return Self::from_plain_der(&block.1);
                }
                "ENCRYPTED PRIVATE KEY" => return Self::from_encrypted_der(&block.1, password),
                label => passed_over = Some(label),
            }
        }
        if passed_over == Some("CERTIFICATE") {
            return Err(Error::invalid("a certificate, no private key")
                .with_hint("give the private key alone: decryption needs no certificate"));
        }
        Err(Error::invalid(match passed_over {
            Some(label) => format!("the file holds a PEM block {label:?}, no private key"),
            None => "the file holds no complete PEM block".to_owned(),
        }))
    }

    fn from_der(der: &[u8], password: Option<&[u8]>) -> Result<Self> {
        if pkcs8::EncryptedPrivateKeyInfoRef::try_from(der).is_ok() {
            return Self::from_encrypted_der(der, password);
        }
        Self::from_plain_der(der)
    }

    fn from_encrypted_der(der: &[u8], password: Option<&[u8]>) -> Result<Self> {
        let password = password.ok_or_else(|| {
            Error::denied("the key is encrypted and no password was given")
                .with_hint("write FILE:pass=PASSWORD, FILE:file=PASSWORD-FILE or FILE:fd=NUMBER")
        })?;
        let encrypted = pkcs8::EncryptedPrivateKeyInfoRef::try_from(der)
            .map_err(|e| Error::invalid(format!("not an encrypted PKCS#8 key: {e}")))?;
        let plain = encrypted.decrypt(password).map_err(|e| match e {
            pkcs8::Error::EncryptedPrivateKey(_) => Error::invalid(
                "the password does not fit, or the key is encrypted by something other than \
                 PBKDF2 or scrypt with AES",
            ),
            other => Error::invalid(format!("not an encrypted PKCS#8 key: {other}")),
        })?;
        Self::from_plain_der(plain.as_bytes())
    }

    fn from_plain_der(der: &[u8]) -> Result<Self> {
        if let Ok(key) = PrivateDecryptingKey::from_pkcs8(der) {
            return Self::rsa(key);
        }
        if let Ok(pair) = KeyPair::from_der(der) {
            return Self::from_pair(&pair);
        }
        for curve in Curve::ALL {
            if let Ok(key) = agreement::PrivateKey::from_private_key_der(curve.agreement(), der) {
                return Ok(Self::Ec(curve, Box::new(key)));
            }
        }
        Err(Error::unsupported(
            "neither an RSA key of 2048 to 8192 bits nor a P-256, P-384 or P-521 key",
        ))
    }

    fn from_jwk(json: &[u8]) -> Result<Self> {
        let jwk: Jwk<'_> = serde_json::from_slice(json).map_err(|e| {
            Error::invalid(format!(
                "not a JWK: malformed at line {} column {}",
                e.line(),
                e.column()
            ))
        })?;
        match jwk.kty {
            "EC" => {
                let curve = jwk.crv.and_then(Curve::from_name).ok_or_else(|| {
                    Error::unsupported(format!("JWK of curve {:?}", jwk.crv.unwrap_or("")))
                })?;
                let d = number("d", jwk.d)?;
                if d.len() > curve.bytes() {
                    return Err(Error::invalid("JWK: d is too long"));
                }
                let mut padded = Zeroizing::new(vec![0; curve.bytes() - d.len()]);
                padded.reserve_exact(d.len());
                padded.extend_from_slice(&d);
                agreement::PrivateKey::from_private_key(curve.agreement(), &padded)
                    .map(|key| Self::Ec(curve, Box::new(key)))
                    .map_err(|e| Error::invalid(format!("JWK: {e}")))
            }
            "RSA" => {
                let pair = KeyPair::from_components(&KeyPairComponents {
                    public_key: PublicKeyComponents {
                        n: number("n", jwk.n)?,
                        e: number("e", jwk.e)?,
                    },
                    d: number("d", jwk.d)?,
                    p: number("p", jwk.p)?,
                    q: number("q", jwk.q)?,
                    dP: number("dp", jwk.dp)?,
                    dQ: number("dq", jwk.dq)?,
                    qInv: number("qi", jwk.qi)?,
                })
                .map_err(|e| Error::invalid(format!("JWK: {e}")))?;
                Self::from_pair(&pair)
            }
            other => Err(Error::unsupported(format!("JWK of type {other:?}"))),
        }
    }

    fn from_pair(pair: &KeyPair) -> Result<Self> {
        let der: Pkcs8V1Der<'_> = pair
            .as_der()
            .map_err(|_| Error::internal("RSA key does not encode"))?;
        let key = PrivateDecryptingKey::from_pkcs8(der.as_ref())
            .map_err(|e| Error::invalid(format!("RSA key: {e}")))?;
        Self::rsa(key)
    }

    fn rsa(key: PrivateDecryptingKey) -> Result<Self> {
        let unfit = |_| Error::invalid("RSA key cannot be used for decryption");
        Ok(Self::Rsa(Box::new(RsaKey {
            oaep: OaepPrivateDecryptingKey::new(key.clone()).map_err(unfit)?,
            pkcs1: Pkcs1PrivateDecryptingKey::new(key).map_err(unfit)?,
        })))
    }
}

impl fmt::Debug for PrivateKey {
    /// Says which kind of key it is, and nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(_) => f.write_str("PrivateKey(RSA)"),
            Self::Ec(curve, _) => write!(f, "PrivateKey({})", curve.name()),
        }
    }
}

// === impl Curve ===

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// By JOSE's name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|curve| curve.name() == name)
    }

    /// JOSE's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// By the contents of its object identifier (RFC 5480).
    pub(super) fn from_oid(oid: &[u8]) -> Option<Self> {
        match oid {
            [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07] => Some(Self::P256),
            [0x2b, 0x81, 0x04, 0x00, 0x22] => Some(Self::P384),
            [0x2b, 0x81, 0x04, 0x00, 0x23] => Some(Self::P521),
            _ => None,
        }
    }

    /// Bytes of a coordinate.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// Key agreement on this curve.
    pub(crate) fn agreement(self) -> &'static agreement::Algorithm {
        match self {
            Self::P256 => &ECDH_P256,
            Self::P384 => &ECDH_P384,
            Self::P521 => &ECDH_P521,
        }
    }
}

fn number(name: &str, value: Option<&str>) -> Result<Zeroizing<Vec<u8>>> {
    let text = value
        .ok_or_else(|| Error::invalid(format!("JWK: no {name:?}; want a whole private key")))?;
    let mut bytes = Zeroizing::new(vec![0; text.len() / 4 * 3 + 3]);
    let length = URL_SAFE_NO_PAD
        .decode_slice(text, &mut bytes)
        .map_err(|_| Error::invalid(format!("JWK: {name:?} is not unpadded base64url")))?;
    bytes.truncate(length);
    Ok(bytes)
}

/// The next PEM block of `text` and what comes after it.
pub(super) fn next_block(text: &str) -> Result<Option<(Block<'_>, &str)>> {
    let Some((_, rest)) = text.split_once("-----BEGIN ") else {
        return Ok(None);
    };
    let Some((label, rest)) = rest.split_once("-----") else {
        return Ok(None);
    };
    let Some((body, after)) = rest.split_once("-----END ") else {
        return Ok(None);
    };
    if body.contains("Proc-Type:") {
        return Err(Error::unsupported(
            "the key is encrypted in the old OpenSSL PEM format, whose key derivation is weak",
        )
        .with_hint("convert it: openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW"));
    }
    let mut compact = Zeroizing::new(Vec::with_capacity(body.len()));
    compact.extend(body.bytes().filter(|b| !b.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; compact.len() / 4 * 3 + 3]);
    let length = STANDARD
        .decode_slice(&compact[..], &mut der)
        .map_err(|_| Error::invalid(format!("PEM block {label:?} is not base64")))?;
    der.truncate(length);
    Ok(Some(((label, der), after)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::error::Kind;

    // Made by `openssl ecparam -name prime256v1 -genkey` for this test; it opens nothing.
    const EC: &str = include_str!("../../tests/data/ocicrypt/keys/p256-sec1.pem");

    pub(crate) fn file(name: &str) -> Vec<u8> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data/ocicrypt/keys")
            .join(name);
        std::fs::read(path).unwrap()
    }

    #[test]
    fn every_form_of_key() {
        for (name, debug) in [
            ("p256-sec1.pem", "PrivateKey(P-256)"),
            ("p256-pkcs8.der", "PrivateKey(P-256)"),
            ("p256.jwk", "PrivateKey(P-256)"),
            ("p384-sec1.der", "PrivateKey(P-384)"),
            ("p521-pkcs8.pem", "PrivateKey(P-521)"),
            ("rsa-pkcs1.pem", "PrivateKey(RSA)"),
            ("rsa-pkcs1.der", "PrivateKey(RSA)"),
            ("rsa-pkcs8.pem", "PrivateKey(RSA)"),
            ("rsa.jwk", "PrivateKey(RSA)"),
        ] {
            let key = PrivateKey::parse(&file(name), None);
            assert_eq!(format!("{:?}", key.unwrap()), debug, "{name}");
        }
    }

    #[test]
    fn encrypted_keys_want_their_password() {
        for name in [
            "p256-encrypted.pem",
            "p256-encrypted.der",
            "p256-scrypt.pem",
        ] {
            let key = PrivateKey::parse(&file(name), Some(b"secret"));
            assert_eq!(format!("{:?}", key.unwrap()), "PrivateKey(P-256)", "{name}");
            let wrong = PrivateKey::parse(&file(name), Some(b"secreT")).unwrap_err();
            assert_eq!(wrong.kind(), Kind::Invalid, "{name}");
            let none = PrivateKey::parse(&file(name), None).unwrap_err();
            assert_eq!(none.kind(), Kind::Denied, "{name}");
            assert!(none.hint().unwrap().contains("pass="));
        }
        let old = PrivateKey::parse(&file("p256-proc-type.pem"), Some(b"secret")).unwrap_err();
        assert_eq!(old.kind(), Kind::Unsupported);
    }

    #[test]
    fn refuses_what_is_no_private_key() {
        let cut = EC.replace("-----END EC PRIVATE KEY-----", "");
        let bad = EC.replace("MHcCAQEE", "MHcC!QEE");
        let public = EC.replace("EC PRIVATE KEY", "PUBLIC KEY");
        let large = vec![b' '; MAX_KEY_FILE + 1];
        for (file, text) in [
            (cut.as_bytes(), "no complete PEM block"),
            (bad.as_bytes(), "not base64"),
            (public.as_bytes(), "no private key"),
            (b"", "neither an RSA key"),
            (b"{", "not a JWK"),
            (br#"{"kty":"oct","k":"AAAA"}"#, "JWK of type \"oct\""),
            (
                br#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#,
                "no \"d\"",
            ),
            (br#"{"kty":"EC","crv":"secp256k1","d":"AA"}"#, "secp256k1"),
            (&large, "not a key"),
        ] {
            let error = PrivateKey::parse(file, None).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
