//! `nacre image index`: makes an ordinary image lazy without changing it.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::sign::signing_key;
use crate::{
    cli::{
        args::{ImageArgs, Opening, StoreArgs},
        output::{Output, bytes},
    },
    error::{Error, Result},
    image::{
        index::{self, DEFAULT_SPACING, Options, Progress, Report},
        sign::{self, Signed},
    },
    oci::Reference,
};

/// Options of `nacre image index`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Index {
    #[command(flatten)]
    image: ImageArgs,
    /// Make the index and say how large it is, but do not attach it.
    #[arg(long, conflicts_with = "key")]
    dry_run: bool,
    /// Sign the index with this private key, as `nacre image sign` does. Who mounts a signed image
    /// believes an index only if it is signed, too.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Decompressed MiB between the places at which a layer can be entered.
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_SPACING >> 20,
          value_parser = clap::value_parser!(u32).range(1..=32))]
    spacing_mib: u32,
}

#[derive(Debug, Serialize)]
struct Made {
    #[serde(flatten)]
    report: Report,
    attached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    signed: Option<Signed>,
}

// === impl Index ===

impl Index {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let reference = &self.image.reference;
        let signer = match (&self.key, reference) {
            (None, _) => None,
            (Some(file), Reference::Registry(identity)) => Some((signing_key(file)?, identity)),
            (Some(_), Reference::Layout { .. }) => {
                return Err(Error::unsupported(format!(
                    "{reference}: only what is in a registry is signed"
                )));
            }
        };
        let Opening {
            opener,
            repository,
            location,
        } = self.image.opening(&StoreArgs::none()).await?;
        let grant = opener.admit(reference, &*repository, &location).await?;
        let bar = output.progress("indexing");
        let options = Options {
            spacing: self.spacing_mib << 20,
        };
        let (artifact, report) =
            index::build(&opener, &grant, &*repository, options, &|step| match step {
                Progress::Layer(layer) => bar.inc_length(layer.size),
                Progress::Done(layer) => bar.inc(layer.size),
            })
            .await?;
        bar.finish_and_clear();
        let mut signed = None;
        if !self.dry_run {
            let writer = self.image.writer().await?;
            artifact.push(&*writer).await?;
            if let Some((key, identity)) = &signer {
                let digest = artifact.digest();
                signed = Some(sign::sign(key, identity, digest, &*repository, &*writer).await?);
            }
        }
        let made = Made {
            report,
            attached: !self.dry_run,
            signed,
        };
        output.result(&made, || text(&made))
    }
}

fn text(made: &Made) -> String {
    let report = &made.report;
    let how = match (made.attached, &made.signed) {
        (false, _) => "not attached",
        (true, None) => "attached, not signed",
        (true, Some(_)) => "attached, signed",
    };
    let mut lines = vec![
        format!("index {}", report.index),
        format!("  of     {} ({how})", report.manifest),
    ];
    for layer in &report.layers {
        let what = match layer.indexed {
            false => "(lazy by an index of its own)".to_owned(),
            true => format!(
                "{} entries, {} of {}",
                layer.entries,
                bytes(layer.index_size),
                bytes(layer.tar_size)
            ),
        };
        lines.push(format!("  layer  {} {what}", layer.digest));
    }
    let total = report.tables_size + report.windows_size;
    lines.push(format!(
        "  size   {} for every mount, {} for reads: {} of the layers",
        bytes(report.tables_size),
        bytes(report.windows_size),
        share(total, report.tar_size)
    ));
    lines.join("\n")
}

/// In percent, with two digits.
fn share(part: u64, whole: u64) -> String {
    let hundredths = part.saturating_mul(10_000).checked_div(whole).unwrap_or(0);
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}
