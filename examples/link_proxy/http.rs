//! Enough of HTTP/1.1 to tell requests and answers apart on a connection that is kept alive: heads,
//! `Content-Length`, chunked bodies. Bodies are counted, not kept.

use std::io;

/// What is known of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestHead {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) range: Option<String>,
}

/// A complete answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Head and body.
    pub(crate) bytes: u64,
}

/// Follows one direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    state: State,
    /// The head or line so far.
    line: Vec<u8>,
    status: u16,
    bytes: u64,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    /// So many bytes of body are left.
    Body(u64),
    ChunkSize,
    /// So many bytes of a chunk, with its line end, are left.
    Chunk(u64),
    Trailer,
    /// The body ends with the connection.
    UntilClose,
}

/// What a head says of the body.
enum BodyLength {
    Known(u64),
    Chunked,
    Unknown,
}

/// Heads are small; what is larger is not HTTP.
const MAX_HEAD: usize = 64 * 1024;

// === impl Follower ===

impl Follower {
    /// Takes bytes from the client; calls `each` for every request that begins.
    pub(crate) fn requests(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(RequestHead),
    ) -> io::Result<()> {
        self.follow(bytes, &mut |this, event| {
            if let Event::Head(head) = event {
                let (request, length) = parse_request(head)?;
                each(request);
                this.state = match length {
                    BodyLength::Known(n) => State::Body(n),
                    BodyLength::Chunked => State::ChunkSize,
                    BodyLength::Unknown => State::Body(0),
                };
            }
            Ok(())
        })
    }

    /// Takes bytes from the server; calls `method` for that of the request that is answered, and
    /// `each` for every answer that is complete.
    pub(crate) fn answers(
        &mut self,
        bytes: &[u8],
        mut method: impl FnMut() -> Option<String>,
        mut each: impl FnMut(Answer),
    ) -> io::Result<()> {
        self.follow(bytes, &mut |this, event| {
            match event {
                Event::Head(head) => {
                    let (status, length) = parse_status(head)?;
                    this.status = status;
                    let bare = matches!(status, 204 | 304) || method().as_deref() == Some("HEAD");
                    this.state = match length {
                        _ if bare => State::Body(0),
                        BodyLength::Known(n) => State::Body(n),
                        BodyLength::Chunked => State::ChunkSize,
                        BodyLength::Unknown => State::UntilClose,
                    };
                    // "100 Continue" and its kind come before the answer.
                    if status < 200 {
                        this.state = State::Head;
                    }
                }
                Event::End => each(Answer {
                    status: this.status,
                    bytes: this.bytes,
                }),
            }
            Ok(())
        })
    }

    /// The connection ended; gives the answer that ended with it.
    pub(crate) fn close(&mut self) -> Option<Answer> {
        match self.state {
            State::UntilClose => Some(Answer {
                status: self.status,
                bytes: self.bytes,
            }),
            _ => None,
        }
    }

    fn follow(&mut self, mut bytes: &[u8], on: &mut OnEvent<'_>) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = match &mut self.state {
                State::Head => {
                    let (taken, complete) = take_until(&mut self.line, bytes, b"\r\n\r\n")?;
                    self.bytes += taken as u64;
                    if complete {
                        let head = std::mem::take(&mut self.line);
                        on(self, Event::Head(&head))?;
                        self.ended(on)?;
                    }
                    taken
                }
                State::Body(left) | State::Chunk(left) => {
                    let here = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len());
                    *left -= here as u64;
                    self.bytes += here as u64;
                    self.ended(on)?;
                    here
                }
                State::ChunkSize => {
                    let (taken, complete) = take_until(&mut self.line, bytes, b"\r\n")?;
                    self.bytes += taken as u64;
                    if complete {
                        let line = std::mem::take(&mut self.line);
                        self.state = match chunk_size(&line)? {
                            0 => State::Trailer,
                            size => State::Chunk(size.saturating_add(2)),
                        };
                    }
                    taken
                }
                State::Trailer => {
                    let (taken, complete) = take_until(&mut self.line, bytes, b"\r\n")?;
                    self.bytes += taken as u64;
                    if complete && std::mem::take(&mut self.line) == b"\r\n" {
                        self.state = State::Body(0);
                        self.ended(on)?;
                    }
                    taken
                }
                State::UntilClose => {
                    self.bytes += bytes.len() as u64;
                    bytes.len()
                }
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Goes on where a body or chunk has no more bytes.
    fn ended(&mut self, on: &mut OnEvent<'_>) -> io::Result<()> {
        match self.state {
            State::Body(0) => {
                on(self, Event::End)?;
                self.state = State::Head;
                self.bytes = 0;
            }
            State::Chunk(0) => self.state = State::ChunkSize,
            _ => {}
        }
        Ok(())
    }
}

enum Event<'a> {
    Head(&'a [u8]),
    End,
}

type OnEvent<'a> = dyn FnMut(&mut Follower, Event<'_>) -> io::Result<()> + 'a;

