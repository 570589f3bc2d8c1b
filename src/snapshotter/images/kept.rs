//! A repository that keeps what it is asked while an image is opened.
//!
//! What is named by digest is taken from disk wherever it is there. What is named by tag, and lists
//! of referrers, come from the registry when an image is pulled and from disk when it is opened
//! again; see [`Keep`].

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};

use super::keep::{self, Keep};
use crate::{
    error::{Error, Kind, Result},
    oci::{Descriptor, Digest, Location, MAX_MANIFEST, RawManifest, media_type},
    source::{BlobSource, BlobStream, DetachedSignature, PlacedStream, Repository, Traffic},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Kept {
    inner: Arc<dyn Repository>,
    session: Arc<Session>,
}

/// How far what is asked is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mode {
    /// Names are asked of the registry.
    Fresh,
    /// Names are what they were.
    Again,
}

#[derive(Debug)]
struct Session {
    keep: Arc<Keep>,
    mode: Mode,
    /// How many want disk to be looked at and written to.
    opening: AtomicUsize,
    used: Mutex<BTreeSet<String>>,
}

/// See [`Kept::opening`].
#[derive(Debug)]
pub(super) struct Opening(Arc<Session>);

#[derive(Debug)]
struct KeptBlob {
    inner: Arc<dyn BlobSource>,
    session: Arc<Session>,
    fetched: Arc<AtomicU64>,
    /// Read whole it is too much to be kept, however small.
    is_layer: bool,
}

/// Largest blob that is kept whole: configurations and signatures, as large as their readers take.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Largest run that is kept: the largest table of contents with its footer.
const MAX_RANGE: u64 = 97 << 20;

// === impl Kept ===

impl Kept {
    pub(super) fn new(inner: Arc<dyn Repository>, keep: Arc<Keep>, mode: Mode) -> Arc<Self> {
        let session = Session {
            keep,
            mode,
            opening: AtomicUsize::new(0),
            used: Mutex::default(),
        };
        Arc::new(Self {
            inner,
            session: Arc::new(session),
        })
    }

    /// The repository itself.
    pub(super) fn direct(&self) -> &Arc<dyn Repository> {
        &self.inner
    }

    /// Disk is looked at and written to as long as this lives; else blobs come straight from the
    /// registry.
    pub(super) fn opening(&self) -> Opening {
        self.session.opening.fetch_add(1, Ordering::Relaxed);
        Opening(Arc::clone(&self.session))
    }

