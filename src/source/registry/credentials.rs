//! Who we are to a registry: docker's `config.json`, containers' `auth.json`, credential helpers,
//! the kubelet's credential provider plugins. What was handed over for an image comes before all of
//! them ([`HandedLogins`]).
//!
//! Files are read when credentials are needed, so that a login renewed by another program is used.
//! Secrets are zeroized and never printed.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    handed::{HandedLogins, RepositoryLogins},
    helper,
    provider::Providers,
    retry::Environment,
    secret::Secret,
};
use crate::{
    error::{Error, Kind, Result},
    oci::RegistryReference,
    resource::{self, Resources},
};

/// Where logins come from.
#[derive(Clone, Debug)]
pub struct Credentials {
    files: Vec<PathBuf>,
    resources: Resources,
    helpers: Option<PathBuf>,
    helper_deadline: Duration,
    providers: Option<Providers>,
    handed: Option<HandedLogins>,
}

/// What a registry or its token server is told.
#[derive(Clone)]
pub(super) enum Login {
    /// Nothing.
    Anonymous,
    /// User name and password.
    Basic { username: String, password: Secret },
    /// An OAuth 2 refresh token.
    Identity(Secret),
    /// A bearer token for the registry.
    Token(Secret),
}

/// The parts of docker's `config.json` that are about logins.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct Auth {
    auth: Option<Secret>,
    identitytoken: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
}

/// Docker Hub's key in docker's files and helpers.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Largest `config.json` that is read; real ones have a few KiB.
const MAX_FILE: usize = 4 << 20;

/// How long a credential helper may take unless told; some ask a cloud's metadata service.
const HELPER_DEADLINE: Duration = Duration::from_secs(30);

// === impl Credentials ===

impl Credentials {
    /// No login anywhere.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::from_files(Vec::new())
    }

    /// Logins in files of docker's `config.json` form; the first file that knows a registry counts,
    /// files that do not exist are passed over.
    #[must_use]
    pub fn from_files(files: Vec<PathBuf>) -> Self {
        Self {
            files,
            resources: Resources::default(),
            helpers: None,
            helper_deadline: HELPER_DEADLINE,
            providers: None,
            handed: None,
        }
    }

    /// Reads the files by this, so that they may be resources, too.
    #[must_use]
    pub fn with_resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// Where docker and containers tools keep logins, given the environment: `$REGISTRY_AUTH_FILE`
    /// alone if it is set, else `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, then
    /// `$XDG_RUNTIME_DIR/containers/auth.json`.
    #[must_use]
    pub fn default_files(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
        let directory = |name: &str| {
            variable(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        if let Some(file) = directory("REGISTRY_AUTH_FILE") {
            return vec![file];
        }
        let docker = directory("DOCKER_CONFIG")
            .or_else(|| directory("HOME").map(|home| home.join(".docker")))
            .map(|docker| docker.join("config.json"));
        let containers =
            directory("XDG_RUNTIME_DIR").map(|runtime| runtime.join("containers/auth.json"));
        docker.into_iter().chain(containers).collect()
    }

    /// Looks for `docker-credential-NAME` in this directory instead of `$PATH`.
    #[must_use]
    pub fn with_helper_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.helpers = Some(directory.into());
        self
    }

    /// Asks the kubelet's credential provider plugins for what no file knows: those of this
    /// `CredentialProviderConfig`, in this directory. Each may take as long as a credential helper.
    ///
    /// # Errors
    /// `Invalid` if the configuration is malformed or a program is not there, `Unsupported` if a
    /// program wants what we cannot give it, `Io` if the file cannot be read.
    pub fn with_provider_plugins(mut self, config: &Path, directory: &Path) -> Result<Self> {
        let providers = Providers::load(config, directory, self.helper_deadline)?;
        self.providers = Some(providers);
        Ok(self)
    }

    /// Tries first what was handed over for an image, for the repository of that image.
    #[must_use]
    pub fn with_handed(mut self, handed: HandedLogins) -> Self {
        self.handed = Some(handed);
        self
    }

    /// What was handed over for the repository of `image`, and what will be.
    pub(super) fn handed(&self, image: &RegistryReference) -> Option<Arc<RepositoryLogins>> {
        self.handed.as_ref().map(|handed| handed.of(image))
    }

    /// How long a credential helper may take; 30 s unless told.
    #[must_use]
    pub fn with_helper_deadline(mut self, deadline: Duration) -> Self {
        self.helper_deadline = deadline;
        self
    }

    /// The login for a repository, besides those that were handed over.
    ///
    /// # Errors
    /// `Invalid` if a file is malformed, `Denied` or `Unavailable` if a helper says no or hangs.
    pub(super) async fn login(
        &self,
        environment: &dyn Environment,
        host: &str,
        path: &str,
    ) -> Result<Login> {
        for file in &self.files {
            let Some(config) = read(file, &self.resources).await? else {
                continue;
            };
            let within = |error: Error| error.context(format!("credentials {}", file.display()));
            if let Some(login) = self.login_in(&config, host, path).await.map_err(within)? {
                return Ok(login);
            }
        }
        let Some(providers) = &self.providers else {
            return Ok(Login::Anonymous);
        };
        let image = format!("{host}/{path}");
        let login = providers.login(|| environment.now(), &image).await?;
        Ok(login.unwrap_or(Login::Anonymous))
    }

    async fn login_in(&self, config: &File, host: &str, path: &str) -> Result<Option<Login>> {
        let name = format!("{host}/{path}");
        let own = longest_prefix(&config.cred_helpers, &name);
        if let Some(helper) = own
            .or(config.creds_store.as_ref())
            .filter(|h| !h.is_empty())
        {
            let server = if host == "docker.io" {
                DOCKER_HUB_KEY
            } else {
                host
            };
            let directory = self.helpers.as_deref();
            let login = helper::ask(helper, directory, server, self.helper_deadline).await?;
            if login.is_some() || own.is_some() {
                return Ok(login);
            }
        }
        longest_prefix(&config.auths, &name).map_or(Ok(None), |auth| auth.login(host))
    }
}

