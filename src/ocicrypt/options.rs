//! Public and private options of an encrypted layer, and the key that they make together.
//!
//! ocicrypt looks for a cipher option in the public options first. Nothing authenticates those (the
//! HMAC covers the ciphertext alone): whoever serves the manifest of an unsigned image could set
//! the nonce, and the layer would decrypt to something else. Every writer puts the nonce into the
//! private options; here it is taken from nowhere else.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

use super::json::{SecretBytes, UniqueMap};
use crate::{
    error::{Error, Result},
    keys::{CipherOptions, LayerKey},
    oci::Digest,
};

/// The only cipher that ocicrypt defines.
pub(crate) const CIPHER: &str = "AES_256_CTR_HMAC_SHA256";

/// What the annotation `org.opencontainers.image.enc.pubopts` says. Not authenticated.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    hmac: [u8; 32],
    nonce_is_public: bool,
}

#[derive(Deserialize)]
struct Public {
    cipher: String,
    #[serde(default)]
    hmac: Option<SecretBytes>,
    #[serde(default)]
    cipheroptions: UniqueMap<SecretBytes>,
}

#[derive(Deserialize)]
struct Private {
    symkey: SecretBytes,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    cipheroptions: UniqueMap<SecretBytes>,
}

/// Largest private options that are read: a key, a nonce, a digest, a few cipher options.
const MAX_PRIVATE: usize = 64 << 10;
const NONCE: &str = "nonce";

// === impl Options ===

impl Options {
    /// Reads the public options' JSON.
    ///
    /// # Errors
    /// `Invalid` if malformed, `Unsupported` for another cipher.
    pub(crate) fn parse(json: &[u8]) -> Result<Self> {
        let public: Public = serde_json::from_slice(json)
            .map_err(|e| Error::invalid(format!("public encryption options: {e}")))?;
        if public.cipher != CIPHER {
            return Err(Error::unsupported(format!(
                "layer cipher {:?}: only {CIPHER} is known",
                public.cipher
            )));
        }
        let hmac = public
            .hmac
            .and_then(|hmac| hmac.0[..].try_into().ok())
            .ok_or_else(|| Error::invalid("public encryption options: no hmac of 32 bytes"))?;
        Ok(Self {
            hmac,
            nonce_is_public: public.cipheroptions.0.contains_key(NONCE),
        })
    }

