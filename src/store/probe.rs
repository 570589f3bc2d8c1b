//! Whether a directory can be written to, found out by writing.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use crate::error::{Error, Result};

/// Of this process alone, so that two that share the directory do not remove each other's.
fn name() -> String {
    format!("probe-{}", std::process::id())
}

/// A block: a full disk often still takes a name.
const BLOCK: [u8; 4096] = [0; 4096];

/// Writes a file and removes it.
pub(super) fn write(directory: &Path) -> Result<()> {
    let path = directory.join(name());
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(&BLOCK));
    // After a failed write, too: the name may be there.
    let removed = match fs::remove_file(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    written.and(removed).map_err(|error| {
        let what = format!("store directory {}: not writable", directory.display());
        Error::io(what, error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_cannot_be_written_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let gone = directory.path().join("gone");
        let error = write(&gone).unwrap_err().to_string();
        assert!(error.contains("gone: not writable"), "{error}");
    }
}
