//! What every source of blobs and manifests keeps to, run on each of them.

// A test that cannot go on panics, in its helpers too.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    future::{BoxFuture, try_join_all},
};
use nacre::{
    Kind,
    oci::{Descriptor, Digest, Location, RawManifest, Reference, media_type},
    source::{
        Access, BlobContent, BlobSource, BlobStream, MemoryBlob, Repository, RepositoryWriter,
        read_verified, registry::Options, stream_verified,
    },
};
use support::{
    docker_registry::DockerRegistry,
    registry::{Auth, FakeRegistry, Setup},
};

/// Bytes without a short period, so that an offset mistaken for another shows.
fn content(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

async fn collect(source: &dyn BlobSource) -> nacre::Result<Vec<u8>> {
    let pieces: Vec<Bytes> = source.stream().await?.try_collect().await?;
    Ok(pieces.concat())
}

/// Reads ranges and checks that they come whole and in order.
async fn read_ranges(source: &dyn BlobSource, content: &Bytes, ranges: &[std::ops::Range<usize>]) {
    let wanted = ranges.iter();
    let wanted = wanted.map(|range| range.start as u64..range.end as u64);
    let pieces = source.read_ranges(wanted.collect()).await.unwrap();
    let pieces: Vec<(u64, Bytes)> = pieces.try_collect().await.unwrap();
    let places = pieces.iter().flat_map(|(at, piece)| {
        let start = usize::try_from(*at).unwrap();
        start..start + piece.len()
    });
    let places: Vec<usize> = places.collect();
    let want: Vec<usize> = ranges.iter().cloned().flatten().collect();
    assert!(places == want, "{ranges:?}");
    let bytes: Vec<Bytes> = pieces.into_iter().map(|(_, piece)| piece).collect();
    let want: Vec<&[u8]> = ranges.iter().map(|range| &content[range.clone()]).collect();
    assert!(bytes.concat() == want.concat(), "{ranges:?}");
}

fn kind<T>(result: nacre::Result<T>) -> Option<Kind> {
    result.err().map(|error| error.kind())
}

/// The contract of [`BlobSource`].
async fn blob_contract(source: Arc<dyn BlobSource>, content: &Bytes) {
    let size = content.len();
    assert_eq!(source.size(), size as u64);
    assert_eq!(*source.digest(), Digest::sha256(content));
    let mut edges = vec![
        0,
        1,
        2,
        511,
        512,
        size / 3,
        size / 2,
        size.saturating_sub(1),
        size,
    ];
    edges.retain(|edge| *edge <= size);
    for start in &edges {
        for end in edges.iter().filter(|end| *end >= start) {
            let read = source.read_at(*start as u64..*end as u64).await.unwrap();
            assert!(
                read == content[*start..*end],
                "bytes {start}..{end} of {size}"
            );
        }
    }
    let over = size as u64 + 1;
    for (start, end) in [(0, over), (over, over), (1, 0), (0, u64::MAX)] {
        let range = std::ops::Range { start, end };
        let read = source.read_at(range).await;
        assert_eq!(kind(read), Some(Kind::Invalid), "bytes {start}..{end}");
    }
    assert!(collect(&*source).await.unwrap() == *content);
    let verified: Vec<Bytes> = stream_verified(Arc::clone(&source))
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert!(verified.concat() == *content);
    // Every other run between two edges, and all of them.
    edges.sort_unstable();
    edges.dedup();
    let runs: Vec<_> = edges.windows(2).map(|pair| pair[0]..pair[1]).collect();
    read_ranges(&*source, content, &runs).await;
    let apart: Vec<_> = runs.iter().step_by(2).cloned().collect();
    read_ranges(&*source, content, &apart).await;
    read_ranges(&*source, content, &[]).await;
    for wrong in [vec![0..1, 1..over], vec![1..1, 0..1]] {
        let read = source.read_ranges(wrong.clone()).await;
        assert!(read.is_err() || size == 0, "{wrong:?}");
    }
    let step = (size / 16).max(1);
    let reads = (0..size).step_by(step).map(|start| {
        let end = (start + step).min(size);
        let read = source.read_at(start as u64..end as u64);
        async move { read.await.map(|bytes| bytes == content[start..end]) }
    });
    let equal = try_join_all(reads).await.unwrap();
    assert!(equal.iter().all(|equal| *equal), "reads at the same time");
}

fn image(config: &Descriptor, layers: &[Descriptor], more: &serde_json::Value) -> RawManifest {
    let mut document = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": config,
        "layers": layers,
    });
    for (key, value) in more.as_object().unwrap() {
        document[key] = value.clone();
    }
    let bytes = serde_json::to_vec(&document).unwrap();
    RawManifest::new(media_type::OCI_MANIFEST, bytes.into())
}

