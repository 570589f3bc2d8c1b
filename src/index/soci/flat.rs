//! Reading FlatBuffers that somebody else wrote: every offset is looked up in the buffer, and nothing
//! follows a pointer that the schema does not have.
//!
//! The tables of a zTOC are three deep, so there is no recursion to bound; what can be bounded is how
//! often parts of the buffer are pointed at, which [`Budget`] counts.

/// A FlatBuffer.
#[derive(Clone, Copy)]
pub(super) struct Buffer<'a>(&'a [u8]);

/// A table of it: where it and its vtable begin.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    buffer: Buffer<'a>,
    at: usize,
    fields: usize,
    /// Bytes of the vtable.
    length: usize,
}

/// A vector of offsets, to tables or strings.
#[derive(Clone, Copy)]
pub(super) struct Offsets<'a> {
    buffer: Buffer<'a>,
    at: usize,
    pub(super) count: usize,
}

/// What may still be taken from a buffer. Many offsets can lead to one long string; who writes a
/// zTOC writes each string once, so that all of them together are no longer than the buffer.
pub(super) struct Budget(usize);

/// Why a buffer is refused.
pub(super) type Flaw = &'static str;

const OUTSIDE: Flaw = "an offset leads out of it";

// === impl Buffer ===

impl<'a> Buffer<'a> {
    /// The root table.
    pub(super) fn root(bytes: &'a [u8]) -> Result<Table<'a>, Flaw> {
        let buffer = Self(bytes);
        buffer.table(buffer.follow(0)?)
    }

    fn array<const N: usize>(self, at: usize) -> Result<[u8; N], Flaw> {
        at.checked_add(N)
            .and_then(|end| self.0.get(at..end))
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(OUTSIDE)
    }

    fn number(self, at: usize) -> Result<usize, Flaw> {
        usize::try_from(u32::from_le_bytes(self.array(at)?)).map_err(|_| OUTSIDE)
    }

    /// Where the offset at `at` leads to.
    fn follow(self, at: usize) -> Result<usize, Flaw> {
        at.checked_add(self.number(at)?).ok_or(OUTSIDE)
    }

    fn table(self, at: usize) -> Result<Table<'a>, Flaw> {
        let back = i32::from_le_bytes(self.array(at)?);
        let fields = i64::try_from(at)
            .ok()
            .and_then(|at| usize::try_from(at - i64::from(back)).ok())
            .ok_or(OUTSIDE)?;
        let length = usize::from(u16::from_le_bytes(self.array(fields)?));
        if length < 4 {
            return Err("a vtable is cut short");
        }
        Ok(Table {
            buffer: self,
            at,
            fields,
            length,
        })
    }

    /// The bytes of a string or a vector of bytes.
    fn bytes(self, at: usize) -> Result<&'a [u8], Flaw> {
        let length = self.number(at)?;
        let start = at.checked_add(4).ok_or(OUTSIDE)?;
        start
            .checked_add(length)
            .and_then(|end| self.0.get(start..end))
            .ok_or(OUTSIDE)
    }
}

// === impl Table ===

impl<'a> Table<'a> {
    /// Where the field with this number of the schema is; none if it has its default.
    fn field(&self, number: usize) -> Result<Option<usize>, Flaw> {
        let entry = 4 + 2 * number;
        if entry + 2 > self.length {
            return Ok(None);
        }
        let offset = u16::from_le_bytes(self.buffer.array(self.fields + entry)?);
        Ok(match offset {
            0 => None,
            _ => Some(self.at.checked_add(offset.into()).ok_or(OUTSIDE)?),
        })
    }

    pub(super) fn i64(&self, number: usize) -> Result<i64, Flaw> {
        self.scalar(number, i64::from_le_bytes)
    }

    pub(super) fn u32(&self, number: usize) -> Result<u32, Flaw> {
        self.scalar(number, u32::from_le_bytes)
    }

    pub(super) fn i32(&self, number: usize) -> Result<i32, Flaw> {
        self.scalar(number, i32::from_le_bytes)
    }

    /// A byte, which has a default of its own.
    pub(super) fn byte(&self, number: usize, default: u8) -> Result<u8, Flaw> {
        match self.field(number)? {
            Some(at) => self.buffer.array(at).map(|[byte]| byte),
            None => Ok(default),
        }
    }

    fn scalar<T: Default, const N: usize>(
        &self,
        number: usize,
        read: impl Fn([u8; N]) -> T,
    ) -> Result<T, Flaw> {
        match self.field(number)? {
            Some(at) => self.buffer.array(at).map(read),
            None => Ok(T::default()),
        }
    }

    /// A string or a vector of bytes; empty if there is none.
    pub(super) fn bytes(&self, number: usize, budget: &mut Budget) -> Result<&'a [u8], Flaw> {
        let Some(at) = self.field(number)? else {
            return Ok(&[]);
        };
        let bytes = self.buffer.bytes(self.buffer.follow(at)?)?;
        budget.take(bytes.len())?;
        Ok(bytes)
    }

    pub(super) fn child(&self, number: usize) -> Result<Option<Table<'a>>, Flaw> {
        let Some(at) = self.field(number)? else {
            return Ok(None);
        };
        self.buffer.table(self.buffer.follow(at)?).map(Some)
    }

    /// A vector of strings or tables; empty if there is none.
    pub(super) fn offsets(&self, number: usize) -> Result<Offsets<'a>, Flaw> {
        let buffer = self.buffer;
        let Some(at) = self.field(number)? else {
            return Ok(Offsets {
                buffer,
                at: 0,
                count: 0,
            });
        };
        let at = buffer.follow(at)?;
        let count = buffer.number(at)?;
        let at = at.checked_add(4).ok_or(OUTSIDE)?;
        count
            .checked_mul(4)
            .and_then(|length| at.checked_add(length))
            .filter(|end| *end <= buffer.0.len())
            .ok_or(OUTSIDE)?;
        Ok(Offsets { buffer, at, count })
    }
}

// === impl Offsets ===

impl<'a> Offsets<'a> {
    pub(super) fn tables(self) -> impl Iterator<Item = Result<Table<'a>, Flaw>> {
        self.targets()
            .map(move |at| at.and_then(|at| self.buffer.table(at)))
    }

    pub(super) fn strings(self) -> impl Iterator<Item = Result<&'a [u8], Flaw>> {
        self.targets()
            .map(move |at| at.and_then(|at| self.buffer.bytes(at)))
    }

    fn targets(self) -> impl Iterator<Item = Result<usize, Flaw>> {
        (0..self.count).map(move |index| self.buffer.follow(self.at + 4 * index))
    }
}

// === impl Budget ===

impl Budget {
    /// For a buffer of so many bytes.
    pub(super) fn new(length: usize) -> Self {
        Self(length)
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Flaw> {
        self.0 = self
            .0
            .checked_sub(bytes)
            .ok_or("its parts are longer than it is")?;
        Ok(())
    }
}
