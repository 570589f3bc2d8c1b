//! A run of a blob's bytes as they arrive: resumed after a cut, never more and never other bytes.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use reqwest::Response;

use super::{
    answer,
    blob::Inner,
    retry::{Failure, Retry},
};
use crate::error::{Error, Result};

/// What is left of one answer.
pub(super) struct Body {
    response: Response,
    /// Bytes before the range, from a registry that sends the blob from its start.
    skip: u64,
}

/// Reads `range` over as many answers as it takes.
pub(super) struct Reader {
    blob: Arc<Inner>,
    next: u64,
    end: u64,
    body: Option<Body>,
    retry: Retry,
}

// === impl Body ===

impl Body {
    pub(super) fn new(response: Response, skip: u64) -> Self {
        Self { response, skip }
    }
}

// === impl Reader ===

impl Reader {
    pub(super) fn new(blob: Arc<Inner>, range: Range<u64>) -> Self {
        let retry = blob.registry.retry_by(blob.retry);
        Self {
            blob,
            next: range.start,
            end: range.end,
            body: None,
            retry,
        }
    }

    /// The next bytes; `None` once the range is complete.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>> {
        while self.next < self.end {
            match self.attempt().await {
                Ok(bytes) => {
                    self.next += bytes.len() as u64;
                    self.retry.progress();
                    if self.next == self.end {
                        // What may follow is not ours to read.
                        self.body = None;
                    }
                    return Ok(Some(bytes));
                }
                Err(failure) => {
                    self.body = None;
                    self.retry.wait(failure).await?;
                }
            }
        }
        Ok(None)
    }

    /// Counts the deadline anew: for streams, whose length has no bound.
    pub(super) fn restart_deadline(&mut self) {
        self.retry.restart();
    }

    /// At least one byte of the range, from the open answer or a new one.
    async fn attempt(&mut self) -> Result<Bytes, Failure> {
        let body = match &mut self.body {
            Some(body) => body,
            None => self.body.insert(self.blob.open(self.next..self.end).await?),
        };
        loop {
            let what = self.blob.what();
            let patience = self.blob.registry.options.stall_timeout;
            let traffic = &self.blob.traffic;
            let piece = answer::chunk(&mut body.response, &what, patience, traffic).await?;
            let Some(mut piece) = piece else {
                return Err(Failure::passing(Error::unavailable(format!(
                    "{what}: answer cut off at byte {} of {}",
                    self.next, self.end
                ))));
            };
            let skipped = usize::try_from(body.skip)
                .unwrap_or(usize::MAX)
                .min(piece.len());
            body.skip -= skipped as u64;
            piece = piece.split_off(skipped);
            let wanted = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
            piece.truncate(wanted);
            if !piece.is_empty() {
                return Ok(piece);
            }
        }
    }
}
