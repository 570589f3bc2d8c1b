//! Calls of ttrpc, containerd's form of gRPC for Unix sockets, as Confidential Containers' data hub
//! (CDH) answers them.
//!
//! ttrpc is a header of ten bytes before each message (length, stream, type, flags). One call is made
//! on a connection of its own.

use std::{io, path::Path, time::Duration};

use nacre_snapshotter_proto::{
    Message as _,
    ttrpc::{Request, Response, Status},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::error::{Error, Kind, Result};

/// What is called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Method {
    /// `package.Service`
    pub(crate) service: &'static str,
    pub(crate) name: &'static str,
}

pub(crate) const HEADER: usize = 10;
/// Streams that clients open have odd numbers.
const STREAM: u32 = 1;
pub(crate) const REQUEST: u8 = 1;
pub(crate) const RESPONSE: u8 = 2;
/// Room for the messages around the answer.
const FRAME: usize = 1 << 10;
/// Most of what a server says about its failure that goes into an error.
pub(crate) const MAX_TEXT: usize = 300;

/// Calls the server behind `socket` and gives its answer, at most `limit` bytes. The server is told
/// the deadline; who calls has to keep it. Ends when it is dropped.
///
/// # Errors
/// `Unavailable` if the server is away or ends, `Invalid` if it answers something else than ttrpc, and
/// what it says.
pub(crate) async fn call(
    socket: &Path,
    method: Method,
    payload: Zeroizing<Vec<u8>>,
    limit: usize,
    deadline: Duration,
) -> Result<Zeroizing<Vec<u8>>> {
    let within = |e: Error| e.context(format!("server {}", socket.display()));
    let frame = encode(method, payload, deadline).map_err(within)?;
    let answer = exchange(socket, &frame, limit).await.map_err(within)?;
    let mut response = Response::decode(&answer[..])
        .map_err(|_| within(Error::invalid("its answer is no ttrpc response")))?;
    let payload = Zeroizing::new(std::mem::take(&mut response.payload));
    match response.status.filter(|it| it.code != 0) {
        Some(status) => Err(within(refused(&status))),
        None => Ok(payload),
    }
}

/// The whole frame of a call; copies of the request are wiped.
fn encode(
    method: Method,
    mut payload: Zeroizing<Vec<u8>>,
    deadline: Duration,
) -> Result<Zeroizing<Vec<u8>>> {
    let mut call = Request {
        service: method.service.into(),
        method: method.name.into(),
        payload: std::mem::take(&mut *payload),
        timeout_nano: i64::try_from(deadline.as_nanos()).unwrap_or(i64::MAX),
        metadata: Vec::new(),
    };
    let length = call.encoded_len();
    let mut frame = Zeroizing::new(Vec::with_capacity(HEADER + length));
    let length = u32::try_from(length).map_err(|_| Error::invalid("a packet over 4 GiB"))?;
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&STREAM.to_be_bytes());
    frame.extend_from_slice(&[REQUEST, 0]);
    // The room is there, so that no growing buffer leaves a copy behind.
    let encoded = call.encode(&mut *frame);
    call.payload.zeroize();
    encoded.map_err(|e| Error::internal("ttrpc request").with_source(e))?;
    Ok(frame)
}

async fn exchange(socket: &Path, frame: &[u8], limit: usize) -> Result<Zeroizing<Vec<u8>>> {
    let away = |what: &'static str| move |e: io::Error| Error::unavailable(what).with_source(e);
    let mut stream = UnixStream::connect(socket)
        .await
        .map_err(away("cannot connect"))?;
    stream.write_all(frame).await.map_err(away("gone"))?;
    let mut header = [0; HEADER];
    let ended = away("ended before it answered");
    stream.read_exact(&mut header).await.map_err(ended)?;
    let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _] = header;
    let stream_id = u32::from_be_bytes([s0, s1, s2, s3]);
    if kind != RESPONSE || stream_id != STREAM {
        return Err(Error::invalid("does not speak ttrpc"));
    }
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length > limit + FRAME {
        return Err(Error::invalid(format!("an answer over {limit} bytes")));
    }
    let mut answer = Zeroizing::new(vec![0; length]);
    let ended = away("ended in its answer");
    stream.read_exact(&mut answer).await.map_err(ended)?;
    Ok(answer)
}

/// What a status means to us, by gRPC's codes.
fn refused(status: &Status) -> Error {
    let kind = match status.code {
        // Cancelled, deadline exceeded, aborted, unavailable.
        1 | 4 | 10 | 14 => Kind::Unavailable,
        5 => Kind::NotFound,
        // Unimplemented.
        12 => Kind::Unsupported,
        _ => Kind::Denied,
    };
    Error::new(
        kind,
        format!("code {}: {}", status.code, told(&status.message)),
    )
}

/// A server's own words, made fit for an error message.
pub(crate) fn told(text: &str) -> String {
    let line: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_TEXT)
        .collect();
    if line.is_empty() {
        "without a word".to_owned()
    } else {
        line
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// What a server does with one call.
    pub(crate) enum Act {
        /// Answers with this message.
        Answer(Vec<u8>),
        Fail(i32, &'static str),
        /// Sends these bytes and ends.
        Bytes(Vec<u8>),
        Hang,
    }

    /// A server that reads one call whole and acts; gives what it was asked.
    pub(crate) fn serve(socket: &Path, act: Act) -> tokio::task::JoinHandle<Request> {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut header = [0; HEADER];
            stream.read_exact(&mut header).await.unwrap();
            assert_eq!(header[4..], [0, 0, 0, 1, REQUEST, 0]);
            let length = u32::from_be_bytes(header[..4].try_into().unwrap());
            let mut call = vec![0; length as usize];
            stream.read_exact(&mut call).await.unwrap();
            let call = Request::decode(&call[..]).unwrap();
            let (status, payload) = match act {
                Act::Answer(message) => (None, message),
                Act::Fail(code, message) => {
                    let message = message.into();
                    (Some(Status { code, message }), Vec::new())
                }
                Act::Bytes(bytes) => {
                    stream.write_all(&bytes).await.unwrap();
                    return call;
                }
                Act::Hang => {
                    // Until the client has gone.
                    let _ = stream.read(&mut [0]).await;
                    return call;
                }
            };
            let body = Response { status, payload }.encode_to_vec();
            let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
            frame.extend([0, 0, 0, 1, RESPONSE, 0]);
            frame.extend(body);
            stream.write_all(&frame).await.unwrap();
            call
        })
    }

    #[test]
    fn own_words_are_cut_and_cleaned() {
        assert_eq!(told(" a\u{1b}[1m\nb "), "a [1m b");
        assert_eq!(told("\n"), "without a word");
        assert_eq!(told(&"x".repeat(1000)).len(), MAX_TEXT);
    }
}
