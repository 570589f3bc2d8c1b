//! PKCS7 packets as ocicrypt writes them: CMS `EnvelopedData` (RFC 5652) for RSA certificates.
//!
//! The content is encrypted by AES-GCM under a key that each recipient gets by RSA, PKCS#1 v1.5 or
//! OAEP. Go writes the parameters of GCM in a form of its own, which it also wants to read; RFC
//! 5084's is read too. Other content encryption (DES, CBC) authenticates nothing and is refused.

mod certificate;
mod seal;

use aes_gcm::{Aes128Gcm, Aes256Gcm, KeyInit, aead::AeadInOut};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256};
use zeroize::Zeroizing;

pub(crate) use self::{certificate::Certificate, seal::seal};
use super::{
    private_key::{PrivateKey, RsaKey},
    public_key::RSA_ENCRYPTION,
    tlv::{CONTEXT_0, Element, Elements, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SET},
};
use crate::error::{Error, Result};

/// A parsed packet.
#[derive(Debug)]
pub(crate) struct Pkcs7 {
    recipients: Vec<Recipient>,
    nonce: [u8; 12],
    key_length: usize,
    /// Ciphertext, then tag.
    sealed: Vec<u8>,
}

#[derive(Debug)]
struct Recipient {
    padding: Padding,
    encrypted_key: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Padding {
    Pkcs1,
    OaepSha1,
    OaepSha256,
}

/// Most recipients of one packet: each costs an RSA operation for each key.
const MAX_RECIPIENTS: usize = 256;
const TAG: usize = 16;

/// 1.2.840.113549.1.7.1
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// 1.2.840.113549.1.7.3
const ENVELOPED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x03];
/// 1.2.840.113549.1.1.7
const RSA_OAEP: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07];
/// 2.16.840.1.101.3.4.2.1
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
/// 1.3.14.3.2.26
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
/// 2.16.840.1.101.3.4.1.6
const AES_128_GCM: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x06];
/// 2.16.840.1.101.3.4.1.46
const AES_256_GCM: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2e];
/// A SEQUENCE without the bit that says so: what Go puts around the parameters of GCM.
const GO_SEQUENCE: u8 = 0x10;
/// `[4]`, where Go has the nonce.
const GO_NONCE: u8 = 0x84;
/// `[0]`, primitive: contents of one piece.
const CONTENT: u8 = 0x80;

// === impl Pkcs7 ===

impl Pkcs7 {
    /// Reads a packet.
    ///
    /// # Errors
    /// `Invalid` if it is malformed, `Unsupported` if it is encrypted in a way that is not known.
    pub(crate) fn parse(packet: &[u8]) -> Result<Self> {
        let malformed = || Error::invalid("PKCS7: malformed");
        let mut outer = Elements(packet);
        let mut message = outer.enter(SEQUENCE).ok_or_else(malformed)?;
        let kind = message.expect(OBJECT_IDENTIFIER).ok_or_else(malformed)?;
        if kind.value != ENVELOPED_DATA {
            return Err(Error::unsupported("PKCS7: not enveloped data"));
        }
        let mut enveloped = message
            .enter(CONTEXT_0)
            .and_then(|mut content| content.enter(SEQUENCE))
            .filter(|_| outer.is_empty())
            .ok_or_else(malformed)?;
        enveloped.expect(INTEGER).ok_or_else(malformed)?;
        let mut infos = enveloped.enter(SET).ok_or_else(malformed)?;
        let mut recipients = Vec::new();
        while !infos.is_empty() {
            if recipients.len() == MAX_RECIPIENTS {
                return Err(Error::invalid(format!(
                    "PKCS7: over {MAX_RECIPIENTS} recipients"
                )));
            }
            let info = infos.next().ok_or_else(malformed)?;
            // Other kinds of recipients (key agreement, passwords) have other tags.
            if info.tag == SEQUENCE
                && let Some(recipient) = Recipient::parse(info).ok_or_else(malformed)?
            {
                recipients.push(recipient);
            }
        }
        if recipients.is_empty() {
            return Err(Error::unsupported("PKCS7: no recipient by RSA"));
        }
        let mut content = enveloped.enter(SEQUENCE).ok_or_else(malformed)?;
        content.expect(OBJECT_IDENTIFIER).ok_or_else(malformed)?;
        let mut algorithm = content.enter(SEQUENCE).ok_or_else(malformed)?;
        let key_length = match algorithm.expect(OBJECT_IDENTIFIER).map(|oid| oid.value) {
            Some(AES_128_GCM) => 16,
            Some(AES_256_GCM) => 32,
            Some(_) => {
                return Err(Error::unsupported(
                    "PKCS7: content encryption other than AES-GCM, which nothing authenticates",
                ));
            }
            None => return Err(malformed()),
        };
        let nonce = algorithm
            .next()
            .and_then(nonce)
            .ok_or_else(|| Error::invalid("PKCS7: malformed parameters of AES-GCM"))?;
        let sealed = content
            .next()
            .and_then(contents)
            .filter(|sealed| sealed.len() >= TAG)
            .ok_or_else(malformed)?;
        Ok(Self {
            recipients,
            nonce,
            key_length,
            sealed,
        })
    }

