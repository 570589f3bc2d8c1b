//! Real containerd with its CRI plugin, crictl in the kubelet's place, and a registry that wants a
//! login: nacre has it from the CRI alone. Needs root, /dev/fuse, containerd, ctr, crictl, runc,
//! docker-registry, skopeo, umoci and openssl; says which is missing where it skips.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nacre_snapshotter_proto::containerd::services::snapshots::v1::{
    ViewSnapshotRequest, snapshots_client::SnapshotsClient,
};
use support::{
    docker_registry::{DockerRegistry, installed},
    images::{gzip, write_layout},
    pipeline::{Format, Pipeline, tool},
    program,
    token_server::TokenServer,
};

const USER: &str = "ann";
const PASSWORD: &str = "s3cret-of-ann";
const WRONG: &str = "wr0ng-of-ann";
/// bcrypt of the password, which is all that distribution takes.
const HTPASSWD: &str = "ann:$2y$05$abcdefghijklmnopqrstuubGIO2GYAzsTYkWDBylJZ1TngL2ovaZy\n";
/// Base64 of `ann:s3cret-of-ann`, without its end.
const ENCODED: &str = "YW5uOnMzY3JldC1vZi1hbm";

#[test]
fn a_password_from_the_cri_opens_a_registry_for_lazy_reads() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("htpasswd");
    fs::write(&file, HTPASSWD).unwrap();
    let auth = format!(
        "  htpasswd:\n    realm: test\n    path: {}\n",
        file.display()
    );
    through_the_cri(|| DockerRegistry::start_with_auth(&auth));
}

#[test]
fn a_password_from_the_cri_gets_tokens_for_lazy_reads() {
    let Some(tokens) = TokenServer::start(USER, PASSWORD) else {
        return;
    };
    through_the_cri(|| DockerRegistry::start_with_auth(&tokens.auth()));
}

