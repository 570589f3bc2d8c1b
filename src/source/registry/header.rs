//! Response headers that decide what a body is: `Content-Range`, `Retry-After`, `Link`.
//!
//! Pure parsers of text that a server chose; whatever is not understood is `None`, never a guess.

use std::time::Duration;

use time::{OffsetDateTime, PrimitiveDateTime, macros::format_description};

/// `Content-Range: bytes START-LAST/TOTAL` or `bytes */TOTAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentRange {
    /// The body is bytes `start..end` of a whole that has `total` bytes, if it was said.
    Part {
        start: u64,
        end: u64,
        total: Option<u64>,
    },
    /// No such range; the whole has this many bytes.
    Unsatisfied { total: u64 },
}

/// Reads a `Content-Range`.
pub(crate) fn content_range(text: &str) -> Option<ContentRange> {
    let rest = text.trim().strip_prefix("bytes")?.trim_start();
    let (range, total) = rest.split_once('/')?;
    let total = match total.trim() {
        "*" => None,
        total => Some(number(total)?),
    };
    if range.trim() == "*" {
        return Some(ContentRange::Unsatisfied { total: total? });
    }
    let (start, last) = range.split_once('-')?;
    let (start, end) = (number(start.trim())?, number(last.trim())?.checked_add(1)?);
    if start >= end || total.is_some_and(|total| end > total) {
        return None;
    }
    Some(ContentRange::Part { start, end, total })
}

/// Reads a `Retry-After`: seconds, or a date that is compared with `now`.
pub(crate) fn retry_after(text: &str, now: OffsetDateTime) -> Option<Duration> {
    let text = text.trim();
    if let Some(seconds) = number(text) {
        return Some(Duration::from_secs(seconds));
    }
    let date = PrimitiveDateTime::parse(
        text,
        format_description!(
            "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
        ),
    )
    .ok()?
    .assume_utc();
    Some(Duration::try_from(date - now).unwrap_or(Duration::ZERO))
}

/// The target of `rel="next"` in a `Link` header.
pub(crate) fn next_link(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let parameters = after.split_once(",").map_or(after, |(own, _)| own);
        let next = parameters.split(';').any(|parameter| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel")
                    && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
            })
        });
        if next {
            return Some(target);
        }
        rest = after;
    }
}

/// Digits only: `parse` alone would accept a sign.
fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn content_ranges() {
        let part = |start, end, total| Some(ContentRange::Part { start, end, total });
        for (text, want) in [
            ("bytes 0-0/1", part(0, 1, Some(1))),
            ("bytes 5-9/*", part(5, 10, None)),
            ("bytes */7", Some(ContentRange::Unsatisfied { total: 7 })),
            ("bytes 9-5/10", None),
            ("bytes 0-10/10", None),
            ("bytes +0-1/10", None),
            ("bytes 0-18446744073709551615/*", None),
            ("items 0-1/2", None),
            ("bytes */*", None),
            ("", None),
        ] {
            assert_eq!(content_range(text), want, "{text:?}");
        }
    }

    #[test]
    fn waits() {
        let now = datetime!(2026-01-01 00:00:00 UTC);
        for (text, want) in [
            ("0", Some(0)),
            (" 17 ", Some(17)),
            ("Thu, 01 Jan 2026 00:00:30 GMT", Some(30)),
            ("Wed, 31 Dec 2025 23:59:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
        ] {
            assert_eq!(
                retry_after(text, now),
                want.map(Duration::from_secs),
                "{text:?}"
            );
        }
    }

    #[test]
    fn links() {
        assert_eq!(next_link(r#"</v2/a?n=1>; rel="next""#), Some("/v2/a?n=1"));
        assert_eq!(next_link("</b>; rel=prev, </c>; rel=next"), Some("/c"));
        assert_eq!(next_link("</b>; rel=prev"), None);
        assert_eq!(next_link("<"), None);
    }
}
