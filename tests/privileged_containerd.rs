//! Real containerd with nacre as a proxy plugin: an ordinary image through `nacre serve`, the remote
//! protocol (lazy, refused, mended) through the service with lazy images that are plain directories, and
//! signed and encrypted images through `nacre serve`. Needs root, containerd, ctr, runc, docker-registry,
//! skopeo, and ctr-remote for all but the first; says which is missing where it skips.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt as _, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use futures::future::BoxFuture;
use nacre::{
    Error, Result,
    oci::Digest,
    snapshotter::{
        Evidence, LayerRequest, LazyImages, Options, SnapshotsService, Snapshotter, Verdict,
        server::Socket,
    },
};
use nacre_snapshotter_proto::containerd::services::snapshots::v1::{
    CleanupRequest, snapshots_client::SnapshotsClient,
};
use support::{
    docker_registry::{DockerRegistry, installed},
    images::{gzip, write_layout},
    ordinary::{LARGE, words},
    pipeline::{Format, Pipeline, tool},
    program,
};

/// What the container says when it sees the merged tree.
const SCRIPT: &str =
    "read a < /etc/a && echo $a; test -e /etc/gone || echo removed; echo x > /new && echo written";
const SAID: &str = "from layer 1\nremoved\nwritten\n";

#[test]
fn an_ordinary_image_is_unpacked_and_runs_and_leaves_nothing() {
    let Some(fixture) = Fixture::start() else {
        return;
    };
    let mut nacre = Nacre::serve(&fixture.path("nacre"), "lazy = false\n");
    let containerd = Containerd::start(&fixture.path("containerd"), &nacre.socket);
    let image = fixture.image.as_str();
    let ctr = |arguments: &[&str]| containerd.ctr("ctr", arguments);
    ctr(&[
        "images",
        "pull",
        "--plain-http",
        "--snapshotter",
        "nacre",
        image,
    ])
    .ok();
    let listed = ctr(&["snapshots", "--snapshotter", "nacre", "ls"]).ok();
    assert_eq!(listed.matches("Committed").count(), 3, "{listed}");

    let run = [
        "run",
        "--rm",
        "--net-host",
        "--snapshotter",
        "nacre",
        image,
        &fixture.container("one"),
    ];
    let said = ctr(&[&run[..], &["/bin/sh", "-c", SCRIPT]].concat()).ok();
    assert_eq!(said, SAID);

    // It survives a crash of the daemon between two containers.
    nacre.kill_and_restart();
    let said = ctr(&[&run[..], &["/bin/sh", "-c", SCRIPT]].concat()).ok();
    assert_eq!(said, SAID);

    ctr(&["images", "rm", "--sync", image]).ok();
    let listed = ctr(&["snapshots", "--snapshotter", "nacre", "ls"]).ok();
    assert_eq!(listed.lines().count(), 1, "{listed}");
    cleanup(&nacre.socket);
    for directory in ["snapshots", "removed"] {
        let left = fs::read_dir(nacre.root.join("snapshotter").join(directory));
        assert_eq!(left.unwrap().count(), 0, "{directory}");
    }
}

