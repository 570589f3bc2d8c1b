use std::io::Write as _;

use bytes::Bytes;

use crate::{
    Kind,
    oci::{Descriptor, Digest, Document, Location, RawManifest, media_type},
    source::{Access, BlobContent, MemoryBlob, Place, read_verified},
};

/// A tar of no more than bytes that do not compress.
fn layer(seed: u8) -> Vec<u8> {
    (0..200_000u32)
        .map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap() ^ seed)
        .collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Manifest and blobs of an image of these layers: gzip, zstd, plain, and the first once more.
fn image(diff_ids: Option<Vec<Digest>>) -> (RawManifest, Vec<(Descriptor, Bytes)>) {
    let tars = [layer(1), layer(2), layer(3), layer(1)];
    let diff_ids = diff_ids.unwrap_or_else(|| tars.iter().map(|it| Digest::sha256(it)).collect());
    let packed = [
        (media_type::OCI_LAYER_GZIP, gzip(&tars[0])),
        (
            media_type::OCI_LAYER_ZSTD,
            zstd::encode_all(&tars[1][..], 1).unwrap(),
        ),
        (media_type::OCI_LAYER_TAR, tars[2].clone()),
        (media_type::OCI_LAYER_TAR, tars[3].clone()),
    ];
    let mut blobs = Vec::new();
    for (kind, bytes) in packed {
        blobs.push((Descriptor::of(kind, &bytes), Bytes::from(bytes)));
    }
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = Bytes::from(config.to_string());
    let config = (Descriptor::of(media_type::OCI_CONFIG, &config), config);
    let layers: Vec<&Descriptor> = blobs.iter().map(|(descriptor, _)| descriptor).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": config.0, "layers": layers,
    });
    let manifest = RawManifest::new(media_type::OCI_MANIFEST, manifest.to_string().into());
    blobs.push(config);
    (manifest, blobs)
}

async fn write(place: &str, time: u64) -> crate::Result<()> {
    let place: Place = place.parse().unwrap();
    let destination = Access::default().destination(&place, time).await?;
    let (manifest, blobs) = image(None);
    for (number, (descriptor, bytes)) in blobs.into_iter().enumerate() {
        let content = match number % 2 {
            0 => BlobContent::Bytes(bytes),
            _ => BlobContent::Source(std::sync::Arc::new(MemoryBlob::new(bytes))),
        };
        destination.writer.put_blob(&descriptor, content).await?;
    }
    let location = destination.location.clone();
    destination
        .writer
        .put_manifest(&location, &manifest)
        .await?;
    destination.commit().await
}

#[tokio::test]
async fn what_is_written_reads_back_and_is_always_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let place = |name: &str| format!("docker-archive:{}:app:1", path(name).display());
    write(&place("a"), 0).await.unwrap();
    write(&place("b"), 0).await.unwrap();
    write(&place("c"), 1).await.unwrap();
    let bytes = std::fs::read(path("a")).unwrap();
    assert_eq!(bytes, std::fs::read(path("b")).unwrap());
    assert_ne!(bytes, std::fs::read(path("c")).unwrap());
    let error = write(&place("a"), 0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("is there already"), "{error}");

    for name in ["app:1", "docker.io/library/app:1", ""] {
        let place = format!("docker-archive:{}:{name}", path("a").display());
        let place: Place = place.trim_end_matches(':').parse().unwrap();
        let (archive, location) = Access::default().open_place(&place).await.unwrap();
        let manifest = archive.manifest(&location).await.unwrap();
        let Document::Manifest(manifest) = manifest.parse().unwrap() else {
            panic!("an image")
        };
        assert_eq!(manifest.layers.len(), 4);
        assert_eq!(manifest.layers[0], manifest.layers[3]);
        for (descriptor, seed) in manifest.layers.iter().zip([1, 2, 3, 1]) {
            assert_eq!(descriptor.media_type, media_type::OCI_LAYER_TAR);
            let bytes = read_verified(&*archive, descriptor, 1 << 20).await.unwrap();
            assert_eq!(bytes, layer(seed));
        }
        let (_, blobs) = image(None);
        let config = read_verified(&*archive, &manifest.config, 1 << 20)
            .await
            .unwrap();
        assert_eq!(config, blobs[4].1);
    }
    let leftovers = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(leftovers, 3, "temporary files are gone");
}

