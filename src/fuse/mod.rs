//! The FUSE front end: answers the kernel from a [`Tree`] and a [`ReadFile`].
//!
//! What costs is the round trip, so the kernel is told to ask once: entries, attributes, missing
//! names, directories and symlinks are cached without a time limit (a tree never changes), files
//! are opened without asking, and a tree without extended attributes lists none once for all. Reads
//! are answered from whatever thread has the bytes; a session thread never waits for one.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use crate::engine::{FileData, ReadFile};
use crate::error::{Error, Kind as ErrorKind};
use crate::tree::{Attributes, Ino, Kind, Tree};

mod handshake;
mod quiet;
mod shown;
mod throttle;

pub use handshake::Handshake;
pub use shown::{Reads, Shown};

pub(crate) use handshake::Wanted;
pub(crate) use quiet::refusals;
pub(crate) use throttle::Throttle;

/// A tree as the kernel's requests see it.
pub struct TreeFilesystem {
    shared: Arc<Shared>,
    wanted: Wanted,
    opens_without_asking: bool,
    directories_open_without_asking: bool,
}

/// What a read that is still under way needs.
struct Shared {
    shown: Arc<Shown>,
    name: String,
    errors: Throttle,
    reads: Reads,
}

/// An entry of a directory: offset of the next one, inode, type, name.
type Listed<'a> = (u64, Ino, Kind, &'a [u8]);

// === impl TreeFilesystem ===

impl TreeFilesystem {
    /// Serves `tree`, whose bytes `reader` has; `name` is what log lines call the image.
    #[must_use]
    pub fn new(tree: Arc<Tree>, reader: Arc<dyn ReadFile>, name: impl Into<String>) -> Self {
        let shown = Arc::<Shown>::default();
        shown.show(tree, reader);
        Self::showing(shown, name, Reads::default())
    }

    /// Serves what is shown at the time of a request, EIO as long as that is nothing; counts `reads`.
    #[must_use]
    pub fn showing(shown: Arc<Shown>, name: impl Into<String>, reads: Reads) -> Self {
        let shared = Shared {
            shown,
            name: name.into(),
            errors: Throttle::new(LOGGED_AT_ONCE, LOG_EVERY),
            reads,
        };
        Self {
            shared: Arc::new(shared),
            wanted: Wanted::new(WANTED),
            opens_without_asking: false,
            directories_open_without_asking: false,
        }
    }

    /// For a session that another process may take over: that one asks the kernel for the requests
    /// that this one has read and not answered.
    #[must_use]
    pub fn for_hand_over(mut self) -> Self {
        self.wanted.for_hand_over();
        self
    }

    /// What is agreed on with the kernel; set once the session has begun.
    #[must_use]
    pub fn handshake(&self) -> Arc<OnceLock<Handshake>> {
        self.wanted.agreed()
    }

    /// For a session that answers one user only: fuser then looks at each request's user, which
    /// the kernel leaves out where mounts may map users.
    #[must_use]
    pub fn for_one_user(mut self) -> Self {
        self.wanted.without(InitFlags::FUSE_ALLOW_IDMAP);
        self
    }

    fn tree(&self) -> Result<&Tree, Errno> {
        self.shared.tree()
    }

    fn node(&self, number: INodeNo) -> Result<(&Tree, Ino), Errno> {
        let tree = self.tree()?;
        Ok((tree, tree.ino(number.0).ok_or(Errno::ESTALE)?))
    }

