//! `nacre verify`: asks the policy and shows the grant.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{
    args::{RegistryArgs, TrustArgs, parse_reference, read_key},
    output::Output,
};
use crate::{
    error::{Error, Result},
    oci::Reference,
    trust::{self, Policy, PublicKey},
};

/// Options of `nacre verify`.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// What to verify: registry/repository[:tag][@digest] or oci:DIRECTORY[:TAG].
    #[arg(value_parser = parse_reference)]
    reference: Reference,
    /// Also show the image's attestations: who built what from where, and whose word that is.
    #[arg(long)]
    attestations: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    trust: TrustArgs,
    /// Ask no policy, but whether this key (cosign.pub) has signed the image, as `cosign verify --key`
    /// does: by its digest, whatever its name was.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["policy", "insecure_policy", "audit_log", "tag_history"])]
    key: Option<PathBuf>,
}

/// The grant, and everything that is attached beside what met the policy.
#[derive(Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    grant: &'a trust::Grant,
    #[serde(rename = "found_attestations")]
    found: &'a [trust::AttestationReport],
}

// === impl Verify ===

impl Verify {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let policy = match &self.key {
            Some(key) => policy_of(key)?,
            None => self.trust.policy(&self.registry.resources())?,
        };
        let (repository, location) = self.registry.access()?.open(&self.reference).await?;
        let grant = trust::admit(&trust::Request {
            policy: &policy,
            reference: &self.reference,
            repository: &*repository,
            location: &location,
            platform: &self.registry.platform()?,
            expected_digest: self.trust.expected_digest.as_ref(),
        })
        .await?;
        if !self.attestations {
            return output.result(&grant, || grant.to_string());
        }
        let found = trust::attestations(&policy, &grant, &*repository).await?;
        let shown = || {
            let mut lines = vec![grant.to_string()];
            lines.extend(found.iter().map(ToString::to_string));
            if found.is_empty() {
                lines.push("no attestation".into());
            }
            lines.join("\n")
        };
        let printed = Printed {
            grant: &grant,
            found: &found,
        };
        output.result(&printed, shown)
    }
}

/// The policy that wants a signature by this key and nothing else.
fn policy_of(key: &Path) -> Result<Policy> {
    let name = format!("key {}", key.display());
    let pem = read_key(key)?;
    let text = String::from_utf8_lossy(&pem);
    if text.contains("PRIVATE KEY-----") {
        return Err(Error::invalid(format!("{name}: a private key"))
            .with_hint("give its public half, which is what verifies: cosign.pub"));
    }
    // Its complaints name the key; the policy's would name a file that nobody wrote.
    PublicKey::from_pem(&pem, name)?;
    let policy = serde_json::json!({ "default": [{
        "type": "sigstoreSigned",
        "keyPath": key,
        "signedIdentity": { "type": "nacreMatchDigest" },
    }] });
    Policy::parse(policy.to_string().as_bytes(), Path::new("--key"))
}
