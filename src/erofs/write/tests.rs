use std::io::Cursor;

use super::*;
use crate::index::{Entry, EntryKind};

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.as_bytes().into(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 1_600_000_000,
        mtime_nanos: 0,
        xattrs: Vec::new(),
    }
}

fn image(entries: Vec<Entry>) -> Result<(Vec<u8>, Written)> {
    let tree = Tree::merge(vec![entries]).unwrap();
    let layout = Layout::new(&tree, |_| Vec::new()).unwrap();
    let mut bytes = Vec::new();
    let written = write(&tree, &layout, Cursor::new(&mut bytes))?;
    Ok((bytes, written))
}

fn files(count: u32) -> Vec<Entry> {
    (0..count)
        .map(|number| {
            let kind = EntryKind::Regular {
                size: u64::from(number),
                chunks: number..number + 1,
            };
            entry(&format!("d{}/{number}", number % 10), kind)
        })
        .collect()
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let (bytes, written) = image(files(1000)).unwrap();
    assert_eq!(image(files(1000)).unwrap(), (bytes.clone(), written));
    assert_eq!(written.bytes, bytes.len() as u64);
    assert_eq!(written.bytes % BLOCK, 0);
    assert_eq!(&bytes[1024 + 48..1024 + 64], written.uuid);
    let (_, other) = image(files(1001)).unwrap();
    assert_ne!(other.uuid, written.uuid);
}

#[test]
fn a_file_takes_forty_bytes_and_its_name() {
    let (some, _) = image(files(1000)).unwrap();
    let (more, _) = image(files(11_000)).unwrap();
    let each = (more.len() - some.len()) / 10_000;
    // An inode with one chunk in two slots, and an entry with a name of four or five bytes.
    assert!(each <= 2 * 32 + 12 + 6, "{each} bytes a file");
}

#[test]
fn the_root_is_first_however_large_the_tree() {
    let (bytes, _) = image(files(70_000)).unwrap();
    assert_eq!(&bytes[1024 + 14..1024 + 16], 1_u16.to_le_bytes());
    assert_eq!(&bytes[1024 + 16..1024 + 24], 70_011_u64.to_le_bytes());
}

#[test]
fn what_the_format_cannot_hold_is_refused_by_name() {
    let mut file = entry("d/strange", EntryKind::Fifo);
    file.xattrs = vec![(b"system.nfs4_acl"[..].into(), b""[..].into())];
    let error = image(vec![file]).unwrap_err();
    assert_eq!(error.kind(), crate::Kind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("\"d/strange\""), "{text}");
    assert!(text.contains("system.nfs4_acl"), "{text}");
}

#[test]
fn times_that_most_inodes_have_take_no_room() {
    let with_times = |times: &dyn Fn(i64) -> i64| {
        let mut entries = files(2000);
        for (number, entry) in (0..).zip(&mut entries) {
            entry.kind = EntryKind::Fifo;
            entry.mtime = times(number);
        }
        image(entries).unwrap().0.len()
    };
    let same = with_times(&|_| 5);
    let different = with_times(&|number| number);
    assert!(different > same + 1900 * 32, "{same} and {different} bytes");
    assert_eq!(with_times(&|_| -5), with_times(&|number| -number - 1));
}
