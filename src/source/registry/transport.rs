//! One registry's connections: scheme, authorization, redirects, retries, accounting.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use reqwest::{
    Method, Response, StatusCode,
    header::{AUTHORIZATION, HeaderMap, LOCATION},
};
use url::Url;

use super::{
    CREDENTIALS_HINT, Options,
    answer::{is_untrusted, network, passing, reason, stalled},
    auth::{Access, Actions, Authenticator},
    endpoint::Endpoint,
    handed::RepositoryLogins,
    hosts::Scheme,
    meter::HostMeter,
    retry::{Failure, Retry, RetryPolicy},
};
use crate::{
    error::{Error, Result},
    source::{AnswerClass, Traffic},
};

/// One registry, or one host that stands for it, shared by all its repositories.
pub(super) struct Registry {
    endpoint: Endpoint,
    scheme: OnceLock<Scheme>,
    http: reqwest::Client,
    auth: Authenticator,
    pub(super) options: Options,
    pub(super) meter: Arc<HostMeter>,
    /// It was asked for several ranges of a blob at once and gave something else.
    single_ranges: AtomicBool,
}

/// Makes a request's body, anew for each try. It counts its bytes as they are taken.
pub(super) type MakeBody =
    dyn Fn(Progress) -> BoxFuture<'static, Result<reqwest::Body>> + Send + Sync;

/// Bytes of a request's body that have been sent.
pub(super) type Progress = Arc<AtomicU64>;

/// One request to a registry.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<&'a MakeBody>,
    /// Repository path, for the token's scope.
    pub(super) path: &'a str,
    pub(super) actions: Actions,
    /// Another repository that the registry reads for it, for the token's scope.
    pub(super) from: Option<&'a str>,
    /// Logins that were handed over for it.
    pub(super) handed: Option<&'a RepositoryLogins>,
    pub(super) traffic: &'a Traffic,
    /// The object, for messages.
    pub(super) what: &'a str,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// Path below the registry's API root.
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

// === impl Registry ===

impl Registry {
    pub(super) fn new(
        endpoint: Endpoint,
        options: &Options,
        meter: Arc<HostMeter>,
    ) -> Result<Arc<Self>> {
        let scheme = OnceLock::new();
        if let Some(known) = endpoint.scheme {
            let _ = scheme.set(known);
        }
        Ok(Arc::new(Self {
            scheme,
            http: endpoint.connections()?,
            auth: Authenticator::new(&endpoint.name, options, endpoint.insecure_realm()),
            options: options.clone(),
            meter,
            endpoint,
            single_ranges: AtomicBool::new(false),
        }))
    }

    /// Whether several ranges of a blob may be asked for at once: until it turns out otherwise.
    pub(super) fn answers_ranges(&self) -> bool {
        !self.single_ranges.load(Ordering::Relaxed)
    }

    /// It does not answer several ranges at once.
    pub(super) fn answers_single_ranges(&self) {
        if !self.single_ranges.swap(true, Ordering::Relaxed) {
            tracing::debug!(host = self.host(), "answers one range at a time");
        }
    }

    /// `host[:port]` as references or `hosts.toml` name it.
    pub(super) fn host(&self) -> &str {
        &self.endpoint.name
    }

    /// The tries of one operation.
    pub(super) fn retry(&self) -> Retry {
        self.retry_by(self.options.retry)
    }

    pub(super) fn retry_by(&self, policy: RetryPolicy) -> Retry {
        Retry::new(
            policy,
            Arc::clone(&self.options.environment),
            self.options.deadline,
        )
        .counted_by(Arc::clone(&self.meter))
    }

