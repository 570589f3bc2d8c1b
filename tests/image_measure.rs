//! `nacre image measure`: the tree's digest depends on files alone, and openssl verifies the signature.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod support;

use std::process::Command;

use nacre::{image::sign::generate, index::write::Format};
use serde_json::Value;

use self::support::{
    docker_registry::installed,
    program::run,
    registry::FakeRegistry,
    toy::{ToyLayer, lazy, put},
};

fn measured(registry: &FakeRegistry, name: &str, layers: &[ToyLayer], more: &[&str]) -> Value {
    let image = put(registry, name, layers);
    let home = tempfile::tempdir().unwrap();
    let mut arguments = vec!["--json", "image", "measure", image.reference.as_str()];
    arguments.extend(["--insecure-policy", "accept-anything"]);
    arguments.extend(more);
    let ran = run(home.path(), &arguments);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let value: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(value["manifest_digest"], image.manifest.digest.to_string());
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_alone_counts() {
    let registry = FakeRegistry::start().await;
    let large = vec![b'x'; 3 << 20];
    let files: [(&str, &[u8]); 2] = [("a", b"first"), ("b", &large)];
    let one = measured(&registry, "one", &[lazy(Format::Estargz, &files)], &[]);
    assert_eq!(one["entries"], 3);
    assert_eq!(one["file_bytes"], 5 + (3 << 20));
    let packed = lazy(Format::ZstdChunked, &files);
    let other = measured(&registry, "other", &[packed], &[]);
    assert_ne!(one["manifest_digest"], other["manifest_digest"]);
    assert_eq!(one["tree_digest"], other["tree_digest"]);
    let split = [
        lazy(Format::Estargz, &files[..1]),
        lazy(Format::ZstdChunked, &files[1..]),
    ];
    let split = measured(&registry, "split", &split, &[]);
    assert_eq!(one["tree_digest"], split["tree_digest"]);

    let mut changed = large.clone();
    changed[2 << 20] = b'y';
    let different: [[(&str, &[u8]); 2]; 3] = [
        [("a", b"first"), ("b", &changed)],
        [("a", b"first"), ("c", &large)],
        [("a", b"other"), ("b", &large)],
    ];
    for files in different {
        let other = measured(
            &registry,
            "different",
            &[lazy(Format::Estargz, &files)],
            &[],
        );
        assert_ne!(one["tree_digest"], other["tree_digest"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn measurements_are_signed_as_blobs_are() {
    if installed("openssl").is_none() {
        return;
    }
    let registry = FakeRegistry::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (private, public) = generate().unwrap();
    std::fs::write(path("key"), private.as_bytes()).unwrap();
    std::fs::write(path("key.pub"), public).unwrap();
    let file = path("measured.json");
    let options = ["--output", &file, "--key", &path("key")];
    let layer = lazy(Format::Estargz, &[("a", b"first")]);
    let shown = measured(&registry, "app", &[layer], &options);
    let written: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(written, shown);
    let decode = format!("openssl base64 -d -A -in {file}.sig -out {file}.der");
    let verify = format!(
        "openssl dgst -sha256 -verify {} -signature {file}.der {file}",
        path("key.pub")
    );
    let ran = Command::new("sh")
        .arg("-c")
        .arg(format!("{decode} && {verify}"))
        .output();
    let ran = ran.unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}
