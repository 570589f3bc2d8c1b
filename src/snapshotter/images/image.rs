//! One admitted image: its configuration's chain ids, and which of its layers are lazy.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::kept::Kept;
use crate::{
    engine::Profile,
    error::{Error, Kind, Result},
    index::{Binding, LayerIndex},
    oci::{Descriptor, Digest, media_type},
    open::{self, Attached, Findings, IndexKind, Subject},
    snapshotter::lazy::{Evidence, LayerRequest, Verdict},
    source::Repository,
    trust::{Class, Grant},
};

/// An image that policy has admitted and whose indexes are open.
#[derive(Debug)]
pub(super) struct Image {
    /// As the user named it.
    pub(super) reference: String,
    pub(super) grant: Grant,
    /// Lowest first; all of them.
    pub(super) layers: Vec<ImageLayer>,
    /// The lowest so many are lazy.
    pub(super) lazy: usize,
    /// What its start reads, if somebody recorded it.
    pub(super) profile: Option<Profile>,
    pub(super) repository: Arc<Kept>,
}

/// One layer of an image.
#[derive(Debug)]
pub(super) struct ImageLayer {
    pub(super) descriptor: Descriptor,
    /// As the configuration claims.
    pub(super) diff_id: Digest,
    /// Of the layers up to this one.
    pub(super) chain_id: String,
    /// Digest of its index, as the manifest names it, or of the artifact that has it.
    pub(super) index: Option<Digest>,
    pub(super) way: Way,
    /// Why it is not lazy, if it is not for its own sake.
    pub(super) why_not: Option<String>,
    /// Set for lazy layers.
    pub(super) open: Option<OpenLayer>,
}

/// Where a layer's index comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The manifest names it.
    Named,
    /// It is in an artifact that somebody attached to the image, or that is SOCI's.
    Attached,
    /// It is made here while the layer is read whole, and kept.
    Here,
    /// Nowhere: containerd unpacks the layer.
    None,
}

/// A lazy layer, ready to be read.
#[derive(Debug)]
pub(super) struct OpenLayer {
    pub(super) layer: open::Layer,
    pub(super) inodes: u64,
    pub(super) kind: IndexKind,
    /// Until it is first mounted.
    pub(super) index: Mutex<Option<LayerIndex>>,
}

/// What decides whether layers are lazy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) min_lazy_bytes: u64,
    /// Plain layers that have no index are read whole and get one here; else containerd unpacks them.
    pub(super) index_here: bool,
    /// Unsigned images must have been confirmed before.
    pub(super) only_confirmed: bool,
    pub(super) findings: &'a Findings,
    /// So many are lazy even if they are small: they have been before.
    pub(super) at_least: usize,
}

// === impl Image ===

impl Image {
    /// Finds the layer that containerd means. Chain ids tell repeated layers apart, and tie the
    /// snapshot's name to this image's own configuration.
    ///
    /// # Errors
    /// `Denied` if the image has no such layer.
    pub(super) fn number(&self, request: &LayerRequest) -> Result<usize> {
        let found = { self.layers.iter() }.position(|it| it.chain_id == request.chain_id);
        let found = found.ok_or_else(|| {
            Error::denied(format!(
                "{}: manifest {} has no layer with chain id {}",
                self.reference,
                self.grant.manifest_digest(),
                request.chain_id
            ))
        })?;
        let layer = &self.layers[found].descriptor.digest;
        if *layer != request.layer_digest {
            return Err(Error::denied(format!(
                "{}: chain id {} belongs to layer {layer}, not to {}",
                self.reference, request.chain_id, request.layer_digest
            )));
        }
        Ok(found)
    }

    /// Whether layer `number` is lazy.
    pub(super) fn verdict(&self, number: usize) -> Result<Verdict> {
        let layer = &self.layers[number];
        if number < self.lazy {
            let layer_number = u16::try_from(number).map_err(|_| {
                Error::invalid(format!("{}: {} layers", self.reference, self.layers.len()))
            })?;
            return Ok(Verdict::Lazy(Evidence {
                reference: self.reference.clone(),
                manifest: self.grant.manifest_digest().clone(),
                layer: layer.descriptor.digest.clone(),
                layer_number,
                diff_id: layer.diff_id.clone(),
                index: layer.index.clone(),
                class: self.grant.class().to_string(),
                chain_id: layer.chain_id.clone(),
            }));
        }
        let why = layer.why_not.clone().unwrap_or_else(|| {
            format!(
                "layer {}: lies above one that is unpacked",
                layer.descriptor.digest
            )
        });
        Ok(Verdict::Unpack { why })
    }