    /// Traffic of a part of what passes between this node and the host.
    pub(super) fn traffic(&self) -> Traffic {
        Traffic::within([Arc::clone(&self.meter.traffic)])
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
        let scope = self.endpoint.scope(request.path);
        let from = request.from.map(|path| self.endpoint.scope(path));
        let access = Access {
            path: &scope,
            actions: request.actions,
            from: from.as_deref(),
            handed: request.handed,
            traffic: request.traffic,
        };
        // Without an authorization, and with one that was not new, there is one more try. Each
        // login that was handed over has its own.
        let (mut asked, mut renewed, mut declined) = (false, false, Vec::new());
        let mut redirects = 0;
        loop {
            let own = self.is_own(&url);
            let authorization = if own {
                self.auth.header(&self.http, access, &declined).await?
            } else {
                None
            };
            let mut headers = request.headers.clone();
            if own {
                headers.extend(self.endpoint.headers.clone());
            }
            if let Some(authorization) = &authorization {
                headers.insert(AUTHORIZATION, authorization.header.clone());
            }
            let mut response = self.once(request, &mut url, headers).await?;
            let status = response.status();
            let by = authorization.as_ref().and_then(|it| it.by.clone());
            let again = match (&authorization, status) {
                _ if !own => false,
                (Some(_), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) if by.is_some() => true,
                (Some(it), StatusCode::UNAUTHORIZED) => {
                    !it.fresh && !std::mem::replace(&mut renewed, true)
                }
                (None, StatusCode::UNAUTHORIZED) => !std::mem::replace(&mut asked, true),
                _ => false,
            };
            if again {
                let (headers, used) = (response.headers(), authorization.as_ref());
                if self.auth.refused(headers, access, used).await {
                    if let Some(login) = by.filter(|_| used.is_some_and(|it| it.fresh)) {
                        declined.push(login);
                    }
                    self.discard(&mut response, request.traffic).await;
                    continue;
                }
            }
            if own && is_accepted(status) {
                if let Some(login) = by {
                    login.accepted();
                }
                // Somebody else may do this, so it was about the login and not about the object.
                for login in declined.drain(..) {
                    let why = format!("registry {}: not accepted", self.host());
                    access.refused(&login, &why);
                }
            }
            if let Some(failure) = passing(
                request.what,
                status,
                response.headers(),
                &*self.options.environment,
            ) {
                self.discard(&mut response, request.traffic).await;
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
            self.discard(&mut response, request.traffic).await;
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
        let answer = self.raw(request, url.clone(), headers.clone()).await;
        if self.scheme.get().is_some() || !self.is_own(url) {
            return answer.map_err(|sent| sent.failure(request.what));
        }
        let maybe_tls = match &answer {
            Ok(response) => response.status() == StatusCode::BAD_REQUEST,
            Err(Sent::Network(error)) => !error.is_connect(),
            Err(_) => false,
        };
        if maybe_tls && url.set_scheme("https").is_ok() {
            let by_tls = self.raw(request, url.clone(), headers).await;
            let speaks_tls = match &by_tls {
                Ok(_) => true,
                Err(Sent::Network(error)) => is_untrusted(error),
                Err(_) => false,
            };
            if speaks_tls {
                let _ = self.scheme.set(Scheme::Https);
                return by_tls.map_err(|sent| sent.failure(request.what));
            }
            let _ = url.set_scheme("http");
        }
        if answer.is_ok() {
            let _ = self.scheme.set(Scheme::Http);
        }
        answer.map_err(|sent| sent.failure(request.what))
    }

    /// Sends, waits for the head of the answer, and counts.
    async fn raw(
        &self,
        request: &Request<'_>,
        url: Url,
        headers: HeaderMap,
    ) -> Result<Response, Sent> {
        let environment = &self.options.environment;
        let begin = environment.now();
        request.traffic.request();
        let answer = self.uncounted(request, url, headers).await;
        let class = match &answer {
            Ok(response) => {
                let took = environment.now().saturating_duration_since(begin);
                self.meter.took.record(took);
                AnswerClass::of(response.status().as_u16())
            }
            Err(_) => AnswerClass::Nothing,
        };
        request.traffic.answer(class);
        answer
    }

    /// Sends and waits for the head of the answer: not longer than the stall timeout, or, while a
    /// body is sent, than the deadline without progress (registries hash an upload at its end).
    async fn uncounted(
        &self,
        request: &Request<'_>,
        url: Url,
        headers: HeaderMap,
    ) -> Result<Response, Sent> {
        let builder = self
            .http
            .request(request.method.clone(), url)
            .headers(headers);
        let Some(make) = request.body else {
            let patience = self.options.stall_timeout;
            return match tokio::time::timeout(patience, builder.send()).await {
                Ok(answer) => answer.map_err(Sent::Network),
                Err(_) => Err(Sent::Stalled(patience)),
            };
        };
        let progress = Progress::default();
        let body = make(Arc::clone(&progress)).await.map_err(Sent::Body)?;
        let patience = self.options.deadline;
        let mut answer = std::pin::pin!(builder.body(body).send());
        loop {
            let before = progress.load(Ordering::Relaxed);
            match tokio::time::timeout(patience, answer.as_mut()).await {
                Ok(answer) => return answer.map_err(Sent::Network),
                Err(_) if progress.load(Ordering::Relaxed) > before => {}
                Err(_) => return Err(Sent::Stalled(patience)),
            }
        }
    }

    /// A URL below the registry's API root.
    fn url(&self, path: &str) -> Result<Url> {
        let scheme = match self.scheme.get() {
            Some(Scheme::Https) => "https",
            _ => "http",
        };
        let Endpoint {
            authority, prefix, ..
        } = &self.endpoint;
        let mut url = Url::parse(&format!("{scheme}://{authority}{prefix}{path}"))
            .map_err(|e| Error::invalid(format!("registry {}", self.host())).with_source(e))?;
        if let Some(namespace) = &self.endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// A URL beside the registry's API root, if that is where registries have it.
    pub(super) fn beside(&self, path: &str) -> Result<Option<Url>> {
        if self.endpoint.prefix != "/v2" {
            return Ok(None);
        }
        let mut url = self.url("/")?;
        url.set_path(path);
        Ok(Some(url))
    }

    /// Whether a URL is on the registry itself, so that its authorization may go there.
    fn is_own(&self, url: &Url) -> bool {
        self.url("/").is_ok_and(|own| own.origin() == url.origin())
    }

    /// Where a redirect points at.
    fn location(&self, from: &Url, response: &Response, what: &str) -> Result<Url, Failure> {
        response
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| redirect_target(from, location))
            .ok_or_else(|| {
                Failure::fatal(Error::unavailable(format!(
                    "{what}: a redirect to nowhere, or from https to something less"
                )))
            })
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

    /// Reads a short body to its end, which lets the connection be used again.
    async fn discard(&self, response: &mut Response, traffic: &Traffic) {
        reason(response, self.options.stall_timeout, traffic).await;
    }

    /// The error for an answer that is a final no.
    pub(super) async fn refusal(
        &self,
        mut response: Response,
        what: &str,
        traffic: &Traffic,
    ) -> Error {
        let status = response.status();
        let reason = reason(&mut response, self.options.stall_timeout, traffic).await;
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
            .field("host", &self.host())
            .finish_non_exhaustive()
    }
}

/// Why a request has no answer.
enum Sent {
    Network(reqwest::Error),
    Stalled(Duration),
    /// Its body could not be made.
    Body(Error),
}

// === impl Sent ===

impl Sent {
    fn failure(self, what: &str) -> Failure {
        match self {
            Sent::Network(error) => network(what, error),
            Sent::Stalled(patience) => stalled(what, patience),
            Sent::Body(error) => Failure::fatal(error),
        }
    }
}

/// Where a redirect leads; never from TLS to no TLS.
pub(super) fn redirect_target(from: &Url, location: &str) -> Option<Url> {
    let next = from.join(location).ok()?;
    matches!(
        (from.scheme(), next.scheme()),
        (_, "https") | ("http", "http")
    )
    .then_some(next)
}

/// Whether an answer says that the authorization was good.
fn is_accepted(status: StatusCode) -> bool {
    status.is_success() || is_redirect(status) || status == StatusCode::NOT_FOUND
}

pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_keep_tls() {
        let to = |from: &str, location: &str| {
            redirect_target(&from.parse().unwrap(), location).map(String::from)
        };
        let (plain, tls) = ("http://r.example/v2/a", "https://r.example/v2/a");
        assert_eq!(to(tls, "/b").as_deref(), Some("https://r.example/b"));
        assert_eq!(
            to(tls, "//s.example/b").as_deref(),
            Some("https://s.example/b")
        );
        assert_eq!(to(plain, "https://s/b").as_deref(), Some("https://s/b"));
        assert_eq!(to(plain, "http://s/b").as_deref(), Some("http://s/b"));
        for location in ["http://r.example/v2/a", "ftp://s/", "data:,x", "http://"] {
            assert_eq!(to(tls, location), None, "{location}");
        }
    }

    #[test]
    fn only_loopback_is_guessed_and_docker_hub_has_another_host() {
        let options = Options {
            plain_http: vec!["plain.example:5000".into(), "bare.example".into()],
            ..Options::default()
        };
        for (host, url) in [
            ("docker.io", "https://registry-1.docker.io/"),
            ("r.example", "https://r.example/"),
            ("r.example:5000", "https://r.example:5000/"),
            ("plain.example:5000", "http://plain.example:5000/"),
            ("plain.example", "https://plain.example/"),
            ("bare.example:5001", "http://bare.example:5001/"),
        ] {
            let endpoint = Endpoint::registry(host, &options, &[]).unwrap();
            let registry = Registry::new(endpoint, &options, Arc::default()).unwrap();
            assert_eq!(registry.url("/").unwrap().as_str(), format!("{url}v2/"));
            assert!(registry.scheme.get().is_some());
        }
        for host in [
            "127.0.0.1:5000",
            "127.9.9.9",
            "[::1]:5000",
            "localhost:5000",
        ] {
            let endpoint = Endpoint::registry(host, &options, &[]).unwrap();
            let registry = Registry::new(endpoint, &options, Arc::default()).unwrap();
            assert!(registry.scheme.get().is_none(), "{host}");
        }
    }
}
