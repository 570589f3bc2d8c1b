//! Reads one image of an archive. Archives name layers by path and not by digest, so that opening one
//! reads it once, to the end.

use std::{
    collections::HashMap,
    fs::File,
    io::{Seek, SeekFrom},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream};

use super::{Item, MANIFEST};
use crate::{
    error::{Error, Result},
    oci::{
        Descriptor, Digest, Hasher, ImageConfig, Location, RawManifest, RegistryReference,
        media_type,
    },
    source::{BlobSource, BlobStream, Repository, Traffic, check_range},
};

/// One image of an archive. Its manifest is made here, from what the archive holds; the same archive
/// gives the same.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    file: Arc<File>,
    manifest: RawManifest,
    /// Where blobs are in the file.
    places: HashMap<Digest, Range<u64>>,
    traffic: Arc<Traffic>,
}

/// What an entry of the tar is.
enum Entry {
    At(Range<u64>),
    Link(String),
}

/// Most entries that are looked at: three for each of a thousand layers, many times over.
const MAX_ENTRIES: usize = 100_000;
/// Largest `manifest.json` or configuration.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Most layers of an image.
const MAX_LAYERS: usize = 4096;
/// Most links from one name to the next.
const MAX_HOPS: usize = 8;
/// Bytes read at a time.
const PIECE: u64 = 256 << 10;

// === impl Archive ===

impl Archive {
    /// The image called `name` in the archive `path`, or its only one.
    ///
    /// # Errors
    /// `NotFound` if there is no such file or image, `Invalid` if it is no archive or has several
    /// images and none is named, `Unsupported` if it is compressed, `Corrupt` if a layer is not what
    /// the configuration says.
    pub async fn open(path: &Path, name: Option<&RegistryReference>) -> Result<Self> {
        let (path, name) = (path.to_owned(), name.cloned());
        tokio::task::spawn_blocking(move || {
            open(&path, name.as_ref()).map_err(|e| e.context(said(&path)))
        })
        .await
        .map_err(|e| Error::internal("file work ended early").with_source(e))?
    }

    /// Where the image is.
    #[must_use]
    pub fn location(&self) -> Location {
        Location::Digest(self.manifest.digest.clone())
    }
}

impl Repository for Archive {
    fn name(&self) -> String {
        said(&self.path)
    }

    fn manifest<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<RawManifest>> {
        Box::pin(async move {
            match location {
                Location::Digest(digest) if *digest != self.manifest.digest => Err(
                    Error::not_found(format!("no manifest {digest} in {}", said(&self.path))),
                ),
                _ => Ok(self.manifest.clone()),
            }
        })
    }

    fn blob(&self, descriptor: &Descriptor) -> Arc<dyn BlobSource> {
        Arc::new(ArchiveBlob {
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            file: Arc::clone(&self.file),
            place: self.places.get(&descriptor.digest).cloned(),
            archive: said(&self.path),
            traffic: Arc::clone(&self.traffic),
        })
    }

    fn referrers<'a>(&'a self, _subject: &'a Digest) -> BoxFuture<'a, Result<Vec<Descriptor>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }
}

fn said(path: &Path) -> String {
    format!("docker-archive:{}", path.display())
}

