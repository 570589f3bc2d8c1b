//! Finds and makes the directories that members go into, inside one root.
//!
//! A path of an archive may lead through symbolic links that a lower layer made (`bin` to
//! `usr/bin`). They are followed as a process chrooted into the root would follow them: `..` and
//! absolute links stop at the root. Each place also has its link-free path from the root, by which
//! the extraction remembers what it did.

use std::sync::Arc;

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::remove::open_directory;

/// An open directory inside the root.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: Arc<OwnedFd>,
    /// Path from the root without links; empty for the root.
    pub(super) path: Vec<u8>,
}

/// The root, and the directory that was looked up last.
#[derive(Debug)]
pub(super) struct Places {
    root: Place,
    last: Option<(Vec<u8>, Place)>,
}

/// Links followed in one path; the kernel's own limit.
const MAX_LINKS: u32 = 40;

// === impl Place ===

impl Place {
    /// The link-free path of a child.
    pub(super) fn child(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() {
            name.to_vec()
        } else {
            [&self.path[..], b"/", name].concat()
        }
    }
}

// === impl Places ===

impl Places {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root: Place {
                directory: Arc::new(root),
                path: Vec::new(),
            },
            last: None,
        }
    }

    pub(super) fn root(&self) -> &Place {
        &self.root
    }

    /// To be called when a directory or link went away: paths may lead elsewhere now.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// The directory that a clean relative path leads to. Missing ones are made, and `made` is told
    /// their link-free paths; without `made`, a missing one is [`Errno::NOENT`].
    pub(super) fn find(
        &mut self,
        path: &[u8],
        made: Option<&mut dyn FnMut(Vec<u8>)>,
    ) -> Result<Place, Errno> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((last, place)) = &self.last
            && last == path
        {
            return Ok(place.clone());
        }
        let place = match open_without_links(&self.root.directory, path) {
            Ok(directory) => Place {
                directory: Arc::new(directory),
                path: path.to_vec(),
            },
            // A link on the way, something missing, or a kernel or sandbox without openat2.
            Err(Errno::LOOP | Errno::NOENT | Errno::NOSYS | Errno::PERM) => {
                self.walk(path, made)?
            }
            Err(error) => return Err(error),
        };
        self.last = Some((path.to_vec(), place.clone()));
        Ok(place)
    }

    /// Component by component, following links by hand.
    fn walk(&self, path: &[u8], mut made: Option<&mut dyn FnMut(Vec<u8>)>) -> Result<Place, Errno> {
        let mut stack = vec![self.root.clone()];
        let mut todo = components_reversed(path);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let here = stack.last().unwrap_or(&self.root).clone();
            let kind = match fs::statat(&here.directory, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => {
                    let made = made.as_mut().ok_or(Errno::NOENT)?;
                    fs::mkdirat(&here.directory, &*name, Mode::from_raw_mode(0o755))?;
                    made(here.child(&name));
                    FileType::Directory
                }
                Err(error) => return Err(error),
            };
            match kind {
                FileType::Directory => stack.push(Place {
                    directory: Arc::new(open_directory(&here.directory, &name)?),
                    path: here.child(&name),
                }),
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = fs::readlinkat(&here.directory, &*name, Vec::new())?;
                    let target = target.into_bytes();
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    todo.extend(components_reversed(&target));
                }
                _ => return Err(Errno::NOTDIR),
            }
        }
        Ok(stack.pop().unwrap_or_else(|| self.root.clone()))
    }
}

/// Opens a directory whose path, by what was recorded, has no link in it.
pub(super) fn open_without_links(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path = if path.is_empty() { b"." } else { path };
    fs::openat2(root, path, flags, Mode::empty(), resolve)
}

/// Components, last first, without empty ones and `.`.
fn components_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn places(path: &std::path::Path) -> Places {
        Places::new(fs::open(path, OFlags::DIRECTORY, Mode::empty()).unwrap())
    }

    #[test]
    fn links_lead_where_they_would_inside_the_root() {
        let outside = tempfile::tempdir().unwrap();
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("root");
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("/usr/bin", root.join("sbin")).unwrap();
        symlink("../../../..", root.join("up")).unwrap();
        symlink(outside.path(), root.join("out")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();

        let mut made = Vec::new();
        let mut find = |path: &[u8]| {
            places(&root)
                .find(path, Some(&mut |path| made.push(path)))
                .map(|place| place.path)
        };
        assert_eq!(find(b"bin").unwrap(), b"usr/bin");
        assert_eq!(find(b"sbin").unwrap(), b"usr/bin");
        assert_eq!(find(b"up/usr").unwrap(), b"usr");
        assert_eq!(find(b"bin/new/er").unwrap(), b"usr/bin/new/er");
        // A link out of the root leads to a new directory inside of it.
        let inside = find(b"out/x").unwrap();
        assert!(root.join(String::from_utf8(inside).unwrap()).is_dir());
        assert_eq!(find(b"loop").unwrap_err(), Errno::LOOP);
        assert_eq!(find(b"file/x").unwrap_err(), Errno::NOTDIR);
        assert_eq!(
            made[..2],
            [b"usr/bin/new".to_vec(), b"usr/bin/new/er".to_vec()]
        );
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert_eq!(
            places(&root).find(b"missing", None).unwrap_err(),
            Errno::NOENT
        );
    }
}
