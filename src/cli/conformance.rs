//! `nacre conformance`: hidden; speaks the client protocols of other people's test suites.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::{
    error::{Error, Result},
    trust::sigstore::{Artifact, BundleRequest, Roots, Who, verify_bundle},
};

/// Subcommands of `nacre conformance`.
#[derive(Debug, Subcommand)]
pub(super) enum Conformance {
    /// Verify a sigstore bundle as sigstore-conformance asks.
    VerifyBundle(VerifyBundle),
}

/// Options of `nacre conformance verify-bundle`, in the suite's words.
#[derive(Debug, Args)]
pub(super) struct VerifyBundle {
    /// Believe the staging instance.
    #[arg(long, conflicts_with = "trusted_root")]
    staging: bool,
    /// The bundle.
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// The signer's subject alternative name.
    #[arg(long, value_name = "IDENTITY", requires = "certificate_oidc_issuer")]
    certificate_identity: Option<String>,
    /// The signer's OpenID Connect issuer.
    #[arg(long, value_name = "URL", requires = "certificate_identity")]
    certificate_oidc_issuer: Option<String>,
    /// The signer's public key, PEM.
    #[arg(long, value_name = "FILE", conflicts_with = "certificate_identity")]
    key: Option<PathBuf>,
    /// Believe this trusted_root.json instead of the built-in one.
    #[arg(long, value_name = "FILE")]
    trusted_root: Option<PathBuf>,
    /// The artifact, or sha256:HEX.
    #[arg(value_name = "FILE_OR_DIGEST")]
    artifact: String,
}

// === impl Conformance ===

impl Conformance {
    pub(super) fn run(&self) -> Result<()> {
        match self {
            Conformance::VerifyBundle(verify) => verify.run(),
        }
    }
}

// === impl VerifyBundle ===

impl VerifyBundle {
    fn run(&self) -> Result<()> {
        let bundle = read(&self.bundle)?;
        let root = self.trusted_root.as_deref().map(read).transpose()?;
        let key = self.key.as_deref().map(read).transpose()?;
        let digest = self.digest();
        let blob = match digest {
            Some(_) => Vec::new(),
            None => read(Path::new(&self.artifact))?,
        };
        let who = match (
            &key,
            &self.certificate_identity,
            &self.certificate_oidc_issuer,
        ) {
            (Some(key), _, _) => Who::Key(key),
            (None, Some(subject), Some(issuer)) => Who::Identity { subject, issuer },
            _ => {
                return Err(Error::invalid(
                    "want --key, or --certificate-identity and --certificate-oidc-issuer",
                ));
            }
        };
        verify_bundle(&BundleRequest {
            bundle: &bundle,
            artifact: digest.map_or(Artifact::Bytes(&blob), Artifact::Sha256),
            who,
            roots: match (&root, self.staging) {
                (Some(json), _) => Roots::Json(json),
                (None, true) => Roots::Staging,
                (None, false) => Roots::Production,
            },
        })
    }

    /// The digest, if the artifact is given as one: of the right length, and not a file's name.
    fn digest(&self) -> Option<[u8; 32]> {
        let hex = self.artifact.strip_prefix("sha256:")?;
        if Path::new(&self.artifact).exists() {
            return None;
        }
        hex::decode(hex).ok()?.try_into().ok()
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io(path.display().to_string(), e))
}
