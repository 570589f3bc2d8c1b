//! `nacre image convert`: makes a lazy image out of an ordinary one.

use clap::{Args, ValueEnum};

use crate::{
    cli::{
        args::{RegistryArgs, parse_place, parse_reference, source_date_epoch},
        output::{Output, bytes},
    },
    error::Result,
    image::convert::{self, Platforms, Progress, Report},
    index::write::{DEFAULT_CHUNK_SIZE, Format},
    oci::Reference,
    source::Place,
};

/// Options of `nacre image convert`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Convert {
    /// Image to convert: registry/repository[:tag][@digest], oci:DIRECTORY[:TAG] or
    /// docker-archive:FILE[:REFERENCE].
    #[arg(value_parser = parse_place)]
    source: Place,
    /// Where to put the result: a registry or an OCI layout.
    #[arg(value_parser = parse_reference)]
    destination: Reference,
    /// Format of the layers.
    #[arg(long, value_enum, default_value = "estargz")]
    format: LayerFormat,
    /// Largest chunk, in KiB: what the smallest read of a large file costs.
    #[arg(long, value_name = "KIB", default_value_t = DEFAULT_CHUNK_SIZE >> 10)]
    chunk_kib: u32,
    /// How hard to compress: 0 to 9 for estargz, 1 to 19 for zstd-chunked.
    #[arg(long, value_name = "LEVEL")]
    level: Option<i32>,
    /// Convert every image of an index, not only one platform's.
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LayerFormat {
    /// gzip with an eStargz table of contents.
    Estargz,
    /// zstd with a table of contents that stargz and podman read.
    ZstdChunked,
}

// === impl Convert ===

impl Convert {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let access = self.registry.access()?;
        let epoch = source_date_epoch()?;
        let (from, location) = access.open_place(&self.source).await?;
        let to = Place::Image(self.destination.clone());
        let to = access.destination(&to, epoch.unwrap_or(0)).await?;
        let format = match self.format {
            LayerFormat::Estargz => Format::Estargz,
            LayerFormat::ZstdChunked => Format::ZstdChunked,
        };
        let options = convert::Options {
            chunk_size: self.chunk_kib.saturating_mul(1024),
            level: self.level,
            platforms: match self.all_platforms {
                true => Platforms::All,
                false => Platforms::One(self.registry.platform()?),
            },
            latest: epoch,
            ..convert::Options::new(format, std::env::temp_dir())
        };
        let bar = output.progress("converting");
        let report = convert::convert(
            &*from,
            &location,
            &*to.writer,
            &to.location,
            &options,
            &|step| match step {
                Progress::Layer { layer, .. } => bar.inc_length(layer.size),
                Progress::Read(bytes) => bar.inc(bytes),
            },
        )
        .await?;
        to.commit().await?;
        bar.finish_and_clear();
        output.result(&report, || text(&self, &report))
    }
}

fn text(convert: &Convert, report: &Report) -> String {
    let mut lines = vec![format!("{} -> {}", convert.source, convert.destination)];
    lines.push(format!("  manifest {}", report.digest));
    for layer in &report.layers {
        lines.push(if layer.copied {
            format!(
                "  layer    {} {} (lazy already)",
                layer.to,
                bytes(layer.to_size)
            )
        } else {
            let (from, to) = (bytes(layer.from_size), bytes(layer.to_size));
            format!("  layer    {} {to}, from {} {from}", layer.to, layer.from)
        });
    }
    lines.join("\n")
}
