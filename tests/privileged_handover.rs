//! Mounts outlive the daemon: readers in a container's overlay notice neither a kill nor a stop nor
//! an upgrade of `nacre serve`. Needs root, /dev/fuse and, for the encrypted image, skopeo and
//! docker-registry; says so when it skips.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{BufRead as _, BufReader},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::net::{UnixDatagram, UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nacre::{
    index::write::Format as LayerFormat,
    keeper::KeeperProcess,
    mount::{Erofs, FrontEnd, MountOptions, Overlays},
    oci::Digest,
    sys::{
        descriptors,
        mountinfo::{self, MountEntry},
        processes::Watched,
    },
    telemetry::ask,
};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use support::{
    exposition::{Dialect, Exposition},
    images::{gzip, write_layout},
    pipeline::{Format, Pipeline, tool},
    registry::{FakeRegistry, Fault},
    serve::{Daemon, Layer, Overlay, drop_caches, read_past_caches},
    toy::{Node, ToyImage, lazy, put},
};

/// Deaths of the daemon that a reader must not notice; NACRE_HANDOVER_ROUNDS has it die more often.
const ROUNDS: usize = 10;
/// How long something may take that is bound to happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// `registry.deadline_seconds` where a test waits for it.
const DEADLINE: Duration = Duration::from_secs(3);

/// Tests that kill and measure do so one after the other.
async fn alone() -> Option<tokio::sync::MutexGuard<'static, ()>> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: not root");
        return None;
    }
    if !Path::new("/dev/fuse").exists() {
        println!("skipped: no /dev/fuse");
        return None;
    }
    Some(ALONE.lock().await)
}

/// The front ends that work here; says which does not.
fn front_ends() -> Vec<FrontEnd> {
    let here = std::env::temp_dir();
    match Erofs::start(None, &[here], Overlays::One, &MountOptions::new("probe")) {
        Ok(_) => vec![FrontEnd::Fuse, FrontEnd::Erofs],
        Err(error) => {
            println!("skipped for EROFS: {error}");
            vec![FrontEnd::Fuse]
        }
    }
}

fn rounds() -> usize {
    let variable = std::env::var("NACRE_HANDOVER_ROUNDS");
    variable.map_or(ROUNDS, |it| it.parse().unwrap())
}

// === a process that reads ===

/// Not a test: what [`Reader`] runs. It reads random files past the kernel's caches and compares
/// them with what they should be, until its input ends; a difference or an error ends it.
#[test]
fn reader_process() {
    let Some(files) = std::env::var_os("NACRE_TEST_FILES") else {
        return;
    };
    let files = fs::read_to_string(files).unwrap();
    let files: Vec<_> = files
        .lines()
        .map(|it| it.split_once(' ').unwrap())
        .collect();
    let (stop, stopped) = mpsc::channel();
    std::thread::spawn(move || {
        std::io::stdin().lines().for_each(drop);
        stop.send(()).unwrap();
    });
    let mut random = getrandom::u64().unwrap() | 1;
    let mut count = 0_u64;
    while stopped.try_recv().is_err() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let number = usize::try_from(random % files.len() as u64).unwrap();
        let (digest, path) = files[number];
        match read_past_caches(path.as_ref()) {
            Ok(bytes) if hex::encode(Sha256::digest(&bytes)) == digest => {}
            Ok(bytes) => panic!("{path}: {} other bytes", bytes.len()),
            Err(error) => panic!("{path}: {error}"),
        }
        count += 1;
        if count.is_multiple_of(20) {
            println!("read {count}");
        }
    }
    println!("read {count}");
}

/// A process that reads all the time.
struct Reader {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Reader {
    /// `files` are paths with the digests of their content.
    fn start(list: &Path, files: &[(PathBuf, String)]) -> Self {
        let lines = files
            .iter()
            .map(|(path, digest)| format!("{digest} {}\n", path.display()));
        fs::write(list, lines.collect::<String>()).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "reader_process", "--nocapture"])
            .env("NACRE_TEST_FILES", list)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits until it has read more.
    fn progress(&mut self) -> u64 {
        for line in &mut self.lines {
            let line = line.unwrap();
            if let Some((_, count)) = line.split_once("read ") {
                return count.parse().unwrap();
            }
        }
        panic!("the reader ended: {}", self.child.wait().unwrap());
    }

