//! What is remembered of decisions: a line in an audit log for each, and which digests a tag has had.
//!
//! A [`Policy`](super::Policy) that is watched gives no grant unless both could be written down.

mod audit;
mod tags;

use std::sync::Arc;

pub use self::{audit::AuditLog, tags::TagHistory};
use super::{admit::Request, grant::Grant};
use crate::error::{Error, Result};

/// What is told of every decision; nothing unless something is given.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Takes a line for each grant and each refusal.
    pub audit: Option<Arc<AuditLog>>,
    /// Refuses tags that go back to what they have been before.
    pub tags: Option<Arc<TagHistory>>,
}

// === impl Watch ===

impl Watch {
    /// The same without a look at tags: for an image that has been admitted before.
    #[must_use]
    pub fn without_tags(self) -> Self {
        Self { tags: None, ..self }
    }

    /// Holds a grant against what the tag has been, and writes the decision down.
    pub(super) async fn see(&self, request: &Request<'_>, decided: Result<Grant>) -> Result<Grant> {
        let decided = match (decided, &self.tags) {
            (Ok(grant), Some(tags)) => {
                let (tags, taken) = (Arc::clone(tags), grant.clone());
                blocking(move || tags.take(&taken)).await.map(|()| grant)
            }
            (decided, _) => decided,
        };
        let Some(audit) = &self.audit else {
            return decided;
        };
        let line = audit::line(request, &decided)?;
        let log = Arc::clone(audit);
        match (blocking(move || log.write(&line)).await, decided) {
            (Ok(()), decided) => decided,
            (Err(error), Ok(_)) => Err(error),
            (Err(error), Err(refused)) => {
                tracing::error!(event = "audit_failed", %error, "a refusal is not in the audit log");
                Err(refused)
            }
        }
    }
}

/// Writes to disk, away from those who wait for the network.
async fn blocking(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let done = tokio::task::spawn_blocking(work);
    done.await
        .map_err(|e| Error::internal("writing a decision down").with_source(e))?
}
