//! Signing images the way `cosign sign --key` does (simple signing, tag `sha256-HEX.sig`).
//!
//! The payload is deterministic; an ECDSA signature is not. Signing twice with one key changes
//! nothing: the signature that is there already is found and kept. Signatures of others are kept
//! too. The tag is read, extended and written back; two signers at the same moment can lose one of
//! the two signatures, since registries have no conditional write.

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::Engine as _;
use bytes::Bytes;
use serde::Serialize;
use zeroize::Zeroizing;

use super::cosign_key;
use crate::{
    error::{Error, Kind, Result},
    oci::{
        Descriptor, Digest, Document, Location, Manifest, RawManifest, RegistryReference,
        media_type,
    },
    source::{BlobContent, Repository, RepositoryWriter, read_verified},
    trust::{PublicKey, cosign, key},
};

/// A private key that signs images: ECDSA on P-256.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public: PublicKey,
    public_pem: String,
}

/// Characters of base64 in a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;

/// What [`sign`] did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signed {
    /// Digest of the manifest or index that was signed.
    pub digest: Digest,
    /// The name that was signed for.
    pub identity: String,
    /// Tag that holds the signatures of `digest`.
    pub tag: String,
    /// Digest of the signed payload.
    pub payload: Digest,
    /// SHA-256 of the public key (DER SubjectPublicKeyInfo).
    pub key: Digest,
    /// Whether a signature was added; `false` if this key had signed the same before.
    pub added: bool,
}

/// Makes a key pair: the private key as PKCS#8 PEM, the public key as PEM.
///
/// # Errors
/// `Internal` if the system has no randomness.
pub fn generate() -> Result<(Zeroizing<String>, String)> {
    let failed = |_| Error::internal("key generation");
    let document =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(failed)?;
    let private = pem("PRIVATE KEY", document.as_ref());
    let key = SigningKey::from_pem(private.as_bytes(), "generated key")?;
    Ok((private, key.public_pem))
}

/// Signs `digest` for `identity`'s repository with `key` and stores the signature beside the image,
/// after those that are there.
///
/// `identity` is the name under which the image will be asked for; its tag is not signed, as with
/// cosign. `repository` and `writer` are two views of the repository that holds the image, which is
/// a registry's or a layout's.
///
/// # Errors
/// `Unsupported` or `Invalid` if something other than signatures is under the tag; what reading and
/// writing the repository gives.
pub async fn sign(
    key: &SigningKey,
    identity: &RegistryReference,
    digest: &Digest,
    repository: &dyn Repository,
    writer: &dyn RepositoryWriter,
) -> Result<Signed> {
    let identity = identity.repository();
    let tag = cosign::tag_of(digest);
    let location = Location::Tag(tag.clone());
    let payload = Bytes::from(cosign::write_payload(digest, &identity));
    let mut layers = match repository.manifest(&location).await {
        Ok(raw) => existing(&raw, &tag)?,
        Err(error) if error.kind() == Kind::NotFound => Vec::new(),
        Err(error) => return Err(error.context(format!("signatures in tag {tag}"))),
    };
    let mut signed = Signed {
        digest: digest.clone(),
        identity,
        tag,
        payload: Digest::sha256(&payload),
        key: key.public.fingerprint().clone(),
        added: false,
    };
    for layer in layers.iter().filter(|l| l.digest == signed.payload) {
        let there = cosign::signature_of(layer).is_ok_and(|s| key.public.verifies(&payload, &s));
        if there
            && read_verified(repository, layer, cosign::MAX_PAYLOAD)
                .await
                .is_ok()
        {
            return Ok(signed);
        }
    }
    let mut layer = Descriptor::of(cosign::SIMPLE_SIGNING, &payload);
    writer
        .put_blob(&layer, BlobContent::Bytes(payload.clone()))
        .await?;
    layer.annotations.insert(
        cosign::SIGNATURE_ANNOTATION.into(),
        base64::engine::general_purpose::STANDARD.encode(key.sign(&payload)?),
    );
    layers.push(layer);
    write_image(layers, &location, writer).await?;
    signed.added = true;
    Ok(signed)
}

