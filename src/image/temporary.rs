//! Files that last as long as a layer is being made.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// A file that is removed when it is dropped.
#[derive(Debug)]
pub(super) struct Temporary(PathBuf);

impl Temporary {
    /// A new file that only we can read, open for writing.
    pub(super) fn create(directory: &Path) -> Result<(Self, File)> {
        let mut random = [0; 12];
        getrandom::fill(&mut random)
            .map_err(|e| Error::internal("no randomness").with_source(e.to_string()))?;
        let path = directory.join(format!("nacre-{}.tmp", hex::encode(random)));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Error::io(format!("temporary file {}", path.display()), e))?;
        Ok((Self(path), file))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It lies in a directory for temporary files: what cannot be removed is not an error.
        let _ = std::fs::remove_file(&self.0);
    }
}
