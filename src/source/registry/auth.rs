//! Authorization for one registry: basic, or bearer tokens kept by scope and renewed at use.
//!
//! Follows the distribution project's token specification: `GET realm?service&scope` with user and
//! password or without, `POST realm` with a refresh token (OAuth 2).

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::{
    Options, answer,
    challenge::{self, Challenge},
    credentials::{Credentials, Login},
    handed::{HandedLogin, RepositoryLogins},
    retry::{Environment, Failure},
    secret::Secret,
};
use crate::{
    error::{Error, Kind, Result},
    source::{AnswerClass, Traffic},
};

/// What a request may do, in the token specification's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Actions {
    /// Read.
    Pull,
    /// Read and write.
    PullPush,
}

/// The authorizations of one registry, shared by its repositories.
pub(super) struct Authenticator {
    host: String,
    credentials: Credentials,
    environment: Arc<dyn Environment>,
    insecure_realm: bool,
    patience: Duration,
    challenge: Mutex<Option<Challenge>>,
    /// By scopes.
    grants: Mutex<HashMap<Vec<String>, Arc<Slot>>>,
}

/// Access that is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access<'a> {
    /// The repository as the host's token server calls it.
    pub(super) path: &'a str,
    pub(super) actions: Actions,
    /// Another repository that is read at the same time.
    pub(super) from: Option<&'a str>,
    /// Logins that were handed over for it.
    pub(super) handed: Option<&'a RepositoryLogins>,
    pub(super) traffic: &'a Traffic,
}

/// What one request is sent with.
#[derive(Clone)]
pub(super) struct Authorization {
    pub(super) header: HeaderValue,
    /// Obtained just now: who refuses it refuses the login.
    pub(super) fresh: bool,
    /// The login that was handed over, if it is by one.
    pub(super) by: Option<Arc<HandedLogin>>,
}

/// One scope's authorization. The lock is held while it is renewed: all others wait for that one.
pub(super) type Slot = tokio::sync::Mutex<Option<Held>>;

pub(super) struct Held {
    header: HeaderValue,
    until: Option<Instant>,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<Secret>,
    access_token: Option<Secret>,
    expires_in: Option<u64>,
}

/// Life of a token whose server does not say (token specification).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// Tokens are renewed this long before they end, so that none ends on its way; short-lived ones
/// after three quarters of their life.
const MARGIN: Duration = Duration::from_secs(10);
/// A life beyond this is not believed, which also keeps instants representable.
const MAX_LIFE: u64 = 24 * 3600;
/// Largest answer of a token server; tokens with many claims have some ten KiB.
const MAX_ANSWER: usize = 256 << 10;

// === impl Actions ===

impl Actions {
    fn scope(self, path: &str) -> String {
        let actions = match self {
            Actions::Pull => "pull",
            Actions::PullPush => "pull,push",
        };
        format!("repository:{path}:{actions}")
    }
}

// === impl Access ===

impl Access<'_> {
    /// What the token specification calls it.
    fn scopes(&self) -> Vec<String> {
        let from = self.from.map(|path| Actions::Pull.scope(path));
        let own = self.actions.scope(self.path);
        std::iter::once(own).chain(from).collect()
    }

    /// Takes note that a login that was handed over is of no use for now.
    pub(super) fn refused(&self, login: &HandedLogin, why: &str) {
        if let Some(handed) = self.handed {
            handed.refused(login, why);
        }
    }
}

// === impl Authorization ===

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization")
            .field("fresh", &self.fresh)
            .field("by", &self.by)
            .finish_non_exhaustive()
    }
}

// === impl Authenticator ===

impl Authenticator {
    /// `insecure_realm`: whether secrets may go to a token server without TLS.
    pub(super) fn new(host: &str, options: &Options, insecure_realm: bool) -> Self {
        Self {
            host: host.to_owned(),
            credentials: options.credentials.clone(),
            environment: Arc::clone(&options.environment),
            insecure_realm,
            patience: options.stall_timeout,
            challenge: Mutex::default(),
            grants: Mutex::default(),
        }
    }

