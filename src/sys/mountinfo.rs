//! `/proc/self/mountinfo`, the kernel's list of mounts (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Number of the mount in this namespace.
    pub id: u64,
    /// Device number of its file system, `major:minor`; what names its directories in sysfs.
    pub device: (u32, u32),
    /// Where it is mounted, below the root of the process that reads.
    pub mount_point: PathBuf,
    /// Type with subtype: `ext4`, `fuse.nacre`.
    pub kind: String,
    /// What is mounted, as the one who mounted it called it.
    pub source: OsString,
    /// Options of the file system.
    pub options: String,
}

/// All mounts that this process sees, in the order in which they were made.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io) if `/proc` is not there.
pub fn read() -> Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")
        .map_err(|error| Error::io("/proc/self/mountinfo", error))?;
    Ok(parse(&text))
}

/// The mount that is seen at `path`: of several at one place the last.
///
/// # Errors
/// As [`read`].
pub fn at(path: &Path) -> Result<Option<MountEntry>> {
    let found = read()?.into_iter().rev();
    Ok({ found }.find(|mount| mount.mount_point == path))
}

/// Parses mountinfo; lines that are not of its form are left out.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<MountEntry> {
    let lines = text.split(|&byte| byte == b'\n');
    lines.filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let _parent = fields.next()?;
    let mut device = fields.next()?.split(|&byte| byte == b':');
    let major = u32::try_from(number(device.next()?)?).ok()?;
    let minor = u32::try_from(number(device.next()?)?).ok()?;
    let _root = fields.next()?;
    let mount_point = OsString::from_vec(unescape(fields.next()?));
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    Some(MountEntry {
        id,
        device: (major, minor),
        mount_point: mount_point.into(),
        kind: String::from_utf8_lossy(&unescape(fields.next()?)).into_owned(),
        source: OsString::from_vec(unescape(fields.next()?)),
        options: String::from_utf8_lossy(&unescape(fields.next()?)).into_owned(),
    })
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Undoes the kernel's `\040`: a backslash and three octal digits for a space, a tab, a line end or
/// a backslash.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'\\'
            && let [
                high @ b'0'..=b'3',
                middle @ b'0'..=b'7',
                low @ b'0'..=b'7',
                after @ ..,
            ] = tail
        {
            plain.push((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'));
            rest = after;
        } else {
            plain.push(byte);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines_with_and_without_optional_fields() {
        let text = b"22 1 0:20 / /sys rw,nosuid shared:7 master:2 - sysfs sysfs rw\n\
            36 35 254:0 /sub /mnt rw - ext4 /dev/vda rw,errors=remount-ro\n\
            nonsense\n\
            90 1 0:55 / /a\\040b\\134c\\012 ro - fuse.nacre nacre:registry/a\\040b ro,user_id=0\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[0].kind, "sysfs");
        assert_eq!(mounts[1].device, (254, 0));
        assert_eq!(mounts[1].mount_point, Path::new("/mnt"));
        assert_eq!(mounts[1].options, "rw,errors=remount-ro");
        assert_eq!(mounts[2].id, 90);
        assert_eq!(mounts[2].mount_point, Path::new("/a b\\c\n"));
        assert_eq!(mounts[2].kind, "fuse.nacre");
        assert_eq!(mounts[2].source, "nacre:registry/a b");
    }

    #[test]
    fn unescape_leaves_what_is_not_an_escape() {
        assert_eq!(unescape(b"a\\040"), b"a ");
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"\\999\\"), b"\\999\\");
        assert_eq!(unescape(b"\\377"), b"\xff");
    }

    #[test]
    fn the_kernel_s_own_text_has_a_root() {
        assert!(
            read()
                .unwrap()
                .iter()
                .any(|it| it.mount_point == Path::new("/"))
        );
    }
}
