//! Reading a layer whole, once, to see whether it is what its image claims: the blob the manifest
//! names, the tar the configuration names, the files the index names.
//!
//! The index needs its own look: a zstd:chunked table of contents lies outside the tar, so a DiffID
//! says nothing of it, and what is attached to an image is anybody's word. One without digests of files
//! is held against the tar by what its spans decode to.

mod spans;

use std::{
    collections::HashMap,
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures::StreamExt;
use tokio::{sync::mpsc, time::Instant};

use self::spans::{Raw, Spans};
use crate::{
    codec,
    error::{Error, Kind, Result},
    index::{Chunk, ChunkTable, Entry, EntryKind, LayerIndex, Place, clean_path},
    oci::{Digest, Hasher, media_type::Compression},
    source::BlobSource,
    store::{Space, Store, VerifiedChunk},
    tar::{TarEntry, TarKind, TarReader},
};

/// What a layer turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// What its image claims.
    Same,
    /// Something else.
    Other(String),
}

/// Where the chunks of a layer that is checked are kept: what has been fetched need not be fetched again.
#[derive(Clone, Debug)]
pub(crate) struct Keep {
    pub(crate) store: Arc<Store>,
    pub(crate) space: Space,
}

/// Pieces between network and decoder.
const QUEUE: usize = 16;
/// Entries that only lazy formats have: stargz's table of contents and landmarks.
const OF_THE_FORMAT: [&[u8]; 3] = [
    b"stargz.index.json",
    b".prefetch.landmark",
    b".no.prefetch.landmark",
];

/// Streams `blob` (decrypting, and verifying itself) at no more than `rate` bytes a second (0: as it
/// comes) and holds it against `diff_id` and `index`. Chunks that are what the index says are kept.
///
/// # Errors
/// What keeps the layer from being read; then nothing is known of it.
pub(crate) async fn check(
    blob: Arc<dyn BlobSource>,
    compression: Compression,
    diff_id: Digest,
    index: LayerIndex,
    rate: u64,
    keep: Option<Keep>,
) -> Result<Checked> {
    let (send, receive) = mpsc::channel(QUEUE);
    let reading = tokio::task::spawn_blocking(move || {
        let raw = (!index.table.spans.is_empty()).then(Raw::default);
        let feed = Feed {
            pieces: receive,
            current: Bytes::new(),
            ended: false,
            raw: raw.clone(),
        };
        let spans = raw.map(|raw| Spans::new(&index.table, raw));
        let tar = codec::reader(compression, feed)?;
        compare(tar, spans, &diff_id, &index, keep.as_ref())
    });
    let streamed = stream(&*blob, send, rate).await;
    let compared = reading
        .await
        .map_err(|e| Error::internal("checking a layer").with_source(e))?;
    // What the blob's own verification says comes first: after it, a difference is the image's.
    streamed?;
    compared
}

/// Sends the blob piece by piece; to its end even if nobody listens, since only the end says whether
/// it was the blob.
async fn stream(blob: &dyn BlobSource, pieces: mpsc::Sender<Bytes>, rate: u64) -> Result<()> {
    let begin = Instant::now();
    let mut sent = 0u64;
    let mut stream = blob.stream().await?;
    let mut listener = Some(pieces);
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        sent += piece.len() as u64;
        if let Some(pieces) = &listener
            && !piece.is_empty()
            && pieces.send(piece).await.is_err()
        {
            listener = None;
        }
        if let Some(millis) = sent.saturating_mul(1000).checked_div(rate) {
            tokio::time::sleep_until(begin + Duration::from_millis(millis)).await;
        }
    }
    if let Some(pieces) = listener {
        // The reader takes a channel that closes without this for an interruption.
        let _gone = pieces.send(Bytes::new()).await;
    }
    Ok(())
}

/// Holds a tar against its digest and index.
fn compare(
    tar: impl Read,
    spans: Option<Spans<'_>>,
    diff_id: &Digest,
    index: &LayerIndex,
    keep: Option<&Keep>,
) -> Result<Checked> {
    let hashed = Hashed {
        inner: tar,
        hasher: diff_id.hasher(),
        count: 0,
        spans,
    };
    let mut reader = TarReader::new(hashed);
    let difference = files(&mut reader, index, keep);
    let mut hashed = reader.into_inner();
    let drained = io::copy(&mut hashed, &mut io::sink());
    drained.map_err(|e| Error::invalid("layer cannot be decoded").with_source(e))?;
    let found = hashed.hasher.finish();
    if found != *diff_id {
        return Ok(Checked::Other(format!(
            "its tar is {found}, its image claims {diff_id}"
        )));
    }
    let difference = match (difference?, hashed.spans) {
        (None, Some(spans)) => spans.finish(),
        (difference, _) => difference,
    };
    Ok(difference.map_or(Checked::Same, Checked::Other))
}

