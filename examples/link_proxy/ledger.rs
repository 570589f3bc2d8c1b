//! What crossed the link: connections, requests, bytes, and how many requests had to wait for each
//! other.
//!
//! A request's depth is one more than that of the deepest request whose answer was complete when it
//! was sent. The largest depth is the number of dependent round trips: an upper bound, because a
//! request that happens to be sent after an unrelated answer counts as if it had needed it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde::Serialize;

use crate::http::RequestHead;

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests of an earlier one are no longer looked at.
    generation: u64,
    since: Instant,
    counters: Counters,
    /// Depth of the deepest complete answer.
    answered: u64,
    entries: Vec<Entry>,
}

/// Sums since the last reset.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Counters {
    pub(crate) connections: u64,
    pub(crate) requests: u64,
    /// To the client, heads included.
    pub(crate) bytes: u64,
    /// From the client.
    pub(crate) bytes_sent: u64,
    /// Largest depth.
    pub(crate) round_trips: u64,
    /// Answers with status 400 and above.
    pub(crate) refused: u64,
}

/// One request.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    /// Milliseconds since the reset.
    pub(crate) sent_ms: f64,
    pub(crate) answered_ms: Option<f64>,
    pub(crate) depth: u64,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) range: Option<String>,
    pub(crate) status: Option<u16>,
    pub(crate) bytes: u64,
}

/// Names a request whose answer is to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    generation: u64,
    index: usize,
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        *state = State {
            generation: state.generation + 1,
            ..State::default()
        };
    }

    pub(crate) fn counters(&self) -> Counters {
        self.lock().counters
    }

    pub(crate) fn log(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    pub(crate) fn connected(&self) {
        self.lock().counters.connections += 1;
    }

    pub(crate) fn moved(&self, sent: usize, received: usize) {
        let mut state = self.lock();
        state.counters.bytes_sent += sent as u64;
        state.counters.bytes += received as u64;
    }

    pub(crate) fn sent(&self, head: RequestHead) -> Sent {
        let mut state = self.lock();
        let depth = state.answered + 1;
        state.counters.requests += 1;
        state.counters.round_trips = state.counters.round_trips.max(depth);
        let sent_ms = state.milliseconds();
        state.entries.push(Entry {
            sent_ms,
            answered_ms: None,
            depth,
            method: head.method,
            target: head.target,
            range: head.range,
            status: None,
            bytes: 0,
        });
        Sent {
            generation: state.generation,
            index: state.entries.len() - 1,
        }
    }

    /// An answer is complete.
    pub(crate) fn answered(&self, sent: Sent, status: u16, bytes: u64) {
        let mut state = self.lock();
        if state.generation != sent.generation {
            return;
        }
        let now = state.milliseconds();
        let Some(entry) = state.entries.get_mut(sent.index) else {
            return;
        };
        entry.answered_ms = Some(now);
        entry.status = Some(status);
        entry.bytes = bytes;
        let depth = entry.depth;
        state.answered = state.answered.max(depth);
        state.counters.refused += u64::from(status >= 400);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn milliseconds(&self) -> f64 {
        self.since.elapsed().as_secs_f64() * 1e3
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            generation: 0,
            since: Instant::now(),
            counters: Counters::default(),
            answered: 0,
            entries: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(ledger: &Ledger) -> Sent {
        ledger.sent(RequestHead {
            method: "GET".to_owned(),
            ..RequestHead::default()
        })
    }

    #[test]
    fn a_request_after_an_answer_is_one_deeper() {
        let ledger = Ledger::default();
        let first = get(&ledger);
        let beside = get(&ledger);
        ledger.answered(first, 200, 10);
        let second = get(&ledger);
        ledger.answered(beside, 404, 10);
        ledger.answered(second, 200, 10);
        let third = get(&ledger);
        let counters = ledger.counters();
        assert_eq!((counters.requests, counters.round_trips), (4, 3));
        assert_eq!(counters.refused, 1);

        // What was sent before a reset does not come back after it.
        ledger.reset();
        ledger.answered(third, 500, 10);
        get(&ledger);
        let counters = ledger.counters();
        assert_eq!((counters.requests, counters.round_trips), (1, 1));
        assert_eq!(counters.refused, 0);
    }
}