    /// Ends it and gives how often it has read.
    fn stop(mut self) -> u64 {
        drop(self.child.stdin.take());
        let lines = (&mut self.lines).map_while(Result::ok);
        let last = lines.filter_map(|it| it.split_once("read ")?.1.parse().ok());
        let count = last.last().unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
        count
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // It has ended where the test went well.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

// === images ===

/// Content that does not compress and is the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = std::iter::repeat_with(|| next().to_le_bytes());
    words.flatten().take(length).collect()
}

/// An encrypted, signed image of two layers in a real registry, and a daemon's container of it.
struct Encrypted {
    pipeline: Pipeline,
    files: Vec<(String, Vec<u8>)>,
    manifest: String,
    layers: Vec<Layer>,
}

impl Encrypted {
    fn make() -> Option<Self> {
        let pipeline = Pipeline::start()?;
        let mut files = Vec::new();
        let mut layer = |name: &str, count: u64| {
            let mut tar = tar::Builder::new(Vec::new());
            for number in 0..count {
                let length = 1 + usize::try_from(number * number * 1713 % 400_000).unwrap();
                let content = noise(number * 77 + count, length);
                let path = format!("{name}{number}");
                let mut header = tar::Header::new_gnu();
                header.set_size(length.try_into().unwrap());
                header.set_mode(0o644);
                tar.append_data(&mut header, &path, &content[..]).unwrap();
                files.push((path, content));
            }
            tar.into_inner().unwrap()
        };
        let tars = vec![layer("low", 60), layer("high", 40)];
        let blobs: Vec<_> = tars.iter().map(|tar| gzip(tar, 1)).collect();
        let plain = write_layout(&pipeline.path("plain"), &tars, &blobs);
        let layout = pipeline.convert(&plain.reference(), "lazy", Format::Estargz);
        let image = pipeline.image("app:1");
        pipeline.push(&layout, &image, true);
        pipeline.sign(&image, "signer");
        let inspect = |options: &[&str]| {
            let (name, insecure) = (format!("docker://{image}"), "--tls-verify=false");
            let arguments = [&["inspect", insecure], options, &[&*name]].concat();
            tool("skopeo", arguments).stdout
        };
        let raw = inspect(&["--raw"]);
        let manifest: serde_json::Value = serde_json::from_slice(&raw).unwrap();
        let config: serde_json::Value =
            serde_json::from_slice(&inspect(&["--config", "--raw"])).unwrap();
        let text = |it: &serde_json::Value| it.as_str().unwrap().to_owned();
        let mut chain: Option<String> = None;
        let layers = manifest["layers"].as_array().unwrap().iter();
        let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
        let layers = layers.zip(diff_ids).map(|(layer, diff_id)| {
            let next = match &chain {
                None => text(diff_id),
                Some(below) => {
                    Digest::sha256(format!("{below} {}", text(diff_id)).as_bytes()).to_string()
                }
            };
            chain = Some(next.clone());
            Layer {
                digest: text(&layer["digest"]),
                chain_id: next,
            }
        });
        let layers = layers.collect();
        Some(Self {
            manifest: Digest::sha256(&raw).to_string(),
            layers,
            files,
            pipeline,
        })
    }

    fn config(&self, front_end: FrontEnd) -> String {
        format!(
            "front_end = \"{front_end}\"\n[snapshotter]\nmin_lazy_kib = 0\n[fetch]\ncomplete = false\n[trust]\npolicy = {:?}\n[keys]\n\
             decryption_keys = [{:?}]\n",
            self.pipeline.path("policy.json"),
            self.pipeline.path("layer.pem"),
        )
    }

    async fn container(&self, daemon: &Daemon, name: &str) -> Overlay {
        let image = self.pipeline.image("app:1");
        daemon.pull(&image, &self.manifest, &self.layers).await;
        let top = &self.layers[self.layers.len() - 1].chain_id;
        daemon.container(name, top).await
    }

