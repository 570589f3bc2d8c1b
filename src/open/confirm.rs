//! Layers that are read by an index for which nobody vouches: held against their DiffID while they are
//! in use.

use std::sync::Arc;

use super::{Checked, Layer, Opened, check, open_index};
use crate::{error::Result, oci::Digest, trust::Class};

/// A layer whose index nobody vouches for, with which the policy puts up.
#[derive(Debug)]
pub struct Unconfirmed {
    layer: Layer,
    diff_id: Digest,
}

// === impl Unconfirmed ===

impl Unconfirmed {
    /// Those among an image's layers; `claims` are its DiffIDs, if one of them is ordinary.
    pub(super) fn among(
        layers: &[Layer],
        opened: &[Opened],
        claims: Option<&[Digest]>,
    ) -> Vec<Self> {
        let all = layers.iter().zip(opened).zip(claims.unwrap_or_default());
        let unvouched = all.filter(|((_, opened), _)| opened.is_unvouched);
        let unconfirmed = unvouched.map(|((layer, _), diff_id)| Self {
            layer: layer.clone(),
            diff_id: diff_id.clone(),
        });
        unconfirmed.collect()
    }

    /// The layer's blob.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.layer.descriptor.digest
    }

    /// Reads the layer whole, at no more than `rate` bytes a second (0: as it comes), and gives how it
    /// differs from what its image and its index say; `None` if it does not.
    ///
    /// # Errors
    /// What keeps it from being read; then nothing is known of it.
    pub async fn difference(&self, rate: u64) -> Result<Option<String>> {
        // The class matters to indexes that manifests name, and this is none.
        let index = open_index(&self.layer, Class::PlainUnsigned).await?.index;
        // Of an ordinary layer the stream verifies itself.
        let whole = Arc::clone(&self.layer.source);
        let compression = self.layer.kind.compression;
        match check(whole, compression, self.diff_id.clone(), index, rate, None).await? {
            Checked::Same => Ok(None),
            Checked::Other(why) => Ok(Some(why)),
        }
    }
}
