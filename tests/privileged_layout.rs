//! Images in layout directories, without a registry: what a conversion leaves as it was, and mounting
//! and unpacking under a policy's scopes for layouts. Needs root, /dev/fuse and umoci; says which is
//! missing where it skips.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    fs,
    path::{Path, PathBuf},
};

mod support;

use support::{
    images::{LayoutImage, odd_image},
    pipeline::{Format, Pipeline},
    tree_compare::{assert_same, compare, compare_except},
};

/// The table of contents that eStargz has as a file of the layer.
const TOC: &str = "stargz.index.json";

/// A policy that admits the layouts below a directory, and nothing else.
fn policy_for(pipeline: &Pipeline, directory: &Path) -> PathBuf {
    let file = pipeline.path("layouts.json");
    let policy = serde_json::json!({
        "default": [{ "type": "reject" }],
        "transports": { "oci": {
            (directory.display().to_string()): [{ "type": "insecureAcceptAnything" }],
        } },
    });
    fs::write(&file, policy.to_string()).unwrap();
    file
}

fn pull(pipeline: &Pipeline, image: &str, policy: &Path, name: &str) -> PathBuf {
    let bundle = pipeline.path(name);
    let (directory, policy) = (bundle.to_str().unwrap(), policy.to_str().unwrap());
    pipeline
        .nacre(["pull", image, directory, "--policy", policy])
        .ok();
    bundle.join("rootfs")
}

/// Unpacks the image and its conversions by umoci, where it can, and by `nacre pull`.
fn unpacks_the_same(pipeline: &Pipeline, image: &LayoutImage) {
    let policy = pipeline.path("any.json");
    let any = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
    fs::write(&policy, any).unwrap();
    let original = pipeline.unpack(&image.reference(), "original");
    let pulled = pull(pipeline, &image.reference(), &policy, "pulled");
    assert_same(&compare(&original, &pulled));

    let estargz = pipeline.convert(&image.reference(), "estargz", Format::Estargz);
    let unpacked = pipeline.unpack(&estargz, "estargz-unpacked");
    assert!(unpacked.join(TOC).exists());
    assert_same(&compare_except(&original, &unpacked, &[TOC]));
    let pulled = pull(pipeline, &estargz, &policy, "estargz-pulled");
    assert_same(&compare(&unpacked, &pulled));

    // umoci 0.4 reads no zstd.
    let zstd = pipeline.convert(&image.reference(), "zstd", Format::ZstdChunked);
    let pulled = pull(pipeline, &zstd, &policy, "zstd-pulled");
    assert_same(&compare(&original, &pulled));
}

#[test]
fn privileged_conversions_unpack_as_the_original() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let odd = odd_image(&pipeline.path("odd"));
    unpacks_the_same(&pipeline, &odd);
}

#[test]
fn privileged_conversions_of_the_debian_image() {
    let Some(layout) = std::env::var_os("NACRE_DEBIAN_IMAGE").map(PathBuf::from) else {
        println!("skipped: NACRE_DEBIAN_IMAGE names no image (scripts/make-debian-image)");
        return;
    };
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let tag = "latest".into();
    unpacks_the_same(&pipeline, &LayoutImage { layout, tag });
}

#[test]
fn privileged_layouts_are_mounted_under_their_scopes() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let odd = odd_image(&pipeline.path("odd"));
    let original = pipeline.unpack(&odd.reference(), "original");
    let policy = policy_for(&pipeline, &pipeline.path("allowed"));
    let options = |store: &str| {
        [
            "--policy".to_owned(),
            policy.display().to_string(),
            "--store".into(),
            pipeline.path(store).display().to_string(),
        ]
    };
    for format in [Format::Estargz, Format::ZstdChunked] {
        let allowed = pipeline.convert(
            &odd.reference(),
            &format!("allowed/{}", format.name()),
            format,
        );
        let mounted = pipeline.mount(&allowed, &options(format.name())).unwrap();
        assert_same(&compare(&original, mounted.path()));
        let stats = mounted.unmount();
        assert_eq!(stats["engine"]["failed_reads"], 0, "{stats}");

        // The same image at another place is refused before anything is made of it.
        let name = format!("elsewhere-{}", format.name());
        let elsewhere = pipeline.convert(&odd.reference(), &name, format);
        let refused = pipeline
            .mount(&elsewhere, &options("untouched"))
            .err()
            .unwrap();
        refused.failed(4, &[&elsewhere, "reject"]);
        let bundle = pipeline.path("refused");
        let (directory, file) = (bundle.to_str().unwrap(), policy.to_str().unwrap());
        pipeline
            .nacre(["pull", &elsewhere, directory, "--policy", file])
            .failed(4, &[&elsewhere, "reject"]);
        assert!(!bundle.exists());
        pull(
            &pipeline,
            &allowed,
            &policy,
            &format!("pulled-{}", format.name()),
        );
    }
}
