//! One image's merged, read-only file system: inodes with stable numbers.
//!
//! [`Tree::merge`] applies the layers' entries in order, as an eager unpack would, and freezes the
//! result: one packed record an inode, one a name, all names in one arena. Inode numbers are a pure
//! function of the merged tree (breadth first, names sorted bytewise, root is 1), so a restarted
//! daemon answers for the numbers that the kernel still holds.

use std::iter::FusedIterator;

use crate::engine::FileData;

mod freeze;
mod limits;
mod merge;
mod resolve;
mod xattrs;

#[cfg(test)]
mod tests;

pub use limits::MAX_LINK_HOPS;
pub use xattrs::Xattrs;

/// Version of the numbers, of inodes and of the places in directories: whoever changes which ones the
/// same layers get changes this, because the kernel remembers them across daemons.
pub const NUMBERING: u32 = 1;

/// Number of an inode of one [`Tree`]. Only that tree makes them, so it need not look twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(u32);

/// Type of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Directory.
    Directory,
    /// Regular file.
    Regular,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
}

/// What `stat` tells of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Type.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (`0o7777`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes in a file, length of a symlink's target, a block for a directory.
    pub size: u64,
    /// Names of a file; 2 and one for each subdirectory for a directory.
    pub nlink: u32,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds of the modification time.
    pub mtime_nanos: u32,
    /// Device number as the kernel's 32-bit encoding; 0 unless a device.
    pub rdev: u32,
}

/// One name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child<'t> {
    /// Its position, which a later [`Tree::children_from`] continues after by adding 1.
    pub position: usize,
    /// Name, without `/`.
    pub name: &'t [u8],
    /// The inode it names.
    pub ino: Ino,
    /// Type of that inode.
    pub kind: Kind,
}

/// A merged, read-only file system.
#[derive(Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    names: Vec<Name>,
    /// Names, each after a byte with its length, and symlink targets.
    bytes: Vec<u8>,
    xattrs: xattrs::Table,
    file_bytes: u64,
}

/// 56 bytes; `a`, `b` and `c` mean what the kind says.
#[derive(Clone, Copy, Debug)]
struct Inode {
    mtime: i64,
    /// Regular: size. Device: number.
    a: u64,
    /// Directory: first name. Regular: first chunk. Symlink: offset of its target in `bytes`.
    b: u32,
    /// Directory: count of names. Regular: count of chunks. Symlink: length of its target.
    c: u32,
    mtime_nanos: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    /// The directory of its first name; the root's is the root.
    parent: u32,
    xattrs: u32,
    layer: u16,
    /// `Kind` in the upper four bits, permission bits below.
    mode: u16,
}

/// 8 bytes: one name of a directory.
#[derive(Clone, Copy, Debug)]
struct Name {
    offset: u32,
    inode: u32,
}

// === impl Ino ===

impl Ino {
    /// The root directory: number 1.
    pub const ROOT: Ino = Ino(0);

    /// The number, as `stat` shows it.
    #[must_use]
    pub fn number(self) -> u64 {
        u64::from(self.0) + 1
    }

    fn index(self) -> usize {
        self.0 as usize
    }
}

// === impl Kind ===

impl Kind {
    fn code(self) -> u16 {
        match self {
            Kind::Directory => 0,
            Kind::Regular => 1,
            Kind::Symlink => 2,
            Kind::CharDevice => 3,
            Kind::BlockDevice => 4,
            Kind::Fifo => 5,
        }
    }

    fn of_code(code: u16) -> Kind {
        match code {
            0 => Kind::Directory,
            1 => Kind::Regular,
            2 => Kind::Symlink,
            3 => Kind::CharDevice,
            4 => Kind::BlockDevice,
            _ => Kind::Fifo,
        }
    }
}

// === impl Inode ===

impl Inode {
    fn kind(&self) -> Kind {
        Kind::of_code(self.mode >> 12)
    }
}

// === impl Tree ===

impl Tree {
    /// The inode with `number`, if there is one: for numbers that come back from the kernel.
    #[must_use]
    pub fn ino(&self, number: u64) -> Option<Ino> {
        let index = u32::try_from(number.checked_sub(1)?).ok()?;
        (usize::try_from(index).ok()? < self.inodes.len()).then_some(Ino(index))
    }

    /// What `stat` tells of `ino`.
    #[must_use]
    pub fn attributes(&self, ino: Ino) -> Attributes {
        let inode = self.inode(ino);
        let kind = inode.kind();
        let (size, rdev) = match kind {
            Kind::Directory => (DIRECTORY_SIZE, 0),
            Kind::Regular => (inode.a, 0),
            Kind::Symlink => (u64::from(inode.c), 0),
            Kind::CharDevice | Kind::BlockDevice => {
                let rdev = u32::try_from(inode.a).expect("rdev was encoded in 32 bits");
                (0, rdev)
            }
            Kind::Fifo => (0, 0),
        };
        Attributes {
            kind,
            mode: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            size,
            nlink: inode.nlink,
            mtime: inode.mtime,
            mtime_nanos: inode.mtime_nanos,
            rdev,
        }
    }

    /// The inode that directory `parent` calls `name`.
    #[must_use]
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Option<Ino> {
        let names = self.directory(parent);
        let found = names.binary_search_by(|entry| self.name(entry).cmp(name));
        found.ok().map(|index| Ino(names[index].inode))
    }

