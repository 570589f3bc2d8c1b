//! What ties a layer index to the signed manifest: annotations of the layer's descriptor.

use crate::{
    error::{Error, Result},
    oci::{
        Descriptor, Digest,
        media_type::{Compression, layer_kind},
    },
};

use super::limits::{MAX_TOC_COMPRESSED, MAX_TOC_JSON};

/// SHA-256 of an eStargz table of contents (also written by containerd's zstd:chunked).
pub const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Size of the layer's tar; what CRI-O and podman want to know of a lazy layer.
pub const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";
/// Offset of the eStargz table of contents in the plain blob. A hint of ours that other tools
/// ignore: it saves the round trip of reading the footer.
pub const TOC_OFFSET: &str = "dev.nacre.estargz.toc-offset";

/// Prefix of the zstd:chunked annotations that podman, skopeo and buildah write.
pub const PODMAN_PREFIX: &str = "io.github.containers.zstd-chunked.";
/// Prefix of those that containerd's stargz writes.
pub const STARGZ_PREFIX: &str = "io.containers.zstd-chunked.";
/// After a prefix: SHA-256 of the compressed table of contents.
pub const MANIFEST_CHECKSUM: &str = "manifest-checksum";
/// After a prefix: `offset:compressed:uncompressed:type` of the table of contents.
pub const MANIFEST_POSITION: &str = "manifest-position";
/// After [`PODMAN_PREFIX`]: `offset:compressed:uncompressed` of the tar-split data.
pub const TARSPLIT_POSITION: &str = "tarsplit-position";

/// What ties a layer index to the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// A gzip layer with a table of contents at its end.
    Estargz {
        /// SHA-256 of the table of contents, uncompressed.
        toc_digest: Digest,
        /// Where it begins, if the publisher says so.
        toc_offset: Option<u64>,
    },
    /// A zstd layer with a table of contents in a skippable frame.
    ZstdChunked {
        /// Whose annotations they are.
        dialect: Dialect,
        /// SHA-256 of the table of contents, compressed.
        checksum: Digest,
        /// Where the table of contents is.
        position: Position,
        /// Where the tar-split data is; podman rebuilds the tar with it, nacre does not need it.
        tar_split: Option<Position>,
    },
}

/// Who wrote a zstd:chunked layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// containerd's stargz: `io.containers.zstd-chunked.`
    Stargz,
    /// containers/storage: `io.github.containers.zstd-chunked.`
    Podman,
}

/// A run of the plain blob that holds a compressed document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Offset in the plain blob.
    pub offset: u64,
    /// Compressed length.
    pub length: u64,
    /// Uncompressed length.
    pub uncompressed: u64,
}

// === impl Binding ===

impl Binding {
    /// Digest of the index.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        match self {
            Binding::Estargz { toc_digest, .. } => toc_digest,
            Binding::ZstdChunked { checksum, .. } => checksum,
        }
    }

    /// The binding that `layer`'s annotations give; `None` if they name no index that fits the
    /// layer's compression. The podman annotations count where both are there.
    ///
    /// # Errors
    /// `Invalid`, naming layer and annotation, if one is malformed.
    pub fn of(layer: &Descriptor) -> Result<Option<Binding>> {
        let bad = |key: &str, what: &str| {
            Error::invalid(format!("layer {}: annotation {key}: {what}", layer.digest))
        };
        let digest = |key: &str| -> Result<Option<Digest>> {
            let Some(text) = layer.annotations.get(key) else {
                return Ok(None);
            };
            match text.parse() {
                Ok(digest @ Digest::Sha256(_)) => Ok(Some(digest)),
                _ => Err(bad(key, &format!("{text:?} is not a sha256 digest"))),
            }
        };
        match layer_kind(&layer.media_type).map(|kind| kind.compression) {
            Some(Compression::Gzip) => {
                let Some(toc_digest) = digest(TOC_DIGEST)? else {
                    return Ok(None);
                };
                let toc_offset = match layer.annotations.get(TOC_OFFSET) {
                    None => None,
                    Some(text) => Some(
                        number(text)
                            .filter(|offset| *offset < layer.size)
                            .ok_or_else(|| bad(TOC_OFFSET, "not an offset in the layer"))?,
                    ),
                };
                Ok(Some(Binding::Estargz {
                    toc_digest,
                    toc_offset,
                }))
            }
            Some(Compression::Zstd) => {
                for (dialect, prefix) in [
                    (Dialect::Podman, PODMAN_PREFIX),
                    (Dialect::Stargz, STARGZ_PREFIX),
                ] {
                    let sum_key = format!("{prefix}{MANIFEST_CHECKSUM}");
                    let at_key = format!("{prefix}{MANIFEST_POSITION}");
                    let (checksum, at) = (digest(&sum_key)?, layer.annotations.get(&at_key));
                    let (checksum, at) = match (checksum, at) {
                        (None, None) => continue,
                        (None, Some(_)) => return Err(bad(&at_key, "without a checksum")),
                        (Some(_), None) => return Err(bad(&sum_key, "without a position")),
                        (Some(checksum), Some(at)) => (checksum, at),
                    };
                    let position =
                        position(at, 4, layer.size).map_err(|what| bad(&at_key, &what))?;
                    let split_key = format!("{prefix}{TARSPLIT_POSITION}");
                    let tar_split = layer
                        .annotations
                        .get(&split_key)
                        .map(|at| self::position(at, 3, layer.size))
                        .transpose()
                        .map_err(|what| bad(&split_key, &what))?;
                    return Ok(Some(Binding::ZstdChunked {
                        dialect,
                        checksum,
                        position,
                        tar_split,
                    }));
                }
                Ok(None)
            }
            Some(Compression::None) | None => Ok(None),
        }
    }
}