    /// The attributes of a name; number 0 says that there is none, and for how long that holds.
    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let (tree, parent) = self.node(parent)?;
        if tree.attributes(parent).kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let found = match name.as_bytes() {
            b"." => Some(parent),
            b".." => Some(tree.parent(parent)),
            name => tree.lookup(parent, name),
        };
        Ok(match found {
            Some(ino) => attr(tree, ino),
            None => FileAttr {
                ino: INodeNo(0),
                ..attr(tree, Ino::ROOT)
            },
        })
    }

    /// What to read, or the errno that says why not.
    fn wanted(
        &self,
        number: INodeNo,
        offset: u64,
        size: u32,
    ) -> Result<(Ino, FileData, u32), Errno> {
        let (tree, ino) = self.node(number)?;
        let Some(file) = tree.file(ino) else {
            let directory = tree.attributes(ino).kind == Kind::Directory;
            return Err(if directory {
                Errno::EISDIR
            } else {
                Errno::EINVAL
            });
        };
        let left = file.size.saturating_sub(offset);
        let length = u32::try_from(left).map_or(size, |left| left.min(size));
        Ok((ino, file, length))
    }

    /// `.`, `..` and the children of directory `number` from `offset` on: the offset of the next
    /// entry, number, type, name.
    fn entries(
        &self,
        number: INodeNo,
        offset: u64,
    ) -> Result<(&Tree, impl Iterator<Item = Listed<'_>>), Errno> {
        let (tree, ino) = self.node(number)?;
        if tree.attributes(ino).kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let dots = [(ino, &b"."[..]), (tree.parent(ino), &b".."[..])];
        let skipped = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let dots = dots.into_iter().enumerate().skip(skipped);
        let dots = dots.map(|(index, (ino, name))| (index + 1, ino, Kind::Directory, name));
        let children = tree.children_from(ino, skipped.saturating_sub(DOTS));
        let children =
            children.map(|child| (child.position + DOTS + 1, child.ino, child.kind, child.name));
        let all = dots.chain(children);
        let all = all.map(|(next, ino, kind, name)| (next as u64, ino, kind, name));
        Ok((tree, all))
    }
}

