use std::{os::unix::fs::PermissionsExt, sync::Mutex};

use super::*;
use crate::Kind;

const LONG: Duration = Duration::from_secs(30);

/// A directory with a configuration and a program, and the clock that answers age by.
struct Case {
    directory: tempfile::TempDir,
    clock: Mutex<Instant>,
}

fn yaml(name: &str) -> String {
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: {name}
    matchImages:
      - "*.r.example"
      - "r.example:5000/team"
    defaultCacheDuration: "1h"
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    args: [get, it]
    env:
      - name: TEST_SECRET
        value: s3cret
"#
    )
}

// === impl Case ===

impl Case {
    /// The program counts its runs in `runs` and keeps its question in `question`.
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.yaml"), yaml("plugin")).unwrap();
        let path = directory.path().join("plugin");
        let root = directory.path().display();
        let text = format!("#!/bin/sh\ncd {root}\necho run >> runs\ncat > question\n{script}\n");
        // Written by a child: a file this process holds open for writing cannot be executed when
        // another test forks at that moment.
        let status = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$1\" > \"$2\"", "sh", &text])
            .arg(&path)
            .status()
            .unwrap();
        assert!(status.success());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            directory,
            clock: Mutex::new(Instant::now()),
        }
    }

    fn providers(&self, deadline: Duration) -> Providers {
        let file = self.directory.path().join("config.yaml");
        Providers::load(&file, self.directory.path(), deadline).unwrap()
    }

    async fn login(&self, providers: &Providers, image: &str) -> Result<Option<String>> {
        let login = providers
            .login(|| *self.clock.lock().unwrap(), image)
            .await?;
        Ok(login.map(|login| match login {
            Login::Basic { username, password } => format!("{username}:{}", &*password),
            other => format!("{other:?}"),
        }))
    }

    fn runs(&self) -> usize {
        let runs = std::fs::read_to_string(self.directory.path().join("runs"));
        runs.map_or(0, |runs| runs.lines().count())
    }
}

fn answer(key_type: &str, duration: &str, auth: &str) -> String {
    format!(
        r#"echo '{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"{key_type}","cacheDuration":{duration},"auth":{{{auth}}}}}'"#
    )
}

const ANN: &str = r#""*.r.example":{"username":"ann","password":"pw"}"#;

#[tokio::test]
async fn the_question_and_the_most_particular_answer() {
    let auth = format!(
        r#"{ANN},"a.r.example/x":{{"username":"x","password":"$TEST_SECRET-$1"}},"other":{{"password":"no"}}"#
    );
    // The shell puts its argument and variable in.
    let script = answer("Image", "null", &auth).replace("echo '", "cat <<EOF\n");
    let script = format!("{}\nEOF", script.trim_end_matches('\''));
    let case = Case::new(&script);
    let providers = case.providers(LONG);
    let login = |image| case.login(&providers, image);
    assert_eq!(
        login("a.r.example/x/y").await.unwrap().unwrap(),
        "x:s3cret-get"
    );
    let question = std::fs::read(case.directory.path().join("question")).unwrap();
    let question: serde_json::Value = serde_json::from_slice(&question).unwrap();
    assert_eq!(
        question,
        serde_json::json!({"kind": "CredentialProviderRequest",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "image": "a.r.example/x/y"})
    );
    assert_eq!(login("a.r.example/z").await.unwrap().unwrap(), "ann:pw");
    assert_eq!(case.runs(), 2);
    assert_eq!(login("s.example/x").await.unwrap(), None, "no pattern fits");
    assert_eq!(case.runs(), 2);
    let shown = format!("{providers:?}");
    assert!(
        !shown.contains("s3cret") && !shown.contains("pw"),
        "{shown}"
    );
}

