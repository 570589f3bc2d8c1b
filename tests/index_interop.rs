//! Lazy layers against the other side's tools: containerd's stargz package and containers/storage (as
//! small Go programs, `tests/go`), skopeo and umoci; and whole images through `image::convert`.

// A failed step is a failed test.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use nacre::{
    Error, Kind, Result, codec,
    image::convert::{Options, Platforms, Progress, Report, convert},
    index::{
        Binding, Dialect, EntryKind, LayerIndex, Place, open,
        write::{Format, WriteOptions, write_layer},
    },
    oci::{
        Descriptor, Digest, Document, ImageConfig, Location, Manifest, Platform, RawManifest,
        media_type,
    },
    source::{BlobContent, BlobSource, MemoryBlob, Repository, RepositoryWriter, Traffic},
};
use serde_json::json;

/// An OCI layout directory, the simplest thing that tools and traits both understand.
#[derive(Debug)]
struct Layout(PathBuf);

impl Layout {
    fn new(directory: PathBuf) -> Self {
        std::fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        std::fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        std::fs::write(
            directory.join("index.json"),
            r#"{"schemaVersion":2,"manifests":[]}"#,
        )
        .unwrap();
        Self(directory)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.0.join("blobs/sha256").join(digest.hex())
    }

    fn put(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(media_type, bytes);
        std::fs::write(self.path(&descriptor.digest), bytes).unwrap();
        descriptor
    }

    fn get(&self, digest: &Digest) -> Vec<u8> {
        std::fs::read(self.path(digest)).unwrap()
    }

    fn index(&self) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.0.join("index.json")).unwrap()).unwrap()
    }

    fn tag(&self, name: &str, manifest: &RawManifest) {
        let mut index = self.index();
        let mut descriptor = manifest.descriptor();
        descriptor
            .annotations
            .insert("org.opencontainers.image.ref.name".into(), name.into());
        let all = index["manifests"].as_array_mut().unwrap();
        all.push(serde_json::to_value(descriptor).unwrap());
        std::fs::write(self.0.join("index.json"), index.to_string()).unwrap();
    }

    fn image(&self, digest: &Digest) -> (Manifest, serde_json::Value) {
        let raw = RawManifest::new(media_type::OCI_MANIFEST, self.get(digest).into());
        let Document::Manifest(manifest) = raw.parse().unwrap() else {
            panic!("an image");
        };
        let config = serde_json::from_slice(&self.get(&manifest.config.digest)).unwrap();
        (*manifest, config)
    }
}

impl Repository for Layout {
    fn name(&self) -> String {
        format!("oci:{}", self.0.display())
    }
    fn manifest<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<RawManifest>> {
        async move {
            let (digest, media) = match location {
                Location::Digest(digest) => (digest.clone(), media_type::OCI_MANIFEST.to_owned()),
                Location::Tag(tag) => {
                    let index = self.index();
                    let found = index["manifests"].as_array().unwrap().iter().find(|d| {
                        d["annotations"]["org.opencontainers.image.ref.name"] == tag.as_str()
                    });
                    let found = found.ok_or_else(|| Error::not_found(tag.clone()))?;
                    let descriptor: Descriptor = serde_json::from_value(found.clone()).unwrap();
                    (descriptor.digest, descriptor.media_type)
                }
            };
            Ok(RawManifest::new(media, self.get(&digest).into()))
        }
        .boxed()
    }
    fn blob(&self, descriptor: &Descriptor) -> Arc<dyn BlobSource> {
        // The digest is that of what is on disk: a changed file shows as such.
        Arc::new(Named(
            descriptor.digest.clone(),
            MemoryBlob::new(self.get(&descriptor.digest).into()),
        ))
    }
    fn referrers<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<Vec<Descriptor>>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn traffic(&self) -> Arc<Traffic> {
        Arc::default()
    }
}

#[derive(Debug)]
struct Named(Digest, MemoryBlob);

impl BlobSource for Named {
    fn digest(&self) -> &Digest {
        &self.0
    }
    fn size(&self) -> u64 {
        self.1.size()
    }
    fn read_at(&self, range: std::ops::Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.1.read_at(range)
    }
    fn stream(&self) -> BoxFuture<'_, Result<nacre::source::BlobStream>> {
        self.1.stream()
    }
}

impl RepositoryWriter for Layout {
    fn name(&self) -> String {
        Repository::name(self)
    }
    fn put_blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        content: BlobContent,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            let bytes = match content {
                BlobContent::Bytes(bytes) => bytes.to_vec(),
                BlobContent::File(path) => std::fs::read(path).unwrap(),
                BlobContent::Source(_) => panic!("layers are converted by way of files"),
            };
            assert!(descriptor.digest.matches(&bytes));
            assert_eq!(descriptor.size, bytes.len() as u64);
            std::fs::write(self.path(&descriptor.digest), bytes).unwrap();
            Ok(())
        }
        .boxed()
    }
    fn put_manifest<'a>(
        &'a self,
        location: &'a Location,
        manifest: &'a RawManifest,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            std::fs::write(self.path(&manifest.digest), &manifest.bytes).unwrap();
            if let Location::Tag(tag) = location {
                self.tag(tag, manifest);
            }
            Ok(())
        }
        .boxed()
    }
}

