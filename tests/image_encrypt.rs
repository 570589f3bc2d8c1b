//! `nacre image encrypt`, `decrypt` and `rewrap`, as the program does them: on toy images in a registry
//! in this process and in layouts, without root, network or other tools but python3.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use nacre::{
    index::write::Format,
    oci::{Descriptor, Digest, media_type},
};
use serde_json::{Value, json};

mod support;

use support::{
    program::{Ran, command, run},
    registry::{Auth, FakeRegistry, Fault, Setup},
    toy::{self, ToyLayer},
};

const ANYTHING: [&str; 2] = ["--insecure-policy", "accept-anything"];
const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ocicrypt/keys");
const ENC: &str = "org.opencontainers.image.enc.";

/// A home of its own and a registry.
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

    fn run(&self, words: &[&str]) -> Ran {
        run(self.home.path(), words)
    }

    /// `nacre image WORDS`, as JSON.
    fn image(&self, words: &[&str]) -> Value {
        self.run(&[&["--json", "image"], words].concat()).json()
    }

    /// `nacre image WORDS` that fails.
    fn fails(&self, words: &[&str], code: i32, said: &[&str]) {
        self.run(&[&["image"], words].concat()).failed(code, said);
    }

    /// The image's manifest, by `nacre` itself from wherever it is, through a copy.
    fn manifest(&self, reference: &str) -> Value {
        let name = format!("m{}", Digest::sha256(reference.as_bytes()).hex());
        let copied = self.path(&name);
        let _ = fs::remove_dir_all(&copied);
        let target = format!("oci:{copied}:1");
        let words = ["copy", reference, &target, "--all-platforms"];
        let digest = self.image(&words)["digest"].as_str().unwrap().to_owned();
        serde_json::from_slice(&blob(Path::new(&copied), &digest)).unwrap()
    }
}

fn blob(layout: &Path, digest: &str) -> Vec<u8> {
    fs::read(layout.join("blobs").join(digest.replace(':', "/"))).unwrap()
}

fn key(name: &str) -> String {
    format!("{KEYS}/{name}")
}

fn recipient(kind: &str, name: &str) -> [String; 2] {
    ["--recipient".to_owned(), format!("{kind}:{KEYS}/{name}")]
}

/// Words with others of another kind behind them.
fn words<'a>(some: &[&'a str], more: &'a [String]) -> Vec<&'a str> {
    some.iter()
        .copied()
        .chain(more.iter().map(String::as_str))
        .collect()
}

/// Two lazy layers and an ordinary one.
fn layers() -> [ToyLayer; 3] {
    [
        toy::lazy(
            Format::Estargz,
            &[("a", b"the first file"), ("b", &[7; 100_000])],
        ),
        toy::lazy(Format::ZstdChunked, &[("c", b"the second file")]),
        toy::ordinary(&[("d", b"the third file")]),
    ]
}

/// Everything below a directory, by path.
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

/// A key provider that is a command; `None` after saying that there is no python3.
fn provider(bench: &Bench) -> Option<String> {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: python3 is not installed");
        return None;
    }
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/ocicrypt/keyprovider.py"
    );
    let config = json!({"key-providers": {"shift": {
        "cmd": {"path": "python3", "args": [script, "array"]},
    }}});
    let path = bench.path("providers.json");
    fs::write(&path, config.to_string()).unwrap();
    Some(path)
}

