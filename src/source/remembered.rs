//! A repository that lists the referrers of a manifest once: the policy looks for signatures among
//! them, then others look for what else is there.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use super::{BlobSource, Repository, Traffic};
use crate::{
    error::Result,
    oci::{Descriptor, Digest, Location, RawManifest},
};

/// See the module. It lives as long as one image is opened: a list is not asked for again.
#[derive(Debug)]
pub struct Remembered {
    inner: Arc<dyn Repository>,
    lists: Mutex<HashMap<Digest, Arc<OnceCell<Vec<Descriptor>>>>>,
}

// === impl Remembered ===

impl Remembered {
    /// Remembers what `inner` lists.
    #[must_use]
    pub fn new(inner: Arc<dyn Repository>) -> Self {
        Self {
            inner,
            lists: Mutex::default(),
        }
    }

    async fn list(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let cell = {
            let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(lists.entry(subject.clone()).or_default())
        };
        // A failure is not remembered.
        let list = cell.get_or_try_init(|| self.inner.referrers(subject));
        list.await.cloned()
    }
}

impl Repository for Remembered {
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
        Box::pin(self.list(subject))
    }

    fn traffic(&self) -> Arc<Traffic> {
        self.inner.traffic()
    }
}
