//! One device: the files of one tree, laid out block by block.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use crate::engine::{ReadDone, ReadFile};
use crate::erofs::{Layout, Piece};
use crate::error::{Error, Result};
use crate::fuse::Throttle;
use crate::tree::{Ino, Tree};

/// The files of one tree as one run of bytes.
pub struct Device {
    name: String,
    number: u64,
    layout: Layout,
    reader: Arc<dyn ReadFile>,
    shared: Arc<Shared>,
}

/// What a read that is still under way needs. Not the reader: the read may be what ends last, in a
/// thread of the reader's, which must not wait for itself to end.
struct Shared {
    image: String,
    tree: Arc<Tree>,
    errors: Throttle,
}

/// Pieces of one read, as they come.
struct Gather(Mutex<Option<State>>);

struct State {
    parts: Vec<Bytes>,
    missing: usize,
    done: ReadDone,
}

// === impl Device ===

impl Device {
    /// The device called `name` (a plain file name), which has the files of `tree` where `layout`
    /// says; `reader` has their bytes, and `image` is what log lines call it.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        image: impl Into<String>,
        tree: Arc<Tree>,
        layout: Layout,
        reader: Arc<dyn ReadFile>,
    ) -> Device {
        let name = name.into();
        let meaning = layout.fingerprint(&tree);
        Device {
            number: u64::from(key(&name)) << 32 | u64::from(meaning),
            name,
            layout,
            reader,
            shared: Arc::new(Shared {
                image: image.into(),
                tree,
                errors: Throttle::new(LOGGED_AT_ONCE, LOG_EVERY),
            }),
        }
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number: the upper half says its name, the lower half what its addresses mean.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Where its files are.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Reads `length` bytes at `offset`, fewer at the end. `done` is called once, from whatever
    /// thread has the last byte.
    pub fn read(&self, offset: u64, length: u32, done: ReadDone) {
        let pieces = self.layout.pieces(&self.shared.tree, offset, length);
        if let [
            Piece::File {
                ino,
                offset,
                length,
            },
        ] = pieces[..]
        {
            return self.read_file(ino, offset, length, done);
        }
        let gather = Arc::new(Gather::new(pieces.len(), done));
        for (index, piece) in pieces.into_iter().enumerate() {
            match piece {
                Piece::Zeros(count) => gather.fill(index, zeros(count)),
                Piece::File {
                    ino,
                    offset,
                    length,
                } => {
                    let gather = Arc::clone(&gather);
                    let part = move |result| match result {
                        Ok(bytes) => gather.fill(index, bytes),
                        Err(error) => gather.finish(Err(error)),
                    };
                    self.read_file(ino, offset, length, Box::new(part));
                }
            }
        }
    }

    /// Whether it is the device that the kernel knows by `number`. One of another layout has its name
    /// and would give other bytes; the log says so.
    pub(super) fn means(&self, number: u64) -> bool {
        if self.number == number {
            return true;
        }
        if let Some(suppressed) = self.shared.errors.admit(Instant::now()) {
            let image = &self.shared.image;
            tracing::error!(
                event = "request_failed",
                image,
                suppressed,
                "answered with EIO: the mount was made for another layout of this image"
            );
        }
        false
    }

    pub(super) fn key(&self) -> u32 {
        key_of(self.number)
    }

    fn read_file(&self, ino: Ino, offset: u64, length: u32, done: ReadDone) {
        let Some(file) = self.shared.tree.file(ino) else {
            return done(Err(Error::internal("a layout with what is no file")));
        };
        let shared = Arc::clone(&self.shared);
        let checked = move |result| {
            let result = checked(result, length);
            if let Err(error) = &result {
                shared.log(ino, offset..offset + u64::from(length), error);
            }
            done(result);
        };
        self.reader.read(file, offset, length, Box::new(checked));
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("name", &self.name)
            .field("number", &self.number)
            .field("image", &self.shared.image)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    fn log(&self, ino: Ino, range: Range<u64>, error: &Error) {
        let Some(suppressed) = self.errors.admit(Instant::now()) else {
            return;
        };
        let path = self.tree.path(ino);
        tracing::error!(
            event = "read_failed",
            image = self.image,
            file = %path.escape_ascii(),
            offset = range.start,
            length = range.end - range.start,
            kind = error.kind().as_str(),
            suppressed,
            %error,
            "read answered with EIO"
        );
    }
}

// === impl Gather ===

impl Gather {
    fn new(parts: usize, done: ReadDone) -> Gather {
        let state = State {
            parts: vec![Bytes::new(); parts],
            missing: parts,
            done,
        };
        let gather = Gather(Mutex::new(Some(state)));
        if parts == 0 {
            gather.finish(Ok(Bytes::new()));
        }
        gather
    }

    /// Gives a part; the last one answers.
    fn fill(&self, index: usize, bytes: Bytes) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = guard.as_mut() else { return };
        state.parts[index] = bytes;
        state.missing -= 1;
        if state.missing > 0 {
            return;
        }
        let Some(state) = guard.take() else { return };
        drop(guard);
        let length = state.parts.iter().map(Bytes::len).sum();
        let mut all = BytesMut::with_capacity(length);
        state.parts.iter().for_each(|it| all.extend_from_slice(it));
        (state.done)(Ok(all.freeze()));
    }

    /// Answers, unless it has been answered.
    fn finish(&self, result: Result<Bytes>) {
        let state = { self.0.lock().unwrap_or_else(PoisonError::into_inner) }.take();
        if let Some(state) = state {
            (state.done)(result);
        }
    }
}

/// What the name of a device comes to. The highest bit is set, so that no number is that of the
/// directory.
pub(super) fn key(name: &str) -> u32 {
    let hash = Sha256::digest(name.as_bytes());
    let (first, _) = hash
        .split_first_chunk()
        .expect("a hash has more than four bytes");
    u32::from_le_bytes(*first) | 1 << 31
}

/// The key of the device with `number`.
pub(super) fn key_of(number: u64) -> u32 {
    u32::try_from(number >> 32).expect("a half of it")
}

/// The bytes, if they are as many as were asked for: the kernel would show zeros for the rest.
fn checked(result: Result<Bytes>, length: u32) -> Result<Bytes> {
    let bytes = result?;
    if bytes.len() == length as usize {
        return Ok(bytes);
    }
    let got = bytes.len();
    Err(Error::internal(format!(
        "read of {length} bytes gave {got}"
    )))
}

fn zeros(count: u32) -> Bytes {
    const BLOCK: &[u8] = &[0; 4096];
    let count = count as usize;
    if count <= BLOCK.len() {
        Bytes::from_static(&BLOCK[..count])
    } else {
        Bytes::from(vec![0; count])
    }
}

/// Version of how the number of a device follows from its name, its tree and its indexes. The kernel
/// remembers numbers as long as a mount lives, so that a successor must come to the same ones.
pub const NUMBERING: u32 = 1;

/// Failed reads that are logged one by one before the log is limited.
const LOGGED_AT_ONCE: u32 = 8;
/// And then one each:
const LOG_EVERY: Duration = Duration::from_secs(10);
