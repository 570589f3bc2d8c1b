//! From a layer's stream to the bytes of its tar: a bounded channel into a blocking thread, then the
//! decompressor, then the DiffID over everything that comes out.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read},
};

use bytes::{Buf, Bytes};
use flate2::bufread::MultiGzDecoder;
use tokio::sync::mpsc;

use crate::{
    error::{Error, Kind},
    oci::{Digest, Hasher, media_type::Compression},
    tar::read_error,
};

/// What the sending side says.
#[derive(Debug)]
pub(super) enum Piece {
    /// Bytes of the current layer's blob.
    Bytes(Bytes),
    /// The current layer's stream ended, which means that it is what it claims to be.
    End,
    /// The current layer's stream failed.
    Failed(Error),
}

/// The receiving side: one layer's blob as a reader. An [`Error`] of the sending side travels inside
/// the `io::Error`, see [`read_error`](crate::tar::read_error).
#[derive(Debug)]
pub(super) struct Feed<'a> {
    pieces: &'a mut mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

/// One layer's uncompressed tar; hashes what passes.
pub(super) struct Tar<'a> {
    decoder: Decoder<'a>,
    hasher: Hasher,
    /// Bytes so far.
    length: u64,
}

enum Decoder<'a> {
    None(Feed<'a>),
    Gzip(Box<MultiGzDecoder<Feed<'a>>>),
    Zstd(Box<zstd::Decoder<'static, Feed<'a>>>),
}

/// Uncompressed bytes of one layer: the largest images known are a hundred times smaller, and a
/// decompression bomb ends somewhere.
const MAX_LAYER: u64 = 1 << 40;
/// What is read at once from the decompressor.
const BUFFER: usize = 128 << 10;

// === impl Feed ===

impl<'a> Feed<'a> {
    pub(super) fn new(pieces: &'a mut mpsc::Receiver<Piece>) -> Self {
        Self {
            pieces,
            current: Bytes::new(),
            ended: false,
        }
    }
}

impl Read for Feed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Feed<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.current = bytes,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Failed(error)) => {
                    // What comes next belongs to another layer.
                    self.ended = true;
                    return Err(io::Error::other(error));
                }
                None => {
                    let error = Error::new(Kind::Unavailable, "unpacking was interrupted");
                    return Err(io::Error::other(error));
                }
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, count: usize) {
        self.current.advance(count);
    }
}

// === impl Tar ===

impl<'a> Tar<'a> {
    /// `diff_id` says which algorithm to hash with.
    pub(super) fn new(
        feed: Feed<'a>,
        compression: Compression,
        diff_id: &Digest,
    ) -> io::Result<BufReader<Self>> {
        let decoder = match compression {
            Compression::None => Decoder::None(feed),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(feed))),
            Compression::Zstd => Decoder::Zstd(Box::new(zstd::Decoder::with_buffer(feed)?)),
        };
        let tar = Self {
            decoder,
            hasher: diff_id.hasher(),
            length: 0,
        };
        Ok(BufReader::with_capacity(BUFFER, tar))
    }

    /// Reads the rest of the tar and then of the blob, so that everything there is has been hashed
    /// and verified; gives the digest of the whole tar.
    pub(super) fn finish(mut stream: BufReader<Self>) -> io::Result<Digest> {
        io::copy(&mut stream, &mut io::sink())?;
        let tar = stream.into_inner();
        io::copy(&mut tar.decoder.into_feed(), &mut io::sink())?;
        Ok(tar.hasher.finish())
    }

    /// After the tar turned out bad: reads the rest of the blob to learn whether the blob is at
    /// fault. Whoever verifies it knows better what happened than whoever stumbled over it.
    pub(super) fn blame(stream: BufReader<Self>) -> Option<Error> {
        let mut feed = stream.into_inner().decoder.into_feed();
        io::copy(&mut feed, &mut io::sink()).err().map(read_error)
    }
}

impl Read for Tar<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.decoder {
            Decoder::None(feed) => feed.read(buffer),
            Decoder::Gzip(gzip) => gzip.read(buffer),
            Decoder::Zstd(zstd) => zstd.read(buffer),
        }?;
        self.hasher.update(&buffer[..count]);
        self.length += count as u64;
        if self.length > MAX_LAYER {
            let error = Error::invalid(format!("more than {MAX_LAYER} bytes uncompressed"));
            return Err(io::Error::other(error));
        }
        Ok(count)
    }
}

impl fmt::Debug for Tar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tar")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

// === impl Decoder ===

impl<'a> Decoder<'a> {
    fn into_feed(self) -> Feed<'a> {
        match self {
            Decoder::None(feed) => feed,
            Decoder::Gzip(gzip) => gzip.into_inner(),
            Decoder::Zstd(zstd) => zstd.finish(),
        }
    }
}
