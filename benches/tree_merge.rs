//! Merging 100,000 entries: what a mount waits for between the last index and the first lookup.

#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use nacre::index::{Entry, EntryKind};
use nacre::tree::Tree;

/// Four layers like a distribution with packages on top: 40 files a directory, an upper layer that
/// replaces, hides and links.
fn layers() -> Vec<Vec<Entry>> {
    let mut layers = Vec::new();
    for layer in 0..4_u32 {
        let mut entries = Vec::new();
        for number in 0..25_000_u32 {
            let directory = number / 40 + layer * 300;
            let base = format!("usr/share/section{}/package{directory}", directory % 12);
            let (path, kind) = match number % 40 {
                0 => (base, EntryKind::Directory),
                1 => {
                    let target = format!("file{}", number + 1).into_bytes();
                    (format!("{base}/link"), EntryKind::Symlink(target.into()))
                }
                2 if layer > 0 => {
                    let hidden = format!("{base}/.wh.file{}", number + 3);
                    (hidden, regular(0, 0))
                }
                _ => (
                    format!("{base}/file{number}"),
                    regular(u64::from(number), number),
                ),
            };
            entries.push(Entry {
                path: path.into_bytes().into(),
                kind,
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: 1_700_000_000,
                mtime_nanos: 0,
                xattrs: Vec::new(),
            });
        }
        layers.push(entries);
    }
    layers
}

fn regular(size: u64, chunk: u32) -> EntryKind {
    EntryKind::Regular {
        size,
        chunks: chunk..chunk + 1,
    }
}

fn merge(criterion: &mut Criterion) {
    let layers = layers();
    let tree = Tree::merge(layers.clone()).expect("the layers are well formed");
    println!(
        "{} inodes, {} bytes, {} an inode",
        tree.inode_count(),
        tree.heap_bytes(),
        tree.heap_bytes() / tree.inode_count()
    );
    let mut group = criterion.benchmark_group("tree");
    group.throughput(Throughput::Elements(100_000));
    group.sample_size(20);
    group.bench_function("merge 100,000 entries", |bencher| {
        bencher.iter_batched(
            || layers.clone(),
            |layers| black_box(Tree::merge(layers)),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, merge);
criterion_main!(benches);
