#![allow(
    clippy::single_range_in_vec_init,
    reason = "a list of one range is meant"
)]
use proptest::prelude::*;

use super::*;
use crate::index::{Entry, EntryKind};

fn tree(sizes: &[u64]) -> Tree {
    let files = (0_u32..).zip(sizes).map(|(number, &size)| Entry {
        // Names in the opposite order of the chunks, so that the two cannot be confused.
        path: format!("{:05}", 99_999 - number).into_bytes().into(),
        kind: EntryKind::Regular {
            size,
            chunks: number..number + 1,
        },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 0,
        mtime_nanos: 0,
        xattrs: Vec::new(),
    });
    Tree::merge(vec![files.collect()]).unwrap()
}

fn dense(sizes: &[u64]) -> (Tree, Layout) {
    let tree = tree(sizes);
    let layout = Layout::new(&tree, |_| Vec::new()).unwrap();
    (tree, layout)
}

fn file(tree: &Tree, number: u32, offset: u64, length: u32) -> Piece {
    let name = format!("{:05}", 99_999 - number);
    Piece::File {
        ino: tree.resolve(name.as_bytes()).unwrap(),
        offset,
        length,
    }
}

/// Where EROFS looks for byte `offset` of a file; `None` in a hole.
fn device_offset(tree: &Tree, layout: &Layout, ino: Ino, offset: u64) -> Option<u64> {
    let size = tree.file(ino).unwrap().size;
    let starts = layout.starts(tree);
    let chunks = layout.chunks(ino, size, &starts);
    let chunk = BLOCK << chunks.bits;
    let number = usize::try_from(offset / chunk).unwrap();
    let block = chunks.blocks().nth(number).unwrap()?;
    Some(address(block) + offset % chunk)
}

#[test]
fn files_follow_each_other_in_the_order_of_their_blob() {
    let (tree, layout) = dense(&[5000, 0, 4096, 1]);
    assert_eq!(layout.blocks(), 4);
    assert_eq!(
        layout.pieces(&tree, 0, 4 * 4096),
        [
            file(&tree, 0, 0, 5000),
            Piece::Zeros(8192 - 5000),
            file(&tree, 2, 0, 4096),
            file(&tree, 3, 0, 1),
            Piece::Zeros(4095),
        ]
    );
    assert_eq!(layout.pieces(&tree, 4096, 100), [file(&tree, 0, 4096, 100)]);
    assert_eq!(
        layout.pieces(&tree, 4096, 4096),
        [file(&tree, 0, 4096, 904), Piece::Zeros(3192)]
    );
    assert_eq!(layout.pieces(&tree, 4 * 4096, 4096), []);
    assert_eq!(layout.pieces(&tree, u64::MAX, 4096), []);
}

#[test]
fn a_tree_without_bytes_has_a_block_of_zeros() {
    let (tree, layout) = dense(&[0, 0]);
    assert_eq!(layout.bytes(), 4096);
    assert_eq!(layout.pieces(&tree, 0, 8192), [Piece::Zeros(4096)]);
}

#[test]
fn a_file_without_holes_is_one_chunk_up_to_a_gibibyte() {
    let (tree, layout) = dense(&[1, 4097, 1 << 30, (1 << 30) + 1]);
    let starts = layout.starts(&tree);
    let count = |number: u32, size| {
        let Piece::File { ino, .. } = file(&tree, number, 0, 0) else {
            unreachable!()
        };
        layout.chunks(ino, size, &starts).count
    };
    assert_eq!(count(0, 1), 1);
    assert_eq!(count(1, 4097), 1);
    assert_eq!(count(2, 1 << 30), 1);
    assert_eq!(count(3, (1 << 30) + 1), 2);
}

#[test]
fn what_exceeds_the_device_is_refused_by_name() {
    let tree = tree(&[1 << 43, 1 << 43]);
    let error = Layout::new(&tree, |_| Vec::new()).unwrap_err();
    assert_eq!(error.kind(), crate::Kind::Unsupported);
    assert!(error.to_string().contains("\"99998\""), "{error}");
    // Of holes it may have as many as it likes.
    let layout = Layout::new(&tree, |file| vec![4096..file.size]).unwrap();
    assert!(layout.blocks() <= 1 << 20);
}

#[test]
fn a_file_that_is_all_zeros_takes_no_blocks() {
    let tree = tree(&[1 << 62, 10]);
    let zeros = |file: FileData| match file.first_chunk {
        0 => vec![0..file.size],
        _ => Vec::new(),
    };
    let layout = Layout::new(&tree, zeros).unwrap();
    assert_eq!(layout.blocks(), 1);
    let starts = layout.starts(&tree);
    let Piece::File { ino, .. } = file(&tree, 0, 0, 0) else {
        unreachable!()
    };
    let chunks = layout.chunks(ino, 1 << 62, &starts);
    assert_eq!(chunks.bits, MAX_BITS);
    assert!(chunks.blocks().all(|block| block.is_none()));
    assert_eq!(layout.pieces(&tree, 0, 10), [file(&tree, 1, 0, 10)]);
}

prop_compose! {
    fn sparse_file()(
        blocks in 1_u64..20_000,
        cut in 0_u64..4096,
        bounds in prop::collection::btree_set(0_u64..80_000_000, 0..12),
    ) -> (u64, Vec<Range<u64>>) {
        let size = blocks * BLOCK - cut;
        let bounds: Vec<u64> = bounds.into_iter().filter(|&it| it < size).collect();
        let zeros = bounds.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
        (size, zeros)
    }
}

proptest! {
    /// Each byte that is not in a hole is found where EROFS looks for it, and holes are zeros.
    #[test]
    fn device_and_file_agree(
        files in prop::collection::vec(sparse_file(), 1..6),
        looks in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 1_u32..20_000), 20),
    ) {
        let sizes: Vec<u64> = files.iter().map(|(size, _)| *size).collect();
        let tree = tree(&sizes);
        let zeros = |file: FileData| files[file.first_chunk as usize].1.clone();
        let layout = Layout::new(&tree, zeros).unwrap();
        for (which, place, length) in looks {
            let number = which.index(files.len());
            let (size, zeros) = &files[number];
            let offset = place % size;
            let Piece::File { ino, .. } = file(&tree, u32::try_from(number).unwrap(), 0, 0) else {
                unreachable!()
            };
            let Some(at) = device_offset(&tree, &layout, ino, offset) else {
                prop_assert!(zeros.iter().any(|range| range.contains(&offset)));
                continue;
            };
            prop_assert!(at < layout.bytes());
            let pieces = layout.pieces(&tree, at, length);
            let total: u64 = pieces.iter().map(|piece| match piece {
                Piece::File { length, .. } | Piece::Zeros(length) => u64::from(*length),
            }).sum();
            prop_assert_eq!(total, u64::from(length).min(layout.bytes() - at));
            let first = pieces[0];
            prop_assert!(matches!(
                first,
                Piece::File { ino: found, offset: from, length }
                    if found == ino && from == offset && length > 0
            ), "{:?} for byte {} of file {}", first, offset, number);
        }
    }
}
