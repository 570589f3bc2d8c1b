//! Admission by GPG signatures that the real skopeo and GnuPG make: lookasides in directories and on
//! web servers, and the registry extension.
#![cfg(feature = "pgp")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod support;

use std::path::Path;

use base64::Engine as _;
use nacre::{
    Kind, Result,
    oci::{Digest, Location, Platform, Reference, RegistryReference},
    source::{
        Access,
        registry::{LookasidePlaces, Options, RetryPolicy},
    },
    trust::{Class, EvidenceKind, Grant, Policy, Request, admit},
};
use serde_json::json;

use self::support::{
    cosign::Client,
    docker_registry::DockerRegistry,
    gpg::{Gpg, Web},
};

const MADE: &str = "20250601T120000";

fn signed_by(requirement: serde_json::Value) -> Policy {
    let mut full = json!({ "type": "signedBy", "keyType": "GPGKeys" });
    for (key, value) in requirement.as_object().unwrap() {
        full[key] = value.clone();
    }
    let text = json!({ "default": [full] }).to_string();
    Policy::parse(text.as_bytes(), Path::new("policy.json")).unwrap()
}

fn access(gpg: &Gpg) -> Access {
    Access::new(Options {
        lookaside: Some(LookasidePlaces {
            directory: gpg.registries_d.clone(),
            fallback: None,
        }),
        retry: RetryPolicy {
            attempts: 1,
            ..RetryPolicy::default()
        },
        ..Options::default()
    })
}

async fn admitted(gpg: &Gpg, policy: &Policy, reference: &RegistryReference) -> Result<Grant> {
    let reference = Reference::Registry(reference.clone());
    let (repository, location) = access(gpg).open(&reference).await?;
    admit(&Request {
        policy,
        reference: &reference,
        repository: &*repository,
        location: &location,
        platform: &Platform::host(),
        expected_digest: None,
    })
    .await
}

async fn refused(gpg: &Gpg, policy: &Policy, reference: &RegistryReference, want: &str) {
    let error = admitted(gpg, policy, reference).await.expect_err(want);
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    let said = error.to_string();
    assert!(said.contains(want), "want {want:?} in: {said}");
}

#[tokio::test]
async fn images_that_skopeo_signs() {
    let (Some(gpg), Some(registry)) = (Gpg::start(), DockerRegistry::start()) else {
        return;
    };
    let client = Client::new(&registry, "team/app").await;
    let image = client.push_image("v1", b"layer").await;
    let tagged = client.reference.with_tag("v1");
    for (name, kind) in [
        ("ours", "ed25519"),
        ("theirs", "rsa2048"),
        ("past", "nistp256"),
    ] {
        gpg.generate(name, kind, MADE);
    }
    let ours = signed_by(json!({ "keyPath": gpg.export("ours") }));
    refused(&gpg, &ours, &tagged, "the image has none").await;

    // Theirs first; ours beside it is found.
    gpg.sign("theirs", &tagged.to_string(), &[]);
    refused(&gpg, &ours, &tagged, "which the policy does not name").await;
    gpg.sign("ours", &tagged.to_string(), &[]);
    let grant = admitted(&gpg, &ours, &tagged).await.unwrap();
    assert_eq!(grant.class(), Class::PlainSigned);
    let [evidence] = grant.evidence() else {
        panic!("{:?}", grant.evidence());
    };
    assert_eq!(evidence.kind, EvidenceKind::GpgSignature);
    assert_eq!(evidence.signed_digest, image.digest);
    assert_eq!(evidence.identity, Some(tagged.to_string()));
    let signer = evidence.signer.as_ref().unwrap();
    assert!(signer.subject.starts_with("openpgp4fpr:"), "{signer}");
    let either = json!({ "keyPaths": [gpg.export("past"), gpg.export("theirs")] });
    admitted(&gpg, &signed_by(either), &tagged).await.unwrap();
    let data = base64::engine::general_purpose::STANDARD;
    let data = data.encode(std::fs::read(gpg.export("ours")).unwrap());
    let by_data = signed_by(json!({ "keyData": data }));
    admitted(&gpg, &by_data, &tagged).await.unwrap();

    // The key ends; what it has signed does not serve any more.
    gpg.sign("past", &tagged.to_string(), &[]);
    let past = |gpg: &Gpg| signed_by(json!({ "keyPath": gpg.export("past") }));
    admitted(&gpg, &past(&gpg), &tagged).await.unwrap();
    gpg.expire("past", "20250701T120000");
    refused(&gpg, &past(&gpg), &tagged, "has expired").await;

    // The tag moves to an image that nobody has signed.
    let other = client.push_image("v1", b"another layer").await;
    refused(&gpg, &ours, &tagged, "the image has none").await;
    // Somebody copies the signatures to it.
    let (from, to) = (
        gpg.signatures("team/app", image.digest.hex()),
        gpg.signatures("team/app", other.digest.hex()),
    );
    std::fs::rename(&from, &to).unwrap();
    refused(&gpg, &ours, &tagged, "not this digest").await;
    std::fs::rename(&to, &from).unwrap();
    // By its digest, any tag's signature will do.
    let pinned: RegistryReference = format!("{}@{}", tagged.repository(), image.digest)
        .parse()
        .unwrap();
    admitted(&gpg, &ours, &pinned).await.unwrap();
}

