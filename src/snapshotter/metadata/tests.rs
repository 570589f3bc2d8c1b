//! containerd's rules, one table an operation.

use std::time::{Duration, SystemTime};

use super::*;
use crate::{
    oci::Digest,
    snapshotter::{labels::Labels, storage::Usage},
};

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
    pairs.iter().map(owned).collect()
}

fn evidence(layer_number: u16, chain_id: &str) -> Evidence {
    Evidence {
        reference: "registry/app:1".to_owned(),
        manifest: Digest::sha256(b"manifest"),
        layer: Digest::sha256(b"layer"),
        layer_number,
        diff_id: Digest::sha256(b"diff"),
        index: Some(Digest::sha256(b"index")),
        class: "plain+signed".to_owned(),
        chain_id: chain_id.to_owned(),
    }
}

fn commit<'a>(key: &'a str, name: &'a str, parent: &'a str) -> Commit<'a> {
    Commit {
        key,
        name,
        parent,
        labels: Labels::new(),
        usage: Usage {
            inodes: 1,
            bytes: 2,
        },
    }
}

/// A database with `base` (committed), `view` and `active` on it, `alone` (active, no parent).
struct Fixture {
    _directory: tempfile::TempDir,
    metadata: Metadata,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let metadata = Metadata::open(&directory.path().join("db")).unwrap();
        let fixture = Self {
            _directory: directory,
            metadata,
        };
        fixture.done(|write| {
            write.create(Kind::Active, "first", "", Labels::new(), at(1))?;
            write.commit_active(commit("first", "base", ""), at(2))?;
            write.create(Kind::View, "view", "base", Labels::new(), at(3))?;
            write.create(Kind::Active, "active", "base", Labels::new(), at(4))?;
            write.create(Kind::Active, "alone", "", Labels::new(), at(5))?;
            Ok(())
        });
        fixture
    }

    /// Runs and commits.
    fn done<T>(&self, work: impl FnOnce(&Write) -> Result<T>) -> T {
        let write = self.metadata.write().unwrap();
        let value = work(&write).unwrap();
        write.commit().unwrap();
        assert_eq!(
            self.metadata.contradictions().unwrap(),
            Vec::<String>::new()
        );
        value
    }

    /// Runs what must fail and change nothing, and says how.
    fn refused<T: std::fmt::Debug>(&self, work: impl FnOnce(&Write) -> Result<T>) -> &'static str {
        let write = self.metadata.write().unwrap();
        let error = work(&write).unwrap_err();
        drop(write);
        match error {
            SnapshotError::AlreadyExists(_) => "exists",
            SnapshotError::NotFound(_) => "not found",
            SnapshotError::FailedPrecondition(_) => "precondition",
            SnapshotError::InvalidArgument(_) => "invalid",
            SnapshotError::Other(_) => "other",
        }
    }
}

#[test]
fn what_cannot_be_created() {
    let fixture = Fixture::new();
    let before = fixture.metadata.all().unwrap();
    for (key, parent, wanted) in [
        ("new", "missing", "not found"),
        ("new", "active", "invalid"),
        ("new", "view", "invalid"),
        ("active", "base", "exists"),
        ("base", "base", "exists"),
        // The parent is looked at first, as containerd does.
        ("active", "missing", "not found"),
    ] {
        for kind in [Kind::Active, Kind::View] {
            let how = fixture.refused(|it| it.create(kind, key, parent, Labels::new(), at(9)));
            assert_eq!(how, wanted, "{key} on {parent}");
        }
    }
    assert_eq!(fixture.metadata.all().unwrap(), before);
}

#[test]
fn what_cannot_be_committed() {
    let fixture = Fixture::new();
    for (key, name, parent, wanted) in [
        ("missing", "new", "", "not found"),
        ("view", "new", "", "precondition"),
        ("base", "new", "", "precondition"),
        ("active", "base", "", "exists"),
        ("active", "active", "", "exists"),
        ("active", "new", "other", "invalid"),
        ("alone", "new", "missing", "not found"),
        ("alone", "new", "active", "precondition"),
    ] {
        let how = fixture.refused(|it| it.commit_active(commit(key, name, parent), at(9)));
        assert_eq!(how, wanted, "{key} as {name} on {parent:?}");
    }
}

#[test]
fn a_commit_renames_and_keeps_the_id() {
    let fixture = Fixture::new();
    let id = fixture.metadata.get("active").unwrap().id;
    fixture.done(|it| {
        let mut commit = commit("active", "top", "base");
        commit.labels = labels(&[("a", "b"), ("empty", "")]);
        it.commit_active(commit, at(7))
    });
    assert!(fixture.metadata.get("active").is_err());
    let record = fixture.metadata.get("top").unwrap();
    assert_eq!((record.id, record.kind), (id, Kind::Committed));
    assert_eq!((record.created, record.updated), (at(7), at(7)));
    assert_eq!(record.labels, labels(&[("a", "b")]));
    assert_eq!(record.usage.bytes, 2);
    let chain = fixture.metadata.chain("top").unwrap();
    assert_eq!(chain.len(), 2);

    // One that was made without a parent may get one now.
    fixture.done(|it| it.commit_active(commit("alone", "rebased", "top"), at(8)));
    assert_eq!(fixture.metadata.chain("rebased").unwrap().len(), 3);
    assert_eq!(fixture.refused(|it| it.remove("top")), "precondition");
}

