//! Makes packets as go-jose does for ocicrypt: flattened for one recipient, general for several.

use aes::Aes256;
use aes_gcm::{Aes256Gcm, aead::AeadInOut};
use aes_kw::{AesKw, KeyInit};
use aws_lc_rs::{
    agreement::{self, UnparsedPublicKey},
    rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{MAX_RECIPIENTS, content_key::concat_kdf};
use crate::{
    error::{Error, Result},
    ocicrypt::{
        private_key::Curve,
        public_key::{PublicKey, PublicKind},
        random::random,
    },
};

/// Wraps `content` for every recipient.
///
/// # Errors
/// `Invalid` if there are more than are read or a key is not a point of its curve, `Internal` without
/// randomness.
pub(crate) fn seal(recipients: &[PublicKey], content: &[u8]) -> Result<Vec<u8>> {
    if recipients.len() > MAX_RECIPIENTS {
        return Err(Error::invalid(format!(
            "{} JWE recipients, at most {MAX_RECIPIENTS} are read",
            recipients.len()
        )));
    }
    let content_key = random::<32>()?;
    let iv = random::<12>()?;
    let mut wrapped = Vec::new();
    for recipient in recipients {
        wrapped.push(wrap(recipient, &content_key)?);
    }
    let mut protected = Map::from_iter([("enc".to_owned(), Value::from("A256GCM"))]);
    let mut document = Map::new();
    if let [(header, encrypted_key)] = &mut wrapped[..] {
        protected.append(header);
        document.insert("encrypted_key".into(), url(encrypted_key));
    } else {
        let list = wrapped.into_iter().map(|(header, encrypted_key)| {
            json!({ "header": header, "encrypted_key": url(&encrypted_key) })
        });
        document.insert("recipients".into(), list.collect());
    }
    let protected = URL_SAFE_NO_PAD.encode(Value::Object(protected).to_string());
    let mut data = Zeroizing::new(content.to_vec());
    let tag = Aes256Gcm::new((&*content_key).into())
        .encrypt_inout_detached(
            &(*iv).into(),
            protected.as_bytes(),
            data.as_mut_slice().into(),
        )
        .map_err(|_| Error::internal("JWE: content does not encrypt"))?;
    document.insert("protected".into(), protected.into());
    document.insert("iv".into(), url(&iv[..]));
    document.insert("ciphertext".into(), url(&data));
    document.insert("tag".into(), url(&tag));
    Ok(Value::Object(document).to_string().into_bytes())
}

/// Header and encrypted key of one recipient.
fn wrap(recipient: &PublicKey, content_key: &[u8; 32]) -> Result<(Map<String, Value>, Vec<u8>)> {
    let algorithm = recipient.algorithm;
    let mut header = Map::from_iter([("alg".to_owned(), Value::from(algorithm))]);
    if let Some(name) = &recipient.name {
        header.insert("kid".into(), name.clone().into());
    }
    let encrypted = match &recipient.kind {
        PublicKind::Rsa(key) => {
            let padding = match algorithm {
                "RSA-OAEP" => &OAEP_SHA1_MGF1SHA1,
                _ => &OAEP_SHA256_MGF1SHA256,
            };
            let failed = |_| Error::internal("JWE: RSA encryption");
            let key = OaepPublicEncryptingKey::new(key.clone()).map_err(failed)?;
            let mut buffer = vec![0; key.ciphertext_size()];
            key.encrypt(padding, content_key, &mut buffer, None)
                .map_err(failed)?
                .to_vec()
        }
        PublicKind::Ec(curve, point) => {
            let (epk, encrypted) = wrap_ec(*curve, point, algorithm, content_key)?;
            header.insert("epk".into(), epk);
            encrypted
        }
    };
    Ok((header, encrypted))
}

/// The ephemeral public key as a JWK, and the wrapped content key.
fn wrap_ec(
    curve: Curve,
    point: &[u8],
    algorithm: &str,
    content_key: &[u8; 32],
) -> Result<(Value, Vec<u8>)> {
    let failed = |_| Error::internal("JWE: ephemeral key");
    let ephemeral = agreement::PrivateKey::generate(curve.agreement()).map_err(failed)?;
    let own = ephemeral.compute_public_key().map_err(failed)?;
    let (x, y) = own
        .as_ref()
        .strip_prefix(&[4])
        .and_then(|coordinates| coordinates.split_at_checked(curve.bytes()))
        .ok_or_else(|| Error::internal("JWE: ephemeral key is not an uncompressed point"))?;
    let epk = json!({ "kty": "EC", "crv": curve.name(), "x": url(x), "y": url(y) });
    let bits = match algorithm {
        "ECDH-ES+A128KW" => 128,
        "ECDH-ES+A192KW" => 192,
        _ => 256,
    };
    let encrypted = agreement::agree(
        &ephemeral,
        UnparsedPublicKey::new(curve.agreement(), point),
        Error::invalid(format!("the key is not a point of {}", curve.name())),
        |secret| wrap_aes(&concat_kdf(secret, algorithm, b"", b"", bits), content_key),
    )?;
    Ok((epk, encrypted))
}

fn wrap_aes(wrapping: &[u8], content_key: &[u8; 32]) -> Result<Vec<u8>> {
    let failed = || Error::internal("JWE: key wrap");
    let mut out = vec![0; content_key.len() + 8];
    let done = match wrapping.len() {
        16 => AesKw::<aes::Aes128>::new_from_slice(wrapping)
            .map_err(|_| failed())?
            .wrap_key(content_key, &mut out)
            .map(drop),
        24 => AesKw::<aes::Aes192>::new_from_slice(wrapping)
            .map_err(|_| failed())?
            .wrap_key(content_key, &mut out)
            .map(drop),
        _ => AesKw::<Aes256>::new_from_slice(wrapping)
            .map_err(|_| failed())?
            .wrap_key(content_key, &mut out)
            .map(drop),
    };
    done.map_err(|_| failed())?;
    Ok(out)
}

fn url(bytes: &[u8]) -> Value {
    URL_SAFE_NO_PAD.encode(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Kind,
        ocicrypt::{
            jwe::Jwe,
            private_key::{PrivateKey, tests::file},
            public_key::tests::public,
        },
    };

    const KEYS: [&str; 4] = [
        "p256-sec1.pem",
        "p384-sec1.der",
        "p521-pkcs8.pem",
        "rsa-pkcs8.pem",
    ];

    fn private(name: &str) -> PrivateKey {
        PrivateKey::parse(&file(name), None).unwrap()
    }

    #[test]
    fn opens_with_each_recipients_key_and_no_other() {
        for name in KEYS {
            let packet = seal(&[public(name)], b"content").unwrap();
            let jwe = Jwe::parse(&packet).unwrap();
            assert_eq!(jwe.recipients(), 1);
            for other in KEYS {
                match jwe.open(&private(other)) {
                    Ok(content) => assert_eq!((other, &content[..]), (name, &b"content"[..])),
                    Err(error) => assert_eq!(error.kind(), Kind::Denied, "{other}: {error}"),
                }
            }
            assert!(jwe.open(&private(name)).is_ok());
        }
        let packet = seal(&KEYS.map(public), b"content").unwrap();
        let jwe = Jwe::parse(&packet).unwrap();
        assert_eq!(jwe.recipients(), 4);
        for name in KEYS {
            assert_eq!(jwe.open(&private(name)).unwrap()[..], *b"content");
        }
    }

    #[test]
    fn every_algorithm() {
        for (name, algorithm) in [
            ("p256-sec1.pem", "ECDH-ES+A128KW"),
            ("p384-sec1.der", "ECDH-ES+A192KW"),
            ("p521-pkcs8.pem", "ECDH-ES+A256KW"),
            ("rsa-pkcs8.pem", "RSA-OAEP-256"),
        ] {
            let key = PublicKey {
                algorithm,
                name: Some("k".into()),
                ..public(name)
            };
            let jwe = Jwe::parse(&seal(&[key], b"x").unwrap()).unwrap();
            assert_eq!(jwe.algorithms(), [algorithm]);
            assert_eq!(jwe.open(&private(name)).unwrap()[..], *b"x");
        }
    }

    #[test]
    fn two_packets_of_one_content_have_nothing_in_common() {
        let key = [public("rsa-pkcs8.pem")];
        let packets = [0, 1].map(|_| -> Value {
            serde_json::from_slice(&seal(&key, b"content").unwrap()).unwrap()
        });
        for field in ["iv", "ciphertext", "tag", "encrypted_key"] {
            assert_ne!(packets[0][field], packets[1][field], "{field}");
        }
    }

    #[test]
    fn a_point_beside_its_curve_is_refused() {
        let mut key = public("p256-sec1.pem");
        let PublicKind::Ec(_, point) = &mut key.kind else {
            panic!("an EC key")
        };
        point[40] ^= 1;
        let error = seal(&[key], b"x").unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(
            error.to_string().contains("not a point of P-256"),
            "{error}"
        );
    }
}
