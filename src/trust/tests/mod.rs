//! Admission over a repository in memory: classes, pins, both forms of signatures, and every way in
//! which a signature must not serve.

mod memory;
mod slsa;
mod vouch;

use std::path::Path;

use base64::Engine as _;
use bytes::Bytes;
use serde_json::json;

use self::memory::Memory;
use super::{bundle::SIGN_PREDICATE, cosign, *};
use crate::{
    error::{Error, Kind, Result},
    image::sign::{SigningKey, generate, sign},
    oci::{
        Descriptor, Digest, Location, Platform, RawManifest, Reference, RegistryReference,
        media_type,
    },
};

const REFERENCE: &str = "r.example/a:v1";
const ENCRYPTED: &str = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

fn b64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn key() -> SigningKey {
    SigningKey::from_pem(generate().unwrap().0.as_bytes(), "test key").unwrap()
}

fn image(layers: &[&str]) -> RawManifest {
    let layers: Vec<Descriptor> = layers
        .iter()
        .enumerate()
        .map(|(n, kind)| Descriptor::of(*kind, format!("layer {n}").as_bytes()))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": Descriptor::of(media_type::OCI_CONFIG, b"{}"),
        "layers": layers,
    });
    RawManifest::new(media_type::OCI_MANIFEST, manifest.to_string().into())
}

/// A repository with one plain image under the tag of [`REFERENCE`].
fn plain() -> (Memory, RawManifest) {
    stored(image(&[media_type::OCI_LAYER_GZIP]))
}

fn stored(image: RawManifest) -> (Memory, RawManifest) {
    let memory = Memory::default();
    memory.put(Location::Tag("v1".into()), &image);
    (memory, image)
}

fn policy(requirements: serde_json::Value) -> Policy {
    let text = json!({ "default": requirements }).to_string();
    Policy::parse(text.as_bytes(), Path::new("policy.json")).unwrap()
}

fn signed_by(keys: &[&SigningKey], identity: &str) -> Policy {
    let keys: Vec<&str> = keys.iter().map(|k| k.public_pem()).collect();
    policy(json!([{
        "type": "sigstoreSigned", "keyDatas": keys, "signedIdentity": { "type": identity }
    }]))
}

async fn admitted(memory: &Memory, policy: &Policy) -> Result<Grant> {
    admitted_as(memory, policy, REFERENCE, None).await
}

async fn admitted_as(
    memory: &Memory,
    policy: &Policy,
    reference: &str,
    expected_digest: Option<&Digest>,
) -> Result<Grant> {
    let reference: Reference = reference.parse().unwrap();
    let location = match &reference {
        Reference::Registry(r) => r.location(),
        Reference::Layout { .. } => Location::Tag("v1".into()),
    };
    let platform = Platform::parse("linux/amd64").unwrap();
    let request = Request {
        policy,
        reference: &reference,
        repository: memory,
        location: &location,
        platform: &platform,
        expected_digest,
    };
    // The daemon spawns it.
    let admission: futures::future::BoxFuture<'_, Result<Grant>> = Box::pin(admit(&request));
    admission.await
}

async fn signed(memory: &Memory, key: &SigningKey, repository: &str, digest: &Digest) {
    let name: RegistryReference = repository.parse().unwrap();
    let signed = sign(key, &name, digest, memory, memory).await.unwrap();
    assert!(signed.added);
}

/// A bundle with a statement about `digest`, signed by `key`.
fn envelope(key: &SigningKey, digest: &Digest, predicate: &str, name: Option<&str>) -> String {
    let mut subject = json!({ "digest": { "sha256": digest.hex() } });
    if let Some(name) = name {
        subject["name"] = name.into();
    }
    let payload = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "digest": { "sha256": "00" } }, subject],
        "predicateType": predicate,
        "predicate": {},
    })
    .to_string();
    let kind = "application/vnd.in-toto+json";
    let pae = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
    json!({
        "mediaType": BUNDLE,
        "verificationMaterial": { "publicKey": { "hint": "x" } },
        "dsseEnvelope": {
            "payload": b64(payload.as_bytes()),
            "payloadType": kind,
            "signatures": [{ "sig": b64(&key.sign(pae.as_bytes()).unwrap()) }],
        },
    })
    .to_string()
}

