//! What confirmation found, layer by layer; survives restarts.
//!
//! A finding is about a blob, the DiffID that a configuration claims for it, and the index that a
//! manifest names for it, so it holds for every image that has the three.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    oci::Digest,
};

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Subject(String);

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Finding {
    /// Blob, DiffID and index belong together.
    Confirmed,
    /// They do not, and how.
    Poisoned(String),
}

/// All findings, in a file.
#[derive(Debug)]
pub struct Findings {
    file: PathBuf,
    all: Mutex<BTreeMap<String, Finding>>,
}

/// Largest file that is read: 300 bytes for each of two hundred thousand layers.
const MAX_FILE: u64 = 64 << 20;

// === impl Subject ===

impl Subject {
    pub(crate) fn new(layer: &Digest, diff_id: &Digest, index: Option<&Digest>) -> Self {
        let index = index.map_or_else(|| "none".to_owned(), ToString::to_string);
        Self(format!("{layer} {diff_id} {index}"))
    }
}

// === impl Findings ===

impl Findings {
    /// Reads the file. One that cannot be understood says nothing: layers are confirmed again.
    #[must_use]
    pub fn open(file: PathBuf) -> Self {
        let all = Mutex::new(read(&file));
        Self { file, all }
    }

    pub(crate) fn of(&self, subject: &Subject) -> Option<Finding> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&subject.0).cloned()
    }

    /// Why the layer is poisoned, if it is.
    pub(crate) fn poisoned(&self, subject: &Subject) -> Option<String> {
        match self.of(subject)? {
            Finding::Poisoned(why) => Some(why),
            Finding::Confirmed => None,
        }
    }

    pub(crate) fn is_confirmed(&self, subject: &Subject) -> bool {
        self.of(subject) == Some(Finding::Confirmed)
    }

    /// Adds a finding; it holds even if the file cannot be written.
    ///
    /// # Errors
    /// `Io` if it cannot.
    pub(crate) fn add(&self, subject: &Subject, finding: Finding) -> Result<()> {
        // Written under the lock, so that an older state never replaces a newer one.
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(subject.0.clone(), finding);
        // Another process may have found something meanwhile.
        for (subject, finding) in read(&self.file) {
            all.entry(subject).or_insert(finding);
        }
        let text =
            serde_json::to_vec(&*all).map_err(|e| Error::internal("findings").with_source(e))?;
        let temporary = self
            .file
            .with_extension(format!("{}.new", std::process::id()));
        std::fs::write(&temporary, text)
            .and_then(|()| std::fs::rename(&temporary, &self.file))
            .map_err(|e| Error::io(format!("findings {}", self.file.display()), e))
    }
}

/// What the file has; nothing if it is not there or cannot be understood, which is logged.
fn read(file: &Path) -> BTreeMap<String, Finding> {
    let mut text = Vec::new();
    let read = std::fs::File::open(file)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut text))
        .and_then(|_| serde_json::from_slice(&text).map_err(Into::into));
    match read {
        Ok(all) => all,
        Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "findings are lost; confirming again");
            BTreeMap::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_survive_and_garbage_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("findings.json");
        let digest = |text: &str| Digest::sha256(text.as_bytes());
        let good = Subject::new(&digest("a"), &digest("b"), None);
        let bad = Subject::new(&digest("a"), &digest("b"), Some(&digest("c")));
        assert_ne!(good, bad);
        let findings = Findings::open(file.clone());
        findings.add(&good, Finding::Confirmed).unwrap();
        findings
            .add(&bad, Finding::Poisoned("other".into()))
            .unwrap();
        let again = Findings::open(file.clone());
        assert!(again.is_confirmed(&good) && !again.is_confirmed(&bad));
        assert_eq!(again.poisoned(&bad).as_deref(), Some("other"));
        assert_eq!(again.poisoned(&good), None);
        let meanwhile = Subject::new(&digest("d"), &digest("b"), None);
        findings.add(&meanwhile, Finding::Confirmed).unwrap();
        again.add(&good, Finding::Confirmed).unwrap();
        assert!(again.is_confirmed(&meanwhile));
        std::fs::write(&file, "{").unwrap();
        assert_eq!(Findings::open(file).of(&good), None);
    }
}