#[test]
fn removal_from_the_top_down() {
    let fixture = Fixture::new();
    assert_eq!(fixture.refused(|it| it.remove("missing")), "not found");
    assert_eq!(fixture.refused(|it| it.remove("base")), "precondition");
    fixture.done(|it| it.remove("view"));
    assert_eq!(fixture.refused(|it| it.remove("base")), "precondition");
    fixture.done(|it| it.remove("active"));
    fixture.done(|it| it.remove("base"));
    // Ids are not given out twice.
    let alone = fixture.metadata.get("alone").unwrap().id;
    let next = fixture.done(|it| it.create(Kind::Active, "n", "", Labels::new(), at(9)));
    assert!(next > alone);
}

#[test]
fn labels_change_as_the_mask_says() {
    let start = [("a", "1"), ("b", "2")];
    for (given, paths, wanted) in [
        (&[("c", "3")][..], &[][..], &[("c", "3")][..]),
        (&[("c", "3")], &["labels"], &[("c", "3")]),
        (
            &[("c", "3"), ("d", "4")],
            &["labels.c"],
            &[("a", "1"), ("b", "2"), ("c", "3")],
        ),
        (&[("a", "9")], &["labels.a"], &[("a", "9"), ("b", "2")]),
        (&[], &["labels.a"], &[("b", "2")]),
        (&[("a", "")], &["labels.a"], &[("b", "2")]),
        (&[], &[], &[]),
        (
            &[("x.y/z", "1")],
            &["labels.x.y/z"],
            &[("a", "1"), ("b", "2"), ("x.y/z", "1")],
        ),
    ] {
        let fixture = Fixture::new();
        fixture.done(|it| it.update("base", labels(&start), &[], at(5)));
        let paths: Vec<_> = paths.iter().map(|it| (*it).to_owned()).collect();
        let record = fixture.done(|it| it.update("base", labels(given), &paths, at(6)));
        assert_eq!(record.labels, labels(wanted), "{given:?} {paths:?}");
        assert_eq!((record.created, record.updated), (at(2), at(6)));
        assert_eq!(fixture.metadata.get("base").unwrap(), record);
    }
    let fixture = Fixture::new();
    for path in ["kind", "parent", "name", "labelsx"] {
        let paths = [path.to_owned()];
        let how = fixture.refused(|it| it.update("base", Labels::new(), &paths, at(6)));
        assert_eq!(how, "invalid", "{path}");
    }
    let how = fixture.refused(|it| it.update("missing", Labels::new(), &[], at(6)));
    assert_eq!(how, "not found");
}

#[test]
fn lazy_layers_stand_on_lazy_layers_only() {
    let fixture = Fixture::new();
    let remote = |parent: &str, evidence: Evidence| {
        fixture.done(|it| it.commit_remote(parent, Labels::new(), evidence, at(9)))
    };
    assert_eq!(remote("", evidence(0, "l0")), Remote::Committed);
    assert_eq!(remote("l0", evidence(1, "l1")), Remote::Committed);
    // Asked for once more, by another image or namespace.
    assert_eq!(remote("l0", evidence(1, "l1")), Remote::Committed);
    assert_eq!(fixture.metadata.chain("l1").unwrap().len(), 2);
    for (parent, evidence) in [
        ("", evidence(1, "x")),
        ("base", evidence(1, "x")),
        ("l0", evidence(2, "x")),
        ("l1", evidence(1, "l1")),
        ("", evidence(0, "base-of-others")),
    ] {
        if evidence.chain_id == "base-of-others" {
            fixture
                .done(|it| it.create(Kind::Active, "base-of-others", "l0", Labels::new(), at(9)));
        }
        let unfit = remote(parent, evidence.clone());
        assert!(
            matches!(unfit, Remote::Unfit(_)),
            "{parent} {evidence:?}: {unfit:?}"
        );
        assert!(fixture.metadata.get("x").is_err());
    }
    let how = fixture.refused(|it| it.commit_remote("no", Labels::new(), evidence(1, "x"), at(9)));
    assert_eq!(how, "not found");
    assert_eq!(fixture.metadata.evidence().unwrap().len(), 2);
    assert_eq!(fixture.refused(|it| it.remove("l0")), "precondition");
}

#[test]
fn what_was_committed_is_there_after_reopening_and_the_rest_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    {
        let metadata = Metadata::open(&path).unwrap();
        let busy = Metadata::open(&path).unwrap_err();
        assert_eq!(busy.kind(), crate::Kind::Busy);
        let write = metadata.write().unwrap();
        write
            .create(Kind::Active, "kept", "", labels(&[("a", "b")]), at(1))
            .unwrap();
        write.commit().unwrap();
        let write = metadata.write().unwrap();
        write
            .create(Kind::Active, "lost", "", Labels::new(), at(1))
            .unwrap();
    }
    let metadata = Metadata::open(&path).unwrap();
    assert_eq!(metadata.get("kept").unwrap().labels, labels(&[("a", "b")]));
    assert!(metadata.get("lost").is_err());
}