fn attach(memory: &Memory, subject: &RawManifest, bundle: &str) -> Digest {
    memory.blob(bundle.as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "artifactType": BUNDLE,
        "config": Descriptor::of(media_type::OCI_EMPTY, b"{}"),
        "layers": [Descriptor::of(BUNDLE, bundle.as_bytes())],
        "subject": subject.descriptor(),
    });
    let raw = RawManifest::new(media_type::OCI_MANIFEST, manifest.to_string().into());
    memory.put(Location::Digest(raw.digest.clone()), &raw);
    let mut descriptor = raw.descriptor();
    descriptor.artifact_type = Some(BUNDLE.into());
    memory.refer(&subject.digest, descriptor);
    raw.digest
}

fn denied(result: Result<Grant>, wants: &[&str]) -> Error {
    let error = result.expect_err("a refusal");
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    for want in wants {
        assert!(
            error.to_string().contains(want),
            "want {want:?} in: {error}"
        );
    }
    error
}

#[tokio::test]
async fn the_four_classes() {
    let key = key();
    let anything = policy(json!([{ "type": "insecureAcceptAnything" }]));
    let by_key = signed_by(&[&key], "matchRepository");
    let gzip = media_type::OCI_LAYER_GZIP;
    for (layers, encrypted) in [
        (vec![ENCRYPTED, ENCRYPTED], true),
        (vec![ENCRYPTED, gzip], false),
        (vec![gzip], false),
        (vec![], false),
    ] {
        let (memory, image) = stored(image(&layers));
        let grant = admitted(&memory, &anything).await.unwrap();
        assert_eq!(grant.class(), grant::Class::of(encrypted, false));
        assert!(grant.evidence().is_empty());
        denied(admitted(&memory, &by_key).await, &["the image has none"]);
        signed(&memory, &key, "r.example/a", &image.digest).await;
        let grant = admitted(&memory, &by_key).await.unwrap();
        assert_eq!(grant.class(), grant::Class::of(encrypted, true));
        // A signature that was not demanded does not make an image signed.
        let grant = admitted(&memory, &anything).await.unwrap();
        assert!(!grant.class().is_signed());
    }
}