    /// Bytes of the blobs of its lowest `count` layers.
    pub(super) fn bytes(&self, count: usize) -> u64 {
        let layers = self.layers.iter().take(count);
        layers.map(|layer| layer.descriptor.size).sum()
    }

    /// What each lazy layer was opened by, the lowest first.
    pub(super) fn kinds(&self, count: usize) -> Vec<IndexKind> {
        let layers = self.layers.iter().take(count);
        layers
            .filter_map(|it| Some(it.open.as_ref()?.kind))
            .collect()
    }

    pub(super) fn log_admitted(&self, took: Duration) {
        tracing::info!(
            event = "image_admitted",
            image = self.reference,
            manifest = %self.grant.manifest_digest(),
            class = %self.grant.class(),
            rule = self.grant.rule().scope,
            lazy = self.lazy,
            layers = self.layers.len(),
            bytes = self.bytes(self.layers.len()),
            indexes = IndexKind::summary(&self.kinds(self.lazy)),
            seconds = took.as_secs_f64(),
            "admitted"
        );
    }

    /// The layer that a snapshot's evidence names, if this image is the one it was made of.
    ///
    /// # Errors
    /// `Denied` if it is not, or if the layer may not be lazy any more.
    pub(super) fn named_by(&self, evidence: &Evidence) -> Result<usize> {
        let number = usize::from(evidence.layer_number);
        let same = self.layers.get(number).is_some_and(|layer| {
            layer.descriptor.digest == evidence.layer
                && layer.diff_id == evidence.diff_id
                && layer.chain_id == evidence.chain_id
        });
        if !same || *self.grant.manifest_digest() != evidence.manifest {
            return Err(Error::denied(format!(
                "{}: snapshot {} was not made of manifest {}",
                self.reference,
                evidence.chain_id,
                self.grant.manifest_digest()
            )));
        }
        match self.verdict(number)? {
            Verdict::Lazy(_) => Ok(number),
            Verdict::Unpack { why } => Err(Error::denied(format!(
                "{}: layer {} may not be lazy any more: {why}",
                self.reference, evidence.layer
            ))),
        }
    }

    /// Fails if one of the layers up to `number` was found to be other than its image claims.
    ///
    /// # Errors
    /// `Denied`, with what was found.
    pub(super) fn check_findings(&self, findings: &Findings, number: usize) -> Result<()> {
        for layer in &self.layers[..=number] {
            if let Some(why) = findings.poisoned(&layer.subject()) {
                return Err(Error::denied(format!(
                    "{}: poisoned: layer {}: {why}",
                    self.reference, layer.descriptor.digest
                )));
            }
        }
        Ok(())
    }
}

// === impl ImageLayer ===

impl ImageLayer {
    /// All layers of an admitted image by its verified configuration.
    ///
    /// # Errors
    /// `Invalid` if the configuration does not fit the manifest, `Corrupt` if it is not the one that
    /// the manifest names, and what the registry says.
    pub(super) async fn all(grant: &Grant, repository: &dyn Repository) -> Result<Vec<Self>> {
        let diff_ids = open::diff_ids(grant, repository).await?;
        let layers = &grant.manifest().layers;
        let chain_ids = chain_ids(&diff_ids);
        let layers = layers.iter().zip(diff_ids).zip(chain_ids);
        layers
            .map(|((descriptor, diff_id), chain_id)| {
                let binding = Binding::of(descriptor)?;
                let way = match &binding {
                    Some(_) => Way::Named,
                    None => Way::None,
                };
                Ok(Self {
                    descriptor: descriptor.clone(),
                    diff_id,
                    chain_id,
                    index: binding.as_ref().map(index_digest),
                    way,
                    why_not: None,
                    open: None,
                })
            })
            .collect()
    }