#[test]
fn a_lazy_image_runs_without_its_layers_and_a_refused_one_says_why() {
    let Some(fixture) = Fixture::start() else {
        return;
    };
    if installed("ctr-remote").is_none() {
        return;
    }
    let images = Arc::new(Directories {
        layers: fixture.layers.clone(),
        trees: fixture.trees.clone(),
        ..Directories::default()
    });
    let root = fixture.path("snapshotter");
    let socket = fixture.path("nacre.sock");
    let served = InProcess::serve(&root, &socket, Arc::clone(&images) as Arc<dyn LazyImages>);
    let containerd = Containerd::start(&fixture.path("containerd"), &socket);
    let image = fixture.image.as_str();
    let pull = || {
        let pull = ["images", "rpull", "--plain-http", "--snapshotter", "nacre"];
        containerd.ctr("ctr-remote", &[&pull[..], &[image]].concat())
    };
    let snapshots = || {
        let list = ["snapshots", "--snapshotter", "nacre", "ls"];
        containerd.ctr("ctr", &list).ok()
    };

    // Refused: the user reads why, and nothing is left.
    let refused = pull().failed();
    assert!(
        refused.contains("no signature that the policy trusts"),
        "{refused}"
    );
    assert!(refused.contains("hint: sign it"), "{refused}");
    assert_eq!(snapshots().lines().count(), 1);
    assert!(served.audit().is_empty(), "{:?}", served.audit());

    // Mended: the same pull succeeds, and no layer is downloaded.
    for round in 0..2 {
        *images.admitted.lock().unwrap() = true;
        pull().ok();
        assert_eq!(snapshots().matches("Committed").count(), 3);
        let content = containerd.ctr("ctr", &["content", "ls", "-q"]).ok();
        for layer in &fixture.layers {
            assert!(
                !content.contains(&layer.to_string()),
                "{layer} in {content}"
            );
        }
        for name in ["one", "two"] {
            let run = [
                "run",
                "--rm",
                "--net-host",
                "--snapshotter",
                "nacre",
                image,
                &fixture.container(name),
            ];
            let arguments = [&run[..], &["/bin/sh", "-c", SCRIPT]].concat();
            assert_eq!(containerd.ctr("ctr", &arguments).ok(), SAID);
        }
        // One directory for all, the topmost.
        let mut lowers = std::mem::take(&mut *images.lowers.lock().unwrap());
        lowers.dedup();
        assert_eq!(lowers, [2], "round {round}");

        containerd
            .ctr("ctr", &["images", "rm", "--sync", image])
            .ok();
        assert_eq!(snapshots().lines().count(), 1);
        cleanup(&socket);
        assert!(served.audit().is_empty(), "{:?}", served.audit());
        assert_eq!(*images.alive.lock().unwrap(), Some(0));
    }
}