/// The first difference between a tar's entries and an index's.
fn files<R: Read>(
    tar: &mut TarReader<Hashed<'_, R>>,
    index: &LayerIndex,
    keep: Option<&Keep>,
) -> Result<Option<String>> {
    let mut left: HashMap<&[u8], &Entry> = index.entries.iter().map(|it| (&*it.path, it)).collect();
    while let Some(entry) = tar.next()? {
        let path = clean_path(&entry.name).map_err(Error::invalid)?;
        let differs = |what: &str| {
            let path = String::from_utf8_lossy(&path);
            Ok(Some(format!("{path:?} in its index has another {what}")))
        };
        let Some(listed) = left.remove(&*path) else {
            if entry.kind == TarKind::Directory || OF_THE_FORMAT.contains(&&*path) {
                continue;
            }
            let path = String::from_utf8_lossy(&path);
            return Ok(Some(format!("{path:?} is not in its index")));
        };
        if let Some(what) = difference(&entry, listed) {
            return differs(what);
        }
        if let EntryKind::Regular { chunks, .. } = &listed.kind {
            for chunk in &index.table.chunks[chunks.start as usize..chunks.end as usize] {
                // Which bytes of a span are the chunk's, its digest would tell.
                if let Some(spans) = &tar.input().spans
                    && spans.place(chunk) != Some(tar.input().count)
                {
                    return differs("place");
                }
                let mut bytes = vec![0; chunk.length as usize];
                tar.read_exact(&mut bytes)
                    .map_err(|e| Error::invalid("layer cannot be decoded").with_source(e))?;
                if !is_chunk(&index.table, chunk, bytes, keep) {
                    return differs("content");
                }
            }
        }
    }
    // Directories that an index adds are those on the way to what is there.
    let added = left.values().find(|it| it.kind != EntryKind::Directory);
    Ok(added.map(|it| {
        let path = String::from_utf8_lossy(&it.path);
        format!("{path:?} is in its index, but not in its tar")
    }))
}

/// Whether `bytes`, as many as the chunk has, are the chunk's. If they are, and the index says so by a
/// digest, they are kept.
fn is_chunk(table: &ChunkTable, chunk: &Chunk, bytes: Vec<u8>, keep: Option<&Keep>) -> bool {
    let digested = matches!(chunk.place, Place::Unit { .. }) && table.spans.is_empty();
    let Some(keep) = keep.filter(|_| digested) else {
        return table.verify(chunk, &bytes);
    };
    let digest = table.digest(chunk);
    let verified = VerifiedChunk::check(Bytes::from(bytes), &digest);
    if let Some(verified) = &verified {
        keep.store.put_whole(&keep.space, &digest, verified);
    }
    verified.is_some()
}

fn difference(tar: &TarEntry, listed: &Entry) -> Option<&'static str> {
    let link_to = |target: &[u8]| clean_path(&tar.link).is_ok_and(|link| *link == *target);
    let same_kind = match (&listed.kind, tar.kind) {
        (EntryKind::Regular { size, .. }, TarKind::Regular) => *size == tar.size,
        (EntryKind::Symlink(target), TarKind::Symlink) => **target == *tar.link,
        // A hard link's attributes are those of what it links to.
        (EntryKind::Hardlink(target), TarKind::Hardlink) => {
            return (!link_to(target)).then_some("target");
        }
        (EntryKind::CharDevice { major, minor }, TarKind::CharDevice)
        | (EntryKind::BlockDevice { major, minor }, TarKind::BlockDevice) => {
            tar.device == (*major, *minor)
        }
        (EntryKind::Directory, TarKind::Directory) | (EntryKind::Fifo, TarKind::Fifo) => true,
        _ => false,
    };
    if !same_kind {
        return Some("type, size or target");
    }
    let is_link = tar.kind == TarKind::Symlink;
    if !is_link && tar.mode & 0o7777 != i64::from(listed.mode) {
        return Some("mode");
    }
    if (tar.uid, tar.gid) != (listed.uid, listed.gid) {
        return Some("owner");
    }
    let has = |name: &[u8], value: &[u8]| tar.xattrs.iter().any(|(n, v)| n == name && v == value);
    let invented = listed.xattrs.iter().any(|(name, value)| !has(name, value));
    invented.then_some("extended attribute")
}

/// The blob as a reader; ends at an empty piece.
struct Feed {
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
    ended: bool,
    /// Sees all that is read, too.
    raw: Option<Raw>,
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(bytes) => {
                    self.ended = bytes.is_empty();
                    if let Some(raw) = &self.raw {
                        raw.push(&bytes);
                    }
                    self.current = bytes;
                }
                None => {
                    let error = Error::new(Kind::Unavailable, "the layer's stream broke off");
                    return Err(io::Error::other(error));
                }
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Hashes what is read through it.
struct Hashed<'a, R> {
    inner: R,
    hasher: Hasher,
    /// Bytes so far.
    count: u64,
    spans: Option<Spans<'a>>,
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        if let Some(spans) = &mut self.spans {
            spans.take(&buffer[..count]);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
