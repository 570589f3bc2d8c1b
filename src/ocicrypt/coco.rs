//! Packets that Confidential Containers' key provider makes: private options wrapped by a key that
//! a key broker names.
//!
//! Version 1 is `{kid, wrapped_data, iv, wrap_type}`; version 2 adds `version`, `provider`,
//! `provider_settings` and `annotations`. `A256GCM` has no additional data and ends with its tag;
//! `A256CTR` authenticates nothing, so that a wrong key shows only as private options that do not
//! parse.

use aes_gcm::{Aes256Gcm, KeyInit, aead::AeadInOut};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{LayerCipher, json::SecretBytes};
use crate::error::{Error, Result};

/// A parsed packet of version 1 or 2.
#[derive(Debug, Deserialize)]
pub(crate) struct CocoPacket {
    kid: String,
    wrapped_data: SecretBytes,
    #[serde(default)]
    iv: Option<SecretBytes>,
    #[serde(default)]
    wrap_type: Option<String>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    provider: Option<String>,
}

/// Version field of a version 2 packet.
const VERSION_2: &str = "0.1.0";
/// Provider of version 2 packets whose key comes from a key broker.
const KBS: &str = "kbs";
const TAG: usize = 16;

// === impl CocoPacket ===

impl CocoPacket {
    /// Reads a packet.
    ///
    /// # Errors
    /// `Invalid` if it is not a CoCo packet.
    pub(crate) fn parse(packet: &[u8]) -> Result<Self> {
        let packet: Self = serde_json::from_slice(packet)
            .map_err(|e| Error::invalid(format!("not a packet of CoCo's key provider: {e}")))?;
        match packet.version.as_deref() {
            None | Some(VERSION_2) => Ok(packet),
            Some(version) => Err(Error::unsupported(format!(
                "CoCo key packet of version {version:?}"
            ))),
        }
    }

    /// The key that opens it, as its maker named it.
    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    /// `A256GCM`, `A256CTR` or something else.
    pub(crate) fn wrap_type(&self) -> Option<&str> {
        self.wrap_type.as_deref()
    }

    /// Whether `kid` names this packet's key. The host of a key broker URI does not count: which
    /// broker is asked is configured elsewhere.
    pub(crate) fn is_for(&self, kid: &str) -> bool {
        resource(&self.kid) == resource(kid)
    }

    /// The private options, opened by the key-encryption key.
    ///
    /// # Errors
    /// `Denied` if the key is not the one (always noticed for `A256GCM`), `Unsupported` if it was
    /// wrapped otherwise, `Invalid` if it is malformed.
    pub(crate) fn open(&self, key: &[u8; 32]) -> Result<Zeroizing<Vec<u8>>> {
        if let Some(provider) = self.provider.as_deref().filter(|p| *p != KBS) {
            return Err(Error::unsupported(format!(
                "CoCo key packet of provider {provider:?}: only keys of {KBS:?} can be local files"
            )));
        }
        let iv = self.iv.as_ref().map_or(&[][..], |iv| &iv.0);
        let bad_iv = |want: usize| {
            Error::invalid(format!(
                "CoCo key packet: iv of {} bytes, want {want}",
                iv.len()
            ))
        };
        let mut data = self.wrapped_data.0.clone();
        match self.wrap_type() {
            Some("A256GCM") => {
                let iv: [u8; 12] = iv.try_into().map_err(|_| bad_iv(12))?;
                let tag_at = data.len().checked_sub(TAG).ok_or_else(|| {
                    Error::invalid("CoCo key packet: wrapped data shorter than its tag")
                })?;
                open_gcm(key, &iv, &[], &mut data, tag_at).ok_or_else(|| {
                    Error::denied(format!("the key given for {:?} is not the one", self.kid))
                })?;
            }
            Some("A256CTR") => {
                let iv: [u8; 16] = iv.try_into().map_err(|_| bad_iv(16))?;
                LayerCipher::new(key, iv).apply(0, &mut data);
            }
            Some(other) => {
                return Err(Error::unsupported(format!(
                    "CoCo key packet: wrap type {other:?}"
                )));
            }
            None => {
                return Err(Error::unsupported(
                    "CoCo key packet: no wrap type, so only its provider can open it",
                ));
            }
        }
        if self.wrap_type() == Some("A256CTR") && serde_json::from_slice::<Shape>(&data).is_err() {
            return Err(Error::denied(format!(
                "the key given for {:?} is not the one",
                self.kid
            )));
        }
        Ok(data)
    }
}

/// What any private options have.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "symkey")]
    _symkey: serde::de::IgnoredAny,
}

/// Decrypts AES-256-GCM in place: ciphertext up to `tag_at`, then the tag, which is cut off.
pub(super) fn open_gcm(
    key: &[u8; 32],
    iv: &[u8; 12],
    aad: &[u8],
    data: &mut Zeroizing<Vec<u8>>,
    tag_at: usize,
) -> Option<()> {
    let (body, tag) = data.split_at_mut_checked(tag_at)?;
    let tag: [u8; TAG] = (&*tag).try_into().ok()?;
    Aes256Gcm::new(key.into())
        .decrypt_inout_detached(&(*iv).into(), aad, body.into(), &tag.into())
        .ok()?;
    data.truncate(tag_at);
    Some(())
}

