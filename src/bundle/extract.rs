//! Puts an image's members into a root, layer over layer.
//!
//! The order for one file matters: owner before attributes and mode, since changing the owner clears
//! `security.capability` and the setuid bit; times last. Times of directories wait for the end of
//! the image, since whatever is put into a directory changes them.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::Path,
};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{
    path::{self, Name},
    place::{Place, Places, open_without_links},
    remove::{names, open_directory, remove_tree},
};
use crate::{
    error::{Error, Result},
    tar::{TarEntry, TarKind, TarReader, TarTime},
};

/// What is being unpacked into.
#[derive(Debug)]
pub(super) struct Extraction {
    places: Places,
    /// Link-free paths that the current layer made, with their parents: its whiteouts spare them.
    upper: HashSet<Vec<u8>>,
    /// Times of the directories, by link-free path.
    times: BTreeMap<Vec<u8>, TarTime>,
    members: u64,
    buffer: Vec<u8>,
}

/// Members of one image: what a file system of usual size has inodes for; bounds the memory of
/// `upper` and `times`.
const MAX_MEMBERS: u64 = 8 << 20;
/// Attributes that belong to the host and not to the image; other unpackers leave them out too.
const HOST_XATTRS: [&[u8]; 2] = [b"security.selinux", b"system.nfs4_acl"];
/// What is written at once.
const BUFFER: usize = 256 << 10;

// === impl Extraction ===

