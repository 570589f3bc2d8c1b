//! Indexes of ordinary layers that somebody attached to the image: found among its referrers, believed
//! only by the word of somebody who counts.
//!
//! Everything is asked for at once: the artifact's manifest, its signatures, and its tables, which the list
//! of referrers names. What cannot be had or believed is said in the log and passed over; the layers are
//! then opened as if it were not there.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{join, join_all};
use tokio::task::spawn_blocking;

use super::{
    Layer, is_ordinary,
    kind::{IndexKind, Opened},
    soci::{self, Soci},
};
use crate::{
    error::{Error, Result},
    index::nacre::{self, Candidate, IndexKey, MAX_TABLES},
    oci::{Descriptor, Digest},
    ocicrypt,
    source::{BlobSource, Repository, read_verified},
    trust::{Grant, Policy, Vouching, vouch},
};

/// The indexes of an image's ordinary layers that somebody attached to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attached {
    own: Option<Arc<Index>>,
    soci: Option<Arc<Soci>>,
}

/// An index of an image's layers that is to be believed.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// Of its manifest.
    digest: Digest,
    tables: Bytes,
    windows: Option<Arc<dyn BlobSource>>,
    word: Word,
}

/// A layer whose index is looked for.
struct Named {
    descriptor: Descriptor,
    key: Option<IndexKey>,
}

/// Whose word an index is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    /// That of those whom the policy wants to have signed the image.
    Signed,
    /// Anybody's, which the policy allows.
    Allowed,
    /// That of whoever has the layer's key, if it is sealed under it. It is all that vouches for an
    /// image that nobody has to have signed.
    Key,
}

/// What is looked for, and where.
pub(crate) struct Search<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) grant: &'a Grant,
    pub(crate) repository: &'a dyn Repository,
}

// === impl Search ===

impl Search<'_> {
    /// The indexes that are attached to the image and to be believed; none is no error. Nothing is
    /// asked for an image whose manifest names the indexes of all its layers.
    pub(crate) async fn find(&self) -> Attached {
        if !self.grant.manifest().layers.iter().any(is_ordinary) {
            return Attached::default();
        }
        let manifest = self.grant.manifest_digest();
        let referrers = match self.repository.referrers(manifest).await {
            Ok(referrers) => referrers,
            Err(error) => {
                tracing::warn!(%manifest, %error, "no index: referrers cannot be listed");
                Vec::new()
            }
        };
        let (own, soci) = join(self.own(&referrers), soci::find(self, &referrers)).await;
        let soci = soci.unwrap_or_else(|error| {
            self.pass_over(&error, None);
            None
        });
        if let Some(soci) = &soci {
            tracing::info!(event = "index_found", %manifest, index = %soci.digest(), "SOCI");
        }
        Attached {
            own,
            soci: soci.map(Arc::new),
        }
    }

    /// The best of nacre's own.
    async fn own(&self, referrers: &[Descriptor]) -> Option<Arc<Index>> {
        let candidates = nacre::candidates(referrers);
        let looked = candidates
            .iter()
            .enumerate()
            .map(|(number, candidate)| async move {
                let found = self.look_at(candidate, number == 0).await;
                let artifact = &candidate.descriptor.digest;
                let said = |error: &Error| self.pass_over(error, Some(artifact));
                found.inspect_err(said).ok()
            });
        let found = join_all(looked).await;
        let best = found.into_iter().flatten().min_by_key(|it| it.word)?;
        tracing::info!(
            event = "index_found",
            manifest = %self.grant.manifest_digest(),
            index = %best.digest, word = ?best.word, bytes = best.tables.len(),
            "layers are opened by an attached index"
        );
        Some(Arc::new(best))
    }

    fn pass_over(&self, error: &Error, index: Option<&Digest>) {
        tracing::warn!(
            event = "index_passed_over",
            manifest = %self.grant.manifest_digest(),
            index = index.map(tracing::field::display),
            kind = error.kind().as_str(), %error,
            "attached index passed over"
        );
    }

    /// Reads one index; the tables at once if `ahead`, else when somebody has vouched for them.
    async fn look_at(&self, candidate: &Candidate, ahead: bool) -> Result<Index> {
        let tables = candidate.tables.as_ref().filter(|_| ahead);
        let early = async {
            match tables {
                Some(tables) => Some(read_verified(self.repository, tables, MAX_TABLES).await),
                None => None,
            }
        };
        let vouched = vouch(
            self.policy,
            self.grant.reference(),
            self.repository,
            self.grant.manifest_digest(),
            &candidate.descriptor,
        );
        let (vouched, early) = join(vouched, early).await;
        let vouched = vouched?;
        let word = match vouched.standing() {
            Vouching::Signed(_) => Word::Signed,
            Vouching::Allowed => Word::Allowed,
            Vouching::Unsigned(_) if !self.grant.class().is_signed() => Word::Key,
            Vouching::Unsigned(reasons) => {
                let mut message = "nobody whom the policy names has signed it".to_owned();
                if let Some(reason) = reasons.first() {
                    message = format!("{message}: {reason}");
                }
                return Err(Error::denied(message)
                    .with_hint("sign it: nacre image sign --key KEY REPOSITORY@DIGEST"));
            }
        };
        let (named, windows) = nacre::blobs(vouched.manifest())?;
        let tables = match (early, tables) {
            (Some(read), Some(tables)) if tables.digest == named.digest => read?,
            _ => read_verified(self.repository, named, MAX_TABLES).await?,
        };
        Ok(Index {
            digest: candidate.descriptor.digest.clone(),
            tables,
            windows: windows.map(|it| self.repository.blob(it)),
            word,
        })
    }
}