#[tokio::test]
async fn answers_are_kept_as_long_and_as_widely_as_they_say() {
    let images = ["a.r.example/x", "a.r.example/y", "b.r.example/x"];
    for (key_type, duration, runs) in [
        ("Image", "null", 3),
        ("Registry", "\"10m\"", 2),
        ("Global", "\"10m\"", 1),
        ("Global", "\"0s\"", 6),
    ] {
        let case = Case::new(&answer(key_type, duration, ANN));
        let providers = case.providers(LONG);
        for image in images.iter().chain(&images) {
            let login = case.login(&providers, image).await.unwrap();
            assert_eq!(login.unwrap(), "ann:pw");
        }
        assert_eq!(case.runs(), runs, "{key_type} {duration}");
    }
    let case = Case::new(&answer("Global", "\"10m\"", ANN));
    let providers = case.providers(LONG);
    for (pass, runs) in [(0, 1), (599, 1), (1, 2)] {
        *case.clock.lock().unwrap() += Duration::from_secs(pass);
        case.login(&providers, images[0]).await.unwrap();
        assert_eq!(case.runs(), runs, "after {pass} s more");
    }
}

#[tokio::test]
async fn failures_are_named_without_secrets() {
    let image = "a.r.example/x";
    for (script, deadline, kind, said) in [
        (
            "echo s3cret; echo no role here >&2; exit 1",
            LONG,
            Kind::Denied,
            "no role here",
        ),
        ("exit 1", LONG, Kind::Denied, "said nothing"),
        ("echo s3cret", LONG, Kind::Denied, "not understood"),
        (
            r#"echo '{"kind":"CredentialProviderResponse","apiVersion":"v0","cacheKeyType":"Image","auth":{"x":{"username":"u","password":"s3cret"}}}'"#,
            LONG,
            Kind::Denied,
            "apiVersion",
        ),
        (
            "exec sleep 60",
            Duration::from_millis(50),
            Kind::Unavailable,
            "no answer",
        ),
    ] {
        let case = Case::new(script);
        let error = case
            .login(&case.providers(deadline), image)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{script}");
        assert!(error.to_string().contains(said), "{error}");
        assert!(error.to_string().contains("plugin"), "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
    let case = Case::new(&answer("Image", "null", ""));
    assert_eq!(
        case.login(&case.providers(LONG), image).await.unwrap(),
        None
    );
}

#[test]
fn json_is_yaml_too() {
    let text = r#"{"apiVersion":"kubelet.config.k8s.io/v1beta1","kind":"CredentialProviderConfig",
        "providers":[{"name":"p","matchImages":["*"],"defaultCacheDuration":"12h",
        "apiVersion":"credentialprovider.kubelet.k8s.io/v1beta1"}]}"#;
    let configs = config::parse(text).unwrap();
    assert_eq!(configs.len(), 1);
    assert_eq!(
        configs[0].default_cache_duration,
        Duration::from_secs(12 * 3600)
    );
}

#[test]
fn malformed_configurations_are_refused() {
    let good = yaml("plugin");
    config::parse(&good).unwrap();
    let change = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replace(from, to)
    };
    let twice = format!("{good}{}", good.split_once("providers:\n").unwrap().1);
    for (text, said) in [
        (change("config.k8s.io/v1", "config.k8s.io/v9"), "apiVersion"),
        (change("kind: C", "kind: D"), "kind"),
        (
            change("name: plugin", "name: ../plugin"),
            "not that of a program",
        ),
        (change("name: plugin", "nmae: plugin"), "line 4"),
        (
            change("defaultCacheDuration: \"1h\"", "defaultCacheDuration: 1d"),
            "Duration",
        ),
        (
            change("r.example:5000/team", "r.example:*/team"),
            "matchImages",
        ),
        (
            change("provider.kubelet.k8s.io/v1", "provider.kubelet.k8s.io/v2"),
            "apiVersion",
        ),
        (change("value: s3cret", "value: [s3cret]"), "line 13"),
        (change("value: s3cret", "value: s3cret: x"), "line"),
        (twice, "twice"),
        (String::new(), ""),
        ("a: &a [*a, *a]".into(), ""),
        (" ".repeat(300 << 10), "bytes"),
    ] {
        let Err(error) = config::parse(&text) else {
            panic!("taken: {text}");
        };
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert!(error.to_string().contains(said), "{said}: {error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
    let tokens = change(
        "    args:",
        "    tokenAttributes:\n      serviceAccountTokenAudience: a\n    args:",
    );
    let error = config::parse(&tokens).err().unwrap();
    assert_eq!(error.kind(), Kind::Unsupported);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    std::fs::write(&file, good).unwrap();
    let error = Providers::load(&file, directory.path(), LONG).unwrap_err();
    assert!(error.to_string().contains("no program"), "{error}");
}
