//! The tree-compare tool finds a difference of every kind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    fs,
    io::{Seek, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

mod support;

use support::tree_compare::{compare, compare_except};

fn tree(root: &Path) {
    fs::create_dir_all(root.join("d/e")).unwrap();
    fs::write(root.join("d/f"), vec![b'x'; 3 << 20]).unwrap();
    fs::hard_link(root.join("d/f"), root.join("g")).unwrap();
    fs::write(root.join("h"), "h").unwrap();
    fs::write(root.join("i"), "h").unwrap();
    symlink("target", root.join("l")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("p"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    for path in ["d/e", "d/f", "d", "h", "i", "l", "p", ""] {
        touch(&root.join(path), 5);
    }
}

fn touch(path: &Path, nanos: i64) {
    let time = rustix::fs::Timespec {
        tv_sec: 1_000_000,
        tv_nsec: nanos,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).unwrap();
}

/// Two equal trees, of which one is changed; gives the differences as `path field`.
fn differences(change: impl FnOnce(&Path)) -> Vec<String> {
    let base = tempfile::tempdir().unwrap();
    let (a, b) = (base.path().join("a"), base.path().join("b"));
    tree(&a);
    tree(&b);
    change(&b);
    // What changing a directory does to its own time is not what is asked here.
    for path in ["d/e", "d", ""] {
        if b.join(path).is_dir() {
            touch(&b.join(path), 5);
        }
    }
    compare(&a, &b)
        .iter()
        .map(|d| format!("{} {}", d.path.escape_ascii(), d.field))
        .collect()
}

#[test]
fn equal_trees_are_equal() {
    assert_eq!(differences(|_| {}), [""; 0]);
}

#[test]
fn finds_each_kind_of_difference() {
    type Change = Box<dyn FnOnce(&Path)>;
    let cases: Vec<(&[&str], Change)> = vec![
        (
            &["h mode"],
            Box::new(|b| {
                fs::set_permissions(b.join("h"), fs::Permissions::from_mode(0o4711)).unwrap();
            }),
        ),
        (&["l mtime"], Box::new(|b| touch(&b.join("l"), 6))),
        (
            &["h size"],
            Box::new(|b| {
                fs::write(b.join("h"), "hh").unwrap();
                touch(&b.join("h"), 5);
            }),
        ),
        (
            // One byte, far behind the first buffer.
            &["d/f content", "g content"],
            Box::new(|b| {
                let mut file = fs::OpenOptions::new()
                    .write(true)
                    .open(b.join("d/f"))
                    .unwrap();
                file.seek(std::io::SeekFrom::Start((2 << 20) + 1)).unwrap();
                file.write_all(b"y").unwrap();
                touch(&b.join("d/f"), 5);
            }),
        ),
        (
            &["l target"],
            Box::new(|b| {
                fs::remove_file(b.join("l")).unwrap();
                symlink("tarGet", b.join("l")).unwrap();
                touch(&b.join("l"), 5);
            }),
        ),
        (
            &["h xattr"],
            Box::new(|b| {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::setxattr(b.join("h"), "user.a", b"b", flags).unwrap();
            }),
        ),
        (
            &["new entry"],
            Box::new(|b| fs::create_dir(b.join("new")).unwrap()),
        ),
        (
            &["d/e entry"],
            Box::new(|b| fs::remove_dir(b.join("d/e")).unwrap()),
        ),
        (
            &["p type"],
            Box::new(|b| {
                fs::remove_file(b.join("p")).unwrap();
                fs::write(b.join("p"), "").unwrap();
                fs::set_permissions(b.join("p"), fs::Permissions::from_mode(0o600)).unwrap();
                touch(&b.join("p"), 5);
            }),
        ),
        (
            // Same count of links, other names.
            &["d/f links", "g links", "g nlink", "h links", "h nlink"],
            Box::new(|b| {
                let full = fs::read(b.join("g")).unwrap();
                fs::remove_file(b.join("g")).unwrap();
                fs::write(b.join("g"), full).unwrap();
                touch(&b.join("g"), 5);
                fs::remove_file(b.join("h")).unwrap();
                fs::hard_link(b.join("i"), b.join("h")).unwrap();
            }),
        ),
    ];
    for (want, change) in cases {
        let found = differences(change);
        for line in want {
            assert!(found.iter().any(|f| f == line), "{line} not in {found:?}");
        }
        // Linked names come with their partners; nothing else may be told.
        let partners = |line: &String| line.ends_with("links") || line.ends_with("nlink");
        for line in &found {
            assert!(
                want.contains(&&**line) || partners(line),
                "{line} of {want:?}"
            );
        }
    }
}

#[test]
fn finds_owners_and_devices() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: owners and device nodes need root");
        return;
    }
    assert_eq!(
        differences(|b| std::os::unix::fs::lchown(b.join("h"), Some(7), Some(8)).unwrap()),
        ["h gid", "h uid"]
    );
    let base = tempfile::tempdir().unwrap();
    for (side, minor) in [("a", 3), ("b", 5)] {
        let root = base.path().join(side);
        fs::create_dir(&root).unwrap();
        let node = root.join("node");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &node,
            rustix::fs::FileType::CharacterDevice,
            0o600.into(),
            rustix::fs::makedev(1, minor),
        )
        .unwrap();
        assert_ne!(fs::symlink_metadata(&node).unwrap().rdev(), 0);
        touch(&node, 5);
        touch(&root, 5);
    }
    let found = compare(&base.path().join("a"), &base.path().join("b"));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].field, "rdev");
    assert_eq!(
        compare_except(&base.path().join("a"), &base.path().join("b"), &["node"]),
        []
    );
}
