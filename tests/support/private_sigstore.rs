//! The services of a private Sigstore, as `scripts/private-sigstore` runs them, and the cosigns that
//! sign with them. One for all tests of a program.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

use super::{cosign::on_loopback, docker_registry::installed};

/// Services that run until this program ends: they notice that nobody holds their standard input.
#[derive(Debug)]
pub struct PrivateSigstore {
    directory: tempfile::TempDir,
    /// Its standard input is open as long as this is there.
    _services: Child,
}

// === impl PrivateSigstore ===

impl PrivateSigstore {
    /// `None`, after saying so, where a program is missing.
    pub fn start() -> Option<&'static Self> {
        static ONCE: OnceLock<Option<PrivateSigstore>> = OnceLock::new();
        for program in ["fulcio", "cosign", "openssl", "jq"] {
            installed(program)?;
        }
        ONCE.get_or_init(|| Some(Self::run())).as_ref()
    }

    fn run() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/private-sigstore");
        let mut child = Command::new(script)
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        if line.trim() != "ready" {
            let mut said = String::new();
            let mut stderr = child.stderr.take().unwrap();
            stderr.read_to_string(&mut said).unwrap();
            panic!("scripts/private-sigstore: {said}");
        }
        Self {
            directory,
            _services: child,
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn trusted_root(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.file("trusted_root.json")).unwrap()).unwrap()
    }

    /// URL of a service: `issuer`, `fulcio`, `older-log`.
    pub fn url(&self, service: &str) -> String {
        std::fs::read_to_string(self.file(service)).unwrap()
    }

    /// A token of the issuer.
    pub fn token(&self, email: &str) -> String {
        let url = format!("{}/token?email={email}", self.url("issuer"));
        let got = Command::new("curl").args(["-sSf", &url]).output().unwrap();
        assert!(got.status.success(), "{got:?}");
        String::from_utf8(got.stdout).unwrap()
    }
}

/// Runs one of the cosigns in `home`; gives its output.
pub fn cosign(
    program: &str,
    home: &Path,
    sigstore: &PrivateSigstore,
    arguments: &[&str],
) -> String {
    let environment = [
        // What the second version verifies its own work with; the third has a trusted root.
        ("SIGSTORE_ROOT_FILE", "fulcio.pem"),
        ("SIGSTORE_REKOR_PUBLIC_KEY", "older-log.pub"),
        ("SIGSTORE_CT_LOG_PUBLIC_KEY_FILE", "older-log.pub"),
    ]
    .map(|(name, file)| (name, sigstore.file(file)));
    let (succeeded, text) = on_loopback(program, home, &environment, arguments);
    assert!(succeeded, "{program} {arguments:?}: {text}");
    text
}
