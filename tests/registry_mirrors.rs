//! Several hosts for one registry, as `hosts.toml` names them: what each is asked for, and what
//! happens when one of them is away, silent, or wrong.

// A test that cannot go on panics, in its helpers too.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures::{
    TryStreamExt,
    future::{BoxFuture, join_all},
};
use nacre::{
    Kind, Result,
    engine::EngineConfig,
    keys::{KeyConfig, Keyring},
    oci::{Descriptor, Digest, Document, Location, Platform, Reference, media_type},
    open::{OpenImage, Opener},
    source::{
        Access, BlobSource, Repository, read_verified,
        registry::{Client, Credentials, Environment, Options, RetryPolicy},
    },
    store::{Store, StoreConfig},
    trust::Policy,
};
use support::{
    docker_registry::DockerRegistry,
    images,
    registry::{Auth, FakeRegistry, Fault, Setup},
};

/// A clock that moves only by the waits and by hand.
#[derive(Debug)]
struct Manual {
    start: Instant,
    moved: Mutex<Duration>,
}

// === impl Manual ===

impl Manual {
    fn pass(&self, time: Duration) {
        *self.moved.lock().unwrap() += time;
    }
}

impl Environment for Manual {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
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
        SystemTime::UNIX_EPOCH
    }
}

/// Two registries with the same content; `r.example` is served by both, the mirror first.
struct Case {
    mirror: FakeRegistry,
    server: FakeRegistry,
    directory: tempfile::TempDir,
    clock: Arc<Manual>,
    content: Bytes,
    descriptor: Descriptor,
    manifest: Digest,
}

const REPOSITORY: &str = "some/repo";
const MANIFEST: &[u8] = br#"{"schemaVersion":2}"#;

// === impl Case ===

impl Case {
    async fn new() -> Self {
        Self::with(Setup::default(), Setup::default(), "").await
    }

    /// `more` is what `hosts.toml` says about the mirror.
    async fn with(mirror: Setup, server: Setup, more: &str) -> Self {
        let mirror = FakeRegistry::start_with(mirror).await;
        let server = FakeRegistry::start_with(server).await;
        let content: Bytes = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for registry in [&mirror, &server] {
            registry.put_blob(REPOSITORY, content.clone());
            registry.put_manifest(REPOSITORY, "v1", media_type::OCI_MANIFEST, MANIFEST);
        }
        let case = Self {
            descriptor: Descriptor::of("application/octet-stream", &content),
            manifest: Digest::sha256(MANIFEST),
            directory: tempfile::tempdir().unwrap(),
            clock: Arc::new(Manual {
                start: Instant::now(),
                moved: Mutex::default(),
            }),
            mirror,
            server,
            content,
        };
        case.write_hosts(&format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]\n{more}\n",
            case.server.host(),
            case.mirror.host()
        ));
        case
    }

    fn write_hosts(&self, text: &str) {
        write_hosts(self.directory.path(), text);
    }

    fn options(&self) -> Options {
        Options {
            certs_dir: Some(self.directory.path().to_owned()),
            environment: self.clock.clone(),
            stall_timeout: Duration::from_millis(300),
            retry: RetryPolicy {
                attempts: 3,
                ..RetryPolicy::default()
            },
            ..Options::default()
        }
    }

    fn repository(&self) -> Arc<dyn Repository> {
        repository(&Client::new(self.options()).unwrap())
    }

    async fn check(&self, blob: &dyn BlobSource, start: usize, end: usize) {
        let read = blob.read_at(start as u64..end as u64).await.unwrap();
        assert!(read == self.content[start..end], "bytes {start}..{end}");
    }

    /// Requests to mirror and server since the last call.
    fn asked(&self) -> (usize, usize) {
        let asked = (self.mirror.lines().len(), self.server.lines().len());
        self.mirror.forget_requests();
        self.server.forget_requests();
        asked
    }
}