fn tag(text: &str) -> Location {
    Location::Tag(text.into())
}

async fn put(writer: &dyn RepositoryWriter, bytes: &Bytes) -> Descriptor {
    let descriptor = Descriptor::of(media_type::OCI_LAYER_GZIP, bytes);
    let content = BlobContent::Bytes(bytes.clone());
    writer.put_blob(&descriptor, content).await.unwrap();
    descriptor
}

/// The contract of [`RepositoryWriter`] and [`Repository`], in the place that `reference` names.
async fn repository_contract(access: &Access, reference: &str) {
    let reference: Reference = reference.parse().unwrap();
    let (writer, location) = access.create(&reference).await.unwrap();
    assert_eq!(location, tag("v1"));
    let config = put(&*writer, &Bytes::from_static(b"{}")).await;
    let layers = blobs(&*writer).await;
    let first = image(&config, &layers, &serde_json::json!({}));
    writer.put_manifest(&location, &first).await.unwrap();

    let (repository, location) = access.open(&reference).await.unwrap();
    let repository = &*repository;
    let by_tag = repository.manifest(&location).await.unwrap();
    assert_eq!(by_tag.bytes, first.bytes);
    assert_eq!(by_tag.digest, first.digest);
    assert_eq!(by_tag.media_type, media_type::OCI_MANIFEST);
    let by_digest = Location::Digest(first.digest.clone());
    let found = repository.manifest(&by_digest).await.unwrap();
    assert_eq!(found.bytes, first.bytes);
    found.parse().unwrap();
    assert!(repository.traffic().snapshot().requests >= 2);
    assert!(repository.traffic().snapshot().bytes >= 2 * first.bytes.len() as u64);

    for missing in [tag("none"), Location::Digest(Digest::sha256(b"none"))] {
        let error = repository.manifest(&missing).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
        assert!(error.to_string().contains(&repository.name()), "{error}");
    }
    lying_descriptors(repository, &layers[2]).await;
    tags_move(&*writer, repository, &config, &first).await;
    referrers(&*writer, repository, &config, &first).await;
}

