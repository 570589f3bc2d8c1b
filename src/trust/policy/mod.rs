//! The policy file: which requirements an image must meet, by transport and scope.
//!
//! The format is containers-policy.json(5). There is no default policy in the code and no
//! `Default`: without a file, nothing is admitted.
//!
//! What is read from it: `insecureAcceptAnything`, `reject`, `sigstoreSigned` and `signedBy` whole,
//! and what nacre adds, under names that begin with `nacre`. Known words beyond that
//! (`signedBaseLayer`) are refused when the file is loaded, so that no demand of a policy is ever
//! dropped in silence.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use super::{
    attestation::Wanted, identity::SignedIdentity, pgp::Keyring, scope, signer::Signer,
    watch::Watch,
};
use crate::{
    error::{Error, Result},
    oci::Reference,
    resource::Resources,
};

mod parse;
mod report;
mod signers;
#[cfg(test)]
mod tests;

pub use self::report::PolicyReport;

/// A loaded policy.
#[derive(Clone, Debug)]
pub struct Policy {
    origin: Origin,
    default: Vec<Requirement>,
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
    watch: Watch,
}

/// Where a [`Policy`] is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file, or a key broker's resource by its URI.
    File(PathBuf),
    /// `--insecure-policy accept-anything`.
    InsecureFlag,
}

/// One thing an image must meet; all requirements of a scope must be met.
#[derive(Clone, Debug)]
pub enum Requirement {
    /// Admits without a look.
    InsecureAcceptAnything,
    /// Refuses without a look.
    Reject,
    /// A sigstore signature for an accepted name.
    SigstoreSigned {
        /// Who must have made it.
        signer: Box<Signer>,
        /// Which name the signature must carry.
        identity: SignedIdentity,
        /// Whether a signature on the platform's manifest is good where an index was named.
        unsigned_index: bool,
    },
    /// A GPG signature for an accepted name.
    SignedBy {
        /// Who must have made it.
        keys: Box<Keyring>,
        /// Which name the signature must carry.
        identity: SignedIdentity,
        /// Whether a signature on the platform's manifest is good where an index was named.
        unsigned_index: bool,
    },
    /// An attestation.
    Attestation(Box<Wanted>),
    /// Every layer must be encrypted.
    Encrypted,
    /// The image must have been asked for by digest.
    DigestPin,
    /// Demands nothing: an index of a layer that somebody attached to the image is believed even if
    /// nobody signed it.
    AllowUnsignedLayerIndex,
}

/// The requirements that apply to a reference, and why these.
#[derive(Clone, Debug)]
pub(crate) struct Applied<'a> {
    /// `transports.docker["registry.example/team"]` or `default`.
    pub(crate) scope: String,
    pub(crate) requirements: &'a [Requirement],
}

const ALLOW_UNSIGNED_LAYER_INDEX: &str = "nacreAllowUnsignedLayerIndex";
/// Largest policy file that is read; real ones have a few KiB.
const MAX_POLICY: usize = 1 << 20;

/// Where policies are looked for, first found first used: the user's own file, nacre's, the one
/// that podman, skopeo and CRI-O share.
///
/// A user's file comes first, as with podman: who may run a program may also give it `--policy`. A
/// daemon that must not depend on a home directory passes `None`.
#[must_use]
pub fn default_policy_paths(home: Option<&Path>) -> Vec<PathBuf> {
    home.map(|home| home.join(".config/containers/policy.json"))
        .into_iter()
        .chain([
            PathBuf::from("/etc/nacre/policy.json"),
            PathBuf::from("/etc/containers/policy.json"),
        ])
        .collect()
}

// === impl Policy ===

impl Policy {
    /// Parses a policy file's bytes. Keys in files (`keyPath`) are read now; a relative path is
    /// relative to the current directory, as in containers/image.
    ///
    /// # Errors
    /// `Invalid` with file, line and column for whatever is not exactly containers-policy.json(5);
    /// `Unsupported` for its requirements that nacre does not check; what reading a key file gives.
    pub fn parse(bytes: &[u8], file: &Path) -> Result<Self> {
        parse::policy(bytes, file, &Resources::default())
    }

    /// Reads and parses a policy file.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and `NotFound` or `Io` if it cannot be read.
    pub fn load(file: &Path) -> Result<Self> {
        Self::load_by(file, &Resources::default())
    }

    /// Reads and parses a policy that is a file or a resource, as may be the keys that it names. Waits
    /// for the data hub: for threads that may.
    ///
    /// # Errors
    /// As [`load`](Self::load), and what the hub says.
    pub fn load_by(place: &Path, resources: &Resources) -> Result<Self> {
        let bytes = resources.read(place, MAX_POLICY);
        parse::policy(&bytes.map_err(|e| e.context("policy"))?, place, resources)
    }

