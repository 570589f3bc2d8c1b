//! Ordinary images with an index that somebody attached: the first mount is lazy, and is what umoci
//! unpacks; an index that nobody vouches for, that is damaged or gone, changes nothing but how much is
//! read. Debian's docker-registry; images that skopeo pushed or encrypted. Needs root, /dev/fuse,
//! docker-registry, skopeo, umoci, openssl; says which is missing where it skips.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use serde_json::Value;
use support::{
    images,
    ordinary::{LARGE, tar, two_layers, words},
    pipeline::Pipeline,
    program::{Ran, command, run},
    registry::FakeRegistry,
    toy::{self, ToyLayer},
    tree_compare::{assert_same, compare},
};

/// `nacre image index` of an image, signed or not.
fn index(pipeline: &Pipeline, image: &str, key: Option<&str>) -> Value {
    let mut words: Vec<String> = ["--json", "image", "index", image]
        .map(String::from)
        .to_vec();
    words.extend(pipeline.options("none").into_iter().take(4));
    if let Some(key) = key {
        words.push("--key".into());
        words.push(pipeline.path(&format!("{key}.key")).display().to_string());
    }
    pipeline.nacre(&words).json()
}

fn digest_of(pipeline: &Pipeline, image: &str) -> String {
    let shown = pipeline.nacre(["--json", "inspect", image]).json();
    shown["manifest_digest"].as_str().unwrap().to_owned()
}

/// Mounts with a new store, reads a piece of the large file, and gives how many bytes were fetched of
/// how many.
fn read_little(pipeline: &Pipeline, image: &str, store: &str, options: &[String]) -> (u64, u64) {
    use std::os::unix::fs::FileExt as _;
    let _ = fs::remove_dir_all(pipeline.path(store));
    let mounted = pipeline.mount(image, options).unwrap();
    let content = fs::read(mounted.path().join("replaced")).unwrap();
    assert_eq!(content, b"in the upper layer");
    let large = fs::File::open(mounted.path().join("large")).unwrap();
    let mut piece = vec![0; 5000];
    large.read_exact_at(&mut piece, 13 << 20).unwrap();
    assert!(piece == words(LARGE, 1)[13 << 20..][..5000]);
    drop(large);
    let stats = mounted.unmount();
    assert_eq!(stats["engine"]["failed_reads"], 0, "{stats}");
    (
        stats["bytes"].as_u64().unwrap(),
        stats["image_bytes"].as_u64().unwrap(),
    )
}

fn assert_lazy((bytes, whole): (u64, u64)) {
    assert!(bytes * 3 < whole, "{bytes} of {whole} bytes");
}

fn assert_whole((bytes, whole): (u64, u64)) {
    assert!(bytes >= whole, "{bytes} of {whole} bytes");
}

#[test]
fn the_first_mount_is_lazy() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let source = two_layers(&pipeline.path("two"));
    let unpacked = pipeline.unpack(&source.reference(), "unpacked");
    for encrypted in [false, true] {
        let image = pipeline.image(&format!("two-{encrypted}:1"));
        pipeline.push(&source.reference(), &image, encrypted);
        pipeline.sign(&image, "signer");
        let before = digest_of(&pipeline, &image);
        let made = index(&pipeline, &image, Some("signer"));
        assert_eq!(made["manifest"], before.as_str());
        assert_eq!(made["sealed"], encrypted, "{made}");
        assert_eq!(made["layers"].as_array().unwrap().len(), 2);
        // The image is what it was, and the index comes out the same again.
        assert_eq!(digest_of(&pipeline, &image), before);
        assert_eq!(
            index(&pipeline, &image, Some("signer"))["index"],
            made["index"]
        );

        let options = pipeline.options("store");
        assert_lazy(read_little(&pipeline, &image, "store", &options));
        let _ = fs::remove_dir_all(pipeline.path("store"));
        let mounted = pipeline.mount(&image, &options).unwrap();
        assert_same(&compare(&unpacked, mounted.path()));
        let stats = mounted.unmount();
        assert_eq!(stats["engine"]["failed_reads"], 0, "{stats}");
        assert_eq!(stats["engine"]["mismatches"], 0, "{stats}");
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
        index(&pipeline, &image, Some("signer"));
        let mounted = pipeline
            .mount(&image, &pipeline.options(&format!("store-{encrypted}")))
            .unwrap();
        assert_same(&compare(&unpacked, mounted.path()));
        let stats = mounted.unmount();
        assert_eq!(stats["engine"]["failed_reads"], 0, "{image}: {stats}");
        assert!(stats["engine"]["extents"].as_u64().unwrap() > 0, "{stats}");
    }
}

