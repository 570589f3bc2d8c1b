//! The program with a key broker's data hub: policies, keys and logins by URI, key providers over ttrpc,
//! and what happens when the hub hangs or is gone. The hub is a process of its own, by containerd's own
//! ttrpc library (`tests/go/data-hub`).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use serde_json::json;

mod support;

use support::{
    go,
    images::{LayoutImage, small_files_image},
    program::{Ran, run},
};

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ocicrypt/keys");
const FILE: &str = "/files/00/00/00007";
const ANYTHING: [&str; 2] = ["--insecure-policy", "accept-anything"];
const IN_MEMORY: [&str; 2] = ["--store-mib", "0"];
const POLICY: &str = "kbs:///default/security-policy/test";
const KEY: &str = "kbs:///default/image-key/one";

/// A hub, what it serves, and an image.
struct Guest {
    home: tempfile::TempDir,
    hub: Option<Child>,
    image: LayoutImage,
}

// === impl Guest ===

impl Guest {
    /// `None`, after saying so, if the hub cannot be built here.
    fn start() -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let image = small_files_image(&home.path().join("image"), 30);
        let hub = None;
        let mut guest = Self { home, hub, image };
        fs::create_dir(guest.path("nacre")).unwrap();
        guest.start_hub().then_some(guest)
    }

    fn start_hub(&mut self) -> bool {
        static BUILT: OnceLock<Result<go::GoProgram, String>> = OnceLock::new();
        let program = match BUILT.get_or_init(|| go::build("data-hub")) {
            Ok(program) => &program.path,
            Err(why) => {
                println!("skipped: {why}");
                return false;
            }
        };
        let _ = fs::remove_file(self.path("cdh.sock"));
        let mut hub = Command::new(program)
            .args([self.path("cdh.sock"), self.path("resources")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = hub.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        self.hub = Some(hub);
        true
    }

    fn kill_hub(&mut self) {
        let mut hub = self.hub.take().unwrap();
        hub.kill().unwrap();
        hub.wait().unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Has the broker give these bytes for a URI.
    fn resource(&self, uri: &str, bytes: impl AsRef<[u8]>) {
        let path = self
            .path("resources")
            .join(uri.strip_prefix("kbs:///").unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn hang(&self, hangs: bool) {
        let marker = self.path("resources").join("hang");
        match hangs {
            true => fs::write(marker, "").unwrap(),
            false => fs::remove_file(marker).unwrap(),
        }
    }

    /// Runs nacre, which writes below `nacre` alone, with the hub's socket.
    fn run(&self, words: &[&str]) -> Ran {
        let socket = self.text("cdh.sock");
        let all = words.iter().copied();
        run(&self.path("nacre"), all.chain(["--cdh-socket", &socket]))
    }

    /// The image, converted and encrypted; gives its reference.
    fn encrypted(&self, recipients: &[&str], providers: Option<&str>) -> String {
        let (lazy, secret) = (self.text("lazy"), self.text("secret"));
        let (source, lazy) = (self.image.reference(), format!("oci:{lazy}:1"));
        let convert = ["image", "convert", &source, &lazy, "--format", "estargz"];
        run(self.home.path(), convert).ok();
        let target = format!("oci:{secret}:1");
        let mut words = vec!["image", "encrypt", &lazy, &target];
        for recipient in recipients {
            words.extend(["--recipient", recipient]);
        }
        if let Some(path) = providers {
            words.extend(["--keyprovider-config", path]);
        }
        run(self.home.path(), words).ok();
        target
    }

    /// Whether a text is in a file below `nacre`.
    fn wrote(&self, text: &str) -> bool {
        let mut todo = vec![self.path("nacre")];
        while let Some(next) = todo.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    todo.push(path);
                } else if contains(&fs::read(&path).unwrap(), text) {
                    return true;
                }
            }
        }
        false
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.hub.is_some() {
            self.kill_hub();
        }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|it| it == text.as_bytes())
}

fn anything() -> String {
    json!({ "default": [{"type": "insecureAcceptAnything"}] }).to_string()
}

fn key_file(name: &str) -> String {
    fs::read_to_string(Path::new(KEYS).join(name)).unwrap()
}

#[test]
fn image_rs_defect_9_policy_and_key_are_resources_and_never_written() {
    let Some(guest) = Guest::start() else { return };
    let image = guest.encrypted(&[&format!("jwe:{KEYS}/p256-pub.pem")], None);
    guest.resource(POLICY, anything());
    let pem = key_file("p256-sec1.pem");
    guest.resource(KEY, &pem);
    let store = guest.text("nacre/store");
    let cat = |key: &str| {
        let options = [
            "--policy",
            POLICY,
            "--decryption-key",
            key,
            "--store",
            &store,
        ];
        guest.run(&[&["cat", &image, FILE][..], &options].concat())
    };
    let plain = run(
        guest.home.path(),
        [
            &["cat", &guest.image.reference(), FILE][..],
            &ANYTHING,
            &IN_MEMORY,
        ]
        .concat(),
    );
    let read = cat(KEY).ok();
    assert!(!read.is_empty());
    assert_eq!(plain.ok(), read);
    let line = pem.lines().find(|it| it.len() > 40).unwrap();
    assert!(guest.path("nacre/store").is_dir());
    assert!(!guest.wrote(line) && !guest.wrote("insecureAcceptAnything"));

    // By file URIs, and from offline files, the same.
    let file_key = format!("file://{KEYS}/p256-sec1.pem");
    assert_eq!(cat(&file_key).ok(), read);
    let offline = guest.text("offline.json");
    let encode = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let resources = json!({
        "default/security-policy/test": encode(&anything()),
        "default/image-key/two": encode(&pem),
    });
    fs::write(&offline, resources.to_string()).unwrap();
    let nowhere = [
        "--cdh-socket",
        "/nonexistent.sock",
        "--offline-resources",
        &offline,
    ];
    let words = ["cat", &image, FILE, "--policy", POLICY];
    let key = ["--decryption-key", "kbs:///default/image-key/two"];
    let home = guest.path("nacre");
    let ran = run(&home, [&words[..], &key, &nowhere, &IN_MEMORY].concat());
    assert_eq!(ran.ok(), read);
    let key = ["--decryption-key", KEY];
    let ran = run(&home, [&words[..], &key, &nowhere, &IN_MEMORY].concat());
    ran.failed(
        7,
        &[KEY, "offline.json", "/nonexistent.sock: cannot connect"],
    );
}

#[test]
fn keys_that_a_policy_names_are_resources_too() {
    let Some(guest) = Guest::start() else { return };
    let signed = |key: &str| {
        json!({ "default": [{
            "type": "sigstoreSigned", "keyPath": key,
            "signedIdentity": {"type": "matchRepository"},
        }]})
        .to_string()
    };
    let verify = || guest.run(&["verify", &guest.image.reference(), "--policy", POLICY]);
    guest.resource(POLICY, signed("kbs:///default/cosign/key"));
    verify().failed(4, &["kbs:///default/cosign/key", "get resource failed"]);
    guest.resource("kbs:///default/cosign/key", "not a key");
    verify().failed(3, &["kbs:///default/cosign/key", "not PEM"]);
    guest.resource("kbs:///default/cosign/key", key_file("p256-pub.pem"));
    // Read, and no signature by it is there.
    verify().failed(4, &[POLICY, "a signature is required"]);
    guest.resource(POLICY, signed("kbs:///default/cosign"));
    verify().failed(
        3,
        &["kbs:///default/cosign: want kbs:///REPOSITORY/TYPE/TAG"],
    );
    guest.resource(POLICY, anything());
    verify().ok();
}

#[test]
fn a_hub_that_hangs_or_is_gone_is_named_and_nothing_is_admitted() {
    let Some(mut guest) = Guest::start() else {
        return;
    };
    guest.resource(POLICY, anything());
    let verify = |guest: &Guest| {
        let image = guest.image.reference();
        let words = [
            "verify",
            &image,
            "--policy",
            POLICY,
            "--resource-deadline",
            "2",
        ];
        let begin = Instant::now();
        (guest.run(&words), begin.elapsed())
    };
    verify(&guest).0.ok();
    guest.hang(true);
    let (ran, took) = verify(&guest);
    ran.failed(
        7,
        &[POLICY, "no answer within 2 s", "confidential-data-hub"],
    );
    assert!(
        took >= Duration::from_secs(2) && took < Duration::from_secs(60),
        "{took:?}"
    );
    guest.hang(false);
    verify(&guest).0.ok();
    guest.kill_hub();
    verify(&guest).0.failed(7, &[POLICY, "cannot connect"]);
    assert!(guest.start_hub());
    verify(&guest).0.ok();
}

#[test]
fn a_provider_over_ttrpc_wraps_unwraps_hangs_and_comes_back() {
    let Some(guest) = Guest::start() else { return };
    fs::create_dir_all(guest.path("resources")).unwrap();
    let providers = guest.text("providers.json");
    let target = format!("unix://{}", guest.text("cdh.sock"));
    let config = json!({"key-providers": {"attestation-agent": {"ttrpc": target}}});
    fs::write(&providers, config.to_string()).unwrap();
    let image = guest.encrypted(&["provider:attestation-agent"], Some(&providers));
    let cat = || {
        let keys = ["--keyprovider-config", &providers, "--key-deadline", "2"];
        guest.run(&[&["cat", &image, FILE][..], &ANYTHING, &keys, &IN_MEMORY].concat())
    };
    let read = cat().ok();
    assert!(!read.is_empty());
    guest.hang(true);
    cat().failed(
        7,
        &["key provider \"attestation-agent\"", "no answer within 2 s"],
    );
    guest.hang(false);
    assert_eq!(cat().ok(), read);
}
