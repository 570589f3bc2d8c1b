//! A layer encrypted here, read back whole and in part, whole and damaged.

use futures::TryStreamExt;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::*;
use crate::{error::Kind, source::MemoryBlob};

const KEY: [u8; 32] = [3; 32];
/// Wraps at 2^64 in its second block.
const NONCE: [u8; 16] = [
    1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255,
];

/// Gives its bytes in pieces of seven, as many as it has, and says what size it likes.
#[derive(Debug)]
struct Pieces {
    blob: MemoryBlob,
    bytes: Bytes,
    size: u64,
}

impl Pieces {
    fn new(bytes: Vec<u8>, size: u64) -> Arc<Self> {
        let bytes = Bytes::from(bytes);
        let blob = MemoryBlob::new(bytes.clone());
        Arc::new(Self { blob, bytes, size })
    }
}

impl BlobSource for Pieces {
    fn digest(&self) -> &Digest {
        self.blob.digest()
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.blob.read_at(range)
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        let pieces: Vec<_> = self
            .bytes
            .chunks(7)
            .map(Bytes::copy_from_slice)
            .map(Ok)
            .collect();
        Box::pin(async move { Ok(stream::iter(pieces).boxed()) })
    }
}

fn plain() -> Vec<u8> {
    (0..1000_u32).map(|i| (i * 7 % 251) as u8).collect()
}

fn encrypt(plain: &[u8]) -> (Vec<u8>, LayerKey) {
    let mut ciphertext = plain.to_vec();
    LayerCipher::new(&KEY, NONCE).apply(0, &mut ciphertext);
    let mut hmac = Hmac::<Sha256>::new_from_slice(&KEY).unwrap();
    hmac.update(&ciphertext);
    let key = LayerKey::new(
        Zeroizing::new(KEY),
        NONCE,
        hmac.finalize().into_bytes().into(),
        Some(Digest::sha256(plain)),
        "jwe",
    );
    (ciphertext, key)
}

async fn collect(source: &Arc<dyn BlobSource>) -> (Vec<u8>, Result<()>) {
    let mut got = Vec::new();
    let mut stream = source.stream().await.unwrap();
    loop {
        match stream.try_next().await {
            Ok(Some(piece)) => got.extend_from_slice(&piece),
            Ok(None) => return (got, Ok(())),
            Err(error) => return (got, Err(error)),
        }
    }
}

#[tokio::test]
async fn ranges_and_streams_decrypt() {
    let plain = plain();
    let (ciphertext, key) = encrypt(&plain);
    let blob = Pieces::new(ciphertext, 1000);
    authenticate(&*blob, &key).await.unwrap();
    let source = DecryptingSource::new(blob, &key);
    assert_eq!(source.size(), 1000);
    for (start, end) in [
        (0, 1000),
        (0, 0),
        (1, 2),
        (15, 17),
        (16, 32),
        (31, 999),
        (999, 1000),
    ] {
        let got = source.read_at(start..end).await.unwrap();
        let want = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
        assert_eq!(got, plain[want], "{start}..{end}");
    }
    assert_eq!(
        source.read_at(5..1001).await.unwrap_err().kind(),
        Kind::Invalid
    );
    let (got, end) = collect(&source).await;
    end.unwrap();
    assert_eq!(got, plain);
}

#[tokio::test]
async fn a_flipped_bit_is_corrupt_before_the_last_bytes_are_given() {
    let (mut ciphertext, key) = encrypt(&plain());
    for at in [0, 500, 999] {
        ciphertext[at] ^= 1;
        let blob = Pieces::new(ciphertext.clone(), 1000);
        assert_eq!(
            authenticate(&*blob, &key).await.unwrap_err().kind(),
            Kind::Corrupt
        );
        let (got, end) = collect(&DecryptingSource::new(blob, &key)).await;
        let error = end.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.message().contains("HMAC"), "{error}");
        assert!(got.len() < 1000, "{} bytes were given", got.len());
        ciphertext[at] ^= 1;
    }
}

#[tokio::test]
async fn short_and_long_blobs_are_corrupt() {
    let (ciphertext, key) = encrypt(&plain());
    for (length, size) in [(999, 1000), (0, 1000), (1000, 999), (1000, 0)] {
        let blob = Pieces::new(ciphertext[..length].to_vec(), size);
        assert_eq!(
            authenticate(&*blob, &key).await.unwrap_err().kind(),
            Kind::Corrupt
        );
        let (_, end) = collect(&DecryptingSource::new(blob, &key)).await;
        assert_eq!(end.unwrap_err().kind(), Kind::Corrupt, "{length} of {size}");
    }
}

#[tokio::test]
async fn a_digest_of_what_was_compressed_later_does_no_harm() {
    let (ciphertext, key) = encrypt(&plain());
    let other = LayerKey::new(
        Zeroizing::new(KEY),
        NONCE,
        *key.hmac(),
        Some(Digest::sha256(b"other")),
        "jwe",
    );
    let source = DecryptingSource::new(Pieces::new(ciphertext, 1000), &other);
    let (got, end) = collect(&source).await;
    end.unwrap();
    assert_eq!(got, plain());
}

#[tokio::test]
async fn an_empty_blob_has_a_verdict_too() {
    let (_, key) = encrypt(b"");
    let empty = || Pieces::new(Vec::new(), 0);
    let (got, end) = collect(&DecryptingSource::new(empty(), &key)).await;
    end.unwrap();
    assert!(got.is_empty());
    let (_, other) = encrypt(b"x");
    let (_, end) = collect(&DecryptingSource::new(empty(), &other)).await;
    assert_eq!(end.unwrap_err().kind(), Kind::Corrupt);
}
