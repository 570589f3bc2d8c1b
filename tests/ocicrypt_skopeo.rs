//! Images that the real skopeo encrypts, read at any offset with the keys they were encrypted for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use bytes::Bytes;
use futures::StreamExt;
use nacre::{
    error::Kind,
    keys::{KeyConfig, Keyring, LayerKey},
    oci::{Descriptor, Digest, Manifest},
    ocicrypt::{DecryptingSource, authenticate, is_encrypted, packets},
    source::{BlobSource, MemoryBlob},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// One layer as skopeo encrypted it, and what it was before.
struct Encrypted {
    layer: Descriptor,
    ciphertext: Vec<u8>,
    plain: Vec<u8>,
}

/// Whether a program is there; says so if it is not.
fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Bytes that gzip cannot make smaller, the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Writes an OCI layout of one image with one layer and gives the layer's bytes.
fn write_layout(directory: &Path) -> Vec<u8> {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        digest.to_string()
    };

    let mut archive = tar::Builder::new(Vec::new());
    for (name, length) in [("empty", 0), ("noise", 150_000), ("more", 70_001)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(length);
        header.set_mode(0o644);
        let contents = noise(usize::try_from(length).unwrap());
        archive
            .append_data(&mut header, name, &contents[..])
            .unwrap();
    }
    let archive = archive.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &archive).unwrap();
    let layer = gzip.finish().unwrap();

    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&archive).to_string()]},
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": put(config.as_bytes()), "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": put(&layer), "size": layer.len(),
        }],
    })
    .to_string();
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": put(manifest.as_bytes()), "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "t"},
        }],
    });
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
    fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    layer
}

/// Has skopeo encrypt the image for public keys.
fn encrypt(directory: &TempDir, recipients: &[&Path]) -> Encrypted {
    let (from, to) = (
        directory.path().join("plain"),
        directory.path().join("encrypted"),
    );
    let plain = write_layout(&from);
    let _ = fs::remove_dir_all(&to);
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy"]);
    for recipient in recipients {
        command
            .arg("--encryption-key")
            .arg(format!("jwe:{}", recipient.display()));
    }
    command.arg(format!("oci:{}:t", from.display()));
    command.arg(format!("oci:{}:t", to.display()));
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let blob = |digest: &str| {
        let name = digest.strip_prefix("sha256:").unwrap();
        fs::read(to.join("blobs/sha256").join(name)).unwrap()
    };
    let index: Value = serde_json::from_slice(&fs::read(to.join("index.json")).unwrap()).unwrap();
    let manifest = blob(index["manifests"][0]["digest"].as_str().unwrap());
    let mut manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
    let layer = manifest.layers.remove(0);
    Encrypted {
        ciphertext: blob(&layer.digest.to_string()),
        layer,
        plain,
    }
}

/// Has openssl make a key pair and gives the files of its private and public key.
fn key_pair(directory: &TempDir, name: &str, options: &[&str]) -> (PathBuf, PathBuf) {
    let private = directory.path().join(format!("{name}.pem"));
    let public = directory.path().join(format!("{name}.pub"));
    let (from, to) = (private.to_str().unwrap(), public.to_str().unwrap());
    run("openssl", &[&["genpkey", "-out", from], options].concat());
    run("openssl", &["pkey", "-in", from, "-pubout", "-out", to]);
    (private, public)
}

const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
const P521: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"];

fn keyring(keys: &[&Path]) -> Keyring {
    let mut config = KeyConfig::default();
    for key in keys {
        config.add_decryption_key(key.to_str().unwrap()).unwrap();
    }
    Keyring::new(&config).unwrap()
}

fn memory(bytes: &[u8]) -> Arc<dyn BlobSource> {
    Arc::new(MemoryBlob::new(Bytes::copy_from_slice(bytes)))
}

/// Reads at scattered offsets and as a whole.
async fn check(image: &Encrypted, key: &LayerKey) {
    assert_eq!(key.plain_digest(), Some(&Digest::sha256(&image.plain)));
    let ciphertext = memory(&image.ciphertext);
    assert_eq!(*ciphertext.digest(), image.layer.digest);
    authenticate(&*ciphertext, key).await.unwrap();

    let source = DecryptingSource::new(ciphertext, key);
    assert_eq!(source.size(), image.plain.len() as u64);
    let scatter = noise(400);
    for pair in scatter.chunks(4) {
        let number = |at: usize| usize::from(u16::from_le_bytes([pair[at], pair[at + 1]]));
        let start = number(0) * 3 % image.plain.len();
        let end = (start + number(2) % 5000).min(image.plain.len());
        let got = source.read_at(start as u64..end as u64).await.unwrap();
        assert_eq!(got, image.plain[start..end], "{start}..{end}");
    }
    let mut whole = Vec::new();
    let mut stream = source.stream().await.unwrap();
    while let Some(piece) = stream.next().await {
        whole.extend_from_slice(&piece.unwrap());
    }
    assert!(whole == image.plain);
}