#[tokio::test]
async fn every_recipient_decrypts_what_was_encrypted_for_all() {
    let bench = Bench::new().await;
    let image = toy::put(&bench.registry, "app", &layers());
    let encrypted = bench.registry.reference("app", "encrypted");
    let mut more = [
        recipient("jwe", "rsa-pub.pem"),
        recipient("jwe", "p521-pub.pem"),
        recipient("pkcs7", "rsa-cert.pem"),
    ]
    .concat();
    let provider = provider(&bench);
    if let Some(config) = &provider {
        more.extend(["--recipient".into(), "provider:shift:word".into()]);
        more.extend(["--keyprovider-config".into(), config.clone()]);
    }
    let made = bench.image(&words(&["encrypt", &image.reference, &encrypted], &more));
    let how: Vec<&str> = made["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["how"].as_str().unwrap())
        .collect();
    assert_eq!(how, ["encrypted-lazy", "encrypted-lazy", "encrypted"]);

    let manifest = bench.manifest(&encrypted);
    assert_eq!(manifest["mediaType"], media_type::OCI_MANIFEST);
    for (before, after) in image
        .layers
        .iter()
        .zip(manifest["layers"].as_array().unwrap())
    {
        let plain = &before.descriptor;
        assert_eq!(
            after["mediaType"],
            format!("{}+encrypted", plain.media_type)
        );
        assert_eq!(after["size"], plain.size);
        assert_ne!(after["digest"], plain.digest.to_string());
        // What other tools look for in a lazy layer stays.
        for (name, value) in &plain.annotations {
            assert_eq!(after["annotations"][name], **value);
        }
        for name in ["pubopts", "keys.jwe", "keys.pkcs7"] {
            assert!(
                after["annotations"][format!("{ENC}{name}")].is_string(),
                "{name}"
            );
        }
    }

    // The plain layers as they were, by each key. Everything of a layout, twice the same.
    let original = bench.layout("original");
    bench.image(&["copy", &image.reference, &original]);
    let mut keys = vec![
        vec!["--decryption-key".to_owned(), key("rsa-pkcs8.pem")],
        vec!["--decryption-key".to_owned(), key("p521-pkcs8.pem")],
    ];
    if let Some(config) = provider {
        let by = [
            "--decryption-key",
            "provider:shift:word",
            "--keyprovider-config",
        ];
        keys.push([&by.map(String::from)[..], &[config]].concat());
    }
    let mut first: Option<BTreeMap<String, Vec<u8>>> = None;
    for (number, more) in keys.iter().enumerate() {
        let name = format!("decrypted-{number}/below");
        let decrypted = bench.layout(&name);
        bench.image(&words(&["decrypt", &encrypted, &decrypted], more));
        let found = files(&bench.path(&name));
        for layer in &image.layers {
            let hex = layer.descriptor.digest.hex();
            assert_eq!(found[&format!("blobs/sha256/{hex}")], layer.blob);
        }
        assert_eq!(*first.get_or_insert_with(|| found.clone()), found);
    }
    // As far as images go: the same config, layers, annotations.
    let [before, after] =
        [&original, &bench.layout("decrypted-0/below")].map(|it| bench.manifest(it));
    assert_eq!(before["config"], after["config"]);
    assert_eq!(before["layers"], after["layers"]);
}

#[tokio::test]
async fn pkcs7_alone_is_enough() {
    let bench = Bench::new().await;
    let image = toy::put(&bench.registry, "app", &layers()[..1]);
    let encrypted = bench.layout("encrypted");
    let more = recipient("pkcs7", "rsa-cert.pem");
    bench.image(&words(&["encrypt", &image.reference, &encrypted], &more));
    let rsa = key("rsa-pkcs8.pem");
    bench.image(&[
        "decrypt",
        &encrypted,
        &bench.layout("a"),
        "--decryption-key",
        &rsa,
    ]);
    let inspected = bench.run(&["--json", "inspect", &encrypted]).json();
    assert_eq!(inspected["layers"][0]["keys"][0]["kind"], "pkcs7");
    assert_eq!(inspected["layers"][0]["keys"][0]["recipients"], 1);
    // Another key says so, and a certificate that it is none.
    let p256 = key("p256-sec1.pem");
    let target = bench.layout("b");
    let words = |key: &str| {
        bench.run(&[
            "image",
            "decrypt",
            &encrypted,
            &target,
            "--decryption-key",
            key,
        ])
    };
    words(&p256).failed(4, &["p256-sec1.pem", "not an RSA key"]);
    words(&key("rsa-cert.pem")).failed(3, &["a certificate", "needs no certificate"]);
}

#[tokio::test]
async fn encrypting_twice_gives_nothing_in_common() {
    let bench = Bench::new().await;
    let image = toy::put(&bench.registry, "app", &layers());
    let more = recipient("jwe", "rsa-pub.pem");
    let encrypt = |name: &str| {
        let to = bench.layout(name);
        bench.image(&words(&["encrypt", &image.reference, &to], &more));
        files(&bench.path(name))
    };
    let (first, second) = (encrypt("a"), encrypt("b"));
    let blobs = |files: &BTreeMap<String, Vec<u8>>| -> Vec<String> {
        files
            .keys()
            .filter(|name| name.starts_with("blobs/"))
            .cloned()
            .collect()
    };
    let common: Vec<String> = blobs(&first)
        .into_iter()
        .filter(|name| second.contains_key(name))
        .collect();
    assert_eq!(common.len(), 1, "the configuration: {common:?}");
    // No plaintext, and nothing of a layer's plain form.
    for layer in &image.layers {
        let hex = layer.descriptor.digest.hex();
        assert!(!first.contains_key(&format!("blobs/sha256/{hex}")));
    }
    let needle = b"the third file";
    let leaks = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(!first.values().any(|bytes| leaks(bytes)));
}

#[tokio::test]
async fn an_unsigned_lazy_image_is_read_in_part_and_its_index_is_the_one_that_was_encrypted() {
    let bench = Bench::new().await;
    // Larger than the tail that is read ahead, so that parts are parts.
    let noise: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    for format in [Format::Estargz, Format::ZstdChunked] {
        let files: [(&str, &[u8]); 2] = [("small", b"small file"), ("noise", &noise)];
        let image = toy::put(&bench.registry, "app", &[toy::lazy(format, &files)]);
        let encrypted = bench.registry.reference("app", "encrypted");
        let more = recipient("jwe", "p256-pub.pem");
        bench.image(&words(&["encrypt", &image.reference, &encrypted], &more));
        let p256 = key("p256-sec1.pem");
        let cat = |reference: &str| {
            let words = [
                "cat",
                reference,
                "/small",
                "--decryption-key",
                &p256,
                "--store-mib",
                "0",
            ];
            bench.run(&[&words[..], &ANYTHING].concat())
        };
        bench.registry.forget_requests();
        assert_eq!(cat(&encrypted).ok(), b"small file");
        let whole = bench
            .registry
            .requests()
            .iter()
            .filter(|seen| seen.line.contains("/blobs/") && seen.range.is_none())
            .count();
        assert_eq!(whole, 0, "no blob is read whole, to check its HMAC");

        // Somebody between changes what nothing signs: which index the layer has.
        let mut manifest = bench.manifest(&encrypted);
        let annotations = manifest["layers"][0]["annotations"]
            .as_object_mut()
            .unwrap();
        for (name, value) in annotations.iter_mut() {
            if name.ends_with("toc.digest") || name.ends_with("manifest-checksum") {
                *value = Digest::sha256(b"another").to_string().into();
            }
        }
        let put = |manifest: &Value| {
            let bytes = manifest.to_string();
            bench
                .registry
                .put_manifest("app", "forged", media_type::OCI_MANIFEST, bytes);
            cat(&bench.registry.reference("app", "forged"))
        };
        put(&manifest).failed(5, &["the one that was encrypted is"]);
    }
}

#[tokio::test]
async fn an_index_that_is_not_the_layers_is_not_vouched_for() {
    let bench = Bench::new().await;
    let mut layer = layers()[0].clone();
    for (name, value) in &mut layer.descriptor.annotations {
        if name.ends_with("toc.digest") {
            *value = Digest::sha256(b"another").to_string();
        }
    }
    let image = toy::put(&bench.registry, "app", &[layer]);
    let more = recipient("jwe", "rsa-pub.pem");
    let target = bench.layout("a");
    bench.fails(
        &words(&["encrypt", &image.reference, &target], &more),
        5,
        &["layer sha256:", "table of contents"],
    );
    assert!(
        !Path::new(&bench.path("a")).exists(),
        "nothing is left of it"
    );
}

#[tokio::test]
async fn some_layers_of_an_image() {
    let bench = Bench::new().await;
    let image = toy::put(&bench.registry, "app", &layers());
    let encrypted = bench.registry.reference("app", "encrypted");
    let more = recipient("jwe", "rsa-pub.pem");
    let base = words(&["encrypt", &image.reference, &encrypted], &more);
    bench.image(&[&base[..], &["--layer", "-1", "--layer", "0"]].concat());
    let manifest = bench.manifest(&encrypted);
    let encrypted_layers: Vec<bool> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["mediaType"].as_str().unwrap().ends_with("+encrypted"))
        .collect();
    assert_eq!(encrypted_layers, [true, false, true]);
    assert_eq!(
        manifest["layers"][1]["digest"],
        image.layers[1].descriptor.digest.to_string()
    );
    bench.fails(
        &[&base[..], &["--layer", "3"]].concat(),
        3,
        &["no layer 3", "the image has 3"],
    );
    // What is encrypted is not encrypted again; the rest can be.
    let twice = bench.registry.reference("app", "twice");
    let again = words(&["encrypt", &encrypted, &twice], &more);
    bench.fails(&again, 3, &["encrypted already", "nacre image rewrap"]);
    bench.image(&[&again[..], &["--layer", "1"]].concat());
    // Both keys' layers in one go.
    let rsa = key("rsa-pkcs8.pem");
    let plain = bench.layout("plain");
    let made = bench.image(&["decrypt", &twice, &plain, "--decryption-key", &rsa]);
    assert_eq!(made["layers"].as_array().unwrap().len(), 3);
    bench.fails(
        &[
            "decrypt",
            &plain,
            &bench.layout("b"),
            "--decryption-key",
            &rsa,
        ],
        3,
        &["no layer is encrypted"],
    );
}

