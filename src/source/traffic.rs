//! Counts what crosses the wire.

use std::sync::{Arc, atomic::AtomicU64};

use serde::Serialize;

use crate::measure::{add, load};

/// Requests and bytes of one repository (or of several that share it).
#[derive(Debug, Default)]
pub struct Traffic {
    requests: AtomicU64,
    bytes: AtomicU64,
    answers: [AtomicU64; AnswerClass::ALL.len()],
    /// What is counted there too.
    within: Vec<Arc<Traffic>>,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerClass {
    /// It was done.
    Success,
    /// It is elsewhere.
    Redirect,
    /// 401, 403, 404 and the like.
    Refusal,
    /// 5xx.
    Failure,
    /// There was no answer.
    Nothing,
}

/// [`Traffic`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrafficSnapshot {
    /// Requests sent, retries and token requests included.
    pub requests: u64,
    /// Body bytes received.
    pub bytes: u64,
}

// === impl Traffic ===

impl Traffic {
    /// Traffic that is part of other traffic and counted there too.
    #[must_use]
    pub fn within(others: impl IntoIterator<Item = Arc<Traffic>>) -> Self {
        Self {
            within: others.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Counts one request.
    pub fn request(&self) {
        add(&self.requests, 1);
        self.within.iter().for_each(|it| it.request());
    }

    /// Counts what came of a request.
    pub fn answer(&self, class: AnswerClass) {
        add(&self.answers[class as usize], 1);
        self.within.iter().for_each(|it| it.answer(class));
    }

    /// Counts body bytes.
    pub fn received(&self, bytes: usize) {
        add(&self.bytes, bytes as u64);
        self.within.iter().for_each(|it| it.received(bytes));
    }

    /// The counts so far.
    #[must_use]
    pub fn snapshot(&self) -> TrafficSnapshot {
        TrafficSnapshot {
            requests: load(&self.requests),
            bytes: load(&self.bytes),
        }
    }

    /// What came of requests so far.
    #[must_use]
    pub fn answers(&self) -> [(AnswerClass, u64); AnswerClass::ALL.len()] {
        AnswerClass::ALL.map(|class| (class, load(&self.answers[class as usize])))
    }
}

// === impl AnswerClass ===

impl AnswerClass {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Success,
        Self::Redirect,
        Self::Refusal,
        Self::Failure,
        Self::Nothing,
    ];

    /// The class of an HTTP status.
    #[must_use]
    pub fn of(status: u16) -> Self {
        match status {
            ..300 => Self::Success,
            300..400 => Self::Redirect,
            400..500 => Self::Refusal,
            500.. => Self::Failure,
        }
    }

    /// As metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "2xx",
            Self::Redirect => "3xx",
            Self::Refusal => "4xx",
            Self::Failure => "5xx",
            Self::Nothing => "none",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_counts_with_the_whole() {
        let (repository, host) = (Arc::<Traffic>::default(), Arc::<Traffic>::default());
        let part = Traffic::within([Arc::clone(&repository), Arc::clone(&host)]);
        let other = Traffic::within([Arc::clone(&host)]);
        part.request();
        part.received(7);
        part.answer(AnswerClass::of(206));
        other.request();
        other.answer(AnswerClass::of(404));
        let numbers = |it: &Traffic| (it.snapshot().requests, it.snapshot().bytes);
        assert_eq!(numbers(&part), (1, 7));
        assert_eq!(numbers(&repository), (1, 7));
        assert_eq!(numbers(&host), (2, 7));
        assert_eq!(host.answers().map(|(_, n)| n), [1, 0, 1, 0, 0]);
    }
}