#[tokio::test]
async fn a_grant_says_what_was_admitted_and_why() {
    let key = key();
    let (memory, image) = plain();
    signed(&memory, &key, "r.example/a:ignored", &image.digest).await;
    let grant = admitted(&memory, &signed_by(&[&key], "matchRepository"))
        .await
        .unwrap();
    assert_eq!(grant.reference().to_string(), REFERENCE);
    assert_eq!(*grant.manifest_digest(), image.digest);
    assert_eq!(grant.index_digest(), None);
    assert_eq!(grant.manifest().layers.len(), 1);
    let [evidence] = grant.evidence() else {
        panic!("one signature")
    };
    assert_eq!(evidence.kind, EvidenceKind::CosignSignature);
    assert_eq!(evidence.identity.as_deref(), Some("r.example/a"));
    assert_eq!(evidence.key, *key.public().fingerprint());
    let payload = cosign::write_payload(&image.digest, "r.example/a");
    assert_eq!(evidence.blob, Digest::sha256(&payload));

    let text = grant.to_string();
    for part in [
        "admitted    r.example/a:v1",
        &image.digest.to_string(),
        "plain+signed",
        "policy.json",
        "rule        default",
        "matchRepository",
        "cosign-signature",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // The same image gives the same evidence, each time.
    attach(
        &memory,
        &image,
        &envelope(&key, &image.digest, SIGN_PREDICATE, Some("r.example/a")),
    );
    for _ in 0..10 {
        let again = admitted(&memory, &signed_by(&[&key], "matchRepository"))
            .await
            .unwrap();
        assert_eq!(again.evidence(), grant.evidence());
    }
    let value = serde_json::to_value(&grant).unwrap();
    assert_eq!(value["class"], "plain+signed");
    assert_eq!(value["manifest_digest"], image.digest.to_string());
    assert_eq!(value["evidence"][0]["kind"], "cosign-signature");
    assert_eq!(value["rule"]["scope"], "default");
    assert_eq!(value["index_digest"], serde_json::Value::Null);
}

#[tokio::test]
async fn no_layer_is_touched_and_reject_asks_nothing() {
    let key = key();
    let (memory, image) = plain();
    denied(
        admitted(
            &memory,
            &policy(json!([{ "type": "insecureAcceptAnything" }, { "type": "reject" }])),
        )
        .await,
        &[REFERENCE, "policy.json", "default", "reject"],
    );
    assert!(memory.log().is_empty());
    admitted(
        &memory,
        &policy(json!([{ "type": "insecureAcceptAnything" }])),
    )
    .await
    .unwrap();
    assert_eq!(memory.log(), ["manifest v1"]);
    signed(&memory, &key, "r.example/a", &image.digest).await;
    admitted(&memory, &signed_by(&[&key], "matchRepository"))
        .await
        .unwrap();
    // The payload that cosign writes for this image and name is known, so not even it is fetched.
    let log = memory.log();
    assert!(log.iter().all(|line| !line.starts_with("blob ")), "{log:?}");
}

#[tokio::test]
async fn signatures_that_must_not_serve() {
    let (ours, theirs) = (key(), key());
    let by_ours = signed_by(&[&ours], "matchRepository");

    let (memory, image) = plain();
    signed(&memory, &theirs, "r.example/a", &image.digest).await;
    denied(
        admitted(&memory, &by_ours).await,
        &[
            REFERENCE,
            &image.digest.to_string(),
            "policy.json",
            "default",
            "not signed by this key",
        ],
    );

    let (memory, image) = plain();
    signed(&memory, &ours, "r.example/other", &image.digest).await;
    denied(
        admitted(&memory, &by_ours).await,
        &["r.example/other", "matchRepository does not accept"],
    );

    // A signature of another digest, copied under this one's tag.
    let (memory, image) = plain();
    let other = Digest::sha256(b"another image");
    signed(&memory, &ours, "r.example/a", &other).await;
    let copied =
        crate::source::Repository::manifest(&memory, &Location::Tag(cosign::tag_of(&other)))
            .await
            .unwrap();
    memory.put(Location::Tag(cosign::tag_of(&image.digest)), &copied);
    denied(
        admitted(&memory, &by_ours).await,
        &[&format!("signs {other}, not this digest")],
    );

    // A payload that was exchanged after it was signed. Asked for by another name, since the one
    // that is expected is not even fetched.
    let (memory, image) = plain();
    signed(&memory, &ours, "r.example/up", &image.digest).await;
    let exact = policy(json!([{
        "type": "sigstoreSigned", "keyData": ours.public_pem(),
        "signedIdentity": { "type": "exactRepository", "dockerRepository": "r.example/up" }
    }]));
    admitted(&memory, &exact).await.unwrap();
    let payload = cosign::write_payload(&image.digest, "r.example/up");
    memory.replace_blob(
        &Digest::sha256(&payload),
        &cosign::write_payload(&image.digest, "r.example/no"),
    );
    denied(admitted(&memory, &exact).await, &["digest mismatch"]);

    // By default the tag must be signed too, and cosign never signs it.
    let (memory, image) = plain();
    signed(&memory, &ours, "r.example/a", &image.digest).await;
    let error = denied(
        admitted(&memory, &signed_by(&[&ours], "matchRepoDigestOrExact")).await,
        &["matchRepoDigestOrExact does not accept"],
    );
    assert!(error.hint().unwrap().contains("matchRepository"));
}

#[tokio::test]
async fn image_rs_defect_6_foreign_signatures_do_not_stand_in_the_way() {
    let (ours, theirs) = (key(), key());
    let (memory, image) = plain();
    signed(&memory, &theirs, "r.example/a", &image.digest).await;
    attach(&memory, &image, "not json");
    attach(
        &memory,
        &image,
        &envelope(&theirs, &image.digest, SIGN_PREDICATE, None),
    );
    signed(&memory, &ours, "r.example/a", &image.digest).await;
    let grant = admitted(&memory, &signed_by(&[&ours], "matchRepository"))
        .await
        .unwrap();
    assert_eq!(grant.evidence()[0].key, *ours.public().fingerprint());
    // Either key will do, and both requirements must be met.
    admitted(&memory, &signed_by(&[&key(), &theirs], "matchRepository"))
        .await
        .unwrap();
    let both = |second: &SigningKey| {
        let one = |key: &SigningKey| {
            json!({ "type": "sigstoreSigned", "keyData": b64(key.public_pem().as_bytes()),
                    "signedIdentity": { "type": "matchRepository" } })
        };
        policy(json!([one(&ours), one(second)]))
    };
    let grant = admitted(&memory, &both(&theirs)).await.unwrap();
    assert_eq!(grant.evidence().len(), 2);
    denied(
        admitted(&memory, &both(&key())).await,
        &["none of those found serves"],
    );
}

#[tokio::test]
async fn signing_again_changes_nothing() {
    let (ours, theirs) = (key(), key());
    let (memory, image) = plain();
    signed(&memory, &ours, "r.example/a", &image.digest).await;
    signed(&memory, &theirs, "r.example/a", &image.digest).await;
    let name: RegistryReference = "r.example/a".parse().unwrap();
    let tag = Location::Tag(cosign::tag_of(&image.digest));
    let before = crate::source::Repository::manifest(&memory, &tag)
        .await
        .unwrap();
    let again = sign(&ours, &name, &image.digest, &memory, &memory)
        .await
        .unwrap();
    assert!(!again.added);
    let after = crate::source::Repository::manifest(&memory, &tag)
        .await
        .unwrap();
    assert_eq!(before.digest, after.digest);
}

#[tokio::test]
async fn bundles_sign_by_digest_where_the_policy_says_so() {
    let key = key();
    let (memory, image) = plain();
    attach(
        &memory,
        &image,
        &envelope(&key, &image.digest, SIGN_PREDICATE, None),
    );
    let grant = admitted(&memory, &signed_by(&[&key], "nacreMatchDigest"))
        .await
        .unwrap();
    assert_eq!(grant.evidence()[0].kind, EvidenceKind::SigstoreBundle);
    assert_eq!(grant.evidence()[0].identity, None);
    for identity in ["matchRepository", "matchExact", "matchRepoDigestOrExact"] {
        let error = denied(
            admitted(&memory, &signed_by(&[&key], identity)).await,
            &["the bundle names no repository", identity],
        );
        assert!(error.hint().unwrap().contains("nacreMatchDigest"));
    }
    // A statement may name its subject; then the name is compared.
    for (name, ok) in [("r.example/a", true), ("r.example/b", false)] {
        let (memory, image) = plain();
        attach(
            &memory,
            &image,
            &envelope(&key, &image.digest, SIGN_PREDICATE, Some(name)),
        );
        let result = admitted(&memory, &signed_by(&[&key], "matchRepository")).await;
        assert_eq!(result.is_ok(), ok, "{name}");
    }
}

#[tokio::test]
async fn bundles_that_must_not_serve() {
    let (ours, theirs) = (key(), key());
    let image = image(&[media_type::OCI_LAYER_GZIP]);
    let good = envelope(&ours, &image.digest, SIGN_PREDICATE, None);
    let other = Digest::sha256(b"another image");
    let edited = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let certificate = r#""certificate":{"rawBytes":"AA=="}"#;
    for (bundle, want) in [
        (
            envelope(&theirs, &image.digest, SIGN_PREDICATE, None),
            "not signed by this key",
        ),
        (
            envelope(&ours, &other, SIGN_PREDICATE, None),
            "about another digest",
        ),
        (
            envelope(&ours, &image.digest, "https://spdx.dev/Document", None),
            "attestation of type https://spdx.dev/Document",
        ),
        (
            envelope(&ours, &image.digest, "https://slsa.dev/provenance/v1", None),
            "attestation of type",
        ),
        (
            edited(r#""publicKey":{"hint":"x"}"#, certificate),
            "signed by a certificate (keyless)",
        ),
        (
            edited("bundle.v0.3+json", "bundle.v9+json"),
            "unknown media type",
        ),
        (edited("vnd.in-toto+json", "json"), "envelope of type"),
        (
            edited(r#""mediaType""#, r#""dsseEnvelope":{},"mediaType""#),
            "duplicate key \"dsseEnvelope\"",
        ),
        (
            edited(r#""mediaType""#, r#""messageSignature":{},"mediaType""#),
            "wants one of",
        ),
        ("{}".to_owned(), "\"mediaType\" is missing"),
    ] {
        let (memory, image) = stored(image.clone());
        attach(&memory, &image, &bundle);
        denied(
            admitted(&memory, &signed_by(&[&ours], "nacreMatchDigest")).await,
            &[want],
        );
    }
}

#[tokio::test]
async fn message_signatures_are_over_the_manifest() {
    let key = key();
    let (memory, image) = plain();
    let message = |digest: &Digest, signature: &[u8]| {
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1",
            "verificationMaterial": { "publicKey": {} },
            "messageSignature": {
                "messageDigest": { "algorithm": "SHA2_256",
                    "digest": b64(&hex::decode(digest.hex()).unwrap()) },
                "signature": b64(signature),
            },
        })
        .to_string()
    };
    let by_key = signed_by(&[&key], "nacreMatchDigest");
    let other = Digest::sha256(b"x");
    let signature = key.sign(&image.bytes).unwrap();
    attach(&memory, &image, &message(&other, &signature));
    attach(
        &memory,
        &image,
        &message(&image.digest, &key.sign(b"x").unwrap()),
    );
    denied(
        admitted(&memory, &by_key).await,
        &[
            &format!("signs {other}, not this manifest"),
            "not signed by this key",
        ],
    );
    attach(&memory, &image, &message(&image.digest, &signature));
    admitted(&memory, &by_key).await.unwrap();
}

#[tokio::test]
async fn the_index_or_the_manifest_may_be_signed() {
    let key = key();
    let by_key = signed_by(&[&key], "matchRepository");
    let image = image(&[ENCRYPTED]);
    let mut descriptor = image.descriptor();
    descriptor.platform = Some(Platform::parse("linux/amd64").unwrap());
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [descriptor],
    });
    let index = RawManifest::new(media_type::OCI_INDEX, index.to_string().into());
    for target in [&index.digest, &image.digest] {
        let memory = Memory::default();
        memory.put(Location::Tag("v1".into()), &index);
        memory.put(Location::Digest(image.digest.clone()), &image);
        denied(
            admitted(&memory, &by_key).await,
            &[&index.digest.to_string()],
        );
        signed(&memory, &key, "r.example/a", target).await;
        let grant = admitted(&memory, &by_key).await.unwrap();
        assert_eq!(grant.index_digest(), Some(&index.digest));
        assert_eq!(*grant.manifest_digest(), image.digest);
        assert_eq!(*grant.resolved_digest(), index.digest);
        assert_eq!(grant.evidence()[0].signed_digest, *target);
    }
}

