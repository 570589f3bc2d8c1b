//! `nacre release`: the end of what `nacre serve` leaves for its successor.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{behind::lock_root, output::Output};
use crate::{
    config::Config,
    error::{Error, Kind, Result},
    keeper::KeeperProcess,
    mount::{self, Left},
    snapshotter::images::devices_of,
};

/// Options of `nacre release`.
#[derive(Debug, Args)]
#[command(
    after_help = "Stop the daemon first. What containers use stays mounted and is listed, \
    with exit code 8; with --force it ends, and they get errors."
)]
pub(super) struct Release {
    /// Configuration file [default: /etc/nacre/nacre.toml if it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the daemon, instead of the configured one.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// End what is in use as well.
    #[arg(long)]
    force: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Released {
    released: Vec<PathBuf>,
    in_use: Vec<InUse>,
}

/// A mount that stays.
#[derive(Debug, Serialize)]
struct InUse {
    directory: PathBuf,
    image: String,
    users: Vec<String>,
}

// === impl Release ===

impl Release {
    pub(super) fn run(self, output: &Output) -> Result<()> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(root) = &self.root {
            config.root =
                std::path::absolute(root).map_err(|e| Error::io(root.display().to_string(), e))?;
        }
        config.check()?;
        let _root = lock_root(&config.root).map_err(|error| match error.kind() {
            Kind::Busy => error.with_hint("stop the daemon that serves it first"),
            _ => error,
        })?;
        let mut found = mount::release(&config.mounts_root(), self.force)?;
        // After what hangs on them.
        let devices = mount::release_devices(&devices_of(&config.root), self.force)?;
        found.extend(devices.filter(|it| it.gone));
        let (gone, left): (Vec<Left>, Vec<Left>) = found.into_iter().partition(|it| it.gone);
        for Left {
            directory, users, ..
        } in gone.iter().filter(|it| !it.users.is_empty())
        {
            let directory = directory.display();
            tracing::warn!(%directory, users = users.join(", "), "ended although in use");
        }
        let keeper = KeeperProcess::reach(&config.root, "".as_ref());
        let kept = keeper.release(self.force)?;
        let released = Released {
            released: gone.into_iter().map(|it| it.directory).collect(),
            in_use: left.into_iter().map(InUse::from).collect(),
        };
        output.result(&released, || released.text())?;
        match kept.max(released.in_use.len()) {
            0 => Ok(()),
            count => Err(Error::new(Kind::Busy, format!("{count} mounts are in use"))
                .with_hint("end the containers, or use --force: they then get errors")),
        }
    }
}

// === impl Released ===

impl Released {
    fn text(&self) -> String {
        let released = self.released.iter();
        let mut lines: Vec<_> = released
            .map(|it| format!("released {}", it.display()))
            .collect();
        lines.extend(self.in_use.iter().map(|it| {
            let (directory, users) = (it.directory.display(), it.users.join(", "));
            format!("in use   {directory} ({}) by {users}", it.image)
        }));
        match lines.is_empty() {
            true => "nothing is mounted".to_owned(),
            false => lines.join("\n"),
        }
    }
}

impl From<Left> for InUse {
    fn from(left: Left) -> Self {
        Self {
            directory: left.directory,
            image: left.source,
            users: left.users,
        }
    }
}
