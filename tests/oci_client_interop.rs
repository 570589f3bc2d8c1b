//! An independent client, `oci-client`, against ours: each reads what the other pushed
//! (docs/decisions/0002-registry-client.md).

// A test that cannot go on panics, in its helpers too.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use futures::TryStreamExt;
use nacre::{
    oci::{Descriptor, Digest, Document, Location, RawManifest, RegistryReference, media_type},
    source::{
        BlobContent, Repository, RepositoryWriter, read_verified,
        registry::{Client, Options},
    },
};
use oci_client::{
    Reference,
    client::{BlobResponse, ClientConfig, ClientProtocol, Config, ImageLayer},
    manifest::{OciDescriptor, OciImageManifest},
    secrets::RegistryAuth,
};
use std::sync::Arc;
use support::{docker_registry::DockerRegistry, registry::FakeRegistry};

const CONFIG: &[u8] =
    br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;

fn theirs() -> oci_client::Client {
    oci_client::Client::new(ClientConfig {
        protocol: ClientProtocol::Http,
        ..ClientConfig::default()
    })
}

fn writer(reference: &str) -> Arc<dyn RepositoryWriter> {
    let reference: RegistryReference = reference.parse().unwrap();
    let client = Client::new(Options::default()).unwrap();
    client.writer(&reference).unwrap()
}

fn reader(reference: &str) -> Arc<dyn Repository> {
    let reference: RegistryReference = reference.parse().unwrap();
    let client = Client::new(Options::default()).unwrap();
    client.repository(&reference).unwrap()
}

/// Two layers of different sizes.
fn layers() -> [Bytes; 2] {
    [300_000_u32, 5].map(|numbers| (0..numbers).flat_map(u32::to_le_bytes).collect())
}

async fn put(writer: &dyn RepositoryWriter, kind: &str, bytes: &Bytes) -> Descriptor {
    let descriptor = Descriptor::of(kind, bytes);
    let content = BlobContent::Bytes(bytes.clone());
    writer.put_blob(&descriptor, content).await.unwrap();
    descriptor
}

#[tokio::test]
async fn it_reads_what_we_pushed() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let name = format!("{}/ours/app:v1", registry.host());
    let writer = writer(&name);
    let [large, small] = layers();
    let config = put(
        &*writer,
        media_type::OCI_CONFIG,
        &Bytes::from_static(CONFIG),
    )
    .await;
    let descriptors = [
        put(&*writer, media_type::OCI_LAYER_GZIP, &large).await,
        put(&*writer, media_type::OCI_LAYER_GZIP, &small).await,
    ];
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": config, "layers": descriptors});
    let bytes = Bytes::from(serde_json::to_vec(&manifest).unwrap());
    let raw = RawManifest::new(media_type::OCI_MANIFEST, bytes.clone());
    let location = Location::Tag("v1".into());
    writer.put_manifest(&location, &raw).await.unwrap();

    let (client, reference) = (theirs(), name.parse::<Reference>().unwrap());
    let (found, digest) = client
        .pull_manifest_raw(
            &reference,
            &RegistryAuth::Anonymous,
            &[media_type::OCI_MANIFEST],
        )
        .await
        .unwrap();
    assert_eq!(found, bytes);
    assert_eq!(digest, raw.digest.to_string());
    let accepted = vec![media_type::OCI_LAYER_GZIP];
    let image = client
        .pull(&reference, &RegistryAuth::Anonymous, accepted)
        .await
        .unwrap();
    assert_eq!(image.config.data, CONFIG);
    let mut sizes: Vec<usize> = image.layers.iter().map(|layer| layer.data.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [small.len(), large.len()]);
    assert!(image.layers.iter().any(|layer| layer.data == large));

    let layer = OciDescriptor {
        digest: descriptors[0].digest.to_string(),
        ..OciDescriptor::default()
    };
    let part = client
        .pull_blob_stream_partial(&reference, &layer, 1001, Some(70_000))
        .await
        .unwrap();
    let BlobResponse::Partial(stream) = part else {
        panic!("the registry serves ranges");
    };
    let pieces: Vec<Bytes> = stream.stream.try_collect().await.unwrap();
    let pieces = pieces.concat();
    assert!(pieces.len() >= 70_000, "{} bytes", pieces.len());
    assert!(
        large[1001..].starts_with(&pieces),
        "a range of what we pushed"
    );
}