fn through_the_cri(registry: impl FnOnce() -> Option<DockerRegistry>) {
    for program in ["containerd", "ctr", "crictl", "runc"] {
        if installed(program).is_none() {
            return;
        }
    }
    let Some(fixture) = Fixture::start(registry) else {
        return;
    };
    let mut node = Node::start(&fixture);
    let image = fixture.image.as_str();
    let pull = |node: &Node, password: Option<&str>| {
        let creds = password.map(|it| format!("{USER}:{it}"));
        let creds = creds.iter().flat_map(|it| ["--creds", it]);
        let arguments: Vec<_> = ["pull"].into_iter().chain(creds).chain([image]).collect();
        node.crictl(&arguments)
    };

    // Nobody, and somebody else: what the registry says, and nothing is left.
    for password in [None, Some(WRONG)] {
        let said = pull(&node, password).failed();
        let of_registry = [
            "401",
            "authorization failed",
            "incorrect username or password",
        ];
        assert!(of_registry.iter().any(|it| said.contains(it)), "{said}");
        assert!(said.contains(image), "{said}");
        assert_eq!(node.snapshots(), Vec::<String>::new());
    }

    // With the login: lazily, for no layer is downloaded, and the file is read with it.
    pull(&node, Some(PASSWORD)).ok();
    let snapshots = node.snapshots();
    assert_eq!(snapshots.len(), 2, "{snapshots:?}");
    let content = node.ctr(&["content", "ls", "-q"]).ok();
    for layer in &fixture.layers {
        assert!(!content.contains(layer), "{layer} in {content}");
    }
    let lower = node.lower("before");
    assert_eq!(fs::read(lower.join("etc/a")).unwrap(), b"from layer 1\n");
    assert!(fs::read(lower.join("data")).unwrap() == fixture.data);

    // The rest of the service, through to containerd.
    assert!(node.crictl(&["images"]).ok().contains("team/app"));
    assert!(node.crictl(&["imagefsinfo"]).ok().contains("usedBytes"));
    let unknown = node.crictl(&["rmi", "nobody.example/none:1"]).failed();
    assert!(unknown.contains("no such image"), "{unknown}");

    // A new daemon has no login: what it has not read yet waits for one.
    node.kill_and_restart();
    let lower = node.lower("after");
    let mut file = File::open(lower.join("data")).unwrap();
    let error = file.read_exact(&mut [0; 100]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    pull(&node, Some(WRONG)).failed();
    let error = file.read_exact(&mut [0; 100]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    pull(&node, Some(PASSWORD)).ok();
    drop(file);
    assert!(fs::read(lower.join("data")).unwrap() == fixture.data);

    node.crictl(&["rmi", image]).ok();
    node.stop();
    let log = fs::read(node.root.join("log")).unwrap();
    for logged in ["login of a pull is used", "h2::"] {
        assert!(contains(&log, logged), "{logged}: all is logged");
    }
    for secret in [PASSWORD, WRONG, ENCODED] {
        for file in files_below(&node.root) {
            let found = contains(&fs::read(&file).unwrap(), secret);
            assert!(!found, "{secret} in {}", file.display());
        }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|it| it == text.as_bytes())
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => open.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}

/// A lazy, signed image of two layers in a registry that wants a login.
struct Fixture {
    pipeline: Pipeline,
    image: String,
    layers: Vec<String>,
    data: Vec<u8>,
}

impl Fixture {
    fn start(registry: impl FnOnce() -> Option<DockerRegistry>) -> Option<Self> {
        let pipeline = Pipeline::on(registry)?;
        let data: Vec<u8> = (0..1_000_000_u32)
            .flat_map(|it| it.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        let tars = [
            tar(&[("etc/a", b"from layer 0\n"), ("data", &data)]),
            tar(&[("etc/a", b"from layer 1\n")]),
        ];
        let blobs: Vec<_> = tars.iter().map(|tar| gzip(tar, 1)).collect();
        let layout = write_layout(&pipeline.path("layout"), &tars, &blobs);
        let lazy = pipeline.convert(&layout.reference(), "lazy", Format::Estargz);
        let image = pipeline.image("team/app:1");
        let creds = format!("{USER}:{PASSWORD}");
        let target = format!("docker://{image}");
        tool(
            "skopeo",
            [
                "copy",
                "-q",
                "--dest-tls-verify=false",
                "--dest-creds",
                &creds,
                &lazy,
                &target,
            ],
        );
        // The publisher's login is in the publisher's home.
        let auths = serde_json::json!({ pipeline.registry.host(): {
            "username": USER, "password": PASSWORD,
        } });
        fs::create_dir(pipeline.path(".docker")).unwrap();
        let file = pipeline.path(".docker/config.json");
        fs::write(&file, serde_json::json!({ "auths": auths }).to_string()).unwrap();
        pipeline.sign(&image, "signer");
        let manifest = pipeline.nacre(["inspect", &image, "--json"]).json();
        let layers = manifest["layers"].as_array().unwrap().iter();
        let layers = layers.map(|it| it["digest"].as_str().unwrap().to_owned());
        Some(Self {
            layers: layers.collect(),
            pipeline,
            image,
            data,
        })
    }
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len().try_into().unwrap());
        tar.append_data(&mut header, path, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// `nacre serve` with the CRI's image service, on a socket that outlives it, and containerd with its
/// CRI plugin.
struct Node {
    directory: tempfile::TempDir,
    root: PathBuf,
    nacre: Child,
    listener: UnixListener,
    containerd: Child,
}

/// What a client said.
struct Ran {
    success: bool,
    output: String,
    errors: String,
}

impl Node {
    fn start(fixture: &Fixture) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("nacre");
        fs::create_dir(&root).unwrap();
        let containerd = directory.path().join("s");
        // Chunks in memory only and no mount handed over, so that a restart has to fetch them again.
        let config = format!(
            "hand_over = \"off\"\n[snapshotter]\nmin_lazy_kib = 0\n[store]\nsize_mib = 0\n\
             [trust]\npolicy = {:?}\nconfirm_after_seconds = 3600\n\
             [cri]\nenabled = true\ncontainerd_socket = {containerd:?}\n",
            fixture.pipeline.path("policy.json"),
        );
        fs::write(root.join("nacre.toml"), config).unwrap();
        let listener = UnixListener::bind(root.join("nacre.sock")).unwrap();
        let nacre = serve(&root, &listener);
        let containerd = start_containerd(directory.path(), &root.join("nacre.sock"));
        Self {
            directory,
            root,
            nacre,
            listener,
            containerd,
        }
    }

    fn kill_and_restart(&mut self) {
        self.nacre.kill().unwrap();
        self.nacre.wait().unwrap();
        self.nacre = serve(&self.root, &self.listener);
    }

    fn stop(&mut self) {
        stop(&mut self.containerd);
        stop(&mut self.nacre);
    }

    fn crictl(&self, arguments: &[&str]) -> Ran {
        let endpoint = |socket: &Path| format!("unix://{}", socket.display());
        run(Command::new("crictl")
            .args(["--timeout", "60s", "--image-endpoint"])
            .arg(endpoint(&self.root.join("nacre.sock")))
            .arg("--runtime-endpoint")
            .arg(endpoint(&self.directory.path().join("s")))
            .args(arguments))
    }

    /// In the CRI's namespace.
    fn ctr(&self, arguments: &[&str]) -> Ran {
        run(Command::new("ctr")
            .arg("--address")
            .arg(self.directory.path().join("s"))
            .args(["--namespace", "k8s.io"])
            .args(arguments))
    }

    /// Names of committed snapshots, the lowest first.
    fn snapshots(&self) -> Vec<String> {
        let listed = self
            .ctr(&["snapshots", "--snapshotter", "nacre", "ls"])
            .ok();
        let mut all: Vec<(String, String)> = Vec::new();
        for line in listed.lines().skip(1) {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                [name, "Committed"] => all.push((name.to_owned(), String::new())),
                [name, parent, "Committed"] => all.push((name.to_owned(), parent.to_owned())),
                _ => {}
            }
        }
        let mut ordered = Vec::<String>::new();
        while let Some((name, _)) = all
            .iter()
            .find(|(_, parent)| ordered.last().map_or("", String::as_str) == parent)
        {
            ordered.push(name.clone());
        }
        assert_eq!(ordered.len(), all.len(), "{listed}");
        ordered
    }

    /// The directory that a container of the image has below its own.
    fn lower(&self, key: &str) -> PathBuf {
        let request = ViewSnapshotRequest {
            snapshotter: "nacre".to_owned(),
            key: key.to_owned(),
            parent: self.snapshots().pop().unwrap(),
            ..ViewSnapshotRequest::default()
        };
        let uri = format!("unix://{}", self.root.join("nacre.sock").display());
        let view = async {
            let mut client = SnapshotsClient::connect(uri).await.unwrap();
            client.view(request).await.unwrap().into_inner().mounts
        };
        let mounts = tokio::runtime::Runtime::new().unwrap().block_on(view);
        assert_eq!(mounts[0].r#type, "bind", "{mounts:?}");
        PathBuf::from(&mounts[0].source)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
        program::release(&self.root);
    }
}

/// `nacre serve` on this socket; everything that it logs is in `log`. It sees no login of this machine.
fn serve(root: &Path, listener: &UnixListener) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(root.join("log"));
    // The shell knows its process id, which the program keeps.
    let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let nacre = program::command(root, ["serve", "--root"]);
    let mut child = Command::new("/bin/sh")
        .args(["-c", script, "sh"])
        .arg(nacre.get_program())
        .args(nacre.get_args())
        .arg(root)
        .arg("--config")
        .arg(root.join("nacre.toml"))
        .env_clear()
        .envs(
            nacre
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .env("RUST_LOG", "trace")
        .stdin(OwnedFd::from(listener.try_clone().unwrap()))
        .stdout(Stdio::piped())
        .stderr(log.unwrap())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    assert_ne!(output.read_line(&mut line).unwrap(), 0, "nacre serve ended");
    child
}

fn start_containerd(directory: &Path, nacre: &Path) -> Child {
    let (at, nacre) = (directory.display(), nacre.display());
    let cri = "[plugins.\"io.containerd.grpc.v1.cri\"";
    let text = format!(
        "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
         disabled_plugins = [\"io.containerd.internal.v1.opt\"]\n\
         [grpc]\naddress = \"{at}/s\"\n[ttrpc]\naddress = \"{at}/t\"\n\
         [proxy_plugins.nacre]\ntype = \"snapshot\"\naddress = \"{nacre}\"\n\
         {cri}]\ndisable_apparmor = true\nrestrict_oom_score_adj = true\n\
         {cri}.cni]\nbin_dir = \"{at}\"\nconf_dir = \"{at}\"\n\
         {cri}.containerd]\nsnapshotter = \"nacre\"\ndisable_snapshot_annotations = false\n"
    );
    let config = directory.join("config.toml");
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
    child
}

fn run(command: &mut Command) -> Ran {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Ran {
        success: output.status.success(),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
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
    if let Ok(Some(_)) = child.try_wait() {
        return;
    }
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    let _status = child.wait();
}
