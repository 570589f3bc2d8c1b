//! What the cosign tests need: a docker-registry on a free loopback port, cosign with keys in a
//! directory of its own, and a plain client that is both sides of a repository.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use nacre::{
    Error, Result,
    oci::{Descriptor, Digest, Document, Location, RawManifest, RegistryReference, media_type},
    source::{
        BlobContent, BlobSource, BlobStream, MemoryBlob, Repository, RepositoryWriter, Traffic,
    },
};

/// A registry that ends with the test.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    pub address: String,
    _storage: tempfile::TempDir,
}

/// cosign with its keys, which never talks to anything but the registry.
#[derive(Debug)]
pub struct Cosign {
    pub home: tempfile::TempDir,
}

/// One repository of a registry, by plain requests; it believes what it gets.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    pub reference: RegistryReference,
}

/// Registry and cosign, or `None` after saying what is missing.
pub fn start() -> Option<(Registry, Cosign)> {
    for program in ["docker-registry", "cosign", "openssl"] {
        let found = Command::new(program)
            .arg("--help")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok();
        if !found {
            println!("skipped: {program} is not installed");
            return None;
        }
    }
    let home = tempfile::tempdir().unwrap();
    Some((Registry::start(), Cosign { home }))
}

// === impl Registry ===

impl Registry {
    /// Lets the system choose the port and reads it from the log.
    fn start() -> Self {
        let storage = tempfile::tempdir().unwrap();
        let config = storage.path().join("config.yml");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
                 http: {{addr: 127.0.0.1:0}}\n",
                storage.path().display()
            ),
        )
        .unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(
                log.read_line(&mut line).unwrap(),
                0,
                "docker-registry ended"
            );
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
                break rest[..end.unwrap_or(rest.len())].to_owned();
            }
        };
        // The pipe must not fill up.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self {
            child,
            address,
            _storage: storage,
        }
    }

    pub fn client(&self, name: &str) -> Client {
        Client {
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            reference: format!("{}/{name}", self.address).parse().unwrap(),
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Cosign ===

impl Cosign {
    /// Runs cosign; gives its output, or its complaint.
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("cosign")
            .args(arguments)
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("DOCKER_CONFIG", self.home.path())
            .env("COSIGN_PASSWORD", "")
            // Whatever would leave the machine fails at once.
            .env("HTTPS_PROXY", "http://127.0.0.1:1")
            .env("HTTP_PROXY", "http://127.0.0.1:1")
            .env("NO_PROXY", "127.0.0.1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        match output.status.success() {
            true => Ok(text),
            false => Err(text),
        }
    }

    /// A new ECDSA P-256 key pair; gives the public key's path.
    pub fn generate(&self, name: &str) -> PathBuf {
        self.run(&["generate-key-pair", "--output-key-prefix", name])
            .unwrap();
        self.home.path().join(format!("{name}.pub"))
    }

    /// A key pair that openssl makes and cosign imports.
    pub fn import(&self, name: &str, genpkey: &[&str]) -> PathBuf {
        let pem = format!("{name}.pem");
        let made = Command::new("openssl")
            .args(["genpkey", "-quiet", "-out", &pem])
            .args(genpkey)
            .current_dir(self.home.path())
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success(), "openssl genpkey");
        self.run(&[
            "import-key-pair",
            "--key",
            &pem,
            "--output-key-prefix",
            name,
        ])
        .unwrap();
        self.home.path().join(format!("{name}.pub"))
    }

    /// `cosign sign` in the form of a `.sig` tag.
    pub fn sign_tag(&self, key: &str, image: &str) {
        self.sign(key, image, &["--new-bundle-format=false"]);
    }

    /// `cosign sign` in the form of a bundle.
    pub fn sign_bundle(&self, key: &str, image: &str) {
        self.sign(key, image, &[]);
    }

    fn sign(&self, key: &str, image: &str, more: &[&str]) {
        let key = format!("{key}.key");
        let mut arguments = vec!["sign", "--key", &key];
        arguments.extend(["--use-signing-config=false", "--tlog-upload=false", "-y"]);
        arguments.extend(more);
        arguments.push(image);
        self.run(&arguments).unwrap();
    }

    /// `cosign attest` of an SBOM.
    pub fn attest(&self, key: &str, image: &str) {
        let predicate = self.home.path().join("sbom.json");
        std::fs::write(&predicate, r#"{"spdxVersion":"SPDX-2.3"}"#).unwrap();
        let key = format!("{key}.key");
        self.run(&[
            "attest",
            "--key",
            &key,
            "--type",
            "spdxjson",
            "--predicate",
            "sbom.json",
            "--use-signing-config=false",
            "--tlog-upload=false",
            "-y",
            image,
        ])
        .unwrap();
    }

    /// `cosign verify` of the `.sig` tag.
    pub fn verify_tag(&self, public: &Path, image: &str) -> Result<String, String> {
        self.run(&[
            "verify",
            "--key",
            public.to_str().unwrap(),
            "--insecure-ignore-tlog",
            "--new-bundle-format=false",
            image,
        ])
    }
}

// === impl Client ===

impl Client {
    /// `host/path@digest`, as cosign wants it.
    pub fn image(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.reference.repository())
    }

    /// Stores a small image (its layer is never asked for) under `tag`.
    pub async fn push_image(&self, tag: &str, layer: &[u8]) -> RawManifest {
        let mut descriptors = Vec::new();
        for (kind, bytes) in [
            (
                media_type::OCI_CONFIG,
                &br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#[..],
            ),
            (media_type::OCI_LAYER_GZIP, layer),
        ] {
            let descriptor = Descriptor::of(kind, bytes);
            let content = BlobContent::Bytes(Bytes::copy_from_slice(bytes));
            self.put_blob(&descriptor, content).await.unwrap();
            descriptors.push(descriptor);
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": descriptors[0],
            "layers": [descriptors[1]],
        });
        let raw = RawManifest::new(media_type::OCI_MANIFEST, manifest.to_string().into());
        let tag = Location::Tag(tag.into());
        self.put_manifest(&tag, &raw).await.unwrap();
        raw
    }

    /// Copies the image and, under the same tag, its signatures from another repository.
    pub async fn copy_signatures(&self, from: &Client, tag: &str, to: &str) {
        let raw = from.manifest(&Location::Tag(tag.into())).await.unwrap();
        let Document::Manifest(manifest) = raw.parse().unwrap() else {
            panic!("signatures are an image")
        };
        for descriptor in manifest.layers.iter().chain([&manifest.config]) {
            let bytes = nacre::source::read_verified(from, descriptor, 1 << 20)
                .await
                .unwrap();
            self.put_blob(descriptor, BlobContent::Bytes(bytes))
                .await
                .unwrap();
        }
        self.put_manifest(&Location::Tag(to.into()), &raw)
            .await
            .unwrap();
    }

    fn url(&self, rest: &str) -> String {
        format!(
            "http://{}/v2/{}/{rest}",
            self.reference.host(),
            self.reference.path()
        )
    }

    async fn get(&self, rest: &str) -> Result<Option<reqwest::Response>> {
        let accept = [media_type::OCI_MANIFEST, media_type::OCI_INDEX].join(", ");
        let response = self
            .http
            .get(self.url(rest))
            .header("accept", accept)
            .send()
            .await
            .map_err(|e| Error::unavailable(rest).with_source(e))?;
        match response.status().as_u16() {
            200 => Ok(Some(response)),
            404 => Ok(None),
            other => Err(Error::unavailable(format!("{rest}: status {other}"))),
        }
    }
}