// === impl Attached ===

impl Attached {
    /// Digest of the artifact that has an index of this layer, if it seems to be one that can be
    /// read; of an encrypted layer only its key will tell.
    pub(crate) fn of(&self, layer: &Descriptor) -> Option<&Digest> {
        if let Some(own) = self.own.as_ref().filter(|it| it.covers(layer)) {
            return Some(&own.digest);
        }
        let soci = self.soci.as_ref().filter(|it| it.covers(layer))?;
        Some(soci.digest())
    }

    /// The index of a layer; `None` if it has none that is to be believed, for which the log says
    /// why.
    pub(super) async fn index(&self, layer: &Layer) -> Result<Option<Opened>> {
        if let Some(own) = &self.own {
            let (own, of) = (Arc::clone(own), layer.named());
            let read = spawn_blocking(move || own.index(&of)).await;
            let read = read.map_err(|e| Error::internal("reading an index").with_source(e))?;
            if read.is_some() {
                return Ok(read);
            }
        }
        match &self.soci {
            Some(soci) => Ok(soci.index(layer).await),
            None => Ok(None),
        }
    }
}

// === impl Index ===

impl Index {
    fn covers(&self, layer: &Descriptor) -> bool {
        if ocicrypt::is_encrypted(layer) {
            return nacre::covers(&self.tables, &layer.digest);
        }
        let windows = self.windows.clone();
        let read = nacre::decode(&self.tables, layer, None, windows);
        self.word != Word::Key && matches!(read, Ok(Some(_)))
    }

    /// The index of a layer; `None` if it has none that is to be believed, for which the log says
    /// why.
    fn index(&self, layer: &Named) -> Option<Opened> {
        let passed_over = |why: &str| {
            tracing::warn!(
                event = "index_passed_over",
                layer = %layer.descriptor.digest, index = %self.digest, error = why,
                "attached index of the layer passed over"
            );
            None
        };
        let windows = self.windows.clone();
        match nacre::decode(&self.tables, &layer.descriptor, layer.key.as_ref(), windows) {
            Ok(None) => None,
            Ok(Some(found)) if self.word == Word::Key && !found.sealed => {
                passed_over("nobody has signed it, nor sealed it under the layer's key")
            }
            Ok(Some(found)) => Some(Opened {
                // Who has the layer's key is as good as a signer.
                is_unvouched: self.word == Word::Allowed && !found.sealed,
                index: found.into_index(),
                kind: IndexKind::Attached,
                artifact: Some(self.digest.clone()),
            }),
            Err(error) => passed_over(&error.to_string()),
        }
    }
}

// === impl Layer ===

impl Layer {
    /// What an index knows the layer by.
    fn named(&self) -> Named {
        Named {
            descriptor: self.descriptor.clone(),
            key: self.index_key.clone(),
        }
    }
}