#[test]
fn only_who_counts_is_believed() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let source = two_layers(&pipeline.path("two"));
    let image = pipeline.image("two:1");
    pipeline.push(&source.reference(), &image, false);
    pipeline.sign(&image, "signer");
    let options = pipeline.options("store");
    let made = index(&pipeline, &image, None);
    assert_whole(read_little(&pipeline, &image, "store", &options));
    let artifact = format!(
        "{}@{}",
        pipeline.image("two"),
        made["index"].as_str().unwrap()
    );
    pipeline.sign(&artifact, "other-signer");
    assert_whole(read_little(&pipeline, &image, "store", &options));

    // The policy may allow it.
    let text = fs::read_to_string(pipeline.path("policy.json")).unwrap();
    let mut policy: Value = serde_json::from_str(&text).unwrap();
    let scope = &mut policy["transports"]["docker"][pipeline.registry.host()];
    let allow = serde_json::json!({ "type": "nacreAllowUnsignedLayerIndex" });
    scope.as_array_mut().unwrap().push(allow);
    let lax = pipeline.path("lax.json");
    fs::write(&lax, policy.to_string()).unwrap();
    let mut allowing = options.clone();
    allowing[1] = lax.display().to_string();
    // What is read to hold it against the layer does not count here.
    allowing.extend(["--confirm-after", "3600"].map(String::from));
    assert_lazy(read_little(&pipeline, &image, "store", &allowing));

    // Signed where it lies, as any image is.
    pipeline.sign(&artifact, "signer");
    assert_lazy(read_little(&pipeline, &image, "store", &options));
}

#[test]
fn the_key_vouches_for_what_nobody_signed() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let source = two_layers(&pipeline.path("two"));
    let image = pipeline.image("unsigned:1");
    pipeline.push(&source.reference(), &image, true);
    let key = pipeline.path("layer.pem").display().to_string();
    let open = [
        "--insecure-policy",
        "accept-anything",
        "--decryption-key",
        &key,
    ];
    let words = [&["--json", "image", "index", &image][..], &open].concat();
    let made = pipeline.nacre(words).json();
    assert_eq!(made["sealed"], true);
    let mut options: Vec<String> = open.map(String::from).to_vec();
    options.push("--store".into());
    options.push(pipeline.path("store").display().to_string());
    assert_lazy(read_little(&pipeline, &image, "store", &options));
    // Nothing of the files is to be read in what was attached.
    for blob in blobs(&pipeline) {
        let bytes = fs::read(blob).unwrap();
        assert!(!bytes.windows(8).any(|it| it == b"replaced"));
    }
    // An index of a plain image is nobody's word.
    let plain = pipeline.image("plain:1");
    pipeline.push(&source.reference(), &plain, false);
    let words = [&["--json", "image", "index", &plain][..], &open].concat();
    pipeline.nacre(words).ok();
    assert_whole(read_little(&pipeline, &plain, "store", &options));
}

/// Files of blobs in the registry.
fn blobs(pipeline: &Pipeline) -> Vec<PathBuf> {
    let root = pipeline
        .registry
        .storage()
        .join("docker/registry/v2/blobs/sha256");
    let mut found = Vec::new();
    for two in fs::read_dir(root).unwrap() {
        for blob in fs::read_dir(two.unwrap().path()).unwrap() {
            found.push(blob.unwrap().path().join("data"));
        }
    }
    found
}

fn blob(pipeline: &Pipeline, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    let root = pipeline
        .registry
        .storage()
        .join("docker/registry/v2/blobs/sha256");
    root.join(&hex[..2]).join(hex).join("data")
}

#[test]
fn what_is_damaged_or_gone_is_passed_over() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let source = two_layers(&pipeline.path("two"));
    let unpacked = pipeline.unpack(&source.reference(), "unpacked");
    let image = pipeline.image("two:1");
    pipeline.push(&source.reference(), &image, false);
    pipeline.sign(&image, "signer");
    let made = index(&pipeline, &image, Some("signer"));
    let options = pipeline.options("store");
    let manifest = blob(&pipeline, made["index"].as_str().unwrap());
    let named: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let of = |number: usize| named["layers"][number]["digest"].as_str().unwrap();
    let tables = blob(&pipeline, of(0));
    let good = fs::read(&tables).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    for content in [&bad[..], b"", &good[1..]] {
        fs::write(&tables, content).unwrap();
        assert_whole(read_little(&pipeline, &image, "store", &options));
    }
    fs::remove_file(&tables).unwrap();
    assert_whole(read_little(&pipeline, &image, "store", &options));
    fs::write(&tables, &good).unwrap();
    assert_lazy(read_little(&pipeline, &image, "store", &options));

    // Windows that are damaged are made again out of the layer, and so are those that are gone after
    // the mount.
    let windows = blob(&pipeline, of(1));
    let good = fs::read(&windows).unwrap();
    for gone in [false, true] {
        let _ = fs::remove_dir_all(pipeline.path("store"));
        if !gone {
            fs::write(&windows, vec![7; good.len()]).unwrap();
        }
        let mounted = pipeline.mount(&image, &options).unwrap();
        if gone {
            fs::remove_file(&windows).unwrap();
        }
        assert_same(&compare(&unpacked, mounted.path()));
        let stats = mounted.unmount();
        assert_eq!(stats["engine"]["failed_reads"], 0, "{stats}");
        assert_eq!(stats["engine"]["mismatches"], 0, "{stats}");
        fs::write(&windows, &good).unwrap();
    }
    assert_lazy(read_little(&pipeline, &image, "store", &options));
}

