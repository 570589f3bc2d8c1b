//! `PullImage`: its login is handed over to those who read from registries, as long as containerd
//! pulls and, if that succeeds, as long as the image is read.
//!
//! What containerd says about a login is passed on and never logged: it can quote the secret.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use nacre_snapshotter_proto::{Message as _, cri::PullImageRequest};
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{HeaderMap, Request, Response},
};
use zeroize::Zeroizing;

use super::{auth, backend::Backend};
use crate::{
    error::Result,
    oci::RegistryReference,
    source::registry::{HandedLogins, Pull},
};

/// Largest request; containerd takes no larger one.
const MAX_REQUEST: usize = 16 << 20;
/// A message is preceded by a flag and its length (gRPC over HTTP/2).
const PREFIX: usize = 5;

/// Hands a pull on.
///
/// # Errors
/// What is wrong with the request; `Unavailable` if containerd does not answer.
pub(super) async fn pull(
    backend: &Backend,
    logins: &HandedLogins,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let (head, body) = request.into_parts();
    let body = whole(body).await?;
    let pull = hand_over(logins, message(&body)?)?;
    let body = Body::new(Full::new(Bytes::from_owner(body)));
    let response = backend.call(Request::from_parts(head, body)).await?;

    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|e| backend.lost(&e))?;
    let trailers = body.trailers().cloned();
    if let Some(pull) = pull
        && code(trailers.as_ref().unwrap_or(&head.headers)) == Some(Code::Ok)
    {
        pull.succeeded();
    }
    let body = match trailers {
        Some(trailers) => {
            let trailers = async move { Some(Ok(trailers)) };
            Body::new(Full::new(body.to_bytes()).with_trailers(trailers))
        }
        // A refusal whose status is in its head, which must be all there is.
        None => Body::new(Full::new(body.to_bytes())),
    };
    Ok(Response::from_parts(head, body))
}

/// The request's bytes.
async fn whole(mut body: Body) -> Result<Zeroizing<Vec<u8>>, Status> {
    let mut all = Zeroizing::new(Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if all.len() + data.len() > MAX_REQUEST {
            return Err(Status::resource_exhausted(format!(
                "PullImage: request over {MAX_REQUEST} bytes"
            )));
        }
        if all.capacity() - all.len() < data.len() {
            // Not by growing, which leaves a copy behind.
            let mut larger = Zeroizing::new(Vec::with_capacity((all.len() + data.len()) * 2));
            larger.extend_from_slice(&all);
            all = larger;
        }
        all.extend_from_slice(&data);
    }
    Ok(all)
}

/// The one message of a request.
fn message(body: &[u8]) -> Result<&[u8], Status> {
    let malformed = || Status::invalid_argument("PullImage: the request is not one message");
    let (prefix, message) = body.split_first_chunk::<PREFIX>().ok_or_else(malformed)?;
    let [flag, length @ ..] = *prefix;
    if flag != 0 {
        return Err(Status::unimplemented(
            "PullImage: compressed requests are not read",
        ));
    }
    if usize::try_from(u32::from_be_bytes(length)) != Ok(message.len()) {
        return Err(malformed());
    }
    Ok(message)
}

/// Hands the login of a pull over, if it has one that is of use.
fn hand_over(logins: &HandedLogins, message: &[u8]) -> Result<Option<Pull>, Status> {
    let mut request = PullImageRequest::decode(message)
        .map_err(|error| Status::invalid_argument(format!("PullImage: {error}")))?;
    let Some(auth) = request.auth.take() else {
        return Ok(None);
    };
    let image = request.image.map(|it| it.image).unwrap_or_default();
    let handed = auth::login(auth).and_then(|login| {
        let Some(login) = login else { return Ok(None) };
        Ok(Some((image.parse::<RegistryReference>()?, login)))
    });
    match handed {
        Ok(handed) => Ok(handed.map(|(image, login)| {
            tracing::debug!(%image, ?login, "login of a pull is used for lazy layers");
            logins.pull(&image, login)
        })),
        Err(error) => {
            // containerd may know what to do with it.
            tracing::warn!(image, %error, "login of a pull is not used for lazy layers");
            Ok(None)
        }
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    Status::from_header_map(headers).map(|status| status.code())
}
