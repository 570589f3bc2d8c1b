//! A private Sigstore of one process: a Fulcio-like authority with an intermediate, a certificate
//! transparency log, a Rekor log of its first version with trees of one entry. What it makes is
//! what cosign would get from the real services, and cosign verifies it.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::SystemTime,
};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::Engine as _;
use nacre::oci::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use x509_cert::{
    Certificate,
    der::{Decode as _, Encode as _, asn1::BitString, asn1::OctetString, oid::ObjectIdentifier},
    ext::Extension,
};

pub const EMAIL: &str = "dev@example.com";
pub const ISSUER: &str = "https://issuer.example";
/// Host of the log, which is what it signs its checkpoints as.
const ORIGIN: &str = "log.example";

/// A P-256 key.
pub struct Key(EcdsaKeyPair);

/// Authority and logs.
pub struct Sigstore {
    home: tempfile::TempDir,
    pub rekor: Key,
    ct: Key,
    between: Key,
}

/// What a certificate is to say.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub san: &'a str,
    pub issuer: &'a str,
    /// Whether it carries the word of the certificate transparency log.
    pub sct: bool,
    /// Further lines of openssl's extension file.
    pub more: &'a str,
}

/// A certificate and its key.
pub struct Leaf {
    pub key: Key,
    pub der: Vec<u8>,
    pub pem: String,
    /// Intermediate and root.
    pub chain: String,
}

pub fn b64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let text = b64(der);
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .map(|at| &text[at..text.len().min(at + 64)])
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_secs()).unwrap()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

/// The statement that cosign signs for an image.
pub fn statement(digest: &Digest, predicate: &str) -> String {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "digest": { "sha256": digest.hex() } }],
        "predicateType": predicate,
        "predicate": {},
    })
    .to_string()
}

// === impl Key ===

impl Key {
    pub fn generate() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    fn read(der: &[u8]) -> Self {
        Self(EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, der).unwrap())
    }

    pub fn spki(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = self.0.public_key().as_der().unwrap();
        der.as_ref().to_vec()
    }

    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &self.spki())
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        signature.as_ref().to_vec()
    }
}

// === impl Sigstore ===