fn data(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/index")
        .join(name);
    std::fs::read(path).unwrap()
}

fn sample_tar() -> Vec<u8> {
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(&data("layer.tar.gz")[..])
        .read_to_end(&mut tar)
        .unwrap();
    tar
}

/// An image of two layers: gzip with Docker's media type, and uncompressed.
fn source_image(layout: &Layout, architecture: &str) -> RawManifest {
    let tar = sample_tar();
    let first = layout.put(
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        &data("layer.tar.gz"),
    );
    let second_tar = one_file("etc/architecture", architecture.as_bytes());
    let second = layout.put("application/vnd.oci.image.layer.v1.tar", &second_tar);
    let config = json!({
        "architecture": architecture, "os": "linux", "author": "somebody",
        "config": {"Env": ["A=b"], "Cmd": ["sh"]},
        "history": [{"created_by": "one"}, {"created_by": "two"}],
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&tar), Digest::sha256(&second_tar)]},
        "x-unknown": [1, 2.5, null],
    });
    let config = layout.put(
        "application/vnd.docker.container.image.v1+json",
        config.to_string().as_bytes(),
    );
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::DOCKER_MANIFEST,
        "config": config, "layers": [first, second], "annotations": {"a": "b"},
    });
    let raw = RawManifest::new(media_type::DOCKER_MANIFEST, manifest.to_string().into());
    layout.put(media_type::DOCKER_MANIFEST, &raw.bytes);
    raw
}

fn one_file(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(1);
    header.set_cksum();
    builder.append_data(&mut header, name, content).unwrap();
    builder.into_inner().unwrap()
}

fn run_convert(
    from: &Layout,
    to: &Layout,
    change: impl FnOnce(&mut Options),
    format: Format,
) -> Result<Report> {
    let temporary = tempfile::tempdir().unwrap();
    let mut options = Options::new(format, temporary.path().to_owned());
    options.platforms = Platforms::One(Platform::parse("linux/amd64").unwrap());
    change(&mut options);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let seen = std::sync::atomic::AtomicU64::new(0);
    let report = runtime.block_on(convert(
        from,
        &Location::Tag("in".into()),
        to,
        &Location::Tag("out".into()),
        &options,
        &|progress| {
            if let Progress::Read(bytes) = progress {
                seen.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
            }
        },
    ))?;
    let total: u64 = report.layers.iter().map(|layer| layer.from_size).sum();
    assert_eq!(seen.into_inner(), total, "progress counts every byte");
    let left = std::fs::read_dir(temporary.path()).unwrap().count();
    assert_eq!(left, 0, "temporary files are gone");
    Ok(report)
}

fn open_layer(layer: &Descriptor, blob: &[u8]) -> LayerIndex {
    let binding = Binding::of(layer).unwrap().expect("a binding");
    let source = MemoryBlob::new(Bytes::copy_from_slice(blob));
    futures::executor::block_on(open(&source, &binding))
        .unwrap()
        .into_inner()
}

/// `path size sha256` of every file, through units and chunks.
fn listing(index: &LayerIndex, blob: &[u8]) -> BTreeMap<String, String> {
    let needs = index.table.plain_lengths();
    let mut lines = BTreeMap::new();
    for entry in &index.entries {
        let EntryKind::Regular { size, chunks } = &entry.kind else {
            continue;
        };
        let mut file = Vec::new();
        for chunk in &index.table.chunks[chunks.start as usize..chunks.end as usize] {
            match chunk.place {
                Place::Zeros => file.resize(file.len() + chunk.length as usize, 0),
                Place::Unit { unit, .. } => {
                    let it = index.table.units[unit as usize];
                    let packed = &blob[usize::try_from(it.offset).unwrap()..][..it.length as usize];
                    let plain =
                        codec::decode(it.codec, packed, needs[unit as usize] as usize).unwrap();
                    file.extend_from_slice(index.table.chunk_bytes(&plain, chunk).unwrap());
                }
            }
        }
        let path = String::from_utf8(entry.path.to_vec()).unwrap();
        let line = format!("{path} {size} {}", Digest::sha256(&file).hex());
        lines.insert(path, line);
    }
    lines
}

