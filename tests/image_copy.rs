//! `nacre image copy` and `diff`, as the program does them: toy images in a registry in this process, in
//! layouts and in archives, without root, network or other tools.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{collections::BTreeMap, fs, path::Path};

use nacre::{
    index::write::Format,
    oci::{Digest, media_type},
};
use serde_json::{Value, json};

mod support;

use support::{
    images::{gzip, odd_image, write_layout},
    program::{Ran, command, run},
    registry::{Auth, FakeRegistry, Fault, Setup},
    toy::{self, ToyLayer},
};

const ANYTHING: [&str; 2] = ["--insecure-policy", "accept-anything"];

struct Bench {
    home: tempfile::TempDir,
    registry: FakeRegistry,
}

// === impl Bench ===

impl Bench {
    async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    async fn with(setup: Setup) -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            registry: FakeRegistry::start_with(setup).await,
        }
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    fn layout(&self, name: &str) -> String {
        format!("oci:{}:1", self.path(name))
    }

    fn archive(&self, name: &str) -> String {
        format!("docker-archive:{}", self.path(name))
    }

    fn run(&self, words: &[&str]) -> Ran {
        run(self.home.path(), words)
    }

    fn copy(&self, words: &[&str]) -> Value {
        self.run(&[&["--json", "image", "copy"], words].concat())
            .json()
    }

    fn copy_fails(&self, words: &[&str], code: i32, said: &[&str]) {
        self.run(&[&["image", "copy"], words].concat())
            .failed(code, said);
    }

    fn diff(&self, words: &[&str]) -> Value {
        self.run(&[&["--json", "image", "diff"], words, &ANYTHING].concat())
            .json()
    }

    /// Requests whose lines hold both.
    fn count(&self, begin: &str, part: &str) -> usize {
        let lines = self.registry.lines();
        let all = lines
            .iter()
            .filter(|it| it.starts_with(begin) && it.contains(part));
        all.count()
    }
}

fn layers() -> Vec<ToyLayer> {
    vec![
        toy::lazy(Format::Estargz, &[("a", b"the first file")]),
        toy::lazy(Format::ZstdChunked, &[("c", b"the second file")]),
        toy::ordinary(&[("d", b"the third file")]),
    ]
}

fn files(directory: &str) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut todo = vec![Path::new(directory).to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(directory).unwrap().display().to_string();
                all.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    all
}

#[tokio::test]
async fn from_a_registry_to_a_layout_and_on_byte_for_byte() {
    let bench = Bench::new().await;
    let image = toy::put(&bench.registry, "app", &layers());
    let made = bench.copy(&[&image.reference, &bench.layout("a/first")]);
    assert_eq!(made["digest"], image.manifest.digest.to_string());
    bench.copy(&[&image.reference, &bench.layout("b/second")]);
    let (first, second) = (
        files(&bench.path("a/first")),
        files(&bench.path("b/second")),
    );
    assert_eq!(first, second);
    assert_eq!(first.len(), 2 + 5);
    // Through another registry's repository, and into a layout that is there.
    let back = bench.registry.reference("back", "x");
    bench.copy(&[&bench.layout("a/first"), &back]);
    bench.copy(&[&back, &format!("oci:{}:other", bench.path("a/first"))]);
    let index: Value =
        serde_json::from_slice(&files(&bench.path("a/first"))["index.json"]).unwrap();
    let digests: Vec<&Value> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["digest"])
        .collect();
    assert_eq!(digests, [&made["digest"], &made["digest"]]);
    // By its digest, which is a place of its own.
    let by_digest = format!(
        "{}@{}",
        bench.registry.reference("pinned", "1"),
        image.manifest.digest
    );
    bench.copy(&[&back, &by_digest]);
    let wrong = format!(
        "{}@{}",
        bench.registry.reference("pinned", "1"),
        Digest::sha256(b"x")
    );
    bench.copy_fails(&[&back, &wrong], 3, &["the image that was made is"]);
}