/// The layers of the signature image that is there.
fn existing(raw: &RawManifest, tag: &str) -> Result<Vec<Descriptor>> {
    match raw.parse()? {
        Document::Manifest(manifest) => Ok(manifest.layers),
        Document::Index(_) => Err(Error::new(
            Kind::Unsupported,
            format!("tag {tag} is an index, not an image of signatures"),
        )),
    }
}

async fn write_image(
    layers: Vec<Descriptor>,
    location: &Location,
    writer: &dyn RepositoryWriter,
) -> Result<()> {
    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.digest).collect();
    let config = serde_json::json!({
        "architecture": "",
        "os": "",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string();
    let config = Bytes::from(config);
    let descriptor = Descriptor::of(media_type::OCI_CONFIG, &config);
    writer
        .put_blob(&descriptor, BlobContent::Bytes(config))
        .await?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.into()),
        artifact_type: None,
        config: descriptor,
        layers,
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    };
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|e| Error::internal("signature manifest").with_source(e))?;
    let raw = RawManifest::new(media_type::OCI_MANIFEST, bytes.into());
    writer.put_manifest(location, &raw).await
}

// === impl SigningKey ===

impl SigningKey {
    /// Reads a PEM private key: PKCS#8 (`openssl genpkey`, [`generate`]) or SEC 1
    /// (`openssl ecparam -genkey`), ECDSA on P-256, not encrypted.
    ///
    /// # Errors
    /// As [`open`](Self::open), `Denied` for an encrypted key.
    pub fn from_pem(pem_text: &[u8], origin: &str) -> Result<Self> {
        Self::open(pem_text, None, origin)
    }

    /// Reads a PEM private key as [`from_pem`](Self::from_pem), or one that cosign has encrypted with
    /// a password.
    ///
    /// # Errors
    /// `Denied` if the key is encrypted and the password is missing or wrong, `Unsupported` for a key
    /// of another kind or encrypted in another way, `Invalid` if it is malformed; all name `origin`.
    pub fn open(pem_text: &[u8], password: Option<&[u8]>, origin: &str) -> Result<Self> {
        let (mut label, mut der) =
            key::decode_pem(pem_text).map_err(|why| Error::invalid(format!("{origin}: {why}")))?;
        if cosign_key::LABELS.contains(&label.as_str()) {
            der = cosign_key::decrypt(&der, password).map_err(|e| e.context(origin.to_owned()))?;
            label = "PRIVATE KEY".to_owned();
        }
        let pair = match label.as_str() {
            "PRIVATE KEY" => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der),
            "EC PRIVATE KEY" => {
                EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &der)
            }
            label if label.contains("ENCRYPTED") => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("{origin}: encrypted private key ({label})"),
                )
                .with_hint(
                    "have cosign encrypt it (cosign import-key-pair), or give an unencrypted key \
                     (openssl pkey -in FILE)",
                ));
            }
            other => {
                return Err(Error::invalid(format!(
                    "{origin}: want a PEM private key, have {other}"
                )));
            }
        }
        .map_err(|_| {
            Error::new(
                Kind::Unsupported,
                format!("{origin}: not a well-formed ECDSA P-256 private key"),
            )
            .with_hint("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 makes one")
        })?;
        let spki: PublicKeyX509Der<'_> = pair
            .public_key()
            .as_der()
            .map_err(|_| Error::internal(format!("{origin}: public key of a private key")))?;
        let public_pem = pem("PUBLIC KEY", spki.as_ref()).to_string();
        let public = PublicKey::from_pem(public_pem.as_bytes(), origin)?;
        Ok(Self {
            pair,
            public,
            public_pem,
        })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The public half as PEM, as `cosign.pub` has it.
    #[must_use]
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// Signature over `message`, ASN.1.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        self.pair
            .sign(&SystemRandom::new(), message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| Error::internal("signing"))
    }
}