    /// How many certificates can open it.
    pub(crate) fn recipients(&self) -> usize {
        self.recipients.len()
    }

    /// The content, if `key` is one of the recipients'. Which one is tried out: nobody need give the
    /// certificate again.
    ///
    /// # Errors
    /// `Denied` if it is none of theirs.
    pub(crate) fn open(&self, key: &PrivateKey) -> Result<Zeroizing<Vec<u8>>> {
        let PrivateKey::Rsa(key) = key else {
            return Err(Error::denied("PKCS7: not an RSA key"));
        };
        self.recipients
            .iter()
            .filter_map(|recipient| recipient.unwrap(key))
            .find_map(|content_key| self.decrypt(&content_key))
            .ok_or_else(|| Error::denied("the key is none of the recipients'"))
    }

    fn decrypt(&self, key: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        if key.len() != self.key_length {
            return None;
        }
        let mut data = Zeroizing::new(self.sealed.clone());
        let body = data.len() - TAG;
        let (text, tag) = data.split_at_mut(body);
        let tag: [u8; TAG] = (&*tag).try_into().ok()?;
        let (nonce, tag) = (self.nonce.into(), tag.into());
        match key.len() {
            16 => Aes128Gcm::new_from_slice(key)
                .ok()?
                .decrypt_inout_detached(&nonce, b"", text.into(), &tag)
                .ok()?,
            _ => Aes256Gcm::new_from_slice(key)
                .ok()?
                .decrypt_inout_detached(&nonce, b"", text.into(), &tag)
                .ok()?,
        }
        data.truncate(body);
        Some(data)
    }
}

// === impl Recipient ===

impl Recipient {
    /// `None` outside: malformed; inside: a way that is not known.
    fn parse(info: Element<'_>) -> Option<Option<Self>> {
        let mut info = Elements(info.value);
        info.expect(INTEGER)?;
        // Issuer and serial number, or the key's identifier.
        info.next()?;
        let mut algorithm = info.enter(SEQUENCE)?;
        let padding = match algorithm.expect(OBJECT_IDENTIFIER)?.value {
            RSA_ENCRYPTION => Padding::Pkcs1,
            RSA_OAEP => match oaep(algorithm) {
                Some(padding) => padding,
                None => return Some(None),
            },
            _ => return Some(None),
        };
        let encrypted_key = info.expect(OCTET_STRING)?.value.to_vec();
        Some(Some(Self {
            padding,
            encrypted_key,
        }))
    }

    fn unwrap(&self, key: &RsaKey) -> Option<Zeroizing<Vec<u8>>> {
        let mut buffer = Zeroizing::new(vec![0; key.oaep.min_output_size()]);
        let oaep = |padding, buffer| key.oaep.decrypt(padding, &self.encrypted_key, buffer, None);
        let plain = match self.padding {
            Padding::Pkcs1 => key.pkcs1.decrypt(&self.encrypted_key, &mut buffer),
            Padding::OaepSha1 => oaep(&OAEP_SHA1_MGF1SHA1, &mut buffer),
            Padding::OaepSha256 => oaep(&OAEP_SHA256_MGF1SHA256, &mut buffer),
        };
        plain.ok().map(|plain| Zeroizing::new(plain.to_vec()))
    }
}

/// The hash of RSAES-OAEP-params. Go leaves out that of the mask, which it takes to be the same.
fn oaep(mut algorithm: Elements<'_>) -> Option<Padding> {
    let Some(mut parameters) = algorithm.enter(SEQUENCE) else {
        return Some(Padding::OaepSha1);
    };
    let Some(mut hash) = parameters.enter(CONTEXT_0) else {
        return Some(Padding::OaepSha1);
    };
    match hash.enter(SEQUENCE)?.expect(OBJECT_IDENTIFIER)?.value {
        SHA1 => Some(Padding::OaepSha1),
        SHA256 => Some(Padding::OaepSha256),
        _ => None,
    }
}

/// The encrypted content: in one piece, or, as older versions of ocicrypt write it, in several.
fn contents(content: Element<'_>) -> Option<Vec<u8>> {
    match content.tag {
        CONTENT => Some(content.value.to_vec()),
        CONTEXT_0 => {
            let mut pieces = Elements(content.value);
            let mut whole = Vec::with_capacity(content.value.len());
            while !pieces.is_empty() {
                whole.extend_from_slice(pieces.expect(OCTET_STRING)?.value);
            }
            Some(whole)
        }
        _ => None,
    }
}

/// The nonce of Go's form, or of RFC 5084's; both have a tag of 16 bytes, and no other.
fn nonce(parameters: Element<'_>) -> Option<[u8; 12]> {
    let (mut inner, tag) = match parameters.tag {
        GO_SEQUENCE => (Elements(parameters.value).enter(SEQUENCE)?, GO_NONCE),
        SEQUENCE => (Elements(parameters.value), OCTET_STRING),
        _ => return None,
    };
    let nonce = inner.expect(tag)?.value.try_into().ok()?;
    (inner.expect(INTEGER)?.value == [16]).then_some(nonce)
}

#[cfg(test)]
mod tests;