    fn reader(&self, overlay: &Overlay) -> Reader {
        let files = self.files.iter().map(|(name, content)| {
            let digest = hex::encode(Sha256::digest(content));
            (overlay.path.join(name), digest)
        });
        let list = self.pipeline.path("files");
        Reader::start(&list, &files.collect::<Vec<_>>())
    }
}

/// A signed image of two files, a registry in this process, a policy.
struct Toy {
    node: Node,
    registry: FakeRegistry,
    image: ToyImage,
    front_end: FrontEnd,
}

impl Toy {
    async fn make(front_end: FrontEnd) -> Self {
        let (node, registry) = (Node::new(), FakeRegistry::start().await);
        let (one, two) = (noise(1, 300_000), noise(2, 300_000));
        // More than a request for one of them is ever grown to, so that it never brings the other.
        let between = noise(3, 2 << 20);
        let files: [(&str, &[u8]); 3] = [("one", &one), ("between", &between), ("two", &two)];
        let image = put(&registry, "app", &[lazy(LayerFormat::Estargz, &files)]);
        node.sign(&image.reference, &image.manifest.digest).await;
        Self {
            node,
            registry,
            image,
            front_end,
        }
    }

    fn daemon(&self) -> Daemon {
        self.daemon_with("")
    }

    fn daemon_with(&self, first: &str) -> Daemon {
        let mut daemon = self.prepared(first);
        daemon.start_again();
        daemon
    }

    fn prepared(&self, first: &str) -> Daemon {
        Daemon::prepare(&self.node.path("daemon"), &self.config(first))
    }

    /// `nacre.toml` that begins with this.
    fn config(&self, first: &str) -> String {
        let policy = self.node.path("policy.json");
        let front_end = self.front_end;
        let seconds = DEADLINE.as_secs();
        format!(
            "front_end = \"{front_end}\"\n{first}\n[snapshotter]\nmin_lazy_kib = 0\n[registry]\ndeadline_seconds = {seconds}\n\
             [fetch]\ncomplete = false\n[trust]\nconfirm_after_seconds = 3600\npolicy = {policy:?}\n"
        )
    }

    async fn container(&self, daemon: &Daemon, name: &str) -> Overlay {
        daemon.pull_toy(&self.image).await;
        daemon.container(name, &self.image.chain_id(0)).await
    }

    /// A container of another image, of one file.
    async fn another(&self, daemon: &Daemon, name: &str, seed: u64) -> Overlay {
        let content = noise(seed, 300_000);
        let layer = lazy(LayerFormat::Estargz, &[("file", &content)]);
        let image = put(&self.registry, name, &[layer]);
        { &self.node }
            .sign(&image.reference, &image.manifest.digest)
            .await;
        daemon.pull_toy(&image).await;
        daemon.container(name, &image.chain_id(0)).await
    }

    /// The line of a request for the layer.
    fn blob(&self) -> String {
        format!("/blobs/{}", self.image.layers[0].descriptor.digest)
    }

    /// Waits until the registry has been asked for the layer.
    fn wait_asked(&self) {
        let asked = || {
            self.registry
                .lines()
                .iter()
                .any(|it| it.contains(&self.blob()))
        };
        until(|| asked().then_some(()));
    }
}

/// Repeats a look until it finds something.
fn until<T>(look: impl Fn() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "nothing came of it");
        std::thread::yield_now();
    }
}

fn keeper(daemon: &Daemon) -> Option<u32> {
    KeeperProcess::reach(&daemon.root, "".as_ref()).pid()
}

/// Reads in a thread of its own; it may take until the test says that it may go on.
fn read_aside(overlay: &Overlay, name: &str) -> JoinHandle<std::io::Result<Vec<u8>>> {
    let path = overlay.path.join(name);
    std::thread::spawn(move || read_past_caches(&path))
}

async fn status(daemon: &Daemon) -> Value {
    let json = ask(&daemon.socket, "/status").await.unwrap();
    serde_json::from_slice(&json).unwrap()
}

fn is_eio(result: std::io::Result<Vec<u8>>) {
    let error = result.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
}

// === tests ===

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_notices_no_kill() {
    let Some(_alone) = alone().await else { return };
    for front_end in front_ends() {
        a_reader_notices_no_kill_by(front_end).await;
    }
}

