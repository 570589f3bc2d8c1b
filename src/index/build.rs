//! The index of an ordinary layer, made while the layer is read whole for the first time.
//!
//! The network, the decoder, the DiffID and the files with their chunks each have a thread, with short
//! queues between them: it takes as long as the slowest. What comes out is verified by the DiffID,
//! which covers every byte that the index speaks of.

use std::{
    io::{self, Read},
    sync::Arc,
};

use bytes::{Buf, Bytes};
use crossbeam_channel::{Receiver, Sender, bounded};
use futures::StreamExt;
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{BuiltIndex, ChunkDigest, LayerIndex, Subject, files::Files, limits::MAX_UNITS};
use crate::{
    codec::{Piece, Runs, Walk},
    error::{Error, Kind, Result},
    oci::{Digest, media_type::Compression},
    source::BlobSource,
    tar::{TarReader, read_error},
};

/// Takes a chunk's bytes while the layer is not verified yet, keeps them under their digest and gives
/// that: a BLAKE3.
pub type KeepChunk = Box<dyn FnMut(Bytes) -> ChunkDigest + Send>;

/// What a layer must turn out to be.
#[derive(Clone, Debug)]
pub struct Claim {
    /// How it is compressed.
    pub compression: Compression,
    /// Digest of its tar, as the image's configuration says.
    pub diff_id: Digest,
    /// About how many decompressed bytes lie between checkpoints:
    /// [`DEFAULT_SPACING`](crate::codec::DEFAULT_SPACING) where nothing else is wanted.
    pub spacing: u32,
}

/// Pieces between network and decoder, and of decoded data between decoder and the others.
const QUEUE: usize = 16;

/// Streams `blob` once, holds it against its claim, and gives its index. The stream verifies itself: it
/// must end with an error unless the blob has its digest and, if it is encrypted, its HMAC.
///
/// # Errors
/// What the stream says; `Corrupt` if the tar has not the DiffID or cannot be decoded, `Invalid` if it is
/// malformed, `Unsupported` if an index cannot describe it.
pub async fn build(blob: Arc<dyn BlobSource>, claim: Claim, keep: KeepChunk) -> Result<BuiltIndex> {
    let layer = format!("layer {}", blob.digest());
    let subject = Subject {
        blob: blob.digest().clone(),
        blob_size: blob.size(),
        diff_id: claim.diff_id.clone(),
    };
    let (streamed, read) = read(&*blob, claim, keep).await;
    // What the blob's own verification says comes first, and names the blob: after it, a difference is
    // the image's.
    streamed?;
    read.map(|index| BuiltIndex::new(index, subject))
        .map_err(|e| e.context(layer))
}

/// How the stream ended, and what its reader made of it.
async fn read(
    blob: &dyn BlobSource,
    claim: Claim,
    keep: KeepChunk,
) -> (Result<()>, Result<LayerIndex>) {
    let (send, receive) = mpsc::channel(QUEUE);
    let (to_files, pieces) = bounded(QUEUE);
    let (to_hash, plain) = bounded(QUEUE);
    let begin = (claim.compression, claim.spacing);
    let decoding = spawn_blocking(move || decode(begin, receive, &to_files, &to_hash));
    let hashing = spawn_blocking({
        let mut hasher = claim.diff_id.hasher();
        move || {
            plain.iter().for_each(|bytes: Bytes| hasher.update(&bytes));
            hasher.finish()
        }
    });
    let listing = spawn_blocking(move || list(pieces, keep));
    let streamed = stream(blob, send).await;
    let (decoded, found, listed) = tokio::join!(decoding, hashing, listing);
    let joined = || -> Result<LayerIndex> {
        let gone = |e| Error::internal("a thread that reads a layer").with_source(e);
        // A tar that cannot be listed ends the decoder as well, and not the other way round.
        let listed = listed.map_err(gone)?;
        let runs = match decoded.map_err(gone)? {
            Err(error) if error.kind() == Kind::Internal => return listed.and(Err(error)),
            runs => runs?,
        };
        let found = found.map_err(gone)?;
        if found != claim.diff_id {
            let message = format!("its tar is {found}, its image claims {}", claim.diff_id);
            return Err(Error::corrupt(message));
        }
        listed?.finish(runs)
    };
    (streamed, joined())
}

