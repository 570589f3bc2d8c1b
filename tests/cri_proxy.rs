//! The CRI's image service between a caller and a containerd in this process: what is handed on, what
//! comes back, who may use a login and for how long, and that no secret is logged.

// A test that cannot go on panics, in its helpers too.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use http_body_util::{BodyExt as _, Full};
use nacre::{
    cri::ImageService as Proxy,
    oci::{Location, RegistryReference, media_type},
    snapshotter::{
        NoLazyImages, Options, SnapshotsService, Snapshotter,
        server::{self, Socket},
    },
    source::registry::{
        Client, Credentials, HandedLogins, Options as RegistryOptions, RetryPolicy,
    },
};
use nacre_snapshotter_proto::{
    Message as _,
    containerd::services::snapshots::v1::{
        ListSnapshotsRequest, snapshots_client::SnapshotsClient,
    },
    cri::{
        AuthConfig, Image, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec, ImageStatusRequest,
        ImageStatusResponse, ListImagesRequest, ListImagesResponse, PullImageRequest,
        PullImageResponse, RemoveImageRequest, RemoveImageResponse, StreamImagesRequest,
        StreamImagesResponse,
        image_service_client::ImageServiceClient,
        image_service_server::{ImageService, ImageServiceServer},
    },
};
use support::registry::{Auth, FakeRegistry, Setup};
use tokio::{net::UnixListener, runtime::Runtime, sync::mpsc, task::JoinHandle};
use tokio_stream::{StreamExt as _, wrappers::UnixListenerStream};
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    codegen::{Service as _, http},
    metadata::{MetadataMap, MetadataValue},
    transport::{Channel, Endpoint, Server},
};

/// Does a pull, as containerd does while it answers.
type OnPull = Arc<dyn Fn(PullImageRequest) -> BoxFuture<'static, Result<(), Status>> + Send + Sync>;

/// The CRI of a containerd: it notes what it is asked.
#[derive(Clone)]
struct FakeCri {
    seen: Arc<Mutex<Vec<(&'static str, MetadataMap)>>>,
    on_pull: OnPull,
    /// Told when a call that was never answered is given up.
    given_up: mpsc::UnboundedSender<()>,
}

/// Tells when it is dropped.
struct Guard(mpsc::UnboundedSender<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _nobody_waits = self.0.send(());
    }
}

// === impl FakeCri ===

impl FakeCri {
    fn see<T>(&self, method: &'static str, request: &Request<T>) {
        let seen = (method, request.metadata().clone());
        self.seen.lock().unwrap().push(seen);
    }

    fn methods(&self) -> Vec<&'static str> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|(method, _)| *method).collect()
    }
}

fn image(id: &str) -> Image {
    Image {
        id: id.to_owned(),
        ..Image::default()
    }
}

/// A refusal with all that a refusal can have.
fn refusal() -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-why", MetadataValue::from_static("because"));
    let details = Bytes::from_static(b"\x00\xffdetails");
    Status::with_details_and_metadata(Code::NotFound, "no such \u{e9} image\n2", details, metadata)
}

#[tonic::async_trait]
impl ImageService for FakeCri {
    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        self.see("ListImages", &request);
        let filter = request.into_inner().filter.unwrap_or_default();
        let name = filter.image.unwrap_or_default().image;
        let count = match name.as_str() {
            "never" => {
                let _guard = Guard(self.given_up.clone());
                std::future::pending().await
            }
            "many" => 40_000,
            _ => 1,
        };
        let images = (0..count).map(|number| image(&format!("{name} {number:0>200}")));
        let images = images.collect();
        let mut response = Response::new(ListImagesResponse { images });
        response
            .metadata_mut()
            .insert("x-answer", "yes".parse().unwrap());
        Ok(response)
    }

    type StreamImagesStream = BoxStream<'static, Result<StreamImagesResponse, Status>>;

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        self.see("StreamImages", &request);
        let part = |id: &str| {
            Ok(StreamImagesResponse {
                images: vec![image(id)],
            })
        };
        let parts = [part("one"), part("two"), Err(refusal())];
        Ok(Response::new(Box::pin(futures::stream::iter(parts))))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        self.see("ImageStatus", &request);
        Err(refusal())
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        self.see("PullImage", &request);
        let request = request.into_inner();
        let image_ref = request.image.clone().unwrap_or_default().image;
        (self.on_pull)(request).await?;
        Ok(Response::new(PullImageResponse { image_ref }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        self.see("RemoveImage", &request);
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        request: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        self.see("ImageFsInfo", &request);
        Ok(Response::new(ImageFsInfoResponse::default()))
    }
}

