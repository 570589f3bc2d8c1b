//! A directory that is unpacked into and that nobody else sees: `.rootfs.partial-XXXX` beside the
//! final name, renamed when everything is verified, removed otherwise.
//!
//! It is locked while in use, so that the next unpacking removes what a killed one left behind.

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::{
    fd::OwnedFd,
    fs::{self, AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::remove::remove_tree;
use crate::error::{Error, Kind, Result};

/// The directory while it is being filled.
#[derive(Debug)]
pub(super) struct Partial {
    /// Where everything is put: `DIR`.
    parent: PathBuf,
    /// Whether `parent` was made here.
    made_parent: bool,
    name: OsString,
    /// Holds the lock.
    _lock: OwnedFd,
}

const PREFIX: &str = ".rootfs.partial-";
/// The root inside the partial directory: it gets the image's own mode, its parent stays private.
const INNER: &str = "rootfs";
/// The file beside it, until it is put in place.
const FILE: &str = "file";
/// Tries to make the directory; each can only fail if another process interferes.
const TRIES: u32 = 8;

// === impl Partial ===

impl Partial {
    /// Makes the directory for what will be `rootfs`.
    pub(super) fn create(rootfs: &Path) -> Result<Self> {
        let parent = match rootfs.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let failed = |error: io::Error| {
            Error::io(
                format!("{}: cannot be unpacked into", parent.display()),
                error,
            )
        };
        if occupied(rootfs) {
            return Err(
                Error::new(Kind::Busy, format!("{}: exists already", rootfs.display()))
                    .with_hint("remove it or give another directory"),
            );
        }
        let made_parent = !parent.exists();
        std::fs::create_dir_all(&parent).map_err(failed)?;
        remove_left_behind(&parent);
        for _ in 0..TRIES {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(|e| failed(io::Error::other(e.to_string())))?;
            let name = OsString::from(format!("{PREFIX}{}", hex::encode(random)));
            let path = parent.join(&name);
            fs::mkdir(&path, Mode::RWXU).map_err(|e| failed(e.into()))?;
            let Some(lock) = lock(&path) else {
                continue;
            };
            let partial = Self {
                parent: parent.clone(),
                made_parent,
                name,
                _lock: lock,
            };
            match fs::mkdir(partial.root(), Mode::from_raw_mode(0o755)) {
                Ok(()) => return Ok(partial),
                // Somebody took it for left behind before it was locked.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        Err(Error::new(
            Kind::Busy,
            format!(
                "{}: another process removes what is made there",
                parent.display()
            ),
        ))
    }

    /// The root file system while it is not visible.
    pub(super) fn root(&self) -> PathBuf {
        self.parent.join(&self.name).join(INNER)
    }

    /// Makes the root visible as `rootfs`, which must not exist.
    pub(super) fn publish(mut self, rootfs: &Path) -> Result<()> {
        self.rename_root(rootfs)
    }

    /// As [`publish`](Self::publish), with a file of the given text beside it, which appears last.
    pub(super) fn publish_with(mut self, rootfs: &Path, file: &Path, text: &[u8]) -> Result<()> {
        let failed =
            |error: io::Error| Error::io(format!("{}: cannot be written", file.display()), error);
        let written = self.parent.join(&self.name).join(FILE);
        std::fs::write(&written, text).map_err(failed)?;
        self.rename_root(rootfs)?;
        let renamed = fs::renameat_with(CWD, &written, CWD, file, RenameFlags::NOREPLACE);
        renamed.map_err(|error| {
            // Half a bundle is none.
            if let Some(name) = rootfs.file_name() {
                remove_from(&self.parent, &name.to_owned());
            }
            failed(error.into())
        })
    }

    fn rename_root(&mut self, rootfs: &Path) -> Result<()> {
        fs::renameat_with(CWD, self.root(), CWD, rootfs, RenameFlags::NOREPLACE).map_err(|e| {
            let message = format!("{}: cannot be put in place", rootfs.display());
            Error::io(message, e.into())
        })?;
        self.made_parent = false;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        remove_from(&self.parent, &self.name);
        if self.made_parent {
            // Fails if somebody else put something there, which is as it should be.
            let _ = fs::rmdir(&self.parent);
        }
    }
}

/// Takes a directory's lock; `None` if another process has it.
fn lock(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = fs::open(path, flags, Mode::empty()).ok()?;
    fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(directory)
}

/// Removes the partial directories that no living process holds.
fn remove_left_behind(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())
            && let Some(_lock) = lock(&entry.path())
        {
            remove_from(parent, &entry.file_name());
        }
    }
}

fn remove_from(parent: &Path, name: &OsString) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let removed = fs::openat(CWD, parent, flags, Mode::empty())
        .and_then(|parent| remove_tree(&parent, name.as_bytes()));
    match removed {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => {
            let path = parent.join(name);
            tracing::warn!(path = %path.display(), %error, "left behind");
        }
    }
}

/// Whether there is something at `path`, a dangling link included.
pub(super) fn occupied(path: &Path) -> bool {
    fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}
