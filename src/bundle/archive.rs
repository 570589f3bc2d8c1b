//! Reads a tar stream member by member: ustar, GNU and PAX, with sparse files of every dialect.
//!
//! Names, links and attribute values are bytes. Nothing here touches the file system; sizes and
//! counts are bounded before anything is kept.

use std::io::{self, Read};

use super::pax::{self, Extended};
use crate::index::Xattr;

/// One member of an archive, its header and extended headers joined.
#[derive(Debug)]
pub(super) struct Member {
    /// As the archive has it.
    pub(super) path: Vec<u8>,
    pub(super) kind: MemberKind,
    /// Permission bits with setuid, setgid and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: Vec<Xattr>,
}

/// Type of a [`Member`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MemberKind {
    Directory,
    /// The runs of data that follow, and the size with holes.
    Regular {
        size: u64,
        data: Vec<Segment>,
    },
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// A run of a file's data; what lies between runs is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The archive is not well formed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{what}")]
pub(super) struct Malformed {
    what: &'static str,
}

/// Why a member cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    /// The stream is no archive that can be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The stream below failed.
    #[error(transparent)]
    Stream(#[from] io::Error),
}

/// A tar stream.
#[derive(Debug)]
pub(super) struct Archive<R> {
    stream: R,
    /// Stored bytes of the current member that have not been read.
    left: u64,
    /// Zeros behind them.
    padding: u64,
}

/// Headers of one member before they are joined.
#[derive(Default)]
struct Prefix {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    extended: Extended,
}

type Block = [u8; BLOCK];

const BLOCK: usize = 512;
/// Largest extended header or long name; other readers have the same limit.
const MAX_EXTENDED: u64 = 1 << 20;
/// Extended headers before one member: a long name, a long link, a PAX header and some to spare.
const MAX_PREFIXES: u32 = 16;
/// Runs of data of a sparse file: 16 bytes of memory each.
const MAX_SEGMENTS: usize = 1 << 20;
/// Largest file: what the kernel can hold (`off_t`).
const MAX_SIZE: u64 = i64::MAX as u64;

// === impl Malformed ===

impl Malformed {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what }
    }
}

// === impl Archive ===

impl<R: Read> Archive<R> {
    pub(super) fn new(stream: R) -> Self {
        Self {
            stream,
            left: 0,
            padding: 0,
        }
    }

    /// The next member; data of the one before that was not read is skipped. `None` at the end mark
    /// or the end of the stream.
    pub(super) fn next_member(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut prefix = Prefix::default();
        for _ in 0..MAX_PREFIXES {
            self.skip()?;
            let Some(block) = self.header()? else {
                return Ok(None);
            };
            let stored = unsigned(&block[124..136])?;
            match block[156] {
                b'L' => prefix.long_name = Some(until_nul(&self.small(stored)?).to_vec()),
                b'K' => prefix.long_link = Some(until_nul(&self.small(stored)?).to_vec()),
                b'x' => prefix.extended = Extended::parse(&self.small(stored)?)?,
                // Global headers carry comments; no layer tool applies them to members.
                b'g' => drop(self.small(stored)?),
                _ => return self.member(&block, stored, prefix).map(Some),
            }
        }
        Err(Malformed::new("too many extended headers in a row").into())
    }

    /// Reads stored bytes of the current member.
    pub(super) fn read_data(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.stream.read(&mut buffer[..most])?;
        if count == 0 && most != 0 {
            return Err(truncated());
        }
        self.left -= count as u64;
        Ok(count)
    }

    /// The stream, wherever it is.
    pub(super) fn into_inner(self) -> R {
        self.stream
    }

