//! How far the kernel reads ahead in a mount: little while what comes next is known better.

use std::{
    collections::BTreeSet,
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// A mount's read-ahead, which files take over when they are opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAhead(PathBuf);

/// Read-ahead while a profile is followed: what the kernel guesses beside it would only cost bytes.
const NARROW_KIB: u32 = 16;
/// How much longer a start takes than the fetching of its profile on a fast link.
const SETTLES: Duration = Duration::from_secs(5);
/// Where the kernel shows what file systems are read from.
const DEVICES: &str = "/sys/class/bdi";

// === impl ReadAhead ===

impl ReadAhead {
    /// Of the file system with that device number, if the kernel lets it be set.
    pub(super) fn of((major, minor): (u32, u32)) -> Option<Self> {
        let path = Path::new(DEVICES).join(format!("{major}:{minor}"));
        path.exists().then_some(Self(path))
    }

    /// Makes an EROFS mount of files and finds its read-ahead. Its name has nothing to do with the
    /// mount, so it is told by being new, and not found if another one becomes new meanwhile.
    pub(super) fn of_new_erofs<T, E>(
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, Option<Self>), E> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let before = of_erofs();
        let made = make()?;
        let new: Vec<PathBuf> = of_erofs().difference(&before).cloned().collect();
        drop(alone);
        let found = match <[PathBuf; 1]>::try_from(new) {
            Ok([only]) => Some(Self(only)),
            Err(_) => None,
        };
        Ok((made, found))
    }

    /// Sets it, in KiB; the kernel takes zero for one page.
    pub(super) fn set(&self, kib: u32) -> io::Result<()> {
        std::fs::write(self.file(), kib.to_string())
    }

    /// Keeps it short while a profile is followed, and until what it was fetched for has probably been
    /// read.
    pub async fn narrow_for_start(self, followed: impl Future<Output = ()>) {
        let settled = async {
            followed.await;
            tokio::time::sleep(SETTLES).await;
        };
        self.narrow_until(settled).await;
    }

    /// Keeps it short until `over` ends.
    async fn narrow_until(self, over: impl Future<Output = ()>) {
        let usual = std::fs::read_to_string(self.file());
        let usual = usual.and_then(|kib| {
            let kib = kib.trim().parse().map_err(io::Error::other)?;
            self.set(NARROW_KIB)?;
            Ok(kib)
        });
        let usual = match usual {
            Ok(usual) => usual,
            Err(error) => {
                tracing::debug!(%error, "read-ahead stays as it is");
                return;
            }
        };
        over.await;
        // The mount may be gone.
        if let Err(error) = self.set(usual) {
            tracing::debug!(%error, "read-ahead stays short");
        }
    }

    fn file(&self) -> PathBuf {
        self.0.join("read_ahead_kb")
    }
}

/// All EROFS mounts of files. Empty where the kernel does not show them.
fn of_erofs() -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(DEVICES).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("erofs-"))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_short_until_it_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("read_ahead_kb");
        let value = || std::fs::read_to_string(&file).unwrap();
        let read_ahead = ReadAhead(directory.path().to_owned());
        std::fs::write(&file, "128\n").unwrap();
        let during = async { assert_eq!(value(), "16") };
        read_ahead.clone().narrow_until(during).await;
        assert_eq!(value(), "128");
        // Whatever is there that is no number stays.
        std::fs::write(&file, "?").unwrap();
        read_ahead.narrow_until(async {}).await;
        assert_eq!(value(), "?");
    }
}
