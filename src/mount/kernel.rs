//! The system calls of a FUSE mount: making it, tuning it, taking it away.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{getegid, geteuid};

use super::MountOptions;
use crate::error::{Error, Kind, Result};

/// What `mountinfo` and `mount` show as the type.
pub(super) const MOUNT_TYPE: &str = "fuse.nacre";
/// The second half of [`MOUNT_TYPE`].
pub(super) const SUBTYPE: &str = "nacre";

/// How a mount went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detached {
    /// Nobody in this namespace used it.
    Clean,
    /// It was in use and is now out of sight.
    Lazily,
}

/// Mounts over `directory`. `None` if only the set-uid helper may do that for this user.
pub(super) fn attach(
    source: &str,
    directory: &Path,
    options: &MountOptions,
) -> Result<Option<OwnedFd>> {
    let opened = OpenOptions::new().read(true).write(true).open(DEVICE);
    let device = opened.map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Kind::Unsupported,
            io::ErrorKind::PermissionDenied => Kind::Denied,
            _ => Kind::Io,
        };
        let hint =
            "load the fuse kernel module (modprobe fuse), or give this user or container /dev/fuse";
        Error::new(kind, DEVICE).with_source(error).with_hint(hint)
    })?;
    let mut flags = MsFlags::MS_RDONLY;
    if !options.suid {
        flags |= MsFlags::MS_NOSUID;
    }
    if !options.devices {
        flags |= MsFlags::MS_NODEV;
    }
    let others = if options.allow_other {
        ",allow_other"
    } else {
        ""
    };
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{others}",
        device.as_raw_fd(),
        geteuid(),
        getegid(),
    );
    let made = mount(
        Some(source),
        directory,
        Some(MOUNT_TYPE),
        flags,
        Some(data.as_str()),
    );
    match made {
        Ok(()) => Ok(Some(device.into())),
        Err(Errno::EPERM) => Ok(None),
        Err(errno) => {
            let what = format!("mount over {}", directory.display());
            Err(Error::io(what, errno.into()))
        }
    }
}

/// Takes the mount at `directory` away; `lazily` only out of sight if it is in use.
///
/// # Errors
/// [`Kind::Busy`] if it is in use and not `lazily`.
pub(super) fn detach(directory: &Path, lazily: bool) -> Result<Detached> {
    match unmount(directory, MntFlags::UMOUNT_NOFOLLOW, &["-u"]) {
        Ok(()) => return Ok(Detached::Clean),
        Err(Errno::EBUSY) if lazily => {}
        Err(errno) => return Err(unmount_error(directory, errno)),
    }
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    match unmount(directory, flags, &["-u", "-z"]) {
        Ok(()) => Ok(Detached::Lazily),
        Err(errno) => Err(unmount_error(directory, errno)),
    }
}

/// Has the kernel ask once more what was read from the file system's descriptor and not answered.
pub(super) fn resend(file: BorrowedFd<'_>) -> io::Result<()> {
    // fuse_out_header: length, FUSE_NOTIFY_RESEND, and no request that it would answer.
    let mut message = [0; 16];
    message[..4].copy_from_slice(&16_u32.to_ne_bytes());
    message[4..8].copy_from_slice(&7_u32.to_ne_bytes());
    nix::unistd::write(file, &message)?;
    Ok(())
}

/// Takes the mount at `directory` away although it is in use, and ends its file system: what its
/// users want of it fails from now on.
pub(super) fn force(directory: &Path) -> Result<()> {
    let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    umount2(directory, flags).map_err(|errno| unmount_error(directory, errno))
}

fn unmount(directory: &Path, flags: MntFlags, helper: &[&str]) -> Result<(), Errno> {
    match umount2(directory, flags) {
        Err(Errno::EPERM) => ask_helper(directory, helper),
        other => other,
    }
}

/// `fusermount` unmounts what it has mounted for a user.
fn ask_helper(directory: &Path, arguments: &[&str]) -> Result<(), Errno> {
    for helper in ["fusermount3", "fusermount"] {
        let mut command = Command::new(helper);
        command.args(arguments).arg("--").arg(directory);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let Ok(output) = command.output() else {
            continue;
        };
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        tracing::debug!(helper, "{}", text.trim_end());
        let busy = text.contains("busy");
        return Err(if busy { Errno::EBUSY } else { Errno::EPERM });
    }
    Err(Errno::EPERM)
}

fn unmount_error(directory: &Path, errno: Errno) -> Error {
    let kind = match errno {
        Errno::EBUSY => Kind::Busy,
        Errno::EPERM => Kind::Denied,
        Errno::EINVAL | Errno::ENOENT => Kind::NotFound,
        _ => Kind::Io,
    };
    let what = format!("unmount {}", directory.display());
    Error::new(kind, what).with_source(io::Error::from(errno))
}

const DEVICE: &str = "/dev/fuse";
