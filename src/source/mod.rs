//! Where bytes come from and go to: blobs, manifests and referrers of one repository.
//!
//! Two small traits, each implemented by a registry (`registry`), an OCI layout directory (`layout`)
//! and, for images that are made or copied, a file of `docker save` (`archive`). Whatever else happens to bytes on the way (retry, decryption, accounting, faults)
//! is a wrapper around them. `tests/source_contract.rs` holds the test suite that every implementation
//! passes.

use std::{fmt, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};

use crate::{
    error::{Error, Result},
    oci::{Descriptor, Digest, Location, RawManifest, RegistryReference},
};

mod access;
pub mod archive;
mod destination;
pub mod layout;
mod place;
mod referrers;
pub mod registry;
mod remembered;
mod traffic;
mod verified;

pub use self::{
    access::Access,
    destination::Destination,
    place::Place,
    remembered::Remembered,
    traffic::{AnswerClass, Traffic, TrafficSnapshot},
    verified::stream_verified,
};

/// A blob's bytes from first to last, in pieces of any size.
pub type BlobStream = BoxStream<'static, Result<Bytes>>;

/// Pieces of any size of a blob, each with its offset.
pub type PlacedStream = BoxStream<'static, Result<(u64, Bytes)>>;

/// Bytes of one blob at an offset. Nothing it returns has been verified.
pub trait BlobSource: Send + Sync + fmt::Debug {
    /// The blob's digest, for messages.
    fn digest(&self) -> &Digest;

    /// Size in bytes, as the descriptor says.
    fn size(&self) -> u64;

    /// Exactly the bytes of `range`.
    ///
    /// # Errors
    /// `Invalid` if `range` is reversed or ends beyond [`size`](Self::size); `Corrupt` if the blob
    /// turns out shorter; `Unavailable`, `Denied`, `NotFound` as the other side says.
    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>>;

    /// The same bytes after those that [`read_at`](Self::read_at) gave turned out wrong: from
    /// somewhere else if there is somewhere else, otherwise read again.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    fn read_elsewhere(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.read_at(range)
    }

    /// The bytes of `range` in pieces of any size as they arrive, so that the first can be used
    /// before the last is there. Ends after exactly the range, or with an error.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at), here or in the stream.
    fn read_pieces(&self, range: Range<u64>) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(async move {
            let bytes = self.read_at(range).await?;
            Ok(stream::once(async move { Ok(bytes) }).boxed())
        })
    }

    /// The bytes of `ranges`, which ascend without overlap: one range after the other, each without a
    /// gap. In one request where the other side answers several ranges at once.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at), here or in the stream.
    fn read_ranges(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<PlacedStream>> {
        Box::pin(async move {
            check_ascending(self.digest(), &ranges)?;
            let mut pieces = Vec::with_capacity(ranges.len());
            for range in ranges {
                pieces.push(Ok((range.start, self.read_at(range).await?)));
            }
            Ok(stream::iter(pieces).boxed())
        })
    }

    /// The whole blob in one stream, which ends after exactly [`size`](Self::size) bytes or with
    /// an error.
    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>>;
}

/// A signature in the form of simple signing that lies beside a repository, not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachedSignature {
    /// Where it was found, for messages.
    pub place: String,
    /// An OpenPGP message, if it is what it should be.
    pub bytes: Bytes,
}

/// Reads manifests, blobs and referrers of one repository.
pub trait Repository: Send + Sync + fmt::Debug {
    /// `host/path` or `oci:DIRECTORY`, for messages.
    fn name(&self) -> String;

    /// A manifest or index. Asked for by digest, the bytes have been checked against it.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable`; `Corrupt` if the bytes do not have the digest asked for;
    /// `Invalid` if larger than 4 MiB.
    fn manifest<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<RawManifest>>;

    /// A source for the blob that `descriptor` names; does no I/O.
    fn blob(&self, descriptor: &Descriptor) -> Arc<dyn BlobSource>;

    /// Descriptors of the manifests that refer to `subject`, by the referrers API or, where the
    /// registry has none, by the fallback tag `sha256-HEX`. Empty if there are none. Nothing here is
    /// trusted.
    fn referrers<'a>(&'a self, subject: &'a Digest) -> BoxFuture<'a, Result<Vec<Descriptor>>>;

    /// GPG signatures of a manifest that lie beside the repository: in the registry's own store of
    /// them or, if it has none, where registries.d says. `None` if no place is known. Nothing here
    /// is trusted.
    ///
    /// # Errors
    /// `Invalid` if registries.d is malformed; `Unavailable`, `Denied`, `Io` as the place says.
    fn signatures<'a>(
        &'a self,
        subject: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<Vec<DetachedSignature>>>> {
        let _ = subject;
        Box::pin(async { Ok(None) })
    }

    /// Requests and bytes so far.
    fn traffic(&self) -> Arc<Traffic>;
}

/// What a blob that is written consists of.
#[derive(Clone, Debug)]
pub enum BlobContent {
    /// In memory.
    Bytes(Bytes),
    /// In a file, read while it is sent.
    File(std::path::PathBuf),
    /// Somewhere else, streamed while it is sent, anew for each try. Nothing is stored if the stream
    /// ends with an error.
    Source(Arc<dyn BlobSource>),
}

/// Writes manifests and blobs into one repository.
pub trait RepositoryWriter: Send + Sync + fmt::Debug {
    /// `host/path` or `oci:DIRECTORY`, for messages.
    fn name(&self) -> String;

