//! `nacre image`: makes images.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{
    args::{RegistryArgs, parse_reference},
    output::{Output, bytes},
    profile::Profile,
};
use crate::{
    error::{Error, Result},
    image::{
        convert::{self, Platforms, Progress, Report},
        sign,
    },
    index::write::Format,
    oci::Reference,
};

/// Subcommands of `nacre image`.
#[derive(Debug, Subcommand)]
pub(super) enum Image {
    /// Make a lazy image out of an ordinary one.
    Convert(Convert),
    /// Sign an image with a private key, as cosign does (`sha256-HEX.sig`).
    Sign(Sign),
    /// Make a key pair to sign with.
    Keygen(Keygen),
    /// Record what a start reads, and attach it to the image, so that it is fetched ahead.
    #[command(subcommand)]
    Profile(Profile),
}

/// Options of `nacre image convert`.
#[derive(Debug, Args)]
pub(super) struct Convert {
    /// Image to convert: registry/repository[:tag][@digest] or oci:DIRECTORY[:TAG].
    #[arg(value_parser = parse_reference)]
    source: Reference,
    /// Where to put the result.
    #[arg(value_parser = parse_reference)]
    destination: Reference,
    /// Format of the layers.
    #[arg(long, value_enum, default_value = "estargz")]
    format: LayerFormat,
    /// Largest chunk, in KiB: what the smallest read of a large file costs.
    #[arg(long, value_name = "KIB", default_value_t = 1024)]
    chunk_kib: u32,
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

/// Options of `nacre image sign`.
#[derive(Debug, Args)]
pub(super) struct Sign {
    /// Image to sign.
    #[arg(value_parser = parse_reference)]
    reference: Reference,
    /// Private key (PKCS#8 PEM, ECDSA P-256).
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Options of `nacre image keygen`.
#[derive(Debug, Args)]
pub(super) struct Keygen {
    /// Writes PREFIX.key (private, mode 0600) and PREFIX.pub.
    prefix: PathBuf,
}

// === impl Image ===

impl Image {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        match self {
            Image::Convert(convert) => convert.run(output).await,
            Image::Sign(sign) => sign.run(output).await,
            Image::Keygen(keygen) => keygen.run(output),
            Image::Profile(profile) => profile.run(output).await,
        }
    }
}

// === impl Convert ===

impl Convert {
    async fn run(self, output: &Output) -> Result<()> {
        let access = self.registry.access()?;
        let (from, location) = access.open(&self.source).await?;
        let (to, to_location) = access.create(&self.destination).await?;
        let format = match self.format {
            LayerFormat::Estargz => Format::Estargz,
            LayerFormat::ZstdChunked => Format::ZstdChunked,
        };
        let options = convert::Options {
            chunk_size: self.chunk_kib.saturating_mul(1024),
            platforms: match self.all_platforms {
                true => Platforms::All,
                false => Platforms::One(self.registry.platform()?),
            },
            ..convert::Options::new(format, std::env::temp_dir())
        };
        let bar = output.progress("converting");
        let report =
            convert::convert(
                &*from,
                &location,
                &*to,
                &to_location,
                &options,
                &|step| match step {
                    Progress::Layer { layer, .. } => bar.inc_length(layer.size),
                    Progress::Read(bytes) => bar.inc(bytes),
                },
            )
            .await?;
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

// === impl Sign ===

impl Sign {
    async fn run(self, output: &Output) -> Result<()> {
        let Reference::Registry(identity) = &self.reference else {
            return Err(Error::unsupported(format!(
                "{}: only images in a registry are signed",
                self.reference
            ))
            .with_hint("copy it to a registry first: the signature names the repository"));
        };
        let name = self.key.display().to_string();
        let pem = std::fs::read(&self.key)
            .map(zeroize::Zeroizing::new)
            .map_err(|e| Error::io(format!("key {name}"), e))?;
        let key = sign::SigningKey::from_pem(&pem, &name)?;
        let access = self.registry.access()?;
        let (repository, location) = access.open(&self.reference).await?;
        let (writer, _) = access.create(&self.reference).await?;
        let digest = repository.manifest(&location).await?.digest;
        let signed = sign::sign(&key, identity, &digest, &*repository, &*writer).await?;
        output.result(&signed, || {
            format!(
                "{} signed as {} (tag {})",
                signed.digest, signed.identity, signed.tag
            )
        })
    }
}

// === impl Keygen ===

impl Keygen {
    fn run(self, output: &Output) -> Result<()> {
        use std::{io::Write, os::unix::fs::OpenOptionsExt};
        let (private, public) = sign::generate()?;
        let file = |extension| {
            let mut name = self.prefix.as_os_str().to_owned();
            name.push(extension);
            PathBuf::from(name)
        };
        let write = |path: &PathBuf, content: &str, mode| {
            std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(path)
                .and_then(|mut file| file.write_all(content.as_bytes()))
                .map_err(|e| Error::io(format!("key file {}", path.display()), e))
        };
        let (private_file, public_file) = (file(".key"), file(".pub"));
        write(&private_file, &private, 0o600)?;
        write(&public_file, &public, 0o644)?;
        let made = serde_json::json!({ "private": private_file, "public": public_file });
        output.result(&made, || {
            format!("{} and {}", private_file.display(), public_file.display())
        })
    }
}
