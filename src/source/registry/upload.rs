//! The body of an upload: bytes, or a file that is read while it is sent.

use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use futures::{future::BoxFuture, stream};
use tokio::io::AsyncReadExt;

use super::transport::MakeBody;
use crate::{
    error::{Error, Result},
    source::BlobContent,
};

/// Bytes read from a file at a time.
const PIECE: usize = 256 << 10;

/// How to make the body of `content`, once for each try.
pub(super) fn body_of(content: BlobContent) -> Box<MakeBody> {
    match content {
        BlobContent::Bytes(bytes) => body_of_bytes(bytes),
        BlobContent::File(path) => Box::new(move || Box::pin(file_body(path.clone()))),
    }
}

/// A body in memory.
pub(super) fn body_of_bytes(bytes: Bytes) -> Box<MakeBody> {
    Box::new(move || -> BoxFuture<'static, Result<reqwest::Body>> {
        let body = reqwest::Body::from(bytes.clone());
        Box::pin(async move { Ok(body) })
    })
}

async fn file_body(path: PathBuf) -> Result<reqwest::Body> {
    let file = tokio::fs::File::open(&path)
        .await
        .map_err(|e| Error::io(format!("file {}", path.display()), e))?;
    let pieces = stream::try_unfold(file, |mut file| async move {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = file.read_buf(&mut piece).await?;
        Ok::<_, std::io::Error>((read > 0).then(|| (piece.freeze(), file)))
    });
    Ok(reqwest::Body::wrap_stream(pieces))
}
