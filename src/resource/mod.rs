//! Small documents that configuration names: policies, keys, logins.
//!
//! A place is written as a path, as `file:///PATH`, or as the URI of a key broker's resource,
//! `kbs:///repository/type/tag` (`kbs+PLUGIN://...` for a broker's plugins). Resources come from an
//! offline-fs-kbc file that has them, else from Confidential Containers' data hub (CDH), which proves to
//! the broker what machine this is. They are kept in memory for a bounded time and zeroized; nothing of
//! them is written to disk ([docs/keys.md](../../docs/keys.md)).

mod file;
mod hub;
mod kept;
mod offline;
pub(crate) mod ttrpc;
mod uri;

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use zeroize::Zeroizing;

pub use self::kept::Kept;
use self::uri::Place;
pub(crate) use self::{offline::Offline, ttrpc::told};
use crate::error::{Error, Kind, Result};

/// Where resources come from, and how long they may take and are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceConfig {
    /// Socket of Confidential Containers' data hub.
    pub hub: Option<PathBuf>,
    /// Files of offline-fs-kbc: resource by path, base64. They are asked before the hub, and read
    /// again whenever a resource is wanted.
    pub offline: Vec<PathBuf>,
    /// How long the hub may take for one resource.
    pub deadline: Duration,
    /// How long a resource of the hub is kept in memory; not at all if zero.
    pub keep: Duration,
}

/// Reads documents by path or URI. Cheap to clone; clones keep the same resources.
#[derive(Clone, Debug)]
pub struct Resources(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ResourceConfig,
    kept: Kept,
}

/// Where the data hub listens in a guest.
pub const HUB_SOCKET: &str = "/run/confidential-containers/cdh.sock";

/// Long enough for a broker that attests the machine first; what the hub itself allows is 50 s.
const DEADLINE: Duration = Duration::from_secs(30);

// === impl ResourceConfig ===

impl Default for ResourceConfig {
    /// Files only: no hub is asked.
    fn default() -> Self {
        Self {
            hub: None,
            offline: Vec::new(),
            deadline: DEADLINE,
            keep: Duration::ZERO,
        }
    }
}

// === impl Resources ===

impl Resources {
    /// Reads no file and asks nobody yet.
    #[must_use]
    pub fn new(config: ResourceConfig) -> Self {
        let kept = Kept::new(config.keep);
        Self(Arc::new(Inner { config, kept }))
    }

    /// The document at `place`, at most `limit` bytes. Waits for the hub: for threads that may.
    ///
    /// # Errors
    /// `NotFound` or `Io` for a file, `Invalid` if it is larger or `place` malformed; for a resource
    /// `Unavailable` if the hub is away or does not answer in time, `Denied` or `NotFound` as it says.
    pub fn read(&self, place: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>> {
        match Place::of(place)? {
            Place::File(path) => file::read(&path, limit),
            Place::Resource(uri) => {
                let bytes = self.resource(&uri).map_err(|e| e.context(uri.as_str()))?;
                if bytes.len() > limit {
                    return Err(Error::invalid(format!("{uri}: over {limit} bytes")));
                }
                Ok(bytes)
            }
        }
    }

    /// As [`read`](Self::read), for tasks that others wait for.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn fetch(&self, place: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>> {
        let (resources, place) = (self.clone(), place.to_owned());
        off_thread(move || resources.read(&place, limit)).await
    }

    fn resource(&self, uri: &uri::Uri) -> Result<Zeroizing<Vec<u8>>> {
        let config = &self.0.config;
        for path in &config.offline {
            let held = Offline::read(path)?.take(uri);
            if let Some(held) = held {
                return Ok(held);
            }
        }
        let Some(hub) = &config.hub else {
            return Err(match &config.offline[..] {
                [] => Error::unsupported("no key broker can be asked").with_hint(
                    "give the data hub's socket (--cdh-socket, or resources.cdh_socket)",
                ),
                files => Error::not_found(format!("not in {}", joined(files))),
            });
        };
        let key = Kept::key(&[hub.as_os_str().as_encoded_bytes(), uri.as_str().as_bytes()]);
        if let Some(kept) = self.0.kept.find(&key) {
            return Ok(kept);
        }
        let answer = hub::ask(hub, uri, config.deadline).map_err(|e| match &config.offline[..] {
            [] => e,
            files => e.context(format!("not in {}", joined(files))),
        });
        if let Err(error) = &answer
            && error.kind() == Kind::Unavailable
        {
            tracing::warn!(event = "resource_unavailable", resource = %uri, %error, "no resource");
        }
        let answer = answer?;
        tracing::debug!(event = "resource_fetched", resource = %uri, "resource fetched");
        self.0.kept.keep(key, &answer);
        Ok(answer)
    }
}

impl Default for Resources {
    /// Files only.
    fn default() -> Self {
        Self::new(ResourceConfig::default())
    }
}

/// Does what may wait where nobody else waits.
///
/// # Errors
/// As `work`.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("reading a document ended early").with_source(e))?
}

/// The path of a document that is a file; none of a resource.
///
/// # Errors
/// `Invalid` if `place` is malformed.
pub(crate) fn local(place: &Path) -> Result<Option<PathBuf>> {
    Ok(match Place::of(place)? {
        Place::File(path) => Some(path),
        Place::Resource(_) => None,
    })
}

fn joined(files: &[PathBuf]) -> String {
    let names: Vec<_> = files.iter().map(|it| it.display().to_string()).collect();
    names.join(", ")
}
