//! The frame of eStargz: footer and table of contents at the end of a gzip layer.
//! Format page: `docs/formats/estargz.md`.

use std::io::Read;

use super::{builder::TOC_NAME, limits::MAX_TOC_JSON};
use crate::{
    error::{Error, Result},
    tar::TarReader,
};

/// What a footer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Footer {
    /// The table of contents begins at `offset`; the footer itself has `length` bytes.
    Toc {
        /// Offset in the plain blob.
        offset: u64,
        /// 51, or 47 in the first versions of the format.
        length: u64,
    },
    /// The table of contents is in another image.
    External,
}

/// Length of the footer that is written.
pub(super) const FOOTER: usize = 51;
const LEGACY_FOOTER: usize = 47;
const EXTERNAL_FOOTER: usize = 46;

/// Reads the footer at the end of `tail`.
pub(crate) fn footer(tail: &[u8]) -> Option<Footer> {
    let extra = |length: usize| {
        let footer = &tail[tail.len().checked_sub(length)?..];
        let (header, rest) = footer.split_at(GZIP_HEADER);
        let (xlen, rest) = rest.split_at(2);
        // After the extra field: an empty stored block (5 bytes) and checksum and size (8).
        let extra = &rest[..rest.len() - 13];
        (header[..4] == [0x1f, 0x8b, 8, 4] && xlen == little_endian(extra.len())).then_some(extra)
    };
    if let Some(offset) = extra(FOOTER)
        .and_then(|extra| extra.strip_prefix(b"SG\x16\0"))
        .and_then(toc_offset)
    {
        let length = FOOTER as u64;
        return Some(Footer::Toc { offset, length });
    }
    if let Some(offset) = extra(LEGACY_FOOTER).and_then(toc_offset) {
        let length = LEGACY_FOOTER as u64;
        return Some(Footer::Toc { offset, length });
    }
    (extra(EXTERNAL_FOOTER) == Some(b"SG\x11\0STARGZEXTERNALTOC")).then_some(Footer::External)
}

fn little_endian(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes()
}

/// 16 hexadecimal digits and `STARGZ`.
fn toc_offset(subfield: &[u8]) -> Option<u64> {
    let digits = subfield.strip_suffix(b"STARGZ")?;
    let digits = std::str::from_utf8(digits).ok()?;
    (digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

/// The footer that points at a table of contents.
pub(super) fn footer_bytes(toc_offset: u64) -> Vec<u8> {
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0];
    footer.extend_from_slice(b"SG\x16\0");
    footer.extend_from_slice(format!("{toc_offset:016x}STARGZ").as_bytes());
    footer.extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    footer
}

/// The JSON in a table of contents: a gzip member with a tar with one file.
///
/// # Errors
/// `Corrupt` if it is something else, `Invalid` if larger than [`MAX_TOC_JSON`].
pub(crate) fn toc_json(member: &[u8]) -> Result<Vec<u8>> {
    let corrupt = |what: &str| Error::corrupt(format!("its table of contents: {what}"));
    let mut tar = TarReader::new(flate2::bufread::MultiGzDecoder::new(member));
    let entry = tar
        .next()
        .map_err(|e| corrupt("not a tar in a gzip member").with_source(e))?
        .filter(|entry| entry.name.strip_prefix(b"./").unwrap_or(&entry.name) == TOC_NAME)
        .ok_or_else(|| corrupt("not stargz.index.json"))?;
    let size = entry.size;
    if size > MAX_TOC_JSON {
        return Err(Error::invalid(format!(
            "its table of contents has {size} bytes, at most {MAX_TOC_JSON}"
        )));
    }
    let mut json = Vec::new();
    tar.read_to_end(&mut json)
        .map_err(|e| corrupt("malformed gzip").with_source(e))?;
    Ok(json)
}

const GZIP_HEADER: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_footers() {
        let now = footer_bytes(0x1234);
        assert_eq!(now.len(), FOOTER);
        let found = Footer::Toc {
            offset: 0x1234,
            length: 51,
        };
        assert_eq!(footer(&now), Some(found));
        assert_eq!(footer(&[b"before", &now[..]].concat()), Some(found));

        let mut old = [&now[..10], &[22, 0], &now[16..]].concat();
        assert_eq!(old.len(), LEGACY_FOOTER);
        let found = Footer::Toc {
            offset: 0x1234,
            length: 47,
        };
        assert_eq!(footer(&old), Some(found));
        old[12] = b'-';
        assert_eq!(footer(&old), None);

        let external = [
            &now[..10],
            &[21, 0],
            b"SG\x11\0STARGZEXTERNALTOC",
            &now[FOOTER - 13..],
        ]
        .concat();
        assert_eq!(external.len(), EXTERNAL_FOOTER);
        assert_eq!(footer(&external), Some(Footer::External));
    }

    #[test]
    fn what_is_no_footer() {
        for length in 0..FOOTER {
            assert_eq!(footer(&footer_bytes(1)[..length]), None);
        }
        for at in [0, 1, 2, 3, 10, 12, 14, 16, 32] {
            let mut bytes = footer_bytes(1);
            bytes[at] ^= 0x80;
            assert_eq!(footer(&bytes), None, "{at}");
        }
    }
}
