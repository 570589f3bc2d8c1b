//! Whether the name a signature speaks for is the name that was asked for (`signedIdentity`).
//!
//! Semantics of containers/image: names are compared after expansion (`busybox` is
//! `docker.io/library/busybox`), default tags are never added to what a signature says, and a
//! signature that names only a repository satisfies neither `matchExact` nor
//! `matchRepoDigestOrExact`. A layout has no such name, so only the `exact...` kinds can match
//! there.

use std::fmt;

use crate::oci::{Digest, Reference, RegistryReference};

/// Which names a signature may carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignedIdentity {
    /// The very reference that was asked for.
    MatchExact,
    /// As `MatchExact` if a tag was asked for; any tag or digest of the repository if a digest was.
    MatchRepoDigestOrExact,
    /// Any name in the repository that was asked for; a tag can be replaced by another.
    MatchRepository,
    /// This reference, whatever was asked for.
    ExactReference(Name),
    /// Any name in this repository, whatever was asked for.
    ExactRepository(Name),
    /// As `MatchRepoDigestOrExact` after `prefix` of what was asked for is replaced.
    RemapIdentity {
        /// Beginning of the repository, ending at a `/` or at its end.
        prefix: String,
        /// What signatures have in its place.
        signed_prefix: String,
    },
    /// No name is compared: the signed digest alone binds the signature to the image. nacre's own
    /// extension, needed for signatures that carry no name
    /// (docs/decisions/0003-bundle-identity.md).
    MatchDigest,
}

/// An expanded name as written: nothing is added where tag and digest are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

// === impl SignedIdentity ===

impl SignedIdentity {
    /// Whether a signature that speaks for `signed` is good for what was asked for.
    #[must_use]
    pub(crate) fn accepts(&self, asked: &Reference, signed: &str) -> bool {
        if *self == SignedIdentity::MatchDigest {
            return true;
        }
        let Some(signed) = Name::parse(signed) else {
            return false;
        };
        let asked = match asked {
            Reference::Registry(reference) => Some(Name::of(reference)),
            Reference::Layout { .. } => None,
        };
        match (self, asked) {
            (SignedIdentity::ExactReference(name), _) => *name == signed && !signed.is_bare(),
            (SignedIdentity::ExactRepository(name), _) => name.repository == signed.repository,
            (SignedIdentity::MatchExact, Some(asked)) => asked == signed && !signed.is_bare(),
            (SignedIdentity::MatchRepository, Some(asked)) => asked.repository == signed.repository,
            (SignedIdentity::MatchRepoDigestOrExact, Some(asked)) => {
                repo_digest_or_exact(&asked, &signed)
            }
            (
                SignedIdentity::RemapIdentity {
                    prefix,
                    signed_prefix,
                },
                Some(mut asked),
            ) => {
                if let Some(rest) = asked.repository.strip_prefix(prefix.as_str())
                    && (rest.is_empty() || rest.starts_with('/'))
                {
                    asked.repository = format!("{signed_prefix}{rest}");
                }
                repo_digest_or_exact(&asked, &signed)
            }
            (_, None) | (SignedIdentity::MatchDigest, _) => false,
        }
    }
}

fn repo_digest_or_exact(asked: &Name, signed: &Name) -> bool {
    if signed.is_bare() {
        return false;
    }
    match (&asked.tag, &asked.digest) {
        // The digest itself is compared with the manifest's, not with the one in the name.
        (None, Some(_)) => asked.repository == signed.repository,
        (Some(_), _) => asked == signed,
        (None, None) => false,
    }
}

impl fmt::Display for SignedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SignedIdentity::MatchExact => f.write_str("matchExact"),
            SignedIdentity::MatchRepoDigestOrExact => f.write_str("matchRepoDigestOrExact"),
            SignedIdentity::MatchRepository => f.write_str("matchRepository"),
            SignedIdentity::ExactReference(name) => write!(f, "exactReference {name}"),
            SignedIdentity::ExactRepository(name) => write!(f, "exactRepository {name}"),
            SignedIdentity::RemapIdentity {
                prefix,
                signed_prefix,
            } => write!(f, "remapIdentity {prefix} to {signed_prefix}"),
            SignedIdentity::MatchDigest => f.write_str("nacreMatchDigest"),
        }
    }
}

// === impl Name ===

