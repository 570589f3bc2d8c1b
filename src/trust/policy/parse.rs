//! From a policy file's bytes to a [`Policy`], refusing whatever it does not know.

use std::{collections::BTreeMap, path::Path};

use super::{ALLOW_UNSIGNED_LAYER_INDEX, Origin, Policy, Requirement, signers};
use crate::{
    error::{Error, Kind, Result},
    resource::Resources,
    trust::{
        attestation::{Origins, V0_2, V1, Wanted},
        identity::{Name, SignedIdentity},
        json::{self, Fault, Node},
        scope,
        watch::Watch,
    },
};

/// Whether an image may be taken from an index that is not signed itself.
const ALLOW_UNSIGNED_INDEX: &str = "nacreAllowUnsignedIndex";

/// The file by its name, and what reads those that it names.
pub(super) struct File<'a>(pub(super) &'a Path, pub(super) &'a Resources);

pub(super) fn policy(bytes: &[u8], path: &Path, resources: &Resources) -> Result<Policy> {
    let file = File(path, resources);
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
        watch: Watch::default(),
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
        let requirements: Vec<Requirement> = items
            .iter()
            .map(|item| self.requirement(item))
            .collect::<Result<_>>()?;
        let demands_nothing = |it: &Requirement| matches!(it, Requirement::AllowUnsignedLayerIndex);
        if requirements.iter().all(demands_nothing) {
            return Err(self.invalid(node.fault(format!(
                "{ALLOW_UNSIGNED_LAYER_INDEX} alone says nothing of images; \
                 write what they must meet beside it"
            ))));
        }
        Ok(requirements)
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
            "nacreRequireAttestation" => self.attestation(node),
            "nacreRequireEncrypted" => {
                self.only(node, &["type"])?;
                Ok(Requirement::Encrypted)
            }
            "nacreRequireDigestPin" => {
                self.only(node, &["type"])?;
                Ok(Requirement::DigestPin)
            }
            ALLOW_UNSIGNED_LAYER_INDEX => {
                self.only(node, &["type"])?;
                Ok(Requirement::AllowUnsignedLayerIndex)
            }
            "signedBy" => self.signed_by(node),
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
        let known: Vec<&str> = ["type", "signedIdentity", ALLOW_UNSIGNED_INDEX]
            .into_iter()
            .chain(signers::fields())
            .collect();
        self.only(node, &known)?;
        let signer = Box::new(self.signer(node)?);
        let (identity, unsigned_index) = self.accepts(node)?;
        Ok(Requirement::SigstoreSigned {
            signer,
            identity,
            unsigned_index,
        })
    }

    fn signed_by(&self, node: &Node) -> Result<Requirement> {
        const KEYS: [&str; 3] = ["keyPath", "keyPaths", "keyData"];
        let known: Vec<&str> = ["type", "keyType", "signedIdentity", ALLOW_UNSIGNED_INDEX]
            .into_iter()
            .chain(KEYS)
            .collect();
        self.only(node, &known)?;
        let kind = self.want(node, "keyType")?;
        match self.string(kind)? {
            "GPGKeys" => {}
            other @ ("signedByGPGKeys" | "X509Certificates" | "signedByX509CAs") => {
                return Err(self.unsupported(kind, &format!("keyType {other} is not checked")));
            }
            other => return Err(self.invalid(kind.fault(format!("unknown keyType {other:?}")))),
        }
        let field = self.one_of(node, &KEYS)?;
        let keys = Box::new(self.keyring(field, self.want(node, field)?)?);
        let (identity, unsigned_index) = self.accepts(node)?;
        Ok(Requirement::SignedBy {
            keys,
            identity,
            unsigned_index,
        })
    }

    /// Which names a signature may carry, and whether it may be on the platform's manifest.
    fn accepts(&self, node: &Node) -> Result<(SignedIdentity, bool)> {
        let identity = match node.get("signedIdentity") {
            Some(identity) => self.identity(identity)?,
            None => SignedIdentity::MatchRepoDigestOrExact,
        };
        let unsigned_index = match node.get(ALLOW_UNSIGNED_INDEX) {
            Some(_) => self.flag(node, ALLOW_UNSIGNED_INDEX)?,
            None => true,
        };
        Ok((identity, unsigned_index))
    }

    fn attestation(&self, node: &Node) -> Result<Requirement> {
        const ORIGINS: [&str; 3] = ["builder", "source", "ref"];
        let known: Vec<&str> = ["type", "predicateType", "signer"]
            .into_iter()
            .chain(ORIGINS)
            .collect();
        self.only(node, &known)?;
        let signer = self.want(node, "signer")?;
        self.only(signer, &signers::fields().collect::<Vec<_>>())?;
        let predicate_type = self.text(node, "predicateType")?;
        let [builder, source, reference] =
            ORIGINS.map(|field| node.get(field).map(|_| self.text(node, field)).transpose());
        let origins = Origins {
            builder: builder?,
            source: source?,
            reference: reference?,
        };
        if origins != Origins::default() && ![V0_2, V1].contains(&predicate_type.as_str()) {
            return Err(self.invalid(self.want(node, "predicateType")?.fault(format!(
                "builder, source and ref are in provenance only; predicateType wants {V1} or {V0_2}"
            ))));
        }
        Ok(Requirement::Attestation(Box::new(Wanted {
            predicate_type,
            origins,
            signer: self.signer(signer)?,
        })))
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

    pub(super) fn want<'n>(&self, node: &'n Node, key: &str) -> Result<&'n Node> {
        node.want(key).map_err(|f| self.invalid(f))
    }

    pub(super) fn only(&self, node: &Node, known: &[&str]) -> Result<()> {
        node.only(known).map_err(|f| self.invalid(f))
    }

    fn object<'n>(&self, node: &'n Node) -> Result<&'n [json::Member]> {
        node.object().map_err(|f| self.invalid(f))
    }

    pub(super) fn string<'n>(&self, node: &'n Node) -> Result<&'n str> {
        node.string().map_err(|f| self.invalid(f))
    }

    pub(super) fn invalid(&self, fault: Fault) -> Error {
        Error::invalid(format!("policy {}: {fault}", self.0.display()))
    }

    fn unsupported(&self, node: &Node, reason: &str) -> Error {
        self.unsupported_at(&node.fault(reason))
    }

    pub(super) fn unsupported_at(&self, fault: &Fault) -> Error {
        Error::new(
            Kind::Unsupported,
            format!("policy {}: {fault}", self.0.display()),
        )
        .with_hint(
            "a later nacre may check it; until then use sigstoreSigned, or another policy file \
             with --policy FILE",
        )
    }

    pub(super) fn place(&self, node: &Node, what: &str) -> String {
        format!("policy {}: {}", self.0.display(), node.fault(what))
    }
}
