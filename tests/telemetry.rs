//! What `nacre serve` tells about itself: metrics that move when something happens, readiness that
//! names what is wrong, a status that lists mounts, log lines with the events that are documented. Real
//! mounts need root and /dev/fuse; says so where it skips.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod fixture;
mod support;

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use fixture::can_mount;
use nacre::{
    index::write::Format as LayerFormat,
    snapshotter::{
        LazyImages, Options, Snapshotter, Verdict,
        images::{Images, ImagesConfig},
    },
    telemetry::{Format, Sources, Telemetry, status::Status},
};
use nacre_snapshotter_proto::containerd::{
    services::snapshots::v1::{PrepareSnapshotRequest, snapshots_client::SnapshotsClient},
    types::Mount,
};
use serde_json::Value;
use support::{
    docker_registry::installed,
    exposition::{Dialect, Exposition},
    program::{self, Ran},
    registry::{Auth, FakeRegistry, Fault, Setup},
    toy::{Gated, Node, ToyImage, ToyLayer, lazy, put},
};
use tonic::{Code, Status as Answer, transport::Channel};

/// A `nacre serve`, its log, and how to ask it.
struct Daemon {
    child: Child,
    home: PathBuf,
    socket: PathBuf,
    metrics: SocketAddr,
    log: Option<JoinHandle<Vec<String>>>,
    http: reqwest::Client,
}

// === impl Daemon ===

