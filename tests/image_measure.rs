//! `nacre image measure`: the tree's digest depends on files alone, and openssl verifies the signature.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod support;

use std::{path::Path, process::Command};

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

/// Root hashes are those that veritysetup computes of the devices.
#[tokio::test(flavor = "multi_thread")]
async fn root_hashes_are_those_of_veritysetup() {
    // Debian has it where only root looks.
    let places = [
        "/usr/sbin/veritysetup",
        "/sbin/veritysetup",
        "/usr/bin/veritysetup",
    ];
    let Some(veritysetup) = places.into_iter().find(|it| Path::new(it).exists()) else {
        println!("skipped: veritysetup is not installed");
        return;
    };
    let registry = FakeRegistry::start().await;
    // More blocks than one block has hashes of, a hole, and nothing at all.
    let large: Vec<u8> = (0..200 * 4096 + 5)
        .map(|n: u32| n.to_le_bytes()[1])
        .collect();
    let hole = vec![0; 3 << 20];
    let many: [(&str, &[u8]); 4] = [("a", b"first"), ("b", &large), ("c", &hole), ("d", b"")];
    for (name, files) in [
        ("many", &many[..]),
        ("one", &many[..1]),
        ("none", &many[3..]),
    ] {
        for salt in ["", "00ff10"] {
            let directory = tempfile::tempdir().unwrap();
            let path = |name: &str| directory.path().join(name).display().to_string();
            let export = path("export");
            let options = ["--export-erofs", &export, "--verity-salt", salt];
            let layer = lazy(Format::Estargz, files);
            let shown = measured(&registry, name, &[layer], &options);
            assert_eq!(shown["erofs"]["salt"], salt);
            for (device, file) in [("metadata", "metadata.erofs"), ("data", "data.img")] {
                let root = &shown["erofs"][device];
                let file = format!("{export}/{file}");
                let size = std::fs::metadata(&file).unwrap().len();
                assert_eq!(root["blocks"], size / 4096, "{name} {device}");
                let salt = if salt.is_empty() { "-" } else { salt };
                let ran = Command::new(veritysetup)
                    .args(["format", "--format=1", "--hash=sha256", "--salt", salt])
                    .args(["--data-block-size=4096", "--hash-block-size=4096"])
                    .args([&file, &path("tree")])
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&ran.stdout).into_owned();
                assert!(ran.status.success(), "{ran:?}");
                let line = said.lines().find(|line| line.starts_with("Root hash:"));
                let hash = line.unwrap().split_whitespace().last().unwrap();
                assert_eq!(root["root_hash"], hash, "{name} {device} {salt}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_hashes_tell_every_change() {
    let registry = FakeRegistry::start().await;
    let roots = |name: &str, files: &[(&str, &[u8])], more: &[&str]| {
        let shown = measured(&registry, name, &[lazy(Format::Estargz, files)], more);
        let root = |device: &str| shown["erofs"][device]["root_hash"].clone();
        (root("metadata"), root("data"))
    };
    let one = roots("one", &[("a", b"first")], &[]);
    assert_eq!(roots("again", &[("a", b"first")], &[]), one);
    // Content alone is in the data, names alone in the metadata.
    let content = roots("content", &[("a", b"other")], &[]);
    assert_eq!(content.0, one.0);
    assert_ne!(content.1, one.1);
    let name = roots("name", &[("b", b"first")], &[]);
    assert_ne!(name.0, one.0);
    assert_eq!(name.1, one.1);
    let salted = roots("one", &[("a", b"first")], &["--verity-salt", "01"]);
    assert!(salted.0 != one.0 && salted.1 != one.1);

    let image = put(
        &registry,
        "one",
        &[lazy(Format::Estargz, &[("a", b"first")])],
    );
    let home = tempfile::tempdir().unwrap();
    let measure = |more: &[&str]| {
        let words = [
            "image",
            "measure",
            &image.reference,
            "--insecure-policy",
            "accept-anything",
        ];
        run(home.path(), [&words, more].concat())
    };
    measure(&["--verity-salt", "x"]).failed(3, &["--verity-salt"]);
    measure(&["--verity-salt", &"00".repeat(257)]).failed(3, &["salt of 257 bytes: at most 256"]);
    let there = home.path().join("there");
    std::fs::create_dir(&there).unwrap();
    std::fs::write(there.join("data.img"), "kept").unwrap();
    let there = there.display().to_string();
    measure(&["--export-erofs", &there]).failed(10, &["data.img"]);
}