/// A mount in the foreground, whose log is read.
struct Foreground {
    child: std::process::Child,
}

impl Foreground {
    /// Mounts with the log of what happens.
    fn mount(home: &Path, words: &[String]) -> Self {
        let child = command(home, words)
            .args(["-v", "--json"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        Self { child }
    }

    /// What it says when it is mounted.
    fn ready(&mut self) -> Value {
        let mut line = String::new();
        BufReader::new(self.child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Reads the log up to a line that has this.
    fn says(&mut self, what: &str) {
        let mut all = String::new();
        for line in BufReader::new(self.child.stderr.as_mut().unwrap()).lines() {
            let line = line.unwrap();
            if line.contains(what) {
                return;
            }
            all += &line;
            all.push('\n');
        }
        panic!("{what}: {all}")
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _status = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_the_policy_only_puts_up_with_is_held_against_the_layer() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        println!("skipped: mounting needs root and /dev/fuse");
        return;
    }
    let (home, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let policy = home.path().join("policy.json");
    let text = r#"{"default": [{"type": "insecureAcceptAnything"},
                               {"type": "nacreAllowUnsignedLayerIndex"}]}"#;
    fs::write(&policy, text).unwrap();
    let policy = policy.display().to_string();
    let store = home.path().join("store").display().to_string();
    let content = words(3 << 20, 1);
    let truth = toy::gzipped(&[("large", &content), ("small", b"small")]);
    let image = toy::put(&registry, "app", std::slice::from_ref(&truth));
    let made = run(
        home.path(),
        [
            "--json",
            "image",
            "index",
            &image.reference,
            "--policy",
            &policy,
        ],
    )
    .json();
    // The same blob in an image that claims it to be another: the index, which is the blob's, is
    // attached to that, too.
    let lie = ToyLayer {
        diff_id: nacre::oci::Digest::sha256(b"another"),
        ..truth.clone()
    };
    let (config, manifest) = toy::documents(&[lie]);
    registry.put_blob("app", config);
    let kind = nacre::oci::media_type::OCI_MANIFEST;
    let lying = registry.put_manifest("app", "lie", kind, manifest);
    let location = format!("/v2/app/manifests/{}", made["index"].as_str().unwrap());
    let url = format!("http://{}{location}", registry.host());
    let index = reqwest::get(url).await.unwrap().text().await.unwrap();
    let mut index: Value = serde_json::from_str(&index).unwrap();
    index["subject"] = serde_json::to_value(&lying).unwrap();
    registry.put_manifest("app", "of-lie", kind, index.to_string());

    let directory = home.path().join("mnt");
    fs::create_dir(&directory).unwrap();
    let place = directory.display().to_string();
    let mount = |tag: &str| {
        let reference = registry.reference("app", tag);
        let words = ["mount", &reference, &place, "--policy", &policy];
        let words = [&words[..], &["--store", &store, "--confirm-after", "0"]];
        words
            .concat()
            .into_iter()
            .map(String::from)
            .collect::<Vec<_>>()
    };
    for (tag, said) in [
        ("1", "confirmed"),
        ("lie", "layer is not what its image claims"),
    ] {
        let mut mounted = Foreground::mount(home.path(), &mount(tag));
        assert_eq!(mounted.ready()["unconfirmed"], 1);
        mounted.says(said);
        let large = fs::read(directory.join("large"));
        match tag {
            "1" => assert!(large.unwrap() == content),
            _ => assert!(large.is_err()),
        }
    }
    // The next mount knows.
    let ready = Foreground::mount(home.path(), &mount("1")).ready();
    assert_eq!(ready["indexes"], serde_json::json!(["nacre"]));
    assert_eq!(ready["unconfirmed"], 0);
    // Neither the index nor the image is believed again.
    run(home.path(), mount("lie")).failed(5, &["its image claims sha256:"]);
}

#[test]
fn a_layer_that_is_not_what_its_image_claims_has_no_index() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let real = tar(&[("file", &words(300_000, 1))]);
    let other = tar(&[("file", &words(300_000, 2))]);
    let blobs = [images::gzip(&other, 1)];
    let source = images::write_layout(&pipeline.path("lie"), &[real], &blobs);
    let image = pipeline.image("lie:1");
    pipeline.push(&source.reference(), &image, false);
    pipeline.sign(&image, "signer");
    let policy = pipeline.path("policy.json").display().to_string();
    let ran: Ran = pipeline.nacre(["image", "index", &image, "--policy", &policy]);
    ran.failed(5, &["its tar is sha256:", "its image claims sha256:"]);
}
