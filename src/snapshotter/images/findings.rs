//! What confirmation found, layer by layer; survives restarts.
//!
//! A finding is about a blob, the DiffID that a configuration claims for it, and the index that a
//! manifest names for it, so it holds for every image that has the three.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::keep::read_bounded;
use crate::{
    error::{Error, Result},
    oci::Digest,
};

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Subject(String);

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Finding {
    /// Blob, DiffID and index belong together.
    Confirmed,
    /// They do not, and how.
    Poisoned(String),
}

/// All findings, in a file.
#[derive(Debug)]
pub(super) struct Findings {
    file: PathBuf,
    all: Mutex<BTreeMap<String, Finding>>,
}

/// Largest file that is read: 300 bytes for each of two hundred thousand layers.
const MAX_FILE: u64 = 64 << 20;

// === impl Subject ===

impl Subject {
    pub(super) fn new(layer: &Digest, diff_id: &Digest, index: Option<&Digest>) -> Self {
        let index = index.map_or_else(|| "none".to_owned(), ToString::to_string);
        Self(format!("{layer} {diff_id} {index}"))
    }
}

// === impl Findings ===

impl Findings {
    /// Reads the file. One that cannot be understood says nothing: layers are confirmed again.
    pub(super) fn open(file: PathBuf) -> Self {
        let all = match read_bounded(&file, MAX_FILE).map(|text| serde_json::from_slice(&text)) {
            Some(Ok(all)) => all,
            Some(Err(error)) => {
                tracing::warn!(file = %file.display(), %error, "findings are lost; confirming again");
                BTreeMap::new()
            }
            None => BTreeMap::new(),
        };
        let all = Mutex::new(all);
        Self { file, all }
    }

    pub(super) fn of(&self, subject: &Subject) -> Option<Finding> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&subject.0).cloned()
    }

    /// Why the layer is poisoned, if it is.
    pub(super) fn poisoned(&self, subject: &Subject) -> Option<String> {
        match self.of(subject)? {
            Finding::Poisoned(why) => Some(why),
            Finding::Confirmed => None,
        }
    }

    pub(super) fn is_confirmed(&self, subject: &Subject) -> bool {
        self.of(subject) == Some(Finding::Confirmed)
    }

    /// Adds a finding; it holds even if the file cannot be written.
    ///
    /// # Errors
    /// `Io` if it cannot.
    pub(super) fn add(&self, subject: &Subject, finding: Finding) -> Result<()> {
        // Written under the lock, so that an older state never replaces a newer one.
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(subject.0.clone(), finding);
        let text =
            serde_json::to_vec(&*all).map_err(|e| Error::internal("findings").with_source(e))?;
        let temporary = self.file.with_extension("new");
        std::fs::write(&temporary, text)
            .and_then(|()| std::fs::rename(&temporary, &self.file))
            .map_err(|e| Error::io(format!("findings {}", self.file.display()), e))
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
        std::fs::write(&file, "{").unwrap();
        assert_eq!(Findings::open(file).of(&good), None);
    }
}
