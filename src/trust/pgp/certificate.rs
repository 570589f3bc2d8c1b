//! Keys with what their holders say about them: subkeys, uses, expiry, revocation.
//!
//! Every statement counts only if the primary key has signed it. A revocation counts in any case:
//! nobody but who keeps the file can put one there, and a revoked key that serves is worse than one
//! that does not.

use pgp::{
    armor::BlockType,
    crypto::hash::HashAlgorithm,
    errors::Result as PgpResult,
    packet::{
        Packet, PacketParser, PublicKey, PublicSubkey, Signature, SignatureType, SignatureVersion,
        SubpacketData, UserId,
    },
    ser::Serialize as _,
    types::{EcdsaPublicParams, KeyDetails as _, PublicParams, Tag},
};

use super::{
    CLOCK_SKEW,
    message::{MAX_MESSAGE, dearmor},
};

/// A primary key and its subkeys.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    primary: Component,
    subkeys: Vec<Component>,
}

/// The primary key, or a subkey.
#[derive(Clone, Debug)]
pub(super) struct Component {
    key: Key,
    /// What the primary key says about it.
    said: Vec<Statement>,
    revoked: bool,
}

#[derive(Clone, Debug)]
enum Key {
    Primary(Box<PublicKey>),
    Subkey(Box<PublicSubkey>),
}

/// A signature of the primary key over itself or a subkey.
#[derive(Clone, Copy, Debug)]
struct Statement {
    created: u64,
    /// When the statement itself ends.
    ends: Option<u64>,
    /// How long the key lives after it was made, in seconds.
    life: Option<u64>,
    /// Whether it may sign documents, if that is said.
    signs: Option<bool>,
}

/// What a signature is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Document,
    Key,
}

/// What signatures belong to while a keyring is read.
enum Target {
    Primary,
    User(User),
    Subkey,
    Other,
}

/// A user id and what the primary key says with it.
struct User {
    id: UserId,
    said: Vec<Statement>,
    revoked: bool,
}

/// Most packets of a keyring.
const MAX_PACKETS: usize = 4096;
/// Fewest bits of an RSA key, as for other keys of policies.
const MIN_RSA_BITS: u16 = 2048;

/// Reads the keys of a file.
///
/// # Errors
/// Why it is none, or why one of its keys cannot serve.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Certificate>, String> {
    const BEGIN: &[u8] = b"-----BEGIN PGP ";
    if bytes.get(8..12) == Some(b"KBXf") {
        return Err("a keybox, want what `gpg --export` writes".into());
    }
    let mut binary = Vec::new();
    let starts: Vec<usize> = match bytes.trim_ascii_start().starts_with(b"-----BEGIN ") {
        true => (0..bytes.len())
            .filter(|&at| bytes[at..].starts_with(BEGIN))
            .collect(),
        false => Vec::new(),
    };
    for (n, &start) in starts.iter().enumerate() {
        let end = starts.get(n + 1).copied().unwrap_or(bytes.len());
        binary.extend(dearmor(&bytes[start..end], &BlockType::PublicKey)?);
    }
    if starts.is_empty() {
        binary = bytes.to_vec();
    }
    if binary.len() as u64 > MAX_MESSAGE {
        return Err(format!("keys of more than {MAX_MESSAGE} bytes"));
    }
    let mut reader = Reader::default();
    for packet in PacketParser::new(&binary[..]).take(MAX_PACKETS) {
        reader.take(packet.map_err(|e| format!("malformed key: {e}"))?)?;
    }
    let read = reader.end()?;
    if read.is_empty() {
        return Err("no OpenPGP key".into());
    }
    Ok(read)
}

/// What must hold of a signature whoever made it and whatever is signed.
///
/// # Errors
/// What does not hold.
pub(super) fn check_strength(signature: &Signature, on: Use) -> Result<(), String> {
    let Some(config) = signature.config() else {
        return Err("a signature of unknown version".into());
    };
    if !matches!(
        signature.version(),
        SignatureVersion::V4 | SignatureVersion::V6
    ) {
        return Err(format!("a signature of version {:?}", signature.version()));
    }
    if on == Use::Document && config.typ != SignatureType::Binary {
        return Err(format!(
            "a signature of type {:?}, not on a document",
            config.typ
        ));
    }
    let strong = match config.hash_alg {
        HashAlgorithm::Sha256
        | HashAlgorithm::Sha384
        | HashAlgorithm::Sha512
        | HashAlgorithm::Sha3_256
        | HashAlgorithm::Sha3_512 => true,
        // Keys of before 2015 have them, and their file is trusted for what it says.
        HashAlgorithm::Sha1 | HashAlgorithm::Sha224 => on == Use::Key,
        _ => false,
    };
    if !strong {
        return Err(format!("the hash {} is too weak", config.hash_alg));
    }
    let unknown = config.hashed_subpackets().find(|it| {
        it.is_critical
            && matches!(
                it.data,
                SubpacketData::Other(..)
                    | SubpacketData::Experimental(..)
                    | SubpacketData::Notation(_)
            )
    });
    match unknown {
        Some(_) => Err("the signature says something critical that is not understood".into()),
        None => Ok(()),
    }
}

