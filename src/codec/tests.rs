use std::io::Write;

use super::*;

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, 3).unwrap()
}

fn sample() -> Vec<u8> {
    (0..200_000u32)
        .flat_map(|i| (i / 7).to_le_bytes())
        .collect()
}

#[test]
fn decodes_the_first_unit_and_no_more() {
    let plain = sample();
    for (codec, packed) in [
        (Codec::Gzip, gzip(&plain)),
        (Codec::Zstd, zstd(&plain)),
        (Codec::Raw, plain.clone()),
    ] {
        let mut followed = packed.clone();
        followed.extend_from_slice(&packed);
        followed.extend_from_slice(b"junk");
        assert_eq!(decode(codec, &followed, plain.len()).unwrap(), plain);
        assert_eq!(decode(codec, &followed, 1000).unwrap(), plain[..1000]);
        assert_eq!(decode(codec, &packed, 0).unwrap(), b"");
        if codec != Codec::Raw {
            let error = decode(codec, &followed, plain.len() + 1).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Corrupt);
        }
        assert!(decode(codec, &packed[..packed.len() / 2], plain.len()).is_err());
        assert!(decode(codec, b"", 1).is_err());
    }
    for codec in [Codec::Gzip, Codec::Zstd] {
        assert!(decode(codec, &plain, 10).is_err(), "not compressed at all");
    }
}

#[test]
fn a_wrong_byte_is_refused_or_changes_the_bytes() {
    let plain = sample();
    for (codec, mut packed) in [(Codec::Gzip, gzip(&plain)), (Codec::Zstd, zstd(&plain))] {
        let middle = packed.len() / 2;
        packed[middle] ^= 0x10;
        assert!(decode(codec, &packed, plain.len()).is_err_or_differs(&plain));
    }
}

trait Differs {
    fn is_err_or_differs(&self, plain: &[u8]) -> bool;
}

impl Differs for Result<Vec<u8>> {
    fn is_err_or_differs(&self, plain: &[u8]) -> bool {
        self.as_ref().is_ok_and(|got| got != plain) || self.is_err()
    }
}

#[test]
fn a_zstd_window_beyond_the_bound_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(MAX_WINDOW_LOG + 1).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(b"x").unwrap();
    encoder.flush().unwrap();
    encoder.write_all(&[0; 4096]).unwrap();
    let packed = encoder.finish().unwrap();
    assert!(decode(Codec::Zstd, &packed, 1).is_err());
}

#[test]
fn whole_layers() {
    let plain = sample();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"toc!"].concat();
    for (compression, packed) in [
        (Compression::None, plain.clone()),
        (
            Compression::Gzip,
            [gzip(&plain[..5000]), gzip(&plain[5000..])].concat(),
        ),
        (
            Compression::Zstd,
            [zstd(&plain[..5000]), zstd(&plain[5000..]), skippable].concat(),
        ),
    ] {
        let mut got = Vec::new();
        reader(compression, std::io::Cursor::new(packed))
            .unwrap()
            .read_to_end(&mut got)
            .unwrap();
        assert_eq!(got, plain, "{compression:?}");
    }
}
