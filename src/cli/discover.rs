//! `nacre discover`: from an image's name to a pinned reference, or to its signed measurements.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;
use url::Url;

use super::{
    args::{RegistryArgs, read_key},
    output::Output,
};
use crate::{
    discover::{Compared, Entry, Found, Measurements, Name, Tables, Wanted, parse_actual},
    error::{Error, Result},
    oci::{Digest, Reference},
    source::Access,
    trust::PublicKey,
};

/// Options of `nacre discover`.
#[derive(Debug, Args)]
pub(super) struct Discover {
    /// The image's name: [ref/REF/][stream/STREAM/]VERSION, for instance v2.3.0; `latest` in the place
    /// of the version looks it up.
    #[arg(value_parser = parse_name)]
    name: Name,
    /// Whose machines it is for: aws, azure, gcp, openstack, qemu, or another that a table names.
    #[arg(long, visible_alias = "csp", value_name = "PROVIDER")]
    provider: String,
    /// By what it attests itself (azure-sev-snp, qemu-tdx, ...), if there are several.
    #[arg(long, value_name = "VARIANT")]
    variant: Option<String>,
    /// Where it is to lie, if it lies in several places.
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Directory with lookup tables that come before the web server's.
    #[arg(long, value_name = "DIR", default_value = ".")]
    lookup_dir: PathBuf,
    /// Where the paths of lookup tables begin: https://, http:// (loopback) or file:///.
    #[arg(long, value_name = "URL", default_value = CONSTELLATION)]
    url: Url,
    /// Print the reference as the table has it; no registry is asked for its digest.
    #[arg(long, conflicts_with_all = ["measurements", "compare"])]
    as_written: bool,
    /// Print the measurements instead of the reference.
    #[arg(long, requires = "key")]
    measurements: bool,
    /// Compare the measurements with what registers are: a file with {"4": "HEX", ...}.
    #[arg(long, value_name = "FILE", requires = "key")]
    compare: Option<PathBuf>,
    /// Public key (PEM) that has to have signed the measurements, as `cosign sign-blob` does.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Where Constellation's own documents are.
const CONSTELLATION: &str = "https://cdn.confidential.cloud";
/// Largest file of registers that is read.
const MAX_ACTUAL: usize = 1 << 20;

/// What is common to both answers.
#[derive(Serialize)]
struct Asked<'a> {
    name: String,
    version: &'a str,
    #[serde(rename = "ref")]
    reference: &'a str,
    stream: &'a str,
    /// File or URL of the document.
    found_in: &'a str,
}

#[derive(Serialize)]
struct Discovered<'a> {
    #[serde(flatten)]
    asked: Asked<'a>,
    #[serde(flatten)]
    entry: &'a Entry,
    /// `None` unless the registry was asked.
    digest: Option<&'a Digest>,
    pinned: Option<String>,
}

#[derive(Serialize)]
struct Measured<'a> {
    #[serde(flatten)]
    asked: Asked<'a>,
    provider: &'a str,
    variant: Option<&'a str>,
    #[serde(flatten)]
    measurements: &'a Measurements,
    #[serde(skip_serializing_if = "Option::is_none")]
    compared: Option<&'a [Compared]>,
}

// === impl Discover ===

