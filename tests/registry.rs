//! What the registry client does when things go wrong: every failure that a registry, its token
//! server, its blob store or the network between is known to produce.

// A test that cannot go on panics, in its helpers too.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::BoxFuture};
use nacre::{
    Error, Kind,
    oci::{Descriptor, Digest, Location, RegistryReference, media_type},
    source::{
        BlobContent, BlobSource, Repository, RepositoryWriter,
        registry::{Client, Credentials, Environment, Options, RetryPolicy},
    },
};
use support::{
    docker_registry::{DockerRegistry, installed},
    registry::{Auth, FakeRegistry, Fault, Setup},
};

/// A clock that moves only by the waits, which it keeps.
#[derive(Debug)]
struct Manual {
    start: Instant,
    waits: Mutex<Vec<Duration>>,
    moved: Mutex<Duration>,
}

// === impl Manual ===

impl Manual {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            waits: Mutex::default(),
            moved: Mutex::default(),
        })
    }

    fn waits(&self) -> Vec<Duration> {
        self.waits.lock().unwrap().clone()
    }

    fn pass(&self, time: Duration) {
        *self.moved.lock().unwrap() += time;
    }
}

impl Environment for Manual {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.waits.lock().unwrap().push(duration);
        self.pass(duration);
        Box::pin(std::future::ready(()))
    }

    fn fraction(&self) -> f64 {
        0.5
    }

    fn now(&self) -> Instant {
        self.start + *self.moved.lock().unwrap()
    }

    fn calendar(&self) -> SystemTime {
        // Thu, 01 Jan 2026 00:00:00 GMT
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
    }
}

/// A registry with one blob, and a client with a clock of its own.
struct Case {
    registry: FakeRegistry,
    clock: Arc<Manual>,
    client: Arc<Client>,
    content: Bytes,
    descriptor: Descriptor,
}

const REPOSITORY: &str = "some/repo";

// === impl Case ===

impl Case {
    async fn new() -> Self {
        Self::with(Setup::default(), Options::default()).await
    }

    async fn with(setup: Setup, options: Options) -> Self {
        let registry = FakeRegistry::start_with(setup).await;
        let clock = Manual::new();
        let content: Bytes = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let descriptor = registry.put_blob(REPOSITORY, content.clone());
        let client = Client::new(Options {
            environment: clock.clone(),
            stall_timeout: Duration::from_millis(300),
            retry: RetryPolicy {
                attempts: 4,
                ..RetryPolicy::default()
            },
            ..options
        })
        .unwrap();
        Self {
            registry,
            clock,
            client,
            content,
            descriptor,
        }
    }

    fn reference(&self) -> RegistryReference {
        let text = self.registry.reference(REPOSITORY, "v1");
        text.parse().unwrap()
    }

    fn repository(&self) -> Arc<dyn Repository> {
        self.client.repository(&self.reference()).unwrap()
    }

    fn writer(&self) -> Arc<dyn RepositoryWriter> {
        self.client.writer(&self.reference()).unwrap()
    }

    fn blob(&self) -> Arc<dyn BlobSource> {
        self.repository().blob(&self.descriptor)
    }

    /// Reads a range and compares it.
    async fn read(&self, blob: &dyn BlobSource, start: usize, end: usize) {
        let read = blob.read_at(start as u64..end as u64).await.unwrap();
        assert!(read == self.content[start..end], "bytes {start}..{end}");
    }

    async fn read_error(&self, start: u64, end: u64) -> Error {
        self.blob().read_at(start..end).await.unwrap_err()
    }
}

