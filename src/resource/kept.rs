//! Secrets that are kept in memory for a bounded time: a broker or a provider need not be asked for
//! each of several layers and mounts.
//!
//! Only answers are kept, never refusals. What is kept is wiped when its time is over, asked for or
//! not.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Keeps secrets by the SHA-256 of the question that they answer. Cheap to clone; clones keep the same.
#[derive(Clone)]
pub struct Kept {
    time: Duration,
    held: Arc<Mutex<HashMap<Key, Held>>>,
}

pub(crate) type Key = [u8; 32];

struct Held {
    secret: Zeroizing<Vec<u8>>,
    until: Instant,
}

/// Most that are kept; the oldest makes room.
const MOST: usize = 1024;

// === impl Kept ===

impl Kept {
    /// Keeps each for `time`; nothing at all if that is zero.
    #[must_use]
    pub fn new(time: Duration) -> Self {
        Self {
            time,
            held: Arc::default(),
        }
    }

    /// The key of a question that has these parts.
    pub(crate) fn key(parts: &[&[u8]]) -> Key {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    /// What was kept, unless its time is over.
    pub(crate) fn find(&self, key: &Key) -> Option<Zeroizing<Vec<u8>>> {
        self.find_at(key, Instant::now())
    }

    fn find_at(&self, key: &Key, now: Instant) -> Option<Zeroizing<Vec<u8>>> {
        let mut held = self.lock();
        held.retain(|_, it| it.until > now);
        held.get(key).map(|it| it.secret.clone())
    }

    /// Keeps a copy of `secret`.
    pub(crate) fn keep(&self, key: Key, secret: &Zeroizing<Vec<u8>>) {
        if self.time.is_zero() {
            return;
        }
        self.keep_at(key, secret.clone(), Instant::now());
        // Without a runtime the process does one thing and ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (held, time) = (Arc::downgrade(&self.held), self.time);
            runtime.spawn(async move {
                tokio::time::sleep(time).await;
                if let Some(held) = held.upgrade() {
                    let now = Instant::now();
                    locked(&held).retain(|_, it| it.until > now);
                }
            });
        }
    }

    fn keep_at(&self, key: Key, secret: Zeroizing<Vec<u8>>, now: Instant) {
        let until = now + self.time;
        let mut held = self.lock();
        held.retain(|_, it| it.until > now);
        if held.len() >= MOST
            && !held.contains_key(&key)
            && let Some(oldest) = held
                .iter()
                .min_by_key(|(_, it)| it.until)
                .map(|(key, _)| *key)
        {
            held.remove(&oldest);
        }
        held.insert(key, Held { secret, until });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Held>> {
        locked(&self.held)
    }
}

fn locked(held: &Mutex<HashMap<Key, Held>>) -> MutexGuard<'_, HashMap<Key, Held>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Kept {
    /// Keeps nothing.
    fn default() -> Self {
        Self::new(Duration::ZERO)
    }
}

impl fmt::Debug for Kept {
    /// Says how many, and nothing of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({} for {:?})", self.lock().len(), self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(vec![byte])
    }

    #[test]
    fn kept_for_its_time_and_no_longer() {
        let kept = Kept::new(Duration::from_secs(10));
        let (key, now) = (Kept::key(&[b"a"]), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        kept.keep_at(key, secret(1), now);
        assert_eq!(kept.find_at(&key, after(9)), Some(secret(1)));
        assert_eq!(kept.find_at(&Kept::key(&[b"b"]), after(9)), None);
        kept.keep_at(key, secret(2), after(9));
        assert_eq!(kept.find_at(&key, after(18)), Some(secret(2)));
        assert_eq!(kept.find_at(&key, after(19)), None);
        assert!(kept.lock().is_empty());

        let none = Kept::new(Duration::ZERO);
        none.keep(key, &secret(1));
        assert_eq!(none.find(&key), None);
    }

    #[test]
    fn the_oldest_makes_room() {
        let kept = Kept::new(Duration::from_secs(10));
        let now = Instant::now();
        let key = |n: usize| Kept::key(&[&n.to_be_bytes()]);
        for n in 0..=MOST {
            kept.keep_at(key(n), secret(1), now + Duration::from_millis(n as u64));
        }
        let late = now + Duration::from_millis(MOST as u64);
        assert_eq!(kept.find_at(&key(0), late), None);
        assert!(kept.find_at(&key(1), late).is_some());
        assert!(kept.find_at(&key(MOST), late).is_some());
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(Kept::key(&[b"ab", b"c"]), Kept::key(&[b"a", b"bc"]));
        assert_ne!(Kept::key(&[b"ab"]), Kept::key(&[b"ab", b""]));
    }

    #[tokio::test]
    async fn wiped_though_nobody_asks() {
        let kept = Kept::new(Duration::from_millis(20));
        kept.keep(Kept::key(&[b"a"]), &secret(1));
        assert_eq!(kept.lock().len(), 1);
        let wiped = async {
            while !kept.lock().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let patience = Duration::from_secs(60);
        tokio::time::timeout(patience, wiped).await.unwrap();
    }
}
