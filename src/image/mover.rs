//! Blobs on their way from one repository to another, as they are.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::BoxFuture};

use super::{How, convert::Platforms};
use crate::{
    error::{Kind, Result},
    oci::{Descriptor, Digest, Location, RegistryReference, media_type},
    source::{BlobContent, BlobSource, BlobStream, Repository, RepositoryWriter, stream_verified},
};

/// Where an image comes from.
#[derive(Clone, Debug)]
pub struct From {
    /// Its repository.
    pub repository: Arc<dyn Repository>,
    /// The image in it.
    pub location: Location,
    /// Its name if it is in a registry, which may have blobs to give to its neighbours.
    pub registry: Option<RegistryReference>,
    /// Which images, if it is an index.
    pub platforms: Platforms,
}

/// How far the work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A layer of so many bytes begins.
    Layer(u64),
    /// So many bytes were read, or need not be.
    Bytes(u64),
}

/// Callback for [`Step`].
pub type OnProgress = Arc<dyn Fn(Step) + Send + Sync>;

/// Moves blobs.
pub(super) struct Mover<'a> {
    pub(super) from: &'a From,
    pub(super) to: &'a dyn RepositoryWriter,
    pub(super) progress: &'a OnProgress,
}

// === impl Mover ===

impl Mover<'_> {
    /// Moves a blob unless it is there. A layer that its publisher keeps elsewhere may be missing.
    pub(super) async fn blob(&self, descriptor: &Descriptor) -> Result<How> {
        if let Some(from) = &self.from.registry
            && self.to.mount_blob(descriptor, from).await?
        {
            (self.progress)(Step::Bytes(descriptor.size));
            return Ok(How::Mounted);
        }
        let source = self.watched(Arc::new(Verified(self.from.repository.blob(descriptor))));
        let put = self.to.put_blob(descriptor, BlobContent::Source(source));
        match put.await {
            Ok(()) => Ok(How::Copied),
            Err(error)
                if error.kind() == Kind::NotFound
                    && media_type::is_nondistributable(&descriptor.media_type) =>
            {
                Ok(How::LeftOut)
            }
            Err(error) => Err(error),
        }
    }

    /// The same blob; what is streamed of it is told.
    pub(super) fn watched(&self, source: Arc<dyn BlobSource>) -> Arc<dyn BlobSource> {
        Arc::new(Watched {
            source,
            progress: Arc::clone(self.progress),
        })
    }
}

/// A blob whose stream ends well only if it is what its digest says.
#[derive(Debug)]
pub(super) struct Verified(pub(super) Arc<dyn BlobSource>);

impl BlobSource for Verified {
    fn digest(&self) -> &Digest {
        self.0.digest()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.0.read_at(range)
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(stream_verified(Arc::clone(&self.0)))
    }
}

struct Watched {
    source: Arc<dyn BlobSource>,
    progress: OnProgress,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.source.fmt(f)
    }
}

impl BlobSource for Watched {
    fn digest(&self) -> &Digest {
        self.source.digest()
    }

    fn size(&self) -> u64 {
        self.source.size()
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.source.read_at(range)
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(async move {
            let progress = Arc::clone(&self.progress);
            let stream = self.source.stream().await?;
            let told = stream.inspect_ok(move |piece| progress(Step::Bytes(piece.len() as u64)));
            Ok(told.boxed())
        })
    }
}
