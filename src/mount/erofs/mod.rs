//! EROFS mounts: names and attributes are the kernel's, only data comes from this process.
//!
//! The metadata image is a file without a name, the data a device of a FUSE file system
//! ([`crate::erofs`]). Whether a kernel can do that is found out by doing it, with a small image of
//! our own first: a mount alone does not say that its data can be read. Kernels that cannot read
//! images from files may be able to through loop devices.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use self::attach::{Parts, Way};
pub use self::device_mount::{DeviceMount, adopt_devices};
use super::{FrontEnd, MountOptions, Mounted, ReadAhead, check_directory, detach_ours};
use crate::engine::ReadFile;
use crate::erofs::{Device, Devices, Layout, write};
use crate::error::{Error, Result};
use crate::sys::mountinfo::{self, MountEntry};
use crate::tree::Tree;

mod attach;
pub(super) mod device_mount;
mod probe;

/// Mounts trees as EROFS, all on devices of one FUSE file system.
#[derive(Debug)]
pub struct Erofs {
    mount: Arc<DeviceMount>,
    /// Where metadata images are written.
    images: PathBuf,
    way: Way,
}

/// What must be possible over an EROFS mount. Some kernels count one from a file as an overlay, of which
/// they allow two over each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlays {
    /// What a container has: one.
    One,
    /// As many as over a FUSE mount.
    All,
}

/// A tree that [`Erofs`] has mounted, or an earlier process. Dropping it unmounts, unless its devices
/// [stay](DeviceMount::leave).
#[derive(Debug)]
pub struct ErofsMounted {
    directory: PathBuf,
    device: (u32, u32),
    read_ahead: Option<ReadAhead>,
    mount: Arc<DeviceMount>,
    /// Of its device.
    name: String,
    reference: String,
    open: bool,
}

/// Takes a device away when it is dropped.
#[derive(Debug)]
struct Retired {
    devices: Devices,
    name: Option<String>,
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
        overlays: Overlays,
        options: &MountOptions,
    ) -> Result<Erofs> {
        let mount = DeviceMount::new(directory, options)?;
        Self::on(Arc::new(mount), images, overlays, options)
    }

    /// As [`start`](Self::start), on a file system of devices that was taken over.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn on(
        mount: Arc<DeviceMount>,
        images: &[PathBuf],
        overlays: Overlays,
        options: &MountOptions,
    ) -> Result<Erofs> {
        mount.serve()?;
        probe::find(mount, images, overlays, options)
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
        let (mount, read_ahead, retired) = self.prepare(tree, reader, name, options)?;
        let device = device_of(&mount)?;
        attach::attach(&mount, &directory)?;
        retired.keep();
        Ok(ErofsMounted {
            directory,
            device,
            read_ahead,
            mount: Arc::clone(&self.mount),
            name: name.to_owned(),
            reference: options.reference.clone(),
            open: true,
        })
    }

    /// The file system of devices.
    #[must_use]
    pub fn devices(&self) -> &Arc<DeviceMount> {
        &self.mount
    }

    /// Mounts nowhere yet.
    fn prepare(
        &self,
        tree: Arc<Tree>,
        reader: Arc<dyn ReadFile>,
        name: &str,
        options: &MountOptions,
    ) -> Result<(OwnedFd, Option<ReadAhead>, Retired)> {
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
            name: Some(name.to_owned()),
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
            devices: self.mount.root()?.as_fd(),
            device: name,
            source: &attach::source(&options.reference, &suffix),
            attributes,
        };
        let made = ReadAhead::of_new_erofs(|| attach::mount(parts, self.way));
        let (mount, read_ahead) = made?;
        // On a loop device it is the device's.
        let read_ahead = read_ahead.or(ReadAhead::of(device_of(&mount)?));
        Ok((mount, read_ahead, retired))
    }
}

// === impl ErofsMounted ===

impl ErofsMounted {
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

    /// Whether it is still there, and served.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let there = |mount: MountEntry| mount.device == self.device;
        self.mount.is_serving()
            && mountinfo::at(&self.directory).is_ok_and(|mount| mount.is_some_and(there))
    }

    /// Whether it shows a tree; only one that was adopted may not.
    #[must_use]
    pub fn shows(&self) -> bool {
        self.mount.devices.has(&self.name)
    }

    /// Shows a tree, which must be the one that was shown before, and answers what waits.
    ///
    /// # Errors
    /// `Unsupported` if EROFS cannot hold the tree: then it is another.
    pub fn show(&self, tree: Arc<Tree>, reader: Arc<dyn ReadFile>) -> Result<()> {
        if self.shows() {
            // A second tree could only be the same.
            return Ok(());
        }
        let layout = Layout::new(&tree, |file| reader.zeros(file))?;
        let (name, reference) = (self.name.clone(), self.reference.clone());
        let device = Device::new(name, reference, tree, layout, reader);
        self.mount.devices.add(device)
    }

    /// Answers everything with EIO until there is a tree to show; `why` is what the log says.
    pub fn fail(&self, why: Error) {
        self.mount.devices.fail(&self.name, why);
    }

    /// Unmounts, without waiting for its users.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) or [`Kind::Denied`](crate::Kind::Denied) if the kernel refuses.
    pub fn take_away(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.open = false;
        let detached = detach_ours(&self.directory, self.device, true);
        self.mount.devices.retire(&self.name);
        detached
    }
}

impl Drop for ErofsMounted {
    fn drop(&mut self) {
        if self.open
            && !self.mount.stays()
            && let Err(error) = self.end()
        {
            tracing::warn!(%error, "mount stays behind");
        }
    }
}

// === impl Retired ===

impl Retired {
    /// Leaves the device where it is.
    fn keep(mut self) {
        self.name = None;
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            self.devices.retire(name);
        }
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
    overlays: Overlays,
    options: &MountOptions,
) -> Result<Mounted> {
    let erofs = Erofs::start(None, images, overlays, options)?;
    let (mount, read_ahead, retired) = erofs.prepare(tree, reader, "data", options)?;
    let device = device_of(&mount)?;
    let session = erofs.mount.session();
    attach::attach(&mount, &directory)?;
    // From here on the file system of devices is there for as long as EROFS has its device open.
    drop((erofs, retired));
    let mounted = Mounted {
        directory,
        device,
        read_ahead,
        front_end: FrontEnd::Erofs,
        session,
        open: true,
        stays: false,
        descriptor: None,
    };
    mounted.set_read_ahead(options);
    Ok(mounted)
}

/// The FUSE connection of the devices behind the EROFS mount of ours at `directory`, if there is one.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io) if there is no table of mounts.
pub fn connection_at(directory: &Path) -> Result<Option<u32>> {
    Ok(mountinfo::at(directory)?.and_then(|mount| connection(&mount)))
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
