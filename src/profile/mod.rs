//! Profiles outside the engine: their bytes, and how they travel with an image.
//!
//! The format is described in `docs/formats/profile.md`. A profile names offsets only; what it names
//! is verified when it is fetched, so it needs no signature. That of an encrypted image tells what
//! its workload does, and is sealed under the layers' key.

mod artifact;
mod seal;

pub use self::{
    artifact::{ARTIFACT_TYPE, find, push},
    seal::ProfileKey,
};
use crate::{
    engine::{Profile, Run},
    error::{Error, Result},
    index::nacre::{Rest, put, put_signed},
};

/// First bytes of the decompressed document.
const MAGIC: &[u8; 4] = b"NCP1";
/// Largest decompressed document: a million runs of the usual three to five bytes.
const MAX_PLAIN: usize = 8 << 20;
/// Runs that are read at most.
const MAX_RUNS: usize = 1_000_000;
/// Profiles are small and read at every start.
const LEVEL: i32 = 19;

/// The document: compressed, neither sealed nor in text form.
///
/// # Errors
/// `Invalid` if there are more runs than readers take.
pub fn encode(profile: &Profile) -> Result<Vec<u8>> {
    if profile.runs.len() > MAX_RUNS {
        return Err(Error::invalid(format!(
            "profile of {} runs, at most {MAX_RUNS} are read",
            profile.runs.len()
        )));
    }
    let mut plain = MAGIC.to_vec();
    put(&mut plain, profile.runs.len() as u64);
    let mut ends = Ends::default();
    for run in &profile.runs {
        put(&mut plain, u64::from(run.layer));
        let step = run.bytes.start.wrapping_sub(ends.of(run.layer));
        put_signed(&mut plain, step.cast_signed());
        put(&mut plain, run.bytes.end.saturating_sub(run.bytes.start));
        ends.set(run.layer, run.bytes.end);
    }
    zstd::bulk::compress(&plain, LEVEL)
        .map_err(|e| Error::internal("compressing a profile").with_source(e))
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// `Invalid` if it is malformed or larger than any profile is.
pub fn decode(document: &[u8]) -> Result<Profile> {
    let plain = zstd::bulk::decompress(document, MAX_PLAIN)
        .map_err(|e| Error::invalid("profile: not zstd, or too large").with_source(e))?;
    parse(&plain)
}

/// Reads a document after its decompression.
pub(crate) fn parse(plain: &[u8]) -> Result<Profile> {
    let mut rest = plain
        .strip_prefix(MAGIC)
        .map(Rest::new)
        .ok_or_else(|| Error::invalid("profile: not a profile, or of a newer version"))?;
    let cut = || Error::invalid("profile: cut short");
    let count = rest.number().ok_or_else(cut)?;
    let count = usize::try_from(count)
        .ok()
        .filter(|it| *it <= MAX_RUNS)
        .ok_or_else(|| Error::invalid(format!("profile: {count} runs, at most {MAX_RUNS}")))?;
    let mut runs = Vec::with_capacity(count.min(rest.len()));
    let mut ends = Ends::default();
    for number in 0..count {
        let wrong = |what: &str| Error::invalid(format!("profile: run {number}: {what}"));
        let layer = u16::try_from(rest.number().ok_or_else(cut)?)
            .map_err(|_| wrong("no layer has this number"))?;
        let step = rest.signed().ok_or_else(cut)?;
        let length = rest.number().ok_or_else(cut)?;
        let start = ends.of(layer).checked_add_signed(step);
        let bytes = start.and_then(|start| Some(start..start.checked_add(length)?));
        let bytes = bytes.ok_or_else(|| wrong("outside of every blob"))?;
        ends.set(layer, bytes.end);
        runs.push(Run { layer, bytes });
    }
    if rest.is_empty() {
        Ok(Profile { runs })
    } else {
        Err(Error::invalid("profile: bytes behind its end"))
    }
}

/// Where the last run of each layer ended: the next one often begins near by.
#[derive(Default)]
struct Ends(Vec<u64>);

// === impl Ends ===

impl Ends {
    fn of(&self, layer: u16) -> u64 {
        self.0.get(usize::from(layer)).copied().unwrap_or(0)
    }

    fn set(&mut self, layer: u16, end: u64) {
        let layer = usize::from(layer);
        if self.0.len() <= layer {
            self.0.resize(layer + 1, 0);
        }
        self.0[layer] = end;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Profile {
        let run = |layer, bytes| Run { layer, bytes };
        Profile {
            runs: vec![
                run(2, 100..200),
                run(0, 5..6),
                run(2, 200..1 << 40),
                run(2, 0..1),
            ],
        }
    }

    #[test]
    fn survives_its_document_and_is_small() {
        let document = encode(&sample()).unwrap();
        assert_eq!(decode(&document).unwrap(), sample());
        assert!(document.len() < 60, "{}", document.len());
        let none = Profile::default();
        assert_eq!(decode(&encode(&none).unwrap()).unwrap(), none);
    }

    #[test]
    fn damage_is_refused() {
        let packed = |plain: &[u8]| zstd::bulk::compress(plain, 1).unwrap();
        let plain = zstd::bulk::decompress(&encode(&sample()).unwrap(), 1000).unwrap();
        for end in 0..plain.len() {
            assert!(decode(&packed(&plain[..end])).is_err(), "{end}");
        }
        for (bad, why) in [
            (&b"plain"[..], "not zstd"),
            (&packed(b"NCP2\0"), "newer"),
            (&packed(&[&plain[..], b"x"].concat()), "behind its end"),
            (&packed(b"NCP1\xff\xff\xff\xff\x7f"), "at most"),
            (&packed(b"NCP1\x01\xff\xff\x7f\0\x01"), "no layer"),
            (&packed(b"NCP1\x01\0\x01\x01"), "outside"),
        ] {
            let error = decode(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_profile(runs in proptest::collection::vec((0..9_u16, 0..1_u64 << 62, 0..1_u64 << 40), 0..50)) {
            let runs = runs.into_iter().map(|(layer, start, length)| Run {
                layer,
                bytes: start..start + length,
            });
            let profile = Profile { runs: runs.collect() };
            prop_assert_eq!(decode(&encode(&profile).unwrap()).unwrap(), profile);
        }

        #[test]
        fn any_bytes(plain: Vec<u8>) {
            let packed = zstd::bulk::compress(&[&MAGIC[..], &plain].concat(), 1).unwrap();
            let _ = decode(&packed);
        }
    }
}
