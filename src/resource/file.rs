//! Files, read into memory that is zeroized and never moved.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// The file's bytes, at most `limit`.
///
/// # Errors
/// `NotFound`, `Io` or, if it is larger, `Invalid`.
pub(super) fn read(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>> {
    let name = || path.display().to_string();
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Error::not_found(format!("{}: no such file", name())),
        _ => Error::io(name(), e),
    };
    let file = File::open(path).map_err(failed)?;
    // Room for all of it: a vector that grows leaves copies of secrets behind.
    let size = file.metadata().map_err(failed)?.len();
    let room = usize::try_from(size)
        .unwrap_or(limit)
        .clamp(4096, limit.max(4096));
    let mut bytes = Zeroizing::new(Vec::with_capacity(room + 64));
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > limit {
        return Err(Error::invalid(format!("{}: over {limit} bytes", name())));
    }
    Ok(bytes)
}