#[tokio::test]
async fn names_and_payloads() {
    let (Some(gpg), Some(registry)) = (Gpg::start(), DockerRegistry::start()) else {
        return;
    };
    let client = Client::new(&registry, "team/app").await;
    let image = client.push_image("v1", b"layer").await;
    let tagged = client.reference.with_tag("v1");
    gpg.generate("ours", "ed25519", MADE);
    let key = gpg.export("ours");
    let identity = ["--sign-identity", "release.example/app:v1"];
    gpg.sign("ours", &tagged.to_string(), &identity);
    let policy = |identity: serde_json::Value| {
        signed_by(json!({ "keyPath": &key, "signedIdentity": identity }))
    };
    for identity in [
        json!({ "type": "matchRepoDigestOrExact" }),
        json!({ "type": "matchExact" }),
        json!({ "type": "matchRepository" }),
        json!({ "type": "exactReference", "dockerReference": "release.example/app:v2" }),
        json!({ "type": "exactRepository", "dockerRepository": "release.example/other" }),
    ] {
        refused(&gpg, &policy(identity), &tagged, "does not accept").await;
    }
    for identity in [
        json!({ "type": "exactReference", "dockerReference": "release.example/app:v1" }),
        json!({ "type": "exactRepository", "dockerRepository": "release.example/app" }),
        json!({ "type": "remapIdentity", "prefix": tagged.host().to_owned() + "/team",
                "signedPrefix": "release.example" }),
        json!({ "type": "nacreMatchDigest" }),
    ] {
        admitted(&gpg, &policy(identity), &tagged).await.unwrap();
    }

    // What is signed with the right key, but says the wrong thing.
    let directory = gpg.signatures("team/app", image.digest.hex());
    let payload = |kind: &str, digest: &Digest, more: serde_json::Value| {
        let mut payload = json!({
            "critical": { "type": kind, "identity": { "docker-reference": tagged.to_string() },
                          "image": { "docker-manifest-digest": digest } },
            "optional": {},
        });
        for (key, value) in more.as_object().unwrap() {
            payload[key] = value.clone();
        }
        payload.to_string()
    };
    let atomic = "atomic container signature";
    let sign = |payload: &str| {
        std::fs::remove_dir_all(&directory).unwrap();
        std::fs::create_dir(&directory).unwrap();
        let (text, signature) = (directory.join("text"), directory.join("signature-1"));
        std::fs::write(&text, payload).unwrap();
        let (signature, text) = (signature.to_str().unwrap(), text.to_str().unwrap());
        gpg.run(&["-u", "ours@example", "--output", signature, "--sign", text]);
    };
    let exact = policy(json!({ "type": "matchExact" }));
    sign(&payload(atomic, &image.digest, json!({})));
    admitted(&gpg, &exact, &tagged).await.unwrap();
    for (payload, want) in [
        (
            payload("cosign container image signature", &image.digest, json!({})),
            "want \"atomic container signature\"",
        ),
        (
            payload(atomic, &Digest::sha256(b"x"), json!({})),
            "not this digest",
        ),
        (
            payload(atomic, &image.digest, json!({ "more": 1 })),
            "unknown field \"more\"",
        ),
        ("hello".to_owned(), "payload: line 1"),
    ] {
        sign(&payload);
        refused(&gpg, &exact, &tagged, want).await;
    }
    // A changed byte of a good one.
    sign(&payload(atomic, &image.digest, json!({})));
    let file = directory.join("signature-1");
    let mut changed = std::fs::read(&file).unwrap();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    std::fs::write(&file, changed).unwrap();
    refused(&gpg, &exact, &tagged, "none of those found serves").await;
}

