//! Compressing pieces on several threads and giving them back in their order, so that the result does
//! not depend on the number of threads.

use std::{collections::VecDeque, io::Write, thread::JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest as _, Sha256};

use super::Format;
use crate::error::{Error, Result};

/// Compresses what it is given; each piece on its own.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: Option<Sender<Job>>,
    workers: Vec<JoinHandle<()>>,
    pending: VecDeque<Receiver<Result<Piece>>>,
    most: usize,
}

/// A compressed piece.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) packed: Vec<u8>,
    /// SHA-256 of the plain bytes.
    pub(super) digest: [u8; 32],
    /// What it was submitted with.
    pub(super) slot: Option<usize>,
}

#[derive(Debug)]
struct Job {
    plain: Vec<u8>,
    slot: Option<usize>,
    reply: Sender<Result<Piece>>,
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(format: Format, level: i32, threads: usize) -> Self {
        let threads = threads.clamp(1, 64);
        let (jobs, queue) = bounded::<Job>(threads);
        let workers = (0..threads)
            .map(|_| {
                let queue = queue.clone();
                std::thread::spawn(move || {
                    while let Ok(job) = queue.recv() {
                        let digest = Sha256::digest(&job.plain).into();
                        let piece = compress(format, level, &job.plain).map(|packed| Piece {
                            packed,
                            digest,
                            slot: job.slot,
                        });
                        // The other side is gone only after an error of its own.
                        let _ = job.reply.send(piece);
                    }
                })
            })
            .collect();
        Self {
            jobs: Some(jobs),
            workers,
            pending: VecDeque::new(),
            most: threads * 2,
        }
    }

    /// Hands over a piece; gives the oldest one back if enough are on their way.
    pub(super) fn submit(&mut self, plain: Vec<u8>, slot: Option<usize>) -> Result<Option<Piece>> {
        let (reply, result) = bounded(1);
        let job = Job { plain, slot, reply };
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.send(job).ok())
            .ok_or_else(|| Error::internal("compression workers are gone"))?;
        self.pending.push_back(result);
        if self.pending.len() > self.most {
            return self.next();
        }
        Ok(None)
    }

    /// The oldest piece; `None` if all have been given back.
    pub(super) fn next(&mut self) -> Result<Option<Piece>> {
        let Some(result) = self.pending.pop_front() else {
            return Ok(None);
        };
        result
            .recv()
            .map_err(|_| Error::internal("a compression worker is gone"))?
            .map(Some)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            // A worker that panicked has already shown as an error.
            let _ = worker.join();
        }
    }
}

/// One gzip member (no name, no time) or zstd frame of `plain`.
pub(super) fn compress(format: Format, level: i32, plain: &[u8]) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Error::internal("compression").with_source(e);
    match format {
        Format::Estargz => {
            let level = flate2::Compression::new(u32::try_from(level.clamp(0, 9)).unwrap_or(6));
            let mut member = flate2::GzBuilder::new()
                .mtime(0)
                .operating_system(255)
                .write(Vec::with_capacity(plain.len() / 2 + 64), level);
            member.write_all(plain).map_err(failed)?;
            member.finish().map_err(failed)
        }
        Format::ZstdChunked => zstd::bulk::compress(plain, level).map_err(failed),
    }
}
