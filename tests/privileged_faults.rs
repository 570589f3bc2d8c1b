//! What users see when something is wrong: each fault through the real `nacre` program and Debian's
//! docker-registry. Needs what `privileged_image` needs; says what is missing where it skips.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::{
    fs::{self, OpenOptions},
    io::ErrorKind,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use support::{
    images,
    pipeline::{Format, Pipeline},
    program::Ran,
};

const DENIED: i32 = 4;
const CORRUPT: i32 = 5;
const EIO: i32 = 5;

/// An encrypted, signed image in the registry, and what its manifest says.
struct Fixture {
    pipeline: Pipeline,
    image: String,
    layers: Vec<Layer>,
}

struct Layer {
    digest: String,
    size: u64,
}

// === impl Fixture ===

impl Fixture {
    /// One layer of 2,000 small files, eStargz unless said otherwise.
    fn start(format: Format) -> Option<Self> {
        let pipeline = Pipeline::start()?;
        let plain = images::small_files_image(&pipeline.path("plain"), 2_000);
        let lazy = pipeline.convert(&plain.reference(), "lazy", format);
        let image = pipeline.image("app:1");
        pipeline.push(&lazy, &image, true);
        pipeline.sign(&image, "signer");
        let layers = layers(&pipeline, &image);
        Some(Self {
            pipeline,
            image,
            layers,
        })
    }

    /// Options with another value for one of them.
    fn options_but(&self, option: &str, value: &Path) -> Vec<String> {
        let mut options = self.pipeline.options("store");
        let at = options.iter().position(|o| o == option).unwrap();
        options[at + 1] = value.display().to_string();
        options
    }

    /// A mount that must fail, and leave nothing behind.
    fn refused(&self, image: &str, options: &[String], code: i32, said: &[&str]) {
        let Err(ran) = self.pipeline.mount(image, options) else {
            panic!("{image} was mounted")
        };
        ran.failed(code, said);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.pipeline.directory.path().display().to_string();
        assert!(!mounts.contains(&here), "a mount stayed");
    }

    /// The file in which the registry keeps a blob.
    fn blob(&self, layer: &Layer) -> PathBuf {
        let hex = layer.digest.strip_prefix("sha256:").unwrap();
        self.pipeline
            .registry
            .storage()
            .join("docker/registry/v2/blobs/sha256")
            .join(&hex[..2])
            .join(hex)
            .join("data")
    }
}

fn layers(pipeline: &Pipeline, image: &str) -> Vec<Layer> {
    let json = pipeline.nacre(["inspect", "--json", image]).ok();
    let report: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let layers = report["layers"].as_array().unwrap();
    layers
        .iter()
        .map(|layer| Layer {
            digest: layer["digest"].as_str().unwrap().to_owned(),
            size: layer["size"].as_u64().unwrap(),
        })
        .collect()
}

fn flip(file: &Path, offset: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

/// Reads every file below; gives how many were read and how many gave EIO. Anything else is a
/// failure of the test, and so are bytes that differ from `right`.
fn read_all(directory: &Path, right: Option<&Path>) -> (usize, usize) {
    let (mut read, mut failed) = (0, 0);
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let other = right.map(|right| right.join(path.file_name().unwrap()));
        if path.is_dir() {
            let (r, f) = read_all(&path, other.as_deref());
            read += r;
            failed += f;
            continue;
        }
        match fs::read(&path) {
            Ok(bytes) => {
                read += 1;
                if let Some(other) = other {
                    assert!(
                        bytes == fs::read(other).unwrap(),
                        "{}: wrong bytes",
                        path.display()
                    );
                }
            }
            Err(error) => {
                assert_eq!(
                    error.raw_os_error(),
                    Some(EIO),
                    "{}: {error}",
                    path.display()
                );
                failed += 1;
            }
        }
    }
    (read, failed)
}