async fn a_reader_notices_no_kill_by(front_end: FrontEnd) {
    let Some(image) = Encrypted::make() else {
        return;
    };
    let mut daemon = Daemon::start(&image.pipeline.path("daemon"), &image.config(front_end));
    let overlay = image.container(&daemon, "one").await;
    let mounts = daemon.mounts();
    let mut reader = image.reader(&overlay);
    let before = reader.progress();
    for _ in 0..rounds() {
        daemon.kill();
        daemon.start_again();
        reader.progress();
        reader.progress();
    }
    assert_eq!(daemon.mounts(), mounts, "it is the same mount");
    // New containers share it.
    let other = daemon.container("two", &image.layers[1].chain_id).await;
    assert_eq!(other.read(&image.files[0].0).unwrap(), image.files[0].1);
    assert_eq!(daemon.mounts(), mounts);
    let count = reader.stop();
    let rounds = rounds();
    println!("{} files read across {rounds} kills", count - before);
    let said = daemon.said();
    let adopted = said.matches("served on").count();
    assert_eq!(adopted, rounds, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_notices_no_stop_and_no_upgrade() {
    let Some(_alone) = alone().await else { return };
    for front_end in front_ends() {
        a_reader_notices_no_stop_and_no_upgrade_by(front_end).await;
    }
}

async fn a_reader_notices_no_stop_and_no_upgrade_by(front_end: FrontEnd) {
    let Some(image) = Encrypted::make() else {
        return;
    };
    let mut daemon = Daemon::start(&image.pipeline.path("daemon"), &image.config(front_end));
    let overlay = image.container(&daemon, "one").await;
    let mut reader = image.reader(&overlay);
    reader.progress();
    let keeping = keeper(&daemon).unwrap();
    let new = image.pipeline.path("nacre-new");
    fs::copy(env!("CARGO_BIN_EXE_nacre"), &new).unwrap();
    for round in 0..rounds() {
        daemon.terminate();
        if round == 2 {
            daemon.upgrade(&new);
        }
        daemon.start_again();
        reader.progress();
        reader.progress();
    }
    println!("{} files read", reader.stop());
    assert_eq!(keeper(&daemon), Some(keeping), "it serves both programs");
    assert!(overlay.read(&image.files[99].0).unwrap() == image.files[99].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_of_the_dead_is_answered_by_the_successor() {
    let Some(_alone) = alone().await else { return };
    for front_end in front_ends() {
        what_was_asked_of_the_dead_is_answered_by_the_successor_by(front_end).await;
    }
}

async fn what_was_asked_of_the_dead_is_answered_by_the_successor_by(front_end: FrontEnd) {
    let toy = Toy::make(front_end).await;
    let mut daemon = toy.daemon();
    let overlay = toy.container(&daemon, "one").await;
    for stop in [Daemon::kill, Daemon::terminate] {
        let name = if toy.registry.requests().is_empty() {
            "two"
        } else {
            "one"
        };
        toy.registry.forget_requests();
        toy.registry.fail_next(&toy.blob(), Fault::Hang);
        let reading = read_aside(&overlay, name);
        toy.wait_asked();
        stop(&mut daemon);
        assert!(!reading.is_finished());
        toy.registry.recover();
        daemon.start_again();
        let seed = if name == "one" { 1 } else { 2 };
        assert!(reading.join().unwrap().unwrap() == noise(seed, 300_000));
        toy.registry.forget_requests();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_registry_a_cached_image_is_served_on() {
    let Some(_alone) = alone().await else { return };
    for front_end in front_ends() {
        without_its_registry_a_cached_image_is_served_on_by(front_end).await;
    }
}

async fn without_its_registry_a_cached_image_is_served_on_by(front_end: FrontEnd) {
    let toy = Toy::make(front_end).await;
    let mut daemon = toy.daemon();
    let overlay = toy.container(&daemon, "one").await;
    assert!(overlay.read("one").unwrap() == noise(1, 300_000));
    // A clean stop has everything on disk.
    daemon.terminate();
    toy.registry.fail_always("/v2/", &Fault::Close);
    daemon.start_again();
    drop_caches();
    assert!(overlay.read("one").unwrap() == noise(1, 300_000));
    let begin = Instant::now();
    is_eio(overlay.read("two"));
    let waited = begin.elapsed();
    assert!(waited < DEADLINE * 3, "{waited:?}");
    // New containers of it start.
    let other = daemon.container("two", &toy.image.chain_id(0)).await;
    assert!(other.read("one").unwrap() == noise(1, 300_000));
    toy.registry.recover();
    assert!(overlay.read("two").unwrap() == noise(2, 300_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_opened_fails_its_reads_until_it_can() {
    let Some(_alone) = alone().await else { return };
    for front_end in front_ends() {
        an_image_that_cannot_be_opened_fails_its_reads_until_it_can_by(front_end).await;
    }
}

async fn an_image_that_cannot_be_opened_fails_its_reads_until_it_can_by(front_end: FrontEnd) {
    let toy = Toy::make(front_end).await;
    let mut daemon = toy.daemon();
    let overlay = toy.container(&daemon, "one").await;
    daemon.kill();
    // Nothing of it is kept, and its registry is away.
    fs::remove_dir_all(daemon.root.join("kept")).unwrap();
    toy.registry.fail_always("/v2/", &Fault::Close);
    let reading = read_aside(&overlay, "one");
    let begin = Instant::now();
    daemon.start_again();
    assert!(
        begin.elapsed() < DEADLINE,
        "the socket does not wait for it"
    );
    is_eio(reading.join().unwrap());
    let waited = begin.elapsed();
    assert!(waited > DEADLINE / 2, "{waited:?}");
    assert!(waited < DEADLINE * 4, "{waited:?}");
    let status = status(&daemon).await;
    let adopting = &status["lazy"]["adopting"][0];
    assert_eq!(adopting["reference"], toy.image.reference);
    assert_eq!(adopting["containers"], 1);
    assert!(adopting["error"].is_string(), "{status}");
    assert_eq!(status["lazy"]["mounts"][0], Value::Null);
    toy.registry.recover();
    let bytes = until(|| overlay.read("one").ok());
    assert!(bytes == noise(1, 300_000));
    let status = self::status(&daemon).await;
    assert_eq!(status["lazy"]["adopting"][0], Value::Null, "{status}");
    assert_eq!(status["lazy"]["mounts"][0]["containers"], 1, "{status}");
    let text = ask(&daemon.socket, "/metrics").await.unwrap();
    let text = String::from_utf8_lossy(&text);
    let metrics = Exposition::parse(&text, Dialect::Prometheus).unwrap();
    let result = |it: &str| metrics.value(&format!("nacre_adopted_mounts_total{{result={it:?}}}"));
    assert_eq!((result("served"), result("failed") > 0.0), (1.0, true));
    assert_eq!(metrics.value("nacre_adopting_mounts"), 0.0);

    // The policy says no: at once, and until it says yes again.
    daemon.kill();
    toy.node.policy("reject");
    daemon.start_again();
    is_eio(overlay.read("one"));
    assert!(daemon.said().contains("reject"), "{}", daemon.said());
    assert_eq!(daemon.metric("nacre_adopting_mounts "), 1.0);
    toy.node.policy("sigstoreSigned");
    // A new container is what makes it open at once.
    let other = daemon.container("two", &toy.image.chain_id(0)).await;
    assert!(other.read("one").unwrap() == noise(1, 300_000));
    assert!(overlay.read("two").unwrap() == noise(2, 300_000));
    assert_eq!(daemon.mounts().len(), 1);
    assert_eq!(daemon.metric("nacre_adopting_mounts "), 0.0);
    assert_eq!(daemon.metric("nacre_mounts "), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_keeper_is_replaced_before_it_is_needed() {
    let Some(_alone) = alone().await else { return };
    for front_end in front_ends() {
        a_killed_keeper_is_replaced_before_it_is_needed_by(front_end).await;
    }
}

async fn a_killed_keeper_is_replaced_before_it_is_needed_by(front_end: FrontEnd) {
    let toy = Toy::make(front_end).await;
    let mut daemon = toy.daemon();
    let overlay = toy.container(&daemon, "one").await;
    for seed in [1, 2] {
        let old = keeper(&daemon).unwrap();
        kill(Pid::from_raw(old.try_into().unwrap()), Signal::SIGKILL).unwrap();
        // That one has been given everything.
        until(|| {
            let new = KeeperProcess::reach(&daemon.root, "".as_ref());
            let kept = new.list().is_ok_and(|kept| !kept.is_empty());
            (kept && new.pid() != Some(old)).then_some(())
        });
        daemon.kill();
        daemon.start_again();
        let name = ["one", "two"][seed - 1];
        assert!(overlay.read(name).unwrap() == noise(seed as u64, 300_000));
    }

    // Both killed: the mount is lost, and new containers get another.
    let old = keeper(&daemon).unwrap();
    daemon.kill();
    kill(Pid::from_raw(old.try_into().unwrap()), Signal::SIGKILL).unwrap();
    until(|| overlay.read("one").err());
    daemon.start_again();
    let other = daemon.container("two", &toy.image.chain_id(0)).await;
    assert!(other.read("one").unwrap() == noise(1, 300_000));
    overlay.read("one").unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_nobody_has_any_more_is_not_adopted() {
    let Some(_alone) = alone().await else { return };
    for front_end in front_ends() {
        an_image_that_nobody_has_any_more_is_not_adopted_by(front_end).await;
    }
}

async fn an_image_that_nobody_has_any_more_is_not_adopted_by(front_end: FrontEnd) {
    let toy = Toy::make(front_end).await;
    let mut daemon = toy.daemon();
    drop(toy.container(&daemon, "one").await);
    assert_eq!(daemon.mounts().len(), 1);
    daemon.remove("one").await;
    daemon.remove(&toy.image.chain_id(0)).await;
    daemon.kill();
    assert_eq!(daemon.has_devices(), front_end == FrontEnd::Erofs);
    daemon.start_again();
    assert_eq!((daemon.mounts().len(), daemon.has_devices()), (0, false));
    daemon.terminate();
    until(|| keeper(&daemon).is_none().then_some(()));
}

/// What is mounted at the lower directories.
fn entries(daemon: &Daemon) -> Vec<MountEntry> {
    let mounts = daemon.mounts().into_iter();
    mounts
        .map(|it| mountinfo::at(&it).unwrap().unwrap())
        .collect()
}

/// The types of that, sorted.
fn kinds(daemon: &Daemon) -> Vec<String> {
    let mut kinds: Vec<_> = entries(daemon).into_iter().map(|it| it.kind).collect();
    kinds.sort();
    kinds
}

/// The FUSE connections that EROFS mounts hang on.
fn connections(daemon: &Daemon) -> HashSet<String> {
    let sources = entries(daemon).into_iter().map(|it| it.source);
    let sources = sources.map(|it| it.into_string().unwrap());
    sources
        .filter_map(|it| Some(it.rsplit_once('~')?.1.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_mounts_otherwise_serves_on_what_is_there() {
    let Some(_alone) = alone().await else { return };
    if front_ends().len() < 2 {
        return;
    }
    for (front_end, other) in [("erofs", "fuse"), ("fuse", "erofs"), ("auto", "fuse")] {
        let mut toy = Toy::make(front_end.parse().unwrap()).await;
        let mut daemon = toy.daemon();
        let overlay = toy.container(&daemon, "one").await;
        assert!(overlay.read("one").unwrap() == noise(1, 300_000));
        let (mounts, kinds_before) = (daemon.mounts(), kinds(&daemon));
        let kind = if front_end == "fuse" {
            "fuse.nacre"
        } else {
            "erofs"
        };
        assert_eq!(kinds_before, [kind]);
        toy.front_end = other.parse().unwrap();
        daemon.configure(&toy.config(""));
        for stop in [Daemon::kill, Daemon::terminate] {
            stop(&mut daemon);
            let reading = read_aside(&overlay, "two");
            daemon.start_again();
            assert!(reading.join().unwrap().unwrap() == noise(2, 300_000));
            assert_eq!(
                (daemon.mounts(), kinds(&daemon)),
                (mounts.clone(), kinds_before.clone())
            );
            let told = &status(&daemon).await["lazy"]["mounts"][0]["front_end"];
            assert_eq!(told, if front_end == "fuse" { "fuse" } else { "erofs" });
        }

        // What is mounted from here on is mounted otherwise.
        let second = toy.another(&daemon, "other", 3).await;
        assert!(second.read("file").unwrap() == noise(3, 300_000));
        assert_eq!(kinds(&daemon), ["erofs", "fuse.nacre"]);
        daemon.kill();
        toy.front_end = FrontEnd::Erofs;
        daemon.configure(&toy.config(""));
        daemon.start_again();
        assert!(second.read("file").unwrap() == noise(3, 300_000));
        assert!(overlay.read("one").unwrap() == noise(1, 300_000));
        // On the devices of a process that is dead.
        let third = toy.another(&daemon, "third", 4).await;
        assert!(third.read("file").unwrap() == noise(4, 300_000));
        assert_eq!(kinds(&daemon), ["erofs", "erofs", "fuse.nacre"]);
        assert_eq!(connections(&daemon).len(), 1);
        daemon.kill();
        daemon.start_again();
        assert!(third.read("file").unwrap() == noise(4, 300_000));
        assert!(second.read("file").unwrap() == noise(3, 300_000));
        assert!(overlay.read("two").unwrap() == noise(2, 300_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_mounts_end_with_the_daemon() {
    let Some(_alone) = alone().await else { return };
    for front_end in front_ends() {
        switched_off_mounts_end_with_the_daemon_by(front_end).await;
    }
}

async fn switched_off_mounts_end_with_the_daemon_by(front_end: FrontEnd) {
    let toy = Toy::make(front_end).await;
    let mut daemon = toy.daemon_with("hand_over = \"off\"");
    drop(toy.container(&daemon, "one").await);
    assert_eq!((daemon.mounts().len(), keeper(&daemon)), (1, None));
    daemon.terminate();
    assert_eq!((daemon.mounts().len(), daemon.has_devices()), (0, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn release_leaves_no_mount_no_process_and_no_socket() {
    let Some(_alone) = alone().await else { return };
    for front_end in front_ends() {
        release_leaves_no_mount_no_process_and_no_socket_by(front_end).await;
    }
}

async fn release_leaves_no_mount_no_process_and_no_socket_by(front_end: FrontEnd) {
    let toy = Toy::make(front_end).await;
    let mut daemon = toy.daemon();
    let overlay = toy.container(&daemon, "one").await;
    let process = Watched::new(keeper(&daemon).unwrap()).unwrap();
    let running = daemon.release(&[]);
    running.failed(8, &["in use", "stop the daemon"]);
    daemon.terminate();

    // In use: it says by what, and takes nothing away.
    let used = daemon.release(&["--json"]);
    assert_eq!(used.code, 8, "{}", used.stderr);
    let said: serde_json::Value = serde_json::from_slice(&used.stdout).unwrap();
    let by = said["in_use"][0]["users"][0].as_str().unwrap();
    let at = overlay.path.display().to_string();
    assert!(by.contains(&at), "{by}");
    assert_eq!(daemon.mounts().len(), 1);
    daemon.start_again();
    assert!(overlay.read("one").unwrap() == noise(1, 300_000));
    daemon.terminate();

    drop(overlay);
    let done = daemon.release(&[]).text();
    assert!(done.contains("released"), "{done}");
    assert_eq!((daemon.mounts().len(), daemon.has_devices()), (0, false));
    assert!(process.wait(PATIENCE).unwrap());
    assert!(!daemon.root.join("keeper.sock").exists());
    assert_eq!(daemon.release(&[]).text().trim(), "nothing is mounted");

    // By force: users get errors, nobody waits for ever.
    daemon.start_again();
    let overlay = daemon.container("two", &toy.image.chain_id(0)).await;
    let process = Watched::new(keeper(&daemon).unwrap()).unwrap();
    daemon.terminate();
    let reading = read_aside(&overlay, "two");
    daemon.release(&["--force"]).ok();
    reading.join().unwrap().unwrap_err();
    assert_eq!(daemon.mounts().len(), 0);
    assert!(process.wait(PATIENCE).unwrap());
}

// === systemd ===

/// Stores descriptors and passes them on, as the manager of a service does.
struct Manager {
    directory: tempfile::TempDir,
    stored: Arc<Mutex<HashMap<String, Vec<OwnedFd>>>>,
    listener: UnixListener,
}

impl Manager {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let stored = Arc::<Mutex<HashMap<String, Vec<OwnedFd>>>>::default();
        let manager = Self {
            directory,
            stored: Arc::clone(&stored),
            listener,
        };
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(got) = descriptors::receive(&socket, &mut buffer, true) {
                let text = String::from_utf8_lossy(&buffer[..got.length]).into_owned();
                let name = text.lines().find_map(|it| it.strip_prefix("FDNAME="));
                let mut stored = stored.lock().unwrap();
                match (text.lines().next(), name) {
                    (Some("FDSTORE=1"), Some(name)) => {
                        stored
                            .entry(name.to_owned())
                            .or_default()
                            .extend(got.descriptors);
                    }
                    (Some("FDSTOREREMOVE=1"), Some(name)) => drop(stored.remove(name)),
                    // The barrier's descriptor is closed.
                    _ => {}
                }
            }
        });
        manager
    }

    fn names(&self) -> Vec<String> {
        self.stored.lock().unwrap().keys().cloned().collect()
    }

    /// A shell that starts the program with the socket and everything that is stored; with what must
    /// stay open until then.
    fn command(&self) -> (Command, Vec<OwnedFd>) {
        let stored = self.stored.lock().unwrap();
        let mut passed = vec![("nacre.socket", self.listener.as_fd())];
        let each = stored
            .iter()
            .flat_map(|(name, all)| all.iter().map(move |it| (name, it)));
        passed.extend(each.map(|(name, it)| (&**name, it.as_fd())));
        let (mut names, mut open, mut up, mut down) = (vec![], vec![], vec![], vec![]);
        for (place, (name, descriptor)) in passed.into_iter().enumerate() {
            // A duplicate without the flag that closes it.
            let copy = descriptor.try_clone_to_owned().unwrap();
            fcntl(&copy, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
            // By way of high numbers, so that none is overwritten before it has been moved.
            let (from, via, to) = (copy.as_raw_fd(), HIGH + place, FIRST + place);
            assert!(usize::try_from(from).unwrap() < HIGH);
            up.push(format!("{via}<&{from} {from}<&-"));
            down.push(format!("{to}<&{via} {via}<&-"));
            names.push(name.to_owned());
            open.push(copy);
        }
        let script = format!(
            "exec {}; exec {}; export LISTEN_FDS={} LISTEN_FDNAMES={} LISTEN_PID=$$; exec \"$@\"",
            up.join(" "),
            down.join(" "),
            names.len(),
            names.join(":"),
        );
        let mut command = Command::new("/bin/bash");
        command.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_nacre")]);
        command.env("NOTIFY_SOCKET", self.path("notify"));
        (command, open)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // The thread stays, and must not keep anything alive.
        self.stored.lock().unwrap().clear();
    }
}

/// The first number that a service gets, and one beyond those that this process has.
const FIRST: usize = 3;
const HIGH: usize = 500;

#[tokio::test(flavor = "multi_thread")]
async fn systemd_keeps_descriptors_and_hands_them_to_the_next() {
    let Some(_alone) = alone().await else { return };
    for front_end in front_ends() {
        systemd_keeps_descriptors_and_hands_them_to_the_next_by(front_end).await;
    }
}

async fn systemd_keeps_descriptors_and_hands_them_to_the_next_by(front_end: FrontEnd) {
    let toy = Toy::make(front_end).await;
    let manager = Manager::start();
    let mut daemon = toy.prepared("");
    daemon.socket = manager.path("s");
    let start = |daemon: &mut Daemon| {
        let (command, open) = manager.command();
        daemon.start_by(command);
        drop(open);
    };
    start(&mut daemon);
    assert_eq!(
        manager.names(),
        <[&str; 0]>::default(),
        "the probe is taken back"
    );
    let overlay = toy.container(&daemon, "one").await;
    let names = manager.names();
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(names[0].starts_with("nacre.1."), "{names:?}");
    assert_eq!(keeper(&daemon), None);
    for (round, stop) in [Daemon::kill, Daemon::terminate, Daemon::kill]
        .iter()
        .enumerate()
    {
        // It waits while nobody is there.
        let name = ["one", "two"][round % 2];
        stop(&mut daemon);
        let reading = read_aside(&overlay, name);
        start(&mut daemon);
        let seed = 1 + round as u64 % 2;
        assert!(reading.join().unwrap().unwrap() == noise(seed, 300_000));
    }
    assert_eq!(manager.names(), names);

    // Nobody has the image any more.
    drop(overlay);
    daemon.remove("one").await;
    daemon.remove(&toy.image.chain_id(0)).await;
    daemon.kill();
    start(&mut daemon);
    until(|| manager.names().is_empty().then_some(()));

    // A change of keepers takes what is kept along.
    let overlay = toy.container(&daemon, "two").await;
    daemon.kill();
    daemon.configure(&toy.config("hand_over = \"keeper\""));
    start(&mut daemon);
    assert!(overlay.read("one").unwrap() == noise(1, 300_000));
    until(|| manager.names().is_empty().then_some(()));
    assert!(keeper(&daemon).is_some());
    daemon.kill();
    daemon.configure(&toy.config(""));
    start(&mut daemon);
    assert!(overlay.read("two").unwrap() == noise(2, 300_000));
    assert_eq!(manager.names().len(), 1);
    until(|| keeper(&daemon).is_none().then_some(()));
    drop(overlay);
    // What the manager keeps would keep the file system from ending.
    drop(daemon);
    drop(manager);
}
