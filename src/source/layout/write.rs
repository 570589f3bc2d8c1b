//! Writes images into a layout directory: every file appears whole or not at all.
//!
//! The layout is made and `index.json` is changed under a lock on the directory, so that writers of
//! several processes do not lose each other's entries.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use futures::{StreamExt, future::BoxFuture};
use rustix::fs::{FlockOperation, flock};

use super::{blob_path, blocking, index, name};
use crate::{
    error::{Error, Result},
    oci::{Descriptor, Digest, Document, Location, RawManifest},
    source::{BlobContent, BlobSource, RepositoryWriter, check_content},
};

/// A layout directory that is written.
#[derive(Debug)]
pub struct LayoutWriter {
    root: PathBuf,
}

/// The `oci-layout` file.
const MARKER: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// How names of files that are being written begin.
const TEMPORARY: &str = ".nacre-";

/// Bytes copied at a time.
const PIECE: usize = 256 << 10;

// === impl LayoutWriter ===

impl LayoutWriter {
    /// Writes to `directory`, which becomes a layout if it does not exist or is empty.
    ///
    /// # Errors
    /// `Invalid` if it is neither a layout nor empty, `Io` if it cannot be made.
    pub async fn create(directory: &Path) -> Result<Self> {
        let root = directory.to_owned();
        blocking(move || {
            prepare(&root)?;
            Ok(Self { root })
        })
        .await
    }
}

impl RepositoryWriter for LayoutWriter {
    fn name(&self) -> String {
        name(&self.root)
    }

    fn put_blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        content: BlobContent,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            check_content(descriptor, &content).await?;
            let (root, descriptor) = (self.root.clone(), descriptor.clone());
            match content {
                BlobContent::Source(source) => put_stream(root, descriptor, &*source).await,
                content => blocking(move || put_blob(&root, &descriptor, content)).await,
            }
        })
    }

    fn put_manifest<'a>(
        &'a self,
        location: &'a Location,
        manifest: &'a RawManifest,
    ) -> BoxFuture<'a, Result<()>> {
        let (root, location) = (self.root.clone(), location.clone());
        let manifest = manifest.clone();
        Box::pin(blocking(move || put_manifest(&root, &location, &manifest)))
    }
}

fn prepare(root: &Path) -> Result<()> {
    let io = |e| Error::io(name(root), e);
    fs::create_dir_all(root).map_err(io)?;
    let _lock = lock(root)?;
    let marker = root.join("oci-layout");
    if !marker.try_exists().map_err(io)? {
        let strangers = fs::read_dir(root).map_err(io)?.flatten().any(|entry| {
            let known = entry.file_name();
            // A writer that died may have left the last.
            let ours = known.to_string_lossy().starts_with(TEMPORARY);
            known != "blobs" && known != "index.json" && known != "oci-layout" && !ours
        });
        if strangers {
            return Err(Error::invalid(format!(
                "{}: neither empty nor an OCI image layout",
                name(root)
            )));
        }
        replace(root, &marker, MARKER.as_bytes()).map_err(io)?;
    }
    fs::create_dir_all(root.join("blobs/sha256")).map_err(io)?;
    if !root.join("index.json").try_exists().map_err(io)? {
        write_index(root, &index::empty())?;
    }
    Ok(())
}

fn put_blob(root: &Path, descriptor: &Descriptor, content: BlobContent) -> Result<()> {
    let digest = &descriptor.digest;
    let what = || format!("blob {digest} to {}", name(root));
    let io = |e| Error::io(what(), e);
    let Some(mut temporary) = begin_blob(root, descriptor)? else {
        return Ok(());
    };
    match content {
        BlobContent::Source(_) => return Err(Error::internal("a stream is not written here")),
        // Its digest has been checked already.
        BlobContent::Bytes(bytes) => temporary.file.write_all(&bytes).map_err(io)?,
        BlobContent::File(from) => {
            let found = copy(&from, &mut temporary.file, digest).map_err(io)?;
            if found != *digest {
                return Err(Error::corrupt(format!(
                    "{}: {} has digest {found}",
                    what(),
                    from.display()
                )));
            }
        }
    }
    temporary.become_file(&blob_path(root, digest)).map_err(io)
}

/// A file to write a blob to, unless it is there.
fn begin_blob(root: &Path, descriptor: &Descriptor) -> Result<Option<Temporary>> {
    let digest = &descriptor.digest;
    let io = |e| Error::io(format!("blob {digest} to {}", name(root)), e);
    let known = fs::metadata(blob_path(root, digest));
    if known.is_ok_and(|known| known.is_file() && known.len() == descriptor.size) {
        return Ok(None);
    }
    let parent = root.join("blobs").join(digest.algorithm());
    fs::create_dir_all(&parent).map_err(io)?;
    Temporary::new(&parent).map(Some).map_err(io)
}