#[test]
fn encrypted_and_signed_images_run_lazily_and_share_one_mount() {
    let (Some(fixture), Some(pipeline)) = (Fixture::start(), Pipeline::start()) else {
        return;
    };
    if installed("ctr-remote").is_none() {
        return;
    }
    let layout = format!("oci:{}:latest", fixture.path("layout").display());
    let lazy = pipeline.convert(&layout, "lazy", Format::Estargz);
    let config = format!(
        "[snapshotter]\nmin_lazy_kib = 0\n[trust]\npolicy = {:?}\n[keys]\ndecryption_keys = [{:?}]\n",
        pipeline.path("policy.json"),
        pipeline.path("layer.pem"),
    );
    let mut nacre = Nacre::serve(&fixture.path("nacre"), &config);
    let containerd = Containerd::start(&fixture.path("containerd"), &nacre.socket);
    for encrypted in [false, true] {
        let image = pipeline.image(&format!("app-{encrypted}:1"));
        let pull = || {
            let pull = [
                "images",
                "rpull",
                "--plain-http",
                "--snapshotter",
                "nacre",
                &image,
            ];
            containerd.ctr("ctr-remote", &pull)
        };
        let snapshots = || {
            containerd
                .ctr("ctr", &["snapshots", "--snapshotter", "nacre", "ls"])
                .ok()
        };
        pipeline.push(&lazy, &image, encrypted);

        // Not signed yet: refused with our words, nothing left; then mended.
        let refused = pull().failed();
        assert!(refused.contains("signature"), "{refused}");
        assert_eq!(snapshots().lines().count(), 1);
        pipeline.sign(&image, "signer");
        pull().ok();
        assert_eq!(snapshots().matches("Committed").count(), 3);

        let names: Vec<_> = (0..20)
            .map(|i| fixture.container(&format!("{encrypted}-{i}")))
            .collect();
        std::thread::scope(|scope| {
            for name in &names {
                let run = [
                    "run",
                    "--rm",
                    "--net-host",
                    "--snapshotter",
                    "nacre",
                    &image,
                    name,
                ];
                let arguments = [&run[..], &["/bin/sh", "-c", SCRIPT]].concat();
                let containerd = &containerd;
                scope.spawn(move || assert_eq!(containerd.ctr("ctr", &arguments).ok(), SAID));
            }
        });
        // The first image's mount is spared for a while.
        let images = 1 + usize::from(encrypted);
        assert_eq!(
            lower_mounts(&fixture.path("nacre")).len(),
            images,
            "one mount an image, for twenty containers"
        );
        let socket = nacre.socket.display().to_string();
        let status = pipeline.nacre(["--json", "status", "--socket", &socket]);
        let status = status.json();
        let mounts = status["lazy"]["mounts"].as_array().unwrap();
        let mount = mounts.iter().find(|it| it["reference"] == image.as_str());
        let (mount, keys) = (mount.unwrap(), &status["lazy"]["keys"]);
        assert_eq!(mount["snapshots"], 1, "{mount}");
        assert!(mount["fetched_bytes"].as_u64().unwrap() > 0, "{mount}");
        assert_eq!(keys["failed"], 0, "{keys}");
        assert_eq!(keys["unwrapped"].as_u64().unwrap() > 0, encrypted, "{keys}");
        if encrypted {
            assert_eq!(keys["last"]["packet"], "jwe", "{keys}");
        }

        // A container that runs through a crash reads on, from the mount that new ones get too.
        let running = fixture.container(&format!("{encrypted}-running"));
        let run = ["run", "-d", "--net-host", "--snapshotter", "nacre", &image];
        // A shell of its own: the first process of a namespace cannot be stopped from within.
        let stopped = ["/bin/sh", "-c", "/bin/sh -c 'kill -STOP $$'; :"];
        let ctr = |arguments: &[&str]| containerd.ctr("ctr", arguments);
        ctr(&[&run[..], &[&running], &stopped].concat()).ok();
        // That of the image before this one has no snapshot any more, and may go.
        let mounted = || {
            let mut mounts = lower_mounts(&fixture.path("nacre"));
            mounts.retain(|it| it.contains(&image));
            mounts
        };
        let before = mounted();
        nacre.kill_and_restart();
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        let exec = ["tasks", "exec", "--exec-id", "later", &running];
        let said = ctr(&[&exec[..], &["/bin/sh", "-c", SCRIPT]].concat()).ok();
        assert_eq!(said, SAID);
        let name = fixture.container(&format!("{encrypted}-again"));
        let run = ["run", "--rm", "--net-host", "--snapshotter", "nacre"];
        let script = [&image, &name, "/bin/sh", "-c", SCRIPT];
        assert_eq!(ctr(&[&run[..], &script].concat()).ok(), SAID);
        assert_eq!(mounted(), before);
        ctr(&["tasks", "rm", "-f", &running]).ok();
        ctr(&["containers", "rm", &running]).ok();

        containerd
            .ctr("ctr", &["images", "rm", "--sync", &image])
            .ok();
        assert_eq!(snapshots().lines().count(), 1);
        cleanup(&nacre.socket);
    }
}

