//! One registry's connections: scheme, authorization, redirects, retries, accounting.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::future::BoxFuture;
use reqwest::{
    Method, Response, StatusCode,
    header::{AUTHORIZATION, HeaderMap, LOCATION, RETRY_AFTER},
};
use time::OffsetDateTime;
use url::Url;

use super::{
    CREDENTIALS_HINT, Options,
    auth::{Actions, Authenticator},
    header,
    retry::{Again, Environment, Failure, Retry},
};
use crate::{
    error::{Error, Result},
    source::Traffic,
};

/// One registry, shared by all its repositories.
pub(super) struct Registry {
    host: String,
    /// `host[:port]` that is connected to.
    authority: String,
    scheme: OnceLock<Scheme>,
    http: reqwest::Client,
    auth: Authenticator,
    pub(super) options: Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

/// Makes a request's body, anew for each try.
pub(super) type MakeBody = dyn Fn() -> BoxFuture<'static, Result<reqwest::Body>> + Send + Sync;

/// One request to a registry.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<&'a MakeBody>,
    /// Repository path, for the token's scope.
    pub(super) path: &'a str,
    pub(super) actions: Actions,
    pub(super) traffic: &'a Traffic,
    /// The object, for messages.
    pub(super) what: &'a str,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// Path and query on the registry.
    Path(String),
    /// Somewhere a registry pointed at.
    Url(Url),
}

/// An answer, and where it came from if not from where it was asked.
pub(super) struct Exchange {
    pub(super) response: Response,
    pub(super) redirected: Option<Url>,
}

/// Redirects that are followed for one request; real registries have one or two.
const MAX_REDIRECTS: usize = 5;

/// Most that is read of an answer's body for a message.
const MAX_REASON: usize = 4 << 10;

// === impl Registry ===

impl Registry {
    pub(super) fn new(
        host: &str,
        options: &Options,
        certificates: &[reqwest::Certificate],
    ) -> Result<Arc<Self>> {
        let authority = match host {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let parsed = Url::parse(&format!("https://{authority}/"))
            .map_err(|e| Error::invalid(format!("registry {host}")).with_source(e))?;
        let loopback = is_loopback(&parsed);
        let bare = parsed.host_str().unwrap_or_default();
        let plain = options.plain_http.iter().any(|p| p == host || p == bare);
        let scheme = OnceLock::new();
        if plain || !loopback {
            let _ = scheme.set(if plain { Scheme::Http } else { Scheme::Https });
        }
        Ok(Arc::new(Self {
            host: host.to_owned(),
            authority: authority.to_owned(),
            scheme,
            http: connections(options, certificates, loopback)?,
            auth: Authenticator::new(
                host.to_owned(),
                options.credentials.clone(),
                Arc::clone(&options.environment),
                plain || loopback,
            ),
            options: options.clone(),
        }))
    }

    /// `host[:port]` as references name it.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn retry(&self) -> Retry {
        Retry::new(
            self.options.retry,
            Arc::clone(&self.options.environment),
            self.options.deadline,
        )
    }

