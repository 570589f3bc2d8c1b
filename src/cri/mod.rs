//! The CRI's image service, handed on to containerd.
//!
//! The kubelet is pointed here instead of at containerd, so that the pull secrets it hands over with
//! `PullImage` reach those who read the image later. Every call goes to containerd as it came and
//! every answer goes back as it came, byte for byte: metadata, unknown fields, methods of later
//! versions, status details. Only `PullImage` is read on its way.

mod auth;
mod backend;
mod deadline;
mod pull;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    path::Path,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use tokio::task::AbortHandle;
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

use self::{backend::Backend, deadline::Deadline};
use crate::source::registry::HandedLogins;

/// `runtime.v1.ImageService` in front of containerd's; clones are the same.
#[derive(Clone, Debug)]
pub struct ImageService(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    backend: Backend,
    logins: HandedLogins,
    sweeping: AbortHandle,
}

/// What callers read who are not expected.
const OFF: &str = "nacre's image service is off (hint: enabled = true in [cri] of nacre.toml, or \
                   --image-service-endpoint with containerd's socket)";

// === impl ImageService ===

impl ImageService {
    /// Hands calls on to the CRI of containerd at this socket, which need not be there yet, and
    /// logins to `logins`, which it keeps swept. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// `Invalid` if the path is not UTF-8.
    pub fn new(containerd: &Path, logins: HandedLogins) -> crate::Result<Self> {
        let backend = Backend::new(containerd)?;
        let sweeping = tokio::spawn(logins.clone().keep_sweeping()).abort_handle();
        Ok(Self(Some(Arc::new(Shared {
            backend,
            logins,
            sweeping,
        }))))
    }

    /// Says to whoever calls that it is switched off, and what to do.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }
}

impl NamedService for ImageService {
    const NAME: &'static str = "runtime.v1.ImageService";
}

impl Service<http::Request<Body>> for ImageService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Some(shared) = self.0.clone() else {
            return Box::pin(async { Ok(Status::unimplemented(OFF).into_http()) });
        };
        // Counted from here: the server's own clock for it starts later, and says `Cancelled`.
        let deadline = Deadline::of(request.headers());
        Box::pin(async move {
            let method = method(&request);
            let answer = deadline.bound(&method, shared.answer(&method, request));
            Ok(answer.await.unwrap_or_else(Status::into_http))
        })
    }
}

// === impl Shared ===

impl Shared {
    async fn answer(
        &self,
        method: &str,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Status> {
        match method {
            "PullImage" => pull::pull(&self.backend, &self.logins, request).await,
            _ => self.backend.call(request).await,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.sweeping.abort();
    }
}

/// The method's name: what follows the service's.
fn method(request: &http::Request<Body>) -> String {
    let path = request.uri().path();
    path.rsplit('/').next().unwrap_or_default().to_owned()
}
