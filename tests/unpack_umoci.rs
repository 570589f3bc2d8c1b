//! What `bundle::unpack` makes of an image equals what `umoci unpack` makes of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nacre::{
    bundle::{self, Layer, RuntimeOptions},
    oci::{Descriptor, ImageConfig, Manifest, media_type},
    source::MemoryBlob,
};

mod support;

use support::{
    images::{LayoutImage, odd_image, small_files_image},
    tree_compare::{assert_same, compare},
};

/// Why this machine cannot compare with umoci.
fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("unpacking device nodes and owners needs root");
    }
    let umoci = Command::new("umoci").arg("--version").output();
    if umoci.is_err() {
        return Some("umoci is not installed (scripts/install-peers)");
    }
    None
}

fn blob(layout: &Path, descriptor: &Descriptor) -> Vec<u8> {
    std::fs::read(layout.join("blobs/sha256").join(descriptor.digest.hex())).unwrap()
}

fn read_layout(image: &LayoutImage) -> (Vec<Layer>, ImageConfig, u64) {
    #[derive(serde::Deserialize)]
    struct Index {
        manifests: Vec<Descriptor>,
    }
    let index = std::fs::read(image.layout.join("index.json")).unwrap();
    let index: Index = serde_json::from_slice(&index).unwrap();
    let manifest = blob(&image.layout, &index.manifests[0]);
    let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
    let config: ImageConfig =
        serde_json::from_slice(&blob(&image.layout, &manifest.config)).unwrap();
    let layers = manifest
        .layers
        .iter()
        .zip(&config.rootfs.diff_ids)
        .map(|(descriptor, diff_id)| Layer {
            digest: descriptor.digest.clone(),
            kind: media_type::layer_kind(&descriptor.media_type).unwrap(),
            diff_id: diff_id.clone(),
            source: Arc::new(MemoryBlob::new(blob(&image.layout, descriptor).into())),
        })
        .collect();
    let bytes = manifest.layers.iter().map(|layer| layer.size).sum();
    (layers, config, bytes)
}

/// Unpacks both ways and compares.
fn same_as_umoci(image: &LayoutImage, base: &Path) {
    let theirs = base.join("umoci");
    let output = Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:{}", image.layout.display(), image.tag))
        .arg(&theirs)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "umoci: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let ours = base.join("nacre");
    let (layers, config, size) = read_layout(image);
    let seen = AtomicU64::new(0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime
        .block_on(bundle::create(
            layers,
            config,
            &ours,
            RuntimeOptions::default(),
            |bytes| {
                seen.fetch_add(bytes, Ordering::Relaxed);
            },
        ))
        .unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), size);
    let mut left: Vec<_> = std::fs::read_dir(&ours)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["config.json", "rootfs"]);
    assert_same(&compare(&theirs.join("rootfs"), &ours.join("rootfs")));
}

/// The bundle runs: Python starts with the image's environment, as process 1 of its own.
fn runs(bundle: &Path) {
    if Command::new("runc").arg("--version").output().is_err() {
        println!("skipped: runc is not installed (scripts/install-peers)");
        return;
    }
    let file = bundle.join("config.json");
    let text = std::fs::read(&file).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(config["process"]["args"], serde_json::json!(["python3"]));
    let program = "import os; print(os.getpid(), os.environ['LANG'], os.environ['HOME'])";
    config["process"]["args"] = serde_json::json!(["python3", "-c", program]);
    std::fs::write(&file, config.to_string()).unwrap();
    let name = format!("nacre-test-{}", std::process::id());
    let output = Command::new("runc")
        .arg("--root")
        .arg(bundle.join("state"))
        .args(["run", "--bundle"])
        .arg(bundle)
        .arg(name)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "runc: {errors}");
    assert_eq!(output.stdout, b"1 C.UTF-8 /root\n");
}

#[test]
fn privileged_odd_image_equals_umoci() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let image = odd_image(&base.path().join("image"));
    same_as_umoci(&image, base.path());
}

#[test]
fn privileged_small_files_equal_umoci() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let image = small_files_image(&base.path().join("image"), 5_000);
    same_as_umoci(&image, base.path());
}

#[test]
fn privileged_debian_image_equals_umoci() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let Some(layout) = std::env::var_os("NACRE_DEBIAN_IMAGE").map(PathBuf::from) else {
        println!("skipped: NACRE_DEBIAN_IMAGE names no image (scripts/make-debian-image)");
        return;
    };
    let base = tempfile::tempdir().unwrap();
    let image = LayoutImage {
        layout,
        tag: "latest".into(),
    };
    same_as_umoci(&image, base.path());
    runs(&base.path().join("nacre"));
}
