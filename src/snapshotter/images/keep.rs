//! Documents and index bytes of images, kept on disk so that a restart needs no registry.
//!
//! Everything here is what a registry said, as it said it: layers' bytes are the ciphertext where
//! the layer is encrypted, and nothing is believed more than if it had just come from the network.
//! So there is nothing to seal and nothing to sign. Each image has a record of the files that
//! opening it used; what no record names is swept.

use std::{
    collections::{BTreeSet, HashMap},
    io::{ErrorKind, Read},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    oci::Digest,
};

/// The directory.
#[derive(Debug)]
pub(super) struct Keep {
    root: PathBuf,
    count: AtomicU64,
    /// Bytes of each blob that came from its registry, whichever image wanted them.
    fetched: Mutex<HashMap<Digest, Arc<AtomicU64>>>,
    /// Held shared while an image is opened, exclusively while sweeping.
    pub(super) busy: tokio::sync::RwLock<()>,
}

/// What is remembered of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// As the user named it.
    pub(super) reference: String,
    /// Digest of the admitted manifest.
    pub(super) manifest: Digest,
    /// Digest of the manifest or index by which it was admitted.
    pub(super) admitted_by: Digest,
    /// Files that opening it used.
    pub(super) files: BTreeSet<String>,
}

/// Largest record that is read: a path of 100 bytes for each of an image's documents and ranges.
const MAX_RECORD: u64 = 4 << 20;
const RECORDS: &str = "records";

// === impl Keep ===

impl Keep {
    /// Makes the directory if it is not there.
    pub(super) fn open(root: PathBuf) -> Result<Self> {
        for name in ["", RECORDS, "blobs", "manifests", "names", "ranges"] {
            let path = root.join(name);
            std::fs::create_dir_all(&path)
                .map_err(|e| Error::io(format!("directory {}", path.display()), e))?;
        }
        Ok(Self {
            root,
            count: AtomicU64::new(0),
            fetched: Mutex::default(),
            busy: tokio::sync::RwLock::new(()),
        })
    }

    /// A file's bytes; `None` if it is not there, cannot be read, or is larger than `limit`.
    pub(super) fn read(&self, name: &str, limit: u64) -> Option<Vec<u8>> {
        read_bounded(&self.root.join(name), limit)
    }

    /// Writes a file so that it is there whole or not at all. What cannot be kept is fetched again
    /// after a restart, so a failure is only logged.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.root.join(name);
        let unique = self.count.fetch_add(1, Ordering::Relaxed);
        let temporary = self
            .root
            .join(format!("tmp-{}-{unique}", std::process::id()));
        let made = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&temporary, bytes))
            .and_then(|()| std::fs::rename(&temporary, &path));
        if let Err(error) = made {
            tracing::warn!(file = %path.display(), %error, "not kept");
            // It may not have been made.
            let _ = std::fs::remove_file(&temporary);
        }
    }

    /// The runs of a blob that are kept.
    pub(super) fn ranges(&self, blob: &Digest) -> Vec<Range<u64>> {
        let directory = self.root.join(range_directory(blob));
        let names = std::fs::read_dir(directory).into_iter().flatten();
        names
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                let (start, end) = name.to_str()?.split_once('-')?;
                Some(start.parse().ok()?..end.parse().ok()?)
            })
            .collect()
    }

    /// Removes a file.
    pub(super) fn forget(&self, name: &str) {
        remove(&self.root.join(name));
    }

    /// Counts the bytes of a blob that came from its registry.
    pub(super) fn fetched(&self, blob: &Digest) -> Arc<AtomicU64> {
        let mut all = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(blob.clone()).or_default())
    }

    /// Remembers an image.
    pub(super) fn remember(&self, record: &Record) {
        match serde_json::to_vec(record) {
            Ok(text) => self.write(&record_name(&record.reference, &record.manifest), &text),
            Err(error) => tracing::warn!(%error, "image record"),
        }
    }

    /// What is remembered of an image.
    pub(super) fn record(&self, reference: &str, manifest: &Digest) -> Option<Record> {
        let text = self.read(&record_name(reference, manifest), MAX_RECORD)?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (record.reference == reference && record.manifest == *manifest).then_some(record)
    }

    /// Forgets the images that `is_alive` does not name, and all files that no image needs. Does
    /// nothing while an image is being opened.
    pub(super) fn sweep(&self, is_alive: impl Fn(&str, &Digest) -> bool) {
        let Ok(_alone) = self.busy.try_write() else {
            return;
        };
        let mut needed = BTreeSet::new();
        for path in files_below(&self.root.join(RECORDS)) {
            let record = read_bounded(&path, MAX_RECORD)
                .and_then(|text| serde_json::from_slice::<Record>(&text).ok());
            match record {
                Some(record) if is_alive(&record.reference, &record.manifest) => {
                    needed.extend(record.files);
                }
                _ => remove(&path),
            }
        }
        for path in files_below(&self.root) {
            let name = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
            let keep = name.is_some_and(|it| it.starts_with(RECORDS) || needed.contains(it));
            if !keep {
                remove(&path);
            }
        }
    }
}