/// Moves bytes to `line` up to and with `end`; gives how many, and whether the end was there.
fn take_until(line: &mut Vec<u8>, bytes: &[u8], end: &[u8]) -> io::Result<(usize, bool)> {
    // The end may have begun in what came before.
    let from = line.len().saturating_sub(end.len() - 1);
    let had = line.len();
    line.extend_from_slice(&bytes[..bytes.len().min(MAX_HEAD)]);
    match line[from..].windows(end.len()).position(|it| it == end) {
        Some(at) => {
            line.truncate(from + at + end.len());
            Ok((line.len() - had, true))
        }
        None if line.len() >= MAX_HEAD => Err(wrong("a head of over 64 KiB")),
        None => Ok((line.len() - had, false)),
    }
}

fn parse_request(head: &[u8]) -> io::Result<(RequestHead, BodyLength)> {
    let (first, length, range) = fields(head)?;
    let mut words = first.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(wrong("a request line without a target"));
    };
    let request = RequestHead {
        method: method.to_owned(),
        target: target.to_owned(),
        range,
    };
    Ok((request, length))
}

fn parse_status(head: &[u8]) -> io::Result<(u16, BodyLength)> {
    let (first, length, _) = fields(head)?;
    let status = first.split(' ').nth(1).and_then(|it| it.parse().ok());
    let status = status.ok_or_else(|| wrong("a status line without a number"))?;
    Ok((status, length))
}

/// First line, length of the body, range.
fn fields(head: &[u8]) -> io::Result<(String, BodyLength, Option<String>)> {
    let head = std::str::from_utf8(head).map_err(|_| wrong("a head that is not text"))?;
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    let (mut length, mut range) = (BodyLength::Unknown, None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            let number = value
                .parse()
                .map_err(|_| wrong("a length that is no number"))?;
            length = BodyLength::Known(number);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if value.to_ascii_lowercase().contains("chunked") {
                length = BodyLength::Chunked;
            }
        } else if name.eq_ignore_ascii_case("range") {
            range = Some(value.to_owned());
        }
    }
    Ok((first, length, range))
}

fn chunk_size(line: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(line).unwrap_or_default();
    let digits = text.trim_end().split(';').next().unwrap_or_default();
    u64::from_str_radix(digits.trim(), 16).map_err(|_| wrong("a chunk size that is no number"))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("http: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the bytes are cut, the same is seen.
    #[track_caller]
    fn answers(wire: &[u8], methods: &[&str]) -> Vec<Answer> {
        let at_once = answers_cut(wire, methods, wire.len());
        for cut in 1..wire.len() {
            assert_eq!(answers_cut(wire, methods, cut), at_once, "cut every {cut}");
        }
        at_once
    }

    fn answers_cut(wire: &[u8], methods: &[&str], cut: usize) -> Vec<Answer> {
        let mut follower = Follower::default();
        let mut methods = methods.iter().map(|it| (*it).to_owned());
        let mut seen = Vec::new();
        for piece in wire.chunks(cut) {
            follower
                .answers(piece, || methods.next(), |it| seen.push(it))
                .unwrap();
        }
        seen.extend(follower.close());
        seen
    }

    fn answer(status: u16, wire: &[u8]) -> Answer {
        let bytes = wire.len() as u64;
        Answer { status, bytes }
    }

    #[test]
    fn answers_end_where_their_length_says() {
        let first = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n";
        let empty = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        let chunked = b"HTTP/1.1 206 Partial\r\nTransfer-Encoding: chunked\r\n\r\n\
                        5;x=y\r\nhello\r\na\r\n0123456789\r\n0\r\nT: x\r\n\r\n";
        let last = b"HTTP/1.1 200 OK\r\n\r\nuntil the end";
        let wire = [&first[..], head, empty, chunked, last].concat();
        let seen = answers(&wire, &["GET", "HEAD", "GET", "GET", "GET"]);
        assert_eq!(
            seen,
            [
                answer(200, first),
                answer(200, head),
                answer(404, empty),
                answer(206, chunked),
                answer(200, last)
            ]
        );
    }

    #[test]
    fn an_interim_answer_is_not_the_answer() {
        let wire =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
        let seen = answers(wire, &["PUT", "PUT"]);
        assert_eq!(seen, [answer(201, wire)]);
    }

    #[test]
    fn requests_are_seen_with_their_range_and_bodies_are_passed_over() {
        let wire = b"GET /v2/ HTTP/1.1\r\nHost: x\r\nrange: bytes=0-9\r\n\r\n\
                     PUT /v2/b HTTP/1.1\r\nContent-Length: 18\r\n\r\nGET /no HTTP/1.1\r\n\
                     HEAD /v2/c HTTP/1.1\r\n\r\n";
        for cut in 1..wire.len() {
            let mut follower = Follower::default();
            let mut seen = Vec::new();
            for piece in wire.chunks(cut) {
                follower.requests(piece, |it| seen.push(it)).unwrap();
            }
            let seen: Vec<_> = seen
                .iter()
                .map(|it| (it.method.as_str(), it.target.as_str(), it.range.as_deref()))
                .collect();
            assert_eq!(
                seen,
                [
                    ("GET", "/v2/", Some("bytes=0-9")),
                    ("PUT", "/v2/b", None),
                    ("HEAD", "/v2/c", None)
                ]
            );
        }
    }

    #[test]
    fn what_is_not_http_is_an_error() {
        for wire in [
            &b"\xff\xfe\r\n\r\n"[..],
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            &[b'a'; MAX_HEAD + 1],
        ] {
            let mut follower = Follower::default();
            let seen = follower.answers(wire, || None, |_| {});
            assert!(seen.is_err(), "{}", wire.len());
        }
    }
}