/// Writes blobs of many sizes, from memory and from files, and reads them back.
async fn blobs(writer: &dyn RepositoryWriter) -> Vec<Descriptor> {
    let directory = tempfile::tempdir().unwrap();
    let mut layers = Vec::new();
    for length in [1, 4096, 700_001] {
        let bytes = content(length);
        let descriptor = put(writer, &bytes).await;
        assert_eq!(descriptor, put(writer, &bytes).await, "written again");
        layers.push(descriptor);
        let bytes = content(length + 1);
        let file = directory.path().join("blob");
        std::fs::write(&file, &bytes).unwrap();
        let descriptor = Descriptor::of(media_type::OCI_LAYER_GZIP, &bytes);
        let from_file = BlobContent::File(file);
        writer.put_blob(&descriptor, from_file).await.unwrap();
        layers.push(descriptor);
        let streamed = MemoryBlob::new(content(length + 2));
        let descriptor = Descriptor {
            size: streamed.size(),
            digest: streamed.digest().clone(),
            ..Descriptor::of(media_type::OCI_LAYER_GZIP, b"")
        };
        for _ in 0..2 {
            let from_source = BlobContent::Source(Arc::new(MemoryBlob::new(content(length + 2))));
            writer.put_blob(&descriptor, from_source).await.unwrap();
        }
    }
    let lie = Descriptor::of("a/b", b"what was meant");
    let file = directory.path().join("lie");
    std::fs::write(&file, b"what was given").unwrap();
    let wrong = [
        BlobContent::Bytes(Bytes::from_static(b"what was given")),
        BlobContent::Bytes(Bytes::from_static(b"shorter")),
        BlobContent::File(file),
        BlobContent::Source(Arc::new(MemoryBlob::new(Bytes::from_static(
            b"what was given",
        )))),
    ];
    for content in wrong {
        let written = writer.put_blob(&lie, content).await;
        assert_eq!(kind(written), Some(Kind::Corrupt));
    }
    // What the stream ends with is what the caller is told, whole as its bytes may look.
    let ends = BlobContent::Source(Arc::new(Ends(MemoryBlob::new("what was meant".into()))));
    let written = writer.put_blob(&lie, ends).await.unwrap_err();
    assert_eq!(written.kind(), Kind::Corrupt, "{written}");
    assert!(written.to_string().contains("said so"), "{written}");
    layers
}

/// A blob whose stream ends with an error after its bytes.
#[derive(Debug)]
struct Ends(MemoryBlob);

impl BlobSource for Ends {
    fn digest(&self) -> &Digest {
        self.0.digest()
    }
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, range: std::ops::Range<u64>) -> BoxFuture<'_, nacre::error::Result<Bytes>> {
        self.0.read_at(range)
    }
    fn stream(&self) -> BoxFuture<'_, nacre::error::Result<BlobStream>> {
        Box::pin(async {
            let error = nacre::error::Error::corrupt("the reader said so");
            let half = self.0.read_at(0..self.0.size() / 2).await?;
            Ok(futures::stream::iter([Ok(half), Err(error)]).boxed())
        })
    }
}

/// Blobs that are not there or of another size than said.
async fn lying_descriptors(repository: &dyn Repository, real: &Descriptor) {
    let absent = Descriptor::of("a/b", b"what was meant");
    let blob = repository.blob(&absent);
    assert_eq!(kind(blob.read_at(0..1).await), Some(Kind::NotFound));
    assert_eq!(kind(collect(&*blob).await), Some(Kind::NotFound));
    for size in [real.size + 7, real.size - 7] {
        let lie = Descriptor {
            size,
            ..real.clone()
        };
        let blob = repository.blob(&lie);
        let tail = blob.read_at(size - 5..size).await;
        assert_eq!(kind(tail), Some(Kind::Corrupt), "{size} for {}", real.size);
        let whole = read_verified(repository, &lie, 1 << 20).await;
        assert_eq!(kind(whole), Some(Kind::Corrupt), "{size} for {}", real.size);
    }
    let limited = read_verified(repository, real, 10).await;
    assert_eq!(kind(limited), Some(Kind::Invalid));
    for length in [1, 4096, 700_001_usize] {
        for bytes in [content(length), content(length + 1)] {
            let blob = repository.blob(&Descriptor::of("a/b", &bytes));
            blob_contract(blob, &bytes).await;
        }
    }
}

async fn tags_move(
    writer: &dyn RepositoryWriter,
    repository: &dyn Repository,
    config: &Descriptor,
    first: &RawManifest,
) {
    let more = serde_json::json!({"annotations": {"n": "2"}});
    let second = image(config, &[], &more);
    writer.put_manifest(&tag("v1"), &second).await.unwrap();
    let found = repository.manifest(&tag("v1")).await.unwrap();
    assert_eq!(found.digest, second.digest);
    let first = Location::Digest(first.digest.clone());
    repository.manifest(&first).await.unwrap();
    let error = writer.put_manifest(&first, &second).await;
    assert_eq!(kind(error), Some(Kind::Invalid), "by the digest of another");
}

