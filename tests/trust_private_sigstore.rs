//! cosign 2 and 3 against the real services of a private Sigstore (`scripts/private-sigstore`): what they
//! sign is mounted when the policy is right, and refused when anything is wrong. A test for each row of
//! the table in `scripts/e2e-trust`, which builds the services; without them all are skipped.
//!
//! cosign 3 writes bundles, with a log of Rekor's second version and timestamps; cosign 2 writes tags, with
//! a log of Rekor's first version. That one is ours (tests/go/older-log), since Rekor's own needs Trillian
//! and MySQL.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod support;

use std::path::Path;

use bytes::Bytes;
use nacre::{
    index::write::Format,
    oci::{Descriptor, Location, RawManifest, media_type},
    source::BlobContent,
};
use serde_json::{Value, json};

use self::support::{
    cosign::Client,
    docker_registry::{DockerRegistry, installed},
    private_sigstore::{PrivateSigstore, cosign},
    program::{Ran, run},
    sigstore::{Sigstore, b64},
    toy::{documents, lazy},
};

const EMAIL: &str = "dev@example.com";
const CONTENT: &str = "what is in the file";
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";

/// How an image is signed: by cosign 3 in a bundle, by cosign 2 in a tag, unless it says otherwise.
#[derive(Clone, Copy, Debug)]
enum How {
    /// By a certificate of Fulcio.
    Keyless,
    /// The same, entered in no log.
    KeylessUnlogged,
    /// By a key, entered in the log.
    Key,
    /// By a key, entered in no log.
    KeyUnlogged,
    KeyInTag,
    /// Not at all, but provenance by a certificate of Fulcio.
    Provenance,
}

/// What a policy asks, and the trusted root that it names.
struct Asks {
    requirement: Value,
    root: Value,
}

/// A row: what cosign did, what is changed, and what nacre says; nothing if it mounts.
macro_rules! rows {
    ($($name:ident: $cosign:literal, $how:expr, $edit:expr, $want:expr;)+) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            row($cosign, $how, $edit, $want).await;
        })+
    };
}

rows! {
    cosign3_keyless_mounts: "cosign", How::Keyless, |_| {}, None;
    cosign3_keyless_by_pattern_mounts: "cosign", How::Keyless,
        |it| identity(it, "subjectPattern", ".*@example\\.com"), None;
    cosign3_keyless_of_another_identity: "cosign", How::Keyless,
        |it| identity(it, "subjectEmail", "x@example.com"),
        Some("expected email x@example.com, got dev@example.com");
    cosign3_keyless_of_another_issuer: "cosign", How::Keyless,
        |it| it.requirement["nacreKeyless"]["oidcIssuer"] = "https://x.example".into(),
        Some("issuer mismatch");
    cosign3_keyless_by_another_authority: "cosign", How::Keyless, another_authority,
        Some("certificate chain is invalid");
    cosign3_keyless_by_an_authority_whose_time_is_over: "cosign", How::Keyless,
        |it| over(&mut it.root["certificateAuthorities"][0]["validFor"]), Some("certificate");
    cosign3_keyless_in_another_log: "cosign", How::Keyless, another_log, Some("No matching Rekor key");
    cosign3_keyless_by_another_timestamp_authority: "cosign", How::Keyless,
        |it| it.root["timestampAuthorities"] = json!([]), Some("timestamp");
    cosign3_keyless_at_a_time_that_is_over: "cosign", How::Keyless,
        |it| over(&mut it.root["timestampAuthorities"][0]["validFor"]), Some("timestamp");
    cosign3_keyless_without_sct: "cosign", How::Keyless,
        |it| it.requirement["nacreKeyless"]["insecureIgnoreSct"] = false.into(), Some("SCT");
    cosign3_keyless_without_log_entry: "cosign", How::KeylessUnlogged, |_| {},
        Some("must have an inclusion proof");
    cosign3_keyless_for_a_name: "cosign", How::Keyless,
        |it| it.requirement["signedIdentity"]["type"] = "matchRepository".into(),
        Some("names no repository");
    cosign3_keyless_is_not_by_a_key: "cosign", How::Keyless, by_other_key,
        Some("signed by a certificate (keyless)");
    cosign3_key_mounts: "cosign", How::Key, by_key_alone, None;
    cosign3_key_in_the_log_mounts: "cosign", How::Key, |_| {}, None;
    cosign3_key_of_another: "cosign", How::Key, by_other_key, Some("not signed by this key");
    cosign3_key_in_another_log: "cosign", How::Key, another_log, Some("No matching Rekor key");
    cosign3_key_without_log_mounts: "cosign", How::KeyUnlogged, by_key_alone, None;
    cosign3_key_without_log_entry: "cosign", How::KeyUnlogged, |_| {},
        Some("must have an inclusion proof");
    cosign3_key_in_tag_mounts: "cosign", How::KeyInTag, by_key_alone, None;
    cosign3_key_in_tag_without_log_entry: "cosign", How::KeyInTag, |_| {},
        Some("not entered in a log");
    cosign3_provenance_mounts: "cosign", How::Provenance, |_| {}, None;
    cosign3_provenance_by_another_builder: "cosign", How::Provenance,
        |it| it.requirement["builder"] = "https://builder.example/other".into(), Some("built by");
    cosign3_provenance_is_no_signature: "cosign", How::Provenance, keyless,
        Some("attestation of type");
    cosign3_provenance_by_another_authority: "cosign", How::Provenance, another_authority,
        Some("certificate chain is invalid");
    cosign2_keyless_mounts: "cosign2", How::Keyless, |_| {}, None;
    cosign2_keyless_of_another_identity: "cosign2", How::Keyless,
        |it| identity(it, "subjectEmail", "x@example.com"),
        Some("expected email x@example.com, got dev@example.com");
    cosign2_keyless_of_another_issuer: "cosign2", How::Keyless,
        |it| it.requirement["nacreKeyless"]["oidcIssuer"] = "https://x.example".into(),
        Some("issuer mismatch");
    cosign2_keyless_by_another_authority: "cosign2", How::Keyless, another_authority,
        Some("certificate chain is invalid");
    cosign2_keyless_by_an_authority_whose_time_is_over: "cosign2", How::Keyless,
        |it| over(&mut it.root["certificateAuthorities"][0]["validFor"]), Some("certificate");
    cosign2_keyless_in_another_log: "cosign2", How::Keyless, another_log, Some("No log key");
    cosign2_keyless_in_a_log_whose_time_is_over: "cosign2", How::Keyless,
        |it| it.root["tlogs"].as_array_mut().unwrap().iter_mut()
            .for_each(|log| over(&mut log["publicKey"]["validFor"])),
        Some("No log key");
    cosign2_keyless_that_is_only_promised: "cosign2", How::Keyless,
        |it| it.requirement["nacreRequireInclusionProof"] = true.into(),
        Some("only promised by the log");
    cosign2_keyless_without_sct: "cosign2", How::Keyless,
        |it| it.requirement["nacreKeyless"]["insecureIgnoreSct"] = false.into(), Some("SCT");
    cosign2_keyless_for_another_repository: "cosign2", How::Keyless,
        |it| it.requirement["signedIdentity"] =
            json!({ "type": "exactRepository", "dockerRepository": "r.example/other" }),
        Some("does not accept");
    cosign2_key_in_the_log_mounts: "cosign2", How::Key, |_| {}, None;
    cosign2_key_in_another_log: "cosign2", How::Key, another_log, Some("No log key");
    cosign2_key_in_tag_mounts: "cosign2", How::KeyInTag, by_key_alone, None;
    cosign2_key_in_tag_of_another: "cosign2", How::KeyInTag, by_other_key,
        Some("not signed by this key");
    cosign2_key_in_tag_without_log_entry: "cosign2", How::KeyInTag, |_| {},
        Some("not entered in a log");
}

