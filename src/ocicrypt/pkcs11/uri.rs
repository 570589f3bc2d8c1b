//! URIs of keys on PKCS#11 tokens (RFC 7512).

use std::{fmt, path::PathBuf};

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Which key on which token, and how it is reached.
#[derive(Default)]
pub(crate) struct TokenUri {
    pub(crate) module: Option<Module>,
    pub(crate) slot: Option<u64>,
    /// What the token says of itself: `token` (its label), `manufacturer`, `model`, `serial`.
    pub(crate) token: Option<String>,
    pub(crate) manufacturer: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) serial: Option<String>,
    /// The key's label.
    pub(crate) object: Option<String>,
    /// The key's id.
    pub(crate) id: Option<Vec<u8>>,
    pub(crate) pin: Option<Zeroizing<String>>,
    /// File with the PIN.
    pub(crate) pin_source: Option<PathBuf>,
}

/// The shared library that speaks to tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Module {
    Path(PathBuf),
    /// `softhsm2` for `libsofthsm2.so` in one of the usual directories.
    Name(String),
}

// === impl TokenUri ===

impl TokenUri {
    /// Reads a URI.
    ///
    /// # Errors
    /// `Invalid` if it is malformed or does not say which key it is, `Unsupported` for an attribute
    /// that is not known: it would demand something that nobody looks at. No value is quoted.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let malformed = |what: &str| Error::invalid(format!("PKCS#11 URI: {what}"));
        let rest = text
            .trim()
            .strip_prefix("pkcs11:")
            .ok_or_else(|| malformed("want pkcs11:..."))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = path.split(';');
        let attributes = path.chain(query.split('&')).filter(|it| !it.is_empty());
        let mut uri = Self::default();
        for attribute in attributes {
            let pair = attribute.split_once('=');
            let (name, value) = pair.ok_or_else(|| malformed("an attribute without a value"))?;
            let bytes = decoded(value).ok_or_else(|| malformed("a malformed %"))?;
            if name == "id" {
                uri.id = Some(bytes.to_vec());
                continue;
            }
            let text = std::str::from_utf8(&bytes);
            let text = text.map_err(|_| malformed(&format!("{name} is not text")))?;
            uri.add(name, text)?;
        }
        if uri.object.is_none() && uri.id.is_none() {
            return Err(malformed("neither object= nor id=, so it names no key"));
        }
        if uri.slot.is_none() && uri.token.is_none() && uri.serial.is_none() {
            return Err(malformed(
                "none of token=, serial=, slot-id=, so it names no token",
            ));
        }
        if uri.module.is_none() {
            return Err(malformed("neither module-path= nor module-name="));
        }
        Ok(uri)
    }

    fn add(&mut self, name: &str, text: &str) -> Result<()> {
        let invalid = |what: &str| Err(Error::invalid(format!("PKCS#11 URI: {name}: {what}")));
        let own = || Some(text.to_owned());
        match name {
            "token" => self.token = own(),
            "manufacturer" => self.manufacturer = own(),
            "model" => self.model = own(),
            "serial" => self.serial = own(),
            "object" => self.object = own(),
            "slot-id" => match text.parse() {
                Ok(slot) => self.slot = Some(slot),
                Err(_) => return invalid("not a number"),
            },
            "type" if text == "private" => {}
            "type" => return invalid("want private"),
            "pin-value" => self.pin = Some(Zeroizing::new(text.to_owned())),
            "pin-source" => {
                let path = text.strip_prefix("file:").unwrap_or(text);
                let path = path.strip_prefix("//").unwrap_or(path);
                if !path.starts_with('/') {
                    return invalid("want file:/PATH");
                }
                self.pin_source = Some(path.into());
            }
            "module-path" if text.starts_with('/') => self.module = Some(Module::Path(text.into())),
            "module-path" => return invalid("want an absolute path"),
            "module-name" if text.is_empty() || text.contains(['/', '.']) => {
                return invalid("want a library's name without lib and .so");
            }
            "module-name" => {
                // A path says more than a name.
                self.module.get_or_insert(Module::Name(text.to_owned()));
            }
            _ => {
                return Err(Error::unsupported(format!(
                    "PKCS#11 URI: attribute {name:?} is not known"
                )));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TokenUri {
    /// Nothing of the PIN.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenUri")
            .field("module", &self.module)
            .field("token", &self.token)
            .field("object", &self.object)
            .finish_non_exhaustive()
    }
}

/// Without `%XX`.
fn decoded(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let pair = [rest.next()?, rest.next()?];
                let mut one = [0];
                hex::decode_to_slice(pair, &mut one).ok()?;
                one[0]
            }
            _ => byte,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn what_rfc_7512_has() {
        let uri = TokenUri::parse(
            "pkcs11:token=The%20Token;serial=1;object=key;id=%01b;type=private;slot-id=7\
             ?module-name=softhsm2&module-path=/m.so&pin-source=file:/pin&pin-value=a%26b",
        )
        .unwrap();
        assert_eq!(uri.token.as_deref(), Some("The Token"));
        assert_eq!((uri.serial.as_deref(), uri.slot), (Some("1"), Some(7)));
        assert_eq!(uri.id.as_deref(), Some(&[1, b'b'][..]));
        assert_eq!(uri.module, Some(Module::Path("/m.so".into())));
        assert_eq!(uri.pin_source, Some("/pin".into()));
        assert_eq!(uri.pin.as_ref().unwrap().as_str(), "a&b");
        for source in ["file:///pin", "/pin"] {
            let text = format!("pkcs11:token=t;object=o?module-name=m&pin-source={source}");
            let uri = TokenUri::parse(&text).unwrap();
            assert_eq!(uri.pin_source, Some("/pin".into()));
            assert_eq!(uri.module, Some(Module::Name("m".into())));
        }
    }

    #[test]
    fn what_is_refused() {
        for (text, kind, want) in [
            ("", Kind::Invalid, "want pkcs11:"),
            (
                "pkcs11:token=t?module-name=m",
                Kind::Invalid,
                "names no key",
            ),
            (
                "pkcs11:object=o?module-name=m",
                Kind::Invalid,
                "names no token",
            ),
            ("pkcs11:token=t;object=o", Kind::Invalid, "module-path"),
            ("pkcs11:token=t;object=%4", Kind::Invalid, "malformed %"),
            ("pkcs11:token=t;object=%ff", Kind::Invalid, "not text"),
            ("pkcs11:token", Kind::Invalid, "without a value"),
            ("pkcs11:slot-id=x", Kind::Invalid, "not a number"),
            ("pkcs11:type=cert", Kind::Invalid, "want private"),
            ("pkcs11:?module-path=m.so", Kind::Invalid, "absolute"),
            ("pkcs11:?module-name=../m", Kind::Invalid, "without lib"),
            ("pkcs11:?pin-source=|pin", Kind::Invalid, "file:/PATH"),
            (
                "pkcs11:library-version=3",
                Kind::Unsupported,
                "library-version",
            ),
        ] {
            let error = TokenUri::parse(text).unwrap_err();
            assert_eq!(error.kind(), kind, "{text}: {error}");
            assert!(error.to_string().contains(want), "{text}: {error}");
        }
    }
}