/// The second start on a node is lazy, with nothing but the indexes left of the first.
#[test]
fn an_ordinary_image_is_read_whole_once_and_lazily_from_then_on() {
    let (Some(fixture), Some(pipeline)) = (Fixture::start(), Pipeline::start()) else {
        return;
    };
    if installed("ctr-remote").is_none() {
        return;
    }
    let mut tars = layers();
    let mut large = tar::Builder::new(Vec::new());
    add(&mut large, "usr/large", &words(LARGE, 1));
    tars.push(large.into_inner().unwrap());
    let blobs: Vec<_> = tars.iter().map(|tar| gzip(tar, 1)).collect();
    let layout = write_layout(&fixture.path("large"), &tars, &blobs);
    let config = format!(
        "[snapshotter]\nmin_lazy_kib = 0\n[fetch]\ncomplete = false\n[trust]\npolicy = {:?}\n[keys]\ndecryption_keys = [{:?}]\n",
        pipeline.path("policy.json"),
        pipeline.path("layer.pem"),
    );
    let mut nacre = Nacre::serve(&fixture.path("nacre"), &config);
    let containerd = Containerd::start(&fixture.path("containerd"), &nacre.socket);
    let ctr = |arguments: &[&str]| containerd.ctr("ctr", arguments);
    for encrypted in [false, true] {
        let image = pipeline.image(&format!("ordinary-{encrypted}:1"));
        pipeline.push(&layout.reference(), &image, encrypted);
        pipeline.sign(&image, "signer");
        let pull = ["images", "rpull", "--plain-http", "--snapshotter", "nacre"];
        containerd
            .ctr("ctr-remote", &[&pull[..], &[&image]].concat())
            .ok();
        let listed = ctr(&["snapshots", "--snapshotter", "nacre", "ls"]).ok();
        assert_eq!(listed.matches("Committed").count(), 4, "{listed}");
        // containerd has downloaded no layer.
        let content = ctr(&["content", "ls", "-q"]).ok();
        for blob in &blobs {
            let layer = Digest::sha256(blob).to_string();
            assert!(!content.contains(&layer), "{layer} in {content}");
        }
        let run = [
            "run",
            "--rm",
            "--net-host",
            "--snapshotter",
            "nacre",
            &image,
        ];
        let name = fixture.container(&format!("{encrypted}-first"));
        let said = ctr(&[&run[..], &[&name, "/bin/sh", "-c", SCRIPT]].concat()).ok();
        assert_eq!(said, SAID);
        let mount = mount_of(&pipeline, &nacre.socket, &image);
        assert_eq!(
            mount["indexes"],
            serde_json::json!(vec!["kept"; 4]),
            "{mount}"
        );
        assert!(
            mount["fetched_bytes"].as_u64() >= mount["bytes"].as_u64(),
            "{mount}"
        );

        // Another daemon, without chunks and without the mount.
        stop(&mut nacre.child);
        program::release(&nacre.root);
        for file in fs::read_dir(nacre.root.join("store")).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        nacre.child = Nacre::spawn(&nacre.root, &nacre.listener);
        let name = fixture.container(&format!("{encrypted}-second"));
        let said = ctr(&[&run[..], &[&name, "/bin/sh", "-c", SCRIPT]].concat()).ok();
        assert_eq!(said, SAID);
        let mount = mount_of(&pipeline, &nacre.socket, &image);
        let (fetched, bytes) = (&mount["fetched_bytes"], &mount["bytes"]);
        assert!(fetched.as_u64().unwrap() > 0, "{mount}");
        assert!(
            fetched.as_u64().unwrap() * 2 < bytes.as_u64().unwrap(),
            "{mount}"
        );
        ctr(&["images", "rm", "--sync", &image]).ok();
        cleanup(&nacre.socket);
    }
}

/// What the status says of an image's mount.
fn mount_of(pipeline: &Pipeline, socket: &Path, image: &str) -> serde_json::Value {
    let socket = socket.display().to_string();
    let status = pipeline
        .nacre(["--json", "status", "--socket", &socket])
        .json();
    let mut mounts = status["lazy"]["mounts"].as_array().unwrap().iter();
    let ours = mounts.rfind(|it| it["reference"] == image);
    ours.unwrap().clone()
}

/// Lines of the table of mounts for lower directories below `root`.
fn lower_mounts(root: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let here = root.join("images").display().to_string();
    let ours = mounts
        .lines()
        .filter(|it| it.contains(&format!(" {here}/")));
    ours.map(str::to_owned).collect()
}

/// Frees what removed snapshots took, as containerd's garbage collector asks for in its own time.
fn cleanup(socket: &Path) {
    let request = async {
        let uri = format!("unix://{}", socket.display());
        let mut client = SnapshotsClient::connect(uri).await.unwrap();
        let snapshotter = "nacre".to_owned();
        client
            .cleanup(CleanupRequest { snapshotter })
            .await
            .unwrap();
    };
    tokio::runtime::Runtime::new().unwrap().block_on(request);
}

/// A registry with one image of three layers.
struct Fixture {
    directory: tempfile::TempDir,
    _registry: DockerRegistry,
    image: String,
    /// Blobs of the layers.
    layers: Vec<Digest>,
    /// The merged tree up to each layer.
    trees: Vec<PathBuf>,
}