fn write_hosts(certs: &Path, text: &str) {
    let own = certs.join("r.example");
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), text).unwrap();
}

fn repository(client: &Client) -> Arc<dyn Repository> {
    let reference = format!("r.example/{REPOSITORY}:v1").parse().unwrap();
    client.repository(&reference).unwrap()
}

fn tag() -> Location {
    Location::Tag("v1".into())
}

#[tokio::test]
async fn the_mirror_is_asked_first_and_told_for_whom_it_stands() {
    let case = Case::new().await;
    let repository = case.repository();
    assert_eq!(repository.name(), "r.example/some/repo");
    let found = repository.manifest(&tag()).await.unwrap();
    assert_eq!(found.digest, case.manifest);
    let blob = repository.blob(&case.descriptor);
    case.check(&*blob, 1000, 5000).await;
    let lines = case.mirror.lines();
    assert_eq!(lines[0], "GET /v2/some/repo/manifests/v1?ns=r.example");
    assert_eq!(case.asked(), (2, 0));
    let traffic = repository.traffic().snapshot();
    assert_eq!(
        (traffic.requests, traffic.bytes),
        (2, 4000 + MANIFEST.len() as u64)
    );
}

#[tokio::test]
async fn what_one_host_cannot_give_the_next_one_gives() {
    let faults = [
        Fault::Status(500),
        Fault::Status(503),
        Fault::Status(404),
        Fault::Status(401),
        Fault::Status(403),
        Fault::Status(400),
        Fault::RetryAfter(429, "3600".into()),
        Fault::Close,
        Fault::Hang,
        Fault::OtherRange,
        Fault::Truncate(0),
        Fault::Stall(0),
    ];
    for fault in faults {
        let case = Case::new().await;
        case.mirror.fail_always("/", &fault);
        let repository = case.repository();
        let blob = repository.blob(&case.descriptor);
        case.check(&*blob, 1000, 5000).await;
        if !matches!(fault, Fault::OtherRange) {
            let found = repository.manifest(&tag()).await.unwrap();
            assert_eq!(found.digest, case.manifest, "{fault:?}");
        }
        assert_eq!(
            case.clock.now(),
            case.clock.start,
            "{fault:?}: nobody waited"
        );
    }
    let case = Case::new().await;
    let repository = case.repository();
    drop(case.mirror);
    repository.manifest(&tag()).await.unwrap();
}

