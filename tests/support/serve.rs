//! `nacre serve` as a process that is stopped, killed and started again, and its snapshots as
//! containerd and runc use them. Nothing of it outlives the test: no mount, no process.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use nacre_snapshotter_proto::containerd::{
    services::snapshots::v1::{
        PrepareSnapshotRequest, RemoveSnapshotRequest, snapshots_client::SnapshotsClient,
    },
    types::Mount,
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::{Code, transport::Channel};

use super::{
    program::{self, Ran},
    toy::ToyImage,
};

/// A daemon with a root of its own.
pub struct Daemon {
    pub root: PathBuf,
    pub socket: PathBuf,
    program: PathBuf,
    child: Option<Child>,
}

/// A layer as containerd asks for it.
pub struct Layer {
    pub digest: String,
    pub chain_id: String,
}

/// An overlay as a container has it; unmounted when dropped.
pub struct Overlay {
    pub path: PathBuf,
}

// === impl Daemon ===

impl Daemon {
    /// Starts with this text as its `nacre.toml`.
    pub fn start(root: &Path, config: &str) -> Self {
        let mut daemon = Self::prepare(root, config);
        daemon.start_again();
        daemon
    }

    /// One that has not been started yet.
    pub fn prepare(root: &Path, config: &str) -> Self {
        fs::create_dir_all(root.join("images")).unwrap();
        let daemon = Self {
            root: root.to_owned(),
            socket: root.join("s"),
            program: env!("CARGO_BIN_EXE_nacre").into(),
            child: None,
        };
        daemon.configure(config);
        daemon
    }

    /// Another `nacre.toml` from the next start on.
    pub fn configure(&self, config: &str) {
        fs::write(self.root.join("nacre.toml"), config).unwrap();
    }

    /// Another program from the next start on.
    pub fn upgrade(&mut self, program: &Path) {
        self.program = program.to_owned();
    }

    pub fn start_again(&mut self) {
        let command = Command::new(&self.program);
        self.start_by(command);
    }

    /// Starts by this program and what comes first among its arguments.
    pub fn start_by(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "it is running");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        let mut child = command
            .arg("serve")
            .args(["--root".as_ref(), self.root.as_os_str()])
            .args([
                "--config".as_ref(),
                self.root.join("nacre.toml").as_os_str(),
            ])
            .args(["--socket".as_ref(), self.socket.as_os_str()])
            .env("HOME", &self.root)
            .env("RUST_LOG", "nacre=debug")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert!(
            line.contains("serving"),
            "nacre serve ended: {}",
            self.said()
        );
        self.child = Some(child);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// What a service manager does.
    pub fn terminate(&mut self) {
        let status = self.end(Signal::SIGTERM);
        assert!(status.success(), "{status}: {}", self.said());
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
        child.wait().unwrap()
    }

    fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// What all daemons of this root have logged.
    pub fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap()
    }

    pub fn release(&self, options: &[&str]) -> Ran {
        let mut arguments = vec!["release", "--root", self.root.to_str().unwrap()];
        let config = self.root.join("nacre.toml");
        arguments.extend(["--config", config.to_str().unwrap()]);
        arguments.extend(options);
        program::run(&self.root, arguments)
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> f64 {
        let mut socket = UnixStream::connect(&self.socket).unwrap();
        let request = "GET /metrics HTTP/1.0\r\nHost: nacre\r\n\r\n";
        socket.write_all(request.as_bytes()).unwrap();
        let mut page = String::new();
        socket.read_to_string(&mut page).unwrap();
        let value = page.lines().find_map(|it| it.strip_prefix(name));
        value
            .unwrap_or_else(|| panic!("no {name} in {page}"))
            .trim()
            .parse()
            .unwrap()
    }

    pub async fn client(&self) -> SnapshotsClient<Channel> {
        let uri = format!("unix://{}", self.socket.display());
        SnapshotsClient::connect(uri).await.unwrap()
    }

    /// As a pull: every layer must be lazy.
    pub async fn pull(&self, image: &str, manifest: &str, layers: &[Layer]) {
        let mut client = self.client().await;
        let mut parent = String::new();
        for layer in layers {
            let label = |name: &str, value: &str| {
                (format!("containerd.io/snapshot{name}"), value.to_owned())
            };
            let labels = HashMap::from([
                label(".ref", &layer.chain_id),
                label("/cri.image-ref", image),
                label("/cri.manifest-digest", manifest),
                label("/cri.layer-digest", &layer.digest),
            ]);
            let request = PrepareSnapshotRequest {
                key: format!("extract {}", layer.chain_id),
                parent: parent.clone(),
                labels,
                ..PrepareSnapshotRequest::default()
            };
            let lazy = client.prepare(request).await.unwrap_err();
            assert_eq!(lazy.code(), Code::AlreadyExists, "{lazy}: {}", self.said());
            parent = layer.chain_id.clone();
        }
    }

    /// Pulls an image of this process' registry.
    pub async fn pull_toy(&self, image: &ToyImage) {
        let layers: Vec<_> = { image.layers.iter().enumerate() }
            .map(|(number, layer)| Layer {
                digest: layer.descriptor.digest.to_string(),
                chain_id: image.chain_id(number),
            })
            .collect();
        let manifest = image.manifest.digest.to_string();
        self.pull(&image.reference, &manifest, &layers).await;
    }

    /// A container's file system on top of a committed snapshot.
    pub async fn container(&self, name: &str, chain_id: &str) -> Overlay {
        let mut client = self.client().await;
        let request = PrepareSnapshotRequest {
            key: name.to_owned(),
            parent: chain_id.to_owned(),
            ..PrepareSnapshotRequest::default()
        };
        let prepared = client.prepare(request).await;
        let answer = prepared.unwrap_or_else(|error| panic!("{error}: {}", self.said()));
        Overlay::mount(
            &self.root.join(format!("container-{name}")),
            answer.into_inner().mounts,
        )
    }

    pub async fn remove(&self, key: &str) {
        let request = RemoveSnapshotRequest {
            key: key.to_owned(),
            ..RemoveSnapshotRequest::default()
        };
        self.client().await.remove(request).await.unwrap();
    }

    /// Lower directories that are mounted.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let images = self.root.join("images").canonicalize().unwrap();
        let all = nacre::sys::mountinfo::read().unwrap().into_iter();
        let ours = all.filter(|it| it.mount_point.starts_with(&images));
        ours.map(|it| it.mount_point).collect()
    }

    /// Whether the file system that EROFS mounts hang on is mounted.
    pub fn has_devices(&self) -> bool {
        let devices = self.root.canonicalize().unwrap().join("devices");
        nacre::sys::mountinfo::at(&devices).unwrap().is_some()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _status = child.wait();
        }
        let ran = self.release(&["--force"]);
        if std::thread::panicking() {
            println!("{}", self.said());
        } else {
            ran.ok();
            assert_eq!(self.mounts(), <[PathBuf; 0]>::default());
            assert!(!self.has_devices());
        }
    }
}

// === impl Overlay ===

impl Overlay {
    fn mount(path: &Path, mounts: Vec<Mount>) -> Self {
        fs::create_dir(path).unwrap();
        let [prepared] = <[Mount; 1]>::try_from(mounts).unwrap();
        let options = prepared.options.join(",");
        let none = MsFlags::empty();
        let source = Some(prepared.source.as_str());
        mount(source, path, Some(&*prepared.r#type), none, Some(&*options)).unwrap();
        let path = path.to_owned();
        Self { path }
    }

    /// Reads a file past the caches of the kernel.
    pub fn read(&self, name: &str) -> std::io::Result<Vec<u8>> {
        read_past_caches(&self.path.join(name))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        umount2(&self.path, MntFlags::MNT_DETACH).unwrap();
    }
}

/// Drops a file's pages and reads it, so that every byte is asked of the daemon.
pub fn read_past_caches(path: &Path) -> std::io::Result<Vec<u8>> {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    let mut file = File::open(path)?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Drops everything that the kernel can read again.
pub fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}
