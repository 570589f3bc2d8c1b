//! Who is to open a layer: the wrapping side of the keyring.

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use super::{KeyConfig, LayerKey, provider::Providers};
use crate::{
    error::{Error, Result},
    ocicrypt::{
        Options, Packet, PacketKind, jwe,
        pkcs7::{self, Certificate},
        private_key::MAX_KEY_FILE,
        public_key::PublicKey,
    },
    resource::Resources,
};

/// Wraps layer keys for recipients, in skopeo's words: `jwe:FILE` (public key), `pkcs7:FILE`
/// (certificate), `provider:NAME[:PARAMETER]`.
pub struct Recipients {
    jwe: Vec<PublicKey>,
    pkcs7: Vec<Certificate>,
    /// Parameters by provider.
    providers: BTreeMap<String, Vec<String>>,
    configured: Providers,
    deadline: Duration,
}

// === impl Recipients ===

impl Recipients {
    /// Reads the recipients' key files and the key providers' configuration; asks no provider.
    ///
    /// # Errors
    /// `Invalid` if there is no recipient or one is malformed, `NotFound`, `Io`, `Unsupported`
    /// naming the file, `Denied` if a key provider is not configured.
    pub fn new(recipients: &[String], keyprovider_config: Option<&Path>) -> Result<Self> {
        let mut all = Self {
            jwe: Vec::new(),
            pkcs7: Vec::new(),
            providers: BTreeMap::new(),
            configured: Providers::read(keyprovider_config)?,
            deadline: KeyConfig::default().deadline,
        };
        if recipients.is_empty() {
            return Err(
                Error::invalid("no recipient: nobody could decrypt the image")
                    .with_hint("give --recipient jwe:FILE, pkcs7:FILE or provider:NAME"),
            );
        }
        for recipient in recipients {
            all.add(recipient)
                .map_err(|e| e.context(format!("recipient {recipient}")))?;
        }
        Ok(all)
    }

    fn add(&mut self, recipient: &str) -> Result<()> {
        let malformed = || Error::invalid("want jwe:FILE, pkcs7:FILE or provider:NAME[:PARAMETER]");
        let (kind, rest) = recipient.split_once(':').ok_or_else(malformed)?;
        if rest.is_empty() {
            return Err(malformed());
        }
        match kind {
            "jwe" => {
                let file = Resources::default().read(Path::new(rest), MAX_KEY_FILE)?;
                self.jwe.push(PublicKey::parse(&file)?);
            }
            "pkcs7" => {
                let file = Resources::default().read(Path::new(rest), MAX_KEY_FILE)?;
                self.pkcs7.push(Certificate::parse(&file)?);
            }
            "provider" => {
                let (name, parameter) = match rest.split_once(':') {
                    Some((name, parameter)) => (name, Some(parameter)),
                    None => (rest, None),
                };
                if self.configured.by_name(name).is_none() {
                    return Err(Error::denied("this key provider is not configured")
                        .with_hint(self.configured.hint(name)));
                }
                let parameters = self.providers.entry(name.to_owned()).or_default();
                parameters.extend(parameter.map(ToOwned::to_owned));
            }
            "pgp" | "pkcs11" => {
                return Err(Error::unsupported(format!(
                    "{kind} recipients are not wrapped for; jwe, pkcs7 and provider are"
                )));
            }
            _ => return Err(malformed()),
        }
        Ok(())
    }

    /// Packets that together hold `key` for every recipient.
    ///
    /// # Errors
    /// `Unavailable`, `Denied`, `Invalid` as a key provider says, `Invalid` for a key that is not on
    /// its curve.
    pub(crate) async fn wrap(&self, key: &LayerKey) -> Result<Vec<Packet>> {
        let private = Options::private(key);
        let mut packets = Vec::new();
        if !self.jwe.is_empty() {
            packets.push(Packet {
                kind: PacketKind::Jwe,
                bytes: jwe::seal(&self.jwe, &private)?,
            });
        }
        if !self.pkcs7.is_empty() {
            packets.push(Packet {
                kind: PacketKind::Pkcs7,
                bytes: pkcs7::seal(&self.pkcs7, &private)?,
            });
        }
        for (name, parameters) in &self.providers {
            let provider = self
                .configured
                .by_name(name)
                .ok_or_else(|| Error::internal(format!("key provider {name:?} is gone")))?;
            let bytes = provider
                .wrap(name, parameters, &private, self.deadline)
                .await
                .map_err(|e| e.context(format!("key provider {name:?}")))?;
            packets.push(Packet {
                kind: PacketKind::Provider(name.clone()),
                bytes,
            });
        }
        Ok(packets)
    }
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipients")
            .field("jwe", &self.jwe)
            .field("pkcs7", &self.pkcs7)
            .field("providers", &self.providers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn recipients_that_are_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let config = file(
            "providers.json",
            r#"{"key-providers":{"a":{"grpc":"h:1"}}}"#,
        );
        let junk = file("junk", "junk").display().to_string();
        let new = |text: &str| Recipients::new(&[text.to_owned()], Some(&config));
        assert!(new("provider:a").is_ok());
        assert!(new("provider:a:x:y").is_ok());
        let none = Recipients::new(&[], None).unwrap_err();
        assert_eq!(none.kind(), Kind::Invalid);
        assert!(none.hint().unwrap().contains("--recipient"));
        for (text, kind, said) in [
            ("", Kind::Invalid, "want jwe:FILE"),
            ("jwe:", Kind::Invalid, "want jwe:FILE"),
            ("key.pem", Kind::Invalid, "want jwe:FILE"),
            ("rsa:key.pem", Kind::Invalid, "want jwe:FILE"),
            ("jwe:/nonexistent", Kind::NotFound, "no such file"),
            (&format!("jwe:{junk}"), Kind::Unsupported, "neither an RSA"),
            (&format!("pkcs7:{junk}"), Kind::Invalid, "not an X.509"),
            ("provider:b", Kind::Denied, "not configured"),
            ("pgp:me@example.org", Kind::Unsupported, "pgp"),
        ] {
            let error = new(text).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(said), "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
