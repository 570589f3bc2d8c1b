//! An answer of several ranges (`multipart/byteranges`, RFC 9110 section 14.6), taken apart as it
//! arrives. How long a part is says its `Content-Range`; a boundary is looked for only between parts.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

use super::header::{ContentRange, content_range};

/// Where in the answer we are.
#[derive(Debug)]
pub(crate) struct Multipart {
    /// Two dashes and the boundary.
    delimiter: Vec<u8>,
    /// Size of the blob, which every part repeats.
    size: u64,
    /// What has come of the next part's head.
    head: BytesMut,
    /// What is still to come of the part.
    part: Range<u64>,
    ended: bool,
}

/// Longest head of a part with what separates it from the part before.
const MAX_HEAD: usize = 4 << 10;
/// Longest boundary (RFC 2046, section 5.1.1).
const MAX_BOUNDARY: usize = 70;

// === impl Multipart ===

impl Multipart {
    /// For a blob of that size and an answer of that `Content-Type`; `None` if it is another type.
    pub(crate) fn of(content_type: &str, size: u64) -> Option<Self> {
        let mut parameters = content_type.split(';').map(str::trim);
        let essence = parameters.next()?;
        if !essence.eq_ignore_ascii_case("multipart/byteranges") {
            return None;
        }
        let boundary = parameters.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.eq_ignore_ascii_case("boundary")
                .then(|| value.trim_matches('"'))
        })?;
        (1..=MAX_BOUNDARY).contains(&boundary.len()).then(|| Self {
            delimiter: [b"--", boundary.as_bytes()].concat(),
            size,
            head: BytesMut::new(),
            part: 0..0,
            ended: false,
        })
    }

    /// Takes the next bytes of a part, with their offset in the blob, off `piece`; nothing if there
    /// are none left in it.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub(crate) fn take(&mut self, piece: &mut Bytes) -> Result<Option<(u64, Bytes)>, &'static str> {
        while self.part.is_empty() {
            if self.ended || piece.is_empty() {
                // What follows the last boundary means nothing.
                piece.clear();
                return Ok(None);
            }
            self.head(piece)?;
        }
        if piece.is_empty() {
            return Ok(None);
        }
        let left = usize::try_from(self.part.end - self.part.start).unwrap_or(usize::MAX);
        let bytes = piece.split_to(left.min(piece.len()));
        let at = self.part.start;
        self.part.start += bytes.len() as u64;
        Ok(Some((at, bytes)))
    }

    /// Whether the last part has come.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Reads on in what stands between two parts.
    fn head(&mut self, piece: &mut Bytes) -> Result<(), &'static str> {
        let before = self.head.len();
        let more = piece.len().min(MAX_HEAD - before);
        self.head.extend_from_slice(&piece[..more]);
        let start = self.head.iter().take_while(|b| b"\r\n".contains(b)).count();
        let head = &self.head[start..];
        let fields = head.strip_prefix(&self.delimiter[..]);
        if fields.is_none() && !self.delimiter.starts_with(head) {
            return Err("no boundary where a part ends");
        }
        let fields = fields.unwrap_or_default();
        if fields.starts_with(b"--") {
            self.ended = true;
            piece.clear();
            return Ok(());
        }
        let Some(end) = fields.windows(4).position(|it| it == b"\r\n\r\n") else {
            piece.advance(more);
            return match self.head.len() {
                MAX_HEAD => Err("the head of a part is too long"),
                _ => Ok(()),
            };
        };
        self.part = part(&fields[..end], self.size)?;
        piece.advance(start + self.delimiter.len() + end + 4 - before);
        self.head.clear();
        Ok(())
    }
}

/// The range that a part's head names.
fn part(head: &[u8], size: u64) -> Result<Range<u64>, &'static str> {
    let text = std::str::from_utf8(head).map_err(|_| "the head of a part is not text")?;
    let range = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim()
            .eq_ignore_ascii_case("content-range")
            .then(|| content_range(value))?
    });
    match range {
        Some(ContentRange::Part { start, end, total })
            if end <= size && total.is_none_or(|total| total == size) =>
        {
            Ok(start..end)
        }
        Some(_) => Err("a part is of a blob of another size"),
        None => Err("a part does not say its range"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/byteranges; boundary=X-y";

    fn parts(answer: &[u8], step: usize) -> Result<Vec<(u64, Vec<u8>)>, &'static str> {
        let mut multipart = Multipart::of(TYPE, 100).unwrap();
        let mut got: Vec<(u64, Vec<u8>)> = Vec::new();
        for piece in answer.chunks(step) {
            let mut piece = Bytes::copy_from_slice(piece);
            while let Some((at, bytes)) = multipart.take(&mut piece)? {
                match got.last_mut() {
                    Some((start, last)) if *start + last.len() as u64 == at => last.extend(bytes),
                    _ => got.push((at, bytes.to_vec())),
                }
            }
        }
        Ok(got)
    }

    #[test]
    fn parts_come_out_whatever_the_pieces() {
        let answer = b"\r\n--X-y\r\nContent-Type: a/b\r\nContent-Range: bytes 5-9/100\r\n\r\n\
            \r\n--X\r\n--X-y\r\ncontent-range:bytes 90-91/*\r\n\r\nzz\r\n--X-y--\r\nbehind";
        for step in 1..=answer.len() {
            let got = parts(answer, step).unwrap();
            let want = [(5, b"\r\n--X".to_vec()), (90, b"zz".to_vec())];
            assert_eq!(got, want, "pieces of {step}");
        }
    }

    #[test]
    fn what_is_malformed_is_told() {
        let long = vec![b'a'; 9000];
        for (answer, want) in [
            (&b"--X-z\r\n\r\n"[..], "no boundary where a part ends"),
            (b"x\r\n\r\n", "no boundary where a part ends"),
            (b"--X-y\r\n\r\n", "a part does not say its range"),
            (
                b"--X-y\r\nContent-Range: bytes 0-9/101\r\n\r\n",
                "a part is of a blob of another size",
            ),
            (
                b"--X-y\r\nContent-Range: bytes 99-100/*\r\n\r\n",
                "a part is of a blob of another size",
            ),
            (
                b"--X-y\r\nContent-Range: \xff\r\n\r\n",
                "the head of a part is not text",
            ),
            (
                &[b"--X-y\r\n", &long[..]].concat(),
                "the head of a part is too long",
            ),
        ] {
            assert_eq!(parts(answer, 7), Err(want));
        }
    }

    #[test]
    fn other_types_are_not_taken_apart() {
        assert!(Multipart::of("Multipart/Byteranges;boundary=\"a b\"", 1).is_some());
        for other in [
            "application/octet-stream",
            "multipart/byteranges",
            "multipart/byteranges; boundary=",
            "",
        ] {
            assert!(Multipart::of(other, 1).is_none(), "{other}");
        }
    }
}
