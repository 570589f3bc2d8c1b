//! `nacre inspect`: what an image is, before anybody trusts it.

use std::{fmt::Write as _, path::PathBuf};

use clap::Args;

use super::{
    args::{RegistryArgs, StoreArgs, parse_reference},
    output::{Output, bytes},
};
use crate::{
    error::Result,
    oci::Reference,
    open::{self, ImageReport, IndexFrom},
};

/// Options of `nacre inspect`.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// What to inspect: registry/repository[:tag][@digest] or oci:DIRECTORY[:TAG].
    #[arg(value_parser = parse_reference)]
    reference: Reference,
    /// Directory of the chunk store whose kept indexes are looked at [default: that of nacre mount].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
}

// === impl Inspect ===

impl Inspect {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let (repository, location) = self.registry.access()?.open(&self.reference).await?;
        // Without a home there is no store.
        let kept = StoreArgs::at(self.store.clone()).index_directory().ok();
        let platform = self.registry.platform()?;
        let report = open::inspect(&*repository, &location, &platform, kept.as_deref()).await?;
        output.result(&report, || text(&self.reference, &report))
    }
}

fn text(reference: &Reference, report: &ImageReport) -> String {
    let mut text = format!("{reference}\n");
    let mut line = |name: &str, value: &str| {
        writeln!(text, "  {name:<12}{value}").expect("writing to a string cannot fail");
    };
    if let Some(index) = &report.index_digest {
        line("index", &index.to_string());
    }
    line("manifest", &report.manifest_digest.to_string());
    line("media type", &report.media_type);
    line("size", &bytes(report.size));
    line("encryption", report.encryption);
    line("lazy", if report.lazy { "yes" } else { "no" });
    line("signature", "not looked at; see `nacre verify`");
    for layer in &report.layers {
        line("layer", &format!("{} {}", layer.digest, bytes(layer.size)));
        line("", &layer.media_type);
        for key in &layer.keys {
            let mut words = vec![format!("key: {}", key.kind)];
            words.extend(key.kid.clone());
            words.extend(key.algorithms.iter().cloned());
            words.extend(key.recipients.map(|n| format!("{n} recipient(s)")));
            line("", &words.join(", "));
        }
        match (&layer.index, &layer.why_not) {
            (_, Some(why)) => line("", &format!("not lazy: {why}")),
            (Some(index), None) => {
                let from = match layer.index_from {
                    Some(IndexFrom::Node) => " by this node",
                    Some(IndexFrom::Referrer) => ", attached: if who has to signs it, too",
                    Some(IndexFrom::Manifest) | None => "",
                };
                line("", &format!("lazy: {index}{from}"));
            }
            (None, None) => line("", "lazy"),
        }
    }
    text.trim_end().to_owned()
}
