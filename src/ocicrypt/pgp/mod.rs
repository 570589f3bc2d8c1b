//! PGP packets as ocicrypt writes them: an OpenPGP message (RFC 9580) to one or several keys.
//!
//! The crate `pgp` reads messages and keys and does what elliptic curves take. What RSA takes is done by
//! aws-lc-rs (`rsa`), because what `pgp` has for that leaks time
//! ([decision 0018](../../../docs/decisions/0018-private-keys-of-openpgp-and-tokens.md)).

mod pieces;
mod rsa;
#[cfg(test)]
mod tests;

use std::{fmt, io::Read as _};

use pgp::{
    composed::{Deserializable as _, Esk, Message, PlainSessionKey, SignedSecretKey},
    packet::PublicKeyEncryptedSessionKey,
    types::{
        EskType, KeyDetails, Password, PkeskBytes, PkeskVersion, PlainSecretParams, PublicParams,
    },
};
use zeroize::Zeroizing;

use self::{pieces::whole, rsa::RsaSecret};
use crate::error::{Error, Result};

/// The private keys of one file.
pub(crate) struct PgpKeys {
    keys: Vec<SignedSecretKey>,
    /// By fingerprint, the RSA keys among them and their subkeys.
    rsa: Vec<(Vec<u8>, RsaSecret)>,
    password: Password,
}

/// A parsed packet.
pub(crate) struct PgpPacket {
    /// The message, its packets in one piece each.
    bytes: Zeroizing<Vec<u8>>,
    recipients: Vec<PublicKeyEncryptedSessionKey>,
}

/// Most keys of a file, and recipients of a packet: each pair of them may cost an operation.
const MAX_KEYS: usize = 64;
/// Largest content, and what is around it in the encrypted data; private options take 200 bytes.
const MAX_CONTENT: u64 = 64 << 10;

// === impl PgpKeys ===

impl PgpKeys {
    /// Whether a file is of this kind: armored, or the packet of a private key.
    pub(crate) fn is(file: &[u8]) -> bool {
        const ARMOR: &[u8] = b"-----BEGIN PGP PRIVATE KEY BLOCK-----";
        let armored = file.windows(ARMOR.len()).take(4096).any(|it| it == ARMOR);
        armored || matches!(file.first(), Some(0x94..=0x96 | 0xc5))
    }

    /// Reads what `gpg --export-secret-keys` writes, armored or not.
    ///
    /// # Errors
    /// `Invalid` if it is malformed or the password does not fit, `Denied` if it needs one,
    /// `Unsupported` if no key in it can decrypt.
    pub(crate) fn parse(file: &[u8], password: Option<&[u8]>) -> Result<Self> {
        let malformed = |e: pgp::errors::Error| {
            Error::invalid("not an OpenPGP private key").with_source(e.to_string())
        };
        let (keys, _) = SignedSecretKey::from_reader_many(file).map_err(malformed)?;
        let keys = keys.take(MAX_KEYS + 1).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(malformed)?;
        if keys.is_empty() || keys.len() > MAX_KEYS {
            let count = keys.len();
            return Err(Error::invalid(format!(
                "{count} keys, want 1 to {MAX_KEYS}"
            )));
        }
        let mut all = Self {
            keys,
            rsa: Vec::new(),
            password: password.map_or_else(Password::empty, Password::from),
        };
        let (mut able, mut open) = (0, 0);
        let mut rsa = Vec::new();
        all.each(|key, unlock| {
            if !can_decrypt(key.public_params()) {
                return;
            }
            able += 1;
            let read = unlock(&mut |public, secret| match secret {
                PlainSecretParams::RSA(secret) => {
                    let fingerprint = key.fingerprint().as_bytes().to_vec();
                    rsa.push((fingerprint, RsaSecret::new(public, secret)));
                    Ok(None)
                }
                _ => Ok(None),
            });
            open += usize::from(read.is_ok());
        });
        if able == 0 {
            return Err(Error::unsupported(
                "OpenPGP key without RSA or ECDH (X25519, P-256, P-384, P-521), so it cannot decrypt",
            ));
        }
        if open == 0 {
            return Err(match password {
                Some(_) => Error::invalid("the password does not fit"),
                None => Error::denied("the key is encrypted and no password was given").with_hint(
                    "write FILE:pass=PASSWORD, FILE:file=PASSWORD-FILE or FILE:fd=NUMBER",
                ),
            });
        }
        let rsa = rsa.into_iter();
        all.rsa = rsa
            .map(|(fingerprint, key)| Ok((fingerprint, key?)))
            .collect::<Result<_>>()?;
        Ok(all)
    }

    /// Gives every key and subkey, and what unlocks it.
    fn each(&self, mut see: impl FnMut(&dyn KeyDetails, &mut Unlock<'_>)) {
        let password = &self.password;
        for key in &self.keys {
            let primary = &key.primary_key;
            see(primary, &mut |work| primary.unlock(password, work)?);
            for subkey in &key.secret_subkeys {
                let subkey = &subkey.key;
                see(subkey, &mut |work| subkey.unlock(password, work)?);
            }
        }
    }

    /// The session key that is in `packet` for one of these keys.
    fn session_key(&self, packet: &PublicKeyEncryptedSessionKey) -> Option<PlainSessionKey> {
        let kind = match packet.version() {
            PkeskVersion::V3 => EskType::V3_4,
            PkeskVersion::V6 => EskType::V6,
            PkeskVersion::Other(_) => return None,
        };
        let values = packet.values().ok()?;
        let mut found = None;
        self.each(|key, unlock| {
            if found.is_some() || !can_decrypt(key.public_params()) || !is_for(packet, key) {
                return;
            }
            let opened = match values {
                PkeskBytes::Rsa { mpi } => {
                    let fingerprint = key.fingerprint();
                    let mut ours = self.rsa.iter();
                    let secret = ours.find(|(of, _)| of == fingerprint.as_bytes());
                    secret.and_then(|(_, secret)| secret.session_key(mpi.as_ref(), kind))
                }
                _ => unlock(&mut |public, secret| match secret {
                    PlainSecretParams::RSA(_) => Ok(None),
                    _ => secret
                        .decrypt(public, values, kind, &Details(key))
                        .map(Some),
                })
                .ok()
                .flatten(),
            };
            found = opened;
        });
        found
    }
}

/// What is done with an unlocked key.
type Work<'a> = dyn FnMut(&PublicParams, &PlainSecretParams) -> pgp::errors::Result<Option<PlainSessionKey>>
    + 'a;
type Unlock<'a> = dyn FnMut(&mut Work<'_>) -> pgp::errors::Result<Option<PlainSessionKey>> + 'a;

