//! Layers of other tools are read, our own come back as they went in, and forged tables are refused.

#![allow(clippy::cast_possible_truncation)] // tests run on 64 bits

use std::{
    collections::BTreeMap,
    io::{Cursor, Read},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{FutureExt, executor::block_on, future::BoxFuture};
use proptest::prelude::*;

use super::{
    write::{Format, WriteOptions, Written, write_layer},
    *,
};
use crate::{
    Kind, codec,
    error::Result,
    oci::{Descriptor, Digest, media_type},
    source::{BlobSource, BlobStream, MemoryBlob},
    tar::{TarKind, TarReader, tests::Archive},
};

fn data(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/data/index/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap()
}

fn sample_tar() -> Vec<u8> {
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(&data("layer.tar.gz")[..])
        .read_to_end(&mut tar)
        .unwrap();
    tar
}

fn descriptor(media_type: &str, blob: &[u8], annotations: &str) -> Descriptor {
    Descriptor {
        annotations: serde_json::from_str(annotations).unwrap(),
        ..Descriptor::of(media_type, blob)
    }
}

fn open_blob(layer: &Descriptor, blob: &[u8]) -> Result<LayerIndex> {
    let binding = Binding::of(layer)?.expect("a binding");
    let source = MemoryBlob::new(Bytes::copy_from_slice(blob));
    block_on(open(&source, &binding)).map(VerifiedIndex::into_inner)
}

/// Every file's bytes through units and chunks, as the engine reads them.
fn contents(index: &LayerIndex, blob: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let needs = index.table.plain_lengths();
    let mut files = BTreeMap::new();
    for entry in &index.entries {
        let EntryKind::Regular { size, chunks } = &entry.kind else {
            continue;
        };
        let mut file = Vec::new();
        for chunk in &index.table.chunks[chunks.start as usize..chunks.end as usize] {
            assert_eq!(chunk.file_offset, file.len() as u64);
            match chunk.place {
                Place::Zeros => file.resize(file.len() + chunk.length as usize, 0),
                Place::Unit { unit, .. } => {
                    let it = index.table.units[unit as usize];
                    let packed = &blob[it.offset as usize..][..it.length as usize];
                    let plain =
                        codec::decode(it.codec, packed, needs[unit as usize] as usize).unwrap();
                    file.extend_from_slice(index.table.chunk_bytes(&plain, chunk).unwrap());
                }
            }
        }
        assert_eq!(file.len() as u64, *size);
        files.insert(entry.path.to_vec(), file);
    }
    files
}

/// What the tar itself says, in the same words.
fn expected(tar: &[u8]) -> (Vec<Entry>, BTreeMap<Vec<u8>, Vec<u8>>) {
    let mut reader = TarReader::new(tar);
    let (mut entries, mut files) = (Vec::new(), BTreeMap::new());
    while let Some(entry) = reader.next().unwrap() {
        let path = clean_path(&entry.name).unwrap();
        let (major, minor) = entry.device;
        let kind = match entry.kind {
            TarKind::Regular => {
                let mut file = Vec::new();
                reader.read_to_end(&mut file).unwrap();
                files.insert(path.to_vec(), file);
                EntryKind::Regular {
                    size: entry.size,
                    chunks: 0..0,
                }
            }
            TarKind::Directory => EntryKind::Directory,
            TarKind::Symlink => EntryKind::Symlink(entry.link.into()),
            TarKind::Hardlink => EntryKind::Hardlink(clean_path(&entry.link).unwrap()),
            TarKind::CharDevice => EntryKind::CharDevice { major, minor },
            TarKind::BlockDevice => EntryKind::BlockDevice { major, minor },
            TarKind::Fifo => EntryKind::Fifo,
        };
        entries.push(Entry {
            path,
            kind,
            mode: u16::try_from(entry.mode & 0o7777).unwrap(),
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime.seconds,
            mtime_nanos: entry.mtime.nanos,
            xattrs: entry
                .xattrs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        });
    }
    (entries, files)
}

/// Entries without what a comparison must not see.
fn comparable(entries: &[Entry], nanos: bool, sorted: bool) -> Vec<Entry> {
    let mut entries: Vec<Entry> = entries.to_vec();
    for entry in &mut entries {
        if let EntryKind::Regular { chunks, .. } = &mut entry.kind {
            *chunks = 0..0;
        }
        if !nanos {
            // stargz rounds to seconds.
            entry.mtime_nanos = 0;
        }
    }
    if sorted {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
    }
    entries
}

#[test]
fn layers_of_other_tools() {
    let tar = sample_tar();
    let (entries, files) = expected(&tar);
    for (name, media_type) in [
        ("plain", media_type::OCI_LAYER_GZIP),
        ("small", media_type::OCI_LAYER_GZIP),
        ("inner", media_type::OCI_LAYER_GZIP),
        ("landmark", media_type::OCI_LAYER_GZIP),
        ("legacy", media_type::OCI_LAYER_GZIP),
        ("zstd", media_type::OCI_LAYER_ZSTD),
        ("podman", media_type::OCI_LAYER_ZSTD),
    ] {
        let blob = data(&format!("{name}.blob"));
        let annotations = String::from_utf8(data(&format!("{name}.json"))).unwrap();
        let index = open_blob(&descriptor(media_type, &blob, &annotations), &blob).unwrap();
        let podman = name == "podman";
        assert_eq!(
            comparable(&index.entries, podman, true),
            comparable(&entries, podman, true),
            "{name}"
        );
        assert_eq!(contents(&index, &blob), files, "{name}");
        assert_eq!(index.prefetch > 0, name == "landmark", "{name}");
        let zeros = index.table.chunks.iter().any(|c| c.place == Place::Zeros);
        assert_eq!(zeros, podman, "{name}: only podman writes holes");
        let inner = index.table.units.len() < index.table.chunks.len();
        assert_eq!(inner, name == "inner" || podman, "{name}");
    }
}

fn written(tar: &[u8], options: &WriteOptions) -> (Written, Vec<u8>, Descriptor) {
    let mut blob = Vec::new();
    let written = write_layer(tar, &mut blob, options).unwrap();
    assert_eq!(written.size, blob.len() as u64);
    assert_eq!(written.digest, Digest::sha256(&blob));
    let layer = Descriptor {
        annotations: written.annotations.clone(),
        ..Descriptor::of(written.media_type, &blob)
    };
    (written, blob, layer)
}

#[test]
fn our_layers_come_back() {
    let tar = sample_tar();
    let (entries, files) = expected(&tar);
    for format in [Format::Estargz, Format::ZstdChunked] {
        for (chunk_size, dialect) in [(4 << 20, Dialect::Podman), (1000, Dialect::Stargz)] {
            let options = WriteOptions {
                chunk_size,
                dialect,
                ..WriteOptions::new(format)
            };
            let (made, blob, layer) = written(&tar, &options);
            let index = open_blob(&layer, &blob).unwrap();
            assert_eq!(
                comparable(&index.entries, true, false),
                comparable(&entries, true, false)
            );
            assert_eq!(contents(&index, &blob), files);

            let mut plain = Vec::new();
            let kind = media_type::layer_kind(made.media_type).unwrap();
            codec::reader(kind.compression, Cursor::new(blob.clone()))
                .unwrap()
                .read_to_end(&mut plain)
                .unwrap();
            assert_eq!(made.diff_id, Digest::sha256(&plain));
            assert_eq!(made.diff_size, plain.len() as u64);
            if format == Format::ZstdChunked {
                assert_eq!(plain, tar, "the tar is the same byte for byte");
            }
            let again = WriteOptions {
                threads: 1 + options.threads,
                ..options
            };
            assert_eq!(written(&tar, &again).0, made, "threads change nothing");
        }
    }
}

/// What a tar-split frame says: raw bytes between files, and each file's name, size and sum. How the
/// bytes at the end are cut differs and does not matter.
fn tar_split(blob: &[u8], layer: &Descriptor) -> Vec<(Vec<u8>, String, u64, Option<String>)> {
    let Some(Binding::ZstdChunked {
        tar_split: Some(at),
        ..
    }) = Binding::of(layer).unwrap()
    else {
        panic!("a tar-split position");
    };
    let packed = &blob[at.offset as usize..][..at.length as usize];
    let plain = codec::decode(Codec::Zstd, packed, at.uncompressed as usize).unwrap();
    let (mut all, mut bytes) = (Vec::new(), Vec::new());
    for (number, line) in std::str::from_utf8(&plain).unwrap().lines().enumerate() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["position"], number);
        let payload = line["payload"].as_str().map(ToOwned::to_owned);
        if line["type"] == 2 {
            bytes.extend(STANDARD.decode(payload.unwrap()).unwrap());
        } else {
            let name = line["name"].as_str().unwrap().to_owned();
            let size = line["size"].as_u64().unwrap_or(0);
            all.push((std::mem::take(&mut bytes), name, size, payload));
        }
    }
    all.push((bytes, String::new(), 0, None));
    all
}