impl Extraction {
    /// Unpacks into the directory `root`, which is empty and which nobody else uses.
    pub(super) fn new(root: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = fs::open(root, flags, Mode::empty())
            .map_err(|e| Error::io(format!("{}", root.display()), e.into()))?;
        Ok(Self {
            places: Places::new(root),
            upper: HashSet::new(),
            // As other unpackers do where an image does not name its root.
            times: BTreeMap::from([(Vec::new(), TarTime::default())]),
            members: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Puts all members of a layer in place.
    pub(super) fn layer<R: io::Read>(&mut self, archive: &mut TarReader<R>) -> Result<()> {
        self.upper.clear();
        while let Some(member) = archive.next()? {
            self.members += 1;
            if self.members > MAX_MEMBERS {
                let message = format!("more than {MAX_MEMBERS} entries in one image");
                return Err(Error::invalid(message));
            }
            self.member(&member, archive)
                .map_err(|error| error.context(format!("entry {}", path::shown(&member.name))))?;
        }
        Ok(())
    }

    /// After the last layer: gives the directories their times.
    pub(super) fn finish(self) -> Result<()> {
        for (path, mtime) in &self.times {
            let times = timestamps(*mtime);
            open_without_links(&self.places.root().directory, path)
                .and_then(|directory| fs::futimens(directory, &times))
                .map_err(|e| {
                    let message = format!("directory {}: its time", path::shown(path));
                    Error::io(message, e.into())
                })?;
        }
        Ok(())
    }

    fn member<R: io::Read>(&mut self, member: &TarEntry, archive: &mut TarReader<R>) -> Result<()> {
        let cleaned = path::clean(&member.name)?;
        let Some((parent, name)) = path::split(&cleaned) else {
            if member.kind != TarKind::Directory {
                return Err(Error::invalid("the root is not a directory"));
            }
            let root = self.places.root().directory.clone();
            return self.directory(&root, member, Vec::new());
        };
        match path::name(name)? {
            Name::Whiteout(target) => return self.whiteout(parent, Some(target)),
            Name::Opaque => return self.whiteout(parent, None),
            Name::Reserved => return Ok(()),
            Name::Plain => {}
        }
        let place = self.make_parent(parent)?;
        let path = place.child(name);
        let existing = self.make_room(&place, name, &path, member)?;
        self.mark(&path);
        match member.kind {
            TarKind::Directory => {
                if !existing {
                    fs::mkdirat(&place.directory, name, Mode::RWXU).map_err(failed("made"))?;
                }
                let directory = open_directory(&place.directory, name).map_err(failed("opened"))?;
                self.directory(&directory, member, path)?;
            }
            TarKind::Regular => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = fs::openat(&place.directory, name, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(failed("made"))?;
                let file = File::from(file);
                self.copy(archive, &file)?;
                fs::ftruncate(&file, member.size).map_err(failed("given its size"))?;
                own(file.as_fd(), member)?;
                fs::futimens(&file, &timestamps(member.mtime)).map_err(failed("given its time"))?;
            }
            TarKind::Hardlink => self.hard_link(&place, name, &member.link)?,
            TarKind::Symlink => {
                if member.link.is_empty() || member.link.contains(&0) {
                    return Err(Error::invalid(
                        "symbolic link to nothing, or with a zero byte",
                    ));
                }
                fs::symlinkat(&*member.link, &place.directory, name).map_err(failed("made"))?;
                self.node(&place, name, member)?;
            }
            TarKind::CharDevice => {
                self.device(&place, name, member, FileType::CharacterDevice)?;
            }
            TarKind::BlockDevice => self.device(&place, name, member, FileType::BlockDevice)?,
            TarKind::Fifo => self.device(&place, name, member, FileType::Fifo)?,
        }
        Ok(())
    }

    /// The directory that a member goes into, made if the archive left it out.
    fn make_parent(&mut self, parent: &[u8]) -> Result<Place> {
        let mut made = Vec::new();
        let place = self
            .places
            .find(parent, Some(&mut |path| made.push(path)))
            .map_err(|error| unreachable_parent(parent, error))?;
        for path in made {
            self.mark(&path);
            self.times.insert(path, TarTime::default());
        }
        Ok(place)
    }

    /// Removes what is in a member's way; whether a directory is there that stays.
    fn make_room(
        &mut self,
        place: &Place,
        name: &[u8],
        path: &[u8],
        member: &TarEntry,
    ) -> Result<bool> {
        match fs::statat(&place.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let kind = FileType::from_raw_mode(stat.st_mode);
                if kind == FileType::Directory && member.kind == TarKind::Directory {
                    return Ok(true);
                }
                self.remove(place, name, path)?;
                Ok(false)
            }
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(failed("looked at")(error)),
        }
    }

    /// Gives a directory its owner, attributes and mode, in place of what a lower layer gave it.
    fn directory(&mut self, directory: &OwnedFd, member: &TarEntry, path: Vec<u8>) -> Result<()> {
        clear_xattrs(directory)?;
        own(directory.as_fd(), member)?;
        self.times.insert(path, member.mtime);
        Ok(())
    }

    fn hard_link(&mut self, place: &Place, name: &[u8], target: &[u8]) -> Result<()> {
        let shown = || format!("hard link to {}", path::shown(target));
        let cleaned = path::clean(target).map_err(|e| e.context(shown()))?;
        let Some((parent, target_name)) = path::split(&cleaned) else {
            return Err(Error::invalid(format!("{}: the root", shown())));
        };
        let parent = self
            .places
            .find(parent, None)
            .map_err(|e| unreachable_parent(parent, e).context(shown()))?;
        fs::linkat(
            &parent.directory,
            target_name,
            &place.directory,
            name,
            AtFlags::empty(),
        )
        .map_err(|error| match error {
            Errno::NOENT => Error::invalid(format!("{}: no such entry", shown())),
            Errno::PERM => Error::invalid(format!("{}: not a file", shown())),
            other => Error::io(shown(), other.into()),
        })
    }

    fn device(
        &mut self,
        place: &Place,
        name: &[u8],
        member: &TarEntry,
        kind: FileType,
    ) -> Result<()> {
        let device = match kind {
            FileType::Fifo => 0,
            _ => fs::makedev(member.device.0, member.device.1),
        };
        fs::mknodat(
            &place.directory,
            name,
            kind,
            Mode::RUSR | Mode::WUSR,
            device,
        )
        .map_err(failed("made"))?;
        self.node(place, name, member)?;
        fs::chmodat(
            &place.directory,
            name,
            Mode::from_raw_mode(member.permissions().into()),
            AtFlags::empty(),
        )
        .map_err(failed("given its mode"))?;
        let times = timestamps(member.mtime);
        fs::utimensat(&place.directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("given its time"))
    }

    /// Owner, attributes and times of what cannot be opened.
    fn node(&self, place: &Place, name: &[u8], member: &TarEntry) -> Result<()> {
        let (user, group) = owner(member);
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        fs::chownat(&place.directory, name, Some(user), Some(group), no_follow)
            .map_err(failed("given its owner"))?;
        if !member.xattrs.is_empty() {
            let fd = place.directory.as_raw_fd();
            let node = [format!("/proc/self/fd/{fd}/").as_bytes(), name].concat();
            for (key, value) in wanted(member) {
                fs::lsetxattr(&*node, &**key, value, XattrFlags::empty())
                    .map_err(|error| xattr_failed(key, error))?;
            }
        }
        fs::utimensat(&place.directory, name, &timestamps(member.mtime), no_follow)
            .map_err(failed("given its time"))
    }

    /// Writes a file's stored runs where they belong.
    fn copy<R: io::Read>(&mut self, archive: &mut TarReader<R>, file: &File) -> Result<()> {
        while let Some((offset, count)) = archive.read_stored(&mut self.buffer)? {
            file.write_all_at(&self.buffer[..count], offset)
                .map_err(|e| Error::io("cannot be written", e))?;
        }
        Ok(())
    }

    /// Removes what lower layers put at `target` in `parent`, or all they put into `parent`.
    fn whiteout(&mut self, parent: &[u8], target: Option<&[u8]>) -> Result<()> {
        let place = match self.places.find(parent, None) {
            Ok(place) => place,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(unreachable_parent(parent, error)),
        };
        let Some(name) = target else {
            return self.empty(place.path);
        };
        let path = place.child(name);
        match fs::statat(&place.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("looked at")(error)),
            Ok(_) if !self.upper.contains(&path) => self.remove(&place, name, &path),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.empty(path)
            }
            Ok(_) => Ok(()),
        }
    }

