//! `nacre verify`: asks the policy and shows the grant.

use clap::Args;

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
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    trust: TrustArgs,
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
        output.result(&grant, || grant.to_string())
    }
}
