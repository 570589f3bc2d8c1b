//! Log entries of kind `intoto` 0.0.1, which builders made of attestations before 2024.
//!
//! The verifier's crate does not read them. What is special about them is checked here: the log's
//! promise, by a key of the trusted root that was valid then, and that the entry is about this
//! envelope by this signer. Its time is then restated as an entry of kind `dsse` under a key that this
//! process made for nothing else, beside the same authorities, so that certificate, SCT, identity and
//! signature are verified by the same code as ever.

use aws_lc_rs::{
    encoding::{AsDer as _, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::Engine as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sigstore_verify::{
    Verifier,
    trust_root::TrustedRoot,
    types::{self, LogKeyId, SignatureContent, TransparencyLogEntry},
};

use super::attached::Entry;
use crate::trust::{
    json::{self as strict, Node},
    key::{PublicKey, decode_pem},
};

/// An entry and the envelope it is said to be about. Nothing in it has been verified.
#[derive(Clone, Debug)]
pub(super) struct Intoto {
    entry: Entry,
    /// SHA-256 of the envelope's text, as it was given to the log.
    envelope: String,
}

/// The authorities of a trusted root, beside a log of this process.
pub(super) struct Restater {
    pub(super) verifier: Verifier,
    key: EcdsaKeyPair,
    log: Vec<u8>,
}

/// Kind and version of these entries.
const KIND: (&str, &str) = ("intoto", "0.0.1");
/// Since when the log of this process counts: whatever it restates has been verified.
const ALWAYS: &str = "1970-01-01T00:00:00Z";

// === impl Intoto ===

impl Intoto {
    /// `entry`, if it is of this kind, and the envelope's text.
    pub(super) fn of(entry: &Entry, envelope: &[u8]) -> Option<Self> {
        ((entry.kind.as_str(), entry.version.as_str()) == KIND).then(|| Self {
            entry: entry.clone(),
            envelope: hex::encode(Sha256::digest(envelope)),
        })
    }

    /// Verifies the entry against the logs of `root`, and gives `bundle` with the entry that says the
    /// same. `verifier` is who has to have signed.
    ///
    /// # Errors
    /// Why the entry proves nothing about the bundle.
    pub(super) fn restate(
        &self,
        bundle: &types::Bundle,
        verifier: &Holder<'_>,
        root: &TrustedRoot,
        restater: &Restater,
    ) -> Result<types::Bundle, String> {
        let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
            return Err(about("an entry about an attestation beside something else"));
        };
        let entry = restater.entry(
            self.entry.time,
            envelope.payload.as_bytes(),
            envelope.signature.sig.as_bytes(),
            verifier,
        )?;
        let time = entry
            .integrated_time
            .ok_or_else(|| about("no time in it"))?;
        let log: LogKeyId = serde_json::from_value(b64(&self.entry.log).into())
            .map_err(|e| about(&format!("logID: {e}")))?;
        let key = root
            .rekor_key_for_log_at(&log, time)
            .map_err(|_| about("by a log that is not trusted, or was not at that time"))?;
        let key = PublicKey::from_spki(key.as_bytes(), "of the log".into())
            .map_err(|e| about(&e.to_string()))?;
        let promise = base64::engine::general_purpose::STANDARD.decode(&self.entry.promise);
        let promise = promise.map_err(|_| about("SignedEntryTimestamp is not base64"))?;
        let promised = promised(
            &self.entry.body,
            self.entry.time,
            &self.entry.log,
            self.entry.index,
        );
        if !key.verifies(promised.as_bytes(), &promise) {
            return Err(about("SET verification failed"));
        }
        self.is_about(envelope.payload.as_bytes(), verifier)?;
        let mut restated = bundle.clone();
        restated.verification_material.tlog_entries = vec![entry];
        Ok(restated)
    }

    /// Whether the entry is about this envelope, with this payload and by this signer.
    fn is_about(&self, payload: &[u8], verifier: &Holder<'_>) -> Result<(), String> {
        let body = base64::engine::general_purpose::STANDARD
            .decode(&self.entry.body)
            .map_err(|_| about("body is not base64"))?;
        let fault = |f: strict::Fault| about(&format!("body: {f}"));
        let root = strict::parse(&body).map_err(fault)?;
        let spec = root.want("spec").map_err(fault)?;
        let content = spec.want("content").map_err(fault)?;
        let hash = |node: &Node| -> Result<String, String> {
            let field = |name: &str| node.want(name).and_then(Node::string).map_err(fault);
            match field("algorithm")? {
                "sha256" => Ok(field("value")?.to_owned()),
                other => Err(about(&format!("hash by {other:?}"))),
            }
        };
        if hash(content.want("hash").map_err(fault)?)? != self.envelope {
            return Err(about("entry mismatch: about another envelope"));
        }
        if let Some(node) = content.get("payloadHash")
            && hash(node)? != hex::encode(Sha256::digest(payload))
        {
            return Err(about("entry mismatch: about another payload"));
        }
        let key = spec.want("publicKey").and_then(Node::string);
        let pem = base64::engine::general_purpose::STANDARD
            .decode(key.map_err(fault)?)
            .map_err(|_| about("publicKey is not base64"))?;
        let (label, der) = decode_pem(&pem).map_err(|why| about(&format!("publicKey: {why}")))?;
        match (verifier.label, verifier.der) == (label.as_str(), der.as_slice()) {
            true => Ok(()),
            false => Err(about("entry mismatch: of a signature by another signer")),
        }
    }
}

/// Whose signature it has to be: a certificate or a public key, by its PEM label and DER.
pub(super) struct Holder<'a> {
    pub(super) label: &'static str,
    pub(super) der: &'a [u8],
}

