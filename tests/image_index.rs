//! `nacre image index`, as the program does it: the same bytes from the same image, nothing attached by
//! a dry run, nothing made where nothing is wanted. Layouts and toy images, without root or other tools.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{collections::BTreeMap, fs, path::Path};

use nacre::index::write::Format;
use serde_json::Value;

mod support;

use support::{
    images,
    program::{command, run},
    registry::FakeRegistry,
    toy,
};

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ocicrypt/keys");
const ANYTHING: [&str; 2] = ["--insecure-policy", "accept-anything"];

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
                let name = path.strip_prefix(directory).unwrap().display().to_string();
                all.insert(name, fs::read(path).unwrap());
            }
        }
    }
    all
}

#[test]
fn the_same_bytes_in_another_place_at_another_time() {
    let home = tempfile::tempdir().unwrap();
    let source = images::odd_image(&home.path().join("odd"));
    let encrypted = format!("oci:{}:1", home.path().join("encrypted").display());
    let recipient = format!("jwe:{KEYS}/p256-pub.pem");
    let words = [
        "image",
        "encrypt",
        &source.reference(),
        &encrypted,
        "--recipient",
        &recipient,
    ];
    run(home.path(), words).ok();
    let key = format!("{KEYS}/p256-sec1.pem");
    for (name, from) in [("plain", source.reference()), ("secret", encrypted)] {
        let mut made = Vec::new();
        for (place, epoch) in [("first", "1600000000"), ("below/second", "1")] {
            let directory = home.path().join(place).join(name);
            fs::create_dir_all(directory.parent().unwrap()).unwrap();
            let layout = directory.display().to_string();
            let image = format!("oci:{layout}:1");
            run(home.path(), ["image", "copy", &from, &image]).ok();
            let temporary = home.path().join(place).join("tmp");
            fs::create_dir_all(&temporary).unwrap();
            let mut command = command(
                home.path(),
                ["--json", "image", "index", &image, "--decryption-key", &key],
            );
            command.args(ANYTHING).current_dir(&temporary);
            command
                .env("TMPDIR", &temporary)
                .env("SOURCE_DATE_EPOCH", epoch);
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(report["sealed"], name == "secret", "{report}");
            made.push((report, files(&directory)));
        }
        let (second, first) = (made.pop().unwrap(), made.pop().unwrap());
        assert_eq!(first.0, second.0);
        assert_eq!(
            first.1.keys().collect::<Vec<_>>(),
            second.1.keys().collect::<Vec<_>>()
        );
        assert!(first.1 == second.1, "{name}: the bytes differ");
    }
}