impl std::fmt::Debug for TreeFilesystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("TreeFilesystem");
        out.field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl Filesystem for TreeFilesystem {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = self.wanted.agree(config);
        self.opens_without_asking = offered.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.directories_open_without_asking = offered.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(attr) => reply.entry(&FOREVER, &attr, GENERATION),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(ino) {
            Ok((tree, ino)) => reply.attr(&FOREVER, &attr(tree, ino)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.node(ino).map(|(tree, ino)| tree.read_link(ino)) {
            Ok(Some(target)) => reply.data(target),
            Ok(None) => reply.error(Errno::EINVAL),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.opens_without_asking {
            reply.error(Errno::ENOSYS);
        } else {
            let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
            reply.opened(FileHandle(0), flags);
        }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.directories_open_without_asking {
            reply.error(Errno::ENOSYS);
        } else {
            let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
            reply.opened(FileHandle(0), flags);
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (ino, file, length) = match self.wanted(ino, offset, size) {
            Ok(wanted) => wanted,
            Err(errno) => return reply.error(errno),
        };
        if length == 0 {
            return reply.data(&[]);
        }
        let Some(reader) = self.shared.shown.reader() else {
            return reply.error(Errno::EIO);
        };
        let shared = Arc::clone(&self.shared);
        let under_way = shared.reads.begin();
        let done = move |result| {
            match shared.checked(result, length) {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => {
                    reply.error(Errno::EIO);
                    shared.log(ino, offset, length, &error);
                }
            }
            drop(under_way);
        };
        reader.read(file, offset, length, Box::new(done));
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = match self.entries(ino, offset) {
            Ok((_, entries)) => entries,
            Err(errno) => return reply.error(errno),
        };
        for (next, ino, kind, name) in entries {
            if reply.add(
                INodeNo(ino.number()),
                next,
                file_type(kind),
                OsStr::from_bytes(name),
            ) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (tree, entries) = match self.entries(ino, offset) {
            Ok(entries) => entries,
            Err(errno) => return reply.error(errno),
        };
        for (next, ino, _, name) in entries {
            let attr = attr(tree, ino);
            let name = OsStr::from_bytes(name);
            if reply.add(attr.ino, next, name, &FOREVER, &attr, GENERATION) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let tree = match self.tree() {
            Ok(tree) => tree,
            Err(errno) => return reply.error(errno),
        };
        let blocks = tree.file_bytes().div_ceil(u64::from(BLOCK));
        let inodes = tree.inode_count() as u64;
        reply.statfs(blocks, 0, 0, inodes, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        // Never ENOSYS, which would save questions: containerd takes what the kernel then says
        // (EOPNOTSUPP) as a failure when it looks for changes in an overlay on this tree.
        let found = self.node(ino);
        match found.map(|(tree, ino)| tree.xattr(ino, name.as_bytes())) {
            Ok(Some(value)) => answer_xattr(value, size, reply),
            Ok(None) => reply.error(Errno::ENODATA),
            Err(errno) => reply.error(errno),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (tree, ino) = match self.node(ino) {
            Ok(found) => found,
            Err(errno) => return reply.error(errno),
        };
        if !tree.has_xattrs() {
            // The kernel does not ask again.
            return reply.error(Errno::ENOSYS);
        }
        let mut list = Vec::new();
        for (name, _) in tree.xattrs(ino).iter() {
            list.extend_from_slice(name);
            list.push(0);
        }
        answer_xattr(&list, size, reply);
    }

    refusals!();
}

// === impl Shared ===

impl Shared {
    fn tree(&self) -> Result<&Tree, Errno> {
        let tree = self.shown.tree();
        tree.map(|tree| &**tree).ok_or_else(|| {
            if let Some(suppressed) = self.errors.admit(Instant::now()) {
                let why = self.shown.why();
                tracing::error!(
                    event = "request_failed",
                    image = self.name,
                    suppressed,
                    "answered with EIO: {why}"
                );
            }
            Errno::EIO
        })
    }

    /// The bytes, if they are as many as were asked for: the kernel would take fewer for the end
    /// of the file and show zeros.
    fn checked(&self, result: crate::Result<Bytes>, length: u32) -> crate::Result<Bytes> {
        let bytes = result?;
        if bytes.len() == length as usize {
            return Ok(bytes);
        }
        let got = bytes.len();
        Err(Error::internal(format!(
            "read of {length} bytes gave {got}"
        )))
    }

    fn log(&self, ino: Ino, offset: u64, length: u32, error: &Error) {
        let Some(suppressed) = self.errors.admit(Instant::now()) else {
            return;
        };
        let path = self
            .shown
            .tree()
            .map(|tree| tree.path(ino))
            .unwrap_or_default();
        tracing::error!(
            event = "read_failed",
            image = self.name,
            file = %path.escape_ascii(),
            offset,
            length,
            kind = ErrorKind::as_str(error.kind()),
            suppressed,
            %error,
            "read answered with EIO"
        );
    }
}

/// With size 0 the caller wants to know how much room it needs.
fn answer_xattr(value: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

fn attr(tree: &Tree, ino: Ino) -> FileAttr {
    file_attr(ino, &tree.attributes(ino))
}

fn file_attr(ino: Ino, attributes: &Attributes) -> FileAttr {
    let time = system_time(attributes.mtime, attributes.mtime_nanos);
    FileAttr {
        ino: INodeNo(ino.number()),
        size: attributes.size,
        blocks: attributes.size.div_ceil(u64::from(BLOCK)) * u64::from(BLOCK / 512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attributes.kind),
        perm: attributes.mode,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev,
        blksize: BLOCK,
        flags: 0,
    }
}

/// A time, or 1970 if the system cannot say it.
fn system_time(seconds: i64, nanos: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let whole = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    whole
        .and_then(|whole| whole.checked_add(Duration::from_nanos(u64::from(nanos))))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::Regular => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Fifo => FileType::NamedPipe,
    }
}

/// What makes the kernel ask less, each if it has it.
const WANTED: InitFlags = InitFlags::FUSE_DO_READDIRPLUS
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_NO_OPEN_SUPPORT)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT)
    .union(InitFlags::FUSE_ALLOW_IDMAP)
    .union(InitFlags::FUSE_EXPORT_SUPPORT);

/// A tree never changes. 34 years, because the kernel adds it to its clock.
const FOREVER: Duration = Duration::from_secs(1 << 30);
/// Numbers are never used again.
const GENERATION: Generation = Generation(0);
/// `.` and `..`.
const DOTS: usize = 2;
const BLOCK: u32 = 4096;
/// Failed reads that are logged one by one before the log is limited.
const LOGGED_AT_ONCE: u32 = 8;
/// And then one each:
const LOG_EVERY: Duration = Duration::from_secs(10);