#[test]
fn images_are_converted_the_same_every_time() {
    let directory = tempfile::tempdir().unwrap();
    let from = Layout::new(directory.path().join("from"));
    from.tag("in", &source_image(&from, "amd64"));
    for format in [Format::Estargz, Format::ZstdChunked] {
        let to = Layout::new(directory.path().join(format!("{format:?}")));
        let report = run_convert(&from, &to, |_| {}, format).unwrap();
        let again = run_convert(&from, &to, |o| o.threads = 1, format).unwrap();
        assert_eq!(report.digest, again.digest);
        let (manifest, config) = to.image(&report.digest);
        assert_eq!(
            manifest.media_type.as_deref(),
            Some(media_type::OCI_MANIFEST)
        );
        assert_eq!(manifest.annotations["a"], "b");
        assert_eq!(manifest.config.media_type, media_type::OCI_CONFIG);
        let mut kept = from_config(&from);
        kept["rootfs"] = config["rootfs"].clone();
        assert_eq!(config, kept, "all but the diff ids is as it was");
        let parsed: ImageConfig = serde_json::from_value(config).unwrap();
        for (layer, diff_id) in manifest.layers.iter().zip(&parsed.rootfs.diff_ids) {
            let blob = to.get(&layer.digest);
            let kind = media_type::layer_kind(&layer.media_type).unwrap();
            let mut plain = Vec::new();
            codec::reader(kind.compression, std::io::Cursor::new(blob.clone()))
                .unwrap()
                .read_to_end(&mut plain)
                .unwrap();
            assert_eq!(Digest::sha256(&plain), *diff_id);
            assert!(!listing(&open_layer(layer, &blob), &blob).is_empty());
        }
        // What is lazy already is copied.
        let lazy = Layout(to.0.clone());
        lazy.tag(
            "in",
            &RawManifest::new(media_type::OCI_MANIFEST, to.get(&report.digest).into()),
        );
        let copied = run_convert(&lazy, &to, |_| {}, format).unwrap();
        assert!(copied.layers.iter().all(|layer| layer.copied));
        assert_eq!(copied.digest, report.digest);
    }
}

fn from_config(layout: &Layout) -> serde_json::Value {
    let index = layout.index();
    let digest: Digest = serde_json::from_value(index["manifests"][0]["digest"].clone()).unwrap();
    layout.image(&digest).1
}

#[test]
fn all_images_of_an_index() {
    let directory = tempfile::tempdir().unwrap();
    let from = Layout::new(directory.path().join("from"));
    let mut manifests = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let mut descriptor = source_image(&from, architecture).descriptor();
        descriptor.platform = Some(Platform::parse(&format!("linux/{architecture}")).unwrap());
        manifests.push(descriptor);
    }
    let list =
        json!({"schemaVersion": 2, "mediaType": media_type::DOCKER_LIST, "manifests": manifests});
    let list = RawManifest::new(media_type::DOCKER_LIST, list.to_string().into());
    from.put(media_type::DOCKER_LIST, &list.bytes);
    from.tag("in", &list);
    let to = Layout::new(directory.path().join("to"));
    let report = run_convert(
        &from,
        &to,
        |o| o.platforms = Platforms::All,
        Format::Estargz,
    )
    .unwrap();
    assert_eq!(report.media_type, media_type::OCI_INDEX);
    assert_eq!(report.layers.len(), 4);
    let raw = RawManifest::new(media_type::OCI_INDEX, to.get(&report.digest).into());
    let Document::Index(index) = raw.parse().unwrap() else {
        panic!("an index");
    };
    let arm = index
        .choose(&Platform::parse("linux/arm64").unwrap())
        .unwrap();
    assert_eq!(to.image(&arm.digest).1["architecture"], "arm64");
    let one = run_convert(&from, &to, |_| {}, Format::Estargz).unwrap();
    assert_eq!(to.image(&one.digest).1["architecture"], "amd64");
}

#[test]
fn what_cannot_be_converted() {
    let directory = tempfile::tempdir().unwrap();
    let from = Layout::new(directory.path().join("from"));
    let to = Layout::new(directory.path().join("to"));
    let raw = source_image(&from, "amd64");
    let text = String::from_utf8(raw.bytes.to_vec()).unwrap();
    let encrypted = text.replace(
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+encrypted",
    );
    from.tag(
        "in",
        &RawManifest::new(media_type::DOCKER_MANIFEST, encrypted.clone().into()),
    );
    from.put(media_type::DOCKER_MANIFEST, encrypted.as_bytes());
    let error = run_convert(&from, &to, |_| {}, Format::Estargz).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.hint().unwrap().contains("nacre image decrypt"));

    // A layer that is not what the manifest names.
    let from = Layout::new(directory.path().join("changed"));
    from.tag("in", &source_image(&from, "amd64"));
    let (manifest, _) = from.image(&raw.digest);
    let path = from.path(&manifest.layers[1].digest);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[600] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = run_convert(&from, &to, |_| {}, Format::Estargz).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(
        error.to_string().contains(&manifest.layers[1].digest.hex()),
        "{error}"
    );
}

