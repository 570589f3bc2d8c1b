//! PAX records: `LENGTH KEY=VALUE` lines that override fields of the header.

use super::{TarEntry, TarTime};
use crate::error::{Error, Result};

/// Records of one PAX header in their order.
#[derive(Debug, Default)]
pub(super) struct Records(Vec<(Vec<u8>, Vec<u8>)>);

// === impl Records ===

impl Records {
    pub(super) fn parse(mut content: &[u8]) -> Result<Self> {
        let bad = || Error::invalid("tar: a malformed PAX record");
        let mut records = Vec::new();
        while !content.is_empty() {
            let space = content.iter().position(|b| *b == b' ').ok_or_else(bad)?;
            let length: usize = std::str::from_utf8(&content[..space])
                .ok()
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(bad)?;
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
        for (key, field) in [
            ("size", &mut entry.size),
            ("uid", &mut entry.uid),
            ("gid", &mut entry.gid),
        ] {
            if let Some(number) = self.number(key)? {
                *field = number;
            }
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

/// `[-]SECONDS[.FRACTION]`.
fn time(value: &[u8]) -> Result<TarTime> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |b| *b == b'.');
    let seconds = decimal(parts.next().unwrap_or_default())?;
    let seconds = i64::try_from(seconds)
        .map_err(|_| Error::invalid("tar: a time in a PAX record is out of range"))?;
    let mut nanos = 0u32;
    if let Some(fraction) = parts.next() {
        decimal(fraction.get(..9).unwrap_or(fraction))?;
        for at in 0..9 {
            let digit = fraction.get(at).map_or(0, |b| b - b'0');
            nanos = nanos * 10 + u32::from(digit);
        }
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