impl Sigstore {
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let at = home.path();
        for name in ["root", "between", "leaf"] {
            let key = format!("{name}.key");
            run(
                at,
                &[
                    "genpkey",
                    "-quiet",
                    "-algorithm",
                    "EC",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-out",
                    &key,
                ],
            );
        }
        run(
            at,
            &[
                "req", "-x509", "-key", "root.key", "-days", "30", "-subj", "/CN=root", "-out",
                "root.pem",
            ],
        );
        run(
            at,
            &[
                "req",
                "-new",
                "-key",
                "between.key",
                "-subj",
                "/CN=between",
                "-out",
                "between.csr",
            ],
        );
        let extensions = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\nextendedKeyUsage=codeSigning\n";
        std::fs::write(at.join("between.ext"), extensions).unwrap();
        issue(at, "between", "root", "30");
        run(
            at,
            &[
                "pkey",
                "-in",
                "between.key",
                "-outform",
                "DER",
                "-out",
                "between.der",
            ],
        );
        let between = Key::read(&std::fs::read(at.join("between.der")).unwrap());
        Self {
            home,
            rekor: Key::generate(),
            ct: Key::generate(),
            between,
        }
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.home.path().join(name)).unwrap()
    }

    pub fn root_pem(&self) -> String {
        self.file("root.pem")
    }

    pub fn between_pem(&self) -> String {
        self.file("between.pem")
    }

    /// A certificate of one day.
    pub fn certify(&self, ask: Ask<'_>) -> Leaf {
        let at = self.home.path();
        run(
            at,
            &[
                "genpkey",
                "-quiet",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-out",
                "leaf.key",
            ],
        );
        run(
            at,
            &[
                "req", "-new", "-key", "leaf.key", "-subj", "/", "-out", "leaf.csr",
            ],
        );
        let issuer = match ask.issuer {
            "" => String::new(),
            // The older form beside the newer, as Fulcio has it.
            issuer => format!(
                "1.3.6.1.4.1.57264.1.1=DER:{}\n1.3.6.1.4.1.57264.1.8=ASN1:UTF8String:{issuer}\n",
                hex::encode(issuer)
            ),
        };
        let extensions = format!(
            "keyUsage=critical,digitalSignature\nextendedKeyUsage=codeSigning\n\
             subjectAltName=critical,{}\n{issuer}{}",
            ask.san, ask.more
        );
        std::fs::write(at.join("leaf.ext"), extensions).unwrap();
        issue(at, "leaf", "between", "1");
        run(
            at,
            &[
                "x509", "-in", "leaf.pem", "-outform", "DER", "-out", "leaf.der",
            ],
        );
        run(
            at,
            &[
                "pkey", "-in", "leaf.key", "-outform", "DER", "-out", "leaf.p8",
            ],
        );
        let mut der = std::fs::read(at.join("leaf.der")).unwrap();
        if ask.sct {
            der = self.with_sct(&der);
        }
        Leaf {
            key: Key::read(&std::fs::read(at.join("leaf.p8")).unwrap()),
            pem: pem("CERTIFICATE", &der),
            chain: self.between_pem() + &self.root_pem(),
            der,
        }
    }

    /// The private key of the last certificate, for cosign.
    pub fn leaf_key_pem(&self) -> String {
        self.file("leaf.key")
    }

    /// The certificate with the log's signature over the rest of it, signed anew.
    fn with_sct(&self, der: &[u8]) -> Vec<u8> {
        let mut certificate = Certificate::from_der(der).unwrap();
        let body = certificate.tbs_certificate.to_der().unwrap();
        let time = u64::try_from(now()).unwrap() * 1000;
        let mut signed = vec![0, 0];
        signed.extend(time.to_be_bytes());
        signed.extend([0, 1]);
        signed.extend(sha256(&self.between.spki()));
        signed.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
        signed.extend(&body);
        signed.extend([0, 0]);
        let signature = self.ct.sign(&signed);
        let mut sct = vec![0];
        sct.extend(sha256(&self.ct.spki()));
        sct.extend(time.to_be_bytes());
        sct.extend([0, 0, 4, 3]);
        sct.extend(u16::try_from(signature.len()).unwrap().to_be_bytes());
        sct.extend(signature);
        let mut list = u16::try_from(sct.len() + 2).unwrap().to_be_bytes().to_vec();
        list.extend(u16::try_from(sct.len()).unwrap().to_be_bytes());
        list.extend(sct);
        let inner = OctetString::new(list).unwrap().to_der().unwrap();
        let extensions = certificate.tbs_certificate.extensions.as_mut().unwrap();
        extensions.push(Extension {
            extn_id: ObjectIdentifier::new_unwrap("1.3.6.1.4.1.11129.2.4.2"),
            critical: false,
            extn_value: OctetString::new(inner).unwrap(),
        });
        let body = certificate.tbs_certificate.to_der().unwrap();
        certificate.signature = BitString::from_bytes(&self.between.sign(&body)).unwrap();
        certificate.to_der().unwrap()
    }

    pub fn trusted_root(&self) -> Value {
        let always = json!({ "start": "2020-01-01T00:00:00Z" });
        let log = |key: &Key| {
            json!({
                "baseUrl": "https://log.example", "hashAlgorithm": "SHA2_256",
                "publicKey": { "rawBytes": b64(&key.spki()),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": always },
                "logId": { "keyId": b64(&sha256(&key.spki())) },
            })
        };
        let der = |pem: String| {
            let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
            json!({ "rawBytes": body })
        };
        json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(&self.rekor)],
            "certificateAuthorities": [{
                "subject": { "organization": "example", "commonName": "root" },
                "uri": "https://fulcio.example",
                "certChain": { "certificates": [der(self.between_pem()), der(self.root_pem())] },
                "validFor": always,
            }],
            "ctlogs": [log(&self.ct)],
            "timestampAuthorities": [],
        })
    }

    /// The log's promise to take up `body` at `time`, as cosign annotates it.
    pub fn promise(&self, body: &str, time: i64) -> Value {
        let log = hex::encode(sha256(&self.rekor.spki()));
        // In the order of their names, which is the canonical form.
        let payload = json!({
            "body": b64(body.as_bytes()), "integratedTime": time, "logID": log, "logIndex": 0,
        });
        let signature = self.rekor.sign(payload.to_string().as_bytes());
        json!({ "SignedEntryTimestamp": b64(&signature), "Payload": payload })
    }

    /// The entry of a bundle: with the log's promise, and with its proof if wanted.
    pub fn entry(&self, body: &str, time: i64, proof: bool) -> Value {
        let kind: Value = serde_json::from_str(body).unwrap();
        let mut entry = json!({
            "logIndex": "0",
            "logId": { "keyId": b64(&sha256(&self.rekor.spki())) },
            "kindVersion": { "kind": kind["kind"], "version": kind["apiVersion"] },
            "integratedTime": time.to_string(),
            "inclusionPromise": {
                "signedEntryTimestamp": self.promise(body, time)["SignedEntryTimestamp"],
            },
            "canonicalizedBody": b64(body.as_bytes()),
        });
        if proof {
            let leaf = sha256(&[&[0], body.as_bytes()].concat());
            let note = format!("{ORIGIN} - 1\n1\n{}\n", b64(&leaf));
            let mut signed = sha256(&self.rekor.spki())[..4].to_vec();
            signed.extend(self.rekor.sign(note.as_bytes()));
            entry["inclusionProof"] = json!({
                "logIndex": "0", "treeSize": "1", "rootHash": b64(&leaf), "hashes": [],
                "checkpoint": { "envelope":
                    format!("{note}\n\u{2014} {ORIGIN} {}\n", b64(&signed)) },
            });
        }
        entry
    }

    /// A bundle of version 0.3 with a statement, signed by a certificate or a key.
    pub fn bundle(&self, signer: Result<&Leaf, &Key>, statement: &str, proof: bool) -> Value {
        let (envelope, body) = dsse(signer, statement);
        let mut material = match signer {
            Ok(leaf) => json!({ "certificate": { "rawBytes": b64(&leaf.der) } }),
            Err(_) => json!({ "publicKey": { "hint": "x" } }),
        };
        material["tlogEntries"] = json!([self.entry(&body, now(), proof)]);
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": material,
            "dsseEnvelope": envelope,
        })
    }
}

