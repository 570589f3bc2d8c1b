//! Requests that a read-only tree refuses. The kernel stops most of them at the read-only mount;
//! without these, fuser would log a warning for each that is left.

macro_rules! refusals {
    () => {
        fn setattr(
            &self,
            _: &Request,
            _: INodeNo,
            _: Option<u32>,
            _: Option<u32>,
            _: Option<u32>,
            _: Option<u64>,
            _: Option<fuser::TimeOrNow>,
            _: Option<fuser::TimeOrNow>,
            _: Option<SystemTime>,
            _: Option<FileHandle>,
            _: Option<SystemTime>,
            _: Option<SystemTime>,
            _: Option<SystemTime>,
            _: Option<fuser::BsdFileFlags>,
            reply: ReplyAttr,
        ) {
            reply.error(Errno::EROFS);
        }

        fn mknod(
            &self,
            _: &Request,
            _: INodeNo,
            _: &OsStr,
            _: u32,
            _: u32,
            _: u32,
            reply: ReplyEntry,
        ) {
            reply.error(Errno::EROFS);
        }

        fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
            reply.error(Errno::EROFS);
        }

        fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
            reply.error(Errno::EROFS);
        }

        fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
            reply.error(Errno::EROFS);
        }

        fn symlink(
            &self,
            _: &Request,
            _: INodeNo,
            _: &OsStr,
            _: &std::path::Path,
            reply: ReplyEntry,
        ) {
            reply.error(Errno::EROFS);
        }

        fn rename(
            &self,
            _: &Request,
            _: INodeNo,
            _: &OsStr,
            _: INodeNo,
            _: &OsStr,
            _: fuser::RenameFlags,
            reply: ReplyEmpty,
        ) {
            reply.error(Errno::EROFS);
        }

        fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
            reply.error(Errno::EROFS);
        }

        fn create(
            &self,
            _: &Request,
            _: INodeNo,
            _: &OsStr,
            _: u32,
            _: u32,
            _: i32,
            reply: fuser::ReplyCreate,
        ) {
            reply.error(Errno::EROFS);
        }

        fn write(
            &self,
            _: &Request,
            _: INodeNo,
            _: FileHandle,
            _: u64,
            _: &[u8],
            _: fuser::WriteFlags,
            _: OpenFlags,
            _: Option<LockOwner>,
            reply: fuser::ReplyWrite,
        ) {
            reply.error(Errno::EROFS);
        }

        fn setxattr(
            &self,
            _: &Request,
            _: INodeNo,
            _: &OsStr,
            _: &[u8],
            _: i32,
            _: u32,
            reply: ReplyEmpty,
        ) {
            reply.error(Errno::EROFS);
        }

        fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
            reply.error(Errno::EROFS);
        }

        fn fallocate(
            &self,
            _: &Request,
            _: INodeNo,
            _: FileHandle,
            _: u64,
            _: u64,
            _: i32,
            reply: ReplyEmpty,
        ) {
            reply.error(Errno::EROFS);
        }

        // "Not implemented" makes the kernel answer these itself from now on.

        fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
            reply.error(Errno::ENOSYS);
        }

        fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
            reply.error(Errno::ENOSYS);
        }

        fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
            reply.error(Errno::ENOSYS);
        }

        fn access(&self, _: &Request, _: INodeNo, _: fuser::AccessFlags, reply: ReplyEmpty) {
            reply.error(Errno::ENOSYS);
        }

        fn lseek(
            &self,
            _: &Request,
            _: INodeNo,
            _: FileHandle,
            _: i64,
            _: i32,
            reply: fuser::ReplyLseek,
        ) {
            reply.error(Errno::ENOSYS);
        }

        fn ioctl(
            &self,
            _: &Request,
            _: INodeNo,
            _: FileHandle,
            _: fuser::IoctlFlags,
            _: u32,
            _: &[u8],
            _: u32,
            reply: fuser::ReplyIoctl,
        ) {
            reply.error(Errno::ENOTTY);
        }

        fn poll(
            &self,
            _: &Request,
            _: INodeNo,
            _: FileHandle,
            _: fuser::PollNotifier,
            _: fuser::PollEvents,
            _: fuser::PollFlags,
            reply: fuser::ReplyPoll,
        ) {
            reply.error(Errno::ENOSYS);
        }

        fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: fuser::ReplyBmap) {
            reply.error(Errno::ENOSYS);
        }

        fn copy_file_range(
            &self,
            _: &Request,
            _: INodeNo,
            _: FileHandle,
            _: u64,
            _: INodeNo,
            _: FileHandle,
            _: u64,
            _: u64,
            _: fuser::CopyFileRangeFlags,
            reply: fuser::ReplyWrite,
        ) {
            reply.error(Errno::EROFS);
        }
    };
}

pub(crate) use refusals;
