//! Providers that answer, refuse, hang, die and talk nonsense.

use std::{os::unix::fs::PermissionsExt, pin::Pin, time::Instant};

use nacre_snapshotter_proto::keyprovider::{
    KeyProviderKeyWrapProtocolInput as Input, KeyProviderKeyWrapProtocolOutput as Output,
    key_provider_service_server::{KeyProviderService, KeyProviderServiceServer},
};
use serde_json::{Value, json};
use tonic::{Request as Call, Response, Status};

use super::*;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

/// A shell script as a provider; `$1` is the test's directory.
struct Script {
    directory: tempfile::TempDir,
    provider: Provider,
}

impl Script {
    fn new(body: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("provider");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        // Through the shell: executing a file that was just written can fail with ETXTBSY while
        // another test forks.
        let provider = Provider::Command {
            path: "/bin/sh".into(),
            args: vec![
                path.display().to_string(),
                directory.path().display().to_string(),
            ],
        };
        Self {
            directory,
            provider,
        }
    }

    async fn ask(&self, deadline: Duration) -> Result<Zeroizing<Vec<u8>>> {
        self.provider.unwrap("test", &[], b"packet", deadline).await
    }
}

#[tokio::test]
async fn a_command_gets_the_request_and_answers_in_either_form() {
    for bytes in [r#""aGk=""#, "[104,105]"] {
        let script = Script::new(&format!(
            r#"cat > "$1/request"
            echo '{{"keywrapresults":{{"annotation":null}},'
            echo '"keyunwrapresults":{{"optsdata":{bytes}}}}}'"#
        ));
        assert_eq!(script.ask(LONG).await.unwrap()[..], *b"hi");
        let request = std::fs::read(script.directory.path().join("request")).unwrap();
        let request: Value = serde_json::from_slice(&request).unwrap();
        let want = json!({
            "op": "keyunwrap",
            "keywrapparams": {"ec": null, "optsdata": null},
            "keyunwrapparams": {
                "dc": {"Parameters": {"test": ["RW5hYmxlZA=="]}},
                "annotation": b"packet",
            },
        });
        assert_eq!(request, want);
    }
}

