//! `nacre discover` against a web server on loopback and a fake registry: names, tables of both forms,
//! pinned references that mount, measurements and whoever signed them.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod support;

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use nacre::index::write::Format;
use serde_json::{Value, json};

use self::support::{
    docker_registry::installed,
    gpg::Web,
    program::{Ran, run},
    registry::FakeRegistry,
    sigstore::Key,
    toy::{lazy, put},
};

const BASE: &str = "/constellation/v2/ref/-/stream/stable/v2.3.0/image";
const OLD: &str = "/constellation/v1/ref/-/stream/stable/v2.3.0/image";
const LOCAL: &str = "constellation_v2_ref_-_stream_stable_v2.3.0_image_info.json";
const QEMU: [&str; 4] = ["--provider", "qemu", "--variant", "qemu-tdx"];

/// A web server with documents, and a directory that is the current one.
struct Bench {
    web: Web,
    home: tempfile::TempDir,
    key: Key,
}

// === impl Bench ===

impl Bench {
    async fn start() -> Self {
        let key = Key::generate();
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("key.pub"), key.public_pem()).unwrap();
        Self {
            web: Web::start().await,
            home,
            key,
        }
    }

    fn file(&self, name: &str, text: &[u8]) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn put(&self, path: &str, body: &[u8]) {
        self.web.put(path, 200, &[], body);
    }

    /// Measurements, and the signature over them as `cosign sign-blob` writes it.
    fn put_signed(&self, path: &str, body: &Value) {
        let body = body.to_string();
        let signature = STANDARD.encode(self.key.sign(body.as_bytes()));
        self.put(path, body.as_bytes());
        self.put(&format!("{path}.sig"), signature.as_bytes());
    }

    fn run(&self, words: &[&str]) -> Ran {
        let url = format!("http://{}", self.web.address);
        let directory = self.home.path().display().to_string();
        let mut all = vec!["discover", "--url", &url, "--lookup-dir", &directory];
        all.extend(words);
        run(self.home.path(), all)
    }

    fn measured(&self, name: &str, more: &[&str]) -> Ran {
        let key = self.home.path().join("key.pub").display().to_string();
        let mut words = vec![name, "--measurements", "--key", &key];
        words.extend(QEMU);
        words.extend(more);
        self.run(&words)
    }
}

fn info(entries: Value) -> Vec<u8> {
    json!({ "version": "v2.3.0", "ref": "-", "stream": "stable", "list": entries })
        .to_string()
        .into_bytes()
}

fn entry(provider: &str, variant: &str, region: &str, reference: &str) -> Value {
    let mut entry =
        json!({ "csp": provider, "attestationVariant": variant, "reference": reference });
    if !region.is_empty() {
        entry["region"] = region.into();
    }
    entry
}

fn registers(digit: &str) -> Value {
    json!({ "4": { "expected": digit.repeat(64), "warnOnly": false },
            "12": { "expected": "cd".repeat(32), "warnOnly": true } })
}

