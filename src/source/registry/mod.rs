//! Registries that speak the OCI distribution specification v1.1.
//!
//! One [`Client`] serves all registries and repositories; each registry has one connection pool and
//! one set of tokens. Requests are retried within a deadline, authorizations renewed at use,
//! redirects followed here so that their targets are kept for the next range
//! (docs/decisions/0002-registry-client.md).

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use url::Url;

use crate::{
    error::{Error, Result},
    oci::RegistryReference,
    resource::Resources,
    source::{Repository, RepositoryWriter},
};

mod answer;
mod auth;
mod blob;
mod body;
pub(crate) mod challenge;
mod credentials;
mod duration;
mod endpoint;
mod extension;
mod files;
mod handed;
pub(crate) mod header;
mod helper;
mod hosts;
mod lookaside;
mod meter;
mod mirrored;
pub(crate) mod multipart;
mod peers;
mod pieces;
mod provider;
mod repository;
mod retry;
mod secret;
mod transport;
mod upload;
mod wanted;
mod writer;

pub use self::{
    credentials::Credentials,
    files::Files,
    handed::{HandedLogin, HandedLogins, Pull},
    lookaside::LookasidePlaces,
    meter::HostCounts,
    peers::{HostState, RegistryState},
    retry::{Environment, RetryPolicy, System},
};
use self::{
    endpoint::Endpoint,
    hosts::{Capabilities, Hosts},
    lookaside::{Lookaside, WithLookaside},
    meter::HostMeters,
    mirrored::MirroredRepository,
    peers::{Peer, Peers},
    repository::RegistryRepository,
};

/// How registries are reached.
#[derive(Clone, Debug)]
pub struct Options {
    /// PEM files with certificate authorities that are trusted besides the system's.
    pub ca_files: Vec<PathBuf>,
    /// `host` or `host:port` of registries that are spoken to without TLS. Registries on loopback
    /// need not be named: they are, unless they turn out to speak TLS.
    pub plain_http: Vec<String>,
    /// Directory with a `hosts.toml` for each registry, as containerd's `certs.d`: mirrors and how
    /// they are reached. None unless told.
    pub certs_dir: Option<PathBuf>,
    /// Honour `skip_verify` in `hosts.toml`; otherwise such a host is an error.
    pub insecure_skip_verify: bool,
    /// Where GPG signatures lie (`registries.d`); nowhere unless told.
    pub lookaside: Option<LookasidePlaces>,
    /// Logins; none unless told.
    pub credentials: Credentials,
    /// Reads what `lookaside` names.
    pub resources: Resources,
    /// Longest wait for a connection; 10 s unless told.
    pub connect_timeout: Duration,
    /// Longest wait for the next byte of an answer; 15 s unless told.
    pub stall_timeout: Duration,
    /// Longest one operation may take, its retries included; 60 s unless told. For a whole blob, in
    /// either direction, it bounds the time without progress.
    pub deadline: Duration,
    /// When failed requests are tried again.
    pub retry: RetryPolicy,
    /// A registry that ignores `Range` is tolerated if the range begins within this many bytes,
    /// which are thrown away; 1 MiB unless told.
    pub max_skip: u64,
    /// Clock and randomness.
    pub environment: Arc<dyn Environment>,
}

/// A client of all registries.
pub struct Client {
    options: Options,
    certificates: Vec<reqwest::Certificate>,
    lookaside: Option<Arc<Lookaside>>,
    registries: Mutex<HashMap<String, Known>>,
    meters: HostMeters,
}

/// A registry's hosts, and what `hosts.toml` said when they were made.
struct Known {
    said: Option<Hosts>,
    peers: Arc<Peers>,
}

/// What to do about a refusal.
const CREDENTIALS_HINT: &str =
    "log in with `docker login` or `skopeo login`, or check that this account may use the image";

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            ca_files: Vec::new(),
            plain_http: Vec::new(),
            certs_dir: None,
            insecure_skip_verify: false,
            lookaside: None,
            credentials: Credentials::anonymous(),
            resources: Resources::default(),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(15),
            deadline: Duration::from_secs(60),
            retry: RetryPolicy::default(),
            max_skip: 1 << 20,
            environment: Arc::new(System),
        }
    }
}

// === impl Client ===

impl Client {
    /// A client; reads the certificate files, does not connect.
    ///
    /// # Errors
    /// `Invalid` if a certificate file is malformed, `Io` if it cannot be read.
    pub fn new(options: Options) -> Result<Arc<Self>> {
        let mut certificates = Vec::new();
        for file in &options.ca_files {
            let pem = std::fs::read(file)
                .map_err(|e| Error::io(format!("CA file {}", file.display()), e))?;
            certificates.extend(endpoint::authorities(&pem, file)?);
        }
        let lookaside = options.lookaside.clone().map(|places| {
            let (options, certificates) = (options.clone(), certificates.clone());
            Arc::new(Lookaside::new(places, options, certificates))
        });
        Ok(Arc::new(Self {
            options,
            certificates,
            lookaside,
            registries: Mutex::default(),
            meters: HostMeters::default(),
        }))
    }

