//! What the program prints and how it ends, without root, network or other tools.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};

mod support;

use support::{
    images::{LayoutImage, odd_image, small_files_image},
    program::{Ran, run},
};

const FORMATS: [&str; 2] = ["estargz", "zstd-chunked"];
const ANYTHING: [&str; 2] = ["--insecure-policy", "accept-anything"];

/// A home of its own, an image, and its lazy forms.
struct Bench {
    home: tempfile::TempDir,
    image: LayoutImage,
}

// === impl Bench ===

impl Bench {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let image = small_files_image(&home.path().join("image"), 30);
        Self { home, image }
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    fn run(&self, words: &[&str]) -> Ran {
        run(self.home.path(), words)
    }

    /// Converts the image into the layout `name`; gives the reference of the result.
    fn convert(&self, name: &str, format: &str) -> String {
        let target = format!("oci:{}:lazy", self.path(name));
        let source = self.image.reference();
        self.run(&["image", "convert", &source, &target, "--format", format])
            .ok();
        target
    }

    fn policy(&self, name: &str, policy: &Value) -> String {
        fs::write(self.path(name), policy.to_string()).unwrap();
        self.path(name)
    }
}

/// Everything below a directory, by path.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(directory).unwrap();
                all.insert(name.display().to_string(), fs::read(&path).unwrap());
            }
        }
    }
    all
}

fn digest_of(lines: &str, name: &str) -> String {
    let line = lines
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(name));
    line.unwrap().trim().to_owned()
}

