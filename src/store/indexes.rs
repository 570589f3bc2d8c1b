//! Indexes of ordinary layers that were read whole on this node: a file each, so that they stay when
//! chunks go, and the next mount reads lazily.
//!
//! An index of an encrypted layer is sealed under a key derived from the layer's key, and only who has
//! that key finds it. One of a plain layer has a checksum against faults of the disk; it is as
//! trustworthy as its directory, which only its owner can write to (docs/decisions/0014). Bounded in
//! bytes: what was not used for longest goes first.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};

use super::seal::Seal;
use crate::{
    error::{Error, Result},
    index::{BuiltIndex, Subject},
};

/// The directory of kept indexes. All calls block on file I/O.
#[derive(Debug)]
pub struct Indexes {
    directory: PathBuf,
    capacity: u64,
    /// One at a time makes room.
    shrinking: Mutex<()>,
}

/// Begins every file; its last byte is the version.
const MAGIC: &[u8; 8] = b"nacreix\x01";
/// Checksum behind it, of plain ones.
const CHECKSUM: usize = 32;
const SUFFIX: &str = "index";
/// What is being written has another.
const PARTIAL: &str = "partial";
/// After so long nobody writes it any more.
const ABANDONED: Duration = Duration::from_hours(1);
/// Label of names under a layer's key.
const LABEL: &[u8] = b"kept index ";

// === impl Indexes ===

impl Indexes {
    /// Opens or makes the directory.
    ///
    /// # Errors
    /// `Io` if it cannot be made or read.
    pub fn open(directory: &Path, capacity: u64) -> Result<Self> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        made.map_err(|e| Error::io(format!("index directory {}", directory.display()), e))?;
        let indexes = Self {
            directory: directory.to_owned(),
            capacity,
            shrinking: Mutex::default(),
        };
        indexes.shrink();
        Ok(indexes)
    }

    /// Whether a directory seems to have the index of a plain layer; nothing of it is read.
    #[must_use]
    pub fn seem_to_have(directory: &Path, subject: &Subject) -> bool {
        let name = hex::encode(name(subject, None));
        directory.join(name).with_extension(SUFFIX).is_file()
    }

    /// The kept index of a layer; `seal` is that of an encrypted one. What is not what was kept is
    /// removed, logged, and `None`.
    #[must_use]
    pub fn get(&self, subject: &Subject, seal: Option<&Seal>) -> Option<BuiltIndex> {
        let name = name(subject, seal);
        let path = self.path(&name);
        let file = match self.read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "kept index cannot be read");
                return None;
            }
        };
        let document = open_file(file, &name, seal);
        let reopened = document
            .ok_or_else(|| "it is not what was written".to_owned())
            .and_then(|document| BuiltIndex::reopen(&document, subject));
        match reopened {
            Ok(index) => Some(index),
            Err(why) => {
                tracing::warn!(
                    event = "kept_index_corrupt",
                    layer = %subject.blob,
                    error = why,
                    "kept index is not what it was; the layer is read whole again"
                );
                self.remove(&path);
                None
            }
        }
    }

    /// Keeps an index, and makes room for it. What cannot be kept is logged: the layer is then read
    /// whole the next time too.
    pub fn keep(&self, index: &BuiltIndex, seal: Option<&Seal>) {
        let subject = index.subject();
        let name = name(subject, seal);
        let kept = seal_file(&index.document(), &name, seal).and_then(|file| {
            if file.len() as u64 > self.capacity {
                let message = format!("{} bytes, at most {}", file.len(), self.capacity);
                return Err(Error::unsupported(message));
            }
            self.write(&self.path(&name), &file)
                .map_err(|e| Error::io(format!("{}", self.directory.display()), e))
        });
        match kept {
            Ok(()) => self.shrink(),
            Err(error) => {
                tracing::warn!(layer = %subject.blob, %error, "index is not kept");
            }
        }
    }

    /// Bytes of all that are kept.
    #[must_use]
    pub fn used(&self) -> u64 {
        let sizes = self.list().unwrap_or_default();
        sizes.iter().map(|it| it.size).sum()
    }

    fn path(&self, name: &[u8; 32]) -> PathBuf {
        self.directory
            .join(hex::encode(name))
            .with_extension(SUFFIX)
    }

    /// Reads a file, and notes that it was used.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        if file.metadata()?.len() > self.capacity {
            return Err(io::Error::other("larger than all of them may be"));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // Only what goes first depends on it.
        let _ = file.set_modified(SystemTime::now());
        Ok(bytes)
    }

    /// Writes a file so that it is there whole or not at all.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let salt = getrandom::u64().map_err(|e| io::Error::other(e.to_string()))?;
        let partial = self
            .directory
            .join(format!("{salt:016x}"))
            .with_extension(PARTIAL);
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)?;
        // The kernel's own stamp is too coarse to tell which of two came first.
        let written = file
            .write_all(bytes)
            .and_then(|()| file.set_modified(SystemTime::now()))
            .and_then(|()| fs::rename(&partial, path));
        if written.is_err() {
            self.remove(&partial);
        }
        written
    }

    fn remove(&self, path: &Path) {
        if let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "kept index not removed");
        }
    }

    /// Removes what was not used for longest until all fit.
    fn shrink(&self) {
        let _one = self
            .shrinking
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut all = match self.list() {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(directory = %self.directory.display(), %error, "kept indexes");
                return;
            }
        };
        all.sort_by_key(|it| it.used);
        let mut sum: u64 = all.iter().map(|it| it.size).sum();
        for it in all {
            if sum <= self.capacity {
                break;
            }
            sum -= it.size;
            self.remove(&it.path);
        }
    }

    /// All that are kept; what somebody began to write and did not end is removed.
    fn list(&self) -> io::Result<Vec<Listed>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            // Another process may have removed it.
            let Ok(metadata) = path.metadata() else {
                continue;
            };
            let used = metadata.modified()?;
            let extension = path.extension().and_then(|it| it.to_str());
            match extension {
                Some(SUFFIX) => all.push(Listed {
                    size: metadata.len(),
                    used,
                    path,
                }),
                Some(PARTIAL) if used.elapsed().is_ok_and(|it| it > ABANDONED) => {
                    self.remove(&path);
                }
                _ => {}
            }
        }
        Ok(all)
    }
}