    /// Sends until there is an answer that is not a passing failure, within the deadline.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<Exchange> {
        let mut retry = self.retry();
        loop {
            match self.exchange(request).await {
                Ok(exchange) => return Ok(exchange),
                Err(failure) => retry.wait(failure).await?,
            }
        }
    }

    /// One try: authorized, redirects followed. Passing failures (429, 5xx, the network) are
    /// errors, every other answer is returned.
    pub(super) async fn exchange(&self, request: &Request<'_>) -> Result<Exchange, Failure> {
        let mut url = match &request.target {
            Target::Path(path) => self.url(path)?,
            Target::Url(url) => url.clone(),
        };
        let mut renewed = false;
        let mut redirects = 0;
        loop {
            let own = self.is_own(&url);
            let authorization = if own {
                self.auth
                    .header(&self.http, request.traffic, request.path, request.actions)
                    .await?
            } else {
                None
            };
            let mut headers = request.headers.clone();
            if let Some(authorization) = &authorization {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            let mut response = self.once(request, &mut url, headers).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && own && !renewed {
                renewed = true;
                if self
                    .auth
                    .refused(
                        response.headers(),
                        request.path,
                        request.actions,
                        authorization.as_ref(),
                    )
                    .await
                {
                    // A short body read to its end lets the connection be used again.
                    let _ = reason(&mut response, request.traffic).await;
                    continue;
                }
            }
            if let Some(failure) = passing(
                request.what,
                status,
                response.headers(),
                &*self.options.environment,
            ) {
                let _ = reason(&mut response, request.traffic).await;
                return Err(failure);
            }
            let reads = matches!(request.method, Method::GET | Method::HEAD);
            if !(reads && is_redirect(status)) {
                let redirected = (redirects > 0).then_some(url);
                return Ok(Exchange {
                    response,
                    redirected,
                });
            }
            redirects += 1;
            if redirects > MAX_REDIRECTS {
                return Err(Failure::fatal(Error::unavailable(format!(
                    "{}: more than {MAX_REDIRECTS} redirects",
                    request.what
                ))));
            }
            let next = self.location(&url, &response, request.what)?;
            let _ = reason(&mut response, request.traffic).await;
            url = next;
        }
    }

    /// Sends once. The first request to a registry on loopback finds out its scheme: one that
    /// speaks TLS answers plain HTTP with 400, or with something that is not HTTP.
    async fn once(
        &self,
        request: &Request<'_>,
        url: &mut Url,
        headers: HeaderMap,
    ) -> Result<Response, Failure> {
        let failure = |error| network(request.what, error);
        let answer = self.raw(request, url.clone(), headers.clone()).await?;
        if self.scheme.get().is_some() || !self.is_own(url) {
            return answer.map_err(failure);
        }
        let maybe_tls = match &answer {
            Ok(response) => response.status() == StatusCode::BAD_REQUEST,
            Err(error) => !error.is_timeout() && !error.is_connect(),
        };
        if maybe_tls && url.set_scheme("https").is_ok() {
            let by_tls = self.raw(request, url.clone(), headers).await?;
            if by_tls.as_ref().map_or_else(is_untrusted, |_| true) {
                let _ = self.scheme.set(Scheme::Https);
                return by_tls.map_err(failure);
            }
            let _ = url.set_scheme("http");
        }
        if answer.is_ok() {
            let _ = self.scheme.set(Scheme::Http);
        }
        answer.map_err(failure)
    }

    async fn raw(
        &self,
        request: &Request<'_>,
        url: Url,
        headers: HeaderMap,
    ) -> Result<reqwest::Result<Response>> {
        let mut builder = self
            .http
            .request(request.method.clone(), url)
            .headers(headers);
        if let Some(make) = request.body {
            builder = builder.body(make().await?);
        }
        request.traffic.request();
        Ok(builder.send().await)
    }

    /// A URL on the registry.
    fn url(&self, path: &str) -> Result<Url> {
        let scheme = match self.scheme.get() {
            Some(Scheme::Https) => "https",
            _ => "http",
        };
        Url::parse(&format!("{scheme}://{}{path}", self.authority))
            .map_err(|e| Error::invalid(format!("registry {}", self.host)).with_source(e))
    }

    /// Whether a URL is on the registry itself, so that its authorization may go there.
    fn is_own(&self, url: &Url) -> bool {
        self.url("/").is_ok_and(|own| own.origin() == url.origin())
    }

    /// Where a redirect points at.
    fn location(&self, from: &Url, response: &Response, what: &str) -> Result<Url, Failure> {
        let bad = |why: &str| Failure::fatal(Error::unavailable(format!("{what}: {why}")));
        let next = response
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| from.join(location).ok())
            .ok_or_else(|| bad("redirect without a usable location"))?;
        match (from.scheme(), next.scheme()) {
            (_, "https") | ("http", "http") => Ok(next),
            _ => Err(bad("redirect from https to something else is refused")),
        }
    }

    /// Where an upload goes on: what `Location` says, on this registry by its own scheme, since a
    /// registry behind a proxy may not know it.
    pub(super) fn upload_location(&self, response: &Response, what: &str) -> Result<Url, Failure> {
        let bad = || {
            Failure::fatal(Error::unavailable(format!(
                "{what}: upload without a usable location"
            )))
        };
        let own = self.url("/")?;
        let mut next = response
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| response.url().join(location).ok())
            .ok_or_else(bad)?;
        if next.scheme() != own.scheme() {
            let same = next.host_str() == own.host_str() && next.port() == own.port();
            if !same || next.set_scheme(own.scheme()).is_err() {
                return Err(bad());
            }
        }
        Ok(next)
    }

    /// The error for an answer that is a final no.
    pub(super) async fn refusal(
        &self,
        mut response: Response,
        what: &str,
        traffic: &Traffic,
    ) -> Error {
        let status = response.status();
        let reason = reason(&mut response, traffic).await;
        let said = if reason.is_empty() {
            format!("{what}: the registry answered {status}")
        } else {
            format!("{what}: the registry answered {status}: {reason}")
        };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Error::denied(said).with_hint(CREDENTIALS_HINT)
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => Error::not_found(said),
            _ if status.is_client_error() => Error::invalid(said),
            StatusCode::NOT_IMPLEMENTED => Error::unsupported(said),
            _ => Error::unavailable(said),
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// The connection pool. Redirects are followed by us, and loopback never goes through a proxy.
fn connections(
    options: &Options,
    certificates: &[reqwest::Certificate],
    loopback: bool,
) -> Result<reqwest::Client> {
    let builder = || {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("nacre/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.stall_timeout)
            .tcp_nodelay(true);
        if loopback {
            builder.no_proxy()
        } else {
            builder
        }
    };
    let certificates = || certificates.iter().cloned();
    builder()
        .tls_certs_merge(certificates())
        .build()
        // A machine may have no certificates of its own: then only the given ones are trusted.
        .or_else(|_| builder().tls_certs_only(certificates()).build())
        .map_err(|e| Error::internal("http client").with_source(e.without_url()))
}

/// The failure of an answer that asks for another try.
pub(super) fn passing(
    what: &str,
    status: StatusCode,
    headers: &HeaderMap,
    environment: &dyn Environment,
) -> Option<Failure> {
    let temporary = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
    ) || (status.is_server_error()
        && !matches!(
            status,
            StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED
        ));
    if !temporary {
        return None;
    }
    let now = OffsetDateTime::from(environment.calendar());
    let asked: Option<Duration> = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| header::retry_after(value, now));
    Some(Failure {
        error: Error::unavailable(format!("{what}: the registry answered {status}")),
        again: asked.map_or(Again::Backoff, Again::After),
    })
}

