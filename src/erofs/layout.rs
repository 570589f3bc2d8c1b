//! The address space of a device: which of its blocks hold which bytes of which file.
//!
//! EROFS wants each file to begin at a block. Files lie in the order of their layers' blobs, so that
//! neighbours on the device come from one request to the registry. What is known to be a run of
//! zeros takes no blocks if it covers whole chunks. Everything here follows from the tree and the
//! verified indexes alone: a restarted daemon comes to the same addresses.

use std::collections::BTreeMap;
use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::{BLOCK, BLOCK_BITS};
use crate::engine::FileData;
use crate::error::{Error, Result};
use crate::tree::{Ino, Tree};

/// Where the regular files of one tree are on its device.
#[derive(Debug)]
pub struct Layout {
    /// Ascending by block.
    runs: Vec<Run>,
    /// Files of which some chunks are holes.
    sparse: BTreeMap<Ino, Sparse>,
    blocks: u32,
}

/// What a piece of the device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// `length` bytes of a file, from `offset` on.
    File {
        /// The file.
        ino: Ino,
        /// First byte.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// So many zeros: what follows the end of a file.
    Zeros(u32),
}

/// How a file is cut into chunks, and where they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunks<'l> {
    /// Blocks in a chunk, as a power of two.
    pub(super) bits: u8,
    /// How many chunks.
    pub(super) count: u64,
    /// First block of the file on the device.
    start: u32,
    sparse: Option<&'l Sparse>,
}

/// Blocks of one file, up to the next run.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: u32,
    ino: Ino,
}

#[derive(Debug)]
struct Sparse {
    bits: u8,
    /// Numbers of the chunks that have blocks, ascending; they lie one after the other.
    mapped: Vec<u32>,
}

// === impl Layout ===

impl Layout {
    /// Lays out the files of `tree`; `zeros` gives what is known to be zeros in one of them,
    /// ascending ranges without overlap.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported) naming the file that does not fit any more:
    /// a device has 16 TiB.
    pub fn new(tree: &Tree, zeros: impl Fn(FileData) -> Vec<Range<u64>>) -> Result<Layout> {
        let numbers = 1..=tree.inode_count() as u64;
        let mut files: Vec<(FileData, Ino)> = numbers
            .filter_map(|number| tree.ino(number))
            .filter_map(|ino| Some((tree.file(ino)?, ino)))
            .filter(|(file, _)| file.size > 0)
            .collect();
        files.sort_unstable_by_key(|(file, ino)| (file.layer, file.first_chunk, *ino));
        let mut layout = Layout {
            runs: Vec::with_capacity(files.len()),
            sparse: BTreeMap::new(),
            blocks: 0,
        };
        for (file, ino) in files {
            let mut blocks = file.size.div_ceil(BLOCK);
            if let Some((sparse, left)) = Sparse::new(file.size, &zeros(file)) {
                layout.sparse.insert(ino, sparse);
                blocks = left;
            }
            if blocks > 0 {
                let start = layout.blocks;
                layout.runs.push(Run { start, ino });
            }
            let end = u64::from(layout.blocks) + blocks;
            // The highest number stands for a hole.
            layout.blocks = u32::try_from(end)
                .ok()
                .filter(|&end| end < u32::MAX)
                .ok_or_else(|| does_not_fit(tree, ino))?;
        }
        Ok(layout)
    }

