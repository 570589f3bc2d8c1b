//! EROFS mounts: names and attributes are the kernel's, only data comes from this process.
//!
//! The metadata image is a file without a name, the data a device of a FUSE file system
//! ([`crate::erofs`]). Whether a kernel can do that is found out by doing it, with a small image of
//! our own first: a mount alone does not say that its data can be read. Kernels that cannot read
//! images from files may be able to through loop devices.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use self::attach::{Parts, Way};
use self::device_mount::DeviceMount;
use super::{FrontEnd, MountOptions, Mounted, SessionEnd, check_directory, kernel};
use crate::engine::ReadFile;
use crate::erofs::{Device, Layout, write};
use crate::error::{Error, Result};
use crate::sys::mountinfo::{self, MountEntry};
use crate::tree::Tree;

mod attach;
mod device_mount;
mod probe;

/// Mounts trees as EROFS, all on devices of one FUSE file system.
#[derive(Debug)]
pub struct Erofs {
    mount: DeviceMount,
    /// Where metadata images are written.
    images: PathBuf,
    way: Way,
}

/// A tree that [`Erofs`] has mounted. Dropping it unmounts.
#[derive(Debug)]
pub struct ErofsMounted {
    directory: PathBuf,
    device: (u32, u32),
    /// Of the file system of devices.
    session: Arc<SessionEnd>,
    /// After the mount.
    _retired: Retired,
}

/// Takes a device away when it is dropped.
#[derive(Debug)]
struct Retired {
    devices: crate::erofs::Devices,
    name: String,
}

// === impl Erofs ===

impl Erofs {
    /// Mounts the file system of devices, at `directory` if there is one (a directory on which nothing
    /// is mounted), and tries whether this kernel can mount and read an image. Metadata images are
    /// written to the first of `images` that can hold them; they have no names.
    ///
    /// # Errors
    /// `Unsupported` or `Denied` with what the kernel says, if it cannot; nothing is left then.
    pub fn start(
        directory: Option<&Path>,
        images: &[PathBuf],
        options: &MountOptions,
    ) -> Result<Erofs> {
        let mount = DeviceMount::new(directory, options)?;
        probe::find(mount, images, options)
    }

    /// Mounts `tree` over `directory`; `reader` has its bytes. `name` tells its device from all others
    /// and is a file name; a successor of this process that is given the same tree, reader and name
    /// serves the mount on.
    ///
    /// # Errors
    /// As [`mount`](super::mount); `Unsupported` too if EROFS cannot hold the tree or `options`.
    pub fn mount(
        &self,
        tree: Arc<Tree>,
        reader: Arc<dyn ReadFile>,
        directory: &Path,
        name: &str,
        options: &MountOptions,
    ) -> Result<ErofsMounted> {
        let directory = check_directory(directory)?;
        let (mount, retired) = self.prepare(tree, reader, name, options)?;
        let device = device_of(&mount)?;
        attach::attach(&mount, &directory)?;
        Ok(ErofsMounted {
            directory,
            device,
            session: self.mount.session(),
            _retired: retired,
        })
    }

    /// Whether the file system of devices is still there: somebody may have unmounted it, or ended its
    /// connection.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.mount.is_serving()
    }

    /// Mounts nowhere yet.
    fn prepare(
        &self,
        tree: Arc<Tree>,
        reader: Arc<dyn ReadFile>,
        name: &str,
        options: &MountOptions,
    ) -> Result<(OwnedFd, Retired)> {
        if !options.allow_other {
            let what = "EROFS mount that keeps other users out";
            return Err(Error::unsupported(what));
        }
        let layout = Layout::new(&tree, |file| reader.zeros(file))?;
        let image = image_file(&self.images)?;
        write(&tree, &layout, &image)?;
        crate::sys::release_free_memory();
        let device = Device::new(name, options.reference.clone(), tree, layout, reader);
        self.mount.devices.add(device)?;
        let retired = Retired {
            devices: self.mount.devices.clone(),
            name: name.to_owned(),
        };
        let mut attributes = MountAttrFlags::empty();
        if !options.suid {
            attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID;
        }
        if !options.devices {
            attributes |= MountAttrFlags::MOUNT_ATTR_NODEV;
        }
        let suffix = format!("{CONNECTION}{}", self.mount.connection());
        let parts = Parts {
            image: &image,
            devices: self.mount.root(),
            device: name,
            source: &attach::source(&options.reference, &suffix),
            attributes,
        };
        let mount = attach::mount(parts, self.way)?;
        Ok((mount, retired))
    }
}

