//! containerd's end: one connection, made when it is first needed and made anew when it was lost.

use std::path::Path;

use futures::future::poll_fn;
use tonic::{
    Status,
    body::Body,
    codegen::{
        Service as _,
        http::{Request, Response},
    },
    transport::{Channel, Endpoint},
};

use crate::error::{Error, Result};

/// The CRI of containerd.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    socket: String,
    channel: Channel,
}

// === impl Backend ===

impl Backend {
    /// Connects when there is something to ask.
    pub(super) fn new(socket: &Path) -> Result<Self> {
        let bad = || Error::invalid(format!("socket {}", socket.display()));
        let text = socket.to_str().ok_or_else(bad)?.to_owned();
        let endpoint = Endpoint::from_shared(format!("unix://{text}"));
        let endpoint = endpoint.map_err(|e| bad().with_source(e))?;
        Ok(Self {
            socket: text,
            channel: endpoint.connect_lazy(),
        })
    }

    /// Hands a request on; the answer is as containerd gives it, a refusal too.
    ///
    /// # Errors
    /// `Unavailable` if containerd does not answer.
    pub(super) async fn call(&self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        // What this server noted of the request is nothing to its client.
        request.extensions_mut().clear();
        let mut channel = self.channel.clone();
        let ready = poll_fn(|context| channel.poll_ready(context));
        ready.await.map_err(|error| self.lost(&error))?;
        let answer = channel.call(request).await;
        answer.map_err(|error| self.lost(&error))
    }

    /// The error of a caller whom containerd does not answer.
    pub(super) fn lost(&self, error: &(dyn std::error::Error + 'static)) -> Status {
        let mut said = vec![error.to_string()];
        let mut source = error.source();
        while let Some(error) = source {
            let next = error.to_string();
            if said.last() != Some(&next) {
                said.push(next);
            }
            source = error.source();
        }
        let (socket, said) = (&self.socket, said.join(": "));
        tracing::warn!(socket, error = said, "containerd's CRI does not answer");
        Status::unavailable(format!(
            "containerd's CRI at {socket}: {said} (hint: is containerd running, and is this its \
             socket? nacre.toml: [cri] containerd_socket)"
        ))
    }
}
