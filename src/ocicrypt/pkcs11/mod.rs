//! PKCS11 packets, and ocicrypt's files that say on which token a private key is.
//!
//! A packet is `{"version":0,"recipients":[{"version":0,"blob":BASE64,"hash":"sha256"}]}`: the private
//! options by RSA-OAEP, once for each recipient; without a hash it is SHA-1. A key file is YAML with a
//! `pkcs11:` URI (RFC 7512) and the environment of the token's module.

mod uri;

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use zeroize::Zeroizing;

pub(crate) use self::uri::{Module, TokenUri};
use crate::error::{Error, Result};

/// A parsed packet.
#[derive(Debug, Deserialize)]
pub(crate) struct Pkcs11Packet {
    #[serde(default)]
    version: u32,
    recipients: Vec<Recipient>,
}

#[derive(Debug, Deserialize)]
struct Recipient {
    #[serde(default)]
    version: u32,
    blob: String,
    #[serde(default)]
    hash: String,
}

/// One recipient's blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) hash: Hash,
}

/// Hash of OAEP and its mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha1,
    Sha256,
}

/// Where a private key is that no program can read.
pub(crate) struct TokenKey {
    pub(crate) uri: TokenUri,
    /// Environment of the module.
    pub(crate) environment: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct File {
    pkcs11: Pkcs11,
    #[serde(default)]
    module: ModuleSettings,
}

#[derive(Deserialize)]
struct Pkcs11 {
    uri: String,
}

#[derive(Default, Deserialize)]
struct ModuleSettings {
    #[serde(default)]
    env: BTreeMap<String, String>,
}

/// Most recipients of one packet: each costs an operation of the token.
const MAX_RECIPIENTS: usize = 64;

// === impl Pkcs11Packet ===

impl Pkcs11Packet {
    /// Reads a packet.
    ///
    /// # Errors
    /// `Invalid` if it is malformed, `Unsupported` if it is of a later version.
    pub(crate) fn parse(packet: &[u8]) -> Result<Self> {
        let packet: Self =
            serde_json::from_slice(packet).map_err(|e| Error::invalid(format!("PKCS11: {e}")))?;
        let mut versions = packet.recipients.iter().map(|it| it.version);
        if let Some(later) = versions
            .find(|it| *it > 0)
            .or((packet.version > 0).then_some(packet.version))
        {
            return Err(Error::unsupported(format!(
                "PKCS11: packet of version {later}"
            )));
        }
        match packet.recipients.len() {
            1..=MAX_RECIPIENTS => Ok(packet),
            count => Err(Error::invalid(format!(
                "PKCS11: {count} recipients, want 1 to {MAX_RECIPIENTS}"
            ))),
        }
    }

    /// How many keys can open it.
    pub(crate) fn recipients(&self) -> usize {
        self.recipients.len()
    }

    /// What each recipient is given.
    ///
    /// # Errors
    /// `Unsupported` for another hash, `Invalid` if a blob is not base64.
    pub(crate) fn sealed(&self) -> Result<Vec<Sealed>> {
        let recipients = self.recipients.iter();
        recipients
            .map(|it| {
                let hash = match &*it.hash {
                    "" | "sha1" => Hash::Sha1,
                    "sha256" => Hash::Sha256,
                    other => {
                        let what =
                            format!("PKCS11: OAEP with {other:?}: sha1 and sha256 are known");
                        return Err(Error::unsupported(what));
                    }
                };
                let bytes = STANDARD.decode(&it.blob);
                let bytes = bytes.map_err(|_| Error::invalid("PKCS11: a blob is not base64"))?;
                Ok(Sealed { bytes, hash })
            })
            .collect()
    }
}

// === impl Hash ===

impl Hash {
    /// As packets name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }
}

// === impl TokenKey ===

impl TokenKey {
    /// Whether a file is of this kind: YAML with a key `pkcs11` at its left.
    pub(crate) fn is(file: &[u8]) -> bool {
        let text = std::str::from_utf8(file).unwrap_or_default();
        text.lines().any(|line| line.starts_with("pkcs11:"))
    }