#[tokio::test]
async fn passing_failures_are_tried_again() {
    let faults = [
        (Fault::Status(500), 50),
        (Fault::Status(503), 50),
        (Fault::Status(429), 50),
        (Fault::Status(408), 50),
        (Fault::RetryAfter(429, "3".into()), 3000),
        (Fault::RetryAfter(503, "0".into()), 0),
        (
            Fault::RetryAfter(503, "Thu, 01 Jan 2026 00:00:07 GMT".into()),
            7000,
        ),
        (Fault::RetryAfter(429, "86400".into()), 10_000),
        (Fault::RetryAfter(429, "soon".into()), 50),
        (Fault::Close, 50),
        (Fault::Hang, 50),
        (Fault::OtherRange, 50),
        (Fault::Truncate(0), 50),
        (Fault::Stall(0), 50),
    ];
    for (fault, wait) in faults {
        let case = Case::new().await;
        case.registry.fail_next("/blobs/", fault.clone());
        case.read(&*case.blob(), 1000, 5000).await;
        let waits = case.clock.waits();
        assert_eq!(waits, [Duration::from_millis(wait)], "{fault:?}");
        assert_eq!(case.registry.requests().len(), 2, "{fault:?}");
    }
}

#[tokio::test]
async fn a_registry_that_stays_away_is_given_up() {
    let case = Case::new().await;
    case.registry.fail_always("/blobs/", &Fault::Status(503));
    let error = case.read_error(0, 10).await;
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("503"), "{error}");
    assert!(
        error.to_string().contains(&case.descriptor.digest.hex()),
        "{error}"
    );
    assert_eq!(case.registry.requests().len(), 4);

    let case = Case::with(
        Setup::default(),
        Options {
            deadline: Duration::from_secs(12),
            ..Options::default()
        },
    )
    .await;
    let slow = Fault::RetryAfter(503, "9".into());
    case.registry.fail_always("/blobs/", &slow);
    assert_eq!(case.read_error(0, 10).await.kind(), Kind::Unavailable);
    assert_eq!(case.clock.waits(), [Duration::from_secs(9)], "the deadline");
}

#[tokio::test]
async fn a_registry_that_is_not_there() {
    let case = Case::new().await;
    let blob = case.blob();
    drop(case.registry);
    let error = blob.read_at(0..10).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(case.clock.waits().len(), 3);
}

