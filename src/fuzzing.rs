//! Ways into the parsers of bytes that somebody else chose, for `fuzz/` and `tests/parsers.rs`. Not an
//! API.
//!
//! Each gives how much the parser made of its input, which the caller holds against [`bound`].

use std::collections::BTreeMap;

use bytes::Bytes;
use time::OffsetDateTime;

use crate::{
    codec,
    error::{Error, Result},
    index::{self, Codec, Unit},
    oci::{Descriptor, Document, Platform, RawManifest, Reference, media_type::Compression},
    ocicrypt::{
        self, Annotations, Options,
        coco::CocoPacket,
        jwe::Jwe,
        pgp::{PgpKeys, PgpPacket},
        pkcs7::{Certificate, Pkcs7},
        pkcs11::{Pkcs11Packet, TokenKey},
        private_key::PrivateKey,
        public_key,
    },
    profile, resource,
    source::registry::{challenge, header, multipart::Multipart},
    tar::TarReader,
    tree::Tree,
    trust::{self, Policy, PublicKey},
};

/// The most that a parser may make of `length` bytes, in bytes or in entries: nothing here is
/// compressed, but for what [`estargz`] counts down.
#[must_use]
pub fn bound(length: usize) -> usize {
    4 * length + 64
}

/// A table of contents of either format, and the tree that it makes.
pub fn toc(json: &[u8]) -> usize {
    let mut made = 0;
    for codec in [Codec::Gzip, Codec::Zstd] {
        if let Ok(index) = index::parse(json, codec, 1 << 30) {
            let table = &index.table;
            made += index.entries.len() + table.chunks.len() + table.units.len();
            // A refusal is as good as a tree.
            let _ = Tree::merge(vec![index.entries.clone(), index.entries]);
        }
    }
    made
}

/// An eStargz footer and the tar entry of its table of contents.
pub fn estargz(tail: &[u8]) -> usize {
    // The format cannot expand by more.
    const MOST: usize = 1032;
    let footer = usize::from(index::footer(tail).is_some());
    footer + index::toc_json(tail).map_or(0, |json| json.len() / MOST + 1)
}

/// A kept index, before its compression.
pub fn kept_index(document: &[u8]) -> usize {
    index::parse_document(document).map_or(0, |(index, _)| {
        let table = &index.table;
        index.entries.len() + table.chunks.len() + table.units.len()
    })
}

/// Bytes of the layer whose indexes are the samples (`tests/data/index/layer.tar.gz`).
const SAMPLE: u64 = 18_515;

/// An index that is attached to an image: its tables, and one table before its compression.
pub fn nacre_index(bytes: &[u8]) -> usize {
    let tables = index::nacre::layers_of(bytes).unwrap_or_default();
    let table = index::nacre::parse_table(bytes, SAMPLE).map_or(0, |index| {
        assert_eq!(index.check(SAMPLE), Ok(()));
        let table = &index.table;
        index.entries.len() + table.chunks.len() + table.units.len()
    });
    tables + table
}

/// A zTOC of SOCI.
pub fn ztoc(bytes: &[u8]) -> usize {
    index::parse_ztoc(bytes, SAMPLE).map_or(0, |index| {
        assert_eq!(index.check(SAMPLE), Ok(()));
        let table = &index.table;
        index.entries.len() + table.units.len()
    })
}

/// A gzip stream: what it gives from first to last, and again from each of its checkpoints.
pub fn gzip_stream(blob: &[u8]) -> usize {
    // The format cannot expand by more.
    const MOST: usize = 1032;
    let Some((codec::Runs { units, checkpoints }, runs)) =
        walked(Compression::Gzip, blob, usize::MAX)
    else {
        return 0;
    };
    assert_eq!(checkpoints.check(blob.len() as u64), Ok(()));
    enter(blob, &units, &runs, |number, _, compressed, length| {
        checkpoints.decode(number, compressed, length)
    });
    runs.iter().map(Vec::len).sum::<usize>() / MOST
}

/// A zstd stream: what it gives from first to last, and again from each of its frames.
pub fn zstd_stream(blob: &[u8]) -> usize {
    // The format can expand by much more: what is longer is not looked at.
    const MOST: usize = 4 << 20;
    let Some((codec::Runs { units, .. }, runs)) = walked(Compression::Zstd, blob, MOST) else {
        return 0;
    };
    assert_eq!(units.len(), runs.len());
    enter(blob, &units, &runs, |_, codec, compressed, length| {
        codec::decode(codec, compressed, length)
    });
    units.len()
}

