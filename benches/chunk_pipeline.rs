//! One chunk's way from ciphertext to verified bytes, on one core, beside its parts.
//!
//! `whole/*` decrypts, decompresses and verifies 1 MiB chunks as the engine's workers do; the other
//! rows are its parts alone. Throughput is in plain bytes.

use std::{hint::black_box, io::Write};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nacre::{
    codec,
    index::{Algorithm, ChunkDigest, Codec},
    ocicrypt::LayerCipher,
    store::VerifiedChunk,
};

const CHUNK: usize = 1 << 20;
const COUNT: usize = 16;

struct Sample {
    plain: Bytes,
    digest: ChunkDigest,
    ciphertext: Vec<u8>,
    offset: u64,
}

/// Chunks of this very program: machine code and data, as layers hold them.
fn samples(codec: Codec, cipher: &LayerCipher) -> Vec<Sample> {
    let program = std::env::current_exe()
        .and_then(std::fs::read)
        .expect("this program can be read");
    let mut offset = 0;
    program
        .chunks_exact(CHUNK)
        .take(COUNT)
        .map(|plain| {
            let mut ciphertext = compress(codec, plain);
            let at = offset;
            cipher.apply(at, &mut ciphertext);
            offset += ciphertext.len() as u64;
            Sample {
                plain: Bytes::copy_from_slice(plain),
                digest: Algorithm::Sha256.digest(plain),
                ciphertext,
                offset: at,
            }
        })
        .collect()
}

fn compress(codec: Codec, plain: &[u8]) -> Vec<u8> {
    match codec {
        Codec::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            gzip.write_all(plain).expect("writing to memory");
            gzip.finish().expect("writing to memory")
        }
        Codec::Zstd => zstd::bulk::compress(plain, 3).expect("compressing in memory"),
        Codec::Raw | Codec::Deflate => plain.to_vec(),
    }
}

fn pipeline(criterion: &mut Criterion) {
    let cipher = LayerCipher::new(&[7; 32], [9; 16]);
    for (name, codec) in [("gzip", Codec::Gzip), ("zstd", Codec::Zstd)] {
        let samples = samples(codec, &cipher);
        let mut group = criterion.benchmark_group("chunk");
        group.throughput(Throughput::Bytes((samples.len() * CHUNK) as u64));
        group.bench_function(BenchmarkId::new("whole", name), |bencher| {
            bencher.iter(|| {
                for sample in &samples {
                    let mut bytes = sample.ciphertext.clone();
                    cipher.apply(sample.offset, &mut bytes);
                    let plain = codec::decode(codec, &bytes, CHUNK).expect("it was compressed");
                    let chunk = VerifiedChunk::check(Bytes::from(plain), &sample.digest);
                    black_box(chunk.expect("it has its digest"));
                }
            });
        });
        group.bench_function(BenchmarkId::new("decrypt", name), |bencher| {
            bencher.iter(|| {
                for sample in &samples {
                    let mut bytes = sample.ciphertext.clone();
                    cipher.apply(sample.offset, &mut bytes);
                    black_box(bytes);
                }
            });
        });
        let compressed: Vec<Vec<u8>> = samples.iter().map(|s| compress(codec, &s.plain)).collect();
        group.bench_function(BenchmarkId::new("decompress", name), |bencher| {
            bencher.iter(|| {
                for bytes in &compressed {
                    black_box(codec::decode(codec, bytes, CHUNK).expect("it was compressed"));
                }
            });
        });
        group.bench_function(BenchmarkId::new("verify", name), |bencher| {
            bencher.iter(|| {
                for sample in &samples {
                    black_box(VerifiedChunk::check(sample.plain.clone(), &sample.digest));
                }
            });
        });
        group.finish();
    }
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