#[tokio::test]
async fn a_registry_mounts_what_it_has_and_is_sent_nothing_twice() {
    for setup in [
        Setup::default(),
        Setup {
            auth: Auth::Bearer {
                login: None,
                life: None,
            },
            ..Setup::default()
        },
    ] {
        let bench = Bench::with(setup).await;
        let image = toy::put(&bench.registry, "app", &layers());
        let other = bench.registry.reference("team/other", "1");
        let made = bench.copy(&[&image.reference, &other]);
        let how: Vec<&Value> = made["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["how"])
            .collect();
        assert_eq!(how, ["mounted"; 3]);
        assert_eq!(bench.count("POST", "mount=sha256"), 4);
        assert_eq!(bench.count("GET", "/blobs/"), 0);
        assert_eq!(bench.count("PUT", "/blobs/uploads/"), 0);
        // Once more: everything is there.
        bench.registry.forget_requests();
        bench.copy(&[&image.reference, &other]);
        assert_eq!(bench.count("GET", "/blobs/"), 0);
        // Within one repository there is nothing to move.
        bench.registry.forget_requests();
        bench.copy(&[&image.reference, &bench.registry.reference("app", "2")]);
        assert_eq!(bench.count("POST", ""), 0);
        assert_eq!(bench.count("GET", "/blobs/"), 0);
    }
    // A registry that mounts nothing: what it begins is ended, and the blob is sent.
    let bench = Bench::with(Setup {
        mounts: false,
        ..Setup::default()
    })
    .await;
    let image = toy::put(&bench.registry, "app", &layers()[..1]);
    let made = bench.copy(&[&image.reference, &bench.registry.reference("other", "1")]);
    assert_eq!(made["layers"][0]["how"], "copied");
    assert_eq!(bench.count("DELETE", "/blobs/uploads/"), 2);
    assert_eq!(bench.count("PUT", "/blobs/uploads/"), 2);
    // One that forbids it, or does not know it.
    for fault in [Fault::Status(403), Fault::Status(405)] {
        bench.registry.fail_always("mount=sha256", &fault);
        let target = bench.registry.reference("third", "1");
        let made = bench.copy(&[&image.reference, &target]);
        assert_eq!(made["layers"][0]["how"], "copied");
        bench.registry.recover();
    }
    let bench = Bench::new().await;
    let image = toy::put(&bench.registry, "app", &layers()[..1]);
    let another = FakeRegistry::start().await;
    let made = bench.copy(&[&image.reference, &another.reference("app", "1")]);
    assert_eq!(made["layers"][0]["how"], "copied");
    assert_eq!(bench.count("POST", ""), 0);
}

#[tokio::test]
async fn an_index_whole_or_in_part() {
    let bench = Bench::new().await;
    let all = layers();
    let mut list = Vec::new();
    for (layers, platform) in [
        (&all[..2], json!({"os": "linux", "architecture": "amd64"})),
        (&all[1..], json!({"os": "linux", "architecture": "s390x"})),
        (
            &all[..1],
            json!({"os": "unknown", "architecture": "unknown"}),
        ),
    ] {
        let image = toy::put(&bench.registry, "multi", layers);
        let mut descriptor = serde_json::to_value(&image.manifest).unwrap();
        descriptor["platform"] = platform;
        list.push(descriptor);
    }
    let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": list});
    let index = index.to_string();
    let kind = media_type::OCI_INDEX;
    let pushed = bench
        .registry
        .put_manifest("multi", "1", kind, index.clone());
    let source = bench.registry.reference("multi", "1");

    let made = bench.copy(&[&source, &bench.layout("all"), "--all-platforms"]);
    assert_eq!(made["digest"], pushed.digest.to_string());
    let copied = files(&bench.path("all"));
    assert_eq!(
        copied[&format!("blobs/sha256/{}", pushed.digest.hex())],
        index.as_bytes()
    );
    assert_eq!(copied.len(), 2 + 1 + 3 + 3 + 3, "attestations too");
    bench.copy(&[
        &bench.layout("all"),
        &bench.registry.reference("again", "1"),
        "--all-platforms",
    ]);

    let made = bench.copy(&[&source, &bench.layout("one"), "--platform", "linux/s390x"]);
    assert_eq!(made["digest"], list[1]["digest"]);
    bench.copy_fails(
        &[&source, &bench.layout("two"), "--platform", "linux/arm64"],
        6,
        &["no image for linux/arm64"],
    );
    assert!(!Path::new(&bench.path("two")).exists());
    bench.copy_fails(
        &[&source, &bench.archive("a"), "--all-platforms"],
        9,
        &["holds one image", "--platform"],
    );
}

#[tokio::test]
async fn archives_there_and_back() {
    let bench = Bench::new().await;
    let image = toy::put(&bench.registry, "app", &layers());
    let copy = |name: &str, epoch: &str| {
        let target = format!("{}:app:1", bench.archive(name));
        let words = ["image", "copy", &image.reference, &target];
        let mut command = command(bench.home.path(), words);
        Ran::from(command.env("SOURCE_DATE_EPOCH", epoch).output().unwrap())
    };
    fs::create_dir(bench.path("d")).unwrap();
    copy("first", "").ok();
    copy("d/second", "0").ok();
    copy("third", "1700000000").ok();
    copy("fourth", "soon").failed(3, &["SOURCE_DATE_EPOCH=soon"]);
    let read = |name: &str| fs::read(bench.path(name)).unwrap();
    assert_eq!(read("first"), read("d/second"));
    assert_ne!(
        read("first"),
        read("third"),
        "its time is the one that was given"
    );
    copy("first", "").failed(3, &["first", "is there already"]);

    // Layers come out as tars; the configuration stays.
    let back = bench.layout("back");
    bench.copy(&[&bench.archive("first"), &back]);
    let found = files(&bench.path("back"));
    for layer in &image.layers {
        assert!(found.contains_key(&format!("blobs/sha256/{}", layer.diff_id.hex())));
    }
    bench.copy(&[&bench.archive("third"), &bench.layout("again")]);
    assert_eq!(found, files(&bench.path("again")));
    // The lazy form of what docker saved, and the same tree.
    let lazy = bench.layout("lazy");
    bench
        .run(&["image", "convert", &bench.archive("first"), &lazy])
        .ok();
    let source = bench.layout("source");
    bench
        .run(&[
            "image",
            "convert",
            &back,
            &source,
            "--format",
            "zstd-chunked",
        ])
        .ok();
    let difference = bench.diff(&[&lazy, &source]);
    assert_eq!(difference["changed"], json!([]));

    bench.copy_fails(
        &[&bench.archive("none"), &back],
        6,
        &["none", "no such file"],
    );
    bench.copy_fails(
        &[&format!("{}:app:2", bench.archive("first")), &back],
        6,
        &["no image docker.io/library/app:2", "app:1"],
    );
    fs::write(bench.path("junk"), "junk").unwrap();
    bench.copy_fails(&[&bench.archive("junk"), &back], 3, &["not a tar archive"]);
}

#[tokio::test]
async fn a_converted_image_tells_no_later_time_than_it_may() {
    let bench = Bench::new().await;
    let source = odd_image(&bench.home.path().join("odd")).reference();
    let convert = |name: &str, epoch: Option<&str>| {
        let target = bench.layout(name);
        let words = ["--json", "image", "convert", &source, &target];
        let mut command = command(bench.home.path(), words);
        if let Some(epoch) = epoch {
            command.env("SOURCE_DATE_EPOCH", epoch);
        }
        Ran::from(command.output().unwrap())
    };
    let created = |name: &str, epoch: Option<&str>| {
        let report = convert(name, epoch).json();
        let found = files(&bench.path(name));
        let document = |digest: &Value| -> Value {
            let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
            serde_json::from_slice(&found[&format!("blobs/sha256/{hex}")]).unwrap()
        };
        let config = document(&document(&report["digest"])["config"]["digest"]);
        config["created"].as_str().unwrap().to_owned()
    };
    assert_eq!(created("none", None), "2020-09-13T12:26:40Z");
    assert_eq!(created("late", Some("2000000000")), "2020-09-13T12:26:40Z");
    assert_eq!(created("early", Some("1000000000")), "2001-09-09T01:46:40Z");
    assert_eq!(
        created("below/early", Some("1000000000")),
        "2001-09-09T01:46:40Z"
    );
    assert_eq!(
        files(&bench.path("early")),
        files(&bench.path("below/early"))
    );
    convert("bad", Some("-1")).failed(3, &["SOURCE_DATE_EPOCH=-1"]);
}

#[tokio::test]
async fn nothing_is_left_of_a_copy_that_failed() {
    let bench = Bench::new().await;
    let image = toy::put(&bench.registry, "app", &layers());
    let second = &image.layers[1].descriptor.digest;
    bench
        .registry
        .put_blob_as("app", second, vec![0; image.layers[1].blob.len()]);
    for target in [bench.layout("new"), bench.archive("archive")] {
        bench.copy_fails(&[&image.reference, &target], 5, &[&second.to_string()]);
    }
    assert_eq!(fs::read_dir(bench.home.path()).unwrap().count(), 0);
    bench.registry.forget_requests();
    let other = FakeRegistry::start().await;
    bench.copy_fails(
        &[&image.reference, &other.reference("app", "1")],
        5,
        &[&second.to_string()],
    );
    let manifests = other
        .lines()
        .into_iter()
        .filter(|it| it.contains("PUT /v2/app/manifests"));
    assert_eq!(manifests.count(), 0);
    // A layer that its publisher keeps elsewhere need not be there.
    let mut kept = layers().remove(2);
    kept.descriptor.media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar".into();
    let image = toy::put(&bench.registry, "kept", &[kept]);
    let gone = format!("/blobs/{}", image.layers[0].descriptor.digest);
    bench.registry.fail_always(&gone, &Fault::Status(404));
    let made = bench.copy(&[&image.reference, &bench.layout("kept")]);
    assert_eq!(made["layers"][0]["how"], "left-out");
}

#[tokio::test]
async fn differences_are_told_entry_by_entry() {
    let bench = Bench::new().await;
    let base: [(&str, &[u8]); 4] = [
        ("same", b"same"),
        ("gone", b"gone"),
        ("longer", b"short"),
        ("dir/content", b"before"),
    ];
    let changed: [(&str, &[u8]); 5] = [
        ("same", b"same"),
        ("longer", b"much longer"),
        ("dir/content", b"after."),
        ("new/file", b"new"),
        ("new/other", b"new"),
    ];
    for (tag, files, format) in [
        ("one", &base[..], Format::Estargz),
        ("two", &changed[..], Format::Estargz),
        ("zstd", &base[..], Format::ZstdChunked),
    ] {
        toy::put(&bench.registry, tag, &[toy::lazy(format, files)]);
    }
    let [one, two, zstd] = ["one", "two", "zstd"].map(|it| bench.registry.reference(it, "1"));
    bench.registry.forget_requests();
    let found = bench.diff(&[&one, &two]);
    assert_eq!(
        bench.count("GET", "/v2/one/blobs/"),
        1,
        "the index, and no file"
    );
    let paths = |what: &str| -> Vec<String> {
        let all = found[what].as_array().unwrap().iter();
        all.map(|it| it["path"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(paths("added"), ["/new", "/new/file", "/new/other"]);
    assert_eq!(paths("removed"), ["/gone"]);
    assert_eq!(paths("changed"), ["/dir/content", "/longer"]);
    assert_eq!(found["changed"][0]["changes"], json!([{"what": "content"}]));
    let size = json!({"what": "size", "from": "5", "to": "11"});
    assert_eq!(
        found["changed"][1]["changes"],
        json!([size, {"what": "content"}])
    );
    assert_eq!(found["added"][1]["size"], 3);
    assert_eq!(found["files_read"], 0);
    let text = bench
        .run(&[&["image", "diff", &one, &two][..], &ANYTHING].concat())
        .text();
    for line in [
        "- /gone",
        "+ /new/file  file 0644 0:0 3 B",
        "~ /dir/content  content",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.ends_with("3 added, 1 removed, 2 changed\n"), "{text}");
    for (a, b) in [(&one, &one), (&one, &zstd)] {
        let none = bench.diff(&[a, b]);
        for what in ["added", "removed", "changed"] {
            assert_eq!(none[what], json!([]), "{none}");
        }
    }
    // Ordinary layers are read whole, and indexed on the way.
    for (tag, files) in [("plain", &base[..]), ("plainer", &changed[..])] {
        toy::put(&bench.registry, tag, &[toy::gzipped(files)]);
    }
    let [plain, plainer] = ["plain", "plainer"].map(|it| bench.registry.reference(it, "1"));
    let same = bench.diff(&[&one, &plain]);
    for what in ["added", "removed", "changed"] {
        assert_eq!(same[what], json!([]), "{same}");
    }
    assert!(
        same["files_read"].as_u64().unwrap() > 0,
        "digests of two kinds"
    );
    let other = bench.diff(&[&plain, &plainer]);
    for what in ["added", "removed"] {
        assert_eq!(other[what], found[what]);
    }
    let changes = |it: &Value| it["changed"].as_array().unwrap().clone();
    assert_eq!(changes(&other), changes(&found));

    let words = ["image", "diff", &one, &two, "--expected-digest"];
    let digest = Digest::sha256(b"").to_string();
    bench
        .run(&[&words[..], &[&digest], &ANYTHING].concat())
        .failed(3, &["here are two"]);
    bench
        .run(&["image", "diff", &one, &two, "--policy", &bench.path("none")])
        .failed(6, &["none"]);
}

#[tokio::test]
async fn files_that_are_cut_otherwise_are_read() {
    let bench = Bench::new().await;
    let odd = odd_image(&bench.home.path().join("odd"));
    let source = odd.reference();
    let convert = |name: &str, words: &[&str]| {
        let target = bench.layout(name);
        let all = [&["image", "convert", &source, &target], words].concat();
        bench.run(&all).ok();
        target
    };
    let large = convert("large", &["--chunk-kib", "4096"]);
    let small = convert("small", &["--chunk-kib", "512", "--format", "zstd-chunked"]);
    let found = bench.diff(&[&large, &small]);
    for what in ["added", "removed", "changed"] {
        assert_eq!(found[what], json!([]), "{found}");
    }
    assert!(found["files_read"].as_u64().unwrap() > 0, "{found}");

    // Kinds, modes, owners, times, attributes, targets, devices.
    let layer = |files: &[(&str, tar::EntryType, u32, &str)]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, mode, target) in files {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_mtime(u64::from(*mode));
            header.set_size(0);
            if target.is_empty() {
                header.set_device_major(1).unwrap();
                header.set_device_minor(*mode).unwrap();
                header.set_uid(u64::from(*mode));
                builder.append_data(&mut header, name, &b""[..]).unwrap();
            } else {
                builder.append_link(&mut header, name, target).unwrap();
            }
        }
        builder.into_inner().unwrap()
    };
    use tar::EntryType::{Char, Directory, Fifo, Regular, Symlink};
    let one = layer(&[
        ("link", Symlink, 0o777, "one"),
        ("was-file", Regular, 0o644, ""),
        ("was-dir", Directory, 0o755, ""),
        ("was-dir/below", Fifo, 0o644, ""),
        ("dev", Char, 3, ""),
    ]);
    let two = layer(&[
        ("link", Symlink, 0o777, "two"),
        ("was-file", Directory, 0o644, ""),
        ("was-file/below", Fifo, 0o644, ""),
        ("was-dir", Regular, 0o755, ""),
        ("dev", Char, 5, ""),
    ]);
    let mut lazy = Vec::new();
    for (name, tar) in [("one", one), ("two", two)] {
        let blob = gzip(&tar, 1);
        let image = write_layout(&bench.home.path().join(name), &[tar], &[blob]);
        let target = bench.layout(&format!("{name}-lazy"));
        bench
            .run(&["image", "convert", &image.reference(), &target])
            .ok();
        lazy.push(target);
    }
    let found = bench.diff(&[&lazy[0], &lazy[1], "--ignore-times"]);
    let told: BTreeMap<&str, Vec<String>> = found["changed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| {
            let fields = change["changes"].as_array().unwrap().iter().map(|field| {
                let shown = |side: &str| field[side].as_str().unwrap_or("").to_owned();
                format!(
                    "{} {} {}",
                    field["what"].as_str().unwrap(),
                    shown("from"),
                    shown("to")
                )
            });
            (change["path"].as_str().unwrap(), fields.collect())
        })
        .collect();
    assert_eq!(told["/link"], ["target one two"]);
    assert_eq!(told["/was-file"], ["kind file directory"]);
    assert_eq!(told["/was-dir"], ["kind directory file"]);
    assert_eq!(
        told["/dev"],
        ["mode 0003 0005", "uid 3 5", "device 0x103 0x105"]
    );
    assert_eq!(found["added"][0]["path"], "/was-file/below");
    assert_eq!(found["removed"][0]["path"], "/was-dir/below");
    let timed = bench.diff(&[&lazy[0], &lazy[1]]);
    let dev = &timed["changed"].as_array().unwrap()[0];
    assert_eq!(dev["path"], "/dev");
    assert!(dev.to_string().contains("mtime"), "{dev}");
}