/// What a walk learnt, and what each run holds; `None` if it is refused, or longer than `most`.
fn walked(
    compression: Compression,
    blob: &[u8],
    most: usize,
) -> Option<(codec::Runs, Vec<Vec<u8>>)> {
    let mut runs = Vec::<Vec<u8>>::new();
    let mut total = 0;
    let mut sink = |piece: codec::Piece| {
        let run = piece.run as usize;
        runs.resize(runs.len().max(run + 1), Vec::new());
        runs[run].extend_from_slice(&piece.bytes);
        total += piece.bytes.len();
        match total <= most {
            true => Ok(()),
            false => Err(Error::unsupported("long enough")),
        }
    };
    let mut walk = || -> Result<codec::Runs> {
        let mut walk = codec::Walk::new(compression, 1000)?;
        for piece in blob.chunks(777) {
            walk.push(piece, &mut sink)?;
        }
        walk.finish(&mut sink)
    };
    let found = walk().ok()?;
    Some((found, runs))
}

/// Decodes each run for itself, and holds it against what the walk gave.
fn enter(
    blob: &[u8],
    units: &[Unit],
    runs: &[Vec<u8>],
    decode: impl Fn(usize, Codec, &[u8], usize) -> Result<Vec<u8>>,
) {
    for (number, (unit, run)) in units.iter().zip(runs).enumerate() {
        let begin = usize::try_from(unit.offset).unwrap_or(usize::MAX);
        let compressed = &blob[begin..begin + unit.length as usize];
        let again = decode(number, unit.codec, compressed, run.len());
        assert_eq!(again.ok().as_ref(), Some(run), "run {number}");
    }
}

/// A profile, after its decompression.
pub fn profile(plain: &[u8]) -> usize {
    profile::parse(plain).map_or(0, |profile| profile.runs.len())
}

/// An answer of several ranges. Its first byte says in which pieces it arrives.
pub fn multipart(answer: &[u8]) -> usize {
    const SIZE: u64 = 1 << 30;
    let Some((step, answer)) = answer.split_first() else {
        return 0;
    };
    let longest = "b".repeat(70);
    let mut made = 0;
    for boundary in ["X-y", &longest] {
        let kind = format!("multipart/byteranges; boundary={boundary}");
        let Some(mut parts) = Multipart::of(&kind, SIZE) else {
            continue;
        };
        let mut take = |mut piece: Bytes| {
            while let Some((at, bytes)) = parts.take(&mut piece)? {
                assert!(at + bytes.len() as u64 <= SIZE, "bytes beyond the blob");
                made += bytes.len();
            }
            Ok::<_, &str>(())
        };
        let _ = answer
            .chunks(usize::from(*step).max(1))
            .try_for_each(|piece| take(Bytes::copy_from_slice(piece)));
    }
    made
}

/// A tar: names and attributes, and stored bytes of files.
pub fn tar(archive: &[u8]) -> usize {
    let mut made = 0;
    let mut reader = TarReader::new(archive);
    let mut buffer = [0; 1000];
    while let Ok(Some(entry)) = reader.next() {
        made += 1 + entry.name.len() + entry.link.len();
        made += entry
            .xattrs
            .iter()
            .map(|(k, v)| k.len() + v.len())
            .sum::<usize>();
        let _ = index::clean_path(&entry.name);
        while let Ok(Some((offset, count))) = reader.read_stored(&mut buffer) {
            assert!(offset + count as u64 <= entry.size, "bytes beyond the end");
            made += count;
        }
    }
    made
}

/// A `policy.json`.
pub fn policy(json: &[u8]) -> usize {
    Policy::parse(json, "policy.json".as_ref()).map_or(0, |_| 1)
}

/// A JWE, a PKCS7 or OpenPGP message, a packet for tokens or of CoCo's key provider, and the options that
/// they hold.
pub fn packets(packet: &[u8]) -> usize {
    let jwe = usize::from(Jwe::parse(packet).is_ok());
    let coco = CocoPacket::parse(packet).map_or(0, |packet| packet.kid().len());
    if let Ok(options) = Options::parse(packet) {
        let _ = options.join(packet, "packet");
    }
    let pkcs7 = Pkcs7::parse(packet).map_or(0, |packet| packet.recipients());
    let pgp = PgpPacket::parse(packet).map_or(0, |packet| packet.recipients());
    let pkcs11 = Pkcs11Packet::parse(packet).and_then(|packet| packet.sealed());
    jwe + coco + pkcs7 + pgp + pkcs11.map_or(0, |sealed| sealed.len())
}

