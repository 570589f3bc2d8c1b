//! Encryption annotations of a layer's descriptor.
//!
//! `org.opencontainers.image.enc.pubopts` holds the public options; `...enc.keys.KIND` a list of
//! packets, joined by commas, each base64 and each wrapping the same private options.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;

use super::{
    Options, coco::CocoPacket, jwe::Jwe, pgp::PgpPacket, pkcs7::Pkcs7, pkcs11::Pkcs11Packet,
};
use crate::{
    error::{Error, Result},
    keys::LayerKey,
    oci::Descriptor,
};

/// What the descriptor of an encrypted layer says about its key.
#[derive(Debug)]
pub(crate) struct Annotations {
    /// Public options.
    pub(crate) options: Options,
    /// All packets, in the order in which they are tried: by kind, then as listed.
    pub(crate) packets: Vec<Packet>,
}

/// One wrapping of the private options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// What wrapped it.
    pub(crate) kind: PacketKind,
    /// The wrapped private options.
    pub(crate) bytes: Vec<u8>,
}

/// What wrapped a packet. The order is the one in which packets are tried.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PacketKind {
    /// JSON Web Encryption.
    Jwe,
    /// A key provider, by its name.
    Provider(String),
    /// Cryptographic Message Syntax.
    Pkcs7,
    /// OpenPGP.
    Pgp,
    /// A PKCS#11 token.
    Pkcs11,
    /// Something that ocicrypt did not define when this was written.
    Other(String),
}

/// A packet as `nacre inspect` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PacketInfo {
    /// `jwe`, `provider.NAME`, `pkcs7`, `pgp`, `pkcs11`.
    pub kind: String,
    /// Key that a CoCo packet names (`kbs:///...`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// How many keys can open it, where the packet tells (JWE, PKCS7, PGP, PKCS11).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients: Option<usize>,
    /// How the key is wrapped, where the packet tells: JWE `alg`s, CoCo `wrap_type`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub algorithms: Vec<String>,
}

/// What all annotations of encryption begin with.
pub(crate) const PREFIX: &str = "org.opencontainers.image.enc.";
const PUBLIC: &str = "org.opencontainers.image.enc.pubopts";
const KEYS: &str = "org.opencontainers.image.enc.keys.";
/// Most packets of one layer: each may cost an RSA operation a key or a call of a key provider.
const MAX_PACKETS: usize = 64;
/// Largest packet, decoded. A JWE for 100 recipients takes 60 KiB.
const MAX_PACKET: usize = 256 << 10;
/// Largest public options, encoded; ocicrypt writes 150 bytes.
const MAX_PUBLIC: usize = 64 << 10;

/// Whether a layer's media type says that its blob is encrypted.
#[must_use]
pub fn is_encrypted(layer: &Descriptor) -> bool {
    layer.media_type.ends_with("+encrypted")
}

/// The packets of a layer, as far as they can be read; empty if it has none.
#[must_use]
pub fn packets(layer: &Descriptor) -> Vec<PacketInfo> {
    read_packets(layer)
        .unwrap_or_default()
        .iter()
        .map(Packet::info)
        .collect()
}

// === impl Annotations ===

impl Annotations {
    /// Reads a layer's annotations.
    ///
    /// # Errors
    /// `Invalid` if they are malformed or absurdly large, `Unsupported` for another cipher.
    pub(crate) fn parse(layer: &Descriptor) -> Result<Self> {
        let packets = read_packets(layer)?;
        let public = layer
            .annotations
            .get(PUBLIC)
            .ok_or_else(|| Error::invalid(format!("encrypted, but has no annotation {PUBLIC}")))?;
        if public.len() > MAX_PUBLIC {
            return Err(too_large(PUBLIC, public.len(), MAX_PUBLIC));
        }
        Ok(Self {
            options: Options::parse(&decode(PUBLIC, public)?)?,
            packets,
        })
    }

