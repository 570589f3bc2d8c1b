//! Small lazy images in a fake registry, and what opens them in this process.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use nacre::{
    Result,
    engine::{EngineConfig, ReadFile},
    image::sign::{self, SigningKey},
    index::write::{Format, WriteOptions, write_layer},
    keys::KeyConfig,
    mount,
    oci::{
        Descriptor, Digest, Location, Platform, RawManifest, Reference, RegistryReference,
        media_type,
    },
    snapshotter::{
        images::{
            Confirm, FrontEnd, Images, ImagesConfig, Mount, Ordinary, PolicySource, Repositories,
        },
        lazy::LayerRequest,
    },
    source::{Access, BlobSource, BlobStream, Repository, Traffic},
    store::{Store, StoreConfig},
    tree::{Ino, Tree},
};
use sha2::{Digest as _, Sha256};

use super::registry::FakeRegistry;

/// A layer's blob and what names it.
#[derive(Clone)]
pub struct ToyLayer {
    pub blob: Bytes,
    pub descriptor: Descriptor,
    pub diff_id: Digest,
}

/// An image in the registry.
#[derive(Clone)]
pub struct ToyImage {
    pub reference: String,
    pub manifest: Descriptor,
    pub layers: Vec<ToyLayer>,
}

/// The tar of files.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_600_000_000);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A lazy layer of files.
pub fn lazy(format: Format, files: &[(&str, &[u8])]) -> ToyLayer {
    let mut blob = Vec::new();
    let options = WriteOptions::new(format);
    let written = write_layer(&tar(files)[..], &mut blob, &options).unwrap();
    let mut descriptor = Descriptor::of(written.media_type, &blob);
    descriptor.annotations = written.annotations;
    ToyLayer {
        blob: blob.into(),
        descriptor,
        diff_id: written.diff_id,
    }
}

/// An ordinary layer of files, not compressed.
pub fn ordinary(files: &[(&str, &[u8])]) -> ToyLayer {
    let blob = tar(files);
    let diff_id = Digest::sha256(&blob);
    ToyLayer {
        descriptor: Descriptor::of("application/vnd.oci.image.layer.v1.tar", &blob),
        blob: blob.into(),
        diff_id,
    }
}

/// An ordinary layer of files, as gzip.
pub fn gzipped(files: &[(&str, &[u8])]) -> ToyLayer {
    let tar = tar(files);
    let blob = super::images::gzip(&tar, 1);
    ToyLayer {
        descriptor: Descriptor::of(media_type::OCI_LAYER_GZIP, &blob),
        blob: blob.into(),
        diff_id: Digest::sha256(&tar),
    }
}

/// The bytes of an image's configuration and manifest.
pub fn documents(layers: &[ToyLayer]) -> (Vec<u8>, Vec<u8>) {
    let diff_ids: Vec<_> = layers.iter().map(|it| it.diff_id.to_string()).collect();
    let config = serde_json::json!({
        "os": "linux",
        "architecture": Platform::host().architecture,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
    .into_bytes();
    let descriptors: Vec<_> = layers.iter().map(|it| &it.descriptor).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": Descriptor::of(media_type::OCI_CONFIG, &config),
        "layers": descriptors,
    });
    (config, manifest.to_string().into_bytes())
}

/// Puts an image into the registry.
pub fn put(registry: &FakeRegistry, repository: &str, layers: &[ToyLayer]) -> ToyImage {
    let (config, manifest) = documents(layers);
    registry.put_blob(repository, config);
    for layer in layers {
        registry.put_blob_as(repository, &layer.descriptor.digest, layer.blob.clone());
    }
    let kind = media_type::OCI_MANIFEST;
    ToyImage {
        reference: registry.reference(repository, "1"),
        manifest: registry.put_manifest(repository, "1", kind, manifest),
        layers: layers.to_vec(),
    }
}