    /// Blocks on the device: at least one, since a device of none is no device.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.blocks.max(1)
    }

    /// Bytes on the device.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.blocks()) << BLOCK_BITS
    }

    /// What the `length` bytes of the device from `offset` on hold, in order. Nothing lies behind
    /// the end of the device.
    #[must_use]
    pub fn pieces(&self, tree: &Tree, offset: u64, length: u32) -> Vec<Piece> {
        let end = offset.saturating_add(length.into()).min(self.bytes());
        let (mut at, mut pieces) = (offset, Vec::new());
        let mut next = self.runs.partition_point(|run| address(run.start) <= at);
        while at < end {
            let until = { self.runs.get(next) }.map_or(end, |run| address(run.start).min(end));
            if let Some(run) = next.checked_sub(1).map(|index| self.runs[index]) {
                self.pieces_of(tree, run, at..until, &mut pieces);
            } else {
                push_zeros(&mut pieces, until - at);
            }
            (at, next) = (until, next + 1);
        }
        pieces
    }

    /// What all addresses mean, as a number: another one if any block would hold something else.
    pub(super) fn fingerprint(&self, tree: &Tree) -> u32 {
        let mut hash = Sha256::new();
        for run in &self.runs {
            let file = tree.file(run.ino);
            let (first, size) = file.map_or((0, 0), |file| (file.first_chunk, file.size));
            let layer = file.map_or(0, |file| file.layer);
            hash.update(run.start.to_le_bytes());
            hash.update(layer.to_le_bytes());
            hash.update(first.to_le_bytes());
            hash.update(size.to_le_bytes());
            if let Some(sparse) = self.sparse.get(&run.ino) {
                hash.update([sparse.bits]);
                { &sparse.mapped }
                    .iter()
                    .for_each(|it| hash.update(it.to_le_bytes()));
            }
        }
        let hash = hash.finalize();
        let (first, _) = hash
            .split_first_chunk()
            .expect("a hash has more than four bytes");
        u32::from_le_bytes(*first)
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let sparse = self.sparse.values();
        let sparse: usize = sparse
            .map(|it| it.mapped.capacity() * size_of::<u32>())
            .sum();
        self.runs.capacity() * size_of::<Run>() + sparse
    }

    /// First block of each file by the position of its inode, for [`Layout::chunks`].
    pub(super) fn starts(&self, tree: &Tree) -> Vec<u32> {
        let mut starts = vec![u32::MAX; tree.inode_count()];
        for run in &self.runs {
            starts[position(run.ino)] = run.start;
        }
        starts
    }

    /// How file `ino` of `size` bytes is cut; `starts` are those of [`Layout::starts`].
    pub(super) fn chunks(&self, ino: Ino, size: u64, starts: &[u32]) -> Chunks<'_> {
        let sparse = self.sparse.get(&ino);
        let blocks = size.div_ceil(BLOCK);
        let bits = match sparse {
            Some(sparse) => sparse.bits,
            None => bits_for(blocks, 1).min(DENSE_BITS),
        };
        Chunks {
            bits,
            count: blocks.div_ceil(1 << bits),
            start: starts[position(ino)],
            sparse,
        }
    }

    /// What `range` of the device holds, all of it between the start of `run` and the next.
    fn pieces_of(&self, tree: &Tree, run: Run, range: Range<u64>, pieces: &mut Vec<Piece>) {
        let size = tree.file(run.ino).map_or(0, |file| file.size);
        let within = range.start - address(run.start)..range.end - address(run.start);
        match self.sparse.get(&run.ino) {
            None => push_file(pieces, run.ino, size, within),
            Some(sparse) => {
                let chunk = BLOCK << sparse.bits;
                let mut at = within.start;
                while at < within.end {
                    let index = at / chunk;
                    let until = ((index + 1) * chunk).min(within.end);
                    let number = usize::try_from(index).ok();
                    let number = number.and_then(|index| sparse.mapped.get(index));
                    match number {
                        Some(&number) => {
                            let base = u64::from(number) * chunk + (at - index * chunk);
                            push_file(pieces, run.ino, size, base..base + (until - at));
                        }
                        None => push_zeros(pieces, until - at),
                    }
                    at = until;
                }
            }
        }
    }
}

// === impl Chunks ===

impl Chunks<'_> {
    /// First block of each chunk on the device; `None` for a hole.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Option<u32>> {
        let mut mapped = 0;
        (0..self.count).map(move |number| {
            let index = match self.sparse {
                None => number,
                Some(sparse) => {
                    let next = sparse.mapped.get(mapped).map(|&it| u64::from(it));
                    if next != Some(number) {
                        return None;
                    }
                    mapped += 1;
                    mapped as u64 - 1
                }
            };
            let block = u64::from(self.start) + (index << self.bits);
            Some(u32::try_from(block).expect("the layout has as many blocks as 32 bits count"))
        })
    }
}

