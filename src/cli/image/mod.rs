//! `nacre image`: makes images.

mod convert;
mod diff;
mod index;
mod measure;
mod sign;
mod transfer;

use clap::Subcommand;

use self::{
    convert::Convert,
    diff::Diff,
    index::Index,
    measure::Measure,
    sign::{Keygen, Sign},
    transfer::{Copy, Decrypt, Encrypt, Rewrap},
};
use super::{output::Output, profile::Profile};
use crate::error::Result;

/// Subcommands of `nacre image`.
#[derive(Debug, Subcommand)]
pub(super) enum Image {
    /// Make a lazy image out of an ordinary one.
    Convert(Convert),
    /// Copy an image as it is: between registries, layouts and docker archives.
    Copy(Copy),
    /// Encrypt an image's layers for recipients (ocicrypt).
    Encrypt(Encrypt),
    /// Decrypt an image's layers.
    Decrypt(Decrypt),
    /// Change who can decrypt an image; its layers stay as they are.
    Rewrap(Rewrap),
    /// Show how two images differ: files added, removed and changed, by their indexes.
    Diff(Diff),
    /// Print an image's digests, of its tree too, and sign them.
    Measure(Measure),
    /// Sign an image with a private key, as cosign does (`sha256-HEX.sig`).
    Sign(Sign),
    /// Make an index of an ordinary image's layers and attach it, so that mounts are lazy; the image
    /// stays as it is.
    Index(Index),
    /// Make a key pair to sign with.
    Keygen(Keygen),
    /// Record what a start reads, and attach it to the image, so that it is fetched ahead.
    #[command(subcommand)]
    Profile(Profile),
}

// === impl Image ===

impl Image {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        match self {
            Image::Convert(convert) => convert.run(output).await,
            Image::Copy(copy) => copy.run(output).await,
            Image::Encrypt(encrypt) => encrypt.run(output).await,
            Image::Decrypt(decrypt) => decrypt.run(output).await,
            Image::Rewrap(rewrap) => rewrap.run(output).await,
            Image::Diff(diff) => diff.run(output).await,
            Image::Measure(measure) => measure.run(output).await,
            Image::Sign(sign) => sign.run(output).await,
            Image::Index(index) => index.run(output).await,
            Image::Keygen(keygen) => keygen.run(output),
            Image::Profile(profile) => profile.run(output).await,
        }
    }
}