    /// The annotations of a layer with this key, wrapped in these packets.
    ///
    /// # Errors
    /// `Invalid` if there are more packets than are read, or one is larger.
    pub(crate) fn write(key: &LayerKey, packets: &[Packet]) -> Result<BTreeMap<String, String>> {
        if packets.len() > MAX_PACKETS {
            return Err(Error::invalid(format!("over {MAX_PACKETS} key packets")));
        }
        let public = STANDARD.encode(Options::public(key));
        let mut annotations = BTreeMap::from([(PUBLIC.to_owned(), public)]);
        for packet in packets {
            let name = format!("{KEYS}{}", packet.kind);
            if packet.bytes.len() > MAX_PACKET {
                return Err(too_large(&name, packet.bytes.len(), MAX_PACKET));
            }
            let list = annotations.entry(name).or_default();
            if !list.is_empty() {
                list.push(',');
            }
            STANDARD.encode_string(&packet.bytes, list);
        }
        Ok(annotations)
    }
}

// === impl Packet ===

impl Packet {
    /// What can be told of the packet without opening it.
    pub(crate) fn info(&self) -> PacketInfo {
        let mut info = PacketInfo {
            kind: self.kind.to_string(),
            kid: None,
            recipients: None,
            algorithms: Vec::new(),
        };
        match &self.kind {
            PacketKind::Jwe => {
                if let Ok(jwe) = Jwe::parse(&self.bytes) {
                    info.recipients = Some(jwe.recipients());
                    info.algorithms = jwe.algorithms();
                }
            }
            PacketKind::Pkcs7 => {
                info.recipients = Pkcs7::parse(&self.bytes).ok().map(|it| it.recipients());
            }
            PacketKind::Pgp => {
                info.recipients = PgpPacket::parse(&self.bytes).ok().map(|it| it.recipients());
            }
            PacketKind::Pkcs11 => {
                let packet = Pkcs11Packet::parse(&self.bytes).ok();
                info.recipients = packet.map(|it| it.recipients());
            }
            PacketKind::Provider(_) => {
                if let Ok(packet) = CocoPacket::parse(&self.bytes) {
                    info.algorithms = packet
                        .wrap_type()
                        .map(ToOwned::to_owned)
                        .into_iter()
                        .collect();
                    info.kid = Some(packet.kid().to_owned());
                }
            }
            _ => {}
        }
        info
    }
}

// === impl PacketKind ===

impl PacketKind {
    fn parse(name: &str) -> Self {
        match name {
            "jwe" => Self::Jwe,
            "pkcs7" => Self::Pkcs7,
            "pgp" => Self::Pgp,
            "pkcs11" => Self::Pkcs11,
            _ => match name.strip_prefix("provider.") {
                Some(provider) => Self::Provider(provider.to_owned()),
                None => Self::Other(name.to_owned()),
            },
        }
    }
}

