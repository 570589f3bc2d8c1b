//! Reading tar archives entry by entry with the exact bytes of their headers, so that a layer can be
//! rewritten without changing what is in it.
//!
//! Understands ustar, GNU (long names, base-256 numbers, sparse files) and PAX (all of it but global
//! headers, which are kept but, as elsewhere in the container world, mean nothing).

use std::io::{self, Read};

use crate::error::{Error, Result};

mod header;
mod pax;
mod sparse;

pub(crate) use self::header::plain_header;
use self::{header::Raw, pax::Records};

/// What one header says.
#[derive(Clone, Debug, Default)]
pub struct TarEntry {
    /// Name as it is written there.
    pub name: Vec<u8>,
    /// Type.
    pub kind: TarKind,
    /// Link target of a symbolic or hard link.
    pub link: Vec<u8>,
    /// Mode as it is written there; old archives have type bits in it.
    pub mode: i64,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Owner's name.
    pub user: Vec<u8>,
    /// Group's name.
    pub group: Vec<u8>,
    /// Modification time.
    pub mtime: TarTime,
    /// Time of last access, if it is there.
    pub atime: Option<TarTime>,
    /// Time of last change, if it is there.
    pub ctime: Option<TarTime>,
    /// Device numbers, major and minor.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of the file as it is read (holes included).
    pub size: u64,
}

/// Seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TarTime {
    /// Seconds, perhaps negative.
    pub seconds: i64,
    /// Nanoseconds after them.
    pub nanos: u32,
}

/// Type of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TarKind {
    #[default]
    Regular,
    Directory,
    Symlink,
    Hardlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// Reads entries in their order. After [`next`](TarReader::next) the file's bytes come from
/// [`Read`].
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    /// Exact bytes of the present entry's headers.
    raw: Vec<u8>,
    /// Runs of the present file that are stored, as offset and length; one for an ordinary file.
    runs: std::vec::IntoIter<(u64, u64)>,
    run: (u64, u64),
    position: u64,
    size: u64,
    padding: u64,
    sparse: bool,
    global: bool,
    done: bool,
}

/// Records of one PAX header: extended attributes of 64 KiB each.
const MAX_EXTENSION: u64 = 8 << 20;
pub(crate) const BLOCK: usize = 512;

// === impl TarReader ===

impl<R: Read> TarReader<R> {
    /// Reads the tar from `input`.
    pub fn new(input: R) -> Self {
        Self {
            input,
            raw: Vec::new(),
            runs: Vec::new().into_iter(),
            run: (0, 0),
            position: 0,
            size: 0,
            padding: 0,
            sparse: false,
            global: false,
            done: false,
        }
    }

