//! Rules of merging one by one, and a random comparison with a naive model.

use super::*;
use crate::error::Kind as ErrorKind;
use crate::index::{Entry, EntryKind};

mod model;
mod rules;

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.as_bytes().into(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 0,
        mtime_nanos: 0,
        xattrs: Vec::new(),
    }
}

fn dir(path: &str, mode: u16) -> Entry {
    let mut entry = entry(path, EntryKind::Directory);
    entry.mode = mode;
    entry
}

fn file(path: &str, size: u64) -> Entry {
    entry(path, EntryKind::Regular { size, chunks: 0..1 })
}

fn link(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::Hardlink(target.as_bytes().into()))
}

fn symlink(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::Symlink(target.as_bytes().into()))
}

fn names(tree: &Tree) -> Vec<String> {
    let walk = tree.walk().skip(1);
    walk.map(|(path, _)| String::from_utf8(path).unwrap())
        .collect()
}

fn at(tree: &Tree, path: &str) -> Attributes {
    tree.attributes(tree.resolve(path.as_bytes()).unwrap())
}
