//! The part of a requirement that says who has to have signed: keys, `fulcio`, `pki`, and nacre's
//! own `nacreKeyless`, with the logs that have to vouch.

use std::path::Path;

use base64::Engine as _;

use super::parse::File;
use crate::{
    error::{Error, Result},
    trust::{
        json::{Fault, Node},
        key::{KeyKind, MAX_KEY, PublicKey},
        pgp::{Keyring, MAX_MESSAGE},
        signer::{Log, Signer},
        sigstore::{self, Person, Pki, Rigour, Subject, TrustRoot, certificates_of_pem},
    },
};

/// Most keys in one requirement: each signature is tried with each of them.
const MAX_KEYS: usize = 64;
/// Largest file of certificates; one takes 1 to 2 KiB.
const MAX_CERTIFICATES: u64 = 256 << 10;

const KEYS: [&str; 4] = ["keyPath", "keyPaths", "keyData", "keyDatas"];
const SIGNERS: [&str; 7] = [
    "keyPath",
    "keyPaths",
    "keyData",
    "keyDatas",
    "fulcio",
    "pki",
    "nacreKeyless",
];
const LOGS: [&str; 6] = [
    "rekorPublicKeyPath",
    "rekorPublicKeyPaths",
    "rekorPublicKeyData",
    "rekorPublicKeyDatas",
    "nacreTrustedRootPath",
    "nacreTrustedRootData",
];
const PROOF: &str = "nacreRequireInclusionProof";

/// The fields that [`File::signer`] reads.
pub(super) fn fields() -> impl Iterator<Item = &'static str> {
    SIGNERS.into_iter().chain(LOGS).chain([PROOF])
}

// === impl File ===

