//! Packets made here, with the algorithms' other halves; packets that other tools make are in
//! `tests/ocicrypt_skopeo.rs` and `tests/ocicrypt_interop.rs`.

use aes::Aes256;
use aes_gcm::{Aes256Gcm, KeyInit, aead::AeadInOut};
use aes_kw::AesKw;
use aws_lc_rs::{
    agreement,
    rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PrivateDecryptingKey},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::{error::Kind, ocicrypt::private_key::Curve};

const CONTENT_KEY: [u8; 32] = [9; 32];

fn b64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn file(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/ocicrypt/keys")
        .join(name);
    std::fs::read(path).unwrap()
}

fn key(name: &str) -> PrivateKey {
    PrivateKey::parse(&file(name), None).unwrap()
}

/// A document without recipients: content sealed by [`CONTENT_KEY`].
fn sealed(protected: &Value, content: &[u8]) -> Value {
    let protected = b64(protected.to_string().as_bytes());
    let mut data = content.to_vec();
    let tag = Aes256Gcm::new(&CONTENT_KEY.into())
        .encrypt_inout_detached(
            &[7; 12].into(),
            protected.as_bytes(),
            data.as_mut_slice().into(),
        )
        .unwrap();
    json!({"protected": protected, "iv": b64(&[7; 12]), "ciphertext": b64(&data), "tag": b64(&tag)})
}

/// Header and encrypted key for the RSA test key.
fn for_rsa() -> (Value, String) {
    let der = file("rsa-pkcs8.pem");
    let text = std::str::from_utf8(&der).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD
        .decode(body)
        .unwrap();
    let public = PrivateDecryptingKey::from_pkcs8(&der).unwrap().public_key();
    let public = OaepPublicEncryptingKey::new(public).unwrap();
    let mut wrapped = vec![0; public.ciphertext_size()];
    public
        .encrypt(&OAEP_SHA256_MGF1SHA256, &CONTENT_KEY, &mut wrapped, None)
        .unwrap();
    (json!({"alg": "RSA-OAEP-256"}), b64(&wrapped))
}

/// Header and encrypted key for one of the EC test keys.
fn for_ec(name: &str) -> (Value, String) {
    let PrivateKey::Ec(curve, private) = key(name) else {
        panic!("an EC key")
    };
    let ephemeral = agreement::PrivateKey::generate(curve.agreement()).unwrap();
    let point = ephemeral.compute_public_key().unwrap();
    let (x, y) = point.as_ref()[1..].split_at(curve.bytes());
    let peer = agreement::UnparsedPublicKey::new(
        curve.agreement(),
        private.compute_public_key().unwrap().as_ref().to_vec(),
    );
    let wrapping = agreement::agree(&ephemeral, peer, (), |secret| {
        let mut hash = Sha256::new();
        hash.update([0, 0, 0, 1]);
        hash.update(secret);
        hash.update([0, 0, 0, 14]);
        hash.update(b"ECDH-ES+A256KW");
        hash.update([0, 0, 0, 2]);
        hash.update(b"me");
        hash.update([0; 4]);
        hash.update([0, 0, 1, 0]);
        Ok(hash.finalize())
    })
    .unwrap();
    let mut wrapped = [0; 40];
    AesKw::<Aes256>::new_from_slice(&wrapping)
        .unwrap()
        .wrap_key(&CONTENT_KEY, &mut wrapped)
        .unwrap();
    let epk = json!({"kty": "EC", "crv": curve.name(), "x": b64(x), "y": b64(y)});
    (
        json!({"alg": "ECDH-ES+A256KW", "epk": epk, "apu": b64(b"me")}),
        b64(&wrapped),
    )
}

fn open(document: &Value, key: &PrivateKey) -> Result<Zeroizing<Vec<u8>>> {
    Jwe::parse(document.to_string().as_bytes())?.open(key)
}

fn general() -> Value {
    let mut document = sealed(&json!({"enc": "A256GCM"}), b"content");
    let recipients: Vec<_> = [
        for_rsa(),
        for_ec("p256-sec1.pem"),
        for_ec("p384-sec1.der"),
        for_ec("p521-pkcs8.pem"),
    ]
    .into_iter()
    .map(|(header, key)| json!({"header": header, "encrypted_key": key}))
    .collect();
    document["recipients"] = Value::Array(recipients);
    // go-jose's stray field.
    document["encrypted_key"] = document["recipients"][0]["encrypted_key"].clone();
    document
}

#[test]
fn each_recipient_opens() {
    let document = general();
    for name in [
        "rsa-pkcs1.pem",
        "p256.jwk",
        "p384-sec1.der",
        "p521-pkcs8.pem",
    ] {
        assert_eq!(
            open(&document, &key(name)).unwrap()[..],
            *b"content",
            "{name}"
        );
    }
    let jwe = Jwe::parse(document.to_string().as_bytes()).unwrap();
    assert_eq!(jwe.recipients(), 4);
    assert_eq!(jwe.algorithms()[..2], ["RSA-OAEP-256", "ECDH-ES+A256KW"]);
}

