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

use crate::{
    error::{Error, Result},
    oci::RegistryReference,
    source::{Repository, RepositoryWriter},
};

mod answer;
mod auth;
mod blob;
mod body;
pub(crate) mod challenge;
mod credentials;
pub(crate) mod header;
mod helper;
mod repository;
mod retry;
mod secret;
mod transport;
mod upload;
mod writer;

pub use self::{
    credentials::Credentials,
    retry::{Environment, RetryPolicy, System},
};

/// How registries are reached.
#[derive(Clone, Debug)]
pub struct Options {
    /// PEM files with certificate authorities that are trusted besides the system's.
    pub ca_files: Vec<PathBuf>,
    /// `host` or `host:port` of registries that are spoken to without TLS. Registries on loopback
    /// need not be named: they are, unless they turn out to speak TLS.
    pub plain_http: Vec<String>,
    /// Logins; none unless told.
    pub credentials: Credentials,
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
    registries: Mutex<HashMap<String, Arc<transport::Registry>>>,
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
            credentials: Credentials::anonymous(),
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
            let name = file.display();
            let pem = std::fs::read(file).map_err(|e| Error::io(format!("CA file {name}"), e))?;
            let found = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|e| Error::invalid(format!("CA file {name}")).with_source(e))?;
            if found.is_empty() {
                return Err(Error::invalid(format!("CA file {name}: no certificate")));
            }
            certificates.extend(found);
        }
        Ok(Arc::new(Self {
            options,
            certificates,
            registries: Mutex::default(),
        }))
    }

    /// Reads from the repository of `reference`.
    ///
    /// # Errors
    /// `Invalid` if the host is malformed, `Internal` if TLS cannot be set up.
    pub fn repository(&self, reference: &RegistryReference) -> Result<Arc<dyn Repository>> {
        let registry = self.registry(reference.host())?;
        Ok(Arc::new(repository::RegistryRepository::new(
            registry,
            reference.path(),
        )))
    }

    /// Writes to the repository of `reference`.
    ///
    /// # Errors
    /// As [`repository`](Self::repository).
    pub fn writer(&self, reference: &RegistryReference) -> Result<Arc<dyn RepositoryWriter>> {
        let registry = self.registry(reference.host())?;
        Ok(Arc::new(writer::RegistryWriter::new(
            registry,
            reference.path(),
        )))
    }

    fn registry(&self, host: &str) -> Result<Arc<transport::Registry>> {
        let mut registries = self
            .registries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(registry) = registries.get(host) {
            return Ok(Arc::clone(registry));
        }
        let registry = transport::Registry::new(host, &self.options, &self.certificates)?;
        registries.insert(host.to_owned(), Arc::clone(&registry));
        Ok(registry)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
