//! Reads images from a layout directory.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::future::BoxFuture;

use super::{blob::LayoutBlob, blocking, index, name};
use crate::{
    error::{Error, Kind, Result},
    oci::{Descriptor, Digest, Index, Location, RawManifest},
    source::{BlobSource, Repository, Traffic, referrers},
};

/// A layout directory that is read.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    traffic: Arc<Traffic>,
}

// === impl Layout ===

impl Layout {
    /// The layout in `directory`.
    ///
    /// # Errors
    /// `NotFound` if there is no `oci-layout` file in it.
    pub async fn open(directory: &Path) -> Result<Self> {
        let root = directory.to_owned();
        let marker = root.join("oci-layout");
        if !tokio::fs::try_exists(&marker)
            .await
            .map_err(|e| Error::io(marker.display().to_string(), e))?
        {
            return Err(Error::not_found(format!(
                "{}: not an OCI image layout (no oci-layout file)",
                name(&root)
            )));
        }
        Ok(Self {
            root,
            traffic: Arc::default(),
        })
    }

    /// Where the only image is. Referrers and lists of them are not images.
    ///
    /// # Errors
    /// `NotFound` if there is none; `Invalid`, with the names, if there are several.
    pub async fn only_image(&self) -> Result<Location> {
        let root = self.root.clone();
        blocking(move || only_image(&root)).await
    }
}

impl Repository for Layout {
    fn name(&self) -> String {
        name(&self.root)
    }

    fn manifest<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<RawManifest>> {
        let (root, location) = (self.root.clone(), location.clone());
        let traffic = Arc::clone(&self.traffic);
        Box::pin(blocking(move || {
            traffic.request();
            let manifest = find(&root, &location)?;
            traffic.received(manifest.bytes.len());
            Ok(manifest)
        }))
    }

    fn blob(&self, descriptor: &Descriptor) -> Arc<dyn BlobSource> {
        Arc::new(LayoutBlob::new(
            self.root.clone(),
            descriptor,
            Arc::clone(&self.traffic),
        ))
    }

    fn referrers<'a>(&'a self, subject: &'a Digest) -> BoxFuture<'a, Result<Vec<Descriptor>>> {
        let (root, subject) = (self.root.clone(), subject.clone());
        let traffic = Arc::clone(&self.traffic);
        Box::pin(blocking(move || {
            traffic.request();
            referring(&root, &subject)
        }))
    }

    fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }
}

fn find(root: &Path, location: &Location) -> Result<RawManifest> {
    let entries = index::read(root)?.manifests;
    match location {
        Location::Tag(tag) => {
            let entry = entries
                .iter()
                .find(|entry| index::tag(entry) == Some(tag))
                .ok_or_else(|| {
                    Error::not_found(format!(
                        "no tag {tag} in {}; it has {}",
                        name(root),
                        names(&entries)
                    ))
                })?;
            index::manifest(root, &entry.digest, Some(&entry.media_type))
        }
        Location::Digest(digest) => {
            let entry = entries.iter().find(|entry| entry.digest == *digest);
            index::manifest(root, digest, entry.map(|entry| entry.media_type.as_str()))
        }
    }
}

fn only_image(root: &Path) -> Result<Location> {
    let Index { manifests, .. } = index::read(root)?;
    let candidates: Vec<&Descriptor> = manifests
        .iter()
        .filter(|entry| index::tag(entry).is_none_or(|tag| !referrers::is_referrers_tag(tag)))
        .filter(|entry| {
            manifests.len() == 1
                || index::manifest(root, &entry.digest, Some(&entry.media_type))
                    .map_or(true, |manifest| referrers::referrer(&manifest).is_none())
        })
        .collect();
    let distinct: BTreeSet<&Digest> = candidates.iter().map(|entry| &entry.digest).collect();
    match (candidates.first(), distinct.len()) {
        (None, _) => Err(Error::not_found(format!("{}: no image in it", name(root)))),
        (Some(image), 1) => Ok(index::tag(image).map_or_else(
            || Location::Digest(image.digest.clone()),
            |tag| Location::Tag(tag.to_owned()),
        )),
        (Some(_), count) => Err(Error::invalid(format!(
            "{}: {count} images in it: {}",
            name(root),
            names(candidates)
        ))
        .with_hint("name one: oci:DIRECTORY:TAG or oci:DIRECTORY@DIGEST")),
    }
}

/// What entries are called: tag, or digest where there is none.
fn names<'a>(entries: impl IntoIterator<Item = &'a Descriptor>) -> String {
    const SHOWN: usize = 20;
    let mut names: Vec<String> = entries
        .into_iter()
        .map(|entry| index::tag(entry).map_or_else(|| entry.digest.to_string(), ToOwned::to_owned))
        .collect();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    if names.is_empty() {
        return "none".into();
    }
    names.join(", ")
}

/// Entries whose `subject` is the digest, and what the fallback tag lists.
fn referring(root: &Path, subject: &Digest) -> Result<Vec<Descriptor>> {
    let entries = index::read(root)?.manifests;
    let fallback = referrers::fallback_tag(subject);
    let mut found: Vec<Descriptor> = Vec::new();
    for entry in &entries {
        let manifest = match index::manifest(root, &entry.digest, Some(&entry.media_type)) {
            Ok(manifest) => manifest,
            // An entry that is not there or is broken is not a referrer; asked for, it says so.
            Err(error)
                if matches!(error.kind(), Kind::NotFound | Kind::Corrupt | Kind::Invalid) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        let own = referrers::referrer(&manifest)
            .filter(|(named, _)| named == subject)
            .map(|(_, descriptor)| descriptor);
        let listed = if index::tag(entry) == Some(&fallback) {
            referrers::listed(&manifest)
        } else {
            Vec::new()
        };
        for descriptor in own.into_iter().chain(listed) {
            let known = found.iter().any(|known| known.digest == descriptor.digest);
            if !known && found.len() < referrers::MAX_REFERRERS {
                found.push(descriptor);
            }
        }
    }
    Ok(found)
}
