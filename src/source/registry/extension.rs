//! The registry extension for GPG signatures (`X-Registry-Supports-Signatures`), which OpenShift's
//! and IBM's registries have.

use base64::Engine as _;
use reqwest::{Method, header::HeaderMap};
use serde::Deserialize;

use super::{
    repository::{Answer, RegistryRepository},
    transport::{Request, Target},
};
use crate::{
    error::{Error, Kind, Result},
    oci::Digest,
    source::DetachedSignature,
};

/// Header of the API root's answer.
const SUPPORTED: &str = "x-registry-supports-signatures";
/// The only version and type that there are.
const VERSION: u32 = 2;
const TYPE: &str = "atomic";

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    signatures: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    schema_version: u32,
    #[serde(default)]
    name: String,
    #[serde(rename = "type")]
    kind: String,
    content: String,
}

// === impl RegistryRepository ===

impl RegistryRepository {
    /// The signatures that the registry stores; `None` if it does not say that it stores any.
    pub(super) async fn stored_signatures(
        &self,
        subject: &Digest,
    ) -> Result<Option<Vec<DetachedSignature>>> {
        let path = format!("/extensions/v2/{}/signatures/{subject}", self.path);
        let Some(url) = self.registry.beside(&path)? else {
            return Ok(None);
        };
        if !self.stores_signatures().await? {
            return Ok(None);
        }
        // The scheme of a registry on loopback is known only now.
        let url = self.registry.beside(&path)?.unwrap_or(url);
        let what = format!("signatures of {subject} in {}", self.full_name());
        let target = Target::Url(url);
        let bytes = match self.document(&target, "application/json", &what).await? {
            Answer::Found(fetched) => fetched.bytes,
            Answer::Refused(_, error) if error.kind() == Kind::NotFound => {
                return Ok(Some(Vec::new()));
            }
            Answer::Refused(_, error) => return Err(error),
        };
        read(&bytes)
            .map(Some)
            .map_err(|why| Error::unavailable(format!("{what}: {why}")))
    }

    async fn stores_signatures(&self) -> Result<bool> {
        let what = format!("API of {}", self.registry.host());
        let exchange = self
            .registry
            .send(&Request {
                method: Method::GET,
                target: Target::Path("/".into()),
                headers: HeaderMap::new(),
                body: None,
                path: &self.path,
                actions: self.actions,
                from: None,
                handed: self.handed.as_deref(),
                traffic: &self.traffic,
                what: &what,
            })
            .await?;
        let said = exchange.response.headers().get(SUPPORTED);
        Ok(said.is_some_and(|it| it == "1"))
    }
}

/// Reads the list; signatures of other kinds are left out.
fn read(bytes: &[u8]) -> Result<Vec<DetachedSignature>, String> {
    let list: List = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let known = |it: &Item| it.schema_version == VERSION && it.kind == TYPE;
    list.signatures
        .into_iter()
        .filter(known)
        .map(|item| {
            let content = base64::engine::general_purpose::STANDARD.decode(&item.content);
            Ok(DetachedSignature {
                bytes: content
                    .map_err(|_| format!("signature {:?} is not base64", item.name))?
                    .into(),
                place: item.name,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_openshift_lists() {
        let list = br#"{"signatures": [
            {"schemaVersion": 2, "name": "sha256:ab@1", "type": "atomic", "content": "aGk="},
            {"schemaVersion": 3, "name": "b", "type": "atomic", "content": "?"},
            {"schemaVersion": 2, "name": "c", "type": "x", "content": "?"}
        ]}"#;
        let found = read(list).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "sha256:ab@1");
        assert_eq!(&found[0].bytes[..], b"hi");
        assert!(read(b"{}").unwrap().is_empty());
        let bad = r#"{"signatures": [{"schemaVersion": 2, "type": "atomic", "content": "?"}]}"#;
        assert!(read(bad.as_bytes()).unwrap_err().contains("not base64"));
        assert!(read(b"[1]").is_err());
    }
}
