//! Admission against the real cosign and a real registry: what cosign signs is admitted, what
//! `image::sign` writes is verified by cosign, and what must not serve does not.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod support;

use std::path::Path;

use nacre::{
    Error, Kind, Result,
    image::sign::{SigningKey, generate, sign},
    oci::{Digest, Location, Platform, Reference, RegistryReference},
    trust::{Class, EvidenceKind, Grant, Policy, Request, admit},
};

use self::support::cosign::{Client, start};

fn signed_by(public: &Path, identity: &str) -> Policy {
    let text = serde_json::json!({ "default": [{
        "type": "sigstoreSigned",
        "keyPath": public,
        "signedIdentity": { "type": identity },
    }]});
    Policy::parse(text.to_string().as_bytes(), Path::new("policy.json")).unwrap()
}

async fn admitted(client: &Client, policy: &Policy, expected: Option<&Digest>) -> Result<Grant> {
    let reference = client.reference.with_tag("v1");
    admit(&Request {
        policy,
        reference: &Reference::Registry(reference.clone()),
        repository: &*client.reader,
        location: &reference.location(),
        platform: &Platform::host(),
        expected_digest: expected,
    })
    .await
}

fn denied(result: Result<Grant>, want: &str) -> Error {
    let error = result.expect_err("a refusal");
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(
        error.to_string().contains(want),
        "want {want:?} in: {error}"
    );
    error
}

fn sig_tag(digest: &Digest) -> String {
    format!("sha256-{}.sig", digest.hex())
}

#[tokio::test]
async fn tags_that_cosign_signs() {
    let Some((registry, cosign)) = start() else {
        return;
    };
    let client = Client::new(&registry, "team/app").await;
    let image = client.push_image("v1", b"layer").await;
    let (ours, theirs) = (cosign.generate("ours"), cosign.generate("theirs"));
    let policy = signed_by(&ours, "matchRepository");
    denied(admitted(&client, &policy, None).await, "the image has none");

    cosign.sign_tag("theirs", &client.image(&image.digest));
    denied(
        admitted(&client, &policy, None).await,
        "not signed by this key",
    );

    // Ours beside the foreign one.
    cosign.sign_tag("ours", &client.image(&image.digest));
    let grant = admitted(&client, &policy, None).await.unwrap();
    assert_eq!(grant.class(), Class::PlainSigned);
    assert_eq!(grant.evidence()[0].kind, EvidenceKind::CosignSignature);
    assert_eq!(
        grant.evidence()[0].identity,
        Some(client.reference.repository())
    );
    admitted(&client, &signed_by(&theirs, "matchRepository"), None)
        .await
        .unwrap();
    denied(
        admitted(&client, &signed_by(&ours, "matchRepoDigestOrExact"), None).await,
        "does not accept",
    );

    // The image and its signatures in another repository: the name does not fit.
    let elsewhere = Client::new(&registry, "mallory/app").await;
    let copy = elsewhere.push_image("v1", b"layer").await;
    assert_eq!(copy.digest, image.digest);
    let tag = sig_tag(&image.digest);
    elsewhere.copy_signatures(&client, &tag, &tag).await;
    denied(admitted(&elsewhere, &policy, None).await, "does not accept");

    // The tag moves to an image that has only a copy of the signatures.
    let other = client.push_image("v1", b"another layer").await;
    client
        .copy_signatures(&client, &tag, &sig_tag(&other.digest))
        .await;
    denied(admitted(&client, &policy, None).await, "not this digest");
    denied(
        admitted(&client, &policy, Some(&image.digest)).await,
        "tag moved",
    );
}

