//! The fake registry's side of the distribution specification.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{
        AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LINK, LOCATION,
        RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
    },
};
use nacre::oci::Digest;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::registry::{Auth, Fault, Seen, Shared, State};

type Failure = std::io::Error;
type Body = BoxBody<Bytes, Failure>;

/// An answer before faults, with its whole body.
struct Plain {
    status: u16,
    headers: Vec<(hyper::header::HeaderName, String)>,
    body: Bytes,
}

/// What is asked, taken apart.
struct Asked {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    range: Option<String>,
    authorization: Option<String>,
    media_type: String,
    body: Bytes,
}

pub(super) async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
    is_store: bool,
) -> Result<Response<Body>, Failure> {
    let header = |name| {
        let value = request.headers().get(name);
        value.map(|v: &HeaderValue| v.to_str().unwrap_or_default().to_owned())
    };
    let seen = Seen {
        line: format!("{} {}", request.method(), request.uri()),
        range: header(RANGE),
        authorization: header(AUTHORIZATION),
        headers: request.headers().clone(),
    };
    let head = request.method() == Method::HEAD;
    let fault = shared.state().see(seen.clone());
    match &fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Close) => return Err(Failure::other("closed by the test")),
        _ => {}
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let ignore = matches!(fault, Some(Fault::IgnoreRange));
    let first_only = matches!(fault, Some(Fault::FirstRange));
    let range = seen.range.filter(|_| !ignore).map(|ranges| {
        let first = ranges.split(',').next().unwrap_or_default();
        if first_only { first.to_owned() } else { ranges }
    });
    let asked = Asked {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        query: form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect(),
        range,
        authorization: seen.authorization,
        media_type: header(CONTENT_TYPE).unwrap_or_default(),
        body: whole(request.into_body()).await?,
    };
    let mut plain = if is_store {
        from_store(shared, &asked)
    } else {
        from_registry(shared, &asked)
    };
    match &fault {
        Some(Fault::Status(status)) => plain = status_only(*status),
        Some(Fault::RetryAfter(status, after)) => {
            plain = status_only(*status).with(RETRY_AFTER, after);
        }
        Some(Fault::Redirect(to)) => plain = status_only(307).with(LOCATION, to),
        Some(Fault::Flip(at)) => {
            let mut body = plain.body.to_vec();
            body[*at] ^= 1;
            plain.body = body.into();
        }
        Some(Fault::OtherRange) => {
            for (name, value) in &mut plain.headers {
                if *name == CONTENT_RANGE {
                    *value = moved(value);
                }
            }
        }
        _ => {}
    }
    Ok(plain.into_response(head, fault.as_ref()))
}

async fn whole(body: Incoming) -> Result<Bytes, Failure> {
    let collected = body.collect().await.map_err(Failure::other)?;
    Ok(collected.to_bytes())
}

// === impl Plain ===

impl Plain {
    fn with(mut self, name: hyper::header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn into_response(self, head: bool, fault: Option<&Fault>) -> Response<Body> {
        let mut response = Response::builder()
            .status(self.status)
            .header(CONTENT_LENGTH, self.body.len());
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        let sent = |length: usize| self.body.slice(..length.min(self.body.len()));
        let frame = |bytes| Ok::<_, Failure>(Frame::data(bytes));
        let pieces = match fault {
            _ if head => stream::empty().boxed(),
            Some(Fault::Truncate(length)) => {
                let cut = stream::once(async {
                    // What came before goes out first.
                    tokio::task::yield_now().await;
                    Err(Failure::other("cut by the test"))
                });
                stream::iter([frame(sent(*length))]).chain(cut).boxed()
            }
            Some(Fault::Stall(length)) => stream::iter([frame(sent(*length))])
                .chain(stream::pending())
                .boxed(),
            _ => stream::iter([frame(self.body.clone())]).boxed(),
        };
        // `Sync` is wanted by the boxed body; the stream is only ever polled by one task.
        let body = BodyExt::boxed(StreamBody::new(SyncStream(std::sync::Mutex::new(pieces))));
        response.body(body).unwrap()
    }
}

struct SyncStream<S>(std::sync::Mutex<S>);

impl<S: futures::Stream + Unpin> futures::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.get_mut().unwrap().poll_next_unpin(context)
    }
}

fn status_only(status: u16) -> Plain {
    Plain {
        status,
        headers: Vec::new(),
        body: Bytes::new(),
    }
}