/// Sends the blob piece by piece; to its end even if nobody listens, since only the end says whether
/// it was the blob.
async fn stream(blob: &dyn BlobSource, pieces: mpsc::Sender<Bytes>) -> Result<()> {
    let mut stream = blob.stream().await?;
    let mut listener = Some(pieces);
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        if let Some(pieces) = &listener
            && !piece.is_empty()
            && pieces.send(piece).await.is_err()
        {
            listener = None;
        }
    }
    if let Some(pieces) = listener {
        // The decoder takes a channel that closes without this for an interruption.
        let _gone = pieces.send(Bytes::new()).await;
    }
    Ok(())
}

fn decode(
    (compression, spacing): (Compression, u32),
    mut blob: mpsc::Receiver<Bytes>,
    files: &Sender<Piece>,
    hash: &Sender<Bytes>,
) -> Result<Runs> {
    let mut walk = Walk::new(compression, spacing)?;
    let nobody = || Error::internal("nobody takes what is decoded");
    let mut sink = |piece: Piece| {
        hash.send(piece.bytes.clone()).map_err(|_| nobody())?;
        files.send(piece).map_err(|_| nobody())
    };
    loop {
        match blob.blocking_recv() {
            Some(piece) if piece.is_empty() => break,
            Some(piece) => walk.push(&piece, &mut sink)?,
            None => return Err(Error::new(Kind::Unavailable, "its stream broke off")),
        }
    }
    let runs = walk.finish(&mut sink)?;
    if runs.units.len() > MAX_UNITS {
        return Err(Error::unsupported(format!(
            "{} runs, at most {MAX_UNITS}",
            runs.units.len()
        )));
    }
    let end = Piece {
        bytes: Bytes::new(),
        run: 0,
    };
    // Who has all it wants may be gone.
    let _gone = files.send(end);
    Ok(runs)
}

fn list(pieces: Receiver<Piece>, keep: KeepChunk) -> Result<Files> {
    let mut tar = TarReader::new(Decoded::new(pieces));
    let mut files = Files::new(keep);
    while let Some(entry) = tar.next()? {
        files
            .add(&mut tar, &entry)
            .map_err(|e| e.context(format!("entry {:?}", shown(&entry.name))))?;
    }
    // What follows the archive counts for the DiffID.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(read_error)?;
    Ok(files)
}

/// The beginning of a name from outside, for a message.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned()
}

/// The decoded layer as a reader that knows where it is.
#[derive(Debug)]
pub(super) struct Decoded {
    pieces: Receiver<Piece>,
    current: Bytes,
    run: u32,
    offset: u64,
    ended: bool,
}

// === impl Decoded ===

impl Decoded {
    fn new(pieces: Receiver<Piece>) -> Self {
        Self {
            pieces,
            current: Bytes::new(),
            run: 0,
            offset: 0,
            ended: false,
        }
    }

    /// The run of the byte that was read last, and the offset in it of the next one. What one call
    /// of `read` gives never lies in two runs.
    pub(super) fn place(&self) -> (u32, u64) {
        (self.run, self.offset)
    }
}

impl Read for Decoded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() && !self.ended {
            let Ok(piece) = self.pieces.recv() else {
                let error = Error::new(Kind::Unavailable, "the layer's stream broke off");
                return Err(io::Error::other(error));
            };
            self.ended = piece.bytes.is_empty();
            if piece.run != self.run {
                (self.run, self.offset) = (piece.run, 0);
            }
            self.current = piece.bytes;
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
