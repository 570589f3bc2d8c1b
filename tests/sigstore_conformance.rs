//! The bundles of the sigstore project's own conformance suite, all of them, each against the
//! artifact and against its digest: 140 cases, none of which may be left out.
//!
//! They run in this process; a sample of each outcome also goes through
//! `nacre conformance verify-bundle`, which is what the suite itself would start.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nacre::{
    Kind,
    oci::Digest,
    trust::sigstore::{Artifact, BundleRequest, Roots, Who, verify_bundle},
};

const ARCHIVE: &[u8] = include_bytes!("data/sigstore-conformance/bundle-verify.tar.zst");
const CASES: usize = 140;
/// Signed none of the bundles.
const STRANGER: &[u8] = b"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEKHJ5dsJ/QBL1i7OPemo5DUoIJTKs\nt4JDy7FRr2WD9QiRrErv36FKVLyBfwLOML1RjYyXqbWPoaazYG0riG5M/A==\n-----END PUBLIC KEY-----\n";
/// What counts where a case names nobody, as the suite has it.
const IDENTITY: &str = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main";
const ISSUER: &str = "https://token.actions.githubusercontent.com";

/// One directory of the suite.
struct Case {
    name: String,
    directory: PathBuf,
    artifact: PathBuf,
    identity: String,
    issuer: String,
    /// Whether the bundle has to verify.
    good: bool,
}

fn unpack() -> (tempfile::TempDir, Vec<Case>) {
    let unpacked = tempfile::tempdir().unwrap();
    let bytes = zstd::decode_all(ARCHIVE).unwrap();
    tar::Archive::new(&bytes[..])
        .unpack(unpacked.path())
        .unwrap();
    let mut cases: Vec<Case> = fs::read_dir(unpacked.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|directory| Case::read(directory, unpacked.path()))
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    (unpacked, cases)
}

// === impl Case ===

impl Case {
    fn read(directory: PathBuf, suite: &Path) -> Self {
        let name = directory.file_name().unwrap().to_str().unwrap().to_owned();
        let or = |file: &str, default: &str| match fs::read_to_string(directory.join(file)) {
            Ok(text) => text.trim().to_owned(),
            Err(_) => default.to_owned(),
        };
        let own = directory.join("artifact");
        Self {
            good: !name.ends_with("_fail"),
            identity: or("identity", IDENTITY),
            issuer: or("issuer", ISSUER),
            artifact: if own.exists() {
                own
            } else {
                suite.join("a.txt")
            },
            name,
            directory,
        }
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.directory.join(name);
        path.exists().then(|| fs::read(path).unwrap())
    }

    fn run(&self, artifact: Artifact<'_>) -> nacre::Result<()> {
        let key = self.file("key.pub");
        let root = self.file("trusted_root.json");
        verify_bundle(&BundleRequest {
            bundle: &self.file("bundle.sigstore.json").unwrap(),
            artifact,
            who: match &key {
                Some(pem) => Who::Key(pem),
                None => Who::Identity {
                    subject: &self.identity,
                    issuer: &self.issuer,
                },
            },
            roots: match &root {
                Some(json) => Roots::Json(json),
                None => Roots::Production,
            },
        })
    }

    /// As the suite starts a client.
    fn run_program(&self, artifact: &str) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nacre"));
        command.args(["conformance", "verify-bundle", "--bundle"]);
        command.arg(self.directory.join("bundle.sigstore.json"));
        let key = self.directory.join("key.pub");
        if key.exists() {
            command.arg("--key").arg(key);
        } else {
            command.args(["--certificate-identity", &self.identity]);
            command.args(["--certificate-oidc-issuer", &self.issuer]);
        }
        let root = self.directory.join("trusted_root.json");
        if root.exists() {
            command.arg("--trusted-root").arg(root);
        }
        let output = command.arg(artifact).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.success(), said)
    }
}