// === impl Certificate ===

impl Certificate {
    pub(super) fn components(&self) -> impl Iterator<Item = &Component> {
        std::iter::once(&self.primary).chain(&self.subkeys)
    }

    /// Of the primary key.
    pub(super) fn fingerprint(&self) -> String {
        self.primary.id()
    }

    /// Whether a component may have signed at a time, and still may.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn may_sign(&self, signer: &Component, at: u64, now: u64) -> Result<(), String> {
        let own = self.primary.alive(at, now)?;
        signer.check_algorithm()?;
        let said = match signer.key {
            Key::Primary(_) => own.signs.unwrap_or(true),
            Key::Subkey(_) => signer.alive(at, now)?.signs.unwrap_or(false),
        };
        match said {
            true => Ok(()),
            false => Err("is not for signing".into()),
        }
    }

    /// Takes a signature that stands behind `target`; those of others are no concern.
    fn say(&mut self, target: &mut Target, signature: &Signature) {
        let (Key::Primary(key), Some(kind)) = (&self.primary.key, signature.typ()) else {
            return;
        };
        match kind {
            SignatureType::KeyRevocation => self.primary.revoked = true,
            SignatureType::SubkeyRevocation => {
                if let (Target::Subkey, Some(subkey)) = (target, self.subkeys.last_mut()) {
                    subkey.revoked = true;
                }
            }
            _ if check_strength(signature, Use::Key).is_err() => {}
            SignatureType::Key if signature.verify_key(&**key).is_ok() => {
                self.primary.said.extend(Statement::of(signature));
            }
            SignatureType::SubkeyBinding => {
                if let (Target::Subkey, Some(subkey)) = (target, self.subkeys.last_mut()) {
                    let binding = subkey.binding(key, signature);
                    subkey.said.extend(binding);
                }
            }
            _ if signature.is_certification() => {
                let Target::User(user) = target else {
                    return;
                };
                let own = signature.verify_certification(&**key, Tag::UserId, &user.id);
                match (own.is_ok(), kind) {
                    (false, _) => {}
                    (true, SignatureType::CertRevocation) => user.revoked = true,
                    (true, _) => user.said.extend(Statement::of(signature)),
                }
            }
            _ => {}
        }
    }

    /// What was said with a user id counts if it was not taken back.
    fn settle(&mut self, target: Target) {
        if let Target::User(user) = target
            && !user.revoked
        {
            self.primary.said.extend(user.said);
        }
    }
}

/// The statement that counts: the newest that has not ended.
fn newest(statements: &[Statement], now: u64) -> Option<&Statement> {
    statements
        .iter()
        .filter(|it| it.created <= now + CLOCK_SKEW && it.ends.is_none_or(|end| now < end))
        .max_by_key(|it| it.created)
}

// === impl Component ===

impl Component {
    fn new(key: Key) -> Self {
        Self {
            key,
            said: Vec::new(),
            revoked: false,
        }
    }

    /// Its fingerprint, in hexadecimal.
    pub(super) fn id(&self) -> String {
        match &self.key {
            Key::Primary(key) => format!("{:X}", key.fingerprint()),
            Key::Subkey(key) => format!("{:X}", key.fingerprint()),
        }
    }

    pub(super) fn verify(&self, signature: &Signature, content: &[u8]) -> PgpResult<()> {
        match &self.key {
            Key::Primary(key) => signature.verify(&**key, content),
            Key::Subkey(key) => signature.verify(&**key, content),
        }
    }

    pub(super) fn to_bytes(&self) -> PgpResult<Vec<u8>> {
        match &self.key {
            Key::Primary(key) => key.to_bytes(),
            Key::Subkey(key) => key.to_bytes(),
        }
    }

    /// What counts of what is said about it, if it had begun and not ended at a time, and has not
    /// ended now.
    fn alive(&self, at: u64, now: u64) -> Result<&Statement, String> {
        if self.revoked {
            return Err("is revoked".into());
        }
        let said = newest(&self.said, now).ok_or("nothing that counts says what it is for")?;
        let born = match &self.key {
            Key::Primary(key) => key.created_at(),
            Key::Subkey(key) => key.created_at(),
        };
        let born = u64::from(born.as_secs());
        if at < born {
            return Err("is younger than the signature".into());
        }
        match said.life {
            Some(life) if born + life <= now.max(at) => Err("has expired".into()),
            _ => Ok(said),
        }
    }