/// Builds one of `tests/go`; `None` (and a line that says so) without Go or its modules.
fn go_program(name: &str) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/go")
        .join(name);
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let built = Command::new("go")
        .arg("build")
        .arg("-o")
        .arg(&program)
        .arg(".")
        .current_dir(source)
        .output();
    match built {
        Ok(output) if output.status.success() => Some(program),
        Ok(output) => {
            println!(
                "skipped: go build {name}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            None
        }
        Err(error) => {
            println!("skipped: no go: {error}");
            None
        }
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn containerd_reads_our_layers() {
    let Some(program) = go_program("estargz-verify") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    for (format, kind) in [(Format::Estargz, "gzip"), (Format::ZstdChunked, "zstd")] {
        for chunk_size in [1000, 4 << 20] {
            let options = WriteOptions {
                chunk_size,
                dialect: Dialect::Stargz,
                ..WriteOptions::new(format)
            };
            let mut blob = Vec::new();
            let written = write_layer(&sample_tar()[..], &mut blob, &options).unwrap();
            std::fs::write(&path, &blob).unwrap();
            let digest = &written.annotations["containerd.io/snapshot/stargz/toc.digest"];
            let theirs = output(
                Command::new(&program)
                    .args(["verify", kind, digest])
                    .arg(&path),
            );
            let layer = Descriptor {
                annotations: written.annotations.clone(),
                ..Descriptor::of(written.media_type, &blob)
            };
            let mut ours = listing(&open_layer(&layer, &blob), &blob);
            // containerd follows hard links; we list names of their own.
            ours.insert(
                "etc/hard".into(),
                ours["etc/hello"].replace("hello", "hard"),
            );
            let theirs: BTreeMap<String, String> = theirs
                .lines()
                .map(|line| (line.split(' ').next().unwrap().to_owned(), line.to_owned()))
                .collect();
            assert_eq!(ours, theirs);
        }
    }
}

#[test]
fn we_read_layers_made_now() {
    let directory = tempfile::tempdir().unwrap();
    let (tar, blob_path) = (directory.path().join("tar"), directory.path().join("blob"));
    std::fs::write(&tar, sample_tar()).unwrap();
    let mut listings = Vec::new();
    let mut add = |media_type: &str, annotations: &str| {
        let blob = std::fs::read(&blob_path).unwrap();
        let layer = Descriptor {
            annotations: serde_json::from_str(annotations).unwrap(),
            ..Descriptor::of(media_type, &blob)
        };
        listings.push(listing(&open_layer(&layer, &blob), &blob));
    };
    if let Some(program) = go_program("estargz-verify") {
        for kind in ["plain", "small", "inner", "landmark", "zstd"] {
            let annotations = output(
                Command::new(&program)
                    .args(["build", kind])
                    .arg(&tar)
                    .arg(&blob_path),
            );
            let zstd = kind == "zstd";
            let media = if zstd {
                media_type::OCI_LAYER_ZSTD
            } else {
                media_type::OCI_LAYER_GZIP
            };
            add(media, &annotations);
        }
    }
    if let Some(program) = go_program("zstdchunked-gen") {
        let annotations = output(Command::new(&program).arg(&tar).arg(&blob_path));
        add(media_type::OCI_LAYER_ZSTD, &annotations);
    }
    assert!(listings.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(listings.iter().all(|listing| listing.len() == 12));
}

fn there(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        println!("skipped: no {tool}");
    }
    found
}

#[test]
fn skopeo_copies_and_umoci_unpacks() {
    if !there("skopeo") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let from = Layout::new(directory.path().join("from"));
    from.tag("in", &source_image(&from, "amd64"));
    for format in [Format::Estargz, Format::ZstdChunked] {
        let to = Layout::new(directory.path().join(format!("{format:?}")));
        run_convert(&from, &to, |_| {}, format).unwrap();
        let copy = directory.path().join(format!("copy-{format:?}"));
        output(
            Command::new("skopeo")
                .args(["--insecure-policy", "copy"])
                .arg(format!("oci:{}:out", to.0.display()))
                .arg(format!("dir:{}", copy.display())),
        );
        if format == Format::Estargz && there("umoci") {
            let bundle = directory.path().join("bundle");
            output(
                Command::new("umoci")
                    .args(["unpack", "--rootless", "--image"])
                    .arg(format!("{}:out", to.0.display()))
                    .arg(&bundle),
            );
            let hello = std::fs::read(bundle.join("rootfs/etc/hello")).unwrap();
            assert_eq!(hello, b"hello world\n");
            let holes = std::fs::read(bundle.join("rootfs/usr/holes")).unwrap();
            assert_eq!(holes.len(), 106_000);
        }
    }
}
