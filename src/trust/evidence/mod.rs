//! Collecting the signatures of a manifest, and holding them against requirements.
//!
//! All places are asked at once: the tag `sha256-HEX.sig` (`tagged`) and the `referrers` for
//! sigstore's, what lies `beside` the repository for GPG's. Whatever cannot serve is kept as a
//! reason, so that a refusal says what was found; a signature by somebody else beside ours never
//! stands in the way.

mod beside;
mod check;
mod referrers;
mod tagged;

use futures::{Stream, StreamExt, future::BoxFuture, stream};

use super::{
    bundle::Bundle, grant::EvidenceKind, pgp::Keyring, referrers::Referrers, signer::Signer,
    sigstore::Attached,
};
use crate::{
    error::{Error, Result},
    oci::{Digest, RawManifest, Reference},
    source::Repository,
};

/// One signature, or why it is none.
#[derive(Debug)]
pub(super) struct Candidate {
    /// For messages: kind and digest.
    name: String,
    kind: EvidenceKind,
    blob: Digest,
    /// The manifest or index it is attached to.
    subject: RawManifest,
    content: Result<Content>,
}

#[derive(Debug)]
enum Content {
    Simple {
        payload: Vec<u8>,
        signature: Vec<u8>,
        attached: Box<Attached>,
    },
    Bundle(Box<Bundle>),
    /// An OpenPGP message.
    Gpg(Vec<u8>),
}

/// Whose signature is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) enum By<'a> {
    /// `sigstoreSigned`
    Sigstore(&'a Signer),
    /// `signedBy`
    Gpg(&'a Keyring),
}

/// Which kinds of signatures are looked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kinds {
    pub(super) sigstore: bool,
    pub(super) gpg: bool,
}

/// Most signatures of one manifest that are looked at, in the order in which they were attached
/// (cosign has the same cap).
const MAX_CANDIDATES: usize = 100;
/// Signature blobs that are fetched at once.
const CONCURRENT: usize = 8;

/// Everything attached to any of `subjects` (the manifest, and the index it is from), one item for
/// each place that is asked. All places are asked at once; the order of the items is always the
/// same, so that the same image gives the same evidence.
pub(super) fn places<'a>(
    repository: &'a dyn Repository,
    lists: &'a Referrers<'a>,
    asked: &'a Reference,
    subjects: &'a [RawManifest],
    kinds: Kinds,
) -> impl Stream<Item = Result<Vec<Candidate>>> + 'a {
    type Place<'a> = BoxFuture<'a, Result<Vec<Candidate>>>;
    let each = subjects.iter().flat_map(move |subject| {
        let mut places: Vec<Place<'a>> = Vec::new();
        if kinds.gpg {
            places.push(Box::pin(beside::beside(repository, subject)));
        }
        if kinds.sigstore {
            places.push(Box::pin(tagged::tagged(repository, asked, subject)));
            let referrers = referrers::referrers(repository, lists, asked, subject);
            places.push(Box::pin(referrers));
        }
        places
    });
    stream::iter(each).buffered(3 * subjects.len().max(1))
}

// === impl By ===

impl By<'_> {
    /// Whether a signature of this kind could serve at all.
    pub(super) fn takes(self, candidate: &Candidate) -> bool {
        let gpg = candidate.kind == EvidenceKind::GpgSignature;
        gpg == matches!(self, By::Gpg(_))
    }
}

fn candidate(
    kind: EvidenceKind,
    blob: &Digest,
    subject: &RawManifest,
    content: Result<Content>,
) -> Candidate {
    Candidate {
        name: format!("{kind} {blob}"),
        kind,
        blob: blob.clone(),
        subject: subject.clone(),
        content,
    }
}

fn refused(
    kind: EvidenceKind,
    blob: &Digest,
    subject: &RawManifest,
    why: impl Into<String>,
) -> Candidate {
    candidate(kind, blob, subject, Err(Error::invalid(why)))
}

fn too_many(kind: EvidenceKind, subject: &RawManifest, count: usize) -> Candidate {
    Candidate {
        name: format!("{kind}s of {}", subject.digest),
        ..refused(
            kind,
            &subject.digest,
            subject,
            format!("{count} of them, only the first {MAX_CANDIDATES} were looked at"),
        )
    }
}
