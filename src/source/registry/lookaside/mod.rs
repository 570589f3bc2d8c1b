//! Lookasides: GPG signatures in a directory or on a web server, found by an image's name and digest
//! (containers-registries.d(5), containers-signature(5)).
//!
//! Which place it is says `registries.d` (`places`), for the reference that was asked for, never for
//! a mirror's. What is there is fetched one after the other until one is missing.

mod places;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::future::BoxFuture;

pub use self::places::LookasidePlaces;
use super::{Options, files::Files};
use crate::{
    error::Result,
    oci::{Descriptor, Digest, Location, RawManifest, RegistryReference},
    resource::off_thread,
    source::{BlobSource, DetachedSignature, Repository, Traffic},
};

/// Fetches from lookasides.
#[derive(Debug)]
pub(super) struct Lookaside {
    places: LookasidePlaces,
    options: Options,
    certificates: Vec<reqwest::Certificate>,
}

/// A repository whose signatures may lie in a lookaside.
#[derive(Debug)]
pub(super) struct WithLookaside {
    inner: Arc<dyn Repository>,
    reference: RegistryReference,
    lookaside: Arc<Lookaside>,
}

/// Most signatures of one manifest that are fetched; one more tells that there are too many.
const MAX_SIGNATURES: usize = 101;
/// Largest signature that is fetched; real ones have 1 to 2 KiB.
const MAX_SIGNATURE: u64 = 256 << 10;

// === impl Lookaside ===

impl Lookaside {
    pub(super) fn new(
        places: LookasidePlaces,
        options: Options,
        certificates: Vec<reqwest::Certificate>,
    ) -> Self {
        Self {
            places,
            options,
            certificates,
        }
    }

    async fn signatures(
        &self,
        reference: &RegistryReference,
        subject: &Digest,
        traffic: &Traffic,
    ) -> Result<Option<Vec<DetachedSignature>>> {
        let (places, asked) = (self.places.clone(), reference.clone());
        let resources = self.options.resources.clone();
        let place = off_thread(move || places.of(&asked, &resources)).await?;
        let Some(base) = place else {
            return Ok(None);
        };
        let reader = Files::below(&base, "lookaside", &self.options, &self.certificates)?;
        let (algorithm, hex) = (subject.algorithm(), subject.hex());
        let mut found = Vec::new();
        for n in 1..=MAX_SIGNATURES {
            let name = format!("{}@{algorithm}={hex}/signature-{n}", reference.path());
            match reader.read(&name, MAX_SIGNATURE, traffic).await? {
                Some(bytes) => found.push(DetachedSignature {
                    place: reader.place(&name),
                    bytes,
                }),
                None => break,
            }
        }
        Ok(Some(found))
    }
}

// === impl WithLookaside ===

impl WithLookaside {
    pub(super) fn new(
        inner: Arc<dyn Repository>,
        reference: RegistryReference,
        lookaside: Arc<Lookaside>,
    ) -> Self {
        Self {
            inner,
            reference,
            lookaside,
        }
    }
}

impl Repository for WithLookaside {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn manifest<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<RawManifest>> {
        self.inner.manifest(location)
    }

    fn blob(&self, descriptor: &Descriptor) -> Arc<dyn BlobSource> {
        self.inner.blob(descriptor)
    }

    fn referrers<'a>(&'a self, subject: &'a Digest) -> BoxFuture<'a, Result<Vec<Descriptor>>> {
        self.inner.referrers(subject)
    }

    fn signatures<'a>(
        &'a self,
        subject: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<Vec<DetachedSignature>>>> {
        Box::pin(async move {
            if let Some(stored) = self.inner.signatures(subject).await? {
                return Ok(Some(stored));
            }
            let traffic = self.inner.traffic();
            let lookaside = &self.lookaside;
            lookaside
                .signatures(&self.reference, subject, &traffic)
                .await
        })
    }

    fn traffic(&self) -> Arc<Traffic> {
        self.inner.traffic()
    }
}