impl Fixture {
    fn start() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: not root");
            return None;
        }
        for program in ["containerd", "ctr", "runc", "skopeo"] {
            installed(program)?;
        }
        let registry = DockerRegistry::start()?;
        let directory = tempfile::tempdir().unwrap();
        let tars = layers();
        let blobs: Vec<_> = tars.iter().map(|tar| gzip(tar, 1)).collect();
        let layout = write_layout(&directory.path().join("layout"), &tars, &blobs);
        let image = format!("{}/app:1", registry.host());
        let target = format!("docker://{image}");
        let insecure = "--dest-tls-verify=false";
        tool(
            "skopeo",
            ["copy", "-q", insecure, &layout.reference(), &target],
        );
        Some(Self {
            trees: trees(&directory.path().join("trees"), &tars),
            layers: blobs.iter().map(|blob| Digest::sha256(blob)).collect(),
            directory,
            _registry: registry,
            image,
        })
    }

    /// A container's name: runc knows those of every containerd on the machine.
    fn container(&self, name: &str) -> String {
        let unique = self.directory.path().file_name().unwrap();
        format!("{}-{name}", unique.to_str().unwrap().replace('.', ""))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A shell with its libraries; a file changed; a file removed.
fn layers() -> Vec<Vec<u8>> {
    let mut base = tar::Builder::new(Vec::new());
    for directory in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        base.append_data(&mut header, directory, std::io::empty())
            .unwrap();
    }
    let needed = Command::new("ldd").arg("/bin/sh").output().unwrap().stdout;
    let needed = String::from_utf8(needed).unwrap();
    let libraries = needed.split_whitespace().filter(|it| it.starts_with('/'));
    for path in std::iter::once("/bin/sh").chain(libraries) {
        add(&mut base, &path[1..], &fs::read(path).unwrap());
    }
    add(&mut base, "etc/a", b"from layer 0\n");
    add(&mut base, "etc/gone", b"x");
    let mut middle = tar::Builder::new(Vec::new());
    add(&mut middle, "etc/a", b"from layer 1\n");
    let mut top = tar::Builder::new(Vec::new());
    add(&mut top, "etc/.wh.gone", b"");
    [base, middle, top]
        .map(|tar| tar.into_inner().unwrap())
        .into()
}

fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(content.len().try_into().unwrap());
    tar.append_data(&mut header, path, content).unwrap();
}

/// The merged tree after each layer.
fn trees(directory: &Path, tars: &[Vec<u8>]) -> Vec<PathBuf> {
    let trees = (1..=tars.len()).map(|count| {
        let tree = directory.join(count.to_string());
        for tar in &tars[..count] {
            tar::Archive::new(tar.as_slice()).unpack(&tree).unwrap();
        }
        if fs::remove_file(tree.join("etc/.wh.gone")).is_ok() {
            fs::remove_file(tree.join("etc/gone")).unwrap();
        }
        fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)).unwrap();
        tree
    });
    trees.collect()
}

/// Lazy images whose trees were there all along.
#[derive(Debug, Default)]
struct Directories {
    layers: Vec<Digest>,
    trees: Vec<PathBuf>,
    admitted: Mutex<bool>,
    lowers: Mutex<Vec<u16>>,
    alive: Mutex<Option<usize>>,
}

impl LazyImages for Directories {
    fn layer<'a>(&'a self, request: &'a LayerRequest) -> BoxFuture<'a, Result<Verdict>> {
        Box::pin(async {
            if !*self.admitted.lock().unwrap() {
                let why = format!("{}: no signature that the policy trusts", request.reference);
                return Err(Error::denied(why).with_hint("sign it"));
            }
            let number = self
                .layers
                .iter()
                .position(|it| *it == request.layer_digest);
            Ok(Verdict::Lazy(Evidence {
                reference: request.reference.clone(),
                manifest: Digest::sha256(b"manifest"),
                layer: request.layer_digest.clone(),
                layer_number: number.unwrap().try_into().unwrap(),
                diff_id: Digest::sha256(b"diff"),
                index: None,
                class: "plain+signed".to_owned(),
                chain_id: request.chain_id.clone(),
            }))
        })
    }