    /// The names in directory `ino`, sorted bytewise; none for other kinds.
    pub fn children(&self, ino: Ino) -> impl ExactSizeIterator<Item = Child<'_>> {
        self.children_from(ino, 0)
    }

    /// As [`Tree::children`], from `position` on.
    pub fn children_from(
        &self,
        ino: Ino,
        position: usize,
    ) -> impl ExactSizeIterator<Item = Child<'_>> {
        let names = self.directory(ino);
        let position = position.min(names.len());
        let tail = names[position..].iter().enumerate();
        tail.map(move |(index, entry)| Child {
            position: position + index,
            name: self.name(entry),
            ino: Ino(entry.inode),
            kind: self.inode(Ino(entry.inode)).kind(),
        })
    }

    /// The target of a symlink; `None` for other kinds.
    #[must_use]
    pub fn read_link(&self, ino: Ino) -> Option<&[u8]> {
        let inode = self.inode(ino);
        (inode.kind() == Kind::Symlink).then(|| self.slice(inode.b, inode.c as usize))
    }

    /// The value of the extended attribute `name`.
    #[must_use]
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Option<&[u8]> {
        self.xattrs(ino).value(name)
    }

    /// All extended attributes, sorted by name.
    #[must_use]
    pub fn xattrs(&self, ino: Ino) -> Xattrs<'_> {
        self.xattrs.set(self.inode(ino).xattrs)
    }

    /// Number of the set of extended attributes that `ino` has: 0 if it has none. Sets are numbered
    /// in the order of the inodes that have them.
    #[must_use]
    pub(crate) fn xattr_set(&self, ino: Ino) -> u32 {
        self.inode(ino).xattrs
    }

    /// Whether any inode has an extended attribute.
    #[must_use]
    pub fn has_xattrs(&self) -> bool {
        !self.xattrs.is_empty()
    }

    /// Where the bytes of a regular file are; `None` for other kinds.
    #[must_use]
    pub fn file(&self, ino: Ino) -> Option<FileData> {
        let inode = self.inode(ino);
        (inode.kind() == Kind::Regular).then_some(FileData {
            layer: inode.layer,
            first_chunk: inode.b,
            chunk_count: inode.c,
            size: inode.a,
        })
    }

    /// The directory that holds `ino`: for an inode with several names, the first in numbering
    /// order. The root's is the root.
    #[must_use]
    pub fn parent(&self, ino: Ino) -> Ino {
        Ino(self.inode(ino).parent)
    }

    /// A path of `ino` relative to the root, for messages: it looks through directories.
    #[must_use]
    pub fn path(&self, ino: Ino) -> Vec<u8> {
        let mut components = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let parent = self.parent(at);
            let name = self.children(parent).find(|child| child.ino == at);
            components.push(name.map_or(&b"?"[..], |child| child.name));
            at = parent;
        }
        components.reverse();
        components.join(&b'/')
    }

    /// How many inodes; their numbers are 1 to this.
    #[must_use]
    pub fn inode_count(&self) -> usize {
        self.inodes.len()
    }

    /// Sum of the sizes of all regular files, each inode once.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.inodes.capacity() * size_of::<Inode>()
            + self.names.capacity() * size_of::<Name>()
            + self.bytes.capacity()
            + self.xattrs.heap_bytes()
    }

    /// Every name with its path relative to the root, parents before children, siblings sorted
    /// bytewise. Begins with the root, whose path is empty; a hard link comes once for each name.
    #[must_use]
    pub fn walk(&self) -> Walk<'_> {
        Walk {
            tree: self,
            path: Vec::new(),
            pending: Vec::new(),
            begun: false,
        }
    }

    fn inode(&self, ino: Ino) -> &Inode {
        &self.inodes[ino.index()]
    }

    fn directory(&self, ino: Ino) -> &[Name] {
        let inode = self.inode(ino);
        match inode.kind() {
            Kind::Directory => &self.names[inode.b as usize..][..inode.c as usize],
            _ => &[],
        }
    }

    fn name(&self, entry: &Name) -> &[u8] {
        let length = usize::from(self.bytes[entry.offset as usize]);
        &self.bytes[entry.offset as usize + 1..][..length]
    }

    fn slice(&self, offset: u32, length: usize) -> &[u8] {
        &self.bytes[offset as usize..][..length]
    }
}

/// See [`Tree::walk`].
#[derive(Debug)]
pub struct Walk<'t> {
    tree: &'t Tree,
    path: Vec<u8>,
    /// Directories that are being read: inode, next position, length of the path to it.
    pending: Vec<(Ino, usize, usize)>,
    begun: bool,
}

// === impl Walk ===

impl Iterator for Walk<'_> {
    type Item = (Vec<u8>, Ino);

    fn next(&mut self) -> Option<Self::Item> {
        if !self.begun {
            self.begun = true;
            self.pending.push((Ino::ROOT, 0, 0));
            return Some((Vec::new(), Ino::ROOT));
        }
        loop {
            let (directory, position, length) = self.pending.last_mut()?;
            self.path.truncate(*length);
            let Some(child) = self.tree.children_from(*directory, *position).next() else {
                self.pending.pop();
                continue;
            };
            *position += 1;
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(child.name);
            if child.kind == Kind::Directory {
                self.pending.push((child.ino, 0, self.path.len()));
            }
            return Some((self.path.clone(), child.ino));
        }
    }
}

impl FusedIterator for Walk<'_> {}

/// What a small directory shows on ext4, where an eager unpack would be.
const DIRECTORY_SIZE: u64 = 4096;
