use std::{fs, path::Path};

use bytes::Bytes;

use super::*;
use crate::{
    Kind,
    oci::{Descriptor, Location, RawManifest, Reference, media_type},
    source::{Access, BlobContent, Repository, RepositoryWriter},
};

fn manifest(text: &str) -> RawManifest {
    RawManifest::new(media_type::OCI_MANIFEST, text.as_bytes().to_vec().into())
}

fn tag(text: &str) -> Location {
    Location::Tag(text.into())
}

fn index_json(root: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(root.join("index.json")).unwrap()).unwrap()
}

async fn open(root: &Path) -> Result<Location> {
    let reference = Reference::Layout {
        directory: root.to_owned(),
        name: None,
    };
    Ok(Access::default().open(&reference).await?.1)
}

#[tokio::test]
async fn a_layout_without_a_name_stands_for_its_only_image() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("new/image");
    assert_eq!(open(&root).await.unwrap_err().kind(), Kind::NotFound);
    let writer = LayoutWriter::create(&root).await.unwrap();
    assert_eq!(open(&root).await.unwrap_err().kind(), Kind::NotFound);
    let image = manifest(r#"{"schemaVersion":2}"#);
    let by_digest = Location::Digest(image.digest.clone());
    writer.put_manifest(&by_digest, &image).await.unwrap();
    assert_eq!(open(&root).await.unwrap(), by_digest);
    writer.put_manifest(&tag("a"), &image).await.unwrap();
    assert_eq!(open(&root).await.unwrap(), tag("a"));
    // Neither a referrer nor a list of them is another image.
    let subject = format!(
        r#"{{"schemaVersion":2,"subject":{{"digest":"{}"}}}}"#,
        image.digest
    );
    let referrer = manifest(&subject);
    let location = Location::Digest(referrer.digest.clone());
    writer.put_manifest(&location, &referrer).await.unwrap();
    let fallback = format!("sha256-{}", image.digest.hex());
    for name in [fallback.clone(), format!("{fallback}.sig")] {
        let list = manifest(&format!(r#"{{"schemaVersion":2,"n":"{name}"}}"#));
        writer.put_manifest(&tag(&name), &list).await.unwrap();
    }
    assert_eq!(open(&root).await.unwrap(), tag("a"));
    let second = manifest(r#"{"schemaVersion":2,"n":2}"#);
    writer.put_manifest(&tag("b"), &second).await.unwrap();
    let error = open(&root).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(
        error.to_string().ends_with("2 images in it: a, b"),
        "{error}"
    );
}

#[tokio::test]
async fn an_index_replaces_the_entries_of_its_manifests() {
    let directory = tempfile::tempdir().unwrap();
    let writer = LayoutWriter::create(directory.path()).await.unwrap();
    let child = manifest(r#"{"schemaVersion":2}"#);
    let by_digest = Location::Digest(child.digest.clone());
    writer.put_manifest(&by_digest, &child).await.unwrap();
    let mut list = index::empty();
    list.manifests.push(child.descriptor());
    let list = RawManifest::new(
        media_type::OCI_INDEX,
        serde_json::to_vec(&list).unwrap().into(),
    );
    for _ in 0..2 {
        writer.put_manifest(&tag("v1"), &list).await.unwrap();
    }
    let entries = index_json(directory.path());
    assert_eq!(entries["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(open(directory.path()).await.unwrap(), tag("v1"));
    let layout = Layout::open(directory.path()).await.unwrap();
    let found = layout.manifest(&by_digest).await.unwrap();
    assert_eq!(found.media_type, media_type::OCI_MANIFEST);
}

#[tokio::test]
async fn nothing_is_left_of_a_blob_that_was_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("image");
    let writer = LayoutWriter::create(&root).await.unwrap();
    let file = directory.path().join("file");
    fs::write(&file, b"another").unwrap();
    let descriptor = Descriptor::of("a/b", b"the one");
    let written = writer.put_blob(&descriptor, BlobContent::File(file)).await;
    assert_eq!(written.unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(fs::read_dir(root.join("blobs/sha256")).unwrap().count(), 0);
}

#[tokio::test]
async fn broken_layouts_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::write(root.join("stranger"), "").unwrap();
    let error = LayoutWriter::create(root).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    fs::remove_file(root.join("stranger")).unwrap();

    let writer = LayoutWriter::create(root).await.unwrap();
    let image = manifest(r#"{"schemaVersion":2}"#);
    writer.put_manifest(&tag("v1"), &image).await.unwrap();
    let layout = Layout::open(root).await.unwrap();
    let path = blob_path(root, &image.digest);
    fs::write(&path, r#"{"schemaVersion":3}"#).unwrap();
    let error = layout.manifest(&tag("v1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    fs::write(&path, vec![b' '; (4 << 20) + 1]).unwrap();
    let error = layout.manifest(&tag("v1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    fs::remove_file(&path).unwrap();
    let error = layout.manifest(&tag("v1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    // A digest cannot be a path.
    let traversal = r#"{"schemaVersion":2,"manifests":[{"mediaType":"a","size":1,
        "digest":"sha256:../../../../etc/passwd"}]}"#;
    for text in [traversal, "", "[]"] {
        fs::write(root.join("index.json"), text).unwrap();
        let error = layout.manifest(&tag("v1")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
    }
    fs::create_dir(&path).unwrap();
    let descriptor = Descriptor {
        digest: image.digest.clone(),
        ..Descriptor::of("a/b", b"")
    };
    let error = layout.blob(&descriptor).stream().await.err().unwrap();
    assert_eq!(error.kind(), Kind::Invalid);
}

#[tokio::test]
async fn writers_at_the_same_time_do_not_lose_tags() {
    let directory = tempfile::tempdir().unwrap();
    let mut tasks = Vec::new();
    for number in 0..16 {
        let root = directory.path().to_owned();
        tasks.push(tokio::spawn(async move {
            let writer = LayoutWriter::create(&root).await.unwrap();
            let bytes = Bytes::from(format!("blob {}", number / 2));
            let descriptor = Descriptor::of("a/b", &bytes);
            let content = BlobContent::Bytes(bytes);
            writer.put_blob(&descriptor, content).await.unwrap();
            let image = manifest(&format!(r#"{{"schemaVersion":2,"n":{number}}}"#));
            let name = tag(&format!("t{number}"));
            writer.put_manifest(&name, &image).await.unwrap();
        }));
    }
    futures::future::try_join_all(tasks).await.unwrap();
    let entries = index_json(directory.path());
    assert_eq!(entries["manifests"].as_array().unwrap().len(), 16);
}
