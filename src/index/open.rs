//! Opening a layer's index: fetch it, check it against the manifest's annotation, only then parse it.

use std::ops::Range;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{
    Codec, LayerIndex,
    binding::{Binding, Position, SKIPPABLE_HEADER},
    builder::Builder,
    document,
    entry::Document,
    estargz::{self, Footer},
    limits::{MAX_TOC_COMPRESSED, MAX_TOC_JSON},
    zstd_chunked,
};
use crate::{
    error::{Error, Kind, Result},
    oci::Digest,
    source::{BlobSource, BlobStream},
};

/// A layer index whose table of contents has the digest that the manifest names, or that was made of a
/// whole layer with the right DiffID. Only [`open()`], [`build()`](super::build()) and the store of kept
/// indexes make one, so what asks for it cannot be given an index that was not checked:
///
/// ```compile_fail
/// let forged = nacre::index::VerifiedIndex { index: nacre::index::LayerIndex::default() };
/// ```
///
/// ```compile_fail
/// let forged: nacre::index::VerifiedIndex = nacre::index::LayerIndex::default().into();
/// ```
#[derive(Clone, Debug)]
pub struct VerifiedIndex {
    index: LayerIndex,
}

/// An index that was made of a whole layer, and of which layer: what is kept for the next time.
///
/// ```compile_fail
/// let forged: nacre::index::BuiltIndex = nacre::index::LayerIndex::default().into();
/// ```
#[derive(Clone, Debug)]
pub struct BuiltIndex {
    index: LayerIndex,
    subject: Subject,
}

/// Which layer an index that was made here is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Digest of the blob.
    pub blob: Digest,
    /// Its size.
    pub blob_size: u64,
    /// Digest of the tar.
    pub diff_id: Digest,
}

/// Reads and verifies the index of `source`, a plain blob (one that decrypts, for an encrypted layer),
/// that `binding` ties to the manifest.
///
/// One ranged read where the position is known or guessed right, two otherwise; once more from
/// another source, if there is one, when the bytes are not what the manifest names.
///
/// # Errors
/// `Corrupt` if the table of contents is not what the manifest names or the layer has none, `Invalid`
/// if it is malformed or beyond a bound, `Unsupported` for an external table of contents, and what
/// the source says.
pub async fn open(source: &dyn BlobSource, binding: &Binding) -> Result<VerifiedIndex> {
    match open_from(source, binding).await {
        Err(error) if error.kind() == Kind::Corrupt => {
            tracing::warn!(%error, "fetching the index again");
            open_from(&Elsewhere(source), binding).await
        }
        opened => opened,
    }
}

async fn open_from(source: &dyn BlobSource, binding: &Binding) -> Result<VerifiedIndex> {
    let layer = format!("layer {}", source.digest());
    let (json, codec, payload_end) = match binding {
        Binding::Estargz {
            toc_digest,
            toc_offset,
        } => {
            let (json, offset) = estargz_toc(source, toc_digest, *toc_offset)
                .await
                .map_err(|e| e.context(layer.clone()))?;
            (json, Codec::Gzip, offset)
        }
        Binding::ZstdChunked {
            checksum, position, ..
        } => {
            let json = zstd_toc(source, checksum, position)
                .await
                .map_err(|e| e.context(layer.clone()))?;
            (json, Codec::Zstd, position.offset - SKIPPABLE_HEADER)
        }
    };
    let index = parse(&json, codec, payload_end)
        .map_err(|what| Error::invalid(format!("{layer}: table of contents: {what}")))?;
    Ok(VerifiedIndex { index })
}

/// Parses the JSON of a table of contents; `payload_end` is where the data of the layer ends. Pure,
/// and bounded by [`limits`](super::limits).
pub(crate) fn parse(json: &[u8], codec: Codec, payload_end: u64) -> Result<LayerIndex, String> {
    if json.len() as u64 > MAX_TOC_JSON {
        return Err(format!("{} bytes, at most {MAX_TOC_JSON}", json.len()));
    }
    let mut builder = Builder::new(codec, payload_end);
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    serde::de::DeserializeSeed::deserialize(Document(&mut builder), &mut deserializer)
        .and_then(|()| deserializer.end())
        .map_err(|e| e.to_string())?;
    builder.finish()
}

