//! Images behind the snapshotter, against a registry in this process and a front end in memory:
//! who is admitted, what is lazy, what is fetched how often, what a restart needs, what a planted
//! chain id meets.

// A test that cannot go on panics, in its helpers too.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use nacre::{
    Error, Kind,
    engine::BackgroundConfig,
    index::write::Format,
    oci::{Descriptor, Digest, Platform, media_type},
    open::IndexKind,
    snapshotter::{
        images::{Confirm, Images, ImagesConfig, Ordinary},
        lazy::{Evidence, LazyImages, Verdict},
    },
    trust::{AuditLog, TagHistory, Watch},
};
use support::{
    pipeline::tool,
    program::run,
    registry::{FakeRegistry, Fault},
    toy::{Gated, Node, ToyImage, ToyLayer, gzipped, lazy, ordinary, put},
};

fn base() -> ToyLayer {
    lazy(Format::Estargz, &[("base", &[b'b'; 5000]), ("low", b"low")])
}

fn top() -> ToyLayer {
    lazy(Format::ZstdChunked, &[("top", &[b't'; 3000])])
}

async fn signed(node: &Node, registry: &FakeRegistry, name: &str, of: &[ToyLayer]) -> ToyImage {
    let image = put(registry, name, of);
    node.sign(&image.reference, &image.manifest.digest).await;
    image
}

async fn evidence(images: &Images, image: &ToyImage, number: usize) -> Evidence {
    match images.layer(&image.request(number)).await.unwrap() {
        Verdict::Lazy(evidence) => evidence,
        Verdict::Unpack { why } => panic!("not lazy: {why}"),
    }
}

/// Images whose ordinary layers containerd unpacks.
fn unpacking(node: &Node) -> Images {
    let config = ImagesConfig {
        ordinary: Ordinary::Unpack,
        ..node.config()
    };
    Images::new(config).unwrap()
}

async fn why_unpacked(images: &Images, image: &ToyImage, number: usize) -> String {
    match images.layer(&image.request(number)).await.unwrap() {
        Verdict::Lazy(evidence) => panic!("lazy: {evidence:?}"),
        Verdict::Unpack { why } => why,
    }
}

