//! Which digests a tag has had, so that it cannot be sent back to an old image: a registry that is
//! not trusted could otherwise offer one with known holes, signed as ever.
//!
//! A file (under the daemon's root, or where a command is told), written whole and renamed into place
//! before the grant is given. Several processes may share it: each holds a lock beside it from reading
//! what it says to having written what it says next.

use std::{
    collections::HashMap,
    fs::{File as OpenFile, Metadata, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::Grant;
use crate::{
    error::{Error, Kind, Result},
    oci::{Digest, Reference},
};

/// The tags that have been admitted and what they were, oldest first.
#[derive(Debug)]
pub struct TagHistory {
    file: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    tags: HashMap<String, Tag>,
    /// Counts admissions, to tell which tag has not been used for longest.
    clock: u64,
    /// The file that says this.
    stamp: Option<Stamp>,
}

/// Tells one version of the file from another: each is a file of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tag {
    name: String,
    used: u64,
    /// What it was, one after the other; each an image by its manifests and its index.
    seen: Vec<Vec<Digest>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    tags: Vec<Tag>,
}

/// Tags that are remembered; the ones that were used last.
const MAX_TAGS: usize = 4096;
/// Images that are remembered of one tag, and digests of one image.
const MAX_SEEN: usize = 16;
const MAX_DIGESTS: usize = 4;
/// Larger than any file that is written: names have at most 400 bytes, digests 135.
const MAX_FILE: u64 = 64 << 20;
const VERSION: u32 = 1;

// === impl TagHistory ===

impl TagHistory {
    /// Reads what is in `file`; it need not be there.
    ///
    /// # Errors
    /// `Io` if it cannot be read; `Invalid` if it is malformed.
    pub fn open(file: &Path) -> Result<Self> {
        let history = Self {
            file: file.to_owned(),
            known: Mutex::default(),
        };
        history.refresh(&mut history.known())?;
        Ok(history)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file if it is another than the one that was read or written last. One that is gone
    /// takes nothing away: it is written again.
    fn refresh(&self, known: &mut Known) -> Result<()> {
        let name = || format!("tag history {}", self.file.display());
        let open = match OpenFile::open(&self.file) {
            Ok(open) => open,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io(name(), error)),
        };
        let stamp = open.metadata().map(|it| Stamp::of(&it));
        let stamp = stamp.map_err(|e| Error::io(name(), e))?;
        if known.stamp == Some(stamp) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let read = open.take(MAX_FILE).read_to_end(&mut bytes);
        read.map_err(|e| Error::io(name(), e))?;
        let malformed = |why: String| {
            Error::invalid(format!("{}: {why}", name()))
                .with_hint("what tags have been is lost; remove the file to begin anew")
        };
        let parsed: File = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
        if parsed.version != VERSION {
            return Err(malformed(format!("version {}", parsed.version)));
        }
        let used = parsed.tags.iter().map(|it| it.used).max().unwrap_or(0);
        *known = Known {
            clock: known.clock.max(used),
            tags: parsed
                .tags
                .into_iter()
                .map(|it| (it.name.clone(), it))
                .collect(),
            stamp: Some(stamp),
        };
        Ok(())
    }

    /// Keeps other processes from the file as long as it is held.
    fn lock(&self) -> Result<OpenFile> {
        let mut name = self.file.as_os_str().to_owned();
        name.push(".lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(0o600);
        let locked = options.open(&name).and_then(|it| it.lock().map(|()| it));
        locked.map_err(|e| Error::io(format!("tag history {}", name.display()), e))
    }

    /// Holds an admitted image against what its tag has been, and remembers it. What is asked for by
    /// digest is no concern of a tag.
    ///
    /// # Errors
    /// `Denied` if the tag was this image before it was another; `Io` if it cannot be written down;
    /// `Invalid` if the file has become malformed.
    pub(super) fn take(&self, grant: &Grant) -> Result<()> {
        let Reference::Registry(reference) = grant.reference() else {
            return Ok(());
        };
        if reference.digest().is_some() {
            return Ok(());
        }
        let name = reference.to_string();
        let image: Vec<Digest> = [Some(grant.manifest_digest()), grant.index_digest()]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        let mut known = self.known();
        let _lock = self.lock()?;
        self.refresh(&mut known)?;
        let before = known.tags.get(&name).cloned();
        let mut tag = before.clone().unwrap_or_else(|| Tag {
            name: name.clone(),
            ..Tag::default()
        });
        known.clock += 1;
        tag.used = known.clock;
        let changed = tag.add(&image).map_err(|since| {
            Error::new(
                Kind::Denied,
                format!(
                    "{name}: the tag has gone back to {}; it has been {since} since",
                    grant.resolved_digest()
                ),
            )
            .with_hint(format!(
                "if that is meant, ask for it by digest, or take the tag out of {}",
                self.file.display()
            ))
        })?;
        known.tags.insert(name.clone(), tag);
        if changed && let Err(error) = self.write(&mut known) {
            // What is not on disk has not been seen.
            match before {
                Some(before) => known.tags.insert(name, before),
                None => known.tags.remove(&name),
            };
            return Err(error);
        }
        Ok(())
    }

    fn write(&self, known: &mut Known) -> Result<()> {
        let failed =
            |e: std::io::Error| Error::io(format!("tag history {}", self.file.display()), e);
        let mut tags: Vec<&Tag> = known.tags.values().collect();
        tags.sort_by_key(|it| std::cmp::Reverse(it.used));
        let forgotten: Vec<String> = tags
            .iter()
            .skip(MAX_TAGS)
            .map(|it| it.name.clone())
            .collect();
        let file = File {
            version: VERSION,
            tags: tags.into_iter().take(MAX_TAGS).cloned().collect(),
        };
        let text = serde_json::to_vec(&file);
        let text = text.map_err(|e| Error::internal("tag history").with_source(e))?;
        let new = self.file.with_extension("new");
        let mut open = OpenFile::create(&new).map_err(failed)?;
        open.write_all(&text).map_err(failed)?;
        open.sync_all().map_err(failed)?;
        std::fs::rename(&new, &self.file).map_err(failed)?;
        // Renaming changes the file's time of change.
        let stamp = open.metadata().map_err(failed)?;
        known.stamp = Some(Stamp::of(&stamp));
        let directory = self
            .file
            .parent()
            .map(|it| match it.as_os_str().is_empty() {
                true => Path::new("."),
                false => it,
            });
        if let Some(directory) = directory {
            OpenFile::open(directory)
                .and_then(|it| it.sync_all())
                .map_err(failed)?;
        }
        for name in forgotten {
            known.tags.remove(&name);
        }
        Ok(())
    }
}

// === impl Stamp ===

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            inode: file.ino(),
            changed: (file.ctime(), file.ctime_nsec()),
            size: file.size(),
        }
    }
}