    /// What a signature of the primary key says about this subkey. To sign, the subkey has to agree,
    /// else its signatures could be claimed by anybody.
    fn binding(&self, primary: &PublicKey, signature: &Signature) -> Option<Statement> {
        let Key::Subkey(sub) = &self.key else {
            return None;
        };
        signature.verify_subkey_binding(primary, &**sub).ok()?;
        let said = Statement::of(signature)?;
        let agrees = signature.embedded_signature().is_some_and(|back| {
            check_strength(back, Use::Key).is_ok()
                && back.verify_primary_key_binding(&**sub, primary).is_ok()
        });
        Some(Statement {
            signs: said.signs.filter(|_| agrees),
            ..said
        })
    }

    fn check_algorithm(&self) -> Result<(), String> {
        let params = match &self.key {
            Key::Primary(key) => key.public_params(),
            Key::Subkey(key) => key.public_params(),
        };
        match params {
            PublicParams::RSA(rsa) => {
                // The modulus comes first, with its length in bits before it.
                let bytes = rsa.to_bytes().map_err(|e| e.to_string())?;
                match bytes[..] {
                    [high, low, ..] if u16::from_be_bytes([high, low]) >= MIN_RSA_BITS => Ok(()),
                    _ => Err(format!("an RSA key of fewer than {MIN_RSA_BITS} bits")),
                }
            }
            PublicParams::ECDSA(
                EcdsaPublicParams::P256 { .. }
                | EcdsaPublicParams::P384 { .. }
                | EcdsaPublicParams::P521 { .. },
            )
            | PublicParams::EdDSALegacy(_)
            | PublicParams::Ed25519(_)
            | PublicParams::Ed448(_) => Ok(()),
            _ => Err("a key of an algorithm that is not accepted".into()),
        }
    }
}

// === impl Statement ===

impl Statement {
    fn of(signature: &Signature) -> Option<Self> {
        let created = u64::from(signature.created()?.as_secs());
        let positive = |seconds: u32| (seconds > 0).then(|| u64::from(seconds));
        let flags = signature.config()?.hashed_subpackets();
        let mut flags = flags.filter_map(|it| match &it.data {
            SubpacketData::KeyFlags(flags) => Some(flags.sign()),
            _ => None,
        });
        Some(Self {
            created,
            ends: signature
                .signature_expiration_time()
                .and_then(|it| positive(it.as_secs()))
                .map(|life| created + life),
            life: signature
                .key_expiration_time()
                .and_then(|it| positive(it.as_secs())),
            signs: flags.next(),
        })
    }
}

/// Puts packets together to certificates.
#[derive(Default)]
struct Reader {
    done: Vec<Certificate>,
    open: Option<(Certificate, Target)>,
}

// === impl Reader ===

impl Reader {
    fn take(&mut self, packet: Packet) -> Result<(), String> {
        match packet {
            Packet::PublicKey(key) => {
                self.close()?;
                let certificate = Certificate {
                    primary: Component::new(Key::Primary(Box::new(key))),
                    subkeys: Vec::new(),
                };
                self.open = Some((certificate, Target::Primary));
            }
            Packet::SecretKey(_) | Packet::SecretSubkey(_) => {
                return Err("a private key; give its public half".into());
            }
            // What gpg notes in a keyring of its own.
            Packet::Trust(_) | Packet::Marker(_) | Packet::Padding(_) => {}
            packet => {
                let Some((certificate, target)) = &mut self.open else {
                    return Err("does not begin with a public key".into());
                };
                match packet {
                    Packet::UserId(id) => {
                        let (said, revoked) = (Vec::new(), false);
                        let user = Target::User(User { id, said, revoked });
                        certificate.settle(std::mem::replace(target, user));
                    }
                    Packet::UserAttribute(_) => {
                        certificate.settle(std::mem::replace(target, Target::Other));
                    }
                    Packet::PublicSubkey(key) => {
                        certificate.settle(std::mem::replace(target, Target::Subkey));
                        let key = Key::Subkey(Box::new(key));
                        certificate.subkeys.push(Component::new(key));
                    }
                    Packet::Signature(signature) => certificate.say(target, &signature),
                    _ => return Err("a packet that belongs to no key".into()),
                }
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let Some((mut certificate, target)) = self.open.take() else {
            return Ok(());
        };
        certificate.settle(target);
        if certificate.primary.said.is_empty() && !certificate.primary.revoked {
            let id = certificate.fingerprint();
            return Err(format!("key {id} has no good signature of its own on it"));
        }
        self.done.push(certificate);
        Ok(())
    }

    fn end(mut self) -> Result<Vec<Certificate>, String> {
        self.close()?;
        Ok(self.done)
    }
}