/// Puts an index of two images, which share a layer, and an attestation.
fn put_index(bench: &Bench) -> (String, Vec<ToyLayer>) {
    let [shared, own, other] = layers();
    let mut list = Vec::new();
    for (layers, architecture) in [([&shared, &own], "amd64"), ([&shared, &other], "arm64")] {
        let layers = layers.map(Clone::clone);
        let image = toy::put(&bench.registry, "multi", &layers);
        let mut descriptor = serde_json::to_value(&image.manifest).unwrap();
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        descriptor["annotations"] = json!({"org.example.note": architecture});
        list.push(descriptor);
    }
    let note = bench.registry.put_blob("multi", "{}");
    let attestation = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": note, "layers": [note],
    });
    let attestation = bench.registry.put_manifest(
        "multi",
        "attestation",
        media_type::OCI_MANIFEST,
        attestation.to_string(),
    );
    let mut attestation = serde_json::to_value(&attestation).unwrap();
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    list.push(attestation);
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": list,
        "annotations": {"org.example.of": "the index"},
    });
    bench
        .registry
        .put_manifest("multi", "1", media_type::OCI_INDEX, index.to_string());
    (
        bench.registry.reference("multi", "1"),
        vec![shared, own, other],
    )
}

#[tokio::test]
async fn every_platform_of_an_index() {
    let bench = Bench::new().await;
    let (reference, layers) = put_index(&bench);
    let encrypted = bench.registry.reference("multi", "encrypted");
    let more = recipient("jwe", "rsa-pub.pem");
    let made = bench.image(&words(
        &["encrypt", &reference, &encrypted, "--all-platforms"],
        &more,
    ));
    assert_eq!(made["mediaType"], Value::Null);
    assert_eq!(made["media_type"], media_type::OCI_INDEX);
    assert_eq!(
        made["layers"].as_array().unwrap().len(),
        3,
        "the shared one once"
    );
    let index = bench.manifest(&encrypted);
    assert_eq!(index["annotations"]["org.example.of"], "the index");
    let manifests = index["manifests"].as_array().unwrap();
    assert_eq!(
        manifests.len(),
        2,
        "what speaks of the images before is left out"
    );
    assert_eq!(manifests[1]["platform"]["architecture"], "arm64");
    assert_eq!(manifests[1]["annotations"]["org.example.note"], "arm64");

    let decrypted = bench.path("decrypted");
    let rsa = key("rsa-pkcs8.pem");
    bench.image(&[
        "decrypt",
        &encrypted,
        &format!("oci:{decrypted}:1"),
        "--all-platforms",
        "--decryption-key",
        &rsa,
    ]);
    for layer in &layers {
        let digest = layer.descriptor.digest.to_string();
        assert_eq!(blob(Path::new(&decrypted), &digest), layer.blob);
    }
    // One platform becomes an image without an index.
    let one = bench.registry.reference("multi", "one");
    bench.image(&words(
        &["encrypt", &reference, &one, "--platform", "linux/arm64"],
        &more,
    ));
    assert_eq!(bench.manifest(&one)["layers"].as_array().unwrap().len(), 2);
    bench.fails(
        &words(
            &["encrypt", &reference, &one, "--platform", "linux/s390x"],
            &more,
        ),
        6,
        &["no image for linux/s390x"],
    );
}