#[tokio::test]
async fn a_command_may_answer_before_it_has_heard_all() {
    let script = Script::new(r#"echo '{"keyunwrapresults":{"optsdata":[1]}}'"#);
    let packet = vec![1; 1 << 18];
    let reply = script.provider.unwrap("test", &[], &packet, LONG).await;
    assert_eq!(reply.unwrap()[..], [1]);
}

#[tokio::test]
async fn commands_that_fail() {
    for (body, kind, text) in [
        (
            "cat >/dev/null; echo no such key >&2; exit 3",
            Kind::Denied,
            "status 3: no such key",
        ),
        ("kill -SEGV $$", Kind::Unavailable, "died"),
        ("cat >/dev/null", Kind::Invalid, "answer of 0 bytes"),
        ("echo nonsense", Kind::Invalid, "not the protocol's JSON"),
        ("echo '{}'", Kind::Denied, "no keyunwrapresults"),
        (
            r#"echo '{"keyunwrapresults":{"optsdata":""}}'"#,
            Kind::Denied,
            "no keyunwrapresults",
        ),
        (
            r#"echo '{"keyunwrapresults":{"optsdata":"?"}}'"#,
            Kind::Invalid,
            "not the protocol's",
        ),
        ("exec cat /dev/zero", Kind::Invalid, "over 1048576 bytes"),
        (
            "head -c 9000000 /dev/zero >&2; echo too loud >&2; exit 1",
            Kind::Denied,
            "status 1",
        ),
    ] {
        let error = Script::new(body).ask(LONG).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{body}: {error}");
        assert!(error.to_string().contains(text), "{body}: {error}");
    }
    let missing = Provider::Command {
        path: "/nonexistent/provider".into(),
        args: Vec::new(),
    };
    let error = missing.unwrap("test", &[], b"", LONG).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(
        error.to_string().contains("/nonexistent/provider"),
        "{error}"
    );
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_its_children() {
    let script = Script::new(r#"sleep 600 & echo $! > "$1/child"; wait"#);
    let began = Instant::now();
    let error = script.ask(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(
        error.to_string().contains("no answer within 2 s"),
        "{error}"
    );
    assert!(began.elapsed() < LONG);
    let child = std::fs::read_to_string(script.directory.path().join("child")).unwrap();
    let stat = format!("/proc/{}/stat", child.trim());
    // Its reaper may take a moment; a zombie is dead too.
    while let Ok(state) = std::fs::read_to_string(&stat) {
        if state.contains(") Z") {
            break;
        }
        assert!(began.elapsed() < LONG, "{state}");
        tokio::task::yield_now().await;
    }
}

/// What a server in this process does with a call.
#[derive(Clone, Copy)]
enum Manner {
    Answer(&'static str),
    Refuse(tonic::Code),
    Large,
    Hang,
}

#[tonic::async_trait]
impl KeyProviderService for Manner {
    async fn wrap_key(&self, _: Call<Input>) -> Result<Response<Output>, Status> {
        Err(Status::unimplemented("wrap"))
    }

    async fn un_wrap_key(&self, call: Call<Input>) -> Result<Response<Output>, Status> {
        let request = call.into_inner().key_provider_key_wrap_protocol_input;
        let request: Value = serde_json::from_slice(&request).unwrap();
        assert_eq!(request["op"], "keyunwrap");
        assert_eq!(request["keyunwrapparams"]["annotation"], json!(b"packet"));
        let reply = match self {
            Self::Answer(text) => text.as_bytes().to_vec(),
            Self::Refuse(code) => return Err(Status::new(*code, "because\nI say so")),
            Self::Large => vec![b' '; 3 << 20],
            Self::Hang => std::future::pending().await,
        };
        Ok(Response::new(Output {
            key_provider_key_wrap_protocol_output: reply,
        }))
    }
}

async fn serve(manner: Manner) -> (Provider, tokio::task::JoinHandle<()>) {
    let incoming =
        tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(KeyProviderServiceServer::new(manner))
        .serve_with_incoming(incoming);
    let server: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(server);
    let task = tokio::spawn(async move {
        let _ = server.await;
    });
    (Provider::Grpc(address.to_string()), task)
}

#[tokio::test]
async fn servers_answer_refuse_and_hang() {
    let answer = r#"{"keyunwrapresults":{"optsdata":"aGk="}}"#;
    let (provider, server) = serve(Manner::Answer(answer)).await;
    let reply = provider.unwrap("test", &[], b"packet", LONG).await;
    assert_eq!(reply.unwrap()[..], *b"hi");
    server.abort();

    for (manner, deadline, kind, text) in [
        (
            Manner::Answer("nonsense"),
            LONG,
            Kind::Invalid,
            "not the protocol's JSON",
        ),
        (
            Manner::Refuse(tonic::Code::PermissionDenied),
            LONG,
            Kind::Denied,
            "because I say so",
        ),
        (
            Manner::Refuse(tonic::Code::Internal),
            LONG,
            Kind::Denied,
            "because I say so",
        ),
        (
            Manner::Refuse(tonic::Code::Unavailable),
            LONG,
            Kind::Unavailable,
            "because",
        ),
        (
            Manner::Refuse(tonic::Code::Unimplemented),
            LONG,
            Kind::Unsupported,
            "because",
        ),
        (Manner::Large, LONG, Kind::Invalid, "too large"),
        (
            Manner::Hang,
            SHORT,
            Kind::Unavailable,
            "no answer within 0.3 s",
        ),
    ] {
        let (provider, server) = serve(manner).await;
        let error = provider
            .unwrap("test", &[], b"packet", deadline)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        server.abort();
    }
}

#[tokio::test]
async fn a_server_that_is_away_or_mute() {
    // Bound, so that no other process gets the port, and not listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let away = Provider::Grpc(socket.local_addr().unwrap().to_string());
    let error = away.unwrap("test", &[], b"packet", LONG).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("cannot connect"), "{error}");

    // Listens, and never says a word of HTTP/2.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = Provider::Grpc(listener.local_addr().unwrap().to_string());
    let error = mute
        .unwrap("test", &[], b"packet", SHORT)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("no answer within"), "{error}");
}

#[test]
fn configuration_files() {
    let all = parse(
        br#"{"key-providers":{
            "a":{"cmd":{"path":"/x","args":["1"]},"grpc":"h:1"},
            "b":{"cmd":{"path":"y","args":null}},
            "c":{"grpc":"h:1"},
            "d":{"grpc":"h:1","grpc-tls":{"root-ca-file":"f"}},
            "e":{"ttrpc":"unix:///run/x.sock"},
            "f":{"native":"attestation-agent"}}}"#,
    )
    .unwrap();
    let debug: Vec<_> = all
        .values()
        .map(|provider| format!("{provider:?}"))
        .collect();
    assert_eq!(
        debug,
        [
            r#"Command { path: "/x", args: ["1"] }"#,
            r#"Command { path: "y", args: [] }"#,
            r#"Grpc("h:1")"#,
            r#"Unsupported("grpc with grpc-tls")"#,
            r#"Ttrpc("/run/x.sock")"#,
            r#"Unsupported("native")"#,
        ]
    );
    assert!(parse(b"{}").unwrap().is_empty());
    for (bad, text) in [
        (
            r#"{"key-providers":{"a":{"path":"/x","args":[]}}}"#,
            "has none of cmd",
        ),
        (r#"{"key-providers":{"a":{"grpc":""}}}"#, "has none of cmd"),
        (
            r#"{"key-providers":{"a":{"ttrpc":"vsock://1:2"}}}"#,
            "want unix:///PATH",
        ),
        (
            r#"{"key-providers":{"a":{"grpc":"x"},"a":{"grpc":"y"}}}"#,
            "occurs twice",
        ),
        (r#"{"key-providers":[]}"#, "line 1"),
    ] {
        let error = parse(bad.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test]
async fn a_missing_configuration_is_named_in_the_hint() {
    let providers = Providers::read(Some(Path::new("/nonexistent/keyproviders.json"))).unwrap();
    assert!(providers.by_name("a").is_none());
    assert!(
        providers
            .hint("a")
            .contains("/nonexistent/keyproviders.json does not exist")
    );
    let native = Provider::Unsupported("native");
    let error = native.unwrap("a", &[], b"", LONG).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("native"), "{error}");
}
