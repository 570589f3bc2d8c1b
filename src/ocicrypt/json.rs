//! JSON shapes of Go's `encoding/json` that ocicrypt documents are made of.
//!
//! A name that occurs twice is refused everywhere: readers differ in which one they take.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use zeroize::{Zeroize, Zeroizing};

/// Bytes that may be a secret: a base64 string (Go) or an array of numbers (Rust); zeroized.
pub(crate) struct SecretBytes(pub(crate) Zeroizing<Vec<u8>>);

/// Bytes as an unpadded base64url string (JOSE).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UrlBytes(pub(crate) Vec<u8>);

/// An object with arbitrary names, each at most once; `null` reads as empty.
#[derive(Clone, Debug)]
pub(crate) struct UniqueMap<V>(pub(crate) BTreeMap<String, V>);

// === impl SecretBytes ===

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl<'de> Visitor<'de> for Bytes {
            type Value = SecretBytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64 text or an array of bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretBytes, E> {
                decode_standard(text)
                    .map(SecretBytes)
                    .ok_or_else(|| E::custom("not base64"))
            }

            fn visit_string<E: de::Error>(self, mut text: String) -> Result<SecretBytes, E> {
                let bytes = self.visit_str(&text);
                text.zeroize();
                bytes
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<SecretBytes, A::Error> {
                // Growing would leave copies behind; this is room for what keys usually take.
                let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
                while let Some(byte) = items.next_element::<u8>()? {
                    if bytes.len() == bytes.capacity() {
                        let mut larger = Zeroizing::new(Vec::with_capacity(bytes.len() * 2));
                        larger.extend_from_slice(&bytes);
                        bytes = larger;
                    }
                    bytes.push(byte);
                }
                Ok(SecretBytes(bytes))
            }
        }

        deserializer.deserialize_any(Bytes)
    }
}

impl fmt::Debug for SecretBytes {
    /// Says how many, and nothing of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({})", self.0.len())
    }
}

// === impl UrlBytes ===

impl<'de> Deserialize<'de> for UrlBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        URL_SAFE_NO_PAD
            .decode(&text)
            .map(Self)
            .map_err(|_| de::Error::custom("not unpadded base64url"))
    }
}

// === impl UniqueMap ===

impl<V> Default for UniqueMap<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unique<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Unique<V> {
            type Value = UniqueMap<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_unit<E>(self) -> Result<UniqueMap<V>, E> {
                Ok(UniqueMap::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMap<V>, A::Error> {
                let mut all = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, V>()? {
                    if all.contains_key(&name) {
                        return Err(de::Error::custom(format!("{name:?} occurs twice")));
                    }
                    all.insert(name, value);
                }
                Ok(UniqueMap(all))
            }
        }

        deserializer.deserialize_any(Unique(PhantomData))
    }
}

/// Decodes standard base64 into memory that is zeroized, whatever comes of it.
pub(crate) fn decode_standard(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; text.len() / 4 * 3 + 3]);
    let length = STANDARD.decode_slice(text, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_or_numbers() {
        for text in [r#""AQL/""#, "[1,2,255]", r#""\u0041QL/""#] {
            let bytes: SecretBytes = serde_json::from_str(text).unwrap();
            assert_eq!(bytes.0[..], [1, 2, 255], "{text}");
        }
        for bad in ["[256]", "[-1]", r#""AQ""#, "1", "null", "{}"] {
            assert!(serde_json::from_str::<SecretBytes>(bad).is_err(), "{bad}");
        }
        let long = serde_json::to_string(&vec![7_u8; 9000]).unwrap();
        let long: SecretBytes = serde_json::from_str(&long).unwrap();
        assert_eq!(long.0[..], [7; 9000]);
    }

    #[test]
    fn names_are_unique() {
        let map: UniqueMap<u8> = serde_json::from_str(r#"{"a":1,"b":2}"#).unwrap();
        assert_eq!(map.0.len(), 2);
        assert!(
            serde_json::from_str::<UniqueMap<u8>>("null")
                .unwrap()
                .0
                .is_empty()
        );
        let twice = serde_json::from_str::<UniqueMap<u8>>(r#"{"a":1,"a":1}"#);
        assert!(twice.unwrap_err().to_string().contains("occurs twice"));
    }
}