#[tokio::test]
async fn rewrapping_moves_no_layer() {
    let bench = Bench::new().await;
    let image = toy::put(&bench.registry, "app", &layers());
    let first = bench.registry.reference("app", "first");
    let for_rsa = recipient("jwe", "rsa-pub.pem");
    bench.image(&words(&["encrypt", &image.reference, &first], &for_rsa));
    let (rsa, p256) = (key("rsa-pkcs8.pem"), key("p256-sec1.pem"));
    let for_p256 = [
        recipient("jwe", "p256-pub.pem"),
        ["--decryption-key".to_owned(), rsa.clone()],
    ]
    .concat();
    let opens = |reference: &str, key: &str| {
        let cat = [
            "cat",
            reference,
            "/a",
            "--store-mib",
            "0",
            "--decryption-key",
            key,
        ];
        bench.run(&[&cat[..], &ANYTHING].concat()).code
    };

    // In its repository, in another one of the registry, and in a layout.
    let second = bench.registry.reference("app", "second");
    let other = bench.registry.reference("other/app", "second");
    let layout = bench.layout("layout");
    for (target, uploads, mounts) in [(&second, 0, 0), (&other, 0, 4), (&layout, 0, 0)] {
        bench.registry.forget_requests();
        let made = bench.image(&words(&["rewrap", &first, target], &for_p256));
        let lines = bench.registry.lines();
        let count = |part: &str, more: &str| {
            let all = lines
                .iter()
                .filter(|it| it.contains(part) && it.contains(more));
            all.count()
        };
        assert_eq!(
            count("PUT", "/blobs/uploads/"),
            uploads,
            "{target}: {lines:#?}"
        );
        assert_eq!(
            count("POST", "mount=sha256"),
            mounts,
            "{target}: {lines:#?}"
        );
        if target != &layout {
            assert_eq!(count("GET", "/blobs/"), 0, "{target}: {lines:#?}");
        }
        assert_eq!(made["layers"][0]["how"], "rewrapped");
        assert_eq!(made["layers"][0]["from"], made["layers"][0]["to"]);
    }
    for target in [&second, &other] {
        assert_eq!(opens(target, &p256), 0);
        assert_eq!(opens(target, &rsa), 4);
    }
    // Who was there stays, if that is wanted.
    let both = bench.registry.reference("app", "both");
    bench.image(
        &[
            &words(&["rewrap", &first, &both], &for_p256)[..],
            &["--keep"],
        ]
        .concat(),
    );
    for key in [&rsa, &p256] {
        assert_eq!(opens(&both, key), 0);
    }
    // The private options travel along: the lazy layers are still vouched for.
    let lazy = toy::put(&bench.registry, "lazy", &layers()[..2]);
    let [one, two] = ["e", "r"].map(|tag| bench.registry.reference("lazy", tag));
    bench.image(&words(&["encrypt", &lazy.reference, &one], &for_rsa));
    bench.image(&words(&["rewrap", &one, &two], &for_p256));
    bench.registry.forget_requests();
    assert_eq!(opens(&two, &p256), 0);
    let requests = bench.registry.requests();
    let whole = requests
        .iter()
        .filter(|seen| seen.line.contains("/blobs/") && seen.range.is_none());
    assert_eq!(whole.count(), 0);

    // An index that was attached to the image goes along, and is sealed under the same keys.
    let layer = toy::gzipped(&[("a", b"the first file"), ("b", &[7; 3_000_000])]);
    let blob = toy::put(&bench.registry, "bare", std::slice::from_ref(&layer));
    let [one, two] = ["e", "r"].map(|tag| bench.registry.reference("bare", tag));
    bench.image(&words(&["encrypt", &blob.reference, &one], &for_rsa));
    let index = [&["index", &one, "--decryption-key", &rsa][..], &ANYTHING].concat();
    let index = bench.image(&index);
    assert_eq!(index["sealed"], true);
    let made = bench.image(&words(&["rewrap", &one, &two], &for_p256));
    let indexes = made["indexes"].as_array().unwrap();
    assert_eq!(indexes.len(), 1, "{made}");
    assert_ne!(indexes[0], index["index"], "it refers to another image");
    let inspected = bench.run(&["--json", "inspect", &two]).json();
    assert_eq!(inspected["layers"][0]["index"], "nacre");
    bench.registry.forget_requests();
    assert_eq!(opens(&two, &p256), 0);
    let digest = made["layers"][0]["to"].as_str().unwrap();
    let requests = bench.registry.requests();
    let of_layer: Vec<_> = requests
        .iter()
        .filter(|seen| seen.line.contains("/blobs/") && seen.line.contains(digest))
        .collect();
    assert!(
        !of_layer.is_empty() && of_layer.iter().all(|seen| seen.range.is_some()),
        "{:#?}",
        bench.registry.lines()
    );

    let wrong = [
        recipient("jwe", "rsa-pub.pem"),
        ["--decryption-key".into(), p256],
    ]
    .concat();
    bench.fails(
        &words(&["rewrap", &first, &second], &wrong),
        4,
        &["layer sha256:", "none of the recipients'", "p256-sec1.pem"],
    );
    bench.fails(
        &words(&["rewrap", &image.reference, &second], &for_p256),
        3,
        &["no layer is encrypted"],
    );
}

