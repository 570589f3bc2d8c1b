//! `nacre config`: the configuration of `nacre serve`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::output::Output;
use crate::{
    config::{Config as File, DEFAULT},
    error::{Error, Result},
};

/// Subcommands of `nacre config`.
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Say what is wrong with a configuration file, or print what it comes to.
    Check(Check),
    /// Print every key with its default and its meaning.
    Default,
}

/// Options of `nacre config check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The file [default: /etc/nacre/nacre.toml if it exists].
    file: Option<PathBuf>,
}

// === impl Config ===

impl Config {
    pub(super) fn run(&self, output: &Output) -> Result<()> {
        match self {
            Config::Default => output.result(&File::default(), || DEFAULT.trim_end().to_owned()),
            Config::Check(check) => {
                let file = File::load(check.file.as_deref())?;
                // Nothing is opened that a running daemon has open: names and forms only.
                file.platform()?;
                let file = file.without_secrets();
                let text = toml::to_string(&file)
                    .map_err(|e| Error::internal("configuration as TOML").with_source(e))?;
                output.result(&file, || text.trim_end().to_owned())
            }
        }
    }
}