// === impl Login ===

impl Login {
    /// Reads base64 of `user:password`.
    ///
    /// # Errors
    /// `Invalid` if it is not.
    pub(super) fn decode(auth: &str) -> Result<Self> {
        let bad = || Error::invalid("want base64 of user:password");
        let bytes = Zeroizing::new(STANDARD.decode(auth.trim()).map_err(|_| bad())?);
        let text = std::str::from_utf8(&bytes).map_err(|_| bad())?;
        let (username, password) = text.split_once(':').ok_or_else(bad)?;
        Ok(Login::Basic {
            username: username.to_owned(),
            password: Secret::from(password.trim_end_matches('\0').to_owned()),
        })
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Login::Anonymous => "Anonymous",
            Login::Basic { .. } => "Basic",
            Login::Identity(_) => "Identity",
            Login::Token(_) => "Token",
        })
    }
}

// === impl Auth ===

impl Auth {
    fn login(&self, host: &str) -> Result<Option<Login>> {
        let given = |text: &Option<Secret>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Some(Login::Identity(token)));
        }
        if let Some(auth) = given(&self.auth) {
            let login = Login::decode(&auth);
            return login
                .map(Some)
                .map_err(|e| e.context(format!("auth of {host}")));
        }
        match (&self.username, given(&self.password)) {
            (Some(username), Some(password)) if !username.is_empty() => Ok(Some(Login::Basic {
                username: username.clone(),
                password,
            })),
            _ => Ok(None),
        }
    }
}

async fn read(path: &Path, resources: &Resources) -> Result<Option<File>> {
    let text = match resources.fetch(path, MAX_FILE).await {
        Ok(text) => text,
        // A file need not be there; a resource was named.
        Err(error) if error.kind() == Kind::NotFound && resource::local(path)?.is_some() => {
            return Ok(None);
        }
        Err(error) => return Err(error.context("credentials")),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        // serde's own message can quote a value, which may be a secret.
        Error::invalid(format!(
            "credentials {} line {} column {}: not docker's config.json form",
            path.display(),
            error.line(),
            error.column()
        ))
    })
}