fn identity(asks: &mut Asks, field: &str, value: &str) {
    let who = &mut asks.requirement["nacreKeyless"];
    *who = json!({ "oidcIssuer": who["oidcIssuer"], "insecureIgnoreSct": true, field: value });
}

fn keyless(asks: &mut Asks) {
    asks.requirement = asks.requirement["signer"].clone();
    asks.requirement["type"] = "sigstoreSigned".into();
    asks.requirement["signedIdentity"] = json!({ "type": "nacreMatchDigest" });
}

fn another_authority(asks: &mut Asks) {
    asks.root["certificateAuthorities"] =
        Sigstore::new().trusted_root()["certificateAuthorities"].clone();
}

fn another_log(asks: &mut Asks) {
    asks.root["tlogs"] = Sigstore::new().trusted_root()["tlogs"].clone();
}

/// Closes a time before anything of this test was made.
fn over(valid: &mut Value) {
    *valid = json!({ "start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z" });
}

/// The key, and no log.
fn by_key_alone(asks: &mut Asks) {
    asks.root = Value::Null;
}

fn by_other_key(asks: &mut Asks) {
    let other = support::sigstore::Key::generate().public_pem();
    asks.root = Value::Null;
    let fields = asks.requirement.as_object_mut().unwrap();
    fields.remove("nacreKeyless");
    fields.insert("keyData".into(), b64(other.as_bytes()).into());
}

async fn row(program: &str, how: How, edit: fn(&mut Asks), want: Option<&str>) {
    if installed(program).is_none() {
        return;
    }
    let (Some(sigstore), Some(registry)) = (PrivateSigstore::start(), DockerRegistry::start())
    else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let client = Client::new(&registry, "team/app").await;
    let image = push(&client).await;
    let name = client.image(&image.digest);
    let mut asks = Asks {
        requirement: sign(sigstore, program, home.path(), how, &name),
        root: sigstore.trusted_root(),
    };
    edit(&mut asks);
    let place = match asks.requirement.get("signer") {
        Some(_) => &mut asks.requirement["signer"],
        None => &mut asks.requirement,
    };
    if !asks.root.is_null() {
        place["nacreTrustedRootData"] = b64(asks.root.to_string().as_bytes()).into();
    }
    let policy = home.path().join("policy.json");
    let text = json!({ "default": [asks.requirement] }).to_string();
    std::fs::write(&policy, text).unwrap();
    let reference = client.reference.with_tag("v1").to_string();
    let ran = mounted(home.path(), &policy, &reference);
    match want {
        None => assert_eq!(ran.text(), CONTENT),
        Some(want) => ran.failed(4, &[want]),
    }
}

