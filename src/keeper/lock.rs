//! One process at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::mpsc,
    time::Duration,
};

use crate::error::{Error, Kind, Result};

/// A locked file, until it is dropped or its process ends, however that happens.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

// === impl Lock ===

impl Lock {
    /// Locks `path`; makes it if it is not there. A process that has been killed may need a moment to
    /// let go of it: its parent hears of its end before its last thread has ended.
    ///
    /// # Errors
    /// [`Kind::Busy`] if another process still has it after `patience`.
    pub fn take(path: &Path, patience: Duration) -> Result<Self> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => return Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(io(path, error)),
        }
        let (locked, wait) = mpsc::channel();
        let waiting = std::thread::Builder::new().name("lock".to_owned());
        let started = waiting.spawn(move || {
            // Nobody hears an answer that comes too late, and then the lock is given up.
            let _ = locked.send(file.lock().map(|()| file));
        });
        started.map_err(|error| io(path, error))?;
        match wait.recv_timeout(patience) {
            Ok(Ok(file)) => Ok(Self { _file: file }),
            Ok(Err(error)) => Err(io(path, error)),
            Err(_) => {
                let message = format!("{} is locked by another process", path.display());
                Err(Error::new(Kind::Busy, message))
            }
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
