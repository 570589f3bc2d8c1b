//! A tree as an EROFS image without file data (`docs/formats/erofs.md`).
//!
//! Two passes over the tree: the first finds out how long everything is and so where it lies, the
//! second writes it in one go. Between them four bytes an inode are kept. The same tree and layout
//! give the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use sha2::{Digest as _, Sha256};

use self::disk::{CHUNK_INDEX, Data, Inode, NO_BLOCK, SLOT, Superblock};
use self::xattrs::Sets;
use super::layout::{Layout, position};
use super::{BLOCK, BLOCK_BITS};
use crate::error::{Error, Result};
use crate::tree::{Ino, Kind, Tree};

mod directory;
mod disk;
mod xattrs;

/// What [`write()`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the image.
    pub bytes: u64,
    /// Its identity, which follows from all other bytes.
    pub uuid: [u8; 16],
}

/// Where everything will be.
struct Plan<'t> {
    tree: &'t Tree,
    layout: &'t Layout,
    xattrs: Sets,
    /// First blocks of files on the device, by position.
    starts: Vec<u32>,
    time: (u64, u32),
    /// Slots of inodes, by position.
    slots: Vec<u32>,
    /// First blocks of what has data in the image itself.
    data: BTreeMap<Ino, u32>,
    xattr_block: u32,
    inode_block: u32,
    blocks: u32,
}

/// An inode and what follows it.
struct Shape {
    inode: Inode,
    /// Bytes of the inode and its extended attributes.
    head: u64,
    /// Bytes that follow those.
    tail: u64,
    /// Blocks elsewhere in the image.
    blocks: u64,
}

/// Counts and hashes what goes through it.
struct Out<W: Write> {
    inner: BufWriter<W>,
    hash: Sha256,
    at: u64,
}

/// Writes the image of `tree`, whose files are where `layout` says, from the start of `out` on.
///
/// # Errors
/// [`Kind::Unsupported`](crate::Kind::Unsupported) naming a file that the format cannot hold;
/// [`Kind::Io`](crate::Kind::Io) if it cannot be written.
pub fn write(tree: &Tree, layout: &Layout, out: impl Write + Seek) -> Result<Written> {
    let plan = Plan::new(tree, layout)?;
    let mut out = Out {
        inner: BufWriter::with_capacity(BUFFER, out),
        hash: Sha256::new(),
        at: 0,
    };
    let io_error = |error| Error::io("EROFS image", error);
    plan.write(&mut out).map_err(io_error)?;
    let mut superblock = plan.superblock();
    let mut block = vec![0; BLOCK_BYTES];
    superblock.put(&mut block);
    out.hash.update(&block);
    superblock.uuid = uuid(out.hash.finalize().into());
    superblock.put(&mut block);
    let written = Written {
        bytes: out.at,
        uuid: superblock.uuid,
    };
    let mut inner = out.inner;
    inner
        .seek(SeekFrom::Start(0))
        .and_then(|_| inner.write_all(&block))
        .and_then(|()| inner.flush())
        .map_err(io_error)?;
    Ok(written)
}

// === impl Plan ===

