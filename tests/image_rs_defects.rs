//! Defects of image-rs (guest-components, 2026) that nacre must not have: policies that a cache hit, a
//! look-alike name or a mirror gets around. The tests of the others are where what they try is at home:
//! `cargo test image_rs_defect` runs all nine.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use nacre::{
    Kind, Result,
    index::write::Format,
    oci::{Platform, Reference, media_type},
    snapshotter::lazy::{LazyImages as _, Verdict},
    source::{Access, registry::Options},
    trust::{Grant, Policy, Request, admit},
};
use serde_json::{Value, json};

mod support;

use support::{
    registry::FakeRegistry,
    toy::{Node, ToyImage, documents, lazy, put},
};

/// Access to a registry that answers for every name, directly and as the mirror of another.
fn answering(registry: &FakeRegistry, directory: &std::path::Path, hosts: &str) -> Access {
    std::fs::create_dir_all(directory.join("_default")).unwrap();
    let hosts = hosts.replace("HOST", &format!("http://{}", registry.host()));
    std::fs::write(directory.join("_default/hosts.toml"), hosts).unwrap();
    Access::new(Options {
        certs_dir: Some(directory.to_owned()),
        ..Options::default()
    })
}

fn only(scope: &str) -> Policy {
    let anything = json!([{"type": "insecureAcceptAnything"}]);
    let text = json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {scope: anything}},
    });
    Policy::parse(text.to_string().as_bytes(), "policy.json".as_ref()).unwrap()
}

async fn admitted(policy: &Policy, access: &Access, reference: &str) -> Result<Grant> {
    let reference: Reference = reference.parse().unwrap();
    let (repository, location) = access.open(&reference).await?;
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

/// A manifest with the same configuration, which image-rs has cached, is another image: it is not
/// admitted by what was decided before, and its digest is not told for what is mounted.
#[tokio::test(flavor = "multi_thread")]
async fn image_rs_defect_1_an_image_that_shares_its_configuration_is_decided_on_anew() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let layer = lazy(Format::Estargz, &[("base", &[b'b'; 5000])]);
    let image = put(&registry, "app", &[layer]);
    node.sign(&image.reference, &image.manifest.digest).await;
    let images = node.images();
    let Verdict::Lazy(found) = images.layer(&image.request(0)).await.unwrap() else {
        panic!("not lazy");
    };
    assert_eq!(found.manifest, image.manifest.digest);
    images.lower(&found).await.unwrap();

    // The same but for an annotation: configuration and layers are those that are known.
    let (_, manifest) = documents(&image.layers);
    let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
    manifest["annotations"] = json!({"unsigned": "yes"});
    let bytes = manifest.to_string().into_bytes();
    let moved = ToyImage {
        manifest: registry.put_manifest("app", "1", media_type::OCI_MANIFEST, bytes),
        ..image
    };
    let error = images.layer(&moved.request(0)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    // What was admitted still is, by its own digest, though the tag has moved.
    images.lower(&found).await.unwrap();
    assert_ne!(found.manifest, moved.manifest.digest);
}

#[tokio::test]
async fn image_rs_defect_2_a_name_that_ends_or_begins_alike_is_another() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let layer = lazy(Format::Estargz, &[("base", b"x")]);
    for repository in ["app", "team/app", "teammate/app", "example.com/app"] {
        put(&registry, repository, std::slice::from_ref(&layer));
    }
    let access = answering(&registry, directory.path(), "server = \"HOST\"\n");
    for (scope, inside, outside) in [
        (
            "example.com",
            &["example.com/app:1", "example.com/team/app:1"][..],
            &[
                "evil.example.com/app:1",
                "notexample.com/app:1",
                "example.com.evil.org/app:1",
                "example.com:5000/app:1",
                "evil.org/example.com/app:1",
            ][..],
        ),
        (
            "example.com/team",
            &["example.com/team/app:1"],
            &["example.com/teammate/app:1", "example.com/app:1"],
        ),
    ] {
        let policy = only(scope);
        for reference in inside {
            admitted(&policy, &access, reference).await.unwrap();
        }
        for reference in outside {
            let error = admitted(&policy, &access, reference).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Denied, "{reference}: {error}");
        }
    }
}

#[tokio::test]
async fn image_rs_defect_3_the_policy_sees_the_name_that_was_asked_for() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let layer = lazy(Format::Estargz, &[("base", b"x")]);
    put(&registry, "app", &[layer]);
    let hosts = "server = \"https://r.example.invalid\"\n[host.\"HOST\"]\n";
    let access = answering(&registry, directory.path(), hosts);
    let mirror = registry.host();
    for (scope, expected) in [
        ("r.example/app", true),
        (&*mirror, false),
        ("r.example.invalid", false),
    ] {
        let grant = admitted(&only(scope), &access, "r.example/app:1").await;
        assert_eq!(grant.is_ok(), expected, "{scope}");
        if let Err(error) = grant {
            assert_eq!(error.kind(), Kind::Denied, "{error}");
        }
    }
}
