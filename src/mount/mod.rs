//! Life of a mount: made, served in background threads, taken away.
//!
//! [`mount`] returns when the file system answers; dropping [`Mounted`] unmounts. Any failure on
//! the way leaves no mount behind. [`umount`] takes away a mount that another process serves, or
//! served before it died. [`daemon`] starts a process that outlives its parent.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};
use nix::unistd::geteuid;
use tokio::sync::Notify;

use crate::engine::ReadFile;
use crate::error::{Error, Kind, Result};
use crate::fuse::TreeFilesystem;
use crate::sys::mountinfo::{self, MountEntry};
use crate::tree::Tree;

pub mod daemon;
mod erofs;
mod front_end;
mod kernel;
mod signals;
mod unmount;

pub use erofs::{Erofs, ErofsMounted};
pub use front_end::{FrontEnd, mount_by};
pub use signals::StopSignals;
pub use unmount::{UmountOptions, umount};

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What is mounted, as the user called it: `mount` shows it after `nacre:`.
    pub reference: String,
    /// How far the kernel reads ahead; `None` leaves the kernel's default (128 KiB). A lazy reader
    /// pays for what is read ahead in vain, a sequential one for what is not.
    pub read_ahead_kib: Option<u32>,
    /// Whether set-uid bits and file capabilities count. On by default for root: containers need
    /// them, and a snapshot unpacked by root has them as well.
    pub suid: bool,
    /// Whether device nodes open devices. On by default for root, as for [`MountOptions::suid`].
    pub devices: bool,
    /// Whether other users than the one who mounts may look in. On by default for root; their
    /// permissions are checked by the kernel as on any file system.
    pub allow_other: bool,
    /// Threads that answer the kernel; `None` is one for each processor.
    pub threads: Option<usize>,
}

/// A mounted tree. Dropping it unmounts.
#[derive(Debug)]
pub struct Mounted {
    directory: PathBuf,
    device: (u32, u32),
    front_end: FrontEnd,
    session: Arc<SessionEnd>,
    open: bool,
}

/// How [`Mounted::unmount`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// Nothing uses the file system any more.
    Clean,
    /// It is out of sight, but processes or an overlay still use it; they get errors when this
    /// process ends.
    StillUsed,
}

/// Set when the session's threads have ended: the file system is gone from the kernel.
#[derive(Debug, Default)]
struct SessionEnd {
    ended: Mutex<Option<Result<(), String>>>,
    changed: Condvar,
    notify: Notify,
}

/// Mounts `tree` over `directory` and serves it in background threads; `reader` has its bytes.
///
/// # Errors
/// `NotFound` or `Invalid` if `directory` is not one, `Busy` if an image is mounted there already,
/// `Unsupported` without FUSE, `Io` if the kernel refuses. Nothing stays mounted then.
pub fn mount(
    tree: Arc<Tree>,
    reader: Arc<dyn ReadFile>,
    directory: &Path,
    options: &MountOptions,
) -> Result<Mounted> {
    let directory = check_directory(directory)?;
    crate::sys::release_free_memory();
    let source = format!("nacre:{}", printable(&options.reference));
    let filesystem = TreeFilesystem::new(tree, reader, options.reference.clone());
    let session = match kernel::attach(&source, &directory, options)? {
        Some(device) => {
            let made = session_on(filesystem, device, options);
            made.inspect_err(|_| detach_quietly(&directory))?
        }
        None => session_by_helper(filesystem, &source, &directory, options)?,
    };
    let mount = match mountinfo::at(&directory) {
        Ok(Some(mount)) if mount.kind == kernel::MOUNT_TYPE => mount,
        Ok(_) => {
            return Err(Error::internal(format!(
                "{} is not mounted",
                directory.display()
            )));
        }
        Err(error) => {
            detach_quietly(&directory);
            return Err(error);
        }
    };
    let mounted = Mounted {
        directory,
        device: mount.device,
        front_end: FrontEnd::Fuse,
        session: Arc::default(),
        open: true,
    };
    mounted.serve_in_background(session)?;
    mounted.check_answers()?;
    if let Some(kib) = options.read_ahead_kib
        && let Err(error) = kernel::set_read_ahead(mounted.device, kib)
    {
        tracing::debug!(kib, %error, "read-ahead stays as it is");
    }
    Ok(mounted)
}