// === impl Tag ===

impl Tag {
    /// Takes what the tag is now; whether that says something new.
    ///
    /// # Errors
    /// What it has been since it was this.
    fn add(&mut self, image: &[Digest]) -> Result<bool, Digest> {
        let is = |seen: &Vec<Digest>| seen.iter().any(|it| image.contains(it));
        let Some(last) = self.seen.last_mut() else {
            self.seen.push(image.to_vec());
            return Ok(true);
        };
        if is(last) {
            // By another way: its index, or another platform's manifest.
            let count = last.len();
            for digest in image {
                if !last.contains(digest) && last.len() < MAX_DIGESTS {
                    last.push(digest.clone());
                }
            }
            return Ok(last.len() > count);
        }
        if let Some(now) = last.first().cloned()
            && self.seen.iter().any(is)
        {
            return Err(now);
        }
        self.seen.push(image.to_vec());
        if self.seen.len() > MAX_SEEN {
            self.seen.remove(0);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn digest(n: usize) -> Digest {
        Digest::sha256(n.to_string().as_bytes())
    }

    #[test]
    fn a_tag_goes_on_and_not_back() {
        let mut tag = Tag::default();
        let [one, two, three, index] = [1, 2, 3, 4].map(digest);
        assert_eq!(tag.add(from_ref(&one)), Ok(true));
        assert_eq!(tag.add(from_ref(&one)), Ok(false));
        // The same image by its index, and then by that alone, for another platform.
        assert_eq!(tag.add(&[one.clone(), index.clone()]), Ok(true));
        assert_eq!(tag.add(&[three.clone(), index.clone()]), Ok(true));
        assert_eq!(tag.add(from_ref(&two)), Ok(true));
        for old in [&one, &index, &three] {
            assert_eq!(tag.add(from_ref(old)), Err(two.clone()));
        }
        assert_eq!(tag.add(from_ref(&two)), Ok(false));
        assert_eq!(tag.seen.len(), 2);
    }

    #[test]
    fn histories_are_bounded() {
        let mut tag = Tag::default();
        for n in 0..MAX_SEEN + 5 {
            assert_eq!(tag.add(&[digest(n)]), Ok(true));
        }
        assert_eq!(tag.seen.len(), MAX_SEEN);
        for n in 100..120 {
            tag.add(&[digest(MAX_SEEN + 4), digest(n)]).unwrap();
        }
        assert_eq!(tag.seen.last().unwrap().len(), MAX_DIGESTS);

        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tags.json");
        let history = TagHistory::open(&file).unwrap();
        let mut known = history.known.lock().unwrap();
        for n in 0..MAX_TAGS + 3 {
            let (name, used) = (n.to_string(), n as u64);
            let tag = Tag {
                name: name.clone(),
                used,
                seen: vec![vec![digest(n)]],
            };
            known.tags.insert(name, tag);
        }
        history.write(&mut known).unwrap();
        assert_eq!(known.tags.len(), MAX_TAGS);
        assert!(!known.tags.contains_key("2") && known.tags.contains_key("3"));
        let again = TagHistory::open(&file).unwrap();
        let again = again.known.lock().unwrap();
        assert_eq!(again.tags, known.tags);
        assert_eq!(again.clock, (MAX_TAGS + 2) as u64);
    }

    #[test]
    fn malformed_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tags.json");
        for text in [
            "",
            "{",
            r#"{"version":2,"tags":[]}"#,
            r#"{"version":1,"tags":[],"x":1}"#,
        ] {
            std::fs::write(&file, text).unwrap();
            let error = TagHistory::open(&file).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{text}");
            assert!(error.to_string().contains("tags.json"), "{error}");
        }
    }
}
