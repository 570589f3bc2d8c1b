//! Inflate that tells where its blocks end and can begin at any of them: zlib-rs by its C interface,
//! since its Rust one says nothing of bits.
//!
//! With `sys` the only place of `unsafe`. The library behind it is Rust, picks its instructions at run
//! time and checks its input; what could go wrong here are the pointers.

use std::{fmt, mem::size_of};

use libz_rs_sys::{
    Z_BLOCK, Z_BUF_ERROR, Z_NO_FLUSH, Z_OK, Z_STREAM_END, inflate, inflateEnd, inflateInit2_,
    inflatePrime, inflateReset2, inflateSetDictionary, z_stream, zlibVersion,
};

use crate::error::{Error, Result};

/// A decoder. It stays on the thread that made it.
pub(super) struct Inflate(Box<z_stream>);

/// What is around the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrapping {
    /// Nothing.
    Raw,
    /// A gzip header, and a trailer that is checked.
    Gzip,
}

/// When a step returns before input or room are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// At the end of the stream.
    End,
    /// At the end of a block, and of the header.
    Block,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Bytes of input that were taken.
    pub(super) consumed: usize,
    /// Bytes that were added to the output.
    pub(super) produced: usize,
    /// Where it stopped.
    pub(super) at: At,
}

/// Where a step stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Anywhere: input or room are used up.
    Inside,
    /// Behind the header or a block that is not the last one.
    Boundary {
        /// Bits of the last byte taken that belong to what follows, fewer than 8.
        unused: u8,
    },
    /// Behind the stream.
    End,
}

/// zlib's largest window.
const WINDOW_BITS: i32 = 15;
/// Added to the window bits: a gzip header is wanted.
const GZIP: i32 = 16;
/// In `data_type`: behind a block or a header.
const AT_BOUNDARY: i32 = 128;
/// In `data_type`: the present block is the last one.
const LAST_BLOCK: i32 = 64;

// === impl Inflate ===

#[allow(unsafe_code)]
impl Inflate {
    pub(super) fn new(wrapping: Wrapping) -> Result<Self> {
        let mut stream = Box::<z_stream>::default();
        let size = i32::try_from(size_of::<z_stream>()).unwrap_or_default();
        // SAFETY: the stream is a valid one without a state, which this call gives it; the version
        // is a string that the library itself keeps.
        let code = unsafe { inflateInit2_(&raw mut *stream, wrapping.bits(), zlibVersion(), size) };
        match code {
            Z_OK => Ok(Self(stream)),
            code => Err(Error::internal(format!("inflate: cannot begin: {code}"))),
        }
    }

    /// Begins anew with another stream.
    pub(super) fn reset(&mut self, wrapping: Wrapping) -> Result<()> {
        // SAFETY: the stream has a state, as every `Inflate` has.
        let code = unsafe { inflateReset2(&raw mut *self.0, wrapping.bits()) };
        done(code, "inflate: cannot begin anew")
    }

    /// Before the first step of a raw stream: the bits that come before the first whole byte, the
    /// lowest first.
    pub(super) fn prime(&mut self, bits: u8, value: u8) -> Result<()> {
        // SAFETY: the stream has a state, as every `Inflate` has.
        let code = unsafe { inflatePrime(&raw mut *self.0, bits.into(), value.into()) };
        done(code, "inflate: cannot take bits")
    }

    /// Before the first step of a raw stream: what lies before it.
    pub(super) fn window(&mut self, window: &[u8]) -> Result<()> {
        let length = u32::try_from(window.len()).unwrap_or(u32::MAX);
        // SAFETY: the stream has a state, as every `Inflate` has; the window is `length` bytes that
        // the call copies.
        let code = unsafe { inflateSetDictionary(&raw mut *self.0, window.as_ptr(), length) };
        done(code, "inflate: cannot take a window")
    }

    /// Decodes what `input` holds and adds at most `room` bytes to `output`.
    ///
    /// # Errors
    /// `Corrupt` if the data is malformed.
    pub(super) fn step(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
        room: usize,
        until: Until,
    ) -> Result<Step> {
        let length = u32::try_from(input.len()).unwrap_or(u32::MAX);
        output.reserve(room);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let flush = match until {
            Until::End => Z_NO_FLUSH,
            Until::Block => Z_BLOCK,
        };
        let stream = &mut *self.0;
        stream.next_in = input.as_ptr();
        stream.avail_in = length;
        stream.next_out = output.spare_capacity_mut().as_mut_ptr().cast();
        stream.avail_out = room;
        // SAFETY: the stream has a state, as every `Inflate` has. `length` bytes can be read at
        // `next_in`, and `room` bytes written at `next_out`, which were reserved above; both
        // outlive the call, and neither is looked at after it.
        let code = unsafe { inflate(&raw mut *stream, flush) };
        let consumed = (length - stream.avail_in) as usize;
        let produced = (room - stream.avail_out) as usize;
        let state = stream.data_type;
        stream.next_in = std::ptr::null();
        stream.next_out = std::ptr::null_mut();
        (stream.avail_in, stream.avail_out) = (0, 0);
        // SAFETY: the call has written the first `produced` bytes of the spare capacity.
        unsafe { output.set_len(output.len() + produced) };
        let at = match code {
            Z_STREAM_END => At::End,
            Z_OK | Z_BUF_ERROR if state & AT_BOUNDARY != 0 && state & LAST_BLOCK == 0 => {
                At::Boundary {
                    unused: u8::try_from(state & 7).unwrap_or_default(),
                }
            }
            Z_OK | Z_BUF_ERROR => At::Inside,
            code => return Err(Error::corrupt(format!("malformed gzip data ({code})"))),
        };
        Ok(Step {
            consumed,
            produced,
            at,
        })
    }
}

#[allow(unsafe_code)]
impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: the stream has a state, which nobody uses after this. It can only refuse one
        // that has none.
        let _ = unsafe { inflateEnd(&raw mut *self.0) };
    }
}

impl fmt::Debug for Inflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inflate")
    }
}

fn done(code: i32, what: &str) -> Result<()> {
    match code {
        Z_OK => Ok(()),
        code => Err(Error::internal(format!("{what}: {code}"))),
    }
}

// === impl Wrapping ===

impl Wrapping {
    fn bits(self) -> i32 {
        match self {
            Self::Raw => -WINDOW_BITS,
            Self::Gzip => WINDOW_BITS + GZIP,
        }
    }
}