impl Discover {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let access = self.registry.access()?;
        let client = access.client()?;
        let tables = Tables {
            local: &self.lookup_dir,
            base: &self.url,
            client: &client,
        };
        let name = tables.resolve(&self.name).await?;
        match &self.key {
            Some(file) if self.measurements || self.compare.is_some() => {
                let key = PublicKey::from_pem(&read_key(file)?, file.display().to_string())?;
                self.measured(&tables, &name, &key, output).await
            }
            _ => self.discovered(&tables, &access, &name, output).await,
        }
    }

    /// Prints the reference.
    async fn discovered(
        &self,
        tables: &Tables<'_>,
        access: &Access,
        name: &Name,
        output: &Output,
    ) -> Result<()> {
        let (info, found) = tables.info(name).await?;
        let within = |e: Error| e.context(found.place.clone());
        let entry = info.pick(&self.wanted()).map_err(within)?;
        let (digest, pinned) = match self.as_written {
            true => (None, None),
            false => {
                let reference = reference(entry, found.local).map_err(within)?;
                let (digest, pinned) = pin(access, &reference).await?;
                (Some(digest), Some(pinned.to_string()))
            }
        };
        let discovered = Discovered {
            asked: asked(name, &found),
            entry,
            digest: digest.as_ref(),
            pinned,
        };
        output.result(&discovered, || {
            let written = || entry.reference.clone();
            discovered.pinned.clone().unwrap_or_else(written)
        })
    }

    /// Prints measurements, compared if that is wanted.
    async fn measured(
        &self,
        tables: &Tables<'_>,
        name: &Name,
        key: &PublicKey,
        output: &Output,
    ) -> Result<()> {
        let wanted = self.wanted();
        let (measurements, found) = tables.measurements(name, &wanted, key).await?;
        let compared = match &self.compare {
            Some(file) => Some(measurements.compare(&actual(file)?)),
            None => None,
        };
        let printed = Measured {
            asked: asked(name, &found),
            provider: &self.provider,
            variant: self.variant.as_deref(),
            measurements: &measurements,
            compared: compared.as_deref(),
        };
        output.result(&printed, || match &compared {
            None => measurements.to_string(),
            Some(all) => {
                let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
                lines.join("\n")
            }
        })?;
        let all = compared.unwrap_or_default();
        let refused: Vec<String> = all
            .iter()
            .filter(|it| it.refuses())
            .map(|it| it.register.to_string())
            .collect();
        match refused.is_empty() {
            true => Ok(()),
            false => Err(Error::corrupt(format!(
                "{name}: registers that are not what was signed: {}",
                refused.join(", ")
            ))),
        }
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            provider: self.provider.clone(),
            variant: self.variant.clone(),
            region: self.region.clone(),
        }
    }
}

fn asked<'a>(name: &'a Name, found: &'a Found) -> Asked<'a> {
    Asked {
        name: name.to_string(),
        version: name.version(),
        reference: name.reference(),
        stream: name.stream(),
        found_in: &found.place,
    }
}

/// A table's reference as one of a container image. Names of machine images (`ami-...`) would read as
/// images of Docker Hub, so the registry has to be named; only a local table may name a directory.
fn reference(entry: &Entry, local: bool) -> Result<Reference> {
    let text = entry.reference.as_str();
    let plain = text.strip_prefix("docker://").unwrap_or(text);
    let host = plain.split_once('/').map(|(host, _)| host);
    let named = match text.starts_with("oci:") {
        true => local,
        false => host.is_some_and(|it| it.contains(['.', ':']) || it == "localhost"),
    };
    let parsed = named.then(|| text.parse().ok()).flatten();
    parsed.ok_or_else(|| {
        Error::unsupported(format!(
            "reference {text:?}: not a container image in a registry"
        ))
        .with_hint("--as-written prints it as it is")
    })
}

/// The digest that a reference stands for now, and the reference with it.
async fn pin(access: &Access, reference: &Reference) -> Result<(Digest, Reference)> {
    let (repository, location) = access.open(reference).await?;
    let raw = repository
        .manifest(&location)
        .await
        .map_err(|e| e.context(reference.to_string()))?;
    let pinned = reference.pinned(&raw.digest);
    Ok((raw.digest, pinned))
}

fn actual(file: &Path) -> Result<BTreeMap<u32, String>> {
    let name = file.display().to_string();
    let bytes = std::fs::read(file).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(format!("{name}: no such file")),
        _ => Error::io(name.clone(), e),
    })?;
    if bytes.len() > MAX_ACTUAL {
        return Err(Error::invalid(format!(
            "{name}: larger than {MAX_ACTUAL} bytes"
        )));
    }
    parse_actual(&bytes).map_err(|why| Error::invalid(format!("{name}: {why}")))
}

/// For clap.
fn parse_name(text: &str) -> Result<Name, String> {
    text.parse().map_err(|e: Error| match e.hint() {
        Some(hint) => format!("{e}; {hint}"),
        None => e.to_string(),
    })
}