// === impl ErofsMounted ===

impl ErofsMounted {
    /// Where it is mounted.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether it is still there, and served.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.is_mounted() && self.session.result().is_none()
    }

    fn is_mounted(&self) -> bool {
        let found = mountinfo::at(&self.directory);
        found.is_ok_and(|mount| mount.is_some_and(|mount| mount.device == self.device))
    }
}

impl Drop for ErofsMounted {
    fn drop(&mut self) {
        if self.is_mounted()
            && let Err(error) = kernel::detach(&self.directory, true)
        {
            tracing::warn!(%error, "mount stays behind");
        }
    }
}

// === impl Retired ===

impl Drop for Retired {
    fn drop(&mut self) {
        self.devices.retire(&self.name);
    }
}

/// Mounts one tree as EROFS over `directory`, which has been checked, with a FUSE file system of its
/// own behind it that nobody sees and that goes with the mount.
///
/// # Errors
/// As [`mount`](super::mount) and [`Erofs::start`].
pub(super) fn mount_alone(
    tree: Arc<Tree>,
    reader: Arc<dyn ReadFile>,
    directory: PathBuf,
    images: &[PathBuf],
    options: &MountOptions,
) -> Result<Mounted> {
    let erofs = Erofs::start(None, images, options)?;
    let (mount, retired) = erofs.prepare(tree, reader, "data", options)?;
    let device = device_of(&mount)?;
    let session = erofs.mount.session();
    attach::attach(&mount, &directory)?;
    // From here on the file system of devices is there for as long as EROFS has its device open.
    drop((erofs, retired));
    Ok(Mounted {
        directory,
        device,
        front_end: FrontEnd::Erofs,
        session,
        open: true,
    })
}

/// The FUSE connection behind an EROFS mount of ours; `None` if it is another's.
pub(super) fn connection(mount: &MountEntry) -> Option<u32> {
    if mount.kind != "erofs" {
        return None;
    }
    let source = mount.source.to_str()?.strip_prefix("nacre:")?;
    let (_, connection) = source.rsplit_once(CONNECTION)?;
    connection.parse().ok()
}

/// A new file without a name in `directory`.
fn image_file(directory: &Path) -> Result<File> {
    let what = || format!("metadata image in {}", directory.display());
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::openat(CWD, directory, flags | OFlags::TMPFILE, mode) {
        Ok(file) => Ok(file.into()),
        // A file system that cannot do that: with a name for a moment.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            let path = directory.join(format!(".nacre-{}.erofs", std::process::id()));
            let made = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path);
            let file = made.map_err(|error| Error::io(what(), error))?;
            std::fs::remove_file(&path).map_err(|error| Error::io(what(), error))?;
            Ok(file)
        }
        Err(errno) => Err(Error::io(what(), errno.into())),
    }
}

fn device_of(mount: &OwnedFd) -> Result<(u32, u32)> {
    let status = rustix::fs::fstat(mount.as_fd())
        .map_err(|errno| Error::io("EROFS mount", io::Error::from(errno)))?;
    Ok((
        rustix::fs::major(status.st_dev),
        rustix::fs::minor(status.st_dev),
    ))
}

/// What stands before the number of the connection in the source of a mount.
const CONNECTION: char = '~';