/// Writes a blob that streams in, and checks its digest on the way.
async fn put_stream(root: PathBuf, descriptor: Descriptor, source: &dyn BlobSource) -> Result<()> {
    let what = format!("blob {} to {}", descriptor.digest, name(&root));
    let begun = {
        let (root, descriptor) = (root.clone(), descriptor.clone());
        blocking(move || begin_blob(&root, &descriptor)).await?
    };
    let Some(mut temporary) = begun else {
        return Ok(());
    };
    let mut hasher = descriptor.digest.hasher();
    let mut stream = source.stream().await?;
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|e| e.context(what.clone()))?;
        let what = what.clone();
        (temporary, hasher) = blocking(move || {
            hasher.update(&piece);
            let written = temporary.file.write_all(&piece);
            written.map_err(|e| Error::io(what, e))?;
            Ok((temporary, hasher))
        })
        .await?;
    }
    let found = hasher.finish();
    if found != descriptor.digest {
        return Err(Error::corrupt(format!(
            "{what}: its bytes have digest {found}"
        )));
    }
    let path = blob_path(&root, &descriptor.digest);
    blocking(move || temporary.become_file(&path).map_err(|e| Error::io(what, e))).await
}

/// Copies a file and returns its digest, of the algorithm of `like`.
fn copy(from: &Path, to: &mut File, like: &Digest) -> io::Result<Digest> {
    let mut from = File::open(from)?;
    let mut hasher = like.hasher();
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&piece[..read]);
        to.write_all(&piece[..read])?;
    }
}

fn put_manifest(root: &Path, location: &Location, manifest: &RawManifest) -> Result<()> {
    let named = match location {
        Location::Digest(digest) if !digest.matches(&manifest.bytes) => {
            return Err(Error::invalid(format!(
                "manifest {}: written as {digest}",
                manifest.digest
            )));
        }
        Location::Digest(digest) => digest,
        Location::Tag(_) => &manifest.digest,
    };
    let mut entry = Descriptor {
        digest: named.clone(),
        ..manifest.descriptor()
    };
    put_blob(root, &entry, BlobContent::Bytes(manifest.bytes.clone()))?;
    let _lock = lock(root)?;
    let mut list = index::read(root)?;
    match location {
        Location::Tag(tag) => {
            // The tag moves; a manifest written by digest before gets its name. The manifests that
            // an index names are found through it.
            let children = children(manifest);
            list.manifests.retain(|known| match index::tag(known) {
                Some(known) => known != tag,
                None => known.digest != entry.digest && !children.contains(&known.digest),
            });
            entry
                .annotations
                .insert(index::REF_NAME.to_owned(), tag.clone());
            list.manifests.push(entry);
        }
        Location::Digest(_) => {
            if list
                .manifests
                .iter()
                .any(|known| known.digest == entry.digest)
            {
                return Ok(());
            }
            list.manifests.push(entry);
        }
    }
    write_index(root, &list)
}

fn children(manifest: &RawManifest) -> Vec<Digest> {
    match manifest.parse() {
        Ok(Document::Index(index)) => index.manifests.into_iter().map(|d| d.digest).collect(),
        _ => Vec::new(),
    }
}

/// Exclusive until dropped.
fn lock(root: &Path) -> Result<File> {
    let io = |e: io::Error| Error::io(format!("lock of {}", name(root)), e);
    let file = File::open(root).map_err(io)?;
    flock(&file, FlockOperation::LockExclusive).map_err(|e| io(e.into()))?;
    Ok(file)
}

fn write_index(root: &Path, list: &crate::oci::Index) -> Result<()> {
    let path = root.join("index.json");
    let bytes = serde_json::to_vec(list)
        .map_err(|e| Error::internal(path.display().to_string()).with_source(e))?;
    replace(root, &path, &bytes).map_err(|e| Error::io(path.display().to_string(), e))
}

/// Puts a file in place of what was there.
fn replace(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = Temporary::new(directory)?;
    temporary.file.write_all(bytes)?;
    temporary.become_file(path)
}

/// A file that is removed unless it becomes one with a name.
struct Temporary {
    path: PathBuf,
    file: File,
    kept: bool,
}

// === impl Temporary ===

impl Temporary {
    fn new(directory: &Path) -> io::Result<Self> {
        let random = getrandom::u64().map_err(io::Error::other)?;
        let path = directory.join(format!("{TEMPORARY}{random:016x}"));
        let file = File::create_new(&path)?;
        Ok(Self {
            path,
            file,
            kept: false,
        })
    }

    fn become_file(mut self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, path)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing more can be done than leave it to the next clean-up.
            let _ = fs::remove_file(&self.path);
        }
    }
}
