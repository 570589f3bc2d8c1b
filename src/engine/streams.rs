//! Recognises sequential readers: what to fetch ahead of them doubles with every refill.

use std::{
    num::NonZeroUsize,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;

/// Files watched at a time; the least recently read is forgotten.
const WATCHED: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not 0");

/// Sequential readers, per file (layer, first chunk).
#[derive(Debug)]
pub(super) struct Streams {
    max: u64,
    files: Mutex<LruCache<(u16, u32), Stream>>,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    /// Where the next sequential read would begin.
    next: u64,
    /// Bytes of the file that the last refill fetched ahead; 0 while not sequential.
    window: u64,
    /// End of what has been fetched ahead.
    ahead: u64,
}

// === impl Streams ===

impl Streams {
    /// Windows double up to `max`; none are if that is 0.
    pub(super) fn new(max: u64) -> Self {
        Self {
            max,
            files: Mutex::new(LruCache::new(WATCHED)),
        }
    }

    /// Notes a read of the file and gives the file bytes to fetch ahead now, if any: a window is
    /// refilled when the reader has used half of it. Kernel readahead sends neighbouring requests
    /// out of order, so a read near the expected place counts as sequential. The window begins at
    /// `first` bytes, or what two reads take, with the second sequential read; not yet
    /// if there is none.
    pub(super) fn note(
        &self,
        file: (u16, u32),
        offset: u64,
        length: u32,
        first: Option<u64>,
    ) -> Option<Range<u64>> {
        if self.max == 0 {
            return None;
        }
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset.saturating_add(length.into());
        let slack = u64::from(length) * 4;
        let sequential = files
            .get(&file)
            .filter(|s| offset.abs_diff(s.next) <= slack);
        let Some(&Stream {
            next,
            window,
            ahead,
        }) = sequential
        else {
            files.put(
                file,
                Stream {
                    next: end,
                    window: 0,
                    ahead: end,
                },
            );
            return None;
        };
        let next = next.max(end);
        let refill = match window {
            0 => first.is_some(),
            _ => ahead < next.saturating_add(window / 2),
        };
        if !refill {
            files.put(
                file,
                Stream {
                    next,
                    window,
                    ahead,
                },
            );
            return None;
        }
        let window = if window == 0 {
            let first = first.unwrap_or_default();
            first.max(u64::from(length) * 2).min(self.max)
        } else {
            (window * 2).min(self.max)
        };
        let to_fetch = ahead.max(next)..next.saturating_add(window).max(ahead);
        files.put(
            file,
            Stream {
                next,
                window,
                ahead: to_fetch.end,
            },
        );
        (!to_fetch.is_empty()).then_some(to_fetch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_while_sequential_and_falls_back_when_not() {
        let streams = Streams::new(350);
        let note = |offset| streams.note((0, 1), offset, 10, Some(100));
        assert_eq!(note(0), None);
        assert_eq!(note(20), Some(30..130), "out of order within the slack");
        assert_eq!(note(10), None, "most of the window is unread");
        assert_eq!(note(40), None);
        assert_eq!(note(75), Some(130..285), "half is used");
        assert_eq!(note(5000), None);
        assert_eq!(note(5010), Some(5020..5120));
        assert_eq!(
            streams.note((0, 2), 5020, 10, Some(100)),
            None,
            "another file"
        );
    }
}
