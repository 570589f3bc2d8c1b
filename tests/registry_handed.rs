//! Logins that are handed over for an image: to whom they are sent, before what, how long, and what
//! happens when they are refused.

// A test that cannot go on panics, in its helpers too.
#![allow(clippy::unwrap_used)]

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use nacre::{
    Error, Kind, Result,
    oci::{Descriptor, RegistryReference},
    source::{
        BlobSource,
        registry::{Client, Credentials, HandedLogin, HandedLogins, Options, RetryPolicy},
    },
};
use support::registry::{Auth, FakeRegistry, Fault, Seen, Setup};
use zeroize::Zeroizing;

/// A registry whose repositories have the same blob, and a client that takes what is handed over.
struct Case {
    registry: FakeRegistry,
    handed: HandedLogins,
    client: Arc<Client>,
    descriptor: Descriptor,
}

const APP: &str = "team/app";
const OTHER: &str = "team/other";
const CONTENT: &[u8] = b"0123456789";

// === impl Case ===

impl Case {
    async fn new(auth: Auth) -> Self {
        Self::with(auth, Credentials::anonymous(), None).await
    }

    async fn with(auth: Auth, credentials: Credentials, certs: Option<&Path>) -> Self {
        let setup = Setup {
            auth,
            ..Setup::default()
        };
        let registry = FakeRegistry::start_with(setup).await;
        let descriptor = registry.put_blob(APP, Bytes::from_static(CONTENT));
        registry.put_blob(OTHER, Bytes::from_static(CONTENT));
        let handed = HandedLogins::default();
        let client = Client::new(Options {
            credentials: credentials.with_handed(handed.clone()),
            certs_dir: certs.map(Path::to_owned),
            stall_timeout: Duration::from_secs(5),
            retry: RetryPolicy {
                attempts: 1,
                ..RetryPolicy::default()
            },
            ..Options::default()
        })
        .unwrap();
        Self {
            registry,
            handed,
            client,
            descriptor,
        }
    }

    fn image(&self, repository: &str) -> RegistryReference {
        self.registry.reference(repository, "1").parse().unwrap()
    }

    fn blob(&self, repository: &str) -> Arc<dyn BlobSource> {
        let repository = self.client.repository(&self.image(repository)).unwrap();
        repository.blob(&self.descriptor)
    }

    async fn read(&self, repository: &str) -> Result<()> {
        read(&*self.blob(repository)).await
    }

    /// Hands a login over, as a pull that succeeded does.
    fn hand_over(&self, login: HandedLogin) {
        self.handed.pull(&self.image(APP), login).succeeded();
    }

    /// What was asked since the last call.
    fn asked(&self) -> Vec<Seen> {
        let asked = self.registry.requests();
        self.registry.forget_requests();
        asked
    }
}

async fn read(blob: &dyn BlobSource) -> Result<()> {
    let bytes = blob.read_at(2..5).await?;
    assert_eq!(bytes, CONTENT[2..5]);
    Ok(())
}

fn denied(result: Result<()>) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    error
}