impl<'t> Plan<'t> {
    fn new(tree: &'t Tree, layout: &'t Layout) -> Result<Plan<'t>> {
        let mut plan = Plan {
            tree,
            layout,
            xattrs: Sets::new(tree)?,
            starts: layout.starts(tree),
            time: common_time(tree),
            slots: Vec::with_capacity(tree.inode_count()),
            data: BTreeMap::new(),
            xattr_block: 0,
            inode_block: 0,
            blocks: 0,
        };
        // The first block is the superblock's; number 0 is no inode.
        let (mut data, mut at) = (1, SLOT);
        for ino in inodes(tree) {
            let shape = plan.shape(ino);
            if shape.blocks > 0 {
                plan.data.insert(ino, to_u32(data)?);
                data += shape.blocks;
            }
            at = shape.place(at);
            plan.slots.push(to_u32(at / SLOT)?);
            at = (at + shape.head + shape.tail).next_multiple_of(SLOT);
        }
        let xattrs = plan.xattrs.shared().len() as u64;
        let inodes = data + xattrs.div_ceil(BLOCK);
        plan.xattr_block = to_u32(data)?;
        plan.inode_block = to_u32(inodes)?;
        plan.blocks = to_u32(inodes + at.div_ceil(BLOCK))?;
        Ok(plan)
    }

    fn superblock(&self) -> Superblock {
        Superblock {
            root_slot: u16::try_from(self.slots[0]).expect("the root comes first"),
            inodes: self.tree.inode_count() as u64,
            time: self.time,
            blocks: self.blocks,
            inode_block: self.inode_block,
            xattr_block: self.xattr_block,
            uuid: [0; 16],
            device_blocks: self.layout.blocks(),
        }
    }

    fn shape(&self, ino: Ino) -> Shape {
        let attributes = self.tree.attributes(ino);
        let xattr_bytes = self.xattrs.body(self.tree, ino).len();
        let mut inode = Inode {
            attributes,
            size: attributes.size,
            number: u32::try_from(ino.number()).unwrap_or(u32::MAX),
            data: Data::Special(attributes.rdev),
            xattr_bytes,
        };
        let (mut tail, mut blocks) = (0, 0);
        if attributes.kind == Kind::Directory {
            inode.size = directory::size(self.tree, ino);
        }
        let head = (inode.bytes(self.time) + xattr_bytes) as u64;
        match attributes.kind {
            Kind::Directory | Kind::Symlink => {
                let block = self.data.get(&ino).copied().unwrap_or(NO_BLOCK);
                let rest = inode.size % BLOCK;
                if rest > 0 && head + rest <= MAX_INLINE {
                    (tail, blocks) = (rest, inode.size / BLOCK);
                    inode.data = Data::Tail(block);
                } else {
                    blocks = inode.size.div_ceil(BLOCK);
                    inode.data = Data::Blocks(block);
                }
            }
            Kind::Regular if inode.size == 0 => inode.data = Data::Blocks(NO_BLOCK),
            Kind::Regular => {
                let chunks = self.layout.chunks(ino, inode.size, &self.starts);
                inode.data = Data::Chunks(chunks.bits);
                tail = head.next_multiple_of(CHUNK_INDEX) - head + chunks.count * CHUNK_INDEX;
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {}
        }
        Shape {
            inode,
            head,
            tail,
            blocks,
        }
    }

    fn write(&self, out: &mut Out<impl Write>) -> io::Result<()> {
        out.pad_to(BLOCK)?;
        for (&ino, &block) in &self.data {
            out.pad_to(u64::from(block) * BLOCK)?;
            let blocks = self.shape(ino).blocks;
            self.data_of(ino)
                .take(usize::try_from(blocks).unwrap_or(usize::MAX))
                .try_for_each(|block| out.write(&block).and_then(|()| out.align()))?;
        }
        out.write(self.xattrs.shared())?;
        out.align()?;
        let base = out.at;
        let mut record = Vec::new();
        for ino in inodes(self.tree) {
            out.pad_to(base + u64::from(self.slots[position(ino)]) * SLOT)?;
            record.clear();
            self.put(ino, &mut record);
            out.write(&record)?;
        }
        out.align()
    }

    /// Appends an inode and what follows it.
    fn put(&self, ino: Ino, record: &mut Vec<u8>) {
        let shape = self.shape(ino);
        shape.inode.put(self.time, record);
        record.extend_from_slice(self.xattrs.body(self.tree, ino));
        match shape.inode.data {
            Data::Tail(_) => record.extend(self.data_of(ino).last().unwrap_or_default()),
            Data::Chunks(_) => {
                record.resize(record.len().next_multiple_of(8), 0);
                let chunks = self.layout.chunks(ino, shape.inode.size, &self.starts);
                let blocks = chunks.blocks();
                blocks.for_each(|block| disk::put_chunk(block, record));
            }
            Data::Blocks(_) | Data::Special(_) => {}
        }
    }

    /// The data of a directory or symlink in blocks, the last as long as what it holds.
    fn data_of(&self, ino: Ino) -> Box<dyn Iterator<Item = Vec<u8>> + '_> {
        match self.tree.read_link(ino) {
            Some(target) => Box::new(std::iter::once(target.to_vec())),
            None => Box::new(directory::blocks(self.tree, ino, |ino| {
                u64::from(self.slots[position(ino)])
            })),
        }
    }
}

// === impl Shape ===

impl Shape {
    /// Where it can lie, from `at` on: what the kernel reads in one piece must be in one block.
    fn place(&self, at: u64) -> u64 {
        let whole = match self.inode.data {
            Data::Tail(_) => self.head + self.tail,
            _ => self.head - self.inode.xattr_bytes as u64,
        };
        if at % BLOCK + whole > BLOCK {
            at.next_multiple_of(BLOCK)
        } else {
            at
        }
    }
}

// === impl Out ===

impl<W: Write> Out<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes)?;
        if self.at >= BLOCK {
            self.hash.update(bytes);
        }
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn align(&mut self) -> io::Result<()> {
        self.pad_to(self.at.next_multiple_of(BLOCK))
    }

    fn pad_to(&mut self, end: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
        while self.at < end {
            let missing = usize::try_from(end - self.at).unwrap_or(BLOCK_BYTES);
            self.write(&ZEROS[..missing.min(BLOCK_BYTES)])?;
        }
        Ok(())
    }
}

fn inodes(tree: &Tree) -> impl Iterator<Item = Ino> + '_ {
    (1..=tree.inode_count() as u64).filter_map(|number| tree.ino(number))
}

/// The time that most inodes have, of those with as many the earliest: the short form of an inode
/// has no time of its own.
fn common_time(tree: &Tree) -> (u64, u32) {
    let mut counts: HashMap<(u64, u32), usize> = HashMap::new();
    for ino in inodes(tree) {
        let it = tree.attributes(ino);
        if let Ok(seconds) = u64::try_from(it.mtime) {
            *counts.entry((seconds, it.mtime_nanos)).or_default() += 1;
        }
    }
    let most = { counts.into_iter() }.max_by_key(|&(time, count)| (count, std::cmp::Reverse(time)));
    most.map_or((0, 0), |(time, _)| time)
}

/// A UUID of the kind whose bits are whatever its maker likes (RFC 9562, version 8).
fn uuid(hash: [u8; 32]) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&hash[..16]);
    uuid[6] = uuid[6] & 0x0F | 0x80;
    uuid[8] = uuid[8] & 0x3F | 0x80;
    uuid
}

fn to_u32(number: u64) -> Result<u32> {
    u32::try_from(number).map_err(|_| {
        Error::unsupported("image whose metadata has more blocks than EROFS can count")
    })
}

const BLOCK_BYTES: usize = 1 << BLOCK_BITS;
/// What is collected before it is written.
const BUFFER: usize = 256 << 10;
/// An inode with its data behind it is at most this long. A longer one would waste more of the block
/// before it, which it does not fit into, than its data wastes in a block of its own.
const MAX_INLINE: u64 = 3000;

#[cfg(test)]
mod tests;
