//! Inflating: streams by several libraries on the same data, what finding checkpoints costs, and a run
//! entered at its checkpoint beside the stream. Throughput is in plain bytes.
//!
//! With `--features codec-peers` ISA-L and zlib-ng take part; ISA-L's build needs autoconf, automake,
//! libtool and nasm. NACRE_CODEC_SAMPLE names a file to inflate instead of this program and its
//! sources.
#![allow(unsafe_code, reason = "zlib-ng has no safe interface")]

use std::{
    hint::black_box,
    io::{Read, Write},
    path::Path,
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nacre::{
    codec::{Piece, Runs, Walk},
    index::Algorithm,
    oci::{Digest, media_type::Compression},
};

/// Bytes that are inflated.
const SIZE: usize = 32 << 20;
const SPACINGS: [u32; 4] = [256 << 10, 1 << 20, 2 << 20, 4 << 20];

/// Machine code and data, and text, as layers hold them.
fn sample() -> Vec<u8> {
    if let Some(file) = std::env::var_os("NACRE_CODEC_SAMPLE") {
        return std::fs::read(file).expect("the sample can be read");
    }
    let mut plain = Vec::with_capacity(SIZE);
    add_text(Path::new(env!("CARGO_MANIFEST_DIR")), &mut plain);
    plain.truncate(SIZE / 4);
    let program = std::env::current_exe().and_then(std::fs::read);
    let program = program.expect("this program can be read");
    while plain.len() < SIZE {
        let left = SIZE - plain.len();
        plain.extend_from_slice(&program[..left.min(program.len())]);
    }
    plain
}

fn add_text(directory: &Path, to: &mut Vec<u8>) {
    for part in ["src", "docs", "tests"] {
        let mut todo = vec![directory.join(part)];
        while let Some(path) = todo.pop() {
            if let Ok(entries) = std::fs::read_dir(&path) {
                todo.extend(entries.flatten().map(|it| it.path()));
            } else if let Ok(bytes) = std::fs::read(&path) {
                to.extend_from_slice(&bytes);
            }
        }
    }
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(plain).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

fn walk(blob: &[u8], spacing: u32, mut each: impl FnMut(Piece)) -> Runs {
    let mut sink = |piece| {
        each(piece);
        Ok(())
    };
    let mut walk = Walk::new(Compression::Gzip, spacing).expect("a decoder");
    for piece in blob.chunks(128 << 10) {
        walk.push(piece, &mut sink).expect("it was compressed");
    }
    walk.finish(&mut sink).expect("it was compressed")
}

/// A whole stream, one library after the other.
fn streams(criterion: &mut Criterion) {
    let plain = sample();
    let blob = gzip(&plain);
    let mut group = criterion.benchmark_group("stream");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(plain.len() as u64));
    let mut buffer = vec![0; 128 << 10];
    group.bench_function("zlib-rs", |bencher| {
        bencher.iter(|| {
            let mut decoder = flate2::bufread::MultiGzDecoder::new(&blob[..]);
            while decoder.read(&mut buffer).expect("it was compressed") > 0 {}
        });
    });
    let mut whole = vec![0; plain.len()];
    group.bench_function("libdeflate-whole", |bencher| {
        let mut decoder = libdeflater::Decompressor::new();
        bencher.iter(|| {
            decoder
                .gzip_decompress(&blob, &mut whole)
                .expect("it was compressed")
        });
    });
    group.bench_function("miniz_oxide", |bencher| {
        use miniz_oxide::inflate::stream::{InflateState, inflate};
        bencher.iter(|| {
            let mut state = InflateState::new_boxed(miniz_oxide::DataFormat::Raw);
            let mut input = &blob[10..blob.len() - 8];
            loop {
                let step = inflate(&mut state, input, &mut buffer, miniz_oxide::MZFlush::None);
                input = &input[step.bytes_consumed..];
                if step.status.expect("it was compressed") == miniz_oxide::MZStatus::StreamEnd {
                    break;
                }
            }
        });
    });
    #[cfg(feature = "codec-peers")]
    {
        group.bench_function("isa-l", |bencher| {
            bencher.iter(|| {
                let mut decoder = isal::read::GzipDecoder::new(&blob[..]);
                while decoder.read(&mut buffer).expect("it was compressed") > 0 {}
            });
        });
        group.bench_function("zlib-ng", |bencher| {
            bencher.iter(|| zlib_ng::inflate(&blob, &mut buffer));
        });
    }
    group.finish();
}

/// What it costs to find checkpoints, beside inflating and the hash that is needed anyway.
fn indexing(criterion: &mut Criterion) {
    let plain = sample();
    let blob = gzip(&plain);
    let mut group = criterion.benchmark_group("index");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(plain.len() as u64));
    let mut buffer = vec![0; 128 << 10];
    group.bench_function("inflate+sha256", |bencher| {
        bencher.iter(|| {
            let mut hasher = Digest::sha256(b"").hasher();
            let mut decoder = flate2::bufread::MultiGzDecoder::new(&blob[..]);
            loop {
                let count = decoder.read(&mut buffer).expect("it was compressed");
                if count == 0 {
                    break;
                }
                hasher.update(&buffer[..count]);
            }
            black_box(hasher.finish())
        });
    });
    for spacing in SPACINGS {
        let kib = spacing >> 10;
        let runs = walk(&blob, spacing, |_| {});
        let windows: usize = { runs.checkpoints.list.iter() }
            .map(|it| it.packed_window().len())
            .sum();
        eprintln!(
            "{kib} KiB: {} checkpoints, windows {windows} bytes, {:.2} % of the blob",
            runs.units.len(),
            windows as f64 * 100.0 / blob.len() as f64
        );
        group.bench_function(BenchmarkId::new("walk+sha256", kib), |bencher| {
            bencher.iter(|| {
                let mut hasher = Digest::sha256(b"").hasher();
                let runs = walk(&blob, spacing, |piece| hasher.update(&piece.bytes));
                black_box((runs, hasher.finish()))
            });
        });
    }
    group.bench_function("walk+sha256+blake3", |bencher| {
        bencher.iter(|| {
            let mut hasher = Digest::sha256(b"").hasher();
            let runs = walk(&blob, 1 << 20, |piece| {
                hasher.update(&piece.bytes);
                black_box(Algorithm::Blake3.digest(&piece.bytes));
            });
            black_box((runs, hasher.finish()))
        });
    });
    group.finish();
}

