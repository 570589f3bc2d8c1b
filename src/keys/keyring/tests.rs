//! Which key is tried on which packet, and what the user is told when none opens.

use std::path::Path;

use aes_gcm::{Aes256Gcm, KeyInit, aead::AeadInOut};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use super::*;
use crate::oci::Digest;

const KEK: [u8; 32] = [5; 32];
const JWE: &str = "org.opencontainers.image.enc.keys.jwe";
const AGENT: &str = "org.opencontainers.image.enc.keys.provider.attestation-agent";

fn private_options() -> Vec<u8> {
    json!({
        "symkey": STANDARD.encode([6; 32]),
        "digest": Digest::sha256(b"").to_string(),
        "cipheroptions": {"nonce": STANDARD.encode([7; 16])},
    })
    .to_string()
    .into_bytes()
}

fn coco_packet() -> String {
    let mut data = private_options();
    let tag = Aes256Gcm::new(&KEK.into())
        .encrypt_inout_detached(&[1; 12].into(), b"", data.as_mut_slice().into())
        .unwrap();
    data.extend_from_slice(&tag);
    json!({
        "kid": "kbs:///default/key/1",
        "wrapped_data": STANDARD.encode(data),
        "iv": STANDARD.encode([1; 12]),
        "wrap_type": "A256GCM",
    })
    .to_string()
}

fn layer(packets: &[(&str, &str)]) -> Descriptor {
    let mut layer = Descriptor::of("application/vnd.oci.image.layer.v1.tar+encrypted", b"x");
    let public = json!({
        "cipher": "AES_256_CTR_HMAC_SHA256",
        "hmac": STANDARD.encode([8; 32]),
        "cipheroptions": {},
    });
    layer.annotations.insert(
        "org.opencontainers.image.enc.pubopts".to_owned(),
        STANDARD.encode(public.to_string()),
    );
    for (name, packet) in packets {
        layer
            .annotations
            .insert((*name).to_owned(), STANDARD.encode(packet));
    }
    layer
}

fn key_file(directory: &Path, name: &str, key: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, key).unwrap();
    path
}

fn test_key(name: &str) -> String {
    format!(
        "{}/tests/data/ocicrypt/keys/{name}",
        env!("CARGO_MANIFEST_DIR")
    )
}

#[tokio::test]
async fn unwrapping_is_counted_and_the_last_outcome_kept() {
    let directory = tempfile::tempdir().unwrap();
    let layer = layer(&[(AGENT, &coco_packet())]);
    let meter = Arc::<KeyMeter>::default();
    let keyring = |key: &[u8]| {
        let coco_keys = vec![CocoKeyFile {
            kid: None,
            path: key_file(directory.path(), "key", key),
        }];
        let config = KeyConfig {
            coco_keys,
            ..KeyConfig::default()
        };
        Keyring::counted_by(Arc::clone(&meter), &config).unwrap()
    };
    assert_eq!(meter.counts().last, None);
    keyring(&KEK).unwrap(&layer).await.unwrap();
    let counts = meter.counts();
    assert_eq!(counts.opened, [("jwe", 0), ("coco", 1), ("provider", 0)]);
    assert_eq!((counts.took.count(), counts.failed.total()), (1, 0));
    let last = counts.last.unwrap();
    assert_eq!(
        (last.layer, last.outcome),
        (layer.digest.clone(), Ok("coco"))
    );

    keyring(&[0; 32]).unwrap(&layer).await.unwrap_err();
    let counts = meter.counts();
    assert_eq!(counts.failed.of(Kind::Denied), 1);
    assert_eq!(counts.took.count(), 1);
    let (kind, why) = counts.last.unwrap().outcome.unwrap_err();
    assert_eq!(kind, Kind::Denied);
    assert!(why.contains("no configured key opens it"), "{why}");
}

