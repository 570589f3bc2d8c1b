//! Who keeps the descriptors of mounts while no daemon serves them.
//!
//! A FUSE mount lives as long as somebody holds its descriptor. So each is given, with a name that
//! says what it is, to a [`Keeper`]: the service manager's descriptor store, or a small process of
//! our own that does nothing else. The next daemon gets them back from [`open`]. See
//! `docs/decisions/0007-mounts-outlive-the-daemon.md`.

mod lock;
mod process;
mod protocol;
mod server;
mod store;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    fmt::Debug,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use self::store::Store;
pub use self::{lock::Lock, process::KeeperProcess, server::run};
use crate::error::{Error, Result};

/// Keeps descriptors for the next daemon. Its functions may block for a while.
pub trait Keeper: Send + Sync + Debug {
    /// Keeps a duplicate of `descriptor`, in place of one that has this name ([`check_name`]).
    ///
    /// # Errors
    /// If it is not kept.
    fn put(&self, name: &str, descriptor: BorrowedFd<'_>) -> Result<()>;

    /// Closes what is kept under `name`, if anything is.
    ///
    /// # Errors
    /// If it is not known whether it is still kept.
    fn remove(&self, name: &str) -> Result<()>;
}

/// What an earlier daemon left with a keeper.
#[derive(Debug)]
pub struct Kept {
    /// What the daemon called it.
    pub name: String,
    /// A duplicate; the keeper has its own.
    pub descriptor: OwnedFd,
}

/// Who keeps descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandOver {
    /// The service manager if it can, else a process of our own.
    Auto,
    /// The service manager.
    Systemd,
    /// A process of our own.
    Keeper,
    /// Nobody: mounts end with the daemon.
    Off,
}

/// Where descriptors may be.
#[derive(Debug)]
pub struct Places {
    /// Directory in which our own process listens.
    pub root: PathBuf,
    /// The program that becomes that process when called with `keeper`.
    pub program: PathBuf,
    /// The service manager's socket.
    pub notify_socket: Option<OsString>,
    /// What the service manager passed.
    pub stored: Vec<(String, OwnedFd)>,
}

/// A keeper, and what was kept until now.
#[derive(Debug)]
pub struct Opened {
    /// `None` if nobody is to keep anything.
    pub keeper: Option<Arc<dyn Keeper>>,
    /// What an earlier daemon left, wherever it was.
    pub kept: Vec<Kept>,
}

/// Every name that is ours begins with this.
pub const PREFIX: &str = "nacre.";

/// Chooses a keeper and collects what is kept anywhere, which then is with that keeper alone. The
/// process of our own is not started before there is something to keep.
///
/// # Errors
/// [`Kind::Unsupported`](crate::Kind::Unsupported) if the service manager is to keep descriptors and
/// does not.
pub fn open(choice: HandOver, places: Places) -> Result<Opened> {
    let socket = places.notify_socket.filter(|it| !it.is_empty());
    let store = socket.map(Store::new);
    let process = KeeperProcess::reach(&places.root, &places.program);
    let in_process = process.list().unwrap_or_else(|error| {
        tracing::error!(event = "keeper_failed", %error, "what it keeps is out of reach");
        Vec::new()
    });
    let stored = store::kept(places.stored);
    let (store, process) = (store.map(Arc::new), Arc::new(process));
    let usable = match (&store, choice) {
        (Some(store), HandOver::Auto | HandOver::Systemd) => store.probe(),
        _ => false,
    };
    let (by_store, by_process) = match choice {
        HandOver::Systemd if !usable => {
            return Err(Error::unsupported(
                "hand_over = \"systemd\": systemd does not store descriptors",
            )
            .with_hint("run as a service with FileDescriptorStoreMax=, see nacre.service"));
        }
        HandOver::Systemd | HandOver::Auto if usable => (true, false),
        HandOver::Off => (false, false),
        _ => {
            if store.is_some() {
                tracing::warn!(
                    event = "store_refused",
                    "descriptors of mounts are with a process that ends with this service's \
                     control group: set FileDescriptorStoreMax= in the unit, or KillMode=process"
                );
            }
            (false, true)
        }
    };
    let dynamic = |it: &Arc<Store>| Arc::clone(it) as Arc<dyn Keeper>;
    let keeper = match (by_store, by_process) {
        (true, _) => store.as_ref().map(dynamic),
        (_, true) => Some(Arc::clone(&process) as Arc<dyn Keeper>),
        _ => None,
    };
    if !by_store {
        let from = store.as_ref().map(dynamic);
        move_over(&stored, from.as_deref(), keeper.as_deref());
    }
    if !by_process {
        move_over(&in_process, Some(&*process), keeper.as_deref());
    }
    let mut kept = stored;
    for other in in_process {
        if !kept.iter().any(|it| it.name == other.name) {
            kept.push(other);
        }
    }
    Ok(Opened { keeper, kept })
}

/// Checks that every keeper can take the name: printable ASCII without a colon, at most 255 bytes.
///
/// # Errors
/// [`Kind::Invalid`](crate::Kind::Invalid).
pub fn check_name(name: &str) -> Result<()> {
    let fits = |byte: u8| (b' '..0x7f).contains(&byte) && byte != b':';
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(fits) {
        let shown: String = name.chars().take(MAX_NAME).collect();
        return Err(Error::invalid(format!("descriptor name {shown:?}")));
    }
    Ok(())
}

/// Gives what `from` keeps to `to`. What cannot be given stays where it is.
fn move_over(kept: &[Kept], from: Option<&dyn Keeper>, to: Option<&dyn Keeper>) {
    for Kept { name, descriptor } in kept.iter().filter(|it| it.name.starts_with(PREFIX)) {
        let put = to.map_or(Ok(()), |to| to.put(name, descriptor.as_fd()));
        let moved = put.and_then(|()| from.map_or(Ok(()), |from| from.remove(name)));
        if let Err(error) = moved {
            tracing::warn!(name, %error, "descriptor stays where it was");
        }
    }
}

/// The file that says that a daemon serves a root.
#[must_use]
pub fn lock_of(root: &Path) -> PathBuf {
    root.join("lock")
}

/// systemd's limit.
const MAX_NAME: usize = 255;