    fn lower<'a>(&'a self, evidence: &'a Evidence) -> BoxFuture<'a, Result<PathBuf>> {
        self.lowers.lock().unwrap().push(evidence.layer_number);
        let tree = self.trees[usize::from(evidence.layer_number)].clone();
        Box::pin(async { Ok(tree) })
    }

    fn retain<'a>(&'a self, alive: &'a [Evidence]) -> BoxFuture<'a, Result<()>> {
        *self.alive.lock().unwrap() = Some(alive.len());
        Box::pin(async { Ok(()) })
    }

    fn usage(&self, _evidence: &Evidence) -> (u64, u64) {
        (1, 1)
    }
}

/// The service in this process.
struct InProcess {
    runtime: tokio::runtime::Runtime,
    snapshotter: Snapshotter,
}

impl InProcess {
    fn serve(root: &Path, socket: &Path, images: Arc<dyn LazyImages>) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (snapshotter, _) = Snapshotter::open(Options::new(root), images).unwrap();
        let socket = Socket::bind(socket).unwrap();
        let service = SnapshotsService::new(snapshotter.clone());
        runtime.spawn(socket.serve(service, std::future::pending()));
        Self {
            runtime,
            snapshotter,
        }
    }

    fn audit(&self) -> Vec<String> {
        self.runtime.block_on(self.snapshotter.audit()).unwrap()
    }
}

/// `nacre serve` on a socket that this process listens on, as systemd does it: a client that connects
/// while no daemon is there waits for the next. Stopped when dropped.
struct Nacre {
    child: Child,
    root: PathBuf,
    socket: PathBuf,
    listener: UnixListener,
}

impl Nacre {
    /// Serves with this text as its `nacre.toml`.
    fn serve(root: &Path, config: &str) -> Self {
        fs::create_dir_all(root).unwrap();
        fs::write(root.join("nacre.toml"), config).unwrap();
        let socket = root.join("nacre.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        Self {
            child: Self::spawn(root, &listener),
            root: root.to_owned(),
            socket,
            listener,
        }
    }

    fn spawn(root: &Path, listener: &UnixListener) -> Child {
        // The shell knows its process id, which the program keeps.
        let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
        let mut child = Command::new("/bin/sh")
            .args(["-c", script, "sh", env!("CARGO_BIN_EXE_nacre"), "serve"])
            .arg("--root")
            .arg(root)
            .arg("--config")
            .arg(root.join("nacre.toml"))
            .stdin(OwnedFd::from(listener.try_clone().unwrap()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "nacre serve ended");
        assert!(line.contains("systemd"), "{line}");
        child
    }

    fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(&self.root, &self.listener);
    }
}

impl Drop for Nacre {
    fn drop(&mut self) {
        stop(&mut self.child);
        program::release(&self.root);
    }
}

/// containerd with root, state and socket of its own, stopped when dropped.
struct Containerd {
    child: Child,
    socket: PathBuf,
}

/// What a client said.
struct Ran {
    success: bool,
    output: String,
    errors: String,
}

impl Containerd {
    fn start(directory: &Path, nacre: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        let (at, nacre) = (directory.display(), nacre.display());
        let config = directory.join("config.toml");
        let text = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{at}/s\"\n[ttrpc]\naddress = \"{at}/t\"\n\
             [proxy_plugins.nacre]\ntype = \"snapshot\"\naddress = \"{nacre}\"\n"
        );
        fs::write(&config, text).unwrap();
        let mut child = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("containerd successfully booted") {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "containerd ended");
        }
        // The pipe must not fill up.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let socket = directory.join("s");
        Self { child, socket }
    }

    fn ctr(&self, client: &str, arguments: &[&str]) -> Ran {
        let output = Command::new(client)
            .arg("--address")
            .arg(&self.socket)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ran {
            success: output.status.success(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

impl Ran {
    #[track_caller]
    fn ok(self) -> String {
        assert!(self.success, "{}{}", self.output, self.errors);
        self.output
    }

    #[track_caller]
    fn failed(self) -> String {
        assert!(!self.success, "{}{}", self.output, self.errors);
        self.errors
    }
}

fn stop(child: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    let _status = child.wait();
}
