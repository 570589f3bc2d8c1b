//! `nacre sbom` on an image that has bills of materials in every place there is, attested by the real
//! cosign: which are found, in which order, and whose word each is said to be.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod support;

use std::{collections::BTreeMap, io::Write as _, path::Path};

use bytes::Bytes;
use nacre::{
    oci::{Descriptor, Digest, Location, RawManifest, media_type},
    source::BlobContent,
};
use serde_json::{Value, json};

use self::support::{
    cosign::{Client, start},
    program::run,
};

/// More values than a policy may have; the SBOMs of large images have as many.
const PACKAGES: usize = 250_000;

struct Layer {
    descriptor: Descriptor,
    diff_id: Digest,
}

async fn put(client: &Client, kind: &str, bytes: &[u8]) -> Descriptor {
    let descriptor = Descriptor::of(kind, bytes);
    let content = BlobContent::Bytes(Bytes::copy_from_slice(bytes));
    client.writer.put_blob(&descriptor, content).await.unwrap();
    descriptor
}

async fn layer(client: &Client, files: &[(&str, &str)]) -> Layer {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, path, text.as_bytes())
            .unwrap();
    }
    let plain = archive.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    Layer {
        diff_id: Digest::sha256(&plain),
        descriptor: put(client, media_type::OCI_LAYER_GZIP, &gzip.finish().unwrap()).await,
    }
}

async fn manifest(client: &Client, location: Option<&str>, text: Value) -> RawManifest {
    let kind = text["mediaType"].as_str().unwrap().to_owned();
    let raw = RawManifest::new(kind, text.to_string().into());
    let location = match location {
        Some(tag) => Location::Tag(tag.into()),
        None => Location::Digest(raw.digest.clone()),
    };
    client.writer.put_manifest(&location, &raw).await.unwrap();
    raw
}

/// An image whose labels name two layers with documents.
async fn image(client: &Client) -> RawManifest {
    let app = layer(client, &[("workspace/sbom.cdx.json", "{}")]).await;
    let bom = r#"{"bomFormat":"CycloneDX","from":"base"}"#;
    let base = layer(client, &[("cnb/sbom/bom.cdx.json", bom), ("cnb/x", "x")]).await;
    let documents = layer(
        client,
        &[
            (
                "layers/sbom/launch/node/sbom.cdx.json",
                r#"{"bomFormat":"CycloneDX","from":"node"}"#,
            ),
            (
                "layers/sbom/launch/node/sbom.spdx.json",
                r#"{"spdxVersion":"SPDX-2.3","from":"node"}"#,
            ),
            ("layers/sbom/launch/node/readme", "x"),
        ],
    )
    .await;
    let layers = [base, app, documents];
    let lifecycle = json!({ "app": [], "sbom": { "sha": layers[2].diff_id } }).to_string();
    let labels = BTreeMap::from([
        ("io.buildpacks.lifecycle.metadata", lifecycle),
        ("io.buildpacks.base.sbom", layers[0].diff_id.to_string()),
    ]);
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Labels": labels },
        "rootfs": { "type": "layers", "diff_ids": layers.each_ref().map(|it| &it.diff_id) },
    });
    let config = put(
        client,
        media_type::OCI_CONFIG,
        config.to_string().as_bytes(),
    )
    .await;
    let text = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config,
        "layers": layers.each_ref().map(|it| &it.descriptor),
    });
    manifest(client, None, text).await
}

/// An index with the image and what BuildKit says about it.
async fn index(client: &Client, image: &RawManifest) -> RawManifest {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": "https://spdx.dev/Document",
        "subject": [{ "name": "pkg", "digest": { "sha256": image.digest.hex() } }],
        "predicate": { "spdxVersion": "SPDX-2.3", "from": "buildkit" },
    });
    let statement = statement.to_string();
    let mut layer = put(client, "application/vnd.in-toto+json", statement.as_bytes()).await;
    let predicate = "https://spdx.dev/Document";
    layer
        .annotations
        .insert("in-toto.io/predicate-type".into(), predicate.into());
    let config = put(client, media_type::OCI_CONFIG, b"{}").await;
    let attestation = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config,
        "layers": [layer],
    });
    let attestation = manifest(client, None, attestation).await;
    let mut first = serde_json::to_value(image.descriptor()).unwrap();
    first["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    let mut second = serde_json::to_value(attestation.descriptor()).unwrap();
    second["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
    second["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": image.digest,
    });
    let text = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [first, second],
    });
    manifest(client, Some("v1"), text).await
}

