//! The TCP address that answers Prometheus and probes. Whoever can connect may ask, so what one asker
//! can take is bounded: bytes of a request, time of a connection, connections at once.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::error::{Error, Result};

/// A listening address.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

/// Connections at once; further ones wait in the kernel.
const MAX_CONNECTIONS: usize = 32;
/// Bytes of a request's head: several times what Prometheus sends, and the least that hyper takes.
const MAX_HEAD: usize = 8 << 10;
/// Longest wait for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that an answer may take to be made.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest life of a connection, which is one question and its answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Wait after the system refused a connection: it may have no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

// === impl Listener ===

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// `Io` if the address cannot be had.
    pub async fn bind(address: SocketAddr) -> Result<Self> {
        let what = |e| Error::io(format!("metrics.address {address}"), e);
        let listener = TcpListener::bind(address).await.map_err(what)?;
        let address = listener.local_addr().map_err(what)?;
        if !address.ip().to_canonical().is_loopback() {
            tracing::warn!(
                event = "insecure_remote",
                %address,
                "metrics are open to whoever reaches this address (metrics.insecure_remote)"
            );
        }
        Ok(Self { listener, address })
    }

    /// Where it listens: the port that was had, if any would do.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the pages until `stop` is done; then nothing holds them any more.
    pub async fn serve(self, pages: Router, stop: impl Future<Output = ()>) {
        let mut connections = JoinSet::new();
        tokio::select! {
            () = self.accept(pages, &mut connections) => {}
            () = stop => {}
        }
        connections.shutdown().await;
    }

    async fn accept(&self, pages: Router, connections: &mut JoinSet<()>) {
        loop {
            while connections.try_join_next().is_some() {}
            if connections.len() >= MAX_CONNECTIONS {
                connections.join_next().await;
                continue;
            }
            match self.listener.accept().await {
                Ok((stream, _)) => drop(connections.spawn(answer(stream, pages.clone()))),
                Err(error) => {
                    tracing::warn!(event = "accept_failed", %error, "metrics: no connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Answers one question.
async fn answer(stream: TcpStream, pages: Router) {
    let pages = TowerToHyperService::new(pages);
    let service = service_fn(|request: Request<Incoming>| async {
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, pages.call(request)).await;
        answered.unwrap_or_else(|_| Ok::<_, Infallible>(late()))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "metrics: connection broke"),
        Err(_) => tracing::debug!("metrics: connection given up"),
    }
}

fn late() -> Response<Body> {
    let mut response = Response::new(Body::from("not answered in time\n"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}
