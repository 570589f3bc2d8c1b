//! What the policy file says now, for people who ask why an image was refused.

use std::{path::Path, time::SystemTime};

use super::{MAX_POLICY, Policy, Requirement, parse};
use crate::{error::Result, oci::Digest, resource::Resources};

/// A policy, and the file it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyReport {
    /// The file, or the option that stands in for it.
    pub origin: String,
    /// Of the file's bytes.
    pub digest: Option<Digest>,
    /// When the file was last written.
    pub modified: Option<SystemTime>,
    /// What an image must meet that no scope names, each requirement in one line.
    pub default: Vec<String>,
    /// Scopes with requirements of their own.
    pub scopes: usize,
    /// Why the file does not serve: nothing is admitted.
    pub error: Option<String>,
}

// === impl PolicyReport ===

impl PolicyReport {
    /// Reads the file or resource; it is read anew for every decision, so what it says now counts.
    #[must_use]
    pub fn of_file(file: &Path, resources: &Resources) -> Self {
        let mut report = Self {
            origin: file.display().to_string(),
            modified: file.metadata().and_then(|it| it.modified()).ok(),
            ..Self::default()
        };
        let loaded = resources.read(file, MAX_POLICY).and_then(|bytes| {
            report.digest = Some(Digest::sha256(&bytes));
            parse::policy(&bytes, file, resources)
        });
        report.with(loaded)
    }

    /// A policy that is in no file.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        let report = Self {
            origin: policy.origin.to_string(),
            ..Self::default()
        };
        report.with(Ok(policy.clone()))
    }

    fn with(mut self, loaded: Result<Policy>) -> Self {
        match loaded {
            Ok(policy) => {
                self.default = policy.default.iter().map(Requirement::to_string).collect();
                self.scopes = policy.transports.values().map(|it| it.len()).sum();
            }
            Err(error) => self.error = Some(error.to_string()),
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_counts_or_why_nothing_does() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy.json");
        let text = r#"{"default": [{"type": "reject"}], "transports": {"docker": {
            "a.example": [{"type": "insecureAcceptAnything"}], "b.example": [{"type": "reject"}]
        }}}"#;
        std::fs::write(&file, text).unwrap();
        let report = PolicyReport::of_file(&file, &Resources::default());
        assert_eq!(report.default, ["reject"]);
        assert_eq!((report.scopes, report.error), (2, None));
        assert_eq!(report.digest, Some(Digest::sha256(text.as_bytes())));
        assert!(report.modified.is_some());

        std::fs::write(&file, "{").unwrap();
        let report = PolicyReport::of_file(&file, &Resources::default());
        assert!(report.error.unwrap().contains("policy.json"));
        assert_eq!(report.digest, Some(Digest::sha256(b"{")));
        std::fs::remove_file(&file).unwrap();
        let report = PolicyReport::of_file(&file, &Resources::default());
        assert!(report.error.is_some() && report.digest.is_none());
    }
}
