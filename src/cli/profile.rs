//! `nacre image profile`: what a start reads, recorded and attached to the image.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, Subcommand};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    args::{ImageArgs, Opening, StoreArgs},
    output::{Output, bytes},
};
use crate::{
    engine,
    error::{Error, Result},
    image::record::{self, Workload},
    oci::{Digest, ImageConfig},
    open::profile_key,
    profile,
    source::{self, read_verified},
};

/// Where a profile is written unless another file is named.
const DEFAULT_FILE: &str = "nacre.profile";
/// Largest image configuration that is read.
const MAX_CONFIG: u64 = 4 << 20;
/// Search path where the image's configuration names none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Subcommands of `nacre image profile`.
#[derive(Debug, Subcommand)]
pub(super) enum Profile {
    /// Run a command on the image, mounted lazily, and write down what it reads. Needs root.
    Record(Record),
    /// Attach a recorded profile to the image; sealed if the image is encrypted.
    Push(Push),
    /// Show the profile that is attached to the image, or that is in a file.
    Show(Show),
}

/// Options of `nacre image profile record`.
#[derive(Debug, Args)]
pub(super) struct Record {
    #[command(flatten)]
    image: ImageArgs,
    /// Where to write the profile. It says which parts of the image are read, and nothing of them.
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_FILE)]
    output: PathBuf,
    /// End the command when a line of its output contains this: for services.
    #[arg(long, value_name = "TEXT")]
    until: Option<String>,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Options of `nacre image profile push`.
#[derive(Debug, Args)]
pub(super) struct Push {
    #[command(flatten)]
    image: ImageArgs,
    /// The recorded profile.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    profile: PathBuf,
}

/// Options of `nacre image profile show`.
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    image: ImageArgs,
    /// A recorded profile, instead of the one that is attached.
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// List every run, in order.
    #[arg(long)]
    runs: bool,
}

#[derive(Debug, Serialize)]
struct Recorded<'a> {
    file: &'a Path,
    runs: usize,
    bytes: u64,
    image_bytes: u64,
    exit_code: Option<i32>,
}

#[derive(Debug, Serialize)]
struct Pushed {
    manifest: Digest,
    profile: Digest,
    sealed: bool,
    runs: usize,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Shown {
    manifest: Option<Digest>,
    runs: usize,
    bytes: u64,
    layers: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listed: Vec<(u16, u64, u64)>,
}

// === impl Profile ===

impl Profile {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        match self {
            Profile::Record(record) => record.run(output).await,
            Profile::Push(push) => push.run(output).await,
            Profile::Show(show) => show.run(output).await,
        }
    }
}

// === impl Record ===

impl Record {
    async fn run(self, output: &Output) -> Result<()> {
        let Opening {
            mut opener,
            repository,
            location,
        } = self.image.opening(&StoreArgs::in_memory()).await?;
        // A profile that is there already must not look like what the command reads.
        opener.engine.follow = None;
        let reference = &self.image.reference;
        let image = opener.open(reference, &repository, &location).await?;
        let descriptor = &image.grant.manifest().config;
        let raw = read_verified(&*repository, descriptor, MAX_CONFIG).await?;
        let config: ImageConfig = serde_json::from_slice(&raw)
            .map_err(|e| Error::invalid(format!("config {}: {e}", descriptor.digest)))?;
        let workload = Workload {
            command: self.command,
            environment: environment(&config),
            until: self.until,
        };
        let image = Arc::new(image);
        let (running, name) = (Arc::clone(&image), reference.to_string());
        let recording = move || record::record(&running, &workload, &name);
        let (profile, status) = tokio::task::spawn_blocking(recording)
            .await
            .map_err(|e| Error::internal("recording").with_source(e))??;
        let code = status.map(|it| it.code().unwrap_or(-1));
        if code.is_some_and(|it| it != 0) {
            tracing::warn!(
                ?code,
                "the command failed; what it read is recorded all the same"
            );
        }
        write(&self.output, &profile::encode(&profile)?)?;
        let recorded = Recorded {
            file: &self.output,
            runs: profile.runs.len(),
            bytes: profile.bytes(),
            image_bytes: image.blob_bytes(),
            exit_code: code,
        };
        output.result(&recorded, || {
            format!(
                "{}: {} of {} in {} runs",
                self.output.display(),
                bytes(recorded.bytes),
                bytes(recorded.image_bytes),
                recorded.runs
            )
        })
    }
}