impl File<'_> {
    /// Reads who has to have signed.
    pub(super) fn signer(&self, node: &Node) -> Result<Signer> {
        let field = self.one_of(node, &SIGNERS)?;
        let log = self.at_most_one_of(node, &LOGS)?;
        let inclusion_proof = self.flag(node, PROOF)?;
        let forbid = |what: &str| match log {
            Some(log) => Err(self.invalid(
                self.want(node, log)?
                    .fault(format!("{log} cannot be given with {what}")),
            )),
            None => Ok(()),
        };
        let proof_needs = |what: &str| match (inclusion_proof, node.get(PROOF)) {
            (true, Some(proof)) => Err(self.invalid(proof.fault(format!("{PROOF} needs {what}")))),
            _ => Ok(()),
        };
        let value = self.want(node, field)?;
        let rigour = Rigour {
            inclusion_proof,
            no_sct: false,
        };
        match field {
            "fulcio" => match log {
                Some(log) if log.starts_with("rekor") => {
                    let logs = self.logs(log, self.want(node, log)?)?;
                    self.fulcio(value, &logs, rigour)
                }
                Some(_) => {
                    forbid("fulcio; nacreKeyless takes a trusted root")?;
                    Err(Error::internal("a log that is there was not refused"))
                }
                None => Err(self.invalid(value.fault(
                    "fulcio wants one of rekorPublicKeyPath, rekorPublicKeyPaths, \
                     rekorPublicKeyData, rekorPublicKeyDatas beside it",
                ))),
            },
            "pki" => {
                forbid("pki")?;
                proof_needs("a log, which pki has not")?;
                self.pki(value)
            }
            "nacreKeyless" => {
                let root = match log {
                    Some(log) if log.starts_with("rekor") => {
                        forbid("nacreKeyless, which takes its logs from nacreTrustedRootPath")?;
                        return Err(Error::internal("a log that is there was not refused"));
                    }
                    Some(log) => self.root(log, self.want(node, log)?)?,
                    None => TrustRoot::production()?,
                };
                self.keyless(value, root, rigour)
            }
            _ => {
                let keys = self.keys(field, value)?;
                let root = match log {
                    Some(log) if log.starts_with("rekor") => {
                        let at = self.want(node, log)?;
                        let logs = self.logs(log, at)?;
                        Some(self.root_of(at, &logs, &[])?)
                    }
                    Some(log) => Some(self.root(log, self.want(node, log)?)?),
                    None => {
                        proof_needs("rekorPublicKey... or nacreTrustedRoot... beside it")?;
                        None
                    }
                };
                let log = root.map(|root| Log { root, rigour });
                Ok(Signer::Keys { keys, log })
            }
        }
    }

    fn fulcio(&self, node: &Node, logs: &[PublicKey], rigour: Rigour) -> Result<Signer> {
        self.only(node, &["caPath", "caData", "oidcIssuer", "subjectEmail"])?;
        let field = self.one_of(node, &["caPath", "caData"])?;
        let authorities = self.certificates(field, self.want(node, field)?)?;
        let person = Person {
            subject: Subject::Email(self.text(node, "subjectEmail")?),
            issuer: self.text(node, "oidcIssuer")?,
        };
        let root = self.root_of(node, logs, &authorities)?;
        // The format names no certificate transparency log whose word could be asked for.
        let rigour = Rigour {
            no_sct: true,
            ..rigour
        };
        Ok(Signer::Person {
            person,
            log: Log { root, rigour },
        })
    }

    fn keyless(&self, node: &Node, root: TrustRoot, rigour: Rigour) -> Result<Signer> {
        const INSECURE: &str = "insecureIgnoreSct";
        const SUBJECTS: [&str; 3] = ["subject", "subjectEmail", "subjectPattern"];
        let known: Vec<&str> = ["oidcIssuer", INSECURE]
            .into_iter()
            .chain(SUBJECTS)
            .collect();
        self.only(node, &known)?;
        let field = self.one_of(node, &SUBJECTS)?;
        let text = self.text(node, field)?;
        let subject = match field {
            "subject" => Subject::Exact(text),
            "subjectEmail" => Subject::Email(text),
            _ => Subject::Pattern(regex::Regex::new(&format!("^(?:{text})$")).map_err(|_| {
                node.get(field).map_or_else(
                    || Error::internal("a field that is there is gone"),
                    |at| self.invalid(at.fault(format!("{text:?} is not a regular expression"))),
                )
            })?),
        };
        let no_sct = self.flag(node, INSECURE)?;
        if no_sct {
            tracing::warn!(
                policy = %self.0.display(), line = node.at.line,
                "certificates are accepted without the word of a certificate transparency log \
                 ({INSECURE})"
            );
        }
        Ok(Signer::Person {
            person: Person {
                subject,
                issuer: self.text(node, "oidcIssuer")?,
            },
            log: Log {
                root,
                rigour: Rigour { no_sct, ..rigour },
            },
        })
    }

    fn pki(&self, node: &Node) -> Result<Signer> {
        const ROOTS: [&str; 2] = ["caRootsPath", "caRootsData"];
        const BETWEEN: [&str; 2] = ["caIntermediatesPath", "caIntermediatesData"];
        let known: Vec<&str> = ["subjectEmail", "subjectHostname"]
            .into_iter()
            .chain(ROOTS)
            .chain(BETWEEN)
            .collect();
        self.only(node, &known)?;
        let field = self.one_of(node, &ROOTS)?;
        let at = self.want(node, field)?;
        let intermediates = match self.at_most_one_of(node, &BETWEEN)? {
            Some(field) => self.certificates(field, self.want(node, field)?)?,
            None => Vec::new(),
        };
        let maybe = |field: &str| node.get(field).map(|_| self.text(node, field)).transpose();
        let pki = Pki {
            roots: self.certificates(field, at)?,
            intermediates,
            email: maybe("subjectEmail")?,
            hostname: maybe("subjectHostname")?,
            origin: self.origin(field, at)?,
        };
        if pki.email.is_none() && pki.hostname.is_none() {
            return Err(self.invalid(
                node.fault("pki wants subjectEmail or subjectHostname, else everybody would do"),
            ));
        }
        pki.check().map_err(|why| self.invalid(at.fault(why)))?;
        Ok(Signer::Pki(pki))
    }

    /// Logs as containers/image takes them: ECDSA keys.
    fn logs(&self, field: &str, node: &Node) -> Result<Vec<PublicKey>> {
        let keys = self.keys(field, node)?;
        for key in &keys {
            if !matches!(key.kind(), KeyKind::EcdsaP256 | KeyKind::EcdsaP384) {
                return Err(self
                    .unsupported_at(&node.fault(format!(
                        "{}: a log's key has to be ECDSA P-256 or P-384, not {}",
                        key.origin(),
                        key.kind()
                    )))
                    .with_hint(
                        "logs of the second version of Rekor are given by nacreTrustedRootPath",
                    ));
            }
        }
        Ok(keys)
    }

    fn root_of(&self, at: &Node, logs: &[PublicKey], authorities: &[Vec<u8>]) -> Result<TrustRoot> {
        let origins: Vec<&str> = logs.iter().map(PublicKey::origin).collect();
        TrustRoot::of_policy(logs, authorities, format!("log {}", origins.join(" or ")))
            .map_err(|e| e.context(self.place(at, "logs and authorities")))
    }

    fn root(&self, field: &str, node: &Node) -> Result<TrustRoot> {
        let (bytes, origin) = self.bytes(field, node, sigstore::MAX_ROOT)?;
        TrustRoot::parse(&bytes, origin).map_err(|e| e.context(self.place(node, field)))
    }

    fn certificates(&self, field: &str, node: &Node) -> Result<Vec<Vec<u8>>> {
        let (pem, origin) = self.bytes(field, node, MAX_CERTIFICATES)?;
        certificates_of_pem(&pem)
            .map_err(|why| self.invalid(node.fault(format!("{field}: {origin}: {why}"))))
    }

    /// Keyrings of GPG (`signedBy`).
    pub(super) fn keyring(&self, field: &str, node: &Node) -> Result<Keyring> {
        let read = |item: &Node| self.bytes(field, item, MAX_MESSAGE);
        let items = self.items(field, node)?;
        let files = items.iter().map(read).collect::<Result<Vec<_>>>()?;
        Keyring::parse(&files).map_err(|why| self.invalid(node.fault(format!("{field}: {why}"))))
    }

    /// What a field holds, be it one or several.
    fn items<'n>(&self, field: &str, node: &'n Node) -> Result<&'n [Node]> {
        let one = field.ends_with("Path") || field.ends_with("Data");
        let items = match one {
            true => std::slice::from_ref(node),
            false => node.array().map_err(|f| self.invalid(f))?,
        };
        if items.is_empty() || items.len() > MAX_KEYS {
            return Err(self.invalid(node.fault(format!(
                "{field} has {} entries, want 1 to {MAX_KEYS}",
                items.len()
            ))));
        }
        Ok(items)
    }

    fn keys(&self, field: &str, node: &Node) -> Result<Vec<PublicKey>> {
        let items = self.items(field, node)?;
        let what = match field.contains("Path") {
            true => "key file",
            false => "key data",
        };
        items
            .iter()
            .map(|item| {
                let (pem, origin) = self.bytes(field, item, MAX_KEY)?;
                PublicKey::from_pem(&pem, origin).map_err(|e| e.context(self.place(item, what)))
            })
            .collect()
    }

    /// What a field of the kinds `...Path` and `...Data` holds, and where it is from.
    ///
    /// Of `...Data`, the format says base64 of a file; image-rs takes the file's text itself, so
    /// both are read.
    fn bytes(&self, field: &str, node: &Node, limit: u64) -> Result<(Vec<u8>, String)> {
        let text = self.string(node)?;
        let origin = self.origin(field, node)?;
        if field.contains("Path") {
            if text.is_empty() {
                return Err(self.invalid(node.fault(format!("{field}: an empty path"))));
            }
            let what = match KEYS.contains(&field) || field.starts_with("rekor") {
                true => "key file",
                false => field,
            };
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let bytes = self.1.read(Path::new(text), limit);
            let bytes = bytes.map_err(|e| e.context(self.place(node, what)))?;
            return Ok((bytes.to_vec(), origin));
        }
        let bytes = match text.trim_start().starts_with(['-', '{']) {
            true => text.as_bytes().to_vec(),
            false => base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|_| {
                    self.invalid(node.fault(format!(
                        "{field}: key data is neither base64 of a file nor its text"
                    )))
                })?,
        };
        if bytes.len() as u64 > limit {
            return Err(self.invalid(node.fault(format!("{field}: larger than {limit} bytes"))));
        }
        Ok((bytes, origin))
    }

    fn origin(&self, field: &str, node: &Node) -> Result<String> {
        Ok(match field.contains("Path") {
            true => self.string(node)?.to_owned(),
            false => format!("line {}", node.at.line),
        })
    }

    /// A string that says something.
    pub(super) fn text(&self, node: &Node, field: &str) -> Result<String> {
        let value = self.want(node, field)?;
        match self.string(value)? {
            "" => Err(self.invalid(value.fault(format!("{field}: an empty string")))),
            text => Ok(text.to_owned()),
        }
    }

    /// A boolean that is false where it is missing.
    pub(super) fn flag(&self, node: &Node, field: &str) -> Result<bool> {
        node.get(field)
            .map_or(Ok(false), |it| it.boolean().map_err(|f| self.invalid(f)))
    }

    /// The only field of `known` that is there.
    pub(super) fn one_of<'f>(&self, node: &Node, known: &[&'f str]) -> Result<&'f str> {
        self.at_most_one_of(node, known)?.ok_or_else(|| {
            self.invalid(node.fault(format!(
                "want exactly one of {}, have none",
                known.join(", ")
            )))
        })
    }

    fn at_most_one_of<'f>(&self, node: &Node, known: &[&'f str]) -> Result<Option<&'f str>> {
        let given: Vec<&str> = known
            .iter()
            .copied()
            .filter(|field| node.get(field).is_some())
            .collect();
        match given[..] {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            [_, second, ..] => Err(self.invalid(Fault {
                at: self.want(node, second)?.at,
                reason: format!(
                    "want exactly one of {}, have {}",
                    known.join(", "),
                    given.join(" and ")
                ),
            })),
        }
    }
}