// === impl MountOptions ===

impl MountOptions {
    /// The defaults for the user who runs this process.
    #[must_use]
    pub fn new(reference: impl Into<String>) -> Self {
        let root = geteuid().is_root();
        Self {
            reference: reference.into(),
            read_ahead_kib: None,
            suid: root,
            devices: root,
            allow_other: root,
            threads: None,
        }
    }

    fn session_config(&self) -> Config {
        let mut config = Config::default();
        let processors = || thread::available_parallelism().map_or(1, usize::from);
        config.n_threads = Some(self.threads.unwrap_or_else(processors).max(1));
        config.clone_fd = true;
        config
    }
}

// === impl Mounted ===

impl Mounted {
    /// Where it is mounted.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether it is a FUSE mount or an EROFS mount.
    #[must_use]
    pub fn front_end(&self) -> FrontEnd {
        self.front_end
    }

    /// Unmounts; if that is not possible because it is in use, takes it out of sight, with a
    /// warning that says so.
    ///
    /// # Errors
    /// [`Kind::Io`] or [`Kind::Denied`] if the kernel refuses even that.
    pub fn unmount(mut self) -> Result<Unmounted> {
        self.open = false;
        self.detach()?;
        let ended = self.session.wait(DETACH_PATIENCE);
        if !ended {
            let directory = self.directory.display();
            tracing::warn!(%directory, "unmounted, but what it showed is still in use");
            return Ok(Unmounted::StillUsed);
        }
        Ok(Unmounted::Clean)
    }

    /// Waits until the file system is gone from the kernel: after an `umount` by another process.
    ///
    /// # Errors
    /// [`Kind::Io`] if the session ended because of an error instead.
    pub async fn ended(&self) -> Result<()> {
        loop {
            let notified = self.session.notify.notified();
            if let Some(result) = self.session.result() {
                let directory = self.directory.display();
                return result
                    .map_err(|why| Error::new(Kind::Io, format!("serving {directory}: {why}")));
            }
            notified.await;
        }
    }

    /// Serves until the file system is unmounted from outside or a stop signal comes, on which it
    /// is unmounted. `signals` must have been made before the mount.
    ///
    /// # Errors
    /// Those of [`Mounted::ended`] and [`Mounted::unmount`].
    pub async fn serve(self, mut signals: StopSignals) -> Result<Unmounted> {
        tokio::select! {
            result = self.ended() => {
                result?;
                tracing::info!(directory = %self.directory.display(), "unmounted from outside");
                return Ok(Unmounted::Clean);
            }
            name = signals.received() => {
                let directory = self.directory.display();
                tracing::info!(%directory, signal = name, "unmounting");
            }
        }
        let unmounted = tokio::task::spawn_blocking(move || self.unmount()).await;
        unmounted.map_err(|error| Error::internal("unmount").with_source(error))?
    }

    fn serve_in_background(&self, session: Session<TreeFilesystem>) -> Result<()> {
        let end = Arc::clone(&self.session);
        let thread = thread::Builder::new().name("fuse-session".to_owned());
        let started = thread.spawn(move || {
            let result = session.run();
            end.set(result.map_err(|error| error.to_string()));
        });
        match started {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::io("thread of the FUSE session", error)),
        }
    }

    /// One round trip through the kernel: threads that died at once would leave a dead mount.
    fn check_answers(&self) -> Result<()> {
        let answer = fs::metadata(&self.directory);
        answer.map(|_| ()).map_err(|error| {
            let directory = self.directory.display();
            let why = self.session.result().and_then(Result::err);
            let why = why.map_or_else(String::new, |why| format!(" ({why})"));
            Error::io(format!("mount at {directory} does not answer{why}"), error)
        })
    }

    /// Takes the mount away if it is still there and ours: what another has mounted at the same
    /// place since is not.
    fn detach(&self) -> Result<()> {
        let ours =
            |mount: &MountEntry| mount.device == self.device && mount.mount_point == self.directory;
        if !mountinfo::read()?.iter().any(ours) {
            return Ok(());
        }
        let directory = self.directory.display();
        match mountinfo::at(&self.directory)? {
            Some(top) if ours(&top) => {}
            Some(top) => {
                let message = format!("{directory} is hidden below a mount of {}", top.kind);
                return Err(Error::new(Kind::Busy, message));
            }
            None => return Ok(()),
        }
        if kernel::detach(&self.directory, true)? == kernel::Detached::Lazily {
            tracing::warn!(%directory, "in use: detached, and gone when its last user is");
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.open
            && let Err(error) = self.detach()
        {
            tracing::warn!(%error, "mount stays behind");
        }
    }
}

