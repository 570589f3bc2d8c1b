//! A token server for distribution's registry: user and password in, a signed token for what was asked
//! out. On a thread of its own until dropped.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PKCS1_SHA256};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, header::AUTHORIZATION, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, sync::oneshot};
use url::form_urlencoded;

use super::{docker_registry::installed, pipeline::tool};

/// The running server.
pub struct TokenServer {
    address: SocketAddr,
    directory: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What tokens are made with.
struct Issuer {
    key: KeyPair,
    certificate: String,
    /// The only `Authorization` that gets one.
    login: String,
}

const ISSUER: &str = "test-issuer";
const SERVICE: &str = "test-registry";
/// How long a token lives.
const LIFE: Duration = Duration::from_secs(300);

// === impl TokenServer ===

impl TokenServer {
    /// Tokens for this user; `None`, with a printed line, without openssl.
    pub fn start(user: &str, password: &str) -> Option<Self> {
        installed("openssl")?;
        let directory = tempfile::tempdir().unwrap();
        let issuer = Issuer::new(directory.path(), user, password);
        let (stop, stopped) = oneshot::channel();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, issuer.into()) => {}
                    _ = stopped => {}
                }
            });
        });
        Some(Self {
            address,
            directory,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// What a registry's `auth` section says to send its clients here.
    pub fn auth(&self) -> String {
        format!(
            "  token:\n    realm: http://{}/token\n    service: {SERVICE}\n    issuer: {ISSUER}\n    \
             rootcertbundle: {}\n",
            self.address,
            certificate(self.directory.path()).display()
        )
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the token server's thread ended well");
            }
        }
    }
}

// === impl Issuer ===

impl Issuer {
    fn new(directory: &Path, user: &str, password: &str) -> Self {
        let (key, certificate) = (directory.join("issuer.key"), certificate(directory));
        let request = [
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test-issuer",
            "-keyout",
            key.to_str().unwrap(),
            "-out",
            certificate.to_str().unwrap(),
        ];
        tool("openssl", request);
        let login = STANDARD.encode(format!("{user}:{password}"));
        Self {
            key: KeyPair::from_pkcs8(&STANDARD.decode(base64_of(&key)).unwrap()).unwrap(),
            certificate: base64_of(&certificate),
            login: format!("Basic {login}"),
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let given = request.headers().get(AUTHORIZATION);
        let response = Response::builder();
        if given.is_none_or(|it| it.as_bytes() != self.login.as_bytes()) {
            let said = json!({ "details": "incorrect username or password" });
            let body = Full::new(said.to_string().into());
            return response.status(401).body(body).unwrap();
        }
        let query = request.uri().query().unwrap_or_default();
        let scopes = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "scope");
        let access: Vec<_> = scopes.filter_map(|(_, scope)| entry(&scope)).collect();
        let said = json!({ "token": self.token(&access), "expires_in": LIFE.as_secs() });
        response.body(Full::new(said.to_string().into())).unwrap()
    }

    fn token(&self, access: &[serde_json::Value]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [self.certificate] });
        let claims = json!({
            "iss": ISSUER, "sub": "somebody", "aud": SERVICE, "jti": now.as_nanos().to_string(),
            "iat": now.as_secs(), "nbf": now.as_secs() - 60, "exp": (now + LIFE).as_secs(),
            "access": access,
        });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                signed.as_bytes(),
                &mut signature,
            )
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

async fn accept(listener: TcpListener, issuer: std::sync::Arc<Issuer>) {
    while let Ok((stream, _)) = listener.accept().await {
        let issuer = issuer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = issuer.answer(&request);
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            // A client may go away in mid-answer; that is its business.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// `repository:NAME:pull,push` as a token says it.
fn entry(scope: &str) -> Option<serde_json::Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let actions: Vec<&str> = actions.split(',').collect();
    Some(json!({ "type": kind, "name": name, "actions": actions }))
}

fn certificate(directory: &Path) -> PathBuf {
    directory.join("issuer.pem")
}

/// What is between the lines of a PEM file.
fn base64_of(pem: &Path) -> String {
    let text = std::fs::read_to_string(pem).unwrap();
    text.lines().filter(|it| !it.starts_with("-----")).collect()
}
