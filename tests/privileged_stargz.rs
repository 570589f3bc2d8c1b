//! containerd with the stargz snapshotter mounts what `nacre image convert` made, and shows the same
//! files. Needs root, containerd, stargz-snapshotter (for its `ctr-remote`), Go (the daemon is built
//! from the published module), and what `privileged_image` needs; says what is missing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
};

use support::{
    images,
    pipeline::{Format, Pipeline, tool},
    tree_compare::{assert_same, compare_except},
};

/// A daemon that is ended when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Starts a daemon and waits until its log says that it is ready.
fn start(command: &mut Command, ready: &str) -> Daemon {
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut daemon = Daemon(child);
    let mut log = BufReader::new(daemon.0.stderr.take().unwrap());
    wait_for(&mut log, ready);
    // The pipe must not fill up.
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        log.read_to_end(&mut rest)
    });
    daemon
}

fn wait_for(log: &mut BufReader<ChildStderr>, ready: &str) {
    let mut all = String::new();
    loop {
        let start = all.len();
        assert_ne!(
            log.read_line(&mut all).unwrap(),
            0,
            "ended before {ready:?}:\n{all}"
        );
        if all[start..].contains(ready) {
            return;
        }
    }
}

/// Builds the daemon from its module.
fn build_stargz(program: &Path) -> Result<(), String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go/stargz-grpc");
    let mut build = Command::new("go");
    match build
        .arg("build")
        .arg("-o")
        .arg(program)
        .arg(".")
        .current_dir(source)
        .output()
    {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("go: {error}")),
    }
}

struct Containerd {
    address: String,
    _containerd: Daemon,
    _stargz: Daemon,
}

impl Containerd {
    fn start(directory: &Path, registry: &str, stargz: &Path) -> Self {
        let at = |name: &str| directory.join(name).display().to_string();
        fs::create_dir_all(directory).unwrap();
        let stargz = start(
            Command::new(stargz).args([
                "--address",
                &at("stargz.sock"),
                "--root",
                &at("stargz"),
                "--registry",
                registry,
            ]),
            "stargz is ready",
        );
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{}\"\n[ttrpc]\naddress = \"{}\"\n\
             [proxy_plugins.stargz]\ntype = \"snapshot\"\naddress = \"{}\"\n",
            at("root"),
            at("state"),
            at("containerd.sock"),
            at("ttrpc.sock"),
            at("stargz.sock"),
        );
        fs::write(directory.join("containerd.toml"), config).unwrap();
        let containerd = start(
            Command::new("containerd").args(["--config", &at("containerd.toml")]),
            "containerd successfully booted",
        );
        Self {
            address: at("containerd.sock"),
            _containerd: containerd,
            _stargz: stargz,
        }
    }

    fn ctr(&self, arguments: &[&str]) -> String {
        let mut all = vec!["--address", &self.address];
        all.extend(arguments);
        String::from_utf8(tool("ctr-remote", all).stdout).unwrap()
    }
}

#[test]
fn stargz_shows_the_files_of_a_converted_image() {
    for program in ["containerd", "ctr-remote"] {
        if Command::new(program).arg("--version").output().is_err() {
            println!("skipped: {program} is not installed (scripts/install-peers)");
            return;
        }
    }
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let stargz = pipeline.path("stargz-grpc");
    if let Err(why) = build_stargz(&stargz) {
        println!("skipped: the stargz daemon cannot be built: {why}");
        return;
    }
    let small = images::small_files_image(&pipeline.path("small"), 300);
    let unpacked = pipeline.unpack(&small.reference(), "unpacked");
    let lazy = pipeline.convert(&small.reference(), "lazy", Format::Estargz);
    let image = pipeline.image("small:1");
    pipeline.push(&lazy, &image, false);

    let containerd = Containerd::start(
        &pipeline.path("containerd"),
        pipeline.registry.host(),
        &stargz,
    );
    containerd.ctr(&["images", "rpull", "--plain-http", &image]);
    let listed = containerd.ctr(&["snapshots", "--snapshotter", "stargz", "ls"]);
    let snapshot = listed
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    assert!(
        containerd
            .ctr(&["snapshots", "--snapshotter", "stargz", "info", snapshot])
            .contains("\"containerd.io/snapshot/remote\""),
        "mounted lazily by stargz, not unpacked"
    );
    let target = pipeline.path("view");
    fs::create_dir(&target).unwrap();
    let target_name = target.display().to_string();
    let mount = containerd.ctr(&[
        "snapshots",
        "--snapshotter",
        "stargz",
        "view",
        "-t",
        &target_name,
        "view",
        snapshot,
    ]);
    tool("sh", ["-c", mount.trim()]);
    let differences = compare_except(&unpacked, &target, &["stargz.index.json"]);
    tool("umount", [&target]);
    assert_same(&differences);
}
