//! Changing who can decrypt an image: the layers' keys are wrapped anew, the blobs stay as they are.
//!
//! The layers keep their keys. Who could open the image before, and has kept its old manifest or the
//! key, still can: to shut somebody out, decrypt and encrypt anew.

use futures::future::BoxFuture;

use super::{
    From, How, OnProgress, Report,
    mover::Mover,
    rewrite::{Layers, rewrite, some_encrypted},
};
use crate::{
    error::Result,
    keys::{Keyring, Recipients},
    oci::{Descriptor, Location},
    ocicrypt::{self, Annotations},
    source::RepositoryWriter,
};

/// From whom to whom.
#[derive(Debug)]
pub struct Options {
    /// Opens the layers' keys.
    pub keyring: Keyring,
    /// Who can decrypt afterwards.
    pub recipients: Recipients,
    /// Whether who can decrypt before still can: the new packets come after those that are there.
    pub keep: bool,
}

/// Wraps the keys of the image at `from` for other recipients and stores it at `location` of `to`.
///
/// # Errors
/// `Invalid` if no layer is encrypted, `Denied` for want of a key, and what key providers, reading
/// and writing say.
pub async fn rewrap(
    from: &From,
    to: &dyn RepositoryWriter,
    location: &Location,
    options: &Options,
    progress: &OnProgress,
) -> Result<Report> {
    rewrite(from, to, location, &Rewrapping(options), progress).await
}

struct Rewrapping<'a>(&'a Options);

// === impl Rewrapping ===

impl Layers for Rewrapping<'_> {
    fn check(&self, layers: &[Descriptor]) -> Result<()> {
        some_encrypted(layers)
    }

    fn is_for(&self, layer: &Descriptor, _number: usize, _count: usize) -> bool {
        ocicrypt::is_encrypted(layer)
    }

    fn layer<'a>(
        &'a self,
        layer: &'a Descriptor,
        mover: &'a Mover<'a>,
    ) -> BoxFuture<'a, Result<(Descriptor, How)>> {
        Box::pin(async move {
            let key = self.0.keyring.unwrap(layer).await?;
            let mut packets = match self.0.keep {
                true => Annotations::parse(layer)?.packets,
                false => Vec::new(),
            };
            packets.extend(self.0.recipients.wrap(&key).await?);
            let mut annotations = layer.annotations.clone();
            annotations.retain(|name, _| !name.starts_with(ocicrypt::PREFIX));
            annotations.extend(Annotations::write(&key, &packets)?);
            mover.blob(layer).await?;
            let made = Descriptor {
                annotations,
                ..layer.clone()
            };
            Ok((made, How::Rewrapped))
        })
    }
}
