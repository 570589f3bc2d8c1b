//! Decrypting an image's layers.
//!
//! The plain blob is streamed to where it goes; on the way its HMAC is checked, and its digest where it
//! goes. Nothing is stored of a layer that fails, and plaintext goes nowhere but to the destination.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use futures::{StreamExt, future::BoxFuture};

use super::{
    From, How, OnProgress, Report,
    mover::Mover,
    rewrite::{Layers, rewrite, some_encrypted},
};
use crate::{
    error::{Error, Result},
    keys::Keyring,
    oci::{
        Descriptor, Digest, Hasher, ImageConfig, Location, Manifest,
        media_type::{self, Compression},
    },
    ocicrypt::{self, DecryptingSource},
    source::{BlobContent, BlobSource, RepositoryWriter, read_verified},
};

/// Largest image configuration that is read.
const MAX_CONFIG: u64 = 8 << 20;

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
    let decryption = Decryption {
        keyring,
        tars: Mutex::default(),
    };
    rewrite(from, to, location, &decryption, progress).await
}

struct Decryption<'a> {
    keyring: &'a Keyring,
    /// Digests of the layers' tars, by the configurations.
    tars: Mutex<HashSet<Digest>>,
}

// === impl Decryption ===

impl Decryption<'_> {
    /// Whether the digest that was wrapped with the key can be that of the plain blob. skopeo wraps that
    /// of the blob before it compressed or decompressed it on the way.
    fn is_of_blob(&self, digest: &Digest, compression: Compression) -> bool {
        let tars = self.tars.lock().unwrap_or_else(PoisonError::into_inner);
        tars.contains(digest) == (compression == Compression::None)
    }
}

impl Layers for Decryption<'_> {
    fn begin<'a>(
        &'a self,
        manifest: &'a Manifest,
        mover: &'a Mover<'a>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let repository = &*mover.from.repository;
            let config = read_verified(repository, &manifest.config, MAX_CONFIG).await?;
            // Of something that is no image, nothing is known.
            if let Ok(config) = serde_json::from_slice::<ImageConfig>(&config) {
                let mut tars = self.tars.lock().unwrap_or_else(PoisonError::into_inner);
                tars.extend(config.rootfs.diff_ids);
            }
            Ok(())
        })
    }

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
            let compression = media_type::layer_kind(&layer.media_type).map(|it| it.compression);
            let key = self.keyring.unwrap(layer).await?;
            let plain = DecryptingSource::new(mover.from.repository.blob(layer), &key);
            let wrapped = key.plain_digest().filter(|it| {
                compression.is_some_and(|compression| self.is_of_blob(it, compression))
            });
            let digest = match wrapped {
                Some(digest) => digest.clone(),
                // Read once for the name, and once more for the blob.
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