impl Name {
    /// Parses and expands a name; `None` if it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let reference: RegistryReference = text.parse().ok()?;
        let without_digest = text.split_once('@').map_or(text, |(name, _)| name);
        let has_tag = without_digest
            .rsplit_once(':')
            .is_some_and(|(_, tag)| !tag.contains('/'));
        Some(Self {
            repository: reference.repository(),
            tag: reference.tag().filter(|_| has_tag).map(ToOwned::to_owned),
            digest: reference.digest().cloned(),
        })
    }

    /// The name that was asked for. A tag beside a digest is dropped, as podman does: the digest is
    /// what is fetched.
    fn of(reference: &RegistryReference) -> Self {
        let digest = reference.digest().cloned();
        Self {
            repository: reference.repository(),
            tag: reference
                .tag()
                .filter(|_| digest.is_none())
                .map(ToOwned::to_owned),
            digest,
        }
    }

    /// Whether it names a repository and nothing in it.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remap(prefix: &str, signed_prefix: &str) -> SignedIdentity {
        SignedIdentity::RemapIdentity {
            prefix: prefix.into(),
            signed_prefix: signed_prefix.into(),
        }
    }

    #[test]
    fn names_are_compared_as_containers_image_does() {
        use SignedIdentity::{
            ExactReference, ExactRepository, MatchDigest, MatchExact, MatchRepoDigestOrExact,
            MatchRepository,
        };
        let digest = Digest::sha256(b"x");
        let other = Digest::sha256(b"y");
        let pinned = format!("r.example/a@{digest}");
        let both = format!("r.example/a:v1@{digest}");
        let other_pinned = format!("r.example/a@{other}");
        let name = |text| Name::parse(text).unwrap();
        let exact = ExactReference(name("r.example/a:v1"));
        let repository = ExactRepository(name("r.example/a"));
        let table: Vec<(&SignedIdentity, &str, &str, bool)> = vec![
            (&MatchExact, "r.example/a:v1", "r.example/a:v1", true),
            (&MatchExact, "r.example/a:v1", "r.example/a:v2", false),
            (&MatchExact, "r.example/a:v1", "r.example/a", false),
            (&MatchExact, "r.example/a", "r.example/a:latest", true),
            (&MatchExact, "r.example/a", "r.example/a", false),
            (
                &MatchExact,
                "busybox",
                "docker.io/library/busybox:latest",
                true,
            ),
            (&MatchExact, &pinned, &pinned, true),
            (&MatchExact, &pinned, &other_pinned, false),
            (&MatchExact, &both, &pinned, true),
            (&MatchExact, &both, "r.example/a:v1", false),
            (
                &MatchRepoDigestOrExact,
                "r.example/a:v1",
                "r.example/a:v1",
                true,
            ),
            (
                &MatchRepoDigestOrExact,
                "r.example/a:v1",
                "r.example/a:v2",
                false,
            ),
            (
                &MatchRepoDigestOrExact,
                "r.example/a:v1",
                "r.example/a",
                false,
            ),
            (&MatchRepoDigestOrExact, &pinned, "r.example/a:v9", true),
            (&MatchRepoDigestOrExact, &pinned, &other_pinned, true),
            (&MatchRepoDigestOrExact, &pinned, "r.example/a", false),
            (&MatchRepoDigestOrExact, &pinned, "r.example/b:v1", false),
            (&MatchRepoDigestOrExact, &both, "r.example/a:v9", true),
            (&MatchRepository, "r.example/a:v1", "r.example/a", true),
            (&MatchRepository, "r.example/a:v1", "r.example/a:v2", true),
            (&MatchRepository, "r.example/a:v1", "r.example/ab", false),
            (&MatchRepository, "r.example/a:v1", "r.example:80/a", false),
            (&MatchRepository, "r.example/a:v1", "", false),
            (&MatchRepository, "r.example/a:v1", "r.example/A", false),
            (&MatchRepository, "oci:/r.example/a", "r.example/a", false),
            (&exact, "r.example/other:v3", "r.example/a:v1", true),
            (&exact, "r.example/a:v1", "r.example/a:v2", false),
            (&exact, "r.example/a:v1", "r.example/a", false),
            (&exact, "oci:/x", "r.example/a:v1", true),
            (&repository, "mirror.example/b:v1", "r.example/a", true),
            (
                &repository,
                "mirror.example/b:v1",
                "mirror.example/b",
                false,
            ),
            (&repository, "oci:/x", "r.example/a", true),
            (&MatchDigest, "r.example/a:v1", "anything at all", true),
            (&MatchDigest, "oci:/x", "r.example/a", true),
        ];
        for (identity, asked, signed, want) in table {
            assert_eq!(
                identity.accepts(&asked.parse().unwrap(), signed),
                want,
                "{identity}: asked {asked}, signed {signed}"
            );
        }
    }

    #[test]
    fn remapping_replaces_whole_components() {
        let host = remap("mirror.example", "r.example/up");
        for (identity, asked, signed, want) in [
            (&host, "mirror.example/a:v1", "r.example/up/a:v1", true),
            (&host, "mirror.example/a:v1", "mirror.example/a:v1", false),
            (
                &host,
                "mirror.example:80/a:v1",
                "r.example/up:80/a:v1",
                false,
            ),
            (&host, "other.example/a:v1", "other.example/a:v1", true),
            (&host, "mirror.example/a:v1", "r.example/up/a", false),
            (
                &remap("m.example/a", "r.example/b"),
                "m.example/a:v1",
                "r.example/b:v1",
                true,
            ),
            (
                &remap("m.example/a", "r.example/b"),
                "m.example/ab:v1",
                "r.example/bb:v1",
                false,
            ),
            (
                &remap("m.example/a", "r.example/b"),
                "m.example/ab:v1",
                "m.example/ab:v1",
                true,
            ),
        ] {
            assert_eq!(
                identity.accepts(&asked.parse().unwrap(), signed),
                want,
                "{identity}: asked {asked}, signed {signed}"
            );
        }
    }
}
