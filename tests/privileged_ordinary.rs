//! Images that nobody made lazy: the first mount reads them whole, the next ones read lazily even if
//! their chunks are gone. Images that skopeo pushed or encrypted, in Debian's docker-registry, compared
//! with what umoci unpacks. Needs root, /dev/fuse, docker-registry, skopeo, umoci, openssl; says which
//! is missing where it skips.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use support::{
    images,
    ordinary::{tar, two_layers, words},
    pipeline::{MountedImage, Pipeline},
    tree_compare::{assert_same, compare},
};

/// Removes the chunks and leaves the indexes.
fn drop_chunks(store: &Path) {
    for entry in fs::read_dir(store).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::remove_file(path).unwrap();
        }
    }
}

fn kept_indexes(store: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.join("indexes")).unwrap();
    let mut all: Vec<_> = entries.map(|it| it.unwrap().path()).collect();
    all.sort();
    all
}

fn small_read(mounted: &MountedImage<'_>) {
    let content = fs::read(mounted.path().join("replaced")).unwrap();
    assert_eq!(content, b"in the upper layer");
}

#[test]
fn a_second_mount_is_lazy_after_the_chunks_are_gone() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let source = two_layers(&pipeline.path("two"));
    let unpacked = pipeline.unpack(&source.reference(), "unpacked");
    for encrypted in [false, true] {
        let image = pipeline.image(&format!("two-{encrypted}:1"));
        pipeline.push(&source.reference(), &image, encrypted);
        pipeline.sign(&image, "signer");
        let store = pipeline.path(&format!("store-{encrypted}"));
        let options = pipeline.options(&format!("store-{encrypted}"));

        let first = pipeline.mount(&image, &options).unwrap();
        assert_same(&compare(&unpacked, first.path()));
        let stats = first.unmount();
        let whole = stats["image_bytes"].as_u64().unwrap();
        assert!(stats["bytes"].as_u64().unwrap() >= whole, "{stats}");
        assert_eq!(
            stats["engine"]["extents"], 0,
            "all chunks landed in the store: {stats}"
        );
        assert_eq!(kept_indexes(&store).len(), 2);

        drop_chunks(&store);
        let second = pipeline.mount(&image, &options).unwrap();
        small_read(&second);
        let stats = second.unmount();
        let bytes = stats["bytes"].as_u64().unwrap();
        assert!(bytes * 10 < whole, "{bytes} of {whole} bytes: {stats}");

        // Read whole it still is what umoci unpacks, now through checkpoints.
        let third = pipeline.mount(&image, &options).unwrap();
        assert_same(&compare(&unpacked, third.path()));
        let stats = third.unmount();
        assert_eq!(stats["engine"]["failed_reads"], 0, "{stats}");
        assert!(stats["engine"]["extents"].as_u64().unwrap() > 1, "{stats}");
    }
}

#[test]
fn an_image_with_everything_equals_an_unpacked_one() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let odd = images::odd_image(&pipeline.path("odd"));
    let unpacked = pipeline.unpack(&odd.reference(), "unpacked");
    for encrypted in [false, true] {
        let image = pipeline.image(&format!("odd-{encrypted}:1"));
        pipeline.push(&odd.reference(), &image, encrypted);
        pipeline.sign(&image, "signer");
        let name = format!("store-{encrypted}");
        for _ in 0..2 {
            let mounted = pipeline.mount(&image, &pipeline.options(&name)).unwrap();
            assert_same(&compare(&unpacked, mounted.path()));
            let stats = mounted.unmount();
            assert_eq!(stats["engine"]["failed_reads"], 0, "{image}: {stats}");
            drop_chunks(&pipeline.path(&name));
        }
    }
}

#[test]
fn a_corrupt_index_is_dropped_and_made_again() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let source = two_layers(&pipeline.path("two"));
    for encrypted in [false, true] {
        let image = pipeline.image(&format!("two-{encrypted}:1"));
        pipeline.push(&source.reference(), &image, encrypted);
        pipeline.sign(&image, "signer");
        let store = pipeline.path(&format!("store-{encrypted}"));
        let options = pipeline.options(&format!("store-{encrypted}"));
        drop(pipeline.mount(&image, &options).unwrap().unmount());
        let indexes = kept_indexes(&store);
        for path in &indexes {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        }
        drop_chunks(&store);
        let again = pipeline.mount(&image, &options).unwrap();
        small_read(&again);
        let stats = again.unmount();
        let whole = stats["image_bytes"].as_u64().unwrap();
        assert!(
            stats["bytes"].as_u64().unwrap() >= whole,
            "read whole again: {stats}"
        );
        assert_eq!(kept_indexes(&store), indexes);
        let third = pipeline.mount(&image, &options).unwrap();
        small_read(&third);
        let stats = third.unmount();
        assert!(stats["bytes"].as_u64().unwrap() * 10 < whole, "{stats}");
    }
}

#[test]
fn a_layer_that_is_not_what_its_image_claims_is_refused() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let real = tar(&[("file", &words(300_000, 1))]);
    let other = tar(&[("file", &words(300_000, 2))]);
    // The configuration claims one tar, the blob is another.
    let blobs = [images::gzip(&other, 1)];
    let source = images::write_layout(&pipeline.path("lie"), &[real], &blobs);
    for encrypted in [false, true] {
        let image = pipeline.image(&format!("lie-{encrypted}:1"));
        pipeline.push(&source.reference(), &image, encrypted);
        pipeline.sign(&image, "signer");
        let name = format!("store-{encrypted}");
        let refused = pipeline
            .mount(&image, &pipeline.options(&name))
            .err()
            .unwrap();
        refused.failed(
            5,
            &[
                "its tar is sha256:",
                "its image claims sha256:",
                "layer sha256:",
            ],
        );
        assert!(kept_indexes(&pipeline.path(&name)).is_empty());
    }
}

#[test]
fn an_encrypted_image_that_nobody_signed_is_read_whole_once() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let source = two_layers(&pipeline.path("two"));
    let image = pipeline.image("unsigned:1");
    pipeline.push(&source.reference(), &image, true);
    let options = |key: &str, store: &str| -> Vec<String> {
        let path = |name: &str| pipeline.path(name).display().to_string();
        let key = path(key);
        let store = path(store);
        [
            "--insecure-policy",
            "accept-anything",
            "--decryption-key",
            &key,
            "--store",
            &store,
        ]
        .map(String::from)
        .into()
    };
    let good = options("layer.pem", "store");
    let unpacked = pipeline.unpack(&source.reference(), "unpacked");
    let first = pipeline.mount(&image, &good).unwrap();
    assert_same(&compare(&unpacked, first.path()));
    drop(first.unmount());
    drop_chunks(&pipeline.path("store"));
    let second = pipeline.mount(&image, &good).unwrap();
    small_read(&second);
    let stats = second.unmount();
    let whole = stats["image_bytes"].as_u64().unwrap();
    assert!(stats["bytes"].as_u64().unwrap() * 10 < whole, "{stats}");
    // What is kept is nothing to who has no key.
    let refused = pipeline.mount(&image, &options("other-layer.pem", "store"));
    assert_eq!(refused.err().unwrap().code, 4);
}