impl Daemon {
    /// Serves with the state, store and policy of `node`, and this besides.
    fn serve(node: &Node, flags: &[&str], config: &str) -> Self {
        let home = node.directory.path().to_owned();
        let socket = home.join("nacre.sock");
        let text = format!(
            "root = {:?}\nsocket = {socket:?}\n{config}[metrics]\naddress = \"127.0.0.1:0\"\n\
             [log]\nformat = \"json\"\n[snapshotter]\nmin_lazy_kib = 0\n",
            home.join("root"),
        );
        fs::write(home.join("nacre.toml"), text).unwrap();
        fs::create_dir_all(home.join("root")).unwrap();
        let file = home.join("nacre.toml").display().to_string();
        let words = ["--json", "serve", "--config", &file];
        let mut child = program::command(&home, [&words[..], flags].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = std::thread::spawn(move || stderr.lines().map(Result::unwrap).collect());
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "nacre serve ended");
        let ready: Value = serde_json::from_str(&line).unwrap();
        Self {
            child,
            home,
            socket,
            metrics: ready["metrics"].as_str().unwrap().parse().unwrap(),
            log: Some(log),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.http.get(format!("http://{}{path}", self.metrics));
        let answer = answer.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// The metrics, read in both forms; the numbers of the second.
    async fn metrics(&self) -> Exposition {
        let url = format!("http://{}/metrics", self.metrics);
        let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        let asked = self.http.get(&url).header("accept", accept);
        let answer = asked.send().await.unwrap();
        let kind = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(
            kind.starts_with("application/openmetrics-text; version=1.0.0"),
            "{kind}"
        );
        let text = answer.text().await.unwrap();
        Exposition::parse(&text, Dialect::OpenMetrics).unwrap();
        let answer = self.http.get(&url).send().await.unwrap();
        let kind = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        let text = answer.text().await.unwrap();
        Exposition::parse(&text, Dialect::Prometheus).unwrap()
    }

    async fn client(&self) -> SnapshotsClient<Channel> {
        let uri = format!("unix://{}", self.socket.display());
        SnapshotsClient::connect(uri).await.unwrap()
    }

    fn status(&self, flags: &[&str]) -> Ran {
        let socket = self.socket.display().to_string();
        let words = ["status", "--socket", &socket];
        program::run(&self.home, [&words[..], flags].concat())
    }

    fn status_json(&self) -> Value {
        self.status(&["--json"]).json()
    }

    /// Ends it and gives what it logged.
    fn stop(mut self) -> Log {
        self.terminate();
        let lines = self.log.take().unwrap().join().unwrap();
        Log(lines
            .iter()
            .map(|it| serde_json::from_str(it).unwrap_or_else(|_| panic!("not JSON: {it}")))
            .collect())
    }

    fn terminate(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _status = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.terminate();
        program::release(&self.home.join("root"));
    }
}

/// What was logged.
struct Log(Vec<Value>);

impl Log {
    /// The fields of an event that must have been logged with these fields.
    #[track_caller]
    fn event(&self, name: &str, fields: &[&str]) -> Value {
        let found = self.0.iter().find(|it| it["fields"]["event"] == name);
        let Some(found) = found else {
            panic!("no {name} in {:#?}", self.0);
        };
        for field in fields {
            assert!(
                !found["fields"][field].is_null(),
                "{name} has no {field}: {found}"
            );
        }
        found["fields"].clone()
    }
}

/// Bytes that nothing compresses.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn layer(name: &str, seed: u64) -> ToyLayer {
    lazy(LayerFormat::Estargz, &[(name, &noise(seed, 600_000))])
}

/// Asks for a layer or, without a number, for a container on top of all, as containerd does.
async fn prepare(
    client: &mut SnapshotsClient<Channel>,
    image: &ToyImage,
    number: Option<usize>,
) -> Result<Vec<Mount>, Answer> {
    let count = image.layers.len();
    let parent = match number {
        Some(0) => String::new(),
        Some(number) => image.chain_id(number - 1),
        None => image.chain_id(count - 1),
    };
    let labels = number.map_or_else(HashMap::new, |number| {
        let layer = image.layers[number].descriptor.digest.to_string();
        let label = |name: &str, value: String| (format!("containerd.io/snapshot{name}"), value);
        HashMap::from([
            label(".ref", image.chain_id(number)),
            label("/cri.image-ref", image.reference.clone()),
            label("/cri.layer-digest", layer),
            label("/cri.manifest-digest", image.manifest.digest.to_string()),
        ])
    });
    let request = PrepareSnapshotRequest {
        snapshotter: "nacre".into(),
        key: format!("key-{number:?}-{}", image.reference),
        parent,
        labels,
    };
    Ok(client.prepare(request).await?.into_inner().mounts)
}

/// Pulls all layers of an image lazily.
async fn pull(client: &mut SnapshotsClient<Channel>, image: &ToyImage) {
    for number in 0..image.layers.len() {
        let answer = prepare(client, image, Some(number)).await.unwrap_err();
        assert_eq!(answer.code(), Code::AlreadyExists, "{answer}");
    }
}

/// The directory that shows the image, out of a container's overlay.
fn lower(mounts: &[Mount]) -> PathBuf {
    let mut options = mounts[0].options.iter();
    let lowers = options.find_map(|it| it.strip_prefix("lowerdir="));
    lowers.unwrap().split(':').next().unwrap().into()
}

/// Reads a file past the page cache.
async fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let file = file.to_owned();
    let read = move || {
        let opened = fs::File::open(&file)?;
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        nix::fcntl::posix_fadvise(opened.as_fd(), 0, 0, advice)?;
        fs::read(&file)
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_move_and_the_status_lists_the_mount() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = put(&registry, "app", &[layer("a", 1), layer("b", 2)]);
    let unsigned = put(&registry, "unsigned", &[layer("c", 3)]);
    let policy = node.path("policy.json");
    // Only what is read is fetched, and counted.
    let config = format!(
        "[trust]\npolicy = {policy:?}\nconfirm_after_seconds = 3600\n[fetch]\ncomplete = false\n"
    );
    let daemon = Daemon::serve(&node, &[], &config);
    let mut client = daemon.client().await;

    let before = daemon.metrics().await;
    assert_eq!(before.value("nacre_build_info{version=\"0.1.0\"}"), 1.0);
    assert_eq!(before.sum("nacre_ready{"), 5.0);
    assert_eq!(
        before.sum("nacre_images_") + before.value("nacre_mounts"),
        0.0
    );
    assert!(before.value("process_resident_memory_bytes") > 1e6);
    assert!(before.value("process_open_fds") > 3.0);

    // Refused, and the reason is counted.
    let refused = prepare(&mut client, &unsigned, Some(0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    // Lazily pulled; the registry stumbles once.
    node.sign(&image.reference, &image.manifest.digest).await;
    let blob = image.layers[1].descriptor.digest.to_string();
    registry.fail_next(&blob, Fault::Status(503));
    pull(&mut client, &image).await;

    let pulled = daemon.metrics().await;
    let host = registry.host();
    let operations = |result: &str| {
        format!("nacre_snapshot_operations_total{{method=\"prepare\",result=\"{result}\"}}")
    };
    for (series, value) in [
        (operations("already_exists"), 2.0),
        (operations("permission_denied"), 1.0),
        (operations("ok"), 0.0),
        (
            "nacre_images_admitted_total{class=\"plain+signed\"}".into(),
            1.0,
        ),
        ("nacre_images_refused_total{kind=\"denied\"}".into(), 1.0),
        ("nacre_images_refused_total{kind=\"corrupt\"}".into(), 0.0),
        ("nacre_image_open_duration_seconds_count".into(), 1.0),
        ("nacre_snapshots{kind=\"lazy\"}".into(), 2.0),
        ("nacre_confirmations_waiting".into(), 2.0),
        (
            format!("nacre_registry_retries_total{{host=\"{host}\"}}"),
            1.0,
        ),
        (
            format!("nacre_registry_requests_total{{code=\"5xx\",host=\"{host}\"}}"),
            1.0,
        ),
    ] {
        assert_eq!(pulled.value(&series), value, "{series}");
    }
    let bytes = format!("nacre_registry_received_bytes_total{{host=\"{host}\"}}");
    assert!(pulled.value(&bytes) > 0.0);
    let took = format!("nacre_registry_request_duration_seconds_count{{host=\"{host}\"}}");
    let answered = format!("nacre_registry_requests_total{{code=\"2xx\",host=\"{host}\"}}");
    assert!(pulled.value(&took) > pulled.value(&answered));
    let status = daemon.status_json();
    assert_eq!(status["lazy"]["images"][0]["reference"], image.reference);
    assert_eq!(status["lazy"]["mounts"], Value::Array(Vec::new()));
    assert_eq!(status["snapshots"]["lazy"], 2);

    if can_mount() {
        a_container_reads(&daemon, &registry, &image, &mut client).await;
    }
    let text = daemon.status(&[]).text();
    assert!(
        text.contains(&image.reference) && text.contains("1 refused"),
        "{text}"
    );
    // The address shows no images, takes no other methods, and no large heads.
    assert_eq!(daemon.get("/status").await.0, 404);
    let posted = daemon
        .http
        .post(format!("http://{}/metrics", daemon.metrics));
    assert_eq!(posted.send().await.unwrap().status(), 405);
    let large = daemon
        .http
        .get(format!("http://{}/metrics", daemon.metrics));
    let large = large.header("x-large", "x".repeat(100_000)).send().await;
    assert!(large.map_or(true, |it| it.status() == 431));
    promtool(&daemon).await;

    let socket = daemon.socket.clone();
    let log = daemon.stop();
    log.event("serving", &["version", "socket", "metrics", "root"]);
    let fields = ["image", "manifest", "class", "layers", "bytes", "seconds"];
    log.event("image_admitted", &fields);
    log.event("image_refused", &["image", "kind", "seconds", "error"]);
    log.event("layer_lazy", &["image", "layer", "chain_id"]);
    log.event("registry_retry", &["kind", "attempt", "seconds", "error"]);
    log.event("stopping", &["signal"]);
    if can_mount() {
        log.event("image_mounted", &[&fields[..], &["directory"]].concat());
        let failed = ["image", "file", "offset", "length", "kind", "error"];
        assert_eq!(log.event("read_failed", &failed)["file"], "b");
    }

    let socket = socket.display().to_string();
    let gone = program::run(node.directory.path(), ["status", "--socket", &socket]);
    gone.failed(
        7,
        &[
            &format!("no nacre serve listens on {socket}"),
            "systemctl start nacre",
        ],
    );
}

/// A container starts and reads through the kernel: from the registry, from memory, and in vain.
async fn a_container_reads(
    daemon: &Daemon,
    registry: &FakeRegistry,
    image: &ToyImage,
    client: &mut SnapshotsClient<Channel>,
) {
    let directory = lower(&prepare(client, image, None).await.unwrap());
    let started = daemon.metrics().await;
    assert_eq!(started.value("nacre_mounts"), 1.0);
    assert_eq!(started.value("nacre_mount_duration_seconds_count"), 1.0);
    assert_eq!(started.value("nacre_snapshots{kind=\"active\"}"), 1.0);
    assert_eq!(started.value("nacre_reads_total"), 0.0);

    let from = |place: &str| format!("nacre_read_duration_seconds_count{{from=\"{place}\"}}");
    assert_eq!(read(&directory.join("a")).await.unwrap(), noise(1, 600_000));
    let first = daemon.metrics().await;
    assert!(first.value(&from("source")) >= 1.0);
    assert!(first.value("nacre_read_bytes_total") >= 600_000.0);
    assert!(first.value("nacre_fetched_bytes_total") >= 500_000.0);
    assert!(first.value("nacre_chunks_verified_total") >= 1.0);
    assert!(first.value("nacre_store_misses_total") >= 1.0);
    assert!(first.value("nacre_store_bytes{tier=\"memory\"}") >= 600_000.0);
    assert!(
        first.value("nacre_store_limit_bytes{tier=\"memory\"}")
            > first.value("nacre_store_bytes{tier=\"memory\"}")
    );

    assert_eq!(read(&directory.join("a")).await.unwrap(), noise(1, 600_000));
    let second = daemon.metrics().await;
    assert!(second.value(&from("memory")) > first.value(&from("memory")));
    assert_eq!(second.value(&from("source")), first.value(&from("source")));
    assert_eq!(
        second.value("nacre_fetched_bytes_total"),
        first.value("nacre_fetched_bytes_total")
    );
    assert_eq!(second.sum("nacre_failed_reads_total"), 0.0);

    // Layer b is gone from the registry.
    let blob = image.layers[1].descriptor.digest.to_string();
    registry.fail_always(&blob, &Fault::Status(404));
    let error = read(&directory.join("b")).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    registry.recover();
    let third = daemon.metrics().await;
    assert!(third.value("nacre_failed_reads_total{kind=\"not-found\"}") >= 1.0);

    let status = daemon.status_json();
    let mount = &status["lazy"]["mounts"][0];
    assert_eq!(mount["reference"], image.reference);
    assert_eq!(mount["manifest"], image.manifest.digest.to_string());
    assert_eq!(mount["class"], "plain+signed");
    assert_eq!(mount["directory"], directory.display().to_string());
    for (field, value) in [
        ("layers", 2),
        ("of_layers", 2),
        ("snapshots", 1),
        ("containers", 1),
    ] {
        assert_eq!(mount[field], value, "{field} of {mount}");
    }
    assert_eq!(
        (&mount["alive"], &mount["poisoned"]),
        (&Value::Bool(true), &Value::Null)
    );
    assert_eq!(mount["indexes"], serde_json::json!(["estargz", "estargz"]));
    for field in [
        "reads",
        "read_bytes",
        "failed_reads",
        "fetched_bytes",
        "bytes",
    ] {
        assert!(mount[field].as_u64().unwrap() > 0, "{field} of {mount}");
    }
    assert!(status["lazy"]["store"]["hit_rate"].as_f64().unwrap() > 0.0);
    let text = daemon.status(&[]).text();
    assert!(text.contains(&directory.display().to_string()), "{text}");
}

/// Prometheus' own checker, if it is there.
async fn promtool(daemon: &Daemon) {
    if installed("promtool").is_none() {
        return;
    }
    let (_, text) = daemon.get("/metrics").await;
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_what_is_wrong() {
    let node = Node::new();
    let key = node.path("node.pem");
    fs::copy("tests/data/ocicrypt/keys/rsa-pkcs8.pem", &key).unwrap();
    let config = format!(
        "[trust]\npolicy = {:?}\n[keys]\ndecryption_keys = [{key:?}]\n",
        node.path("policy.json")
    );
    let daemon = Daemon::serve(&node, &[], &config);
    let all = "database: ok\nsocket: ok\npolicy: ok\nkeys: ok\nstore: ok\n";
    assert_eq!(daemon.get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(daemon.get("/readyz").await, (200, all.to_owned()));

    let policy = fs::read(node.path("policy.json")).unwrap();
    let store = node.path("root/store");
    let socket = &daemon.socket;
    let aside = node.path("aside");
    type Step<'a> = Box<dyn Fn() + 'a>;
    let steps: [(&str, Step<'_>, Step<'_>, &str); 5] = [
        (
            "policy",
            Box::new(|| fs::write(node.path("policy.json"), "{\"default\": [}").unwrap()),
            Box::new(|| fs::write(node.path("policy.json"), &policy).unwrap()),
            "policy.json",
        ),
        (
            "policy",
            Box::new(|| fs::rename(node.path("policy.json"), &aside).unwrap()),
            Box::new(|| fs::rename(&aside, node.path("policy.json")).unwrap()),
            "policy.json",
        ),
        (
            "keys",
            Box::new(|| fs::rename(&key, &aside).unwrap()),
            Box::new(|| fs::rename(&aside, &key).unwrap()),
            "node.pem",
        ),
        (
            "store",
            Box::new(|| fs::rename(&store, &aside).unwrap()),
            Box::new(|| fs::rename(&aside, &store).unwrap()),
            "not writable",
        ),
        (
            "socket",
            Box::new(|| fs::rename(socket, &aside).unwrap()),
            Box::new(|| fs::rename(&aside, socket).unwrap()),
            "nacre.sock",
        ),
    ];
    for (check, spoil, mend, named) in steps {
        spoil();
        let (code, body) = daemon.get("/readyz").await;
        let wrong: Vec<_> = body.lines().filter(|it| !it.ends_with(": ok")).collect();
        assert_eq!((code, wrong.len()), (503, 1), "{body}");
        assert!(
            wrong[0].starts_with(&format!("{check}: not ready: ")),
            "{body}"
        );
        assert!(wrong[0].contains(named), "{body}");
        assert_eq!(daemon.get("/healthz").await.0, 200);
        let metrics = daemon.metrics().await;
        assert_eq!(
            metrics.value(&format!("nacre_ready{{check=\"{check}\"}}")),
            0.0
        );
        assert_eq!(metrics.sum("nacre_ready{"), 4.0);
        if check != "socket" {
            let status = daemon.status_json();
            assert_eq!(status["ready"], false);
            let text = daemon.status(&[]).text();
            assert!(
                text.contains("ready      NO") && text.contains(named),
                "{text}"
            );
        }
        mend();
        assert_eq!(daemon.get("/readyz").await, (200, all.to_owned()));
    }
    let status = daemon.status_json();
    let read = &status["lazy"]["policy"];
    assert_eq!(read["error"], Value::Null);
    assert!(
        read["default"][0]
            .as_str()
            .unwrap()
            .starts_with("sigstoreSigned"),
        "{read}"
    );
    assert!(read["modified"].as_str().unwrap().ends_with('Z'), "{read}");
    assert_eq!(
        status["lazy"]["keys"]["private_keys"][0],
        key.display().to_string()
    );
    let log = daemon.stop();
    log.event("not_ready", &["check", "error"]);
    log.event("ready_again", &["check"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_lazy_images_there_are_snapshots_to_tell_of() {
    let node = Node::new();
    let daemon = Daemon::serve(&node, &[], "lazy = false\n");
    let mut client = daemon.client().await;
    let image = ToyImage {
        reference: "registry.example/app:1".into(),
        manifest: layer("a", 1).descriptor,
        layers: vec![layer("a", 1)],
    };
    // Policy is not asked: containerd unpacks.
    prepare(&mut client, &image, Some(0)).await.unwrap();
    let metrics = daemon.metrics().await;
    assert_eq!(metrics.value("nacre_snapshots{kind=\"active\"}"), 1.0);
    assert_eq!(metrics.sum("nacre_ready{"), 2.0);
    assert!(!metrics.types.contains_key("nacre_mounts"));
    assert_eq!(
        daemon.get("/readyz").await,
        (200, "database: ok\nsocket: ok\n".to_owned())
    );
    assert_eq!(daemon.status_json()["lazy"], Value::Null);
    let text = daemon.status(&[]).text();
    assert!(
        text.contains("no: containerd unpacks every layer"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_keep_others_out_for_long() {
    let node = Node::new();
    let config = format!("[trust]\npolicy = {:?}\n", node.path("policy.json"));
    let daemon = Daemon::serve(&node, &[], &config);
    let begin = Instant::now();
    // More than are served at once.
    let idle: Vec<_> = (0..40)
        .map(|_| TcpStream::connect(daemon.metrics).unwrap())
        .collect();
    assert_eq!(daemon.get("/healthz").await.0, 200);
    assert!(
        begin.elapsed() < Duration::from_secs(15),
        "{:?}",
        begin.elapsed()
    );
    drop(idle);
    drop(daemon.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_told_nowhere() {
    let node = Node::new();
    let setup = Setup {
        auth: Auth::Bearer {
            login: Some(("somebody", "pa55word")),
            life: None,
        },
        redirect: true,
        ..Setup::default()
    };
    let registry = FakeRegistry::start_with(setup).await;
    let image = put(&registry, "app", &[layer("a", 1)]);
    node.policy("insecureAcceptAnything");
    let login = "c29tZWJvZHk6cGE1NXdvcmQ=";
    let auths = format!(
        "{{\"auths\": {{{:?}: {{\"auth\": \"{login}\"}}}}}}",
        registry.host()
    );
    fs::write(node.path("auth.json"), auths).unwrap();
    let key = node.path("p256.pem");
    fs::copy("tests/data/ocicrypt/keys/p256-encrypted.pem", &key).unwrap();
    let config = format!(
        "[trust]\npolicy = {:?}\nconfirm = \"insecure_never\"\n[registry]\nauth_files = [{:?}]\n\
         [keys]\ndecryption_keys = [\"{}:pass=secret\"]\n",
        node.path("policy.json"),
        node.path("auth.json"),
        key.display(),
    );
    let daemon = Daemon::serve(&node, &["-vv"], &config);
    let mut client = daemon.client().await;
    // A refusal, a retry, a link that has ended: what fails is what is written about.
    registry.fail_next("/manifests/", Fault::Status(401));
    registry.fail_next("/store/", Fault::Status(503));
    pull(&mut client, &image).await;
    if can_mount() {
        let directory = lower(&prepare(&mut client, &image, None).await.unwrap());
        registry.expire_links();
        assert_eq!(read(&directory.join("a")).await.unwrap(), noise(1, 600_000));
        registry.fail_always(
            &image.layers[0].descriptor.digest.to_string(),
            &Fault::Status(403),
        );
    }
    let mut told = daemon.status_json().to_string();
    assert!(told.contains("p256.pem"), "{told}");
    told += &daemon.status(&[]).text();
    for page in ["/metrics", "/readyz"] {
        told += &daemon.get(page).await.1;
    }
    let log = daemon.stop();
    log.event("layer_lazy", &["image"]);
    told += &serde_json::to_string(&log.0).unwrap();

    let seen = registry.requests();
    let mut secrets: BTreeSet<String> = ["pa55word", "secret", login].map(str::to_owned).into();
    for request in &seen {
        secrets.extend(request.authorization.iter().filter_map(|it| {
            let (_, token) = it.split_once(' ')?;
            Some(token.to_owned())
        }));
        let signature = request.line.split_once("sig=");
        secrets.extend(signature.map(|(_, rest)| format!("sig={rest}")));
    }
    assert!(secrets.len() > 5, "{secrets:?}");
    for secret in secrets {
        assert!(!told.contains(&secret), "{secret} in {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_layer_is_told_by_status_and_metrics() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let mut evil = lazy(LayerFormat::Estargz, &[("base", &noise(9, 100_000))]);
    evil.diff_id = layer("other", 1).diff_id;
    let image = put(&registry, "evil", &[evil]);
    node.sign(&image.reference, &image.manifest.digest).await;
    let gated = Arc::new(Gated::default());
    let config = ImagesConfig {
        repositories: Arc::clone(&gated) as _,
        ..node.config()
    };
    let images = Arc::new(Images::new(config).unwrap());
    let options = Options::new(node.path("snapshots"));
    let (snapshotter, _) = Snapshotter::open(options, Arc::clone(&images) as _).unwrap();
    let telemetry = Telemetry::new(Sources {
        started: SystemTime::now(),
        root: node.path("state"),
        socket: None,
        address: None,
        snapshotter,
        images: Some(Arc::clone(&images)),
    });
    let metrics = async || {
        let text = telemetry.metrics(Format::Prometheus).await.unwrap();
        Exposition::parse(&text, Dialect::Prometheus).unwrap()
    };
    let Verdict::Lazy(evidence) = images.layer(&image.request(0)).await.unwrap() else {
        panic!("not lazy");
    };
    let lower = images.lower(&evidence).await.unwrap();
    node.front_end.read(&lower, "base").unwrap();
    let before = metrics().await;
    assert_eq!(before.value("nacre_poisoned_mounts"), 0.0);
    assert_eq!(before.value("nacre_confirmations_waiting"), 1.0);

    gated.open_gate();
    images.settled().await;
    node.front_end.read(&lower, "base").unwrap_err();
    let after = metrics().await;
    for (series, value) in [
        ("nacre_poisoned_mounts", 1.0),
        ("nacre_confirmations_waiting", 0.0),
        ("nacre_confirmations_total{result=\"poisoned\"}", 1.0),
        ("nacre_failed_reads_total{kind=\"corrupt\"}", 1.0),
        ("nacre_reads_total", before.value("nacre_reads_total") + 1.0),
    ] {
        assert_eq!(after.value(series), value, "{series}");
    }
    let status = telemetry.status().await.unwrap();
    let written = serde_json::to_vec(&status).unwrap();
    assert_eq!(Status::parse(&written).unwrap(), status);
    let lazy = status.lazy.unwrap();
    assert!(
        lazy.mounts[0]
            .poisoned
            .as_ref()
            .unwrap()
            .contains("its image claims")
    );
    assert_eq!(
        (lazy.confirmation.poisoned, lazy.mounts[0].failed_reads),
        (1, 1)
    );

    // Mounts go; what they counted stays.
    images.retain(&[]).await.unwrap();
    let gone = metrics().await;
    assert_eq!(gone.value("nacre_mounts"), 0.0);
    for series in [
        "nacre_reads_total",
        "nacre_read_bytes_total",
        "nacre_fetched_bytes_total",
    ] {
        assert_eq!(gone.value(series), after.value(series), "{series}");
    }
}

#[test]
fn events_are_documented_and_nothing_else_is() {
    let mut written = BTreeSet::new();
    let mut todo = vec![PathBuf::from("src")];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|it| it.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let names = code.split("event = \"").skip(1);
        written.extend(names.map(|it| it.split('"').next().unwrap().to_owned()));
    }
    let documentation = fs::read_to_string("docs/logs.md").unwrap();
    let rows = documentation
        .lines()
        .filter_map(|it| it.strip_prefix("| `"));
    let documented: BTreeSet<_> = rows
        .map(|it| it.split('`').next().unwrap().to_owned())
        .collect();
    assert_eq!(written, documented);
}
