//! Stands in for GPG signatures in a build without the feature `pgp`: no keyring can be read, so no
//! policy with `signedBy` is.

use std::{convert::Infallible, fmt};

/// Keys that may have signed; there are none in this build.
#[derive(Clone, Debug)]
pub struct Keyring(Infallible);

/// A message whose signature is good.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    /// What was signed.
    pub(crate) payload: Vec<u8>,
    /// Fingerprint of the primary key, in hexadecimal.
    pub(crate) fingerprint: String,
    /// The key that signed.
    pub(crate) key: Vec<u8>,
}

/// Largest keyring that is read.
pub(crate) const MAX_MESSAGE: u64 = 256 << 10;

// === impl Keyring ===

impl Keyring {
    pub(crate) fn parse(_: &[(Vec<u8>, String)]) -> Result<Self, String> {
        Err("this nacre was built without GPG signatures (feature pgp)".into())
    }

    pub(crate) fn verify(&self, _: &[u8], _: u64) -> Result<Verified, String> {
        match self.0 {}
    }
}

impl fmt::Display for Keyring {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}