impl std::fmt::Display for PacketKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Jwe => f.write_str("jwe"),
            Self::Pkcs7 => f.write_str("pkcs7"),
            Self::Pgp => f.write_str("pgp"),
            Self::Pkcs11 => f.write_str("pkcs11"),
            Self::Provider(name) => write!(f, "provider.{name}"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

fn read_packets(layer: &Descriptor) -> Result<Vec<Packet>> {
    let mut packets = Vec::new();
    for (name, value) in &layer.annotations {
        let Some(kind) = name.strip_prefix(KEYS) else {
            continue;
        };
        let kind = PacketKind::parse(kind);
        // ocicrypt reads an empty annotation as none.
        for text in value.split(',').filter(|_| !value.is_empty()) {
            if packets.len() == MAX_PACKETS {
                return Err(Error::invalid(format!("over {MAX_PACKETS} key packets")));
            }
            if text.len() / 4 * 3 > MAX_PACKET {
                return Err(too_large(name, text.len() / 4 * 3, MAX_PACKET));
            }
            packets.push(Packet {
                kind: kind.clone(),
                bytes: decode(name, text)?,
            });
        }
    }
    packets.sort_by(|a, b| a.kind.cmp(&b.kind));
    Ok(packets)
}

fn decode(annotation: &str, text: &str) -> Result<Vec<u8>> {
    STANDARD
        .decode(text)
        .map_err(|e| Error::invalid(format!("annotation {annotation}: not base64: {e}")))
}

fn too_large(annotation: &str, size: usize, limit: usize) -> Error {
    Error::invalid(format!(
        "annotation {annotation}: {size} bytes, at most {limit} are read"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(annotations: &[(&str, &str)]) -> Descriptor {
        let mut layer = Descriptor::of("application/vnd.oci.image.layer.v1.tar+encrypted", b"x");
        for (name, value) in annotations {
            layer
                .annotations
                .insert((*name).to_owned(), (*value).to_owned());
        }
        layer
    }

    fn public() -> String {
        let hmac = STANDARD.encode([0; 32]);
        STANDARD.encode(format!(
            r#"{{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"{hmac}","cipheroptions":{{}}}}"#
        ))
    }

    #[test]
    fn lists_packets_in_the_order_of_trying() {
        let layer = layer(&[
            (PUBLIC, &public()),
            ("org.opencontainers.image.enc.keys.pgp", "YQ=="),
            ("org.opencontainers.image.enc.keys.provider.b", "Yg=="),
            ("org.opencontainers.image.enc.keys.provider.a", "Yw==,ZA=="),
            ("org.opencontainers.image.enc.keys.jwe", "ZQ=="),
            ("org.opencontainers.image.enc.keys.pkcs7", ""),
            ("org.opencontainers.image.title", "none of this"),
        ]);
        let all: Vec<_> = Annotations::parse(&layer)
            .unwrap()
            .packets
            .into_iter()
            .map(|p| (p.kind.to_string(), p.bytes[0] as char))
            .collect();
        let want = [
            ("jwe", 'e'),
            ("provider.a", 'c'),
            ("provider.a", 'd'),
            ("provider.b", 'b'),
            ("pgp", 'a'),
        ];
        assert_eq!(all, want.map(|(kind, byte)| (kind.to_owned(), byte)));
        assert_eq!(packets(&layer).len(), 5);
        assert!(is_encrypted(&layer));
    }

    #[test]
    fn what_is_written_reads_back() {
        let key = LayerKey::new(
            zeroize::Zeroizing::new([1; 32]),
            [2; 16],
            [3; 32],
            None,
            "jwe",
        );
        let packet = |kind: PacketKind, bytes: &[u8]| Packet {
            kind,
            bytes: bytes.to_vec(),
        };
        let packets = [
            packet(PacketKind::Jwe, b"e"),
            packet(PacketKind::Jwe, b"f"),
            packet(PacketKind::Provider("a".into()), b"c"),
            packet(PacketKind::Pkcs7, b"p"),
        ];
        let mut layer = layer(&[]);
        layer.annotations = Annotations::write(&key, &packets).unwrap();
        let jwe = &layer.annotations["org.opencontainers.image.enc.keys.jwe"];
        assert_eq!(jwe, "ZQ==,Zg==");
        let read = Annotations::parse(&layer).unwrap();
        assert_eq!(read.packets, packets);
        for bad in [
            vec![packet(PacketKind::Jwe, b"e"); MAX_PACKETS + 1],
            vec![packet(PacketKind::Jwe, &vec![0; MAX_PACKET + 1])],
        ] {
            assert!(Annotations::write(&key, &bad).is_err());
        }
    }

    #[test]
    fn refuses_what_is_malformed_or_absurd() {
        let jwe = "org.opencontainers.image.enc.keys.jwe";
        let many = vec!["YQ=="; MAX_PACKETS + 1].join(",");
        let large = "YWFh".repeat(MAX_PACKET / 3 + 2);
        for (bad, text) in [
            (layer(&[(jwe, "YQ==")]), "no annotation"),
            (layer(&[(PUBLIC, &public()), (jwe, "?")]), "not base64"),
            (layer(&[(PUBLIC, "?"), (jwe, "YQ==")]), "not base64"),
            (layer(&[(PUBLIC, &public()), (jwe, &many)]), "over 64"),
            (layer(&[(PUBLIC, &public()), (jwe, &large)]), "at most"),
        ] {
            let error = Annotations::parse(&bad).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
        // An empty packet between commas opens with no key, and hinders no other.
        let gap = layer(&[(PUBLIC, &public()), (jwe, "YQ==,,Yg==")]);
        assert_eq!(Annotations::parse(&gap).unwrap().packets.len(), 3);
    }
}
