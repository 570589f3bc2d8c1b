//! Stands in for PGP packets in a build without the feature `pgp`: no key can be read, so no packet is
//! opened.

use std::convert::Infallible;

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// The private keys of one file; there are none in this build.
#[derive(Debug)]
pub(crate) struct PgpKeys(Infallible);

/// A packet that is not looked into.
#[derive(Debug)]
pub(crate) struct PgpPacket;

// === impl PgpKeys ===

impl PgpKeys {
    pub(crate) fn is(file: &[u8]) -> bool {
        file.starts_with(b"-----BEGIN PGP PRIVATE KEY BLOCK-----")
    }

    pub(crate) fn parse(_: &[u8], _: Option<&[u8]>) -> Result<Self> {
        Err(absent())
    }
}

// === impl PgpPacket ===

impl PgpPacket {
    pub(crate) fn parse(_: &[u8]) -> Result<Self> {
        Err(absent())
    }

    pub(crate) fn recipients(&self) -> usize {
        0
    }

    pub(crate) fn open(&self, keys: &PgpKeys) -> Result<Zeroizing<Vec<u8>>> {
        match keys.0 {}
    }
}

fn absent() -> Error {
    Error::unsupported("this nacre was built without OpenPGP (feature pgp)")
}
