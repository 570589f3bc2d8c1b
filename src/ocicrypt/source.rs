//! Decryption as a wrapper around a blob source.
//!
//! A range is decrypted where it lies; it is authentic only as far as somebody above checks it (the
//! chunk's digest). A stream is authenticated: its last bytes are given only after the HMAC agrees. The
//! digest that was wrapped with the key is not looked at: the HMAC has told already that these are the
//! bytes that were encrypted, and skopeo wraps the digest of a blob that it then compresses.

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};

use super::{Authenticator, LayerCipher};
use crate::{
    error::{Error, Result},
    keys::LayerKey,
    oci::Digest,
    source::{BlobSource, BlobStream, PlacedStream},
};

/// The plain blob of an encrypted blob. Offsets and size are the same: the cipher is CTR.
#[derive(Debug)]
pub struct DecryptingSource {
    ciphertext: Arc<dyn BlobSource>,
    key: LayerKey,
    cipher: LayerCipher,
}

/// A stream under way.
struct Reading {
    ciphertext: BlobStream,
    cipher: LayerCipher,
    /// What decides about the whole blob.
    authenticator: Option<Authenticator>,
    offset: u64,
    size: u64,
    digest: Digest,
}

/// Reads the whole ciphertext once and checks its HMAC.
///
/// # Errors
/// `Corrupt` if the blob is not what was encrypted, and what the source says.
pub async fn authenticate(ciphertext: &dyn BlobSource, key: &LayerKey) -> Result<()> {
    let mut authenticator = Authenticator::of(key);
    let mut stream = ciphertext.stream().await?;
    let mut size = 0;
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        size += piece.len() as u64;
        authenticator.update(&piece);
    }
    if size != ciphertext.size() {
        return Err(wrong_size(ciphertext.digest(), size, ciphertext.size()));
    }
    if authenticator.verify() {
        Ok(())
    } else {
        Err(hmac_mismatch(ciphertext.digest()))
    }
}

// === impl DecryptingSource ===

impl DecryptingSource {
    /// Decrypts what `ciphertext` gives.
    #[must_use]
    #[allow(clippy::new_ret_no_self)]
    pub fn new(ciphertext: Arc<dyn BlobSource>, key: &LayerKey) -> Arc<dyn BlobSource> {
        Arc::new(Self {
            ciphertext,
            key: key.clone(),
            cipher: LayerCipher::of(key),
        })
    }
}

impl DecryptingSource {
    fn plain(&self, offset: u64, ciphertext: Bytes) -> Bytes {
        let mut bytes = unshared(ciphertext);
        self.cipher.apply(offset, &mut bytes);
        bytes.freeze()
    }
}

impl BlobSource for DecryptingSource {
    fn digest(&self) -> &Digest {
        self.ciphertext.digest()
    }

    fn size(&self) -> u64 {
        self.ciphertext.size()
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            let offset = range.start;
            Ok(self.plain(offset, self.ciphertext.read_at(range).await?))
        })
    }

    fn read_elsewhere(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            let offset = range.start;
            Ok(self.plain(offset, self.ciphertext.read_elsewhere(range).await?))
        })
    }

    fn read_pieces(&self, range: Range<u64>) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(async move {
            let (cipher, mut offset) = (self.cipher.clone(), range.start);
            let pieces = self.ciphertext.read_pieces(range).await?;
            let plain = pieces.map_ok(move |piece| {
                let mut bytes = unshared(piece);
                cipher.apply(offset, &mut bytes);
                offset += bytes.len() as u64;
                bytes.freeze()
            });
            Ok(plain.boxed())
        })
    }

    fn read_ranges(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<PlacedStream>> {
        Box::pin(async move {
            let cipher = self.cipher.clone();
            let pieces = self.ciphertext.read_ranges(ranges).await?;
            let plain = pieces.map_ok(move |(offset, piece)| {
                let mut bytes = unshared(piece);
                cipher.apply(offset, &mut bytes);
                (offset, bytes.freeze())
            });
            Ok(plain.boxed())
        })
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(async move {
            let reading = Reading {
                ciphertext: self.ciphertext.stream().await?,
                cipher: self.cipher.clone(),
                authenticator: Some(Authenticator::of(&self.key)),
                offset: 0,
                size: self.size(),
                digest: self.digest().clone(),
            };
            Ok(stream::try_unfold(reading, Reading::next).boxed())
        })
    }
}

// === impl Reading ===

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        let Some(piece) = self.ciphertext.next().await else {
            if self.offset != self.size {
                return Err(wrong_size(&self.digest, self.offset, self.size));
            }
            // Still here only if the blob is empty.
            self.decide()?;
            return Ok(None);
        };
        let piece = piece?;
        let end = self.offset + piece.len() as u64;
        if end > self.size {
            return Err(wrong_size(&self.digest, end, self.size));
        }
        if let Some(authenticator) = &mut self.authenticator {
            authenticator.update(&piece);
        }
        let mut bytes = unshared(piece);
        self.cipher.apply(self.offset, &mut bytes);
        self.offset = end;
        if end == self.size {
            // Before the last piece is given, so that nobody has the whole without the verdict.
            self.decide()?;
        }
        Ok(Some((bytes.freeze(), self)))
    }

    fn decide(&mut self) -> Result<()> {
        match self.authenticator.take() {
            Some(authenticator) => match authenticator.verify() {
                true => Ok(()),
                false => Err(hmac_mismatch(&self.digest)),
            },
            None => Ok(()),
        }
    }
}

/// The same bytes, writable; copied only if somebody else holds them too.
fn unshared(bytes: Bytes) -> BytesMut {
    bytes
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}

fn hmac_mismatch(digest: &Digest) -> Error {
    Error::corrupt(format!(
        "layer {digest}: HMAC mismatch: the blob is not what was encrypted"
    ))
}

fn wrong_size(digest: &Digest, got: u64, want: u64) -> Error {
    Error::corrupt(format!(
        "layer {digest}: {got} bytes where the descriptor says {want}"
    ))
}

#[cfg(test)]
mod tests;