async fn refused(images: &Images, image: &ToyImage, number: usize) -> Error {
    let error = images.layer(&image.request(number)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    error
}

fn asked(registry: &FakeRegistry, digest: &Digest) -> usize {
    let digest = digest.to_string();
    let lines = registry.lines();
    lines
        .iter()
        .filter(|it| it.starts_with("GET") && it.contains(&digest) && !it.contains("/referrers/"))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_admitted_and_opened_once() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = signed(&node, &registry, "app", &[base(), top()]).await;
    registry.forget_requests();
    let images = node.images();
    let requests: Vec<_> = (0..20).map(|n| image.request(n % 2)).collect();
    for verdict in join_all(requests.iter().map(|it| images.layer(it))).await {
        assert!(matches!(verdict.unwrap(), Verdict::Lazy(_)));
    }
    images.settled().await;
    assert_eq!(asked(&registry, &image.manifest.digest), 1);
    assert_eq!(images.snapshot().admitted, 1);
    assert_eq!(images.snapshot().confirmed, 2);

    let found = evidence(&images, &image, 1).await;
    assert_eq!(found.layer_number, 1);
    assert_eq!(found.class, "plain+signed");
    assert_eq!(found.manifest, image.manifest.digest);
    let lower = images.lower(&found).await.unwrap();
    assert_eq!(node.front_end.names(&lower), ["base", "low", "top"]);
    assert_eq!(
        node.front_end.read(&lower, "top").unwrap(),
        [b't'; 3000][..]
    );
    assert_eq!(
        node.front_end.read(&lower, "base").unwrap(),
        [b'b'; 5000][..]
    );
    let (inodes, bytes) = images.usage(&found);
    assert!(inodes >= 1 && bytes > 0);

    let below = evidence(&images, &image, 0).await;
    let lower = images.lower(&below).await.unwrap();
    assert_eq!(node.front_end.names(&lower), ["base", "low"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_callers_share_one_mount() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = signed(&node, &registry, "app", &[base(), top()]).await;
    let images = node.images();
    let found = evidence(&images, &image, 1).await;
    let lowers = join_all((0..20).map(|_| images.lower(&found))).await;
    let first = lowers[0].as_ref().unwrap();
    assert!(lowers.iter().all(|it| it.as_ref().unwrap() == first));
    assert_eq!(*node.front_end.mounts.lock().unwrap(), 1);
    assert_eq!(images.snapshot().mounts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_share_the_index_and_chunks_of_their_base() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let (one, two) = (lazy(Format::Estargz, &[("x", b"1")]), top());
    let first = signed(&node, &registry, "app", &[base(), one]).await;
    let mut config = node.config();
    config.confirm = Confirm::Never;
    let images = Images::new(config).unwrap();
    let read = async |image: &ToyImage| {
        let lower = images.lower(&evidence(&images, image, 1).await).await;
        let lower = lower.unwrap();
        assert_eq!(
            node.front_end.read(&lower, "base").unwrap(),
            [b'b'; 5000][..]
        );
    };
    read(&first).await;
    let base_digest = &first.layers[0].descriptor.digest;
    assert!(asked(&registry, base_digest) > 0);

    let second = signed(&node, &registry, "app", &[base(), two]).await;
    registry.forget_requests();
    read(&second).await;
    assert_eq!(asked(&registry, base_digest), 0);
    assert!(asked(&registry, &second.layers[1].descriptor.digest) > 0);
    assert_eq!(images.snapshot().mounts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_mended_by_a_signature_and_a_grant_ends_with_its_policy() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = put(&registry, "app", &[base(), top()]);
    let images = node.images();
    let error = refused(&images, &image, 0).await;
    assert!(
        error.to_string().contains("a signature is required"),
        "{error}"
    );
    assert_eq!(images.snapshot().refused, 1);
    let layers = image.layers.iter().map(|it| &it.descriptor.digest);
    assert_eq!(layers.map(|it| asked(&registry, it)).sum::<usize>(), 0);

    node.sign(&image.reference, &image.manifest.digest).await;
    let found = evidence(&images, &image, 1).await;
    images.lower(&found).await.unwrap();

    node.policy("reject");
    refused(&images, &image, 1).await;
    let error = images.lower(&found).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    fs::remove_file(node.path("policy.json")).unwrap();
    images.lower(&found).await.unwrap_err();
    images.layer(&image.request(0)).await.unwrap_err();
    node.policy("sigstoreSigned");
    images.lower(&found).await.unwrap();
    assert_eq!(*node.front_end.mounts.lock().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_on_the_index_admits_the_manifest_that_containerd_names() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = put(&registry, "app", &[base()]);
    let mut entry = image.manifest.clone();
    entry.platform = Some(Platform::host());
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry],
    });
    let kind = media_type::OCI_INDEX;
    let index: Descriptor = registry.put_manifest("app", "1", kind, index.to_string());
    node.sign(&image.reference, &index.digest).await;
    let images = node.images();
    let found = evidence(&images, &image, 0).await;
    assert_eq!(found.manifest, image.manifest.digest);
    let mut request = image.request(0);
    for digest in [Some(index.digest.clone()), None] {
        request.manifest_digest = digest;
        let verdict = images.layer(&request).await.unwrap();
        assert_eq!(verdict, Verdict::Lazy(found.clone()));
    }
    // Somebody else's digest does not come in by that tag.
    request.manifest_digest = Some(put(&registry, "other", &[top()]).manifest.digest);
    images.layer(&request).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn image_rs_defect_7_chain_ids_tell_repeated_layers_apart() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let (a, b) = (base(), lazy(Format::Estargz, &[(".wh.base", b"")]));
    let image = signed(&node, &registry, "app", &[a.clone(), b, a]).await;
    let images = node.images();
    for number in 0..3 {
        let found = evidence(&images, &image, number).await;
        assert_eq!(usize::from(found.layer_number), number);
        let lower = images.lower(&found).await.unwrap();
        let expected: &[&str] = if number == 1 {
            &["low"]
        } else {
            &["base", "low"]
        };
        assert_eq!(node.front_end.names(&lower), expected, "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_id_that_is_not_the_images_is_refused() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = signed(&node, &registry, "app", &[base(), top()]).await;
    let images = node.images();
    let mut request = image.request(0);
    request.chain_id = Digest::sha256(b"of another image").to_string();
    let error = images.layer(&request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    let mut request = image.request(0);
    request.layer_digest = image.layers[1].descriptor.digest.clone();
    let error = images.layer(&request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    // Nor does evidence of another image open this one.
    let found = evidence(&images, &image, 1).await;
    let mut forged = found.clone();
    forged.diff_id = Digest::sha256(b"x");
    let error = images.lower(&forged).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn above_an_unpacked_layer_all_are_unpacked() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let plain = ordinary(&[("plain", b"plain")]);
    let image = signed(&node, &registry, "app", &[base(), plain, top()]).await;
    let images = unpacking(&node);
    let found = evidence(&images, &image, 0).await;
    let why = why_unpacked(&images, &image, 1).await;
    assert!(
        why.contains("no index") && why.contains("snapshotter.ordinary"),
        "{why}"
    );
    let why = why_unpacked(&images, &image, 2).await;
    assert!(why.contains("above one that is unpacked"), "{why}");
    let lower = images.lower(&found).await.unwrap();
    assert_eq!(node.front_end.names(&lower), ["base", "low"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_layers_are_lazy_by_an_attached_index_that_is_signed() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let plain = ordinary(&[("plain", &[b'p'; 9000])]);
    let image = signed(&node, &registry, "app", &[base(), plain, top()]).await;
    let home = tempfile::tempdir().unwrap();
    let anything = ["--insecure-policy", "accept-anything"];
    let words = [
        &["--json", "image", "index", &image.reference][..],
        &anything,
    ]
    .concat();
    let made = run(home.path(), words).json();
    let index: Digest = made["index"].as_str().unwrap().parse().unwrap();
    // Nobody vouches for it.
    let images = unpacking(&node);
    let why = why_unpacked(&images, &image, 1).await;
    assert!(why.contains("no index"), "{why}");
    images.settled().await;
    drop(images);

    node.sign(&image.reference, &index).await;
    let images = node.images();
    let found = evidence(&images, &image, 1).await;
    assert_eq!(found.index, Some(index));
    let lower = images
        .lower(&evidence(&images, &image, 2).await)
        .await
        .unwrap();
    assert_eq!(
        node.front_end.names(&lower),
        ["base", "low", "plain", "top"]
    );
    assert_eq!(
        node.front_end.read(&lower, "plain").unwrap(),
        [b'p'; 9000][..]
    );
    // It is held against the whole layer like any other.
    images.settled().await;
    let snapshot = images.snapshot();
    assert_eq!((snapshot.confirmed, snapshot.poisoned), (3, 0));
    drop(images);
    // After a restart it still is.
    let images = node.images();
    let lower = images.lower(&found).await.unwrap();
    assert_eq!(node.front_end.names(&lower), ["base", "low", "plain"]);
}

/// Bytes that the registry was asked for of a blob: of ranges, and how often of all of it.
fn ranges_and_wholes(registry: &FakeRegistry, digest: &Digest) -> (usize, usize) {
    let digest = digest.to_string();
    let seen = registry.requests();
    let of_blob = seen
        .iter()
        .filter(|it| it.line.starts_with("GET") && it.line.contains(&digest));
    let (ranges, wholes): (Vec<_>, Vec<_>) = of_blob.partition(|it| it.range.is_some());
    (ranges.len(), wholes.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_layers_are_read_whole_once_and_lazily_from_then_on() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    // Whoever signed it, or nobody: the DiffID tells.
    node.policy("insecureAcceptAnything");
    let large: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let lower = gzipped(&[("large", &large), ("small", &[b's'; 5000])]);
    let image = put(&registry, "app", &[lower, gzipped(&[("top", b"top")])]);
    let blob = &image.layers[0].descriptor.digest;
    let images = node.images();
    let found = evidence(&images, &image, 0).await;
    assert_eq!(found.index, None);
    let top = evidence(&images, &image, 1).await;
    let lower = images.lower(&top).await.unwrap();
    assert_eq!(node.front_end.names(&lower), ["large", "small", "top"]);
    assert_eq!(node.front_end.read(&lower, "large").unwrap(), large);
    images.settled().await;
    assert_eq!(ranges_and_wholes(&registry, blob), (0, 1));
    assert_eq!(
        images.snapshot().confirmed,
        0,
        "there was nothing to confirm"
    );
    let report = &images.images()[0];
    assert_eq!(report.indexes, [IndexKind::Kept; 2]);
    assert_eq!(images.mounts()[0].indexes, [IndexKind::Kept; 2]);
    assert!(images.mounts()[0].fetched >= image.layers[0].descriptor.size);
    drop(images);
    // A layer is not kept as a document besides.
    for file in files(&node.path("state")) {
        assert!(
            file.metadata().unwrap().len() < 100_000,
            "{}",
            file.display()
        );
    }

    // The chunks are gone, the index is not.
    for file in files(&node.path("store")) {
        fs::remove_file(file).unwrap();
    }
    registry.forget_requests();
    let images = node.images();
    let again = evidence(&images, &image, 1).await;
    assert_eq!(again, top);
    let lower = images.lower(&again).await.unwrap();
    assert_eq!(
        node.front_end.read(&lower, "small").unwrap(),
        [b's'; 5000][..]
    );
    let (ranges, wholes) = ranges_and_wholes(&registry, blob);
    assert!(ranges > 0 && wholes == 0, "{:#?}", registry.lines());
    // Nor is it needed any more while the image is mounted.
    for file in files(&node.path("indexes")) {
        fs::remove_file(file).unwrap();
    }
    assert_eq!(node.front_end.read(&lower, "large").unwrap(), large);
    assert_eq!(ranges_and_wholes(&registry, blob).1, 0);
    drop(images);

    // Without it the layer is read whole again, and whoever was there before stays lazy, although
    // others are unpacked now.
    let images = unpacking(&node);
    let lower = images.lower(&top).await.unwrap();
    assert_eq!(node.front_end.read(&lower, "top").unwrap(), b"top"[..]);
    assert_eq!(ranges_and_wholes(&registry, blob).1, 1);
    let other = put(&registry, "other", &[gzipped(&[("other", b"other")])]);
    let why = why_unpacked(&images, &other, 0).await;
    assert!(why.contains("snapshotter.ordinary"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_layer_that_is_not_what_its_image_claims_is_refused() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let mut evil = gzipped(&[("base", b"evil")]);
    evil.diff_id = base().diff_id;
    let image = signed(&node, &registry, "evil", &[evil]).await;
    let images = node.images();
    let error = images.layer(&image.request(0)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("its image claims"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_no_index_can_describe_is_unpacked() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    // One zstd frame of more than 64 MiB cannot be entered.
    let tar = support::toy::tar(&[("large", &vec![0; 70 << 20])]);
    let blob = zstd::bulk::compress(&tar, 1).unwrap();
    let large = ToyLayer {
        descriptor: Descriptor::of("application/vnd.oci.image.layer.v1.tar+zstd", &blob),
        blob: blob.into(),
        diff_id: Digest::sha256(&tar),
    };
    let small = gzipped(&[("small", b"small")]);
    let image = signed(
        &node,
        &registry,
        "app",
        &[base(), small.clone(), large, small],
    )
    .await;
    let images = node.images();
    let found = evidence(&images, &image, 1).await;
    let why = why_unpacked(&images, &image, 2).await;
    assert!(why.contains("cannot be read in parts"), "{why}");
    let why = why_unpacked(&images, &image, 3).await;
    assert!(why.contains("above one that is unpacked"), "{why}");
    let lower = images.lower(&found).await.unwrap();
    assert_eq!(node.front_end.names(&lower), ["base", "low", "small"]);
}

/// A layer of which SOCI made an index, and that zTOC.
fn soci_layer() -> (ToyLayer, Vec<u8>) {
    let data = |name: &str| {
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/index");
        fs::read(std::path::Path::new(data).join(name)).unwrap()
    };
    let blob = data("layer.tar.gz");
    let mut tar = Vec::new();
    let mut decoder = flate2::read::MultiGzDecoder::new(&blob[..]);
    std::io::Read::read_to_end(&mut decoder, &mut tar).unwrap();
    let layer = ToyLayer {
        descriptor: Descriptor::of(media_type::OCI_LAYER_GZIP, &blob),
        blob: blob.into(),
        diff_id: Digest::sha256(&tar),
    };
    (layer, data("layer.ztoc"))
}

/// Puts SOCI's index of an image's lowest layer; of version 1 it refers to the image.
fn put_soci(
    registry: &FakeRegistry,
    name: &str,
    layer: &Digest,
    of: Option<&Descriptor>,
) -> Digest {
    let (_, ztoc) = soci_layer();
    let version = if of.is_some() { "v1" } else { "v2" };
    let mut ztoc = serde_json::to_value(registry.put_blob(name, ztoc)).unwrap();
    ztoc["annotations"] =
        serde_json::json!({ "com.amazon.soci.image-layer-digest": layer.to_string() });
    let mut config = serde_json::to_value(registry.put_blob(name, "{}")).unwrap();
    config["mediaType"] = format!("application/vnd.amazon.soci.index.{version}+json").into();
    let mut index = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": config, "layers": [ztoc],
    });
    if let Some(subject) = of {
        index["subject"] = serde_json::to_value(subject).unwrap();
    }
    let kind = media_type::OCI_MANIFEST;
    let put = registry.put_manifest(name, &format!("soci-{version}"), kind, index.to_string());
    put.digest
}

#[tokio::test(flavor = "multi_thread")]
async fn socis_index_makes_layers_lazy_and_is_confirmed() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let (layer, _) = soci_layer();
    let (blob, size) = (layer.descriptor.digest.clone(), layer.descriptor.size);
    let whole = |registry: &FakeRegistry| ranges_and_wholes(registry, &blob).1;
    // Version 2, which the manifest names.
    let mut image = put(&registry, "app", std::slice::from_ref(&layer));
    let index = put_soci(&registry, "app", &blob, None);
    let (_, manifest) = support::toy::documents(std::slice::from_ref(&layer));
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    manifest["annotations"] =
        serde_json::json!({ "com.amazon.soci.index-digest": index.to_string() });
    let kind = media_type::OCI_MANIFEST;
    image.manifest = registry.put_manifest("app", "1", kind, manifest.to_string());
    node.sign(&image.reference, &image.manifest.digest).await;
    let gated = Arc::new(Gated::default());
    let config = ImagesConfig {
        repositories: Arc::clone(&gated) as _,
        ..node.config()
    };
    let images = Images::new(config).unwrap();
    let found = evidence(&images, &image, 0).await;
    assert_eq!(found.index, Some(index));
    assert_eq!(images.images()[0].indexes, [IndexKind::Soci]);
    let lower = images.lower(&found).await.unwrap();
    let hello = node.front_end.read(&lower, "etc/hello").unwrap();
    assert_eq!(hello.len(), 12);
    assert_eq!(
        node.front_end.read(&lower, "usr/noise").unwrap().len(),
        9000
    );
    assert_eq!(whole(&registry), 0, "{:#?}", registry.lines());
    gated.open_gate();
    images.settled().await;
    let snapshot = images.snapshot();
    assert_eq!((snapshot.confirmed, snapshot.poisoned), (1, 0));
    drop(images);
    // After a restart it still is.
    let images = node.images();
    let lower = images.lower(&found).await.unwrap();
    assert_eq!(node.front_end.read(&lower, "etc/hello").unwrap(), hello);
    drop(images);

    // Version 1 is anybody's word, unless the policy puts up with that.
    let image = signed(&node, &registry, "first", std::slice::from_ref(&layer)).await;
    let index = put_soci(&registry, "first", &blob, Some(&image.manifest));
    let images = node.images();
    let found = evidence(&images, &image, 0).await;
    assert_eq!(found.index, None, "made here");
    images.lower(&found).await.unwrap();
    assert_eq!(images.images()[0].indexes, [IndexKind::Kept]);
    drop(images);
    let signed_by = serde_json::json!({
        "type": "sigstoreSigned", "keyPath": node.path("key.pub"),
        "signedIdentity": { "type": "matchRepository" },
    });
    let allowed = serde_json::json!({ "type": "nacreAllowUnsignedLayerIndex" });
    let policy = serde_json::json!({ "default": [signed_by, allowed] });
    fs::write(node.path("policy.json"), policy.to_string()).unwrap();
    let images = node.images();
    let found = evidence(&images, &image, 0).await;
    assert_eq!(found.index, Some(index));
    let lower = images.lower(&found).await.unwrap();
    assert_eq!(node.front_end.read(&lower, "etc/hello").unwrap(), hello);
    images.settled().await;
    assert_eq!(images.snapshot().poisoned, 0);
    assert!(size > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_soci_that_lies_is_found_and_then_passed_over() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let (layer, _) = soci_layer();
    // The same blob under the DiffID of another: the index is of it, and says nothing of that.
    let lie = ToyLayer {
        diff_id: base().diff_id,
        ..layer.clone()
    };
    let mut image = put(&registry, "lie", std::slice::from_ref(&lie));
    let index = put_soci(&registry, "lie", &layer.descriptor.digest, None);
    let (_, manifest) = support::toy::documents(std::slice::from_ref(&lie));
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    manifest["annotations"] =
        serde_json::json!({ "com.amazon.soci.index-digest": index.to_string() });
    let kind = media_type::OCI_MANIFEST;
    image.manifest = registry.put_manifest("lie", "1", kind, manifest.to_string());
    node.sign(&image.reference, &image.manifest.digest).await;
    let images = node.images();
    let found = evidence(&images, &image, 0).await;
    let lower = images.lower(&found).await;
    images.settled().await;
    assert_eq!(images.snapshot().poisoned, 1);
    if let Ok(lower) = lower {
        let error = node.front_end.read(&lower, "etc/hello").unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    }
    drop(images);
    // Then it is read whole, and refused for what it is.
    let images = node.images();
    let error = images.layer(&image.request(0)).await.unwrap_err();
    assert!(error.to_string().contains("its image claims"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn small_layers_at_the_top_are_unpacked() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let noise: Vec<u8> = (0..200_000u32)
        .flat_map(|n| Digest::sha256(&n.to_le_bytes()).hex().into_bytes())
        .take(200_000)
        .collect();
    let big = lazy(Format::Estargz, &[("big", &noise)]);
    let image = signed(&node, &registry, "app", &[base(), big, top()]).await;
    let config = ImagesConfig {
        min_lazy_bytes: 20_000,
        ..node.config()
    };
    let images = Images::new(config).unwrap();
    evidence(&images, &image, 0).await;
    evidence(&images, &image, 1).await;
    let why = why_unpacked(&images, &image, 2).await;
    assert!(why.contains("at least 20000"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unsigned_images_wait_for_their_confirmation() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    node.policy("insecureAcceptAnything");
    let image = put(&registry, "app", &[base(), top()]);
    let open = |confirm| {
        let config = ImagesConfig {
            confirm,
            ..node.config()
        };
        Images::new(config).unwrap()
    };
    let images = open(Confirm::Trusted);
    let why = why_unpacked(&images, &image, 0).await;
    assert!(why.contains("not signed, and not confirmed"), "{why}");
    drop(images);

    let images = open(Confirm::Never);
    evidence(&images, &image, 1).await;
    images.settled().await;
    assert_eq!(images.snapshot().confirmed, 0);
    drop(images);

    let images = open(Confirm::Always);
    for number in 0..2 {
        evidence(&images, &image, number).await;
    }
    assert_eq!(images.snapshot().confirmed, 2);
    drop(images);

    // What has been confirmed stays so.
    let images = open(Confirm::Trusted);
    let found = evidence(&images, &image, 1).await;
    images.lower(&found).await.unwrap();
}

/// An image whose configuration gives its layer the DiffID of another image's.
async fn planted(node: &Node, registry: &FakeRegistry) -> ToyImage {
    let mut evil = lazy(Format::Estargz, &[("base", b"evil")]);
    evil.diff_id = base().diff_id;
    signed(node, registry, "evil", &[evil]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_chain_id_is_found_and_fails_closed() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let evil = planted(&node, &registry).await;
    let good = signed(&node, &registry, "good", &[base()]).await;
    assert_eq!(evil.chain_id(0), good.chain_id(0));
    let images = node.images();
    // Signed, so it is lazy before it has been confirmed; mounted while confirmation is stuck.
    let evil_layer = &evil.layers[0].descriptor.digest;
    let found = evidence(&images, &evil, 0).await;
    let lower = images.lower(&found).await;
    images.settled().await;
    assert_eq!(images.snapshot().poisoned, 1);
    if let Ok(lower) = lower {
        let error = node.front_end.read(&lower, "base").unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains("poisoned"), "{error}");
    }
    let error = refused(&images, &evil, 0).await;
    assert!(
        error.to_string().contains(&evil_layer.to_string()),
        "{error}"
    );
    let error = images.lower(&found).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    // The image that it wanted to be taken for is as good as ever.
    let own = images.lower(&evidence(&images, &good, 0).await).await;
    let own = own.unwrap();
    assert_eq!(node.front_end.read(&own, "base").unwrap(), [b'b'; 5000][..]);
    drop(images);

    let images = node.images();
    refused(&images, &evil, 0).await;
    images.lower(&found).await.unwrap_err();
    // Under `always` it is not even used once.
    let other = Node::new();
    let evil = planted(&other, &registry).await;
    let config = ImagesConfig {
        confirm: Confirm::Always,
        ..other.config()
    };
    refused(&Images::new(config).unwrap(), &evil, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_under_way_fail_once_the_layer_is_poisoned() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let evil = planted(&node, &registry).await;
    let gated = Arc::new(Gated::default());
    let config = ImagesConfig {
        repositories: Arc::clone(&gated) as _,
        ..node.config()
    };
    let images = Images::new(config).unwrap();
    let found = evidence(&images, &evil, 0).await;
    let lower = images.lower(&found).await.unwrap();
    assert_eq!(node.front_end.read(&lower, "base").unwrap(), "evil");
    gated.open_gate();
    images.settled().await;
    let error = node.front_end.read(&lower, "base").unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_the_registry_serves_what_is_kept() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = signed(&node, &registry, "app", &[base(), top()]).await;
    let config = node.config();
    let store = Arc::clone(&config.store);
    let images = Images::new(config).unwrap();
    let found = evidence(&images, &image, 1).await;
    let lower = images.lower(&found).await.unwrap();
    node.front_end.read(&lower, "base").unwrap();
    images.settled().await;
    drop(images);
    store.flush();
    drop(store);
    assert_eq!(node.front_end.count(), 0);
    drop(registry);

    let images = node.images();
    images.adopt(std::slice::from_ref(&found)).await.unwrap();
    let lower = images.lower(&found).await.unwrap();
    assert_eq!(node.front_end.names(&lower), ["base", "low", "top"]);
    assert_eq!(
        node.front_end.read(&lower, "base").unwrap(),
        [b'b'; 5000][..]
    );
    // The policy decides on what is kept.
    node.policy("reject");
    let error = images.lower(&found).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_image_is_read_without_the_registry() {
    // By confirmation, which reads all layers and keeps them, and without it.
    for confirm in [Confirm::Trusted, Confirm::Never] {
        let (node, registry) = (Node::new(), FakeRegistry::start().await);
        let image = signed(&node, &registry, "app", &[base(), top()]).await;
        let config = ImagesConfig {
            confirm,
            complete: Some(BackgroundConfig {
                after: Duration::ZERO,
                at_once: Duration::ZERO,
                ..BackgroundConfig::RECOMMENDED
            }),
            ..node.config()
        };
        let store = Arc::clone(&config.store);
        let images = Images::new(config).unwrap();
        let lower = images.lower(&evidence(&images, &image, 1).await).await;
        let lower = lower.unwrap();
        images.settled().await;
        while store.snapshot().disk_bytes < 5000 + 3 + 3000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let completed = images.counts().engines.numbers.rest_bytes;
        assert_eq!(completed == 0, confirm == Confirm::Trusted, "{completed}");
        drop(registry);
        let read = node.front_end.read(&lower, "base").unwrap();
        assert_eq!(read, [b'b'; 5000][..]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_goes_back_is_refused_and_what_ran_goes_on() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let log = node.path("audit.jsonl");
    let open = || {
        let watch = Watch {
            audit: Some(Arc::new(AuditLog::open(&log).unwrap())),
            tags: Some(Arc::new(TagHistory::open(&node.path("tags.json")).unwrap())),
        };
        let config = ImagesConfig {
            watch,
            ..node.config()
        };
        Images::new(config).unwrap()
    };
    let images = open();
    let old = signed(&node, &registry, "app", &[base()]).await;
    let ran = evidence(&images, &old, 0).await;
    images.lower(&ran).await.unwrap();
    let new = signed(&node, &registry, "app", &[base(), top()]).await;
    assert_eq!(old.reference, new.reference);
    evidence(&images, &new, 1).await;
    images.settled().await;
    drop(images);

    // The registry offers the old image again, signed as it was.
    put(&registry, "app", &[base()]);
    let images = open();
    let error = refused(&images, &old, 0).await;
    assert!(error.to_string().contains("gone back"), "{error}");
    // A container of it that outlived the daemon is none of the registry's choices.
    images.adopt(std::slice::from_ref(&ran)).await.unwrap();
    let lower = images.lower(&ran).await.unwrap();
    assert_eq!(node.front_end.names(&lower), ["base", "low"]);
    images.settled().await;

    let text = fs::read_to_string(&log).unwrap();
    let decisions: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| line["decision"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(decisions.first().unwrap(), "granted");
    assert!(decisions.contains(&"refused".to_owned()), "{decisions:?}");
    assert_eq!(decisions.last().unwrap(), "granted");
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_bytes_that_were_tampered_with_are_fetched_again() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = signed(&node, &registry, "app", &[base(), top()]).await;
    let images = node.images();
    let found = evidence(&images, &image, 1).await;
    images.settled().await;
    drop(images);
    let mut flipped = 0;
    for kind in ["ranges", "manifests", "blobs"] {
        for file in files(&node.path("state/kept").join(kind)) {
            let mut bytes = fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&file, bytes).unwrap();
            flipped += 1;
        }
    }
    assert!(flipped >= 4, "{flipped}");
    let images = node.images();
    images.lower(&found).await.unwrap();
}

fn files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|it| it.unwrap().path())
        .flat_map(|it| if it.is_dir() { files(&it) } else { vec![it] })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_snapshot_names_is_taken_away() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let first = signed(&node, &registry, "app", &[base(), top()]).await;
    let second = signed(&node, &registry, "other", &[base()]).await;
    let images = node.images();
    let mut all = Vec::new();
    for image in [&first, &second] {
        let found = evidence(&images, image, 0).await;
        images.lower(&found).await.unwrap();
        all.push(found);
    }
    images.settled().await;
    images.retain(&all).await.unwrap();
    assert_eq!(images.snapshot().mounts, 2);
    images.retain(&all[1..]).await.unwrap();
    assert_eq!(images.snapshot().mounts, 1);
    assert_eq!(fs::read_dir(node.path("state/images")).unwrap().count(), 1);
    registry.fail_always("/v2/", &Fault::Status(404));
    images.lower(&all[1]).await.unwrap();
    images.retain(&[]).await.unwrap();
    assert_eq!(images.snapshot().mounts, 0);
    assert!(files(&node.path("state/kept")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_key_is_missing_is_refused_until_it_is_there() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        println!("skipped: skopeo is not installed (scripts/install-peers)");
        return;
    }
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let (private, public) = (node.path("layer.pem"), node.path("layer.pub"));
    let path = |it: &std::path::Path| it.to_str().unwrap().to_owned();
    tool("openssl", ["genrsa", "-out", &path(&private), "2048"]);
    let input = ["rsa", "-in", &path(&private), "-pubout", "-out"];
    tool("openssl", input.iter().copied().chain([&*path(&public)]));
    let image = encrypted(&node, &registry, &public, base());
    node.sign(&image.reference, &image.manifest.digest).await;

    let mut config = node.config();
    config
        .keys
        .add_decryption_key(&path(&node.path("given.pem")))
        .unwrap();
    let (other, _) = (node.path("other.pem"), ());
    tool("openssl", ["genrsa", "-out", &path(&other), "2048"]);
    fs::copy(&other, node.path("given.pem")).unwrap();
    let images = Images::new(config).unwrap();
    let error = refused(&images, &image, 0).await;
    let layer = image.layers[0].descriptor.digest.to_string();
    assert!(error.to_string().contains(&layer), "{error}");
    fs::copy(&private, node.path("given.pem")).unwrap();
    let found = evidence(&images, &image, 0).await;
    assert_eq!(found.class, "encrypted+signed");
    let lower = images.lower(&found).await.unwrap();
    assert_eq!(
        node.front_end.read(&lower, "base").unwrap(),
        [b'b'; 5000][..]
    );
    images.settled().await;
    assert_eq!(images.snapshot().confirmed, 1);
    // Nothing of the plaintext is on disk.
    drop(images);
    for file in files(node.directory.path()) {
        let bytes = fs::read(&file).unwrap();
        let plain = bytes.windows(64).any(|it| it == [b'b'; 64]);
        assert!(!plain, "{}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_provider_that_hangs_or_dies_holds_up_its_own_image_alone() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        println!("skipped: skopeo is not installed (scripts/install-peers)");
        return;
    }
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let (private, public) = (node.path("layer.pem"), node.path("layer.pub"));
    let path = |it: &std::path::Path| it.to_str().unwrap().to_owned();
    tool("openssl", ["genrsa", "-out", &path(&private), "2048"]);
    let input = ["rsa", "-in", &path(&private), "-pubout", "-out"];
    tool("openssl", input.iter().copied().chain([&*path(&public)]));
    let fine = encrypted(&node, &registry, &public, base());
    node.sign(&fine.reference, &fine.manifest.digest).await;

    // Two whose keys only a provider has: one never answers, one dies.
    let mut providers = serde_json::Map::new();
    let mut others = Vec::new();
    for (name, body) in [("hung", "exec sleep 3600"), ("dead", "kill -KILL $$")] {
        let script = node.path(name);
        fs::write(&script, body).unwrap();
        let command = serde_json::json!({"cmd": {"path": "/bin/sh", "args": [script]}});
        providers.insert(name.into(), command);
        let mut layer = fine.layers[0].clone();
        let annotations = &mut layer.descriptor.annotations;
        let packet = annotations.remove("org.opencontainers.image.enc.keys.jwe");
        let by_provider = format!("org.opencontainers.image.enc.keys.provider.{name}");
        annotations.insert(by_provider, packet.unwrap());
        let image = put(&registry, name, &[layer]);
        node.sign(&image.reference, &image.manifest.digest).await;
        others.push(image);
    }
    let mut config = node.config();
    let given = serde_json::json!({ "key-providers": providers }).to_string();
    fs::write(node.path("providers.json"), given).unwrap();
    config.keys.keyprovider_config = Some(node.path("providers.json"));
    config.keys.deadline = Duration::from_secs(3);
    config.keys.add_decryption_key(&path(&private)).unwrap();
    let images = Images::new(config).unwrap();
    let ask = async |image: &ToyImage| {
        let begin = Instant::now();
        (images.layer(&image.request(0)).await, begin.elapsed())
    };
    let (hung, dead, ours) = tokio::join!(ask(&others[0]), ask(&others[1]), ask(&fine));
    assert!(matches!(ours.0.unwrap(), Verdict::Lazy(_)));
    assert!(ours.1 < hung.1, "{:?} waited for the other", ours.1);
    assert!(hung.1 >= Duration::from_secs(3) && hung.1 < Duration::from_secs(60));
    for (result, name, said) in [(hung.0, "hung", "within 3 s"), (dead.0, "dead", "died")] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        let (text, provider) = (error.to_string(), format!("key provider {name:?}"));
        assert!(text.contains(&provider) && text.contains(said), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_layer_without_an_index_is_read_whole_once() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        println!("skipped: skopeo is not installed (scripts/install-peers)");
        return;
    }
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let (private, public) = (node.path("layer.pem"), node.path("layer.pub"));
    let path = |it: &std::path::Path| it.to_str().unwrap().to_owned();
    tool("openssl", ["genrsa", "-out", &path(&private), "2048"]);
    let input = ["rsa", "-in", &path(&private), "-pubout", "-out"];
    tool("openssl", input.iter().copied().chain([&*path(&public)]));
    let large = vec![b'l'; 9 << 20];
    let layer = gzipped(&[("large", &large), ("small", &[b's'; 5000])]);
    let image = encrypted(&node, &registry, &public, layer);
    let config = || {
        let mut config = node.config();
        let key = path(&private);
        config.keys.add_decryption_key(&key).unwrap();
        config
    };
    for signed in [false, true] {
        if signed {
            node.sign(&image.reference, &image.manifest.digest).await;
            node.policy("sigstoreSigned");
        } else {
            node.policy("insecureAcceptAnything");
        }
        registry.forget_requests();
        let images = Images::new(config()).unwrap();
        let found = evidence(&images, &image, 0).await;
        assert_eq!(found.index, None);
        let lower = images.lower(&found).await.unwrap();
        assert_eq!(
            node.front_end.read(&lower, "small").unwrap(),
            [b's'; 5000][..]
        );
        assert_eq!(node.front_end.read(&lower, "large").unwrap(), large);
        images.settled().await;
        // Whole at the first time, which confirms it; later it is known.
        let blob = &image.layers[0].descriptor.digest;
        let (asks, confirmed) = (asked(&registry, blob), images.snapshot().confirmed);
        assert_eq!((asks, confirmed), (usize::from(!signed), 0));
        drop(images);
    }
    // The chunks are gone, the index is not.
    for file in files(&node.path("store")) {
        fs::remove_file(file).unwrap();
    }
    registry.forget_requests();
    let images = Images::new(config()).unwrap();
    let found = evidence(&images, &image, 0).await;
    let lower = images.lower(&found).await.unwrap();
    assert_eq!(
        node.front_end.read(&lower, "small").unwrap(),
        [b's'; 5000][..]
    );
    let seen = registry.requests();
    let ranges = seen.iter().filter(|it| it.range.is_some()).count();
    assert!(ranges > 0, "{:#?}", registry.lines());
    drop(images);
    for file in files(node.directory.path()) {
        let bytes = fs::read(&file).unwrap();
        let plain = bytes
            .windows(64)
            .any(|it| it == [b's'; 64] || it == [b'l'; 64]);
        assert!(!plain, "{}", file.display());
    }
}

/// skopeo compresses a layer that is not, encrypts that, and wraps the digest of what it was before.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_skopeo_compressed_before_it_encrypted_it_is_read_and_decrypted() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        println!("skipped: skopeo is not installed (scripts/install-peers)");
        return;
    }
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    node.policy("insecureAcceptAnything");
    let (private, public) = (node.path("layer.pem"), node.path("layer.pub"));
    let path = |it: &std::path::Path| it.to_str().unwrap().to_owned();
    tool("openssl", ["genrsa", "-out", &path(&private), "2048"]);
    let input = ["rsa", "-in", &path(&private), "-pubout", "-out"];
    tool("openssl", input.iter().copied().chain([&*path(&public)]));
    let tar = ordinary(&[("large", &[b'l'; 300_000]), ("small", b"small")]);
    let image = encrypted(&node, &registry, &public, tar.clone());
    let layer = &image.layers[0];
    assert!(
        layer.descriptor.media_type.ends_with("tar+gzip+encrypted"),
        "{}",
        layer.descriptor.media_type
    );
    assert_eq!(layer.diff_id, tar.descriptor.digest);
    let mut config = node.config();
    config.keys.add_decryption_key(&path(&private)).unwrap();
    let images = Images::new(config).unwrap();
    let lower = images.lower(&evidence(&images, &image, 0).await).await;
    let lower = lower.unwrap();
    assert_eq!(node.front_end.read(&lower, "small").unwrap(), b"small"[..]);

    // Decrypted it has the digest that it has, even where a blob of the other is.
    registry.put_blob("secret", tar.blob.clone());
    let plain = registry.reference("secret", "plain");
    let words = [
        "--json",
        "image",
        "decrypt",
        &image.reference,
        &plain,
        "--decryption-key",
        &path(&private),
    ];
    let made = run(node.directory.path(), words).json();
    let digest: Digest = made["layers"][0]["to"].as_str().unwrap().parse().unwrap();
    assert_ne!(digest, tar.descriptor.digest);
    let blob = registry.blob("secret", &digest).unwrap();
    let mut decoded = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(&blob[..]);
    std::io::Read::read_to_end(&mut decoder, &mut decoded).unwrap();
    assert!(decoded == tar.blob);
}

/// An image of one layer, encrypted by skopeo.
fn encrypted(
    node: &Node,
    registry: &FakeRegistry,
    key: &std::path::Path,
    layer: ToyLayer,
) -> ToyImage {
    let (config, manifest) = support::toy::documents(std::slice::from_ref(&layer));
    let (plain, secret) = (tempfile::tempdir().unwrap(), node.path("secret"));
    let blobs = plain.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    for bytes in [&config[..], &manifest, &layer.blob] {
        fs::write(blobs.join(Digest::sha256(bytes).hex()), bytes).unwrap();
    }
    let entry = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry] });
    fs::write(plain.path().join("index.json"), index.to_string()).unwrap();
    let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
    fs::write(plain.path().join("oci-layout"), version).unwrap();
    tool(
        "skopeo",
        [
            "copy".to_owned(),
            "--encryption-key".into(),
            format!("jwe:{}", key.display()),
            format!("oci:{}", plain.path().display()),
            format!("oci:{}:x", secret.display()),
        ],
    );
    let index = fs::read(secret.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let read = |digest: &str| fs::read(secret.join("blobs").join(digest.replace(':', "/")));
    let manifest = read(digest).unwrap();
    let parsed: nacre::oci::Manifest = serde_json::from_slice(&manifest).unwrap();
    registry.put_blob("secret", read(&parsed.config.digest.to_string()).unwrap());
    let descriptor = parsed.layers[0].clone();
    let blob = read(&descriptor.digest.to_string()).unwrap();
    registry.put_blob("secret", blob.clone());
    let kind = media_type::OCI_MANIFEST;
    let manifest = registry.put_manifest("secret", "1", kind, manifest);
    fs::remove_dir_all(secret).unwrap();
    ToyImage {
        reference: registry.reference("secret", "1"),
        manifest,
        layers: vec![ToyLayer {
            blob: blob.into(),
            descriptor,
            diff_id: layer.diff_id,
        }],
    }
}