/// Signs, and gives the requirement that this meets.
fn sign(sigstore: &PrivateSigstore, program: &str, home: &Path, how: How, image: &str) -> Value {
    let root = sigstore.file("trusted_root.json").display().to_string();
    let config = |name: &str| sigstore.file(name).display().to_string();
    let config = match how {
        How::KeylessUnlogged => config("signing_config_without_log.json"),
        _ => config("signing_config.json"),
    };
    let second = program == "cosign2";
    let urls = ["issuer", "fulcio", "older-log"].map(|it| sigstore.url(it));
    let [issuer, fulcio, log] = &urls;
    let services: &[&str] = match second {
        true => &[
            "--fulcio-url",
            fulcio,
            "--rekor-url",
            log,
            "--insecure-skip-verify",
            "-y",
        ],
        false => &["--signing-config", &config, "--trusted-root", &root, "-y"],
    };
    let token = sigstore.token(EMAIL);
    let person = json!({ "oidcIssuer": issuer, "subjectEmail": EMAIL, "insecureIgnoreSct": true });
    // A tag has a name in it, a bundle has none.
    let named = match second {
        true => "matchRepository",
        false => "nacreMatchDigest",
    };
    let by_key = |identity: &str| {
        let key = std::fs::read(home.join("cosign.pub")).unwrap();
        json!({ "type": "sigstoreSigned", "keyData": b64(&key),
                "signedIdentity": { "type": identity } })
    };
    let run = |words: &[&[&str]]| cosign(program, home, sigstore, &words.concat());
    match how {
        How::Keyless | How::KeylessUnlogged => {
            run(&[&["sign", "--identity-token", &token], services, &[image]]);
            json!({ "type": "sigstoreSigned", "nacreKeyless": person,
                    "signedIdentity": { "type": named } })
        }
        How::Provenance => {
            let predicate = json!({
                "buildDefinition": { "buildType": "https://builder.example/type",
                                     "externalParameters": {} },
                "runDetails": { "builder": { "id": "https://builder.example/one" } },
            });
            std::fs::write(home.join("predicate.json"), predicate.to_string()).unwrap();
            let what = ["--type", "slsaprovenance1", "--predicate", "predicate.json"];
            let token = ["attest", "--identity-token", &token];
            run(&[&token, &what, services, &[image]]);
            json!({ "type": "nacreRequireAttestation", "predicateType": PROVENANCE,
                    "signer": { "nacreKeyless": person } })
        }
        How::Key => {
            run(&[&["generate-key-pair"]]);
            run(&[&["sign", "--key", "cosign.key"], services, &[image]]);
            by_key(named)
        }
        How::KeyUnlogged | How::KeyInTag => {
            run(&[&["generate-key-pair"]]);
            let words = ["sign", "--key", "cosign.key", "--use-signing-config=false"];
            let (form, identity) = match how {
                How::KeyInTag => ("--new-bundle-format=false", "matchRepository"),
                _ => ("--new-bundle-format=true", "nacreMatchDigest"),
            };
            run(&[&words, &["--tlog-upload=false", "-y", form, image]]);
            by_key(identity)
        }
    }
}

/// A lazy image with one file, under the tag `v1`.
async fn push(client: &Client) -> RawManifest {
    let layer = lazy(Format::Estargz, &[("file", CONTENT.as_bytes())]);
    let (config, manifest) = documents(std::slice::from_ref(&layer));
    let config_descriptor = Descriptor::of(media_type::OCI_CONFIG, &config);
    for (descriptor, bytes) in [
        (&config_descriptor, Bytes::from(config)),
        (&layer.descriptor, layer.blob.clone()),
    ] {
        let content = BlobContent::Bytes(bytes);
        client.writer.put_blob(descriptor, content).await.unwrap();
    }
    let raw = RawManifest::new(media_type::OCI_MANIFEST, manifest.into());
    let tag = Location::Tag("v1".into());
    client.writer.put_manifest(&tag, &raw).await.unwrap();
    raw
}

/// What the file has in a mount; where nothing may be mounted, what `nacre cat` prints.
fn mounted(home: &Path, policy: &Path, reference: &str) -> Ran {
    let policy = policy.display().to_string();
    let options = ["--policy", &policy];
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        println!("not mounted: that needs root and /dev/fuse");
        return run(home, [&["cat", reference, "/file"], &options[..]].concat());
    }
    let directory = home.join("mount");
    std::fs::create_dir(&directory).unwrap();
    let directory = directory.display().to_string();
    let words = [
        "mount",
        reference,
        &directory,
        "--daemon",
        "--store-mib",
        "0",
    ];
    let mut ran = run(home, [&words, &options[..]].concat());
    if ran.code == 0 {
        ran.stdout = std::fs::read(Path::new(&directory).join("file")).unwrap();
        run(home, ["umount", &directory]).ok();
    }
    ran
}
