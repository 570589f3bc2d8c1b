//! The lists of referrers that one admission needs, each asked for once: signatures and attestations
//! are in the same.

use tokio::sync::OnceCell;

use crate::{
    error::{Kind, Result},
    oci::{Descriptor, Digest, RawManifest},
    source::Repository,
};

/// Lists of referrers of a manifest and of the index it is from.
#[derive(Debug)]
pub(super) struct Referrers<'a> {
    repository: &'a dyn Repository,
    lists: Vec<(&'a Digest, OnceCell<Vec<Descriptor>>)>,
}

// === impl Referrers ===

impl<'a> Referrers<'a> {
    pub(super) fn new(repository: &'a dyn Repository, subjects: &'a [RawManifest]) -> Self {
        let lists = subjects
            .iter()
            .map(|subject| (&subject.digest, OnceCell::new()))
            .collect();
        Self { repository, lists }
    }

    /// What refers to one of the subjects; empty if nothing does. A failure is not remembered.
    pub(super) async fn of(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let ask = || async {
            match self.repository.referrers(subject).await {
                Err(error) if error.kind() == Kind::NotFound => Ok(Vec::new()),
                asked => asked.map_err(|e| e.context(format!("referrers of {subject}"))),
            }
        };
        match self.lists.iter().find(|(digest, _)| *digest == subject) {
            Some((_, list)) => list.get_or_try_init(ask).await.cloned(),
            None => ask().await,
        }
    }
}