// === impl Push ===

impl Push {
    async fn run(self, output: &Output) -> Result<()> {
        let recorded = read(&self.profile)?;
        let Opening {
            opener,
            repository,
            location,
        } = self.image.opening(&StoreArgs::none()).await?;
        let reference = &self.image.reference;
        let grant = opener.admit(reference, &*repository, &location).await?;
        let layers = opener.layers(&grant, &*repository).await?;
        let key = profile_key(&layers);
        let manifest = grant.manifest_digest();
        let subject = source::subject(&*repository, manifest).await?;
        let writer = self.image.writer().await?;
        let created = OffsetDateTime::now_utc()
            .format(&Rfc3339)
            .map_err(|e| Error::internal("the time of now").with_source(e))?;
        let artifact = profile::push(&*writer, &subject, &recorded, key, &created).await?;
        let pushed = Pushed {
            manifest: manifest.clone(),
            profile: artifact,
            sealed: key.is_some(),
            runs: recorded.runs.len(),
            bytes: recorded.bytes(),
        };
        output.result(&pushed, || {
            let sealed = if pushed.sealed { ", sealed" } else { "" };
            format!(
                "profile {} of {} attached to {}{sealed}",
                pushed.profile,
                bytes(pushed.bytes),
                pushed.manifest
            )
        })
    }
}

// === impl Show ===

impl Show {
    async fn run(self, output: &Output) -> Result<()> {
        let (manifest, found) = match &self.profile {
            Some(file) => (None, read(file)?),
            None => self.attached().await?,
        };
        let mut layers = Vec::new();
        for run in &found.runs {
            let layer = usize::from(run.layer);
            if layers.len() <= layer {
                layers.resize(layer + 1, 0);
            }
            layers[layer] += run.bytes.end - run.bytes.start;
        }
        let listed = found.runs.iter().filter(|_| self.runs);
        let shown = Shown {
            manifest,
            runs: found.runs.len(),
            bytes: found.bytes(),
            layers,
            listed: listed
                .map(|run| (run.layer, run.bytes.start, run.bytes.end))
                .collect(),
        };
        output.result(&shown, || {
            let mut text = format!("{} in {} runs", bytes(shown.bytes), shown.runs);
            for (layer, length) in shown.layers.iter().enumerate() {
                text.push_str(&format!("\nlayer {layer}: {}", bytes(*length)));
            }
            for (layer, start, end) in &shown.listed {
                text.push_str(&format!("\n{layer} {start}..{end}"));
            }
            text
        })
    }

    async fn attached(&self) -> Result<(Option<Digest>, engine::Profile)> {
        let Opening {
            opener,
            repository,
            location,
        } = self.image.opening(&StoreArgs::none()).await?;
        let reference = &self.image.reference;
        let grant = opener.admit(reference, &*repository, &location).await?;
        let layers = opener.layers(&grant, &*repository).await?;
        let manifest = grant.manifest_digest();
        let found = profile::find(&*repository, manifest, profile_key(&layers)).await;
        let none = || {
            Error::not_found(format!("{reference}: no profile that can be read"))
                .with_hint("`nacre image profile record` makes one, `... push` attaches it")
        };
        Ok((Some(manifest.clone()), found.ok_or_else(none)?))
    }
}

/// The environment that the image's configuration gives.
fn environment(config: &ImageConfig) -> Vec<String> {
    let given = config.config.as_ref().and_then(|it| it.env.clone());
    let mut all = given.unwrap_or_default();
    if !all.iter().any(|it| it.starts_with("PATH=")) {
        all.push(DEFAULT_PATH.to_owned());
    }
    all
}

/// Writes the file whole or not at all.
fn write(file: &Path, document: &[u8]) -> Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, document)
        .and_then(|()| std::fs::rename(&partial, file))
        .map_err(|e| Error::io(format!("profile {}", file.display()), e))
}

fn read(file: &Path) -> Result<engine::Profile> {
    let what = || format!("profile {}", file.display());
    let document = std::fs::read(file).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(what())
            .with_hint("`nacre image profile record` makes one; --profile names it"),
        _ => Error::io(what(), e),
    })?;
    profile::decode(&document).map_err(|e| e.context(what()))
}
