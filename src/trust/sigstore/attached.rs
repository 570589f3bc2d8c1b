//! Proofs in the older form: annotations beside a signature in a `.sig` or `.att` image, and the
//! bundle that they amount to.
//!
//! cosign's annotations hold the certificate, its chain, the log's promise and a timestamp. A
//! bundle of version 0.1 says the same in another way, so that one verifier serves both forms.

use base64::Engine as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Bundle, certificates_of_pem, intoto::Intoto, pki::is_self_issued};
use crate::{
    oci::Descriptor,
    trust::json::{self as strict, Node},
};

/// The annotations of a layer that prove a signature, as they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attached {
    certificate: Option<String>,
    chain: Option<String>,
    promise: Option<String>,
    timestamp: Option<String>,
}

/// What the log's promise is about: kind and version of the entry, and where it will be.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// In base64, as is the promise.
    pub(super) body: String,
    pub(super) kind: String,
    pub(super) version: String,
    pub(super) time: i64,
    pub(super) index: i64,
    pub(super) log: Vec<u8>,
    pub(super) promise: String,
}

const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const PROMISE: &str = "dev.sigstore.cosign/bundle";
const TIMESTAMP: &str = "dev.sigstore.cosign/rfc3161timestamp";
/// Longest annotation that is looked at: the log's entry repeats a certificate, in base64 twice.
/// An entry about an attestation of the first kind repeats it whole.
const MAX_ANNOTATION: usize = 1 << 20;
/// Most certificates between the signer's and the authority's.
const MAX_CHAIN: usize = 10;

// === impl Attached ===

impl Attached {
    pub(crate) fn of(layer: &Descriptor) -> Self {
        let get = |name: &str| {
            let text = layer.annotations.get(name)?;
            // cosign writes an empty annotation where it has nothing to say.
            (!text.trim().is_empty() && text.len() <= MAX_ANNOTATION).then(|| text.clone())
        };
        Self {
            certificate: get(CERTIFICATE),
            chain: get(CHAIN),
            promise: get(PROMISE),
            timestamp: get(TIMESTAMP),
        }
    }