fn secret(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

fn basic(user: &str, password: &str) -> HandedLogin {
    HandedLogin::basic(user, secret(password)).unwrap()
}

/// A file with this login for every repository of the registry.
fn file(directory: &Path, host: &str, user: &str, password: &str) -> Credentials {
    let file = directory.join("config.json");
    let auths = serde_json::json!({ host: { "username": user, "password": password } });
    let text = serde_json::json!({ "auths": auths });
    std::fs::write(&file, text.to_string()).unwrap();
    Credentials::from_files(vec![file])
}

#[tokio::test]
async fn every_form_opens_its_repository_and_no_other() {
    let bearer = Auth::Bearer {
        login: Some(("ann", "s3cret")),
        life: None,
    };
    let cases = [
        (Auth::Basic("ann", "s3cret"), basic("ann", "s3cret")),
        (bearer, basic("ann", "s3cret")),
        (
            Auth::Basic("ann", "s3cret"),
            HandedLogin::encoded(secret("YW5uOnMzY3JldA==")).unwrap(),
        ),
        (
            Auth::Identity("s3cret"),
            HandedLogin::identity_token(secret("s3cret")).unwrap(),
        ),
    ];
    for (auth, login) in cases {
        let case = Case::new(auth.clone()).await;
        denied(case.read(APP).await);
        case.hand_over(login);
        case.asked();
        case.read(APP).await.unwrap();
        let asked = case.asked();
        assert!(
            asked.iter().any(|it| it.authorization.is_some()),
            "{auth:?}"
        );

        denied(case.read(OTHER).await);
        for seen in case.asked() {
            assert_eq!(seen.authorization, None, "{auth:?}: {}", seen.line);
        }
        let said = format!("{:?} {:?}", case.client, case.handed);
        assert!(!said.contains("s3cret"), "{said}");
    }
}

#[tokio::test]
async fn a_registry_token_goes_to_the_registry_itself() {
    let case = Case::new(Auth::Bearer {
        login: None,
        life: None,
    })
    .await;
    case.read(APP).await.unwrap();
    let given = case.asked().into_iter().find_map(|it| it.authorization);
    let token = given.unwrap().strip_prefix("Bearer ").unwrap().to_owned();
    case.hand_over(HandedLogin::registry_token(secret(&token)).unwrap());
    case.read(APP).await.unwrap();
    let asked = case.asked();
    assert!(
        asked.iter().all(|it| !it.line.contains("/token")),
        "{asked:?}"
    );
    assert_eq!(asked.len(), 1);
}

#[tokio::test]
async fn what_a_login_obtained_ends_with_it() {
    let case = Case::new(Auth::Bearer {
        login: Some(("ann", "s3cret")),
        life: Some(3600),
    })
    .await;
    let pull = case.handed.pull(&case.image(APP), basic("ann", "s3cret"));
    let blob = case.blob(APP);
    read(&*blob).await.unwrap();
    case.asked();
    read(&*blob).await.unwrap();
    assert_eq!(case.asked().len(), 1, "its token is kept");

    // The pull failed. The registry would still take the token.
    drop(pull);
    denied(read(&*blob).await);
    assert!(case.asked().iter().all(|it| it.authorization.is_none()));

    // Another pull brings it again, to readers that were there before too.
    case.hand_over(basic("ann", "s3cret"));
    read(&*blob).await.unwrap();
}

#[tokio::test]
async fn a_refused_login_gives_way_to_the_others_and_is_left_alone() {
    let bearer = Auth::Bearer {
        login: Some(("ann", "s3cret")),
        life: Some(3600),
    };
    for auth in [Auth::Basic("ann", "s3cret"), bearer] {
        let directory = tempfile::tempdir().unwrap();
        // Files are read when they are needed: the host is known once the registry runs.
        let credentials = file(directory.path(), "", "", "");
        let case = Case::with(auth, credentials, None).await;
        file(directory.path(), &case.registry.host(), "ann", "s3cret");
        let refused = || {
            let asked = case.asked();
            let wrong = |it: &&Seen| it.authorization.as_deref() == Some("Basic Ym9iOndyMG5n");
            asked.iter().filter(wrong).count()
        };
        case.hand_over(basic("bob", "wr0ng"));
        let blob = case.blob(APP);
        read(&*blob).await.unwrap();
        assert_eq!(refused(), 1, "tried first");
        for _ in 0..5 {
            read(&*blob).await.unwrap();
        }
        assert_eq!(refused(), 0, "and not again");

        case.hand_over(basic("bob", "wr0ng"));
        read(&*blob).await.unwrap();
        assert_eq!(refused(), 1, "a new one is tried");
    }
}

#[tokio::test]
async fn an_older_login_serves_while_a_wrong_one_is_tried() {
    let case = Case::new(Auth::Basic("ann", "s3cret")).await;
    case.hand_over(basic("ann", "s3cret"));
    let blob = case.blob(APP);
    let wrong = case.handed.pull(&case.image(APP), basic("ann", "wr0ng"));
    read(&*blob).await.unwrap();
    drop(wrong);
    case.asked();
    read(&*blob).await.unwrap();
    assert_eq!(case.asked().len(), 1);
}

#[tokio::test]
async fn a_refusal_that_nobody_else_escapes_is_about_the_object() {
    let case = Case::new(Auth::Basic("ann", "s3cret")).await;
    case.hand_over(basic("ann", "s3cret"));
    let blob = case.blob(APP);
    for status in [401, 403] {
        // The challenge, then this.
        read(&*blob).await.unwrap();
        case.registry.fail_next("/blobs/", Fault::Status(status));
        case.registry.fail_next("/blobs/", Fault::Status(status));
        denied(read(&*blob).await);
        case.registry.recover();
        case.asked();
        read(&*blob).await.unwrap();
        assert_eq!(case.asked().len(), 1, "{status}: it is used as before");
    }
}

#[tokio::test]
async fn a_mirror_is_given_only_what_is_for_the_mirror() {
    let directory = tempfile::tempdir().unwrap();
    let auth = Auth::Basic("ann", "s3cret");
    let mirror = FakeRegistry::start_with(Setup {
        auth: auth.clone(),
        ..Setup::default()
    })
    .await;
    mirror.put_blob(APP, Bytes::from_static(CONTENT));
    let case = Case::with(auth, Credentials::anonymous(), Some(directory.path())).await;
    let certs = directory.path().join(case.registry.host());
    std::fs::create_dir_all(&certs).unwrap();
    let text = format!("[host.\"http://{}\"]\n", mirror.host());
    std::fs::write(certs.join("hosts.toml"), text).unwrap();

    case.hand_over(basic("ann", "s3cret"));
    case.read(APP).await.unwrap();
    let asked = mirror.requests();
    assert!(!asked.is_empty(), "the mirror comes first");
    for seen in asked {
        assert_eq!(seen.authorization, None, "{}", seen.line);
    }
    let own = case.asked();
    assert!(own.iter().any(|it| it.authorization.is_some()));

    case.hand_over(basic("ann", "s3cret").for_server(&format!("http://{}", mirror.host())));
    case.read(APP).await.unwrap();
    assert!(case.asked().is_empty(), "the mirror was enough");
}