#[test]
fn flattened_with_headers_in_any_part() {
    let (header, wrapped) = for_rsa();
    for part in ["header", "unprotected"] {
        let mut document = sealed(&json!({"enc": "A256GCM"}), b"content");
        document[part] = header.clone();
        document["encrypted_key"] = json!(wrapped);
        assert_eq!(
            open(&document, &key("rsa.jwk")).unwrap()[..],
            *b"content",
            "{part}"
        );
    }
    let mut document = sealed(&json!({"enc": "A256GCM", "alg": "RSA-OAEP-256"}), b"");
    document["encrypted_key"] = json!(wrapped);
    assert!(open(&document, &key("rsa.jwk")).unwrap().is_empty());
}

#[test]
fn other_keys_and_flipped_bits_are_denied() {
    let other = agreement::PrivateKey::generate(Curve::P256.agreement()).unwrap();
    let other = PrivateKey::Ec(Curve::P256, Box::new(other));
    let document = general();
    assert_eq!(open(&document, &other).unwrap_err().kind(), Kind::Denied);
    for field in ["iv", "ciphertext", "tag", "protected"] {
        let mut flipped = document.clone();
        let mut bytes = URL_SAFE_NO_PAD
            .decode(flipped[field].as_str().unwrap())
            .unwrap();
        // Not a byte that is JSON syntax, for `protected`: A256GCM becomes lower case elsewhere.
        if field == "protected" {
            bytes.push(b' ');
        } else {
            bytes[0] ^= 1;
        }
        flipped[field] = json!(b64(&bytes));
        let error = open(&flipped, &key("rsa.jwk")).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied, "{field}");
    }
    let mut with_aad = document;
    with_aad["aad"] = json!("AAAA");
    assert_eq!(
        open(&with_aad, &key("rsa.jwk")).unwrap_err().kind(),
        Kind::Denied
    );
}

#[test]
fn refuses_what_it_does_not_know() {
    let (header, wrapped) = for_ec("p256-sec1.pem");
    let document = |protected: &Value, header: &Value| {
        let mut document = sealed(protected, b"content");
        document["header"] = header.clone();
        document["encrypted_key"] = json!(wrapped);
        document
    };
    let with = |name: &str, value: Value| {
        let mut header = header.clone();
        header[name] = value;
        header
    };
    let enc = json!({"enc": "A256GCM"});
    let mut off_curve = header["epk"].clone();
    off_curve["x"] = off_curve["y"].clone();
    let mut short = header["epk"].clone();
    short["x"] = json!("AA");
    for (document, text) in [
        (
            document(&json!({"enc": "A128CBC-HS256"}), &header),
            "A128CBC-HS256",
        ),
        (document(&json!({}), &header), "names no content encryption"),
        (
            document(&json!({"enc": "A256GCM", "zip": "DEF"}), &header),
            "zip",
        ),
        (
            document(&json!({"enc": "A256GCM", "crit": ["x"]}), &header),
            "crit",
        ),
        (
            document(&json!({"enc": "A256GCM", "alg": "x"}), &header),
            "two places",
        ),
        (document(&enc, &with("alg", json!("dir"))), "\"dir\""),
        (document(&enc, &with("alg", json!("RSA1_5"))), "RSA1_5"),
        (document(&enc, &with("epk", off_curve)), "not a point"),
        (document(&enc, &with("epk", short)), "x is not 32 bytes"),
        (document(&enc, &with("epk", json!(1))), "no epk"),
        (document(&enc, &with("apv", json!("!"))), "apv"),
    ] {
        let error = open(&document, &key("p256.jwk")).unwrap_err();
        assert!(error.to_string().contains(text), "{text}: {error}");
        assert!(
            matches!(error.kind(), Kind::Unsupported | Kind::Invalid),
            "{error}"
        );
    }
}

#[test]
fn refuses_malformed_documents() {
    let many: Vec<_> = (0..=MAX_RECIPIENTS).map(|_| json!({})).collect();
    let change = |name: &str, value: Value| {
        let mut document = general();
        document[name] = value;
        document.to_string()
    };
    let twice = general().to_string().replacen('{', r#"{"iv":"AAAA","#, 1);
    let inner = b64(br#"{"enc":"A256GCM","enc":"A256GCM"}"#);
    for (text, why) in [
        (String::new(), "EOF"),
        ("a.b.c.d.e".to_owned(), "expected value"),
        (change("recipients", json!([])), "0 recipients"),
        (change("recipients", json!(many)), "257 recipients"),
        (
            change("header", json!({"alg": "x"})),
            "both header and recipients",
        ),
        (change("iv", json!("AAAA")), "iv of 3 bytes"),
        (change("tag", json!("AAAA")), "tag of 3 bytes"),
        (change("protected", json!("!")), "base64url"),
        (change("protected", json!(inner)), "occurs twice"),
        (twice, "duplicate field"),
    ] {
        let error = Jwe::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Whatever stands in a packet, reading it ends in a verdict.
    #[test]
    fn damaged_documents_do_not_panic(at: proptest::sample::Index, byte: u8, cut: bool) {
        let mut text = general_once().to_vec();
        let at = at.index(text.len());
        if cut {
            text.truncate(at);
        } else {
            text[at] = byte;
        }
        let key = key("p256.jwk");
        if let Ok(jwe) = Jwe::parse(&text) && let Ok(content) = jwe.open(&key) {
            proptest::prop_assert_eq!(&content[..], b"content");
        }
    }
}

fn general_once() -> &'static [u8] {
    static TEXT: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    TEXT.get_or_init(|| general().to_string().into_bytes())
}