#[tokio::test]
async fn image_rs_defect_4_digests_pin() {
    let anything = policy(json!([{ "type": "insecureAcceptAnything" }]));
    let (memory, old) = plain();
    let new = image(&[ENCRYPTED]);
    memory.put(Location::Tag("v1".into()), &new);
    let error = denied(
        admitted_as(&memory, &anything, REFERENCE, Some(&old.digest)).await,
        &[&format!(
            "tag moved: wanted {}, is {}",
            old.digest, new.digest
        )],
    );
    assert!(error.to_string().starts_with(REFERENCE));
    admitted_as(&memory, &anything, REFERENCE, Some(&new.digest))
        .await
        .unwrap();
    // Of a tag and a digest, the digest decides.
    let both = format!("{REFERENCE}@{}", old.digest);
    let grant = admitted_as(&memory, &anything, &both, None).await.unwrap();
    assert_eq!(*grant.manifest_digest(), old.digest);

    // A repository that answers with something else is not believed.
    let lying = Memory::default();
    lying.put(Location::Digest(old.digest.clone()), &new);
    let error = admitted_as(&lying, &anything, &both, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
}

#[tokio::test]
async fn what_cannot_be_asked_is_not_taken_for_absent() {
    let key = key();
    let by_key = signed_by(&[&key], "nacreMatchDigest");
    let (memory, image) = plain();
    memory.break_location(
        Location::Tag(cosign::tag_of(&image.digest)),
        Kind::Unavailable,
    );
    let error = admitted(&memory, &by_key).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    // Nor is a bundle that cannot be read.
    let (second, image2) = plain();
    let bundle = envelope(&key, &image2.digest, SIGN_PREDICATE, None);
    let referrer = attach(&second, &image2, &bundle);
    second.break_location(Location::Digest(referrer), Kind::Unavailable);
    let error = admitted(&second, &by_key).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    // A signature found elsewhere is enough.
    attach(
        &memory,
        &image,
        &envelope(&key, &image.digest, SIGN_PREDICATE, None),
    );
    admitted(&memory, &by_key).await.unwrap();
}

#[tokio::test]
async fn the_number_of_signatures_is_capped() {
    let (ours, theirs) = (key(), key());
    let (memory, image) = plain();
    let payload = Bytes::from(cosign::write_payload(&image.digest, "r.example/a"));
    memory.blob(&payload);
    let layer = |key: &SigningKey| {
        let mut layer = Descriptor::of(cosign::SIMPLE_SIGNING, &payload);
        layer.annotations.insert(
            cosign::SIGNATURE_ANNOTATION.into(),
            b64(&key.sign(&payload).unwrap()),
        );
        layer
    };
    let foreign = layer(&theirs);
    for (before, admits) in [(99, true), (100, false)] {
        let mut layers = vec![foreign.clone(); before];
        layers.push(layer(&ours));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": Descriptor::of(media_type::OCI_CONFIG, b"{}"), "layers": layers,
        });
        let raw = RawManifest::new(media_type::OCI_MANIFEST, manifest.to_string().into());
        memory.put(Location::Tag(cosign::tag_of(&image.digest)), &raw);
        let result = admitted(&memory, &signed_by(&[&ours], "matchRepository")).await;
        assert_eq!(result.is_ok(), admits);
        if !admits {
            denied(result, &["more"]);
        }
    }
}

