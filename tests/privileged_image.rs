//! The whole way, on real input: images that skopeo encrypted, in Debian's docker-registry, mounted by
//! the `nacre` program and compared with what umoci unpacks. Needs root, /dev/fuse, docker-registry,
//! skopeo, umoci, openssl; says which is missing where it skips.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::{fs, path::Path};

use support::{
    images,
    pipeline::{Format, Pipeline, tool},
    tree_compare::{assert_same, compare},
};

const FORMATS: [Format; 2] = [Format::Estargz, Format::ZstdChunked];

#[test]
fn a_mounted_image_equals_an_unpacked_one() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let odd = images::odd_image(&pipeline.path("odd"));
    let unpacked = pipeline.unpack(&odd.reference(), "unpacked");
    for format in FORMATS {
        let lazy = pipeline.convert(&odd.reference(), format.name(), format);
        for encrypted in [false, true] {
            let name = format!("odd-{}-{encrypted}:1", format.name());
            let image = pipeline.image(&name);
            pipeline.push(&lazy, &image, encrypted);
            pipeline.sign(&image, "signer");
            let store = format!("store-{}-{encrypted}", format.name());
            let mounted = pipeline.mount(&image, &pipeline.options(&store)).unwrap();
            assert_same(&compare(&unpacked, mounted.path()));
            let stats = mounted.unmount();
            assert_eq!(stats["engine"]["failed_reads"], 0, "{image}: {stats}");

            // Again, from the store: the files' bytes do not cross the wire a second time.
            let again = pipeline.mount(&image, &pipeline.options(&store)).unwrap();
            assert_same(&compare(&unpacked, again.path()));
            let stats = again.unmount();
            assert_eq!(stats["engine"]["extents"], 0, "{image}: {stats}");
        }
    }
}

#[test]
fn the_eager_way_equals_an_unpacked_one() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let odd = images::odd_image(&pipeline.path("odd"));
    let unpacked = pipeline.unpack(&odd.reference(), "unpacked");
    let image = pipeline.image("odd:encrypted");
    pipeline.push(&odd.reference(), &image, true);
    pipeline.sign(&image, "signer");
    let bundle = pipeline.path("bundle");
    let mut arguments = vec!["pull".to_owned(), image, bundle.display().to_string()];
    arguments.extend(pipeline.options("unused").into_iter().take(4));
    pipeline.nacre(&arguments).ok();
    assert_same(&compare(&unpacked, &bundle.join("rootfs")));
    assert!(bundle.join("config.json").exists());
}

#[test]
fn fifty_thousand_files_equal_an_unpacked_image() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let small = images::small_files_image(&pipeline.path("small"), 50_000);
    let unpacked = pipeline.unpack(&small.reference(), "unpacked");
    let lazy = pipeline.convert(&small.reference(), "lazy", Format::Estargz);
    let image = pipeline.image("small:1");
    pipeline.push(&lazy, &image, true);
    pipeline.sign(&image, "signer");
    let mounted = pipeline.mount(&image, &pipeline.options("store")).unwrap();
    assert_same(&compare(&unpacked, mounted.path()));
    let stats = mounted.unmount();
    let requests = stats["requests"].as_u64().unwrap();
    assert!(
        requests < 5_000,
        "small files come many to a request: {requests}"
    );
}

#[test]
fn a_debian_image_equals_an_unpacked_one() {
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
    let unpacked = pipeline.unpack(&source, "unpacked");
    let lazy = pipeline.convert(&source, "lazy", Format::Estargz);
    let image = pipeline.image("debian:1");
    pipeline.push(&lazy, &image, true);
    pipeline.sign(&image, "signer");
    let mounted = pipeline.mount(&image, &pipeline.options("store")).unwrap();
    assert_same(&compare(&unpacked, mounted.path()));
}

#[test]
fn encrypted_and_plain_cost_the_same_requests_and_bytes() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let small = images::small_files_image(&pipeline.path("small"), 1_000);
    let lazy = pipeline.convert(&small.reference(), "lazy", Format::Estargz);
    let mut costs = Vec::new();
    for encrypted in [false, true] {
        let image = pipeline.image(&format!("same-{encrypted}:1"));
        pipeline.push(&lazy, &image, encrypted);
        pipeline.sign(&image, "signer");
        let store = format!("store-{encrypted}");
        let mounted = pipeline.mount(&image, &pipeline.options(&store)).unwrap();
        // One file after the other, each in one piece: what is fetched does not depend on timing.
        read_in_order(mounted.path());
        let engine = mounted.unmount()["engine"].clone();
        costs.push((engine["extents"].clone(), engine["extent_bytes"].clone()));
    }
    assert_eq!(costs[0], costs[1]);
    assert!(costs[0].0.as_u64().unwrap() > 1, "{costs:?}");
}

fn read_in_order(directory: &Path) {
    let mut paths: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|it| it.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        match path.is_dir() {
            true => read_in_order(&path),
            false => drop(fs::read(path).unwrap()),
        }
    }
}

#[test]
fn a_docker_schema_2_image_is_converted_from_registry_to_registry() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let small = images::small_files_image(&pipeline.path("small"), 500);
    let unpacked = pipeline.unpack(&small.reference(), "unpacked");
    let docker = pipeline.image("docker:1");
    let target = format!("docker://{docker}");
    let source = small.reference();
    tool(
        "skopeo",
        [
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            "--format=v2s2",
            &source,
            &target,
        ],
    );
    let inspected = pipeline.nacre(["inspect", &docker]).ok();
    let inspected = String::from_utf8(inspected).unwrap();
    assert!(
        inspected.contains("vnd.docker.distribution.manifest.v2+json"),
        "{inspected}"
    );
    let image = pipeline.image("converted:1");
    pipeline.nacre(["image", "convert", &docker, &image]).ok();
    pipeline.sign(&image, "signer");
    let mounted = pipeline.mount(&image, &pipeline.options("store")).unwrap();
    assert_same(&compare(&unpacked, mounted.path()));
}

#[test]
fn ls_and_cat_read_without_a_mount() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let odd = images::odd_image(&pipeline.path("odd"));
    let unpacked = pipeline.unpack(&odd.reference(), "unpacked");
    let lazy = pipeline.convert(&odd.reference(), "lazy", Format::ZstdChunked);
    let image = pipeline.image("odd:1");
    pipeline.push(&lazy, &image, true);
    pipeline.sign(&image, "signer");
    let with = |words: &[&str]| {
        let mut arguments: Vec<String> = words.iter().map(|&w| w.to_owned()).collect();
        arguments.extend(pipeline.options("store"));
        pipeline.nacre(&arguments)
    };
    let listed: serde_json::Value =
        serde_json::from_slice(&with(&["ls", "--json", "-R", &image]).ok()).unwrap();
    let mut count = 0;
    let mut largest = (0, String::new());
    for line in listed.as_array().unwrap() {
        count += 1;
        let size = line["size"].as_u64().unwrap();
        if line["kind"] == "file" && size > largest.0 {
            largest = (size, line["path"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(count, entries(&unpacked));
    let content = with(&["cat", &image, &largest.1]).ok();
    assert!(
        content == fs::read(unpacked.join(&largest.1[1..])).unwrap(),
        "{}",
        largest.1
    );
    with(&["cat", &image, "/no/such/file"]).failed(6, &["/no/such/file"]);
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => 1 + entries(&entry.path()),
            false => 1,
        })
        .sum()
}
