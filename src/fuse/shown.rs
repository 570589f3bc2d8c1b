//! What a session shows, and what is under way in it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::engine::ReadFile;
use crate::error::Error;
use crate::tree::Tree;

/// A tree with its bytes, or none yet: a session that was taken over from another process may have
/// to answer before its image is open. What is shown once stays.
#[derive(Default)]
pub struct Shown {
    content: OnceLock<(Arc<Tree>, Arc<dyn ReadFile>)>,
    /// Why there is nothing.
    missing: Mutex<Option<Error>>,
}

/// Counts reads that have not been answered; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Reads(Arc<Counter>);

#[derive(Debug, Default)]
struct Counter {
    count: AtomicUsize,
    /// Locked to change `waiting`, and by the last read while somebody waits.
    waiting: Mutex<()>,
    none: Condvar,
}

/// One read under way.
#[derive(Debug)]
pub(crate) struct Read(Arc<Counter>);

// === impl Shown ===

impl Shown {
    /// Shows a tree, if none is shown yet.
    pub fn show(&self, tree: Arc<Tree>, reader: Arc<dyn ReadFile>) {
        // A second tree could only be the same.
        let _ = self.content.set((tree, reader));
    }

    /// Whether there is something to show.
    pub fn is_set(&self) -> bool {
        self.content.get().is_some()
    }

    /// Notes why there is nothing to show, for the log.
    pub fn missing(&self, why: Error) {
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    pub(super) fn tree(&self) -> Option<&Arc<Tree>> {
        self.content.get().map(|(tree, _)| tree)
    }

    pub(super) fn reader(&self) -> Option<&Arc<dyn ReadFile>> {
        self.content.get().map(|(_, reader)| reader)
    }

    /// Why there is nothing to show, as text.
    pub(super) fn why(&self) -> String {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing
            .as_ref()
            .map_or_else(|| "image is not open".to_owned(), ToString::to_string)
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown")
            .field("set", &self.is_set())
            .finish()
    }
}

// === impl Reads ===

impl Reads {
    /// Waits until no read is under way; `false` if that is not so within `timeout`.
    #[must_use]
    pub fn wait_none(&self, timeout: Duration) -> bool {
        let counter = &self.0;
        let waiting = counter
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let busy = |(): &mut ()| counter.count.load(Ordering::SeqCst) > 0;
        let waited = counter.none.wait_timeout_while(waiting, timeout, busy);
        let (_waiting, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }

    pub(crate) fn begin(&self) -> Read {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        Read(Arc::clone(&self.0))
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Under the lock, so that it does not fall between a look at the count and the wait.
            let _waiting = self
                .0
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.0.none.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_read_ends_the_wait() {
        let reads = Reads::default();
        assert!(reads.wait_none(Duration::ZERO));
        let (one, two) = (reads.begin(), reads.begin());
        assert!(!reads.wait_none(Duration::from_millis(1)));
        drop(one);
        assert!(!reads.wait_none(Duration::from_millis(1)));
        let waiting = std::thread::spawn(move || reads.wait_none(Duration::from_secs(60)));
        drop(two);
        assert!(waiting.join().unwrap());
    }
}
