//! Root hashes as dm-verity has them (docs/formats/erofs.md, "Root hashes"): a tree of SHA-256 over blocks of 4096
//! bytes, `veritysetup --format=1`.

use sha2::{Digest as _, Sha256};

use crate::erofs::BLOCK;

/// Hashes a device as it comes, in memory for one block a level.
#[derive(Debug)]
pub(super) struct Verity {
    salt: Vec<u8>,
    /// What has come of a block of the device.
    block: Vec<u8>,
    levels: Vec<Level>,
    blocks: u64,
}

/// The root hash of a device, and what it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) blocks: u64,
    pub(super) hash: [u8; 32],
}

/// Hashes of a block that is not full yet, and how many there were in all.
#[derive(Debug, Default)]
struct Level {
    hashes: Vec<u8>,
    count: u64,
}

const BLOCK_BYTES: usize = 4096;
const _: () = assert!(BLOCK_BYTES as u64 == BLOCK);

// === impl Verity ===

impl Verity {
    pub(super) fn new(salt: &[u8]) -> Self {
        Self {
            salt: salt.to_vec(),
            block: Vec::with_capacity(BLOCK_BYTES),
            levels: Vec::new(),
            blocks: 0,
        }
    }

    /// Takes the next bytes of the device.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.block.is_empty() && bytes.len() >= BLOCK_BYTES {
                let (block, rest) = bytes.split_at(BLOCK_BYTES);
                let hash = self.hash(block);
                self.take(hash);
                bytes = rest;
                continue;
            }
            let wanted = (BLOCK_BYTES - self.block.len()).min(bytes.len());
            let (some, rest) = bytes.split_at(wanted);
            self.block.extend_from_slice(some);
            bytes = rest;
            if self.block.len() == BLOCK_BYTES {
                let hash = self.hash(&self.block);
                self.block.clear();
                self.take(hash);
            }
        }
    }

    /// The root of all that came. A device has whole blocks, and at least one: what is missing counts
    /// as zeros.
    pub(super) fn finish(mut self) -> Root {
        if !self.block.is_empty() || self.blocks == 0 {
            let missing = BLOCK_BYTES - self.block.len();
            self.update(&vec![0; missing]);
        }
        let mut number = 0;
        loop {
            let level = &self.levels[number];
            // Whatever is alone at its level is the root.
            if level.count == 1 {
                let hash = level.hashes.as_slice().try_into();
                return Root {
                    blocks: self.blocks,
                    hash: hash.expect("one hash of 32 bytes is there"),
                };
            }
            if !level.hashes.is_empty() {
                self.close(number);
            }
            number += 1;
        }
    }

    fn take(&mut self, hash: [u8; 32]) {
        self.blocks += 1;
        self.push(0, hash);
    }

    fn push(&mut self, number: usize, hash: [u8; 32]) {
        if self.levels.len() == number {
            self.levels.push(Level::default());
        }
        let level = &mut self.levels[number];
        level.hashes.extend_from_slice(&hash);
        level.count += 1;
        if level.hashes.len() == BLOCK_BYTES {
            self.close(number);
        }
    }

    /// Hashes the block of a level, which the next one takes.
    fn close(&mut self, number: usize) {
        let mut block = std::mem::take(&mut self.levels[number].hashes);
        block.resize(BLOCK_BYTES, 0);
        let hash = self.hash(&block);
        self.push(number + 1, hash);
    }

    fn hash(&self, block: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(&self.salt);
        hash.update(block);
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(salt: &[u8], device: &[u8], piece: usize) -> Root {
        let mut verity = Verity::new(salt);
        for bytes in device.chunks(piece) {
            verity.update(bytes);
        }
        verity.finish()
    }

    fn device(blocks: usize) -> Vec<u8> {
        let block = |n: usize| vec![u8::try_from(n % 251).unwrap(); BLOCK_BYTES];
        (0..blocks).flat_map(block).collect()
    }

    /// As the kernel's documentation has it, level by level.
    fn plain(salt: &[u8], device: &[u8]) -> [u8; 32] {
        let hash = |block: &[u8]| -> [u8; 32] {
            let mut padded = block.to_vec();
            padded.resize(BLOCK_BYTES, 0);
            Sha256::digest([salt, &padded].concat()).into()
        };
        let mut hashes: Vec<[u8; 32]> = device.chunks(BLOCK_BYTES).map(hash).collect();
        while hashes.len() > 1 {
            hashes = hashes
                .chunks(128)
                .map(|some| hash(&some.concat()))
                .collect();
        }
        hashes[0]
    }

    #[test]
    fn roots_are_those_of_the_levels() {
        for blocks in [1, 2, 127, 128, 129, 128 * 128, 128 * 128 + 1] {
            let device = device(blocks);
            // A third level is the same with and without.
            let salts = [&b"salt"[..], b""];
            for salt in &salts[..if blocks > 200 { 1 } else { 2 }] {
                let root = root(salt, &device, 1 << 20);
                assert_eq!(root.blocks, blocks as u64);
                assert_eq!(root.hash, plain(salt, &device), "{blocks} blocks");
            }
        }
    }

    #[test]
    fn pieces_and_missing_bytes_do_not_matter() {
        let device = device(130);
        let whole = root(b"", &device, device.len());
        for piece in [1000, 4095, 4097, 65536] {
            assert_eq!(root(b"", &device, piece), whole);
        }
        let mut cut = device.clone();
        cut.truncate(129 * BLOCK_BYTES + 1);
        let mut filled = cut.clone();
        filled.resize(device.len(), 0);
        assert_eq!(root(b"", &cut, 4096), root(b"", &filled, 4096));
        assert_eq!(root(b"", b"", 1), root(b"", &[0; BLOCK_BYTES], 1));
    }

    #[test]
    fn every_bit_counts() {
        let whole = device(129);
        let good = root(b"", &whole, 4096);
        for at in [0, 4096, 128 * 4096 + 4095] {
            let mut other = whole.clone();
            other[at] ^= 1;
            assert_ne!(root(b"", &other, 4096).hash, good.hash);
        }
        assert_ne!(root(b"x", &whole, 4096).hash, good.hash);
    }
}
