//! Paths of archive members, and what their names mean.

use crate::{
    error::{Error, Result},
    index::clean_path,
};

/// What the last component of a member's path says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// A file.
    Plain,
    /// `.wh.NAME`: lower layers' `NAME` is gone.
    Whiteout(&'a [u8]),
    /// `.wh..wh..opq`: everything of lower layers in this directory is gone.
    Opaque,
    /// Other names that AUFS keeps for itself; they are no files.
    Reserved,
}

/// What is shown of a path in a message.
const SHOWN: usize = 160;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const RESERVED: &[u8] = b".wh..wh.";

/// A member's path relative to the root, without `.` and doubled slashes.
pub(super) fn clean(path: &[u8]) -> Result<Box<[u8]>> {
    clean_path(path).map_err(Error::invalid)
}

/// Directory and last component of a clean path; `None` for the root.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    })
}

/// What a last component means.
pub(super) fn name(name: &[u8]) -> Result<Name<'_>> {
    if name == OPAQUE {
        return Ok(Name::Opaque);
    }
    if name.starts_with(RESERVED) {
        return Ok(Name::Reserved);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Name::Plain),
        Some(b"" | b"." | b"..") => Err(Error::invalid("whiteout of no name")),
        Some(target) => Ok(Name::Whiteout(target)),
    }
}

/// A path for messages: printable and not longer than a line.
pub(super) fn shown(path: &[u8]) -> String {
    let cut = path.len().min(SHOWN);
    let text = path[..cut].escape_ascii();
    if cut < path.len() {
        format!("\"{text}...\" ({} bytes)", path.len())
    } else {
        format!("\"{text}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean() {
        assert_eq!(name(b"a").unwrap(), Name::Plain);
        assert_eq!(name(b".wh.a").unwrap(), Name::Whiteout(b"a"));
        assert_eq!(name(b".wh..a").unwrap(), Name::Whiteout(b".a"));
        assert_eq!(name(b".wh..wh..opq").unwrap(), Name::Opaque);
        assert_eq!(name(b".wh..wh.plnk").unwrap(), Name::Reserved);
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert!(name(bad).is_err());
        }
    }
}