    /// Reads from the repository of `reference`.
    ///
    /// # Errors
    /// `Invalid` if the host or its `hosts.toml` is malformed, `Denied` if that asks for something
    /// insecure that was not allowed, `Io` if a file cannot be read, `Internal` if TLS cannot be set
    /// up.
    pub fn repository(&self, reference: &RegistryReference) -> Result<Arc<dyn Repository>> {
        let peers = self.peers(reference.host())?;
        let (path, handed) = (reference.path(), self.options.credentials.handed(reference));
        let repository: Arc<dyn Repository> = match peers.only() {
            Some(registry) => {
                let repository = RegistryRepository::new(Arc::clone(registry), path);
                Arc::new(repository.with_handed(handed))
            }
            None => Arc::new(MirroredRepository::new(peers, path, handed.as_ref())),
        };
        Ok(match &self.lookaside {
            Some(lookaside) => {
                let lookaside = Arc::clone(lookaside);
                Arc::new(WithLookaside::new(repository, reference.clone(), lookaside))
            }
            None => repository,
        })
    }

    /// Writes to the repository of `reference`: to the first host of its registry that takes
    /// uploads.
    ///
    /// # Errors
    /// As [`repository`](Self::repository).
    pub fn writer(&self, reference: &RegistryReference) -> Result<Arc<dyn RepositoryWriter>> {
        let peers = self.peers(reference.host())?;
        let registry = Arc::clone(peers.for_push()?);
        Ok(Arc::new(writer::RegistryWriter::new(
            registry,
            reference.path(),
        )))
    }

    /// Reads files below `base` from a web server that is no registry (or a directory); `what` is what
    /// messages call it. Without TLS only hosts that a registry may be reached at without.
    ///
    /// # Errors
    /// `Invalid` if `base` is not a `file`, `http` or `https` URL, `Denied` if it is plain HTTP and
    /// that was not allowed, `Internal` if TLS cannot be set up.
    pub fn files(&self, base: &Url, what: &'static str) -> Result<Files<'_>> {
        let invalid =
            || Error::invalid(format!("{what} {base}: want https://, http:// or file:///"));
        match base.scheme() {
            "file" => {}
            "https" if base.host().is_some() => {}
            "http" => {
                let host = base.host_str().ok_or_else(invalid)?;
                let authority = match base.port() {
                    Some(port) => format!("{host}:{port}"),
                    None => host.to_owned(),
                };
                let endpoint = Endpoint::registry(&authority, &self.options, &self.certificates)?;
                if endpoint.scheme == Some(hosts::Scheme::Https) {
                    return Err(
                        Error::denied(format!("{what} {base}: plain HTTP")).with_hint(format!(
                            "use https, or allow it by --insecure-plain-http {host}"
                        )),
                    );
                }
            }
            _ => return Err(invalid()),
        }
        Files::below(base, what, &self.options, &self.certificates)
    }

    /// What passed between this node and each host so far.
    #[must_use]
    pub fn counts(&self) -> Vec<HostCounts> {
        self.meters.counts()
    }

    /// The registries that were reached for so far, with the hosts that stand for them, by name.
    #[must_use]
    pub fn states(&self) -> Vec<RegistryState> {
        let registries = self
            .registries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut states: Vec<_> = registries.values().map(|it| it.peers.state()).collect();
        states.sort_by(|a, b| a.registry.cmp(&b.registry));
        states
    }

    /// The hosts of a registry. `hosts.toml` is read each time; as long as it and the files it
    /// names say the same, connections and tokens are kept.
    fn peers(&self, registry: &str) -> Result<Arc<Peers>> {
        let said = match &self.options.certs_dir {
            Some(directory) => hosts::load(directory, registry)?,
            None => None,
        };
        let mut registries = self
            .registries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = registries.get(registry)
            && known.said == said
        {
            return Ok(Arc::clone(&known.peers));
        }
        let peers = self.make_peers(registry, said.as_ref())?;
        let known = Known {
            said,
            peers: Arc::clone(&peers),
        };
        registries.insert(registry.to_owned(), known);
        Ok(peers)
    }

    fn make_peers(&self, registry: &str, said: Option<&Hosts>) -> Result<Arc<Peers>> {
        let (options, certificates) = (&self.options, &self.certificates);
        let Some(Hosts { file, hosts }) = said else {
            let endpoint = Endpoint::registry(registry, options, certificates)?;
            let peer = Peer {
                registry: self.connect(endpoint)?,
                capabilities: Capabilities::ALL,
            };
            return Ok(Peers::new(registry, PathBuf::new(), vec![peer]));
        };
        let mut peers = Vec::new();
        for host in hosts {
            let within = |error: Error| {
                let (file, name) = (file.display(), host.name(registry));
                error.context(format!("hosts file {file}: host {name}"))
            };
            let endpoint = Endpoint::host(host, registry, options, certificates).map_err(within)?;
            peers.push(Peer {
                registry: self.connect(endpoint).map_err(within)?,
                capabilities: host.capabilities,
            });
        }
        Ok(Peers::new(registry, file.clone(), peers))
    }

    fn connect(&self, endpoint: Endpoint) -> Result<Arc<transport::Registry>> {
        let meter = self.meters.of(&endpoint.name);
        transport::Registry::new(endpoint, &self.options, meter)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