    /// The next entry, or `None` at the end of the archive. What was not read of the last one is
    /// skipped.
    ///
    /// # Errors
    /// `Invalid` if the archive is malformed, `Unsupported` for a type that no layer has, `Io` or the
    /// cause if reading fails.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<TarEntry>> {
        self.skip_rest()?;
        self.raw.clear();
        if self.done {
            return Ok(None);
        }
        let mut records = Records::default();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(header) = self.header()? else {
                self.done = true;
                return Ok(None);
            };
            match header.kind() {
                b'x' => records = Records::parse(&self.extension(&header)?)?,
                b'L' => long_name = Some(text(&self.extension(&header)?)),
                b'K' => long_link = Some(text(&self.extension(&header)?)),
                b'g' => {
                    self.global = true;
                    self.extension(&header)?;
                }
                _ => {
                    return self
                        .entry(&header, &records, long_name, long_link)
                        .map(Some);
                }
            }
        }
    }

    fn entry(
        &mut self,
        header: &Raw,
        records: &Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<TarEntry> {
        let mut entry = header.entry()?;
        if let Some(name) = long_name {
            entry.name = name;
        }
        if let Some(link) = long_link {
            entry.link = link;
        }
        records.apply(&mut entry)?;
        // The oldest archives have no other mark of a directory.
        if header.kind() == 0 && entry.name.ends_with(b"/") {
            entry.kind = TarKind::Directory;
        }
        let stored = match entry.kind {
            TarKind::Regular => entry.size,
            _ => 0,
        };
        entry.size = stored;
        self.padding = (BLOCK as u64 - stored % BLOCK as u64) % BLOCK as u64;
        let mut runs = vec![(0, stored)];
        self.sparse = false;
        if entry.kind == TarKind::Regular
            && let Some(map) = sparse::map(self, header, records, &mut entry, stored)?
        {
            self.sparse = true;
            runs = map;
        }
        self.size = entry.size;
        self.position = 0;
        self.runs = runs.into_iter();
        self.run = self.runs.next().unwrap_or((self.size, 0));
        Ok(entry)
    }

    /// The exact bytes of the present entry's headers, or after the last entry the blocks that end the
    /// archive.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Whether the present file is stored with holes, so that [`raw`](Self::raw) does not fit the
    /// bytes that are read.
    pub fn is_sparse(&self) -> bool {
        self.sparse
    }

    /// Whether there was a global PAX header.
    pub fn has_global(&self) -> bool {
        self.global
    }

    /// What follows the archive (more zeros, as a rule), after `next` has given `None`.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// A header block with a good checksum; `None` at the end.
    fn header(&mut self) -> Result<Option<Raw>> {
        let mut block = [0; BLOCK];
        let got = fill(&mut self.input, &mut block)?;
        if got == 0 {
            return Ok(None);
        }
        self.raw.extend_from_slice(&block[..got]);
        if got < BLOCK {
            return Err(Error::invalid("tar: it ends in a header"));
        }
        if block == [0; BLOCK] {
            return Ok(None);
        }
        Raw::check(block).map(Some)
    }

    /// Content of an extension header.
    fn extension(&mut self, header: &Raw) -> Result<Vec<u8>> {
        let size = header.size()?;
        if size > MAX_EXTENSION {
            return Err(Error::invalid(format!(
                "tar: an extension header of {size} bytes, at most {MAX_EXTENSION}"
            )));
        }
        let size = usize::try_from(size).map_err(|_| Error::internal("size over usize"))?;
        let begin = self.raw.len();
        self.blocks(size.div_ceil(BLOCK))?;
        Ok(self.raw[begin..begin + size].to_vec())
    }

    /// Reads blocks into `raw`.
    fn blocks(&mut self, count: usize) -> Result<()> {
        let begin = self.raw.len();
        self.raw.resize(begin + count * BLOCK, 0);
        let got = fill(&mut self.input, &mut self.raw[begin..])?;
        if got < count * BLOCK {
            return Err(Error::invalid("tar: it ends in a header"));
        }
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<()> {
        let mut sink = vec![0; 64 << 10];
        while self.read(&mut sink).map_err(read_error)? > 0 {}
        let mut padding = std::mem::take(&mut self.padding);
        while padding > 0 {
            let length = usize::try_from(padding)
                .unwrap_or(sink.len())
                .min(sink.len());
            let got = fill(&mut self.input, &mut sink[..length])?;
            if got == 0 {
                // Some archives end without the padding of the last file.
                break;
            }
            padding -= got as u64;
        }
        Ok(())
    }
}

impl<R: Read> Read for TarReader<R> {
    /// The present file's bytes, holes as zeros.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = |left: u64| {
            usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len())
        };
        while self.run.1 == 0 && self.run.0 <= self.position && self.position < self.size {
            self.run = self.runs.next().unwrap_or((self.size, 0));
        }
        let got = if self.position < self.run.0.min(self.size) {
            let length = most(self.run.0.min(self.size) - self.position);
            buffer[..length].fill(0);
            length
        } else {
            let length = most(self.run.1.min(self.size - self.position));
            let got = self.input.read(&mut buffer[..length])?;
            if got == 0 && length > 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "tar: it ends in a file",
                ));
            }
            self.run = (self.run.0 + got as u64, self.run.1 - got as u64);
            got
        };
        self.position += got as u64;
        Ok(got)
    }
}

/// Reads until `buffer` is full or the input ends.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match input.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(read_error(e)),
        }
    }
    Ok(got)
}

/// An error of the source that went through [`Read`] keeps its kind; what a decoder says is `Corrupt`.
pub(crate) fn read_error(error: io::Error) -> Error {
    let kind = error.kind();
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) if kind == io::ErrorKind::UnexpectedEof => {
            Error::corrupt("layer: it ends early").with_source(error)
        }
        Err(error) => Error::corrupt("layer: cannot be decoded").with_source(error),
    }
}

/// A name that ends at its first 0.
fn text(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes[..end].to_vec()
}

#[cfg(test)]
pub(super) mod tests;