/// nacre's socket, and where containerd's is.
struct Case {
    directory: tempfile::TempDir,
    handed: HandedLogins,
    proxy: Proxy,
    _serving: JoinHandle<nacre::Result<()>>,
}

// === impl Case ===

impl Case {
    fn new() -> Self {
        log();
        let directory = tempfile::tempdir().unwrap();
        let handed = HandedLogins::default();
        let proxy = Proxy::new(&directory.path().join("containerd.sock"), handed.clone()).unwrap();
        Self::serve(directory, handed, proxy)
    }

    fn serve(directory: tempfile::TempDir, handed: HandedLogins, proxy: Proxy) -> Self {
        let options = Options::new(directory.path().join("snapshotter"));
        let (snapshotter, _) = Snapshotter::open(options, Arc::new(NoLazyImages)).unwrap();
        let socket = Socket::bind(&directory.path().join("nacre.sock")).unwrap();
        let services = server::routes(SnapshotsService::new(snapshotter));
        let services = services.add_service(proxy.clone());
        let _serving = tokio::spawn(socket.serve_all(services, std::future::pending()));
        Self {
            directory,
            handed,
            proxy,
            _serving,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn channel(&self) -> Channel {
        let uri = format!("unix://{}", self.path("nacre.sock").display());
        Endpoint::from_shared(uri).unwrap().connect_lazy()
    }

    fn client(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel()).max_decoding_message_size(64 << 20)
    }

    /// A containerd until dropped.
    fn containerd(&self, on_pull: OnPull) -> (FakeCri, mpsc::UnboundedReceiver<()>, Running) {
        let (given_up, told) = mpsc::unbounded_channel();
        let fake = FakeCri {
            seen: Arc::default(),
            on_pull,
            given_up,
        };
        let service = ImageServiceServer::new(fake.clone())
            .max_encoding_message_size(64 << 20)
            .max_decoding_message_size(16 << 20);
        let running = run(&self.path("containerd.sock"), service);
        (fake, told, running)
    }
}

/// A server on a runtime of its own: when it is dropped, its connections end with it.
struct Running {
    runtime: Option<Runtime>,
    socket: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.socket);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Serves at `socket`.
fn run<S>(socket: &Path, service: S) -> Running
where
    S: tonic::codegen::Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = std::convert::Infallible,
            Future: Send,
        > + tonic::server::NamedService
        + Clone
        + Send
        + Sync
        + 'static,
{
    let runtime = Runtime::new().unwrap();
    let listener = {
        let _here = runtime.enter();
        UnixListener::bind(socket).unwrap()
    };
    let serving = Server::builder().add_service(service);
    runtime.spawn(serving.serve_with_incoming(UnixListenerStream::new(listener)));
    Running {
        runtime: Some(runtime),
        socket: socket.to_owned(),
    }
}

fn never_pulls() -> OnPull {
    Arc::new(|_| Box::pin(async { Err(Status::internal("nothing is pulled here")) }))
}

fn named(name: &str) -> ListImagesRequest {
    let mut request = ListImagesRequest::default();
    request.filter.get_or_insert_default().image = Some(ImageSpec {
        image: name.to_owned(),
        ..ImageSpec::default()
    });
    request
}

/// All that this test program logs, at every level.
fn log() -> &'static Mutex<Vec<u8>> {
    static LOG: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    struct Sink;
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            LOG.get_or_init(Mutex::default)
                .lock()
                .unwrap()
                .extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(|| Sink)
            .init();
    });
    LOG.get_or_init(Mutex::default)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_handed_on_with_its_metadata() {
    let case = Case::new();
    let (fake, _, _running) = case.containerd(Arc::new(|_| Box::pin(async { Ok(()) })));
    let mut client = case.client();
    let mut request = Request::new(named("app"));
    request
        .metadata_mut()
        .insert("x-ascii", "a b".parse().unwrap());
    let binary = MetadataValue::from_bytes(&[0, 255, 7]);
    request
        .metadata_mut()
        .insert_bin("x-binary-bin", binary.clone());
    let response = client.list_images(request).await.unwrap();
    assert_eq!(response.metadata().get("x-answer").unwrap(), "yes");
    assert!(response.get_ref().images[0].id.starts_with("app 0"));
    let (_, metadata) = fake.seen.lock().unwrap()[0].clone();
    assert_eq!(metadata.get("x-ascii").unwrap(), "a b");
    assert_eq!(metadata.get_bin("x-binary-bin").unwrap(), binary);

    client
        .remove_image(RemoveImageRequest::default())
        .await
        .unwrap();
    client.image_fs_info(ImageFsInfoRequest {}).await.unwrap();
    let pull = client
        .pull_image(pull("r.example/app", AuthConfig::default()))
        .await;
    assert_eq!(pull.unwrap().into_inner().image_ref, "r.example/app");
    let _refused = client.image_status(ImageStatusRequest::default()).await;
    let mut stream = client
        .stream_images(StreamImagesRequest::default())
        .await
        .unwrap()
        .into_inner();
    for id in ["one", "two"] {
        assert_eq!(stream.next().await.unwrap().unwrap().images[0].id, id);
    }
    same_refusal(&stream.next().await.unwrap().unwrap_err());
    let all = [
        "ListImages",
        "RemoveImage",
        "ImageFsInfo",
        "PullImage",
        "ImageStatus",
        "StreamImages",
    ];
    assert_eq!(fake.methods(), all);

    // Beside it on the same socket.
    let mut snapshots = SnapshotsClient::new(case.channel());
    let listed = snapshots.list(ListSnapshotsRequest::default()).await;
    assert!(listed.unwrap().into_inner().next().await.is_none());
}

