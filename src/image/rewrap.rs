//! Changing who can decrypt an image: the layers' keys are wrapped anew, the blobs stay as they are.
//!
//! The layers keep their keys. Who could open the image before, and has kept its old manifest or the
//! key, still can: to shut somebody out, decrypt and encrypt anew.
//!
//! An index that is attached to the image is sealed under keys that come from the layers', which stay:
//! its blobs serve the new image as they are, and only its manifest is written anew.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures::future::BoxFuture;

use super::{
    From, How, OnProgress, Report,
    mover::Mover,
    rewrite::{Layers, rewrite, some_encrypted},
};
use crate::{
    error::{Error, Result},
    index::nacre::{self, Candidate, IndexKey, MAX_TABLES},
    keys::{Keyring, Recipients},
    oci::{Descriptor, Digest, Document, Location, Manifest, RawManifest},
    ocicrypt::{self, Annotations},
    source::{RepositoryWriter, read_verified},
};

/// From whom to whom.
#[derive(Debug)]
pub struct Options {
    /// Opens the layers' keys.
    pub keyring: Keyring,
    /// Who can decrypt afterwards.
    pub recipients: Recipients,
    /// Whether who can decrypt before still can: the new packets come after those that are there.
    pub keep: bool,
}

/// Wraps the keys of the image at `from` for other recipients and stores it at `location` of `to`, with
/// the indexes that are attached to it.
///
/// # Errors
/// `Invalid` if no layer is encrypted, `Denied` for want of a key, and what key providers, reading
/// and writing say.
pub async fn rewrap(
    from: &From,
    to: &dyn RepositoryWriter,
    location: &Location,
    options: &Options,
    progress: &OnProgress,
) -> Result<Report> {
    let rewrapping = Rewrapping {
        options,
        state: Mutex::default(),
    };
    let mut report = rewrite(from, to, location, &rewrapping, progress).await?;
    let mover = Mover { from, to, progress };
    let State { keys, images } = std::mem::take(&mut *rewrapping.state());
    for (before, after) in images {
        report
            .indexes
            .extend(carry(&mover, &keys, &before, &after).await?);
    }
    Ok(report)
}

struct Rewrapping<'a> {
    options: &'a Options,
    state: Mutex<State>,
}

/// What is learnt while layers are rewrapped.
#[derive(Default)]
struct State {
    /// What seals the index of each layer.
    keys: HashMap<Digest, IndexKey>,
    /// Digest of each image before, and what was made of it.
    images: Vec<(Digest, RawManifest)>,
}

/// Attaches the indexes of the image of before to the one that was made of it; gives their digests.
async fn carry(
    mover: &Mover<'_>,
    keys: &HashMap<Digest, IndexKey>,
    before: &Digest,
    after: &RawManifest,
) -> Result<Vec<Digest>> {
    let referrers = match mover.from.repository.referrers(before).await {
        Ok(referrers) => referrers,
        Err(error) => {
            tracing::warn!(manifest = %before, %error, "no index: referrers cannot be listed");
            return Ok(Vec::new());
        }
    };
    let mut carried = Vec::new();
    for candidate in nacre::candidates(&referrers) {
        let digest = &candidate.descriptor.digest;
        match read(mover, keys, before, &candidate).await {
            Ok(manifest) => {
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    mover.blob(blob).await?;
                }
                let made = nacre::of_subject(&manifest, &after.descriptor())?;
                let location = Location::Digest(made.digest.clone());
                mover.to.put_manifest(&location, &made).await?;
                carried.push(made.digest);
            }
            // Anybody may have attached it.
            Err(error) => tracing::warn!(index = %digest, %error, "attached index left behind"),
        }
    }
    Ok(carried)
}

/// The manifest of an index that is one of this image, as far as its keys tell.
async fn read(
    mover: &Mover<'_>,
    keys: &HashMap<Digest, IndexKey>,
    before: &Digest,
    candidate: &Candidate,
) -> Result<Manifest> {
    let (repository, digest) = (&*mover.from.repository, &candidate.descriptor.digest);
    let raw = repository
        .manifest(&Location::Digest(digest.clone()))
        .await?;
    if !digest.matches(&raw.bytes) {
        return Err(Error::corrupt(format!("index {digest}: digest mismatch")));
    }
    let Document::Manifest(manifest) = raw.parse()? else {
        return Err(Error::invalid(format!("index {digest}: not one")));
    };
    if manifest.subject.as_ref().map(|it| &it.digest) != Some(before) {
        return Err(Error::invalid(format!("index {digest}: of another image")));
    }
    let (tables, _) = nacre::blobs(&manifest)?;
    let tables = read_verified(repository, tables, MAX_TABLES).await?;
    nacre::check_seals(&tables, keys)
        .map_err(|what| Error::denied(format!("index {digest}: {what}")))?;
    Ok(*manifest)
}

// === impl Rewrapping ===

impl Rewrapping<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Layers for Rewrapping<'_> {
    fn check(&self, layers: &[Descriptor]) -> Result<()> {
        some_encrypted(layers)
    }

    fn is_for(&self, layer: &Descriptor, _number: usize, _count: usize) -> bool {
        ocicrypt::is_encrypted(layer)
    }

    fn layer<'a>(
        &'a self,
        layer: &'a Descriptor,
        mover: &'a Mover<'a>,
    ) -> BoxFuture<'a, Result<(Descriptor, How)>> {
        Box::pin(async move {
            let key = self.options.keyring.unwrap(layer).await?;
            let mut packets = match self.options.keep {
                true => Annotations::parse(layer)?.packets,
                false => Vec::new(),
            };
            packets.extend(self.options.recipients.wrap(&key).await?);
            let mut annotations = layer.annotations.clone();
            annotations.retain(|name, _| !name.starts_with(ocicrypt::PREFIX));
            annotations.extend(Annotations::write(&key, &packets)?);
            let seal = IndexKey::of(&key, &layer.digest);
            self.state().keys.insert(layer.digest.clone(), seal);
            mover.blob(layer).await?;
            let made = Descriptor {
                annotations,
                ..layer.clone()
            };
            Ok((made, How::Rewrapped))
        })
    }

    fn made(&self, before: &Digest, after: &RawManifest) {
        self.state().images.push((before.clone(), after.clone()));
    }
}
