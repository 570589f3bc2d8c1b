//! Who is asked for a resource, how long it counts, and what is said when there is none.

use std::time::Instant;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use nacre_snapshotter_proto::{
    Message as _,
    hub::{GetResourceRequest, GetResourceResponse},
};

use super::{
    ttrpc::tests::{Act, serve},
    *,
};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);
const URI: &str = "kbs:///default/policy/1";

fn answer(bytes: &[u8]) -> Act {
    let resource = bytes.to_vec();
    Act::Answer(GetResourceResponse { resource }.encode_to_vec())
}

fn by_hub(socket: &Path, deadline: Duration, keep: Duration) -> Resources {
    Resources::new(ResourceConfig {
        hub: Some(socket.to_owned()),
        deadline,
        keep,
        ..ResourceConfig::default()
    })
}

fn by_files(files: &[&Path]) -> Resources {
    Resources::new(ResourceConfig {
        offline: files.iter().map(|it| (*it).to_owned()).collect(),
        ..ResourceConfig::default()
    })
}

async fn read(resources: &Resources, place: &str) -> Result<Vec<u8>> {
    let bytes = resources.fetch(Path::new(place), 1 << 20).await?;
    Ok(bytes.to_vec())
}

#[tokio::test]
async fn the_hub_is_asked_for_the_whole_uri_and_its_answer_kept() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("cdh.sock");
    let resources = by_hub(&socket, LONG, LONG);
    let server = serve(&socket, answer(b"one"));
    assert_eq!(read(&resources, URI).await.unwrap(), b"one");
    let call = server.await.unwrap();
    let asked = (&*call.service, &*call.method);
    assert_eq!(asked, ("api.GetResourceService", "GetResource"));
    assert_eq!(call.timeout_nano, 60_000_000_000);
    let request = GetResourceRequest::decode(&call.payload[..]).unwrap();
    assert_eq!(request.resource_path, URI);

    // Nobody answers any more.
    assert_eq!(read(&resources, URI).await.unwrap(), b"one");
    let other = read(&resources, "kbs:///default/policy/2").await;
    assert_eq!(other.unwrap_err().kind(), Kind::Unavailable);
    let debug = format!("{resources:?}");
    assert!(debug.contains("Kept(1 for"), "{debug}");
}

#[tokio::test]
async fn image_rs_defect_9_what_is_not_kept_is_asked_for_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    for (keep, second) in [(Duration::ZERO, &b"new"[..]), (LONG, b"old")] {
        let resources = by_hub(&socket, LONG, keep);
        for (act, want) in [
            (Act::Fail(13, "attestation failed"), None),
            (answer(b"old"), Some(&b"old"[..])),
            (answer(b"new"), Some(second)),
        ] {
            let _ = std::fs::remove_file(&socket);
            let server = serve(&socket, act);
            assert_eq!(read(&resources, URI).await.ok().as_deref(), want);
            server.abort();
        }
    }
}