impl ToyImage {
    pub fn chain_id(&self, number: usize) -> String {
        let mut chain = self.layers[0].diff_id.to_string();
        for layer in &self.layers[1..=number] {
            let hash = Sha256::digest(format!("{chain} {}", layer.diff_id).as_bytes());
            chain = format!("sha256:{}", hex::encode(hash));
        }
        chain
    }

    /// What containerd asks for.
    pub fn request(&self, number: usize) -> LayerRequest {
        LayerRequest {
            reference: self.reference.clone(),
            manifest_digest: Some(self.manifest.digest.clone()),
            layer_digest: self.layers[number].descriptor.digest.clone(),
            chain_id: self.chain_id(number),
        }
    }
}

/// A directory with a key, policies and the state of [`Images`].
pub struct Node {
    pub directory: tempfile::TempDir,
    pub front_end: Arc<Memory>,
    key: SigningKey,
}

impl Node {
    pub fn new() -> Self {
        let (private, public) = sign::generate().unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("key.pub"), public).unwrap();
        let node = Self {
            directory,
            front_end: Arc::default(),
            key: SigningKey::from_pem(private.as_bytes(), "key").unwrap(),
        };
        node.policy("sigstoreSigned");
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the policy: one requirement for all images.
    pub fn policy(&self, requirement: &str) {
        let requirement = match requirement {
            "sigstoreSigned" => serde_json::json!({
                "type": requirement,
                "keyPath": self.path("key.pub"),
                "signedIdentity": { "type": "matchRepository" },
            }),
            other => serde_json::json!({ "type": other }),
        };
        let policy = serde_json::json!({ "default": [requirement] });
        fs::write(self.path("policy.json"), policy.to_string()).unwrap();
    }

    /// Signs a manifest or index.
    pub async fn sign(&self, reference: &str, digest: &Digest) {
        let identity: RegistryReference = reference.parse().unwrap();
        let reference = Reference::Registry(identity.clone());
        let access = Access::default();
        let (repository, _) = access.open(&reference).await.unwrap();
        let (writer, _) = access.create(&reference).await.unwrap();
        sign::sign(&self.key, &identity, digest, &*repository, &*writer)
            .await
            .unwrap();
    }

    pub fn config(&self) -> ImagesConfig {
        let store = StoreConfig {
            memory_bytes: 1 << 20,
            disk: Some((self.path("store"), 64 << 20)),
            indexes: Some((self.path("indexes"), 16 << 20)),
        };
        ImagesConfig {
            root: self.path("state"),
            repositories: Arc::new(Access::default()),
            policy: PolicySource::File(self.path("policy.json")),
            keys: KeyConfig::default(),
            store: Arc::new(Store::open(&store).unwrap()),
            engine: EngineConfig {
                workers: 1,
                ..EngineConfig::RECOMMENDED
            },
            complete: None,
            platform: Platform::host(),
            insecure_plaintext_store: false,
            min_lazy_bytes: 0,
            ordinary: Ordinary::Lazy,
            confirm: Confirm::Trusted,
            confirm_rate: 0,
            confirm_after: Duration::ZERO,
            watch: nacre::trust::Watch::default(),
            grace: Duration::ZERO,
            adoption_deadline: Duration::from_secs(60),
            front_end: Arc::clone(&self.front_end) as Arc<dyn FrontEnd>,
        }
    }

    pub fn images(&self) -> Images {
        Images::new(self.config()).unwrap()
    }
}

type Shown = (Arc<Tree>, Arc<dyn ReadFile>);

/// A front end without a kernel: trees by directory.
#[derive(Default)]
pub struct Memory {
    shown: Arc<Mutex<HashMap<PathBuf, Shown>>>,
    pub mounts: Mutex<usize>,
}

struct InMemory(PathBuf, Arc<Mutex<HashMap<PathBuf, Shown>>>);