#[tokio::test]
async fn a_silent_registry_runs_into_the_deadline() {
    let registry = FakeRegistry::start().await;
    let descriptor = registry.put_blob(REPOSITORY, "abc");
    registry.fail_always("/", &Fault::Hang);
    let client = Client::new(Options {
        deadline: Duration::from_millis(100),
        ..Options::default()
    })
    .unwrap();
    let reference = registry.reference(REPOSITORY, "v1").parse().unwrap();
    let repository = client.repository(&reference).unwrap();
    let error = repository
        .blob(&descriptor)
        .read_at(0..1)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let manifest = repository.manifest(&Location::Tag("v1".into())).await;
    assert_eq!(manifest.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_cut_body_is_resumed_where_it_ended() {
    for fault in [Fault::Truncate(1500), Fault::Stall(1500)] {
        let case = Case::new().await;
        case.registry.fail_next("/blobs/", fault.clone());
        case.read(&*case.blob(), 1000, 5000).await;
        let ranges: Vec<_> = case
            .registry
            .requests()
            .into_iter()
            .map(|seen| seen.range.unwrap())
            .collect();
        assert_eq!(ranges, ["bytes=1000-4999", "bytes=2500-4999"], "{fault:?}");
    }
    // A stream goes on as often as it makes progress, which is more than the attempts.
    let case = Case::new().await;
    for _ in 0..10 {
        case.registry.fail_next("/blobs/", Fault::Truncate(1000));
    }
    let pieces: Vec<Bytes> = case
        .blob()
        .stream()
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert!(pieces.concat() == case.content);
    let requests = case.registry.requests();
    assert_eq!(requests.len(), 11);
    assert_eq!(requests[0].range, None, "the whole blob needs no range");
    assert_eq!(requests[10].range.as_deref(), Some("bytes=10000-399999"));
}

/// Reads three ranges of a blob and gives the ranges that were asked for.
async fn three_ranges(case: &Case) -> Vec<String> {
    let ranges = vec![10..20, 50_000..60_000, 399_990..400_000];
    let pieces = case.blob().read_ranges(ranges.clone()).await.unwrap();
    let pieces: Vec<(u64, Bytes)> = pieces.try_collect().await.unwrap();
    let mut read = Vec::new();
    for (at, piece) in pieces {
        let at = usize::try_from(at).unwrap();
        assert!(piece == case.content[at..at + piece.len()], "at {at}");
        read.extend(at..at + piece.len());
    }
    let wanted = ranges.into_iter().flatten();
    assert!(read.into_iter().map(|at| at as u64).eq(wanted));
    let requests = case.registry.requests();
    requests
        .into_iter()
        .map(|seen| seen.range.unwrap_or_default())
        .collect()
}

const THREE: &str = "bytes=10-19,50000-59999,399990-399999";

#[tokio::test]
async fn several_ranges_come_in_one_answer() {
    let case = Case::new().await;
    assert_eq!(three_ranges(&case).await, [THREE]);
}

#[tokio::test]
async fn an_answer_of_several_ranges_is_resumed_where_it_was_cut() {
    for fault in [Fault::Truncate(5000), Fault::Stall(5000)] {
        let case = Case::new().await;
        case.registry.fail_next("/blobs/", fault.clone());
        let asked = three_ranges(&case).await;
        assert_eq!(asked.len(), 2, "{fault:?}: {asked:?}");
        let (start, rest) = asked[1]["bytes=".len()..].split_once('-').unwrap();
        assert!((50_001..55_000).contains(&start.parse::<u64>().unwrap()));
        assert_eq!(rest, "59999,399990-399999");
    }
}

#[tokio::test]
async fn a_refusal_says_nothing_of_how_many_ranges_a_host_takes() {
    for status in [403, 404] {
        let case = Case::new().await;
        case.registry.fail_next("/blobs/", Fault::Status(status));
        let read = case.blob().read_ranges(vec![0..1, 5..9]).await.unwrap();
        let read: Result<Vec<_>, _> = read.try_collect().await;
        assert!(read.is_err(), "{status}");
        let asked = three_ranges(&case).await;
        assert_eq!(asked.last().unwrap(), THREE, "{status}");
    }
}

#[tokio::test]
async fn where_ranges_come_one_at_a_time_near_ones_are_joined() {
    for fault in [Fault::FirstRange, Fault::IgnoreRange, Fault::Status(416)] {
        let case = Case::new().await;
        case.registry.fail_next("/blobs/", fault.clone());
        let asked = three_ranges(&case).await;
        assert_eq!(asked, [THREE, "bytes=10-399999"], "{fault:?}");
        assert_eq!(
            three_ranges(&case).await.last().unwrap(),
            "bytes=10-399999",
            "and that is remembered"
        );
        assert_eq!(case.registry.requests().len(), 3);
    }
}

#[tokio::test]
async fn traffic_is_what_crossed_the_wire() {
    let case = Case::new().await;
    case.registry.fail_next("/blobs/", Fault::Truncate(1500));
    let repository = case.repository();
    case.read(&*repository.blob(&case.descriptor), 0, 4000)
        .await;
    let traffic = repository.traffic().snapshot();
    assert_eq!((traffic.requests, traffic.bytes), (2, 1500 + 2500));
    let before = case.registry.requests().len();
    let blob = repository.blob(&case.descriptor);
    assert!(blob.read_at(7..7).await.unwrap().is_empty());
    assert_eq!(case.registry.requests().len(), before, "nothing to ask for");
}

#[tokio::test]
async fn a_registry_that_ignores_ranges() {
    let case = Case::new().await;
    case.registry.fail_always("/blobs/", &Fault::IgnoreRange);
    case.read(&*case.blob(), 5, 9).await;
    assert_eq!(
        case.registry.requests().len(),
        1,
        "thrown away up to byte 5"
    );

    let options = Options {
        max_skip: 1000,
        ..Options::default()
    };
    let case = Case::with(Setup::default(), options).await;
    case.registry.fail_next("/blobs/", Fault::IgnoreRange);
    case.read(&*case.blob(), 2000, 2010).await;
    case.registry.fail_always("/blobs/", &Fault::IgnoreRange);
    case.read(&*case.blob(), 1000, 1010).await;
    let error = case.read_error(1001, 1010).await;
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.hint().unwrap().contains("nacre pull"));
}

#[tokio::test]
async fn refused_ranges() {
    // 416 of a blob that has the range: the registry cannot do ranges.
    let case = Case::new().await;
    case.registry.fail_next("GET", Fault::Status(416));
    case.read(&*case.blob(), 10, 20).await;
    let methods: Vec<String> = case.registry.lines();
    let methods: Vec<&str> = methods.iter().map(|line| &line[..4]).collect();
    assert_eq!(methods, ["GET ", "HEAD", "GET "]);
    // 416 of a blob that is shorter.
    let case = Case::new().await;
    let longer = Descriptor {
        size: 500_000,
        ..case.descriptor.clone()
    };
    let blob = case.repository().blob(&longer);
    let error = blob.read_at(400_000..400_010).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("shorter"), "{error}");
    // The same where the registry does not say how long it is.
    case.registry.fail_next("GET", Fault::Status(416));
    case.registry.fail_next("HEAD", Fault::Status(404));
    let error = blob.read_at(10..20).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
}

