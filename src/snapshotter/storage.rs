//! Directories of snapshots: `ROOT/snapshots/ID/{fs,work}`.
//!
//! A directory is made under another name and gets its own inside the metadata transaction that
//! records it; one that loses its record is first moved to `ROOT/removed`, inside a transaction too.
//! So a directory below `snapshots` without a record is never somebody's, whenever a crash happens,
//! and an id that is given out again never meets the old content.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};

use super::metadata::Kind;
use crate::error::{Error, Result};

/// The directories below one root.
#[derive(Debug)]
pub(super) struct Storage {
    root: PathBuf,
    serial: AtomicU64,
}

/// A directory that has no id yet; removed when dropped.
#[derive(Debug)]
pub(super) struct Staged {
    path: Option<PathBuf>,
}

/// What a directory tree takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Inodes, each counted once.
    pub inodes: u64,
    /// Bytes allocated.
    pub bytes: u64,
}

/// Prefix of directories that have no id yet.
const STAGED: &str = "new-";

// === impl Storage ===

impl Storage {
    /// Makes the directories that are missing.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io).
    pub(super) fn open(root: &Path) -> Result<Self> {
        let storage = Self::at(root.to_owned());
        for directory in [storage.root.clone(), storage.snapshots(), storage.removed()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(|e| Error::io(directory.display().to_string(), e))?;
        }
        Ok(storage)
    }

    pub(super) fn at(root: PathBuf) -> Self {
        let serial = AtomicU64::new(0);
        Self { root, serial }
    }

    /// Where the snapshot's own files are.
    pub(super) fn upper(&self, id: u64) -> PathBuf {
        self.directory(id).join("fs")
    }

    /// What overlayfs needs beside them.
    pub(super) fn work(&self, id: u64) -> PathBuf {
        self.directory(id).join("work")
    }

    /// A new directory owned like `like`, the one it will be laid over.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io).
    pub(super) fn stage(&self, kind: Kind, like: Option<&Path>) -> Result<Staged> {
        let name = format!("{STAGED}{}", self.serial.fetch_add(1, Ordering::Relaxed));
        let path = self.snapshots().join(name);
        let what = |e| Error::io(format!("snapshot directory {}", path.display()), e);
        // A crash may have left one of that name.
        remove(&path).map_err(what)?;
        let staged = Staged {
            path: Some(path.clone()),
        };
        make(&path, 0o700).map_err(what)?;
        make(&path.join("fs"), 0o755).map_err(what)?;
        if kind == Kind::Active {
            make(&path.join("work"), 0o711).map_err(what)?;
        }
        if let Some(like) = like {
            let owner = fs::metadata(like)
                .map_err(|e| Error::io(format!("parent directory {}", like.display()), e))?;
            std::os::unix::fs::lchown(path.join("fs"), Some(owner.uid()), Some(owner.gid()))
                .map_err(what)?;
        }
        Ok(staged)
    }

    /// Gives a staged directory its id; on disk when this returns. Inside a write transaction.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io).
    pub(super) fn place(&self, mut staged: Staged, id: u64) -> Result<()> {
        let Some(from) = staged.path.take() else {
            return Ok(());
        };
        let to = self.directory(id);
        let place = || {
            // Of a transaction that was not committed.
            remove(&to)?;
            fs::rename(&from, &to)?;
            File::open(self.snapshots())?.sync_all()
        };
        place().map_err(|e| {
            staged.path = Some(from.clone());
            Error::io(format!("snapshot directory {}", to.display()), e)
        })
    }

    /// Moves every directory without a record away and gives the new places. Inside a write
    /// transaction, so that none is being made.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io).
    pub(super) fn set_aside(&self, owned: &HashSet<u64>) -> Result<Vec<PathBuf>> {
        let mut aside = Vec::new();
        for (name, from) in list(&self.snapshots())? {
            if id_of(&name).is_some_and(|id| owned.contains(&id)) {
                continue;
            }
            aside.push(self.move_aside(&from)?);
        }
        Ok(aside)
    }

    /// Removes what was set aside, now or before a crash.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) if the list cannot be read; what cannot be removed is logged and
    /// stays for the next time.
    pub(super) fn clear(&self) -> Result<()> {
        for (_, path) in list(&self.removed())? {
            if let Err(error) = remove(&path) {
                tracing::warn!(path = %path.display(), %error, "removed snapshot still on disk");
            }
        }
        Ok(())
    }

    /// Ids that have a directory.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io).
    pub(super) fn ids(&self) -> Result<HashSet<u64>> {
        let names = list(&self.snapshots())?;
        Ok(names.iter().filter_map(|(name, _)| id_of(name)).collect())
    }

    /// Names below `snapshots` and `removed` that belong to no record.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io).
    pub(super) fn orphans(&self, owned: &HashSet<u64>) -> Result<Vec<PathBuf>> {
        let mut paths: Vec<_> = list(&self.snapshots())?
            .into_iter()
            .filter(|(name, _)| id_of(name).is_none_or(|id| !owned.contains(&id)))
            .map(|(_, path)| path)
            .collect();
        paths.extend(list(&self.removed())?.into_iter().map(|(_, path)| path));
        Ok(paths)
    }

