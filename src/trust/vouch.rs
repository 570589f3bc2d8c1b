//! Whether what somebody attached to an admitted image, and what says something of it, is to be
//! believed: it has to be signed by whom the policy wants the image signed by.

use futures::{StreamExt as _, future::join};

use super::{
    admit::Demand,
    evidence::{self, By, Candidate},
    grant::Evidence,
    policy::{Policy, Requirement},
    referrers::Referrers,
};
use crate::{
    error::{Error, Kind, Result},
    oci::{Descriptor, Digest, Document, Location, Manifest, RawManifest, Reference},
    source::Repository,
};

/// An artifact that refers to an image. Only [`vouch`] makes one.
#[derive(Clone, Debug)]
pub struct Vouched {
    manifest: Manifest,
    standing: Vouching,
}

/// Whose word an artifact is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vouching {
    /// That of all whom the policy wants to have signed the image.
    Signed(Vec<Evidence>),
    /// Nobody's, or not theirs, and the policy allows that (`nacreAllowUnsignedLayerIndex`).
    Allowed,
    /// Nobody's, or not theirs: each reason in one line, none if there is no signature.
    Unsigned(Vec<String>),
}

// === impl Vouched ===

impl Vouched {
    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whose word it is.
    #[must_use]
    pub fn standing(&self) -> &Vouching {
        &self.standing
    }
}

/// Reads the manifest of an artifact that refers to `subject`, and looks for its signatures at the
/// same time: one round trip. `asked` is the image's reference, whose policy and name count.
///
/// # Errors
/// `Corrupt` or `Invalid` if it is not what its descriptor says or refers to something else, `Unavailable` if
/// a signature could not be looked for, and what the repository says.
pub async fn vouch(
    policy: &Policy,
    asked: &Reference,
    repository: &dyn Repository,
    subject: &Digest,
    artifact: &Descriptor,
) -> Result<Vouched> {
    let applied = policy.applied(asked)?;
    let mut demands: Vec<Demand<'_>> = Vec::new();
    let mut allowed = false;
    for requirement in applied.requirements {
        match requirement {
            Requirement::SigstoreSigned {
                signer, identity, ..
            } => demands.push(Demand::of(By::Sigstore(signer), identity, None)),
            Requirement::SignedBy { keys, identity, .. } => {
                demands.push(Demand::of(By::Gpg(keys), identity, None));
            }
            Requirement::AllowUnsignedLayerIndex => allowed = true,
            _ => {}
        }
    }
    // Signatures are found by the digest alone; its bytes are on their way meanwhile.
    let named = [RawManifest {
        digest: artifact.digest.clone(),
        ..RawManifest::new(artifact.media_type.clone(), bytes::Bytes::new())
    }];
    let looking = async {
        if demands.is_empty() {
            return Vec::new();
        }
        let lists = Referrers::new(repository, &named);
        let kinds = Demand::kinds(&demands);
        evidence::places(repository, &lists, asked, &named, kinds)
            .collect()
            .await
    };
    let (raw, places) = join(read(repository, artifact), looking).await;
    let raw = raw?;
    let manifest = parse(&raw, subject)?;
    let mut failure = None;
    for place in places {
        match place {
            Ok(mut candidates) => {
                candidates.iter_mut().for_each(|it| it.is_about(&raw));
                failure = failure.or(candidates.iter().find_map(Candidate::away));
                for demand in &mut demands {
                    demand.try_all(&candidates, asked);
                }
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let signed = !demands.is_empty() && demands.iter().all(|it| it.met.is_some());
    let standing = match (signed, allowed, failure) {
        (true, ..) => Vouching::Signed(demands.into_iter().filter_map(|it| it.met).collect()),
        (false, true, _) => Vouching::Allowed,
        (false, false, Some(failure)) => {
            return Err(failure.context(format!("signatures of {}", artifact.digest)));
        }
        (false, false, None) => {
            Vouching::Unsigned(demands.into_iter().flat_map(|it| it.reasons).collect())
        }
    };
    Ok(Vouched { manifest, standing })
}

async fn read(repository: &dyn Repository, artifact: &Descriptor) -> Result<RawManifest> {
    let location = Location::Digest(artifact.digest.clone());
    let raw = repository.manifest(&location).await?;
    match artifact.digest.matches(&raw.bytes) {
        true => Ok(RawManifest {
            digest: artifact.digest.clone(),
            ..raw
        }),
        false => Err(Error::new(
            Kind::Corrupt,
            format!("manifest {}: digest mismatch", artifact.digest),
        )),
    }
}

fn parse(raw: &RawManifest, subject: &Digest) -> Result<Manifest> {
    let manifest = match raw.parse()? {
        Document::Manifest(manifest) => *manifest,
        Document::Index(_) => {
            return Err(Error::invalid(format!(
                "manifest {}: is an index of images",
                raw.digest
            )));
        }
    };
    match &manifest.subject {
        Some(of) if of.digest == *subject => Ok(manifest),
        _ => Err(Error::invalid(format!(
            "manifest {}: does not refer to {subject}",
            raw.digest
        ))),
    }
}