    /// The `Authorization` for a request, renewed if it has ended; `None` as long as the registry
    /// has not asked for one. By a login that was handed over, none of `declined`, if there is one;
    /// else by what the other sources say.
    pub(super) async fn header(
        &self,
        http: &reqwest::Client,
        access: Access<'_>,
        declined: &[Arc<HandedLogin>],
    ) -> Result<Option<Authorization>, Failure> {
        let Some(challenge) = self.challenge() else {
            return Ok(None);
        };
        let handed = access.handed.map(|it| it.usable(&self.host));
        for login in handed.into_iter().flatten() {
            if declined.iter().any(|it| Arc::ptr_eq(it, &login)) {
                continue;
            }
            let slot = login.slot(&self.host, access.path);
            let by = Some(Arc::clone(&login));
            match self.renewed(http, &challenge, access, &slot, by).await {
                Ok(Some(authorization)) => return Ok(Some(authorization)),
                // Of no use for what this registry asks for.
                Ok(None) => {}
                Err(failure) if failure.error.kind() == Kind::Denied => {
                    access.refused(&login, &failure.error.to_string());
                }
                Err(failure) => return Err(failure),
            }
        }
        let slot = self.slot(access);
        self.renewed(http, &challenge, access, &slot, None).await
    }

    /// Takes note of a 401: what the registry asks for, and that `used` was not accepted. Returns
    /// whether another try with a new authorization makes sense.
    pub(super) async fn refused(
        &self,
        headers: &HeaderMap,
        access: Access<'_>,
        used: Option<&Authorization>,
    ) -> bool {
        let values = headers.get_all(WWW_AUTHENTICATE);
        let asked = challenge::parse(values.iter().filter_map(|v| v.to_str().ok()));
        let understood = asked.is_some();
        if understood {
            *self
                .challenge
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = asked;
        }
        let by = used.and_then(|used| used.by.as_deref());
        if !understood && by.is_none() {
            return false;
        }
        let slot = match by {
            Some(login) => login.slot(&self.host, access.path),
            None => self.slot(access),
        };
        let mut held = slot.lock().await;
        if let (Some(now), Some(used)) = (&*held, used)
            && now.header == used.header
        {
            *held = None;
        }
        true
    }

    fn challenge(&self) -> Option<Challenge> {
        self.challenge
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn slot(&self, access: Access<'_>) -> Arc<Slot> {
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(grants.entry(access.scopes()).or_default())
    }

    /// What a slot holds, obtained anew if that has ended.
    async fn renewed(
        &self,
        http: &reqwest::Client,
        challenge: &Challenge,
        access: Access<'_>,
        slot: &Slot,
        by: Option<Arc<HandedLogin>>,
    ) -> Result<Option<Authorization>, Failure> {
        let mut held = slot.lock().await;
        let now = self.environment.now();
        let lasts = |held: &Held| held.until.is_none_or(|until| now < until);
        let fresh = !held.as_ref().is_some_and(lasts);
        if fresh {
            *held = None;
            let login = by.as_ref().map(|it| it.login());
            *held = self.obtain(http, challenge, access, login).await?;
        }
        Ok(held.as_ref().map(|held| Authorization {
            header: held.header.clone(),
            fresh,
            by,
        }))
    }

    async fn obtain(
        &self,
        http: &reqwest::Client,
        challenge: &Challenge,
        access: Access<'_>,
        handed: Option<&Login>,
    ) -> Result<Option<Held>, Failure> {
        let login = match handed {
            Some(login) => login.clone(),
            None => {
                let credentials = &self.credentials;
                let login = credentials.login(&*self.environment, &self.host, access.path);
                login.await?
            }
        };
        let lasting = |header| {
            Ok(Some(Held {
                header,
                until: None,
            }))
        };
        match (challenge, &login) {
            (Challenge::Basic, Login::Basic { username, password }) => {
                lasting(basic(username, password)?)
            }
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { .. }, Login::Token(token)) => lasting(bearer(token)?),
            (Challenge::Bearer { .. }, _) => {
                let request = self.token_request(http, challenge, access, &login)?;
                self.token(access.traffic, request).await.map(Some)
            }
        }
    }