/// What nobody signs: cosign's tag, and a referrer.
async fn attach(client: &Client, image: &RawManifest) {
    let text = "SPDXVersion: SPDX-2.3\nfrom: tag\n";
    let document = put(client, "text/spdx", text.as_bytes()).await;
    let config = put(client, media_type::OCI_CONFIG, b"{}").await;
    let tag = format!("sha256-{}.sbom", image.digest.hex());
    let text = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config,
        "layers": [document],
    });
    manifest(client, Some(&tag), text).await;
    let kind = "application/vnd.cyclonedx+json";
    let bom = br#"{"bomFormat":"CycloneDX","from":"referrer"}"#;
    let document = put(client, kind, bom).await;
    let config = put(client, media_type::OCI_EMPTY, b"{}").await;
    let text = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": kind,
        "config": config, "layers": [document], "subject": image.descriptor(),
    });
    manifest(client, None, text).await;
}

fn sbom(home: &Path, image: &str, policy: &Path, more: &[&str]) -> Vec<u8> {
    let mut arguments = vec!["sbom", image, "--platform", "linux/amd64", "--policy"];
    arguments.push(policy.to_str().unwrap());
    arguments.extend(more);
    let ran = run(home, &arguments);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_by_trust() {
    let Some((registry, cosign)) = start() else {
        return;
    };
    let client = Client::new(&registry, "team/app").await;
    let image = image(&client).await;
    let index = index(&client, &image).await;
    attach(&client, &image).await;
    let public = cosign.generate("ours");
    cosign.generate("theirs");
    let named = client.image(&image.digest);
    let packages = vec!["p"; PACKAGES];
    let large = json!({ "spdxVersion": "SPDX-2.3", "from": "ours", "packages": packages });
    cosign.attest_as("ours", &named, "spdxjson", &large.to_string(), &[]);
    let other = r#"{"bomFormat":"CycloneDX","from":"theirs"}"#;
    let tag = ["--new-bundle-format=false"];
    cosign.attest_as("theirs", &named, "cyclonedx", other, &tag);
    cosign.sign_tag("ours", &client.image(&index.digest));

    let home = cosign.home.path();
    let policy = home.join("policy.json");
    let text = json!({ "default": [{ "type": "sigstoreSigned", "keyPath": public,
        "signedIdentity": { "type": "matchRepository" } }] });
    std::fs::write(&policy, text.to_string()).unwrap();
    let reference = client.reference.with_tag("v1").to_string();
    let listed = sbom(home, &reference, &policy, &["--json"]);
    let listed: Vec<Value> = serde_json::from_slice(&listed).unwrap();
    let found: Vec<[&str; 3]> = listed
        .iter()
        .map(|it| {
            let text = |it: &'_ Value| -> &'static str { it.as_str().unwrap().to_owned().leak() };
            [
                text(&it["trust"]["kind"]),
                text(&it["found_in"]),
                text(&it["format"]),
            ]
        })
        .collect();
    assert_eq!(
        found,
        [
            ["attested", "attestation", "spdx"],
            ["in-signed-image", "buildpacks-layer", "cyclonedx"],
            ["in-signed-image", "buildpacks-layer", "spdx"],
            ["in-signed-image", "base-image-layer", "cyclonedx"],
            ["in-signed-image", "build-kit", "spdx"],
            ["unsigned", "attestation", "cyclonedx"],
            ["unsigned", "cosign-tag", "spdx"],
            ["unsigned", "referrer", "cyclonedx"],
        ]
    );
    // The large document comes out whole.
    let printed = sbom(home, &reference, &policy, &["--print"]);
    let printed: Value = serde_json::from_slice(&printed).unwrap();
    assert_eq!(printed, large);
    let printed = sbom(
        home,
        &reference,
        &policy,
        &["--print", "--format", "cyclonedx"],
    );
    let printed: Value = serde_json::from_slice(&printed).unwrap();
    assert_eq!(printed["from"], "node");
    let directory = home.join("out");
    let options = ["--output-dir", directory.to_str().unwrap()];
    let text = String::from_utf8(sbom(home, &reference, &policy, &options)).unwrap();
    assert!(text.contains("whom the policy names"), "{text}");
    assert!(
        text.contains("layers/sbom/launch/node/sbom.cdx.json"),
        "{text}"
    );
    let third = std::fs::read_to_string(directory.join("3.spdx")).unwrap();
    assert!(third.contains("node"), "{third}");
    let tagged = std::fs::read_to_string(directory.join("7.spdx")).unwrap();
    assert_eq!(tagged, "SPDXVersion: SPDX-2.3\nfrom: tag\n");

    // Nobody's signature: what is inside is nobody's word either.
    let text = json!({ "default": [{ "type": "insecureAcceptAnything" }] });
    std::fs::write(&policy, text.to_string()).unwrap();
    let listed = sbom(home, &reference, &policy, &["--json"]);
    let listed: Vec<Value> = serde_json::from_slice(&listed).unwrap();
    assert_eq!(listed.len(), 8);
    assert!(
        listed.iter().all(|it| it["trust"]["kind"] == "unsigned"),
        "{listed:?}"
    );
}