impl Memory {
    /// Reads a file of a mounted tree.
    pub fn read(&self, directory: &Path, name: &str) -> Result<Bytes> {
        let (tree, reader) = self.shown.lock().unwrap()[directory].clone();
        let mut ino = Ino::ROOT;
        for part in name.split('/') {
            ino = tree.lookup(ino, part.as_bytes()).unwrap();
        }
        let file = tree.file(ino).unwrap();
        let (send, receive) = mpsc::channel();
        let length = u32::try_from(file.size).unwrap();
        let done = Box::new(move |result| send.send(result).unwrap());
        reader.read(file, 0, length, done);
        receive.recv().unwrap()
    }

    pub fn names(&self, directory: &Path) -> Vec<String> {
        let (tree, _) = self.shown.lock().unwrap()[directory].clone();
        let children = tree.children_from(Ino::ROOT, 0);
        children
            .map(|it| String::from_utf8_lossy(it.name).into_owned())
            .collect()
    }

    pub fn count(&self) -> usize {
        self.shown.lock().unwrap().len()
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}

impl std::fmt::Debug for InMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InMemory")
    }
}

impl FrontEnd for Memory {
    fn mount(
        &self,
        tree: Arc<Tree>,
        reader: Arc<dyn ReadFile>,
        directory: &Path,
        _: &str,
    ) -> Result<Box<dyn Mount>> {
        *self.mounts.lock().unwrap() += 1;
        let mut shown = self.shown.lock().unwrap();
        assert!(shown.insert(directory.to_owned(), (tree, reader)).is_none());
        let shown = Arc::clone(&self.shown);
        Ok(Box::new(InMemory(directory.to_owned(), shown)))
    }

    fn clear(&self, _: &Path) -> Result<()> {
        Ok(())
    }
}

impl Mount for InMemory {
    fn front_end(&self) -> mount::FrontEnd {
        mount::FrontEnd::Fuse
    }

    fn is_alive(&self) -> bool {
        self.1.lock().unwrap().contains_key(&self.0)
    }

    fn take_away(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let gone = self.1.lock().unwrap().remove(&self.0);
        drop(gone);
    }
}

/// Registries whose layers can be read at any offset, but streamed only once the gate is opened.
#[derive(Debug, Default)]
pub struct Gated {
    access: Access,
    gate: Gate,
}

type Gate = Arc<tokio::sync::watch::Sender<bool>>;

#[derive(Debug)]
struct GatedRepository(Arc<dyn Repository>, Gate);

#[derive(Debug)]
struct GatedBlob(Arc<dyn BlobSource>, Gate);

impl Gated {
    pub fn open_gate(&self) {
        self.gate.send_replace(true);
    }
}

impl Repositories for Gated {
    fn open<'a>(
        &'a self,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<(Arc<dyn Repository>, Location)>> {
        Box::pin(async move {
            let (inner, location) = self.access.open(reference).await?;
            let gated = GatedRepository(inner, Arc::clone(&self.gate));
            Ok((Arc::new(gated) as Arc<dyn Repository>, location))
        })
    }
}

impl Repository for GatedRepository {
    fn name(&self) -> String {
        self.0.name()
    }

    fn manifest<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<RawManifest>> {
        self.0.manifest(location)
    }

    fn blob(&self, descriptor: &Descriptor) -> Arc<dyn BlobSource> {
        let blob = self.0.blob(descriptor);
        match media_type::layer_kind(&descriptor.media_type) {
            Some(_) => Arc::new(GatedBlob(blob, Arc::clone(&self.1))),
            None => blob,
        }
    }

    fn referrers<'a>(&'a self, subject: &'a Digest) -> BoxFuture<'a, Result<Vec<Descriptor>>> {
        self.0.referrers(subject)
    }

    fn traffic(&self) -> Arc<Traffic> {
        self.0.traffic()
    }
}

impl BlobSource for GatedBlob {
    fn digest(&self) -> &Digest {
        self.0.digest()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, range: std::ops::Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.0.read_at(range)
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(async move {
            self.1.subscribe().wait_for(|open| *open).await.unwrap();
            self.0.stream().await
        })
    }
}
