//! One layer on its way: fetched into a file and verified, then rewritten into another.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    path::Path,
};

use futures::StreamExt;

use crate::{
    codec,
    error::{Error, Result},
    image::temporary::Temporary,
    index::write::{WriteOptions, Written, write_layer},
    oci::{Descriptor, Digest, Hasher, media_type},
    source::BlobSource,
};

/// Streams the blob into a file of `directory` and checks its size and digest.
pub(super) async fn fetch(
    source: &dyn BlobSource,
    directory: &Path,
    read: &(dyn Fn(u64) + Send + Sync),
) -> Result<Temporary> {
    let (temporary, mut file) = Temporary::create(directory)?;
    let failed = |e| Error::io(format!("temporary file {}", temporary.path().display()), e);
    let mut hasher = source.digest().hasher();
    let mut stream = source.stream().await?;
    let mut size = 0u64;
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        size += piece.len() as u64;
        if size > source.size() {
            break;
        }
        hasher.update(&piece);
        file.write_all(&piece).map_err(failed)?;
        read(piece.len() as u64);
    }
    if size != source.size() || hasher.finish() != *source.digest() {
        return Err(Error::corrupt("its bytes are not what the manifest names"));
    }
    Ok(temporary)
}

/// Writes the lazy form of a layer that was fetched, and checks its diff id on the way.
pub(super) async fn rewrite(
    layer: &Descriptor,
    diff_id: &Digest,
    fetched: Temporary,
    directory: &Path,
    options: WriteOptions,
) -> Result<(Written, Temporary)> {
    let kind = media_type::layer_kind(&layer.media_type)
        .ok_or_else(|| Error::internal("not a tar layer"))?;
    let (made, out) = Temporary::create(directory)?;
    let diff_id = diff_id.clone();
    tokio::task::spawn_blocking(move || {
        let input = File::open(fetched.path())
            .map_err(|e| Error::io(format!("temporary file {}", fetched.path().display()), e))?;
        let mut tar = Hashed {
            inner: codec::reader(kind.compression, input)?,
            hasher: Some(diff_id.hasher()),
        };
        let written = write_layer(
            BufReader::with_capacity(BUFFER, &mut tar),
            BufWriter::new(out),
            &options,
        )?;
        let got = tar.finish()?;
        if got != diff_id {
            return Err(Error::corrupt(format!(
                "its tar is {got}, the config names {diff_id}"
            )));
        }
        Ok((written, made))
    })
    .await
    .map_err(|e| Error::internal("conversion").with_source(e))?
}

/// Hashes what is read through it.
struct Hashed<R> {
    inner: R,
    hasher: Option<Hasher>,
}

impl<R: Read> Hashed<R> {
    /// The digest of everything there is, read or not.
    fn finish(mut self) -> Result<Digest> {
        std::io::copy(&mut self, &mut std::io::sink())
            .map_err(|e| Error::corrupt("cannot be decoded").with_source(e))?;
        let hasher = self.hasher.take();
        Ok(hasher.unwrap_or_else(Hasher::sha256).finish())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.inner.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..got]);
        }
        Ok(got)
    }
}

const BUFFER: usize = 256 << 10;
