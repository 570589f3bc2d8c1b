//! A blob's stream that ends well only if the whole blob has its digest.

use std::sync::Arc;

use futures::{StreamExt, stream};

use super::{BlobSource, BlobStream};
use crate::{
    error::{Error, Result},
    oci::Hasher,
};

/// Streams a blob and checks it on the way: what comes out is unverified until the stream has ended
/// without an error, which it does only after exactly the blob's size with the blob's digest.
///
/// # Errors
/// What the source says; in the stream `Corrupt` if size or digest is another.
pub async fn stream_verified(source: Arc<dyn BlobSource>) -> Result<BlobStream> {
    let check = Check {
        inner: source.stream().await?,
        hasher: source.digest().hasher(),
        received: 0,
        source,
    };
    Ok(stream::try_unfold(Some(check), |check| async move {
        let Some(mut check) = check else {
            return Ok(None);
        };
        match check.inner.next().await {
            Some(piece) => {
                let piece = piece?;
                check.hasher.update(&piece);
                check.received += piece.len() as u64;
                if check.received > check.source.size() {
                    return Err(check.wrong(format!("over {} bytes", check.source.size())));
                }
                Ok(Some((piece, Some(check))))
            }
            None => check.end().map(|()| None),
        }
    })
    .boxed())
}

struct Check {
    inner: BlobStream,
    hasher: Hasher,
    received: u64,
    source: Arc<dyn BlobSource>,
}

// === impl Check ===

impl Check {
    fn end(self) -> Result<()> {
        if self.received != self.source.size() {
            return Err(self.wrong(format!(
                "{} bytes where the descriptor says {}",
                self.received,
                self.source.size()
            )));
        }
        let found = self.hasher.clone().finish();
        if found != *self.source.digest() {
            return Err(self.wrong(format!("digest mismatch, the bytes have {found}")));
        }
        Ok(())
    }

    fn wrong(&self, what: String) -> Error {
        Error::corrupt(format!("blob {}: {what}", self.source.digest()))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use bytes::Bytes;
    use futures::{TryStreamExt, future::BoxFuture};

    use super::*;
    use crate::{Kind, oci::Digest, source::MemoryBlob};

    /// Says it is one blob and serves another.
    #[derive(Debug)]
    struct Liar(Digest, u64, MemoryBlob);

    impl BlobSource for Liar {
        fn digest(&self) -> &Digest {
            &self.0
        }

        fn size(&self) -> u64 {
            self.1
        }

        fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
            self.2.read_at(range)
        }

        fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
            self.2.stream()
        }
    }

    async fn collect(source: Arc<dyn BlobSource>) -> Result<Vec<Bytes>> {
        stream_verified(source).await?.try_collect().await
    }

    #[tokio::test]
    async fn only_the_named_blob_ends_well() {
        let blob = |text: &'static str| MemoryBlob::new(Bytes::from_static(text.as_bytes()));
        assert_eq!(
            collect(Arc::new(blob("abc"))).await.unwrap().concat(),
            b"abc"
        );
        for (size, served) in [(3, "abd"), (3, "ab"), (3, "abcd"), (4, "abc")] {
            let liar = Liar(Digest::sha256(b"abc"), size, blob(served));
            let error = collect(Arc::new(liar)).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{size} {served}");
        }
    }
}
