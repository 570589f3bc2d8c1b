//! How often containerd asked for what, how long it took, and what came of it.

use std::{
    array,
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use tonic::Code;

use super::error::SnapshotError;
use crate::measure::{Histogram, Times, add, load};

/// A method of the snapshots service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A snapshot to write to, or a lazy layer.
    Prepare,
    /// A snapshot to read.
    View,
    /// The mounts of one.
    Mounts,
    /// An active one becomes a committed one.
    Commit,
    /// One goes.
    Remove,
    /// What is known of one.
    Stat,
    /// Its labels change.
    Update,
    /// All of them.
    List,
    /// What one takes.
    Usage,
    /// What removed ones took is given back.
    Cleanup,
}

/// Counts operations.
#[derive(Debug, Default)]
pub struct Operations([Counted; Method::ALL.len()]);

#[derive(Debug, Default)]
struct Counted {
    took: Histogram,
    results: [AtomicU64; CODES.len()],
}

/// What was counted of one method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodCounts {
    /// The method.
    pub method: Method,
    /// How long it took, whatever came of it.
    pub took: Times,
    /// What came of it, by the name of the answer's gRPC code.
    pub results: [(&'static str, u64); CODES.len()],
}

/// The codes that the service answers with (see [`SnapshotError`]), and their names.
const CODES: [(Code, &str); 10] = [
    (Code::Ok, "ok"),
    (Code::AlreadyExists, "already_exists"),
    (Code::NotFound, "not_found"),
    (Code::FailedPrecondition, "failed_precondition"),
    (Code::InvalidArgument, "invalid_argument"),
    (Code::PermissionDenied, "permission_denied"),
    (Code::Unavailable, "unavailable"),
    (Code::DataLoss, "data_loss"),
    (Code::Internal, "internal"),
    // Whatever else there will be.
    (Code::Unknown, "unknown"),
];

// === impl Method ===

impl Method {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Prepare,
        Self::View,
        Self::Mounts,
        Self::Commit,
        Self::Remove,
        Self::Stat,
        Self::Update,
        Self::List,
        Self::Usage,
        Self::Cleanup,
    ];

    /// As logs and metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::View => "view",
            Self::Mounts => "mounts",
            Self::Commit => "commit",
            Self::Remove => "remove",
            Self::Stat => "stat",
            Self::Update => "update",
            Self::List => "list",
            Self::Usage => "usage",
            Self::Cleanup => "cleanup",
        }
    }
}

// === impl Operations ===

impl Operations {
    /// Counts one, and logs what failed for reasons of ours; the rest is the protocol's normal
    /// course.
    pub(super) fn told<T>(
        &self,
        method: Method,
        key: &str,
        begin: Instant,
        result: Result<T, SnapshotError>,
    ) -> Result<T, tonic::Status> {
        let took = begin.elapsed();
        let answer = result.map_err(|error| {
            log(method, key, took, &error);
            tonic::Status::from(error)
        });
        let code = answer.as_ref().err().map_or(Code::Ok, tonic::Status::code);
        let counted = &self.0[method as usize];
        counted.took.record(took);
        let known = CODES.iter().position(|(known, _)| *known == code);
        add(&counted.results[known.unwrap_or(CODES.len() - 1)], 1);
        answer
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> Vec<MethodCounts> {
        let counts = |method: Method| {
            let counted = &self.0[method as usize];
            MethodCounts {
                method,
                took: counted.took.times(),
                results: array::from_fn(|i| (CODES[i].1, load(&counted.results[i]))),
            }
        };
        Method::ALL.into_iter().map(counts).collect()
    }
}

fn log(method: Method, key: &str, took: Duration, error: &SnapshotError) {
    let (method, seconds) = (method.as_str(), took.as_secs_f64());
    match error {
        SnapshotError::Other(error) => tracing::warn!(
            event = "operation_failed",
            operation = method,
            key,
            kind = error.kind().as_str(),
            seconds,
            %error,
            "refused"
        ),
        other => tracing::debug!(operation = method, key, seconds, error = %other, "refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn an_operation_is_counted_by_what_came_of_it() {
        let operations = Operations::default();
        let begin = Instant::now();
        let told = |result| operations.told(Method::Prepare, "k", begin, result);
        told(Ok(())).unwrap();
        for _ in 0..2 {
            told(Err(SnapshotError::AlreadyExists("a".into()))).unwrap_err();
        }
        told(Err(Error::denied("a").into())).unwrap_err();
        let counts = operations.counts();
        let prepare = &counts[0];
        assert_eq!((prepare.method, prepare.took.count()), (Method::Prepare, 4));
        let some: Vec<_> = prepare
            .results
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .collect();
        assert_eq!(
            some,
            [("ok", 1), ("already_exists", 2), ("permission_denied", 1)]
        );
        assert!(counts[1..].iter().all(|it| it.took.count() == 0));
    }
}
