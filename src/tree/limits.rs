//! What a merged tree refuses: everything that the kernel could not show or an eager unpack could
//! not create.

use crate::error::{Error, Result};
use crate::index::{
    Entry, EntryKind,
    limits::{MAX_NAME, MAX_PATH, MAX_XATTR_LIST, MAX_XATTR_NAME, MAX_XATTR_VALUE},
};

/// Symlinks followed on the way to one entry; the number that umoci and runc allow.
pub const MAX_LINK_HOPS: usize = 255;

/// Deepest directory: as deep as a path without symlinks can say.
pub(super) const MAX_DEPTH: u32 = 2048;
/// Longest target that the kernel reads from a symlink.
const MAX_TARGET: usize = 4095;
/// Bits of a device's major number in the kernel.
const MAX_MAJOR: u32 = (1 << 12) - 1;
/// Bits of a device's minor number in the kernel.
const MAX_MINOR: u32 = (1 << 20) - 1;

/// Refuses an entry that no file system could hold; the message says what is wrong with it.
pub(super) fn check(entry: &Entry) -> Result<(), String> {
    check_path(&entry.path)?;
    if entry.mtime_nanos >= 1_000_000_000 {
        return Err(format!("{} nanoseconds in its time", entry.mtime_nanos));
    }
    match &entry.kind {
        EntryKind::Symlink(target) => check_target(target)?,
        EntryKind::Hardlink(target) => check_path(target)?,
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
            if *major > MAX_MAJOR || *minor > MAX_MINOR {
                return Err(format!("device number {major}:{minor} is out of range"));
            }
        }
        EntryKind::Regular { chunks, .. } if chunks.start > chunks.end => {
            return Err("its run of chunks ends before it begins".to_owned());
        }
        EntryKind::Regular { .. } | EntryKind::Directory | EntryKind::Fifo => {}
    }
    check_xattrs(entry)
}

/// The error for `entry` of `layer`.
pub(super) fn refusal(layer: usize, path: &[u8], why: impl std::fmt::Display) -> Error {
    /// Enough of a path to find it; whole ones may be hostile.
    const SHOWN: usize = 160;
    let shown = path[..path.len().min(SHOWN)].escape_ascii();
    let more = if path.len() > SHOWN { "..." } else { "" };
    Error::invalid(format!("layer {layer} entry \"{shown}{more}\": {why}"))
}

fn check_path(path: &[u8]) -> Result<(), String> {
    if path.is_empty() {
        return Ok(());
    }
    if path.len() > MAX_PATH {
        return Err(format!("path of {} bytes is over {MAX_PATH}", path.len()));
    }
    if path.contains(&0) {
        return Err("path holds a zero byte".to_owned());
    }
    for component in path.split(|&byte| byte == b'/') {
        if component.len() > MAX_NAME {
            let length = component.len();
            return Err(format!(
                "path component of {length} bytes is over {MAX_NAME}"
            ));
        }
        if matches!(component, b"" | b"." | b"..") {
            return Err("path is not clean".to_owned());
        }
    }
    Ok(())
}

fn check_target(target: &[u8]) -> Result<(), String> {
    if target.is_empty() {
        return Err("symlink without a target".to_owned());
    }
    if target.len() > MAX_TARGET {
        return Err(format!(
            "symlink target of {} bytes is over {MAX_TARGET}",
            target.len()
        ));
    }
    if target.contains(&0) {
        return Err("symlink target holds a zero byte".to_owned());
    }
    Ok(())
}

fn check_xattrs(entry: &Entry) -> Result<(), String> {
    let mut list = 0;
    for (name, value) in &entry.xattrs {
        if name.is_empty() || name.len() > MAX_XATTR_NAME || name.contains(&0) {
            return Err(format!(
                "extended attribute name of {} bytes is empty, over {MAX_XATTR_NAME}, \
                 or holds a zero byte",
                name.len()
            ));
        }
        if value.len() > MAX_XATTR_VALUE {
            let shown = name.escape_ascii();
            return Err(format!(
                "extended attribute {shown} of {} bytes is over {MAX_XATTR_VALUE}",
                value.len()
            ));
        }
        list += name.len() + 1;
    }
    if list > MAX_XATTR_LIST {
        return Err(format!(
            "names of extended attributes take {list} bytes, over {MAX_XATTR_LIST}"
        ));
    }
    Ok(())
}
