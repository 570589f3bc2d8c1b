//! Writes an archive of one image beside its place, which gets its name when it is whole.
//!
//! Layers are stored uncompressed, under their diff ids. They are decompressed as they come, so that
//! the header of a layer is written after it. Nothing of this machine or moment is in an archive: the
//! same image gives the same bytes.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf, Bytes};
use futures::{StreamExt, future::BoxFuture};
use tokio::sync::mpsc;

use super::{Item, MANIFEST};
use crate::{
    codec,
    error::{Error, Result},
    oci::{
        Descriptor, Digest, Document, ImageConfig, Location, Manifest, RawManifest,
        RegistryReference, media_type,
    },
    source::{
        BlobContent, RepositoryWriter, check_content,
        destination::{parent_of, rename_new, taken},
    },
};

/// An archive that is written.
#[derive(Debug)]
pub struct ArchiveWriter {
    path: PathBuf,
    name: Option<RegistryReference>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// Its name until it is whole.
    temporary: PathBuf,
    /// Time of all entries.
    time: u64,
    /// Where the next entry begins.
    end: u64,
    /// Diff ids of blobs that were stored as layers.
    layers: HashMap<Digest, Digest>,
    /// Diff ids of what is in the file.
    stored: Vec<Digest>,
    /// Other blobs: configurations.
    others: HashMap<Digest, Bytes>,
    whole: bool,
    kept: bool,
}

/// A blob's bytes on the way to the thread that decompresses them.
struct Pipe {
    pieces: mpsc::Receiver<Result<Option<Bytes>>>,
    current: Bytes,
    ended: bool,
}

/// Size of a tar's blocks.
const BLOCK: usize = 512;
/// Largest configuration.
const MAX_CONFIG: u64 = 8 << 20;
/// Bytes copied at a time.
const PIECE: usize = 256 << 10;
/// Pieces that wait for the decompressor.
const WAITING: usize = 4;

// === impl ArchiveWriter ===

impl ArchiveWriter {
    /// An archive `path` of one image called `name`. `time` (seconds since 1970) is what its entries
    /// get.
    ///
    /// # Errors
    /// `Invalid` if there is something called `path`, `Io` if there cannot be.
    pub async fn create(path: &Path, name: Option<RegistryReference>, time: u64) -> Result<Self> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || {
            let failed = |e| Error::io(said(&path), e);
            if path.symlink_metadata().is_ok() {
                return Err(Error::invalid(format!("{}: is there already", said(&path)))
                    .with_hint("an archive is not changed: remove it, or name another file"));
            }
            let random = getrandom::u64().map_err(|e| failed(io::Error::other(e)))?;
            let temporary = parent_of(&path).join(format!(".nacre-{random:016x}"));
            let file = File::create_new(&temporary).map_err(failed)?;
            let state = State {
                file,
                temporary,
                time,
                end: 0,
                layers: HashMap::new(),
                stored: Vec::new(),
                others: HashMap::new(),
                whole: false,
                kept: false,
            };
            Ok(Self {
                path: path.clone(),
                name,
                state: Arc::new(Mutex::new(state)),
            })
        })
        .await
        .map_err(|e| Error::internal("file work ended early").with_source(e))?
    }

    /// Gives the archive its name.
    ///
    /// # Errors
    /// `Internal` if there is no image in it, `Busy` if the name was taken meanwhile, `Io`.
    pub async fn commit(&self) -> Result<()> {
        let path = self.path.clone();
        self.with(move |state| {
            if !state.whole {
                return Err(Error::internal(format!("{}: not whole", said(&path))));
            }
            let failed = |e| Error::io(said(&path), e);
            state.file.sync_all().map_err(failed)?;
            rename_new(&state.temporary, &path).map_err(|e| taken(e, &said(&path)))?;
            state.kept = true;
            Ok(())
        })
        .await
    }

    /// Runs file work off the async threads.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let state = Arc::clone(&self.state);
        tokio::task::spawn_blocking(move || {
            work(&mut state.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await
        .map_err(|e| Error::internal("file work ended early").with_source(e))?
    }

    async fn put(&self, descriptor: &Descriptor, content: BlobContent) -> Result<()> {
        check_content(descriptor, &content).await?;
        let Some(kind) = media_type::layer_kind(&descriptor.media_type) else {
            return self.put_other(descriptor, content).await;
        };
        if kind.encrypted {
            return Err(Error::unsupported(format!(
                "{}: an archive cannot hold encrypted layers",
                said(&self.path)
            ))
            .with_hint(
                "decrypt into it (nacre image decrypt), or copy to a layout (oci:DIRECTORY)",
            ));
        }
        let (sender, pieces) = mpsc::channel(WAITING);
        let (digest, path) = (descriptor.digest.clone(), self.path.clone());
        let store = self.with(move |state| {
            let pipe = Pipe {
                pieces,
                current: Bytes::new(),
                ended: false,
            };
            state
                .put_layer(&digest, kind.compression, pipe)
                .map_err(|e| e.context(format!("blob {digest} to {}", said(&path))))
        });
        let (stored, ()) = tokio::join!(store, feed(content, descriptor, sender));
        stored
    }

    async fn put_other(&self, descriptor: &Descriptor, content: BlobContent) -> Result<()> {
        if descriptor.size > MAX_CONFIG {
            return Err(Error::unsupported(format!(
                "{}: blob {} is of type {:?}, which an archive cannot hold",
                said(&self.path),
                descriptor.digest,
                descriptor.media_type
            )));
        }
        let (sender, mut pieces) = mpsc::channel(WAITING);
        let collect = async {
            let mut all = Vec::new();
            while let Some(piece) = pieces.recv().await {
                let piece: Option<Bytes> = piece?;
                match piece {
                    Some(bytes) => all.extend_from_slice(&bytes),
                    None => return Ok(Bytes::from(all)),
                }
            }
            Err::<Bytes, Error>(Error::internal("a blob ended early"))
        };
        let (bytes, ()) = tokio::join!(collect, feed(content, descriptor, sender));
        let (bytes, digest) = (bytes?, descriptor.digest.clone());
        self.with(move |state| {
            state.others.insert(digest, bytes);
            Ok(())
        })
        .await
    }

    async fn put_image(&self, manifest: &RawManifest) -> Result<()> {
        let Document::Manifest(manifest) = manifest.parse()? else {
            return Err(Error::unsupported(format!(
                "{}: an archive holds one image, not an index",
                said(&self.path)
            ))
            .with_hint("choose one: --platform OS/ARCHITECTURE"));
        };
        let (path, name) = (self.path.clone(), self.name.clone());
        self.with(move |state| {
            state
                .finish(&manifest, name.as_ref())
                .map_err(|e| e.context(said(&path)))
        })
        .await
    }
}

impl RepositoryWriter for ArchiveWriter {
    fn name(&self) -> String {
        said(&self.path)
    }

    fn put_blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        content: BlobContent,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.put(descriptor, content))
    }

    fn put_manifest<'a>(
        &'a self,
        _location: &'a Location,
        manifest: &'a RawManifest,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.put_image(manifest))
    }
}

