//! Keys and nonces.

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Random bytes of the operating system, zeroized when they are dropped.
pub(super) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(&mut bytes[..])
        .map_err(|e| Error::internal("no randomness").with_source(e.to_string()))?;
    Ok(bytes)
}
