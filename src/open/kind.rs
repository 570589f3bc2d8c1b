//! Which kind of index a layer is opened by.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::{
    index::{Binding, Dialect, LayerIndex},
    oci::Digest,
};

/// Which kind of index a layer is opened by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// An eStargz table of contents, which the manifest names.
    Estargz,
    /// A zstd:chunked table of contents, which the manifest names.
    ZstdChunked(Dialect),
    /// Made on this node while the layer was read whole.
    Kept,
    /// nacre's own, attached to the image.
    Attached,
    /// SOCI's, named by the manifest or attached to the image.
    Soci,
}

/// A layer's index, and where it is from.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) index: LayerIndex,
    pub(crate) kind: IndexKind,
    /// Digest of the artifact that has it, unless the layer has it in itself or it was made here.
    pub(crate) artifact: Option<Digest>,
    /// Nobody vouches for it, with which the policy puts up: only the DiffID can tell.
    pub(crate) is_unvouched: bool,
}

// === impl IndexKind ===

impl IndexKind {
    /// The kind that a manifest names.
    #[must_use]
    pub fn of(binding: &Binding) -> Self {
        match binding {
            Binding::Estargz { .. } => Self::Estargz,
            Binding::ZstdChunked { dialect, .. } => Self::ZstdChunked(*dialect),
        }
    }

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Estargz => "estargz",
            Self::ZstdChunked(Dialect::Stargz) => "zstd:chunked (stargz)",
            Self::ZstdChunked(Dialect::Podman) => "zstd:chunked (podman)",
            Self::Kept => "kept",
            Self::Attached => "nacre",
            Self::Soci => "soci",
        }
    }

    /// What is said of layers of these kinds in few words: `kept`, `2 estargz, 1 kept`.
    #[must_use]
    pub fn summary<S: AsRef<str>>(kinds: &[S]) -> String {
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for kind in kinds {
            let kind = kind.as_ref();
            match counts.iter_mut().find(|(it, _)| *it == kind) {
                Some((_, count)) => *count += 1,
                None => counts.push((kind, 1)),
            }
        }
        match &counts[..] {
            [] => "none".to_owned(),
            [(kind, _)] => (*kind).to_owned(),
            counts => {
                let counted = counts.iter().map(|(kind, count)| format!("{count} {kind}"));
                counted.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

impl AsRef<str> for IndexKind {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for IndexKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for IndexKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

// === impl Opened ===

impl Opened {
    /// One that the manifest vouches for, or the DiffID.
    pub(crate) fn certain(index: LayerIndex, kind: IndexKind) -> Self {
        Self {
            index,
            kind,
            artifact: None,
            is_unvouched: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_counted_by_kind() {
        use IndexKind::{Attached, Estargz, Kept};
        assert_eq!(IndexKind::summary::<IndexKind>(&[]), "none");
        assert_eq!(IndexKind::summary(&[Kept, Kept]), "kept");
        let mixed = [Estargz, Kept, Estargz, Attached];
        assert_eq!(IndexKind::summary(&mixed), "2 estargz, 1 kept, 1 nacre");
    }
}
