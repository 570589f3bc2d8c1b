//! Compressing pieces on several threads and giving them back in their order, so that the result does
//! not depend on the number of threads.

use std::{collections::VecDeque, thread::JoinHandle};

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
                    let mut encoder = None;
                    while let Ok(job) = queue.recv() {
                        let piece = work(&mut encoder, format, level, &job);
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

fn work(encoder: &mut Option<Encoder>, format: Format, level: i32, job: &Job) -> Result<Piece> {
    let encoder = match encoder {
        Some(encoder) => encoder,
        None => encoder.insert(Encoder::new(format, level)?),
    };
    Ok(Piece {
        packed: encoder.compress(&job.plain)?,
        digest: Sha256::digest(&job.plain).into(),
        slot: job.slot,
    })
}

/// Compresses pieces one after another; its tables are made once, which is most of the cost of a small
/// piece.
pub(super) enum Encoder {
    Gzip(flate2::Compress),
    Zstd(zstd::bulk::Compressor<'static>),
}

// === impl Encoder ===

impl Encoder {
    pub(super) fn new(format: Format, level: i32) -> Result<Self> {
        Ok(match format {
            Format::Estargz => {
                let level = u32::try_from(level.clamp(0, 9)).unwrap_or(6);
                let level = flate2::Compression::new(level);
                Encoder::Gzip(flate2::Compress::new(level, false))
            }
            Format::ZstdChunked => Encoder::Zstd(
                zstd::bulk::Compressor::new(level)
                    .map_err(|e| Error::internal("zstd encoder").with_source(e))?,
            ),
        })
    }

    /// One gzip member (no name, no time) or zstd frame of `plain`.
    pub(super) fn compress(&mut self, plain: &[u8]) -> Result<Vec<u8>> {
        match self {
            Encoder::Gzip(deflate) => gzip(deflate, plain),
            Encoder::Zstd(encoder) => encoder
                .compress(plain)
                .map_err(|e| Error::internal("compression").with_source(e)),
        }
    }
}

fn gzip(deflate: &mut flate2::Compress, plain: &[u8]) -> Result<Vec<u8>> {
    let mut packed = Vec::with_capacity(plain.len() / 2 + 64);
    packed.extend_from_slice(&GZIP_HEADER);
    deflate.reset();
    loop {
        let done = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
        let status = deflate
            .compress_vec(&plain[done..], &mut packed, flate2::FlushCompress::Finish)
            .map_err(|e| Error::internal("compression").with_source(e))?;
        if status == flate2::Status::StreamEnd {
            break;
        }
        packed.reserve(plain.len() / 4 + 64);
    }
    let mut crc = flate2::Crc::new();
    crc.update(plain);
    packed.extend_from_slice(&crc.sum().to_le_bytes());
    packed.extend_from_slice(&crc.amount().to_le_bytes());
    Ok(packed)
}

/// Deflate, no flags, no time, no system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
