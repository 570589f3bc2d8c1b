//! Some files of one layer, in memory: nothing of them touches a disk, and nothing is given out before
//! the whole layer has been verified.

use std::path::PathBuf;

use bytes::Bytes;
use tokio::{sync::mpsc, task};

use super::{
    Layer, QUEUE,
    feed::{Feed, Tar},
    send,
};
use crate::{
    error::{Error, Result},
    index::clean_path,
    tar::{TarKind, TarReader, read_error},
};

/// Reads the regular files of `layer` whose path `wanted` accepts, of at most `limit` bytes together.
///
/// # Errors
/// `Corrupt` if the layer is not what the manifest or its DiffID names; `Invalid` if it is no tar
/// archive, or what is wanted is larger; what its source says.
pub async fn collect(
    layer: Layer,
    wanted: impl Fn(&str) -> bool + Send + 'static,
    limit: u64,
) -> Result<Vec<(PathBuf, Bytes)>> {
    let (sender, mut pieces) = mpsc::channel(QUEUE);
    let source = layer.source.clone();
    let reading = task::spawn_blocking(move || {
        let feed = Feed::new(&mut pieces);
        let within = |e: Error| e.context(format!("layer {}", layer.digest));
        let tar = Tar::new(feed, layer.kind.compression, &layer.diff_id);
        let mut archive = TarReader::new(tar.map_err(read_error).map_err(within)?);
        let found = files(&mut archive, &wanted, limit).map_err(within)?;
        let diff_id = Tar::finish(archive.into_inner());
        let diff_id = diff_id.map_err(read_error).map_err(within)?;
        if diff_id != layer.diff_id {
            return Err(Error::corrupt(format!(
                "layer {}: its tar is {diff_id} where the configuration says {}",
                layer.digest, layer.diff_id
            )));
        }
        Ok(found)
    });
    // An error here means that reading ended before; it says why.
    let _ended = send(&*source, &sender, &|_| {}).await;
    drop(sender);
    reading
        .await
        .map_err(|e| Error::internal("reading a layer stopped").with_source(e))?
}

fn files<R: std::io::Read>(
    archive: &mut TarReader<R>,
    wanted: &impl Fn(&str) -> bool,
    limit: u64,
) -> Result<Vec<(PathBuf, Bytes)>> {
    let (mut found, mut total) = (Vec::new(), 0);
    let mut buffer = vec![0; 64 << 10];
    while let Some(entry) = archive.next()? {
        let Some(path) = clean_path(&entry.name)
            .ok()
            .and_then(|path| String::from_utf8(path.into()).ok())
        else {
            continue;
        };
        if entry.kind != TarKind::Regular || !wanted(&path) {
            continue;
        }
        total += entry.size;
        if total > limit || archive.is_sparse() {
            return Err(Error::invalid(format!(
                "{path}: files of more than {limit} bytes, or with holes"
            )));
        }
        let mut bytes = Vec::new();
        while let Some((_, count)) = archive.read_stored(&mut buffer)? {
            bytes.extend_from_slice(&buffer[..count]);
        }
        found.push((path.into(), bytes.into()));
    }
    Ok(found)
}
