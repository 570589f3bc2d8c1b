//! `nacre image sign` with the key that cosign encrypted, and `nacre verify --key`, as the program does
//! them, on a registry in this process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{fs, path::Path};

use nacre::index::write::Format;

mod support;

use support::{
    program::{Ran, command, run},
    registry::FakeRegistry,
    toy,
};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/cosign");

#[tokio::test]
async fn an_encrypted_key_signs_and_its_public_half_verifies() {
    let home = tempfile::tempdir().unwrap();
    let registry = FakeRegistry::start().await;
    let image = toy::put(
        &registry,
        "app",
        &[toy::lazy(Format::Estargz, &[("a", b"a")])],
    );
    let (private, public) = (
        format!("{DATA}/encrypted.key"),
        format!("{DATA}/encrypted.pub"),
    );
    let sign = |key: &str, password: Option<&str>| {
        let mut command = command(
            home.path(),
            ["image", "sign", "--key", key, &image.reference],
        );
        if let Some(password) = password {
            command.env("COSIGN_PASSWORD", password);
        }
        Ran::from(command.output().unwrap())
    };
    let verify = |key: &str| run(home.path(), ["verify", &image.reference, "--key", key]);

    verify(&public).failed(4, &[]);
    sign(&private, None).failed(4, &["encrypted.key", "no password", "COSIGN_PASSWORD"]);
    sign(&private, Some("wrong")).failed(4, &["encrypted.key", "does not fit"]);
    sign(&public, Some("sec ret")).failed(3, &["want a PEM private key"]);
    verify(&public).failed(4, &[]);
    let signed = sign(&private, Some("sec ret")).text();
    assert!(signed.contains("signed as"), "{signed}");
    let grant = verify(&public).text();
    assert!(
        grant.contains(&image.manifest.digest.to_string()),
        "{grant}"
    );

    // Another key has not; a private one is no key to verify with; nor is a file that is none.
    let prefix = home.path().join("other");
    let prefix = prefix.to_str().unwrap();
    run(home.path(), ["image", "keygen", prefix]).ok();
    verify(&format!("{prefix}.pub")).failed(4, &[]);
    for key in [&private, &format!("{prefix}.key")] {
        verify(key).failed(3, &["a private key", "public half"]);
    }
    verify(&format!("{prefix}.none")).failed(6, &["other.none"]);
    let junk = format!("{prefix}.junk");
    fs::write(Path::new(&junk), "junk").unwrap();
    verify(&junk).failed(3, &["other.junk", "not PEM"]);
    let both = [
        "verify",
        &image.reference,
        "--key",
        &public,
        "--policy",
        "p",
    ];
    run(home.path(), both).failed(2, &["--key"]);
}
