//! DER as far as certificates, public keys and CMS messages are taken apart and put together here:
//! tag, length, value.
//!
//! One byte of tag, definite lengths of at most four bytes in their shortest form. What is read is
//! bounded by what holds it.

/// One element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element<'a> {
    /// Class, form and number.
    pub(super) tag: u8,
    /// Contents.
    pub(super) value: &'a [u8],
    /// Tag, length and contents.
    pub(super) whole: &'a [u8],
}

/// Elements one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elements<'a>(pub(super) &'a [u8]);

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// `[0]`, constructed.
pub(super) const CONTEXT_0: u8 = 0xa0;

// === impl Elements ===

impl<'a> Elements<'a> {
    /// The next element; `None` at the end or if what follows is malformed.
    pub(super) fn next(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        // Numbers from 31 on take more bytes; nothing read here has them.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes.iter().fold(0, |sum, &b| (sum << 8) | usize::from(b));
                let shortest = bytes[0] != 0 && length >= 0x80;
                (shortest.then_some(length)?, rest)
            }
            _ => return None,
        };
        let (value, after) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - after.len()];
        self.0 = after;
        Some(Element { tag, value, whole })
    }

    /// The next element if it has this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }

    /// The next element's contents, if it has this tag.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Elements<'a>> {
        self.expect(tag).map(|element| Elements(element.value))
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An element of these parts.
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => bytes.push(short),
        _ => {
            let long = length.to_be_bytes();
            let skip = long.iter().take_while(|&&byte| byte == 0).count();
            bytes.push(0x80 | u8::try_from(long.len() - skip).expect("8 bytes at most"));
            bytes.extend_from_slice(&long[skip..]);
        }
    }
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let contents = vec![7; length];
            let bytes = element(
                SEQUENCE,
                &[&contents[..length / 2], &contents[length / 2..]],
            );
            let mut elements = Elements(&bytes);
            let read = elements.next().unwrap();
            assert_eq!(
                (read.tag, read.value, read.whole),
                (SEQUENCE, &contents[..], &bytes[..])
            );
            assert!(elements.is_empty());
            for cut in 0..bytes.len().min(300) {
                assert_eq!(Elements(&bytes[..cut]).next(), None);
            }
        }
    }

    #[test]
    fn refuses_what_der_does_not_have() {
        for bad in [
            &[0x30, 0x80, 0, 0][..],
            &[0x30, 0x81, 1, 0],
            &[0x30, 0x82, 0, 0x80],
            &[0x1f, 0x81, 1, 0],
            &[0x30, 0x85, 0, 0, 0, 0, 1, 0],
            &[0x30, 0xff],
            &[0x30],
            &[],
        ] {
            assert_eq!(Elements(bad).next(), None, "{bad:?}");
        }
    }
}
