//! nacre's own index: what makes an ordinary layer lazy that has no index of its own, attached to the
//! image as an artifact. The format is described in `docs/formats/nacre-index.md`.
//!
//! A [`Part`] is one layer's: a table (files, chunks, checkpoints), which is read whole, and the windows of
//! its checkpoints, which are read when they are needed. Those of an encrypted layer are sealed under its
//! key.

mod artifact;
mod bytes;
mod directory;
mod read;
mod seal;
mod table;
mod windows;
mod write;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

pub(crate) use self::bytes::{Rest, put, put_signed};
pub use self::{
    artifact::{
        ARTIFACT_TYPE, Artifact, Candidate, MAX_TABLES, TABLES, WINDOWS, blobs, candidates,
        of_subject,
    },
    directory::Part,
    seal::IndexKey,
    table::Layer,
};
use self::{directory::Listed, table::MAX_TABLE, windows::Windows};
use super::LayerIndex;
use crate::{
    codec::WindowSource,
    error::{Error, Result},
    oci::{Descriptor, Digest},
    source::BlobSource,
};

/// Tables are written once and read at every mount.
const LEVEL: i32 = 19;

/// An index of one layer as it was found. Nothing in it is trusted that whoever vouches for the
/// artifact does not vouch for.
#[derive(Debug)]
pub struct Found {
    /// What its table says.
    pub layer: Layer,
    /// Whether it was sealed under the layer's key: whoever made it had that.
    pub sealed: bool,
}

/// Makes the part of a layer whose blob, as it is stored, has the digest `blob`; sealed if there is a key.
///
/// # Errors
/// `Internal` if it cannot be compressed, `Unsupported` if the index is of a kind that has no place
/// in it.
pub fn encode(layer: &Layer, blob: &Digest, key: Option<&IndexKey>) -> Result<Part> {
    let mut windows = windows::pack(&layer.index.table.checkpoints.list)?;
    let tag = if key.is_some() { seal::TAG } else { 0 };
    let stored = |window: &Vec<u8>| match window.len() {
        0 => 0,
        length => length + tag,
    };
    let lengths: Vec<usize> = windows.iter().map(stored).collect();
    let plain = write::write(layer, &lengths)
        .map_err(|what| Error::unsupported(format!("layer {blob}: {what}")))?;
    let mut table = zstd::bulk::compress(&plain, LEVEL)
        .map_err(|e| Error::internal("compressing an index").with_source(e))?;
    let mut salt = None;
    if let Some(key) = key {
        let contents = std::iter::once(&table).chain(&windows);
        let own = key.salt(contents.map(Vec::as_slice));
        let sealer = key.sealer(&own);
        table = sealer.seal(0, &table)?;
        windows = windows::seal(&sealer, windows)?;
        salt = Some(own);
    }
    Ok(Part {
        layer: blob.clone(),
        salt,
        table,
        windows: windows.concat(),
    })
}

/// Finds the index of `layer` in a blob of tables; `None` if there is none. `windows` is where its
/// windows are.
///
/// # Errors
/// `Invalid` if the tables are malformed or beyond a bound, `Denied` if they are sealed and there is no
/// key, `Corrupt` if the key does not open them.
pub fn decode(
    tables: &[u8],
    layer: &Descriptor,
    key: Option<&IndexKey>,
    windows: Option<Arc<dyn BlobSource>>,
) -> Result<Option<Found>> {
    let named = |what: String| format!("index of layer {}: {what}", layer.digest);
    let listed = directory::split(tables).map_err(|what| Error::invalid(named(what)))?;
    let Some(listed) = listed.into_iter().find(|it| it.layer == layer.digest) else {
        return Ok(None);
    };
    let Listed { salt, table, .. } = &listed;
    let sealer = match (salt, key) {
        (None, _) => None,
        (Some(salt), Some(key)) => Some(key.sealer(salt)),
        (Some(_), None) => {
            return Err(Error::denied(named(
                "it is sealed, and the layer is not encrypted".into(),
            )));
        }
    };
    let opened = match &sealer {
        None => None,
        Some(sealer) => Some(sealer.open(0, table).ok_or_else(|| {
            Error::corrupt(named("it was not sealed under the layer's key".into()))
        })?),
    };
    let plain = unpack(opened.as_deref().unwrap_or(table))
        .map_err(|what| Error::invalid(named(what.into())))?;
    let read::Read {
        mut layer,
        windows: lengths,
    } = read::read(&plain, layer.size).map_err(|what| Error::invalid(named(what)))?;
    let total: u64 = lengths.iter().map(|it| u64::from(*it)).sum();
    if total != listed.windows.end - listed.windows.start {
        return Err(Error::invalid(named(
            "its windows are not all there".into(),
        )));
    }
    let sealed = sealer.is_some();
    if total > 0 {
        let source = windows.filter(|it| listed.windows.end <= it.size());
        let source =
            source.ok_or_else(|| Error::invalid(named("it has no blob of windows".into())))?;
        let begin = listed.windows.start;
        let windows = Windows::new(listed.layer, source, begin, &lengths, sealer);
        let windows: Arc<dyn WindowSource> = Arc::new(windows);
        layer.index.table.checkpoints.windows = Some(windows).into();
    }
    Ok(Some(Found { layer, sealed }))
}

/// The table of a layer before its compression, as if it had no windows.
///
/// # Errors
/// What has no place in it.
pub fn write_table(layer: &Layer) -> Result<Vec<u8>, String> {
    write::write(layer, &vec![0; layer.index.table.units.len()])
}

/// The blob of tables of these parts.
#[must_use]
pub fn tables(parts: &[Part]) -> Vec<u8> {
    directory::join(parts).0
}

/// How many layers a blob of tables has.
pub(crate) fn layers_of(tables: &[u8]) -> Result<usize, String> {
    directory::split(tables).map(|it| it.len())
}

/// Reads a table before its compression, of a layer whose blob has `size` bytes.
pub(crate) fn parse_table(table: &[u8], size: u64) -> Result<LayerIndex, String> {
    read::read(table, size).map(|it| it.layer.index)
}

/// Whether a blob of tables has an index of this layer.
#[must_use]
pub fn covers(tables: &[u8], layer: &Digest) -> bool {
    directory::split(tables).is_ok_and(|it| it.iter().any(|it| it.layer == *layer))
}

/// Whether all layers in a blob of tables whose keys these are, and no others, have sealed indexes, each
/// under its own layer's key.
///
/// # Errors
/// What is not so.
pub(crate) fn check_seals(tables: &[u8], keys: &HashMap<Digest, IndexKey>) -> Result<(), String> {
    for it in directory::split(tables)? {
        let good = match (&it.salt, keys.get(&it.layer)) {
            (Some(salt), Some(key)) => key.sealer(salt).open(0, it.table).is_some(),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !good {
            return Err(format!(
                "its index of layer {} is not sealed under the layer's key",
                it.layer
            ));
        }
    }
    Ok(())
}

/// The table out of its frame, whose size is looked at first.
fn unpack(frame: &[u8]) -> Result<Vec<u8>, &'static str> {
    let size = zstd::zstd_safe::get_frame_content_size(frame)
        .ok()
        .flatten();
    let size = size.and_then(|it| usize::try_from(it).ok());
    let size = size.filter(|it| *it <= MAX_TABLE);
    let size = size.ok_or("its table is not one, or too long")?;
    let plain = zstd::bulk::decompress(frame, size);
    plain.map_err(|_| "its table is malformed")
}

impl Found {
    /// Its index.
    #[must_use]
    pub fn into_index(self) -> LayerIndex {
        self.layer.index
    }
}