fn open(path: &Path, name: Option<&RegistryReference>) -> Result<Archive> {
    let mut file = File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found("no such file"),
        _ => Error::io("cannot be opened", e),
    })?;
    let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !regular {
        return Err(Error::invalid("not a regular file"));
    }
    if !matches!(compression(&file, 0)?, media_type::Compression::None) {
        return Err(Error::unsupported("the archive is compressed")
            .with_hint("decompress it first: docker load does the same, unseen"));
    }
    let entries = entries(&mut file)?;
    let items = document(&file, &entries, MANIFEST)?;
    let items: Vec<Item> =
        serde_json::from_slice(&items).map_err(|e| Error::invalid(format!("{MANIFEST}: {e}")))?;
    let item = choose(&items, name)?;
    if item.layers.len() > MAX_LAYERS {
        return Err(Error::invalid(format!("over {MAX_LAYERS} layers")));
    }
    let config = document(&file, &entries, &item.config)?;
    let parsed: ImageConfig = serde_json::from_slice(&config)
        .map_err(|e| Error::invalid(format!("configuration {}: {e}", item.config)))?;
    if parsed.rootfs.diff_ids.len() != item.layers.len() {
        return Err(Error::invalid(format!(
            "configuration {}: {} diff ids for {} layers",
            item.config,
            parsed.rootfs.diff_ids.len(),
            item.layers.len()
        )));
    }
    let mut places = HashMap::new();
    let mut layers = Vec::new();
    for (layer, diff_id) in item.layers.iter().zip(&parsed.rootfs.diff_ids) {
        let place = find(&entries, layer)?;
        let kind = compression(&file, place.start)?;
        let digest = digest_of(&file, &place, diff_id, kind)
            .map_err(|e| e.context(format!("layer {layer}")))?;
        layers.push(Descriptor {
            digest: digest.clone(),
            size: place.end - place.start,
            ..Descriptor::of(
                match kind {
                    media_type::Compression::None => media_type::OCI_LAYER_TAR,
                    media_type::Compression::Gzip => media_type::OCI_LAYER_GZIP,
                    media_type::Compression::Zstd => media_type::OCI_LAYER_ZSTD,
                },
                b"",
            )
        });
        places.insert(digest, place);
    }
    let config = Descriptor::of(media_type::OCI_CONFIG, &config);
    places.insert(config.digest.clone(), find(&entries, &item.config)?);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": config,
        "layers": layers,
    });
    Ok(Archive {
        path: path.to_owned(),
        file: Arc::new(file),
        manifest: RawManifest::new(media_type::OCI_MANIFEST, manifest.to_string().into()),
        places,
        traffic: Arc::default(),
    })
}

/// Names of the tar and where their bytes are.
fn entries(file: &mut File) -> Result<HashMap<String, Entry>> {
    let malformed = |e: std::io::Error| Error::invalid("not a tar archive").with_source(e);
    file.seek(SeekFrom::Start(0)).map_err(malformed)?;
    let length = file.metadata().map_err(malformed)?.len();
    let mut archive = tar::Archive::new(&*file);
    let mut found = HashMap::new();
    for entry in archive.entries_with_seek().map_err(malformed)? {
        let entry = entry.map_err(malformed)?;
        let path = entry.path().map_err(malformed)?;
        let Some(name) = cleaned(&path) else {
            continue;
        };
        let kind = entry.header().entry_type();
        let what = if kind.is_file() {
            let start = entry.raw_file_position();
            let end = start.saturating_add(entry.size());
            if end > length {
                return Err(Error::corrupt(format!(
                    "{name}: the archive ends before it"
                )));
            }
            Entry::At(start..end)
        } else if kind.is_symlink() {
            let Some(target) = entry.link_name().map_err(malformed)? else {
                continue;
            };
            // As docker 1.10 to 24 wrote layers that several images have.
            let base = Path::new(&name).parent().unwrap_or(Path::new(""));
            match cleaned(&base.join(target)) {
                Some(target) => Entry::Link(target),
                None => continue,
            }
        } else {
            continue;
        };
        if found.len() == MAX_ENTRIES {
            return Err(Error::invalid(format!("over {MAX_ENTRIES} files")));
        }
        found.insert(name, what);
    }
    if found.is_empty() {
        return Err(Error::invalid("not a tar archive, or an empty one"));
    }
    Ok(found)
}

/// A path without `.` and `..`; `None` if it leads out of the archive.
fn cleaned(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn find(entries: &HashMap<String, Entry>, name: &str) -> Result<Range<u64>> {
    let mut at = cleaned(Path::new(name));
    for _ in 0..MAX_HOPS {
        match at.as_ref().and_then(|name| entries.get(name)) {
            Some(Entry::At(place)) => return Ok(place.clone()),
            Some(Entry::Link(target)) => at = Some(target.clone()),
            None => break,
        }
    }
    Err(Error::invalid(format!("no file {name} in it")))
}

fn document(file: &File, entries: &HashMap<String, Entry>, name: &str) -> Result<Bytes> {
    let place = find(entries, name).map_err(|e| {
        e.with_hint("want an archive as docker save, podman save or skopeo copy make it")
    })?;
    let length = place.end - place.start;
    if length > MAX_DOCUMENT {
        return Err(Error::invalid(format!(
            "{name}: {length} bytes, at most {MAX_DOCUMENT} are read"
        )));
    }
    read(file, &place).map_err(|e| Error::io(name.to_owned(), e))
}

fn choose<'a>(items: &'a [Item], name: Option<&RegistryReference>) -> Result<&'a Item> {
    let tags = |item: &'a Item| item.repo_tags.as_deref().unwrap_or_default();
    let names = || {
        let all: Vec<&str> = items.iter().flat_map(tags).map(String::as_str).collect();
        if all.is_empty() {
            "none".to_owned()
        } else {
            all.join(", ")
        }
    };
    match (name, items) {
        (_, []) => Err(Error::not_found("no image in it")),
        (None, [only]) => Ok(only),
        (None, _) => Err(
            Error::invalid(format!("{} images in it: {}", items.len(), names()))
                .with_hint("name one: docker-archive:FILE:REFERENCE"),
        ),
        (Some(name), _) => items
            .iter()
            .find(|item| {
                tags(item)
                    .iter()
                    .any(|tag| tag.parse().ok().as_ref() == Some(name))
            })
            .ok_or_else(|| Error::not_found(format!("no image {name} in it; it has {}", names()))),
    }
}