#[tokio::test]
async fn each_host_is_counted_and_its_state_told() {
    let case = Case::new().await;
    let client = Client::new(case.options()).unwrap();
    let repository = repository(&client);
    let blob = repository.blob(&case.descriptor);
    case.mirror.fail_next("/blobs/", Fault::Status(503));
    case.check(&*blob, 0, 10).await;
    case.server.fail_next("/blobs/", Fault::Status(404));
    case.check(&*blob, 0, 10).await;
    // A round in vain, and another one.
    case.mirror.fail_next("/blobs/", Fault::Status(503));
    case.server.fail_next("/blobs/", Fault::Close);
    case.check(&*blob, 0, 10).await;

    let counts = client.counts();
    let (mirror, server) = (case.mirror.host(), case.server.host());
    let of = |host: &str| counts.iter().find(|it| it.host == host).unwrap();
    let seen = |host: &str| {
        let answers = of(host).answers.iter();
        let some = answers.filter(|(_, n)| *n > 0);
        some.map(|(class, n)| (class.as_str(), *n))
            .collect::<Vec<_>>()
    };
    let (of_mirror, of_server) = (of(&mirror), of(&server));
    let all = repository.traffic().snapshot();
    let sum = of_mirror.traffic.requests + of_server.traffic.requests;
    assert_eq!(all.requests, sum);
    assert_eq!(all.bytes, of_mirror.traffic.bytes + of_server.traffic.bytes);
    assert!(seen(&mirror).contains(&("5xx", 2)), "{:?}", seen(&mirror));
    assert!(seen(&server).contains(&("4xx", 1)), "{:?}", seen(&server));
    assert!(seen(&server).iter().any(|(class, _)| *class == "none"));
    let answered: u64 = { of_mirror.answers.iter() }.map(|(_, n)| n).sum();
    assert_eq!(answered, of_mirror.traffic.requests);
    assert_eq!(of_mirror.took.count(), answered, "no answer failed to come");
    assert_eq!(of_mirror.failovers, 2, "not having a blob is none");
    assert_eq!(of_server.retries, 1, "rounds are the registry's own");

    let states = client.states();
    assert_eq!(states.len(), 1);
    assert_eq!(states[0].registry, "r.example");
    assert!(
        states[0]
            .hosts_file
            .as_ref()
            .unwrap()
            .ends_with("r.example/hosts.toml")
    );
    let hosts: Vec<_> = { states[0].hosts.iter() }
        .map(|it| (it.host.clone(), it.failing))
        .collect();
    assert_eq!(hosts, [(mirror.clone(), true), (server.clone(), true)]);
    case.clock.pass(Duration::from_secs(31));
    assert!(client.states()[0].hosts.iter().all(|it| !it.failing));

    // What is counted outlives a change of hosts.toml.
    case.write_hosts(&format!("server = \"http://{server}\"\n"));
    self::repository(&client).manifest(&tag()).await.unwrap();
    let later = client.counts();
    assert_eq!(later.len(), 2);
    let later = later.iter().find(|it| it.host == server).unwrap();
    assert_eq!(later.traffic.requests, of_server.traffic.requests + 1);
}

#[tokio::test]
async fn a_host_that_failed_is_asked_last_for_a_while() {
    let case = Case::new().await;
    let blob = case.repository().blob(&case.descriptor);
    case.mirror.fail_next("/blobs/", Fault::Status(503));
    case.check(&*blob, 0, 10).await;
    assert_eq!(case.asked(), (1, 1));
    case.check(&*blob, 0, 10).await;
    assert_eq!(case.asked(), (0, 1), "the mirror rests");
    case.server.fail_next("/blobs/", Fault::Status(503));
    case.check(&*blob, 0, 10).await;
    assert_eq!(case.asked(), (1, 1), "asked last, but asked");
    case.clock.pass(Duration::from_secs(31));
    case.check(&*blob, 0, 10).await;
    assert_eq!(case.asked(), (1, 0), "forgiven");
    case.mirror.fail_next("/blobs/", Fault::Status(404));
    case.check(&*blob, 0, 10).await;
    case.check(&*blob, 0, 10).await;
    assert_eq!(case.asked(), (2, 1), "not having a blob is no failure");

    // Whether a host is back is found out by one read, not by all.
    case.mirror.fail_next("/blobs/", Fault::Status(503));
    case.check(&*blob, 0, 10).await;
    case.clock.pass(Duration::from_secs(31));
    case.asked();
    case.mirror.fail_always("/blobs/", &Fault::Hang);
    join_all((0..10).map(|_| case.check(&*blob, 0, 10))).await;
    assert_eq!(case.asked(), (1, 10));
    case.mirror.recover();
    case.clock.pass(Duration::from_secs(31));
    case.check(&*blob, 0, 10).await;
    join_all((0..10).map(|_| case.check(&*blob, 0, 10))).await;
    assert_eq!(case.asked(), (11, 0));
}

