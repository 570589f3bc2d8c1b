//! A repository as it is seen while one image is opened: a list of referrers is asked for once, by
//! the policy for signatures and by others for what else is there, and the image's configuration is
//! on its way while signatures are looked for.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture, stream};
use tokio::sync::OnceCell;

use super::{BlobSource, BlobStream, DetachedSignature, Repository, Traffic, read_verified};
use crate::{
    error::{Error, Result},
    oci::{Descriptor, Digest, Document, Location, RawManifest, media_type},
};

/// See the module. It lives as long as one image is opened: nothing is asked for again.
#[derive(Debug)]
pub struct Remembered {
    inner: Arc<dyn Repository>,
    lists: Mutex<HashMap<Digest, Arc<OnceCell<Vec<Descriptor>>>>>,
    /// Whether configurations are fetched when their manifests are.
    ahead: bool,
    begun: Mutex<HashMap<Digest, Arc<OnceCell<Bytes>>>>,
}

/// A blob that has been asked for before it was wanted.
#[derive(Debug)]
struct Begun {
    repository: Arc<dyn Repository>,
    descriptor: Descriptor,
    inner: Arc<dyn BlobSource>,
    cell: Arc<OnceCell<Bytes>>,
}

/// Larger configurations are fetched when they are wanted.
const MAX_AHEAD: u64 = 1 << 20;

// === impl Remembered ===

impl Remembered {
    /// Remembers what `inner` lists.
    #[must_use]
    pub fn new(inner: Arc<dyn Repository>) -> Self {
        Self {
            inner,
            lists: Mutex::default(),
            ahead: false,
            begun: Mutex::default(),
        }
    }

    /// And fetches the configuration of an image as soon as its manifest is there.
    #[must_use]
    pub fn with_configurations(inner: Arc<dyn Repository>) -> Self {
        Self {
            ahead: true,
            ..Self::new(inner)
        }
    }

    /// Asks once, to the end even if who asked first has found enough elsewhere. A failure is not
    /// remembered.
    async fn list(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let cell = Arc::clone(lock(&self.lists).entry(subject.clone()).or_default());
        let (inner, subject) = (Arc::clone(&self.inner), subject.clone());
        let asking = tokio::spawn(async move {
            let list = cell.get_or_try_init(|| inner.referrers(&subject)).await;
            list.cloned()
        });
        let asked = asking.await;
        asked.map_err(|error| Error::internal("list of referrers").with_source(error))?
    }

    /// Begins to fetch the configuration that `manifest` names, if it is an image's.
    fn begin(&self, manifest: &RawManifest) {
        let Ok(Document::Manifest(parsed)) = manifest.parse() else {
            return;
        };
        // Images of signatures have configurations, too.
        let is_layer = |it: &Descriptor| media_type::layer_kind(&it.media_type).is_some();
        let config = parsed.config;
        if !parsed.layers.iter().any(is_layer) || config.size > MAX_AHEAD {
            return;
        }
        let cell = Arc::clone(lock(&self.begun).entry(config.digest.clone()).or_default());
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            let fetched = cell.get_or_try_init(|| read_verified(&*inner, &config, MAX_AHEAD));
            if let Err(error) = fetched.await {
                tracing::debug!(digest = %config.digest, %error, "to be fetched again when it is wanted");
            }
        });
    }
}

impl Repository for Remembered {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn manifest<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<RawManifest>> {
        Box::pin(async move {
            let manifest = self.inner.manifest(location).await?;
            if self.ahead {
                self.begin(&manifest);
            }
            Ok(manifest)
        })
    }

    fn blob(&self, descriptor: &Descriptor) -> Arc<dyn BlobSource> {
        let inner = self.inner.blob(descriptor);
        let begun = lock(&self.begun).get(&descriptor.digest).map(Arc::clone);
        match begun {
            Some(cell) => Arc::new(Begun {
                repository: Arc::clone(&self.inner),
                descriptor: descriptor.clone(),
                inner,
                cell,
            }),
            None => inner,
        }
    }

    fn referrers<'a>(&'a self, subject: &'a Digest) -> BoxFuture<'a, Result<Vec<Descriptor>>> {
        Box::pin(self.list(subject))
    }

    fn signatures<'a>(
        &'a self,
        subject: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<Vec<DetachedSignature>>>> {
        self.inner.signatures(subject)
    }

    fn traffic(&self) -> Arc<Traffic> {
        self.inner.traffic()
    }
}

// === impl Begun ===

impl BlobSource for Begun {
    fn digest(&self) -> &Digest {
        self.inner.digest()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.inner.read_at(range)
    }

    fn read_elsewhere(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.inner.read_elsewhere(range)
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(async move {
            let fetch = || read_verified(&*self.repository, &self.descriptor, MAX_AHEAD);
            let bytes = self.cell.get_or_try_init(fetch).await?.clone();
            Ok(stream::once(async move { Ok(bytes) }).boxed())
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic runs under it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
