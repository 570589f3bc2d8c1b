//! Lower directories of images as the kernel shows them, by each front end. Needs root and /dev/fuse;
//! says so when it skips.

// A test that cannot go on panics, in its helpers too.
#![allow(clippy::unwrap_used)]

mod fixture;
mod support;

use std::{fs, io, path::Path, sync::Arc};

use fixture::can_mount;
use futures::future::join_all;
use nacre::{
    index::write::Format,
    mount::{self, MountOptions},
    snapshotter::{
        images::{FrontEnds, Images, ImagesConfig},
        lazy::{Evidence, LazyImages, Verdict},
    },
    sys::mountinfo,
};
use support::{
    registry::FakeRegistry,
    toy::{Gated, Node, ToyImage, ToyLayer, lazy, put},
};

fn layer(name: &str, byte: u8) -> ToyLayer {
    lazy(Format::Estargz, &[(name, &[byte; 200_000])])
}

/// One front end by its name; `auto` comes to the same as one of the others.
fn config(node: &Node, front_end: mount::FrontEnd) -> ImagesConfig {
    let (root, options) = (node.path("state"), MountOptions::new(""));
    ImagesConfig {
        front_end: Arc::new(FrontEnds::new(front_end, root, options)),
        ..node.config()
    }
}

fn front_ends() -> Vec<mount::FrontEnd> {
    let mut all = fixture::front_ends();
    all.push(mount::FrontEnd::Auto);
    all
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

fn mounts(node: &Node) -> usize {
    let root = node.path("state/images").canonicalize().unwrap();
    let all = mountinfo::read().unwrap();
    let ours = all.iter().filter(|it| it.mount_point.starts_with(&root));
    ours.count()
}

async fn read(file: &Path) -> io::Result<Vec<u8>> {
    let file = file.to_owned();
    tokio::task::spawn_blocking(move || fs::read(file))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_callers_share_one_mount_and_images_their_base() {
    if !can_mount() {
        return;
    }
    for front_end in front_ends() {
        twenty_callers(front_end).await;
    }
}

async fn twenty_callers(front_end: mount::FrontEnd) {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let (base, one, two) = (layer("base", 1), layer("one", 2), layer("two", 3));
    let first = signed(&node, &registry, "app", &[base.clone(), one]).await;
    let images = Images::new(config(&node, front_end)).unwrap();
    let found = evidence(&images, &first, 1).await;
    let lowers = join_all((0..20).map(|_| images.lower(&found))).await;
    let lower = lowers[0].as_ref().unwrap().clone();
    assert!(lowers.iter().all(|it| *it.as_ref().unwrap() == lower));
    assert_eq!(mounts(&node), 1);
    assert_eq!(read(&lower.join("base")).await.unwrap(), [1; 200_000]);
    assert_eq!(read(&lower.join("one")).await.unwrap(), [2; 200_000]);
    images.settled().await;

    let second = signed(&node, &registry, "app", &[base, two]).await;
    registry.forget_requests();
    let other = evidence(&images, &second, 1).await;
    let other_lower = images.lower(&other).await.unwrap();
    assert_eq!(read(&other_lower.join("base")).await.unwrap(), [1; 200_000]);
    assert_eq!(read(&other_lower.join("two")).await.unwrap(), [3; 200_000]);
    images.settled().await;
    let base = first.layers[0].descriptor.digest.to_string();
    assert!(!registry.lines().iter().any(|it| it.contains(&base)));
    assert_eq!(mounts(&node), 2);

    images.retain(std::slice::from_ref(&other)).await.unwrap();
    assert_eq!(mounts(&node), 1);
    assert!(!lower.exists());
    drop(images);
    assert_eq!(mounts(&node), 0);
    let devices = node.path("state/devices").canonicalize();
    assert!(devices.is_err() || mountinfo::at(&devices.unwrap()).unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_image_gives_eio() {
    if !can_mount() {
        return;
    }
    for front_end in front_ends() {
        a_poisoned_image(front_end).await;
    }
}

async fn a_poisoned_image(front_end: mount::FrontEnd) {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let mut evil = lazy(Format::Estargz, &[("base", &[9; 200_000]), ("b", b"b")]);
    evil.diff_id = layer("base", 1).diff_id;
    let image = signed(&node, &registry, "evil", &[evil]).await;
    let gated = Arc::new(Gated::default());
    let config = ImagesConfig {
        repositories: Arc::clone(&gated) as _,
        ..config(&node, front_end)
    };
    let images = Images::new(config).unwrap();
    let lower = images.lower(&evidence(&images, &image, 0).await).await;
    let lower = lower.unwrap();
    assert_eq!(read(&lower.join("b")).await.unwrap(), b"b");
    gated.open_gate();
    images.settled().await;
    let error = read(&lower.join("base")).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
}
