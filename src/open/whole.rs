//! Layers for those who read them whole: every byte is checked before the stream ends well.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{
    error::Result,
    oci::Digest,
    source::{BlobSource, BlobStream, PlacedStream, stream_verified},
};

/// A source whose stream ends with an error unless the blob had the digest that the manifest names.
#[derive(Debug)]
pub(super) struct Whole(pub(super) Arc<dyn BlobSource>);

impl BlobSource for Whole {
    fn digest(&self) -> &Digest {
        self.0.digest()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.0.read_at(range)
    }

    fn read_elsewhere(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.0.read_elsewhere(range)
    }

    fn read_pieces(&self, range: Range<u64>) -> BoxFuture<'_, Result<BlobStream>> {
        self.0.read_pieces(range)
    }

    fn read_ranges(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<PlacedStream>> {
        self.0.read_ranges(ranges)
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(stream_verified(Arc::clone(&self.0)))
    }
}