fn said(path: &Path) -> String {
    format!("docker-archive:{}", path.display())
}

/// Sends a blob's bytes and, if they are what the descriptor says, the end.
async fn feed(
    content: BlobContent,
    descriptor: &Descriptor,
    sender: mpsc::Sender<Result<Option<Bytes>>>,
) {
    let last = match send(content, descriptor, &sender).await {
        Ok(()) => Ok(None),
        Err(error) => Err(error),
    };
    // Who is gone has its own reason, and tells it.
    let _ = sender.send(last).await;
}

async fn send(
    content: BlobContent,
    descriptor: &Descriptor,
    sender: &mpsc::Sender<Result<Option<Bytes>>>,
) -> Result<()> {
    let mut hasher = descriptor.digest.hasher();
    match content {
        BlobContent::Bytes(bytes) => {
            hasher.update(&bytes);
            let _ = sender.send(Ok(Some(bytes))).await;
        }
        BlobContent::File(path) => {
            let failed = |e| Error::io(format!("file {}", path.display()), e);
            let mut file = tokio::fs::File::open(&path).await.map_err(failed)?;
            loop {
                let mut piece = bytes::BytesMut::with_capacity(PIECE);
                let read = tokio::io::AsyncReadExt::read_buf(&mut file, &mut piece);
                if read.await.map_err(failed)? == 0 {
                    break;
                }
                hasher.update(&piece);
                if sender.send(Ok(Some(piece.freeze()))).await.is_err() {
                    return Ok(());
                }
            }
        }
        BlobContent::Source(source) => {
            let mut stream = source.stream().await?;
            while let Some(piece) = stream.next().await {
                let piece = piece?;
                hasher.update(&piece);
                if sender.send(Ok(Some(piece))).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    let found = hasher.finish();
    if found != descriptor.digest {
        return Err(Error::corrupt(format!("its bytes have digest {found}")));
    }
    Ok(())
}

// === impl State ===

impl State {
    fn put_layer(
        &mut self,
        digest: &Digest,
        compression: media_type::Compression,
        pipe: Pipe,
    ) -> Result<()> {
        let begin = self.end;
        let stored = self.append_layer(compression, pipe);
        match stored {
            Ok((diff_id, length)) => {
                if self.stored.contains(&diff_id) {
                    self.cut(begin)?;
                } else {
                    self.head(begin, &format!("{}.tar", diff_id.hex()), length)?;
                    self.end = begin + BLOCK as u64 + length.next_multiple_of(BLOCK as u64);
                    self.stored.push(diff_id.clone());
                }
                self.layers.insert(digest.clone(), diff_id);
                Ok(())
            }
            Err(error) => {
                self.cut(begin)?;
                Err(error)
            }
        }
    }

    /// Writes a layer's tar behind the place of its header; gives its diff id and length.
    fn append_layer(
        &mut self,
        compression: media_type::Compression,
        pipe: Pipe,
    ) -> Result<(Digest, u64)> {
        let io = |e| Error::io("cannot be written", e);
        let place = self.end + BLOCK as u64;
        self.file.seek(SeekFrom::Start(place)).map_err(io)?;
        let pipe = Arc::new(Mutex::new(pipe));
        let mut tar = codec::reader(compression, Shared(Arc::clone(&pipe)))?;
        let mut hasher = crate::oci::Hasher::sha256();
        let mut piece = vec![0; PIECE];
        let mut length = 0u64;
        loop {
            let read = match tar.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(read_error(error)),
            };
            hasher.update(&piece[..read]);
            self.file.write_all(&piece[..read]).map_err(io)?;
            length += read as u64;
        }
        // What comes after the compressed data belongs to the blob all the same, and its end is the
        // verdict on it.
        let mut rest = Shared(pipe);
        while rest.read(&mut piece).map_err(read_error)? > 0 {}
        let pad = length.next_multiple_of(BLOCK as u64) - length;
        let zeros = [0; BLOCK];
        self.file
            .write_all(&zeros[..usize::try_from(pad).unwrap_or(0)])
            .map_err(io)?;
        Ok((hasher.finish(), length))
    }

    fn cut(&mut self, at: u64) -> Result<()> {
        self.end = at;
        self.file
            .set_len(at)
            .map_err(|e| Error::io("cannot be cut", e))
    }

    /// Writes a header at `at`.
    fn head(&mut self, at: u64, name: &str, size: u64) -> Result<()> {
        let io = |e| Error::io("cannot be written", e);
        let mut header = tar::Header::new_ustar();
        header.set_path(name).map_err(io)?;
        header.set_mode(0o644);
        header.set_mtime(self.time);
        header.set_size(size);
        header.set_cksum();
        self.file.seek(SeekFrom::Start(at)).map_err(io)?;
        self.file.write_all(header.as_bytes()).map_err(io)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let io = |e| Error::io("cannot be written", e);
        self.head(self.end, name, bytes.len() as u64)?;
        self.file.write_all(bytes).map_err(io)?;
        let padded = bytes.len().next_multiple_of(BLOCK);
        self.file
            .write_all(&vec![0; padded - bytes.len()])
            .map_err(io)?;
        self.end += (BLOCK + padded) as u64;
        Ok(())
    }

    /// Writes what names the rest.
    fn finish(&mut self, manifest: &Manifest, name: Option<&RegistryReference>) -> Result<()> {
        let config = &manifest.config.digest;
        let bytes = self
            .others
            .get(config)
            .cloned()
            .ok_or_else(|| Error::internal(format!("configuration {config} was not stored")))?;
        let parsed: ImageConfig = serde_json::from_slice(&bytes)
            .map_err(|e| Error::invalid(format!("configuration {config}: {e}")))?;
        let mut layers = Vec::new();
        for (number, layer) in manifest.layers.iter().enumerate() {
            let diff_id = self.layers.get(&layer.digest).ok_or_else(|| {
                let digest = &layer.digest;
                match self.others.contains_key(digest) {
                    true => Error::unsupported(format!("layer {digest}: not a tar layer")),
                    false => Error::not_found(format!("layer {digest}: its publisher keeps it")),
                }
            })?;
            let claimed = parsed.rootfs.diff_ids.get(number);
            if claimed != Some(diff_id) {
                return Err(Error::corrupt(format!(
                    "layer {}: its tar is {diff_id}, the configuration says {}",
                    layer.digest,
                    claimed.map_or_else(|| "nothing".to_owned(), ToString::to_string)
                )));
            }
            layers.push(format!("{}.tar", diff_id.hex()));
        }
        let item = Item {
            config: format!("{}.json", config.hex()),
            repo_tags: name.map(|name| vec![name.to_string()]),
            layers,
        };
        self.append(&item.config, &bytes)?;
        let items =
            serde_json::to_vec(&[item]).map_err(|e| Error::internal(MANIFEST).with_source(e))?;
        self.append(MANIFEST, &items)?;
        self.file
            .write_all(&[0; 2 * BLOCK])
            .map_err(|e| Error::io("cannot be written", e))?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if !self.kept {
            // Its name says whose it is; nothing reads it.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// An error of the sending side travels inside the `io::Error`; everything else is what the
/// decompressor says.
fn read_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::corrupt("cannot be decompressed").with_source(error),
    }
}

/// A pipe that is read on after the decompressor has had enough.
struct Shared(Arc<Mutex<Pipe>>);

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut pipe = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while pipe.current.is_empty() && !pipe.ended {
            match pipe.pieces.blocking_recv() {
                Some(Ok(Some(bytes))) => pipe.current = bytes,
                Some(Ok(None)) => pipe.ended = true,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Err(io::Error::other(Error::internal("a blob ended early"))),
            }
        }
        let count = pipe.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&pipe.current[..count]);
        pipe.current.advance(count);
        Ok(count)
    }
}