/// What the bytes at `offset` begin with.
fn compression(file: &File, offset: u64) -> Result<media_type::Compression> {
    let mut magic = [0; 4];
    let mut have = 0;
    while have < magic.len() {
        match file.read_at(&mut magic[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(read) => have += read,
            Err(error) => return Err(Error::io("cannot be read", error)),
        }
    }
    Ok(match magic {
        [0x1f, 0x8b, ..] => media_type::Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => media_type::Compression::Zstd,
        _ => media_type::Compression::None,
    })
}

/// The blob's digest; an uncompressed one must be the diff id.
fn digest_of(
    file: &File,
    place: &Range<u64>,
    diff_id: &Digest,
    kind: media_type::Compression,
) -> Result<Digest> {
    let plain = kind == media_type::Compression::None;
    let mut hasher = match plain {
        true => diff_id.hasher(),
        false => Hasher::sha256(),
    };
    let mut at = place.start;
    while at < place.end {
        let end = place.end.min(at + PIECE);
        let piece = read(file, &(at..end)).map_err(|e| Error::io("cannot be read", e))?;
        hasher.update(&piece);
        at = end;
    }
    let digest = hasher.finish();
    if plain && digest != *diff_id {
        return Err(Error::corrupt(format!(
            "its digest is {digest}, the configuration says {diff_id}"
        )));
    }
    Ok(digest)
}

fn read(file: &File, place: &Range<u64>) -> std::io::Result<Bytes> {
    let length = usize::try_from(place.end - place.start).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, place.start)?;
    Ok(bytes.into())
}

/// A blob in an archive.
#[derive(Clone, Debug)]
struct ArchiveBlob {
    digest: Digest,
    size: u64,
    file: Arc<File>,
    place: Option<Range<u64>>,
    archive: String,
    traffic: Arc<Traffic>,
}

// === impl ArchiveBlob ===

impl ArchiveBlob {
    /// Where it begins in the file.
    fn start(&self) -> Result<u64> {
        let what = || format!("blob {} in {}", self.digest, self.archive);
        match &self.place {
            None => Err(Error::not_found(format!("no {}", what()))),
            Some(place) if place.end - place.start != self.size => Err(Error::corrupt(format!(
                "{}: {} bytes where its descriptor says {}",
                what(),
                place.end - place.start,
                self.size
            ))),
            Some(place) => Ok(place.start),
        }
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let start = self.start()?;
        let (this, place) = (self.clone(), start + range.start..start + range.end);
        tokio::task::spawn_blocking(move || {
            this.traffic.request();
            let what = format!("blob {} in {}", this.digest, this.archive);
            let bytes = read(&this.file, &place).map_err(|e| Error::io(what, e))?;
            this.traffic.received(bytes.len());
            Ok(bytes)
        })
        .await
        .map_err(|e| Error::internal("file work ended early").with_source(e))?
    }
}

impl BlobSource for ArchiveBlob {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            check_range(self, &range)?;
            self.read(range).await
        })
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(async move {
            self.start()?;
            let this = self.clone();
            Ok(stream::try_unfold((this, 0), |(this, at)| async move {
                let end = this.size.min(at + PIECE);
                if at == end {
                    return Ok(None);
                }
                let piece = this.read(at..end).await?;
                Ok(Some((piece, (this, end))))
            })
            .boxed())
        })
    }
}
