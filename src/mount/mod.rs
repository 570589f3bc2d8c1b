//! Life of a mount: made, served in background threads, handed over, taken away.
//!
//! [`mount`] returns when the file system answers; dropping [`Mounted`] unmounts, unless it is to
//! stay for another process, which then [`adopt`]s it. Any failure on the way leaves no mount
//! behind. [`umount`] takes away a mount that another process serves, or served before it died;
//! [`release`] all that nobody serves. [`daemon`] starts a process that outlives its parent.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};
use nix::unistd::geteuid;

use self::session::SessionEnd;
use crate::engine::ReadFile;
use crate::error::{Error, Kind, Result};
use crate::fuse::{Handshake, Reads, Shown, TreeFilesystem};
use crate::sys::mountinfo::{self, MountEntry};
use crate::tree::Tree;

mod adopt;
pub mod daemon;
mod erofs;
mod front_end;
mod kernel;
mod read_ahead;
mod release;
mod session;
mod signals;
mod unmount;

pub use adopt::{Adopted, adopt};
pub use erofs::{DeviceMount, Erofs, ErofsMounted, Overlays, adopt_devices, connection_at};
pub use front_end::{FrontEnd, mount_by};
pub use read_ahead::ReadAhead;
pub use release::{Left, release, release_devices};
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
    /// Whether another process may take the mount over. All threads then read from one descriptor:
    /// what a thread has read from one of its own is lost with that.
    pub hand_over: bool,
    /// Counts reads under way.
    pub reads: Reads,
}

/// A mounted tree. Dropping it unmounts, unless it [stays](Mounted::leave).
#[derive(Debug)]
pub struct Mounted {
    directory: PathBuf,
    device: (u32, u32),
    read_ahead: Option<ReadAhead>,
    front_end: FrontEnd,
    session: Arc<SessionEnd>,
    open: bool,
    stays: bool,
    descriptor: Option<Descriptor>,
}

/// What a process needs to serve a mount on that another one made.
#[derive(Debug)]
pub struct Descriptor {
    /// The file system's `/dev/fuse`.
    pub file: OwnedFd,
    /// What the kernel knows of the one who serves.
    pub handshake: Handshake,
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
    let file = some_file(&tree);
    let filesystem = options.filesystem(tree, reader);
    let handshake = filesystem.handshake();
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
    let mut mounted = Mounted {
        directory,
        device: mount.device,
        read_ahead: ReadAhead::of(mount.device),
        front_end: FrontEnd::Fuse,
        session: Arc::default(),
        open: true,
        stays: false,
        descriptor: None,
    };
    if let (true, Some(handshake)) = (options.hand_over, handshake.get()) {
        let file = session.as_fd().try_clone_to_owned();
        mounted.descriptor = Some(Descriptor {
            file: file.map_err(|error| Error::io("descriptor of the mount", error))?,
            handshake: *handshake,
        });
    }
    session::serve(session, &mounted.session)?;
    mounted.check_answers()?;
    if let (true, Some(file)) = (options.hand_over, file) {
        mounted.open_once(&file);
    }
    mounted.set_read_ahead(options);
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
            hand_over: false,
            reads: Reads::default(),
        }
    }

    fn filesystem(&self, tree: Arc<Tree>, reader: Arc<dyn ReadFile>) -> TreeFilesystem {
        let shown = Arc::<Shown>::default();
        shown.show(tree, reader);
        let (name, reads) = (self.reference.clone(), self.reads.clone());
        let filesystem = TreeFilesystem::showing(shown, name, reads);
        if self.hand_over {
            filesystem.for_hand_over()
        } else {
            filesystem
        }
    }

    fn session_config(&self) -> Config {
        let mut config = Config::default();
        let processors = || thread::available_parallelism().map_or(1, usize::from);
        config.n_threads = Some(self.threads.unwrap_or_else(processors).max(1));
        config.clone_fd = !self.hand_over;
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

    /// How far the kernel reads ahead in it, if that is known.
    #[must_use]
    pub fn read_ahead(&self) -> Option<&ReadAhead> {
        self.read_ahead.as_ref()
    }

    fn set_read_ahead(&self, options: &MountOptions) {
        if let (Some(kib), Some(read_ahead)) = (options.read_ahead_kib, &self.read_ahead)
            && let Err(error) = read_ahead.set(kib)
        {
            tracing::debug!(kib, %error, "read-ahead stays as it is");
        }
    }

    /// Whether it is a FUSE mount or an EROFS mount.
    #[must_use]
    pub fn front_end(&self) -> FrontEnd {
        self.front_end
    }

    /// Device number of its file system.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        self.device
    }

    /// Whether it is there and served. Not a look at the directory: what is dead there would not
    /// answer.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let there = |mount: MountEntry| mount.device == self.device;
        self.session.result().is_none()
            && mountinfo::at(&self.directory).is_ok_and(|mount| mount.is_some_and(there))
    }

    /// What another process needs to serve it; once, and only if it may be handed over.
    pub fn take_descriptor(&mut self) -> Option<Descriptor> {
        self.descriptor.take()
    }

    /// From now on it stays when it is dropped, and when this process ends.
    pub fn leave(&mut self) {
        self.stays = true;
    }

    /// Does `what` when the file system is gone from the kernel, at once if it is. Not when its
    /// session ends because of an error.
    pub fn when_gone(&self, what: impl FnOnce() + Send + 'static) {
        self.session.when_gone(what);
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

    /// As [`unmount`](Self::unmount), without waiting for its users.
    ///
    /// # Errors
    /// As [`unmount`](Self::unmount).
    pub fn take_away(mut self) -> Result<()> {
        self.open = false;
        self.detach()
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

    /// Opens and closes a file. The first time, the kernel asks whether that concerns us; from then on
    /// nobody who closes a file, by his end for instance, waits for a daemon that is not there.
    fn open_once(&self, file: &Path) {
        if let Err(error) = fs::File::open(self.directory.join(file)) {
            tracing::debug!(file = %file.display(), %error, "opening a file once");
        }
    }

    fn detach(&self) -> Result<()> {
        detach_ours(&self.directory, self.device, true)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.open
            && !self.stays
            && let Err(error) = self.detach()
        {
            tracing::warn!(%error, "mount stays behind");
        }
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

/// A regular file of the tree, relative to its root.
fn some_file(tree: &Tree) -> Option<PathBuf> {
    let is_file = |ino| tree.attributes(ino).kind == crate::tree::Kind::Regular;
    let (path, _) = tree.walk().find(|(_, ino)| is_file(*ino))?;
    Some(OsString::from_vec(path).into())
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

/// Takes the mount of a file system at `directory` away if it is still there: what another has mounted
/// at the same place since is not. Says if it is in use, where that is `worth_saying`.
fn detach_ours(directory: &Path, device: (u32, u32), worth_saying: bool) -> Result<()> {
    let ours = |mount: &MountEntry| mount.device == device && mount.mount_point == directory;
    if !mountinfo::read()?.iter().any(ours) {
        return Ok(());
    }
    let shown = directory.display();
    match mountinfo::at(directory)? {
        Some(top) if ours(&top) => {}
        Some(top) => {
            let message = format!("{shown} is hidden below a mount of {}", top.kind);
            return Err(Error::new(Kind::Busy, message));
        }
        None => return Ok(()),
    }
    if kernel::detach(directory, true)? == kernel::Detached::Lazily && worth_saying {
        tracing::warn!(directory = %shown, "in use: detached, and gone when its last user is");
    }
    Ok(())
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