fn measurements(registers: &Value) -> Value {
    json!({ "version": "v2.3.0", "ref": "-", "stream": "stable", "list": [
        { "csp": "QEMU", "attestationVariant": "qemu-tdx", "measurements": registers },
        { "csp": "QEMU", "attestationVariant": "qemu-vtpm",
          "measurements": { "0": "ef".repeat(32) } },
    ]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_becomes_a_pinned_reference() {
    let bench = Bench::start().await;
    let registry = FakeRegistry::start().await;
    let image = put(
        &registry,
        "team/app",
        &[lazy(Format::Estargz, &[("a", b"content")])],
    );
    let tagged = image.reference.clone();
    let repository = tagged.rsplit_once(['@', ':']).unwrap().0.to_owned();
    let pinned = format!(
        "{}@{}",
        repository.trim_end_matches("@sha256"),
        image.manifest.digest
    );
    bench.put(
        &format!("{BASE}/info.json"),
        &info(json!([
            entry("qemu", "qemu-tdx", "", &tagged),
            entry("QEMU", "qemu-vtpm", "", "r.example/other:1"),
            entry("aws", "aws-sev-snp", "eu-1", "ami-123"),
            entry("aws", "aws-sev-snp", "us-1", "ami-456"),
        ])),
    );
    let mut words = vec!["v2.3.0"];
    words.extend(QEMU);
    let found = bench.run(&words).text();
    assert_eq!(found.trim_end(), pinned);
    // What it prints is what other commands take.
    let listed = run(
        bench.home.path(),
        [
            "cat",
            found.trim_end(),
            "/a",
            "--insecure-policy",
            "accept-anything",
        ],
    );
    assert_eq!(listed.text(), "content");

    words.push("--json");
    let found = bench.run(&words).json();
    for (field, want) in [
        ("name", "v2.3.0"),
        ("version", "v2.3.0"),
        ("ref", "-"),
        ("stream", "stable"),
        ("provider", "qemu"),
        ("variant", "qemu-tdx"),
        ("reference", &tagged),
        ("pinned", &pinned),
    ] {
        assert_eq!(found[field], want, "{found}");
    }
    assert_eq!(found["digest"], image.manifest.digest.to_string());
    let url = format!("http://{}{BASE}/info.json", bench.web.address);
    assert_eq!(found["found_in"], url);

    // The long form of the same name, and a machine image, which is no container image.
    let long = ["ref/-/stream/stable/v2.3.0", "--csp", "AWS"];
    bench
        .run(&long)
        .failed(3, &["2 images for provider AWS", "eu-1", "--region"]);
    let one = [&long[..], &["--region", "us-1"]].concat();
    bench
        .run(&one)
        .failed(9, &["\"ami-456\"", "not a container image", "--as-written"]);
    let one = [&one[..], &["--as-written"]].concat();
    assert_eq!(bench.run(&one).text(), "ami-456\n");
    bench.run(&["v2.3.0", "--provider", "gcp"]).failed(
        6,
        &[
            "no image for provider gcp",
            "provider qemu, variant qemu-tdx",
        ],
    );

    // A local table comes first, and may name a layout.
    let url = url.replace("/v2.3.0/", "/v2.4.0/");
    bench.run(&["v2.4.0", "--provider", "qemu"]).failed(
        6,
        &[
            &LOCAL.replace("v2.3.0", "v2.4.0"),
            &url,
            "constellation_v1_ref_",
        ],
    );
    let local = bench.file(
        LOCAL,
        &info(json!([entry("qemu", "qemu-tdx", "", "oci:x:y")])),
    );
    let found = bench.run(&["v2.3.0", "--provider", "qemu", "--as-written", "--json"]);
    let found = found.json();
    assert_eq!(
        (&found["reference"], &found["found_in"]),
        (&json!("oci:x:y"), &json!(local))
    );
    assert_eq!(found["pinned"], Value::Null);
    std::fs::remove_file(&local).unwrap();
    bench.put(
        &format!("{BASE}/info.json"),
        &info(json!([entry("qemu", "qemu-tdx", "", "oci:x:y")])),
    );
    bench
        .run(&words)
        .failed(9, &["not a container image in a registry"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_the_first_form_and_the_newest_version() {
    let bench = Bench::start().await;
    let table = json!({
        "version": "v2.3.0", "ref": "-", "stream": "stable", "debug": false,
        "aws": { "eu-1": "ami-1", "us-1": "ami-2" },
        "azure": { "cvm": "azure-1" },
        "qemu": { "default": "https://r.example/image.raw" },
    });
    bench.put(&format!("{OLD}/info.json"), table.to_string().as_bytes());
    for (words, want) in [
        (&["--provider", "aws", "--region", "us-1"][..], "ami-2"),
        (&["--provider", "azure", "--variant", "cvm"], "azure-1"),
        (&["--provider", "qemu"], "https://r.example/image.raw"),
    ] {
        let all = [&["v2.3.0", "--as-written"], words].concat();
        assert_eq!(bench.run(&all).text().trim_end(), want);
    }
    // The newest version of a stream.
    let latest = |text: Value| {
        let path = "/constellation/v1/ref/-/stream/stable/versions/latest/image.json";
        bench.put(path, text.to_string().as_bytes());
        bench.run(&["latest", "--provider", "qemu", "--as-written"])
    };
    bench
        .run(&["stream/debug/latest", "--provider", "qemu"])
        .failed(6, &["newest version of stream/debug/latest"]);
    let good = json!({ "ref": "-", "stream": "stable", "kind": "image", "version": "v2.3.0" });
    assert_eq!(latest(good.clone()).text(), "https://r.example/image.raw\n");
    for (field, value, want) in [
        ("kind", "cli", "kind is not \"image\""),
        ("stream", "debug", "stream is not \"stable\""),
        ("version", "../../x", "version \"../../x\""),
        ("version", "latest", "version \"latest\""),
    ] {
        let mut bad = good.clone();
        bad[field] = value.into();
        latest(bad).failed(3, &[want]);
    }
    // Its measurements are one file for each provider.
    let file = json!({ "csp": "QEMU", "image": "v2.3.0", "measurements": registers("a") });
    bench.put_signed(&format!("{OLD}/csp/qemu/measurements.json"), &file);
    let found = bench.measured("v2.3.0", &[]).text();
    assert!(
        found.starts_with(&format!("4   {}", "a".repeat(64))),
        "{found}"
    );
    let file = json!({ "csp": "QEMU", "image": "v2.2.0", "measurements": registers("a") });
    bench.put_signed(&format!("{OLD}/csp/qemu/measurements.json"), &file);
    bench
        .measured("v2.3.0", &[])
        .failed(3, &["image is \"v2.2.0\", want \"v2.3.0\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_tables_that_are_refused() {
    let bench = Bench::start().await;
    for (name, want) in [
        ("2.3.0", "version \"2.3.0\""),
        ("v2.3", "want vX.Y.Z"),
        ("v02.3.0", "want vX.Y.Z"),
        ("v2.3.0-", "want vX.Y.Z"),
        ("v2.3.0+build", "want vX.Y.Z"),
        ("stream/nightly/v2.3.0", "there are stable, console, debug"),
        (
            "ref/main/stream/stable/v2.3.0",
            "there are nightly, console, debug",
        ),
        ("ref/feat_x/stream/nightly/v2.3.0", "written \"feat-x\""),
        (
            "ref/refs-heads-main/stream/nightly/v2.3.0",
            "write \"main\"",
        ),
        ("ref/../stream/nightly/v2.3.0", "ref \"..\""),
        ("stream/stable", "not a name"),
    ] {
        bench.run(&[name, "--provider", "qemu"]).failed(2, &[want]);
    }
    let good = String::from_utf8(info(json!([entry("qemu", "v", "", "r.example/a:1")]))).unwrap();
    for (from, to, want) in [
        ("v2.3.0", "v2.2.0", "version is \"v2.2.0\", want \"v2.3.0\""),
        ("stable", "debug", "stream is \"debug\""),
        ("\"ref\":\"-\"", "\"ref\":\"main\"", "ref is \"main\""),
        (
            "\"ref\":\"-\"",
            "\"ref\":\"-\",\"ref\":\"-\"",
            "duplicate key \"ref\"",
        ),
        ("\"csp\":", "\"cs\":", "\"csp\" is missing"),
        ("r.example/a:1", "r.example/a:1 /mnt", "white space"),
        ("\"list\":[{", "\"list\":[],\"x\":[{", "0 images"),
        ("}]", "}", "want ',' or ']'"),
    ] {
        assert!(good.contains(from), "{from}");
        bench.put(
            &format!("{BASE}/info.json"),
            good.replacen(from, to, 1).as_bytes(),
        );
        let ran = bench.run(&["v2.3.0", "--provider", "qemu"]);
        ran.failed(3, &[want, "info.json"]);
    }
    bench.put(&format!("{BASE}/info.json"), &vec![b' '; (4 << 20) + 1]);
    bench
        .run(&["v2.3.0", "--provider", "qemu"])
        .failed(3, &["larger than"]);
    bench.web.put(&format!("{BASE}/info.json"), 500, &[], b"");
    let words = ["v2.3.0", "--provider", "qemu", "--registry-deadline", "1"];
    bench.run(&words).failed(7, &["info.json", "500"]);
    bench.web.put(&format!("{BASE}/info.json"), 403, &[], b"");
    bench.run(&words).failed(4, &["lookup server answered 403"]);
    let url = ["discover", "v2.3.0", "--provider", "qemu", "--url"];
    for (place, code, want) in [
        ("http://192.0.2.1/", 4, "plain HTTP"),
        ("ftp://127.0.0.1/", 3, "want https://, http:// or file:///"),
    ] {
        let words = [&url[..], &[place]].concat();
        run(bench.home.path(), words).failed(code, &[want]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn measurements_that_were_signed() {
    let bench = Bench::start().await;
    let path = format!("{BASE}/measurements.json");
    bench.put_signed(&path, &measurements(&registers("a")));
    let expected = "a".repeat(64);
    let found = bench.measured("v2.3.0", &[]).text();
    let other = "cd".repeat(32);
    assert_eq!(
        found,
        format!("4   {expected}\n12  {other} (warning only)\n")
    );
    let found = bench.measured("v2.3.0", &["--json"]).json();
    let want = json!([
        { "register": 4, "expected": expected, "warn_only": false },
        { "register": 12, "expected": other, "warn_only": true },
    ]);
    assert_eq!(found["registers"], want);
    assert!(found["signed_by"].as_str().unwrap().starts_with("sha256:"));

    // Registers as they are.
    let compare = |actual: Value, more: &[&str]| {
        let file = bench.file("actual.json", actual.to_string().as_bytes());
        bench.measured("v2.3.0", &[&["--compare", &file], more].concat())
    };
    let same = json!({ "4": expected, "12": { "expected": other }, "0": "00".repeat(32) });
    assert!(
        compare(same, &[])
            .text()
            .starts_with(&format!("4   {expected} ok\n"))
    );
    // What only warns is no reason to refuse.
    let warned = compare(json!({ "4": expected }), &["--json"]).json();
    assert_eq!(warned["compared"][1]["matches"], false);
    assert_eq!(warned["compared"][1]["actual"], Value::Null);
    let differs = compare(json!({ "4": "b".repeat(64), "12": other }), &[]);
    differs.failed(5, &["registers that are not what was signed: 4"]);
    assert!(String::from_utf8_lossy(&differs.stdout).contains("DIFFERS: is bbbb"));
    compare(json!({ "12": other }), &[]).failed(5, &["not what was signed: 4"]);
    for (actual, want) in [
        (json!({}), "no register"),
        (json!({ "4": "zz" }), "not hexadecimal"),
        (json!({ "4": "00" }), "1 bytes, want 32 or 48"),
        (json!({ "x": expected }), "not a number of a register"),
        (json!({ "04": expected }), "not a number of a register"),
    ] {
        compare(actual, &[]).failed(3, &["actual.json", want]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn measurements_that_must_not_serve() {
    let bench = Bench::start().await;
    let path = format!("{BASE}/measurements.json");
    let good = measurements(&registers("a"));
    bench
        .measured("v2.3.0", &[])
        .failed(6, &["measurements of v2.3.0: neither in"]);
    bench.put(&path, good.to_string().as_bytes());
    bench
        .measured("v2.3.0", &[])
        .failed(6, &["measurements.json.sig: no such file"]);
    for (signature, code, want) in [
        ("", 3, "0 characters"),
        ("%%%", 3, "not base64"),
        ("AAAA", 5, "not signed by key sha256:"),
    ] {
        bench.put(&format!("{path}.sig"), signature.as_bytes());
        bench.measured("v2.3.0", &[]).failed(code, &[want]);
    }
    // Signed, but not what was signed: one byte more.
    bench.put_signed(&path, &good);
    bench.put(&path, format!("{good} ").as_bytes());
    bench
        .measured("v2.3.0", &[])
        .failed(5, &["not signed by key"]);
    // Signed, and about something else, or malformed.
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut bad = good.clone();
        edit(&mut bad);
        bench.put_signed(&path, &bad);
        bench.measured("v2.3.0", &[])
    };
    for (field, value) in [("version", "v2.2.0"), ("ref", "main"), ("stream", "debug")] {
        edited(&|it| it[field] = value.into())
            .failed(3, &[&format!("{field} is \"{value}\", want")]);
    }
    edited(&|it| it["list"] = json!([])).failed(6, &["none for provider qemu, variant qemu-tdx"]);
    edited(&|it| it["list"][0]["measurements"] = json!({})).failed(3, &["no register"]);
    edited(&|it| it["list"][0]["measurements"]["5"] = "ab".repeat(48).into())
        .failed(3, &["longer or shorter than the others"]);
    edited(&|it| it["list"][0]["measurements"]["4"]["warnOnly"] = "no".into())
        .failed(3, &["want a boolean"]);
    edited(&|it| it["list"][0]["measurements"]["4"]["x"] = 1.into())
        .failed(3, &["unknown field \"x\""]);
    // The key has to be given, and to be public.
    bench
        .run(&["v2.3.0", "--provider", "qemu", "--measurements"])
        .failed(2, &["--key"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_that_openssl_signs_with() {
    if installed("openssl").is_none() {
        return;
    }
    let bench = Bench::start().await;
    let path = format!("{BASE}/measurements.json");
    let body = measurements(&registers("a")).to_string();
    bench.put(&path, body.as_bytes());
    bench.file("body", body.as_bytes());
    for (kind, sign) in [
        (
            "EC -pkeyopt ec_paramgen_curve:P-256",
            "dgst -sha256 -sign k.pem -out s body",
        ),
        (
            "RSA -pkeyopt rsa_keygen_bits:2048",
            "dgst -sha256 -sign k.pem -out s body",
        ),
        (
            "ED25519",
            "pkeyutl -sign -rawin -inkey k.pem -in body -out s",
        ),
    ] {
        let script = format!(
            "openssl genpkey -quiet -algorithm {kind} -out k.pem && \
             openssl pkey -in k.pem -pubout -out key.pub && openssl {sign}"
        );
        shell(bench.home.path(), &script);
        let signature = std::fs::read(bench.home.path().join("s")).unwrap();
        bench.put(
            &format!("{path}.sig"),
            STANDARD.encode(signature).as_bytes(),
        );
        let found = bench.measured("v2.3.0", &[]).text();
        assert!(found.starts_with("4   aaaa"), "{kind}: {found}");
    }
}

fn shell(directory: &Path, script: &str) {
    let ran = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}
