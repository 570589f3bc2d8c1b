use std::sync::Arc;

use zeroize::Zeroizing;

use super::*;
use crate::{
    index::{Algorithm, Claim, build},
    oci::{Digest, media_type::Compression},
    source::MemoryBlob,
    tar::tests::Archive,
};

fn index(name: &str) -> BuiltIndex {
    let tar = Archive::default().file(name, name.as_bytes()).finish();
    let claim = Claim {
        compression: Compression::None,
        diff_id: Digest::sha256(&tar),
        spacing: crate::codec::DEFAULT_SPACING,
    };
    let blob = Arc::new(MemoryBlob::new(tar.into()));
    let keep = Box::new(|bytes: bytes::Bytes| Algorithm::Blake3.digest(&bytes));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(build(blob, claim, keep)).unwrap()
}

fn seal(byte: u8) -> Seal {
    Seal::new(&Zeroizing::new([byte; 32]))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|it| it.unwrap().path()).collect()
}

#[test]
fn an_index_comes_back_for_the_same_layer_and_key_only() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (index("one"), index("two"));
    for key in [None, Some(seal(1))] {
        let indexes = Indexes::open(directory.path(), 1 << 20).unwrap();
        assert!(indexes.get(one.subject(), key.as_ref()).is_none());
        indexes.keep(&one, key.as_ref());
        drop(indexes);
        let indexes = Indexes::open(directory.path(), 1 << 20).unwrap();
        let found = indexes.get(one.subject(), key.as_ref()).unwrap();
        assert_eq!(found.get(), one.get());
        assert!(indexes.get(two.subject(), key.as_ref()).is_none());
        assert!(indexes.get(one.subject(), Some(&seal(2))).is_none());
        let mut other = one.subject().clone();
        other.diff_id = Digest::sha256(b"another");
        assert!(indexes.get(&other, key.as_ref()).is_none());
    }
    for path in files(directory.path()) {
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_sealed_index_says_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let one = index("a name that nobody may know");
    let indexes = Indexes::open(directory.path(), 1 << 20).unwrap();
    indexes.keep(&one, Some(&seal(1)));
    let [path] = &files(directory.path())[..] else {
        panic!("one file")
    };
    let bytes = fs::read(path).unwrap();
    let document = one.document();
    assert!(!bytes.windows(16).any(|it| it == &document[8..24]));
    assert!(!bytes.windows(6).any(|it| it == b"a name"));
}

#[test]
fn what_was_changed_on_disk_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let one = index("one");
    for key in [None, Some(seal(1))] {
        let indexes = Indexes::open(directory.path(), 1 << 20).unwrap();
        indexes.keep(&one, key.as_ref());
        let [path] = &files(directory.path())[..] else {
            panic!("one file")
        };
        let good = fs::read(path).unwrap();
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            fs::write(path, &bad).unwrap();
            assert!(
                indexes.get(one.subject(), key.as_ref()).is_none(),
                "byte {at}"
            );
            assert!(!path.exists(), "byte {at}");
        }
        fs::write(path, &good[..good.len() - 1]).unwrap();
        assert!(indexes.get(one.subject(), key.as_ref()).is_none());
        indexes.keep(&one, key.as_ref());
        assert!(indexes.get(one.subject(), key.as_ref()).is_some());
        // Under the name of another.
        let two = index("two");
        indexes.keep(&two, key.as_ref());
        let others = files(directory.path());
        let other = others.iter().find(|it| *it != path).unwrap();
        fs::copy(path, other).unwrap();
        assert!(indexes.get(two.subject(), key.as_ref()).is_none());
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn the_least_recently_used_go_first() {
    let directory = tempfile::tempdir().unwrap();
    let indexes = Indexes::open(directory.path(), 1 << 20).unwrap();
    let all: Vec<_> = (0..8).map(|it| index(&format!("file-{it}"))).collect();
    indexes.keep(&all[0], None);
    let each = indexes.used();
    let indexes = Indexes::open(directory.path(), 4 * each + each / 2).unwrap();
    for (number, it) in all.iter().enumerate().skip(1) {
        indexes.keep(it, None);
        assert!(indexes.used() <= 4 * each + each / 2);
        assert!(
            indexes.get(all[0].subject(), None).is_some(),
            "used at every turn, {number}"
        );
    }
    assert!(indexes.get(all[1].subject(), None).is_none());
    assert!(indexes.get(all[7].subject(), None).is_some());
    let small = Indexes::open(directory.path(), each / 2).unwrap();
    assert_eq!(small.used(), 0);
    small.keep(&all[1], None);
    assert_eq!(small.used(), 0, "larger than all may be");
}

#[test]
fn a_directory_that_cannot_be_written_keeps_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("indexes");
    let indexes = Indexes::open(&root, 1 << 20).unwrap();
    fs::remove_dir(&root).unwrap();
    indexes.keep(&index("one"), None);
    assert!(indexes.get(index("one").subject(), None).is_none());
    assert_eq!(indexes.used(), 0);
}
