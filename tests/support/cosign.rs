//! What the cosign tests need: a docker-registry on a free loopback port, cosign with keys in a
//! directory of its own, and one repository of it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use bytes::Bytes;
use nacre::{
    oci::{
        Descriptor, Digest, Document, Location, RawManifest, Reference, RegistryReference,
        media_type,
    },
    source::{Access, BlobContent, Repository, RepositoryWriter},
};

use super::docker_registry::{DockerRegistry, installed};

/// cosign with its keys, which never talks to anything but the registry.
#[derive(Debug)]
pub struct Cosign {
    pub home: tempfile::TempDir,
}

/// One repository of the registry, both sides of it.
#[derive(Clone, Debug)]
pub struct Client {
    pub reader: Arc<dyn Repository>,
    pub writer: Arc<dyn RepositoryWriter>,
    pub reference: RegistryReference,
}

/// Registry and cosign, or `None` after saying what is missing.
pub fn start() -> Option<(DockerRegistry, Cosign)> {
    installed("cosign")?;
    installed("openssl")?;
    let home = tempfile::tempdir().unwrap();
    Some((DockerRegistry::start()?, Cosign { home }))
}

/// Runs a cosign in `home`, with this environment besides, so that whatever would leave the machine fails
/// at once; gives whether it succeeded, and what it said.
pub fn on_loopback(
    program: &str,
    home: &Path,
    environment: &[(&str, PathBuf)],
    arguments: &[&str],
) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(home)
        .env("HOME", home)
        .env("DOCKER_CONFIG", home)
        .env("COSIGN_PASSWORD", "")
        .env("HTTPS_PROXY", "http://127.0.0.1:1")
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("NO_PROXY", "127.0.0.1")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    (output.status.success(), said.concat())
}

// === impl Cosign ===

impl Cosign {
    /// Runs cosign; gives its output, or its complaint.
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let (succeeded, text) = on_loopback("cosign", self.home.path(), &[], arguments);
        match succeeded {
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
        self.attest_as(key, image, "spdxjson", r#"{"spdxVersion":"SPDX-2.3"}"#, &[]);
    }

    /// `cosign attest` of `predicate`.
    pub fn attest_as(&self, key: &str, image: &str, kind: &str, predicate: &str, more: &[&str]) {
        std::fs::write(self.home.path().join("predicate.json"), predicate).unwrap();
        let key = format!("{key}.key");
        let mut arguments = vec!["attest", "--key", &key, "--type", kind];
        arguments.extend([
            "--predicate",
            "predicate.json",
            "--use-signing-config=false",
        ]);
        arguments.extend(["--tlog-upload=false", "-y"]);
        arguments.extend(more);
        arguments.push(image);
        self.run(&arguments).unwrap();
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
    pub async fn new(registry: &DockerRegistry, name: &str) -> Self {
        let reference: RegistryReference = format!("{}/{name}", registry.host()).parse().unwrap();
        let access = Access::default();
        let image = Reference::Registry(reference.clone());
        Self {
            reader: access.open(&image).await.unwrap().0,
            writer: access.create(&image).await.unwrap().0,
            reference,
        }
    }

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
            self.writer.put_blob(&descriptor, content).await.unwrap();
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
        self.writer.put_manifest(&tag, &raw).await.unwrap();
        raw
    }

    /// Copies the image and, under the same tag, its signatures from another repository.
    pub async fn copy_signatures(&self, from: &Client, tag: &str, to: &str) {
        let raw = from
            .reader
            .manifest(&Location::Tag(tag.into()))
            .await
            .unwrap();
        let Document::Manifest(manifest) = raw.parse().unwrap() else {
            panic!("signatures are an image")
        };
        for descriptor in manifest.layers.iter().chain([&manifest.config]) {
            let bytes = nacre::source::read_verified(&*from.reader, descriptor, 1 << 20)
                .await
                .unwrap();
            self.writer
                .put_blob(descriptor, BlobContent::Bytes(bytes))
                .await
                .unwrap();
        }
        self.writer
            .put_manifest(&Location::Tag(to.into()), &raw)
            .await
            .unwrap();
    }
}
