//! Devices as the kernel's FUSE requests see them: one directory of read-only files.
//!
//! Attributes are cached without a time limit, names are not: a device comes and goes. Opening tells
//! when a device is in use. Reads are answered from whatever thread has the bytes; a session thread
//! never waits for one.

use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, Request,
};

use super::{Device, Devices};
use crate::fuse::{Handshake, Reads, Wanted, refusals};

/// A directory with a file for each device.
#[derive(Debug)]
pub struct DeviceFilesystem {
    devices: Devices,
    wanted: Wanted,
    reads: Reads,
}

// === impl DeviceFilesystem ===

impl DeviceFilesystem {
    pub(super) fn new(devices: Devices, reads: Reads) -> DeviceFilesystem {
        DeviceFilesystem {
            devices,
            wanted: Wanted::new(WANTED),
            reads,
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
}

impl Filesystem for DeviceFilesystem {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.wanted.agree(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let device = { name.to_str() }.and_then(|name| self.devices.named(name));
        match device {
            Some(device) if parent == INodeNo::ROOT => {
                reply.entry_with_ttls(
                    &FOREVER,
                    &Duration::ZERO,
                    &file_attr(&device),
                    Generation(0),
                );
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if ino == INodeNo::ROOT {
            return reply.attr(&FOREVER, &directory_attr());
        }
        self.devices.when_there(ino.0, move |device| match device {
            Some(device) => reply.attr(&FOREVER, &file_attr(&device)),
            None => reply.error(Errno::ESTALE),
        });
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.devices.opened(ino.0) {
            reply.opened(FileHandle(0), OPENED);
        } else {
            // The kernel looks the name up again.
            reply.error(Errno::ESTALE);
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        self.devices.closed(ino.0);
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
        let under_way = self.reads.begin();
        self.devices.when_there(ino.0, move |device| {
            let Some(device) = device else {
                return reply.error(Errno::EIO);
            };
            let done = move |result: crate::Result<bytes::Bytes>| {
                match result {
                    Ok(bytes) => reply.data(&bytes),
                    // It has been logged with the name of the file.
                    Err(_) => reply.error(Errno::EIO),
                }
                drop(under_way);
            };
            device.read(offset, size, Box::new(done));
        });
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if ino != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let dots = [".", ".."].map(|name| (INodeNo::ROOT, FileType::Directory, name.to_owned()));
        let devices = self.devices.names().into_iter().filter_map(|name| {
            let number = self.devices.named(&name)?.number();
            Some((INodeNo(number), FileType::RegularFile, name))
        });
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        let entries = (1_u64..).zip(dots.into_iter().chain(devices)).skip(skipped);
        for (next, (number, kind, name)) in entries {
            if reply.add(number, next, kind, &name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let devices = self.devices.count() as u64;
        reply.statfs(0, 0, 0, devices + 1, 0, BLOCK, 255, BLOCK);
    }

    refusals!();
}

fn file_attr(device: &Device) -> FileAttr {
    FileAttr {
        ino: INodeNo(device.number()),
        size: device.layout().bytes(),
        blocks: device.layout().bytes() / 512,
        kind: FileType::RegularFile,
        perm: 0o400,
        nlink: 1,
        ..directory_attr()
    }
}

fn directory_attr() -> FileAttr {
    FileAttr {
        ino: INodeNo::ROOT,
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0o500,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

/// The pages of EROFS are enough: without this the kernel would keep all data twice.
const OPENED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_NOFLUSH);
/// Each if the kernel has it.
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_DIO.union(InitFlags::FUSE_EXPLICIT_INVAL_DATA);
/// What a device is never changes. 34 years, because the kernel adds it to its clock.
const FOREVER: Duration = Duration::from_secs(1 << 30);
const BLOCK: u32 = 4096;
