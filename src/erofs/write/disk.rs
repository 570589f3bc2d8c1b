//! The structures of an EROFS image as bytes, little-endian (`docs/formats/erofs.md`).

use crate::tree::{Attributes, Kind};

/// Where the superblock begins; what is before it is for boot loaders.
pub(super) const SUPERBLOCK_OFFSET: usize = 1024;
/// Where the device table begins: behind the superblock.
pub(super) const DEVICE_TABLE_OFFSET: usize = SUPERBLOCK_OFFSET + 128;
/// Inodes are numbered by slots of this size.
pub(super) const SLOT: u64 = 32;
/// Bytes of a chunk index.
pub(super) const CHUNK_INDEX: u64 = 8;
/// The number of the only extra device; 0 is the image itself.
const DEVICE: u16 = 1;
/// Block number of a hole, and of the data of a file that has none.
pub(super) const NO_BLOCK: u32 = u32::MAX;

/// What the first block holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Superblock {
    pub(super) root_slot: u16,
    pub(super) inodes: u64,
    /// Time of all inodes of the short form.
    pub(super) time: (u64, u32),
    pub(super) blocks: u32,
    pub(super) inode_block: u32,
    pub(super) xattr_block: u32,
    pub(super) uuid: [u8; 16],
    pub(super) device_blocks: u32,
}

/// How an inode's data is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// None: devices and pipes, with the number of a device.
    Special(u32),
    /// In blocks from here on.
    Blocks(u32),
    /// In blocks from here on, and the rest behind the inode.
    Tail(u32),
    /// In chunks of so many blocks (a power of two), whose indexes follow the inode.
    Chunks(u8),
}

/// An inode without what follows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    pub(super) attributes: Attributes,
    /// Bytes of its data: those of a directory's entries, not what the tree says of one.
    pub(super) size: u64,
    pub(super) number: u32,
    pub(super) data: Data,
    /// Bytes of extended attributes that follow it.
    pub(super) xattr_bytes: usize,
}

// === impl Superblock ===

impl Superblock {
    /// Fills in the first block, checksum and device table included.
    pub(super) fn put(&self, block: &mut [u8]) {
        block.fill(0);
        let mut out = Put(&mut block[SUPERBLOCK_OFFSET..], 0);
        out.u32(MAGIC);
        out.u32(0);
        out.u32(COMPAT_CHECKSUM | COMPAT_TIME);
        out.u8(super::super::BLOCK_BITS.to_le_bytes()[0]);
        out.u8(0);
        out.u16(self.root_slot);
        out.u64(self.inodes);
        out.u64(self.time.0);
        out.u32(self.time.1);
        out.u32(self.blocks);
        out.u32(self.inode_block);
        out.u32(self.xattr_block);
        out.bytes(&self.uuid);
        // No volume name.
        out.bytes(&[0; 16]);
        out.u32(INCOMPAT_CHUNKS | INCOMPAT_DEVICES);
        out.u16(0);
        // One extra device, and where its slot is, counted in slots.
        out.u16(1);
        let slot = DEVICE_TABLE_OFFSET / DEVICE_SLOT;
        out.u16(u16::try_from(slot).expect("the table is in the first block"));
        let mut out = Put(&mut block[DEVICE_TABLE_OFFSET..], 64);
        out.u32(self.device_blocks);
        let checksum = crc32c(&block[SUPERBLOCK_OFFSET..]);
        Put(&mut block[SUPERBLOCK_OFFSET..], 4).u32(checksum);
    }
}

// === impl Inode ===

impl Inode {
    /// Bytes of the inode itself: the short form if that can say it all.
    pub(super) fn bytes(&self, time: (u64, u32)) -> usize {
        let it = &self.attributes;
        let same_time = u64::try_from(it.mtime) == Ok(time.0) && it.mtime_nanos == time.1;
        let small = u16::try_from(it.uid).is_ok()
            && u16::try_from(it.gid).is_ok()
            && u16::try_from(it.nlink).is_ok()
            && u32::try_from(self.size).is_ok();
        if same_time && small {
            COMPACT
        } else {
            EXTENDED
        }
    }

    /// Appends the inode.
    pub(super) fn put(&self, time: (u64, u32), out: &mut Vec<u8>) {
        let extended = self.bytes(time) == EXTENDED;
        let length = if extended { EXTENDED } else { COMPACT };
        let start = out.len();
        out.resize(start + length, 0);
        let mut out = Put(&mut out[start..], 0);
        out.u16(self.data.layout() << 1 | u16::from(extended));
        out.u16(self.xattr_words());
        out.u16(self.mode());
        let it = &self.attributes;
        let low = |number: u32| {
            let [a, b, ..] = number.to_le_bytes();
            u16::from_le_bytes([a, b])
        };
        if extended {
            out.u16(0);
            out.u64(self.size);
            out.u32(self.data.word());
            out.u32(self.number);
            out.u32(it.uid);
            out.u32(it.gid);
            out.u64(it.mtime.cast_unsigned());
            out.u32(it.mtime_nanos);
            out.u32(it.nlink);
        } else {
            out.u16(low(it.nlink));
            out.u32(u32::try_from(self.size).expect("the short form has been chosen for it"));
            out.u32(0);
            out.u32(self.data.word());
            out.u32(self.number);
            out.u16(low(it.uid));
            out.u16(low(it.gid));
        }
    }

