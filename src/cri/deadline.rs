//! How long a caller waits: the header `grpc-timeout`.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Status, codegen::http::HeaderMap};

/// When the caller gives up, if it said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Option<(Instant, Duration)>);

/// Longest number of digits (gRPC over HTTP/2).
const MAX_DIGITS: usize = 8;

// === impl Deadline ===

impl Deadline {
    /// Counts from now.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = headers.get("grpc-timeout").and_then(|it| it.to_str().ok());
        let timeout = text.and_then(parse);
        Self(timeout.and_then(|it| Some((Instant::now().checked_add(it)?, it))))
    }

    /// Waits for `work` until then.
    ///
    /// # Errors
    /// `DeadlineExceeded`, or what `work` says.
    pub(super) async fn bound<T>(
        self,
        method: &str,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let Some((at, after)) = self.0 else {
            return work.await;
        };
        let late = || {
            Status::deadline_exceeded(format!("{method}: no answer from containerd in {after:?}"))
        };
        // The clock comes first: containerd and the connection to it have one of their own for this,
        // and may call it by another name.
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(at) => Err(late()),
            result = work => result,
        }
    }
}

/// A number and a unit; `None` if it is something else, which containerd may complain about.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > MAX_DIGITS || !digits.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        let table = [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("1500m", Some(Duration::from_millis(1500))),
            ("7u", Some(Duration::from_micros(7))),
            ("8n", Some(Duration::from_nanos(8))),
            ("", None),
            ("S", None),
            ("100000000S", None),
            ("-1S", None),
            ("1", None),
            ("1x", None),
            ("1\u{e9}", None),
        ];
        for (text, want) in table {
            assert_eq!(parse(text), want, "{text:?}");
        }
    }
}
