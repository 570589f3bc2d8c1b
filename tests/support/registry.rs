//! A registry in this process, on loopback: its content, its faults, what it was asked.
//!
//! It runs on a thread of its own, so that a test may block its own threads. Everything it does is
//! decided by its content, its [`Setup`] and the queued [`Fault`]s; there is no clock in it.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
};

use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nacre::oci::{Descriptor, Digest};
use tokio::{net::TcpListener, sync::oneshot};

/// How the registry behaves all the time.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Whether it has the referrers API.
    pub referrers: bool,
    /// Referrers on one page of the list.
    pub page: usize,
    pub auth: Auth,
    /// Whether blobs are served by a second server, by links that can end.
    pub redirect: bool,
    /// Whether blobs are mounted from one repository into another.
    pub mounts: bool,
}

/// Who may do something.
#[derive(Clone, Debug)]
pub enum Auth {
    Anyone,
    Basic(&'static str, &'static str),
    /// Tokens; with a login or for everyone. `life` is `expires_in`, seconds.
    Bearer {
        login: Option<(&'static str, &'static str)>,
        life: Option<u64>,
    },
    /// Tokens for this refresh token.
    Identity(&'static str),
}

/// What goes wrong with one answer.
#[derive(Clone, Debug)]
pub enum Fault {
    Status(u16),
    /// Status and `Retry-After`.
    RetryAfter(u16, String),
    /// The connection ends after so many bytes of the body.
    Truncate(usize),
    /// Nothing more comes after so many bytes of the body.
    Stall(usize),
    /// The lowest bit of this byte of the body is turned.
    Flip(usize),
    /// 200 and everything, whatever range was asked for.
    IgnoreRange,
    /// 206 with the first range, however many were asked for.
    FirstRange,
    /// 206 with the range moved by one byte.
    OtherRange,
    /// No answer at all.
    Hang,
    /// The connection is closed without an answer.
    Close,
    /// A redirect to this place.
    Redirect(String),
}

/// One request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `METHOD /path?query`; blobs of the second server are under `/store/`.
    pub line: String,
    pub range: Option<String>,
    /// The whole `Authorization`.
    pub authorization: Option<String>,
    /// Everything else that came along.
    pub headers: hyper::HeaderMap,
}

/// A registry until dropped.
pub struct FakeRegistry {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

pub(super) struct Shared {
    pub(super) setup: Setup,
    pub(super) main: SocketAddr,
    pub(super) store: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// By repository and digest.
    pub(super) blobs: HashMap<(String, Digest), Bytes>,
    /// By repository and digest: media type, bytes.
    pub(super) manifests: BTreeMap<(String, Digest), (String, Bytes)>,
    /// By repository and tag.
    pub(super) tags: HashMap<(String, String), Digest>,
    pub(super) uploads: HashMap<String, Vec<u8>>,
    /// Valid tokens, with their scopes.
    pub(super) tokens: HashMap<String, String>,
    /// Valid links of the second server.
    pub(super) links: HashSet<String>,
    pub(super) count: u64,
    faults: VecDeque<(String, Fault)>,
    pub(super) seen: Vec<Seen>,
}

// === impl Setup ===

impl Default for Setup {
    fn default() -> Self {
        Self {
            referrers: true,
            page: 100,
            auth: Auth::Anyone,
            redirect: false,
            mounts: true,
        }
    }
}

// === impl FakeRegistry ===

impl FakeRegistry {
    /// A registry open to anyone, with the referrers API.
    pub async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    pub async fn start_with(setup: Setup) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(async move {
                    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
                    let (main, store) = (listen().await.unwrap(), listen().await.unwrap());
                    let shared = Arc::new(Shared {
                        setup,
                        main: main.local_addr().unwrap(),
                        store: store.local_addr().unwrap(),
                        state: Mutex::default(),
                    });
                    let _ = tell.send(Arc::clone(&shared));
                    tokio::select! {
                        () = accept(main, Arc::clone(&shared), false) => {}
                        () = accept(store, shared, true) => {}
                        _ = stopped => {}
                    }
                });
        });
        Self {
            shared: told.await.expect("the registry's thread started"),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.shared.main.to_string()
    }

    /// `127.0.0.1:PORT/repository:tag`.
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.host())
    }

    pub fn put_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Descriptor {
        let bytes = bytes.into();
        let descriptor = Descriptor::of("application/octet-stream", &bytes);
        let key = (repository.to_owned(), descriptor.digest.clone());
        self.shared.state().blobs.insert(key, bytes);
        descriptor
    }

    /// Puts bytes under a digest that they may not have.
    pub fn put_blob_as(&self, repository: &str, digest: &Digest, bytes: impl Into<Bytes>) {
        let key = (repository.to_owned(), digest.clone());
        self.shared.state().blobs.insert(key, bytes.into());
    }

    pub fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> Descriptor {
        let bytes = bytes.into();
        let descriptor = Descriptor::of(media_type, &bytes);
        let mut state = self.shared.state();
        state.put_manifest(repository, Some(tag), media_type, bytes);
        descriptor
    }

    /// Puts manifest bytes under a digest that they may not have.
    pub fn put_manifest_as(
        &self,
        repository: &str,
        digest: &Digest,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) {
        let key = (repository.to_owned(), digest.clone());
        let manifest = (media_type.to_owned(), bytes.into());
        self.shared.state().manifests.insert(key, manifest);
    }

    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        let key = (repository.to_owned(), digest.clone());
        self.shared.state().blobs.get(&key).cloned()
    }

    /// The next request whose line contains `part` fails; each call adds one failure.
    pub fn fail_next(&self, part: &str, fault: Fault) {
        let fault = (part.to_owned(), fault);
        self.shared.state().faults.push_back(fault);
    }

    /// Every request whose line contains `part` fails from now on.
    pub fn fail_always(&self, part: &str, fault: &Fault) {
        for _ in 0..1000 {
            self.fail_next(part, fault.clone());
        }
    }

    /// Forgets failures that have not happened.
    pub fn recover(&self) {
        self.shared.state().faults.clear();
    }

    /// Everything asked so far.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// The lines of everything asked so far.
    pub fn lines(&self) -> Vec<String> {
        self.requests().into_iter().map(|seen| seen.line).collect()
    }

    pub fn forget_requests(&self) {
        self.shared.state().seen.clear();
    }

    /// Links to the second server end now.
    pub fn expire_links(&self) {
        self.shared.state().links.clear();
    }

    /// Tokens end now.
    pub fn expire_tokens(&self) {
        self.shared.state().tokens.clear();
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the registry's thread ended well");
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

// === impl State ===

impl State {
    pub(super) fn put_manifest(
        &mut self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: Bytes,
    ) -> Digest {
        let digest = Digest::sha256(&bytes);
        let key = (repository.to_owned(), digest.clone());
        self.manifests.insert(key, (media_type.to_owned(), bytes));
        if let Some(tag) = tag {
            let key = (repository.to_owned(), tag.to_owned());
            self.tags.insert(key, digest.clone());
        }
        digest
    }

    pub(super) fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Notes a request and takes its failure.
    pub(super) fn see(&mut self, seen: Seen) -> Option<Fault> {
        let line = seen.line.clone();
        self.seen.push(seen);
        let at = self
            .faults
            .iter()
            .position(|(part, _)| line.contains(part.as_str()))?;
        self.faults.remove(at).map(|(_, fault)| fault)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, is_store: bool) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { super::registry_http::answer(&shared, request, is_store).await }
            });
            // A client may go away in mid-answer; that is its business.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