    /// Reads a file; `pin` stands in for one that the URI does not have.
    ///
    /// # Errors
    /// `Invalid` if it is malformed, `Unsupported` for attributes that are not known, `Denied` if
    /// there is no PIN.
    pub(crate) fn parse(file: &[u8], pin: Option<&[u8]>) -> Result<Self> {
        // The message of a YAML error could quote the document, where a PIN may be.
        let malformed = || {
            Error::invalid("not ocicrypt's YAML of a PKCS#11 key").with_hint(
                "want pkcs11: {uri: \"pkcs11:token=...;object=...?module-path=...&pin-value=...\"}",
            )
        };
        let text = std::str::from_utf8(file).map_err(|_| malformed())?;
        let file: File = serde_saphyr::from_str(text).map_err(|_| malformed())?;
        let text = Zeroizing::new(file.pkcs11.uri);
        let mut uri = TokenUri::parse(&text)?;
        if uri.pin.is_none() {
            let pin = pin.map(|it| Zeroizing::new(String::from_utf8_lossy(it).into_owned()));
            uri.pin = pin;
        }
        if uri.pin.is_none() && uri.pin_source.is_none() {
            return Err(Error::denied("PKCS#11 key: no PIN").with_hint(
                "write FILE:pass=PIN or FILE:file=PIN-FILE, or pin-value= or pin-source= in the URI",
            ));
        }
        Ok(Self {
            uri,
            environment: file.module.env,
        })
    }
}

impl fmt::Debug for TokenKey {
    /// Nothing of the PIN.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({:?})", self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn packets() {
        let parse = |text: &str| Pkcs11Packet::parse(text.as_bytes());
        let packet = parse(
            r#"{"version":0,"recipients":[{"version":0,"blob":"AQI="},
                {"version":0,"blob":"","hash":"sha1"},{"blob":"AQ==","hash":"sha256"}]}"#,
        )
        .unwrap();
        assert_eq!(packet.recipients(), 3);
        let sealed = packet.sealed().unwrap();
        let hashes: Vec<_> = sealed.iter().map(|it| it.hash.name()).collect();
        assert_eq!(hashes, ["sha1", "sha1", "sha256"]);
        assert_eq!(sealed[0].bytes, [1, 2]);
        for (text, kind) in [
            ("{}", Kind::Invalid),
            (r#"{"recipients":[]}"#, Kind::Invalid),
            (
                r#"{"version":1,"recipients":[{"blob":""}]}"#,
                Kind::Unsupported,
            ),
            (
                r#"{"recipients":[{"version":2,"blob":""}]}"#,
                Kind::Unsupported,
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().kind(), kind, "{text}");
        }
        for (recipient, kind) in [
            (r#"{"blob":"?"}"#, Kind::Invalid),
            (r#"{"blob":"","hash":"md5"}"#, Kind::Unsupported),
        ] {
            let packet = parse(&format!(r#"{{"recipients":[{recipient}]}}"#)).unwrap();
            assert_eq!(packet.sealed().unwrap_err().kind(), kind, "{recipient}");
        }
    }

    #[test]
    fn key_files() {
        let yaml = "pkcs11:\n  uri: pkcs11:token=t;object=o?module-path=/m.so&pin-value=9876\n\
                    module:\n  env:\n    SOFTHSM2_CONF: /c\n";
        assert!(TokenKey::is(yaml.as_bytes()));
        let key = TokenKey::parse(yaml.as_bytes(), Some(b"other")).unwrap();
        assert_eq!(key.uri.pin.as_ref().unwrap().as_str(), "9876");
        assert_eq!(key.environment["SOFTHSM2_CONF"], "/c");
        assert!(!format!("{key:?}").contains("9876"), "{key:?}");

        let without = yaml.replace("&pin-value=9876", "");
        let key = TokenKey::parse(without.as_bytes(), Some(b"1")).unwrap();
        assert_eq!(key.uri.pin.as_ref().unwrap().as_str(), "1");
        let none = TokenKey::parse(without.as_bytes(), None).unwrap_err();
        assert_eq!(none.kind(), Kind::Denied);
        for bad in [
            "pkcs11: 1",
            "pkcs11:\n  uri: [9876]\n",
            "pkcs11:\n  uri: https://9876\n",
        ] {
            let error = TokenKey::parse(bad.as_bytes(), None).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{bad}");
            assert!(!error.to_string().contains("9876"), "{error}");
        }
        for other in [&b"-----BEGIN PRIVATE KEY-----"[..], b"{}", b"\xff", b""] {
            assert!(!TokenKey::is(other));
        }
    }
}
