//! From a policy file's bytes to a [`Policy`], refusing whatever it does not know.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use base64::Engine as _;

use super::{Origin, Policy, Requirement, read_capped};
use crate::{
    error::{Error, Kind, Result},
    trust::{
        identity::{Name, SignedIdentity},
        json::{self, Fault, Node},
        key::{MAX_KEY, PublicKey},
        scope,
    },
};

/// Most keys in one requirement: each signature is tried with each of them.
const MAX_KEYS: usize = 64;

const KEY_FIELDS: [&str; 4] = ["keyPath", "keyPaths", "keyData", "keyDatas"];

/// Fields of `sigstoreSigned` that containers-policy.json(5) has and nacre does not check.
const UNCHECKED_FIELDS: [&str; 6] = [
    "fulcio",
    "pki",
    "rekorPublicKeyPath",
    "rekorPublicKeyPaths",
    "rekorPublicKeyData",
    "rekorPublicKeyDatas",
];

struct File<'a>(&'a Path);

pub(super) fn policy(bytes: &[u8], path: &Path) -> Result<Policy> {
    let file = File(path);
    let root = json::parse(bytes).map_err(|f| file.invalid(f))?;
    file.only(&root, &["default", "transports"])?;
    let default = file.requirements(file.want(&root, "default")?)?;
    let mut transports = BTreeMap::new();
    if let Some(node) = root.get("transports") {
        for transport in file.object(node)? {
            let mut scopes = BTreeMap::new();
            for scope in file.object(&transport.node)? {
                if let Some(why) = scope::refuse(&transport.key, &scope.key) {
                    return Err(file.invalid(Fault {
                        at: scope.at,
                        reason: format!(
                            "scope {:?} of transport {:?} can never match: {why}",
                            scope.key, transport.key
                        ),
                    }));
                }
                scopes.insert(scope.key.clone(), file.requirements(&scope.node)?);
            }
            transports.insert(transport.key.clone(), scopes);
        }
    }
    Ok(Policy {
        origin: Origin::File(path.to_owned()),
        default,
        transports,
    })
}

// === impl File ===

