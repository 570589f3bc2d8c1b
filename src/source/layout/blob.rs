//! Ranges of a blob in a layout directory.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream};

use super::{blob_path, blocking, name};
use crate::{
    error::{Error, Result},
    oci::{Descriptor, Digest},
    source::{BlobSource, BlobStream, Traffic, check_range},
};

/// A blob in a layout directory.
#[derive(Debug)]
pub(super) struct LayoutBlob(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    digest: Digest,
    size: u64,
    file: OnceLock<File>,
    traffic: Arc<Traffic>,
}

/// Bytes of one piece of a stream.
const PIECE: u64 = 256 << 10;

// === impl LayoutBlob ===

impl LayoutBlob {
    pub(super) fn new(root: PathBuf, descriptor: &Descriptor, traffic: Arc<Traffic>) -> Self {
        Self(Arc::new(Inner {
            root,
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            file: OnceLock::new(),
            traffic,
        }))
    }
}

impl BlobSource for LayoutBlob {
    fn digest(&self) -> &Digest {
        &self.0.digest
    }

    fn size(&self) -> u64 {
        self.0.size
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            check_range(self, &range)?;
            if range.is_empty() {
                return Ok(Bytes::new());
            }
            let inner = Arc::clone(&self.0);
            blocking(move || inner.read(&range)).await
        })
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let opened = Arc::clone(&inner);
            blocking(move || opened.file().map(drop)).await?;
            Ok(stream::try_unfold(0, move |next| {
                let inner = Arc::clone(&inner);
                async move {
                    let end = inner.size.min(next + PIECE);
                    if next == end {
                        return Ok(None);
                    }
                    let piece = blocking(move || inner.read(&(next..end))).await?;
                    Ok(Some((piece, end)))
                }
            })
            .boxed())
        })
    }
}

// === impl Inner ===

impl Inner {
    fn what(&self) -> String {
        format!("blob {} of {}", self.digest, name(&self.root))
    }

    /// The open file, whose size has been checked.
    fn file(&self) -> Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = File::open(blob_path(&self.root, &self.digest)).map_err(|error| match error
            .kind()
        {
            io::ErrorKind::NotFound => {
                Error::not_found(format!("no blob {} in {}", self.digest, name(&self.root)))
            }
            _ => Error::io(self.what(), error),
        })?;
        let metadata = file.metadata().map_err(|e| Error::io(self.what(), e))?;
        if !metadata.is_file() {
            return Err(Error::invalid(format!(
                "{}: not a regular file",
                self.what()
            )));
        }
        if metadata.len() != self.size {
            return Err(Error::corrupt(format!(
                "{}: {} bytes where its descriptor says {}",
                self.what(),
                metadata.len(),
                self.size
            )));
        }
        Ok(self.file.get_or_init(|| file))
    }

    fn read(&self, range: &Range<u64>) -> Result<Bytes> {
        let length = usize::try_from(range.end - range.start)
            .map_err(|_| Error::internal("range over usize"))?;
        let file = self.file()?;
        let mut bytes = vec![0; length];
        self.traffic.request();
        file.read_exact_at(&mut bytes, range.start)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    Error::corrupt(format!("{}: ends before byte {}", self.what(), range.end))
                }
                _ => Error::io(self.what(), error),
            })?;
        self.traffic.received(length);
        Ok(bytes.into())
    }
}