#[track_caller]
fn same_refusal(status: &Status) {
    let want = refusal();
    assert_eq!(status.code(), want.code());
    assert_eq!(status.message(), want.message());
    assert_eq!(status.details(), want.details());
    assert_eq!(status.metadata().get("x-why"), want.metadata().get("x-why"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_handed_back_unchanged() {
    let case = Case::new();
    let (_fake, _, _running) = case.containerd(Arc::new(|_| Box::pin(async { Err(refusal()) })));
    let mut client = case.client();
    let status = client.image_status(ImageStatusRequest::default()).await;
    same_refusal(&status.unwrap_err());
    let status = client
        .pull_image(pull("r.example/app", AuthConfig::default()))
        .await;
    same_refusal(&status.unwrap_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_may_be_as_large_as_containerd_s() {
    let case = Case::new();
    let (fake, _, _running) = case.containerd(Arc::new(|_| Box::pin(async { Ok(()) })));
    let mut client = case.client();
    let listed = client
        .list_images(named("many"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.images.len(), 40_000);
    assert!(listed.encoded_len() > 8 << 20);

    let large = |size: usize| {
        let mut request = pull("r.example/app", AuthConfig::default());
        let note = ("note".to_owned(), "x".repeat(size));
        request.image.as_mut().unwrap().annotations.extend([note]);
        request
    };
    client.pull_image(large(8 << 20)).await.unwrap();
    let asked = fake.methods().len();
    let status = client.pull_image(large(17 << 20)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(fake.methods().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_handed_on_and_kept_and_a_caller_that_leaves_is_noticed() {
    let mut case = Case::new();
    let (fake, mut given_up, _running) = case.containerd(never_pulls());
    // Straight into the service: a client keeps its deadline itself.
    let mut frame = vec![0];
    let message = named("never").encode_to_vec();
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    let request = http::Request::builder()
        .method("POST")
        .uri("http://localhost/runtime.v1.ImageService/ListImages")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "3S")
        .body(Body::new(Full::new(Bytes::from(frame))))
        .unwrap();
    let response = case.proxy.call(request).await.unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("ListImages"), "{status}");
    let (_, metadata) = fake.seen.lock().unwrap()[0].clone();
    assert_eq!(metadata.get("grpc-timeout").unwrap(), "3S");
    given_up.recv().await.unwrap();

    let mut client = case.client();
    let call = tokio::spawn(async move { client.list_images(named("never")).await });
    while fake.methods().len() < 2 {
        tokio::task::yield_now().await;
    }
    call.abort();
    given_up.recv().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containerd_that_is_not_there_is_asked_again_when_it_is() {
    let case = Case::new();
    let mut client = case.client();
    let unavailable = |status: Status| {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let socket = case.path("containerd.sock").display().to_string();
        assert!(status.message().contains(&socket), "{status}");
        assert!(status.message().contains("containerd_socket"), "{status}");
    };
    for _ in 0..2 {
        unavailable(client.list_images(named("x")).await.unwrap_err());
        let status = client
            .pull_image(pull("r.example/app", AuthConfig::default()))
            .await;
        unavailable(status.unwrap_err());
        let (_, _, running) = case.containerd(never_pulls());
        client.list_images(named("x")).await.unwrap();
        drop(running);
        // Its connection ends a moment after it.
        let ended = async { while client.list_images(named("x")).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(30), ended)
            .await
            .unwrap();
    }
}

/// Answers every call with what it was asked, byte for byte.
#[derive(Clone)]
struct Echo;

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "runtime.v1.ImageService";
}

impl tonic::codegen::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            trailers.insert("x-path", path.parse().unwrap());
            let body = Full::new(body).with_trailers(async move { Some(Ok(trailers)) });
            let mut response = http::Response::new(Body::new(body));
            let kind = "application/grpc".parse().unwrap();
            response.headers_mut().insert("content-type", kind);
            Ok(response)
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_fields_of_later_versions_pass() {
    let mut case = Case::new();
    let running = run(&case.path("containerd.sock"), Echo);
    // Field 1000, a string: nobody here knows it.
    let message = b"\xc2\x3e\x03new";
    for method in ["PullImage", "ListImages", "MakeCoffee"] {
        let mut frame = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
        frame.extend_from_slice(message);
        let frame = Bytes::from(frame);
        let request = http::Request::builder()
            .method("POST")
            .uri(format!("http://localhost/runtime.v1.ImageService/{method}"))
            .header("content-type", "application/grpc")
            .body(Body::new(Full::new(frame.clone())))
            .unwrap();
        let response = case.proxy.call(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        let trailers = body.trailers().unwrap();
        let path = trailers["x-path"].to_str().unwrap();
        assert_eq!(path, format!("/runtime.v1.ImageService/{method}"));
        assert_eq!(body.to_bytes(), frame, "{method}");
    }

    // A containerd that does not know a method says so itself.
    drop(running);
    let mut other = Case::new();
    let (_, _, _running) = other.containerd(never_pulls());
    let request = http::Request::builder()
        .method("POST")
        .uri("http://localhost/runtime.v1.ImageService/MakeCoffee")
        .header("content-type", "application/grpc")
        .body(Body::empty())
        .unwrap();
    let response = other.proxy.call(request).await.unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_cannot_be_read_is_refused() {
    let mut case = Case::new();
    let _running = run(&case.path("containerd.sock"), Echo);
    for (frame, code) in [
        (&b"\x01\0\0\0\x01x"[..], Code::Unimplemented),
        (b"\0\0\0\0\x05x", Code::InvalidArgument),
        (b"\0\0", Code::InvalidArgument),
        (b"\0\0\0\0\x01\xff", Code::InvalidArgument),
    ] {
        let request = http::Request::builder()
            .method("POST")
            .uri("http://localhost/runtime.v1.ImageService/PullImage")
            .body(Body::new(Full::new(Bytes::copy_from_slice(frame))))
            .unwrap();
        let response = case.proxy.call(request).await.unwrap();
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), code, "{frame:?}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_it_says_so() {
    log();
    let directory = tempfile::tempdir().unwrap();
    let case = Case::serve(directory, HandedLogins::default(), Proxy::off());
    let status = case.client().list_images(named("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("[cri]"), "{status}");
}

const PASSWORD: &str = "s3cret-of-ann";
const WRONG: &str = "wr0ng-of-ann";
const APP: &str = "team/app";

fn pull(image: &str, auth: AuthConfig) -> PullImageRequest {
    PullImageRequest {
        image: Some(ImageSpec {
            image: image.to_owned(),
            ..ImageSpec::default()
        }),
        auth: Some(auth),
        sandbox_config: None,
    }
}

fn ann(password: &str) -> AuthConfig {
    AuthConfig {
        username: "ann".to_owned(),
        password: password.to_owned(),
        ..AuthConfig::default()
    }
}

/// Reads the manifest with what was handed over, as the snapshotter does.
async fn read(client: &Client, image: &str) -> nacre::Result<()> {
    let image: RegistryReference = image.parse()?;
    let tag = Location::Tag("1".to_owned());
    client.repository(&image)?.manifest(&tag).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_serves_its_pull_and_stays_only_if_that_succeeds_and_is_never_logged() {
    let bearer = Auth::Bearer {
        login: Some(("ann", PASSWORD)),
        life: None,
    };
    for auth in [Auth::Basic("ann", PASSWORD), bearer] {
        let setup = Setup {
            auth,
            ..Setup::default()
        };
        let registry = FakeRegistry::start_with(setup).await;
        let manifest = br#"{"schemaVersion":2}"#;
        registry.put_manifest(APP, "1", media_type::OCI_MANIFEST, &manifest[..]);
        let image = registry.reference(APP, "1");

        let case = Case::new();
        let client = Client::new(RegistryOptions {
            credentials: Credentials::anonymous().with_handed(case.handed.clone()),
            retry: RetryPolicy {
                attempts: 1,
                ..RetryPolicy::default()
            },
            ..RegistryOptions::default()
        })
        .unwrap();
        let during = Arc::clone(&client);
        let (_, _, _running) = case.containerd(Arc::new(move |request| {
            let client = Arc::clone(&during);
            Box::pin(async move {
                let image = request.image.unwrap_or_default().image;
                // As containerd does, what it says can quote the secret.
                let auth = request.auth.unwrap_or_default();
                let quoted = format!("{} {}", auth.username, auth.password);
                let read = read(&client, &image).await;
                read.map_err(|error| Status::unknown(format!("{error}; with {quoted}")))
            })
        }));
        let mut cri = case.client();

        let refused = cri.pull_image(pull(&image, ann(WRONG))).await.unwrap_err();
        assert!(refused.message().contains("refused") || refused.message().contains("401"));
        assert!(
            read(&client, &image).await.is_err(),
            "a failed pull leaves nothing"
        );
        let nobody = cri.pull_image(pull(&image, AuthConfig::default())).await;
        assert_eq!(nobody.unwrap_err().code(), Code::Unknown);

        cri.pull_image(pull(&image, ann(PASSWORD))).await.unwrap();
        read(&client, &image).await.unwrap();
        let other = registry.reference("team/other", "1");
        let denied = read(&client, &other).await.unwrap_err();
        assert_eq!(denied.kind(), nacre::Kind::Denied, "{denied}");

        // A wrong one does not take its place.
        let wrong = cri.pull_image(pull(&image, ann(WRONG))).await;
        wrong.unwrap();
        read(&client, &image).await.unwrap();
        let malformed = AuthConfig {
            auth: PASSWORD.to_owned(),
            ..AuthConfig::default()
        };
        // Neither a form nor an image that nobody knows keeps a pull from containerd.
        let _said = cri.pull_image(pull(&image, malformed)).await;
        let _said = cri.pull_image(pull("No Image", ann(PASSWORD))).await;
    }
    let log = log().lock().unwrap();
    let log = String::from_utf8_lossy(&log);
    assert!(
        log.contains("login of a pull is not used"),
        "it is captured"
    );
    for secret in [PASSWORD, WRONG, "czNjcmV0LW9mLWFubg"] {
        if let Some(at) = log.find(secret) {
            let around = log[..at].rfind('\n').unwrap_or(0);
            panic!("logged: {}", &log[around..at + secret.len()]);
        }
    }
}