#[tokio::test]
async fn a_layout_has_no_name_to_match() {
    let key = key();
    let dir = tempfile::tempdir().unwrap();
    let reference = format!("oci:{}:v1", dir.path().display());
    let (memory, image) = plain();
    signed(&memory, &key, "r.example/a", &image.digest).await;
    let exact = |repository: &str| {
        policy(json!([{
            "type": "sigstoreSigned", "keyData": key.public_pem(),
            "signedIdentity": { "type": "exactRepository", "dockerRepository": repository }
        }]))
    };
    admitted_as(&memory, &exact("r.example/a"), &reference, None)
        .await
        .unwrap();
    denied(
        admitted_as(&memory, &exact("r.example/b"), &reference, None).await,
        &["exactRepository r.example/b does not accept"],
    );
    denied(
        admitted_as(
            &memory,
            &signed_by(&[&key], "matchRepository"),
            &reference,
            None,
        )
        .await,
        &["does not accept"],
    );
}

#[tokio::test]
async fn encryption_and_digests_can_be_required() {
    let encrypted = policy(json!([{ "type": "nacreRequireEncrypted" }]));
    let (memory, image) = stored(image(&[ENCRYPTED, ENCRYPTED]));
    let grant = admitted(&memory, &encrypted).await.unwrap();
    assert_eq!(grant.class(), Class::EncryptedUnsigned);
    let (half, _) = stored(self::image(&[ENCRYPTED, media_type::OCI_LAYER_GZIP]));
    denied(
        admitted(&half, &encrypted).await,
        &["nacreRequireEncrypted: 1 of 2 layers are not encrypted, the first is sha256:"],
    );
    let (none, _) = stored(self::image(&[]));
    denied(admitted(&none, &encrypted).await, &["has no layer"]);

    let pinned = policy(json!([{ "type": "nacreRequireDigestPin" }]));
    let error = denied(
        admitted(&memory, &pinned).await,
        &[
            REFERENCE,
            "nacreRequireDigestPin: the reference has no digest",
        ],
    );
    assert!(error.hint().unwrap().contains("@sha256:"));
    // Asked for nothing before it refused.
    let (quiet, _) = plain();
    denied(admitted(&quiet, &pinned).await, &["no digest"]);
    assert!(quiet.log().is_empty());
    let by_digest = format!("{REFERENCE}@{}", image.digest);
    admitted_as(&memory, &pinned, &by_digest, None)
        .await
        .unwrap();
    admitted_as(&memory, &pinned, REFERENCE, Some(&image.digest))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_index_can_be_required_to_be_signed() {
    let key = key();
    let strict = policy(json!([{
        "type": "sigstoreSigned", "keyData": key.public_pem(), "nacreAllowUnsignedIndex": false,
        "signedIdentity": { "type": "matchRepository" },
    }]));
    let image = image(&[ENCRYPTED]);
    let mut descriptor = image.descriptor();
    descriptor.platform = Some(Platform::parse("linux/amd64").unwrap());
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [descriptor],
    });
    let index = RawManifest::new(media_type::OCI_INDEX, index.to_string().into());
    let memory = Memory::default();
    memory.put(Location::Tag("v1".into()), &index);
    memory.put(Location::Digest(image.digest.clone()), &image);
    signed(&memory, &key, "r.example/a", &image.digest).await;
    admitted(&memory, &signed_by(&[&key], "matchRepository"))
        .await
        .unwrap();
    denied(
        admitted(&memory, &strict).await,
        &["signs the platform's manifest, not the index"],
    );
    signed(&memory, &key, "r.example/a", &index.digest).await;
    let grant = admitted(&memory, &strict).await.unwrap();
    assert_eq!(grant.evidence()[0].signed_digest, index.digest);
    // Without an index the manifest is all there is.
    let (memory, image) = stored(image);
    signed(&memory, &key, "r.example/a", &image.digest).await;
    admitted(&memory, &strict).await.unwrap();
}