#[tokio::test]
async fn hubs_that_fail_are_told_with_the_uri_and_what_to_do() {
    for (act, kind, text, hint) in [
        (
            Act::Fail(13, "[CDH] [ERROR]: no"),
            Kind::Denied,
            "code 13: [CDH]",
            "has this resource",
        ),
        (
            Act::Fail(5, "none"),
            Kind::NotFound,
            "code 5: none",
            "has this resource",
        ),
        (
            Act::Fail(12, "what"),
            Kind::Unsupported,
            "code 12",
            "gives no resources",
        ),
        (
            Act::Fail(14, "later"),
            Kind::Unavailable,
            "code 14",
            "runs and reaches",
        ),
        (
            Act::Hang,
            Kind::Unavailable,
            "no answer within 0.3 s",
            "runs and reaches",
        ),
        (
            Act::Bytes(Vec::new()),
            Kind::Unavailable,
            "ended before it",
            "runs and reaches",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let deadline = match act {
            Act::Hang => SHORT,
            _ => LONG,
        };
        let server = serve(&socket, act);
        let began = Instant::now();
        let error = read(&by_hub(&socket, deadline, LONG), URI)
            .await
            .unwrap_err();
        assert!(began.elapsed() < LONG);
        assert_eq!(error.kind(), kind, "{error}");
        let said = error.to_string();
        assert!(said.starts_with(URI) && said.contains(text), "{said}");
        assert!(said.contains(&socket.display().to_string()), "{said}");
        assert!(error.hint().unwrap().contains(hint), "{:?}", error.hint());
        server.await.unwrap();
    }
    let gone = by_hub(Path::new("/nonexistent/cdh.sock"), LONG, LONG);
    let error = read(&gone, URI).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let said = error.to_string();
    assert!(
        said.contains("/nonexistent/cdh.sock: cannot connect"),
        "{said}"
    );
    let nobody = read(&Resources::default(), URI).await.unwrap_err();
    assert_eq!(nobody.kind(), Kind::Unsupported);
    assert!(nobody.hint().unwrap().contains("--cdh-socket"));
}

#[tokio::test]
async fn offline_files_are_asked_first_and_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let (file, socket) = (directory.path().join("r.json"), directory.path().join("s"));
    let write = |value: &[u8]| {
        let value = STANDARD.encode(value);
        let text = format!(r#"{{"default/policy/1": "{value}", "kbs:///a/b/c": ""}}"#);
        std::fs::write(&file, text).unwrap();
    };
    write(b"one");
    let resources = Resources::new(ResourceConfig {
        hub: Some(socket.clone()),
        offline: vec![file.clone()],
        deadline: LONG,
        keep: LONG,
    });
    assert_eq!(read(&resources, URI).await.unwrap(), b"one");
    let with_host = "kbs://broker.example/default/policy/1";
    write(b"two");
    assert_eq!(read(&resources, with_host).await.unwrap(), b"two");
    assert_eq!(read(&resources, "kbs:///a/b/c").await.unwrap(), b"");
    let server = serve(&socket, answer(b"hub's"));
    let other = "kbs+plugin:///default/policy/1?x=1";
    assert_eq!(read(&resources, other).await.unwrap(), b"hub's");
    server.await.unwrap();

    let error = read(&by_files(&[&file]), "kbs:///a/b/d").await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let said = error.to_string();
    assert!(
        said.contains("kbs:///a/b/d") && said.contains("not in"),
        "{said}"
    );
}

#[tokio::test]
async fn malformed_offline_files_are_named_and_not_quoted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.json");
    let resources = by_files(&[&file]);
    for text in [
        r#"["c2VjcmV0"]"#,
        r#"{"a/b/c": "c2VjcmV0!"}"#,
        r#"{"a/b/c": ["c2VjcmV0"]}"#,
        r#"{"a/b/c": "c2VjcmV0", "a/b/c": "c2VjcmV0"}"#,
        r#"{"a/b/c": "c2VjcmV0""#,
    ] {
        std::fs::write(&file, text).unwrap();
        let error = read(&resources, URI).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{text}");
        let said = error.to_string();
        assert!(said.contains("r.json: line 1"), "{said}");
        assert!(!said.contains("c2VjcmV0"), "{said}");
    }
    std::fs::remove_file(&file).unwrap();
    let error = read(&resources, URI).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(
        error.to_string().contains("r.json: no such file"),
        "{error}"
    );
}

#[tokio::test]
async fn files_by_path_and_uri_within_their_limit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a b");
    std::fs::write(&path, b"1234").unwrap();
    let uri = format!("file://{}/a%20b", directory.path().display());
    let files = Resources::default();
    for place in [&path, Path::new(&uri)] {
        assert_eq!(files.read(place, 4).unwrap()[..], *b"1234");
        let error = files.fetch(place, 3).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("a b: over 3 bytes"), "{error}");
    }
    let missing = files.read(Path::new("/nonexistent"), 3).unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
}

#[test]
fn a_thread_without_a_runtime_can_ask() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let entered = runtime.enter();
    let server = serve(&socket, answer(b"one"));
    drop(entered);
    let read = by_hub(&socket, LONG, LONG).read(Path::new(URI), 3);
    assert_eq!(read.unwrap()[..], *b"one");
    runtime.block_on(server).unwrap();
}
