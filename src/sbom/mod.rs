//! Bills of materials (SBOMs): where an image may have them, and whose word each is.
//!
//! They are looked for in attestations, in the layers that Buildpacks name by label (`layers`), in
//! cosign's `.sbom` tag and among the referrers (`attached`), and in the attestation manifests that
//! BuildKit puts into an index (`buildkit`). What comes first is what deserves most trust; nothing
//! here makes an image admitted.

mod attached;
mod buildkit;
mod format;
mod layers;

use std::fmt;

use bytes::Bytes;
use serde::Serialize;

pub use self::format::Format;
use crate::{
    error::Result,
    oci::Digest,
    open::Opener,
    source::Repository,
    trust::{self, Grant, Standing},
};

/// One document.
#[derive(Clone, Debug, Serialize)]
pub struct Sbom {
    /// In which format it is written.
    pub format: Format,
    /// Whose word it is.
    pub trust: Trust,
    /// What kind of place it was found in.
    pub found_in: Place,
    /// Digest of the blob or layer that has it.
    pub blob: Digest,
    /// Its path in that layer, if it is a layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its size in bytes.
    pub size: usize,
    /// The document.
    #[serde(skip)]
    pub bytes: Bytes,
}

/// Whose word a document is, the best first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Trust {
    /// Somebody whom the policy names has signed it as an attestation of this image.
    Attested {
        /// Who.
        signer: String,
    },
    /// It is part of what was signed, and the signature met the policy.
    InSignedImage,
    /// Somebody whom a trusted root vouches for, but the policy does not name, has signed it.
    Certified {
        /// Who.
        signer: String,
    },
    /// It is nobody's word that could be proven.
    Unsigned {
        /// Why.
        reason: String,
    },
}

/// Where a document was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// An in-toto attestation in a `.att` tag or a bundle.
    Attestation,
    /// The layer that Buildpacks' lifecycle names.
    BuildpacksLayer,
    /// The layer that the label of the base image names.
    BaseImageLayer,
    /// cosign's tag `sha256-HEX.sbom`.
    CosignTag,
    /// A referrer whose type is that of an SBOM.
    Referrer,
    /// An attestation manifest of BuildKit.
    BuildKit,
}

/// Largest document, and largest sum of those of one place.
pub(crate) const MAX_SBOM: u64 = 64 << 20;

/// All documents of an admitted image, those that deserve most trust first.
///
/// # Errors
/// `Unavailable`, `Denied`, `Corrupt` if a place could not be read; `Invalid` if one is malformed.
pub async fn find(
    opener: &Opener,
    grant: &Grant,
    repository: &dyn Repository,
) -> Result<Vec<Sbom>> {
    let mut found = attested(opener, grant, repository).await?;
    found.extend(layers::find(opener, grant, repository).await?);
    found.extend(attached::find(grant, repository).await?);
    found.extend(buildkit::find(grant, repository).await?);
    // Stable: the order of places decides among equals.
    found.sort_by_key(|it| it.trust.rank());
    Ok(found)
}

async fn attested(
    opener: &Opener,
    grant: &Grant,
    repository: &dyn Repository,
) -> Result<Vec<Sbom>> {
    let types = format::PREDICATES;
    let found = trust::predicates(&opener.policy, grant, repository, &types).await?;
    Ok(found
        .into_iter()
        .map(|(report, predicate)| {
            let trust = match report.standing {
                Standing::Policy { signer } => Trust::Attested { signer },
                Standing::Certified { signer } => Trust::Certified { signer },
                Standing::Unproven { reason } => Trust::Unsigned { reason },
            };
            Sbom::new(trust, Place::Attestation, report.blob, predicate.into())
        })
        .collect())
}

// === impl Sbom ===

impl Sbom {
    fn new(trust: Trust, found_in: Place, blob: Digest, bytes: Bytes) -> Self {
        Self {
            format: Format::of(&bytes),
            trust,
            found_in,
            blob,
            path: None,
            size: bytes.len(),
            bytes,
        }
    }
}

// === impl Trust ===

impl Trust {
    fn rank(&self) -> u8 {
        match self {
            Trust::Attested { .. } => 0,
            Trust::InSignedImage => 1,
            Trust::Certified { .. } => 2,
            Trust::Unsigned { .. } => 3,
        }
    }

    fn unsigned(reason: &str) -> Self {
        Trust::Unsigned {
            reason: reason.into(),
        }
    }

    /// That of what is inside the image.
    fn inside(grant: &Grant) -> Self {
        match grant.class().is_signed() {
            true => Trust::InSignedImage,
            false => Self::unsigned("the image is not signed, as far as the policy asks"),
        }
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trust::Attested { signer } => write!(f, "signed by {signer}, whom the policy names"),
            Trust::InSignedImage => f.write_str("in the signed image"),
            Trust::Certified { signer } => {
                write!(f, "signed by {signer}, whom the policy does not name")
            }
            Trust::Unsigned { reason } => write!(f, "not proven: {reason}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Attestation => "attestation",
            Place::BuildpacksLayer => "buildpacks-layer",
            Place::BaseImageLayer => "base-image-layer",
            Place::CosignTag => "cosign-tag",
            Place::Referrer => "referrer",
            Place::BuildKit => "build-kit",
        })
    }
}