#[tokio::test]
async fn a_redirect_is_kept_and_taken_anew_when_it_ends() {
    let setup = Setup {
        redirect: true,
        auth: Auth::Bearer {
            login: None,
            life: None,
        },
        ..Setup::default()
    };
    let case = Case::with(setup, Options::default()).await;
    let blob = case.blob();
    for start in [0, 1000, 2000] {
        case.read(&*blob, start, start + 1000).await;
    }
    let to = |part: &str| {
        let lines = case.registry.lines();
        lines.iter().filter(|line| line.contains(part)).count()
    };
    assert_eq!(to("/store/"), 3);
    assert_eq!(to("/blobs/"), 2, "once without a token, once with");
    assert_eq!(to("/token"), 1);
    for seen in case.registry.requests() {
        let to_store = seen.line.contains("/store/");
        assert!(!(to_store && seen.authorization.is_some()), "{seen:?}");
    }
    case.registry.expire_links();
    case.read(&*blob, 3000, 4000).await;
    assert_eq!(to("/store/"), 5);
    assert_eq!(to("/blobs/"), 3);
    assert!(case.clock.waits().is_empty());
    for status in [401, 403, 410] {
        case.registry.fail_next("/store/", Fault::Status(status));
        case.read(&*blob, 5000, 6000).await;
    }
    // A link that ends again at once is a failure, not an endless loop.
    case.registry.fail_always("/store/", &Fault::Status(403));
    let error = blob.read_at(0..10).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(!error.to_string().contains("sig="), "{error}");
}

#[tokio::test]
async fn redirects_that_are_not_followed() {
    let case = Case::new().await;
    let own = format!(
        "http://{}/v2/{REPOSITORY}/blobs/{}",
        case.registry.host(),
        case.descriptor.digest
    );
    case.registry.fail_always("/blobs/", &Fault::Redirect(own));
    let error = case.read_error(0, 10).await;
    assert!(error.to_string().contains("redirects"), "{error}");
    assert_eq!(case.registry.requests().len(), 6);
    case.registry.recover();
    for place in ["ftp://127.0.0.1/", "http://"] {
        case.registry
            .fail_next("/blobs/", Fault::Redirect(place.into()));
        assert_eq!(case.read_error(0, 10).await.kind(), Kind::Unavailable);
    }
}