#[tokio::test]
async fn every_decision_is_in_the_audit_log() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.jsonl");
    let (memory, image) = plain();
    let key = key();
    let watch = Watch {
        audit: Some(std::sync::Arc::new(AuditLog::open(&file).unwrap())),
        tags: None,
    };
    let policy = signed_by(&[&key], "matchRepository").watched(watch.clone());
    denied(admitted(&memory, &policy).await, &["the image has none"]);
    signed(&memory, &key, "r.example/a", &image.digest).await;
    admitted(&memory, &policy).await.unwrap();
    memory.break_location(Location::Tag("v1".into()), Kind::Unavailable);
    admitted(&memory, &policy).await.unwrap_err();

    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let decisions: Vec<&str> = lines
        .iter()
        .map(|it| it["decision"].as_str().unwrap())
        .collect();
    assert_eq!(decisions, ["refused", "granted", "failed"]);
    assert_eq!(lines[0]["kind"], "denied");
    assert!(
        lines[0]["error"]
            .as_str()
            .unwrap()
            .contains("the image has none")
    );
    let granted = &lines[1];
    assert_eq!(granted["reference"], REFERENCE);
    assert_eq!(granted["manifest_digest"], image.digest.to_string());
    assert_eq!(granted["class"], "plain+signed");
    assert_eq!(granted["evidence"][0]["kind"], "cosign-signature");
    assert!(granted["time"].as_str().unwrap().ends_with('Z'));
    assert!(!text.contains("BEGIN"), "no key, not even a public one");

    // No line, no grant.
    let (memory, _) = plain();
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let open = policy_of_anything().watched(watch);
    let error = admitted(&memory, &open).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Io, "{error}");
    assert!(error.to_string().contains("audit log"), "{error}");
}