#[tokio::test]
async fn bundles_that_cosign_signs() {
    let Some((registry, cosign)) = start() else {
        return;
    };
    let client = Client::new(&registry, "team/app").await;
    let image = client.push_image("v1", b"layer").await;
    let (ours, theirs) = (cosign.generate("ours"), cosign.generate("theirs"));
    let policy = signed_by(&ours, "nacreMatchDigest");

    // cosign itself takes an SBOM attestation for a signature; nacre does not.
    cosign.attest("ours", &client.image(&image.digest));
    cosign
        .run(&[
            "verify",
            "--key",
            ours.to_str().unwrap(),
            "--insecure-ignore-tlog",
            &client.image(&image.digest),
        ])
        .unwrap();
    denied(
        admitted(&client, &policy, None).await,
        "attestation of type https://spdx.dev/Document, not a signature",
    );

    cosign.sign_bundle("theirs", &client.image(&image.digest));
    denied(
        admitted(&client, &policy, None).await,
        "not signed by this key",
    );

    cosign.sign_bundle("ours", &client.image(&image.digest));
    let grant = admitted(&client, &policy, None).await.unwrap();
    assert_eq!(grant.evidence()[0].kind, EvidenceKind::SigstoreBundle);
    assert_eq!(grant.evidence()[0].signed_digest, image.digest);
    admitted(&client, &signed_by(&theirs, "nacreMatchDigest"), None)
        .await
        .unwrap();
    let error = denied(
        admitted(&client, &signed_by(&ours, "matchRepository"), None).await,
        "the bundle names no repository",
    );
    assert!(error.hint().unwrap().contains("nacreMatchDigest"));

    // The tag moves: the bundles of the old digest do not follow.
    client.push_image("v1", b"another layer").await;
    denied(admitted(&client, &policy, None).await, "the image has none");
}

#[tokio::test]
async fn every_kind_of_key() {
    let Some((registry, cosign)) = start() else {
        return;
    };
    for (name, genpkey) in [
        (
            "p384",
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"][..],
        ),
        (
            "p521",
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
        ),
        (
            "rsa",
            &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        ),
    ] {
        let public = cosign.import(name, genpkey);
        let policy = signed_by(&public, "nacreMatchDigest");
        let tagged = Client::new(&registry, &format!("{name}/tagged")).await;
        let image = tagged.push_image("v1", b"layer").await;
        cosign.sign_tag(name, &tagged.image(&image.digest));
        let bundled = Client::new(&registry, &format!("{name}/bundled")).await;
        bundled.push_image("v1", b"layer").await;
        cosign.sign_bundle(name, &bundled.image(&image.digest));
        for (client, kind) in [
            (&tagged, EvidenceKind::CosignSignature),
            (&bundled, EvidenceKind::SigstoreBundle),
        ] {
            let grant = admitted(client, &policy, None).await;
            let grant = grant.unwrap_or_else(|e| panic!("{name} {kind}: {e}"));
            assert_eq!(grant.evidence()[0].kind, kind);
        }
    }
}

/// The public half of a private key, as openssl sees it.
fn openssl_public(path: &Path, private: &str) -> String {
    std::fs::write(path, private).unwrap();
    let output = std::process::Command::new("openssl")
        .args(["pkey", "-pubout", "-in"])
        .arg(path)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn cosign_verifies_what_we_sign() {
    let Some((registry, cosign)) = start() else {
        return;
    };
    let client = Client::new(&registry, "team/app").await;
    let image = client.push_image("v1", b"layer").await;
    let name: RegistryReference = format!("{}:v1", client.reference.repository())
        .parse()
        .unwrap();
    let (private, public_pem) = generate().unwrap();
    let key = SigningKey::from_pem(private.as_bytes(), "ours.key").unwrap();
    let public = cosign.home.path().join("ours.pub");
    std::fs::write(&public, &public_pem).unwrap();
    assert_eq!(
        openssl_public(&cosign.home.path().join("ours.pem"), &private),
        public_pem
    );
    let theirs = cosign.generate("theirs");

    // After a signature by cosign, and before another.
    cosign.sign_tag("theirs", &client.image(&image.digest));
    let signed = sign(&key, &name, &image.digest, &*client.reader, &*client.writer)
        .await
        .unwrap();
    assert!(signed.added);
    assert_eq!(signed.tag, sig_tag(&image.digest));
    let third = cosign.generate("third");
    cosign.sign_tag("third", &client.image(&image.digest));

    for public in [&public, &theirs, &third] {
        let text = cosign
            .verify_tag(public, &client.image(&image.digest))
            .unwrap();
        assert!(text.contains(&client.reference.repository()), "{text}");
        admitted(&client, &signed_by(public, "matchRepository"), None)
            .await
            .unwrap();
    }
    let stranger = cosign.generate("stranger");
    cosign
        .verify_tag(&stranger, &client.image(&image.digest))
        .unwrap_err();

    let tag = Location::Tag(signed.tag.clone());
    let before = client.reader.manifest(&tag).await.unwrap();
    let again = sign(&key, &name, &image.digest, &*client.reader, &*client.writer)
        .await
        .unwrap();
    assert!(!again.added);
    assert_eq!(
        client.reader.manifest(&tag).await.unwrap().digest,
        before.digest
    );
}
