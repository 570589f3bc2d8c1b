//! What is attached to an image and says something of it.

use serde_json::json;

use super::{
    BUNDLE, Memory, REFERENCE, RawManifest, attach, envelope, key, plain, policy, signed, signed_by,
};
use crate::{
    Kind, Result,
    image::sign::SigningKey,
    oci::{Descriptor, Digest, Location, media_type},
    trust::{Policy, Vouched, Vouching, vouch},
};

/// An index that refers to `subject`.
fn artifact(memory: &Memory, subject: &RawManifest) -> RawManifest {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "artifactType": "application/vnd.test",
        "config": Descriptor::of(media_type::OCI_EMPTY, b"{}"),
        "layers": [Descriptor::of("application/vnd.test", b"x")],
        "subject": subject.descriptor(),
    });
    let raw = RawManifest::new(media_type::OCI_MANIFEST, manifest.to_string().into());
    memory.put(Location::Digest(raw.digest.clone()), &raw);
    raw
}

async fn asked(
    memory: &Memory,
    policy: &Policy,
    subject: &Digest,
    artifact: &RawManifest,
) -> Result<Vouched> {
    let reference = REFERENCE.parse().unwrap();
    vouch(policy, &reference, memory, subject, &artifact.descriptor()).await
}

fn allowing(key: &SigningKey) -> Policy {
    policy(json!([
        { "type": "sigstoreSigned", "keyData": key.public_pem(),
          "signedIdentity": { "type": "matchRepository" } },
        { "type": "nacreAllowUnsignedLayerIndex" },
    ]))
}

#[tokio::test]
async fn only_whom_the_policy_names_vouches() {
    let (memory, image) = plain();
    let (ours, theirs) = (key(), key());
    let strict = signed_by(&[&ours], "matchRepository");
    let lax = allowing(&ours);
    let both = policy(json!([
        { "type": "sigstoreSigned", "keyData": ours.public_pem(),
          "signedIdentity": { "type": "matchRepository" } },
        { "type": "sigstoreSigned", "keyData": key().public_pem(),
          "signedIdentity": { "type": "matchRepository" } },
    ]));
    let open = policy(json!([{ "type": "insecureAcceptAnything" }]));
    let index = artifact(&memory, &image);
    let ask = |policy| asked(&memory, policy, &image.digest, &index);

    // A signature on the image is none on what refers to it.
    signed(&memory, &ours, "r.example/a", &image.digest).await;
    let vouched = ask(&strict).await.unwrap();
    assert_eq!(*vouched.standing(), Vouching::Unsigned(Vec::new()));
    assert_eq!(vouched.manifest().layers.len(), 1);
    let vouched = ask(&lax).await.unwrap();
    assert_eq!(*vouched.standing(), Vouching::Allowed);

    signed(&memory, &theirs, "r.example/a", &index.digest).await;
    signed(&memory, &ours, "r.example/other", &index.digest).await;
    let Vouching::Unsigned(reasons) = ask(&strict).await.unwrap().standing().clone() else {
        panic!("nobody who counts has signed it");
    };
    assert!(
        reasons
            .iter()
            .any(|it| it.contains("not signed by this key"))
    );
    assert!(reasons.iter().any(|it| it.contains("does not accept")));

    signed(&memory, &ours, "r.example/a", &index.digest).await;
    for policy in [&strict, &lax] {
        let Vouching::Signed(evidence) = ask(policy).await.unwrap().standing().clone() else {
            panic!("signed");
        };
        assert_eq!(evidence[0].signed_digest, index.digest);
    }
    let vouched = ask(&both).await.unwrap();
    assert!(matches!(vouched.standing(), Vouching::Unsigned(_)));
    // Nobody is asked for: nobody vouches.
    let vouched = ask(&open).await.unwrap();
    assert_eq!(*vouched.standing(), Vouching::Unsigned(Vec::new()));
}

#[tokio::test]
async fn a_bundle_vouches() {
    let (memory, image) = plain();
    let ours = key();
    let index = artifact(&memory, &image);
    let sign = "https://sigstore.dev/cosign/sign/v1";
    attach(&memory, &index, &envelope(&ours, &index.digest, sign, None));
    let policy = signed_by(&[&ours], "nacreMatchDigest");
    let vouched = asked(&memory, &policy, &image.digest, &index)
        .await
        .unwrap();
    let Vouching::Signed(evidence) = vouched.standing() else {
        panic!("{:?} is signed", BUNDLE);
    };
    assert_eq!(evidence[0].signed_digest, index.digest);
}

#[tokio::test]
async fn what_refers_to_something_else_is_refused() {
    let (memory, image) = plain();
    let ours = key();
    let index = artifact(&memory, &image);
    signed(&memory, &ours, "r.example/a", &index.digest).await;
    let policy = signed_by(&[&ours], "matchRepository");
    let other = Digest::sha256(b"another image");
    let error = asked(&memory, &policy, &other, &index).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(error.to_string().contains("does not refer to"), "{error}");

    // Another manifest under its digest.
    let location = Location::Digest(index.digest.clone());
    let lie = RawManifest {
        digest: index.digest.clone(),
        ..image.clone()
    };
    memory.put(location.clone(), &lie);
    let error = asked(&memory, &policy, &image.digest, &index)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");

    memory.break_location(location, Kind::Unavailable);
    let error = asked(&memory, &policy, &image.digest, &index)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
}