#[tokio::test]
async fn bad_input_is_named() {
    let bench = Bench::new().await;
    let image = toy::put(&bench.registry, "app", &layers());
    let target = bench.layout("target");
    let source = image.reference.as_str();
    bench.fails(&["encrypt", source, &target], 2, &["--recipient"]);
    let nobody = "provider:nobody".to_owned();
    for (recipient, code, said) in [
        (format!("jwe:{}", key("none.pem")), 6, "no such file"),
        (format!("jwe:{}", key("rsa-pkcs8.pem")), 3, "a private key"),
        (
            format!("jwe:{}", key("rsa-cert.pem")),
            3,
            "write pkcs7:FILE",
        ),
        (format!("pkcs7:{}", key("rsa-pub.pem")), 3, "write jwe:FILE"),
        (format!("pkcs7:{}", key("p256-cert.pem")), 9, "not RSA"),
        (key("rsa-pub.pem"), 3, "want jwe:FILE"),
        (nobody, 4, "OCICRYPT_KEYPROVIDER_CONFIG"),
    ] {
        let words = ["encrypt", source, &target, "--recipient", &recipient];
        bench.fails(&words, code, &["recipient ", said]);
    }
    let more = recipient("jwe", "rsa-pub.pem");
    let stranger = bench.path("stranger");
    fs::create_dir(&stranger).unwrap();
    fs::write(format!("{stranger}/file"), "").unwrap();
    bench.fails(
        &words(&["encrypt", source, &format!("oci:{stranger}:1")], &more),
        3,
        &["neither empty nor an OCI image layout"],
    );
    bench.fails(
        &words(
            &[
                "encrypt",
                source,
                &format!("docker-archive:{}", bench.path("a")),
            ],
            &more,
        ),
        9,
        &["cannot hold encrypted layers"],
    );
    let pinned = format!(
        "{}@{}",
        bench.registry.reference("app", "x"),
        Digest::sha256(b"")
    );
    bench.fails(
        &words(&["encrypt", source, &pinned], &more),
        3,
        &["give a tag"],
    );
    // Annotations of an encryption on a plain layer are dropped; others are not ours to judge.
    let mut odd = layers()[2].clone();
    let annotations = &mut odd.descriptor.annotations;
    annotations.insert(format!("{ENC}keys.jwe"), "?".into());
    annotations.insert("org.example.other".into(), "kept".into());
    let odd = toy::put(&bench.registry, "odd", &[odd]);
    let encrypted = bench.registry.reference("odd", "encrypted");
    bench.image(&words(&["encrypt", &odd.reference, &encrypted], &more));
    let layer = bench.manifest(&encrypted)["layers"][0].clone();
    assert_eq!(layer["annotations"]["org.example.other"], "kept");
    let rsa = key("rsa-pkcs8.pem");
    bench.image(&["decrypt", &encrypted, &target, "--decryption-key", &rsa]);
}

