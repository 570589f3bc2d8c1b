//! `hosts.toml`: the hosts that stand for a registry, as containerd keeps them in `certs.d`; and the
//! bare certificates that docker keeps there.
//!
//! docs/registries.md says which keys are understood. The file is read when a repository is opened,
//! so that a change counts for the next image.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::header::HeaderMap;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

mod parse;
#[cfg(test)]
mod tests;

/// What `hosts.toml` says about one registry, with the contents of the files it names.
#[derive(PartialEq, Eq)]
pub(super) struct Hosts {
    /// For messages.
    pub(super) file: PathBuf,
    /// In the order they are asked.
    pub(super) hosts: Vec<Host>,
}

/// One host that stands for a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Host {
    /// Where it is; `None` for the registry itself.
    pub(super) server: Option<Server>,
    pub(super) capabilities: Capabilities,
    /// Certificate authorities trusted besides the system's.
    pub(super) ca: Vec<PathBuf>,
    pub(super) client: Option<ClientCertificate>,
    pub(super) skip_verify: bool,
    /// Sent with every request to it.
    pub(super) headers: HeaderMap,
    /// The path of its URL is all there is before the repository.
    override_path: bool,
    pub(super) dial_timeout: Option<Duration>,
    /// The contents of `ca`.
    pub(super) ca_pem: Vec<Vec<u8>>,
    /// The contents of `client`.
    pub(super) client_pem: Option<Zeroizing<Vec<u8>>>,
}

/// A host's URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) scheme: Scheme,
    /// `host[:port]`.
    pub(super) authority: String,
    /// What comes before the repository's path; `/v2` unless overridden.
    pub(super) path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// What a host is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// Manifests by digest, and blobs.
    pub(super) pull: bool,
    /// Manifests by tag, and lists of referrers.
    pub(super) resolve: bool,
    /// Lists of referrers.
    pub(super) referrers: bool,
    /// Uploads.
    pub(super) push: bool,
}

/// PEM files; without `key` both are in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientCertificate {
    certificate: PathBuf,
    key: Option<PathBuf>,
}

/// Largest `hosts.toml` or certificate file that is read; a file of all public authorities has
/// about 250 KiB.
const MAX_FILE: u64 = 1 << 20;

/// The hosts for `registry` (`host[:port]`) in containerd's `certs.d` layout; `None` if nothing is
/// said about it.
///
/// # Errors
/// `Invalid` if the file is malformed, `Io` if it or what it names cannot be read.
pub(super) fn load(certs_dir: &Path, registry: &str) -> Result<Option<Hosts>> {
    let Some(directory) = directories(certs_dir, registry)
        .into_iter()
        .find(|directory| directory.is_dir())
    else {
        return Ok(None);
    };
    let file = directory.join("hosts.toml");
    if !file.exists() {
        return docker_certificates(directory);
    }
    let within = |error: Error| error.context(format!("hosts file {}", file.display()));
    let text = read(&file)?;
    let text = std::str::from_utf8(&text).map_err(|_| within(Error::invalid("not UTF-8")))?;
    let mut hosts = parse::parse(text, &directory).map_err(within)?;
    for host in &mut hosts {
        host.read_files().map_err(within)?;
    }
    Ok(Some(Hosts { file, hosts }))
}

/// Docker's older form, without a `hosts.toml`: `*.crt` are authorities, a `*.cert` with its `*.key`
/// is a client certificate, for the registry itself. `None` if there is neither.
fn docker_certificates(directory: PathBuf) -> Result<Option<Hosts>> {
    let within = |error: Error| error.context(format!("certificates in {}", directory.display()));
    let io = |e| within(Error::io("listing", e));
    let mut host = Host::default();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(io)? {
        files.push(entry.map_err(io)?.path());
    }
    files.sort();
    for file in files {
        match file.extension().and_then(std::ffi::OsStr::to_str) {
            Some("crt") => host.ca.push(file),
            Some("cert") if host.client.is_some() => {
                return Err(within(Error::invalid(
                    "at most one client certificate is used",
                )));
            }
            Some("cert") => {
                host.client = Some(ClientCertificate {
                    key: Some(file.with_extension("key")),
                    certificate: file,
                });
            }
            _ => {}
        }
    }
    if host.ca.is_empty() && host.client.is_none() {
        return Ok(None);
    }
    host.read_files().map_err(within)?;
    Ok(Some(Hosts {
        file: directory,
        hosts: vec![host],
    }))
}

/// Where containerd looks, in its order: the port between underscores, as it is, `_default`.
fn directories(certs_dir: &Path, registry: &str) -> Vec<PathBuf> {
    let mut names = Vec::new();
    // The colon of an IPv6 address without a port is not one before a port.
    if let Some((host, port)) = registry.rsplit_once(':')
        && !port.ends_with(']')
    {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_owned());
    names.push("_default".to_owned());
    names.iter().map(|name| certs_dir.join(name)).collect()
}

// === impl Host ===

impl Host {
    /// As messages name it.
    pub(super) fn name<'a>(&'a self, registry: &'a str) -> &'a str {
        self.server
            .as_ref()
            .map_or(registry, |server| &server.authority)
    }

    fn read_files(&mut self) -> Result<()> {
        for file in &self.ca {
            self.ca_pem.push(read(file)?.to_vec());
        }
        if let Some(client) = &self.client {
            let mut pem = read(&client.certificate)?;
            if let Some(key) = &client.key {
                let key = read(key)?;
                let mut both = Zeroizing::new(Vec::with_capacity(pem.len() + key.len() + 1));
                both.extend_from_slice(&pem);
                both.push(b'\n');
                both.extend_from_slice(&key);
                pem = both;
            }
            self.client_pem = Some(pem);
        }
        Ok(())
    }
}

// === impl Capabilities ===

impl Capabilities {
    pub(super) const NONE: Self = Self {
        pull: false,
        resolve: false,
        referrers: false,
        push: false,
    };
    pub(super) const ALL: Self = Self {
        pull: true,
        resolve: true,
        referrers: true,
        push: true,
    };

    /// Whether a list of referrers from this host counts: it can change like a tag.
    pub(super) fn lists_referrers(self) -> bool {
        self.resolve || self.referrers
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        Self::ALL
    }
}

/// A whole small file, which may be a private key.
fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let io = |e| Error::io(format!("file {}", file.display()), e);
    let size = std::fs::metadata(file).map_err(io)?.len();
    if size > MAX_FILE {
        return Err(Error::invalid(format!(
            "file {}: {size} bytes, at most {MAX_FILE} are read",
            file.display()
        )));
    }
    std::fs::read(file).map(Zeroizing::new).map_err(io)
}
