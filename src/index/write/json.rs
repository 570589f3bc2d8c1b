//! The table of contents as JSON, with the fields of both dialects.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    error::{Error, Result},
    tar::{TarEntry, TarKind, TarTime},
};

/// Where a chunk went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Placed {
    pub(super) offset: u64,
    pub(super) end: u64,
    pub(super) length: u64,
    pub(super) digest: [u8; 32],
}

/// One entry of the tar with its chunks.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) tar: TarEntry,
    pub(super) chunks: std::ops::Range<usize>,
    /// SHA-256 of the whole file, if it has more than one chunk.
    pub(super) digest: Option<[u8; 32]>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonEntry<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_bytes: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    link_name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_name_bytes: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    mode: i64,
    #[serde(skip_serializing_if = "is_default")]
    size: u64,
    #[serde(skip_serializing_if = "is_default")]
    uid: u32,
    #[serde(skip_serializing_if = "is_default")]
    gid: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    user_name: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    group_name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modtime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accesstime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changetime: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    dev_major: u32,
    #[serde(skip_serializing_if = "is_default")]
    dev_minor: u32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(skip_serializing_if = "is_default")]
    offset: u64,
    #[serde(skip_serializing_if = "is_default")]
    end_offset: u64,
    #[serde(skip_serializing_if = "is_default")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "is_default")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    chunk_digest: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Writes the document. `tar_split` is the digest of that frame's content.
pub(super) fn document(
    entries: &[Listed],
    chunks: &[Placed],
    tar_split: Option<&str>,
) -> Result<Vec<u8>> {
    let mut json = br#"{"version":1,"entries":["#.to_vec();
    let mut names = Names::default();
    for (index, listed) in entries.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write_entry(
            &mut json,
            listed,
            &chunks[listed.chunks.clone()],
            &mut names,
        )?;
    }
    json.push(b']');
    if let Some(digest) = tar_split {
        json.extend_from_slice(format!(r#","tarSplitDigest":"{digest}""#).as_bytes());
    }
    json.push(b'}');
    Ok(json)
}

/// The last name written for an owner and a group: they are written when they change.
#[derive(Default)]
struct Names {
    users: BTreeMap<u32, Vec<u8>>,
    groups: BTreeMap<u32, Vec<u8>>,
}

fn write_entry(
    json: &mut Vec<u8>,
    listed: &Listed,
    chunks: &[Placed],
    names: &mut Names,
) -> Result<()> {
    let tar = &listed.tar;
    let kind = match tar.kind {
        TarKind::Regular => "reg",
        TarKind::Directory => "dir",
        TarKind::Symlink => "symlink",
        TarKind::Hardlink => "hardlink",
        TarKind::CharDevice => "char",
        TarKind::BlockDevice => "block",
        TarKind::Fifo => "fifo",
    };
    let (name, name_bytes) = text(&tar.name);
    let (link_name, link_name_bytes) = text(&tar.link);
    let mut entry = JsonEntry {
        kind,
        name,
        name_bytes,
        link_name,
        link_name_bytes,
        mode: tar.mode,
        size: tar.size,
        uid: tar.uid,
        gid: tar.gid,
        user_name: changed(&mut names.users, tar.uid, &tar.user),
        group_name: changed(&mut names.groups, tar.gid, &tar.group),
        modtime: Some(tar.mtime).and_then(time),
        accesstime: tar.atime.and_then(time),
        changetime: tar.ctime.and_then(time),
        dev_major: tar.device.0,
        dev_minor: tar.device.1,
        ..JsonEntry::default()
    };
    for (key, value) in &tar.xattrs {
        let key = std::str::from_utf8(key).map_err(|_| {
            Error::unsupported(format!(
                "entry {:?}: the name of an extended attribute is not UTF-8",
                entry.name
            ))
        })?;
        entry.xattrs.insert(key, STANDARD.encode(value));
    }
    if let Some(first) = chunks.first() {
        entry.digest = digest(listed.digest.as_ref().unwrap_or(&first.digest));
        entry.offset = first.offset;
        entry.end_offset = chunks.last().map_or(0, |last| last.end);
        entry.chunk_digest = digest(&first.digest);
        if chunks.len() > 1 {
            entry.chunk_size = first.length;
        }
    }
    let failed = |e| Error::internal("table of contents").with_source(e);
    serde_json::to_writer(&mut *json, &entry).map_err(failed)?;
    let mut chunk_offset = 0;
    for pair in chunks.windows(2) {
        chunk_offset += pair[0].length;
        let chunk = JsonEntry {
            kind: "chunk",
            name: Cow::Borrowed(&entry.name),
            name_bytes: entry.name_bytes.clone(),
            offset: pair[1].offset,
            chunk_size: pair[1].length,
            chunk_offset,
            chunk_digest: digest(&pair[1].digest),
            ..JsonEntry::default()
        };
        json.push(b',');
        serde_json::to_writer(&mut *json, &chunk).map_err(failed)?;
    }
    Ok(())
}

fn changed<'a>(last: &mut BTreeMap<u32, Vec<u8>>, id: u32, name: &'a [u8]) -> Cow<'a, str> {
    if name.is_empty() || last.get(&id).is_some_and(|last| last == name) {
        return Cow::Borrowed("");
    }
    last.insert(id, name.to_vec());
    String::from_utf8_lossy(name)
}

/// A name as text, and its bytes too where it is not UTF-8.
fn text(name: &[u8]) -> (Cow<'_, str>, Option<String>) {
    match std::str::from_utf8(name) {
        Ok(text) => (Cow::Borrowed(text), None),
        Err(_) => (String::from_utf8_lossy(name), Some(STANDARD.encode(name))),
    }
}

/// RFC 3339; left out for 1970 and for what no calendar of four digits has.
fn time(time: TarTime) -> Option<String> {
    if time == TarTime::default() {
        return None;
    }
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let date = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
    date.format(&Rfc3339).ok()
}

fn digest(digest: &[u8; 32]) -> String {
    format!("sha256:{}", hex::encode(digest))
}