async fn referrers(
    writer: &dyn RepositoryWriter,
    repository: &dyn Repository,
    config: &Descriptor,
    subject: &RawManifest,
) {
    let none = repository.referrers(&subject.digest).await.unwrap();
    assert!(none.is_empty());
    let mut written = Vec::new();
    for number in 0..3 {
        let more = serde_json::json!({
            "artifactType": format!("application/vnd.test.v{number}"),
            "subject": subject.descriptor(),
            "annotations": {"number": number.to_string()},
        });
        let referrer = image(config, &[], &more);
        let location = Location::Digest(referrer.digest.clone());
        writer.put_manifest(&location, &referrer).await.unwrap();
        writer.put_manifest(&location, &referrer).await.unwrap();
        written.push(referrer);
    }
    let mut found = repository.referrers(&subject.digest).await.unwrap();
    found.sort_by(|a, b| a.artifact_type.cmp(&b.artifact_type));
    assert_eq!(found.len(), 3);
    for (number, (found, written)) in found.iter().zip(&written).enumerate() {
        assert_eq!(found.digest, written.digest);
        assert_eq!(found.size, written.bytes.len() as u64);
        assert_eq!(found.media_type, media_type::OCI_MANIFEST);
        assert_eq!(found.annotations["number"], number.to_string());
        let kind = format!("application/vnd.test.v{number}");
        assert_eq!(found.artifact_type.as_deref(), Some(kind.as_str()));
    }
    let other = repository.referrers(&Digest::sha256(b"other")).await;
    assert!(other.unwrap().is_empty());
}

#[tokio::test]
async fn memory() {
    for length in [0, 1, 513, 70_000] {
        let bytes = content(length);
        blob_contract(Arc::new(MemoryBlob::new(bytes.clone())), &bytes).await;
    }
}

#[tokio::test]
async fn layout() {
    let directory = tempfile::tempdir().unwrap();
    let reference = format!("oci:{}/image:v1", directory.path().display());
    repository_contract(&Access::default(), &reference).await;
}

async fn fake(setup: Setup) {
    let registry = FakeRegistry::start_with(setup).await;
    let reference = registry.reference("some/repo", "v1");
    repository_contract(&Access::default(), &reference).await;
}

#[tokio::test]
async fn fake_registry() {
    fake(Setup::default()).await;
}

#[tokio::test]
async fn fake_registry_with_paged_referrers_redirects_and_tokens() {
    fake(Setup {
        page: 1,
        redirect: true,
        auth: Auth::Bearer {
            login: None,
            life: Some(300),
        },
        ..Setup::default()
    })
    .await;
}

#[tokio::test]
async fn fake_registry_without_referrers_api() {
    fake(Setup {
        referrers: false,
        ..Setup::default()
    })
    .await;
}

#[tokio::test]
async fn docker_registry() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let reference = format!("{}/some/repo:v1", registry.host());
    repository_contract(&Access::default(), &reference).await;
}

#[tokio::test]
async fn docker_registry_tls_with_a_private_authority() {
    let Some(registry) = DockerRegistry::start_tls() else {
        return;
    };
    let reference = format!("{}/some/repo:v1", registry.host());
    let access = Access::new(Options {
        ca_files: vec![registry.ca().unwrap().to_owned()],
        ..Options::default()
    });
    repository_contract(&access, &reference).await;
}

/// A mirror that has nothing, before the registry that is written to.
#[tokio::test]
async fn two_hosts() {
    let (mirror, server) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("r.example_5000_");
    std::fs::create_dir(&own).unwrap();
    let hosts = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        server.host(),
        mirror.host()
    );
    std::fs::write(own.join("hosts.toml"), hosts).unwrap();
    let access = Access::new(Options {
        certs_dir: Some(directory.path().to_owned()),
        ..Options::default()
    });
    repository_contract(&access, "r.example:5000/some/repo:v1").await;
    assert!(!mirror.lines().is_empty());
    assert!(mirror.lines().iter().all(|line| line.starts_with("GET ")));
}
