//! The pages: which path says what.

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{
        HeaderMap, Response, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    routing::get,
};

use super::{Format, Telemetry};
use crate::error::{Error, Kind};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

// === impl Telemetry ===

impl Telemetry {
    /// What anybody who can connect may know: metrics, health, readiness.
    pub fn public_pages(&self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(async || page(StatusCode::OK, TEXT, "ok\n")))
            .route("/readyz", get(ready))
            .with_state(self.clone())
    }

    /// All pages, for whom the socket's mode lets in.
    pub fn pages(&self) -> Router {
        let status = Router::new().route("/status", get(status));
        self.public_pages().merge(status.with_state(self.clone()))
    }
}

async fn metrics(State(telemetry): State<Telemetry>, headers: HeaderMap) -> Response<Body> {
    let accept = headers.get(ACCEPT).and_then(|it| it.to_str().ok());
    let format = Format::accepted(accept.unwrap_or_default());
    match telemetry.metrics(format).await {
        Ok(text) => page(StatusCode::OK, format.content_type(), text),
        Err(error) => failed(&error),
    }
}

async fn ready(State(telemetry): State<Telemetry>) -> Response<Body> {
    let readiness = telemetry.readiness().await;
    let status = match readiness.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    page(status, TEXT, readiness.to_string())
}

async fn status(State(telemetry): State<Telemetry>) -> Response<Body> {
    let status = telemetry.status().await.and_then(|status| {
        serde_json::to_vec(&status).map_err(|e| Error::internal("status as JSON").with_source(e))
    });
    match status {
        Ok(json) => page(StatusCode::OK, JSON, json),
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> Response<Body> {
    tracing::warn!(event = "page_failed", kind = Kind::as_str(error.kind()), %error, "page failed");
    page(
        StatusCode::INTERNAL_SERVER_ERROR,
        TEXT,
        format!("{error}\n"),
    )
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let kind = axum::http::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