    /// Has the index that is attached to the image, if it has none of its own, and that one has not
    /// been found to be of something else.
    pub(super) fn attach(&mut self, attached: &Attached, findings: &Findings) {
        if self.way == Way::Named {
            return;
        }
        let (layer, diff_id) = (&self.descriptor.digest, &self.diff_id);
        let is_good = |index: &&Digest| {
            let subject = Subject::new(layer, diff_id, Some(*index));
            findings.poisoned(&subject).is_none()
        };
        if let Some(index) = attached.of(&self.descriptor).filter(is_good) {
            self.index = Some(index.clone());
            self.way = Way::Attached;
        }
    }

    /// Has no index but the one that is made here.
    pub(super) fn index_here(&mut self) {
        self.index = None;
        self.way = Way::Here;
    }

    /// Whether containerd may unpack it where it cannot be indexed here.
    pub(super) fn is_left_to_containerd(&self, error: &Error) -> bool {
        let cannot = matches!(error.kind(), Kind::Unsupported | Kind::Invalid);
        cannot && self.way != Way::Named && !self.is_encrypted()
    }

    /// Is not lazy after all.
    pub(super) fn unpack(&mut self, why: String) {
        self.index = None;
        self.way = Way::None;
        self.why_not = Some(why);
    }

    /// What findings about it are filed under.
    pub(super) fn subject(&self) -> Subject {
        Subject::new(&self.descriptor.digest, &self.diff_id, self.index.as_ref())
    }

    fn is_encrypted(&self) -> bool {
        media_type::layer_kind(&self.descriptor.media_type).is_some_and(|kind| kind.encrypted)
    }

    /// Why layer `number` is not lazy; decides whether its index is made here, which confirms it. That
    /// is always so for an encrypted layer, since containerd has no key for it, and for one that was
    /// lazy before.
    fn reason(&mut self, number: usize, class: Class, rules: Rules<'_>) -> Option<String> {
        let digest = self.descriptor.digest.clone();
        if media_type::layer_kind(&self.descriptor.media_type).is_none() {
            return Some(format!("layer {digest}: not a tar layer"));
        }
        let here = rules.index_here || self.is_encrypted() || number < rules.at_least;
        if self.way == Way::None {
            if here {
                self.index_here();
                return None;
            }
            return Some(format!(
                "layer {digest}: no index that the manifest vouches for, and ordinary layers are \
                 unpacked (snapshotter.ordinary)"
            ));
        }
        if class == Class::EncryptedUnsigned {
            return Some(format!(
                "layer {digest}: encrypted and not signed, so it would have to be read whole"
            ));
        }
        if rules.only_confirmed
            && !class.is_signed()
            && !rules.findings.is_confirmed(&self.subject())
        {
            if self.way == Way::Attached && here {
                // What somebody attached would have to be held against the whole layer first.
                self.index_here();
                return None;
            }
            return Some(format!("layer {digest}: not signed, and not confirmed yet"));
        }
        None
    }
}

/// How many of the lowest layers are lazy; writes down why others are not.
///
/// Above a layer that is unpacked all are. A small layer is unpacked only if nothing larger lies
/// above it, and never if it is encrypted, since containerd has no key for it.
pub(super) fn lazy_count(layers: &mut [ImageLayer], class: Class, rules: Rules<'_>) -> usize {
    let mut count = layers.len();
    for (number, layer) in layers.iter_mut().enumerate() {
        layer.why_not = layer.reason(number, class, rules);
        if layer.why_not.is_some() {
            count = count.min(number);
        }
    }
    while count > rules.at_least {
        let top = &mut layers[count - 1];
        if top.is_encrypted() || top.descriptor.size >= rules.min_lazy_bytes {
            break;
        }
        top.why_not = Some(format!(
            "layer {}: {} bytes, lazy layers have at least {}",
            top.descriptor.digest, top.descriptor.size, rules.min_lazy_bytes
        ));
        count -= 1;
    }
    count
}

/// The chain id of each layer, as the OCI image specification computes it.
fn chain_ids(diff_ids: &[Digest]) -> Vec<String> {
    let mut chain_ids: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain_ids.last() {
            None => diff_id.to_string(),
            Some(below) => {
                let hash = Sha256::digest(format!("{below} {diff_id}").as_bytes());
                Digest::Sha256(hash.into()).to_string()
            }
        };
        chain_ids.push(next);
    }
    chain_ids
}