struct Listed {
    path: PathBuf,
    size: u64,
    used: SystemTime,
}

/// Name of a file: of the layer and of the key, if it has one, so that none is taken for another.
fn name(subject: &Subject, seal: Option<&Seal>) -> [u8; 32] {
    let text = format!("nacre kept index {} {}", subject.blob, subject.diff_id);
    let hash = Sha256::digest(text.as_bytes()).into();
    seal.map_or(hash, |seal| seal.name(&hash, LABEL))
}

fn seal_file(document: &[u8], name: &[u8; 32], seal: Option<&Seal>) -> Result<Vec<u8>> {
    Ok(match seal {
        Some(seal) => [&MAGIC[..], &seal.seal(document, name)?].concat(),
        None => [&MAGIC[..], &checksum(name, document), document].concat(),
    })
}

/// The document in a file; `None` if it is not what was written under this name.
fn open_file(file: Vec<u8>, name: &[u8; 32], seal: Option<&Seal>) -> Option<Vec<u8>> {
    let record = file.strip_prefix(MAGIC)?;
    match seal {
        Some(seal) => seal.open(record.to_vec(), name),
        None => {
            let (sum, document) = record.split_at_checked(CHECKSUM)?;
            (sum == checksum(name, document)).then(|| document.to_vec())
        }
    }
}

/// Of the name too: a file under another name is not what it was.
fn checksum(name: &[u8; 32], document: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(name).update(document);
    hasher.finalize().into()
}

#[cfg(test)]
mod tests;
