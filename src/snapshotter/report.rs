//! What snapshots there are, as plain data for those who ask.

use std::collections::HashMap;

use super::{
    Snapshotter,
    error::Result,
    metadata::{Info, Kind},
    operations::{MethodCounts, Operations},
};
use crate::oci::Digest;

/// How many snapshots there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotCounts {
    /// Committed ones.
    pub committed: usize,
    /// Of these, layers that are mounted lazily.
    pub lazy: usize,
    /// Active ones: containers, and layers that are being unpacked.
    pub active: usize,
    /// Views.
    pub views: usize,
    /// Who uses the tree of a manifest's layers up to a number.
    pub uses: HashMap<(Digest, u16), Uses>,
}

/// Who uses one tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Committed snapshots that are it.
    pub snapshots: usize,
    /// Active snapshots and views that stand on it, with whatever was unpacked in between.
    pub containers: usize,
}

// === impl Snapshotter ===

impl Snapshotter {
    /// Counts snapshots.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io).
    pub async fn count(&self) -> Result<SnapshotCounts> {
        self.blocking(|inner| Ok(counts(&inner.metadata.all()?)))
            .await
    }

    /// Whether the database can be read.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io).
    pub async fn check(&self) -> Result<()> {
        self.blocking(|inner| inner.metadata.check()).await
    }

    /// What containerd asked for so far.
    #[must_use]
    pub fn operation_counts(&self) -> Vec<MethodCounts> {
        self.operations().counts()
    }

    pub(super) fn operations(&self) -> &Operations {
        &self.0.operations
    }
}

fn counts(all: &[Info]) -> SnapshotCounts {
    let by_name: HashMap<_, _> = all
        .iter()
        .map(|it| (it.name.as_str(), &it.record))
        .collect();
    let mut counts = SnapshotCounts::default();
    for info in all {
        let own = info.record.evidence.as_ref();
        match info.record.kind {
            Kind::Committed => counts.committed += 1,
            Kind::Active => counts.active += 1,
            Kind::View => counts.views += 1,
        }
        if let Some(evidence) = own {
            counts.lazy += 1;
            let tree = (evidence.manifest.clone(), evidence.layer_number);
            counts.uses.entry(tree).or_default().snapshots += 1;
            continue;
        }
        if info.record.kind == Kind::Committed {
            continue;
        }
        // Chains are as long as images have layers; what is longer is no chain.
        let mut below = info.record.parent.as_str();
        for _ in 0..by_name.len() {
            let Some(record) = by_name.get(below) else {
                break;
            };
            if let Some(evidence) = &record.evidence {
                let tree = (evidence.manifest.clone(), evidence.layer_number);
                counts.uses.entry(tree).or_default().containers += 1;
                break;
            }
            below = &record.parent;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::snapshotter::{Evidence, Labels, Usage, metadata::Record};

    fn info(name: &str, kind: Kind, parent: &str, layer: Option<u16>) -> Info {
        let digest = Digest::sha256(b"m");
        let evidence = layer.map(|layer_number| Evidence {
            reference: "a/b".into(),
            manifest: digest.clone(),
            layer: digest.clone(),
            layer_number,
            diff_id: digest.clone(),
            index: None,
            class: String::new(),
            chain_id: name.into(),
        });
        let record = Record {
            id: 1,
            kind,
            parent: parent.into(),
            labels: Labels::new(),
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            usage: Usage::default(),
            evidence,
        };
        Info {
            name: name.into(),
            record,
        }
    }

    #[test]
    fn who_stands_on_which_tree() {
        use Kind::{Active, Committed, View};
        let found = counts(&[
            info("l0", Committed, "", Some(0)),
            info("l1", Committed, "l0", Some(1)),
            info("u2", Committed, "l1", None),
            info("c1", Active, "u2", None),
            info("c2", Active, "l1", None),
            info("v", View, "l0", None),
            info("plain", Committed, "", None),
            info("c3", Active, "plain", None),
            info("c4", Active, "gone", None),
        ]);
        assert_eq!(
            (found.committed, found.lazy, found.active, found.views),
            (4, 2, 4, 1)
        );
        let uses = |layer: u16| found.uses[&(Digest::sha256(b"m"), layer)];
        let (low, high) = (uses(0), uses(1));
        assert_eq!((low.snapshots, low.containers), (1, 1));
        assert_eq!((high.snapshots, high.containers), (1, 2));
    }
}