// === impl Sparse ===

impl Sparse {
    /// The chunks of a file of `size` bytes with `zeros` in it, and how many blocks they take;
    /// `None` if no chunk is a hole.
    fn new(size: u64, zeros: &[Range<u64>]) -> Option<(Sparse, u64)> {
        if zeros.is_empty() {
            return None;
        }
        let blocks = size.div_ceil(BLOCK);
        let bits = bits_for(blocks, MAX_SPARSE_CHUNKS);
        let chunk = BLOCK << bits;
        let count = blocks.div_ceil(1 << bits);
        let mut holes = zeros.iter().filter_map(|range| {
            // The last chunk ends with the file.
            let end = if range.end >= size {
                count
            } else {
                range.end / chunk
            };
            let hole = range.start.div_ceil(chunk)..end;
            (!hole.is_empty()).then_some(hole)
        });
        let mut mapped = Vec::new();
        let mut hole = holes.next()?;
        for number in 0..count {
            while number >= hole.end {
                hole = holes.next().unwrap_or(u64::MAX..u64::MAX);
            }
            if !hole.contains(&number) {
                mapped.push(u32::try_from(number).ok()?);
            }
        }
        let whole = (mapped.len() as u64) << bits;
        let last_is_mapped = mapped.last().is_some_and(|&it| u64::from(it) + 1 == count);
        let missing = if last_is_mapped {
            (count << bits) - blocks
        } else {
            0
        };
        Some((Sparse { bits, mapped }, whole - missing))
    }
}

/// How large a chunk must be for `blocks` blocks to take at most `chunks` chunks, as a power of two
/// of blocks.
fn bits_for(blocks: u64, chunks: u64) -> u8 {
    let bits = (0..MAX_BITS).find(|&bits| blocks.div_ceil(1 << bits) <= chunks);
    bits.unwrap_or(MAX_BITS)
}

/// `range` counts from the start of the file and may reach beyond its end.
fn push_file(pieces: &mut Vec<Piece>, ino: Ino, size: u64, range: Range<u64>) {
    let end = range.end.min(size);
    if range.start < end {
        let length = end - range.start;
        pieces.push(Piece::File {
            ino,
            offset: range.start,
            length: u32::try_from(length).expect("a piece of a read is as short as the read"),
        });
    }
    push_zeros(pieces, range.end - range.start.max(end));
}

fn push_zeros(pieces: &mut Vec<Piece>, count: u64) {
    let count = u32::try_from(count).expect("a piece of a read is as short as the read");
    match pieces.last_mut() {
        _ if count == 0 => {}
        Some(Piece::Zeros(zeros)) => *zeros += count,
        _ => pieces.push(Piece::Zeros(count)),
    }
}

fn address(block: u32) -> u64 {
    u64::from(block) << BLOCK_BITS
}

/// Position of an inode among all of its tree.
pub(super) fn position(ino: Ino) -> usize {
    usize::try_from(ino.number() - 1).expect("a tree in memory has no more inodes than fit")
}

fn does_not_fit(tree: &Tree, ino: Ino) -> Error {
    let path = tree.path(ino);
    Error::unsupported(format!(
        "file \"{}\": an EROFS device has 16 TiB, which this image's files exceed",
        path.escape_ascii()
    ))
}

/// Largest chunk that the format can say.
const MAX_BITS: u8 = 31;
/// Largest chunk of a file without holes, 1 GiB: chunks of 2 GiB and more are more than a kernel of
/// 32 bits can count.
const DENSE_BITS: u8 = 18;
/// A sparse file is cut into at most so many chunks of eight bytes each, unless they would be
/// larger than [`MAX_BITS`] allows.
const MAX_SPARSE_CHUNKS: u64 = 4096;

#[cfg(test)]
mod tests;