    fn mode(&self) -> u16 {
        let kind = match self.attributes.kind {
            Kind::Fifo => 1,
            Kind::CharDevice => 2,
            Kind::Directory => 4,
            Kind::BlockDevice => 6,
            Kind::Regular => 8,
            Kind::Symlink => 10,
        };
        kind << 12 | self.attributes.mode
    }

    /// The header of extended attributes counts as one word of four bytes.
    fn xattr_words(&self) -> u16 {
        match self.xattr_bytes {
            0 => 0,
            bytes => u16::try_from((bytes - XATTR_HEADER) / 4 + 1)
                .expect("a set of extended attributes has been checked to fit"),
        }
    }
}

// === impl Data ===

impl Data {
    fn layout(self) -> u16 {
        match self {
            Data::Special(_) | Data::Blocks(_) => 0,
            Data::Tail(_) => 2,
            Data::Chunks(_) => 4,
        }
    }

    fn word(self) -> u32 {
        match self {
            Data::Special(number) => number,
            Data::Blocks(block) | Data::Tail(block) => block,
            Data::Chunks(bits) => u32::from(bits) | CHUNK_INDEXES,
        }
    }
}

/// Appends the index of a chunk.
pub(super) fn put_chunk(block: Option<u32>, out: &mut Vec<u8>) {
    let device = if block.is_some() { DEVICE } else { 0 };
    out.extend(0_u16.to_le_bytes());
    out.extend(device.to_le_bytes());
    out.extend(block.unwrap_or(NO_BLOCK).to_le_bytes());
}

/// How an entry of a directory calls the type of what it names.
pub(super) fn file_type(kind: Kind) -> u8 {
    match kind {
        Kind::Regular => 1,
        Kind::Directory => 2,
        Kind::CharDevice => 3,
        Kind::BlockDevice => 4,
        Kind::Fifo => 5,
        Kind::Symlink => 7,
    }
}

/// Writes numbers one after the other.
struct Put<'b>(&'b mut [u8], usize);

impl Put<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0[self.1..][..bytes.len()].copy_from_slice(bytes);
        self.1 += bytes.len();
    }

    fn u8(&mut self, number: u8) {
        self.bytes(&[number]);
    }

    fn u16(&mut self, number: u16) {
        self.bytes(&number.to_le_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.bytes(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }
}

/// CRC-32C without the final inversion, as the kernel computes it. Of one block, so bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = sum & 1;
            sum >>= 1;
            if carry == 1 {
                sum ^= 0x82F6_3B78;
            }
        }
    }
    sum
}

const MAGIC: u32 = 0xE0F5_E1E2;
const COMPAT_CHECKSUM: u32 = 1;
/// Times are times of modification.
const COMPAT_TIME: u32 = 2;
const INCOMPAT_CHUNKS: u32 = 4;
const INCOMPAT_DEVICES: u32 = 8;
/// Chunks are found by indexes of eight bytes, which name a device.
const CHUNK_INDEXES: u32 = 0x20;
const DEVICE_SLOT: usize = 128;
/// Bytes of an inode of the short form.
pub(super) const COMPACT: usize = 32;
/// Bytes of an inode of the long form.
pub(super) const EXTENDED: usize = 64;
/// Bytes before the first extended attribute.
pub(super) const XATTR_HEADER: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc_32c() {
        // The check value of the catalogue of CRCs, before its final inversion.
        assert_eq!(crc32c(b"123456789"), !0xE306_9283);
    }

    #[test]
    fn the_short_form_is_for_what_it_can_say() {
        let attributes = Attributes {
            kind: Kind::Regular,
            mode: 0o644,
            uid: 65_535,
            gid: 65_535,
            size: 1,
            nlink: 65_535,
            mtime: 7,
            mtime_nanos: 8,
            rdev: 0,
        };
        let inode = Inode {
            attributes,
            size: u64::from(u32::MAX),
            number: 1,
            data: Data::Blocks(0),
            xattr_bytes: 0,
        };
        assert_eq!(inode.bytes((7, 8)), COMPACT);
        let with = |change: &dyn Fn(&mut Inode)| {
            let mut inode = inode;
            change(&mut inode);
            inode.bytes((7, 8))
        };
        assert_eq!(with(&|it| it.attributes.uid += 1), EXTENDED);
        assert_eq!(with(&|it| it.attributes.gid += 1), EXTENDED);
        assert_eq!(with(&|it| it.attributes.nlink += 1), EXTENDED);
        assert_eq!(with(&|it| it.attributes.mtime = -7), EXTENDED);
        assert_eq!(with(&|it| it.attributes.mtime_nanos = 0), EXTENDED);
        assert_eq!(with(&|it| it.size += 1), EXTENDED);
    }
}
