//! What an answer, or its absence, means: a passing failure or a final one, and in whose words.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{
    Response, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use time::OffsetDateTime;

use super::{
    header,
    retry::{Again, Environment, Failure},
};
use crate::{error::Error, source::Traffic};

/// Most that is read of an answer's body for a message.
const MAX_REASON: usize = 4 << 10;

/// The failure of an answer that asks for another try.
pub(super) fn passing(
    what: &str,
    status: StatusCode,
    headers: &HeaderMap,
    environment: &dyn Environment,
) -> Option<Failure> {
    let temporary = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
    ) || (status.is_server_error()
        && !matches!(
            status,
            StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED
        ));
    if !temporary {
        return None;
    }
    let now = OffsetDateTime::from(environment.calendar());
    let asked: Option<Duration> = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| header::retry_after(value, now));
    Some(Failure {
        error: Error::unavailable(format!("{what}: the registry answered {status}")),
        again: asked.map_or(Again::Backoff, Again::After),
    })
}

/// The failure of a connection or a body. The URL is left out: it may be a signed one.
pub(super) fn network(what: &str, error: reqwest::Error) -> Failure {
    let untrusted = is_untrusted(&error);
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(below) = cause {
        let below_text = below.to_string();
        if !text.contains(&below_text) {
            text = format!("{text}: {below_text}");
        }
        cause = below.source();
    }
    let said = Error::unavailable(format!("{what}: {text}"));
    if untrusted {
        return Failure::fatal(said.with_hint(
            "if the registry's certificate is by an authority of your own, name its CA file",
        ));
    }
    if error.is_builder() {
        return Failure::fatal(said);
    }
    Failure::passing(said)
}

/// Whether the other side speaks TLS, with a certificate that is not accepted. The layers between
/// hide the type, so it is told by rustls's words.
pub(super) fn is_untrusted(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(below) = cause {
        if below.to_string().contains("invalid peer certificate") {
            return true;
        }
        cause = below.source();
    }
    false
}

/// The registry's own words about a refusal, one line; reads a bounded part of the body.
pub(super) async fn reason(
    response: &mut Response,
    patience: Duration,
    traffic: &Traffic,
) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut body = Vec::new();
    while body.len() < MAX_REASON {
        let Ok(Some(piece)) = chunk(response, "", patience, traffic).await else {
            break;
        };
        body.extend_from_slice(&piece);
    }
    let Ok(parsed) = serde_json::from_slice::<Errors>(&body) else {
        return String::new();
    };
    let words: Vec<String> = parsed
        .errors
        .iter()
        .map(|item| format!("{} {}", item.code, item.message).trim().to_owned())
        .collect();
    words
        .join("; ")
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect()
}

/// The next piece of an answer's body, counted.
pub(super) async fn chunk(
    response: &mut Response,
    what: &str,
    patience: Duration,
    traffic: &Traffic,
) -> Result<Option<Bytes>, Failure> {
    let piece = tokio::time::timeout(patience, response.chunk())
        .await
        .map_err(|_| stalled(what, patience))?
        .map_err(|error| network(what, error))?;
    traffic.received(piece.as_ref().map_or(0, Bytes::len));
    Ok(piece)
}

/// The failure of an answer that does not come.
pub(super) fn stalled(what: &str, patience: Duration) -> Failure {
    Failure::passing(Error::unavailable(format!(
        "{what}: no byte in {patience:?}"
    )))
}
