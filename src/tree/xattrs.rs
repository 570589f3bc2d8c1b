//! Extended attributes, kept once for all inodes that have the same set.

use std::collections::HashMap;

use crate::index::Xattr;

/// The extended attributes of one inode, sorted by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xattrs<'t>(&'t [Xattr]);

/// Sets by number; number 0 is the empty set and is not stored.
#[derive(Debug, Default)]
pub(super) struct Table {
    sets: Vec<Box<[Xattr]>>,
}

/// A [`Table`] that is still growing.
#[derive(Debug, Default)]
pub(super) struct TableBuilder {
    numbers: HashMap<Box<[Xattr]>, u32>,
}

// === impl Xattrs ===

impl<'t> Xattrs<'t> {
    /// The value of `name`.
    #[must_use]
    pub fn value(self, name: &[u8]) -> Option<&'t [u8]> {
        let found = self.0.binary_search_by(|(key, _)| (**key).cmp(name));
        found.ok().map(|index| &*self.0[index].1)
    }

    /// Names and values.
    pub fn iter(self) -> impl ExactSizeIterator<Item = (&'t [u8], &'t [u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

// === impl Table ===

impl Table {
    pub(super) fn set(&self, number: u32) -> Xattrs<'_> {
        match number.checked_sub(1) {
            Some(index) => Xattrs(&self.sets[index as usize]),
            None => Xattrs(&[]),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let content = self.sets.iter().flat_map(|set| set.iter());
        let content: usize = content
            .map(|(name, value)| name.len() + value.len() + size_of::<Xattr>())
            .sum();
        content + self.sets.capacity() * size_of::<Box<[Xattr]>>()
    }
}

// === impl TableBuilder ===

impl TableBuilder {
    /// The number of this set. Of two attributes with one name the later counts.
    pub(super) fn number(&mut self, mut xattrs: Vec<Xattr>) -> u32 {
        xattrs.retain(|(name, _)| !name.starts_with(OVERLAY));
        if xattrs.is_empty() {
            return 0;
        }
        xattrs.reverse();
        xattrs.sort_by(|(one, _), (other, _)| one.cmp(other));
        xattrs.dedup_by(|(later, _), (kept, _)| later == kept);
        let next = u32::try_from(self.numbers.len() + 1).expect("fewer sets than inodes");
        *self.numbers.entry(xattrs.into()).or_insert(next)
    }

    /// The sets that are used, renumbered in the order of `used`, which is rewritten.
    pub(super) fn freeze<'a>(self, used: impl Iterator<Item = &'a mut u32>) -> Table {
        let mut sets: Vec<Option<Box<[Xattr]>>> = vec![None; self.numbers.len()];
        for (set, number) in self.numbers {
            sets[number as usize - 1] = Some(set);
        }
        let mut renumbered = vec![0_u32; sets.len()];
        let mut table = Table::default();
        for number in used {
            let Some(index) = number.checked_sub(1) else {
                continue;
            };
            if let Some(set) = sets[index as usize].take() {
                table.sets.push(set);
                let new = u32::try_from(table.sets.len()).expect("fewer sets than inodes");
                renumbered[index as usize] = new;
            }
            *number = renumbered[index as usize];
        }
        table.sets.shrink_to_fit();
        table
    }
}

/// Attributes with which overlayfs marks its own layers. An image cannot bring them: a tree is used
/// as the lower layer of an overlay, which would obey them.
const OVERLAY: &[u8] = b"trusted.overlay.";