fn error(status: u16, code: &str) -> Plain {
    let body = json!({"errors": [{"code": code, "message": code.to_lowercase()}]});
    Plain {
        body: body.to_string().into(),
        ..status_only(status)
    }
}

fn moved(content_range: &str) -> String {
    let (range, total) = content_range
        .strip_prefix("bytes ")
        .and_then(|rest| rest.split_once('/'))
        .unwrap();
    let (start, last) = range.split_once('-').unwrap();
    let (start, last): (u64, u64) = (start.parse().unwrap(), last.parse().unwrap());
    format!("bytes {}-{}/{total}", start.max(1) - 1, last - 1)
}

/// The second server: blobs by links.
fn from_store(shared: &Shared, asked: &Asked) -> Plain {
    let link = asked.value("sig").unwrap_or_default();
    let state = shared.state();
    if !state.links.contains(link) {
        return error(403, "LINK_EXPIRED");
    }
    let Some((repository, digest)) = asked
        .path
        .strip_prefix("/store/")
        .and_then(|path| path.rsplit_once('/'))
    else {
        return status_only(404);
    };
    let key = (repository.to_owned(), digest.parse().unwrap());
    match state.blobs.get(&key) {
        Some(bytes) => part(bytes, asked),
        None => status_only(404),
    }
}

fn from_registry(shared: &Shared, asked: &Asked) -> Plain {
    if asked.path == "/token" {
        return token(shared, asked);
    }
    let Some(rest) = asked.path.strip_prefix("/v2/") else {
        return status_only(404);
    };
    let kinds = ["/blobs/uploads/", "/blobs/", "/manifests/", "/referrers/"];
    let found = kinds.iter().find_map(|kind| {
        rest.split_once(kind)
            .map(|(repo, name)| (*kind, repo, name))
    });
    let repository = found.map_or("", |(_, repository, _)| repository);
    if let Some(refusal) = refused(shared, asked, repository) {
        return refusal;
    }
    match found {
        Some(("/blobs/uploads/", repository, session)) => {
            upload(shared, asked, repository, session)
        }
        Some(("/blobs/", repository, digest)) => blob(shared, asked, repository, digest),
        Some(("/manifests/", repository, name)) => manifest(shared, asked, repository, name),
        Some(("/referrers/", repository, digest)) if shared.setup.referrers => {
            referrers(shared, asked, repository, digest)
        }
        _ if rest.is_empty() => status_only(200),
        _ => error(404, "UNKNOWN"),
    }
}

