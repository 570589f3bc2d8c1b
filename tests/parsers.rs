//! Parsers of untrusted bytes under damaged input: they never panic, never hang, and never make much
//! of little. `fuzz/` has the same parsers for a real fuzzer; this runs everywhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    io::Read as _,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
};

use nacre::{fuzzing::bound, tar::TarReader};

mod support;

use support::samples::{Parser, parsers};

/// Rounds for each parser; `NACRE_PARSER_ROUNDS` wants more of them.
const ROUNDS: u64 = 1500;
/// Longest input that is made.
const LONGEST: usize = 64 << 10;

/// xorshift64*: the same numbers for the same seed.
struct Random(u64);

// === impl Random ===

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap()
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        // Short ones are the likely ones.
        let most = (length - start).min(1 << self.below(14));
        start..start + self.below(most + 1)
    }
}

/// One sample with a few things done to it.
fn damaged(parser: &Parser, random: &mut Random) -> Vec<u8> {
    let mut bytes = parser.samples[random.below(parser.samples.len())].clone();
    for _ in 0..=random.below(5) {
        let range = random.range(bytes.len());
        match random.below(9) {
            0 if !bytes.is_empty() => {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            1 if !bytes.is_empty() => {
                let at = random.below(bytes.len());
                bytes[at] = [0, 0x20, 0x2f, 0x39, 0x7f, 0x80, 0xff][random.below(7)];
            }
            2 => drop(bytes.drain(range)),
            3 => {
                let copy = bytes[range].to_vec();
                let at = random.below(bytes.len() + 1);
                bytes.splice(at..at, copy);
            }
            4 => {
                let other = &parser.samples[random.below(parser.samples.len())];
                let copy = other[random.range(other.len())].to_vec();
                bytes.splice(range, copy);
            }
            5 => bytes.truncate(range.start),
            6 => {
                let word = WORDS[random.below(WORDS.len())];
                bytes.splice(range.start..range.start, word.bytes());
            }
            _ => number(&mut bytes, range.start, random),
        }
        bytes.truncate(LONGEST);
    }
    if parser.name == "tar" {
        mend_sums(&mut bytes);
    }
    bytes
}

/// Puts another number in the place of the first one behind `at`.
fn number(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit) else {
        return;
    };
    let start = at + start;
    let length = bytes[start..].iter().take_while(|b| b.is_ascii_digit());
    let end = start + length.count();
    let other = NUMBERS[random.below(NUMBERS.len())];
    bytes.splice(start..end, other.bytes());
}

/// Nearly every damage to a tar would be caught by the sum of a header: makes them right again.
fn mend_sums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

const NUMBERS: [&str; 10] = [
    "0",
    "-1",
    "1",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "0.5",
];

const WORDS: [&str; 12] = [
    "..", "/", "\0", "\"", "[[[[", "{\"a\":", ",", ":", "=", "\u{feff}", "\\ud800", "%2e",
];

#[test]
fn samples_are_understood() {
    for parser in parsers() {
        for (index, sample) in parser.samples.iter().enumerate() {
            let made = (parser.run)(sample);
            assert!(made <= bound(sample.len()), "{} {index}", parser.name);
        }
        let made: Vec<_> = parser.samples.iter().map(|s| (parser.run)(s)).collect();
        assert!(made.iter().any(|n| *n > 0), "{}: {made:?}", parser.name);
        println!("{}: {made:?}", parser.name);
        // scripts/fuzz starts from these.
        if let Some(corpus) = std::env::var_os("NACRE_FUZZ_CORPUS") {
            let directory = PathBuf::from(corpus).join(parser.name);
            std::fs::create_dir_all(&directory).unwrap();
            for (index, sample) in parser.samples.iter().enumerate() {
                std::fs::write(directory.join(format!("sample-{index}")), sample).unwrap();
            }
        }
    }
}

/// What a fuzzer kept because nothing else took the same ways (`scripts/fuzz --keep`).
#[test]
fn kept_inputs_are_refused_or_understood() {
    for parser in parsers() {
        let name = format!("tests/data/fuzz/{}.tar.zst", parser.name);
        let file = std::fs::File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(&name));
        let file = file.unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut archive = TarReader::new(zstd::stream::read::Decoder::new(file).unwrap());
        let mut count = 0;
        while let Some(entry) = archive.next().unwrap() {
            let mut input = Vec::new();
            archive.read_to_end(&mut input).unwrap();
            let made = panic::catch_unwind(AssertUnwindSafe(|| (parser.run)(&input)));
            let made = made.unwrap_or_else(|_| {
                panic!("{name}: {} panics", String::from_utf8_lossy(&entry.name))
            });
            assert!(made <= bound(input.len()), "{name}: {made}");
            count += 1;
        }
        assert!(count > 10, "{name}: {count} inputs");
    }
}

#[test]
fn damaged_input_is_refused_or_understood() {
    let rounds = std::env::var("NACRE_PARSER_ROUNDS")
        .map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let threads: Vec<_> = parsers()
        .into_iter()
        .map(|parser| std::thread::spawn(move || damage(&parser, rounds)))
        .collect();
    let failed: Vec<_> = threads
        .into_iter()
        .filter_map(|thread| thread.join().unwrap())
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The first failure, if there is one: parser, seed and input.
fn damage(parser: &Parser, rounds: u64) -> Option<String> {
    for seed in 1..=rounds {
        let bytes = damaged(
            parser,
            &mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        );
        let made = panic::catch_unwind(AssertUnwindSafe(|| (parser.run)(&bytes)));
        let why = match made {
            Ok(made) if made <= bound(bytes.len()) => continue,
            Ok(made) => format!("makes {made} of {} bytes", bytes.len()),
            Err(_) => "panics".into(),
        };
        let shown = bytes[..bytes.len().min(2000)].escape_ascii();
        return Some(format!("{} seed {seed}: {why}: {shown}", parser.name));
    }
    None
}