#[test]
fn keys_and_signatures_that_are_wrong_or_missing_are_refused() {
    let Some(f) = Fixture::start(Format::Estargz) else {
        return;
    };
    let p = &f.pipeline;
    let digest = f.layers[0].digest.as_str();

    let other_key = f.options_but("--decryption-key", &p.path("other-layer.pem"));
    f.refused(&f.image, &other_key, DENIED, &[digest]);
    let no_key = vec![
        "--policy".into(),
        p.path("policy.json").display().to_string(),
    ];
    f.refused(&f.image, &no_key, DENIED, &[digest, "--decryption-key"]);

    let other_signer = p.write_policy("other-policy.json", "other-signer");
    f.refused(
        &f.image,
        &f.options_but("--policy", &other_signer),
        DENIED,
        &["app:1"],
    );

    let unsigned = p.image("unsigned:1");
    let plain = images::small_files_image(&p.path("other"), 10);
    p.push(
        &p.convert(&plain.reference(), "other-lazy", Format::Estargz),
        &unsigned,
        true,
    );
    f.refused(
        &unsigned,
        &p.options("store"),
        DENIED,
        &["unsigned:1", "policy"],
    );

    // This machine's own policy, if it has one, is hidden for this.
    let hide = "for d in /etc/containers /etc/nacre; do \
                  if [ -d $d ]; then mount -t tmpfs none $d || exit 99; fi; done; exec \"$@\"";
    let nowhere = Command::new("unshare")
        .args([
            "-m",
            "sh",
            "-c",
            hide,
            "sh",
            env!("CARGO_BIN_EXE_nacre"),
            "verify",
            &f.image,
        ])
        .env("HOME", p.directory.path())
        .output()
        .unwrap();
    let said = [
        "/etc/containers/policy.json",
        "--insecure-policy accept-anything",
    ];
    Ran::from(nowhere).failed(DENIED, &said);
}

#[test]
fn a_tag_that_moved_is_refused_and_a_pinned_digest_is_not() {
    let Some(f) = Fixture::start(Format::Estargz) else {
        return;
    };
    let p = &f.pipeline;
    let verified = p.nacre([
        "verify",
        "--json",
        &f.image,
        "--policy",
        p.path("policy.json").to_str().unwrap(),
    ]);
    let grant: serde_json::Value = serde_json::from_slice(&verified.ok()).unwrap();
    let digest = grant["manifest_digest"].as_str().unwrap().to_owned();

    let plain = images::small_files_image(&p.path("newer"), 10);
    p.push(
        &p.convert(&plain.reference(), "newer-lazy", Format::Estargz),
        &f.image,
        true,
    );
    f.refused(&f.image, &p.options("store"), DENIED, &["app:1"]);
    p.sign(&f.image, "signer");
    let mut expecting = p.options("store");
    expecting.extend(["--expected-digest".into(), digest.clone()]);
    f.refused(&f.image, &expecting, DENIED, &[&digest]);

    let pinned = format!("{}@{digest}", f.image);
    let mounted = p.mount(&pinned, &p.options("store")).unwrap();
    assert_eq!(read_all(mounted.path(), None), (2_000, 0));
}

#[test]
fn flipped_bits_are_never_served() {
    for format in [Format::Estargz, Format::ZstdChunked] {
        let Some(f) = Fixture::start(format) else {
            return;
        };
        let p = &f.pipeline;
        let unpacked = p.unpack(
            &format!("oci:{}:latest", p.path("plain").display()),
            "unpacked",
        );
        let layer = &f.layers[0];
        let blob = f.blob(layer);

        // In the middle of the files: some cannot be read, the others are right. A single flip
        // might hit what no file is made of, such as a tar header.
        let flips: Vec<u64> = (0..20).map(|i| layer.size / 3 + i * 997).collect();
        flips.iter().for_each(|&offset| flip(&blob, offset));
        let mounted = p.mount(&f.image, &p.options("store")).unwrap();
        let (read, failed) = read_all(mounted.path(), Some(&unpacked));
        assert_eq!(read + failed, 2_000);
        assert!((1..200).contains(&failed), "{format:?}: {failed} failed");

        // Mended, the same mount serves them.
        flips.iter().for_each(|&offset| flip(&blob, offset));
        assert_eq!(read_all(mounted.path(), Some(&unpacked)), (2_000, 0));
        let stats = mounted.unmount();
        assert!(
            stats["engine"]["mismatches"].as_u64().unwrap() >= 1,
            "{stats}"
        );
    }
}