#[tokio::test]
async fn what_was_changed_on_the_way_leaves_nothing_behind() {
    let bench = Bench::new().await;
    let image = toy::put(&bench.registry, "app", &layers()[2..]);
    let encrypted = bench.registry.reference("app", "encrypted");
    let more = recipient("jwe", "rsa-pub.pem");
    bench.image(&words(&["encrypt", &image.reference, &encrypted], &more));
    let digest: Digest = bench.manifest(&encrypted)["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let good = bench.registry.blob("app", &digest).unwrap();
    let rsa = key("rsa-pkcs8.pem");
    let mut turned = good.to_vec();
    turned[700] ^= 1;
    for (bad, said) in [
        (good[..good.len() - 1].to_vec(), "shorter than"),
        (turned, "HMAC mismatch"),
    ] {
        bench.registry.put_blob_as("app", &digest, bad);
        // To a new layout, to a repository, to an archive.
        let other = bench.registry.reference("other", "1");
        let archive = format!("docker-archive:{}", bench.path("archive"));
        for target in [&bench.layout("new/layout"), &other, &archive] {
            bench.registry.forget_requests();
            bench.fails(
                &["decrypt", &encrypted, target, "--decryption-key", &rsa],
                5,
                &["layer sha256:", said],
            );
            let lines = bench.registry.lines();
            let made = lines
                .iter()
                .filter(|it| it.starts_with("PUT /v2/other/manifests"));
            assert_eq!(made.count(), 0, "{lines:#?}");
        }
        assert!(!Path::new(&bench.path("new/layout")).exists());
        assert!(!Path::new(&bench.path("archive")).exists());
        let left = fs::read_dir(bench.path("new")).unwrap().count();
        assert_eq!(left, 0, "no temporary directory");
        let plain = &image.layers[0].descriptor.digest;
        assert_eq!(bench.registry.blob("other", plain), None);
    }
    // A plain blob that is not what its manifest says is not encrypted either.
    let plain = &image.layers[0];
    bench
        .registry
        .put_blob_as("app", &plain.descriptor.digest, vec![0; plain.blob.len()]);
    let again = bench.registry.reference("other", "again");
    bench.fails(
        &words(&["encrypt", &image.reference, &again], &more),
        5,
        &["digest mismatch"],
    );
    // A source that goes away in the middle.
    bench
        .registry
        .put_blob_as("app", &plain.descriptor.digest, plain.blob.clone());
    bench.registry.fail_always(
        &format!("/blobs/{}", plain.descriptor.digest),
        &Fault::Status(404),
    );
    bench.fails(
        &words(&["encrypt", &image.reference, &again], &more),
        6,
        &["404"],
    );
}

#[tokio::test]
async fn a_registry_that_says_no_is_named() {
    let bench = Bench::with(Setup {
        auth: Auth::Basic("user", "secret"),
        ..Setup::default()
    })
    .await;
    let image = toy::put(&bench.registry, "app", &layers());
    let layout = bench.layout("layout");
    let more = recipient("jwe", "rsa-pub.pem");
    bench.fails(
        &words(&["encrypt", &image.reference, &layout], &more),
        4,
        &["401", "docker login"],
    );
    assert!(!Path::new(&bench.path("layout")).exists());
    // With a login it works.
    let login = json!({"auths": {bench.registry.host(): {"auth": "dXNlcjpzZWNyZXQ="}}});
    fs::write(bench.path("auth.json"), login.to_string()).unwrap();
    let mut command = command(
        bench.home.path(),
        words(&["image", "encrypt", &image.reference, &layout], &more),
    );
    let authfile = bench.path("auth.json");
    let ran = Ran::from(command.args(["--authfile", &authfile]).output().unwrap());
    assert!(ran.text().contains("its index vouched for"));
    let _: Descriptor =
        serde_json::from_value(bench.manifest(&layout)["layers"][0].clone()).unwrap();
}