/// The entry whose key is the longest prefix of `name` that ends at a `/`.
fn longest_prefix<'a, T>(entries: &'a BTreeMap<String, T>, name: &str) -> Option<&'a T> {
    entries
        .iter()
        .map(|(key, value)| (normalised(key), value))
        .filter(|(key, _)| {
            name.strip_prefix(key.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        .max_by_key(|(key, _)| key.len())
        .map(|(_, value)| value)
}

/// A key as `host[/namespace]`. Docker's old keys are URLs, of which only the host counts.
fn normalised(key: &str) -> String {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let key = match bare {
        Some(url) => url.split('/').next().unwrap_or(url),
        None => key.trim_end_matches('/'),
    };
    let (host, rest) = match key.find('/') {
        Some(at) => key.split_at(at),
        None => (key, ""),
    };
    match host {
        "index.docker.io" | "registry-1.docker.io" => format!("docker.io{rest}"),
        _ => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::retry::System, *};

    async fn login(text: &str, host: &str, path: &str) -> Result<String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        std::fs::write(&file, text).unwrap();
        let missing = directory.path().join("missing");
        let credentials = Credentials::from_files(vec![missing, file]);
        Ok(match credentials.login(&System, host, path).await? {
            Login::Anonymous => "-".into(),
            Login::Basic { username, password } => format!("{username}:{}", &*password),
            Login::Identity(token) => format!("token {}", &*token),
            Login::Token(_) => panic!("no file has one"),
        })
    }

    #[tokio::test]
    async fn the_longest_key_that_ends_at_a_slash_counts() {
        let text = format!(
            r#"{{"auths":{{
                "r.example":{{"auth":"{}"}},
                "r.example/team":{{"username":"t","password":"tp"}},
                "r.example/team/app":{{"identitytoken":"it","auth":"{}"}},
                "https://index.docker.io/v1/":{{"auth":"{}"}},
                "https://old.example/v1/":{{"auth":"{}"}},
                "empty.example":{{}}}},
              "HttpHeaders":{{"x":"y"}}}}"#,
            STANDARD.encode("u:p:q"),
            STANDARD.encode("u:p"),
            STANDARD.encode("hub:h"),
            STANDARD.encode("o:o"),
        );
        for (host, path, want) in [
            ("r.example", "x", "u:p:q"),
            ("r.example", "teammate/app", "u:p:q"),
            ("r.example", "team/other", "t:tp"),
            ("r.example", "team/app", "token it"),
            ("r.example.org", "team/app", "-"),
            ("docker.io", "library/x", "hub:h"),
            ("old.example", "a", "o:o"),
            ("empty.example", "a", "-"),
        ] {
            assert_eq!(
                login(&text, host, path).await.unwrap(),
                want,
                "{host}/{path}"
            );
        }
    }

    #[tokio::test]
    async fn a_brokers_resource_serves_as_a_file_and_has_to_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("offline.json");
        let auth = STANDARD.encode("u:p");
        let text = format!(r#"{{"auths":{{"r.example":{{"auth":"{auth}"}}}}}}"#);
        let text = format!(r#"{{"default/credential/r": "{}"}}"#, STANDARD.encode(text));
        std::fs::write(&file, text).unwrap();
        let resources = Resources::new(resource::ResourceConfig {
            offline: vec![file],
            ..resource::ResourceConfig::default()
        });
        let login = async |uri: &str| {
            let credentials = Credentials::from_files(vec!["/nonexistent".into(), uri.into()]);
            let credentials = credentials.with_resources(resources.clone());
            credentials.login(&System, "r.example", "x").await
        };
        let found = login("kbs:///default/credential/r").await.unwrap();
        assert!(matches!(found, Login::Basic { username, .. } if username == "u"));
        let missing = login("kbs:///default/credential/s").await.unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound);
        assert!(missing.to_string().contains("credential/s"), "{missing}");
        let malformed = login("kbs:///default").await.unwrap_err();
        assert_eq!(malformed.kind(), Kind::Invalid);
    }

    #[tokio::test]
    async fn a_malformed_file_is_named_without_its_secrets() {
        for text in [
            r#"{"auths":{"r.example":{"auth":"s3cret!"}}}"#,
            r#"{"auths":{"r.example":"s3cret!"}}"#,
            r#"{"auths":{"r.example":{"auth":"czNjcmV0"}}}"#,
            r#"{"auths":s3cret!"#,
        ] {
            let error = login(text, "r.example", "x").await.unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Invalid);
            assert!(error.to_string().contains("config.json"), "{error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn default_places() {
        let files = |set: &[(&str, &str)]| -> Vec<String> {
            Credentials::default_files(|name| {
                set.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| value.into())
            })
            .iter()
            .map(|path| path.display().to_string())
            .collect()
        };
        assert_eq!(files(&[("HOME", "/h")]), ["/h/.docker/config.json"]);
        assert_eq!(
            files(&[
                ("HOME", "/h"),
                ("DOCKER_CONFIG", "/d"),
                ("XDG_RUNTIME_DIR", "/r")
            ]),
            ["/d/config.json", "/r/containers/auth.json"]
        );
        assert_eq!(
            files(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/a.json")]),
            ["/a.json"]
        );
        assert!(files(&[]).is_empty());
    }
}