impl Repository for Client {
    fn name(&self) -> String {
        self.reference.repository()
    }

    fn manifest<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<RawManifest>> {
        Box::pin(async move {
            let rest = format!("manifests/{location}");
            let Some(response) = self.get(&rest).await? else {
                return Err(Error::not_found(rest));
            };
            let media_type = response.headers()["content-type"]
                .to_str()
                .unwrap()
                .to_owned();
            Ok(RawManifest::new(
                media_type,
                response.bytes().await.unwrap(),
            ))
        })
    }

    fn blob(&self, descriptor: &Descriptor) -> Arc<dyn BlobSource> {
        Arc::new(Blob {
            client: self.clone(),
            descriptor: descriptor.clone(),
        })
    }

    fn referrers<'a>(&'a self, subject: &'a Digest) -> BoxFuture<'a, Result<Vec<Descriptor>>> {
        Box::pin(async move {
            let tag = format!("manifests/{}-{}", subject.algorithm(), subject.hex());
            let found = match self.get(&format!("referrers/{subject}")).await? {
                Some(response) => Some(response),
                None => self.get(&tag).await?,
            };
            let Some(response) = found else {
                return Ok(Vec::new());
            };
            let index: nacre::oci::Index =
                serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
            Ok(index.manifests)
        })
    }

    fn traffic(&self) -> Arc<Traffic> {
        Arc::default()
    }
}

impl RepositoryWriter for Client {
    fn name(&self) -> String {
        self.reference.repository()
    }

    fn put_blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        content: BlobContent,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let BlobContent::Bytes(bytes) = content else {
                panic!("from memory")
            };
            let begun = self.http.post(self.url("blobs/uploads/")).send().await;
            let begun = begun.unwrap().error_for_status().unwrap();
            let location = begun.headers()["location"].to_str().unwrap();
            let put = self
                .http
                .put(format!("{location}&digest={}", descriptor.digest))
                .body(bytes)
                .send()
                .await;
            put.unwrap().error_for_status().unwrap();
            Ok(())
        })
    }

    fn put_manifest<'a>(
        &'a self,
        location: &'a Location,
        manifest: &'a RawManifest,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let put = self
                .http
                .put(self.url(&format!("manifests/{location}")))
                .header("content-type", &manifest.media_type)
                .body(manifest.bytes.clone())
                .send()
                .await;
            put.unwrap().error_for_status().unwrap();
            Ok(())
        })
    }
}

/// A blob that is fetched whole when it is streamed.
#[derive(Debug)]
struct Blob {
    client: Client,
    descriptor: Descriptor,
}

impl BlobSource for Blob {
    fn digest(&self) -> &Digest {
        &self.descriptor.digest
    }

    fn size(&self) -> u64 {
        self.descriptor.size
    }

    fn read_at(&self, _: std::ops::Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async { Err(Error::unsupported("signatures are read whole")) })
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(async {
            let rest = format!("blobs/{}", self.descriptor.digest);
            let Some(response) = self.client.get(&rest).await? else {
                return Err(Error::not_found(rest));
            };
            MemoryBlob::new(response.bytes().await.unwrap())
                .stream()
                .await
        })
    }
}