/// A run entered at its checkpoint: all of it, and its beginning.
fn entering(criterion: &mut Criterion) {
    let plain = sample();
    let blob = gzip(&plain);
    for spacing in SPACINGS {
        let Runs { units, checkpoints } = walk(&blob, spacing, |_| {});
        let number = units.len() / 2;
        let unit = units[number];
        let begin = usize::try_from(unit.offset).expect("it is in memory");
        let compressed = &blob[begin..begin + unit.length as usize];
        let length = checkpoints.plain_length(number).expect("there is this run");
        let mut group = criterion.benchmark_group(format!("enter-{}KiB", spacing >> 10));
        let length = usize::try_from(length).expect("it is in memory");
        for (name, limit) in [("whole", length), ("64KiB", 64 << 10), ("4KiB", 4 << 10)] {
            group.throughput(Throughput::Bytes(limit as u64));
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    let plain = checkpoints.decode(number, compressed, limit);
                    black_box(plain.expect("it was compressed"))
                });
            });
        }
        group.finish();
    }
}

#[cfg(feature = "codec-peers")]
mod zlib_ng {
    use std::mem::MaybeUninit;

    use libz_ng_sys::{
        Z_NO_FLUSH, Z_OK, Z_STREAM_END, inflate as step, inflateEnd, inflateInit2_, z_stream,
        zlibVersion,
    };

    /// Inflates a gzip member piece by piece.
    pub(super) fn inflate(blob: &[u8], buffer: &mut [u8]) {
        let small = |length: usize| u32::try_from(length).expect("a small sample");
        // All zeros is a stream without a state, as zlib wants it; in Rust it is one only after this.
        let mut stream = MaybeUninit::<z_stream>::zeroed();
        let size = i32::try_from(size_of::<z_stream>()).expect("a small structure");
        let stream = stream.as_mut_ptr();
        // SAFETY: the stream is all zeros and the version is the library's own.
        let code = unsafe { inflateInit2_(stream, 15 + 16, zlibVersion(), size) };
        assert_eq!(code, Z_OK);
        // SAFETY: the stream has a state; the input outlives it.
        unsafe {
            (*stream).next_in = blob.as_ptr().cast_mut();
            (*stream).avail_in = small(blob.len());
        }
        loop {
            // SAFETY: input and output are as long as the stream says, and outlive the call.
            let code = unsafe {
                (*stream).next_out = buffer.as_mut_ptr();
                (*stream).avail_out = small(buffer.len());
                step(stream, Z_NO_FLUSH)
            };
            match code {
                Z_OK => {}
                Z_STREAM_END => break,
                code => panic!("zlib-ng: {code}"),
            }
        }
        // SAFETY: the stream has a state.
        unsafe { inflateEnd(stream) };
    }
}

criterion_group!(benches, streams, indexing, entering);
criterion_main!(benches);