#[tokio::test]
async fn tokens_are_shared_and_renewed_at_use() {
    let setup = Setup {
        auth: Auth::Bearer {
            login: None,
            life: Some(100),
        },
        ..Setup::default()
    };
    let case = Case::with(setup, Options::default()).await;
    let tokens = || {
        let lines = case.registry.lines();
        lines.iter().filter(|line| line.contains("/token?")).count()
    };
    let blob = case.blob();
    let reads = (0..20_usize).map(|n| case.read(&*blob, n * 10, n * 10 + 10));
    futures::future::join_all(reads).await;
    case.read(&*case.blob(), 0, 10).await;
    assert_eq!(tokens(), 1, "one for all, another handle included");
    case.clock.pass(Duration::from_secs(89));
    case.read(&*blob, 0, 10).await;
    assert_eq!(tokens(), 1);
    let before = case.registry.requests().len();
    case.clock.pass(Duration::from_secs(2));
    case.read(&*blob, 0, 10).await;
    assert_eq!(tokens(), 2, "shortly before its end");
    assert_eq!(case.registry.requests().len(), before + 2, "no 401 between");
    case.registry.expire_tokens();
    case.read(&*blob, 0, 10).await;
    assert_eq!(tokens(), 3, "refused before its time");
    let lines = case.registry.lines();
    let line = lines.iter().find(|line| line.contains("/token?")).unwrap();
    assert!(
        line.contains("service=fake") && line.contains("scope=repository%3Asome%2Frepo%3Apull"),
        "{line}"
    );
}

#[tokio::test]
async fn a_token_server_may_stumble() {
    let setup = Setup {
        auth: Auth::Bearer {
            login: None,
            life: None,
        },
        ..Setup::default()
    };
    let case = Case::with(setup, Options::default()).await;
    for fault in [Fault::Status(503), Fault::Close, Fault::Truncate(3)] {
        case.registry.fail_next("/token", fault);
    }
    case.read(&*case.blob(), 0, 10).await;
}

fn config(directory: &Path, text: &str) -> PathBuf {
    let file = directory.join("config.json");
    std::fs::write(&file, text).unwrap();
    file
}

