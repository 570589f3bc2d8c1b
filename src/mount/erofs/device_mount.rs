//! The FUSE file system of devices: mounted where nobody sees it, or at a directory where a successor
//! of this process finds it again, which then serves it and the EROFS mounts that hang on it.

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{Session, SessionACL};
use nix::unistd::{getegid, geteuid};
use rustix::fs::{CWD, Mode, OFlags, major, minor};
use rustix::mount::MountAttrFlags;

use super::{ErofsMounted, attach};
use crate::erofs::{DeviceFilesystem, Devices};
use crate::error::{Error, Kind, Result};
use crate::mount::session::{self, SessionEnd};
use crate::mount::{Descriptor, MountOptions, detach_ours, kernel};
use crate::sys::mountinfo;

/// The mounted file system of all devices. Dropping it unmounts, unless it [stays](Self::leave);
/// devices that are in use are served on until they are not.
pub struct DeviceMount {
    pub(super) devices: Devices,
    /// Its root directory; the mount itself, where it is nowhere. `None` if it was taken over and is
    /// seen nowhere: then nobody can open a device.
    root: Option<OwnedFd>,
    /// Number of the FUSE connection.
    connection: u32,
    attached: Option<PathBuf>,
    session: Arc<SessionEnd>,
    /// Until it is served.
    waiting: Mutex<Option<Session<DeviceFilesystem>>>,
    descriptor: Mutex<Option<Descriptor>>,
    stays: AtomicBool,
}

/// Takes over the file system of devices with device number 0:`connection` that an earlier process
/// made, if it can at `directory`. Nothing is answered before it is [served](DeviceMount::serve), so
/// that [mounts can be adopted](DeviceMount::adopt) first.
///
/// # Errors
/// `NotFound` if that file system is gone, `Invalid` if the descriptor is another's, `Io` if the kernel
/// refuses.
pub fn adopt_devices(
    descriptor: Descriptor,
    connection: u32,
    directory: &Path,
    options: &MountOptions,
) -> Result<DeviceMount> {
    let devices = Devices::new();
    let filesystem = devices.filesystem(options.reads.clone()).for_hand_over();
    let session = session::take_over(filesystem, descriptor, connection, WHAT, options)?;
    let top = mountinfo::at(directory)?;
    let attached = top.is_some_and(|it| it.device == (0, connection));
    let mut root = None;
    if attached {
        // Without asking anything of the file system, which nobody serves yet.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, directory, flags, Mode::empty());
        root = Some(opened.map_err(|errno| Error::io(WHAT, errno.into()))?);
    }
    Ok(DeviceMount {
        devices,
        root,
        connection,
        attached: attached.then(|| directory.to_owned()),
        session: Arc::default(),
        waiting: Mutex::new(Some(session)),
        descriptor: Mutex::default(),
        stays: AtomicBool::new(options.hand_over),
    })
}

// === impl DeviceMount ===