#[tokio::test]
async fn coco_packets_open_with_local_keys() {
    let directory = tempfile::tempdir().unwrap();
    let right = key_file(directory.path(), "right", &KEK);
    let wrong = key_file(directory.path(), "wrong", &[0; 32]);
    let layer = layer(&[(AGENT, &coco_packet())]);
    let try_keys = async |keys: &[(Option<&str>, &Path)]| {
        let coco_keys = keys
            .iter()
            .map(|(kid, path)| CocoKeyFile {
                kid: kid.map(ToOwned::to_owned),
                path: (*path).to_owned(),
            })
            .collect();
        let config = KeyConfig {
            coco_keys,
            ..KeyConfig::default()
        };
        Keyring::new(&config).unwrap().unwrap(&layer).await
    };
    let named = Some("kbs://broker.example/default/key/1");
    let other = Some("kbs:///default/key/2");

    for keys in [
        &[(None, &*right)][..],
        &[(named, &right)],
        &[(None, &wrong), (other, &wrong), (named, &right)],
    ] {
        let key = try_keys(keys).await.unwrap();
        assert_eq!(key.symmetric(), &[6; 32]);
        assert_eq!(key.nonce(), &[7; 16]);
        assert_eq!(key.packet(), "coco");
    }
    let denied = try_keys(&[(named, &wrong)]).await.unwrap_err();
    assert_eq!(denied.kind(), Kind::Denied);
    assert!(
        denied.to_string().contains("no configured key opens it"),
        "{denied}"
    );
    assert!(
        denied.to_string().contains("wrong"),
        "names the file: {denied}"
    );

    let missing = try_keys(&[(other, &right)]).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::Denied);
    let text = missing.to_string();
    assert!(text.contains(&layer.digest.to_string()), "{text}");
    assert!(text.contains("no key is configured"), "{text}");
    assert!(text.contains("kbs:///default/key/1"), "{text}");
    let hint = missing.hint().unwrap();
    assert!(
        hint.contains("--coco-key kbs:///default/key/1=FILE"),
        "{hint}"
    );
    assert!(hint.contains("OCICRYPT_KEYPROVIDER_CONFIG"), "{hint}");
}

#[tokio::test]
async fn says_what_is_missing() {
    let none = Keyring::new(&KeyConfig::default()).unwrap();
    let packet = json!({
        "protected": "eyJlbmMiOiJBMjU2R0NNIn0", "iv": "AAAAAAAAAAAAAAAA", "ciphertext": "",
        "tag": "AAAAAAAAAAAAAAAAAAAAAA",
        "recipients": [{"header": {"alg": "RSA-OAEP"}}, {"header": {"alg": "RSA-OAEP"}}],
    })
    .to_string();
    let jwe = layer(&[(JWE, &packet)]);
    let error = none.unwrap(&jwe).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.to_string().contains("jwe (2 recipients)"), "{error}");
    assert!(error.hint().unwrap().contains("--decryption-key"));

    let mut config = KeyConfig::default();
    config.add_decryption_key(&test_key("p256.jwk")).unwrap();
    let error = Keyring::new(&config)
        .unwrap()
        .unwrap(&jwe)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(
        error.to_string().contains("none of the recipients'"),
        "{error}"
    );
    assert!(
        !error.to_string().contains("no key is configured"),
        "{error}"
    );

    let pgp = layer(&[("org.opencontainers.image.enc.keys.pgp", "x")]);
    let error = none.unwrap(&pgp).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("pgp"), "{error}");

    let error = none.unwrap(&layer(&[])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let error = none
        .unwrap(&Descriptor::of("text/plain", b"x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
}

#[tokio::test]
async fn a_malformed_packet_does_not_hinder_another() {
    let directory = tempfile::tempdir().unwrap();
    let right = key_file(directory.path(), "right", &KEK);
    let mut config = KeyConfig::default();
    config.add_decryption_key(&test_key("p256.jwk")).unwrap();
    let without = Keyring::new(&config).unwrap();
    config.coco_keys.push(CocoKeyFile {
        kid: None,
        path: right,
    });
    let keyring = Keyring::new(&config).unwrap();
    let layer = layer(&[
        (JWE, "not json"),
        ("org.opencontainers.image.enc.keys.provider.a", "not CoCo's"),
        (AGENT, &coco_packet()),
    ]);
    assert_eq!(keyring.unwrap(&layer).await.unwrap().packet(), "coco");
    assert_eq!(
        without.unwrap(&layer).await.unwrap_err().kind(),
        Kind::Invalid
    );
}

#[test]
fn key_files_that_cannot_be_read() {
    for (key, kind, text) in [
        ("/nonexistent".to_owned(), Kind::NotFound, "/nonexistent"),
        (test_key("p256-encrypted.pem"), Kind::Denied, "no password"),
        (
            test_key("p256-encrypted.pem") + ":pass=x",
            Kind::Invalid,
            "does not fit",
        ),
        (
            test_key("../coco_packet_v1_annotation.json"),
            Kind::Invalid,
            "not a JWK",
        ),
    ] {
        let mut config = KeyConfig::default();
        config.add_decryption_key(&key).unwrap();
        let error = Keyring::new(&config).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    let mut config = KeyConfig::default();
    config
        .add_decryption_key(&(test_key("p256-encrypted.pem") + ":pass=secret"))
        .unwrap();
    let debug = format!("{config:?} {:?}", Keyring::new(&config).unwrap());
    assert!(!debug.contains("secret"), "{debug}");
}
