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
    let opened: Vec<_> = counts.opened.iter().filter(|it| it.1 > 0).collect();
    assert_eq!(opened, [&("coco", 1)]);
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
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.hint().unwrap().contains("--decryption-key"));
    let other = layer(&[("org.opencontainers.image.enc.keys.later", "x")]);
    let error = none.unwrap(&other).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("later"), "{error}");

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

/// A key provider's configuration with a script, which counts its calls in a file beside it.
struct Script {
    directory: tempfile::TempDir,
}

impl Script {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("provider");
        let config = json!({"key-providers": {"agent": {
            "cmd": {"path": "/bin/sh", "args": [script]},
        }}});
        std::fs::write(directory.path().join("providers.json"), config.to_string()).unwrap();
        Self { directory }
    }

    fn does(&self, body: &str) {
        let calls = self.directory.path().join("calls");
        let text = format!("echo >> {}\n{body}\n", calls.display());
        std::fs::write(self.directory.path().join("provider"), text).unwrap();
    }

    /// Answers with these private options.
    fn gives(&self, symkey: u8) {
        let private = json!({
            "symkey": STANDARD.encode([symkey; 32]),
            "cipheroptions": {"nonce": STANDARD.encode([7; 16])},
        });
        let reply = json!({"keyunwrapresults": {"optsdata": STANDARD.encode(private.to_string())}});
        self.does(&format!("cat > /dev/null; echo '{reply}'"));
    }

    fn calls(&self) -> usize {
        let calls = std::fs::read(self.directory.path().join("calls"));
        calls.map_or(0, |it| it.len())
    }

    fn config(&self, keep: Duration) -> KeyConfig {
        KeyConfig {
            keyprovider_config: Some(self.directory.path().join("providers.json")),
            kept: Kept::new(keep),
            deadline: Duration::from_secs(60),
            ..KeyConfig::default()
        }
    }
}

const SCRIPTED: &str = "org.opencontainers.image.enc.keys.provider.agent";

#[tokio::test]
async fn a_providers_answer_is_kept_for_a_while_and_a_refusal_is_not() {
    let hour = Duration::from_secs(3600);
    let (one, two) = (layer(&[(SCRIPTED, "one")]), layer(&[(SCRIPTED, "two")]));
    let script = Script::new();
    let config = script.config(hour);
    // One for each image, as the daemon makes them; they share what is kept.
    let keyring = || Keyring::new(&config).unwrap();
    script.does("echo not yet >&2; exit 1");
    for calls in 1..=2 {
        let error = keyring().unwrap(&one).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.to_string().contains("not yet"), "{error}");
        assert_eq!(script.calls(), calls);
    }
    script.gives(6);
    for _ in 0..3 {
        let key = keyring().unwrap(&one).await.unwrap();
        assert_eq!((key.symmetric(), key.packet()), (&[6; 32], "provider"));
    }
    assert_eq!(script.calls(), 3, "kept from the first answer on");
    keyring().unwrap(&two).await.unwrap();
    assert_eq!(script.calls(), 4, "another packet is another question");

    // The provider's keys change: what was kept counts until its time is over, here until another
    // keyring that keeps nothing.
    script.gives(9);
    assert_eq!(keyring().unwrap(&one).await.unwrap().symmetric(), &[6; 32]);
    let fresh = script.config(Duration::ZERO);
    for calls in 5..=6 {
        let key = Keyring::new(&fresh).unwrap().unwrap(&one).await.unwrap();
        assert_eq!(key.symmetric(), &[9; 32]);
        assert_eq!(script.calls(), calls);
    }
}

#[tokio::test]
async fn an_answer_that_is_no_key_is_not_kept() {
    let script = Script::new();
    let config = script.config(Duration::from_secs(3600));
    let layer = layer(&[(SCRIPTED, "one")]);
    let reply = json!({"keyunwrapresults": {"optsdata": STANDARD.encode("{}")}});
    script.does(&format!("echo '{reply}'"));
    for calls in 1..=2 {
        let refused = Keyring::new(&config).unwrap().unwrap(&layer).await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(script.calls(), calls);
    }
}

