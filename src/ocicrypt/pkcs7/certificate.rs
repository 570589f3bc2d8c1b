//! The part of an X.509 certificate that a message to its holder needs.

use std::fmt;

use aws_lc_rs::rsa::PublicEncryptingKey;

use crate::{
    error::{Error, Result},
    ocicrypt::{
        private_key::{MAX_KEY_FILE, next_block},
        public_key::rsa_from_spki,
        tlv::{CONTEXT_0, Elements, INTEGER, SEQUENCE},
    },
};

/// An RSA certificate that PKCS7 packets can be made for. Nobody's word is asked on it: who names it
/// as a recipient trusts it, as with ocicrypt.
#[derive(Clone)]
pub(crate) struct Certificate {
    /// DER of the issuer's name, whole.
    pub(super) issuer: Vec<u8>,
    /// DER of the serial number, whole.
    pub(super) serial: Vec<u8>,
    pub(super) key: PublicEncryptingKey,
}

// === impl Certificate ===

impl Certificate {
    /// Reads a certificate in PEM or DER.
    ///
    /// # Errors
    /// `Invalid` if it is none, `Unsupported` if its key is not RSA.
    pub(crate) fn parse(file: &[u8]) -> Result<Self> {
        if file.len() > MAX_KEY_FILE {
            return Err(Error::invalid(format!(
                "over {MAX_KEY_FILE} bytes: not a certificate"
            )));
        }
        let mut rest = match std::str::from_utf8(file) {
            Ok(text) if text.contains("-----BEGIN ") => text,
            _ => return Self::from_der(file),
        };
        // A file may hold its key or text before it; of a chain the first is meant.
        while let Some(((label, der), after)) = next_block(rest)? {
            if label == "CERTIFICATE" {
                return Self::from_der(&der);
            }
            rest = after;
        }
        Err(Error::invalid("the file holds no PEM block CERTIFICATE")
            .with_hint("for a public key without a certificate write jwe:FILE"))
    }

    fn from_der(der: &[u8]) -> Result<Self> {
        let (issuer, serial, spki) =
            parts(der).ok_or_else(|| Error::invalid("not an X.509 certificate"))?;
        let key = rsa_from_spki(spki).ok_or_else(|| {
            Error::unsupported("the certificate's key is not RSA of 2048 to 8192 bits")
                .with_hint("take its key and write jwe:FILE: openssl x509 -pubkey -noout -in FILE")
        })?;
        Ok(Self {
            issuer: issuer.to_vec(),
            serial: serial.to_vec(),
            key,
        })
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", hex::encode(&self.serial))
    }
}

/// Issuer, serial number and SubjectPublicKeyInfo, each whole (RFC 5280).
fn parts(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut outer = Elements(der);
    let mut body = outer.enter(SEQUENCE)?.enter(SEQUENCE)?;
    let mut first = body.next()?;
    if first.tag == CONTEXT_0 {
        first = body.next()?;
    }
    if first.tag != INTEGER || !outer.is_empty() {
        return None;
    }
    let _signature = body.expect(SEQUENCE)?;
    let issuer = body.expect(SEQUENCE)?;
    let _validity = body.expect(SEQUENCE)?;
    let _subject = body.expect(SEQUENCE)?;
    let spki = body.expect(SEQUENCE)?;
    Some((issuer.whole, first.whole, spki.whole))
}
