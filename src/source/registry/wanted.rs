//! What is still to come of a read: ascending ranges, cut out of what an answer sends.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;

/// Ranges of a blob that have not come yet, the next one first; none is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted(VecDeque<Range<u64>>);

/// What a piece of an answer is to those who want ranges.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// It begins with, or after a few bytes has, what comes next. The rest may have more.
    Next { bytes: Bytes, rest: Bytes },
    /// It lies before what comes next.
    Before,
    /// It begins behind the start of what comes next: the answer left something out.
    Behind,
}

// === impl Wanted ===

impl Wanted {
    pub(super) fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        Self(ranges.into_iter().filter(|r| !r.is_empty()).collect())
    }

    /// The first `count` of them.
    pub(super) fn first(&self, count: usize) -> Self {
        Self(self.0.iter().take(count).cloned().collect())
    }

    /// The first ones whose gaps are at most so wide, as one range with the gaps in it.
    pub(super) fn joined(&self, gap: u64) -> Option<Range<u64>> {
        let mut ranges = self.0.iter();
        let mut all = ranges.next()?.clone();
        for range in ranges {
            if range.start - all.end > gap {
                break;
            }
            all.end = range.end;
        }
        Some(all)
    }

    /// The only one, if there is just one.
    pub(super) fn only(&self) -> Option<&Range<u64>> {
        self.next().filter(|_| self.0.len() == 1)
    }

    /// What comes next.
    pub(super) fn next(&self) -> Option<&Range<u64>> {
        self.0.front()
    }

    /// Where what is wanted ends.
    pub(super) fn end(&self) -> u64 {
        self.0.back().map_or(0, |range| range.end)
    }

    /// Bytes of all of them.
    pub(super) fn length(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }

    /// Cuts what comes next out of a piece that begins at `at`.
    pub(super) fn cut(&self, at: u64, mut piece: Bytes) -> Cut {
        let Some(next) = self.next() else {
            return Cut::Before;
        };
        let Some(before) = next.start.checked_sub(at) else {
            return Cut::Behind;
        };
        let before = usize::try_from(before).unwrap_or(usize::MAX);
        if before >= piece.len() {
            return Cut::Before;
        }
        let mut bytes = piece.split_off(before);
        let length = usize::try_from(next.end - next.start).unwrap_or(usize::MAX);
        let rest = bytes.split_off(length.min(bytes.len()));
        Cut::Next { bytes, rest }
    }

    /// So many bytes of what comes next have come.
    pub(super) fn came(&mut self, bytes: usize) {
        if let Some(next) = self.0.front_mut() {
            next.start += bytes as u64;
            if next.is_empty() {
                self.0.pop_front();
            }
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "a list of one range is meant"
)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_out_as_they_come() {
        let blob: Vec<u8> = (0..100).collect();
        for step in [1, 3, 7, 100] {
            let mut wanted = Wanted::new([5..10, 10..10, 12..20, 60..61]);
            let mut got = Vec::new();
            let mut at = 2;
            for piece in blob[2..].chunks(step) {
                let mut piece = Bytes::copy_from_slice(piece);
                let end = at + piece.len() as u64;
                while let Cut::Next { bytes, rest } = wanted.cut(at, piece.clone()) {
                    got.extend_from_slice(&bytes);
                    wanted.came(bytes.len());
                    at = end - rest.len() as u64;
                    piece = rest;
                }
                at = end;
            }
            let want = [&blob[5..10], &blob[12..20], &blob[60..61]].concat();
            assert_eq!((got, wanted.next()), (want, None), "steps of {step}");
        }
    }

    #[test]
    fn what_was_left_out_is_told() {
        let wanted = Wanted::new([10..20]);
        let piece = Bytes::from_static(b"abc");
        assert_eq!(wanted.cut(7, piece.clone()), Cut::Before);
        assert_eq!(wanted.cut(11, piece.clone()), Cut::Behind);
        let next = |bytes, rest| Cut::Next {
            bytes: Bytes::from_static(bytes),
            rest: Bytes::from_static(rest),
        };
        assert_eq!(wanted.cut(9, piece.clone()), next(b"bc", b""));
        assert_eq!(Wanted::new([10..11]).cut(9, piece), next(b"b", b"c"));
    }

    #[test]
    fn near_ones_are_joined() {
        let wanted = Wanted::new([0..5, 10..20, 100..110]);
        assert_eq!(wanted.joined(4), Some(0..5));
        assert_eq!(wanted.joined(5), Some(0..20));
        assert_eq!(wanted.joined(80), Some(0..110));
        assert_eq!(wanted.end(), 110);
        assert_eq!(Wanted::new([3..3]).joined(0), None);
        assert_eq!(Wanted::new([3..4]).only(), Some(&(3..4)));
        assert_eq!(wanted.only(), None);
    }
}
