//! Signed messages, as `gpg --sign` writes them.

use std::io::{BufReader, Read as _};

use pgp::{
    armor::{BlockType, Dearmor, DearmorOptions},
    packet::{Packet, PacketParser, Signature},
};

/// A signed document. Nothing in it has been verified.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) signature: Signature,
    pub(super) content: Vec<u8>,
}

/// Largest message that is read; real ones have 1 to 2 KiB.
pub(crate) const MAX_MESSAGE: u64 = 256 << 10;
/// Most bytes that a compressed message may have inside.
const MAX_INSIDE: u64 = 256 << 10;

/// Parses a message: one signature in front of, and behind, one document, compressed or not.
///
/// # Errors
/// What else it is.
pub(super) fn parse(bytes: &[u8]) -> Result<Message, String> {
    if bytes.len() as u64 > MAX_MESSAGE {
        return Err(format!("a signature of more than {MAX_MESSAGE} bytes"));
    }
    let binary = match bytes.trim_ascii_start().starts_with(b"-----BEGIN ") {
        true => dearmor(bytes, &BlockType::Message)?,
        false => bytes.to_vec(),
    };
    let outer = packets(&binary)?;
    let inner = match &outer[..] {
        [Packet::CompressedData(compressed)] => {
            let mut inside = Vec::new();
            compressed
                .decompress()
                .map_err(|e| format!("compressed: {e}"))?
                .take(MAX_INSIDE + 1)
                .read_to_end(&mut inside)
                .map_err(|e| format!("compressed: {e}"))?;
            if inside.len() as u64 > MAX_INSIDE {
                return Err(format!("more than {MAX_INSIDE} bytes when decompressed"));
            }
            packets(&inside)?
        }
        _ => outer,
    };
    match <[Packet; 3]>::try_from(inner) {
        Ok(
            [
                Packet::OnePassSignature(announced),
                Packet::LiteralData(literal),
                Packet::Signature(signature),
            ],
        ) if !announced.is_nested() && announced.matches(&signature) => Ok(Message {
            signature,
            content: literal.into_bytes().to_vec(),
        }),
        Ok(other) => Err(unwanted(&other)),
        Err(other) => Err(unwanted(&other)),
    }
}

/// What an armored block of type `want` holds.
///
/// # Errors
/// What else it is.
pub(super) fn dearmor(bytes: &[u8], want: &BlockType) -> Result<Vec<u8>, String> {
    let limit = usize::try_from(MAX_MESSAGE).unwrap_or(usize::MAX);
    let options = DearmorOptions::new().set_limit(limit);
    let mut reader = Dearmor::with_options(BufReader::new(bytes), options);
    let armored = |why: String| format!("armored: {why}");
    reader.read_header().map_err(|e| armored(e.to_string()))?;
    match &reader.typ {
        Some(kind) if kind == want => {}
        Some(BlockType::CleartextMessage) => return Err("a cleartext signature".into()),
        Some(other) => return Err(format!("a {other}, want a {want}")),
        None => return Err(armored("no type".into())),
    }
    let mut binary = Vec::new();
    reader
        .read_to_end(&mut binary)
        .map_err(|e| armored(e.to_string()))?;
    Ok(binary)
}

/// All packets of a message.
fn packets(bytes: &[u8]) -> Result<Vec<Packet>, String> {
    /// A signed message has three; the rest tells what it is instead.
    const MOST: usize = 8;
    let packets: Result<Vec<Packet>, _> = PacketParser::new(bytes).take(MOST).collect();
    packets.map_err(|e| format!("malformed: {e}"))
}

/// What it is that is no signed message.
fn unwanted(packets: &[Packet]) -> String {
    let is = |what: fn(&Packet) -> bool| packets.iter().any(what);
    if packets.is_empty() {
        return "no OpenPGP message".into();
    }
    if is(|it| {
        matches!(
            it,
            Packet::SymEncryptedData(_)
                | Packet::SymEncryptedProtectedData(_)
                | Packet::PublicKeyEncryptedSessionKey(_)
                | Packet::SymKeyEncryptedSessionKey(_)
                | Packet::GnupgAeadData(_)
        )
    }) {
        return "an encrypted message, not a signed one".into();
    }
    if !is(|it| matches!(it, Packet::Signature(_))) {
        return "a message that is not signed".into();
    }
    if !is(|it| matches!(it, Packet::LiteralData(_))) {
        return "a detached signature, without what it signs".into();
    }
    let signatures = packets
        .iter()
        .filter(|it| matches!(it, Packet::Signature(_)))
        .count();
    match signatures {
        1 => "not one signed document: unexpected packets".into(),
        count => format!("{count} signatures, want one"),
    }
}
