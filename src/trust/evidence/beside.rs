//! GPG's simple signing: signatures that lie beside the repository, in a lookaside or in the
//! registry's own store of them.

use super::{Candidate, Content, MAX_CANDIDATES, candidate, too_many};
use crate::{
    error::Result,
    oci::{Digest, RawManifest},
    source::Repository,
    trust::grant::EvidenceKind,
};

/// The signatures that the repository knows of beside it.
pub(super) async fn beside(
    repository: &dyn Repository,
    subject: &RawManifest,
) -> Result<Vec<Candidate>> {
    let found = repository
        .signatures(&subject.digest)
        .await
        .map_err(|e| e.context(format!("GPG signatures of {}", subject.digest)))?;
    let found = found.unwrap_or_default();
    let count = found.len();
    let mut candidates: Vec<Candidate> = found
        .into_iter()
        .take(MAX_CANDIDATES)
        .map(|signature| {
            let blob = Digest::sha256(&signature.bytes);
            let content = Ok(Content::Gpg(signature.bytes.to_vec()));
            Candidate {
                name: format!("{} {}", EvidenceKind::GpgSignature, signature.place),
                ..candidate(EvidenceKind::GpgSignature, &blob, subject, content)
            }
        })
        .collect();
    if count > MAX_CANDIDATES {
        candidates.push(too_many(EvidenceKind::GpgSignature, subject, count));
    }
    Ok(candidates)
}
