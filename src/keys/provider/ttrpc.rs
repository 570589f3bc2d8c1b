//! A key provider that is a ttrpc server on a Unix socket: `keyprovider.KeyProviderService`, as
//! Confidential Containers' data hub (CDH) has it.
//!
//! ttrpc is a header of ten bytes before each message (length, stream, type, flags). One call is made
//! on a connection of its own.

use std::{io, path::Path, time::Duration};

use nacre_snapshotter_proto::{
    Message as _,
    keyprovider::{KeyProviderKeyWrapProtocolInput, KeyProviderKeyWrapProtocolOutput},
    ttrpc::{Request, Response, Status},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};
use zeroize::{Zeroize as _, Zeroizing};

use super::{MAX_REPLY, Operation, told};
use crate::error::{Error, Kind, Result};

const SERVICE: &str = "keyprovider.KeyProviderService";
const HEADER: usize = 10;
/// Streams that clients open have odd numbers.
const STREAM: u32 = 1;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
/// Room for the messages around the answer.
const FRAME: usize = 1 << 10;

/// Sends `request` to the server behind `socket` and gives its answer. Ends when it is dropped.
pub(super) async fn ask(
    socket: &Path,
    operation: Operation,
    request: &[u8],
    deadline: Duration,
) -> Result<Zeroizing<Vec<u8>>> {
    let within = |e: Error| e.context(format!("server {}", socket.display()));
    let method = match operation {
        Operation::Wrap => "WrapKey",
        Operation::Unwrap => "UnWrapKey",
    };
    let frame = encode(method, request, deadline).map_err(within)?;
    let answer = exchange(socket, &frame).await.map_err(within)?;
    let mut response = Response::decode(&answer[..])
        .map_err(|_| within(Error::invalid("its answer is no ttrpc response")))?;
    let payload = Zeroizing::new(std::mem::take(&mut response.payload));
    if let Some(status) = response.status.filter(|it| it.code != 0) {
        return Err(within(refused(&status)));
    }
    let output = KeyProviderKeyWrapProtocolOutput::decode(&payload[..])
        .map_err(|_| within(Error::invalid("its answer is no key provider's")))?;
    Ok(Zeroizing::new(output.key_provider_key_wrap_protocol_output))
}

