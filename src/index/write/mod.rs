//! Making a lazy layer of a tar: eStargz or zstd:chunked, the same bytes for the same input.
//!
//! Every entry of the tar is kept with the exact bytes of its header and in its place, but for tables
//! of contents and landmarks of an earlier conversion, and for sparse files, which are stored whole.
//! Files are cut into chunks that are compressed each on its own, on several threads.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{Read, Write},
    ops::RangeInclusive,
};

use sha2::{Digest as _, Sha256};

mod json;
mod pool;
mod tar_split;

use self::{
    json::{Listed, Placed},
    pool::{Encoder, Piece, Pool},
    tar_split::{Crc64, TarSplit},
};
use super::{
    Codec, MAX_CHUNK,
    binding::{
        Dialect, MANIFEST_CHECKSUM, MANIFEST_POSITION, PODMAN_PREFIX, Position, SKIPPABLE_HEADER,
        STARGZ_PREFIX, TARSPLIT_POSITION, TOC_DIGEST, TOC_OFFSET, TYPE_CRFS, UNCOMPRESSED_SIZE,
    },
    builder::{NO_PREFETCH_LANDMARK, PREFETCH_LANDMARK, TOC_NAME},
    clean_path, estargz,
    limits::MAX_CHUNKS,
    open, zstd_chunked,
};
use crate::{
    error::{Error, Result},
    oci::{
        Digest,
        media_type::{OCI_LAYER_GZIP, OCI_LAYER_ZSTD},
    },
    tar::{BLOCK, TarEntry, TarKind, TarReader, plain_header, read_error},
};

/// Which lazy format to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// gzip with a table of contents as its last tar entry.
    Estargz,
    /// zstd with a table of contents in a skippable frame.
    ZstdChunked,
}

/// How to write.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// The format.
    pub format: Format,
    /// Whose annotations a zstd:chunked layer gets; podman refuses a layer that has both. The blob is
    /// the same.
    pub dialect: Dialect,
    /// Most bytes in a chunk.
    pub chunk_size: u32,
    /// Compression level, one of the format's.
    pub level: i32,
    /// Threads that compress; does not change the result.
    pub threads: usize,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub diff_size: u64,
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Media type of the layer.
    pub media_type: &'static str,
    /// What its descriptor must say; see [`Binding`](super::Binding).
    pub annotations: BTreeMap<String, String>,
}

/// Most bytes of a file in one chunk, unless told otherwise. eStargz's own tools take 4 MiB; each quarter
/// of that lets a start fetch about a tenth less (docs/benchmarks.md) until requests are too small.
pub const DEFAULT_CHUNK_SIZE: u32 = 256 << 10;

/// Writes the lazy layer of the uncompressed tar `tar` to `out`.
///
/// # Errors
/// `Invalid` or `Unsupported` if the tar is malformed or holds what an index cannot say, `Corrupt` or
/// the source's kind if reading fails, `Io` if writing fails.
pub fn write_layer(tar: impl Read, out: impl Write, options: &WriteOptions) -> Result<Written> {
    if options.chunk_size == 0 || options.chunk_size > MAX_CHUNK {
        return Err(Error::invalid(format!(
            "chunk size {}: want 1 to {MAX_CHUNK}",
            options.chunk_size
        )));
    }
    let levels = options.format.levels();
    if !levels.contains(&options.level) {
        let (level, first, last) = (options.level, levels.start(), levels.end());
        let message = format!("compression level {level}: want {first} to {last}");
        return Err(Error::invalid(message));
    }
    let mut writer = LayerWriter::new(out, options)?;
    let mut tar = TarReader::new(tar);
    while let Some(entry) = tar.next()? {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        writer
            .entry(&mut tar, entry)
            .map_err(|e| e.context(format!("entry {name:?}")))?;
    }
    writer.finish(tar)
}

impl Format {
    /// Its compression levels.
    #[must_use]
    pub fn levels(self) -> RangeInclusive<i32> {
        match self {
            Self::Estargz => 0..=9,
            Self::ZstdChunked => 1..=19,
        }
    }
}