#[test]
fn our_tar_split_is_podmans() {
    let blob = data("podman.blob");
    let annotations = String::from_utf8(data("podman.json")).unwrap();
    let theirs = tar_split(
        &blob,
        &descriptor(media_type::OCI_LAYER_ZSTD, &blob, &annotations),
    );
    let (_, blob, layer) = written(&sample_tar(), &WriteOptions::new(Format::ZstdChunked));
    assert!(tar_split(&blob, &layer) == theirs, "tar-split data differs");
}

/// Metadata of a table of contents, without what says where data is and what podman does not write.
fn toc_metadata(blob: &[u8], layer: &Descriptor) -> Vec<serde_json::Value> {
    let Some(Binding::ZstdChunked { position: at, .. }) = Binding::of(layer).unwrap() else {
        panic!("zstd:chunked");
    };
    let packed = &blob[at.offset as usize..][..at.length as usize];
    let json = zstd_chunked::toc_json(packed, at.uncompressed).unwrap();
    let mut toc: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert!(toc["tarSplitDigest"].is_string());
    let mut entries = std::mem::take(toc["entries"].as_array_mut().unwrap());
    entries.retain(|entry| entry["type"] != "chunk");
    for entry in &mut entries {
        let fields = entry.as_object_mut().unwrap();
        fields.retain(|key, _| {
            !key.starts_with("chunk")
                && !key.ends_with("ffset")
                && !key.ends_with("rName")
                && key != "groupName"
        });
    }
    entries
}

