//! tar-split data: the bytes of a tar that are not in its files, so that podman can rebuild the exact
//! tar (and its DiffID) of a layer that it fetched file by file.
//!
//! One JSON object a line: segments with raw bytes, files with name, size and CRC-64.

use std::io::Write;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::error::{Error, Result};

/// Collects and compresses the lines.
pub(super) struct TarSplit {
    packed: zstd::stream::write::Encoder<'static, Vec<u8>>,
    segment: Vec<u8>,
    position: u64,
    length: u64,
}

/// Sums a file as tar-split does: CRC-64 with the ISO polynomial.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Crc64(u64);

#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    payload: Option<String>,
    position: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

const FILE: u8 = 1;
const SEGMENT: u8 = 2;

// === impl TarSplit ===

impl TarSplit {
    pub(super) fn new(level: i32) -> Result<Self> {
        Ok(Self {
            packed: zstd::stream::write::Encoder::new(Vec::new(), level)
                .map_err(|e| Error::internal("zstd encoder").with_source(e))?,
            segment: Vec::new(),
            position: 0,
            length: 0,
        })
    }

    /// Adds bytes of the tar that are in no file.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.segment.extend_from_slice(bytes);
    }

    /// Ends the segment and adds a file.
    pub(super) fn file(&mut self, name: &str, size: u64, crc: Crc64) -> Result<()> {
        self.flush()?;
        let payload = (size > 0).then(|| STANDARD.encode(crc.0.to_be_bytes()));
        self.line(FILE, Some(name), size, payload)
    }

    /// Ends the segment, if there is one.
    pub(super) fn flush(&mut self) -> Result<()> {
        if self.segment.is_empty() {
            return Ok(());
        }
        let payload = STANDARD.encode(std::mem::take(&mut self.segment));
        self.line(SEGMENT, None, 0, Some(payload))
    }

    fn line(
        &mut self,
        kind: u8,
        name: Option<&str>,
        size: u64,
        payload: Option<String>,
    ) -> Result<()> {
        let line = Line {
            kind,
            name: name.filter(|name| !name.is_empty()),
            size,
            payload,
            position: self.position,
        };
        let failed = |e| Error::internal("tar-split").with_source(e);
        let mut json = serde_json::to_vec(&line).map_err(failed)?;
        json.push(b'\n');
        self.position += 1;
        self.length += json.len() as u64;
        self.packed
            .write_all(&json)
            .map_err(|e| Error::internal("tar-split").with_source(e))
    }

    /// The compressed data and its plain length.
    pub(super) fn finish(mut self) -> Result<(Vec<u8>, u64)> {
        self.flush()?;
        let packed = self
            .packed
            .finish()
            .map_err(|e| Error::internal("tar-split").with_source(e))?;
        Ok((packed, self.length))
    }
}

// === impl Crc64 ===

impl Crc64 {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let mut crc = !self.0;
        for byte in bytes {
            let index = crc.to_le_bytes()[0] ^ byte;
            crc = TABLE[usize::from(index)] ^ (crc >> 8);
        }
        self.0 = !crc;
    }
}

const TABLE: [u64; 256] = table();

const fn table() -> [u64; 256] {
    let mut table = [0u64; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xd800_0000_0000_0000
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string() {
        let mut crc = Crc64::default();
        crc.update(b"12345");
        crc.update(b"6789");
        // Catalogue value of CRC-64/GO-ISO.
        assert_eq!(crc.0, 0xb909_56c7_75a4_1001);
    }
}
