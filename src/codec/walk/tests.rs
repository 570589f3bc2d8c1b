use std::io::{Seek as _, Write as _};

use flate2::{Compression as Level, write::GzEncoder};

use super::*;

/// Words that repeat, and stretches that do not compress.
fn sample(length: usize) -> Vec<u8> {
    let mut plain = Vec::with_capacity(length + 64);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while plain.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match state % 64 {
            0 => plain
                .extend((0..200_u64).flat_map(|i| (state.wrapping_mul(i * i + 1)).to_le_bytes())),
            it => {
                plain.extend_from_slice(format!("{it} bottles of {:x}; ", state >> 24).as_bytes())
            }
        }
    }
    plain.truncate(length);
    plain
}

fn gzip(plain: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::new(level));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// By the program that every Debian has.
fn by_gzip(level: &str, plain: &[u8]) -> Vec<u8> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(plain).unwrap();
    file.rewind().unwrap();
    let ran = std::process::Command::new("gzip")
        .args([level, "--no-name", "--stdout"])
        .stdin(file)
        .output()
        .unwrap();
    assert!(ran.status.success());
    ran.stdout
}

/// As pigz does it: byte-aligned pieces behind each other in one member.
fn flushed(plain: &[u8], every: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::new(6));
    for piece in plain.chunks(every) {
        encoder.write_all(piece).unwrap();
        encoder.flush().unwrap();
    }
    encoder.finish().unwrap()
}

fn libdeflate(plain: &[u8], level: i32) -> Vec<u8> {
    let level = libdeflater::CompressionLvl::new(level).unwrap();
    let mut encoder = libdeflater::Compressor::new(level);
    let mut packed = vec![0; encoder.gzip_compress_bound(plain.len())];
    let length = encoder.gzip_compress(plain, &mut packed).unwrap();
    packed.truncate(length);
    packed
}

fn members(plain: &[u8], every: usize) -> Vec<u8> {
    plain.chunks(every).flat_map(|it| gzip(it, 6)).collect()
}

struct Walked {
    plain: Vec<u8>,
    /// What each run holds.
    runs: Vec<Vec<u8>>,
    found: Runs,
}

fn walk(compression: Compression, blob: &[u8], spacing: u32, step: usize) -> Result<Walked> {
    let (mut plain, mut runs) = (Vec::new(), Vec::<Vec<u8>>::new());
    let mut sink = |piece: Piece| {
        assert!(!piece.bytes.is_empty());
        plain.extend_from_slice(&piece.bytes);
        let run = piece.run as usize;
        assert!(run + 1 >= runs.len(), "runs ascend");
        runs.resize(run + 1, Vec::new());
        runs[run].extend_from_slice(&piece.bytes);
        Ok(())
    };
    let mut walk = Walk::new(compression, spacing)?;
    for piece in blob.chunks(step) {
        walk.push(piece, &mut sink)?;
    }
    let found = walk.finish(&mut sink)?;
    runs.resize(found.units.len(), Vec::new());
    Ok(Walked { plain, runs, found })
}

/// Decodes every run from its checkpoint, whole and in part, and holds it against the walk.
fn enter_everywhere(name: &str, walked: &Walked, blob: &[u8]) {
    let Runs { units, checkpoints } = &walked.found;
    checkpoints.check(blob.len() as u64).unwrap();
    let mut plain = 0;
    for (number, (unit, want)) in units.iter().zip(&walked.runs).enumerate() {
        let begin = usize::try_from(unit.offset).unwrap();
        let compressed = &blob[begin..begin + unit.length as usize];
        let decode = |limit: usize| match unit.codec {
            Codec::Deflate => checkpoints.decode(number, compressed, limit),
            codec => crate::codec::decode(codec, compressed, limit),
        };
        if unit.codec == Codec::Deflate {
            assert_eq!(checkpoints.plain_length(number), Some(want.len() as u64));
            assert_eq!(checkpoints.list[number].plain, plain);
        }
        plain += want.len() as u64;
        let all = want.len();
        for limit in [0, all.min(1), all / 3, all.saturating_sub(1), all] {
            let got = decode(limit).unwrap_or_else(|e| panic!("{name}, run {number}: {e}"));
            assert!(got == want[..limit], "{name}, run {number}, {limit} bytes");
        }
    }
    assert_eq!(plain, walked.plain.len() as u64);
}

#[test]
fn every_checkpoint_of_every_encoder_is_an_entrance() {
    let plain = sample(3 << 20);
    let empty = gzip(b"", 6);
    let several = [
        &empty[..],
        &gzip(&plain[..1 << 20], 9),
        &empty,
        &gzip(&plain[1 << 20..], 1),
    ];
    let cases = [
        ("gzip -1", by_gzip("-1", &plain), 10),
        ("gzip -6", by_gzip("-6", &plain), 10),
        ("gzip -9", by_gzip("-9", &plain), 10),
        // zlib-rs and zlib-ng write one block at this level, as long as the file.
        ("level 1", gzip(&plain, 1), 2),
        ("level 6", gzip(&plain, 6), 10),
        ("level 9", gzip(&plain, 9), 10),
        ("stored", gzip(&plain, 0), 20),
        ("libdeflate 1", libdeflate(&plain, 1), 5),
        ("libdeflate 12", libdeflate(&plain, 12), 5),
        ("flushed", flushed(&plain, 128 << 10), 20),
        ("flushed often", flushed(&plain[..300_000], 700), 3),
        ("members", members(&plain, 100_000), 15),
        ("small members", members(&plain[..500_000], 3000), 5),
        ("several, and empty ones", several.concat(), 10),
    ];
    for (name, blob, least) in &cases {
        for step in [blob.len(), 4099] {
            let walked = walk(Compression::Gzip, blob, 64 << 10, step).unwrap();
            assert!(plain.starts_with(&walked.plain), "{name}");
            let runs = walked.runs.len();
            assert!(runs >= *least, "{name}: {runs} runs");
            enter_everywhere(name, &walked, blob);
        }
    }
}

