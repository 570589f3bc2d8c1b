//! Media types of manifests and layers, OCI and Docker, and what a layer's media type says.

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker image manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI layer, not compressed.
pub const OCI_LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// The empty JSON object as a blob (OCI 1.1).
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Suffix of encrypted layers (ocicrypt).
const ENCRYPTED: &str = "+encrypted";

/// Compression of a layer's tar, after decryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not compressed.
    None,
    /// gzip, possibly of several members.
    Gzip,
    /// zstd, possibly of several frames.
    Zstd,
}

/// What a layer's media type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerKind {
    /// Compression of the plain blob.
    pub compression: Compression,
    /// Whether the blob is encrypted by ocicrypt.
    pub encrypted: bool,
}

/// Reads a layer media type; `None` if it is not a tar layer (an artifact, wasm, …).
#[must_use]
pub fn layer_kind(media_type: &str) -> Option<LayerKind> {
    let (plain, encrypted) = match media_type.strip_suffix(ENCRYPTED) {
        Some(plain) => (plain, true),
        None => (media_type, false),
    };
    let compression = match plain {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
        OCI_LAYER_GZIP
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Compression::Gzip,
        OCI_LAYER_ZSTD
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
        _ => return None,
    };
    Some(LayerKind {
        compression,
        encrypted,
    })
}

/// What a plain tar layer is called in an OCI manifest. `None` if it is none.
#[must_use]
pub fn as_oci(media_type: &str) -> Option<String> {
    let kind = layer_kind(media_type).filter(|kind| !kind.encrypted)?;
    let base = if is_nondistributable(media_type) {
        "application/vnd.oci.image.layer.nondistributable.v1.tar"
    } else {
        OCI_LAYER_TAR
    };
    let compression = match kind.compression {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    Some(format!("{base}{compression}"))
}

/// What a tar layer is called once it is encrypted: always an OCI layer, since Docker has no name
/// for it. `None` if it is not a plain tar layer.
#[must_use]
pub fn encrypted(media_type: &str) -> Option<String> {
    as_oci(media_type).map(|plain| plain + ENCRYPTED)
}

/// What an encrypted layer is called once it is decrypted. `None` if it is not an encrypted layer.
#[must_use]
pub fn decrypted(media_type: &str) -> Option<&str> {
    layer_kind(media_type).filter(|kind| kind.encrypted)?;
    media_type.strip_suffix(ENCRYPTED)
}

/// Whether this names a layer that may be left where its publisher keeps it.
#[must_use]
pub fn is_nondistributable(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}

/// Whether this names an image index or manifest list.
#[must_use]
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// Whether this names a single image manifest.
#[must_use]
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encrypted_and_back() {
        for (plain, named) in [
            (OCI_LAYER_TAR, "layer.v1.tar+encrypted"),
            (OCI_LAYER_ZSTD, "layer.v1.tar+zstd+encrypted"),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "layer.v1.tar+gzip+encrypted",
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "layer.nondistributable.v1.tar+gzip+encrypted",
            ),
        ] {
            let encrypted = encrypted(plain).unwrap();
            assert_eq!(encrypted, format!("application/vnd.oci.image.{named}"));
            let back = decrypted(&encrypted).unwrap();
            assert_eq!(
                layer_kind(back).unwrap().compression,
                layer_kind(plain).unwrap().compression
            );
            assert_eq!(super::encrypted(&encrypted), None);
            assert_eq!(decrypted(plain), None);
        }
    }

    #[test]
    fn layer_kinds() {
        let gzip = |encrypted| {
            Some(LayerKind {
                compression: Compression::Gzip,
                encrypted,
            })
        };
        assert_eq!(layer_kind(OCI_LAYER_GZIP), gzip(false));
        assert_eq!(
            layer_kind("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
            gzip(true)
        );
        assert_eq!(
            layer_kind("application/vnd.docker.image.rootfs.diff.tar.gzip"),
            gzip(false)
        );
        assert_eq!(
            layer_kind("application/vnd.wasm.content.layer.v1+wasm"),
            None
        );
    }
}