/// Path of a key broker resource: `r/t/t` of `kbs://any-host/r/t/t`, or the text as it is.
fn resource(kid: &str) -> &str {
    kid.strip_prefix("kbs://")
        .and_then(|rest| rest.split_once('/'))
        .map_or(kid, |(_host, path)| path)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;
    use crate::error::Kind;

    /// The key that CoCo's sample key provider has built in, and a packet that it made.
    const KEY: &str = "d99b7705b0ba7a168295b3a3367270b0dd9b371bf514ca8b9ba7f0a33711daea";
    const PACKET: &[u8] =
        include_bytes!("../../tests/data/ocicrypt/coco_packet_v1_annotation.json");
    const PLAIN: &str =
        r#"{"symkey":"1jL2jJV0Oyz2nmPkLtqulW6cKcpIUN5FpILcVnP5Uqs=","digest":"sha256:"#;

    fn key() -> [u8; 32] {
        hex::decode(KEY).unwrap().try_into().unwrap()
    }

    #[test]
    fn known_answer_version_1() {
        let packet = CocoPacket::parse(PACKET).unwrap();
        assert_eq!(packet.kid(), "kbs:///default/key/1");
        assert_eq!(packet.wrap_type(), Some("A256GCM"));
        let plain = packet.open(&key()).unwrap();
        let plain = std::str::from_utf8(&plain).unwrap();
        assert!(plain.starts_with(PLAIN), "{plain}");
        assert!(
            plain.contains(r#""nonce":"r10F9oaCu+nWFXfod3l83g==""#),
            "{plain}"
        );
    }

    #[test]
    fn wrong_key_and_flipped_bit_are_denied() {
        let packet = CocoPacket::parse(PACKET).unwrap();
        assert_eq!(packet.open(&[0; 32]).unwrap_err().kind(), Kind::Denied);
        let mut flipped = CocoPacket::parse(PACKET).unwrap();
        flipped.wrapped_data.0[5] ^= 1;
        assert_eq!(flipped.open(&key()).unwrap_err().kind(), Kind::Denied);
        let mut short = CocoPacket::parse(PACKET).unwrap();
        short.wrapped_data.0.truncate(9);
        assert_eq!(short.open(&key()).unwrap_err().kind(), Kind::Invalid);
    }

    fn version_2(provider: &str, wrap: &str) -> String {
        let mut data = br#"{"symkey":"","cipheroptions":{}}"#.to_vec();
        LayerCipher::new(&[3; 32], [4; 16]).apply(0, &mut data);
        format!(
            r#"{{"version":"0.1.0","provider":"{provider}","provider_settings":{{}},
               "annotations":{{"a":1}},"kid":"kbs:///a/b/c","wrapped_data":"{}"{wrap}}}"#,
            STANDARD.encode(data)
        )
    }

    #[test]
    fn version_2_with_counter_mode() {
        let wrap = format!(
            r#","iv":"{}","wrap_type":"A256CTR""#,
            STANDARD.encode([4; 16])
        );
        let packet = CocoPacket::parse(version_2("kbs", &wrap).as_bytes()).unwrap();
        assert_eq!(packet.open(&[3; 32]).unwrap()[..9], *br#"{"symkey""#);
        assert_eq!(packet.open(&[5; 32]).unwrap_err().kind(), Kind::Denied);

        for (provider, wrap) in [
            ("aliyun", wrap.as_str()),
            ("kbs", ""),
            ("kbs", r#","wrap_type":"RSA""#),
        ] {
            let packet = CocoPacket::parse(version_2(provider, wrap).as_bytes()).unwrap();
            assert_eq!(
                packet.open(&[3; 32]).unwrap_err().kind(),
                Kind::Unsupported,
                "{provider}"
            );
        }
        let no_iv = CocoPacket::parse(version_2("kbs", r#","wrap_type":"A256CTR""#).as_bytes());
        assert_eq!(
            no_iv.unwrap().open(&[3; 32]).unwrap_err().kind(),
            Kind::Invalid
        );
        let later = version_2("kbs", &wrap).replace("0.1.0", "0.2.0");
        assert_eq!(
            CocoPacket::parse(later.as_bytes()).unwrap_err().kind(),
            Kind::Unsupported
        );
        assert_eq!(CocoPacket::parse(b"{}").unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn key_names_compare_without_host() {
        let packet = CocoPacket::parse(PACKET).unwrap();
        assert!(packet.is_for("kbs:///default/key/1"));
        assert!(packet.is_for("kbs://broker.example:8080/default/key/1"));
        assert!(!packet.is_for("kbs:///default/key/11"));
        assert!(!packet.is_for("/default/key/1"));
    }
}