// === impl Restater ===

impl Restater {
    /// `root`, which is a JSON of it, with another log.
    pub(super) fn new(root: &[u8]) -> Result<Self, String> {
        let unusable = |what: &str| about(&format!("cannot be restated: {what}"));
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map_err(|_| unusable("no key"))?;
        let spki: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| unusable("key"))?;
        let spki = spki.as_ref().to_vec();
        let log = Sha256::digest(&spki).to_vec();
        let mut json: Value = serde_json::from_slice(root).map_err(|e| unusable(&e.to_string()))?;
        json["tlogs"] = json!([{
            "baseUrl": "", "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": b64(&spki), "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": { "start": ALWAYS },
            },
            "logId": { "keyId": b64(&log) },
        }]);
        let root = TrustedRoot::from_json(&json.to_string());
        let root = root.map_err(|e| unusable(&e.to_string()))?;
        let verifier = Verifier::new(&root).map_err(|e| unusable(&e.to_string()))?;
        Ok(Self { verifier, key, log })
    }

    /// The entry of this process about a signature whose time has been found out.
    fn entry(
        &self,
        time: i64,
        payload: &[u8],
        signature: &[u8],
        verifier: &Holder<'_>,
    ) -> Result<TransparencyLogEntry, String> {
        let lines: Vec<String> = b64(verifier.der)
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        let pem = format!(
            "-----BEGIN {0}-----\n{1}\n-----END {0}-----\n",
            verifier.label,
            lines.join("\n")
        );
        let hash = json!({ "algorithm": "sha256", "value": hex::encode(Sha256::digest(payload)) });
        let body = json!({
            "apiVersion": "0.0.1", "kind": "dsse",
            "spec": {
                "envelopeHash": hash, "payloadHash": hash,
                "signatures": [{ "signature": b64(signature), "verifier": b64(pem.as_bytes()) }],
            },
        });
        let body = b64(body.to_string().as_bytes());
        let promised = promised(&body, time, &self.log, 0);
        let promise = self.key.sign(&SystemRandom::new(), promised.as_bytes());
        let promise = promise.map_err(|_| about("cannot be restated"))?;
        serde_json::from_value(json!({
            "logIndex": "0",
            "logId": { "keyId": b64(&self.log) },
            "kindVersion": { "kind": "dsse", "version": "0.0.1" },
            "integratedTime": time.to_string(),
            "inclusionPromise": { "signedEntryTimestamp": b64(promise.as_ref()) },
            "canonicalizedBody": body,
        }))
        .map_err(|e| about(&e.to_string()))
    }
}

/// What a log signs when it promises to take an entry up: JSON in canonical form, which has the names
/// in this order and nothing to escape in the values.
fn promised(body: &str, time: i64, log: &[u8], index: i64) -> String {
    let log = hex::encode(log);
    format!(r#"{{"body":"{body}","integratedTime":{time},"logID":"{log}","logIndex":{index}}}"#)
}

fn about(why: &str) -> String {
    format!("log entry intoto 0.0.1: {why}")
}

fn b64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
