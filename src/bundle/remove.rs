//! Removing a tree without following a link out of it, however deep it is.

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{self, AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

/// Removes `name` in `parent` and everything below it. Holds two descriptors however deep the tree
/// is: it goes down, and comes back up through `..`.
pub(super) fn remove_tree(parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    if remove_leaf(&parent, name)? {
        return Ok(());
    }
    // Names of the directories from `name` down to the open one.
    let mut way = vec![name.to_vec()];
    let mut directory = open_directory(&parent, name)?;
    loop {
        match first_full_child(&directory)? {
            Some(child) => {
                directory = open_directory(&directory, &child)?;
                way.push(child);
            }
            None => {
                let Some(empty) = way.pop() else {
                    return Ok(());
                };
                if way.is_empty() {
                    return fs::unlinkat(&parent, &*empty, AtFlags::REMOVEDIR);
                }
                directory = open_directory(&directory, b"..")?;
                fs::unlinkat(&directory, &*empty, AtFlags::REMOVEDIR)?;
            }
        }
    }
}

/// Names in a directory, without `.` and `..`.
pub(super) fn names(directory: impl AsFd) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(names)
}

/// Opens a directory that is no link.
pub(super) fn open_directory(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
}

/// Removes what is no directory, or is an empty one; `false` if it is a directory with children.
fn remove_leaf(parent: impl AsFd, name: &[u8]) -> Result<bool, Errno> {
    match fs::unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) => return Ok(true),
        // POSIX lets unlink say either of a directory.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    match fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes children until one is found that has children itself.
fn first_full_child(directory: &OwnedFd) -> Result<Option<Vec<u8>>, Errno> {
    for (name, _) in names(directory)? {
        if !remove_leaf(directory, &name)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn removes_wide_and_deep_trees_and_follows_no_link() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("kept"), "x").unwrap();
        let base = tempfile::tempdir().unwrap();
        let parent = fs::open(base.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut at = base.path().join("tree");
        for depth in 0..600 {
            std::fs::create_dir(&at).unwrap();
            std::fs::write(at.join("file"), "x").unwrap();
            if depth % 100 == 0 {
                symlink(outside.path(), at.join("link")).unwrap();
                std::fs::create_dir_all(at.join("side/empty")).unwrap();
            }
            at.push("d");
        }
        remove_tree(&parent, b"tree").unwrap();
        assert_eq!(names(&parent).unwrap(), []);
        assert!(outside.path().join("kept").exists());
    }
}
