//! Public keys of JWE recipients: PEM, DER and JWK files.
//!
//! Which algorithm wraps the content key follows from the kind of key, as in ocicrypt, unless a JWK
//! names another that fits.

use std::fmt;

use aws_lc_rs::rsa::{PublicEncryptingKey, PublicKeyComponents};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::{
    private_key::{Curve, MAX_KEY_FILE, next_block},
    tlv::{BIT_STRING, Elements, OBJECT_IDENTIFIER, SEQUENCE},
};
use crate::error::{Error, Result};

/// A public key that JWE packets can be made for.
#[derive(Clone)]
pub(crate) struct PublicKey {
    pub(super) kind: PublicKind,
    /// `alg` of JOSE.
    pub(super) algorithm: &'static str,
    /// `kid` of a JWK.
    pub(super) name: Option<String>,
}

/// The key itself.
#[derive(Clone)]
pub(super) enum PublicKind {
    /// RSA of 2048 to 8192 bits.
    Rsa(PublicEncryptingKey),
    /// An uncompressed point.
    Ec(Curve, Vec<u8>),
}

#[derive(Deserialize)]
struct Jwk<'a> {
    kty: &'a str,
    #[serde(default)]
    alg: Option<&'a str>,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crv: Option<&'a str>,
    #[serde(default)]
    x: Option<&'a str>,
    #[serde(default)]
    y: Option<&'a str>,
    #[serde(default)]
    n: Option<&'a str>,
    #[serde(default)]
    e: Option<&'a str>,
    /// There in a private key.
    #[serde(default)]
    d: Option<serde::de::IgnoredAny>,
}

const RSA_ALGORITHMS: [&str; 2] = ["RSA-OAEP", "RSA-OAEP-256"];
const EC_ALGORITHMS: [&str; 3] = ["ECDH-ES+A256KW", "ECDH-ES+A128KW", "ECDH-ES+A192KW"];

/// 1.2.840.10045.2.1
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// 1.2.840.113549.1.1.1
pub(super) const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

// === impl PublicKey ===

impl PublicKey {
    /// Reads a key file's contents, whichever of the formats it is in.
    ///
    /// # Errors
    /// `Invalid` if it is no public key, `Unsupported` for kinds that ocicrypt's JWE cannot use.
    pub(crate) fn parse(file: &[u8]) -> Result<Self> {
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
            Ok(text) if text.contains("-----BEGIN ") => Self::from_pem(text),
            _ => Self::from_spki(file),
        }
    }

    fn from_pem(text: &str) -> Result<Self> {
        let Some(((label, der), _)) = next_block(text)? else {
            return Err(Error::invalid("the file holds no complete PEM block"));
        };
        match label {
            "PUBLIC KEY" => Self::from_spki(&der),
            "CERTIFICATE" => Err(Error::invalid("a certificate, not a public key").with_hint(
                "write pkcs7:FILE, or take its key: openssl x509 -pubkey -noout -in FILE",
            )),
            "RSA PUBLIC KEY" => Err(Error::unsupported("a PKCS#1 public key")
                .with_hint("convert it: openssl rsa -RSAPublicKey_in -in FILE -pubout")),
            _ if text.contains("PRIVATE KEY-----") => Err(private()),
            label => Err(Error::invalid(format!(
                "the file holds a PEM block {label:?}, no public key"
            ))),
        }
    }

    /// A SubjectPublicKeyInfo.
    fn from_spki(der: &[u8]) -> Result<Self> {
        let unknown = || {
            Error::unsupported(
                "neither an RSA key of 2048 to 8192 bits nor a P-256, P-384 or P-521 key",
            )
        };
        if let Some((curve, point)) = ec_point(der) {
            return Ok(Self {
                kind: PublicKind::Ec(curve, point.to_vec()),
                algorithm: EC_ALGORITHMS[0],
                name: None,
            });
        }
        Ok(Self {
            kind: PublicKind::Rsa(rsa_from_spki(der).ok_or_else(unknown)?),
            algorithm: RSA_ALGORITHMS[0],
            name: None,
        })
    }

    fn from_jwk(json: &[u8]) -> Result<Self> {
        let jwk: Jwk<'_> =
            serde_json::from_slice(json).map_err(|e| Error::invalid(format!("not a JWK: {e}")))?;
        if jwk.d.is_some() {
            return Err(private());
        }
        let number = |name: &str, text: Option<&str>| {
            text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
                .ok_or_else(|| Error::invalid(format!("JWK: {name:?} is not unpadded base64url")))
        };
        let (kind, known): (_, &[&'static str]) = match jwk.kty {
            "EC" => {
                let curve = jwk.crv.and_then(Curve::from_name).ok_or_else(|| {
                    Error::unsupported(format!("JWK of curve {:?}", jwk.crv.unwrap_or("")))
                })?;
                let mut point = vec![4];
                for (name, text) in [("x", jwk.x), ("y", jwk.y)] {
                    let coordinate = number(name, text)?;
                    if coordinate.len() != curve.bytes() {
                        return Err(Error::invalid(format!(
                            "JWK: {name} of {} bytes, want {}",
                            coordinate.len(),
                            curve.bytes()
                        )));
                    }
                    point.extend(coordinate);
                }
                (PublicKind::Ec(curve, point), &EC_ALGORITHMS)
            }
            "RSA" => {
                let components = PublicKeyComponents {
                    n: number("n", jwk.n)?,
                    e: number("e", jwk.e)?,
                };
                let key: PublicEncryptingKey = components
                    .try_into()
                    .map_err(|_| Error::invalid("JWK: not an RSA key of 2048 to 8192 bits"))?;
                (PublicKind::Rsa(key), &RSA_ALGORITHMS)
            }
            other => return Err(Error::unsupported(format!("JWK of type {other:?}"))),
        };
        let algorithm = match jwk.alg {
            None | Some("") => known[0],
            Some(wanted) => known
                .iter()
                .copied()
                .find(|known| *known == wanted)
                .ok_or_else(|| Error::unsupported(format!("JWK of algorithm {wanted:?}")))?,
        };
        Ok(Self {
            kind,
            algorithm,
            name: jwk.kid,
        })
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            PublicKind::Rsa(_) => "RSA",
            PublicKind::Ec(curve, _) => curve.name(),
        };
        write!(f, "PublicKey({kind}, {})", self.algorithm)
    }
}