impl DeviceMount {
    /// Mounts and serves it; at `directory`, where nothing is mounted, or nowhere.
    ///
    /// # Errors
    /// `Unsupported` without FUSE, `Denied` or `Io` if the kernel refuses.
    pub(super) fn new(directory: Option<&Path>, options: &MountOptions) -> Result<DeviceMount> {
        let fuse = OpenOptions::new().read(true).write(true).open(FUSE);
        let fuse = fuse.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::NotFound => Kind::Unsupported,
                io::ErrorKind::PermissionDenied => Kind::Denied,
                _ => Kind::Io,
            };
            Error::new(kind, FUSE).with_source(error)
        })?;
        let settings = [
            ("source", SOURCE),
            ("subtype", kernel::SUBTYPE),
            ("fd", &fuse.as_raw_fd().to_string()),
            ("rootmode", "40000"),
            ("user_id", &geteuid().to_string()),
            ("group_id", &getegid().to_string()),
        ];
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let root = attach::mount_simple("fuse", &settings, attributes)?;
        let devices = Devices::new();
        let mut filesystem = devices.filesystem(options.reads.clone());
        if options.hand_over {
            filesystem = filesystem.for_hand_over();
        }
        let handshake = filesystem.handshake();
        let config = options.session_config();
        let session = Session::from_fd(filesystem, fuse.into(), SessionACL::All, config)
            .map_err(|error| Error::io("FUSE handshake", error))?;
        let mut descriptor = None;
        if let (true, Some(handshake)) = (options.hand_over, handshake.get()) {
            let file = session.as_fd().try_clone_to_owned();
            descriptor = Some(Descriptor {
                file: file.map_err(|error| Error::io("descriptor of the devices", error))?,
                handshake: *handshake,
            });
        }
        let end = Arc::default();
        session::serve(session, &end)?;
        let status = rustix::fs::fstat(&root).map_err(|errno| Error::io(WHAT, errno.into()))?;
        debug_assert_eq!(major(status.st_dev), 0, "FUSE has no block device");
        let mut mount = DeviceMount {
            devices,
            root: Some(root),
            connection: minor(status.st_dev),
            attached: None,
            session: end,
            waiting: Mutex::default(),
            descriptor: Mutex::new(descriptor),
            stays: AtomicBool::new(false),
        };
        if let Some(directory) = directory {
            attach::attach(mount.root()?, directory)?;
            mount.attached = Some(directory.to_owned());
        }
        Ok(mount)
    }

    /// Begins to answer, if it has been taken over and nothing is answered yet: what no mount was
    /// adopted for fails from now on.
    ///
    /// # Errors
    /// [`Kind::Io`] if there is no thread to serve it.
    pub fn serve(&self) -> Result<()> {
        let waiting = self.waiting.lock();
        match waiting.unwrap_or_else(PoisonError::into_inner).take() {
            Some(session) => session::serve(session, &self.session),
            None => Ok(()),
        }
    }

    /// Takes over the EROFS mount at `directory` that hangs on these devices, on the one called `name`;
    /// `reference` is what log lines call it. Its requests wait until it is shown a tree or fails.
    ///
    /// # Errors
    /// `NotFound` if no such mount is there.
    pub fn adopt(
        self: &Arc<Self>,
        directory: &Path,
        name: &str,
        reference: &str,
    ) -> Result<ErofsMounted> {
        let top = mountinfo::at(directory)?;
        let ours = top.filter(|it| super::connection(it) == Some(self.connection));
        let Some(mount) = ours else {
            let (directory, number) = (directory.display(), self.connection);
            let message = format!("{directory}: no EROFS on the devices of 0:{number} is there");
            return Err(Error::not_found(message));
        };
        self.devices.expect(name, reference);
        Ok(ErofsMounted {
            directory: directory.to_owned(),
            device: mount.device,
            read_ahead: None,
            mount: Arc::clone(self),
            name: name.to_owned(),
            reference: reference.to_owned(),
            open: true,
        })
    }

    /// Number of the FUSE connection, as `/sys/fs/fuse/connections` and `fdinfo` call it.
    #[must_use]
    pub fn connection(&self) -> u32 {
        self.connection
    }

    /// Where it is mounted, if it is anywhere.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.attached.as_deref()
    }

    /// Whether the kernel still has the file system: somebody may have ended its connection.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.session.result().is_none()
    }

    /// What another process needs to serve it; once, and only if it may be handed over.
    #[must_use]
    pub fn take_descriptor(&self) -> Option<Descriptor> {
        let descriptor = self.descriptor.lock();
        descriptor.unwrap_or_else(PoisonError::into_inner).take()
    }

    /// From now on it and its EROFS mounts stay when they are dropped, and when this process ends; but
    /// if none is left that somebody can see, it goes.
    pub fn leave(&self) {
        self.stays.store(true, Ordering::Relaxed);
    }

    /// Whether it [stays](Self::leave).
    pub(super) fn stays(&self) -> bool {
        self.stays.load(Ordering::Relaxed)
    }

    /// Does `what` when the file system is gone from the kernel, at once if it is. Not when its session
    /// ends because of an error.
    pub fn when_gone(&self, what: impl FnOnce() + Send + 'static) {
        self.session.when_gone(what);
    }

    /// The directory of the devices.
    ///
    /// # Errors
    /// `NotFound` if it is seen nowhere.
    pub(super) fn root(&self) -> Result<&OwnedFd> {
        let nowhere = || Error::not_found(format!("{WHAT}: mounted nowhere"));
        self.root.as_ref().ok_or_else(nowhere)
    }

    /// When the kernel has let go of the file system.
    pub(super) fn session(&self) -> Arc<SessionEnd> {
        Arc::clone(&self.session)
    }
}

impl Drop for DeviceMount {
    fn drop(&mut self) {
        if let Some(directory) = &self.attached
            && (!self.stays() || self.devices.is_empty())
            && let Err(error) = detach_ours(directory, (0, self.connection), false)
        {
            tracing::warn!(%error, "mount stays behind");
        }
    }
}

impl fmt::Debug for DeviceMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceMount")
            .field("devices", &self.devices)
            .field("connection", &self.connection)
            .field("attached", &self.attached)
            .finish_non_exhaustive()
    }
}

const FUSE: &str = "/dev/fuse";
/// What the table of mounts shows as the source.
pub(in crate::mount) const SOURCE: &str = "nacre-devices";
/// What errors call it.
const WHAT: &str = "file system of devices";