fn index_digest(binding: &Binding) -> Digest {
    match binding {
        Binding::Estargz { toc_digest, .. } => toc_digest.clone(),
        Binding::ZstdChunked { checksum, .. } => checksum.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(size: u64, media: &str, indexed: bool) -> ImageLayer {
        let mut descriptor = Descriptor::of(media, &size.to_le_bytes());
        descriptor.size = size;
        ImageLayer {
            descriptor,
            diff_id: Digest::sha256(b"d"),
            chain_id: String::new(),
            index: indexed.then(|| Digest::sha256(b"i")),
            way: if indexed { Way::Named } else { Way::None },
            why_not: None,
            open: None,
        }
    }

    fn count(layers: &[(u64, bool, bool)], class: Class, at_least: usize) -> usize {
        count_by(layers, class, at_least, false)
    }

    fn count_by(
        layers: &[(u64, bool, bool)],
        class: Class,
        at_least: usize,
        index_here: bool,
    ) -> usize {
        let directory = tempfile::tempdir().unwrap();
        let findings = Findings::open(directory.path().join("f"));
        let rules = Rules {
            min_lazy_bytes: 100,
            index_here,
            only_confirmed: true,
            findings: &findings,
            at_least,
        };
        let encrypted = format!("{}+encrypted", media_type::OCI_LAYER_GZIP);
        let media = |it| match it {
            true => &*encrypted,
            false => media_type::OCI_LAYER_GZIP,
        };
        let layers = layers.iter();
        let mut layers: Vec<_> = layers
            .map(|&(size, encrypted, indexed)| layer(size, media(encrypted), indexed))
            .collect();
        let count = lazy_count(&mut layers, class, rules);
        let lowest_other = layers.get(count);
        assert!(lowest_other.is_none_or(|layer| layer.why_not.is_some()));
        count
    }

    #[test]
    fn lazy_layers_are_the_lowest() {
        use Class::{EncryptedSigned, EncryptedUnsigned, PlainSigned, PlainUnsigned};
        let (big, small, bare) = ((200, false, true), (50, false, true), (200, false, false));
        let secret = (50, true, true);
        assert_eq!(count(&[big, big], PlainSigned, 0), 2);
        assert_eq!(count(&[small, big, small, small], PlainSigned, 0), 2);
        assert_eq!(count(&[small, big, small, small], PlainSigned, 3), 3);
        assert_eq!(count(&[small, small], PlainSigned, 0), 0);
        assert_eq!(count(&[big, bare, big], PlainSigned, 0), 1);
        // What was lazy before stays so.
        assert_eq!(count(&[big, bare, big], PlainSigned, 3), 3);
        assert_eq!(count(&[secret, secret], EncryptedSigned, 0), 2);
        assert_eq!(count(&[secret, secret], EncryptedUnsigned, 0), 0);
        let ordinary = (50, true, false);
        assert_eq!(count(&[ordinary, secret], EncryptedSigned, 0), 2);
        assert_eq!(count(&[ordinary, ordinary], EncryptedUnsigned, 0), 2);
        assert_eq!(count(&[ordinary, secret], EncryptedUnsigned, 0), 1);
        assert_eq!(count(&[big, big], PlainUnsigned, 0), 0);
    }

    #[test]
    fn ordinary_layers_are_lazy_whoever_signed_them_or_nobody() {
        use Class::{PlainSigned, PlainUnsigned};
        let (big, bare, small) = ((200, false, true), (200, false, false), (50, false, false));
        for class in [PlainSigned, PlainUnsigned] {
            assert_eq!(count_by(&[bare, bare], class, 0, true), 2);
            assert_eq!(count_by(&[bare, small], class, 0, true), 1);
            assert_eq!(count_by(&[bare, small, bare], class, 0, true), 3);
            assert_eq!(count_by(&[small], class, 0, true), 0);
        }
        assert_eq!(count_by(&[bare, big, bare], PlainSigned, 0, true), 3);
        // Who made the index of the second one is not known.
        assert_eq!(count_by(&[bare, big, bare], PlainUnsigned, 0, true), 1);
    }

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let ids = chain_ids(&[a.clone(), b.clone(), a.clone()]);
        assert_eq!(ids[0], a.to_string());
        // sha256 of "sha256:... sha256:..." by sha256sum.
        assert_eq!(
            ids[1],
            Digest::sha256(format!("{a} {b}").as_bytes()).to_string()
        );
        assert_ne!(ids[2], ids[0]);
    }
}
