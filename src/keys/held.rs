//! Private keys of every kind that a key file can hold.

use std::fmt;

use crate::{
    error::{Error, Result},
    ocicrypt::{pgp::PgpKeys, pkcs11::TokenKey, private_key::PrivateKey},
};

/// One key file's contents.
pub(super) enum HeldKey {
    /// For JWE and PKCS7 packets.
    Plain(PrivateKey),
    /// For PGP packets.
    Pgp(Box<PgpKeys>),
    /// On a token, for PKCS11 packets.
    Token(Box<TokenKey>),
}

// === impl HeldKey ===

impl HeldKey {
    /// Reads a key file, whichever of the formats it is in. A token's module is a program: only a
    /// file of this machine (`is_file`) may say which one is run.
    ///
    /// # Errors
    /// `Invalid`, `Denied` if it needs a password, `Unsupported`.
    pub(super) fn parse(bytes: &[u8], password: Option<&[u8]>, is_file: bool) -> Result<Self> {
        if PgpKeys::is(bytes) {
            return PgpKeys::parse(bytes, password).map(|it| Self::Pgp(Box::new(it)));
        }
        if TokenKey::is(bytes) {
            if !is_file {
                return Err(Error::denied(
                    "a key broker's resource may not say which PKCS#11 module is loaded",
                )
                .with_hint("put the key's YAML into a file"));
            }
            return TokenKey::parse(bytes, password).map(|it| Self::Token(Box::new(it)));
        }
        PrivateKey::parse(bytes, password).map(Self::Plain)
    }
}

impl fmt::Debug for HeldKey {
    /// Says which kind of key it is, and nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(key) => key.fmt(f),
            Self::Pgp(keys) => keys.fmt(f),
            Self::Token(key) => key.fmt(f),
        }
    }
}
