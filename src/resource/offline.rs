//! Files of offline-fs-kbc, for machines without a key broker: `{"repository/type/tag": "BASE64"}`.
//!
//! Confidential Containers has two, `/etc/aa-offline_fs_kbc-keys.json` (keys that CoCo packets name) and
//! `/etc/aa-offline_fs_kbc-resources.json`, of one form. Names may also be whole URIs.

use std::{collections::BTreeMap, fmt, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    file,
    uri::{Place, Uri},
};
use crate::error::{Error, Result};

/// One file's contents.
pub(crate) struct Offline(BTreeMap<String, Secret>);

type Secret = Zeroizing<Vec<u8>>;

/// Largest file.
const MAX_FILE: usize = 16 << 20;

// === impl Offline ===

impl Offline {
    /// Reads a file.
    ///
    /// # Errors
    /// `NotFound`, `Io`, or `Invalid` with line and column; nothing of its values is quoted.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let read = file::read(path, MAX_FILE).and_then(|bytes| {
            Self::parse(&bytes).map_err(|e| e.context(path.display().to_string()))
        });
        read.map_err(|e| e.context("offline resources"))
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| {
            let (line, column) = (e.line(), e.column());
            Error::invalid(format!(
                "line {line} column {column}: want an object of base64 by repository/type/tag, \
                 each once"
            ))
        })
    }

    /// All of them, by URI.
    pub(crate) fn all(self) -> impl Iterator<Item = (String, Secret)> {
        self.0
            .into_iter()
            .map(|(name, secret)| match name.contains("://") {
                true => (name, secret),
                false => (format!("kbs:///{}", name.trim_start_matches('/')), secret),
            })
    }

    /// The resource, if it is there.
    pub(super) fn take(mut self, uri: &Uri) -> Option<Secret> {
        let wanted = uri.resource()?;
        let named = |name: &String| match Place::of(Path::new(name)) {
            Ok(Place::Resource(uri)) => uri.resource() == Some(wanted),
            _ => name.trim_start_matches('/') == wanted,
        };
        let name = self.0.keys().find(|it| named(it))?.clone();
        self.0.remove(&name)
    }
}

impl<'de> Deserialize<'de> for Offline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Offline;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Offline, A::Error> {
                let mut all = BTreeMap::new();
                while let Some((name, mut text)) = map.next_entry::<String, String>()? {
                    let secret = decode(&text);
                    text.zeroize();
                    let secret = secret.ok_or_else(|| de::Error::custom("not base64"))?;
                    // Readers differ in which of two they take.
                    if all.insert(name, secret).is_some() {
                        return Err(de::Error::custom("twice"));
                    }
                }
                Ok(Offline(all))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

fn decode(text: &str) -> Option<Secret> {
    let mut bytes = Zeroizing::new(vec![0; text.len() / 4 * 3 + 3]);
    let length = STANDARD.decode_slice(text, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}