    /// As [`find_by`](Self::find_by), for files.
    ///
    /// # Errors
    /// As [`find_by`](Self::find_by).
    pub fn find(explicit: Option<&Path>, candidates: &[PathBuf]) -> Result<Self> {
        Self::find_by(explicit, candidates, &Resources::default())
    }

    /// The explicit place, else the first of `candidates` that exists. A candidate that exists but
    /// cannot be used is an error, never skipped.
    ///
    /// # Errors
    /// `Denied`, naming the paths looked at, if there is none; as [`load_by`](Self::load_by).
    pub fn find_by(
        explicit: Option<&Path>,
        candidates: &[PathBuf],
        resources: &Resources,
    ) -> Result<Self> {
        if let Some(place) = explicit {
            return Self::load_by(place, resources);
        }
        for file in candidates {
            match file.symlink_metadata() {
                Ok(_) => return Self::load_by(file, resources),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(format!("policy {}", file.display()), error)),
            }
        }
        let looked: Vec<String> = candidates.iter().map(|p| p.display().to_string()).collect();
        let looked = match looked.as_slice() {
            [] => "nowhere to look".to_owned(),
            paths => format!("looked at {}", paths.join(", ")),
        };
        Err(
            Error::denied(format!("no policy file ({looked}), so nothing is admitted")).with_hint(
                "write a containers-policy.json(5) file there or give one with --policy FILE; \
                 --insecure-policy accept-anything admits any image, unsigned ones too",
            ),
        )
    }

    /// Admits everything: for `--insecure-policy accept-anything`. Says so in the log.
    #[must_use]
    pub fn insecure_accept_anything() -> Self {
        tracing::warn!("policy: accept-anything was asked for, no signature is checked");
        Self {
            origin: Origin::InsecureFlag,
            default: vec![Requirement::InsecureAcceptAnything],
            transports: BTreeMap::new(),
            watch: Watch::default(),
        }
    }

    /// The same, with every decision written down.
    #[must_use]
    pub fn watched(self, watch: Watch) -> Self {
        Self { watch, ..self }
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Where this policy is from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The requirements of the most specific scope that `reference` falls under.
    ///
    /// # Errors
    /// `NotFound` or `Io` if a layout's directory cannot be resolved.
    pub(crate) fn applied(&self, reference: &Reference) -> Result<Applied<'_>> {
        let scopes = scope::of(reference)?;
        let found = self.transports.get(scopes.transport).and_then(|known| {
            scopes
                .names
                .iter()
                .find_map(|name| known.get_key_value(name))
        });
        Ok(match found {
            Some((name, requirements)) => Applied {
                scope: format!("transports.{}[{name:?}]", scopes.transport),
                requirements,
            },
            None => Applied {
                scope: "default".into(),
                requirements: &self.default,
            },
        })
    }
}

// === impl Origin ===

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => path.display().fmt(f),
            Origin::InsecureFlag => f.write_str("--insecure-policy accept-anything"),
        }
    }
}

// === impl Requirement ===

impl Requirement {
    /// Who has to have signed something, if anybody has.
    pub(crate) fn signer(&self) -> Option<&Signer> {
        match self {
            Requirement::SigstoreSigned { signer, .. } => Some(signer),
            Requirement::Attestation(wanted) => Some(&wanted.signer),
            _ => None,
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Requirement::InsecureAcceptAnything => f.write_str("insecureAcceptAnything"),
            Requirement::Reject => f.write_str("reject"),
            Requirement::SigstoreSigned {
                signer,
                identity,
                unsigned_index,
            } => {
                write!(f, "sigstoreSigned by {signer}, signedIdentity {identity}")?;
                on_index(f, *unsigned_index)
            }
            Requirement::SignedBy {
                keys,
                identity,
                unsigned_index,
            } => {
                write!(f, "signedBy {keys}, signedIdentity {identity}")?;
                on_index(f, *unsigned_index)
            }
            Requirement::Attestation(wanted) => wanted.fmt(f),
            Requirement::Encrypted => f.write_str("nacreRequireEncrypted"),
            Requirement::DigestPin => f.write_str("nacreRequireDigestPin"),
            Requirement::AllowUnsignedLayerIndex => f.write_str(ALLOW_UNSIGNED_LAYER_INDEX),
        }
    }
}

fn on_index(f: &mut fmt::Formatter<'_>, unsigned_index: bool) -> fmt::Result {
    match unsigned_index {
        true => Ok(()),
        false => f.write_str(", on the index"),
    }
}
