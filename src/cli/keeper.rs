//! `nacre keeper`: what the daemon starts to keep its mounts alive. Not for users.

use std::path::PathBuf;

use clap::Args;

use crate::{error::Result, keeper, sys::descriptors};

/// Options of `nacre keeper`.
#[derive(Debug, Args)]
pub(super) struct Keeper {
    /// Directory of the daemon.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn run(&self) -> Result<()> {
        // Whoever started the daemon may wait for the end of a descriptor that it left open. Before
        // Linux 5.9, that stays so.
        let _ = descriptors::close_inherited(3);
        keeper::run(&self.root)
    }
}