impl WriteOptions {
    /// The defaults for `format`.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            dialect: Dialect::Podman,
            chunk_size: DEFAULT_CHUNK_SIZE,
            level: match format {
                Format::Estargz => 6,
                // A fourteenth less than at 3, which matters more to readers than the time to write.
                Format::ZstdChunked => 12,
            },
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

struct LayerWriter<'o, W> {
    options: &'o WriteOptions,
    out: Counted<W>,
    pool: Pool,
    /// Bytes between files that are not handed to the pool yet.
    between: Vec<u8>,
    plain: Sha256,
    plain_size: u64,
    entries: Vec<Option<Listed>>,
    chunks: Vec<Placed>,
    paths: HashMap<Box<[u8]>, usize>,
    link_targets: HashSet<Box<[u8]>>,
    /// Not kept where the other side could not use it.
    tar_split: Option<TarSplit>,
}

/// A piece between files is handed on at this size, so that memory is bounded.
const BETWEEN: usize = 1 << 20;

// === impl LayerWriter ===

impl<'o, W: Write> LayerWriter<'o, W> {
    fn new(out: W, options: &'o WriteOptions) -> Result<Self> {
        let tar_split = match options.format {
            Format::Estargz => None,
            Format::ZstdChunked => Some(TarSplit::new(options.level)?),
        };
        Ok(Self {
            options,
            out: Counted {
                inner: out,
                hash: Sha256::new(),
                count: 0,
            },
            pool: Pool::new(options.format, options.level, options.threads),
            between: Vec::new(),
            plain: Sha256::new(),
            plain_size: 0,
            entries: Vec::new(),
            chunks: Vec::new(),
            paths: HashMap::new(),
            link_targets: HashSet::new(),
            tar_split,
        })
    }

    fn entry<R: Read>(&mut self, tar: &mut TarReader<R>, entry: TarEntry) -> Result<()> {
        let path = clean_path(&entry.name).map_err(Error::invalid)?;
        if [TOC_NAME, PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK].contains(&&*path) {
            return Ok(());
        }
        self.list(path, &entry)?;
        let header = match tar.is_sparse() {
            true => plain_header(&entry)?,
            false => tar.raw().to_vec(),
        };
        self.add_between(&header)?;
        if entry.kind == TarKind::Hardlink {
            let target = clean_path(&entry.link).map_err(Error::invalid)?;
            self.link_targets.insert(target);
        }
        let first = self.chunks.len();
        let (digest, crc) = self.file(tar, entry.size)?;
        if let Some(split) = &mut self.tar_split {
            match std::str::from_utf8(&entry.name) {
                Ok(name) => split.file(name, entry.size, crc)?,
                Err(_) => self.tar_split = None,
            }
        }
        let padding = entry.size.next_multiple_of(BLOCK as u64) - entry.size;
        let padding = usize::try_from(padding).unwrap_or(0);
        self.add_between(&[0; BLOCK][..padding])?;
        self.entries.push(Some(Listed {
            chunks: first..self.chunks.len(),
            digest,
            tar: entry,
        }));
        Ok(())
    }

    /// Takes note of `path`. A later entry replaces an earlier one of the same name, as it does when
    /// the tar is unpacked.
    fn list(&mut self, path: Box<[u8]>, entry: &TarEntry) -> Result<()> {
        let index = self.entries.len();
        let directory = entry.kind == TarKind::Directory;
        let Some(earlier) = self.paths.insert(path.clone(), index) else {
            return Ok(());
        };
        self.tar_split = None;
        let was_directory = self.entries[earlier]
            .as_ref()
            .is_some_and(|listed| listed.tar.kind == TarKind::Directory);
        if directory != was_directory || self.link_targets.contains(&path) {
            return Err(Error::unsupported(
                "it is in the tar twice, and what the first one was is needed",
            ));
        }
        if !directory {
            self.entries[earlier] = None;
        }
        Ok(())
    }

