//! Directories as blocks of entries: numbers first, then the names, all in the order of bytes, so
//! that the kernel can search by halves.

use std::iter::Peekable;

use super::disk::file_type;
use crate::erofs::BLOCK;
use crate::tree::{Ino, Kind, Tree};

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<'t> {
    pub(super) name: &'t [u8],
    pub(super) ino: Ino,
    pub(super) kind: Kind,
}

/// `.` and `..` among the children of a directory, where their names belong.
struct Entries<D: Iterator, C: Iterator> {
    dots: Peekable<D>,
    children: Peekable<C>,
}

/// Bytes of all blocks of directory `ino`; the last is as long as what it holds.
pub(super) fn size(tree: &Tree, ino: Ino) -> u64 {
    let (mut whole, mut used) = (0, 0);
    for entry in entries(tree, ino) {
        let need = NUMBER + entry.name.len();
        if used + need > BLOCK_BYTES {
            whole += 1;
            used = 0;
        }
        used += need;
    }
    whole * BLOCK + used as u64
}

/// The blocks of directory `ino`, the last as long as what it holds. `slot` gives the number of an
/// inode in the image.
pub(super) fn blocks(
    tree: &Tree,
    ino: Ino,
    slot: impl Fn(Ino) -> u64,
) -> impl Iterator<Item = Vec<u8>> {
    let mut entries = entries(tree, ino).peekable();
    std::iter::from_fn(move || {
        let (mut taken, mut used) = (Vec::new(), 0);
        while let Some(entry) = entries.next_if(|it| used + NUMBER + it.name.len() <= BLOCK_BYTES) {
            used += NUMBER + entry.name.len();
            taken.push(entry);
        }
        (!taken.is_empty()).then(|| {
            let mut block = vec![0; used];
            fill(&taken, &slot, &mut block);
            if entries.peek().is_some() {
                block.resize(BLOCK_BYTES, 0);
            }
            block
        })
    })
}

fn fill(entries: &[Entry<'_>], slot: impl Fn(Ino) -> u64, block: &mut [u8]) {
    let mut name_at = entries.len() * NUMBER;
    for (index, entry) in entries.iter().enumerate() {
        let number = &mut block[index * NUMBER..][..NUMBER];
        let offset = u16::try_from(name_at).expect("a name is inside its block");
        number[..8].copy_from_slice(&slot(entry.ino).to_le_bytes());
        number[8..10].copy_from_slice(&offset.to_le_bytes());
        number[10] = file_type(entry.kind);
        block[name_at..][..entry.name.len()].copy_from_slice(entry.name);
        name_at += entry.name.len();
    }
}

fn entries(tree: &Tree, ino: Ino) -> impl Iterator<Item = Entry<'_>> {
    let dot = |name, ino| Entry {
        name,
        ino,
        kind: Kind::Directory,
    };
    let dots = [dot(&b"."[..], ino), dot(&b".."[..], tree.parent(ino))];
    let children = tree.children(ino).map(|child| Entry {
        name: child.name,
        ino: child.ino,
        kind: child.kind,
    });
    Entries {
        dots: dots.into_iter().peekable(),
        children: children.peekable(),
    }
}

// === impl Entries ===

impl<'t, D, C> Iterator for Entries<D, C>
where
    D: Iterator<Item = Entry<'t>>,
    C: Iterator<Item = Entry<'t>>,
{
    type Item = Entry<'t>;

    fn next(&mut self) -> Option<Entry<'t>> {
        match (self.dots.peek(), self.children.peek()) {
            (Some(dot), Some(child)) if child.name < dot.name => self.children.next(),
            (Some(_), _) => self.dots.next(),
            (None, _) => self.children.next(),
        }
    }
}

/// Bytes of an entry without its name.
const NUMBER: usize = 12;
const BLOCK_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{Entry as IndexEntry, EntryKind};

    fn tree(names: &[&[u8]]) -> Tree {
        let entries = names.iter().map(|name| IndexEntry {
            path: (*name).into(),
            kind: EntryKind::Fifo,
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_nanos: 0,
            xattrs: Vec::new(),
        });
        Tree::merge(vec![entries.collect()]).unwrap()
    }

    /// Names, read back as the kernel reads them.
    fn names(block: &[u8]) -> Vec<Vec<u8>> {
        let offset = |index: usize| {
            let at = index * NUMBER + 8;
            usize::from(u16::from_le_bytes([block[at], block[at + 1]]))
        };
        let count = offset(0) / NUMBER;
        let name = |index: usize| {
            if index + 1 < count {
                return block[offset(index)..offset(index + 1)].to_vec();
            }
            let rest = &block[offset(index)..];
            let end = rest.iter().position(|&byte| byte == 0);
            rest[..end.unwrap_or(rest.len())].to_vec()
        };
        (0..count).map(name).collect()
    }

    #[test]
    fn dots_are_sorted_among_the_others() {
        let tree = tree(&[b"!", b"-", b".-", b"...", b".a", b"0", b"\xff"]);
        let order: Vec<_> = entries(&tree, Ino::ROOT).map(|it| it.name).collect();
        let expected: [&[u8]; 9] = [b"!", b"-", b".", b".-", b"..", b"...", b".a", b"0", b"\xff"];
        assert_eq!(order, expected);
        assert!(order.is_sorted());
    }

    #[test]
    fn an_empty_directory_has_its_dots() {
        let tree = tree(&[]);
        let blocks: Vec<_> = blocks(&tree, Ino::ROOT, Ino::number).collect();
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks[0].len(), 2 * NUMBER + 3);
        assert_eq!(names(&blocks[0]), [&b"."[..], b".."]);
        assert_eq!(size(&tree, Ino::ROOT), blocks[0].len() as u64);
    }

    #[test]
    fn names_of_every_length_are_read_back_from_blocks() {
        for length in [1, 2, 7, 100, 254, 255] {
            let all: Vec<Vec<u8>> = (0_u32..700)
                .map(|number| {
                    let mut name = format!("{number:03}").into_bytes();
                    name.resize(length.max(3), b'x');
                    name
                })
                .collect();
            let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
            let tree = tree(&all);
            let blocks: Vec<_> = blocks(&tree, Ino::ROOT, Ino::number).collect();
            let (last, whole) = blocks.split_last().unwrap();
            assert!(whole.iter().all(|it| it.len() == BLOCK_BYTES));
            let bytes: usize = blocks.iter().map(Vec::len).sum();
            assert_eq!(size(&tree, Ino::ROOT), bytes as u64);
            assert!(last.len() <= BLOCK_BYTES);
            let mut read: Vec<_> = blocks.iter().flat_map(|it| names(it)).collect();
            assert!(read.is_sorted());
            read.retain(|name| name.first() != Some(&b'.'));
            assert_eq!(read, all, "length {length}");
        }
    }
}
