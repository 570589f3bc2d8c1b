//! Sigstore bundles: JSON documents that hold a signature and what is needed to check it, attached
//! to an image as OCI referrers (cosign 3).
//!
//! Versions 0.1 to 0.3 are read. What is verified here is the signature by a key that the policy
//! names, which is all that such a requirement asks; certificates, logs and timestamps are the
//! matter of `sigstore`, and this module then says what was signed. Unlike `cosign verify`, an
//! attestation (an SBOM, provenance) never counts as a signature of the image: the statement must
//! have cosign's own predicate type for signatures.

use super::{
    attestation::statement::{Envelope, Statement},
    cosign::decode_base64,
    json::{self, Fault, Node},
    key::PublicKey,
    sigstore,
};
use crate::oci::{Digest, RawManifest};

/// Beginning of the artifact types of referrers that hold a bundle; the version follows.
pub(crate) const ARTIFACT_PREFIX: &str = "application/vnd.dev.sigstore.bundle";
/// Annotation of such a referrer that names the statement's predicate type.
pub(crate) const PREDICATE_ANNOTATION: &str = "dev.sigstore.bundle.predicateType";
/// Predicate type of cosign's statement that signs an image.
pub(crate) const SIGN_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
/// Largest bundle that is read. One that signs an image has 10 to 20 KiB with certificate,
/// timestamp and log proof; those of megabytes hold an SBOM, and up to a hundred are held in
/// memory.
pub(crate) const MAX_BUNDLE: u64 = 256 << 10;

const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.dev.sigstore.bundle+json;version=0.1",
    "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle.v0.3+json",
];
/// A parsed bundle. Nothing in it has been verified.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    bytes: Vec<u8>,
    by_key: bool,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    /// An in-toto statement in a DSSE envelope.
    Envelope(Envelope),
    /// A signature over the manifest's bytes.
    Message { digest: Digest, signature: Vec<u8> },
}

/// What a verified bundle says about the manifest it was checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    /// The name that the statement gives the manifest; cosign gives none.
    pub(crate) name: Option<String>,
}

// === impl Bundle ===

impl Bundle {
    /// Parses a bundle.
    ///
    /// # Errors
    /// Why it cannot serve as a signature.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let root = json::parse(bytes).map_err(|f| format!("bundle: {f}"))?;
        let media_type = field(&root, "mediaType")?;
        if !MEDIA_TYPES.contains(&media_type) {
            return Err(format!("bundle of unknown media type {media_type:?}"));
        }
        let material = want(&root, "verificationMaterial")?;
        let signers = ["publicKey", "certificate", "x509CertificateChain"];
        if signers.iter().all(|name| material.get(name).is_none()) {
            return Err("bundle names neither key nor certificate".into());
        }
        let content = match (root.get("dsseEnvelope"), root.get("messageSignature")) {
            (Some(envelope), None) => Content::Envelope(Envelope::of(envelope)?),
            (None, Some(message)) => Content::message(message)?,
            _ => return Err("bundle wants one of dsseEnvelope and messageSignature".into()),
        };
        Ok(Self {
            bytes: bytes.to_vec(),
            by_key: material.get(signers[0]).is_some(),
            content,
        })
    }

    /// Whether it says that a key signed, not the holder of a certificate.
    pub(crate) fn is_by_key(&self) -> bool {
        self.by_key
    }

    /// The same, as the verifier of certificates and logs takes it.
    ///
    /// # Errors
    /// What it cannot read.
    pub(crate) fn sigstore(&self) -> Result<sigstore::Bundle, String> {
        sigstore::Bundle::parse(&self.bytes)
    }

    /// What it says about `manifest`. The signature must have been verified.
    ///
    /// # Errors
    /// Why it is no signature of it.
    pub(crate) fn says(&self, manifest: &RawManifest) -> Result<Signed, String> {
        match &self.content {
            Content::Envelope(envelope) => signs(&envelope.statement()?, &manifest.digest),
            Content::Message { digest, .. } if digest.matches(&manifest.bytes) => {
                Ok(Signed { name: None })
            }
            Content::Message { digest, .. } => Err(format!("signs {digest}, not this manifest")),
        }
    }

    /// Checks that `key` signed `manifest` here.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn verify(&self, key: &PublicKey, manifest: &RawManifest) -> Result<Signed, String> {
        match &self.content {
            Content::Envelope(envelope) => {
                if !envelope.is_by(key) {
                    return Err("not signed by this key".into());
                }
            }
            Content::Message { signature, .. } => {
                // What it is over comes first: nothing else tells a signature of another manifest
                // from one by another key.
                self.says(manifest)?;
                if !key.verifies(&manifest.bytes, signature) {
                    return Err("not signed by this key".into());
                }
            }
        }
        self.says(manifest)
    }
}

// === impl Content ===

impl Content {
    fn message(node: &Node) -> Result<Self, String> {
        let digest = want(node, "messageDigest")?;
        let algorithm = field(digest, "algorithm")?;
        let bytes = decode_base64(field(digest, "digest")?)?;
        let text = match algorithm {
            "SHA2_256" => format!("sha256:{}", hex::encode(bytes)),
            "SHA2_512" => format!("sha512:{}", hex::encode(bytes)),
            other => return Err(format!("message digest of algorithm {other:?}")),
        };
        Ok(Content::Message {
            digest: text.parse().map_err(|_| "malformed message digest")?,
            signature: decode_base64(field(node, "signature")?)?,
        })
    }
}

/// Reads a signed statement: it must sign an image, and this one.
fn signs(statement: &Statement, manifest: &Digest) -> Result<Signed, String> {
    let predicate = &statement.predicate_type;
    if predicate != SIGN_PREDICATE {
        return Err(format!("attestation of type {predicate}, not a signature"));
    }
    Ok(Signed {
        name: statement.about(manifest)?.map(ToOwned::to_owned),
    })
}

fn want<'n>(node: &'n Node, key: &str) -> Result<&'n Node, String> {
    node.want(key).map_err(said)
}

fn field<'n>(node: &'n Node, key: &str) -> Result<&'n str, String> {
    node.want(key).and_then(Node::string).map_err(said)
}

fn said(fault: Fault) -> String {
    format!("bundle: {fault}")
}