impl File<'_> {
    fn requirements(&self, node: &Node) -> Result<Vec<Requirement>> {
        let items = node.array().map_err(|f| self.invalid(f))?;
        if items.is_empty() {
            return Err(self.invalid(node.fault(
                "an empty list of requirements; to refuse write [{\"type\": \"reject\"}]",
            )));
        }
        items.iter().map(|item| self.requirement(item)).collect()
    }

    fn requirement(&self, node: &Node) -> Result<Requirement> {
        match self.kind(node)? {
            "insecureAcceptAnything" => {
                self.only(node, &["type"])?;
                Ok(Requirement::InsecureAcceptAnything)
            }
            "reject" => {
                self.only(node, &["type"])?;
                Ok(Requirement::Reject)
            }
            "sigstoreSigned" => self.sigstore_signed(node),
            "signedBy" => Err(self.unsupported(
                node,
                "requirement signedBy (GPG simple signing) is not checked by this nacre",
            )),
            "signedBaseLayer" => Err(self.unsupported(
                node,
                "requirement signedBaseLayer is not checked by this nacre",
            )),
            other => Err(self.invalid(
                self.want(node, "type")?
                    .fault(format!("unknown requirement type {other:?}")),
            )),
        }
    }

    fn sigstore_signed(&self, node: &Node) -> Result<Requirement> {
        let known: Vec<&str> = ["type", "signedIdentity"]
            .into_iter()
            .chain(KEY_FIELDS)
            .chain(UNCHECKED_FIELDS)
            .collect();
        self.only(node, &known)?;
        for member in self.object(node)? {
            if UNCHECKED_FIELDS.contains(&member.key.as_str()) {
                return Err(self.unsupported_at(&Fault {
                    at: member.at,
                    reason: format!(
                        "sigstoreSigned with {:?} is not checked by this nacre, only keys are",
                        member.key
                    ),
                }));
            }
        }
        let given: Vec<&str> = KEY_FIELDS
            .into_iter()
            .filter(|field| node.get(field).is_some())
            .collect();
        let [field] = given[..] else {
            let found = match given.as_slice() {
                [] => "none".to_owned(),
                several => several.join(" and "),
            };
            return Err(self.invalid(node.fault(format!(
                "want exactly one of {}, have {found}",
                KEY_FIELDS.join(", ")
            ))));
        };
        let keys = self.keys(field, self.want(node, field)?)?;
        let identity = match node.get("signedIdentity") {
            Some(identity) => self.identity(identity)?,
            None => SignedIdentity::MatchRepoDigestOrExact,
        };
        Ok(Requirement::SigstoreSigned { keys, identity })
    }

    fn keys(&self, field: &str, node: &Node) -> Result<Vec<PublicKey>> {
        let items = match field {
            "keyPath" | "keyData" => std::slice::from_ref(node),
            _ => node.array().map_err(|f| self.invalid(f))?,
        };
        if items.is_empty() || items.len() > MAX_KEYS {
            return Err(self.invalid(node.fault(format!(
                "{field} has {} entries, want 1 to {MAX_KEYS}",
                items.len()
            ))));
        }
        items
            .iter()
            .map(|item| {
                let text = self.string(item)?;
                match field {
                    "keyPath" | "keyPaths" => self.key_file(item, text),
                    _ => self.key_data(item, text),
                }
            })
            .collect()
    }

    fn key_file(&self, node: &Node, path: &str) -> Result<PublicKey> {
        if path.is_empty() {
            return Err(self.invalid(node.fault("an empty key path")));
        }
        let path = PathBuf::from(path);
        let name = path.display().to_string();
        let pem =
            read_capped(&path, MAX_KEY).map_err(|e| e.context(self.place(node, "key file")))?;
        PublicKey::from_pem(&pem, name).map_err(|e| e.context(self.place(node, "key file")))
    }

    /// The format says base64 of a PEM file; image-rs takes the PEM text itself, so both are read.
    fn key_data(&self, node: &Node, data: &str) -> Result<PublicKey> {
        let origin = format!("line {}", node.at.line);
        let pem = if data.trim_start().starts_with("-----BEGIN ") {
            data.as_bytes().to_vec()
        } else {
            base64::engine::general_purpose::STANDARD
                .decode(data)
                .map_err(|_| {
                    self.invalid(
                        node.fault("key data is neither base64 of a PEM file nor PEM text"),
                    )
                })?
        };
        if pem.len() as u64 > MAX_KEY {
            return Err(self.invalid(node.fault(format!("key data larger than {MAX_KEY} bytes"))));
        }
        PublicKey::from_pem(&pem, origin).map_err(|e| e.context(self.place(node, "key data")))
    }

    fn identity(&self, node: &Node) -> Result<SignedIdentity> {
        let plain = |identity: SignedIdentity| self.only(node, &["type"]).map(|()| identity);
        match self.kind(node)? {
            "matchExact" => plain(SignedIdentity::MatchExact),
            "matchRepoDigestOrExact" => plain(SignedIdentity::MatchRepoDigestOrExact),
            "matchRepository" => plain(SignedIdentity::MatchRepository),
            "nacreMatchDigest" => plain(SignedIdentity::MatchDigest),
            "exactReference" => {
                let name = self.name(node, "dockerReference")?;
                if name.is_bare() {
                    return Err(self.invalid(self.want(node, "dockerReference")?.fault(
                        "dockerReference wants a tag or a digest; exactRepository does without",
                    )));
                }
                Ok(SignedIdentity::ExactReference(name))
            }
            "exactRepository" => {
                let name = self.name(node, "dockerRepository")?;
                if !name.is_bare() {
                    return Err(self.invalid(self.want(node, "dockerRepository")?.fault(
                        "dockerRepository wants no tag and no digest; they would not be compared",
                    )));
                }
                Ok(SignedIdentity::ExactRepository(name))
            }
            "remapIdentity" => {
                self.only(node, &["type", "prefix", "signedPrefix"])?;
                Ok(SignedIdentity::RemapIdentity {
                    prefix: self.prefix(node, "prefix")?,
                    signed_prefix: self.prefix(node, "signedPrefix")?,
                })
            }
            other => Err(self.invalid(
                self.want(node, "type")?
                    .fault(format!("unknown signedIdentity type {other:?}")),
            )),
        }
    }

    fn name(&self, node: &Node, field: &str) -> Result<Name> {
        self.only(node, &["type", field])?;
        let value = self.want(node, field)?;
        let text = self.string(value)?;
        Name::parse(text)
            .ok_or_else(|| self.invalid(value.fault(format!("{text:?} is not an image name"))))
    }

    /// A host, or a host and the beginning of a path: `r.example:5000`, `r.example/team`.
    fn prefix(&self, node: &Node, field: &str) -> Result<String> {
        let value = self.want(node, field)?;
        let text = self.string(value)?;
        // With one more component, a host alone parses as a name with that host.
        let name = Name::parse(&format!("{text}/x"));
        match name {
            Some(name) if name.is_bare() && name.to_string() == format!("{text}/x") => {
                Ok(text.to_owned())
            }
            _ => Err(self.invalid(value.fault(format!(
                "{text:?} is not a host or the beginning of a repository, expanded"
            )))),
        }
    }

    fn kind<'n>(&self, node: &'n Node) -> Result<&'n str> {
        self.string(self.want(node, "type")?)
    }

    fn want<'n>(&self, node: &'n Node, key: &str) -> Result<&'n Node> {
        node.want(key).map_err(|f| self.invalid(f))
    }

    fn only(&self, node: &Node, known: &[&str]) -> Result<()> {
        node.only(known).map_err(|f| self.invalid(f))
    }

    fn object<'n>(&self, node: &'n Node) -> Result<&'n [json::Member]> {
        node.object().map_err(|f| self.invalid(f))
    }

    fn string<'n>(&self, node: &'n Node) -> Result<&'n str> {
        node.string().map_err(|f| self.invalid(f))
    }

    fn invalid(&self, fault: Fault) -> Error {
        Error::invalid(format!("policy {}: {fault}", self.0.display()))
    }

    fn unsupported(&self, node: &Node, reason: &str) -> Error {
        self.unsupported_at(&node.fault(reason))
    }

    fn unsupported_at(&self, fault: &Fault) -> Error {
        Error::new(
            Kind::Unsupported,
            format!("policy {}: {fault}", self.0.display()),
        )
        .with_hint(
            "a later nacre may check it; until then use sigstoreSigned with a key, or another \
             policy file with --policy FILE",
        )
    }

    fn place(&self, node: &Node, what: &str) -> String {
        format!("policy {}: {}", self.0.display(), node.fault(what))
    }
}
