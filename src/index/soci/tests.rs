//! A zTOC that the real SOCI made, and what others could make of one.

use proptest::prelude::*;

use super::*;

/// Of `tests/data/index/layer.tar.gz`, by `scripts/make-soci-sample`.
const ZTOC: &[u8] = include_bytes!("../../../tests/data/index/layer.ztoc");
const LAYER: &[u8] = include_bytes!("../../../tests/data/index/layer.tar.gz");

#[test]
fn reads_what_soci_wrote() {
    let index = parse(ZTOC, LAYER.len() as u64).unwrap();
    assert!(!index.entries.is_empty());
    assert_eq!(index.table.spans.len(), index.table.units.len());
    // Every unit's bytes have its digest, and every file is what the tar has.
    let mut tar = crate::tar::TarReader::new(flate2::read::MultiGzDecoder::new(LAYER));
    let mut files = index.entries.iter();
    while let Some(entry) = tar.next().unwrap() {
        let listed = files.next().unwrap();
        assert_eq!(*clean_path(&entry.name).unwrap(), *listed.path);
        assert_eq!(entry.uid, listed.uid);
        let EntryKind::Regular { size, chunks } = &listed.kind else {
            continue;
        };
        assert_eq!(*size, entry.size);
        for chunk in &index.table.chunks[chunks.start as usize..chunks.end as usize] {
            let Place::Unit { unit, offset } = chunk.place else {
                panic!("no holes");
            };
            let place = &index.table.units[unit as usize];
            let begin = usize::try_from(place.offset).unwrap();
            let bytes = &LAYER[begin..begin + place.length as usize];
            let digest = Algorithm::Sha256.of(index.table.spans[unit as usize]);
            assert!(digest.matches(bytes), "unit {unit}");
            let need = (offset + chunk.length) as usize;
            let plain = index.table.decode(unit, bytes, need).unwrap();
            let mut want = vec![0; chunk.length as usize];
            std::io::Read::read_exact(&mut tar, &mut want).unwrap();
            assert!(plain[offset as usize..] == want, "{:?}", entry.name);
        }
    }
    assert!(files.next().is_none());
}

#[test]
fn damage_is_refused() {
    let size = LAYER.len() as u64;
    for end in (0..ZTOC.len()).step_by(97) {
        assert!(parse(&ZTOC[..end], size).is_err(), "{end}");
    }
    let error = parse(ZTOC, size + 1).unwrap_err();
    assert!(error.contains("bytes, the layer has"), "{error}");
    for at in (0..ZTOC.len()).step_by(31) {
        let mut bad = ZTOC.to_vec();
        bad[at] ^= 0x55;
        if let Ok(index) = parse(&bad, size) {
            index.check(size).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes: Vec<u8>, size: u32) {
        if let Ok(index) = parse(&bytes, size.into()) {
            index.check(size.into()).unwrap();
        }
    }
}
