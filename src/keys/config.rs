//! Where keys are, as the command line and the configuration say it.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    resource::{Kept, Resources},
};

/// Where the keys of encrypted layers come from.
#[derive(Clone, Debug)]
pub struct KeyConfig {
    /// Private keys: for JWE and PKCS7 packets, OpenPGP ones, or where a key is on a PKCS#11 token.
    pub private_keys: Vec<KeyFile>,
    /// ocicrypt's key provider configuration, what `OCICRYPT_KEYPROVIDER_CONFIG` names. A file that
    /// does not exist configures no providers, as in ocicrypt.
    pub keyprovider_config: Option<PathBuf>,
    /// Key-encryption keys for the packets of CoCo's key provider.
    pub coco_keys: Vec<CocoKeyFile>,
    /// Files of offline-fs-kbc with the keys that CoCo packets name.
    pub offline_keys: Vec<PathBuf>,
    /// Parameters given to key providers, by provider; `Enabled` where there are none.
    pub provider_params: BTreeMap<String, Vec<String>>,
    /// The nacre program, which is run for each operation of a PKCS#11 token.
    pub token_program: Option<PathBuf>,
    /// How long one key provider or token may take for one packet.
    pub deadline: Duration,
    /// Keeps what key providers answered for a while.
    pub kept: Kept,
    /// Reads the documents named here.
    pub resources: Resources,
}

/// A private key file, written `FILE`, `FILE:pass=PASSWORD`, `FILE:file=PATH` or `FILE:fd=NUMBER`.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// PEM, DER, JWK, an OpenPGP key, or ocicrypt's YAML of a PKCS#11 key; a path or a URI.
    pub path: PathBuf,
    /// Where the password of an encrypted key is.
    pub password: Option<Password>,
}

/// Where a key file's password is.
#[derive(Clone)]
pub enum Password {
    /// On the command line.
    Text(Zeroizing<String>),
    /// In a file; a line end after it does not belong to it.
    File(PathBuf),
    /// Behind a file descriptor that was inherited.
    Descriptor(u32),
}

/// A 32-byte key for CoCo packets, written `kbs:///repository/type/tag=PATH`, or `PATH` alone for
/// packets of any key. The file holds 32 bytes, or them in hexadecimal or base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CocoKeyFile {
    /// The packets it is for; all if absent.
    pub kid: Option<String>,
    /// The file, or a URI.
    pub path: PathBuf,
}

/// Long enough for a key broker that attests the machine first.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest password.
const MAX_PASSWORD: usize = 4 << 10;
/// Longest file of a 32-byte key: hexadecimal with spaces around it.
const MAX_COCO_KEY: usize = 1 << 10;

impl Default for KeyConfig {
    /// No keys.
    fn default() -> Self {
        Self {
            private_keys: Vec::new(),
            keyprovider_config: None,
            coco_keys: Vec::new(),
            offline_keys: Vec::new(),
            provider_params: BTreeMap::new(),
            token_program: None,
            deadline: DEADLINE,
            kept: Kept::default(),
            resources: Resources::default(),
        }
    }
}

// === impl KeyConfig ===

impl KeyConfig {
    /// Adds what `--decryption-key` says, in skopeo's words: a [`KeyFile`], or
    /// `provider:NAME[:PARAMETER]`.
    ///
    /// # Errors
    /// `Invalid` if it is neither.
    pub fn add_decryption_key(&mut self, text: &str) -> Result<()> {
        let Some(provider) = text.strip_prefix("provider:") else {
            self.private_keys.push(text.parse()?);
            return Ok(());
        };
        let (name, parameter) = match provider.split_once(':') {
            Some((name, parameter)) => (name, Some(parameter)),
            None => (provider, None),
        };
        if name.is_empty() {
            return Err(Error::invalid(format!(
                "decryption key {text:?}: want provider:NAME[:PARAMETER]"
            )));
        }
        let parameters = self.provider_params.entry(name.to_owned()).or_default();
        parameters.extend(parameter.map(ToOwned::to_owned));
        Ok(())
    }
}

// === impl KeyFile ===

impl KeyFile {
    /// The password, if one is given.
    pub(super) fn read_password(
        &self,
        resources: &Resources,
    ) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let path = match &self.password {
            None => return Ok(None),
            Some(Password::Text(text)) => {
                return Ok(Some(Zeroizing::new(text.as_bytes().to_vec())));
            }
            Some(Password::File(path)) => path.clone(),
            Some(Password::Descriptor(fd)) => format!("/dev/fd/{fd}").into(),
        };
        let mut password = resources
            .read(&path, MAX_PASSWORD)
            .map_err(|e| e.context(format!("password of key {}", self.path.display())))?;
        if password.ends_with(b"\n") {
            password.pop();
            if password.ends_with(b"\r") {
                password.pop();
            }
        }
        Ok(Some(password))
    }
}

impl FromStr for KeyFile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The file's own name may have colons; the password may have them too.
        let place = [":pass=", ":file=", ":fd="]
            .into_iter()
            .filter_map(|word| text.find(word))
            .min();
        let (path, password) = match place {
            None => (text, None),
            Some(at) => {
                let (path, rest) = (&text[..at], &text[at + 1..]);
                let (word, value) = rest.split_once('=').unwrap_or((rest, ""));
                let password = match word {
                    "pass" => Password::Text(Zeroizing::new(value.to_owned())),
                    "file" if !value.is_empty() => Password::File(value.into()),
                    "fd" => Password::Descriptor(value.parse().map_err(|_| {
                        Error::invalid(format!("decryption key {path}: fd= wants a number"))
                    })?),
                    _ => {
                        return Err(Error::invalid(format!(
                            "decryption key {path}: file= wants a path"
                        )));
                    }
                };
                (path, Some(password))
            }
        };
        if path.is_empty() {
            return Err(Error::invalid(
                "decryption key: want FILE, FILE:pass=PASSWORD, FILE:file=PATH or FILE:fd=NUMBER",
            ));
        }
        Ok(Self {
            path: path.into(),
            password,
        })
    }
}

