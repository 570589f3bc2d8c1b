//! Decrypting an image's layers.
//!
//! The plain blob is streamed to where it goes; on the way its HMAC is checked, and the digest that
//! was wrapped with the key. Nothing is stored of a layer that fails, and plaintext goes nowhere but
//! to the destination.

use futures::{StreamExt, future::BoxFuture};

use super::{
    From, How, OnProgress, Report,
    mover::Mover,
    rewrite::{Layers, rewrite, some_encrypted},
};
use crate::{
    error::{Error, Result},
    keys::Keyring,
    oci::{Descriptor, Digest, Hasher, Location, media_type},
    ocicrypt::{self, DecryptingSource},
    source::{BlobContent, BlobSource, RepositoryWriter},
};

/// Decrypts the image at `from` and stores it at `location` of `to`.
///
/// # Errors
/// `Invalid` if no layer is encrypted, `Denied` for want of a key, `Corrupt` if a layer is not what
/// was encrypted, and what key providers, reading and writing say.
pub async fn decrypt(
    from: &From,
    to: &dyn RepositoryWriter,
    location: &Location,
    keyring: &Keyring,
    progress: &OnProgress,
) -> Result<Report> {
    rewrite(from, to, location, &Decryption(keyring), progress).await
}

struct Decryption<'a>(&'a Keyring);

// === impl Decryption ===

impl Layers for Decryption<'_> {
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
            let media_type = media_type::decrypted(&layer.media_type).ok_or_else(|| {
                Error::unsupported(format!(
                    "media type {:?} is not an encrypted tar layer",
                    layer.media_type
                ))
            })?;
            let key = self.0.unwrap(layer).await?;
            let plain = DecryptingSource::new(mover.from.repository.blob(layer), &key);
            let digest = match key.plain_digest() {
                Some(digest) => digest.clone(),
                // An encryptor need not tell it: read once for the name, and once more for the blob.
                None => digest_of(&*plain).await?,
            };
            let mut annotations = layer.annotations.clone();
            annotations.retain(|name, _| !name.starts_with(ocicrypt::PREFIX));
            let made = Descriptor {
                media_type: media_type.to_owned(),
                digest,
                annotations,
                ..layer.clone()
            };
            let source = BlobContent::Source(mover.watched(plain));
            mover.to.put_blob(&made, source).await?;
            Ok((made, How::Decrypted))
        })
    }
}

async fn digest_of(source: &dyn BlobSource) -> Result<Digest> {
    let mut hasher = Hasher::sha256();
    let mut stream = source.stream().await?;
    while let Some(piece) = stream.next().await {
        hasher.update(&piece?);
    }
    Ok(hasher.finish())
}
