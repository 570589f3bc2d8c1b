//! Taking away the mounts of a daemon that is not there any more.

use std::fs;
use std::path::{Path, PathBuf};

use super::erofs::device_mount::SOURCE;
use super::kernel::{self, MOUNT_TYPE};
use super::{FrontEnd, front_end, unmount};
use crate::error::{Error, Kind, Result};
use crate::sys::mountinfo::{self, MountEntry};

/// A mount that was released, or is in use and was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Where it is or was mounted.
    pub directory: PathBuf,
    /// What it shows, as the table of mounts calls it.
    pub source: String,
    /// Who uses it, in words.
    pub users: Vec<String>,
    /// Whether it is there no more.
    pub gone: bool,
}

/// Takes away all mounts of images that are directly below `parent`, with their directories. What is
/// in use stays, unless `force` ends it: then its users get errors.
///
/// # Errors
/// What the system says. Those before have been taken away.
pub fn release(parent: &Path, force: bool) -> Result<Vec<Left>> {
    let Some(parent) = canonical(parent)? else {
        return Ok(Vec::new());
    };
    let here = |mount: &MountEntry| {
        front_end::of(mount).is_some() && mount.mount_point.parent() == Some(&parent)
    };
    let mounts = mountinfo::read()?.into_iter().filter(here);
    mounts.map(|mount| one(&mount, force)).collect()
}

/// Takes away the file system of devices at `directory`, with the directory, unless EROFS mounts that
/// somebody can see hang on it; with `force`, these get errors. Who uses a mount of an image that was
/// taken out of sight is served on by a later daemon.
///
/// # Errors
/// What the system says.
pub fn release_devices(directory: &Path, force: bool) -> Result<Option<Left>> {
    // Not a look at the directory itself: nobody may be there to answer.
    let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
        return Ok(None);
    };
    let Some(directory) = canonical(parent)?.map(|parent| parent.join(name)) else {
        return Ok(None);
    };
    let mounts = mountinfo::read()?;
    let here = |it: &&MountEntry| it.mount_point == directory;
    let Some(mount) = mounts.iter().rev().find(here).filter(|it| is_devices(it)) else {
        return Ok(None);
    };
    let hangs = |it: &MountEntry| front_end::of(it) == Some((FrontEnd::Erofs, mount.device.1));
    let users: Vec<String> = { mounts.iter() }
        .filter(|it| hangs(it))
        .map(|it| it.mount_point.display().to_string())
        .collect();
    let gone = force || users.is_empty();
    if force {
        kernel::force(&directory)?;
    } else if gone {
        kernel::detach(&directory, true)?;
    }
    if gone && let Err(error) = fs::remove_dir(&directory) {
        tracing::warn!(directory = %directory.display(), %error, "directory stays");
    }
    Ok(Some(Left {
        directory,
        source: mount.source.to_string_lossy().into_owned(),
        users,
        gone,
    }))
}

/// The directory's canonical path, if it is there.
fn canonical(directory: &Path) -> Result<Option<PathBuf>> {
    match directory.canonicalize() {
        Ok(canonical) => Ok(Some(canonical)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(directory.display().to_string(), error)),
    }
}

/// Whether it is a file system of devices of ours.
fn is_devices(mount: &MountEntry) -> bool {
    mount.kind == MOUNT_TYPE && mount.source == SOURCE
}

fn one(mount: &MountEntry, force: bool) -> Result<Left> {
    let directory = mount.mount_point.clone();
    // An overlay does not keep what is below it from being unmounted.
    let mut users = unmount::overlays(&directory);
    let mut gone = false;
    if users.is_empty() {
        match kernel::detach(&directory, false) {
            Ok(_) => gone = true,
            Err(error) if error.kind() == Kind::Busy => users = unmount::users(&directory),
            Err(error) => return Err(error),
        }
    }
    if !gone && force {
        kernel::force(&directory)?;
        gone = true;
    }
    if gone && let Err(error) = fs::remove_dir(&directory) {
        tracing::warn!(directory = %directory.display(), %error, "directory stays");
    }
    Ok(Left {
        directory,
        source: mount.source.to_string_lossy().into_owned(),
        users,
        gone,
    })
}