    /// The request to the token server.
    fn token_request(
        &self,
        http: &reqwest::Client,
        challenge: &Challenge,
        access: Access<'_>,
        login: &Login,
    ) -> Result<reqwest::RequestBuilder> {
        let Challenge::Bearer {
            realm,
            service,
            scope,
            ..
        } = challenge
        else {
            return Err(Error::internal(
                "token asked for without a bearer challenge",
            ));
        };
        let mut url = Url::parse(realm)
            .map_err(|_| Error::invalid(format!("registry {}: malformed realm", self.host)))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(Error::invalid(format!(
                "registry {}: realm is not http",
                self.host
            )));
        }
        if url.scheme() == "http" && !self.insecure_realm && !matches!(login, Login::Anonymous) {
            return Err(Error::denied(format!(
                "registry {}: its token server has no TLS, credentials are not sent there",
                self.host
            )));
        }
        let mut scopes = access.scopes();
        // A scope of another form is the registry's own word for access to it.
        scopes.extend(scope.clone().filter(|s| !s.starts_with("repository:")));
        let service = service.as_deref().unwrap_or_default();
        if let Login::Identity(token) = login {
            let body = form_urlencoded::Serializer::new(String::new())
                .append_pair("grant_type", "refresh_token")
                .append_pair("service", service)
                .append_pair("scope", &scopes.join(" "))
                .append_pair("client_id", "nacre")
                .append_pair("refresh_token", token)
                .finish();
            return Ok(http
                .post(url)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(body));
        }
        let mut query = url.query_pairs_mut();
        if !service.is_empty() {
            query.append_pair("service", service);
        }
        for scope in &scopes {
            query.append_pair("scope", scope);
        }
        drop(query);
        let Login::Basic { username, password } = login else {
            return Ok(http.get(url));
        };
        url.query_pairs_mut().append_pair("account", username);
        Ok(http
            .get(url)
            .header(AUTHORIZATION, basic(username, password)?))
    }

    async fn token(
        &self,
        traffic: &Traffic,
        request: reqwest::RequestBuilder,
    ) -> Result<Held, Failure> {
        let what = format!("token for registry {}", self.host);
        traffic.request();
        let patience = self.patience;
        let sent = tokio::time::timeout(patience, request.send()).await;
        traffic.answer(match &sent {
            Ok(Ok(response)) => AnswerClass::of(response.status().as_u16()),
            _ => AnswerClass::Nothing,
        });
        let mut response = sent
            .map_err(|_| answer::stalled(&what, patience))?
            .map_err(|e| answer::network(&what, e))?;
        let status = response.status();
        if matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST
        ) {
            return Err(Failure::fatal(
                Error::denied(format!("{what}: refused with {status}"))
                    .with_hint(super::CREDENTIALS_HINT),
            ));
        }
        if let Some(failure) =
            answer::passing(&what, status, response.headers(), &*self.environment)
        {
            return Err(failure);
        }
        if !status.is_success() {
            return Err(Failure::fatal(Error::denied(format!(
                "{what}: answered {status}"
            ))));
        }
        let mut body = Zeroizing::new(Vec::with_capacity(8 << 10));
        while let Some(piece) = answer::chunk(&mut response, &what, patience, traffic).await? {
            if body.len() + piece.len() > MAX_ANSWER {
                return Err(Failure::fatal(Error::denied(format!(
                    "{what}: answer over {MAX_ANSWER} bytes"
                ))));
            }
            body.extend_from_slice(&piece);
        }
        let bad = || Failure::fatal(Error::denied(format!("{what}: the answer has no token")));
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| bad())?;
        let token = answer
            .token
            .filter(|token| !token.is_empty())
            .or(answer.access_token)
            .filter(|token| !token.is_empty())
            .ok_or_else(bad)?;
        let life = answer
            .expires_in
            .filter(|seconds| *seconds > 0)
            .map_or(DEFAULT_LIFE, |seconds| {
                Duration::from_secs(seconds.min(MAX_LIFE))
            });
        let margin = MARGIN.min(life / 4);
        let header = bearer(&token).map_err(|_| bad())?;
        Ok(Held {
            header,
            until: Some(self.environment.now() + (life - margin)),
        })
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

fn bearer(token: &str) -> Result<HeaderValue> {
    secret(&Zeroizing::new(format!("Bearer {token}")))
}

fn basic(username: &str, password: &str) -> Result<HeaderValue> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let pair = Zeroizing::new(format!("{username}:{password}"));
    let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    secret(&text)
}

/// A header value that no one prints.
fn secret(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Error::denied("the authorization does not fit into a header"))?;
    value.set_sensitive(true);
    Ok(value)
}