async fn stream_error(ciphertext: &[u8], key: &LayerKey) -> nacre::Error {
    let source = DecryptingSource::new(memory(ciphertext), key);
    let mut stream = source.stream().await.unwrap();
    loop {
        match stream.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error,
            None => panic!("a damaged blob passed"),
        }
    }
}

#[tokio::test]
async fn each_kind_of_key() {
    if !have("skopeo") || !have("openssl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (name, options) in [("rsa", RSA), ("p256", P256), ("p384", P384), ("p521", P521)] {
        let (private, public) = key_pair(&directory, name, options);
        let image = encrypt(&directory, &[&public]);
        assert!(is_encrypted(&image.layer));
        assert_eq!(image.layer.size, image.plain.len() as u64);
        assert!(image.ciphertext != image.plain);
        let infos = packets(&image.layer);
        assert_eq!((infos.len(), infos[0].kind.as_str()), (1, "jwe"));
        assert_eq!(infos[0].recipients, Some(1), "{name}: flattened JSON");

        let key = keyring(&[&private]).unwrap(&image.layer).await.unwrap();
        assert_eq!(key.packet(), "jwe");
        check(&image, &key).await;
    }
}

#[tokio::test]
async fn two_recipients() {
    if !have("skopeo") || !have("openssl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (rsa, rsa_public) = key_pair(&directory, "rsa", RSA);
    let (p521, p521_public) = key_pair(&directory, "p521", P521);
    let (other, _) = key_pair(&directory, "other", P521);
    let image = encrypt(&directory, &[&rsa_public, &p521_public]);
    let infos = packets(&image.layer);
    assert_eq!(infos[0].recipients, Some(2), "general JSON");
    assert_eq!(infos[0].algorithms, ["RSA-OAEP", "ECDH-ES+A256KW"]);
    for keys in [&[&*rsa][..], &[&p521], &[&other, &p521]] {
        let key = keyring(keys).unwrap(&image.layer).await.unwrap();
        check(&image, &key).await;
    }
}

#[tokio::test]
async fn damage_and_other_keys() {
    if !have("skopeo") || !have("openssl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (private, public) = key_pair(&directory, "rsa", RSA);
    let (other, _) = key_pair(&directory, "other", RSA);
    let image = encrypt(&directory, &[&public]);

    let wrong = keyring(&[&other]).unwrap(&image.layer).await.unwrap_err();
    assert_eq!(wrong.kind(), Kind::Denied);
    assert!(
        wrong.to_string().contains("no configured key opens it"),
        "{wrong}"
    );
    assert!(
        wrong.to_string().contains(&image.layer.digest.to_string()),
        "{wrong}"
    );
    let missing = keyring(&[]).unwrap(&image.layer).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::Denied);
    assert!(
        missing.to_string().contains("no key is configured"),
        "{missing}"
    );

    let key = keyring(&[&private]).unwrap(&image.layer).await.unwrap();
    for at in [0, image.ciphertext.len() / 2, image.ciphertext.len() - 1] {
        let mut flipped = image.ciphertext.clone();
        flipped[at] ^= 0x10;
        let error = authenticate(&*memory(&flipped), &key).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert_eq!(stream_error(&flipped, &key).await.kind(), Kind::Corrupt);
    }
    let short = &image.ciphertext[..image.ciphertext.len() - 1];
    assert_eq!(
        authenticate(&*memory(short), &key)
            .await
            .unwrap_err()
            .kind(),
        Kind::Corrupt
    );
    assert_eq!(stream_error(short, &key).await.kind(), Kind::Corrupt);

    // Damage to the annotations is noticed when the key is unwrapped.
    let name = "org.opencontainers.image.enc.keys.jwe";
    let mut layer = image.layer.clone();
    let packet = layer.annotations[name].clone();
    layer
        .annotations
        .insert(name.to_owned(), packet[..packet.len() - 8].to_owned());
    assert_eq!(
        keyring(&[&private])
            .unwrap(&layer)
            .await
            .unwrap_err()
            .kind(),
        Kind::Invalid
    );
    layer.annotations.remove(name);
    assert_eq!(
        keyring(&[&private])
            .unwrap(&layer)
            .await
            .unwrap_err()
            .kind(),
        Kind::Invalid
    );
}
