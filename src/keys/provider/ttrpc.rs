//! A key provider that is a ttrpc server on a Unix socket: `keyprovider.KeyProviderService`, as
//! Confidential Containers' data hub (CDH) has it.

use std::{path::Path, time::Duration};

use nacre_snapshotter_proto::{
    Message as _,
    keyprovider::{KeyProviderKeyWrapProtocolInput, KeyProviderKeyWrapProtocolOutput},
};
use zeroize::{Zeroize as _, Zeroizing};

use super::{MAX_REPLY, Operation};
use crate::{
    error::{Error, Result},
    resource::ttrpc::{self, Method},
};

const SERVICE: &str = "keyprovider.KeyProviderService";

/// Sends `request` to the server behind `socket` and gives its answer. Ends when it is dropped.
pub(super) async fn ask(
    socket: &Path,
    operation: Operation,
    request: &[u8],
    deadline: Duration,
) -> Result<Zeroizing<Vec<u8>>> {
    let method = Method {
        service: SERVICE,
        name: match operation {
            Operation::Wrap => "WrapKey",
            Operation::Unwrap => "UnWrapKey",
        },
    };
    let mut input = KeyProviderKeyWrapProtocolInput {
        key_provider_key_wrap_protocol_input: request.to_vec(),
    };
    let payload = Zeroizing::new(input.encode_to_vec());
    input.key_provider_key_wrap_protocol_input.zeroize();
    let answer = ttrpc::call(socket, method, payload, MAX_REPLY, deadline).await?;
    let output = KeyProviderKeyWrapProtocolOutput::decode(&answer[..]).map_err(|_| {
        let server = socket.display();
        Error::invalid(format!("server {server}: its answer is no key provider's"))
    })?;
    Ok(Zeroizing::new(output.key_provider_key_wrap_protocol_output))
}

#[cfg(test)]
mod tests {
    use super::{super::Provider, *};
    use crate::{
        error::Kind,
        resource::ttrpc::{
            REQUEST, RESPONSE,
            tests::{Act, serve},
        },
    };

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(300);

    /// Answers with the protocol's JSON.
    fn answer(json: &str) -> Act {
        let output = KeyProviderKeyWrapProtocolOutput {
            key_provider_key_wrap_protocol_output: json.as_bytes().to_vec(),
        };
        Act::Answer(output.encode_to_vec())
    }

    #[tokio::test]
    async fn a_server_is_asked_and_answers() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("cdh.sock");
        let provider = Provider::Ttrpc(socket.clone());
        let act = answer(r#"{"keyunwrapresults":{"optsdata":[104,105]}}"#);
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
        let act = answer(r#"{"keywrapresults":{"annotation":"aGk="}}"#);
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
            (answer("{}"), Kind::Denied, "no keyunwrapresults"),
            (answer("x"), Kind::Invalid, "not the protocol's JSON"),
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