    /// Joins a member's header with what came before it.
    fn member(
        &mut self,
        block: &Block,
        stored: u64,
        prefix: Prefix,
    ) -> Result<Member, ArchiveError> {
        let extended = prefix.extended;
        let path = extended
            .path
            .or(prefix.long_name)
            .unwrap_or_else(|| header_name(block));
        let link = extended
            .link
            .or(prefix.long_link)
            .unwrap_or_else(|| until_nul(&block[157..257]).to_vec());
        let stored = extended.size.unwrap_or(stored);
        let kind = match block[156] {
            b'0' | 0 if path.ends_with(b"/") => MemberKind::Directory,
            b'0' | 0 | b'7' => {
                self.expect(stored)?;
                let size = extended.sparse.size;
                if extended.sparse.map_in_data {
                    let size = size.ok_or(Malformed::new("sparse file without a size"))?;
                    let data = self.map_in_data()?;
                    self.regular(size, data)?
                } else if let Some(data) = extended.sparse.map {
                    let size = size.ok_or(Malformed::new("sparse file without a size"))?;
                    self.regular(size, data)?
                } else {
                    let whole = Segment {
                        offset: 0,
                        length: stored,
                    };
                    self.regular(stored, vec![whole])?
                }
            }
            b'S' => {
                let (size, data) = self.old_sparse(block)?;
                self.expect(stored)?;
                self.regular(size, data)?
            }
            b'1' => MemberKind::Hardlink(link),
            b'2' => MemberKind::Symlink(link),
            b'3' => MemberKind::CharDevice {
                major: number(&block[329..337])?,
                minor: number(&block[337..345])?,
            },
            b'4' => MemberKind::BlockDevice {
                major: number(&block[329..337])?,
                minor: number(&block[337..345])?,
            },
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            _ => return Err(Malformed::new("member of an unknown type").into()),
        };
        let owner = |told: Option<u64>, field: &[u8]| match told {
            Some(id) => u32::try_from(id).map_err(|_| Malformed::new("owner over 32 bits")),
            None => number(field),
        };
        let mtime = match extended.mtime {
            Some(mtime) => mtime,
            None => (signed(&block[136..148])?, 0),
        };
        Ok(Member {
            path,
            kind,
            mode: number(&block[100..108])? & 0o7777,
            uid: owner(extended.uid, &block[108..116])?,
            gid: owner(extended.gid, &block[116..124])?,
            mtime,
            xattrs: extended.xattrs,
        })
    }

    /// Checks that the runs are in order, inside the file and as long as what is stored.
    fn regular(&self, size: u64, data: Vec<Segment>) -> Result<MemberKind, Malformed> {
        let bad = || Malformed::new("sparse map does not fit its file");
        let (mut end, mut total) = (0, 0_u64);
        for segment in &data {
            if segment.offset < end {
                return Err(bad());
            }
            end = segment.offset.checked_add(segment.length).ok_or_else(bad)?;
            total += segment.length;
        }
        if end > size || total != self.left {
            return Err(bad());
        }
        if size > MAX_SIZE {
            return Err(Malformed::new("file larger than any file system holds"));
        }
        Ok(MemberKind::Regular { size, data })
    }

    /// Old GNU sparse: four runs in the header, 21 in each block that follows.
    fn old_sparse(&mut self, block: &Block) -> Result<(u64, Vec<Segment>), ArchiveError> {
        let mut data = Vec::new();
        let mut more = block[482] != 0;
        runs(&block[386..482], &mut data)?;
        while more {
            let next = self.block()?.ok_or_else(truncated)?;
            runs(&next[..504], &mut data)?;
            more = next[504] != 0;
        }
        Ok((unsigned(&block[483..495])?, data))
    }

