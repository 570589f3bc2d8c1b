//! Reading tar archives entry by entry: for unpacking, with the stored runs of a sparse file apart from
//! its holes, and for rewriting, with the exact bytes of the headers.
//!
//! Understands old tars, ustar, star, GNU (long names, base-256 numbers, sparse files) and PAX (all of
//! it but global headers, which are kept but, as elsewhere in the container world, mean nothing).
//! Names, links and attribute values are bytes, and nobody has looked at them: see
//! [`clean_path`](crate::index::clean_path). Sizes and counts are bounded before anything is kept.

use std::io::{self, Read};

use crate::error::{Error, Result};

mod header;
mod pax;
mod sparse;

pub(crate) use self::header::plain_header;
use self::{header::Raw, pax::Records, sparse::Run};

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
    pub uid: u32,
    /// Group.
    pub gid: u32,
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
/// [`Read`], or without its holes from [`read_stored`](TarReader::read_stored).
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    /// Exact bytes of the present entry's headers.
    raw: Vec<u8>,
    /// Runs of the present file that are stored; one for an ordinary file.
    runs: std::vec::IntoIter<Run>,
    /// What is left of the present run.
    run: Run,
    /// Where in the file reading is.
    position: u64,
    size: u64,
    /// Stored bytes of the present file that are not read yet.
    stored: u64,
    padding: u64,
    sparse: bool,
    global: bool,
    done: bool,
}

/// Largest extension header: what Go's reader takes, and so every other container tool.
const MAX_EXTENSION: u64 = 1 << 20;
/// Extension headers before one entry: a long name, a long link, PAX records and some to spare.
const MAX_EXTENSIONS: usize = 16;
/// Largest file: what the kernel can hold (`off_t`).
const MAX_SIZE: u64 = i64::MAX.unsigned_abs();
pub(crate) const BLOCK: usize = 512;

// === impl TarEntry ===

impl TarEntry {
    /// Permission bits with setuid, setgid and sticky.
    #[must_use]
    pub fn permissions(&self) -> u16 {
        u16::try_from(self.mode & 0o7777).unwrap_or_default()
    }
}

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
            stored: 0,
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
    /// `Invalid` if the archive is malformed or cannot be decompressed, `Unsupported` for a type that
    /// no layer has, the source's own error if reading fails.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<TarEntry>> {
        self.skip_rest()?;
        self.raw.clear();
        if self.done {
            return Ok(None);
        }
        let mut records = Records::default();
        let (mut long_name, mut long_link) = (None, None);
        for _ in 0..MAX_EXTENSIONS {
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
        Err(Error::invalid(format!(
            "tar: {MAX_EXTENSIONS} extension headers in a row"
        )))
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
        let mut runs = vec![(0, stored)];
        let mut left = stored;
        self.sparse = false;
        if entry.kind == TarKind::Regular
            && let Some(map) = sparse::map(self, header, records, &mut entry, &mut left)?
        {
            self.sparse = true;
            runs = map;
        }
        if stored.max(entry.size) > MAX_SIZE {
            return Err(Error::invalid(format!(
                "tar: a file of {} bytes",
                stored.max(entry.size)
            )));
        }
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
        self.size = entry.size;
        self.stored = left;
        self.position = 0;
        self.runs = runs.into_iter();
        self.run = self.runs.next().unwrap_or((self.size, 0));
        Ok(entry)
    }

    /// Reads stored bytes of the present file into `buffer`: where in the file they belong, and how
    /// many; `None` at its end. What lies between is a hole.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn read_stored(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>> {
        self.next_run();
        if self.run.1 == 0 {
            return Ok(None);
        }
        let offset = self.run.0;
        self.position = offset;
        let got = self.read_run(buffer).map_err(read_error)?;
        Ok(Some((offset, got)))
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

    /// What is read from.
    pub fn input(&self) -> &R {
        &self.input
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
            return self.end();
        }
        Raw::check(block).map(Some)
    }

    /// After a block of zeros: another one, or nothing, ends the archive.
    fn end(&mut self) -> Result<Option<Raw>> {
        let mut block = [0; BLOCK];
        let got = fill(&mut self.input, &mut block)?;
        self.raw.extend_from_slice(&block[..got]);
        if block == [0; BLOCK] && matches!(got, 0 | BLOCK) {
            return Ok(None);
        }
        Err(Error::invalid("tar: a block of zeros among the headers"))
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
        let stored = std::mem::take(&mut self.stored);
        self.run = (self.size, 0);
        self.runs = Vec::new().into_iter();
        self.position = self.size;
        if self.skip(stored)? < stored {
            return Err(read_error(ends_in_file()));
        }
        let padding = std::mem::take(&mut self.padding);
        // Some archives end without the padding of the last file.
        self.skip(padding)?;
        Ok(())
    }

    fn skip(&mut self, length: u64) -> Result<u64> {
        if length == 0 {
            return Ok(0);
        }
        io::copy(&mut (&mut self.input).take(length), &mut io::sink()).map_err(read_error)
    }

    /// Goes on to the run that is not at its end, if there is one.
    fn next_run(&mut self) {
        while self.run.1 == 0 && self.run.0 < self.size {
            self.run = self.runs.next().unwrap_or((self.size, 0));
        }
    }

    /// Reads on in the present run, which is not at its end.
    fn read_run(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(to_usize(self.run.1));
        let got = self.input.read(&mut buffer[..length])?;
        if got == 0 && length > 0 {
            return Err(ends_in_file());
        }
        self.run = (self.run.0 + got as u64, self.run.1 - got as u64);
        self.stored -= got as u64;
        self.position += got as u64;
        Ok(got)
    }
}

impl<R: Read> Read for TarReader<R> {
    /// The present file's bytes, holes as zeros.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.next_run();
        let hole = self.run.0 - self.position;
        if hole == 0 {
            return match self.run.1 {
                0 => Ok(0),
                _ => self.read_run(buffer),
            };
        }
        let length = buffer.len().min(to_usize(hole));
        buffer[..length].fill(0);
        self.position += length as u64;
        Ok(length)
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn ends_in_file() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "tar: it ends in a file")
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

/// An error of the source that went through [`Read`] keeps its kind; what is left is a decoder that
/// refuses the blob, or an archive that is cut short.
pub(crate) fn read_error(error: io::Error) -> Error {
    let kind = error.kind();
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) if kind == io::ErrorKind::UnexpectedEof => {
            Error::invalid("tar: it ends early").with_source(error)
        }
        Err(error) => Error::invalid("tar: cannot be decompressed").with_source(error),
    }
}

/// A name that ends at its first 0.
fn text(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes[..end].to_vec()
}

#[cfg(test)]
pub(crate) mod tests;
