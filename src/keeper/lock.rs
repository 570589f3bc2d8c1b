//! One process at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use crate::error::{Error, Kind, Result};

/// A locked file, until it is dropped or its process ends, however that happens.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

// === impl Lock ===

impl Lock {
    /// Locks `path`; makes it if it is not there.
    ///
    /// # Errors
    /// [`Kind::Busy`] if another process has it.
    pub fn take(path: &Path) -> Result<Self> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                let message = format!("{} is locked by another process", path.display());
                Err(Error::new(Kind::Busy, message))
            }
            Err(TryLockError::Error(error)) => Err(io(path, error)),
        }
    }

    /// The same, however long another process has it.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn wait(path: &Path) -> Result<Self> {
        let file = open(path)?;
        file.lock().map_err(|error| io(path, error))?;
        Ok(Self { _file: file })
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    options.open(path).map_err(|error| io(path, error))
}

fn io(path: &Path, error: std::io::Error) -> Error {
    Error::io(format!("lock {}", path.display()), error)
}
