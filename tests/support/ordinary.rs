//! Ordinary images, which nobody made lazy: tar+gzip that a program's files would give.

use std::{io::Write as _, path::Path};

use super::images::{self, LayoutImage};

/// Bytes in the large file: several spans of an index.
pub(crate) const LARGE: usize = 24 << 20;

/// Words that compress like programs do, by a seed.
pub(crate) fn words(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut plain = Vec::with_capacity(length + 32);
    while plain.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let word = state >> 33;
        write!(plain, "{:x} {} ", word % 4096, word % 77).unwrap();
    }
    plain.truncate(length);
    plain
}

pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// An image of two gzip layers, the lower with one large file and the upper with a file beside it.
pub(crate) fn two_layers(directory: &Path) -> LayoutImage {
    let lower = tar(&[
        ("large", &words(LARGE, 1)),
        ("small", b"in the lower layer"),
        ("replaced", &words(100_000, 2)),
    ]);
    let upper = tar(&[("replaced", b"in the upper layer"), (".wh.small", b"")]);
    let tars = [lower, upper];
    let blobs = [images::gzip(&tars[0], 1), images::gzip(&tars[1], 1)];
    images::write_layout(directory, &tars, &blobs)
}