#[test]
fn a_flipped_index_or_footer_refuses_the_mount() {
    let Some(f) = Fixture::start(Format::Estargz) else {
        return;
    };
    let layer = &f.layers[0];
    // The table of contents lies before the 51 bytes of the footer.
    for offset in [layer.size - 2_000, layer.size - 30] {
        flip(&f.blob(layer), offset);
        f.refused(
            &f.image,
            &f.pipeline.options("store"),
            CORRUPT,
            &[&layer.digest],
        );
        flip(&f.blob(layer), offset);
    }
    let mounted = f
        .pipeline
        .mount(&f.image, &f.pipeline.options("store"))
        .unwrap();
    assert_eq!(read_all(mounted.path(), None), (2_000, 0));
}

#[test]
fn a_truncated_blob_is_refused_or_fails_its_reads() {
    let Some(f) = Fixture::start(Format::ZstdChunked) else {
        return;
    };
    let layer = &f.layers[0];
    let file = OpenOptions::new().write(true).open(f.blob(layer)).unwrap();
    let mounted = f
        .pipeline
        .mount(&f.image, &f.pipeline.options("store"))
        .unwrap();
    file.set_len(layer.size / 2).unwrap();
    let (read, failed) = read_all(mounted.path(), None);
    assert_eq!(read + failed, 2_000);
    assert!(failed > 500, "{failed}");
    drop(mounted);
    let empty = f.pipeline.options("another-store");
    f.refused(&f.image, &empty, CORRUPT, &[&layer.digest]);
}

#[test]
fn a_flipped_store_is_noticed_and_fetched_again() {
    let Some(f) = Fixture::start(Format::Estargz) else {
        return;
    };
    let p = &f.pipeline;
    let unpacked = p.unpack(
        &format!("oci:{}:latest", p.path("plain").display()),
        "unpacked",
    );
    let mounted = p.mount(&f.image, &p.options("store")).unwrap();
    assert_eq!(read_all(mounted.path(), None), (2_000, 0));
    mounted.unmount();
    for entry in fs::read_dir(p.path("store")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|x| x == "data") {
            flip(&path, fs::metadata(&path).unwrap().len() / 2);
        }
    }
    let mounted = p.mount(&f.image, &p.options("store")).unwrap();
    assert_eq!(read_all(mounted.path(), Some(&unpacked)), (2_000, 0));
    let stats = mounted.unmount();
    assert_eq!(stats["store"]["corrupt"], 1, "{stats}");
}

#[test]
fn a_registry_that_goes_away_leaves_what_is_cached_and_fails_the_rest_in_time() {
    let Some(mut f) = Fixture::start(Format::Estargz) else {
        return;
    };
    let mut options = f.pipeline.options("store");
    options.extend(["--registry-deadline".into(), "3".into()]);
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().to_str().unwrap().to_owned();
    let mut arguments = vec![
        "mount".to_owned(),
        "--daemon".into(),
        f.image.clone(),
        target.clone(),
    ];
    arguments.extend(options);
    f.pipeline.nacre(&arguments).ok();
    let first = directory.path().join("files/00/00");
    let (read, failed) = read_all(&first, None);
    assert_eq!((read, failed), (100, 0));

    f.pipeline.registry.stop();
    assert_eq!(read_all(&first, None), (100, 0), "cached");
    let names = || fs::read_dir(directory.path().join("files/00/19")).unwrap();
    let last = names().map(|entry| entry.unwrap().path()).max().unwrap();
    let started = Instant::now();
    let error = fs::read(last).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EIO), "{error}");
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
    assert_ne!(error.kind(), ErrorKind::NotFound);
    f.pipeline.nacre(["umount", &target]).ok();
}
