//! The tables of all layers in one blob: which layers there are, and where each has its own.

use std::ops::Range;

use super::{
    bytes::{Rest, put, put_bytes},
    seal::Salt,
};
use crate::oci::Digest;

/// One layer's index as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Digest of the layer's blob, as the manifest names it.
    pub layer: Digest,
    /// For which contents it is sealed; none if it is not.
    pub(super) salt: Option<Salt>,
    /// Its table.
    pub(super) table: Vec<u8>,
    /// Its windows, one behind the other.
    pub(super) windows: Vec<u8>,
}

/// A layer in a blob of tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed<'a> {
    pub(super) layer: Digest,
    pub(super) salt: Option<Salt>,
    pub(super) table: &'a [u8],
    /// In the blob of windows.
    pub(super) windows: Range<u64>,
}

// === impl Part ===

impl Part {
    /// Bytes of it.
    #[must_use]
    pub fn size(&self) -> u64 {
        (self.table.len() + self.windows.len()) as u64
    }

    /// Whether only the layer's key opens it.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.salt.is_some()
    }
}

/// First bytes of a blob of tables.
const MAGIC: &[u8; 4] = b"NCI1";
/// Layers that are read at most; images have up to 127.
const MAX_LAYERS: usize = 1024;
const PLAIN: u8 = 0;
const SEALED: u8 = 1;

/// Joins parts to the blob of tables and the blob of windows.
pub(super) fn join(parts: &[Part]) -> (Vec<u8>, Vec<u8>) {
    let mut tables = MAGIC.to_vec();
    put(&mut tables, parts.len() as u64);
    for part in parts {
        put_bytes(&mut tables, part.layer.to_string().as_bytes());
        match &part.salt {
            None => tables.push(PLAIN),
            Some(salt) => {
                tables.push(SEALED);
                tables.extend_from_slice(salt);
            }
        }
        put(&mut tables, part.table.len() as u64);
        put(&mut tables, part.windows.len() as u64);
    }
    let mut windows = Vec::new();
    for part in parts {
        tables.extend_from_slice(&part.table);
        windows.extend_from_slice(&part.windows);
    }
    (tables, windows)
}

/// The layers in a blob of tables. Pure.
pub(super) fn split(tables: &[u8]) -> Result<Vec<Listed<'_>>, String> {
    let magic = tables.strip_prefix(MAGIC);
    let mut rest = Rest::new(magic.ok_or("not one, or of a newer version")?);
    let count = rest.count(4).filter(|it| *it <= MAX_LAYERS);
    let count = count.ok_or("it has more layers than an image can have")?;
    let mut listed: Vec<Listed<'_>> = Vec::with_capacity(count);
    let mut lengths = Vec::with_capacity(count);
    let mut windows = 0_u64;
    for number in 0..count {
        let bad = |what: &str| format!("layer {number}: {what}");
        let digest = rest.bytes().and_then(|it| std::str::from_utf8(it).ok());
        let digest = digest.and_then(|it| it.parse::<Digest>().ok());
        let salt = match rest.byte() {
            Some(PLAIN) => None,
            Some(SEALED) => Some(rest.array().ok_or_else(|| bad("it is cut short"))?),
            _ => return Err(bad("whether it is sealed is not known")),
        };
        let table = rest.number().and_then(|it| usize::try_from(it).ok());
        lengths.push(table.ok_or_else(|| bad("its table is too long"))?);
        let begin = windows;
        let end = rest.number().and_then(|it| begin.checked_add(it));
        windows = end.ok_or_else(|| bad("its windows are too long"))?;
        let layer = digest.ok_or_else(|| bad("its digest is none"))?;
        if listed.iter().any(|it| it.layer == layer) {
            return Err(bad("it is there twice"));
        }
        listed.push(Listed {
            layer,
            salt,
            table: &[],
            windows: begin..windows,
        });
    }
    for (layer, length) in listed.iter_mut().zip(lengths) {
        layer.table = rest.take(length).ok_or("it is cut short")?;
    }
    match rest.is_empty() {
        true => Ok(listed),
        false => Err("bytes behind its end".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Vec<Part> {
        let part = |name: &[u8], salt, table: &[u8], windows: &[u8]| Part {
            layer: Digest::sha256(name),
            salt,
            table: table.to_vec(),
            windows: windows.to_vec(),
        };
        vec![
            part(b"a", None, b"table", b"windows"),
            part(b"b", Some([7; 32]), b"", b""),
            part(b"c", Some([8; 32]), b"another", b"more"),
        ]
    }

    #[test]
    fn comes_apart_as_it_was_joined() {
        let (tables, windows) = join(&parts());
        let listed = split(&tables).unwrap();
        assert_eq!(listed.len(), 3);
        for (listed, part) in listed.iter().zip(parts()) {
            assert_eq!(listed.layer, part.layer);
            assert_eq!(listed.salt, part.salt);
            assert_eq!(listed.table, part.table);
            let bytes = usize::try_from(listed.windows.start).unwrap()
                ..usize::try_from(listed.windows.end).unwrap();
            assert_eq!(windows[bytes], part.windows);
        }
        assert_eq!(split(&join(&[]).0).unwrap(), []);
    }

    #[test]
    fn damage_is_refused() {
        let (tables, _) = join(&parts());
        for end in 0..tables.len() {
            assert!(split(&tables[..end]).is_err(), "{end}");
        }
        let twice = [parts(), parts()].concat();
        let long = [&tables[..], b"x"].concat();
        for (bad, why) in [
            (&b"NCI2\0"[..], "newer"),
            (&long, "behind its end"),
            (&join(&twice).0, "twice"),
            (b"NCI1\xff\xff\xff\xff\x7f", "more layers"),
        ] {
            let error = split(bad).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
