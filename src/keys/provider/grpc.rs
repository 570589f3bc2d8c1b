//! A key provider that is a gRPC server: `keyprovider.KeyProviderService`.

use nacre_snapshotter_proto::keyprovider::{
    KeyProviderKeyWrapProtocolInput, key_provider_service_client::KeyProviderServiceClient,
};
use tonic::{Code, transport::Endpoint};
use zeroize::Zeroizing;

use super::{MAX_REPLY, Operation, told};
use crate::error::{Error, Kind, Result};

/// Room for the message around the answer.
const FRAME: usize = 1 << 10;

/// Sends `request` to the server at `target` and gives its answer. Ends when it is dropped.
pub(super) async fn ask(
    target: &str,
    operation: Operation,
    request: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let server = || format!("server {target}");
    let channel = endpoint(target)?
        .connect()
        .await
        .map_err(|e| Error::unavailable(format!("{}: cannot connect", server())).with_source(e))?;
    let mut client =
        KeyProviderServiceClient::new(channel).max_decoding_message_size(MAX_REPLY + FRAME);
    let input = KeyProviderKeyWrapProtocolInput {
        key_provider_key_wrap_protocol_input: request.to_vec(),
    };
    let reply = match operation {
        Operation::Wrap => client.wrap_key(input).await,
        Operation::Unwrap => client.un_wrap_key(input).await,
    };
    let reply = reply.map_err(|status| {
        let kind = match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => {
                Kind::Unavailable
            }
            Code::Unimplemented => Kind::Unsupported,
            // What tonic says of a message over the limit or malformed.
            Code::OutOfRange | Code::DataLoss => Kind::Invalid,
            _ => Kind::Denied,
        };
        Error::new(
            kind,
            format!(
                "{}: {:?}: {}",
                server(),
                status.code(),
                told(status.message())
            ),
        )
    })?;
    Ok(Zeroizing::new(
        reply.into_inner().key_provider_key_wrap_protocol_output,
    ))
}

/// `host:port`, as Go writes it, or `http://host:port`.
fn endpoint(target: &str) -> Result<Endpoint> {
    let address = target.strip_prefix("http://").unwrap_or(target);
    if address.contains("://") || address.starts_with("unix:") || address.starts_with("dns:") {
        return Err(Error::unsupported(format!(
            "server {target:?}: only host:port without TLS is known"
        )));
    }
    Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| Error::invalid(format!("server {target:?}: want host:port")).with_source(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for good in ["127.0.0.1:50000", "broker.example:1", "http://[::1]:50000"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for (bad, kind) in [
            ("https://a:1", Kind::Unsupported),
            ("unix:///run/x.sock", Kind::Unsupported),
            ("dns:///a:1", Kind::Unsupported),
            ("a b", Kind::Invalid),
        ] {
            assert_eq!(endpoint(bad).unwrap_err().kind(), kind, "{bad}");
        }
    }
}
