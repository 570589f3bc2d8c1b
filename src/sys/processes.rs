//! Who serves a FUSE mount and who uses it, from `/proc`. Processes come and go while one looks,
//! and others' may not be looked at: both are left out.

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::PollFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::descriptors;
use crate::error::{Error, Result};

/// A process that holds `/dev/fuse`.
#[derive(Debug)]
pub struct Server {
    /// Process number.
    pub pid: u32,
    /// Minor device numbers of the FUSE file systems it serves; empty on kernels that do not tell.
    pub connections: Vec<u32>,
}

/// A process that stands in or has open something below a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Process number.
    pub pid: u32,
    /// Name of the command.
    pub command: String,
    /// How: `cwd`, `root`, `exe` or `fd 3`.
    pub how: String,
}

/// A process that can be waited for although it is no child.
#[derive(Debug)]
pub struct Watched(OwnedFd);

/// Finds the process that serves the FUSE file system with device number 0:`minor`. On kernels
/// that do not tell, the one that was started with `directory` as an argument.
///
/// Programs of this one's name are looked at first: that nearly always finds it, without a look at
/// strangers, which can take long.
#[must_use]
pub fn server_of(minor: u32, directory: &Path) -> Option<Server> {
    let directory = directory.to_owned();
    bounded(move || {
        let own = command(std::process::id());
        let (alike, strangers): (Vec<u32>, Vec<u32>) = pids().partition(|&pid| command(pid) == own);
        let serves = |pid: &u32| server(*pid).filter(|it| it.connections.contains(&minor));
        let found = alike
            .iter()
            .find_map(serves)
            .or_else(|| strangers.iter().find_map(serves));
        found.or_else(|| {
            let servers: Vec<Server> = { alike }.into_iter().filter_map(server).collect();
            let told = servers.iter().any(|it| !it.connections.is_empty());
            { servers }
                .into_iter()
                .find(|it| !told && names(it.pid, &directory))
        })
    })
    .flatten()
}

/// The connections that process `pid` serves now; `None` if it serves none.
#[must_use]
pub fn server(pid: u32) -> Option<Server> {
    let mut connections = Vec::new();
    let mut holds = false;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|it| it == Path::new("/dev/fuse")) {
            holds = true;
            let number = entry.file_name();
            let info = format!("/proc/{pid}/fdinfo/{}", number.display());
            connections.extend(connection(&info));
        }
    }
    connections.sort_unstable();
    connections.dedup();
    holds.then_some(Server { pid, connections })
}

/// The connection of a `/dev/fuse` that this process holds, on kernels that tell.
#[must_use]
pub fn own_connection(descriptor: BorrowedFd<'_>) -> Option<u32> {
    connection(&format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd()))
}

fn connection(info: &str) -> Option<u32> {
    let info = std::fs::read_to_string(info).ok()?;
    let mut lines = info.lines();
    let told = lines.find_map(|line| line.strip_prefix("fuse_connection:"))?;
    told.trim().parse().ok()
}

/// Processes that use something below `directory`, at most one line each; none if it takes too long
/// to find out.
#[must_use]
pub fn users_of(directory: &Path) -> Vec<User> {
    let directory = directory.to_owned();
    bounded(move || pids().filter_map(|pid| user(pid, &directory)).collect()).unwrap_or_default()
}

/// Runs a look at `/proc` in a thread of its own and gives up on it after [`PATIENCE`].
fn bounded<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (found, wait) = std::sync::mpsc::channel();
    // Nobody hears an answer that comes too late.
    let thread = std::thread::Builder::new().spawn(move || drop(found.send(look())));
    match thread {
        Ok(_detached) => wait.recv_timeout(PATIENCE).ok(),
        Err(error) => {
            tracing::debug!(%error, "no thread to look at /proc");
            None
        }
    }
}

/// Name of the command of a process, as far as the kernel keeps it (15 bytes).
fn command(pid: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()
}

/// How long a look at all processes may take: the links of one that hangs in a system call (as when
/// the server of another FUSE file system is gone) can be read only when it goes on.
const PATIENCE: Duration = Duration::from_secs(3);

// === impl Watched ===

impl Watched {
    /// Process `pid`, if it is there.
    #[must_use]
    pub fn new(pid: u32) -> Option<Watched> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok().map(Watched)
    }

    /// Waits until the process has ended; `false` if it has not within `timeout`.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) if the kernel cannot wait.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        descriptors::wait_for(&self.0, PollFlags::POLLIN, Some(timeout))
            .map_err(|error| Error::io("waiting for a process", error))
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn user(pid: u32, directory: &Path) -> Option<User> {
    let base = PathBuf::from(format!("/proc/{pid}"));
    let below = |link: &Path| std::fs::read_link(link).is_ok_and(|it| it.starts_with(directory));
    let mut links = ["cwd", "root", "exe"].into_iter();
    let how = { &mut links }.find(|name| below(&base.join(name)));
    let how = how.map(str::to_owned).or_else(|| {
        let fds = std::fs::read_dir(base.join("fd")).ok()?.flatten();
        let open = { fds }.find(|fd| below(&fd.path()))?;
        Some(format!("fd {}", open.file_name().display()))
    })?;
    let command = std::fs::read_to_string(base.join("comm")).unwrap_or_default();
    Some(User {
        pid,
        command: command.trim_end().to_owned(),
        how,
    })
}

/// Whether `directory` is among the arguments of process `pid`.
fn names(pid: u32, directory: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let from = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let mut arguments = arguments.split(|&byte| byte == 0);
    arguments.any(|it| {
        let path = Path::new(std::ffi::OsStr::from_bytes(it));
        !it.is_empty() && from.join(path).components().eq(directory.components())
    })
}
