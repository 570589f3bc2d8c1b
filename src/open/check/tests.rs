use std::{ops::Range, sync::Mutex};

use futures::future::BoxFuture;

use super::*;
use crate::{
    index::{
        self, Binding, Dialect,
        write::{Format, WriteOptions, Written, write_layer},
    },
    oci::{Descriptor, media_type},
    source::{BlobStream, MemoryBlob},
};

fn tar() -> Vec<u8> {
    let mut tar = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(::tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    tar.append_data(&mut header, "d/", &[][..]).unwrap();
    let mut header = ::tar::Header::new_gnu();
    header.set_mode(0o4755);
    header.set_uid(7);
    header.set_size(9000);
    tar.append_data(&mut header, "d/file", &[b'x'; 9000][..])
        .unwrap();
    for (kind, name, target) in [
        (::tar::EntryType::Symlink, "d/symlink", "../file"),
        (::tar::EntryType::Link, "hard", "d/file"),
    ] {
        let mut header = ::tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        tar.append_link(&mut header, name, target).unwrap();
    }
    tar.into_inner().unwrap()
}

fn made(format: Format) -> (Arc<MemoryBlob>, Written) {
    let mut blob = Vec::new();
    let options = WriteOptions {
        chunk_size: 4096,
        dialect: Dialect::Stargz,
        ..WriteOptions::new(format)
    };
    let written = write_layer(&tar()[..], &mut blob, &options).unwrap();
    (Arc::new(MemoryBlob::new(blob.into())), written)
}

async fn index_of(blob: &MemoryBlob, written: &Written) -> LayerIndex {
    let mut layer = Descriptor::of(written.media_type, b"");
    layer.size = written.size;
    layer.annotations = written.annotations.clone();
    let binding = Binding::of(&layer).unwrap().unwrap();
    index::open(blob, &binding).await.unwrap().into_inner()
}

async fn checked(
    blob: Arc<MemoryBlob>,
    written: &Written,
    diff_id: &Digest,
    index: LayerIndex,
) -> Result<Checked> {
    let kind = media_type::layer_kind(written.media_type).unwrap();
    check(blob, kind.compression, diff_id.clone(), index, 0, None).await
}

#[tokio::test]
async fn a_layer_is_what_its_image_claims() {
    for format in [Format::Estargz, Format::ZstdChunked] {
        let (blob, written) = made(format);
        let index = index_of(&blob, &written).await;
        let found = checked(Arc::clone(&blob), &written, &written.diff_id, index.clone());
        assert_eq!(found.await.unwrap(), Checked::Same, "{format:?}");
        let other = Digest::sha256(b"of another layer");
        let found = checked(blob, &written, &other, index).await.unwrap();
        let Checked::Other(why) = found else {
            panic!("{format:?}: {found:?}")
        };
        assert!(why.contains(&other.to_string()), "{why}");
    }
}

type Lie = fn(&mut LayerIndex);

#[tokio::test]
async fn an_index_that_lies_about_the_tar_is_found_though_the_diff_id_is_right() {
    fn file(index: &mut LayerIndex) -> &mut Entry {
        let found = { index.entries.iter_mut() }.find(|it| *it.path == *b"d/file");
        found.unwrap()
    }
    let lies: [(&str, Lie); 9] = [
        ("content", |index| index.table.chunks[1].digest[0] ^= 1),
        ("mode", |index| file(index).mode = 0o755),
        ("owner", |index| file(index).uid = 0),
        ("extended attribute", |index| {
            let capability = (b"security.capability"[..].into(), b"x"[..].into());
            file(index).xattrs.push(capability);
        }),
        ("type", |index| file(index).kind = EntryKind::Fifo),
        ("target", |index| {
            let link = { index.entries.iter_mut() }.find(|it| *it.path == *b"hard");
            link.unwrap().kind = EntryKind::Hardlink(b"d"[..].into());
        }),
        ("target", |index| {
            let link = { index.entries.iter_mut() }.find(|it| *it.path == *b"d/symlink");
            link.unwrap().kind = EntryKind::Symlink(b"/etc"[..].into());
        }),
        ("is not in its index", |index| {
            index.entries.retain(|it| *it.path != *b"d/file");
        }),
        ("not in its tar", |index| {
            let mut added = file(index).clone();
            added.path = b"d/added"[..].into();
            index.entries.push(added);
        }),
    ];
    let (blob, written) = made(Format::ZstdChunked);
    let honest = index_of(&blob, &written).await;
    for (said, lie) in lies {
        let mut index = honest.clone();
        lie(&mut index);
        let found = checked(Arc::clone(&blob), &written, &written.diff_id, index).await;
        match found.unwrap() {
            Checked::Other(why) => assert!(why.contains(said), "{said}: {why}"),
            Checked::Same => panic!("{said}"),
        }
    }
}

/// A blob whose stream fails at its end, as one does whose digest is another.
#[derive(Debug)]
struct Broken(Arc<MemoryBlob>, Mutex<usize>);

impl BlobSource for Broken {
    fn digest(&self) -> &Digest {
        self.0.digest()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.0.read_at(range)
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(async move {
            *self.1.lock().unwrap() += 1;
            let failed = futures::stream::once(async { Err(Error::corrupt("digest mismatch")) });
            Ok(self.0.stream().await?.chain(failed).boxed())
        })
    }
}

#[tokio::test]
async fn a_blob_that_is_not_the_one_tells_nothing() {
    let (blob, written) = made(Format::Estargz);
    let index = index_of(&blob, &written).await;
    let kind = media_type::layer_kind(written.media_type).unwrap();
    let broken = Arc::new(Broken(blob, Mutex::default()));
    let source = Arc::clone(&broken) as Arc<dyn BlobSource>;
    let diff_id = Digest::sha256(b"another");
    let error = check(source, kind.compression, diff_id, index, 0, None).await;
    assert_eq!(error.unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(*broken.1.lock().unwrap(), 1);
}

/// Of SOCI: a layer, and the index that SOCI made of it.
fn of_soci() -> (Arc<MemoryBlob>, Digest, LayerIndex) {
    let layer = &include_bytes!("../../../tests/data/index/layer.tar.gz")[..];
    let ztoc = include_bytes!("../../../tests/data/index/layer.ztoc");
    let mut tar = Vec::new();
    let mut decoder = flate2::read::MultiGzDecoder::new(layer);
    decoder.read_to_end(&mut tar).unwrap();
    let index = index::parse_ztoc(ztoc, layer.len() as u64).unwrap();
    let blob = MemoryBlob::new(Bytes::from_static(layer));
    (Arc::new(blob), Digest::sha256(&tar), index)
}

#[tokio::test]
async fn spans_are_held_against_the_tar() {
    let lies: [(&str, Lie); 6] = [
        ("place", |index| {
            let first = &mut index.table.chunks[0];
            let index::Place::Unit { offset, .. } = &mut first.place else {
                panic!("no holes");
            };
            *offset += 512;
        }),
        ("another digest", |index| index.table.spans[1][0] ^= 1),
        ("span 1 of its index", |index| {
            let point = &index.table.checkpoints.list[1];
            let mut window = point.window().unwrap();
            window.iter_mut().for_each(|byte| *byte ^= 0x15);
            let (offset, bits, plain) = (point.offset, point.bits, point.plain);
            index.table.checkpoints.list[1] =
                codec::Checkpoint::new(offset, bits, plain, &window).unwrap();
        }),
        ("beyond its tar", |index| {
            index.table.checkpoints.plain_size += 1 << 20;
        }),
        ("mode", |index| {
            let file = { index.entries.iter_mut() }.find(|it| *it.path == *b"usr/noise");
            file.unwrap().mode = 0o755;
        }),
        ("is not in its index", |index| {
            index.entries.retain(|it| *it.path != *b"etc/hello");
        }),
    ];
    let (blob, diff_id, honest) = of_soci();
    let check_it = |index: LayerIndex| {
        let (blob, diff_id) = (Arc::clone(&blob), diff_id.clone());
        check(blob, Compression::Gzip, diff_id, index, 0, None)
    };
    assert!(honest.table.spans.len() > 1);
    assert_eq!(check_it(honest.clone()).await.unwrap(), Checked::Same);
    for (said, lie) in lies {
        let mut index = honest.clone();
        lie(&mut index);
        match check_it(index).await.unwrap() {
            Checked::Other(why) => assert!(why.contains(said), "{said}: {why}"),
            Checked::Same => panic!("{said}"),
        }
    }
}
