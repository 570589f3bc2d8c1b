//! `nacre image copy`, `encrypt`, `decrypt` and `rewrap`: from one place to another.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use indicatif::ProgressBar;

use crate::{
    cli::{
        args::{KeyArgs, RegistryArgs, parse_place, source_date_epoch},
        output::{Output, bytes},
    },
    error::Result,
    image::{
        From, How, LayerReport, OnProgress, Report, Step, convert::Platforms, copy, decrypt,
        encrypt, rewrap,
    },
    keys::Recipients,
    source::{Destination, Place},
};

/// From where to where.
#[derive(Debug, Args)]
struct Transfer {
    /// The image: registry/repository[:tag][@digest], oci:DIRECTORY[:TAG] or
    /// docker-archive:FILE[:REFERENCE].
    #[arg(value_parser = parse_place)]
    source: Place,
    /// Where to put the result, in the same words.
    #[arg(value_parser = parse_place)]
    destination: Place,
    /// Every image of an index, not only one platform's.
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Options of `nacre image copy`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Copy {
    #[command(flatten)]
    transfer: Transfer,
}

/// Options of `nacre image encrypt`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Encrypt {
    #[command(flatten)]
    transfer: Transfer,
    /// Who can decrypt: jwe:PUBLIC-KEY-FILE, pkcs7:CERTIFICATE-FILE or provider:NAME[:PARAMETER].
    #[arg(long, value_name = "RECIPIENT", required = true)]
    recipient: Vec<String>,
    /// Encrypt this layer only: 0 is the lowest, -1 the highest.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    layer: Vec<i32>,
    /// ocicrypt key provider configuration.
    #[arg(long, value_name = "FILE", env = "OCICRYPT_KEYPROVIDER_CONFIG")]
    keyprovider_config: Option<PathBuf>,
}

/// Options of `nacre image decrypt`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Decrypt {
    #[command(flatten)]
    transfer: Transfer,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Options of `nacre image rewrap`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Rewrap {
    #[command(flatten)]
    transfer: Transfer,
    /// Who can decrypt afterwards: jwe:PUBLIC-KEY-FILE, pkcs7:CERTIFICATE-FILE or
    /// provider:NAME[:PARAMETER].
    #[arg(long, value_name = "RECIPIENT", required = true)]
    recipient: Vec<String>,
    /// Keep the recipients that are there.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    keys: KeyArgs,
}

// === impl Transfer ===

impl Transfer {
    async fn begin(&self) -> Result<(From, Destination)> {
        let access = self.registry.access()?;
        let (repository, location) = access.open_place(&self.source).await?;
        let from = From {
            repository,
            location,
            registry: self.source.registry().cloned(),
            platforms: match self.all_platforms {
                true => Platforms::All,
                false => Platforms::One(self.registry.platform()?),
            },
        };
        let time = source_date_epoch()?.unwrap_or(0);
        let to = access.destination(&self.destination, time).await?;
        Ok((from, to))
    }

    /// Makes the image appear and tells what was made.
    async fn end(
        &self,
        to: Destination,
        report: &Report,
        bar: &ProgressBar,
        output: &Output,
    ) -> Result<()> {
        to.commit().await?;
        bar.finish_and_clear();
        output.result(report, || {
            let mut lines = vec![format!("{} -> {}", self.source, self.destination)];
            lines.push(format!("  manifest {}", report.digest));
            lines.extend(report.layers.iter().map(line));
            let index = |it| format!("  index    {it}, attached; its signature is not taken along");
            lines.extend(report.indexes.iter().map(index));
            lines.join("\n")
        })
    }
}

fn line(layer: &LayerReport) -> String {
    let how = match layer.how {
        How::Encrypted => format!("encrypted, from {}", layer.from),
        How::EncryptedLazy => format!("encrypted, its index vouched for, from {}", layer.from),
        How::Decrypted => format!("decrypted, from {}", layer.from),
        How::Rewrapped => "rewrapped".to_owned(),
        How::Copied => "as it was".to_owned(),
        How::Mounted => "as it was, mounted by the registry".to_owned(),
        How::LeftOut => "left with its publisher".to_owned(),
    };
    format!("  layer    {} {}, {how}", layer.to, bytes(layer.size))
}

fn told(bar: &ProgressBar) -> OnProgress {
    let bar = bar.clone();
    Arc::new(move |step| match step {
        Step::Layer(bytes) => bar.inc_length(bytes),
        Step::Bytes(bytes) => bar.inc(bytes),
    })
}

// === impl Copy ===

impl Copy {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let (from, to) = self.transfer.begin().await?;
        let bar = output.progress("copying");
        let report = copy::copy(&from, &*to.writer, &to.location, &told(&bar)).await?;
        self.transfer.end(to, &report, &bar, output).await
    }
}

// === impl Encrypt ===

impl Encrypt {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let options = encrypt::Options {
            recipients: Recipients::new(&self.recipient, self.keyprovider_config.as_deref())?,
            layers: self.layer,
            temporary: std::env::temp_dir(),
        };
        let (from, to) = self.transfer.begin().await?;
        let bar = output.progress("encrypting");
        let progress = told(&bar);
        let report =
            encrypt::encrypt(&from, &*to.writer, &to.location, &options, &progress).await?;
        self.transfer.end(to, &report, &bar, output).await
    }
}

// === impl Decrypt ===

impl Decrypt {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let keyring = self.keys.keyring(&self.transfer.registry.resources())?;
        let (from, to) = self.transfer.begin().await?;
        let bar = output.progress("decrypting");
        let progress = told(&bar);
        let report =
            decrypt::decrypt(&from, &*to.writer, &to.location, &keyring, &progress).await?;
        self.transfer.end(to, &report, &bar, output).await
    }
}

// === impl Rewrap ===

impl Rewrap {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let options = rewrap::Options {
            keyring: self.keys.keyring(&self.transfer.registry.resources())?,
            recipients: Recipients::new(&self.recipient, self.keys.keyprovider_config())?,
            keep: self.keep,
        };
        let (from, to) = self.transfer.begin().await?;
        let bar = output.progress("rewrapping");
        let progress = told(&bar);
        let report = rewrap::rewrap(&from, &*to.writer, &to.location, &options, &progress).await?;
        self.transfer.end(to, &report, &bar, output).await
    }
}
