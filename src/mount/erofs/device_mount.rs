//! The FUSE file system of devices: mounted where nobody sees it, or at a directory that a successor
//! of this process finds again.

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use fuser::{Session, SessionACL};
use nix::unistd::{getegid, geteuid};
use rustix::fs::{major, minor};
use rustix::mount::MountAttrFlags;

use super::attach;
use crate::erofs::Devices;
use crate::error::{Error, Kind, Result};
use crate::mount::{MountOptions, SessionEnd, kernel};

/// The mounted file system of all devices. Dropping it unmounts; devices that are in use are served
/// on until they are not.
pub(super) struct DeviceMount {
    pub(super) devices: Devices,
    /// Its root directory; the mount itself, where it is nowhere.
    root: OwnedFd,
    /// Number of the FUSE connection.
    connection: u32,
    attached: Option<PathBuf>,
    session: Arc<SessionEnd>,
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
        let config = options.session_config();
        let session = Session::from_fd(devices.filesystem(), fuse.into(), SessionACL::All, config)
            .map_err(|error| Error::io("FUSE handshake", error))?;
        let end = serve(session)?;
        let status = rustix::fs::fstat(&root)
            .map_err(|errno| Error::io("mount of the devices", errno.into()))?;
        debug_assert_eq!(major(status.st_dev), 0, "FUSE has no block device");
        let mut mount = DeviceMount {
            devices,
            root,
            connection: minor(status.st_dev),
            attached: None,
            session: end,
        };
        if let Some(directory) = directory {
            attach::attach(&mount.root, directory)?;
            mount.attached = Some(directory.to_owned());
        }
        Ok(mount)
    }

    /// The directory of the devices.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Number of the FUSE connection, as `/sys/fs/fuse/connections` and `fdinfo` call it.
    pub(super) fn connection(&self) -> u32 {
        self.connection
    }

    /// Whether the kernel still has the file system.
    pub(super) fn is_serving(&self) -> bool {
        self.session.result().is_none()
    }

    /// When the kernel has let go of the file system.
    pub(super) fn session(&self) -> Arc<SessionEnd> {
        Arc::clone(&self.session)
    }
}

impl Drop for DeviceMount {
    fn drop(&mut self) {
        if let Some(directory) = &self.attached
            && let Err(error) = kernel::detach(directory, true)
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

/// Serves in background threads.
fn serve(session: Session<crate::erofs::DeviceFilesystem>) -> Result<Arc<SessionEnd>> {
    let end = Arc::<SessionEnd>::default();
    let served = Arc::clone(&end);
    let thread = thread::Builder::new().name("fuse-devices".to_owned());
    let started = thread.spawn(move || {
        let result = session.run();
        served.set(result.map_err(|error| error.to_string()));
    });
    match started {
        Ok(_) => Ok(end),
        Err(error) => Err(Error::io("thread of the FUSE session", error)),
    }
}

const FUSE: &str = "/dev/fuse";
/// What the table of mounts shows as the source.
const SOURCE: &str = "nacre-devices";
