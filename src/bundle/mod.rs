//! The eager way: an image unpacked whole into an OCI runtime bundle, for `nacre pull REF DIR`.
//!
//! Nothing is visible before everything is verified. Layers are unpacked into a private directory
//! beside the final one; each layer's stream has to end well (blob digest and, of encrypted layers,
//! HMAC) and its DiffID has to match over every byte of the tar. Then the root is renamed into place
//! and `config.json` follows. After any error nothing is left of the attempt.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::StreamExt;
use tokio::{sync::mpsc, task};

use self::{
    extract::Extraction,
    feed::{Feed, Piece, Tar},
    partial::Partial,
};
use crate::{
    error::{Error, Kind, Result},
    oci::{Digest, ImageConfig, media_type::LayerKind},
    source::BlobSource,
    tar::{TarReader, read_error},
};

mod collect;
mod extract;
mod feed;
mod partial;
mod path;
mod place;
mod remove;
mod runtime;
mod users;

#[cfg(test)]
mod tests;

pub use self::collect::collect;
pub use self::runtime::{RuntimeOptions, runtime_config};

/// One layer to unpack.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Digest of the blob, for messages.
    pub digest: Digest,
    /// What the media type says; the compression of the plain blob.
    pub kind: LayerKind,
    /// What the uncompressed tar must hash to.
    pub diff_id: Digest,
    /// The plain blob. Its stream is decrypted already and ends with an error unless the blob is
    /// what the manifest names (digest, and HMAC of an encrypted layer).
    pub source: Arc<dyn BlobSource>,
}

/// Unpacks layers, lowest first, into the directory `rootfs`, which must not exist and appears only
/// when everything is verified. `progress` is told the bytes of each piece that arrives.
///
/// # Errors
/// `Busy` if `rootfs` exists; `Corrupt` if a layer is not what the manifest or its DiffID names;
/// `Invalid` with layer and entry if a tar is malformed; `Io` if the file system refuses (not root,
/// disk full); what the sources say. Nothing is left behind.
pub async fn unpack(
    layers: Vec<Layer>,
    rootfs: &Path,
    progress: impl Fn(u64) + Send + Sync,
) -> Result<()> {
    let rootfs = rootfs.to_owned();
    unpack_then(layers, rootfs.clone(), progress, move |partial| {
        partial.publish(&rootfs)
    })
    .await
}

/// Unpacks an image into the bundle `directory`: `rootfs` as by [`unpack`], then `config.json`.
///
/// # Errors
/// As [`unpack`] and [`runtime_config`].
pub async fn create(
    layers: Vec<Layer>,
    config: ImageConfig,
    directory: &Path,
    options: RuntimeOptions,
    progress: impl Fn(u64) + Send + Sync,
) -> Result<()> {
    let rootfs = directory.join("rootfs");
    let file = directory.join("config.json");
    if partial::occupied(&file) {
        return Err(
            Error::new(Kind::Busy, format!("{}: exists already", file.display()))
                .with_hint("remove it or give another directory"),
        );
    }
    unpack_then(layers, rootfs.clone(), progress, move |partial| {
        let runtime = runtime_config(&config, &partial.root(), &options)?;
        let mut text = serde_json::to_vec_pretty(&runtime)
            .map_err(|e| Error::internal("runtime configuration").with_source(e))?;
        text.push(b'\n');
        partial.publish_with(&rootfs, &file, &text)
    })
    .await
}

/// Unpacks on a blocking thread that this task feeds; `publish` ends it on that thread.
async fn unpack_then(
    layers: Vec<Layer>,
    rootfs: PathBuf,
    progress: impl Fn(u64) + Send + Sync,
    publish: impl FnOnce(Partial) -> Result<()> + Send + 'static,
) -> Result<()> {
    let (sender, mut receiver) = mpsc::channel(QUEUE);
    let sources: Vec<_> = layers.iter().map(|layer| layer.source.clone()).collect();
    let unpacking = task::spawn_blocking(move || {
        let partial = Partial::create(&rootfs)?;
        let mut extraction = Extraction::new(&partial.root())?;
        for layer in &layers {
            unpack_layer(layer, &mut receiver, &mut extraction)
                .map_err(|e| e.context(format!("layer {}", layer.digest)))?;
        }
        extraction.finish()?;
        publish(partial)
    });
    for source in sources {
        // An error here means that unpacking ended before; it says why.
        if send(&*source, &sender, &progress).await.is_err() {
            break;
        }
    }
    drop(sender);
    unpacking
        .await
        .map_err(|e| Error::internal("unpacking stopped").with_source(e))?
}

/// Sends one layer's stream piece by piece.
async fn send(
    source: &dyn BlobSource,
    sender: &mpsc::Sender<Piece>,
    progress: &impl Fn(u64),
) -> Result<(), mpsc::error::SendError<Piece>> {
    let mut stream = match source.stream().await {
        Ok(stream) => stream,
        Err(error) => return sender.send(Piece::Failed(error)).await,
    };
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(bytes) => {
                progress(bytes.len() as u64);
                sender.send(Piece::Bytes(bytes)).await?;
            }
            Err(error) => return sender.send(Piece::Failed(error)).await,
        }
    }
    sender.send(Piece::End).await
}

fn unpack_layer(
    layer: &Layer,
    pieces: &mut mpsc::Receiver<Piece>,
    extraction: &mut Extraction,
) -> Result<()> {
    let tar =
        Tar::new(Feed::new(pieces), layer.kind.compression, &layer.diff_id).map_err(read_error)?;
    let mut archive = TarReader::new(tar);
    if let Err(error) = extraction.layer(&mut archive) {
        return Err(match error.kind() {
            Kind::Invalid | Kind::Unsupported => Tar::blame(archive.into_inner()).unwrap_or(error),
            _ => error,
        });
    }
    let diff_id = Tar::finish(archive.into_inner()).map_err(read_error)?;
    if diff_id != layer.diff_id {
        return Err(Error::corrupt(format!(
            "its tar is {diff_id} where the configuration says {}",
            layer.diff_id
        )));
    }
    Ok(())
}

/// Pieces on their way to the blocking thread; a piece is what the network gave at once.
const QUEUE: usize = 32;