/// The failure of a connection or a body. The URL is left out: it may be a signed one.
pub(super) fn network(what: &str, error: reqwest::Error) -> Failure {
    let untrusted = is_untrusted(&error);
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(below) = cause {
        let below_text = below.to_string();
        if !text.contains(&below_text) {
            text = format!("{text}: {below_text}");
        }
        cause = below.source();
    }
    let said = Error::unavailable(format!("{what}: {text}"));
    if untrusted {
        return Failure::fatal(said.with_hint(
            "if the registry's certificate is by an authority of your own, name its CA file",
        ));
    }
    if error.is_builder() {
        return Failure::fatal(said);
    }
    Failure::passing(said)
}

/// Whether the other side speaks TLS, with a certificate that is not accepted. The layers between
/// hide the type, so it is told by rustls's words.
fn is_untrusted(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(below) = cause {
        if below.to_string().contains("invalid peer certificate") {
            return true;
        }
        cause = below.source();
    }
    false
}

/// The registry's own words about a refusal, one line; reads a bounded part of the body.
pub(super) async fn reason(response: &mut Response, traffic: &Traffic) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut body = Vec::new();
    while body.len() < MAX_REASON {
        let Ok(Some(piece)) = response.chunk().await else {
            break;
        };
        traffic.received(piece.len());
        body.extend_from_slice(&piece);
    }
    let Ok(parsed) = serde_json::from_slice::<Errors>(&body) else {
        return String::new();
    };
    let words: Vec<String> = parsed
        .errors
        .iter()
        .map(|item| format!("{} {}", item.code, item.message).trim().to_owned())
        .collect();
    words
        .join("; ")
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect()
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(url::Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}
