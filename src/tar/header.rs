//! One 512-byte header: its fields, and writing one for a file that was stored with holes.

use super::{BLOCK, TarEntry, TarKind, TarTime, text};
use crate::error::{Error, Result};

/// A header block whose checksum is good.
#[derive(Debug)]
pub(super) struct Raw([u8; BLOCK]);

// === impl Raw ===

impl Raw {
    pub(super) fn check(block: [u8; BLOCK]) -> Result<Self> {
        let raw = Raw(block);
        let said = raw.number(148..156)?;
        // Old archivers summed signed bytes.
        let unsigned: i64 = raw.summed().map(i64::from).sum();
        let signed: i64 = raw.summed().map(|b| i64::from(b.cast_signed())).sum();
        if said != unsigned && said != signed {
            return Err(Error::invalid("tar: a header has a wrong checksum"));
        }
        Ok(raw)
    }

    /// All bytes, with spaces for the checksum.
    fn summed(&self) -> impl Iterator<Item = u8> + '_ {
        self.0.iter().enumerate().map(|(at, byte)| {
            if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            }
        })
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn bytes(&self) -> &[u8; BLOCK] {
        &self.0
    }

    pub(super) fn size(&self) -> Result<u64> {
        let size = self.number(124..136)?;
        u64::try_from(size).map_err(|_| Error::invalid("tar: a negative size"))
    }

    pub(super) fn is_gnu(&self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    fn is_ustar(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }

    /// Star keeps times at the end of the room that ustar has for a name's beginning.
    fn is_star(&self) -> bool {
        self.is_ustar() && &self.0[508..] == b"tar\0"
    }

    /// The entry as this block alone says it.
    pub(super) fn entry(&self) -> Result<TarEntry> {
        let mut name = text(&self.0[..100]);
        if self.is_ustar() {
            let end = if self.is_star() { 476 } else { 500 };
            let prefix = text(&self.0[345..end]);
            if !prefix.is_empty() {
                name = [&prefix[..], b"/", &name].concat();
            }
        }
        let kind = match self.kind() {
            b'0' | 0 | b'7' | b'S' => TarKind::Regular,
            b'1' => TarKind::Hardlink,
            b'2' => TarKind::Symlink,
            b'3' => TarKind::CharDevice,
            b'4' => TarKind::BlockDevice,
            b'5' => TarKind::Directory,
            b'6' => TarKind::Fifo,
            other => {
                return Err(Error::unsupported(format!(
                    "tar: entry {:?} has type {:?}",
                    String::from_utf8_lossy(&name),
                    char::from(other)
                )));
            }
        };
        let unsigned = |range, what: &str| {
            u32::try_from(self.number(range)?)
                .map_err(|_| Error::invalid(format!("tar: {what} out of range")))
        };
        let mut entry = TarEntry {
            kind,
            link: text(&self.0[157..257]),
            mode: self.number(100..108)?,
            uid: unsigned(108..116, "an owner")?,
            gid: unsigned(116..124, "a group")?,
            mtime: TarTime {
                seconds: self.number(136..148)?,
                nanos: 0,
            },
            size: self.size()?,
            name,
            ..TarEntry::default()
        };
        if self.is_ustar() || self.is_gnu() {
            entry.user = text(&self.0[265..297]);
            entry.group = text(&self.0[297..329]);
            let device = |range| unsigned(range, "a device number");
            entry.device = (device(329..337)?, device(337..345)?);
        }
        if self.is_gnu() {
            entry.atime = self.other_time(345..357)?;
            entry.ctime = self.other_time(357..369)?;
        } else if self.is_star() {
            entry.atime = self.other_time(476..488)?;
            entry.ctime = self.other_time(488..500)?;
        }
        Ok(entry)
    }

    fn other_time(&self, range: std::ops::Range<usize>) -> Result<Option<TarTime>> {
        if self.0[range.start] == 0 {
            return Ok(None);
        }
        let seconds = self.number(range)?;
        Ok(Some(TarTime { seconds, nanos: 0 }))
    }

    /// A number in octal digits, or in base 256 if its first bit is set.
    pub(super) fn number(&self, range: std::ops::Range<usize>) -> Result<i64> {
        number(&self.0[range])
    }
}