/// A key of either kind, for functions that want to know its type.
#[derive(Debug)]
struct Details<'a>(&'a dyn KeyDetails);

impl KeyDetails for Details<'_> {
    fn version(&self) -> pgp::types::KeyVersion {
        self.0.version()
    }

    fn legacy_key_id(&self) -> pgp::types::KeyId {
        self.0.legacy_key_id()
    }

    fn fingerprint(&self) -> pgp::types::Fingerprint {
        self.0.fingerprint()
    }

    fn algorithm(&self) -> pgp::crypto::public_key::PublicKeyAlgorithm {
        self.0.algorithm()
    }

    fn created_at(&self) -> pgp::types::Timestamp {
        self.0.created_at()
    }

    fn legacy_v3_expiration_days(&self) -> Option<u16> {
        self.0.legacy_v3_expiration_days()
    }

    fn public_params(&self) -> &PublicParams {
        self.0.public_params()
    }
}

fn is_for(packet: &PublicKeyEncryptedSessionKey, key: &dyn KeyDetails) -> bool {
    packet.match_identity(&Details(key))
}

/// Whether keys of this kind are used here. `ElGamal` is not: nobody makes it any more.
fn can_decrypt(key: &PublicParams) -> bool {
    matches!(
        key,
        PublicParams::RSA(_) | PublicParams::ECDH(_) | PublicParams::X25519(_)
    )
}

impl fmt::Debug for PgpKeys {
    /// Says how many, and nothing of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PgpKeys({})", self.keys.len())
    }
}

// === impl PgpPacket ===

impl PgpPacket {
    /// Reads a packet.
    ///
    /// # Errors
    /// `Invalid` if it is malformed, `Unsupported` if it is encrypted to no key.
    pub(crate) fn parse(packet: &[u8]) -> Result<Self> {
        let malformed =
            |e: pgp::errors::Error| Error::invalid("PGP: malformed").with_source(e.to_string());
        let bytes = whole(packet).ok_or_else(|| Error::invalid("PGP: malformed"))?;
        let Message::Encrypted { esk, .. } = Message::from_bytes(&bytes[..]).map_err(malformed)?
        else {
            return Err(Error::invalid("PGP: not an encrypted message"));
        };
        let mut recipients = Vec::new();
        for one in esk {
            if let Esk::PublicKeyEncryptedSessionKey(packet) = one {
                recipients.push(packet);
            }
        }
        match recipients.len() {
            0 => Err(Error::unsupported(
                "PGP: encrypted by a password, to no key",
            )),
            1..=MAX_KEYS => Ok(Self { bytes, recipients }),
            more => Err(Error::invalid(format!(
                "PGP: {more} recipients, at most {MAX_KEYS} are read"
            ))),
        }
    }

    /// How many keys can open it.
    pub(crate) fn recipients(&self) -> usize {
        self.recipients.len()
    }

    /// The content, if one of `keys` is a recipient's.
    ///
    /// # Errors
    /// `Denied` if none is, or what it decrypts was changed.
    pub(crate) fn open(&self, keys: &PgpKeys) -> Result<Zeroizing<Vec<u8>>> {
        let mut recipients = self.recipients.iter();
        let session_key = recipients
            .find_map(|packet| keys.session_key(packet))
            .ok_or_else(|| Error::denied("the key is none of the recipients'"))?;
        content(&self.bytes, &session_key).ok_or_else(|| {
            Error::denied("PGP: what the key opens is not what was encrypted for it")
        })
    }
}

/// The literal in a message; `None` if its integrity is not that of the message that was made.
fn content(bytes: &[u8], session_key: &PlainSessionKey) -> Option<Zeroizing<Vec<u8>>> {
    let Message::Encrypted { mut edata, .. } = Message::from_bytes(bytes).ok()? else {
        return None;
    };
    // Without integrity protection (SED packets) it refuses, and it gives nothing before it has checked.
    edata.decrypt(session_key).ok()?;
    let limit = usize::try_from(MAX_CONTENT).ok()?;
    let room = || Zeroizing::new(Vec::with_capacity(limit + 64));
    let mut inner = room();
    edata.take(MAX_CONTENT + 1).read_to_end(&mut inner).ok()?;
    if inner.len() > limit {
        return None;
    }
    let inner = whole(&inner)?;
    let mut message = Message::from_bytes(&inner[..]).ok()?;
    if message.is_compressed() {
        message = message.decompress().ok()?;
    }
    let mut content = room();
    message
        .take(MAX_CONTENT + 1)
        .read_to_end(&mut content)
        .ok()?;
    (content.len() <= limit).then_some(content)
}

impl fmt::Debug for PgpPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PgpPacket({} recipients)", self.recipients.len())
    }
}