/// Options that log in as `user` with `password` by a `config.json`.
fn logged_in(directory: &Path, user: &str, password: &str) -> Options {
    // The port is not known before the registry runs, so every port of loopback is named by helper.
    let helper = directory.join("docker-credential-test");
    let script = format!(
        "#!/bin/sh\nread server\ncase $server in 127.0.0.1:*) \
         echo '{{\"ServerURL\":\"x\",\"Username\":\"{user}\",\"Secret\":\"{password}\"}}';; esac\n"
    );
    // Written by a child, so that no fork of another test holds it open for writing.
    let written = std::process::Command::new("sh")
        .args([
            "-c",
            r#"printf %s "$1" > "$2" && chmod 755 "$2""#,
            "sh",
            &script,
        ])
        .arg(&helper)
        .status()
        .unwrap();
    assert!(written.success());
    let file = config(directory, r#"{"credsStore": "test"}"#);
    Options {
        credentials: Credentials::from_files(vec![file]).with_helper_directory(directory),
        ..Options::default()
    }
}

#[tokio::test]
async fn logins() {
    let directory = tempfile::tempdir().unwrap();
    let bearer = Auth::Bearer {
        login: Some(("ann", "s3cret")),
        life: None,
    };
    let cases = [
        (Auth::Basic("ann", "s3cret"), "ann", "s3cret", true),
        (Auth::Basic("ann", "s3cret"), "ann", "wr0ng", false),
        (bearer.clone(), "ann", "s3cret", true),
        (bearer, "ann", "wr0ng", false),
        (Auth::Identity("s3cret"), "<token>", "s3cret", true),
        (Auth::Identity("s3cret"), "<token>", "wr0ng", false),
    ];
    for (auth, user, password, works) in cases {
        let setup = Setup {
            auth: auth.clone(),
            ..Setup::default()
        };
        let case = Case::with(setup, logged_in(directory.path(), user, password)).await;
        if works {
            case.read(&*case.blob(), 0, 10).await;
            let bytes = Bytes::from_static(b"new");
            let descriptor = Descriptor::of("a/b", &bytes);
            let content = BlobContent::Bytes(bytes);
            case.writer().put_blob(&descriptor, content).await.unwrap();
            continue;
        }
        let error = case.read_error(0, 10).await;
        assert_eq!(error.kind(), Kind::Denied, "{auth:?}");
        assert!(error.hint().unwrap().contains("login"));
        let said = format!("{error} {error:?} {:?}", case.client);
        assert!(
            !said.contains("wr0ng") && !said.contains("s3cret"),
            "{said}"
        );
        assert!(case.clock.waits().is_empty(), "a no is not tried again");
    }
}

#[tokio::test]
async fn a_login_from_a_file_is_read_when_it_is_needed() {
    let directory = tempfile::tempdir().unwrap();
    let file = config(directory.path(), "{}");
    let options = Options {
        credentials: Credentials::from_files(vec![file]),
        ..Options::default()
    };
    let setup = Setup {
        auth: Auth::Basic("ann", "pw"),
        ..Setup::default()
    };
    let case = Case::with(setup, options).await;
    assert_eq!(case.read_error(0, 10).await.kind(), Kind::Denied);
    let host = case.registry.host();
    let text = format!(r#"{{"auths": {{"{host}/some": {{"auth": "YW5uOnB3"}}}}}}"#);
    config(directory.path(), &text);
    case.read(&*case.blob(), 0, 10).await;
}

#[tokio::test]
async fn manifests() {
    let case = Case::new().await;
    let repository = case.repository();
    let text = Bytes::from_static(br#"{"schemaVersion":2}"#);
    let list = media_type::DOCKER_LIST;
    case.registry.put_manifest(
        REPOSITORY,
        "v1",
        &format!("{list}; charset=utf-8"),
        text.clone(),
    );
    let tag = |name: &str| Location::Tag(name.into());
    let raw = repository.manifest(&tag("v1")).await.unwrap();
    assert_eq!((raw.media_type.as_str(), &raw.bytes), (list, &text));

    case.registry.fail_next("/manifests/", Fault::Truncate(4));
    case.registry.fail_next("/manifests/", Fault::Status(502));
    repository.manifest(&tag("v1")).await.unwrap();

    let named = Digest::sha256(b"another");
    case.registry
        .put_manifest_as(REPOSITORY, &named, media_type::OCI_MANIFEST, text);
    let error = repository.manifest(&Location::Digest(named)).await;
    assert_eq!(error.unwrap_err().kind(), Kind::Corrupt);

    let big = vec![b' '; (4 << 20) + 1];
    case.registry
        .put_manifest(REPOSITORY, "big", media_type::OCI_MANIFEST, big);
    let error = repository.manifest(&tag("big")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);

    let error = repository.manifest(&tag("none")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(
        error.message().contains("no tag none in 127.0.0.1"),
        "{error}"
    );
    for status in [401, 403] {
        case.registry
            .fail_next("/manifests/", Fault::Status(status));
        let error = repository.manifest(&tag("v1")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.hint().is_some());
    }
}

#[tokio::test]
async fn referrers_fail_closed() {
    let case = Case::new().await;
    let repository = case.repository();
    let subject = Digest::sha256(b"subject");
    let none = repository.referrers(&subject).await.unwrap();
    assert!(none.is_empty());
    // An API that is down or forbidden is not one without referrers.
    case.registry.fail_next("/referrers/", Fault::Status(403));
    let error = repository.referrers(&subject).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    case.registry
        .fail_always("/referrers/", &Fault::Status(500));
    let error = repository.referrers(&subject).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    case.registry.recover();
    case.registry.fail_next("/referrers/", Fault::Status(404));
    case.registry
        .fail_next("/manifests/sha256-", Fault::Status(403));
    let error = repository.referrers(&subject).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
}

#[tokio::test]
async fn uploads_are_begun_anew() {
    let options = Options {
        deadline: Duration::from_millis(600),
        ..Options::default()
    };
    let case = Case::with(Setup::default(), options).await;
    let writer = case.writer();
    for (number, fault) in [
        ("POST", Fault::Status(503)),
        ("PUT", Fault::Status(500)),
        ("PUT", Fault::Close),
        ("PUT", Fault::Hang),
        ("HEAD", Fault::Close),
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = Bytes::from(vec![u8::try_from(number).unwrap(); 300_000]);
        let descriptor = Descriptor::of("a/b", &bytes);
        case.registry.fail_next(fault.0, fault.1);
        let content = BlobContent::Bytes(bytes.clone());
        writer.put_blob(&descriptor, content).await.unwrap();
        let stored = case.registry.blob(REPOSITORY, &descriptor.digest);
        assert_eq!(stored, Some(bytes));
    }
    assert_eq!(case.clock.waits().len(), 5);
    let descriptor = Descriptor::of("a/b", b"x");
    case.registry.fail_next("POST", Fault::Status(403));
    let content = BlobContent::Bytes(Bytes::from_static(b"x"));
    let error = writer.put_blob(&descriptor, content).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
}

#[tokio::test]
async fn a_stream_that_is_dropped_stops_reading() {
    let case = Case::new().await;
    let repository = case.repository();
    let mut stream = repository.blob(&case.descriptor).stream().await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    drop(stream);
    assert!(case.content.starts_with(&first));
    assert!(repository.traffic().snapshot().bytes < case.content.len() as u64);
}

#[tokio::test]
async fn an_unknown_authority_is_refused() {
    let Some(registry) = DockerRegistry::start_tls() else {
        return;
    };
    let reference: RegistryReference = format!("{}/a:v1", registry.host()).parse().unwrap();
    let client = Client::new(Options::default()).unwrap();
    let repository = client.repository(&reference).unwrap();
    let error = repository.manifest(&Location::Tag("v1".into())).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(error.hint().is_some());
    let missing = Options {
        ca_files: vec!["/nonexistent/ca.pem".into()],
        ..Options::default()
    };
    assert_eq!(Client::new(missing).unwrap_err().kind(), Kind::Io);
}

/// What we wrote is read by skopeo from a real registry, and the other way round.
#[tokio::test]
async fn skopeo_agrees() {
    let (Some(registry), Some(())) = (DockerRegistry::start(), installed("skopeo")) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let access = nacre::source::Access::default();
    let layout = format!("oci:{}/ours:v1", directory.path().display());
    let (writer, location) = access.create(&layout.parse().unwrap()).await.unwrap();
    let config = Bytes::from_static(
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#,
    );
    let descriptor = Descriptor::of(media_type::OCI_CONFIG, &config);
    let content = BlobContent::Bytes(config);
    writer.put_blob(&descriptor, content).await.unwrap();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor, "layers": []});
    let manifest = nacre::oci::RawManifest::new(
        media_type::OCI_MANIFEST,
        serde_json::to_vec(&manifest).unwrap().into(),
    );
    writer.put_manifest(&location, &manifest).await.unwrap();
    let remote = format!("{}/x/y:v1", registry.host());
    let back = format!("oci:{}/back:v2", directory.path().display());
    for (from, to) in [
        (layout, format!("docker://{remote}")),
        (format!("docker://{remote}"), back.clone()),
    ] {
        let output = std::process::Command::new("skopeo")
            .args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false"])
            .args(["--insecure-policy", &from, &to])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "skopeo {from} {to}: {said}");
    }
    let unnamed = format!("oci:{}/back", directory.path().display());
    for reference in [remote, back, unnamed] {
        let (repository, location) = access.open(&reference.parse().unwrap()).await.unwrap();
        let found = repository.manifest(&location).await.unwrap();
        assert_eq!(found.digest, manifest.digest, "{reference}");
    }
}
