//! The table of one layer: what writer and reader agree on.

use crate::index::{Algorithm, Codec, EntryKind, LayerIndex};

/// What the artifact knows of one layer.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    /// Its files, chunks and units.
    pub index: LayerIndex,
    /// Bytes of its tar; where nobody has counted them, those that its files need.
    pub tar_size: u64,
    /// SHA-256 of its tar, which whoever made the index has checked.
    pub diff_id: [u8; 32],
}

/// The columns of a table, in their order.
#[derive(Clone, Copy)]
pub(super) enum Column {
    /// Distinct kinds, modes and owners.
    Owners,
    /// Distinct sets of extended attributes.
    Xattrs,
    /// Paths, each without what it has in common with the one before.
    Names,
    /// For every entry the numbers of its owner and its attributes.
    Numbers,
    /// Modification times.
    Times,
    /// What only the entry's kind has.
    Details,
    /// Lengths and places of chunks.
    Places,
    /// Units, or the checkpoints that they begin at.
    Units,
    /// Digests of the chunks that are not holes.
    Digests,
}

/// Kind of an entry, as the table writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    Regular,
    Symlink,
    Hardlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// Longest table before compression: about two million files.
pub(super) const MAX_TABLE: usize = 160 << 20;
/// Longest that all paths and attributes of a layer may be when they are written out: front coding
/// and numbers let a short table name the same bytes again and again.
pub(super) const MAX_TEXT: usize = 160 << 20;

/// Digests of chunks, by their numbers.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Blake3];
/// What units are, by its number.
const CODECS: [Codec; 4] = [Codec::Raw, Codec::Gzip, Codec::Zstd, Codec::Deflate];

pub(super) fn algorithm_byte(algorithm: Algorithm) -> u8 {
    number_of(&ALGORITHMS, algorithm)
}

pub(super) fn algorithm_of(byte: u8) -> Option<Algorithm> {
    ALGORITHMS.get(usize::from(byte)).copied()
}

pub(super) fn codec_byte(codec: Codec) -> u8 {
    number_of(&CODECS, codec)
}

pub(super) fn codec_of(byte: u8) -> Option<Codec> {
    CODECS.get(usize::from(byte)).copied()
}

fn number_of<T: PartialEq>(all: &[T], wanted: T) -> u8 {
    (0..)
        .zip(all)
        .find_map(|(number, it)| (*it == wanted).then_some(number))
        .unwrap_or(u8::MAX)
}

// === impl Column ===

impl Column {
    pub(super) const COUNT: usize = 9;
}

// === impl Kind ===

impl Kind {
    const ALL: [Self; 7] = [
        Self::Directory,
        Self::Regular,
        Self::Symlink,
        Self::Hardlink,
        Self::CharDevice,
        Self::BlockDevice,
        Self::Fifo,
    ];

    pub(super) fn of(kind: &EntryKind) -> Self {
        match kind {
            EntryKind::Directory => Self::Directory,
            EntryKind::Regular { .. } => Self::Regular,
            EntryKind::Symlink(_) => Self::Symlink,
            EntryKind::Hardlink(_) => Self::Hardlink,
            EntryKind::CharDevice { .. } => Self::CharDevice,
            EntryKind::BlockDevice { .. } => Self::BlockDevice,
            EntryKind::Fifo => Self::Fifo,
        }
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}
