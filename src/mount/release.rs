//! Taking away the mounts of a daemon that is not there any more.

use std::fs;
use std::path::{Path, PathBuf};

use super::kernel::{self, MOUNT_TYPE};
use super::unmount;
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
    let parent = match parent.canonicalize() {
        Ok(parent) => parent,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(parent.display().to_string(), error)),
    };
    let here = |mount: &MountEntry| {
        mount.kind == MOUNT_TYPE && mount.mount_point.parent() == Some(&parent)
    };
    let mounts = mountinfo::read()?.into_iter().filter(here);
    mounts.map(|mount| one(&mount, force)).collect()
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
