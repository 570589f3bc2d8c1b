//! What the database keeps of one snapshot.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::snapshotter::{filter::Fields, labels::Labels, lazy::Evidence, storage::Usage};

/// What a snapshot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read-only, of a committed parent.
    View,
    /// Being written.
    Active,
    /// Finished; others may stand on it.
    Committed,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Names its directory; never given out twice.
    pub id: u64,
    /// What it is for.
    pub kind: Kind,
    /// Name of the committed snapshot below; empty if there is none.
    pub parent: String,
    /// containerd's labels.
    pub labels: Labels,
    /// When it was made, or committed.
    pub created: SystemTime,
    /// When its labels last changed.
    pub updated: SystemTime,
    /// Measured when it was committed.
    pub usage: Usage,
    /// What vouches for a lazily mounted one, which has no directory.
    pub evidence: Option<Evidence>,
}

/// A record with its key or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Key of an active snapshot or view, name of a committed one.
    pub name: String,
    /// The record.
    pub record: Record,
}

// === impl Kind ===

impl Kind {
    /// As filters and people write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::View => "view",
            Kind::Active => "active",
            Kind::Committed => "committed",
        }
    }
}

// === impl Info ===

impl Fields for Info {
    fn field(&self, path: &[String]) -> Option<String> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "kind" => Some(self.record.kind.as_str().to_owned()),
            "name" => Some(self.name.clone()),
            "parent" => Some(self.record.parent.clone()),
            "labels" => self.record.labels.get(&rest.join(".")).cloned(),
            _ => None,
        }
    }
}
