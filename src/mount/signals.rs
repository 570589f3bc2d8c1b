//! Signals that ask a mounting process to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Error, Result};

/// SIGTERM and SIGINT, caught from when this is made: make it before the mount, so that no signal
/// can end the process between the two and leave a dead mount.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl StopSignals ===

impl StopSignals {
    /// Catches the signals; inside a tokio runtime.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) if the system refuses.
    pub fn catch() -> Result<StopSignals> {
        let caught = |kind| signal(kind).map_err(|error| Error::io("signal handler", error));
        Ok(StopSignals {
            terminate: caught(SignalKind::terminate())?,
            interrupt: caught(SignalKind::interrupt())?,
        })
    }

    /// Waits for one and says which.
    pub async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