/// A decimal number without sign, space or leading zero.
fn number(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    (canonical && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

/// `offset:compressed:uncompressed`, and `:1` for the type of the one known table of contents.
fn position(text: &str, fields: usize, blob: u64) -> Result<Position, String> {
    let numbers: Vec<u64> = text
        .split(':')
        .map(number)
        .collect::<Option<_>>()
        .ok_or_else(|| format!("{text:?} is not a list of numbers"))?;
    if numbers.len() != fields {
        return Err(format!("{text:?}: {fields} numbers wanted"));
    }
    if fields == 4 && numbers[3] != TYPE_CRFS {
        return Err(format!("{text:?}: type {} is not known", numbers[3]));
    }
    let position = Position {
        offset: numbers[0],
        length: numbers[1],
        uncompressed: numbers[2],
    };
    match position.offset.checked_add(position.length) {
        Some(end) if end <= blob && position.offset >= SKIPPABLE_HEADER => {}
        _ => {
            return Err(format!(
                "{text:?} is not inside the {blob} bytes of the layer"
            ));
        }
    }
    if position.length > MAX_TOC_COMPRESSED || position.uncompressed > MAX_TOC_JSON {
        return Err(format!(
            "{text:?}: larger than {MAX_TOC_COMPRESSED} bytes compressed or {MAX_TOC_JSON} plain"
        ));
    }
    Ok(position)
}

/// The only type of a table of contents there is.
pub(crate) const TYPE_CRFS: u64 = 1;
/// Magic and length of a zstd skippable frame.
pub(crate) const SKIPPABLE_HEADER: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::media_type::{OCI_LAYER_GZIP, OCI_LAYER_ZSTD};

    fn layer(media_type: &str, annotations: &[(&str, &str)]) -> Descriptor {
        let mut layer = Descriptor::of(media_type, b"");
        layer.size = 1000;
        layer.annotations = annotations
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        layer
    }

    const SUM: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const PODMAN_SUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
    const PODMAN_AT: &str = "io.github.containers.zstd-chunked.manifest-position";
    const STARGZ_SUM: &str = "io.containers.zstd-chunked.manifest-checksum";
    const STARGZ_AT: &str = "io.containers.zstd-chunked.manifest-position";

    #[test]
    fn compression_decides() {
        let digest = [(TOC_DIGEST, SUM)];
        assert!(matches!(
            Binding::of(&layer(OCI_LAYER_GZIP, &digest)).unwrap(),
            Some(Binding::Estargz {
                toc_offset: None,
                ..
            })
        ));
        let encrypted = layer(&format!("{OCI_LAYER_GZIP}+encrypted"), &digest);
        assert!(Binding::of(&encrypted).unwrap().is_some());
        assert_eq!(Binding::of(&layer(OCI_LAYER_ZSTD, &digest)).unwrap(), None);
        assert_eq!(Binding::of(&layer(OCI_LAYER_GZIP, &[])).unwrap(), None);
    }

    #[test]
    fn both_dialects() {
        for (sum, at, wanted) in [
            (PODMAN_SUM, PODMAN_AT, Dialect::Podman),
            (STARGZ_SUM, STARGZ_AT, Dialect::Stargz),
        ] {
            let layer = layer(OCI_LAYER_ZSTD, &[(sum, SUM), (at, "100:200:4000:1")]);
            let Some(Binding::ZstdChunked {
                dialect, position, ..
            }) = Binding::of(&layer).unwrap()
            else {
                panic!("zstd:chunked")
            };
            assert_eq!(dialect, wanted);
            assert_eq!((position.offset, position.length), (100, 200));
        }
    }

    #[test]
    fn malformed_annotations_name_the_key() {
        for at in [
            "",
            "1",
            "100:200:300",
            "100:200:300:2",
            "900:200:300:1",
            "0:1:1:1",
            "-1:2:3:1",
            "+100:2:3:1",
            "1e2:2:3:1",
            "100:200:99999999999:1",
            "18446744073709551615:2:3:1",
            "18446744073709551616:2:3:1",
            "100: 200:300:1",
            "100:200:300:1:1",
        ] {
            let layer = layer(OCI_LAYER_ZSTD, &[(PODMAN_SUM, SUM), (PODMAN_AT, at)]);
            let error = Binding::of(&layer).unwrap_err().to_string();
            assert!(error.contains(PODMAN_AT), "{at}: {error}");
        }
        for (media, annotations) in [
            (OCI_LAYER_GZIP, vec![(TOC_DIGEST, "sha256:12")]),
            (
                OCI_LAYER_GZIP,
                vec![(TOC_DIGEST, SUM), (TOC_OFFSET, "1000")],
            ),
            (OCI_LAYER_ZSTD, vec![(PODMAN_SUM, SUM)]),
            (OCI_LAYER_ZSTD, vec![(PODMAN_AT, "100:200:300:1")]),
        ] {
            assert!(
                Binding::of(&layer(media, &annotations)).is_err(),
                "{annotations:?}"
            );
        }
    }
}
