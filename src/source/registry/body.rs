//! Runs of a blob's bytes as they arrive: resumed after a cut, never more and never other bytes.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::Response;

use super::{
    answer,
    blob::Inner,
    multipart::Multipart,
    pieces::Pieces,
    retry::{Failure, Retry},
    wanted::{Cut, Wanted},
};
use crate::error::{Error, Result};

/// What is left of one answer.
pub(super) struct Body {
    response: Response,
    /// How its bytes are placed in the blob.
    place: Placing,
    /// What has come and has not been used.
    rest: Option<(u64, Bytes)>,
    /// Something in it was wanted.
    useful: bool,
}

enum Placing {
    /// One after the other: where the next one belongs, and where the answer ends.
    Run { at: u64, end: u64 },
    /// In parts that say it.
    Parts { multipart: Multipart, piece: Bytes },
}

/// Reads ranges over as many answers as it takes.
pub(super) struct Reader {
    blob: Arc<Inner>,
    wanted: Wanted,
    body: Option<Body>,
    retry: Retry,
}

// === impl Body ===

impl Body {
    /// An answer that is the blob's bytes from `start` to `end`.
    pub(super) fn run(response: Response, start: u64, end: u64) -> Self {
        let place = Placing::Run { at: start, end };
        Self::new(response, place)
    }

    /// An answer in parts.
    pub(super) fn parts(response: Response, multipart: Multipart) -> Self {
        let piece = Bytes::new();
        Self::new(response, Placing::Parts { multipart, piece })
    }

    fn new(response: Response, place: Placing) -> Self {
        Self {
            response,
            place,
            rest: None,
            useful: false,
        }
    }

    /// The next bytes with their offset; `None` where the answer ends.
    async fn next(&mut self, blob: &Inner) -> Result<Option<(u64, Bytes)>, Failure> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        let what = blob.what();
        loop {
            if let Placing::Parts { multipart, piece } = &mut self.place {
                let part = multipart.take(piece).map_err(|wrong| {
                    blob.registry.answers_single_ranges();
                    Failure::passing(Error::unavailable(format!("{what}: {wrong}")))
                })?;
                if part.is_some() {
                    return Ok(part);
                }
            }
            let patience = blob.registry.options.stall_timeout;
            let traffic = &blob.traffic;
            let Some(bytes) = answer::chunk(&mut self.response, &what, patience, traffic).await?
            else {
                return Ok(None);
            };
            match &mut self.place {
                Placing::Run { at, .. } => {
                    let place = *at;
                    *at += bytes.len() as u64;
                    return Ok(Some((place, bytes)));
                }
                Placing::Parts { piece, .. } => *piece = bytes,
            }
        }
    }

    /// Whether all that was to come in it has come, and some of it was wanted.
    fn is_used(&self) -> bool {
        self.useful
            && match &self.place {
                Placing::Run { at, end } => at >= end,
                Placing::Parts { multipart, .. } => multipart.is_ended(),
            }
    }
}

// === impl Reader ===

impl Pieces for Reader {
    async fn piece(&mut self) -> Result<Option<(u64, Bytes)>> {
        while let Some(next) = self.wanted.next() {
            let at = next.start;
            match self.attempt().await {
                Ok(Some(bytes)) => {
                    self.wanted.came(bytes.len());
                    self.retry.progress();
                    if self.wanted.next().is_none() {
                        // What may follow is not ours to read.
                        self.body = None;
                    }
                    return Ok(Some((at, bytes)));
                }
                Ok(None) => self.body = None,
                Err(failure) => {
                    self.body = None;
                    self.retry.wait(failure).await?;
                }
            }
        }
        Ok(None)
    }

    fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    fn restart_deadline(&mut self) {
        self.retry.restart();
    }

    fn what(&self) -> String {
        self.blob.what()
    }
}

impl Reader {
    pub(super) fn new(blob: Arc<Inner>, wanted: Wanted) -> Self {
        let retry = blob.registry.retry_by(blob.retry);
        Self {
            blob,
            wanted,
            body: None,
            retry,
        }
    }

    /// At least one byte of what comes next, from the open answer or a new one; nothing if an answer
    /// has ended as it should and another one has to be asked for.
    async fn attempt(&mut self) -> Result<Option<Bytes>, Failure> {
        let body = match &mut self.body {
            Some(body) => body,
            None => self.body.insert(self.blob.open(&self.wanted).await?),
        };
        loop {
            let Some((at, piece)) = body.next(&self.blob).await? else {
                return if body.is_used() {
                    Ok(None)
                } else {
                    Err(self.cut_off())
                };
            };
            let end = at + piece.len() as u64;
            match self.wanted.cut(at, piece) {
                Cut::Next { bytes, rest } => {
                    body.useful = true;
                    body.rest = (!rest.is_empty()).then(|| (end - rest.len() as u64, rest));
                    return Ok(Some(bytes));
                }
                Cut::Before => {}
                Cut::Behind => {
                    // Not in the order that was asked for, or not all of it.
                    self.blob.registry.answers_single_ranges();
                    return Err(self.cut_off());
                }
            }
        }
    }

    fn cut_off(&self) -> Failure {
        let next = self.wanted.next().map_or(0, |next| next.start);
        Failure::passing(Error::unavailable(format!(
            "{}: answer cut off at byte {next} of {}",
            self.blob.what(),
            self.wanted.end()
        )))
    }
}
