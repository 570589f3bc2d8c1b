//! Layers that are read by an index for which nobody vouches: held against their DiffID while they are
//! in use. What was found is remembered.

use std::sync::Arc;

use super::{Checked, Finding, Findings, Layer, Opened, Opener, Subject, check, open_index};
use crate::{error::Result, oci::Digest, trust::Class};

/// A layer whose index nobody vouches for, with which the policy puts up.
#[derive(Debug)]
pub struct Unconfirmed {
    layer: Layer,
    diff_id: Digest,
    subject: Subject,
    findings: Option<Arc<Findings>>,
}

// === impl Opener ===

impl Opener {
    /// Those among an image's layers whose DiffIDs are `claims`.
    pub(super) fn unconfirmed(
        &self,
        layers: &[Layer],
        opened: &[Opened],
        claims: &[Digest],
    ) -> Vec<Arc<Unconfirmed>> {
        let all = layers.iter().zip(opened).zip(claims);
        let unvouched = all.filter(|((_, opened), _)| opened.is_unvouched);
        let unconfirmed = unvouched.map(|((layer, opened), diff_id)| Unconfirmed {
            layer: layer.clone(),
            diff_id: diff_id.clone(),
            subject: opened.subject(layer, diff_id),
            findings: self.findings.clone(),
        });
        unconfirmed.map(Arc::new).collect()
    }
}

// === impl Unconfirmed ===

impl Unconfirmed {
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
            Checked::Same => {
                self.remember(Finding::Confirmed);
                Ok(None)
            }
            Checked::Other(why) => {
                self.remember(Finding::Poisoned(why.clone()));
                Ok(Some(why))
            }
        }
    }

    fn remember(&self, finding: Finding) {
        let Some(findings) = &self.findings else {
            return;
        };
        if let Err(error) = findings.add(&self.subject, finding) {
            // It holds in this process.
            tracing::warn!(layer = %self.digest(), %error, "not remembered; confirmed again next time");
        }
    }
}

// === impl Opened ===

impl Opened {
    /// What findings about it are filed under.
    fn subject(&self, layer: &Layer, diff_id: &Digest) -> Subject {
        Subject::new(&layer.descriptor.digest, diff_id, self.artifact.as_ref())
    }

    /// The index in the light of what was found earlier; `None` if it lies.
    pub(super) fn judged(
        mut self,
        layer: &Layer,
        diff_id: &Digest,
        findings: Option<&Findings>,
    ) -> Option<Self> {
        let Some(findings) = findings.filter(|_| self.is_unvouched) else {
            return Some(self);
        };
        match findings.of(&self.subject(layer, diff_id)) {
            Some(Finding::Poisoned(why)) => {
                tracing::warn!(
                    event = "index_passed_over",
                    layer = %layer.descriptor.digest,
                    index = self.artifact.as_ref().map(tracing::field::display),
                    error = why,
                    "attached index of the layer was found not to be what its image claims"
                );
                return None;
            }
            Some(Finding::Confirmed) => self.is_unvouched = false,
            None => {}
        }
        Some(self)
    }
}
