//! JSON Web Encryption as ocicrypt writes it: JSON serialization, flattened or general, `A256GCM`.
//!
//! Follows RFC 7516 and 7518. What it does not know it refuses: other content encryption, `zip`,
//! `crit`, header names that occur in two places. go-jose writes a stray `encrypted_key` beside
//! `recipients`; it is passed over, as go-jose does.

use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

mod content_key;
mod seal;

pub(crate) use self::seal::seal;

use super::{
    coco::open_gcm,
    json::{UniqueMap, UrlBytes},
    private_key::PrivateKey,
};
use crate::error::{Error, Result};

/// A parsed packet.
#[derive(Debug)]
pub(crate) struct Jwe {
    /// `protected` as written: additional data of the content.
    aad: Vec<u8>,
    iv: [u8; 12],
    /// Ciphertext, then tag.
    sealed: Vec<u8>,
    recipients: Vec<Recipient>,
}

#[derive(Debug)]
struct Recipient {
    header: Header,
    encrypted_key: Vec<u8>,
}

/// Joined header of one recipient; names are unique across its parts.
#[derive(Debug, Default)]
struct Header(UniqueMap<Value>);

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    protected: String,
    #[serde(default)]
    unprotected: UniqueMap<Value>,
    #[serde(default)]
    header: UniqueMap<Value>,
    #[serde(default)]
    encrypted_key: UrlBytes,
    #[serde(default)]
    recipients: Option<Vec<DocumentRecipient>>,
    #[serde(default)]
    aad: Option<String>,
    iv: UrlBytes,
    ciphertext: UrlBytes,
    tag: UrlBytes,
}

#[derive(Deserialize)]
struct DocumentRecipient {
    #[serde(default)]
    header: UniqueMap<Value>,
    #[serde(default)]
    encrypted_key: UrlBytes,
}

/// Most recipients of one packet: each may cost an RSA operation for each key.
const MAX_RECIPIENTS: usize = 256;
const TAG: usize = 16;

// === impl Jwe ===

impl Jwe {
    /// Reads a packet.
    ///
    /// # Errors
    /// `Invalid` if it is malformed, `Unsupported` if its content is encrypted in another way.
    pub(crate) fn parse(packet: &[u8]) -> Result<Self> {
        let document: Document =
            serde_json::from_slice(packet).map_err(|e| invalid(e.to_string()))?;
        let protected: UniqueMap<Value> = if document.protected.is_empty() {
            UniqueMap::default()
        } else {
            let quoted = Value::String(document.protected.clone());
            let json: UrlBytes =
                serde_json::from_value(quoted).map_err(|e| invalid(format!("protected: {e}")))?;
            serde_json::from_slice(&json.0).map_err(|e| invalid(format!("protected: {e}")))?
        };
        let shared = Header(protected).join(document.unprotected)?;

        let recipients = match document.recipients {
            None => vec![Recipient {
                header: shared.join(document.header)?,
                encrypted_key: document.encrypted_key.0,
            }],
            Some(_) if !document.header.0.is_empty() => {
                return Err(invalid("has both header and recipients"));
            }
            Some(list) if list.is_empty() || list.len() > MAX_RECIPIENTS => {
                return Err(invalid(format!(
                    "{} recipients, want 1 to {MAX_RECIPIENTS}",
                    list.len()
                )));
            }
            Some(list) => list
                .into_iter()
                .map(|recipient| {
                    Ok(Recipient {
                        header: shared.join(recipient.header)?,
                        encrypted_key: recipient.encrypted_key.0,
                    })
                })
                .collect::<Result<_>>()?,
        };
        for recipient in &recipients {
            recipient.header.check()?;
        }

        let mut aad = document.protected.into_bytes();
        if let Some(more) = document.aad {
            aad.push(b'.');
            aad.extend_from_slice(more.as_bytes());
        }
        let iv = document.iv.0[..]
            .try_into()
            .map_err(|_| invalid(format!("iv of {} bytes, want 12", document.iv.0.len())))?;
        if document.tag.0.len() != TAG {
            return Err(invalid(format!(
                "tag of {} bytes, want {TAG}",
                document.tag.0.len()
            )));
        }
        let mut sealed = document.ciphertext.0;
        sealed.extend_from_slice(&document.tag.0);
        Ok(Self {
            aad,
            iv,
            sealed,
            recipients,
        })
    }

    /// How many keys can open it.
    pub(crate) fn recipients(&self) -> usize {
        self.recipients.len()
    }

    /// `alg` of each recipient.
    pub(crate) fn algorithms(&self) -> Vec<String> {
        self.recipients
            .iter()
            .map(|recipient| recipient.header.text("alg").unwrap_or("").to_owned())
            .collect()
    }

    /// The content, if `key` is one of the recipients'.
    ///
    /// # Errors
    /// `Denied` if it is none of theirs; `Unsupported` if no recipient's `alg` is known.
    pub(crate) fn open(&self, key: &PrivateKey) -> Result<Zeroizing<Vec<u8>>> {
        let mut unsupported = None;
        for recipient in &self.recipients {
            let content_key =
                match content_key::unwrap(&recipient.header, &recipient.encrypted_key, key) {
                    Ok(Some(content_key)) => content_key,
                    Ok(None) => continue,
                    Err(error) => {
                        unsupported = Some(error);
                        continue;
                    }
                };
            let mut data = Zeroizing::new(self.sealed.clone());
            let tag_at = data.len() - TAG;
            if open_gcm(&content_key, &self.iv, &self.aad, &mut data, tag_at).is_some() {
                return Ok(data);
            }
        }
        Err(unsupported.unwrap_or_else(|| Error::denied("the key is none of the recipients'")))
    }
}

// === impl Header ===

impl Header {
    /// Adds `more`, which may name nothing that is here.
    fn join(&self, more: UniqueMap<Value>) -> Result<Self> {
        let mut all = self.0.clone();
        for (name, value) in more.0 {
            if all.0.contains_key(&name) {
                return Err(invalid(format!("header {name:?} occurs in two places")));
            }
            all.0.insert(name, value);
        }
        Ok(Self(all))
    }

    fn check(&self) -> Result<()> {
        for name in ["zip", "crit", "b64"] {
            if self.0.0.contains_key(name) {
                return Err(Error::unsupported(format!("JWE with header {name:?}")));
            }
        }
        match self.text("enc") {
            Some("A256GCM") => Ok(()),
            Some(other) => Err(Error::unsupported(format!(
                "JWE content encryption {other:?}: only A256GCM is known"
            ))),
            None => Err(invalid("names no content encryption")),
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.value(name)?.as_str()
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.0.get(name)
    }
}

fn invalid(what: impl std::fmt::Display) -> Error {
    Error::invalid(format!("JWE: {what}"))
}

#[cfg(test)]
mod tests;