/// The whole frame of a call; copies of the request are wiped.
fn encode(method: &str, request: &[u8], deadline: Duration) -> Result<Zeroizing<Vec<u8>>> {
    let mut input = KeyProviderKeyWrapProtocolInput {
        key_provider_key_wrap_protocol_input: request.to_vec(),
    };
    let mut call = Request {
        service: SERVICE.into(),
        method: method.into(),
        payload: input.encode_to_vec(),
        timeout_nano: i64::try_from(deadline.as_nanos()).unwrap_or(i64::MAX),
        metadata: Vec::new(),
    };
    input.key_provider_key_wrap_protocol_input.zeroize();
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

async fn exchange(socket: &Path, frame: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
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
    if length > MAX_REPLY + FRAME {
        return Err(Error::invalid(format!("an answer over {MAX_REPLY} bytes")));
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
        // Unimplemented.
        12 => Kind::Unsupported,
        _ => Kind::Denied,
    };
    Error::new(
        kind,
        format!("code {}: {}", status.code, told(&status.message)),
    )
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::{super::Provider, *};

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(300);

    /// What a server does with one call.
    enum Act {
        /// Answers with the protocol's JSON.
        Answer(&'static str),
        Fail(i32, &'static str),
        /// Sends these bytes and ends.
        Bytes(Vec<u8>),
        Hang,
    }

    /// A server that reads one call whole and acts; gives what it was asked.
    fn serve(socket: &Path, act: Act) -> tokio::task::JoinHandle<Request> {
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
            let response = match act {
                Act::Answer(json) => Response {
                    status: None,
                    payload: KeyProviderKeyWrapProtocolOutput {
                        key_provider_key_wrap_protocol_output: json.as_bytes().to_vec(),
                    }
                    .encode_to_vec(),
                },
                Act::Fail(code, message) => Response {
                    status: Some(Status {
                        code,
                        message: message.into(),
                    }),
                    payload: Vec::new(),
                },
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
            let body = response.encode_to_vec();
            let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
            frame.extend([0, 0, 0, 1, RESPONSE, 0]);
            frame.extend(body);
            stream.write_all(&frame).await.unwrap();
            call
        })
    }

    #[tokio::test]
    async fn a_server_is_asked_and_answers() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("cdh.sock");
        let provider = Provider::Ttrpc(socket.clone());
        let act = Act::Answer(r#"{"keyunwrapresults":{"optsdata":[104,105]}}"#);
        let server = serve(&socket, act);
        let key = provider
            .unwrap("attestation-agent", &[], b"packet", LONG)
            .await;
        assert_eq!(key.unwrap()[..], *b"hi");
        let call = server.await.unwrap();
        assert_eq!((&*call.service, &*call.method), (SERVICE, "UnWrapKey"));
        assert_eq!(call.timeout_nano, 60_000_000_000);
        let input = KeyProviderKeyWrapProtocolInput::decode(&call.payload[..]).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&input.key_provider_key_wrap_protocol_input).unwrap();
        assert_eq!(json["op"], "keyunwrap");
        assert_eq!(
            json["keyunwrapparams"]["annotation"],
            serde_json::json!(b"packet")
        );

        std::fs::remove_file(&socket).unwrap();
        let act = Act::Answer(r#"{"keywrapresults":{"annotation":"aGk="}}"#);
        let server = serve(&socket, act);
        let packet = provider
            .wrap("attestation-agent", &[], b"options", LONG)
            .await;
        assert_eq!(packet.unwrap(), b"hi");
        assert_eq!(server.await.unwrap().method, "WrapKey");
    }

    #[tokio::test]
    async fn servers_that_fail() {
        let header = |length: u32, stream: u32, kind: u8| {
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend(stream.to_be_bytes());
            bytes.extend([kind, 0]);
            bytes
        };
        let mut garbage = header(3, 1, RESPONSE);
        garbage.extend([0xff; 3]);
        for (act, kind, text) in [
            (
                Act::Fail(13, "[CDH] [ERROR]: no key"),
                Kind::Denied,
                "code 13: [CDH]",
            ),
            (Act::Fail(12, "no"), Kind::Unsupported, "code 12: no"),
            (Act::Fail(14, "away"), Kind::Unavailable, "code 14"),
            (Act::Answer("{}"), Kind::Denied, "no keyunwrapresults"),
            (Act::Answer("x"), Kind::Invalid, "not the protocol's JSON"),
            (
                Act::Bytes(Vec::new()),
                Kind::Unavailable,
                "ended before it answered",
            ),
            (
                Act::Bytes(header(9, 1, RESPONSE)),
                Kind::Unavailable,
                "ended in its answer",
            ),
            (
                Act::Bytes(header(9, 3, RESPONSE)),
                Kind::Invalid,
                "does not speak ttrpc",
            ),
            (
                Act::Bytes(header(9, 1, REQUEST)),
                Kind::Invalid,
                "does not speak ttrpc",
            ),
            (
                Act::Bytes(header(u32::MAX, 1, RESPONSE)),
                Kind::Invalid,
                "answer over",
            ),
            (Act::Bytes(garbage), Kind::Invalid, "no ttrpc response"),
            (Act::Hang, Kind::Unavailable, "no answer within"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("s");
            let deadline = match act {
                Act::Hang => SHORT,
                _ => LONG,
            };
            let server = serve(&socket, act);
            let provider = Provider::Ttrpc(socket);
            let error = provider
                .unwrap("a", &[], b"packet", deadline)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(
                error.to_string().contains(text),
                "want {text:?} in: {error}"
            );
            server.await.unwrap();
        }
        let gone = Provider::Ttrpc("/nonexistent/cdh.sock".into());
        let error = gone.unwrap("a", &[], b"", LONG).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(
            error
                .to_string()
                .contains("/nonexistent/cdh.sock: cannot connect"),
            "{error}"
        );
    }
}
