//! Where one host of a registry is and how it is connected to.

use std::{net::IpAddr, time::Duration};

use reqwest::header::HeaderMap;
use url::Url;

use super::{
    Options,
    hosts::{Host, Scheme},
};
use crate::error::{Error, Result};

/// One host: the registry itself, or a mirror of it.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// `host[:port]` for messages and logins.
    pub(super) name: String,
    /// `host[:port]` that is connected to.
    pub(super) authority: String,
    /// `None` until found out.
    pub(super) scheme: Option<Scheme>,
    /// What comes before a repository's path; `/v2` unless overridden.
    pub(super) prefix: String,
    /// The registry that this host stands for, which mirrors of several are told.
    pub(super) namespace: Option<String>,
    /// Sent with every request to it, and nowhere else.
    pub(super) headers: HeaderMap,
    pub(super) certificates: Vec<reqwest::Certificate>,
    identity: Option<reqwest::Identity>,
    skip_verify: bool,
    connect_timeout: Duration,
    pub(super) loopback: bool,
}

/// Docker Hub's name, and the host that serves it.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

// === impl Endpoint ===

impl Endpoint {
    /// The registry that references name `host`.
    pub(super) fn registry(
        host: &str,
        options: &Options,
        certificates: &[reqwest::Certificate],
    ) -> Result<Self> {
        let authority = if host == DOCKER_HUB.0 {
            DOCKER_HUB.1
        } else {
            host
        };
        let parsed = Url::parse(&format!("https://{authority}/"))
            .map_err(|e| Error::invalid(format!("registry {host}")).with_source(e))?;
        let loopback = is_loopback(&parsed);
        let bare = parsed.host_str().unwrap_or_default();
        let plain = options.plain_http.iter().any(|p| p == host || p == bare);
        let scheme = match (plain, loopback) {
            (true, _) => Some(Scheme::Http),
            (false, true) => None,
            (false, false) => Some(Scheme::Https),
        };
        Ok(Self {
            name: host.to_owned(),
            authority: authority.to_owned(),
            scheme,
            prefix: "/v2".to_owned(),
            namespace: None,
            headers: HeaderMap::new(),
            certificates: certificates.to_vec(),
            identity: None,
            skip_verify: false,
            connect_timeout: options.connect_timeout,
            loopback,
        })
    }

    /// A host that `hosts.toml` names for the registry `registry`.
    ///
    /// # Errors
    /// `Invalid` if its certificates are malformed, `Denied` if it is not to be verified and that
    /// was not allowed.
    pub(super) fn host(
        host: &Host,
        registry: &str,
        options: &Options,
        certificates: &[reqwest::Certificate],
    ) -> Result<Self> {
        let mut endpoint = Self::registry(registry, options, certificates)?;
        if let Some(server) = &host.server {
            let parsed = Url::parse(&format!("https://{}/", server.authority))
                .map_err(|e| Error::invalid("its name").with_source(e))?;
            endpoint.name = if server.authority == DOCKER_HUB.1 {
                DOCKER_HUB.0.to_owned()
            } else {
                server.authority.clone()
            };
            endpoint.namespace = (endpoint.name != registry).then(|| registry.to_owned());
            endpoint.authority.clone_from(&server.authority);
            endpoint.scheme = Some(server.scheme);
            endpoint.prefix.clone_from(&server.path);
            endpoint.loopback = is_loopback(&parsed);
        }
        endpoint.headers = host.headers.clone();
        for (pem, file) in host.ca_pem.iter().zip(&host.ca) {
            endpoint.certificates.extend(authorities(pem, file)?);
        }
        if let Some(pem) = &host.client_pem {
            let identity = reqwest::Identity::from_pem(pem)
                .map_err(|e| Error::invalid("client certificate").with_source(e.without_url()))?;
            endpoint.identity = Some(identity);
        }
        if host.skip_verify {
            if !options.insecure_skip_verify {
                return Err(Error::denied("skip_verify: the host is not to be verified")
                    .with_hint("name its CA with `ca`, or allow it with --insecure-skip-verify"));
            }
            tracing::warn!(
                host = endpoint.name,
                registry,
                "TLS certificate not verified (insecure_skip_verify)"
            );
            endpoint.skip_verify = true;
        }
        if let Some(timeout) = host.dial_timeout {
            endpoint.connect_timeout = timeout;
        }
        Ok(endpoint)
    }

    /// Whether secrets may go to its token server without TLS.
    pub(super) fn insecure_realm(&self) -> bool {
        self.scheme == Some(Scheme::Http) || self.loopback
    }

    /// The repository as the host's token server calls it: with what an overridden path puts before
    /// it.
    pub(super) fn scope(&self, path: &str) -> String {
        match self.prefix.split_once("/v2/") {
            Some((_, before)) => format!("{before}/{path}"),
            None => path.to_owned(),
        }
    }

    /// The connection pool. Redirects are followed by us, and loopback never goes through a proxy.
    pub(super) fn connections(&self) -> Result<reqwest::Client> {
        let builder = || {
            let mut builder = reqwest::Client::builder()
                .user_agent(concat!("nacre/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .connect_timeout(self.connect_timeout)
                .tls_danger_accept_invalid_certs(self.skip_verify)
                .tcp_nodelay(true);
            if let Some(identity) = &self.identity {
                builder = builder.identity(identity.clone());
            }
            if self.loopback {
                builder.no_proxy()
            } else {
                builder
            }
        };
        let certificates = || self.certificates.iter().cloned();
        builder()
            .tls_certs_merge(certificates())
            .build()
            // A machine may have no certificates of its own: then only the given ones are trusted.
            .or_else(|_| builder().tls_certs_only(certificates()).build())
            .map_err(|e| Error::internal("http client").with_source(e.without_url()))
    }
}

/// The certificates of a PEM file.
pub(super) fn authorities(pem: &[u8], file: &std::path::Path) -> Result<Vec<reqwest::Certificate>> {
    let name = file.display();
    let found = reqwest::Certificate::from_pem_bundle(pem)
        .map_err(|e| Error::invalid(format!("CA file {name}")).with_source(e))?;
    if found.is_empty() {
        return Err(Error::invalid(format!("CA file {name}: no certificate")));
    }
    Ok(found)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(url::Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}