#[test]
fn help_lists_the_commands() {
    let bench = Bench::new();
    let help = bench.run(&["--help"]).text();
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(
        commands,
        [
            "mount", "umount", "inspect", "verify", "discover", "sbom", "ls", "cat", "pull",
            "serve", "status", "release", "config", "image", "help"
        ]
    );
    assert!(help.contains("Exit codes: 0 done"));
    // Every command has its page.
    for command in &commands[..commands.len() - 1] {
        let page = bench.run(&[command, "--help"]).text();
        assert!(page.contains(&format!("Usage: nacre {command}")), "{page}");
    }
    // The options that open an image are the same wherever one is opened.
    for command in ["mount", "ls", "cat", "pull"] {
        let page = bench.run(&[command, "--help"]).text();
        for option in [
            "--policy",
            "--expected-digest",
            "--decryption-key",
            "--keyprovider-config",
            "--coco-key",
            "--authfile",
            "--platform",
        ] {
            assert!(page.contains(option), "{command} has no {option}");
        }
        assert_eq!(page.contains("--store-mib"), command != "pull", "{command}");
    }
    let version = bench.run(&["--version"]).text();
    assert_eq!(version, format!("nacre {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_exits_with_2() {
    let bench = Bench::new();
    for (words, said) in [
        (&[][..], "Usage: nacre"),
        (&["nonsense"], "unrecognized subcommand 'nonsense'"),
        (&["mount"], "<DIRECTORY>"),
        (&["ls", "host/UPPER"], "the path in lower case"),
        (&["inspect", "a", "b"], "unexpected argument 'b'"),
        (&["ls", "a", "--expected-digest", "sha256:0"], "digest"),
        (
            &[
                "ls",
                "a",
                "--policy",
                "p",
                "--insecure-policy",
                "accept-anything",
            ],
            "cannot be used with",
        ),
        (
            &["image", "convert", "a", "b", "--format", "x"],
            "estargz, zstd-chunked",
        ),
        (
            &[
                "image",
                "convert",
                "a",
                "b",
                "--all-platforms",
                "--platform",
                "linux/arm64",
            ],
            "cannot be used with",
        ),
    ] {
        let ran = bench.run(words);
        ran.failed(2, &[said]);
        assert!(ran.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn errors_name_kind_message_and_hint() {
    let bench = Bench::new();
    let policy = bench.path("no-policy");
    let broken = bench.path("broken.json");
    fs::write(&broken, "{\n \"default\": [{\"type\": \"maybe\"}]\n}").unwrap();
    let image = bench.image.reference();
    let directory = bench.path("bundle");
    let platform = ["inspect", &image, "--platform", "linux"];
    fs::create_dir_all(format!("{directory}/rootfs")).unwrap();
    for (words, code, kind, message, hint) in [
        (
            &["inspect", "oci:/nonexistent"][..],
            6,
            "not-found",
            "/nonexistent",
            None,
        ),
        (&platform, 3, "invalid", "linux", None),
        (
            &["verify", &image, "--policy", &policy],
            6,
            "not-found",
            &policy,
            None,
        ),
        (
            &["verify", &image, "--policy", &broken],
            3,
            "invalid",
            "line 2",
            None,
        ),
        (
            &["image", "encrypt", &image, "oci:x", "--recipient", "pgp:x"],
            9,
            "unsupported",
            "pgp",
            None,
        ),
        (
            &["pull", &image, &directory, ANYTHING[0], ANYTHING[1]],
            8,
            "busy",
            "rootfs",
            Some("another directory"),
        ),
    ] {
        let mut words = words.to_vec();
        let people = bench.run(&words);
        people.failed(code, &["nacre: ", message]);
        words.push("--json");
        let ran = bench.run(&words);
        assert_eq!(ran.code, code, "{words:?}: {}", ran.stderr);
        let last = ran.stderr.lines().last().unwrap();
        let error: Value = serde_json::from_str(last).unwrap();
        let error = &error["error"];
        assert_eq!(error["kind"], kind, "{words:?}");
        let said = error["message"].as_str().unwrap();
        assert!(said.contains(message), "{words:?}: {said}");
        assert!(people.stderr.contains(said), "{words:?}: {}", people.stderr);
        match (hint, error["hint"].as_str()) {
            (None, _) => {}
            (Some(want), Some(got)) => {
                assert!(got.contains(want), "{words:?}: {got}");
                assert!(people.stderr.contains(&format!("\nhint: {got}")));
            }
            (Some(_), None) => panic!("{words:?}: no hint"),
        }
        assert!(
            ran.stdout.is_empty() && people.stdout.is_empty(),
            "{words:?}"
        );
    }
}

#[test]
fn inspect_says_what_an_image_is() {
    let bench = Bench::new();
    let ordinary = bench.image.reference();
    let report = bench.run(&["inspect", "--json", &ordinary]).json();
    assert_eq!(report["lazy"], false);
    assert_eq!(report["encryption"], "plain");
    assert_eq!(report["layers"].as_array().unwrap().len(), 1);
    assert!(report["layers"][0]["why_not"].is_string(), "{report}");
    let text = bench.run(&["inspect", &ordinary]).text();
    let layer = report["layers"][0]["digest"].as_str().unwrap();
    assert_eq!(text.lines().next(), Some(&*ordinary));
    for want in [
        "  lazy        no",
        layer,
        "not lazy: ",
        report["manifest_digest"].as_str().unwrap(),
        "see `nacre verify`",
    ] {
        assert!(text.contains(want), "{want:?} is not in: {text}");
    }

    for (format, index) in [("estargz", "estargz"), ("zstd-chunked", "zstd:chunked")] {
        let lazy = bench.convert(format, format);
        let report = bench.run(&["inspect", "--json", &lazy]).json();
        assert_eq!(report["lazy"], true, "{report}");
        let said = report["layers"][0]["index"].as_str().unwrap();
        assert!(said.to_lowercase().contains(index), "{said}");
        let text = bench.run(&["inspect", &lazy]).text();
        assert!(text.contains("  lazy        yes"), "{text}");
        assert!(text.contains(&format!("lazy: {said}")), "{text}");
    }
}

#[test]
fn converting_twice_gives_the_same_bytes() {
    let mut bench = Bench::new();
    bench.image = odd_image(&bench.home.path().join("odd"));
    for format in FORMATS {
        let [first, second] = ["first", "second"].map(|name| {
            let name = format!("{name}-{format}");
            let target = bench.convert(&name, format);
            let text = bench.run(&["inspect", &target]).text();
            (
                digest_of(&text, "manifest"),
                files(bench.path(&name).as_ref()),
            )
        });
        assert_eq!(first.0, second.0, "{format}");
        assert!(first.1 == second.1, "{format}: the layouts differ");
        // What is lazy already stays as it is.
        let again = bench.path(&format!("again-{format}"));
        let source = format!("oci:{}:lazy", bench.path(&format!("first-{format}")));
        let report = bench
            .run(&[
                "image",
                "convert",
                "--json",
                &source,
                &format!("oci:{again}:lazy"),
                "--format",
                format,
            ])
            .json();
        assert_eq!(report["digest"], *first.0, "{format}");
        for layer in report["layers"].as_array().unwrap() {
            assert_eq!(layer["copied"], true, "{report}");
        }
    }
}

#[test]
fn files_are_listed_and_printed() {
    let bench = Bench::new();
    for format in FORMATS {
        let lazy = bench.convert(format, format);
        let with = |words: &[&str]| {
            let mut all = words.to_vec();
            all.extend(ANYTHING);
            all.extend(["--store-mib", "0"]);
            bench.run(&all)
        };
        let text = with(&["ls", &lazy, "/files/00/00"]).text();
        assert_eq!(text.lines().count(), 30, "{text}");
        assert!(text.lines().all(|line| line.starts_with("-rw")), "{text}");
        let lines = with(&["ls", "--json", "-R", &lazy]).json();
        assert_eq!(lines.as_array().unwrap().len(), 30 + 3);
        let content = with(&["cat", &lazy, "files/00/00/00007"]).text();
        assert!(content.starts_with("file 7\n"), "{content}");
        with(&["cat", &lazy, "missing"]).failed(6, &["missing: not in the image"]);
        with(&["cat", &lazy, "files"]).failed(3, &["files: not a regular file"]);
    }
}

#[test]
fn verify_shows_the_grant_or_why_not() {
    let bench = Bench::new();
    let image = bench.image.reference();
    let manifest = digest_of(&bench.run(&["inspect", &image]).text(), "manifest");
    let grant = bench.run(&["verify", "--json", &image, ANYTHING[0], ANYTHING[1]]);
    let grant = grant.json();
    assert!(grant.to_string().contains(&manifest), "{grant}");
    let text = bench
        .run(&["verify", &image, ANYTHING[0], ANYTHING[1]])
        .text();
    assert!(text.contains(&manifest), "{text}");

    let all = ["verify", "--attestations", &image, ANYTHING[0], ANYTHING[1]];
    assert_eq!(bench.run(&all).text(), format!("{text}no attestation\n"));
    let mut words = all.to_vec();
    words.push("--json");
    let mut printed = bench.run(&words).json();
    let found = printed
        .as_object_mut()
        .unwrap()
        .remove("found_attestations");
    assert_eq!(found, Some(json!([])));
    assert_eq!(printed, grant);

    let reject = bench.policy("reject.json", &json!({ "default": [{ "type": "reject" }] }));
    let refused = bench.run(&["verify", &image, "--policy", &reject]);
    refused.failed(4, &[]);
    assert_eq!(
        refused.stderr,
        format!("nacre: {image}: policy {reject}, default: reject\n")
    );
    let other = format!("sha256:{}", "0".repeat(64));
    bench
        .run(&[
            "verify",
            &image,
            ANYTHING[0],
            ANYTHING[1],
            "--expected-digest",
            &other,
        ])
        .failed(4, &[&other, &manifest]);
}

#[test]
fn scopes_of_layouts_in_a_policy() {
    let bench = Bench::new();
    let lazy = bench.convert("lazy", "estargz");
    let root = bench.home.path().canonicalize().unwrap();
    let root = root.display();
    let accept = json!([{ "type": "insecureAcceptAnything" }]);
    let reject = json!([{ "type": "reject" }]);
    for (name, transport, scopes, admitted) in [
        ("any", "oci", json!({ "": accept }), true),
        (
            "directory",
            "oci",
            json!({ (format!("{root}/lazy")): accept }),
            true,
        ),
        (
            "tag",
            "oci",
            json!({ (format!("{root}/lazy:lazy")): accept }),
            true,
        ),
        ("parent", "oci", json!({ (root.to_string()): accept }), true),
        (
            "other",
            "oci",
            json!({ (format!("{root}/laz")): accept }),
            false,
        ),
        (
            "other-tag",
            "oci",
            json!({ (format!("{root}/lazy:1")): accept }),
            false,
        ),
        (
            "nearest",
            "oci",
            json!({ "": accept, (root.to_string()): accept, (format!("{root}/lazy")): reject }),
            false,
        ),
        ("registry", "docker", json!({ "": accept }), false),
    ] {
        let policy = json!({ "default": reject, "transports": { transport: scopes } });
        let policy = bench.policy(&format!("{name}.json"), &policy);
        let with = ["--policy", &policy, "--store-mib", "0"];
        for words in [&["ls", &*lazy][..], &["cat", &lazy, "files/00/00/00001"]] {
            let ran = bench.run(&[words, &with[..]].concat());
            match admitted {
                true => drop(ran.ok()),
                false => ran.failed(4, &[&lazy, &policy, "reject"]),
            }
        }
        let ran = bench.run(&["verify", &lazy, "--policy", &policy]);
        assert_eq!(ran.code, if admitted { 0 } else { 4 }, "{name}");
    }
}
