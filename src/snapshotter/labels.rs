//! The labels by which containerd tells a remote snapshotter which layer it wants.
//!
//! Three dialects carry the same: containerd's own (`cri.*`), and stargz's, which older clients and
//! `ctr-remote` use. The list of the image's other layers is not used: labels are cut at 4 KiB.

use std::collections::BTreeMap;

use super::{LayerRequest, error::SnapshotError};
use crate::{error::Error, oci::Digest};

/// Labels of a snapshot.
pub type Labels = BTreeMap<String, String>;

/// Name that the committed snapshot must get.
pub(super) const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
/// Marks a snapshot whose content containerd did not unpack.
pub(super) const REMOTE: &str = "containerd.io/snapshot/remote";
/// Value of [`REMOTE`].
pub(super) const REMOTE_VALUE: &str = "remote snapshot";

const REFERENCE: [&str; 2] = [
    "containerd.io/snapshot/cri.image-ref",
    "containerd.io/snapshot/remote/stargz.reference",
];
const LAYER: [&str; 2] = [
    "containerd.io/snapshot/cri.layer-digest",
    "containerd.io/snapshot/remote/stargz.digest",
];
const MANIFEST: [&str; 1] = ["containerd.io/snapshot/cri.manifest-digest"];

impl LayerRequest {
    /// What `labels` ask for; `None` if they are not of a layer being pulled, or do not say of which
    /// image (annotations switched off).
    ///
    /// # Errors
    /// `InvalidArgument` if a digest is malformed: going on would leave the policy out.
    pub fn from_labels(labels: &Labels) -> Result<Option<Self>, SnapshotError> {
        let Some(chain_id) = labels.get(SNAPSHOT_REF) else {
            return Ok(None);
        };
        let (Some((_, reference)), Some((label, layer))) =
            (first(labels, &REFERENCE), first(labels, &LAYER))
        else {
            return Ok(None);
        };
        let manifest_digest = first(labels, &MANIFEST)
            .map(|(label, text)| digest(label, text))
            .transpose()?;
        Ok(Some(Self {
            reference: reference.to_owned(),
            manifest_digest,
            layer_digest: digest(label, layer)?,
            chain_id: chain_id.clone(),
        }))
    }
}

fn first<'a>(labels: &'a Labels, names: &[&'static str]) -> Option<(&'static str, &'a str)> {
    let mut found = names.iter().filter_map(|name| {
        let value = labels.get(*name)?;
        Some((*name, value.as_str()))
    });
    found.next()
}

fn digest(label: &str, text: &str) -> Result<Digest, SnapshotError> {
    text.parse()
        .map_err(|error: Error| SnapshotError::InvalidArgument(format!("label {label}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn every_dialect_asks_for_the_same() {
        let layer = Digest::sha256(b"layer");
        let text = layer.to_string();
        for (reference, digest) in REFERENCE.into_iter().zip(LAYER) {
            let labels = labels(&[
                (SNAPSHOT_REF, "sha256:chain"),
                (reference, "registry/app:1"),
                (digest, &text),
            ]);
            let request = LayerRequest::from_labels(&labels).unwrap().unwrap();
            assert_eq!(request.reference, "registry/app:1");
            assert_eq!(request.layer_digest, layer);
            assert_eq!(request.chain_id, "sha256:chain");
            assert_eq!(request.manifest_digest, None);
        }
    }

    #[test]
    fn containerd_s_own_labels_win_and_bring_the_manifest() {
        let (layer, manifest) = (Digest::sha256(b"layer"), Digest::sha256(b"manifest"));
        let labels = labels(&[
            (SNAPSHOT_REF, "chain"),
            (REFERENCE[0], "a"),
            (REFERENCE[1], "b"),
            (LAYER[0], &layer.to_string()),
            (MANIFEST[0], &manifest.to_string()),
        ]);
        let request = LayerRequest::from_labels(&labels).unwrap().unwrap();
        assert_eq!(request.reference, "a");
        assert_eq!(request.manifest_digest, Some(manifest));
    }

    #[test]
    fn no_request_without_a_target_or_an_image() {
        let text = Digest::sha256(b"layer").to_string();
        for pairs in [
            vec![(REFERENCE[0], "a"), (LAYER[0], text.as_str())],
            vec![(SNAPSHOT_REF, "chain"), (LAYER[0], text.as_str())],
            vec![(SNAPSHOT_REF, "chain"), (REFERENCE[0], "a")],
        ] {
            assert_eq!(LayerRequest::from_labels(&labels(&pairs)).unwrap(), None);
        }
    }

    #[test]
    fn a_malformed_digest_is_not_passed_over() {
        let labels = labels(&[
            (SNAPSHOT_REF, "chain"),
            (REFERENCE[0], "a"),
            (LAYER[0], "sha256:12"),
        ]);
        let error = LayerRequest::from_labels(&labels).unwrap_err();
        assert!(error.to_string().contains("cri.layer-digest"), "{error}");
    }
}