/// The RSA key of a SubjectPublicKeyInfo, unless it is too small or too large.
pub(super) fn rsa_from_spki(der: &[u8]) -> Option<PublicEncryptingKey> {
    PublicEncryptingKey::from_der(der).ok()
}

/// Algorithm, its parameters, and the key's bits.
fn parts(der: &[u8]) -> Option<(&[u8], Elements<'_>, &[u8])> {
    let mut spki = Elements(der).enter(SEQUENCE)?;
    let mut algorithm = spki.enter(SEQUENCE)?;
    let identifier = algorithm.expect(OBJECT_IDENTIFIER)?.value;
    // The first byte counts bits that do not matter: none.
    let bits = spki.expect(BIT_STRING)?.value.strip_prefix(&[0])?;
    Some((identifier, algorithm, bits))
}

fn ec_point(der: &[u8]) -> Option<(Curve, &[u8])> {
    let (identifier, mut parameters, point) = parts(der)?;
    if identifier != EC_PUBLIC_KEY {
        return None;
    }
    let curve = Curve::from_oid(parameters.expect(OBJECT_IDENTIFIER)?.value)?;
    let uncompressed = point.first() == Some(&4) && point.len() == 1 + 2 * curve.bytes();
    uncompressed.then_some((curve, point))
}

fn private() -> Error {
    Error::invalid("a private key, where the recipient's public key is wanted")
        .with_hint("take its public half: openssl pkey -in FILE -pubout")
}

#[cfg(test)]
pub(super) mod tests {
    use aws_lc_rs::{
        encoding::{AsDer as _, PublicKeyX509Der},
        rsa::PrivateDecryptingKey,
    };

    use super::*;
    use crate::ocicrypt::private_key::{PrivateKey, tests::file};

    /// The public half of a key file of the test data.
    pub(crate) fn public(name: &str) -> PublicKey {
        let der: Vec<u8> = match PrivateKey::parse(&file(name), None).unwrap() {
            PrivateKey::Rsa(_) => {
                let text = String::from_utf8(file(name)).unwrap();
                let ((_, pkcs8), _) = next_block(&text).unwrap().unwrap();
                let key = PrivateDecryptingKey::from_pkcs8(&pkcs8)
                    .unwrap()
                    .public_key();
                let der: PublicKeyX509Der<'_> = key.as_der().unwrap();
                der.as_ref().to_vec()
            }
            PrivateKey::Ec(_, key) => {
                let key = key.compute_public_key().unwrap();
                let der: PublicKeyX509Der<'_> = key.as_der().unwrap();
                der.as_ref().to_vec()
            }
        };
        PublicKey::parse(&der).unwrap()
    }

    #[test]
    fn every_form_of_key() {
        for (name, debug) in [
            ("p256-sec1.pem", "PublicKey(P-256, ECDH-ES+A256KW)"),
            ("p384-sec1.der", "PublicKey(P-384, ECDH-ES+A256KW)"),
            ("p521-pkcs8.pem", "PublicKey(P-521, ECDH-ES+A256KW)"),
            ("rsa-pkcs8.pem", "PublicKey(RSA, RSA-OAEP)"),
        ] {
            assert_eq!(format!("{:?}", public(name)), debug, "{name}");
        }
        // What an RSA and an EC private JWK of the test data have that is public.
        for (name, algorithm) in [("p256.jwk", "ECDH-ES+A192KW"), ("rsa.jwk", "RSA-OAEP-256")] {
            let mut jwk: serde_json::Value = serde_json::from_slice(&file(name)).unwrap();
            let all = jwk.as_object_mut().unwrap();
            for secret in ["d", "p", "q", "dp", "dq", "qi"] {
                all.remove(secret);
            }
            all.insert("alg".into(), algorithm.into());
            all.insert("kid".into(), "k".into());
            let key = PublicKey::parse(jwk.to_string().as_bytes()).unwrap();
            assert_eq!((key.algorithm, key.name.as_deref()), (algorithm, Some("k")));
            jwk["alg"] = "dir".into();
            let error = PublicKey::parse(jwk.to_string().as_bytes()).unwrap_err();
            assert!(error.to_string().contains("algorithm \"dir\""), "{error}");
        }
    }

    #[test]
    fn refuses_what_is_no_public_key() {
        let large = vec![b' '; MAX_KEY_FILE + 1];
        for (file, text) in [
            (&file("p256-sec1.pem")[..], "a private key"),
            (&file("p256.jwk"), "a private key"),
            (
                b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
                "a certificate",
            ),
            (
                b"-----BEGIN X-----\nAAAA\n-----END X-----",
                "PEM block \"X\"",
            ),
            (b"-----BEGIN PUBLIC KEY-----\nAAAA", "no complete PEM"),
            (
                b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
                "neither an RSA",
            ),
            (b"", "neither an RSA"),
            (b"{", "not a JWK"),
            (
                br#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#,
                "x of 1 bytes",
            ),
            (br#"{"kty":"RSA","n":"AA","e":"AQAB"}"#, "not an RSA key"),
            (br#"{"kty":"oct"}"#, "JWK of type"),
            (&large, "not a key"),
        ] {
            let error = PublicKey::parse(file).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