/// Where a document is kept.
pub(super) fn document_name(kind: &str, digest: &Digest) -> String {
    format!("{kind}/{}-{}", digest.algorithm(), digest.hex())
}

/// Where a run of a blob is kept.
pub(super) fn range_name(blob: &Digest, range: &Range<u64>) -> String {
    format!("{}/{}-{}", range_directory(blob), range.start, range.end)
}

/// Where the answer to a question by name is kept.
pub(super) fn answer_name(repository: &str, question: &str) -> String {
    let key = format!("{repository}\n{question}");
    format!("names/{}", Digest::sha256(key.as_bytes()).hex())
}

fn range_directory(blob: &Digest) -> String {
    document_name("ranges", blob)
}

fn record_name(reference: &str, manifest: &Digest) -> String {
    let key = format!("{reference}\n{manifest}");
    format!("{RECORDS}/{}", Digest::sha256(key.as_bytes()).hex())
}

fn read_bounded(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "kept file cannot be read");
            return None;
        }
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= limit).then_some(bytes)
}

/// The files of a directory and of the directories in it.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(file = %path.display(), %error, "not swept");
    }
    // A layer's directory goes with its last range; any other is not empty or wanted again soon.
    if let Some(parent) = path.parent()
        && parent.to_str().is_some_and(|it| it.contains("/ranges/"))
    {
        let _ = std::fs::remove_dir(parent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_what_no_living_image_needs() {
        let directory = tempfile::tempdir().unwrap();
        let keep = Keep::open(directory.path().join("k")).unwrap();
        let blob = Digest::sha256(b"blob");
        let shared = range_name(&blob, &(3..7));
        let own = document_name("manifests", &Digest::sha256(b"m"));
        keep.write(&shared, b"abcd");
        keep.write(&own, b"m");
        let record = |reference: &str, files: &[&String]| Record {
            reference: reference.into(),
            manifest: Digest::sha256(b"m"),
            admitted_by: Digest::sha256(b"m"),
            files: files.iter().map(|&f| f.clone()).collect(),
        };
        let (a, b) = (record("a", &[&shared, &own]), record("b", &[&shared]));
        keep.remember(&a);
        keep.remember(&b);
        assert_eq!(keep.record("a", &a.manifest).as_ref(), Some(&a));
        assert_eq!(keep.record("c", &a.manifest), None);
        assert_eq!(keep.ranges(&blob), vec![3..7; 1]);

        keep.sweep(|reference, _| reference == "b");
        assert_eq!(keep.record("a", &a.manifest), None);
        assert!(keep.read(&own, 10).is_none());
        assert_eq!(keep.read(&shared, 10).unwrap(), b"abcd");
        assert!(keep.read(&shared, 3).is_none());

        let opening = keep.busy.try_read().unwrap();
        keep.sweep(|_, _| false);
        assert!(keep.read(&shared, 10).is_some());
        drop(opening);
        keep.sweep(|_, _| false);
        assert!(keep.ranges(&blob).is_empty());
    }
}