    /// The public options' JSON of a layer with this key.
    pub(super) fn public(key: &LayerKey) -> String {
        let hmac = STANDARD.encode(key.hmac());
        format!(r#"{{"cipher":"{CIPHER}","hmac":"{hmac}","cipheroptions":{{}}}}"#)
    }

    /// The private options' JSON of a layer with this key: what packets wrap.
    pub(crate) fn private(key: &LayerKey) -> Zeroizing<Vec<u8>> {
        // Room for everything, so that no growing buffer leaves a copy of the key behind.
        let values: usize = key
            .options()
            .map(|(name, value)| name.len() * 6 + value.len() * 2)
            .sum();
        let mut json = Zeroizing::new(Vec::with_capacity(1024 + values));
        let bytes = |json: &mut Vec<u8>, name: &str, value: &[u8]| {
            json.extend_from_slice(serde_json::Value::from(name).to_string().as_bytes());
            json.extend_from_slice(b":\"");
            let mut text = STANDARD.encode(value);
            json.extend_from_slice(text.as_bytes());
            text.zeroize();
            json.push(b'"');
        };
        json.push(b'{');
        bytes(&mut json, "symkey", key.symmetric());
        // Go reads an empty digest as none.
        let digest = key
            .plain_digest()
            .map_or_else(String::new, ToString::to_string);
        json.extend_from_slice(format!(r#","digest":"{digest}","cipheroptions":{{"#).as_bytes());
        bytes(&mut json, NONCE, key.nonce());
        for (name, value) in key.options() {
            json.push(b',');
            bytes(&mut json, name, value);
        }
        json.extend_from_slice(b"}}");
        json
    }

    /// Joins these with private options that a packet held.
    ///
    /// # Errors
    /// `Invalid` if the private options are malformed, `Denied` if only the public ones have a
    /// nonce.
    pub(crate) fn join(&self, private: &[u8], packet: &'static str) -> Result<LayerKey> {
        if private.len() > MAX_PRIVATE {
            return Err(Error::invalid(format!(
                "private encryption options: {} bytes, at most {MAX_PRIVATE} are read",
                private.len()
            )));
        }
        let mut private: Private = serde_json::from_slice(private).map_err(|e| {
            // The message of a type error could quote the document: only its place is told.
            Error::invalid(format!(
                "private encryption options: malformed at line {} column {}",
                e.line(),
                e.column()
            ))
        })?;
        let mut symmetric = Zeroizing::new([0; 32]);
        if private.symkey.0.len() != symmetric.len() {
            return Err(Error::invalid(format!(
                "private encryption options: symkey of {} bytes, want 32",
                private.symkey.0.len()
            )));
        }
        symmetric.copy_from_slice(&private.symkey.0);
        let nonce = match private.cipheroptions.0.remove(NONCE) {
            Some(nonce) => nonce.0[..].try_into().map_err(|_| {
                Error::invalid(format!(
                    "private encryption options: nonce of {} bytes, want 16",
                    nonce.0.len()
                ))
            })?,
            None if self.nonce_is_public => {
                return Err(Error::denied(
                    "the nonce is only in the public options, which nothing authenticates",
                )
                .with_hint(
                    "encrypt the layer with a tool that wraps the nonce too, as ocicrypt does",
                ));
            }
            None => return Err(Error::invalid("private encryption options: no nonce")),
        };
        let plain_digest = match private.digest.as_deref() {
            None | Some("") => None,
            Some(digest) => Some(digest.parse::<Digest>()?),
        };
        let others: CipherOptions = private
            .cipheroptions
            .0
            .into_iter()
            .map(|(name, value)| (name, value.0))
            .collect();
        Ok(LayerKey::new(symmetric, nonce, self.hmac, plain_digest, packet).with_options(others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn public(cipher_options: &str) -> Options {
        let json = format!(
            r#"{{"cipher":"{CIPHER}","hmac":"{}","cipheroptions":{cipher_options}}}"#,
            STANDARD.encode([5; 32])
        );
        Options::parse(json.as_bytes()).unwrap()
    }

    fn private(cipher_options: &str) -> String {
        format!(
            r#"{{"symkey":"{}","digest":"{}","cipheroptions":{cipher_options}}}"#,
            STANDARD.encode([6; 32]),
            Digest::sha256(b"")
        )
    }

    fn nonce(byte: u8) -> String {
        format!(r#"{{"nonce":"{}"}}"#, STANDARD.encode([byte; 16]))
    }

    #[test]
    fn joins_what_go_writes() {
        for options in ["{}", "null"] {
            let key = public(options)
                .join(private(&nonce(1)).as_bytes(), "jwe")
                .unwrap();
            assert_eq!(key.symmetric(), &[6; 32]);
            assert_eq!(key.nonce(), &[1; 16]);
            assert_eq!(key.hmac(), &[5; 32]);
            assert_eq!(key.plain_digest(), Some(&Digest::sha256(b"")));
            assert_eq!(key.packet(), "jwe");
        }
    }

    #[test]
    fn keeps_other_private_options() {
        let json = private(&format!(
            r#"{{"nonce":"{}","dev.nacre.index":"aGk="}}"#,
            STANDARD.encode([1; 16])
        ));
        let key = public("{}").join(json.as_bytes(), "jwe").unwrap();
        assert_eq!(key.option("dev.nacre.index"), Some(&b"hi"[..]));
        assert_eq!(key.option("other"), None);
    }

    #[test]
    fn what_is_written_reads_back() {
        let json = private(&format!(
            r#"{{"nonce":"{}","dev.nacre.index":"aGk=","other \"name\"":""}}"#,
            STANDARD.encode([1; 16])
        ));
        let key = public("{}").join(json.as_bytes(), "jwe").unwrap();
        let written = Options::private(&key);
        let options = Options::parse(Options::public(&key).as_bytes()).unwrap();
        let again = options.join(&written, "jwe").unwrap();
        assert_eq!(again.symmetric(), key.symmetric());
        assert_eq!((again.nonce(), again.hmac()), (key.nonce(), key.hmac()));
        assert_eq!(again.plain_digest(), key.plain_digest());
        assert!(again.options().eq(key.options()));
        assert_eq!(again.option("other \"name\""), Some(&b""[..]));

        let bare = LayerKey::new(Zeroizing::new([7; 32]), [1; 16], [2; 32], None, "jwe");
        let text = String::from_utf8(Options::private(&bare).to_vec()).unwrap();
        assert!(text.contains(r#""digest":"""#), "{text}");
        assert!(options.join(text.as_bytes(), "jwe").is_ok());
    }

    #[test]
    fn public_nonce_never_counts() {
        let key = public(&nonce(2))
            .join(private(&nonce(1)).as_bytes(), "jwe")
            .unwrap();
        assert_eq!(key.nonce(), &[1; 16], "the private nonce holds");
        let error = public(&nonce(2))
            .join(private("{}").as_bytes(), "jwe")
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.message().contains("nothing authenticates"), "{error}");
    }

    #[test]
    fn refuses_malformed_options() {
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"cipher":"AES_256_CTR_HMAC_SHA256"}"#,
            r#"{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"AAAA"}"#,
        ] {
            assert_eq!(
                Options::parse(bad.as_bytes()).unwrap_err().kind(),
                Kind::Invalid,
                "{bad}"
            );
        }
        let other = Options::parse(br#"{"cipher":"AEAD_AES_256_GCM","hmac":""}"#).unwrap_err();
        assert_eq!(other.kind(), Kind::Unsupported);
        assert!(other.message().contains("AEAD_AES_256_GCM"));

        let good = private(&nonce(1));
        let long = " ".repeat(MAX_PRIVATE) + &good;
        let short_nonce = private(r#"{"nonce":"AAAA"}"#);
        let twice = good.replacen('{', r#"{"digest":"","#, 1);
        for bad in [
            "",
            "null",
            "{}",
            &long,
            &short_nonce,
            &twice,
            &private("{}"),
        ] {
            let error = public("{}").join(bad.as_bytes(), "jwe").unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{bad}");
        }
        let leak = r#"{"symkey":{"secret":1}}"#;
        let error = public("{}").join(leak.as_bytes(), "jwe").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