    /// What a snapshot's own files take.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io).
    pub(super) fn usage(&self, id: u64) -> Result<Usage> {
        let upper = self.upper(id);
        measure(&upper).map_err(|e| Error::io(format!("usage of {}", upper.display()), e))
    }

    fn move_aside(&self, from: &Path) -> Result<PathBuf> {
        loop {
            let serial = self.serial.fetch_add(1, Ordering::Relaxed);
            let to = self.removed().join(serial.to_string());
            match fs::rename(from, &to) {
                Ok(()) => return Ok(to),
                // One that could not be removed yet is there.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::DirectoryNotEmpty
                            | io::ErrorKind::IsADirectory
                            | io::ErrorKind::NotADirectory
                    ) => {}
                Err(e) => return Err(Error::io(format!("removing {}", from.display()), e)),
            }
        }
    }

    fn directory(&self, id: u64) -> PathBuf {
        self.snapshots().join(id.to_string())
    }

    fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    fn removed(&self) -> PathBuf {
        self.root.join("removed")
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = remove(path)
        {
            tracing::warn!(path = %path.display(), %error, "unused snapshot directory left");
        }
    }
}

fn id_of(name: &str) -> Option<u64> {
    let id: u64 = name.parse().ok()?;
    (id.to_string() == name).then_some(id)
}

/// The mode does not depend on the umask.
fn make(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn list(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let what = |e| Error::io(directory.display().to_string(), e);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(what)? {
        let entry = entry.map_err(what)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        found.push((name, entry.path()));
    }
    Ok(found)
}

fn measure(root: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let mut add = |found: &fs::Metadata| {
        if seen.insert((found.dev(), found.ino())) {
            usage.inodes += 1;
            usage.bytes += found.blocks() * 512;
        }
    };
    add(&fs::symlink_metadata(root)?);
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        // A container may be at work in it: what vanishes meanwhile is not counted.
        let entries = match fs::read_dir(&directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && directory != root => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let found = match entry.metadata() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            add(&found);
            if found.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_and_go() {
        let root = tempfile::tempdir().unwrap();
        let storage = Storage::open(root.path()).unwrap();
        let staged = storage.stage(Kind::Active, None).unwrap();
        storage.place(staged, 3).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&storage.upper(3)), 0o755);
        assert_eq!(mode(&storage.work(3)), 0o711);
        drop(storage.stage(Kind::View, None).unwrap());
        assert_eq!(storage.ids().unwrap(), HashSet::from([3]));

        // A view has no work directory, and an id met again has nothing of before.
        fs::write(storage.upper(3).join("old"), "x").unwrap();
        let staged = storage.stage(Kind::View, None).unwrap();
        storage.place(staged, 3).unwrap();
        assert!(!storage.work(3).exists());
        assert!(!storage.upper(3).join("old").exists());
    }

    #[test]
    fn what_nobody_owns_is_removed_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let storage = Storage::open(root.path()).unwrap();
        for id in [1, 2] {
            let staged = storage.stage(Kind::Active, None).unwrap();
            storage.place(staged, id).unwrap();
        }
        let snapshots = root.path().join("snapshots");
        fs::create_dir_all(snapshots.join("new-9/fs")).unwrap();
        fs::create_dir_all(snapshots.join("01")).unwrap();
        fs::write(snapshots.join("file"), "x").unwrap();
        // Left by the process before, under a name that this one would use.
        for serial in 0..4 {
            fs::create_dir_all(root.path().join(format!("removed/{serial}/x"))).unwrap();
        }
        let owned = HashSet::from([1]);
        assert_eq!(storage.orphans(&owned).unwrap().len(), 8);
        assert_eq!(storage.set_aside(&owned).unwrap().len(), 4);
        storage.clear().unwrap();
        assert_eq!(storage.orphans(&owned).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(storage.ids().unwrap(), owned);
    }

    #[test]
    fn usage_counts_an_inode_once() {
        let root = tempfile::tempdir().unwrap();
        let storage = Storage::open(root.path()).unwrap();
        let staged = storage.stage(Kind::Active, None).unwrap();
        storage.place(staged, 1).unwrap();
        let empty = storage.usage(1).unwrap();
        assert_eq!(empty.inodes, 1);
        let upper = storage.upper(1);
        fs::write(upper.join("a"), vec![1; 10_000]).unwrap();
        fs::hard_link(upper.join("a"), upper.join("b")).unwrap();
        fs::create_dir(upper.join("d")).unwrap();
        std::os::unix::fs::symlink("a", upper.join("d/s")).unwrap();
        let usage = storage.usage(1).unwrap();
        assert_eq!(usage.inodes, 4);
        assert!(usage.bytes >= empty.bytes + 10_000, "{usage:?}");
    }

    #[test]
    fn a_directory_is_owned_like_its_parent_s() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: not root");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let storage = Storage::open(root.path()).unwrap();
        let parent = root.path().join("parent");
        fs::create_dir(&parent).unwrap();
        std::os::unix::fs::chown(&parent, Some(12), Some(34)).unwrap();
        let staged = storage.stage(Kind::Active, Some(&parent)).unwrap();
        storage.place(staged, 1).unwrap();
        let found = fs::metadata(storage.upper(1)).unwrap();
        assert_eq!((found.uid(), found.gid()), (12, 34));
    }
}
