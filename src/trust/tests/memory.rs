//! A repository in memory: what the tests of admission read from and sign into.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{
    error::{Error, Kind, Result},
    oci::{Descriptor, Digest, Location, RawManifest},
    source::{BlobContent, BlobSource, MemoryBlob, Repository, RepositoryWriter, Traffic},
};

#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    manifests: HashMap<Location, RawManifest>,
    blobs: HashMap<Digest, Bytes>,
    referrers: HashMap<Digest, Vec<Descriptor>>,
    /// Everything that was asked for, in order.
    log: Vec<String>,
    /// Locations that answer with an error of this kind.
    broken: HashMap<Location, Kind>,
}

impl Memory {
    pub(super) fn put(&self, location: Location, raw: &RawManifest) {
        let mut state = self.0.lock().unwrap();
        state
            .manifests
            .insert(Location::Digest(raw.digest.clone()), raw.clone());
        state.manifests.insert(location, raw.clone());
    }

    pub(super) fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let mut state = self.0.lock().unwrap();
        state
            .blobs
            .insert(digest.clone(), Bytes::copy_from_slice(bytes));
        digest
    }

    pub(super) fn refer(&self, subject: &Digest, referrer: Descriptor) {
        let mut state = self.0.lock().unwrap();
        state
            .referrers
            .entry(subject.clone())
            .or_default()
            .push(referrer);
    }

    pub(super) fn replace_blob(&self, digest: &Digest, bytes: &[u8]) {
        let mut state = self.0.lock().unwrap();
        state
            .blobs
            .insert(digest.clone(), Bytes::copy_from_slice(bytes));
    }

    pub(super) fn break_location(&self, location: Location, kind: Kind) {
        self.0.lock().unwrap().broken.insert(location, kind);
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.0.lock().unwrap().log.clone()
    }
}

/// A blob whose bytes may not be what its digest says, as with any registry.
#[derive(Debug)]
struct Claimed {
    digest: Digest,
    blob: MemoryBlob,
}

impl BlobSource for Claimed {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn size(&self) -> u64 {
        self.blob.size()
    }

    fn read_at(&self, range: std::ops::Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.blob.read_at(range)
    }

    fn stream(&self) -> BoxFuture<'_, Result<crate::source::BlobStream>> {
        self.blob.stream()
    }
}

impl Repository for Memory {
    fn name(&self) -> String {
        "memory.example/repository".into()
    }

    fn manifest<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<RawManifest>> {
        Box::pin(async move {
            let mut state = self.0.lock().unwrap();
            state.log.push(format!("manifest {location}"));
            if let Some(kind) = state.broken.get(location) {
                return Err(Error::new(*kind, format!("manifest {location}: broken")));
            }
            state
                .manifests
                .get(location)
                .cloned()
                .ok_or_else(|| Error::not_found(format!("manifest {location}")))
        })
    }

    fn blob(&self, descriptor: &Descriptor) -> Arc<dyn BlobSource> {
        let mut state = self.0.lock().unwrap();
        state.log.push(format!("blob {}", descriptor.digest));
        let bytes = state.blobs.get(&descriptor.digest).cloned();
        Arc::new(Claimed {
            digest: descriptor.digest.clone(),
            blob: MemoryBlob::new(bytes.unwrap_or_default()),
        })
    }

    fn referrers<'a>(&'a self, subject: &'a Digest) -> BoxFuture<'a, Result<Vec<Descriptor>>> {
        Box::pin(async move {
            let mut state = self.0.lock().unwrap();
            state.log.push(format!("referrers {subject}"));
            Ok(state.referrers.get(subject).cloned().unwrap_or_default())
        })
    }

    fn traffic(&self) -> Arc<Traffic> {
        Arc::default()
    }
}

impl RepositoryWriter for Memory {
    fn name(&self) -> String {
        Repository::name(self)
    }

    fn put_blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        content: BlobContent,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let BlobContent::Bytes(bytes) = content else {
                panic!("signatures are written from memory")
            };
            assert_eq!(Memory::blob(self, &bytes), descriptor.digest);
            Ok(())
        })
    }

    fn put_manifest<'a>(
        &'a self,
        location: &'a Location,
        manifest: &'a RawManifest,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.put(location.clone(), manifest);
            Ok(())
        })
    }
}