    /// Stores a blob unless it is there already. The content has `descriptor`'s digest and size.
    fn put_blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        content: BlobContent,
    ) -> BoxFuture<'a, Result<()>>;

    /// Stores a blob by taking it from another repository of the same registry, which sends no byte
    /// of it. Whether that was done; where it was not, the blob is still to be put.
    ///
    /// # Errors
    /// `Unavailable`, as the registry says.
    fn mount_blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        from: &'a RegistryReference,
    ) -> BoxFuture<'a, Result<bool>> {
        let _ = (descriptor, from);
        Box::pin(async { Ok(false) })
    }

    /// Stores a manifest or index, after what it names has been stored.
    fn put_manifest<'a>(
        &'a self,
        location: &'a Location,
        manifest: &'a RawManifest,
    ) -> BoxFuture<'a, Result<()>>;
}

/// Reads a blob whole into memory and checks its size and digest.
///
/// # Errors
/// `Invalid` if it is larger than `limit`, `Corrupt` if it is not what `descriptor` names, and what
/// the source says.
pub async fn read_verified(
    repository: &dyn Repository,
    descriptor: &Descriptor,
    limit: u64,
) -> Result<Bytes> {
    if descriptor.size > limit {
        return Err(Error::invalid(format!(
            "blob {}: {} bytes, at most {limit} are read",
            descriptor.digest, descriptor.size
        )));
    }
    let source = repository.blob(descriptor);
    let bytes = read_whole(&*source).await?;
    if descriptor.digest.matches(&bytes) {
        return Ok(bytes);
    }
    let bytes = source.read_elsewhere(0..source.size()).await?;
    if descriptor.digest.matches(&bytes) {
        return Ok(bytes);
    }
    Err(Error::corrupt(format!(
        "blob {}: digest mismatch",
        descriptor.digest
    )))
}

/// Descriptor of a manifest, as artifacts that refer to it name it.
///
/// # Errors
/// What the repository says.
pub async fn subject(repository: &dyn Repository, manifest: &Digest) -> Result<Descriptor> {
    let raw = repository
        .manifest(&Location::Digest(manifest.clone()))
        .await?;
    Ok(Descriptor {
        digest: manifest.clone(),
        ..raw.descriptor()
    })
}

/// Collects a source's stream; bounded by its size.
async fn read_whole(source: &dyn BlobSource) -> Result<Bytes> {
    let mut stream = source.stream().await?;
    let mut all = BytesMut::new();
    while let Some(piece) = stream.next().await {
        all.extend_from_slice(&piece?);
        if all.len() as u64 > source.size() {
            break;
        }
    }
    if all.len() as u64 != source.size() {
        return Err(Error::corrupt(format!(
            "blob {}: {} bytes where the descriptor says {}",
            source.digest(),
            all.len(),
            source.size()
        )));
    }
    Ok(all.freeze())
}

/// A blob that is in memory: for small documents and for tests.
#[derive(Debug)]
pub struct MemoryBlob {
    digest: Digest,
    bytes: Bytes,
}

// === impl MemoryBlob ===

impl MemoryBlob {
    /// Names `bytes` by their SHA-256.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self {
            digest: Digest::sha256(&bytes),
            bytes,
        }
    }
}

impl BlobSource for MemoryBlob {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            check_range(self, &range)?;
            let end =
                usize::try_from(range.end).map_err(|_| Error::internal("offset over usize"))?;
            let start =
                usize::try_from(range.start).map_err(|_| Error::internal("offset over usize"))?;
            Ok(self.bytes.slice(start..end))
        })
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        let bytes = self.bytes.clone();
        Box::pin(async move { Ok(stream::once(async move { Ok(bytes) }).boxed()) })
    }
}

/// The check that every `put_blob` begins with: what can be known without reading a file.
async fn check_content(descriptor: &Descriptor, content: &BlobContent) -> Result<()> {
    let digest = &descriptor.digest;
    let size = match content {
        BlobContent::Bytes(bytes) => bytes.len() as u64,
        BlobContent::File(path) => tokio::fs::metadata(path)
            .await
            .map_err(|e| Error::io(format!("blob {digest}: file {}", path.display()), e))?
            .len(),
        BlobContent::Source(source) => source.size(),
    };
    if size != descriptor.size {
        return Err(Error::corrupt(format!(
            "blob {digest}: {size} bytes to write where the descriptor says {}",
            descriptor.size
        )));
    }
    if let BlobContent::Bytes(bytes) = content
        && !digest.matches(bytes)
    {
        return Err(Error::corrupt(format!(
            "blob {digest}: the content to write has another digest"
        )));
    }
    Ok(())
}

/// The check that every `read_at` begins with.
///
/// # Errors
/// `Invalid` if `range` is reversed or ends beyond the blob.
pub fn check_range(source: &dyn BlobSource, range: &Range<u64>) -> Result<()> {
    if range.start > range.end || range.end > source.size() {
        return Err(Error::invalid(format!(
            "blob {}: bytes {}..{} asked of {}",
            source.digest(),
            range.start,
            range.end,
            source.size()
        )));
    }
    Ok(())
}

/// The check that every `read_ranges` begins with.
///
/// # Errors
/// `Invalid` if a range is reversed, ends beyond the blob or begins before the end of the one before.
pub fn check_ranges(source: &dyn BlobSource, ranges: &[Range<u64>]) -> Result<()> {
    for range in ranges {
        check_range(source, range)?;
    }
    check_ascending(source.digest(), ranges)
}

fn check_ascending(blob: &Digest, ranges: &[Range<u64>]) -> Result<()> {
    if ranges.windows(2).any(|pair| pair[1].start < pair[0].end) {
        return Err(Error::invalid(format!(
            "blob {blob}: ranges asked for that do not ascend"
        )));
    }
    Ok(())
}
