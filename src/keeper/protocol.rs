//! What a daemon and the keeper process say to each other: one packet a request, one an answer.
//!
//! A keeper outlives the daemon that started it, so it serves daemons of other versions. The four
//! requests of version 1 therefore stay as they are for ever; a keeper answers what it does not know
//! with an error, and a daemon uses nothing that the keeper's version does not have.

/// Version of the protocol. A later one may have more requests.
pub(super) const VERSION: u32 = 1;
/// Largest packet: a letter and a name, or the text of an error.
pub(super) const MAX_PACKET: usize = 1024;

/// From the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// Which version the keeper speaks.
    Version,
    /// Keep the descriptor that comes along.
    Put(&'a str),
    /// Close what has this name.
    Remove(&'a str),
    /// Give the descriptor whose name is the next after this one, in order of bytes; the empty name
    /// is before all.
    Next(&'a str),
}

/// From the keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Version(u32),
    Done,
    /// There is no such, or no further name.
    Nothing,
    /// The descriptor of this name comes along.
    Descriptor(String),
    /// It was not done, and why.
    Error(String),
}

// === impl Request ===

impl<'a> Request<'a> {
    pub(super) fn encode(self) -> Vec<u8> {
        let (letter, name) = match self {
            Request::Version => (b'V', ""),
            Request::Put(name) => (b'P', name),
            Request::Remove(name) => (b'R', name),
            Request::Next(name) => (b'N', name),
        };
        [&[letter], name.as_bytes()].concat()
    }

    /// What the packet asks for, or what is wrong with it.
    pub(super) fn parse(packet: &'a [u8]) -> Result<Self, &'static str> {
        let (letter, name) = packet.split_first().ok_or("empty request")?;
        let name = std::str::from_utf8(name).map_err(|_| "name is not text")?;
        match letter {
            b'V' => Ok(Request::Version),
            b'P' => Ok(Request::Put(name)),
            b'R' => Ok(Request::Remove(name)),
            b'N' => Ok(Request::Next(name)),
            _ => Err("unknown request"),
        }
    }
}

// === impl Answer ===

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Answer::Version(version) => [&b"v"[..], &version.to_le_bytes()].concat(),
            Answer::Done => vec![b'k'],
            Answer::Nothing => vec![b'n'],
            Answer::Descriptor(name) => [b"d", name.as_bytes()].concat(),
            Answer::Error(text) => {
                let mut packet = [b"e", text.as_bytes()].concat();
                packet.truncate(MAX_PACKET);
                packet
            }
        }
    }

    /// What the packet says; `None` if nobody knows.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        let (letter, rest) = packet.split_first()?;
        Some(match (letter, rest) {
            // Longer ones are for later versions to fill.
            (b'v', [a, b, c, d, ..]) => Answer::Version(u32::from_le_bytes([*a, *b, *c, *d])),
            (b'k', _) => Answer::Done,
            (b'n', _) => Answer::Nothing,
            (b'd', name) => Answer::Descriptor(std::str::from_utf8(name).ok()?.to_owned()),
            (b'e', text) => Answer::Error(String::from_utf8_lossy(text).into_owned()),
            _ => return None,
        })
    }
}
