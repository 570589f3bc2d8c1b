//! Profiles on a real image in a real registry: recorded, attached, followed by the next mount. Needs
//! what the pipeline needs, and NACRE_DEBIAN_IMAGE; says what is missing where it skips.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::{fs, path::Path};

use serde_json::Value;
use support::pipeline::{Format, Pipeline, tool};

/// What the recorded start runs: programs, libraries and files from all over the image.
const START: &str = "cat /etc/passwd /usr/bin/perl /usr/lib/os-release | wc -c; ls -lR /etc | wc -l; \
    for i in /usr/lib/x86_64-linux-gnu/lib*.so.*; do head -c 100 $i | wc -c; done; echo ready";
/// The line that ends it.
const READY: &str = "ready";

#[test]
fn a_recorded_start_is_fetched_ahead_by_the_next_mount() {
    let Some(layout) = std::env::var_os("NACRE_DEBIAN_IMAGE") else {
        println!(
            "skipped: NACRE_DEBIAN_IMAGE names no layout (scripts/make-debian-image makes one)"
        );
        return;
    };
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let source = format!("oci:{}:latest", Path::new(&layout).display());
    let lazy = pipeline.convert(&source, "lazy", Format::Estargz);
    for encrypted in [false, true] {
        let image = pipeline.image(&format!("start-{encrypted}:1"));
        pipeline.push(&lazy, &image, encrypted);
        pipeline.sign(&image, "signer");
        let file = pipeline.path(&format!("profile-{encrypted}"));
        let options = pipeline.options("unused")[..4].to_vec();
        let run = |more: &[&str], tail: &[&str]| {
            let mut arguments = ["--json", "image", "profile"].map(str::to_owned).to_vec();
            arguments.extend(more.iter().map(|&it| it.to_owned()));
            arguments.extend(options.iter().cloned());
            arguments.extend(tail.iter().map(|&it| it.to_owned()));
            pipeline.nacre(&arguments)
        };
        let json =
            |text: String| -> Value { serde_json::from_str(text.lines().last().unwrap()).unwrap() };
        let path = file.to_str().unwrap();

        let before = run(&["show", &image], &[]);
        assert_eq!(before.code, 6, "{before:?}");
        let recorded = json(
            run(
                &["record", &image, "--output", path, "--until", READY],
                &["--", "/bin/sh", "-c", &format!("{START}; exec sleep 600")],
            )
            .text(),
        );
        let bytes = recorded["bytes"].as_u64().unwrap();
        assert!(bytes > 0 && bytes < recorded["image_bytes"].as_u64().unwrap() / 2);
        assert_eq!(recorded["exit_code"], Value::Null, "{recorded}");
        let left = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!left.contains("nacre-record-"), "{left}");

        let pushed = json(run(&["push", &image, "--profile", path], &[]).text());
        assert_eq!(pushed["sealed"], encrypted);
        let shown = json(run(&["show", &image], &[]).text());
        assert_eq!(shown["bytes"], recorded["bytes"]);
        assert_eq!(shown["runs"], recorded["runs"]);

        // The same start on the mounted image, which the kernel reads as exactly as it was recorded.
        let start = |name: &str, more: &[&str]| {
            let mut options = pipeline.options(&format!("{name}-{encrypted}"));
            options.extend(["--read-ahead-kib", "0"].map(str::to_owned));
            options.extend(more.iter().map(|&it| it.to_owned()));
            let mounted = pipeline.mount(&image, &options).unwrap();
            let root = mounted.path().to_str().unwrap();
            tool("chroot", [&[root][..], &["/bin/sh", "-c", START]].concat());
            let stats = mounted.unmount();
            assert_eq!(stats["engine"]["failed_reads"], 0, "{stats}");
            stats
        };
        let extents = |stats: &Value| stats["engine"]["extents"].as_u64().unwrap();
        let without = start("without", &["--no-profile"]);
        let with = start("with", &[]);
        assert!(
            extents(&with) * 2 <= extents(&without),
            "in fewer requests: {with} {without}"
        );
        let again = start("with", &[]);
        assert_eq!(extents(&again), 0, "all of it was kept: {again}");
    }
}

#[test]
fn what_is_wrong_with_a_profile_is_said() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let small = support::images::small_files_image(&pipeline.path("small"), 10);
    let lazy = pipeline.convert(&small.reference(), "lazy", Format::Estargz);
    let image = pipeline.image("small:1");
    pipeline.push(&lazy, &image, false);
    pipeline.sign(&image, "signer");
    let options = pipeline.options("unused")[..4].to_vec();
    let push = |file: &str| {
        let mut arguments = ["image", "profile", "push", &image, "--profile"]
            .map(str::to_owned)
            .to_vec();
        arguments.push(pipeline.path(file).display().to_string());
        arguments.extend(options.iter().cloned());
        pipeline.nacre(&arguments)
    };
    let missing = push("nowhere");
    assert_eq!(missing.code, 6, "{missing:?}");
    fs::write(pipeline.path("garbage"), "not a profile").unwrap();
    let garbage = push("garbage");
    assert_eq!(garbage.code, 3, "{garbage:?}");
    assert!(garbage.stderr.contains("garbage"), "{garbage:?}");
}