#[test]
fn bits_are_those_of_the_stream() {
    let plain = sample(2 << 20);
    let blob = gzip(&plain, 6);
    let walked = walk(Compression::Gzip, &blob, 32 << 10, 1000).unwrap();
    let list = &walked.found.checkpoints.list;
    let bits: std::collections::HashSet<u8> = list.iter().map(|it| it.bits).collect();
    assert!(bits.len() > 4, "{bits:?}");
    assert_eq!((list[0].offset, list[0].bits), (10, 0));
    assert!(list[0].packed_window().is_empty());
    assert!(
        list[1..]
            .iter()
            .all(|it| it.window().unwrap().len() <= WINDOW)
    );
}

#[test]
fn all_small_streams() {
    for length in [0, 1, 100, 70_000] {
        let plain = sample(length);
        let blob = gzip(&plain, 6);
        let walked = walk(Compression::Gzip, &blob, DEFAULT_SPACING, 7).unwrap();
        assert_eq!(walked.plain, plain);
        assert_eq!(walked.found.units.len(), 1);
        enter_everywhere("small", &walked, &blob);
    }
}

#[test]
fn frames_and_stretches() {
    let plain = sample(1 << 20);
    let frame = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).unwrap();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"toc!"].concat();
    let frames = [
        frame(&plain[..300_000]),
        skippable.clone(),
        frame(b""),
        frame(&plain[300_000..]),
        skippable,
    ]
    .concat();
    for (compression, blob, runs) in [
        (Compression::Zstd, frames, 2),
        (Compression::Zstd, frame(&plain), 1),
        (Compression::None, plain.clone(), 16),
    ] {
        for step in [blob.len(), 4099] {
            let walked = walk(compression, &blob, 64 << 10, step).unwrap();
            assert_eq!(walked.plain, plain, "{compression:?}");
            assert_eq!(walked.runs.len(), runs, "{compression:?}");
            enter_everywhere("other", &walked, &blob);
        }
    }
}

#[test]
fn what_is_cut_or_changed_is_refused() {
    let plain = sample(400_000);
    for (compression, blob) in [
        (Compression::Gzip, gzip(&plain, 6)),
        (Compression::Zstd, zstd::bulk::compress(&plain, 3).unwrap()),
    ] {
        for length in [0, 5, 1000, blob.len() - 9, blob.len() - 1] {
            let error = walk(compression, &blob[..length], 64 << 10, 5000)
                .err()
                .unwrap();
            assert_eq!(
                error.kind(),
                crate::Kind::Corrupt,
                "{compression:?} {length}: {error}"
            );
        }
        let junk = [&blob[..], b"junk that follows"].concat();
        assert!(walk(compression, &junk, 64 << 10, 5000).is_err());
    }
    let mut blob = gzip(&plain, 6);
    let trailer = blob.len() - 6;
    blob[trailer] ^= 1;
    assert!(
        walk(Compression::Gzip, &blob, 64 << 10, 5000).is_err(),
        "checksum"
    );
}

#[test]
fn a_run_without_an_end_is_refused() {
    let zeros = vec![0; usize::try_from(MAX_RUN).unwrap() + (8 << 20)];
    let frame = zstd::bulk::compress(&zeros, 1).unwrap();
    let error = walk(Compression::Zstd, &frame, 64 << 10, 5000)
        .err()
        .unwrap();
    assert_eq!(error.kind(), crate::Kind::Unsupported, "{error}");
    // Gzip of the same ends its blocks in time.
    let walked = walk(Compression::Gzip, &gzip(&zeros, 6), 1 << 20, 1 << 20).unwrap();
    assert!(walked.runs.len() > 10, "{}", walked.runs.len());
}

#[test]
fn wrong_windows_and_bits_never_panic() {
    let plain = sample(600_000);
    let blob = gzip(&plain, 6);
    let walked = walk(Compression::Gzip, &blob, 64 << 10, 1 << 20).unwrap();
    let Runs { units, checkpoints } = walked.found;
    for bits in 0..8 {
        for window in [&b""[..], b"not zstd", &plain[..100]] {
            let mut wrong = checkpoints.clone();
            let it = &wrong.list[3];
            let window = match window {
                b"not zstd" => window.into(),
                window => zstd::bulk::compress(window, 1).unwrap().into(),
            };
            wrong.list[3] = Checkpoint::packed(it.offset, bits, it.plain, window);
            for (number, unit) in units.iter().enumerate().take(4).skip(2) {
                let begin = usize::try_from(unit.offset).unwrap();
                let compressed = &blob[begin..begin + unit.length as usize];
                for length in [0, 1, compressed.len() / 2, compressed.len()] {
                    // Any bytes or an error; digests decide.
                    let _ = wrong.decode(number, &compressed[..length], 60_000);
                }
            }
        }
    }
    let mut wrong = checkpoints.clone();
    wrong.list.swap(1, 2);
    assert!(wrong.check(blob.len() as u64).is_err());
    let mut wrong = checkpoints;
    wrong.list[1].bits = 8;
    assert!(wrong.check(blob.len() as u64).is_err());
}