    /// Removes from a directory all that the current layer did not make.
    fn empty(&mut self, directory: Vec<u8>) -> Result<()> {
        let mut todo = vec![directory];
        while let Some(path) = todo.pop() {
            let place = self
                .places
                .find(&path, None)
                .map_err(|e| unreachable_parent(&path, e))?;
            for (name, kind) in names(&place.directory).map_err(failed("listed"))? {
                let child = place.child(&name);
                if !self.upper.contains(&child) {
                    self.remove(&place, &name, &child)?;
                } else if kind == FileType::Directory {
                    todo.push(child);
                }
            }
        }
        Ok(())
    }

    /// Removes an entry, whatever it is, and what was remembered of it.
    fn remove(&mut self, place: &Place, name: &[u8], path: &[u8]) -> Result<()> {
        remove_tree(&place.directory, name).map_err(failed("removed"))?;
        self.places.forget();
        if self.times.remove(path).is_some() {
            let below = [path, b"/"].concat();
            // '0' is the byte after '/': everything that begins with `below`.
            let beyond = [path, b"0"].concat();
            let gone: Vec<_> = self
                .times
                .range(below..beyond)
                .map(|(path, _)| path.clone())
                .collect();
            for path in gone {
                self.times.remove(&path);
            }
        }
        Ok(())
    }

    /// Remembers that the current layer made `path`, and so is in all its parents.
    fn mark(&mut self, path: &[u8]) {
        let mut path = path;
        while self.upper.insert(path.to_vec()) {
            match path::split(path) {
                Some((parent, _)) if !parent.is_empty() => path = parent,
                _ => break,
            }
        }
    }
}

/// Owner, attributes and mode of an open file or directory, in this order.
fn own(file: BorrowedFd<'_>, member: &TarEntry) -> Result<()> {
    let (user, group) = owner(member);
    fs::fchown(file, Some(user), Some(group)).map_err(failed("given its owner"))?;
    for (key, value) in wanted(member) {
        fs::fsetxattr(file, &**key, value, XattrFlags::empty())
            .map_err(|error| xattr_failed(key, error))?;
    }
    fs::fchmod(file, Mode::from_raw_mode(member.permissions().into()))
        .map_err(failed("given its mode"))
}

fn owner(member: &TarEntry) -> (Uid, Gid) {
    (Uid::from_raw(member.uid), Gid::from_raw(member.gid))
}

fn wanted(member: &TarEntry) -> impl Iterator<Item = &(Vec<u8>, Vec<u8>)> {
    member
        .xattrs
        .iter()
        .filter(|(key, _)| !HOST_XATTRS.contains(&&**key))
}

/// Takes away the attributes that a lower layer gave a directory.
fn clear_xattrs(directory: &OwnedFd) -> Result<()> {
    let mut buffer = vec![0_u8; 64 << 10];
    let length = match fs::flistxattr(directory, &mut buffer[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(failed("listed")(error)),
    };
    for key in buffer[..length].split(|&b| b == 0) {
        if !key.is_empty() && !HOST_XATTRS.contains(&key) {
            fs::fremovexattr(directory, key).map_err(|error| xattr_failed(key, error))?;
        }
    }
    Ok(())
}

fn timestamps(time: TarTime) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn unreachable_parent(parent: &[u8], error: Errno) -> Error {
    let message = format!("directory {}", path::shown(parent));
    match error {
        Errno::NOTDIR => Error::invalid(format!("{message}: not a directory")),
        Errno::LOOP => Error::invalid(format!("{message}: too many symbolic links")),
        Errno::NOENT => Error::invalid(format!("{message}: no such directory")),
        other => Error::io(message, other.into()),
    }
}

fn xattr_failed(key: &[u8], error: Errno) -> Error {
    let message = format!("attribute {} cannot be set", path::shown(key));
    let failure = Error::io(message, error.into());
    match error {
        Errno::NOTSUP => failure.with_hint("unpack onto a file system with extended attributes"),
        Errno::PERM => failure.with_hint(AS_ROOT),
        _ => failure,
    }
}

/// Says what could not be done to the member.
fn failed(done: &'static str) -> impl Fn(Errno) -> Error {
    move |error| {
        let failure = Error::io(format!("cannot be {done}"), error.into());
        match error {
            Errno::PERM => failure.with_hint(AS_ROOT),
            _ => failure,
        }
    }
}

const AS_ROOT: &str =
    "unpacking needs root: images hold files of other owners, device nodes and capabilities";