/// Gives the JSON and the offset of the table of contents.
async fn estargz_toc(
    source: &dyn BlobSource,
    digest: &Digest,
    hint: Option<u64>,
) -> Result<(Vec<u8>, u64)> {
    let size = source.size();
    let guess = match hint {
        Some(offset) => size - offset.min(size),
        None => (size / TAIL_SHARE).clamp(TAIL_LEAST, TAIL_MOST),
    };
    let begin = size - guess.min(MAX_TOC_COMPRESSED).min(size);
    let tail = source.read_at(begin..size).await?;
    let (offset, footer_length) = match estargz::footer(&tail) {
        Some(Footer::Toc { offset, length }) => (offset, length),
        Some(Footer::External) => {
            return Err(Error::unsupported(
                "its eStargz table of contents is in another image (external TOC)",
            )
            .with_hint("make an image with its table of contents inside: nacre image convert"));
        }
        None => return Err(Error::corrupt("it has no eStargz footer")),
    };
    let end = size - footer_length;
    if offset >= end {
        return Err(Error::corrupt(format!(
            "its footer puts the table of contents at {offset} of {size} bytes"
        )));
    }
    if end - offset > MAX_TOC_COMPRESSED {
        return Err(Error::invalid(format!(
            "its table of contents has {} bytes compressed, at most {MAX_TOC_COMPRESSED}",
            end - offset
        )));
    }
    let in_tail = |at: u64| usize::try_from(at - begin).unwrap_or(usize::MAX);
    let toc = if offset >= begin {
        tail.slice(in_tail(offset)..in_tail(end))
    } else {
        let mut whole = bytes::BytesMut::from(source.read_at(offset..begin).await?);
        whole.extend_from_slice(&tail[..in_tail(end)]);
        whole.freeze()
    };
    let json = estargz::toc_json(&toc)?;
    if !digest.matches(&json) {
        return Err(Error::corrupt(format!(
            "its table of contents does not have the digest {digest} that the manifest names"
        )));
    }
    Ok((json, offset))
}

async fn zstd_toc(
    source: &dyn BlobSource,
    checksum: &Digest,
    position: &Position,
) -> Result<Vec<u8>> {
    let end = position.offset.saturating_add(position.length);
    let packed = source.read_at(position.offset..end).await?;
    if !checksum.matches(&packed) {
        return Err(Error::corrupt(format!(
            "its table of contents does not have the checksum {checksum} that the manifest names"
        )));
    }
    zstd_chunked::toc_json(&packed, position.uncompressed)
}

/// The tail read ahead: a 64th of the layer holds the table of contents unless its files are tiny...
const TAIL_SHARE: u64 = 64;
/// ... but not less than one read costs anyway ...
const TAIL_LEAST: u64 = 32 << 10;
/// ... nor more than a second round trip costs.
const TAIL_MOST: u64 = 1 << 20;

/// A source whose first bytes turned out wrong.
#[derive(Debug)]
struct Elsewhere<'a>(&'a dyn BlobSource);

// === impl Elsewhere ===

impl BlobSource for Elsewhere<'_> {
    fn digest(&self) -> &Digest {
        self.0.digest()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.0.read_elsewhere(range)
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        self.0.stream()
    }
}

// === impl VerifiedIndex ===

impl VerifiedIndex {
    /// The index.
    #[must_use]
    pub fn get(&self) -> &LayerIndex {
        &self.index
    }

    /// The index by value.
    #[must_use]
    pub fn into_inner(self) -> LayerIndex {
        self.index
    }
}

// === impl BuiltIndex ===

impl BuiltIndex {
    /// Of a layer that was read whole and has the subject's DiffID.
    pub(super) fn new(index: LayerIndex, subject: Subject) -> Self {
        Self { index, subject }
    }

    /// Which layer it is of.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// What is kept of it (docs/formats/kept-index.md).
    #[must_use]
    pub fn document(&self) -> Vec<u8> {
        document::encode(&self.index, &self.subject)
    }

    /// An index out of what [`document`](Self::document) gave, for this layer and no other. Who calls
    /// this answers for its being that document: by a seal, or a place where nobody else writes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn reopen(document: &[u8], subject: &Subject) -> Result<Self, String> {
        let (index, of) = document::parse(document)?;
        if of != *subject {
            return Err(format!("it is of layer {}, DiffID {}", of.blob, of.diff_id));
        }
        Ok(Self { index, subject: of })
    }

    /// The index.
    #[must_use]
    pub fn get(&self) -> &LayerIndex {
        &self.index
    }

    /// The index by value.
    #[must_use]
    pub fn into_index(self) -> LayerIndex {
        self.index
    }
}

impl From<BuiltIndex> for VerifiedIndex {
    fn from(built: BuiltIndex) -> Self {
        Self { index: built.index }
    }
}