    /// PAX sparse 1.0: the runs in decimal, a line each, in whole blocks before the data.
    fn map_in_data(&mut self) -> Result<Vec<Segment>, ArchiveError> {
        let mut block = [0; BLOCK];
        let mut at = BLOCK;
        let mut line = || -> Result<u64, ArchiveError> {
            let mut text = Vec::new();
            loop {
                if at == BLOCK {
                    if self.left < BLOCK as u64 {
                        return Err(Malformed::new("sparse map cut short").into());
                    }
                    self.stream.read_exact(&mut block)?;
                    self.left -= BLOCK as u64;
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                match byte {
                    b'\n' => return Ok(pax::decimal(&text)?),
                    _ if text.len() > 20 => {
                        return Err(Malformed::new("sparse map of a wrong form").into());
                    }
                    _ => text.push(byte),
                }
            }
        };
        let count = line()?;
        if count > MAX_SEGMENTS as u64 {
            return Err(Malformed::new("sparse file of too many runs").into());
        }
        let mut data = Vec::new();
        for _ in 0..count {
            data.push(Segment {
                offset: line()?,
                length: line()?,
            });
        }
        Ok(data)
    }

    /// Announces stored bytes behind the header just read.
    fn expect(&mut self, stored: u64) -> Result<(), Malformed> {
        if stored > MAX_SIZE {
            return Err(Malformed::new("file larger than any file system holds"));
        }
        self.left = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
        Ok(())
    }

    /// Reads a whole extended header.
    fn small(&mut self, stored: u64) -> Result<Vec<u8>, ArchiveError> {
        if stored > MAX_EXTENDED {
            return Err(Malformed::new("extended header over 1 MiB").into());
        }
        self.expect(stored)?;
        let mut bytes = Vec::new();
        (&mut self.stream).take(stored).read_to_end(&mut bytes)?;
        self.left -= bytes.len() as u64;
        if self.left != 0 {
            return Err(truncated().into());
        }
        Ok(bytes)
    }

    /// Skips what is left of the current member.
    fn skip(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.left) + std::mem::take(&mut self.padding);
        let skipped = io::copy(&mut (&mut self.stream).take(rest), &mut io::sink())?;
        if skipped == rest {
            Ok(())
        } else {
            Err(truncated())
        }
    }

    /// The next header block; `None` at two blocks of zeros or the end of the stream.
    fn header(&mut self) -> Result<Option<Block>, ArchiveError> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block.iter().any(|&b| b != 0) {
            check_sum(&block)?;
            return Ok(Some(block));
        }
        match self.block()? {
            Some(second) if second.iter().any(|&b| b != 0) => {
                Err(Malformed::new("one block of zeros between members").into())
            }
            _ => Ok(None),
        }
    }

    /// One block; `None` if the stream ends before its first byte.
    fn block(&mut self) -> io::Result<Option<Block>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.stream.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(truncated()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(block))
    }
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "archive cut short")
}

/// Old GNU sparse runs, 24 bytes each; an empty one ends the list.
fn runs(fields: &[u8], data: &mut Vec<Segment>) -> Result<(), Malformed> {
    for run in fields.chunks_exact(24) {
        if run[0] == 0 {
            break;
        }
        if data.len() == MAX_SEGMENTS {
            return Err(Malformed::new("sparse file of too many runs"));
        }
        data.push(Segment {
            offset: unsigned(&run[..12])?,
            length: unsigned(&run[12..])?,
        });
    }
    Ok(())
}

/// The name of a header: POSIX headers have a prefix for it, GNU ones use that room for times.
fn header_name(block: &Block) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = match (&block[257..263], &block[508..]) {
        (b"ustar\0", b"tar\0") => until_nul(&block[345..476]),
        (b"ustar\0", _) => until_nul(&block[345..500]),
        _ => &[],
    };
    if prefix.is_empty() {
        name.to_vec()
    } else {
        [prefix, b"/", name].concat()
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&b| b == 0);
    &field[..end.unwrap_or(field.len())]
}

/// The header's sum, counted with unsigned bytes or, as old tars did, with signed ones.
fn check_sum(block: &Block) -> Result<(), Malformed> {
    let told = signed(&block[148..156])?;
    let byte = |at: usize| match at {
        148..156 => b' ',
        _ => block[at],
    };
    let plain: i64 = (0..BLOCK).map(|at| i64::from(byte(at))).sum();
    let old: i64 = (0..BLOCK).map(|at| i64::from(byte(at).cast_signed())).sum();
    if told == plain || told == old {
        Ok(())
    } else {
        Err(Malformed::new("header with a wrong sum"))
    }
}

fn number(field: &[u8]) -> Result<u32, Malformed> {
    u32::try_from(signed(field)?).map_err(|_| Malformed::new("number over 32 bits in a header"))
}

fn unsigned(field: &[u8]) -> Result<u64, Malformed> {
    u64::try_from(signed(field)?).map_err(|_| Malformed::new("size below zero"))
}

