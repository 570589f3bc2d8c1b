//! `nacre verify`: asks the policy and shows the grant.

use clap::Args;
use serde::Serialize;

use super::{
    args::{RegistryArgs, TrustArgs, parse_reference},
    output::Output,
};
use crate::{error::Result, oci::Reference, trust};

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
        let policy = self.trust.policy()?;
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