// === impl Password ===

impl fmt::Debug for Password {
    /// Says where the password is, and nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text"),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Descriptor(fd) => write!(f, "Descriptor({fd})"),
        }
    }
}

// === impl CocoKeyFile ===

impl CocoKeyFile {
    /// Reads the key.
    pub(super) fn read(&self, resources: &Resources) -> Result<Zeroizing<[u8; 32]>> {
        let name = || format!("CoCo key {}", self.path.display());
        let file = resources.read(&self.path, MAX_COCO_KEY);
        let file = file.map_err(|e| e.context(name()))?;
        let mut key = Zeroizing::new([0; 32]);
        if file.len() == key.len() {
            key.copy_from_slice(&file);
            return Ok(key);
        }
        let text = file.trim_ascii();
        if hex::decode_to_slice(text, &mut key[..]).is_ok() {
            return Ok(key);
        }
        // Room for what an estimate of the length may exceed.
        let mut decoded = Zeroizing::new([0; 36]);
        match STANDARD.decode_slice(text, &mut decoded[..]) {
            Ok(32) => {
                key.copy_from_slice(&decoded[..32]);
                Ok(key)
            }
            _ => Err(Error::invalid(format!(
                "{}: want 32 bytes, or them in hexadecimal or base64",
                name()
            ))),
        }
    }
}

impl FromStr for CocoKeyFile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kid, path) = match text.split_once('=') {
            Some((kid, path)) if kid.starts_with("kbs:") => (Some(kid.to_owned()), path),
            _ if text.starts_with("kbs:") => (Some(text.to_owned()), ""),
            _ => (None, text),
        };
        if path.is_empty() {
            return Err(Error::invalid(format!(
                "CoCo key {text:?}: want kbs:///repository/type/tag=FILE, or FILE"
            )));
        }
        Ok(Self {
            kid,
            path: path.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::error::Kind;

    fn files() -> Resources {
        Resources::default()
    }

    #[test]
    fn key_files_as_skopeo_writes_them() {
        let parse = |text: &str| {
            let file: KeyFile = text.parse().unwrap();
            (
                file.path.display().to_string(),
                format!("{:?}", file.password),
            )
        };
        assert_eq!(parse("a.pem"), ("a.pem".into(), "None".into()));
        assert_eq!(parse("c:a.pem"), ("c:a.pem".into(), "None".into()));
        assert_eq!(parse("a:pass=x:fd=3"), ("a".into(), "Some(Text)".into()));
        assert_eq!(parse("a:file=p:q"), ("a".into(), "Some(File(p:q))".into()));
        assert_eq!(parse("a:fd=3"), ("a".into(), "Some(Descriptor(3))".into()));
        for bad in ["", ":pass=x", "a:file=", "a:fd=", "a:fd=-1"] {
            assert_eq!(
                bad.parse::<KeyFile>().unwrap_err().kind(),
                Kind::Invalid,
                "{bad}"
            );
        }
        let mut config = KeyConfig::default();
        for text in ["k.pem", "provider:a", "provider:a:x:y", "provider:b:"] {
            config.add_decryption_key(text).unwrap();
        }
        assert_eq!(config.private_keys.len(), 1);
        assert_eq!(config.provider_params["a"], ["x:y"]);
        assert_eq!(config.provider_params["b"], [""]);
        assert!(config.add_decryption_key("provider:").is_err());
    }

    #[test]
    fn passwords_lose_their_line_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        for (written, read) in [
            ("se cret", "se cret"),
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("\n\n", "\n"),
        ] {
            std::fs::write(&path, written).unwrap();
            let file: KeyFile = format!("k:file={}", path.display()).parse().unwrap();
            assert_eq!(
                file.read_password(&files()).unwrap().unwrap()[..],
                *read.as_bytes()
            );
        }
        let file: KeyFile = "k:file=/nonexistent".parse().unwrap();
        let error = file.read_password(&files()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "password of key k: /nonexistent: no such file"
        );
    }

    #[test]
    fn coco_keys_in_three_encodings() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let read = |contents: &[u8]| {
            std::fs::write(&path, contents).unwrap();
            let file: CocoKeyFile = path.display().to_string().parse().unwrap();
            file.read(&files())
        };
        let key: [u8; 32] = std::array::from_fn(|i| u8::try_from(i * 7).unwrap());
        assert_eq!(*read(&key).unwrap(), key);
        assert_eq!(
            *read(format!(" {}\n", hex::encode(key)).as_bytes()).unwrap(),
            key
        );
        assert_eq!(*read(STANDARD.encode(key).as_bytes()).unwrap(), key);
        for bad in [
            &b""[..],
            &key[1..],
            b"zz",
            STANDARD.encode([0; 33]).as_bytes(),
        ] {
            assert_eq!(read(bad).unwrap_err().kind(), Kind::Invalid);
        }
        assert_eq!(read(&[b' '; 2000]).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn coco_keys_name_their_packets() {
        let parse = |text: &str| text.parse::<CocoKeyFile>();
        let named = parse("kbs:///a/b/c=k=1").unwrap();
        assert_eq!(named.kid.as_deref(), Some("kbs:///a/b/c"));
        assert_eq!(named.path, Path::new("k=1"));
        assert_eq!(parse("k=1").unwrap().kid, None);
        for bad in ["", "kbs:///a/b/c", "kbs:///a/b/c="] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
