//! Asks a running daemon over its socket.

use std::{io, path::Path, time::Duration};

use axum::http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::error::{Error, Kind, Result};

/// Longest answer: a few hundred bytes for each of a hundred thousand mounts.
const MAX_ANSWER: usize = 64 << 20;
/// Longest wait for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// The page at `path` of the daemon that listens on `socket`.
///
/// # Errors
/// `Unavailable` if none listens there or it does not answer, `Denied` if the socket's mode keeps us
/// out, `Unsupported` if it has no such page.
pub async fn ask(socket: &Path, path: &str) -> Result<Bytes> {
    let what = || format!("nacre serve at {}", socket.display());
    let asked = async {
        let stream = UnixStream::connect(socket).await;
        exchange(stream.map_err(|e| unreachable(socket, e))?, path)
            .await
            .map_err(|e| e.context(what()))
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| {
            Err(
                Error::unavailable(format!("{}: no answer in {PATIENCE:?}", what())).with_hint(
                    "if systemd listens there for it, `systemctl status nacre` says why it is not up",
                ),
            )
        })
}

async fn exchange(stream: UnixStream, path: &str) -> Result<Bytes> {
    let broken = |e: hyper::Error| Error::unavailable("connection broke").with_source(e);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let request = Request::get(path)
        .header(HOST, "nacre")
        .body(Empty::<Bytes>::new())
        .map_err(|e| Error::internal(format!("request for {path}")).with_source(e))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER);
        let body = body.collect().await.map_err(|e| {
            Error::new(Kind::Unavailable, format!("answer to {path}")).with_source(e)
        })?;
        Ok((status, body.to_bytes()))
    };
    // The connection is driven until the answer is complete.
    let (status, body) = tokio::select! {
        answer = answer => answer?,
        Err(error) = connection => return Err(broken(error)),
    };
    let said = String::from_utf8_lossy(&body);
    match status {
        StatusCode::OK => Ok(body),
        StatusCode::NOT_FOUND => Err(Error::unsupported(format!("no page {path}"))
            .with_hint("it may be of an earlier version: restart it")),
        other => Err(Error::internal(format!("{path}: {other}: {}", said.trim()))),
    }
}

fn unreachable(socket: &Path, error: io::Error) -> Error {
    let name = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Error::unavailable(format!("no nacre serve listens on {name}")).with_hint(
                "start it (systemctl start nacre), or name its socket with --socket or its \
             configuration with --config",
            )
        }
        io::ErrorKind::PermissionDenied => Error::denied(format!("socket {name}"))
            .with_source(error)
            .with_hint("it belongs to the user that nacre serve runs as: become that one (root)"),
        _ => Error::io(format!("socket {name}"), error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn nobody_there_is_unavailable_and_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        for _ in 0..2 {
            let error = ask(&socket, "/status").await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unavailable, "{error}");
            assert!(error.to_string().contains(socket.to_str().unwrap()));
            assert!(error.hint().unwrap().contains("systemctl start nacre"));
            // As a crash leaves it.
            if !socket.exists() {
                drop(UnixListener::bind(&socket).unwrap());
            }
        }
    }

    #[tokio::test]
    async fn who_hangs_up_is_unavailable() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let hang_up = async { drop(listener.accept().await.unwrap()) };
        let (asked, ()) = futures::future::join(ask(&socket, "/status"), hang_up).await;
        assert_eq!(asked.unwrap_err().kind(), Kind::Unavailable);
    }
}
