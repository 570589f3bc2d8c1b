//! systemd's descriptor store as a keeper: it holds what a service gives it and passes it to the
//! service's next process, beside the sockets.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use nix::poll::PollFlags;

use super::{Keeper, Kept, check_name};
use crate::{
    error::{Error, Kind, Result},
    sys::{descriptors, systemd},
};

/// The store of this service.
#[derive(Debug)]
pub(super) struct Store {
    socket: OsString,
}

/// Name of the descriptor that finds out whether there is a store.
const PROBE: &str = "nacre.probe";
/// How long the manager may take; it does one thing after the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the manager passed, but for the probe of a process that died on it.
pub(super) fn kept(stored: Vec<(String, OwnedFd)>) -> Vec<Kept> {
    let kept = stored.into_iter().filter(|(name, _)| name != PROBE);
    kept.map(|(name, descriptor)| Kept { name, descriptor })
        .collect()
}

// === impl Store ===

impl Store {
    pub(super) fn new(socket: OsString) -> Self {
        Self { socket }
    }

    /// Whether it keeps anything. A manager does not say whether the unit allows it, so this gives it
    /// one end of a pipe and looks whether that stays open.
    pub(super) fn probe(&self) -> bool {
        self.try_out().unwrap_or_else(|error| {
            tracing::warn!(%error, "descriptor store of the service manager");
            false
        })
    }

    fn try_out(&self) -> Result<bool> {
        let (ours, theirs) = io::pipe().map_err(|e| Error::io("pipe", e))?;
        systemd::store(&self.socket, PROBE, theirs.as_fd())?;
        drop(theirs);
        if !systemd::barrier(&self.socket, PATIENCE)? {
            tracing::debug!("the service manager does not answer");
            return Ok(false);
        }
        let closed = descriptors::wait_for(&ours, PollFlags::empty(), Some(Duration::ZERO));
        let closed = closed.map_err(|e| Error::io("pipe", e))?;
        if !closed {
            systemd::forget(&self.socket, PROBE)?;
        }
        Ok(!closed)
    }
}

impl Keeper for Store {
    fn put(&self, name: &str, descriptor: BorrowedFd<'_>) -> Result<()> {
        check_name(name)?;
        systemd::store(&self.socket, name, descriptor)?;
        // The manager takes nothing from a process that has died meanwhile.
        match systemd::barrier(&self.socket, PATIENCE)? {
            true => Ok(()),
            false => Err(Error::new(Kind::Io, "systemd does not answer")),
        }
    }

    fn remove(&self, name: &str) -> Result<()> {
        systemd::forget(&self.socket, name)
    }
}