#[tokio::test]
async fn lookasides_on_the_web() {
    let (Some(gpg), Some(registry)) = (Gpg::start(), DockerRegistry::start()) else {
        return;
    };
    let client = Client::new(&registry, "team/app").await;
    let image = client.push_image("v1", b"layer").await;
    let tagged = client.reference.with_tag("v1");
    gpg.generate("ours", "ed25519", MADE);
    let policy = signed_by(json!({ "keyPath": gpg.export("ours") }));
    gpg.sign("ours", &tagged.to_string(), &[]);

    let (web, elsewhere) = (Web::start().await, Web::start().await);
    gpg.configure(&format!("http://{}/sigs/", web.address));
    refused(&gpg, &policy, &tagged, "the image has none").await;
    let name = format!("team/app@sha256={}", image.digest.hex());
    let local = gpg.signatures("team/app", image.digest.hex());
    web.put_directory(&format!("/sigs/{name}"), &local);
    admitted(&gpg, &policy, &tagged).await.unwrap();
    let last = web.asked.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last, format!("/sigs/{name}/signature-2"));

    // Somewhere else, as the server says.
    elsewhere.put_directory("/there", &local);
    let to = format!("http://{}/there/signature-1", elsewhere.address);
    let path = format!("/sigs/{name}/signature-1");
    web.put(&path, 302, &[("Location", &to)], b"");
    admitted(&gpg, &policy, &tagged).await.unwrap();

    // A server that fails is no server without signatures.
    web.put(&path, 500, &[], b"");
    let error = admitted(&gpg, &policy, &tagged).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains("signature-1"), "{error}");
}

#[tokio::test]
async fn registries_that_store_signatures() {
    let (Some(gpg), Some(registry)) = (Gpg::start(), DockerRegistry::start()) else {
        return;
    };
    let client = Client::new(&registry, "team/app").await;
    let image = client.push_image("v1", b"layer").await;
    gpg.generate("ours", "ed25519", MADE);
    let policy = signed_by(json!({ "keyPath": gpg.export("ours"),
                                   "signedIdentity": { "type": "nacreMatchDigest" } }));
    gpg.sign("ours", &client.reference.with_tag("v1").to_string(), &[]);
    let file = gpg
        .signatures("team/app", image.digest.hex())
        .join("signature-1");
    let content = base64::engine::general_purpose::STANDARD.encode(std::fs::read(file).unwrap());
    let raw = client
        .reader
        .manifest(&Location::Digest(image.digest.clone()))
        .await
        .unwrap();

    // A registry as OpenShift's.
    let web = Web::start().await;
    web.put(
        "/v2/",
        200,
        &[("X-Registry-Supports-Signatures", "1")],
        b"{}",
    );
    let kind = [("Content-Type", raw.media_type.as_str())];
    web.put("/v2/team/app/manifests/v1", 200, &kind, &raw.bytes);
    let reference: RegistryReference = format!("{}/team/app:v1", web.address).parse().unwrap();
    refused(&gpg, &policy, &reference, "the image has none").await;
    let list = json!({ "signatures": [{ "schemaVersion": 2, "type": "atomic", "content": content,
                                        "name": format!("{}@1", image.digest) }] });
    let path = format!("/extensions/v2/team/app/signatures/{}", image.digest);
    web.put(&path, 200, &[], list.to_string().as_bytes());
    let grant = admitted(&gpg, &policy, &reference).await.unwrap();
    assert_eq!(grant.evidence()[0].kind, EvidenceKind::GpgSignature);
    // Who does not say so is not asked, and the lookaside has nothing of it.
    web.put("/v2/", 200, &[], b"{}");
    let before = web.asked.lock().unwrap().len();
    std::fs::remove_dir_all(&gpg.lookaside).unwrap();
    refused(&gpg, &policy, &reference, "the image has none").await;
    assert!(!web.asked.lock().unwrap()[before..].contains(&path));
}

#[tokio::test]
async fn too_many_signatures() {
    let (Some(gpg), Some(registry)) = (Gpg::start(), DockerRegistry::start()) else {
        return;
    };
    let client = Client::new(&registry, "team/app").await;
    let image = client.push_image("v1", b"layer").await;
    let tagged = client.reference.with_tag("v1");
    gpg.generate("ours", "ed25519", MADE);
    let policy = signed_by(json!({ "keyPath": gpg.export("ours") }));
    gpg.sign("ours", &tagged.to_string(), &[]);
    let directory = gpg.signatures("team/app", image.digest.hex());
    let good = std::fs::read(directory.join("signature-1")).unwrap();
    // The last of a hundred is looked at, the next one is not.
    for (last, serves) in [(100, true), (101, false)] {
        for n in 1..last {
            std::fs::write(directory.join(format!("signature-{n}")), "x").unwrap();
        }
        std::fs::write(directory.join(format!("signature-{last}")), &good).unwrap();
        match serves {
            true => drop(admitted(&gpg, &policy, &tagged).await.unwrap()),
            false => refused(&gpg, &policy, &tagged, "and 81 more").await,
        }
    }
}
