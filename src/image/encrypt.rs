//! Encrypting an image's layers for recipients (ocicrypt).
//!
//! A layer is streamed once: checked against its digest, encrypted, written to a temporary file as
//! ciphertext, stored. Its plaintext is nowhere but in memory, a piece at a time. Where the layer is
//! lazily readable its index is opened first, and the index's digest is wrapped with the key, so that
//! a reader needs nobody's signature to believe it (`docs/formats/ocicrypt.md`).
//!
//! Keys and nonces are random: the same image encrypted twice has nothing in common.

use std::{io::Write as _, path::PathBuf, sync::Arc};

use bytes::BytesMut;
use futures::{StreamExt, future::BoxFuture};
use zeroize::Zeroizing;

use super::{
    From, How, OnProgress, Report,
    mover::{Mover, Verified},
    rewrite::{Layers, rewrite},
    temporary::Temporary,
};
use crate::{
    error::{Error, Kind, Result},
    index::{self, Binding},
    keys::{CipherOptions, INDEX_OPTION, Recipients},
    oci::{Descriptor, Hasher, Location, media_type},
    ocicrypt::{self, Annotations, LayerEncryptor},
    source::{BlobContent, BlobSource, RepositoryWriter},
};

/// What to encrypt, and for whom.
#[derive(Debug)]
pub struct Options {
    /// Who can decrypt.
    pub recipients: Recipients,
    /// Which layers, counted from 0, the lowest, or from -1, the highest; all if empty.
    pub layers: Vec<i32>,
    /// Directory for temporary files, of ciphertext.
    pub temporary: PathBuf,
}

/// Encrypts the image at `from` and stores it at `location` of `to`.
///
/// # Errors
/// `Invalid` if a layer is encrypted already or there is no such layer, `Unsupported` if a layer is
/// not a tar archive, `Corrupt` if the source is not what its digests say, and what key providers,
/// reading and writing say.
pub async fn encrypt(
    from: &From,
    to: &dyn RepositoryWriter,
    location: &Location,
    options: &Options,
    progress: &OnProgress,
) -> Result<Report> {
    rewrite(from, to, location, &Encryption(options), progress).await
}

struct Encryption<'a>(&'a Options);

// === impl Encryption ===

impl Layers for Encryption<'_> {
    fn check(&self, layers: &[Descriptor]) -> Result<()> {
        let count = layers.len();
        let there = |wanted: &&i32| position(**wanted, count).is_none();
        match self.0.layers.iter().find(there) {
            Some(wanted) => Err(Error::invalid(format!(
                "no layer {wanted}: the image has {count}, 0 is the lowest"
            ))),
            None => Ok(()),
        }
    }

    fn is_for(&self, _layer: &Descriptor, number: usize, count: usize) -> bool {
        let wanted = &self.0.layers;
        wanted.is_empty() || wanted.iter().any(|it| position(*it, count) == Some(number))
    }

    fn layer<'a>(
        &'a self,
        layer: &'a Descriptor,
        mover: &'a Mover<'a>,
    ) -> BoxFuture<'a, Result<(Descriptor, How)>> {
        Box::pin(self.encrypt(layer, mover))
    }
}

impl Encryption<'_> {
    async fn encrypt(&self, layer: &Descriptor, mover: &Mover<'_>) -> Result<(Descriptor, How)> {
        if ocicrypt::is_encrypted(layer) {
            return Err(Error::invalid("encrypted already")
                .with_hint("to change who can decrypt: nacre image rewrap"));
        }
        let media_type = media_type::encrypted(&layer.media_type).ok_or_else(|| {
            Error::unsupported(format!(
                "media type {:?} is not a tar layer",
                layer.media_type
            ))
        })?;
        let source = mover.from.repository.blob(layer);
        let options = vouched(layer, &*source).await?;
        let how = match options.is_empty() {
            true => How::Encrypted,
            false => How::EncryptedLazy,
        };
        let source = mover.watched(Arc::new(Verified(source)));
        let (encryptor, hasher, file) = self.write(&*source).await?;
        let key = encryptor.finish(options);
        let packets = self.0.recipients.wrap(&key).await?;
        let mut annotations = layer.annotations.clone();
        // Annotations of another encryption, on a layer that is plain, are about nothing.
        annotations.retain(|name, _| !name.starts_with(ocicrypt::PREFIX));
        annotations.extend(Annotations::write(&key, &packets)?);
        let made = Descriptor {
            media_type,
            digest: hasher.finish(),
            annotations,
            ..layer.clone()
        };
        let content = BlobContent::File(file.path().to_path_buf());
        mover.to.put_blob(&made, content).await?;
        Ok((made, how))
    }

    /// The encrypted blob in a file, and its digest.
    async fn write(&self, source: &dyn BlobSource) -> Result<(LayerEncryptor, Hasher, Temporary)> {
        let (temporary, mut file) = Temporary::create(&self.0.temporary)?;
        let mut encryptor = LayerEncryptor::new()?;
        let mut hasher = Hasher::sha256();
        let mut stream = source.stream().await?;
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            let mut bytes = piece
                .try_into_mut()
                .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            let path = temporary.path().display().to_string();
            (encryptor, hasher, file) = tokio::task::spawn_blocking(move || {
                encryptor.update(&mut bytes);
                hasher.update(&bytes);
                file.write_all(&bytes)
                    .map_err(|e| Error::io(format!("temporary file {path}"), e))?;
                Ok::<_, Error>((encryptor, hasher, file))
            })
            .await
            .map_err(|e| Error::internal("encryption").with_source(e))??;
        }
        Ok((encryptor, hasher, temporary))
    }
}

/// The private option that vouches for the layer's index; none if the layer has no index that can be
/// opened. What is vouched for has been compared with the layer.
async fn vouched(layer: &Descriptor, source: &dyn BlobSource) -> Result<CipherOptions> {
    let Some(binding) = Binding::of(layer)? else {
        return Ok(CipherOptions::new());
    };
    match index::open(source, &binding).await {
        Ok(_) => {}
        Err(error) if error.kind() == Kind::Unsupported => {
            tracing::warn!(layer = %layer.digest, %error, "its index is not vouched for");
            return Ok(CipherOptions::new());
        }
        Err(error) => return Err(error),
    }
    let digest = binding.digest().to_string().into_bytes();
    Ok(CipherOptions::from([(
        INDEX_OPTION.to_owned(),
        Zeroizing::new(digest),
    )]))
}

/// The height of a layer that may be counted from the top.
fn position(wanted: i32, count: usize) -> Option<usize> {
    let count = i64::try_from(count).ok()?;
    let wanted = i64::from(wanted);
    let at = if wanted < 0 { count + wanted } else { wanted };
    (0..count).contains(&at).then(|| usize::try_from(at).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_counted_from_both_ends() {
        for (wanted, at) in [(0, Some(0)), (2, Some(2)), (-1, Some(2)), (-3, Some(0))] {
            assert_eq!(position(wanted, 3), at);
        }
        for wanted in [3, -4, i32::MIN, i32::MAX] {
            assert_eq!(position(wanted, 3), None);
        }
        assert_eq!(position(0, 0), None);
    }
}