    /// Names of the files that were read or written.
    pub(super) fn used(&self) -> BTreeSet<String> {
        let used = self.session.used.lock();
        used.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the runs of a blob that are kept, since one of them is not what it should be.
    pub(super) fn forget_ranges(&self, blob: &Digest) {
        let keep = &self.session.keep;
        let ranges = keep.ranges(blob);
        let names = ranges.iter().map(|run| keep::range_name(blob, run));
        names.for_each(|name| keep.forget(&name));
    }

    /// Whether any run of a blob is kept.
    pub(super) fn has_ranges(&self, blob: &Digest) -> bool {
        !self.session.keep.ranges(blob).is_empty()
    }

    async fn by_digest(&self, digest: &Digest, location: &Location) -> Result<RawManifest> {
        let name = keep::document_name("manifests", digest);
        let kept = self.session.read(&name, MAX_MANIFEST + 1024);
        if let Some(manifest) = kept.and_then(|it| from_file(&it))
            && digest.matches(&manifest.bytes)
        {
            let digest = digest.clone();
            return Ok(RawManifest { digest, ..manifest });
        }
        let manifest = self.inner.manifest(location).await?;
        self.session.write(&name, &to_file(&manifest));
        Ok(manifest)
    }

    async fn by_tag(&self, tag: &str, location: &Location) -> Result<RawManifest> {
        let name = keep::answer_name(&self.inner.name(), &format!("tag {tag}"));
        let missing = || Error::not_found(format!("{}: tag {tag} (as kept)", self.name()));
        let kept = || -> Option<Result<RawManifest>> {
            let file = self.session.read(&name, MAX_MANIFEST + 1024)?;
            Some(from_file(&file).ok_or_else(missing))
        };
        if self.session.mode == Mode::Again
            && let Some(answer) = kept()
        {
            return answer;
        }
        match self.inner.manifest(location).await {
            Ok(manifest) => {
                self.session.write(&name, &to_file(&manifest));
                Ok(manifest)
            }
            Err(error) if error.kind() == Kind::NotFound => {
                self.session.write(&name, b"");
                Err(error)
            }
            Err(error) if error.kind() == Kind::Unavailable => kept().unwrap_or(Err(error)),
            Err(error) => Err(error),
        }
    }

    /// GPG's signatures, kept as places and bytes.
    async fn beside(&self, subject: &Digest) -> Result<Option<Vec<DetachedSignature>>> {
        type File = Option<Vec<(String, Vec<u8>)>>;
        let name = keep::answer_name(&self.inner.name(), &format!("signatures {subject}"));
        let kept = || -> Option<Option<Vec<DetachedSignature>>> {
            let file = self.session.read(&name, MAX_DOCUMENT)?;
            let found: File = serde_json::from_slice(&file).ok()?;
            let signature = |(place, bytes): (String, Vec<u8>)| DetachedSignature {
                place,
                bytes: bytes.into(),
            };
            Some(found.map(|all| all.into_iter().map(signature).collect()))
        };
        if self.session.mode == Mode::Again
            && let Some(answer) = kept()
        {
            return Ok(answer);
        }
        match self.inner.signatures(subject).await {
            Ok(found) => {
                let file: File = found.as_ref().map(|all| {
                    let pair = |it: &DetachedSignature| (it.place.clone(), it.bytes.to_vec());
                    all.iter().map(pair).collect()
                });
                if let Ok(text) = serde_json::to_vec(&file) {
                    self.session.write(&name, &text);
                }
                Ok(found)
            }
            Err(error) if error.kind() == Kind::Unavailable => kept().ok_or(error),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let name = keep::answer_name(&self.inner.name(), &format!("referrers {subject}"));
        let kept = || -> Option<Vec<Descriptor>> {
            serde_json::from_slice(&self.session.read(&name, MAX_DOCUMENT)?).ok()
        };
        if self.session.mode == Mode::Again
            && let Some(answer) = kept()
        {
            return Ok(answer);
        }
        match self.inner.referrers(subject).await {
            Ok(list) => {
                if let Ok(text) = serde_json::to_vec(&list) {
                    self.session.write(&name, &text);
                }
                Ok(list)
            }
            Err(error) if error.kind() == Kind::Unavailable => kept().ok_or(error),
            Err(error) => Err(error),
        }
    }
}

impl Repository for Kept {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn manifest<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<RawManifest>> {
        Box::pin(async move {
            match location {
                Location::Digest(digest) => self.by_digest(digest, location).await,
                Location::Tag(tag) => self.by_tag(tag, location).await,
            }
        })
    }

    fn blob(&self, descriptor: &Descriptor) -> Arc<dyn BlobSource> {
        Arc::new(KeptBlob {
            inner: self.inner.blob(descriptor),
            session: Arc::clone(&self.session),
            fetched: self.session.keep.fetched(&descriptor.digest),
            is_layer: media_type::layer_kind(&descriptor.media_type).is_some(),
        })
    }

    fn referrers<'a>(&'a self, subject: &'a Digest) -> BoxFuture<'a, Result<Vec<Descriptor>>> {
        Box::pin(self.list(subject))
    }

    fn signatures<'a>(
        &'a self,
        subject: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<Vec<DetachedSignature>>>> {
        Box::pin(self.beside(subject))
    }

    fn traffic(&self) -> Arc<Traffic> {
        self.inner.traffic()
    }
}

// === impl Session ===

impl Session {
    fn is_opening(&self) -> bool {
        self.opening.load(Ordering::Relaxed) > 0
    }

    fn read(&self, name: &str, limit: u64) -> Option<Vec<u8>> {
        let bytes = self.keep.read(name, limit)?;
        self.note(name);
        Some(bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        self.keep.write(name, bytes);
        self.note(name);
    }

    fn note(&self, name: &str) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(name.to_owned());
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.opening.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl KeptBlob ===

impl KeptBlob {
    /// The bytes of `range`, if a kept run holds them all.
    fn kept(&self, range: &Range<u64>) -> Option<Bytes> {
        let runs = self.session.keep.ranges(self.inner.digest());
        let run = runs
            .into_iter()
            .find(|run| run.start <= range.start && range.end <= run.end)?;
        let name = keep::range_name(self.inner.digest(), &run);
        let bytes = Bytes::from(self.session.read(&name, MAX_RANGE)?);
        let start = usize::try_from(range.start - run.start).ok()?;
        let end = usize::try_from(range.end - run.start).ok()?;
        (bytes.len() as u64 == run.end - run.start).then(|| bytes.slice(start..end))
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        if self.session.is_opening()
            && let Some(bytes) = self.kept(&range)
        {
            return Ok(bytes);
        }
        let bytes = self.inner.read_at(range.clone()).await?;
        self.fetched(&range, &bytes);
        Ok(bytes)
    }

    /// Counts bytes that were fetched, and keeps them while the image is opened.
    fn fetched(&self, range: &Range<u64>, bytes: &Bytes) {
        self.fetched
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if self.session.is_opening() && bytes.len() as u64 <= MAX_RANGE {
            let name = keep::range_name(self.inner.digest(), range);
            self.session.write(&name, bytes);
        }
    }

    async fn whole(&self) -> Result<BlobStream> {
        if !self.session.is_opening() || self.is_layer || self.size() > MAX_DOCUMENT {
            let fetched = Arc::clone(&self.fetched);
            let counted = self.inner.stream().await?.inspect_ok(move |piece| {
                fetched.fetch_add(piece.len() as u64, Ordering::Relaxed);
            });
            return Ok(counted.boxed());
        }
        let name = keep::document_name("blobs", self.digest());
        let kept = self.session.read(&name, MAX_DOCUMENT);
        if let Some(bytes) = kept.filter(|bytes| self.digest().matches(bytes)) {
            return Ok(once(Bytes::from(bytes)));
        }
        let mut pieces = self.inner.stream().await?;
        let mut all = bytes::BytesMut::new();
        while let Some(piece) = pieces.next().await {
            all.extend_from_slice(&piece?);
            if all.len() as u64 > self.size() {
                // More than there can be: the reader of the stream says so.
                break;
            }
        }
        let all = all.freeze();
        if self.digest().matches(&all) {
            self.session.write(&name, &all);
        }
        Ok(once(all))
    }
}

impl BlobSource for KeptBlob {
    fn digest(&self) -> &Digest {
        self.inner.digest()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(self.read(range))
    }

    /// What is kept is what turned out wrong, so it is not looked at.
    fn read_elsewhere(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            let bytes = self.inner.read_elsewhere(range.clone()).await?;
            self.fetched(&range, &bytes);
            Ok(bytes)
        })
    }

    fn read_pieces(&self, range: Range<u64>) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(async move {
            if self.session.is_opening() {
                let bytes = self.read(range).await?;
                return Ok(once(bytes));
            }
            let fetched = Arc::clone(&self.fetched);
            let pieces = self.inner.read_pieces(range).await?;
            let counted = pieces.inspect_ok(move |piece| {
                fetched.fetch_add(piece.len() as u64, Ordering::Relaxed);
            });
            Ok(counted.boxed())
        })
    }

    fn read_ranges(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<PlacedStream>> {
        Box::pin(async move {
            let fetched = Arc::clone(&self.fetched);
            let pieces = self.inner.read_ranges(ranges).await?;
            let counted = pieces.inspect_ok(move |(_, piece)| {
                fetched.fetch_add(piece.len() as u64, Ordering::Relaxed);
            });
            Ok(counted.boxed())
        })
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(self.whole())
    }
}

fn once(bytes: Bytes) -> BlobStream {
    stream::once(async move { Ok(bytes) }).boxed()
}

/// The media type in the first line, then the document.
fn to_file(manifest: &RawManifest) -> Vec<u8> {
    [manifest.media_type.as_bytes(), b"\n", &manifest.bytes].concat()
}

/// Named by its SHA-256; `None` of the empty file, which says that there is no such manifest.
fn from_file(file: &[u8]) -> Option<RawManifest> {
    let end = file.iter().position(|byte| *byte == b'\n')?;
    let media_type = std::str::from_utf8(&file[..end]).ok()?;
    let bytes = Bytes::copy_from_slice(&file[end + 1..]);
    Some(RawManifest::new(media_type, bytes))
}