fn policy_of_anything() -> Policy {
    policy(json!([{ "type": "insecureAcceptAnything" }]))
}

#[tokio::test]
async fn a_tag_may_not_go_back() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tags.json");
    let watched = || {
        let tags = TagHistory::open(&file).unwrap();
        policy_of_anything().watched(Watch {
            audit: None,
            tags: Some(std::sync::Arc::new(tags)),
        })
    };
    let policy = watched();
    let (memory, old) = plain();
    admitted(&memory, &policy).await.unwrap();
    admitted(&memory, &policy).await.unwrap();
    let new = image(&[media_type::OCI_LAYER_GZIP, media_type::OCI_LAYER_GZIP]);
    let tag = Location::Tag("v1".into());
    memory.put(tag.clone(), &new);
    admitted(&memory, &policy).await.unwrap();
    memory.put(tag.clone(), &old);
    let want = [old.digest.to_string(), new.digest.to_string()];
    let want: Vec<&str> = want.iter().map(String::as_str).collect();
    // By this process and by the next one.
    for policy in [&policy, &watched()] {
        let error = denied(admitted(&memory, policy).await, &want);
        assert!(error.hint().unwrap().contains("tags.json"));
    }
    // By digest it may be had, and other tags are others.
    let pinned = format!("r.example/a@{}", old.digest);
    let pinned = admitted_as(&memory, &policy, &pinned, None).await;
    pinned.unwrap();
    memory.put(Location::Tag("v2".into()), &old);
    admitted_as(&memory, &policy, "r.example/a:v2", None)
        .await
        .unwrap();
    // Two processes that share the file know what the other has seen; one that is gone is written again.
    let (one, other) = (watched(), watched());
    let third = image(&[ENCRYPTED, ENCRYPTED]);
    memory.put(tag.clone(), &third);
    admitted(&memory, &one).await.unwrap();
    memory.put(tag.clone(), &new);
    denied(
        admitted(&memory, &other).await,
        &["the tag has gone back to", &third.digest.to_string()],
    );
    std::fs::remove_file(&file).unwrap();
    denied(admitted(&memory, &one).await, &["the tag has gone back to"]);
    memory.put(
        tag.clone(),
        &image(&[media_type::OCI_LAYER_GZIP, ENCRYPTED]),
    );
    admitted(&memory, &one).await.unwrap();
    memory.put(tag.clone(), &third);
    denied(
        admitted(&memory, &watched()).await,
        &["the tag has gone back to"],
    );
    // What cannot be written down is not admitted, and was not seen.
    std::fs::remove_dir_all(directory.path()).unwrap();
    let newest = image(&[ENCRYPTED]);
    memory.put(tag, &newest);
    for _ in 0..2 {
        let error = admitted(&memory, &policy).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Io, "{error}");
    }
}

/// docs/refusals.md names tests that exist: `file::function`, below this room or among those of the
/// whole program.
#[test]
fn the_index_of_refusals_names_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let index = std::fs::read_to_string(root.join("docs/refusals.md")).unwrap();
    let names: std::collections::BTreeSet<&str> = index
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.contains("::"))
        .collect();
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        let (file, function) = name.split_once("::").unwrap();
        let file = format!("{file}.rs");
        let files = [
            root.join("src/trust").join(&file),
            root.join("tests").join(&file),
        ];
        let text = files.iter().find_map(|it| std::fs::read_to_string(it).ok());
        let text = text.unwrap_or_else(|| panic!("{name}: no such file"));
        // A test of a table is a row of a macro.
        let known = [format!("fn {function}("), format!("    {function}: ")];
        assert!(
            known.iter().any(|it| text.contains(it.as_str())),
            "{name}: no such test"
        );
    }
}
