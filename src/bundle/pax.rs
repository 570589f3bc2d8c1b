//! PAX extended headers: `LENGTH KEY=VALUE\n` records, read by length since values are bytes.

use super::archive::{Malformed, Segment};
use crate::index::Xattr;

/// What the records of one member's extended header say.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) sparse: Sparse,
}

/// GNU sparse records, versions 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    /// Size of the file with its holes.
    pub(super) size: Option<u64>,
    /// Versions 0.0 and 0.1: runs of data.
    pub(super) map: Option<Vec<Segment>>,
    /// Version 1.0: the runs are told at the start of the data.
    pub(super) map_in_data: bool,
    /// Versions 0.1 and 1.0 hide the name here.
    name: Option<Vec<u8>>,
    /// Version 0.0: an offset that waits for its length.
    offset: Option<u64>,
    major: Option<u64>,
}

// === impl Extended ===

impl Extended {
    /// Reads the records of an extended header; a later record of a key replaces an earlier one and
    /// an empty value takes it back, as POSIX says.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let mut all = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes)?;
            all.take(key, value)?;
            bytes = rest;
        }
        if all.sparse.offset.is_some() {
            return Err(Malformed::new("sparse record without a length"));
        }
        all.sparse.map_in_data = all.sparse.major == Some(1);
        if all.sparse.name.is_some() {
            all.path = all.sparse.name.take();
        }
        Ok(all)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let bytes = || (!value.is_empty()).then(|| value.to_vec());
        let number = || match value {
            [] => Ok(None),
            _ => decimal(value).map(Some),
        };
        let sparse = &mut self.sparse;
        match key {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link = bytes(),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(timestamp(value)?),
            b"GNU.sparse.major" => sparse.major = number()?,
            b"GNU.sparse.name" => sparse.name = bytes(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => sparse.size = number()?,
            b"GNU.sparse.map" => sparse.map = Some(sparse_map(value)?),
            b"GNU.sparse.offset" => sparse.offset = number()?,
            b"GNU.sparse.numbytes" => {
                let offset = sparse.offset.take();
                let offset = offset.ok_or(Malformed::new("sparse record without an offset"))?;
                let segment = Segment {
                    offset,
                    length: decimal(value)?,
                };
                sparse.map.get_or_insert_default().push(segment);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(other, _)| **other != *name);
                    if !value.is_empty() {
                        self.xattrs.push((name.into(), value.into()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Key, value, and what follows the record.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Splits the first record off.
fn record(bytes: &[u8]) -> Result<Record<'_>, Malformed> {
    let bad = || Malformed::new("extended header record of a wrong form");
    let space = bytes.iter().take(20).position(|&b| b == b' ');
    let space = space.ok_or_else(bad)?;
    let length = usize::try_from(decimal(&bytes[..space])?).map_err(|_| bad())?;
    if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return Err(bad());
    }
    let body = &bytes[space + 1..length - 1];
    let equals = body.iter().position(|&b| b == b'=').ok_or_else(bad)?;
    Ok((&body[..equals], &body[equals + 1..], &bytes[length..]))
}

/// An unsigned decimal number.
pub(super) fn decimal(text: &[u8]) -> Result<u64, Malformed> {
    std::str::from_utf8(text)
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or(Malformed::new("number of a wrong form"))
}

/// `[-]seconds[.fraction]`, rounded down to nanoseconds.
fn timestamp(text: &[u8]) -> Result<(i64, u32), Malformed> {
    let bad = || Malformed::new("time of a wrong form");
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&b| b == b'.');
    let seconds = decimal(parts.next().unwrap_or_default()).map_err(|_| bad())?;
    let seconds = i64::try_from(seconds).map_err(|_| bad())?;
    let fraction = parts.next().unwrap_or_default();
    let mut nanos = 0_u32;
    for place in 0..9 {
        let digit = fraction.get(place).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return Err(bad());
        }
        nanos = nanos * 10 + u32::from(digit - b'0');
    }
    if fraction.iter().any(|b| !b.is_ascii_digit()) {
        return Err(bad());
    }
    Ok(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

/// `offset,length,offset,length...`
fn sparse_map(text: &[u8]) -> Result<Vec<Segment>, Malformed> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let numbers = text
        .split(|&b| b == b',')
        .map(decimal)
        .collect::<Result<Vec<_>, _>>()?;
    if numbers.len() % 2 != 0 {
        return Err(Malformed::new("sparse map with an odd count"));
    }
    Ok(numbers
        .chunks_exact(2)
        .map(|pair| Segment {
            offset: pair[0],
            length: pair[1],
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(key: &[u8], value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length != body + length.to_string().len() {
            length += 1;
        }
        [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
    }

    #[test]
    fn values_are_bytes_and_may_hold_newlines() {
        let header = [
            written(b"path", b"a\xff\nb"),
            written(b"SCHILY.xattr.security.capability", b"\x01\n\x00=\n"),
            written(b"size", b"12"),
        ]
        .concat();
        let all = Extended::parse(&header).unwrap();
        assert_eq!(all.path.unwrap(), b"a\xff\nb");
        assert_eq!(&*all.xattrs[0].0, b"security.capability");
        assert_eq!(&*all.xattrs[0].1, b"\x01\n\x00=\n");
        assert_eq!(all.size, Some(12));
    }

    #[test]
    fn times_before_1970_round_down() {
        assert_eq!(timestamp(b"12.5").unwrap(), (12, 500_000_000));
        assert_eq!(timestamp(b"-1").unwrap(), (-1, 0));
        assert_eq!(timestamp(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(timestamp(b"3.0000000019").unwrap(), (3, 1));
        for bad in [&b""[..], b"x", b"1.x", b"--1", b"1.2.3"] {
            assert!(timestamp(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn refuses_records_of_a_wrong_form() {
        for bad in [
            &b"5 a=b\n"[..],
            b"7 a=b\n",
            b"6 a=bc",
            b"x a=b\n",
            b"4 ab\n",
            b"99999999999999999999999 a=b\n",
            b"6 ab=\nx",
        ] {
            assert!(Extended::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Extended::parse(&written(b"GNU.sparse.offset", b"1")).is_err());
        assert!(Extended::parse(&written(b"GNU.sparse.map", b"1,2,3")).is_err());
    }
}