#[test]
fn every_case_of_the_suite() {
    let (_unpacked, cases) = unpack();
    let mut wrong = Vec::new();
    let mut ran = 0;
    for case in &cases {
        let blob = fs::read(&case.artifact).unwrap();
        let digest = Digest::sha256(&blob);
        let digest: [u8; 32] = hex::decode(digest.hex()).unwrap().try_into().unwrap();
        for (form, artifact) in [
            ("artifact", Artifact::Bytes(&blob)),
            ("digest", Artifact::Sha256(digest)),
        ] {
            ran += 1;
            let result = case.run(artifact);
            if result.is_ok() != case.good {
                wrong.push(format!("{} by {form}: {result:?}", case.name));
            }
            if let Err(error) = result {
                println!("{} by {form}: {error}", case.name);
                // Malformed or not proven, never a defect or a lack of ours.
                assert!(
                    matches!(error.kind(), Kind::Denied | Kind::Invalid),
                    "{}: {error:?}",
                    case.name
                );
            }
        }
    }
    assert_eq!(ran, CASES, "the suite is not whole");
    assert!(wrong.is_empty(), "{} wrong: {wrong:#?}", wrong.len());
}

/// A bundle that verifies must not verify for anybody or anything else.
#[test]
fn what_verifies_verifies_for_one_signer_and_one_artifact() {
    let (_unpacked, cases) = unpack();
    let mut tried = 0;
    for case in cases.iter().filter(|case| case.good) {
        tried += 1;
        let other = case.run(Artifact::Bytes(b"something else"));
        assert_eq!(other.unwrap_err().kind(), Kind::Denied, "{}", case.name);
        let blob = fs::read(&case.artifact).unwrap();
        for (identity, issuer) in [
            ("somebody@else.example", case.issuer.as_str()),
            (&case.identity, "https://else.example"),
            (&case.identity[1..], &case.issuer),
        ] {
            let stranger = Case {
                identity: identity.to_owned(),
                issuer: issuer.to_owned(),
                name: case.name.clone(),
                directory: case.directory.clone(),
                artifact: case.artifact.clone(),
                good: false,
            };
            let refused = stranger.run(Artifact::Bytes(&blob));
            // A key is the signer whoever is asked for beside it.
            let by_key = case.file("key.pub").is_some();
            assert_eq!(refused.is_ok(), by_key, "{} as {identity}", case.name);
        }
        let refused = verify_bundle(&BundleRequest {
            bundle: &case.file("bundle.sigstore.json").unwrap(),
            artifact: Artifact::Bytes(&blob),
            who: Who::Key(STRANGER),
            roots: match &case.file("trusted_root.json") {
                Some(json) => Roots::Json(json),
                None => Roots::Production,
            },
        });
        assert_eq!(refused.unwrap_err().kind(), Kind::Denied, "{}", case.name);
    }
    assert!(tried >= 20, "only {tried} cases are good");
}

#[test]
fn the_program_speaks_the_protocol() {
    let (unpacked, cases) = unpack();
    for name in [
        "happy-path-v0.3",
        "intoto-with-custom-trust-root",
        "managed-key-happy-path",
        "rekor2-happy-path",
        "signature-mismatch_fail",
        "managed-key-wrong-key_fail",
    ] {
        let case = cases.iter().find(|case| case.name == name).expect(name);
        let blob = fs::read(&case.artifact).unwrap();
        let digest = Digest::sha256(&blob).to_string();
        for artifact in [case.artifact.to_str().unwrap(), &digest] {
            let (ok, said) = case.run_program(artifact);
            assert_eq!(ok, case.good, "{name} {artifact}: {said}");
            // The wrong key of the suite is not even a key.
            let object = if name == "managed-key-wrong-key_fail" {
                "key"
            } else {
                "bundle"
            };
            assert!(ok || said.contains(object), "{name}: {said}");
        }
    }
    // Of the right form but a file all the same, and of the wrong length: names of files.
    let case = cases.iter().find(|c| c.name == "happy-path-v0.3").unwrap();
    let (ok, said) = case.run_program("sha256:00");
    assert!(!ok && said.contains("sha256:00"), "{said}");
    let odd = format!("sha256:{}", "0".repeat(64));
    fs::copy(&case.artifact, unpacked.path().join(&odd)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_nacre"))
        .current_dir(unpacked.path())
        .args(["conformance", "verify-bundle", "--bundle"])
        .arg(case.directory.join("bundle.sigstore.json"))
        .args(["--certificate-identity", IDENTITY])
        .args(["--certificate-oidc-issuer", ISSUER, &odd])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