#[tokio::test]
async fn a_dry_run_attaches_nothing_and_lazy_images_need_nothing() {
    let home = tempfile::tempdir().unwrap();
    let registry = FakeRegistry::start().await;
    let ordinary = toy::ordinary(&[("a", b"the first file"), ("b", &[7; 100_000])]);
    let lazy = || toy::lazy(Format::Estargz, &[("c", b"the second file")]);
    let image = toy::put(&registry, "app", &[lazy(), ordinary]);
    let index = |reference: &str, more: &[&str]| {
        let words = [
            &["--json", "image", "index", reference][..],
            &ANYTHING,
            more,
        ]
        .concat();
        run(home.path(), words)
    };
    let dry = index(&image.reference, &["--dry-run"]).json();
    assert_eq!(dry["attached"], false);
    assert_eq!(dry["layers"][0]["indexed"], false, "it has one of its own");
    assert_eq!(dry["layers"][1]["indexed"], true);
    let listed = format!("{}/app@{}", registry.host(), dry["index"].as_str().unwrap());
    run(home.path(), ["inspect", &listed]).failed(6, &[]);
    let made = index(&image.reference, &[]).json();
    assert_eq!(made["attached"], true);
    assert_eq!(made["index"], dry["index"]);
    let wrong = index(&image.reference, &["--dry-run", "--key", "k"]);
    wrong.failed(2, &["--key"]);
    index(&image.reference, &["--spacing-mib", "0"]).failed(2, &["--spacing-mib"]);
    let other = toy::put(&registry, "other", &[lazy()]);
    index(&other.reference, &[]).failed(3, &["needs no other"]);
    // Whoever signs the image signs the index: the next `ls` believes it, and asks for no byte of the
    // layer.
    let key = home.path().join("signer");
    run(home.path(), ["image", "keygen", key.to_str().unwrap()]).ok();
    let private = key.with_extension("key").display().to_string();
    let policy = home.path().join("policy.json");
    let requirement = serde_json::json!({
        "type": "sigstoreSigned", "keyPath": key.with_extension("pub"),
        "signedIdentity": { "type": "matchRepository" },
    });
    let text = serde_json::json!({ "default": [requirement] }).to_string();
    fs::write(&policy, text).unwrap();
    for what in [&image.reference, &listed] {
        run(home.path(), ["image", "sign", "--key", &private, what]).ok();
    }
    registry.forget_requests();
    let policy = policy.display().to_string();
    // A store of its own, so that nothing is kept from elsewhere.
    let store = home.path().join("store").display().to_string();
    let ls = ["ls", &image.reference, "/", "--store", &store];
    let signed = [&ls[..], &["--policy", &policy]].concat();
    let shown = run(home.path(), signed).text();
    assert!(shown.contains('a') && shown.contains('c'), "{shown}");
    let layer = image.layers[1].descriptor.digest.to_string();
    let lines = registry.lines();
    assert!(!lines.iter().any(|it| it.contains(&layer)), "{lines:#?}");
    let listings = lines.iter().filter(|it| it.contains("/referrers/")).count();
    assert!(listings <= 2, "of the image and of the index: {lines:#?}");
    // Where nobody has to sign, nobody vouches, and the layer is read.
    let words = [&ls[..], &ANYTHING].concat();
    run(home.path(), words).ok();
    let lines = registry.lines();
    assert!(lines.iter().any(|it| it.contains(&layer)), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_tells_what_layers_are_opened_by() {
    let (home, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let lower = toy::lazy(Format::Estargz, &[("a", b"a")]);
    let upper = toy::gzipped(&[("b", &[7; 300_000])]);
    let image = toy::put(&registry, "app", &[lower, upper]);
    let inspect = || {
        let report = run(home.path(), ["--json", "inspect", &image.reference]).json();
        let text = run(home.path(), ["inspect", &image.reference]).text();
        let layer = |it: usize| report["layers"][it].clone();
        (report["lazy"].clone(), layer(0), layer(1), text)
    };
    let (lazy, first, second, text) = inspect();
    assert_eq!(lazy, false);
    assert_eq!(
        (&first["index"], &first["index_from"]),
        (&"estargz".into(), &"manifest".into())
    );
    assert_eq!(
        (&second["index"], &second["index_from"]),
        (&Value::Null, &Value::Null)
    );
    assert!(text.contains("not lazy: no index"), "{text}");

    run(
        home.path(),
        [&["image", "index", &image.reference][..], &ANYTHING].concat(),
    )
    .ok();
    let (lazy, _, second, text) = inspect();
    assert_eq!(lazy, true);
    assert_eq!(
        (&second["index"], &second["index_from"]),
        (&"nacre".into(), &"referrer".into())
    );
    assert!(text.contains("lazy: nacre, attached"), "{text}");

    // Nobody has signed that one: the layer is read whole here, and known here from then on.
    let store = home.path().join("store").display().to_string();
    let cat = ["cat", &image.reference, "/b", "--store", &store];
    run(home.path(), [&cat[..], &ANYTHING].concat()).ok();
    let words = ["--json", "inspect", &image.reference, "--store", &store];
    let report = run(home.path(), words).json();
    let second = &report["layers"][1];
    assert_eq!(
        (&second["index"], &second["index_from"]),
        (&"kept".into(), &"node".into())
    );
}