#[tokio::test]
async fn a_provider_that_hangs_or_dies_holds_up_nobody_else() {
    let (hung, dead, fine) = (Script::new(), Script::new(), Script::new());
    hung.does("exec sleep 3600");
    dead.does("kill -KILL $$");
    fine.gives(6);
    let layer = layer(&[(SCRIPTED, "one")]);
    let ask = async |script: &Script, seconds| {
        let deadline = Duration::from_secs(seconds);
        let config = KeyConfig {
            deadline,
            ..script.config(Duration::ZERO)
        };
        let begin = Instant::now();
        let key = Keyring::new(&config).unwrap().unwrap(&layer).await;
        (key, begin.elapsed())
    };
    let (hung, dead, fine) = tokio::join!(ask(&hung, 3), ask(&dead, 60), ask(&fine, 60));
    assert_eq!(fine.0.unwrap().symmetric(), &[6; 32]);
    let error = dead.0.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let said = error.to_string();
    assert!(
        said.contains("key provider \"agent\"") && said.contains("died"),
        "{said}"
    );
    let error = hung.0.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let said = error.to_string();
    assert!(
        said.contains("key provider \"agent\"") && said.contains("within 3 s"),
        "{said}"
    );
    assert!(fine.1 < hung.1 && hung.1 < Duration::from_secs(60));
}

#[tokio::test]
async fn a_key_file_that_changed_counts_from_the_next_image_on() {
    let directory = tempfile::tempdir().unwrap();
    let layer = layer(&[(AGENT, &coco_packet())]);
    let config = KeyConfig {
        coco_keys: vec![CocoKeyFile {
            kid: None,
            path: key_file(directory.path(), "key", &[0; 32]),
        }],
        kept: Kept::new(Duration::from_secs(3600)),
        ..KeyConfig::default()
    };
    let unwrap = async || Keyring::new(&config).unwrap().unwrap(&layer).await;
    assert_eq!(unwrap().await.unwrap_err().kind(), Kind::Denied);
    key_file(directory.path(), "key", &KEK);
    assert_eq!(unwrap().await.unwrap().packet(), "coco");
    key_file(directory.path(), "key", &[0; 32]);
    assert_eq!(unwrap().await.unwrap_err().kind(), Kind::Denied);
}

#[tokio::test]
async fn offline_files_have_the_keys_that_packets_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.json");
    let config = KeyConfig {
        offline_keys: vec![file.clone()],
        ..KeyConfig::default()
    };
    let layer = layer(&[(AGENT, &coco_packet())]);
    let unwrap = async |text: serde_json::Value| {
        std::fs::write(&file, text.to_string()).unwrap();
        Keyring::new(&config)?.unwrap(&layer).await
    };
    let (right, wrong) = (STANDARD.encode(KEK), STANDARD.encode([0; 32]));
    for (name, key) in [
        ("default/key/1", "default/key/2"),
        ("kbs:///default/key/1", "x"),
        ("/default/key/1", "kbs:///other/key/1"),
    ] {
        let key = unwrap(json!({name: right, key: wrong})).await.unwrap();
        assert_eq!((key.symmetric(), key.packet()), (&[6; 32], "coco"));
    }
    for (text, kind, said) in [
        (
            json!({"default/key/1": wrong}),
            Kind::Denied,
            "is not the one",
        ),
        (
            json!({"default/key/1": "c2hvcnQ="}),
            Kind::Invalid,
            "has 5 bytes",
        ),
        (
            json!({"default/key/2": right}),
            Kind::Denied,
            "--offline-keys",
        ),
        (
            json!({"default/key/1": 5}),
            Kind::Invalid,
            "keys.json: line 1",
        ),
    ] {
        let error = unwrap(text).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let told = format!("{error} {}", error.hint().unwrap_or_default());
        assert!(told.contains(said), "{told}");
    }
}