impl std::fmt::Debug for SigningKey {
    /// Shows the public half only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({:?})", self.public)
    }
}

/// PEM with lines of 64 characters (RFC 7468).
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    // Room for everything, so that no growing buffer leaves a copy of a key behind.
    let mut text = Zeroizing::new(String::with_capacity(encoded.len() * 2 + 128));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(PEM_LINE));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generates_keys_that_read_back() {
        let (private, public) = generate().unwrap();
        let key = SigningKey::from_pem(private.as_bytes(), "k").unwrap();
        assert_eq!(key.public_pem(), public);
        let signature = key.sign(b"message").unwrap();
        let read = PublicKey::from_pem(public.as_bytes(), "pub").unwrap();
        assert!(read.verifies(b"message", &signature));
        assert!(!read.verifies(b"messagf", &signature));
        assert!(public.lines().all(|line| line.len() <= 64));
        assert!(!format!("{key:?}").contains("PRIVATE"));
        assert_ne!(*generate().unwrap().0, *private);
    }

    /// One key in both forms that openssl writes, and its public half.
    const PKCS8: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg1Ml5PFVcprBBOL7P\nMFyZolQT6CWaUplrrDfU0isti86hRANCAAQ5/5jnlMaWzKptVKAJOcYulGpboYaH\n+mtuViWSMzL6rfiD/eF6ZoeoZppLERroxdA+gn5Fq9+V5oE5b7UfJJ+Z\n-----END PRIVATE KEY-----\n";
    const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEINTJeTxVXKawQTi+zzBcmaJUE+glmlKZa6w31NIrLYvOoAoGCCqGSM49\nAwEHoUQDQgAEOf+Y55TGlsyqbVSgCTnGLpRqW6GGh/prblYlkjMy+q34g/3hemaH\nqGaaSxEa6MXQPoJ+RavfleaBOW+1HySfmQ==\n-----END EC PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOf+Y55TGlsyqbVSgCTnGLpRqW6GG\nh/prblYlkjMy+q34g/3hemaHqGaaSxEa6MXQPoJ+RavfleaBOW+1HySfmQ==\n-----END PUBLIC KEY-----\n";

    #[test]
    fn reads_what_openssl_writes() {
        for private in [PKCS8, SEC1] {
            let key = SigningKey::from_pem(private.as_bytes(), "k").unwrap();
            assert_eq!(key.public_pem(), PUBLIC);
        }
    }

    #[test]
    fn reads_what_cosign_encrypts() {
        let file = |name: &str| {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/cosign");
            std::fs::read(std::path::Path::new(path).join(name)).unwrap()
        };
        let text = file("encrypted.key");
        let open = |password: Option<&[u8]>| SigningKey::open(&text, password, "cosign.key");
        let key = open(Some(b"sec ret")).unwrap();
        assert_eq!(key.public_pem().as_bytes(), file("encrypted.pub"));
        for (password, said) in [
            (None, "no password"),
            (Some(&b""[..]), "does not fit"),
            (Some(b"sec ret\n"), "does not fit"),
        ] {
            let error = open(password).unwrap_err();
            assert_eq!(error.kind(), Kind::Denied);
            assert!(error.to_string().starts_with("cosign.key: "), "{error}");
            assert!(error.to_string().contains(said), "{error}");
            assert!(error.hint().unwrap().contains("COSIGN_PASSWORD"));
        }
    }

    #[test]
    fn refuses_keys_it_cannot_use() {
        let encrypted =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let error = SigningKey::from_pem(encrypted.as_bytes(), "cosign.key").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(
            error.to_string().contains("cosign.key: encrypted"),
            "{error}"
        );
        assert!(error.hint().is_some());
        for (text, kind) in [
            ("hello", Kind::Invalid),
            (
                "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
                Kind::Invalid,
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
                Kind::Unsupported,
            ),
        ] {
            assert_eq!(
                SigningKey::from_pem(text.as_bytes(), "k")
                    .unwrap_err()
                    .kind(),
                kind
            );
        }
    }
}