/// Pushes an image of two layers by the other client; gives its manifest.
async fn push(name: &str) -> OciImageManifest {
    let layers = layers().map(|layer| ImageLayer::oci_v1_gzip(layer, None));
    let config = Config::oci_v1(CONFIG, None);
    let mut manifest = OciImageManifest::build(&layers, &config, None);
    manifest.media_type = Some(media_type::OCI_MANIFEST.into());
    let reference = name.parse::<Reference>().unwrap();
    theirs()
        .push(
            &reference,
            &layers,
            config,
            &RegistryAuth::Anonymous,
            Some(manifest.clone()),
        )
        .await
        .unwrap();
    manifest
}

async fn read_back(repository: &dyn Repository, pushed: &OciImageManifest) -> Digest {
    let location = Location::Tag("v1".into());
    let raw = repository.manifest(&location).await.unwrap();
    let Ok(Document::Manifest(manifest)) = raw.parse() else {
        panic!("an image");
    };
    assert_eq!(manifest.config.digest.to_string(), pushed.config.digest);
    let config = read_verified(repository, &manifest.config, 1 << 20).await;
    assert_eq!(config.unwrap(), CONFIG);
    assert_eq!(manifest.layers.len(), 2);
    for (descriptor, bytes) in manifest.layers.iter().zip(layers()) {
        let blob = repository.blob(descriptor);
        let (size, third) = (bytes.len() as u64, bytes.len() / 3);
        assert_eq!(descriptor.size, size);
        let tail = blob.read_at(third as u64..size).await.unwrap();
        assert!(tail == bytes[third..]);
        let whole = read_verified(repository, descriptor, 4 << 20)
            .await
            .unwrap();
        assert!(whole == bytes);
    }
    raw.digest
}

#[tokio::test]
async fn we_read_what_it_pushed() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let name = format!("{}/theirs/app:v1", registry.host());
    let pushed = push(&name).await;
    read_back(&*reader(&name), &pushed).await;
}

/// docker-registry 2.8 has no referrers API, so this is against the fake one.
#[tokio::test]
async fn referrers_are_the_same_on_both_sides() {
    let registry = FakeRegistry::start().await;
    let name = registry.reference("theirs/app", "v1");
    let pushed = push(&name).await;
    let repository = reader(&name);
    let subject = read_back(&*repository, &pushed).await;
    assert!(repository.referrers(&subject).await.unwrap().is_empty());

    let config = Config::new(&b"{}"[..], "application/vnd.test.theirs".into(), None);
    let mut signature = OciImageManifest::build(&[], &config, None);
    signature.media_type = Some(media_type::OCI_MANIFEST.into());
    signature.artifact_type = Some("application/vnd.test.theirs".into());
    signature.subject = Some(OciDescriptor {
        media_type: media_type::OCI_MANIFEST.into(),
        digest: subject.to_string(),
        size: 1,
        ..OciDescriptor::default()
    });
    let tagged = registry.reference("theirs/app", "signature");
    theirs()
        .push(
            &tagged.parse().unwrap(),
            &[],
            config,
            &RegistryAuth::Anonymous,
            Some(signature),
        )
        .await
        .unwrap();
    let found = repository.referrers(&subject).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].artifact_type.as_deref(),
        Some("application/vnd.test.theirs")
    );
    let by_digest = Location::Digest(found[0].digest.clone());
    repository.manifest(&by_digest).await.unwrap();

    // Ours, listed by the other client.
    let ours = serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "artifactType": "application/vnd.test.ours",
        "config": Descriptor::of("application/vnd.oci.empty.v1+json", b"{}"), "layers": [],
        "subject": {"mediaType": media_type::OCI_MANIFEST, "digest": subject, "size": 1}});
    let raw = RawManifest::new(
        media_type::OCI_MANIFEST,
        serde_json::to_vec(&ours).unwrap().into(),
    );
    let location = Location::Digest(raw.digest.clone());
    writer(&name).put_manifest(&location, &raw).await.unwrap();
    let by_digest = format!("{}/theirs/app@{subject}", registry.host());
    let listed = theirs()
        .pull_referrers(&by_digest.parse().unwrap(), None)
        .await
        .unwrap();
    let digests: Vec<String> = listed.manifests.into_iter().map(|m| m.digest).collect();
    assert_eq!(digests.len(), 2);
    assert!(digests.contains(&raw.digest.to_string()));
}