// === impl SessionEnd ===

impl SessionEnd {
    fn set(&self, result: Result<(), String>) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.changed.notify_all();
        self.notify.notify_waiters();
    }

    fn result(&self) -> Option<Result<(), String>> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.clone()
    }

    /// Whether it has ended, after at most `patience`.
    fn wait(&self, patience: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(ended, patience, |ended| ended.is_none());
        let (ended, _) = waited.unwrap_or_else(PoisonError::into_inner);
        ended.is_some()
    }
}

impl fmt::Display for Unmounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unmounted::Clean => "unmounted",
            Unmounted::StillUsed => "unmounted, still in use",
        })
    }
}

/// The directory's absolute path, if it can be mounted on.
fn check_directory(directory: &Path) -> Result<PathBuf> {
    let shown = directory.display();
    // Without a look at the directory itself, which may be a dead mount.
    let place = unmount::place(directory)?;
    if let Some(mount) = mountinfo::at(&place)?
        && front_end::of(&mount).is_some()
    {
        let message = format!("{shown} has {} mounted", mount.source.display());
        let hint = format!("nacre umount {shown}");
        return Err(Error::new(Kind::Busy, message).with_hint(hint));
    }
    let metadata = fs::metadata(&place).map_err(|error| {
        let missing = error.kind() == io::ErrorKind::NotFound;
        let kind = if missing { Kind::NotFound } else { Kind::Io };
        Error::new(kind, format!("mount directory {shown}")).with_source(error)
    })?;
    if !metadata.is_dir() {
        return Err(Error::invalid(format!("{shown} is not a directory")));
    }
    if fs::read_dir(&place).is_ok_and(|mut entries| entries.next().is_some()) {
        tracing::warn!(directory = %shown, "not empty: its content is hidden while mounted");
    }
    Ok(place)
}

fn session_on(
    filesystem: TreeFilesystem,
    device: OwnedFd,
    options: &MountOptions,
) -> Result<Session<TreeFilesystem>> {
    // The kernel keeps others out unless the mount allows them; fuser need not look again.
    Session::from_fd(
        filesystem,
        device,
        SessionACL::All,
        options.session_config(),
    )
    .map_err(|error| Error::io("FUSE handshake", error))
}

/// For users who may not mount: `fusermount3` does it, with its own rules.
fn session_by_helper(
    filesystem: TreeFilesystem,
    source: &str,
    directory: &Path,
    options: &MountOptions,
) -> Result<Session<TreeFilesystem>> {
    let mut config = options.session_config();
    config.acl = if options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    let filesystem = filesystem.for_one_user();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::DefaultPermissions,
        MountOption::FSName(source.replace(',', "\\,")),
        MountOption::Subtype("nacre".to_owned()),
    ];
    Session::new(filesystem, directory, &config).map_err(|error| {
        let what = format!("mount over {}", directory.display());
        let hint = "as another user than root this needs fusermount3 (package fuse3), and \
            user_allow_other in /etc/fuse.conf to let others look in";
        Error::io(what, error).with_hint(hint)
    })
}

fn detach_quietly(directory: &Path) {
    if let Err(error) = kernel::detach(directory, true) {
        tracing::warn!(%error, "mount stays behind");
    }
}

/// Only what a mount table shows as it is.
fn printable(text: &str) -> String {
    let shown = text.chars().filter(|it| it.is_ascii_graphic());
    shown.take(MAX_SOURCE).collect()
}

/// What is shown of a reference in the mount table; a page is the kernel's limit.
const MAX_SOURCE: usize = 1024;
/// How long the kernel may take to end a session that nobody uses: it closes files in the
/// background.
const DETACH_PATIENCE: Duration = Duration::from_secs(2);
