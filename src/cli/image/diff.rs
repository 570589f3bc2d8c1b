//! `nacre image diff`: how two images differ, tree-wise.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use crate::{
    cli::{
        args::{PairArgs, StoreArgs},
        output::{Output, bytes},
    },
    error::Result,
    image::diff::{self, Difference, Entry, Field},
    oci::Digest,
};

/// Options of `nacre image diff`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Diff {
    #[command(flatten)]
    images: PairArgs,
    /// Take no notice of times of modification.
    #[arg(long)]
    ignore_times: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    first: &'a Digest,
    second: &'a Digest,
    #[serde(flatten)]
    difference: &'a Difference,
}

// === impl Diff ===

impl Diff {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let opened = self.images.opening(&StoreArgs::in_memory()).await?;
        let [first, second] = &opened.images;
        let view = |image: &'_ crate::cli::args::Named| {
            let (opener, image) = (&opened.opener, image.clone());
            async move { diff::view(opener, &image.reference, &image.repository, &image.location).await }
        };
        let (first, second) = tokio::try_join!(view(first), view(second))?;
        let difference = diff::diff(&first, &second, &opened.opener, !self.ignore_times).await?;
        let shown = Shown {
            first: first.grant.manifest_digest(),
            second: second.grant.manifest_digest(),
            difference: &difference,
        };
        output.result(&shown, || text(&difference))
    }
}

fn text(difference: &Difference) -> String {
    let mut text = String::new();
    let mut line = |sign: char, path: &str, more: &str| {
        writeln!(text, "{sign} {path}  {more}").expect("writing to a string cannot fail");
    };
    for entry in &difference.removed {
        line('-', &entry.path, &told(entry));
    }
    for entry in &difference.added {
        line('+', &entry.path, &told(entry));
    }
    for change in &difference.changed {
        let changes: Vec<String> = change.changes.iter().map(changed).collect();
        line('~', &change.path, &changes.join(", "));
    }
    let count = |n: usize, what: &str| format!("{n} {what}");
    let counts = [
        count(difference.added.len(), "added"),
        count(difference.removed.len(), "removed"),
        count(difference.changed.len(), "changed"),
    ];
    text + &counts.join(", ")
}

fn told(entry: &Entry) -> String {
    let size = match entry.kind {
        "file" => format!(" {}", bytes(entry.size)),
        _ => String::new(),
    };
    format!(
        "{} {} {}:{}{size}",
        entry.kind, entry.mode, entry.uid, entry.gid
    )
}

fn changed(field: &Field) -> String {
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
    match (&field.from, &field.to) {
        (None, None) => field.what.clone(),
        (from, to) => format!("{} {} -> {}", field.what, shown(from), shown(to)),
    }
}