/// A statement in its envelope, signed by a certificate or a key, and the log's entry about it.
pub fn dsse(signer: Result<&Leaf, &Key>, statement: &str) -> (Value, String) {
    let kind = "application/vnd.in-toto+json";
    let pae = format!(
        "DSSEv1 {} {kind} {} {statement}",
        kind.len(),
        statement.len()
    );
    let key = signer.map_or_else(|key| key, |leaf| &leaf.key);
    let signature = b64(&key.sign(pae.as_bytes()));
    let envelope = json!({
        "payload": b64(statement.as_bytes()), "payloadType": kind,
        "signatures": [{ "sig": signature }],
    });
    let verifier = signer.map_or_else(Key::public_pem, |leaf| leaf.pem.clone());
    let body = json!({
        "apiVersion": "0.0.1", "kind": "dsse",
        "spec": {
            "envelopeHash": { "algorithm": "sha256",
                "value": hex::encode(sha256(envelope.to_string().as_bytes())) },
            "payloadHash": { "algorithm": "sha256",
                "value": hex::encode(sha256(statement.as_bytes())) },
            "signatures": [{ "signature": signature, "verifier": b64(verifier.as_bytes()) }],
        },
    });
    (envelope, body.to_string())
}

/// The older log's entry about an attestation: of what it was given, by the holder of `verifier` (PEM).
pub fn intoto(envelope: &str, statement: &str, verifier: &str) -> String {
    let hash = |text: &str| json!({ "algorithm": "sha256", "value": hex::encode(sha256(text.as_bytes())) });
    json!({
        "apiVersion": "0.0.1", "kind": "intoto",
        "spec": {
            "content": { "hash": hash(envelope), "payloadHash": hash(statement) },
            "publicKey": b64(verifier.as_bytes()),
        },
    })
    .to_string()
}

/// The log's entry about a signature over `payload` by the holder of `verifier` (PEM).
pub fn hashedrekord(payload: &[u8], signature: &[u8], verifier: &str) -> String {
    json!({
        "apiVersion": "0.0.1", "kind": "hashedrekord",
        "spec": {
            "data": { "hash": { "algorithm": "sha256", "value": hex::encode(sha256(payload)) } },
            "signature": { "content": b64(signature),
                "publicKey": { "content": b64(verifier.as_bytes()) } },
        },
    })
    .to_string()
}

fn issue(at: &Path, name: &str, by: &str, days: &str) {
    let file = |kind: &str| format!("{name}.{kind}");
    run(
        at,
        &[
            "x509",
            "-req",
            "-in",
            &file("csr"),
            "-CA",
            &format!("{by}.pem"),
            "-CAkey",
            &format!("{by}.key"),
            "-CAcreateserial",
            "-days",
            days,
            "-extfile",
            &file("ext"),
            "-out",
            &file("pem"),
        ],
    );
}

fn run(at: &Path, arguments: &[&str]) {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(at)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
}