fn refused(shared: &Shared, asked: &Asked, repository: &str) -> Option<Plain> {
    let given = asked.authorization.as_deref().unwrap_or_default();
    let challenge = |text: String| Some(error(401, "UNAUTHORIZED").with(WWW_AUTHENTICATE, text));
    match &shared.setup.auth {
        Auth::Anyone => None,
        Auth::Basic(user, password) => {
            if given == basic(user, password) {
                return None;
            }
            challenge(r#"Basic realm="fake""#.into())
        }
        Auth::Bearer { .. } | Auth::Identity(_) => {
            let writes = !matches!(asked.method, Method::GET | Method::HEAD);
            let want = if writes { "pull,push" } else { "pull" };
            let token = given.strip_prefix("Bearer ").unwrap_or_default();
            let granted = shared.state().tokens.get(token).cloned();
            let scope = format!("repository:{repository}:{want}");
            if granted.is_some_and(|granted| granted.starts_with(&scope)) {
                return None;
            }
            challenge(format!(
                r#"Bearer realm="http://{}/token",service="fake",scope="{scope}""#,
                shared.main
            ))
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn token(shared: &Shared, asked: &Asked) -> Plain {
    let form: Vec<(String, String)> = form_urlencoded::parse(&asked.body).into_owned().collect();
    let posted = |name: &str| {
        form.iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let given = asked.authorization.as_deref();
    let (allowed, life) = match &shared.setup.auth {
        Auth::Bearer { login: None, life } => (given.is_none(), *life),
        Auth::Bearer {
            login: Some((user, password)),
            life,
        } => (given == Some(basic(user, password).as_str()), *life),
        Auth::Identity(token) => (
            asked.method == Method::POST
                && posted("grant_type") == Some("refresh_token")
                && posted("refresh_token") == Some(token),
            None,
        ),
        _ => (false, None),
    };
    let service = asked.value("service").or(posted("service"));
    if !allowed || service != Some("fake") {
        return error(401, "UNAUTHORIZED");
    }
    let scope = asked.value("scope").or(posted("scope")).unwrap_or_default();
    let mut state = shared.state();
    let token = format!("token-{}", state.next());
    let all: Vec<&str> = asked.values("scope").collect();
    let scope = match all[..] {
        [] => scope.to_owned(),
        _ => all.join(" "),
    };
    state.tokens.insert(token.clone(), scope);
    let name = match asked.method {
        Method::POST => "access_token",
        _ => "token",
    };
    let mut body = json!({ name: token });
    if let Some(life) = life {
        body["expires_in"] = life.into();
    }
    Plain {
        body: body.to_string().into(),
        ..status_only(200)
    }
}

fn blob(shared: &Shared, asked: &Asked, repository: &str, digest: &str) -> Plain {
    let Ok(digest) = digest.parse::<Digest>() else {
        return error(400, "DIGEST_INVALID");
    };
    let mut state = shared.state();
    let key = (repository.to_owned(), digest.clone());
    let Some(bytes) = state.blobs.get(&key).cloned() else {
        return error(404, "BLOB_UNKNOWN");
    };
    if shared.setup.redirect && asked.method == Method::GET {
        let link = state.next().to_string();
        state.links.insert(link.clone());
        let to = format!(
            "http://{}/store/{repository}/{digest}?sig={link}",
            shared.store
        );
        return status_only(307).with(LOCATION, to);
    }
    part(&bytes, asked)
}

/// 200, 206 or 416.
fn part(bytes: &Bytes, asked: &Asked) -> Plain {
    let whole = Plain {
        body: bytes.clone(),
        ..status_only(200)
    };
    let Some(ranges) = &asked.range else {
        return whole;
    };
    let ranges: Vec<std::ops::Range<usize>> = ranges
        .strip_prefix("bytes=")
        .unwrap()
        .split(',')
        .map(|range| {
            let (start, last) = range.split_once('-').unwrap();
            start.parse().unwrap()..last.parse::<usize>().unwrap() + 1
        })
        .collect();
    let said = |range: &std::ops::Range<usize>| {
        format!("bytes {}-{}/{}", range.start, range.end - 1, bytes.len())
    };
    if let [range] = &ranges[..] {
        if range.start >= bytes.len() {
            let said = format!("bytes */{}", bytes.len());
            return status_only(416).with(CONTENT_RANGE, said);
        }
        let range = range.start..range.end.min(bytes.len());
        let part = Plain {
            body: bytes.slice(range.clone()),
            ..status_only(206)
        };
        return part.with(CONTENT_RANGE, said(&range));
    }
    let mut body = Vec::new();
    for range in &ranges {
        let head = format!(
            "\r\n--of the test\r\nContent-Type: application/octet-stream\r\nContent-Range: {}\r\n\r\n",
            said(range)
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&bytes[range.clone()]);
    }
    body.extend_from_slice(b"\r\n--of the test--\r\n");
    let parts = Plain {
        body: body.into(),
        ..status_only(206)
    };
    parts.with(
        CONTENT_TYPE,
        "multipart/byteranges; boundary=\"of the test\"",
    )
}

fn manifest(shared: &Shared, asked: &Asked, repository: &str, name: &str) -> Plain {
    let mut state = shared.state();
    if asked.method == Method::PUT {
        let tag = (!name.contains(':')).then_some(name);
        let bytes = asked.body.clone();
        let digest = state.put_manifest(repository, tag, &asked.media_type, bytes);
        if tag.is_none() && name != digest.to_string() {
            return error(400, "DIGEST_INVALID");
        }
        let answer = status_only(201).with(LOCATION, format!("/v2/{repository}/manifests/{name}"));
        return match subject(&asked.body) {
            Some(subject) if shared.setup.referrers => {
                answer.with("oci-subject".parse().unwrap(), subject)
            }
            _ => answer,
        };
    }
    let digest = match name.parse::<Digest>() {
        Ok(digest) => Some(digest),
        Err(_) => {
            let key = (repository.to_owned(), name.to_owned());
            state.tags.get(&key).cloned()
        }
    };
    let found = digest.and_then(|digest| state.manifests.get(&(repository.to_owned(), digest)));
    match found {
        Some((media_type, bytes)) => Plain {
            body: bytes.clone(),
            ..status_only(200)
        }
        .with(CONTENT_TYPE, media_type),
        None => error(404, "MANIFEST_UNKNOWN"),
    }
}

fn subject(manifest: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(manifest).ok()?;
    Some(value["subject"]["digest"].as_str()?.to_owned())
}

/// One page of the list; `from` says where it begins.
fn referrers(shared: &Shared, asked: &Asked, repository: &str, digest: &str) -> Plain {
    let state = shared.state();
    let all: Vec<Value> = state
        .manifests
        .iter()
        .filter(|((repo, _), (_, bytes))| {
            repo == repository && subject(bytes).as_deref() == Some(digest)
        })
        .map(|((_, own), (media_type, bytes))| {
            let manifest: Value = serde_json::from_slice(bytes).unwrap();
            let kind = match &manifest["artifactType"] {
                Value::Null => &manifest["config"]["mediaType"],
                kind => kind,
            };
            json!({"mediaType": media_type, "digest": own, "size": bytes.len(),
                "artifactType": kind, "annotations": manifest["annotations"]})
        })
        .collect();
    let from: usize = asked.value("from").map_or(0, |from| from.parse().unwrap());
    let end = all.len().min(from + shared.setup.page);
    let media_type = "application/vnd.oci.image.index.v1+json";
    let body = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": &all[from..end]});
    let plain = Plain {
        body: body.to_string().into(),
        ..status_only(200)
    }
    .with(CONTENT_TYPE, media_type);
    if end == all.len() {
        return plain;
    }
    let next = format!("</v2/{repository}/referrers/{digest}?from={end}>; rel=\"next\"");
    plain.with(LINK, next)
}

fn upload(shared: &Shared, asked: &Asked, repository: &str, session: &str) -> Plain {
    let mut state = shared.state();
    let mut session = session.to_owned();
    let place = |session: &str| format!("/v2/{repository}/blobs/uploads/{session}?state=x");
    if asked.method == Method::DELETE {
        return match state.uploads.remove(&session) {
            Some(_) => status_only(204),
            None => error(404, "BLOB_UPLOAD_UNKNOWN"),
        };
    }
    if let (Some(digest), Some(from)) = (asked.value("mount"), asked.value("from"))
        && shared.setup.mounts
        && let Ok(digest) = digest.parse::<Digest>()
        && state.may_read(asked, from)
        && let Some(bytes) = state.blobs.get(&(from.to_owned(), digest.clone())).cloned()
    {
        let place = format!("/v2/{repository}/blobs/{digest}");
        state.blobs.insert((repository.to_owned(), digest), bytes);
        return status_only(201).with(LOCATION, place);
    }
    if asked.method == Method::POST {
        session = format!("upload-{}", state.next());
        state.uploads.insert(session.clone(), Vec::new());
    }
    let Some(received) = state.uploads.get_mut(&session) else {
        return error(404, "BLOB_UPLOAD_UNKNOWN");
    };
    received.extend_from_slice(&asked.body);
    let (so_far, digest) = (received.len(), asked.value("digest"));
    let Some(digest) = digest else {
        return status_only(StatusCode::ACCEPTED.as_u16())
            .with(LOCATION, place(&session))
            .with(RANGE, format!("0-{}", so_far.saturating_sub(1)));
    };
    let bytes = Bytes::from(state.uploads.remove(&session).unwrap());
    match digest.parse::<Digest>() {
        Ok(digest) if digest.matches(&bytes) => {
            let place = format!("/v2/{repository}/blobs/{digest}");
            state.blobs.insert((repository.to_owned(), digest), bytes);
            status_only(201).with(LOCATION, place)
        }
        _ => error(400, "DIGEST_INVALID"),
    }
}

// === impl State ===

impl State {
    /// Whether the token, if there are tokens, is for reading this repository too.
    fn may_read(&self, asked: &Asked, repository: &str) -> bool {
        let given = asked.authorization.as_deref().unwrap_or_default();
        let Some(token) = given.strip_prefix("Bearer ") else {
            return true;
        };
        let scope = format!("repository:{repository}:pull");
        let granted = self.tokens.get(token);
        granted.is_some_and(|granted| granted.split(' ').any(|one| one == scope))
    }
}

// === impl Asked ===

impl Asked {
    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let all = self.query.iter().filter(move |(key, _)| key == name);
        all.map(|(_, value)| value.as_str())
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}