    /// The signer's certificate and those that it brought along, without authorities: what vouches
    /// must come from the policy.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn certificates(&self) -> Result<Vec<Vec<u8>>, String> {
        let leaf = self
            .certificate
            .as_ref()
            .ok_or("signed by a key, not by a certificate")?;
        let mut all =
            certificates_of_pem(leaf.as_bytes()).map_err(|why| format!("certificate: {why}"))?;
        if all.len() != 1 {
            return Err(format!("{} certificates where one is wanted", all.len()));
        }
        if let Some(chain) = &self.chain {
            let chain = certificates_of_pem(chain.as_bytes())
                .map_err(|why| format!("certificate chain: {why}"))?;
            if chain.len() > MAX_CHAIN {
                return Err(format!("a chain of {} certificates", chain.len()));
            }
            all.extend(chain.into_iter().filter(|der| !is_self_issued(der)));
        }
        Ok(all)
    }

    /// The bundle that says the same about a signature over `payload`. With `by_key`, the signer is
    /// taken from elsewhere and a certificate is left out.
    ///
    /// # Errors
    /// What is missing or malformed.
    pub(crate) fn message(
        &self,
        payload: &[u8],
        signature: &[u8],
        by_key: bool,
    ) -> Result<Bundle, String> {
        let content = json!({
            "messageDigest": { "algorithm": "SHA2_256", "digest": b64(&Sha256::digest(payload)) },
            "signature": b64(signature),
        });
        let entry = self.entry()?;
        self.bundle("messageSignature", content, by_key, &entry, None)
    }

    /// The bundle that says the same about a DSSE envelope (its JSON).
    ///
    /// # Errors
    /// As [`message`](Self::message).
    pub(crate) fn envelope(&self, envelope: &[u8], by_key: bool) -> Result<Bundle, String> {
        let content: Value =
            serde_json::from_slice(envelope).map_err(|e| format!("envelope: {e}"))?;
        let entry = self.entry()?;
        let intoto = Intoto::of(&entry, envelope);
        self.bundle("dsseEnvelope", content, by_key, &entry, intoto)
    }

    fn entry(&self) -> Result<Entry, String> {
        Entry::parse(self.promise.as_deref().ok_or("not entered in a log")?)
    }

    fn bundle(
        &self,
        kind: &str,
        content: Value,
        by_key: bool,
        entry: &Entry,
        intoto: Option<Intoto>,
    ) -> Result<Bundle, String> {
        let mut material = if by_key {
            json!({ "publicKey": { "hint": "" } })
        } else {
            let certificates: Vec<Value> = self
                .certificates()?
                .iter()
                .map(|der| json!({ "rawBytes": b64(der) }))
                .collect();
            json!({ "x509CertificateChain": { "certificates": certificates } })
        };
        // No bundle can say that an entry is of the kind which `intoto` reads.
        material["tlogEntries"] = match intoto {
            Some(_) => json!([]),
            None => json!([{
                "logIndex": entry.index.to_string(),
                "logId": { "keyId": b64(&entry.log) },
                "kindVersion": { "kind": entry.kind, "version": entry.version },
                "integratedTime": entry.time.to_string(),
                "inclusionPromise": { "signedEntryTimestamp": entry.promise },
                "canonicalizedBody": entry.body,
            }]),
        };
        if let Some(timestamp) = &self.timestamp {
            let node =
                strict::parse(timestamp.as_bytes()).map_err(|f| format!("timestamp: {f}"))?;
            let token = text(&node, "SignedRFC3161Timestamp", "timestamp")?;
            material["timestampVerificationData"] =
                json!({ "rfc3161Timestamps": [{ "signedTimestamp": token }] });
        }
        let bundle = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1",
            "verificationMaterial": material,
            kind: content,
        });
        Ok(Bundle {
            intoto,
            ..Bundle::parse(bundle.to_string().as_bytes())?
        })
    }
}

// === impl Entry ===

impl Entry {
    /// Reads the annotation that holds the log's promise.
    fn parse(annotation: &str) -> Result<Self, String> {
        #[derive(serde::Deserialize)]
        struct Numbers {
            #[serde(rename = "integratedTime")]
            time: i64,
            #[serde(rename = "logIndex")]
            index: i64,
        }
        #[derive(serde::Deserialize)]
        struct Outer {
            #[serde(rename = "Payload")]
            payload: Numbers,
        }
        const WHAT: &str = "log entry";
        // Strictly first, so that what follows cannot read it as something else.
        let node = strict::parse(annotation.as_bytes()).map_err(|f| format!("{WHAT}: {f}"))?;
        let payload = node.want("Payload").map_err(|f| format!("{WHAT}: {f}"))?;
        let body = text(payload, "body", WHAT)?;
        let log = text(payload, "logID", WHAT)?;
        let numbers: Outer =
            serde_json::from_str(annotation).map_err(|e| format!("{WHAT}: {e}"))?;
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(body)
            .map_err(|_| format!("{WHAT}: body is not base64"))?;
        let inner = strict::parse(&decoded).map_err(|f| format!("{WHAT}: body: {f}"))?;
        Ok(Self {
            kind: text(&inner, "kind", WHAT)?.to_owned(),
            version: text(&inner, "apiVersion", WHAT)?.to_owned(),
            body: body.to_owned(),
            time: numbers.payload.time,
            index: numbers.payload.index,
            log: hex::decode(log).map_err(|_| format!("{WHAT}: logID is not hexadecimal"))?,
            promise: text(&node, "SignedEntryTimestamp", WHAT)?.to_owned(),
        })
    }
}

fn text<'n>(node: &'n Node, field: &str, what: &str) -> Result<&'n str, String> {
    node.want(field)
        .and_then(Node::string)
        .map_err(|f| format!("{what}: {f}"))
}

fn b64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