/// A numeric field: octal digits, or base 256 where the first bit is set.
fn signed(field: &[u8]) -> Result<i64, Malformed> {
    let bad = || Malformed::new("number of a wrong form in a header");
    match field.split_first() {
        Some((first, rest)) if first & 0x80 != 0 => {
            // Two's complement of the field's width without its first bit.
            let start = i128::from(first & 0x7f) - if first & 0x40 != 0 { 0x80 } else { 0 };
            let mut value = start;
            for &byte in rest {
                value = (value << 8) | i128::from(byte);
            }
            i64::try_from(value).map_err(|_| bad())
        }
        _ => {
            let text = until_nul(field).trim_ascii();
            if text.iter().any(|b| !matches!(b, b'0'..=b'7')) {
                return Err(bad());
            }
            text.iter().try_fold(0_i64, |value, &digit| {
                value
                    .checked_mul(8)
                    .and_then(|value| value.checked_add(i64::from(digit - b'0')))
                    .ok_or_else(bad)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header block of a GNU archive with a right sum.
    fn header(kind: u8, name: &[u8], size: u64) -> Block {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(3_000_000);
        header.set_mtime(5);
        header.set_size(size);
        header.set_cksum();
        *header.as_bytes()
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<Member>, ArchiveError> {
        let mut archive = Archive::new(bytes);
        let mut all = Vec::new();
        while let Some(member) = archive.next_member()? {
            all.push(member);
        }
        Ok(all)
    }

    #[test]
    fn fields_and_long_names() {
        let mut long = vec![b'n'; 300];
        long.push(0);
        let mut bytes = header(b'L', b"././@LongLink", 301).to_vec();
        bytes.extend(&long);
        bytes.resize(512 + 512, 0);
        bytes.extend(header(b'0', b"short", 3));
        bytes.extend(b"abc");
        bytes.resize(512 * 4, 0);
        bytes.extend(header(b'5', b"dir/", 0));
        bytes.extend([0; 1024]);
        let all = read_all(&bytes).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].path, [b'n'; 300]);
        assert_eq!(
            (all[0].mode, all[0].uid, all[0].gid),
            (0o4755, 7, 3_000_000)
        );
        assert_eq!(all[0].mtime, (5, 0));
        assert_eq!(all[1].kind, MemberKind::Directory);
    }

    #[test]
    fn numbers() {
        assert_eq!(signed(b"0000644\0").unwrap(), 0o644);
        assert_eq!(signed(b"   644 \0").unwrap(), 0o644);
        assert_eq!(signed(b"\0\0\0\0").unwrap(), 0);
        assert_eq!(signed(&[0x80, 0, 0, 0, 0, 1, 0, 0]).unwrap(), 65536);
        assert_eq!(signed(&[0xff; 12]).unwrap(), -1);
        assert!(signed(b"0008\0").is_err());
        assert!(signed(&[0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(unsigned(&[0xff; 12]).is_err());
    }

    #[test]
    fn refuses_what_is_not_an_archive() {
        let whole = header(b'0', b"a", 3);
        assert!(read_all(&whole).is_err(), "data missing");
        assert!(read_all(&whole[..100]).is_err(), "header cut");
        let mut wrong = whole;
        wrong[0] ^= 1;
        assert!(read_all(&wrong).is_err(), "sum");
        assert!(read_all(&header(b'?', b"a", 0)).is_err(), "type");
        assert!(read_all(&header(b'x', b"a", 2 << 20)).is_err(), "extended");
        assert!(read_all(&header(b'0', b"a", u64::MAX >> 1)).is_err());
        let mut many = Vec::new();
        for _ in 0..100 {
            many.extend(header(b'L', b"a", 0));
        }
        assert!(read_all(&many).is_err(), "prefixes");
    }

    #[test]
    fn sparse_maps_must_fit() {
        let archive = |left| Archive {
            stream: io::empty(),
            left,
            padding: 0,
        };
        let run = |offset, length| Segment { offset, length };
        assert!(archive(3).regular(9, vec![run(1, 1), run(4, 2)]).is_ok());
        assert!(archive(3).regular(9, vec![run(4, 2), run(1, 1)]).is_err());
        assert!(archive(3).regular(5, vec![run(1, 1), run(4, 2)]).is_err());
        assert!(archive(4).regular(9, vec![run(1, 1), run(4, 2)]).is_err());
        assert!(archive(1).regular(9, vec![run(u64::MAX, 1)]).is_err());
    }
}
