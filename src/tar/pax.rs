//! PAX records: `LENGTH KEY=VALUE` lines that override fields of the header.

use super::{TarEntry, TarTime};
use crate::error::{Error, Result};

/// Records of one PAX header in their order.
#[derive(Debug, Default)]
pub(super) struct Records(Vec<(Vec<u8>, Vec<u8>)>);

/// Digits of a length: the largest number of 64 bits has 20.
const MAX_DIGITS: usize = 20;

// === impl Records ===

impl Records {
    pub(super) fn parse(mut content: &[u8]) -> Result<Self> {
        let bad = || Error::invalid("tar: a malformed PAX record");
        let mut records = Vec::new();
        while !content.is_empty() {
            let digits = content.iter().take(MAX_DIGITS + 1);
            let space = digits.copied().position(|b| b == b' ').ok_or_else(bad)?;
            let length = decimal(&content[..space]).map_err(|_| bad())?;
            let length = usize::try_from(length).map_err(|_| bad())?;
            if length <= space + 1 || length > content.len() || content[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &content[space + 1..length - 1];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            if equals == 0 {
                return Err(bad());
            }
            records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
            content = &content[length..];
        }
        Ok(Self(records))
    }

    /// The last value of `key`, if it is not empty.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let found = self.0.iter().rev().find(|(name, _)| name == key);
        found.map(|(_, value)| &value[..]).filter(|v| !v.is_empty())
    }

    /// All records in their order.
    pub(super) fn all(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(key, value)| (&key[..], &value[..]))
    }

    /// [`get`](Self::get) as a decimal number.
    pub(super) fn number(&self, key: &str) -> Result<Option<u64>> {
        self.get(key.as_bytes()).map(decimal).transpose()
    }

    /// Overrides what the header says.
    pub(super) fn apply(&self, entry: &mut TarEntry) -> Result<()> {
        for (key, field) in [
            ("path", &mut entry.name),
            ("linkpath", &mut entry.link),
            ("uname", &mut entry.user),
            ("gname", &mut entry.group),
        ] {
            if let Some(value) = self.get(key.as_bytes()) {
                *field = value.to_vec();
            }
        }
        for (key, field) in [("uid", &mut entry.uid), ("gid", &mut entry.gid)] {
            if let Some(number) = self.number(key)? {
                *field = u32::try_from(number)
                    .map_err(|_| Error::invalid(format!("tar: a {key} of {number}")))?;
            }
        }
        if let Some(size) = self.number("size")? {
            entry.size = size;
        }
        if let Some(value) = self.get(b"mtime") {
            entry.mtime = time(value)?;
        }
        if let Some(value) = self.get(b"atime") {
            entry.atime = Some(time(value)?);
        }
        if let Some(value) = self.get(b"ctime") {
            entry.ctime = Some(time(value)?);
        }
        for (key, value) in &self.0 {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                entry.xattrs.retain(|(other, _)| other != name);
                entry.xattrs.push((name.to_vec(), value.clone()));
            }
        }
        entry.xattrs.sort();
        Ok(())
    }
}

pub(super) fn decimal(digits: &[u8]) -> Result<u64> {
    std::str::from_utf8(digits)
        .ok()
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Error::invalid("tar: a malformed number in a PAX record"))
}

/// `[-]SECONDS[.FRACTION]`, rounded down to nanoseconds.
fn time(value: &[u8]) -> Result<TarTime> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |b| *b == b'.');
    let bad = || Error::invalid("tar: a malformed time in a PAX record");
    let seconds = decimal(parts.next().unwrap_or_default()).map_err(|_| bad())?;
    let seconds = i64::try_from(seconds).map_err(|_| bad())?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let mut nanos = 0u32;
    for place in 0..9 {
        let digit = fraction.get(place).map_or(0, |b| b - b'0');
        nanos = nanos * 10 + u32::from(digit);
    }
    Ok(match (negative, nanos) {
        (false, _) => TarTime { seconds, nanos },
        (true, 0) => TarTime {
            seconds: -seconds,
            nanos,
        },
        (true, nanos) => TarTime {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
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
        let mut entry = TarEntry::default();
        Records::parse(&header).unwrap().apply(&mut entry).unwrap();
        assert_eq!(entry.name, b"a\xff\nb");
        assert_eq!(entry.xattrs[0].0, b"security.capability");
        assert_eq!(entry.xattrs[0].1, b"\x01\n\x00=\n");
        assert_eq!(entry.size, 12);
    }

    #[test]
    fn times_before_1970_round_down() {
        for (text, seconds, nanos) in [
            (&b"12.5"[..], 12, 500_000_000),
            (b"12.", 12, 0),
            (b"-1", -1, 0),
            (b"-1.25", -2, 750_000_000),
            (b"-0.5", -1, 500_000_000),
            (b"3.0000000019", 3, 1),
        ] {
            assert_eq!(time(text).unwrap(), TarTime { seconds, nanos });
        }
        for bad in [&b""[..], b"x", b"1.x", b"--1", b"1.2.3", b"1.000000000x"] {
            assert!(time(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn refuses_records_of_a_wrong_form() {
        for bad in [
            &b"5 a=b\n"[..],
            b"7 a=b\n",
            b"+6 a=b\n",
            b"6 a=bc",
            b"x a=b\n",
            b"4 ab\n",
            b"5 =b\n",
            b"99999999999999999999999 a=b\n",
            b"6 ab=\nx",
        ] {
            assert!(Records::parse(bad).is_err(), "{bad:?}");
        }
        for (key, value) in [("uid", "4294967296"), ("uid", "-1"), ("size", "x")] {
            let records = Records::parse(&written(key.as_bytes(), value.as_bytes())).unwrap();
            assert!(records.apply(&mut TarEntry::default()).is_err(), "{key}");
        }
    }
}
