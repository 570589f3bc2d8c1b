//! The body of an upload: bytes, or a file or another blob that is read while it is sent.

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use tokio::io::AsyncReadExt;

use super::transport::{MakeBody, Progress};
use crate::{
    error::{Error, Result},
    source::{BlobContent, BlobSource},
};

/// Bytes read from a file at a time.
const PIECE: usize = 256 << 10;

/// A body that is sent once for each try.
pub(super) struct Upload {
    pub(super) make: Box<MakeBody>,
    failure: Failed,
}

/// Why a body ended early, if it did.
type Failed = Arc<Mutex<Option<Error>>>;

// === impl Upload ===

impl Upload {
    /// Why the body ended early, if it did: the connection tells only that it did.
    pub(super) fn failure(&self) -> Option<Error> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }
}

/// How to make the body of `content`.
pub(super) fn body_of(content: BlobContent) -> Upload {
    let failure = Failed::default();
    let make: Box<MakeBody> = match content {
        BlobContent::Bytes(bytes) => body_of_bytes(bytes),
        BlobContent::File(path) => {
            Box::new(move |progress| Box::pin(file_body(path.clone(), progress)))
        }
        BlobContent::Source(source) => {
            let failure = Arc::clone(&failure);
            Box::new(move |progress| {
                let (source, failure) = (Arc::clone(&source), Arc::clone(&failure));
                Box::pin(source_body(source, progress, failure))
            })
        }
    };
    Upload { make, failure }
}

async fn source_body(
    source: Arc<dyn BlobSource>,
    progress: Progress,
    failure: Failed,
) -> Result<reqwest::Body> {
    let note = move |error: Error| {
        let said = std::io::Error::other(error.to_string());
        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        said
    };
    let stream = source.stream().await?;
    Ok(reqwest::Body::wrap_stream(stream.map(move |piece| {
        piece
            .inspect(|piece| {
                progress.fetch_add(piece.len() as u64, Ordering::Relaxed);
            })
            .map_err(&note)
    })))
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