#[tokio::test]
async fn a_read_goes_on_where_the_other_host_stopped() {
    for fault in [Fault::Truncate(1500), Fault::Stall(1500)] {
        let case = Case::new().await;
        let blob = case.repository().blob(&case.descriptor);
        case.mirror.fail_next("/blobs/", fault.clone());
        case.check(&*blob, 1000, 5000).await;
        let range = |registry: &FakeRegistry| registry.requests()[0].range.clone().unwrap();
        assert_eq!(range(&case.mirror), "bytes=1000-4999");
        assert_eq!(range(&case.server), "bytes=2500-4999", "{fault:?}");
        assert_eq!(case.asked(), (1, 1));
    }
    // A stream too, and back again.
    let case = Case::new().await;
    for _ in 0..5 {
        case.mirror.fail_next("/blobs/", Fault::Truncate(10_000));
        case.server.fail_next("/blobs/", Fault::Truncate(10_000));
    }
    let blob = case.repository().blob(&case.descriptor);
    let pieces: Vec<Bytes> = blob.stream().await.unwrap().try_collect().await.unwrap();
    assert!(pieces.concat() == case.content);
}

#[tokio::test]
async fn when_all_fail_the_error_names_them() {
    let case = Case::new().await;
    case.mirror.fail_always("/", &Fault::Status(503));
    case.server.fail_always("/", &Fault::Status(500));
    let repository = case.repository();
    let blob = repository.blob(&case.descriptor);
    for error in [
        blob.read_at(0..10).await.unwrap_err(),
        repository.manifest(&tag()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Unavailable);
        let said = error.to_string();
        for part in ["503", "500", &case.mirror.host(), &case.server.host()] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    assert_eq!(case.asked(), (6, 6), "as many rounds as tries");
    // They come back between two rounds.
    case.mirror.recover();
    case.server.recover();
    case.mirror.fail_next("/", Fault::Status(503));
    case.server.fail_next("/", Fault::Status(503));
    case.check(&*blob, 0, 10).await;

    let none = Location::Tag("none".into());
    let error = repository.manifest(&none).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    case.mirror.fail_always("/", &Fault::Status(503));
    case.asked();
    let error = repository.manifest(&none).await.unwrap_err();
    assert_eq!(
        error.kind(),
        Kind::NotFound,
        "the registry's own no is final: {error}"
    );
    assert_eq!(case.asked().1, 1);
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let case = Case::new().await;
    case.mirror.fail_always("/", &Fault::Hang);
    case.server.fail_always("/", &Fault::Hang);
    let client = Client::new(Options {
        deadline: Duration::from_millis(200),
        stall_timeout: Duration::from_secs(60),
        ..case.options()
    });
    let repository = repository(&client.unwrap());
    let error = repository.blob(&case.descriptor).read_at(0..1).await;
    assert_eq!(error.unwrap_err().kind(), Kind::Unavailable);
    let error = repository.manifest(&tag()).await;
    assert_eq!(error.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_mirror_is_asked_only_for_what_it_can() {
    let pull = "capabilities = [\"pull\"]";
    let case = Case::with(Setup::default(), Setup::default(), pull).await;
    let repository = case.repository();
    repository.manifest(&tag()).await.unwrap();
    assert_eq!(case.asked(), (0, 1), "a tag");
    let digest = Location::Digest(case.manifest.clone());
    repository.manifest(&digest).await.unwrap();
    case.check(&*repository.blob(&case.descriptor), 0, 10).await;
    assert_eq!(case.asked(), (2, 0), "by digest");
    repository.referrers(&case.manifest).await.unwrap();
    // The API and, at the same time, the tag that stands in for it: it may be given up before it is sent.
    let (mirror, origin) = case.asked();
    assert!(
        mirror == 0 && (1..=2).contains(&origin),
        "a list that changes: {origin}"
    );

    let resolve = "capabilities = [\"resolve\"]";
    let case = Case::with(Setup::default(), Setup::default(), resolve).await;
    let repository = case.repository();
    repository.manifest(&tag()).await.unwrap();
    assert_eq!(case.asked(), (1, 0));
    case.check(&*repository.blob(&case.descriptor), 0, 10).await;
    assert_eq!(case.asked(), (0, 1));

    case.write_hosts(&format!(
        "server = \"http://{}\"\ncapabilities = [\"pull\"]\n",
        case.server.host()
    ));
    let error = case.repository().manifest(&tag()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.to_string().contains("resolve"), "{error}");
    assert!(error.to_string().contains("hosts.toml"), "{error}");
}

#[tokio::test]
async fn a_mirror_that_lists_no_referrers_may_not_know_them() {
    let case = Case::new().await;
    let referrer = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "artifactType": "a/b",
        "subject": {"mediaType": media_type::OCI_MANIFEST, "digest": case.manifest, "size": 19},
    });
    let bytes = serde_json::to_vec(&referrer).unwrap();
    case.server
        .put_manifest(REPOSITORY, "sig", media_type::OCI_MANIFEST, bytes);
    let repository = case.repository();
    let found = repository.referrers(&case.manifest).await.unwrap();
    assert_eq!(found.len(), 1);
    let none = repository
        .referrers(&Digest::sha256(b"other"))
        .await
        .unwrap();
    assert!(none.is_empty());
    // That the registry is away does not mean that there are none.
    case.server.fail_always("/", &Fault::Status(503));
    let error = repository.referrers(&case.manifest).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn paths_headers_and_logins_are_each_hosts_own() {
    let bearer = |login| Setup {
        auth: Auth::Bearer {
            login: Some(login),
            life: None,
        },
        redirect: true,
        ..Setup::default()
    };
    let case = Case::with(bearer(("ann", "a-secret")), bearer(("bob", "b-secret")), "").await;
    let below = format!("proxy/hub/{REPOSITORY}");
    case.mirror.put_blob(&below, case.content.clone());
    case.write_hosts(&format!(
        "server = \"http://{}\"\n[host.\"http://{mirror}/v2/proxy/hub\"]\noverride_path = true\n\
         [host.\"http://{mirror}/v2/proxy/hub\".header]\nx-key = [\"one\", \"two\"]\n",
        case.server.host(),
        mirror = case.mirror.host(),
    ));
    let file = case.directory.path().join("config.json");
    let logins = serde_json::json!({"auths": {
        case.mirror.host(): {"username": "ann", "password": "a-secret"},
        case.server.host(): {"username": "bob", "password": "b-secret"},
    }});
    std::fs::write(&file, logins.to_string()).unwrap();
    let client = Client::new(Options {
        credentials: Credentials::from_files(vec![file]),
        ..case.options()
    });
    let repository = repository(&client.unwrap());
    case.check(&*repository.blob(&case.descriptor), 0, 10).await;
    assert_eq!(case.server.lines().len(), 0);
    let requests = case.mirror.requests();
    let scope = "scope=repository%3Aproxy%2Fhub%2Fsome%2Frepo%3Apull";
    assert!(
        requests.iter().any(|seen| seen.line.contains(scope)),
        "{requests:?}"
    );
    let mut own = 0;
    for seen in &requests {
        let values: Vec<_> = seen.headers.get_all("x-key").iter().collect();
        if seen.line.starts_with("GET /v2/proxy/hub/some/repo/blobs/") {
            assert_eq!(values, ["one", "two"]);
            own += 1;
        } else {
            assert!(values.is_empty(), "{}: {values:?}", seen.line);
        }
    }
    assert!(own >= 2);
    assert!(
        requests.iter().any(|seen| seen.line.contains("/store/")),
        "redirected"
    );
    // The manifest is not below that path: the server has it.
    repository.manifest(&tag()).await.unwrap();
    for registry in [&case.mirror, &case.server] {
        let other = if registry.host() == case.mirror.host() {
            "Ym9i"
        } else {
            "YW5u"
        };
        for seen in registry.requests() {
            let given = seen.authorization.unwrap_or_default();
            assert!(!given.contains(other), "another host's login");
        }
    }
}

#[tokio::test]
async fn a_changed_file_counts_for_the_next_image() {
    let case = Case::new().await;
    let client = Client::new(case.options()).unwrap();
    repository(&client).manifest(&tag()).await.unwrap();
    assert_eq!(case.asked(), (1, 0));
    case.write_hosts(&format!("server = \"http://{}\"\n", case.server.host()));
    repository(&client).manifest(&tag()).await.unwrap();
    assert_eq!(case.asked(), (0, 1));
    case.write_hosts("severs = 1\n");
    let reference = "r.example/a:v1".parse().unwrap();
    let error = client.repository(&reference).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(
        error.to_string().contains("r.example/hosts.toml: line 1"),
        "{error}"
    );
}

#[tokio::test]
async fn wrong_bytes_are_asked_of_another_host() {
    let case = Case::new().await;
    let mut wrong = case.content.to_vec();
    wrong[1500] ^= 1;
    case.mirror
        .put_blob_as(REPOSITORY, &case.descriptor.digest, wrong);
    let repository = case.repository();
    let blob = repository.blob(&case.descriptor);
    let first = blob.read_at(1000..2000).await.unwrap();
    assert!(
        first != case.content[1000..2000],
        "nothing is verified here"
    );
    let again = blob.read_elsewhere(1400..1600).await.unwrap();
    assert!(again == case.content[1400..1600]);
    assert_eq!(case.asked(), (1, 1));
    // The mirror came last after that: now the server is the one to avoid.
    case.check(&*blob, 0, 10).await;
    assert_eq!(case.asked(), (0, 1));
    blob.read_elsewhere(0..10).await.unwrap();
    assert_eq!(case.asked(), (1, 0));
    // Small documents are verified where they are read.
    case.clock.pass(Duration::from_secs(60));
    let whole = read_verified(&*repository, &case.descriptor, 1 << 20)
        .await
        .unwrap();
    assert!(whole == case.content);
    assert_eq!(case.asked(), (1, 1));
    // A mirror's manifest that has another digest.
    case.clock.pass(Duration::from_secs(60));
    let other = br#"{"schemaVersion":2,"x":1}"#;
    case.mirror.put_manifest_as(
        REPOSITORY,
        &case.manifest,
        media_type::OCI_MANIFEST,
        &other[..],
    );
    let by_digest = Location::Digest(case.manifest.clone());
    let found = repository.manifest(&by_digest).await.unwrap();
    assert_eq!(found.bytes, MANIFEST);
}

/// Opens an image that may be unsigned.
async fn open(access: &Access, reference: &str) -> Result<OpenImage> {
    open_by(Policy::insecure_accept_anything(), access, reference).await
}

async fn open_by(policy: Policy, access: &Access, reference: &str) -> Result<OpenImage> {
    let opener = Opener {
        policy,
        keyring: Keyring::new(&KeyConfig::default())?,
        store: Arc::new(Store::open(&StoreConfig {
            memory_bytes: 1 << 20,
            disk: None,
            indexes: None,
        })?),
        engine: EngineConfig::RECOMMENDED,
        platform: Platform::host(),
        expected_digest: None,
        findings: None,
        insecure_plaintext_store: false,
    };
    let reference: Reference = reference.parse()?;
    let (repository, location) = access.open(&reference).await?;
    opener.open(&reference, &repository, &location).await
}

/// Every file's bytes, by inode.
async fn files(image: &OpenImage) -> Vec<(u64, Vec<u8>)> {
    let mut all = Vec::new();
    for number in 0..=image.tree.inode_count() as u64 {
        let Some(file) = image.tree.ino(number).and_then(|ino| image.tree.file(ino)) else {
            continue;
        };
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < file.size {
            let offset = bytes.len() as u64;
            bytes.extend_from_slice(
                &image
                    .engine
                    .read_async(file, offset, 1 << 20)
                    .await
                    .unwrap(),
            );
        }
        all.push((number, bytes));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_gets_right_bytes_although_the_mirror_has_wrong_ones() {
    let directory = tempfile::tempdir().unwrap();
    let plain = images::small_files_image(&directory.path().join("plain"), 300);
    let server = FakeRegistry::start().await;
    let target = server.reference("app", "1");
    let converted = std::process::Command::new(env!("CARGO_BIN_EXE_nacre"))
        .args(["image", "convert", &plain.reference(), &target])
        .args(["--format", "estargz"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&converted.stderr);
    assert!(converted.status.success(), "{said}");
    let access = Access::default();
    let right = open(&access, &target).await.unwrap();
    let right_files = files(&right).await;
    assert!(right_files.len() >= 300);

    // In the first mirror the files are wrong, in the second one the index too.
    for part in [8, 1] {
        let mirror = FakeRegistry::start().await;
        let (repository, location) = access.open(&target.parse().unwrap()).await.unwrap();
        let raw = repository.manifest(&location).await.unwrap();
        mirror.put_manifest("app", "1", &raw.media_type, raw.bytes.clone());
        let Ok(Document::Manifest(manifest)) = raw.parse() else {
            panic!("an image");
        };
        let config = server.blob("app", &manifest.config.digest).unwrap();
        mirror.put_blob("app", config);
        for layer in &manifest.layers {
            let mut wrong = server.blob("app", &layer.digest).unwrap().to_vec();
            let end = wrong.len() / part;
            for byte in wrong[..end].iter_mut().skip(40).step_by(64) {
                *byte ^= 0x10;
            }
            mirror.put_blob_as("app", &layer.digest, wrong);
        }
        let certs = directory.path().join(format!("certs-{part}"));
        write_hosts(
            &certs,
            &format!(
                "server = \"http://{}\"\n[host.\"http://{}\"]\n",
                server.host(),
                mirror.host()
            ),
        );
        let mirrored = Access::new(Options {
            certs_dir: Some(certs.clone()),
            ..Options::default()
        });
        let image = open(&mirrored, "r.example/app:1").await.unwrap();
        assert!(files(&image).await == right_files, "wrong bytes");
        let listed = std::process::Command::new(env!("CARGO_BIN_EXE_nacre"))
            .args([
                "ls",
                "r.example/app:1",
                "--insecure-policy",
                "accept-anything",
            ])
            .arg("--hosts-dir")
            .arg(&certs)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&listed.stderr);
        assert!(
            listed.status.success() && !listed.stdout.is_empty(),
            "{said}"
        );
        let lines = mirror.lines();
        let asked = lines.iter().filter(|line| line.contains("/blobs/")).count();
        if part == 1 {
            // The first bytes of it were wrong, so it is asked last for a while.
            assert!(asked >= 1);
        } else {
            assert!(asked >= 2, "for the index and for a file");
            assert!(image.engine.snapshot().mismatches > 0, "a chunk was wrong");
        }
    }
}

/// `hosts.toml` with a host for each registry, the first one the mirror.
fn tls_hosts(certs: &Path, mirror: &str, server: &str) {
    write_hosts(certs, &format!("server = {server}\n[host.{mirror}\n"));
}

fn certs_of(registry: &DockerRegistry) -> String {
    format!("ca = \"{}\"\n", registry.ca().unwrap().display())
}

async fn manifest_by(certs: &Path, insecure_skip_verify: bool) -> Result<Kind> {
    let client = Client::new(Options {
        certs_dir: Some(certs.to_owned()),
        insecure_skip_verify,
        retry: RetryPolicy {
            attempts: 1,
            ..RetryPolicy::default()
        },
        ..Options::default()
    })?;
    let reference = "r.example/a:v1".parse().unwrap();
    let repository = client.repository(&reference)?;
    // There is no such image: that one is told so means that one was heard.
    Ok(repository.manifest(&tag()).await.unwrap_err().kind())
}

#[tokio::test]
async fn each_host_has_its_own_authority_and_client_certificate() {
    let (Some(mirror), Some(server)) = (
        DockerRegistry::start_tls(),
        DockerRegistry::start_mutual_tls(),
    ) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let certs = directory.path();
    let (certificate, key) = server.client();
    let client = format!("client = [[{certificate:?}, {key:?}]]\n");
    let mirror_url = format!("\"https://{}\"]\n", mirror.host());
    let server_url = format!("\"https://{}\"\n", server.host());

    let trusted = format!("{server_url}{}{client}", certs_of(&server));
    tls_hosts(
        certs,
        &format!("{mirror_url}{}", certs_of(&mirror)),
        &trusted,
    );
    assert_eq!(manifest_by(certs, false).await.unwrap(), Kind::NotFound);

    // The other's authority does not do, nor does none.
    for ca in [String::new(), certs_of(&mirror)] {
        let untrusted = format!("{server_url}{ca}{client}");
        tls_hosts(
            certs,
            &format!("{mirror_url}{}", certs_of(&mirror)),
            &untrusted,
        );
        assert_eq!(manifest_by(certs, false).await.unwrap(), Kind::Unavailable);
    }
    // Without a client certificate there is no connection.
    let without = format!("{server_url}{}", certs_of(&server));
    tls_hosts(
        certs,
        &format!("{mirror_url}{}", certs_of(&mirror)),
        &without,
    );
    assert_eq!(manifest_by(certs, false).await.unwrap(), Kind::Unavailable);

    // skip_verify is honoured only if it was allowed.
    let skipping = format!("{server_url}skip_verify = true\n{client}");
    tls_hosts(certs, &mirror_url, &skipping);
    let error = manifest_by(certs, false).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.to_string().contains("skip_verify"), "{error}");
    assert!(error.hint().unwrap().contains("--insecure-skip-verify"));
    assert_eq!(manifest_by(certs, true).await.unwrap(), Kind::NotFound);
}

fn executable(path: &PathBuf, text: &str) {
    // Written by a child: a file this process holds open for writing cannot be executed when another
    // test forks at that moment.
    let status = std::process::Command::new("sh")
        .args(["-c", "printf %s \"$1\" > \"$2\"", "sh", text])
        .arg(path)
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn a_kubelet_plugin_logs_in() {
    let registry = FakeRegistry::start_with(Setup {
        auth: Auth::Basic("ann", "s3cret"),
        ..Setup::default()
    })
    .await;
    let descriptor = registry.put_blob(REPOSITORY, "abc");
    let directory = tempfile::tempdir().unwrap();
    let (config, plugin) = (
        directory.path().join("c.yaml"),
        directory.path().join("plugin"),
    );
    let host = registry.host();
    std::fs::write(
        &config,
        format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n\
             - name: plugin\n  matchImages: [\"{host}\"]\n  defaultCacheDuration: 1h\n  \
             apiVersion: credentialprovider.kubelet.k8s.io/v1\n"
        ),
    )
    .unwrap();
    let answer = serde_json::json!({
        "kind": "CredentialProviderResponse",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType": "Registry",
        "auth": {&host: {"username": "ann", "password": "s3cret"}},
    });
    executable(
        &plugin,
        &format!("#!/bin/sh\ncat > /dev/null\necho '{answer}'\n"),
    );
    let file = directory.path().join("none.json");
    let credentials = Credentials::from_files(vec![file])
        .with_provider_plugins(&config, directory.path())
        .unwrap();
    let client = Client::new(Options {
        credentials,
        ..Options::default()
    })
    .unwrap();
    let reference = registry.reference(REPOSITORY, "v1").parse().unwrap();
    let repository = client.repository(&reference).unwrap();
    let bytes = repository.blob(&descriptor).read_at(0..3).await.unwrap();
    assert_eq!(bytes, "abc");
    assert!(!format!("{client:?}").contains("s3cret"));
}
