//! What callers make of a blob's bytes as they arrive, from one host or several: pieces with their
//! places, a stream, or all of it at once; each with its deadline.

use std::{future::Future, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use tokio::time::Instant;

use super::wanted::Wanted;
use crate::{
    error::{Error, Result},
    source::{BlobStream, PlacedStream},
};

/// Gives what is wanted of a blob, one piece after the other.
pub(super) trait Pieces: Send + Sized + 'static {
    /// The next bytes and where they belong; `None` once all are there.
    fn piece(&mut self) -> impl Future<Output = Result<Option<(u64, Bytes)>>> + Send;

    /// What has not come yet.
    fn wanted(&self) -> &Wanted;

    /// Counts the time of its tries anew: for streams, whose length has no bound.
    fn restart_deadline(&mut self);

    /// The blob, for messages.
    fn what(&self) -> String;
}

/// The pieces as they arrive, all of them before the deadline.
pub(super) fn placed(pieces: impl Pieces, deadline: Duration) -> PlacedStream {
    let (end, late) = (Instant::now() + deadline, late(&pieces, deadline));
    stream::try_unfold((pieces, late), move |(mut pieces, late)| async move {
        match tokio::time::timeout_at(end, pieces.piece()).await {
            Ok(piece) => Ok(piece?.map(|piece| (piece, (pieces, late)))),
            Err(_) => Err(Error::unavailable(late)),
        }
    })
    .boxed()
}

/// The pieces as they arrive, each of them before the deadline has passed anew.
pub(super) fn streamed(pieces: impl Pieces, deadline: Duration) -> BlobStream {
    stream::try_unfold(pieces, move |mut pieces| async move {
        pieces.restart_deadline();
        match tokio::time::timeout(deadline, pieces.piece()).await {
            Ok(piece) => Ok(piece?.map(|(_, piece)| (piece, pieces))),
            Err(_) => Err(Error::unavailable(format!(
                "{}: no byte in {deadline:?}",
                pieces.what()
            ))),
        }
    })
    .boxed()
}

/// All bytes together, before the deadline.
///
/// # Errors
/// `Unavailable` when it has passed, and what `pieces` says.
pub(super) async fn whole(mut pieces: impl Pieces, deadline: Duration) -> Result<Bytes> {
    let late = late(&pieces, deadline);
    let length = usize::try_from(pieces.wanted().length())
        .map_err(|_| Error::internal("range over usize"))?;
    let all = async {
        let Some((_, first)) = pieces.piece().await? else {
            return Ok(Bytes::new());
        };
        if first.len() == length {
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity(length);
        all.extend_from_slice(&first);
        while let Some((_, piece)) = pieces.piece().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    };
    tokio::time::timeout(deadline, all)
        .await
        .unwrap_or_else(|_| Err(Error::unavailable(late)))
}

/// What is said when the deadline has passed.
fn late(pieces: &impl Pieces, deadline: Duration) -> String {
    let wanted = pieces.wanted();
    let start = wanted.next().map_or(0, |next| next.start);
    format!(
        "{}: bytes {start}..{} not here after {deadline:?}",
        pieces.what(),
        wanted.end()
    )
}
