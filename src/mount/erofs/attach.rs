//! The system calls of an EROFS mount: made out of sight, from a file without a name.
//!
//! The kernel takes files by path and shows the path of the first as the source of the mount. So the
//! mount is made by a thread that stands in a file system of its own, which has a link of the right
//! name and goes away with the thread. The data device is reached through `/proc/self/fd`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::error::{Error, Kind, Result};
use crate::sys::loop_device::LoopDevice;

/// What is mounted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts<'p> {
    /// The metadata image.
    pub(super) image: &'p File,
    /// The directory of devices.
    pub(super) devices: BorrowedFd<'p>,
    /// Name of the device in it.
    pub(super) device: &'p str,
    /// What the table of mounts shows.
    pub(super) source: &'p str,
    pub(super) attributes: MountAttrFlags,
}

/// What the kernel's EROFS reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Files, as they are.
    Files,
    /// Loop devices on the files.
    LoopDevices,
}

/// Mounts nowhere: [`attach`] puts it in its place, closing it unmounts.
///
/// # Errors
/// `Unsupported`, `Denied` or `Io`, with what the kernel says.
pub(super) fn mount(parts: Parts<'_>, way: Way) -> Result<OwnedFd> {
    match way {
        Way::Files => {
            let image = of_descriptor(parts.image.as_fd());
            let device = of_descriptor(parts.devices).join(parts.device);
            mount_from(parts, &image, &device)
        }
        Way::LoopDevices => {
            let device = open_device(parts)?;
            let attach = |file, what: &str| {
                LoopDevice::attach(file).map_err(|e| Error::io(format!("loop device of {what}"), e))
            };
            // The mount has them open when these are closed.
            let image = attach(parts.image, "the metadata image")?;
            let device = attach(&device, "the data device")?;
            mount_from(parts, image.path(), device.path())
        }
    }
}

/// Puts a mount that is nowhere over `directory`.
pub(super) fn attach(mount: &OwnedFd, directory: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mount, "", CWD, directory, flags).map_err(|errno| {
        let what = format!("mount over {}", directory.display());
        failed(what, errno)
    })
}

/// Makes a mount of a file system that needs no more than settings; nowhere, as [`mount`].
pub(super) fn mount_simple(
    kind: &str,
    settings: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| failed(format!("file system type {kind}"), errno))?;
    let made = || {
        for (key, value) in settings {
            fsconfig_set_string(&context, *key, *value)?;
        }
        if attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
            fsconfig_set_flag(&context, "ro")?;
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    made().map_err(|errno| {
        let said = messages(&context);
        failed(format!("mount of type {kind}{said}"), errno)
    })
}

/// Mounts a read-only overlay of two directories of `lower`; nowhere, as [`mount`].
pub(super) fn overlay(lower: &OwnedFd, directories: [&str; 2]) -> Result<OwnedFd> {
    let root = of_descriptor(lower.as_fd());
    let layers = directories.map(|it| root.join(it).display().to_string());
    let settings = [("source", "none"), ("lowerdir", &layers.join(":"))];
    mount_simple("overlay", &settings, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// In a thread of its own, because of where it stands.
fn mount_from(parts: Parts<'_>, image: &Path, device: &Path) -> Result<OwnedFd> {
    let mounted = || {
        stand_by_link(parts.source, image)?;
        let device = device.to_str().expect("it is made of ASCII");
        let settings = [("source", parts.source), ("device", device)];
        let attributes = parts.attributes | MountAttrFlags::MOUNT_ATTR_RDONLY;
        mount_simple("erofs", &settings, attributes)
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("nacre-mount".to_owned());
        let thread = thread.spawn_scoped(scope, mounted);
        let thread = thread.map_err(|error| Error::io("thread that mounts", error))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::internal("thread that mounts")))
    })
}

/// Takes this thread to a new, empty file system where `source` leads to `target`.
fn stand_by_link(source: &str, target: &Path) -> Result<()> {
    let what = |what: &str| format!("place to mount from: {what}");
    unshare(CloneFlags::CLONE_FS).map_err(|errno| Error::io(what("unshare"), errno.into()))?;
    let place = mount_simple("tmpfs", &[("mode", "0700")], MountAttrFlags::empty())?;
    let linked = || -> io::Result<()> {
        rustix::process::fchdir(&place)?;
        if let Some(parent) = Path::new(source).parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::os::unix::fs::symlink(target, source)
    };
    linked().map_err(|error| Error::io(what(source), error))
}

/// How a reference can be the path of a link: without what leads out of its directory.
pub(super) fn source(reference: &str, suffix: &str) -> String {
    let shown: String = reference.chars().filter(char::is_ascii_graphic).collect();
    let parts = Path::new(&shown)
        .components()
        .filter_map(|part| match part {
            Component::Normal(part) => part.to_str(),
            Component::RootDir => Some(""),
            Component::CurDir | Component::ParentDir | Component::Prefix(_) => None,
        });
    let mut source = format!("nacre:{}", parts.collect::<Vec<_>>().join("/"));
    source.truncate(MAX_SOURCE - suffix.len());
    source.push_str(suffix);
    source
}

fn open_device(parts: Parts<'_>) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parts.devices, parts.device, flags, Mode::empty());
    let opened = opened.map_err(|e| Error::io(format!("device {}", parts.device), e.into()))?;
    Ok(opened.into())
}

fn of_descriptor(descriptor: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into()
}

/// What the kernel has to say of an attempt, as the end of a sentence.
fn messages(context: &OwnedFd) -> String {
    let mut said = String::new();
    let mut line = [0; 1024];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        // Each begins with a letter for its weight.
        let text = String::from_utf8_lossy(&line[..length]);
        let text = text.trim_end();
        said.push_str(": ");
        said.push_str(text.get(2..).unwrap_or(text));
    }
    said
}

fn failed(what: String, errno: rustix::io::Errno) -> Error {
    use rustix::io::Errno;
    let kind = match errno {
        // No such type, no files as block devices, an unknown feature or option, no such call.
        Errno::NODEV | Errno::NOTBLK | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS => {
            Kind::Unsupported
        }
        Errno::PERM | Errno::ACCESS => Kind::Denied,
        _ => Kind::Io,
    };
    Error::new(kind, what).with_source(io::Error::from(errno))
}

/// What a setting of a mount can be long.
const MAX_SOURCE: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_stays_in_its_directory_and_is_short() {
        assert_eq!(source("registry/a/b:1", "~5"), "nacre:registry/a/b:1~5");
        assert_eq!(source("oci:/abs/dir:tag", ""), "nacre:oci:/abs/dir:tag");
        assert_eq!(source("/abs", ""), "nacre:/abs");
        assert_eq!(source("oci:../../x/./y//z", ""), "nacre:oci:../x/y/z");
        assert_eq!(source("../a/../b c\u{e9}\n", ""), "nacre:a/bc");
        let long = source(&"x/".repeat(500), "~12345");
        assert_eq!(long.len(), 255);
        assert!(long.ends_with("~12345"));
    }
}
