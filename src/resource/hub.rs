//! Confidential Containers' data hub (CDH), asked for a resource: `api.GetResourceService` over ttrpc.

use std::{path::Path, time::Duration};

use nacre_snapshotter_proto::{
    Message as _,
    hub::{GetResourceRequest, GetResourceResponse},
};
use zeroize::Zeroizing;

use super::{
    ttrpc::{self, Method},
    uri::Uri,
};
use crate::error::{Error, Kind, Result};

const GET_RESOURCE: Method = Method {
    service: "api.GetResourceService",
    name: "GetResource",
};
/// Largest resource: what ttrpc's own implementations take in one message.
const MAX_RESOURCE: usize = 4 << 20;

/// Asks for a resource; the calling thread waits.
///
/// # Errors
/// `Unavailable` if the hub is away, ends, or does not answer within `deadline`; what it says.
pub(super) fn ask(socket: &Path, uri: &Uri, deadline: Duration) -> Result<Zeroizing<Vec<u8>>> {
    let request = GetResourceRequest {
        resource_path: uri.as_str().to_owned(),
    };
    let request = Zeroizing::new(request.encode_to_vec());
    let asked = async {
        let call = ttrpc::call(socket, GET_RESOURCE, request, MAX_RESOURCE, deadline);
        tokio::time::timeout(deadline, call).await.map_err(|_| {
            let (hub, seconds) = (socket.display(), deadline.as_secs_f32());
            Error::unavailable(format!("server {hub}: no answer within {seconds} s"))
        })?
    };
    let answer = wait_for(asked)?.map_err(|error| {
        let hint = match error.kind() {
            Kind::Unavailable => {
                "see that the data hub (confidential-data-hub) runs and reaches its key broker"
            }
            Kind::Unsupported => "this hub gives no resources; start it with its key broker client",
            _ => "see that the key broker has this resource and gives it to this machine",
        };
        error.with_hint(hint)
    })?;
    let response = GetResourceResponse::decode(&answer[..])
        .map_err(|_| Error::invalid(format!("server {}: its answer is none", socket.display())))?;
    Ok(Zeroizing::new(response.resource))
}

/// Waits on a thread and a runtime of their own: the caller may or may not have one.
fn wait_for<T: Send>(asked: impl Future<Output = T> + Send) -> Result<T> {
    let failed = |e: std::io::Error| Error::io("asking the data hub", e);
    std::thread::scope(|scope| {
        let waiting = std::thread::Builder::new()
            .name("resource".into())
            .spawn_scoped(scope, || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                Ok(runtime.block_on(asked))
            })
            .map_err(failed)?;
        let waited = waiting.join();
        waited
            .map_err(|_| Error::internal("the thread that asks the data hub ended early"))?
            .map_err(failed)
    })
}
