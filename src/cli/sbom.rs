//! `nacre sbom`: the bills of materials of an admitted image.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use super::{
    args::{ImageArgs, Opening, StoreArgs},
    output::{Output, bytes},
    table,
};
use crate::{
    error::{Error, Result},
    sbom::{self, Format},
};

/// Options of `nacre sbom`.
#[derive(Debug, Args)]
pub(super) struct Sbom {
    #[command(flatten)]
    image: ImageArgs,
    /// Only documents of this format.
    #[arg(long, value_enum)]
    format: Option<Wanted>,
    /// Print the document that deserves most trust, instead of the list.
    #[arg(long, conflicts_with = "output_dir")]
    print: bool,
    /// Write all documents into this directory, which is made.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Wanted {
    /// SPDX
    Spdx,
    /// CycloneDX
    Cyclonedx,
    /// syft's own
    Syft,
}

// === impl Sbom ===

impl Sbom {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let Opening {
            opener,
            repository,
            location,
        } = self.image.opening(&StoreArgs::none()).await?;
        let reference = &self.image.reference;
        let grant = opener.admit(reference, &*repository, &location).await?;
        let mut found = sbom::find(&opener, &grant, &*repository)
            .await
            .map_err(|e| e.context(reference.to_string()))?;
        if let Some(format) = self.format {
            found.retain(|it| it.format == format.format());
        }
        if self.print {
            let Some(first) = found.first() else {
                return Err(Error::not_found(format!("{reference}: no SBOM")));
            };
            // The document alone goes to standard output.
            tracing::warn!(from = %first.found_in, "{}", first.trust);
            let mut stdout = std::io::stdout().lock();
            return stdout
                .write_all(&first.bytes)
                .and_then(|()| stdout.flush())
                .map_err(|e| Error::io("standard output", e));
        }
        if let Some(directory) = &self.output_dir {
            write(directory, &found)?;
        }
        output.result(&found, || text(&found))
    }
}

fn text(found: &[sbom::Sbom]) -> String {
    if found.is_empty() {
        return "no SBOM".into();
    }
    let rows: Vec<[String; 5]> = found
        .iter()
        .enumerate()
        .map(|(n, it)| {
            let place = match &it.path {
                Some(path) => format!("{} {path}", it.found_in),
                None => format!("{} {}", it.found_in, it.blob),
            };
            let size = bytes(it.size as u64);
            let n = (n + 1).to_string();
            [n, it.format.to_string(), size, it.trust.to_string(), place]
        })
        .collect();
    table::lines(["", "FORMAT", "SIZE", "TRUST", "FOUND"], &rows).join("\n")
}

/// Numbered as in the list.
fn write(directory: &Path, found: &[sbom::Sbom]) -> Result<()> {
    let failed = |path: &Path, e| Error::io(path.display().to_string(), e);
    std::fs::create_dir_all(directory).map_err(|e| failed(directory, e))?;
    for (n, sbom) in found.iter().enumerate() {
        let file = directory.join(format!("{}.{}", n + 1, sbom.format));
        std::fs::write(&file, &sbom.bytes).map_err(|e| failed(&file, e))?;
    }
    Ok(())
}

// === impl Wanted ===

impl Wanted {
    fn format(self) -> Format {
        match self {
            Wanted::Spdx => Format::Spdx,
            Wanted::Cyclonedx => Format::CycloneDx,
            Wanted::Syft => Format::Syft,
        }
    }
}