#[test]
fn our_metadata_is_podmans() {
    // Podman compares these with the tar-split data and refuses a layer that differs.
    let blob = data("podman.blob");
    let annotations = String::from_utf8(data("podman.json")).unwrap();
    let layer = descriptor(media_type::OCI_LAYER_ZSTD, &blob, &annotations);
    let theirs = toc_metadata(&blob, &layer);
    let (_, blob, layer) = written(&sample_tar(), &WriteOptions::new(Format::ZstdChunked));
    for (ours, theirs) in toc_metadata(&blob, &layer).iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn a_wrong_bit_in_toc_or_footer_is_corrupt() {
    for format in [Format::Estargz, Format::ZstdChunked] {
        let (_, blob, layer) = written(&sample_tar(), &WriteOptions::new(format));
        let toc = match Binding::of(&layer).unwrap().unwrap() {
            Binding::Estargz { toc_offset, .. } => toc_offset.unwrap() as usize..blob.len() - 13,
            Binding::ZstdChunked { position, .. } => {
                position.offset as usize..(position.offset + position.length) as usize
            }
        };
        for at in toc {
            let mut blob = blob.clone();
            blob[at] ^= 1;
            // Bits that gzip does not look at (its time, say) change nothing.
            if let Err(error) = open_blob(&layer, &blob) {
                assert!(matches!(error.kind(), Kind::Corrupt), "{at}: {error}");
                assert!(error.to_string().starts_with("layer sha256:"), "{error}");
            } else {
                assert_eq!(format, Format::Estargz, "{at}");
            }
        }
    }
}

#[test]
fn an_external_table_of_contents_is_unsupported() {
    let footer = [
        &[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 21, 0][..],
        b"SG\x11\0STARGZEXTERNALTOC",
        &[1, 0, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let annotations = format!(r#"{{"{}":"{}"}}"#, binding::TOC_DIGEST, Digest::sha256(b""));
    let layer = descriptor(media_type::OCI_LAYER_GZIP, &footer, &annotations);
    assert_eq!(
        open_blob(&layer, &footer).unwrap_err().kind(),
        Kind::Unsupported
    );
    let layer = descriptor(media_type::OCI_LAYER_GZIP, b"none", &annotations);
    assert_eq!(
        open_blob(&layer, b"none").unwrap_err().kind(),
        Kind::Corrupt
    );
}

/// Counts reads.
#[derive(Debug)]
struct Counting(MemoryBlob, std::sync::atomic::AtomicUsize);

impl BlobSource for Counting {
    fn digest(&self) -> &Digest {
        self.0.digest()
    }
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, range: std::ops::Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.read_at(range).boxed()
    }
    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        self.0.stream()
    }
}

#[test]
fn one_read_opens_an_index_two_where_the_guess_is_short() {
    // Many empty files: the table of contents is most of the layer.
    let mut tar = Archive::default();
    for number in 0..20_000 {
        tar = tar.file(&format!("f{}", number * 7919), b"x");
    }
    let (_, blob, mut layer) = written(&tar.finish(), &WriteOptions::new(Format::Estargz));
    let reads = |layer: &Descriptor| {
        let source = Counting(MemoryBlob::new(blob.clone().into()), Default::default());
        let binding = Binding::of(layer).unwrap().unwrap();
        let index = block_on(open(&source, &binding)).unwrap();
        assert_eq!(index.get().entries.len(), 20_000);
        source.1.into_inner()
    };
    assert_eq!(reads(&layer), 1, "with the position");
    layer.annotations.remove(binding::TOC_OFFSET);
    assert_eq!(reads(&layer), 2, "without");
}

const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse_entries(entries: &str) -> Result<LayerIndex, String> {
    let json = format!(
        r#"{{"version":1,"entries":[{}]}}"#,
        entries.replace("$D", D)
    );
    open::parse(json.as_bytes(), Codec::Gzip, 10_000)
}

#[test]
fn tables_that_are_fine() {
    for entries in [
        "",
        r#"{"name":"a","type":"reg","size":5,"offset":9,"chunkDigest":"$D"}"#,
        r#"{"name":"a","type":"reg","size":5,"offset":9,"digest":"$D"}"#,
        r#"{"name":"a","type":"reg"},{"name":"b","type":"reg","userName":"x","unknown":[[{}]]}"#,
        r#"{"name":"a","type":"dir","mode":16877},{"name":"a/","type":"dir","mode":448}"#,
        r#"{"name":"a","type":"reg","size":9,"offset":9,"chunkSize":5,"chunkDigest":"$D"},
           {"name":"a","type":"chunk","offset":20,"chunkOffset":5,"chunkDigest":"$D"}"#,
        r#"{"name":"a","type":"reg","size":900000000,"chunkType":"zeros"}"#,
        r#"{"name":"a\ufffd","nameBytes":"Yf8=","type":"reg"}"#,
        r#"{"name":"a","type":"dir","xattrs":{"user.a":"AA==","user.b":null}}"#,
        r#"{"name":"a","type":"dir","xattrs":null,"modtime":null}"#,
    ] {
        parse_entries(entries).unwrap_or_else(|e| panic!("{entries}: {e}"));
    }
    let none = br#"{"entries":null,"version":1}"#;
    assert!(
        open::parse(none, Codec::Zstd, 1)
            .unwrap()
            .entries
            .is_empty()
    );
}

#[test]
fn tables_that_are_refused() {
    let long = "x".repeat(256);
    let deep = "[".repeat(1000);
    let path = "a/".repeat(2100);
    let value = "A".repeat(90_000);
    let table = [
        (r#"{"name":"../a","type":"dir"}"#, ".."),
        (r#"{"name":"a\u0000b","type":"dir"}"#, "0 byte"),
        (r#"{"name":"LONG","type":"dir"}"#, "256 bytes"),
        (r#"{"name":"PATH","type":"dir"}"#, "4199 bytes"),
        (r#"{"name":"a","type":"socket"}"#, "not known"),
        (r#"{"name":"/","type":"fifo"}"#, "root"),
        (r#"{"name":"","type":"reg"}"#, "root"),
        (
            r#"{"name":"a","type":"fifo"},{"name":"./a","type":"dir"}"#,
            "twice",
        ),
        (r#"{"name":"a","type":"chunk"}"#, "without a file"),
        (
            r#"{"name":"a","type":"reg","size":9,"offset":9,"chunkSize":5,"chunkDigest":"$D"},
               {"name":"b","type":"chunk","offset":20,"chunkOffset":5,"chunkDigest":"$D"}"#,
            "among those of",
        ),
        (
            r#"{"name":"a","type":"reg","size":9,"offset":9,"chunkSize":5,"chunkDigest":"$D"},
               {"type":"chunk","offset":20,"chunkOffset":6,"chunkDigest":"$D"}"#,
            "gap or an overlap",
        ),
        (
            r#"{"name":"a","type":"reg","size":9,"offset":9,"chunkSize":5,"chunkDigest":"$D"},
               {"type":"chunk","offset":20,"chunkOffset":4,"chunkDigest":"$D"}"#,
            "gap or an overlap",
        ),
        (
            r#"{"name":"a","type":"reg","size":9,"offset":9,"chunkSize":5,"chunkDigest":"$D"}"#,
            "its chunks have 5",
        ),
        (
            r#"{"name":"a","type":"reg","size":9,"offset":9,"chunkDigest":"$D"},
               {"type":"chunk","offset":20,"chunkOffset":9,"chunkDigest":"$D"}"#,
            "a chunk of 0 bytes",
        ),
        (
            r#"{"name":"a","type":"reg","size":9,"offset":9,"chunkSize":10,"chunkDigest":"$D"}"#,
            "a chunk of 10 bytes",
        ),
        (
            r#"{"name":"a","type":"reg","size":5,"offset":9}"#,
            "without a digest",
        ),
        (
            r#"{"name":"a","type":"reg","size":5,"offset":9,"digest":"sha512:00"}"#,
            "not sha256",
        ),
        (
            r#"{"name":"a","type":"reg","size":5,"digest":"$D"}"#,
            "offset 0",
        ),
        (
            r#"{"name":"a","type":"reg","size":5,"offset":10000,"digest":"$D"}"#,
            "offset 10000",
        ),
        (
            r#"{"name":"a","type":"reg","size":5,"offset":9,"endOffset":9,"digest":"$D"}"#,
            "end offset",
        ),
        (
            r#"{"name":"a","type":"reg","size":5,"offset":9,"endOffset":10001,"digest":"$D"}"#,
            "end offset",
        ),
        (
            r#"{"name":"a","type":"reg","size":100000000,"offset":9,"digest":"$D"}"#,
            "at most 67108864",
        ),
        (
            r#"{"name":"a","type":"reg","size":5,"offset":9,"innerOffset":4294967295,"digest":"$D"}"#,
            "inner offset",
        ),
        (
            r#"{"name":"a","type":"reg","size":5,"offset":9,"digest":"$D"},
               {"name":"b","type":"reg","size":5,"offset":9,"innerOffset":4,"digest":"$D"}"#,
            "overlap",
        ),
        (
            r#"{"name":"a","type":"reg","size":9223372036854775807,"chunkType":"zeros"}"#,
            "chunks",
        ),
        (
            r#"{"name":"a","type":"reg","size":1,"chunkType":"ones"}"#,
            "not known",
        ),
        (r#"{"name":"a","type":"reg","size":-1}"#, "invalid value"),
        (r#"{"name":"a","type":"reg","size":1e30}"#, "floating"),
        (
            r#"{"name":"a","type":"reg","size":1e400}"#,
            "number out of range",
        ),
        (
            r#"{"name":"a","type":"dir","uid":4294967296}"#,
            "4294967296",
        ),
        (
            r#"{"name":"a","type":"dir","modtime":"yesterday"}"#,
            "modification time",
        ),
        (r#"{"name":"a","type":"symlink"}"#, "link target"),
        (r#"{"name":"a","type":"hardlink","linkName":"../b"}"#, ".."),
        (
            r#"{"name":"a","type":"dir","xattrs":{"user.a":"?"}}"#,
            "not base64",
        ),
        (r#"{"name":"a","type":"dir","xattrs":{"":""}}"#, "Linux"),
        (
            r#"{"name":"a","type":"dir","xattrs":{"u":"","u":""}}"#,
            "twice",
        ),
        (
            r#"{"name":"a","type":"dir","xattrs":{"u":"VALUE"}}"#,
            "64 KiB",
        ),
        (
            r#"{"name":"b","nameBytes":"Yf8=","type":"reg"}"#,
            "another name",
        ),
        (r#"{"name":"b","nameBytes":"?","type":"reg"}"#, "not base64"),
        (r#"{"name":"a","name":"b","type":"dir"}"#, "duplicate field"),
        (
            r#"{"name":"a","type":"dir","x":DEEP"#,
            "expected `,` or `]`",
        ),
        (r#"{"name":"a","type":"dir"},"#, "line 1"),
    ];
    for (entries, wanted) in table {
        let entries = entries
            .replace("LONG", &long)
            .replace("PATH", &path)
            .replace("DEEP", &deep)
            .replace("VALUE", &value);
        let error = parse_entries(&entries).expect_err(&entries);
        assert!(error.contains(wanted), "{entries:.300}: {error}");
    }
    for document in [
        "",
        "{}",
        "[]",
        r#"{"version":1}"#,
        r#"{"version":2,"entries":[]}"#,
        r#"{"entries":[]}"#,
        r#"{"version":1,"entries":{}}"#,
        r#"{"version":1,"entries":[],"entries":[]}"#,
        r#"{"version":1,"entries":[]} x"#,
    ] {
        assert!(
            open::parse(document.as_bytes(), Codec::Gzip, 1).is_err(),
            "{document}"
        );
    }
    let error = parse_entries(r#"{"name":"usr/bin/x","type":"socket"}"#).unwrap_err();
    assert!(error.contains("usr/bin/x"), "names the entry: {error}");
}

#[test]
fn names_that_are_not_utf8_come_back() {
    let tar = Archive::default()
        .entry(b"dir\xff/", b'5', b"", b"")
        .entry(b"dir\xff/f\xfe", b'0', b"", b"content")
        .entry(b"link", b'2', b"dir\xff/f\xfe", b"")
        .entry(b"hard", b'1', b"dir\xff/f\xfe", b"")
        .finish();
    let (entries, files) = expected(&tar);
    for format in [Format::Estargz, Format::ZstdChunked] {
        let (_, blob, layer) = written(&tar, &WriteOptions::new(format));
        let index = open_blob(&layer, &blob).unwrap();
        assert_eq!(comparable(&index.entries, true, false), entries);
        assert_eq!(contents(&index, &blob), files);
    }
}

#[test]
fn converting_twice_drops_the_first_table() {
    let tar = Archive::default().file("a", b"1").file("b", b"22").finish();
    let options = WriteOptions::new(Format::Estargz);
    let (once, blob, _) = written(&tar, &options);
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(&blob[..])
        .read_to_end(&mut plain)
        .unwrap();
    assert_eq!(written(&plain, &options).0, once);
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let tar = Archive::default()
        .file("a", b"first")
        .file("a", b"second")
        .finish();
    let (_, blob, layer) = written(&tar, &WriteOptions::new(Format::Estargz));
    let index = open_blob(&layer, &blob).unwrap();
    assert_eq!(contents(&index, &blob)[&b"a"[..]], b"second");
    let tar = Archive::default()
        .file("a", b"first")
        .entry(b"a/", b'5', b"", b"")
        .finish();
    let error = write_layer(&tar[..], Vec::new(), &WriteOptions::new(Format::Estargz)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
}

#[test]
fn a_name_of_300_bytes_is_refused() {
    let name = "n".repeat(300);
    let tar = Archive::default().file(&name, b"").finish();
    let error = write_layer(&tar[..], Vec::new(), &WriteOptions::new(Format::Estargz)).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
}

#[test]
fn a_sparse_file_of_absurd_size_is_refused() {
    let map = b"22 GNU.sparse.map=0,1\n39 GNU.sparse.size=9000000000000000000\n";
    let tar = Archive::default()
        .entry(b"x", b'x', b"", map)
        .file("huge", b"1")
        .finish();
    let error = write_layer(&tar[..], Vec::new(), &WriteOptions::new(Format::Estargz)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_files_come_back(
        files in proptest::collection::btree_map("[a-z]{1,12}", proptest::collection::vec(any::<u8>(), 0..3000), 0..20),
        chunk_size in 1u32..2000,
        zstd in any::<bool>(),
    ) {
        let mut tar = Archive::default();
        for (name, content) in &files {
            tar = tar.file(name, content);
        }
        let format = if zstd { Format::ZstdChunked } else { Format::Estargz };
        let options = WriteOptions { chunk_size: chunk_size.max(50), ..WriteOptions::new(format) };
        let (_, blob, layer) = written(&tar.finish(), &options);
        let index = open_blob(&layer, &blob).unwrap();
        let wanted: BTreeMap<Vec<u8>, Vec<u8>> =
            files.into_iter().map(|(name, content)| (name.into_bytes(), content)).collect();
        prop_assert_eq!(contents(&index, &blob), wanted);
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(json in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = open::parse(&json, Codec::Gzip, 1000);
        let _ = estargz::footer(&json);
        let _ = estargz::toc_json(&json);
        let mut tar = TarReader::new(&json[..]);
        while let Ok(Some(_)) = tar.next() {}
    }
}
