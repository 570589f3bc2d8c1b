//! What may be done to snapshots, and which error says that it may not: containerd's rules.

use std::time::SystemTime;

use super::{Kind, Record, Write};
use crate::snapshotter::{
    error::{Result, SnapshotError},
    labels::Labels,
    lazy::Evidence,
    storage::Usage,
};

/// What became of a layer that could be lazy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// It is committed, now or since before.
    Committed,
    /// It cannot stand where it should, so it must be unpacked.
    Unfit(String),
}

/// What a commit is given.
#[derive(Clone, Debug)]
pub struct Commit<'a> {
    /// The active snapshot.
    pub key: &'a str,
    /// Its name from now on.
    pub name: &'a str,
    /// A parent for one that was made without; empty if there is none to give.
    pub parent: &'a str,
    /// Its labels from now on: they are not inherited.
    pub labels: Labels,
    /// What it takes.
    pub usage: Usage,
}

// === impl Write ===

impl Write {
    /// Records a new active snapshot or view, and gives its id.
    ///
    /// # Errors
    /// `NotFound` without its parent, `InvalidArgument` if that is not committed, `AlreadyExists`.
    pub fn create(
        &self,
        kind: Kind,
        key: &str,
        parent: &str,
        labels: Labels,
        now: SystemTime,
    ) -> Result<u64> {
        if !parent.is_empty() {
            let below = self.get(parent)?;
            let below = below.ok_or_else(|| SnapshotError::NotFound(format!("parent {parent}")))?;
            if below.kind != Kind::Committed {
                let what = format!("parent {parent} is not committed");
                return Err(SnapshotError::InvalidArgument(what));
            }
        }
        if self.get(key)?.is_some() {
            return Err(SnapshotError::AlreadyExists(format!("snapshot {key}")));
        }
        let id = self.next_id()?;
        let record = Record {
            id,
            kind,
            parent: parent.to_owned(),
            labels: without_empty(labels),
            created: now,
            updated: now,
            usage: Usage::default(),
            evidence: None,
        };
        self.put(key, &record)?;
        if !parent.is_empty() {
            self.link(parent, key)?;
        }
        Ok(id)
    }

    /// Makes an active snapshot a committed one under another name.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken, `NotFound` without the key or the parent,
    /// `FailedPrecondition` if one of them is of the wrong kind, `InvalidArgument` if it has another
    /// parent already.
    pub fn commit_active(&self, commit: Commit<'_>, now: SystemTime) -> Result<()> {
        let Commit { key, name, .. } = commit;
        if self.get(name)?.is_some() {
            return Err(SnapshotError::AlreadyExists(format!("snapshot {name}")));
        }
        let active = self.get(key)?;
        let mut record =
            active.ok_or_else(|| SnapshotError::NotFound(format!("snapshot {key}")))?;
        if record.kind != Kind::Active {
            let what = format!("snapshot {key} is not active");
            return Err(SnapshotError::FailedPrecondition(what));
        }
        if record.parent.is_empty() {
            record.parent = commit.parent.to_owned();
        } else if !commit.parent.is_empty() && commit.parent != record.parent {
            let what = format!("snapshot {key} has parent {}", record.parent);
            return Err(SnapshotError::InvalidArgument(what));
        }
        record.kind = Kind::Committed;
        record.created = now;
        record.updated = now;
        record.labels = without_empty(commit.labels);
        record.usage = commit.usage;
        if !record.parent.is_empty() {
            let parent = &record.parent;
            let below = self.get(parent)?;
            let below = below.ok_or_else(|| SnapshotError::NotFound(format!("parent {parent}")))?;
            if below.kind != Kind::Committed {
                let what = format!("parent {parent} is not committed");
                return Err(SnapshotError::FailedPrecondition(what));
            }
            self.unlink(parent, key)?;
            self.link(parent, name)?;
        }
        self.delete(key)?;
        self.put(name, &record)
    }

    /// Records a lazily mounted layer as committed. It must be the lowest of its image or stand on a
    /// lazy one, because its tree is merged with all that is below it.
    ///
    /// # Errors
    /// `NotFound` without its parent.
    pub fn commit_remote(
        &self,
        parent: &str,
        labels: Labels,
        evidence: Evidence,
        now: SystemTime,
    ) -> Result<Remote> {
        let name = evidence.chain_id.clone();
        if parent.is_empty() {
            if evidence.layer_number != 0 {
                return Ok(Remote::Unfit("the layers below it are not here".to_owned()));
            }
        } else {
            let below = self.get(parent)?;
            let below = below.ok_or_else(|| SnapshotError::NotFound(format!("parent {parent}")))?;
            let Some(below) = below.evidence else {
                return Ok(Remote::Unfit(format!("parent {parent} was unpacked")));
            };
            if below.layer_number.checked_add(1) != Some(evidence.layer_number) {
                return Ok(Remote::Unfit(format!(
                    "parent {parent} is layer {} and this is layer {}",
                    below.layer_number, evidence.layer_number
                )));
            }
        }
        if let Some(there) = self.get(&name)? {
            let same = there.kind == Kind::Committed && there.parent == parent;
            return Ok(match same {
                true => Remote::Committed,
                false => Remote::Unfit(format!("snapshot {name} is there with another parent")),
            });
        }
        let record = Record {
            id: self.next_id()?,
            kind: Kind::Committed,
            parent: parent.to_owned(),
            labels: without_empty(labels),
            created: now,
            updated: now,
            usage: Usage::default(),
            evidence: Some(evidence),
        };
        self.put(&name, &record)?;
        if !parent.is_empty() {
            self.link(parent, &name)?;
        }
        Ok(Remote::Committed)
    }

    /// Removes a snapshot that nothing stands on, and gives its record.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` if it has children.
    pub fn remove(&self, name: &str) -> Result<Record> {
        let record = self.get(name)?;
        let record = record.ok_or_else(|| SnapshotError::NotFound(format!("snapshot {name}")))?;
        if self.has_children(name)? {
            let what = format!("cannot remove snapshot {name}: it has children");
            return Err(SnapshotError::FailedPrecondition(what));
        }
        if !record.parent.is_empty() {
            self.unlink(&record.parent, name)?;
        }
        self.delete(name)?;
        Ok(record)
    }

    /// Changes labels: those that `paths` name (`labels`, `labels.KEY`), or all if there are none.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` if a path is of something else.
    pub fn update(
        &self,
        name: &str,
        labels: Labels,
        paths: &[String],
        now: SystemTime,
    ) -> Result<Record> {
        let record = self.get(name)?;
        let mut record =
            record.ok_or_else(|| SnapshotError::NotFound(format!("snapshot {name}")))?;
        if paths.is_empty() {
            record.labels = labels;
        } else {
            for path in paths {
                if let Some(label) = path.strip_prefix("labels.") {
                    // Without a value it goes, as an empty one does.
                    let value = labels.get(label).cloned().unwrap_or_default();
                    record.labels.insert(label.to_owned(), value);
                } else if path == "labels" {
                    record.labels = labels.clone();
                } else {
                    let what = format!("field {path:?} of snapshot {name} cannot change");
                    return Err(SnapshotError::InvalidArgument(what));
                }
            }
        }
        record.labels = without_empty(record.labels);
        record.updated = now;
        self.put(name, &record)?;
        Ok(record)
    }
}

/// A label with an empty value is not there.
fn without_empty(mut labels: Labels) -> Labels {
    labels.retain(|_, value| !value.is_empty());
    labels
}