    /// Cuts the file into chunks. Gives the digest of the whole if there is more than one.
    fn file<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        size: u64,
    ) -> Result<(Option<[u8; 32]>, Crc64)> {
        let mut crc = Crc64::default();
        let mut whole = Sha256::new();
        let chunk_size = u64::from(self.options.chunk_size);
        let several = size > chunk_size;
        // A sparse file costs nothing to claim, but every byte of it would be stored.
        if size.div_ceil(chunk_size) > (MAX_CHUNKS - self.chunks.len()) as u64 {
            return Err(Error::unsupported(format!(
                "its {size} bytes need more than the {MAX_CHUNKS} chunks of a layer"
            )));
        }
        let mut left = size;
        while left > 0 {
            let length = left.min(chunk_size);
            let mut plain = Vec::new();
            tar.take(length)
                .read_to_end(&mut plain)
                .map_err(read_error)?;
            if plain.len() as u64 != length {
                return Err(Error::invalid("tar: it ends in a file"));
            }
            left -= length;
            self.plain.update(&plain);
            self.plain_size += length;
            if several {
                whole.update(&plain);
            }
            if self.tar_split.is_some() {
                crc.update(&plain);
            }
            self.flush_between()?;
            let slot = self.chunks.len();
            self.chunks.push(Placed {
                length,
                ..Placed::default()
            });
            let piece = self.pool.submit(plain, Some(slot))?;
            self.write_piece(piece)?;
        }
        Ok((several.then(|| whole.finalize().into()), crc))
    }

    fn add_between(&mut self, bytes: &[u8]) -> Result<()> {
        self.plain.update(bytes);
        self.plain_size += bytes.len() as u64;
        if let Some(split) = &mut self.tar_split {
            split.bytes(bytes);
        }
        self.between.extend_from_slice(bytes);
        if self.between.len() >= BETWEEN {
            self.flush_between()?;
        }
        Ok(())
    }

    fn flush_between(&mut self) -> Result<()> {
        if self.between.is_empty() {
            return Ok(());
        }
        let piece = self.pool.submit(std::mem::take(&mut self.between), None)?;
        self.write_piece(piece)
    }

    fn write_piece(&mut self, piece: Option<Piece>) -> Result<()> {
        let Some(piece) = piece else {
            return Ok(());
        };
        let offset = self.out.count;
        self.out.write(&piece.packed)?;
        if let Some(chunk) = piece.slot.and_then(|slot| self.chunks.get_mut(slot)) {
            chunk.offset = offset;
            chunk.end = self.out.count;
            chunk.digest = piece.digest;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        self.flush_between()?;
        while let Some(piece) = self.pool.next()? {
            self.write_piece(Some(piece))?;
        }
        Ok(())
    }

    fn finish<R: Read>(mut self, tar: TarReader<R>) -> Result<Written> {
        if tar.has_global() {
            self.tar_split = None;
        }
        let end = tar.raw().to_vec();
        let mut rest = tar.into_inner();
        match self.options.format {
            // The table of contents is the last entry; the end of the archive comes after it.
            Format::Estargz => {
                std::io::copy(&mut rest, &mut std::io::sink()).map_err(read_error)?;
            }
            Format::ZstdChunked => {
                self.add_between(&end)?;
                let mut buffer = vec![0; 64 << 10];
                let mut ended = !end.is_empty();
                loop {
                    let got = rest.read(&mut buffer).map_err(read_error)?;
                    if got == 0 {
                        break;
                    }
                    ended = true;
                    self.add_between(&buffer[..got])?;
                }
                if !ended {
                    self.add_between(&[0; 2 * BLOCK])?;
                }
            }
        }
        self.drain()?;
        let mut annotations = BTreeMap::new();
        match self.options.format {
            Format::Estargz => self.finish_estargz(&mut annotations)?,
            Format::ZstdChunked => self.finish_zstd(&mut annotations)?,
        }
        self.out.flush()?;
        Ok(Written {
            diff_id: Digest::Sha256(self.plain.finalize().into()),
            diff_size: self.plain_size,
            digest: Digest::Sha256(self.out.hash.finalize().into()),
            size: self.out.count,
            media_type: match self.options.format {
                Format::Estargz => OCI_LAYER_GZIP,
                Format::ZstdChunked => OCI_LAYER_ZSTD,
            },
            annotations,
        })
    }

    /// The table of contents, which our own reader must accept.
    fn toc(&mut self, codec: Codec, tar_split: Option<&str>) -> Result<Vec<u8>> {
        let entries: Vec<Listed> = std::mem::take(&mut self.entries)
            .into_iter()
            .flatten()
            .collect();
        let json = json::document(&entries, &self.chunks, tar_split)?;
        drop(entries);
        open::parse(&json, codec, self.out.count).map_err(|what| {
            Error::invalid(format!("what it holds has no place in an index: {what}"))
        })?;
        Ok(json)
    }

    fn compress(&self, plain: &[u8]) -> Result<Vec<u8>> {
        Encoder::new(self.options.format, self.options.level)?.compress(plain)
    }

    fn finish_estargz(&mut self, annotations: &mut BTreeMap<String, String>) -> Result<()> {
        let json = self.toc(Codec::Gzip, None)?;
        let offset = self.out.count;
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..TOC_NAME.len()].copy_from_slice(TOC_NAME);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o444);
        header.set_mtime(0);
        header.set_size(json.len() as u64);
        header.set_cksum();
        let mut member = header.as_bytes().to_vec();
        member.extend_from_slice(&json);
        member.resize(member.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
        self.plain.update(&member);
        self.plain_size += member.len() as u64;
        let packed = self.compress(&member)?;
        self.out.write(&packed)?;
        self.out.write(&estargz::footer_bytes(offset))?;
        annotations.insert(TOC_DIGEST.into(), Digest::sha256(&json).to_string());
        annotations.insert(UNCOMPRESSED_SIZE.into(), self.plain_size.to_string());
        annotations.insert(TOC_OFFSET.into(), offset.to_string());
        Ok(())
    }

    fn finish_zstd(&mut self, annotations: &mut BTreeMap<String, String>) -> Result<()> {
        let split = self.tar_split.take().map(TarSplit::finish).transpose()?;
        let digest = split
            .as_ref()
            .map(|(packed, _)| Digest::sha256(packed).to_string());
        let json = self.toc(Codec::Zstd, digest.as_deref())?;
        let packed = self.compress(&json)?;
        let toc = self.skippable(&packed, json.len() as u64)?;
        let prefix = match self.options.dialect {
            Dialect::Podman => PODMAN_PREFIX,
            Dialect::Stargz => {
                annotations.insert(TOC_DIGEST.into(), Digest::sha256(&json).to_string());
                annotations.insert(UNCOMPRESSED_SIZE.into(), self.plain_size.to_string());
                STARGZ_PREFIX
            }
        };
        annotations.insert(
            format!("{prefix}{MANIFEST_CHECKSUM}"),
            Digest::sha256(&packed).to_string(),
        );
        annotations.insert(
            format!("{prefix}{MANIFEST_POSITION}"),
            format!(
                "{}:{}:{}:{TYPE_CRFS}",
                toc.offset, toc.length, toc.uncompressed
            ),
        );
        if let Some((packed, length)) = split {
            let at = self.skippable(&packed, length)?;
            if self.options.dialect == Dialect::Podman {
                annotations.insert(
                    format!("{prefix}{TARSPLIT_POSITION}"),
                    format!("{}:{}:{}", at.offset, at.length, at.uncompressed),
                );
            }
        }
        let footer = zstd_chunked::footer(&toc);
        self.skippable(&footer, footer.len() as u64)?;
        Ok(())
    }

    fn skippable(&mut self, content: &[u8], uncompressed: u64) -> Result<Position> {
        let position = Position {
            offset: self.out.count + SKIPPABLE_HEADER,
            length: content.len() as u64,
            uncompressed,
        };
        let frame = zstd_chunked::skippable(content)
            .ok_or_else(|| Error::invalid("a table of contents of more than 4 GiB"))?;
        self.out.write(&frame)?;
        Ok(position)
    }
}

/// Counts and hashes what is written.
struct Counted<W> {
    inner: W,
    hash: Sha256,
    count: u64,
}

impl<W: Write> Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner
            .write_all(bytes)
            .map_err(|e| Error::io("converted layer", e))?;
        self.hash.update(bytes);
        self.count += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.inner
            .flush()
            .map_err(|e| Error::io("converted layer", e))
    }
}
