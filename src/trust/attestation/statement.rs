//! DSSE envelopes and the in-toto statements in them: what signers of bundles and attestations
//! sign.
//!
//! Statements of version 0.1 and 1 are read. Parsing is pure and strict about duplicate keys, so
//! that no two readers find two things in one statement.

use base64::Engine as _;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{V0_2, V1};
use crate::{
    oci::Digest,
    trust::{
        cosign::decode_base64,
        json::{self, Fault, Node},
        key::PublicKey,
    },
};

/// An in-toto statement in a DSSE envelope. Nothing in it has been verified.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) payload: Vec<u8>,
    signatures: Vec<Vec<u8>>,
}

/// What an envelope states.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// Without the predicate, which may be large.
    root: Node,
    /// Of provenance; nothing else is looked into.
    predicate: Option<Node>,
    pub(crate) predicate_type: String,
}

/// A statement's predicate, as it is written.
#[derive(Deserialize)]
struct Predicate<'a> {
    #[serde(borrow)]
    predicate: Option<&'a RawValue>,
}

const PREDICATE: &str = "predicate";

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPES: [&str; 2] = [
    "https://in-toto.io/Statement/v0.1",
    "https://in-toto.io/Statement/v1",
];
/// Most signatures in one envelope and subjects in one statement that are looked at.
const MAX_ITEMS: usize = 100;

// === impl Envelope ===

impl Envelope {
    /// Parses an envelope that stands alone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let root = json::parse(bytes).map_err(|f| format!("envelope: {f}"))?;
        Self::of(&root)
    }

    /// Reads an envelope.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of(node: &Node) -> Result<Self, String> {
        let payload_type = field(node, "payloadType")?;
        if payload_type != PAYLOAD_TYPE {
            return Err(format!(
                "envelope of type {payload_type:?}, want {PAYLOAD_TYPE:?}"
            ));
        }
        let signatures = node
            .want("signatures")
            .and_then(Node::array)
            .map_err(said)?;
        if signatures.is_empty() || signatures.len() > MAX_ITEMS {
            return Err(format!("envelope with {} signatures", signatures.len()));
        }
        Ok(Self {
            payload: base64::engine::general_purpose::STANDARD
                .decode(field(node, "payload")?)
                .map_err(|_| "envelope payload is not base64")?,
            signatures: signatures
                .iter()
                .map(|s| decode_base64(field(s, "sig")?))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether `key` made one of the signatures.
    pub(crate) fn is_by(&self, key: &PublicKey) -> bool {
        // DSSE's pre-authentication encoding.
        let mut signed = format!(
            "DSSEv1 {} {PAYLOAD_TYPE} {} ",
            PAYLOAD_TYPE.len(),
            self.payload.len()
        )
        .into_bytes();
        signed.extend_from_slice(&self.payload);
        self.signatures.iter().any(|s| key.verifies(&signed, s))
    }

    /// What it states.
    ///
    /// # Errors
    /// Why that is no statement.
    pub(crate) fn statement(&self) -> Result<Statement, String> {
        Statement::parse(&self.payload)
    }
}

// === impl Statement ===

impl Statement {
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, String> {
        let root = json::parse_without(payload, PREDICATE).map_err(said)?;
        let kind = field(&root, "_type")?;
        if !STATEMENT_TYPES.contains(&kind) {
            return Err(format!("statement of unknown type {kind:?}"));
        }
        let predicate_type = field(&root, "predicateType")?.to_owned();
        let predicate = match predicate_type.as_str() {
            V0_2 | V1 => {
                let whole = json::parse(payload).map_err(said)?;
                whole.get(PREDICATE).cloned()
            }
            _ => None,
        };
        Ok(Self {
            root,
            predicate,
            predicate_type,
        })
    }

    /// The name that it gives the subject with this digest, if any.
    ///
    /// # Errors
    /// If it is about something else.
    pub(crate) fn about(&self, manifest: &Digest) -> Result<Option<&str>, String> {
        let subjects = self
            .root
            .want("subject")
            .and_then(Node::array)
            .map_err(said)?;
        if subjects.len() > MAX_ITEMS {
            return Err(format!("statement with {} subjects", subjects.len()));
        }
        for subject in subjects {
            let digest = subject.want("digest").map_err(said)?;
            if let Some(digest) = digest.get(manifest.algorithm())
                && digest.string().map_err(said)? == manifest.hex()
            {
                let name = subject.get("name").map(Node::string).transpose();
                return Ok(name.map_err(said)?.filter(|name| !name.is_empty()));
            }
        }
        Err("statement is about another digest".into())
    }

    /// The predicate of provenance; `None` if it has none.
    pub(crate) fn predicate(&self) -> Option<&Node> {
        self.predicate.as_ref()
    }
}

/// The predicate of a statement that has been parsed, as it is written; of one that is a string, its
/// text.
///
/// # Errors
/// If there is none.
pub(crate) fn predicate_text(payload: &[u8]) -> Result<Vec<u8>, String> {
    let read: Predicate<'_> =
        serde_json::from_slice(payload).map_err(|e| format!("statement: {e}"))?;
    let raw = read.predicate.ok_or("statement without a predicate")?.get();
    match serde_json::from_str::<String>(raw) {
        Ok(text) => Ok(text.into_bytes()),
        Err(_) => Ok(raw.as_bytes().to_vec()),
    }
}

fn field<'n>(node: &'n Node, key: &str) -> Result<&'n str, String> {
    node.want(key).and_then(Node::string).map_err(said)
}

fn said(fault: Fault) -> String {
    format!("statement: {fault}")
}
