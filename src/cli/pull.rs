//! `nacre pull`: the eager way. Verifies everything, then unpacks an OCI runtime bundle.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use serde::Serialize;

use super::{
    args::{ImageArgs, Opening, StoreArgs},
    output::{Output, bytes},
};
use crate::{
    bundle::{self, RuntimeOptions},
    error::{Error, Result},
    oci::{Digest, ImageConfig},
    open::Opener,
    source::{Repository, TrafficSnapshot, read_verified},
    trust::Grant,
};

/// Largest image configuration that is read.
const MAX_CONFIG: u64 = 4 << 20;

/// Options of `nacre pull`.
#[derive(Debug, Args)]
pub(super) struct Pull {
    #[command(flatten)]
    image: ImageArgs,
    /// Bundle directory to make: DIRECTORY/rootfs and DIRECTORY/config.json.
    directory: PathBuf,
}

#[derive(Debug, Serialize)]
struct Pulled<'a> {
    grant: &'a Grant,
    bundle: &'a std::path::Path,
    layers: usize,
    traffic: TrafficSnapshot,
}

// === impl Pull ===

impl Pull {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let Opening {
            opener,
            repository,
            location,
        } = self.image.opening(&StoreArgs::none()).await?;
        let grant = opener
            .admit(&self.image.reference, &*repository, &location)
            .await?;
        let config = read_config(&grant, &*repository).await?;
        let layers = layers(&opener, &grant, &config, &repository).await?;
        let count = layers.len();
        let bar = output.progress("pulling");
        bar.set_length(grant.manifest().layers.iter().map(|layer| layer.size).sum());
        let seen = bar.clone();
        let options = RuntimeOptions::default();
        bundle::create(layers, config, &self.directory, options, move |n| {
            seen.inc(n)
        })
        .await?;
        bar.finish_and_clear();
        let pulled = Pulled {
            grant: &grant,
            bundle: &self.directory,
            layers: count,
            traffic: repository.traffic().snapshot(),
        };
        output.result(&pulled, || {
            format!(
                "{grant}\n{count} layers verified and unpacked into {}; {} in {} requests",
                self.directory.display(),
                bytes(pulled.traffic.bytes),
                pulled.traffic.requests
            )
        })
    }
}

async fn read_config(grant: &Grant, repository: &dyn Repository) -> Result<ImageConfig> {
    let descriptor = &grant.manifest().config;
    let raw = read_verified(repository, descriptor, MAX_CONFIG).await?;
    serde_json::from_slice(&raw)
        .map_err(|e| Error::invalid(format!("config {}: {e}", descriptor.digest)))
}

async fn layers(
    opener: &Opener,
    grant: &Grant,
    config: &ImageConfig,
    repository: &Arc<dyn Repository>,
) -> Result<Vec<bundle::Layer>> {
    let diff_ids: &[Digest] = &config.rootfs.diff_ids;
    let layers = opener.whole_layers(grant, &**repository).await?;
    if diff_ids.len() != layers.len() {
        return Err(Error::invalid(format!(
            "config {}: {} diff ids for {} layers",
            grant.manifest().config.digest,
            diff_ids.len(),
            layers.len()
        )));
    }
    Ok(layers
        .into_iter()
        .zip(diff_ids)
        .map(|(layer, diff_id)| bundle::Layer {
            digest: layer.descriptor.digest,
            kind: layer.kind,
            diff_id: diff_id.clone(),
            source: layer.source,
        })
        .collect())
}