#[tokio::test]
async fn nothing_is_there_of_what_failed() {
    let directory = tempfile::tempdir().unwrap();
    let place: Place = format!("docker-archive:{}/a", directory.path().display())
        .parse()
        .unwrap();
    let put = async |descriptor: Descriptor, content: BlobContent| {
        let destination = Access::default().destination(&place, 0).await.unwrap();
        destination
            .writer
            .put_blob(&descriptor, content)
            .await
            .unwrap_err()
    };
    let packed = Bytes::from(gzip(&layer(1)));
    let cut = packed.slice(..packed.len() / 2);
    let of = |bytes: &Bytes| Descriptor::of(media_type::OCI_LAYER_GZIP, bytes);
    let error = put(of(&cut), BlobContent::Bytes(cut.clone())).await;
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("decompressed"), "{error}");
    let lie = Descriptor {
        size: packed.len() as u64,
        ..of(&cut)
    };
    let source = std::sync::Arc::new(MemoryBlob::new(packed.clone()));
    let error = put(lie, BlobContent::Source(source)).await;
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    let mut encrypted = of(&packed);
    encrypted.media_type.push_str("+encrypted");
    let error = put(encrypted, BlobContent::Bytes(packed)).await;
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");

    let destination = Access::default().destination(&place, 0).await.unwrap();
    let wrong = vec![Digest::sha256(b""); 4];
    let (manifest, blobs) = image(Some(wrong));
    for (descriptor, bytes) in blobs {
        let content = BlobContent::Bytes(bytes);
        destination
            .writer
            .put_blob(&descriptor, content)
            .await
            .unwrap();
    }
    let location = Location::Tag("latest".into());
    let error = destination
        .writer
        .put_manifest(&location, &manifest)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    let index = RawManifest::new(
        media_type::OCI_INDEX,
        r#"{"schemaVersion":2,"manifests":[]}"#.into(),
    );
    let error = destination.writer.put_manifest(&location, &index).await;
    assert_eq!(error.unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(
        destination.commit().await.unwrap_err().kind(),
        Kind::Internal
    );
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// A tar of these files.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        if let Some(target) = name.strip_suffix("->") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            let to = std::str::from_utf8(bytes).unwrap();
            builder.append_link(&mut header, target, to).unwrap();
        } else {
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn archives_as_others_write_them() {
    let (first, second) = (layer(1), gzip(&layer(2)));
    let diff_ids = [Digest::sha256(&first), Digest::sha256(&layer(2))];
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let manifest = r#"[
        {"Config":"c.json","RepoTags":["app:1"],"Layers":["y/layer.tar","blobs/sha256/z"]},
        {"Config":"c.json","RepoTags":null,"Layers":[]}]"#;
    let good = [
        ("./x/layer.tar", &first[..]),
        ("y/layer.tar->", b"../x/layer.tar"),
        ("blobs/sha256/z", &second),
        ("c.json", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.tar");
    let open = async |bytes: Vec<u8>, name: &str| {
        std::fs::write(&path, bytes).unwrap();
        let place: Place = format!("docker-archive:{}{name}", path.display())
            .parse()
            .unwrap();
        Access::default().open_place(&place).await
    };
    let (archive, location) = open(tar(&good), ":app:1").await.unwrap();
    let Document::Manifest(manifest) = archive.manifest(&location).await.unwrap().parse().unwrap()
    else {
        panic!("an image")
    };
    let kinds: Vec<&str> = manifest
        .layers
        .iter()
        .map(|it| &it.media_type[..])
        .collect();
    assert_eq!(
        kinds,
        [media_type::OCI_LAYER_TAR, media_type::OCI_LAYER_GZIP]
    );
    let read = read_verified(&*archive, &manifest.layers[1], 1 << 20).await;
    assert_eq!(read.unwrap(), second);

    let replaced = |name: &str, with: &'static [u8]| {
        let mut files = good.to_vec();
        files.retain(|(known, _)| *known != name);
        files.push((name, with));
        tar(&files)
    };
    let mut cut = tar(&good);
    cut.truncate(100_000);
    for (bytes, name, kind, text) in [
        (tar(&good), "", Kind::Invalid, "2 images in it: app:1"),
        (tar(&good), ":app:2", Kind::NotFound, "it has app:1"),
        (tar(&good[..4]), "", Kind::Invalid, "no file manifest.json"),
        (gzip(&tar(&good)), "", Kind::Unsupported, "compressed"),
        (cut, "", Kind::Corrupt, "ends before it"),
        (b"hello".to_vec(), "", Kind::Invalid, "not a tar"),
        (
            replaced("./x/layer.tar", b"another"),
            ":app:1",
            Kind::Corrupt,
            "the configuration says",
        ),
        (replaced("c.json", b"{}"), ":app:1", Kind::Invalid, "c.json"),
        (
            replaced("manifest.json", b"{}"),
            "",
            Kind::Invalid,
            "manifest.json",
        ),
        (
            replaced("manifest.json", b"[]"),
            "",
            Kind::NotFound,
            "no image",
        ),
        (
            replaced("y/layer.tar->", b"layer.tar"),
            ":app:1",
            Kind::Invalid,
            "no file y/layer.tar",
        ),
        (
            replaced("y/layer.tar->", b"../../etc/passwd"),
            ":app:1",
            Kind::Invalid,
            "no file y/layer.tar",
        ),
    ] {
        let error = open(bytes, name).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.to_string().contains("a.tar"), "{error}");
    }
}
