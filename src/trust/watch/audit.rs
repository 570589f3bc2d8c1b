//! The audit log: one line of JSON for each decision, never changed again.
//!
//! Lines have digests and names of keys, never a key, a password or a token. A grant is given only
//! after its line is on disk.

use std::{
    fs::OpenOptions,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Grant, Request};
use crate::error::{Error, Kind, Result};

/// A file that lines are appended to. It is opened for each, so that it may be moved away
/// (logrotate) without telling anybody.
#[derive(Debug)]
pub struct AuditLog {
    file: PathBuf,
    /// A line is written whole before the next begins.
    writing: Mutex<()>,
}

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    decision: &'static str,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Granted(&'a Grant),
    Not {
        reference: String,
        policy: String,
        kind: &'static str,
        error: String,
    },
}

/// Longest error in a line; it tells what became of each signature, which others chose.
const MAX_ERROR: usize = 4 << 10;

// === impl AuditLog ===

impl AuditLog {
    /// Appends to `file`, which is made if it is not there.
    ///
    /// # Errors
    /// `Io` if it cannot be opened.
    pub fn open(file: &Path) -> Result<Self> {
        let log = Self {
            file: file.to_owned(),
            writing: Mutex::new(()),
        };
        log.append().map(drop)?;
        Ok(log)
    }

    fn append(&self) -> Result<std::fs::File> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        options.open(&self.file).map_err(|e| self.failed(e))
    }

    /// Appends a line and waits until it is on disk.
    pub(super) fn write(&self, line: &[u8]) -> Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = self.append()?;
        file.write_all(line).map_err(|e| self.failed(e))?;
        file.sync_data().map_err(|e| self.failed(e))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io(format!("audit log {}", self.file.display()), error)
    }
}

/// The line for a decision, with its end.
pub(super) fn line(request: &Request<'_>, decided: &Result<Grant>) -> Result<Vec<u8>> {
    let (decision, what) = match decided {
        Ok(grant) => ("granted", What::Granted(grant)),
        Err(error) => {
            let decision = match error.kind() {
                Kind::Denied => "refused",
                _ => "failed",
            };
            let what = What::Not {
                reference: request.reference.to_string(),
                policy: request.policy.origin().to_string(),
                kind: error.kind().as_str(),
                error: shortened(error.to_string()),
            };
            (decision, what)
        }
    };
    let time = OffsetDateTime::from(SystemTime::now()).format(&Rfc3339);
    let line = Line {
        time: time.map_err(|e| Error::internal("time of an audit line").with_source(e))?,
        decision,
        what,
    };
    let text = serde_json::to_vec(&line);
    let mut text = text.map_err(|e| Error::internal("audit line").with_source(e))?;
    text.push(b'\n');
    Ok(text)
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_ERROR {
        let end = (0..=MAX_ERROR).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or_default());
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_errors_are_cut_between_characters() {
        assert_eq!(shortened("short".into()), "short");
        let long = "\u{e9}".repeat(MAX_ERROR);
        let cut = shortened(long);
        assert!(cut.len() <= MAX_ERROR + 3 && cut.ends_with("\u{e9}..."));
    }

    #[test]
    fn a_log_that_was_moved_away_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("audit.jsonl");
        let log = AuditLog::open(&file).unwrap();
        log.write(b"one\n").unwrap();
        log.write(b"two\n").unwrap();
        let moved = directory.path().join("audit.jsonl.1");
        std::fs::rename(&file, &moved).unwrap();
        log.write(b"three\n").unwrap();
        assert_eq!(std::fs::read(&moved).unwrap(), b"one\ntwo\n");
        assert_eq!(std::fs::read(&file).unwrap(), b"three\n");
        let error = AuditLog::open(&directory.path().join("no/such")).unwrap_err();
        assert!(error.to_string().contains("audit log"), "{error}");
    }
}
