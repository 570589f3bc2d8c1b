//! The body of an upload: bytes, or a file that is read while it is sent.

use std::{convert::Infallible, path::PathBuf, sync::atomic::Ordering};

use bytes::{Bytes, BytesMut};
use futures::stream;
use tokio::io::AsyncReadExt;

use super::transport::{MakeBody, Progress};
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
        BlobContent::File(path) => {
            Box::new(move |progress| Box::pin(file_body(path.clone(), progress)))
        }
    }
}

/// A body in memory.
pub(super) fn body_of_bytes(bytes: Bytes) -> Box<MakeBody> {
    Box::new(move |progress| {
        let pieces = stream::unfold((bytes.clone(), progress), |(mut rest, progress)| async {
            let piece = rest.split_to(rest.len().min(PIECE));
            progress.fetch_add(piece.len() as u64, Ordering::Relaxed);
            (!piece.is_empty()).then_some((Ok::<_, Infallible>(piece), (rest, progress)))
        });
        Box::pin(async { Ok(reqwest::Body::wrap_stream(pieces)) })
    })
}

async fn file_body(path: PathBuf, progress: Progress) -> Result<reqwest::Body> {
    let file = tokio::fs::File::open(&path)
        .await
        .map_err(|e| Error::io(format!("file {}", path.display()), e))?;
    let pieces = stream::try_unfold((file, progress), |(mut file, progress)| async {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = file.read_buf(&mut piece).await?;
        progress.fetch_add(read as u64, Ordering::Relaxed);
        Ok::<_, std::io::Error>((read > 0).then(|| (piece.freeze(), (file, progress))))
    });
    Ok(reqwest::Body::wrap_stream(pieces))
}