/// The annotations of an encrypted or lazy layer, as JSON of an object.
pub fn annotations(json: &[u8]) -> usize {
    let Ok(annotations) = serde_json::from_slice::<BTreeMap<String, String>>(json) else {
        return 0;
    };
    let mut made = 0;
    for compression in ["gzip", "zstd"] {
        let media_type = format!("application/vnd.oci.image.layer.v1.tar+{compression}+encrypted");
        let layer = Descriptor {
            annotations: annotations.clone(),
            size: 1 << 30,
            ..Descriptor::of(media_type, b"")
        };
        let _ = Annotations::parse(&layer);
        let _ = trust::cosign::signature_of(&layer);
        made += usize::from(matches!(index::Binding::of(&layer), Ok(Some(_))));
        made += ocicrypt::packets(&layer).len();
    }
    made
}

/// A manifest or an index of images.
pub fn manifest(json: &[u8]) -> usize {
    let mut made = 0;
    for media_type in [
        crate::oci::media_type::OCI_MANIFEST,
        crate::oci::media_type::OCI_INDEX,
    ] {
        let raw = RawManifest::new(media_type, json.to_vec().into());
        made += match raw.parse() {
            Ok(Document::Manifest(manifest)) => manifest.layers.len(),
            Ok(Document::Index(index)) => {
                let _ = index.choose(&Platform::host());
                index.manifests.len()
            }
            Err(_) => 0,
        };
    }
    made
}

/// What cosign signs, a sigstore bundle, an attestation and the provenance in it, a trusted root.
pub fn signatures(json: &[u8]) -> usize {
    let mut made = usize::from(trust::cosign::parse_payload(json).is_ok());
    made += usize::from(trust::bundle::Bundle::parse(json).is_ok());
    made += usize::from(trust::sigstore::Bundle::parse(json).is_ok());
    made += usize::from(trust::sigstore::TrustRoot::parse(json, "root").is_ok());
    if let Ok(envelope) = trust::attestation::statement::Envelope::parse(json) {
        made += 1 + usize::from(envelope.statement().is_ok());
    }
    if let Ok(statement) = trust::attestation::statement::Statement::parse(json) {
        made += 1 + usize::from(trust::Provenance::of(&statement).is_ok());
    }
    made
}

/// GPG's keyrings and signed messages.
#[cfg(feature = "pgp")]
pub fn gpg(file: &[u8]) -> usize {
    let keyring = trust::pgp::Keyring::parse(&[(file.to_vec(), "keys".into())]);
    usize::from(keyring.is_ok()) + usize::from(trust::pgp::is_message(file))
}

/// Keys, public and private, of OpenPGP, on tokens, in offline files, and certificates.
pub fn keys(file: &[u8]) -> usize {
    let public = usize::from(PublicKey::from_pem(file, "key").is_ok());
    let recipient = usize::from(public_key::PublicKey::parse(file).is_ok());
    let certificate = usize::from(Certificate::parse(file).is_ok());
    let private = usize::from(PrivateKey::parse(file, None).is_ok());
    let pgp = usize::from(PgpKeys::parse(file, None).is_ok());
    let token = usize::from(TokenKey::parse(file, Some(b"pin")).is_ok());
    let offline = resource::Offline::parse(file).map_or(0, |all| all.all().count());
    public + recipient + certificate + private + pgp + token + offline
}

/// References, digests and platforms; what was understood is printed and understood again.
pub fn reference(text: &[u8]) -> usize {
    let Ok(text) = std::str::from_utf8(text) else {
        return 0;
    };
    let _ = Platform::parse(text);
    let _ = text.parse::<crate::oci::Digest>();
    let Ok(reference) = text.parse::<Reference>() else {
        return 0;
    };
    let printed = reference.to_string();
    let again = printed.parse::<Reference>();
    assert_eq!(again.ok().as_ref(), Some(&reference), "{printed}");
    printed.len()
}

/// Headers of a registry's answer.
pub fn headers(text: &[u8]) -> usize {
    let Ok(text) = std::str::from_utf8(text) else {
        return 0;
    };
    let _ = header::content_range(text);
    let _ = header::retry_after(text, OffsetDateTime::UNIX_EPOCH);
    let link = header::next_link(text).map_or(0, str::len);
    link + usize::from(challenge::parse(std::iter::once(text)).is_some())
}