pub(super) fn number(field: &[u8]) -> Result<i64> {
    let bad = || Error::invalid("tar: a malformed number in a header");
    if field[0] & 0x80 != 0 {
        // Two's complement over the field without its marker bit.
        let negative = field[0] & 0x40 != 0;
        let mut number: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = match at {
                0 if negative => *byte | 0x80,
                0 => *byte & 0x7f,
                _ => *byte,
            };
            number = (number << 8) | i128::from(byte);
        }
        return i64::try_from(number).map_err(|_| bad());
    }
    // Zeros and spaces may stand on both sides.
    let begin = field.iter().position(|b| !matches!(b, 0 | b' '));
    let digits = text(&field[begin.unwrap_or(field.len())..]);
    digits
        .trim_ascii_end()
        .iter()
        .try_fold(0_i64, |number, digit| {
            let digit = match digit {
                b'0'..=b'7' => i64::from(digit - b'0'),
                _ => return Err(bad()),
            };
            number
                .checked_mul(8)
                .and_then(|number| number.checked_add(digit))
                .ok_or_else(bad)
        })
}

/// Header bytes that store `entry`, a regular file, without holes: a PAX header with all that is known
/// of it and a ustar header.
///
/// # Errors
/// `Unsupported` if an attribute's name cannot be written as a PAX record.
pub(crate) fn plain_header(entry: &TarEntry) -> Result<Vec<u8>> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = vec![
        (b"path".to_vec(), entry.name.clone()),
        (b"size".to_vec(), entry.size.to_string().into_bytes()),
        (b"uid".to_vec(), entry.uid.to_string().into_bytes()),
        (b"gid".to_vec(), entry.gid.to_string().into_bytes()),
        (b"mtime".to_vec(), pax_time(entry.mtime)),
    ];
    for (key, time) in [("atime", entry.atime), ("ctime", entry.ctime)] {
        records.extend(time.map(|time| (key.into(), pax_time(time))));
    }
    for (key, name) in [("uname", &entry.user), ("gname", &entry.group)] {
        if !name.is_empty() {
            records.push((key.into(), name.clone()));
        }
    }
    for (name, value) in &entry.xattrs {
        if name.contains(&b'=') {
            return Err(Error::unsupported(
                "tar: an extended attribute's name with =",
            ));
        }
        records.push(([b"SCHILY.xattr.", &name[..]].concat(), value.clone()));
    }
    let mut content = Vec::new();
    for (key, value) in records {
        let body = key.len() + value.len() + 3;
        // The length counts its own digits.
        let mut length = body + body.to_string().len();
        if length.to_string().len() != body.to_string().len() {
            length = body + length.to_string().len();
        }
        content.extend_from_slice(format!("{length} ").as_bytes());
        content.extend_from_slice(&key);
        content.push(b'=');
        content.extend_from_slice(&value);
        content.push(b'\n');
    }
    let mut extension = tar::Header::new_ustar();
    extension.set_entry_type(tar::EntryType::XHeader);
    extension.as_mut_bytes()[..13].copy_from_slice(b"PaxHeaders/x\0");
    extension.set_mode(0o644);
    extension.set_size(content.len() as u64);
    extension.set_mtime(0);
    extension.set_cksum();

    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    let short = entry.name.len().min(100);
    header.as_mut_bytes()[..short].copy_from_slice(&entry.name[..short]);
    header.set_mode(u32::try_from(entry.mode & 0o7777).unwrap_or(0o644));
    header.set_size(entry.size);
    header.set_mtime(0);
    header.set_cksum();

    let mut bytes = extension.as_bytes().to_vec();
    bytes.extend_from_slice(&content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes.extend_from_slice(header.as_bytes());
    Ok(bytes)
}

/// Seconds with a fraction as PAX has them; the fraction counts away from zero.
fn pax_time(time: TarTime) -> Vec<u8> {
    let TarTime { seconds, nanos } = time;
    let text = match (seconds, nanos) {
        (seconds, 0) => seconds.to_string(),
        (seconds @ 0.., nanos) => format!("{seconds}.{nanos:09}"),
        (seconds, nanos) => {
            let (whole, rest) = ((seconds + 1).unsigned_abs(), 1_000_000_000 - nanos);
            format!("-{whole}.{rest:09}")
        }
    };
    text.into_bytes()
}
