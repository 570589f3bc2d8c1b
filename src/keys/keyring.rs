//! The keys that are configured, and the search for one that opens a layer.
//!
//! What costs nothing is tried first: private keys on JWE, PKCS7 and PGP packets, then local keys on CoCo
//! packets, then tokens and key providers. All packets of a layer wrap the same options: the first that opens decides.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use zeroize::Zeroizing;

use super::{
    CocoKeyFile, KeyConfig, KeyMeter, LayerKey,
    held::HeldKey,
    provider::{Provider, Providers},
    token,
};
use crate::{
    error::{Error, Kind, Result},
    oci::Descriptor,
    ocicrypt::{
        Annotations, Packet, PacketInfo, PacketKind,
        coco::CocoPacket,
        is_encrypted,
        jwe::Jwe,
        pgp::PgpPacket,
        pkcs7::Pkcs7,
        pkcs11::Pkcs11Packet,
        private_key::{MAX_KEY_FILE, PrivateKey},
    },
    resource::{self, Kept, Offline},
};

mod refusal;

/// Opens layers with the keys that are configured. Cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    private_keys: Vec<(PathBuf, HeldKey)>,
    coco_keys: Vec<CocoKey>,
    providers: Providers,
    params: BTreeMap<String, Vec<String>>,
    token_program: Option<PathBuf>,
    deadline: Duration,
    kept: Kept,
    meter: Arc<KeyMeter>,
}

struct CocoKey {
    kid: Option<String>,
    path: PathBuf,
    /// 32 bytes, unless a file of offline-fs-kbc has something else under that name.
    key: Zeroizing<Vec<u8>>,
}

type PrivateOptions = Zeroizing<Vec<u8>>;

// === impl Keyring ===

impl Keyring {
    /// Reads the key files and the key providers' configuration; asks no provider. Waits for the data
    /// hub if a key is a resource: for threads that may.
    ///
    /// # Errors
    /// `NotFound`, `Io`, `Invalid`, `Denied` (a password is missing) or `Unsupported`, naming the
    /// file.
    pub fn new(config: &KeyConfig) -> Result<Self> {
        Self::counted_by(Arc::default(), config)
    }

    /// As [`new`](Self::new); what it unwraps is counted.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn counted_by(meter: Arc<KeyMeter>, config: &KeyConfig) -> Result<Self> {
        let private_keys = config
            .private_keys
            .iter()
            .map(|file| {
                let name = |e: Error| e.context(format!("key {}", file.path.display()));
                let password = file.read_password(&config.resources)?;
                let bytes = config.resources.read(&file.path, MAX_KEY_FILE);
                let bytes = bytes.map_err(|e| e.context("private key"))?;
                let password = password.as_ref().map(|p| &p[..]);
                let is_file = resource::local(&file.path)?.is_some();
                let key = HeldKey::parse(&bytes, password, is_file).map_err(name)?;
                Ok((file.path.clone(), key))
            })
            .collect::<Result<_>>()?;
        let mut coco_keys = config
            .coco_keys
            .iter()
            .map(|file: &CocoKeyFile| {
                Ok(CocoKey {
                    kid: file.kid.clone(),
                    path: file.path.clone(),
                    key: Zeroizing::new(file.read(&config.resources)?.to_vec()),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        for path in &config.offline_keys {
            let offline = Offline::read(path).map_err(|e| e.context("keys"))?;
            coco_keys.extend(offline.all().map(|(kid, key)| CocoKey {
                kid: Some(kid),
                path: path.clone(),
                key,
            }));
        }
        Ok(Self(Arc::new(Inner {
            private_keys,
            coco_keys,
            providers: Providers::read(config.keyprovider_config.as_deref())?,
            params: config.provider_params.clone(),
            token_program: config.token_program.clone(),
            deadline: config.deadline,
            kept: config.kept.clone(),
            meter,
        })))
    }

    /// Finds the key of an encrypted layer.
    ///
    /// # Errors
    /// `Denied` if no key is configured for it or none opens it, `Unavailable` if a key provider
    /// did not answer, `Unsupported` for packets nacre does not know, `Invalid` if the annotations
    /// are malformed or the layer is not encrypted.
    pub fn unwrap<'a>(&'a self, layer: &'a Descriptor) -> BoxFuture<'a, Result<LayerKey>> {
        Box::pin(async move {
            let begin = Instant::now();
            let found = self.search(layer).await;
            self.0.meter.note(&layer.digest, begin, &found);
            found.map_err(|e| e.context(format!("layer {}", layer.digest)))
        })
    }

    async fn search(&self, layer: &Descriptor) -> Result<LayerKey> {
        if !is_encrypted(layer) {
            return Err(Error::invalid(format!(
                "not encrypted: its media type is {:?}",
                layer.media_type
            )));
        }
        let annotations = Annotations::parse(layer)?;
        if annotations.packets.is_empty() {
            return Err(Error::invalid("encrypted, but no annotation holds its key"));
        }
        let options = annotations.options;
        let infos: Vec<PacketInfo> = annotations.packets.iter().map(Packet::info).collect();
        let (by_key, others): (Vec<_>, Vec<_>) = annotations
            .packets
            .into_iter()
            .partition(|p| by_private_key(&p.kind));

        let mut failures = Vec::new();
        if !by_key.is_empty() && !self.0.private_keys.is_empty() {
            // RSA operations by the dozen do not belong on a thread that others wait for.
            let keyring = self.clone();
            let opened = tokio::task::spawn_blocking(move || keyring.open_by_key(&by_key))
                .await
                .map_err(|_| Error::internal("the task that opens packets ended early"))?;
            match opened {
                Ok((private, packet)) => return options.join(&private, packet),
                Err(errors) => failures.extend(errors),
            }
        }
        for packet in &others {
            match self.open_coco(packet, &mut failures) {
                Some(private) => return options.join(&private, "coco"),
                None => continue,
            }
        }
        for packet in others.iter().filter(|it| it.kind == PacketKind::Pkcs11) {
            if let Some(private) = self.ask_tokens(packet, &mut failures).await {
                return options.join(&private, "pkcs11");
            }
        }
        for packet in &others {
            let PacketKind::Provider(name) = &packet.kind else {
                continue;
            };
            let Some(provider) = self.0.providers.by_name(name) else {
                continue;
            };
            let question = self.question(name, provider, packet);
            let kept = self.0.kept.find(&question);
            if let Some(Ok(key)) = kept.map(|it| options.join(&it, "provider")) {
                return Ok(key);
            }
            match self.ask(name, provider, packet).await {
                Ok(private) => {
                    let key = options.join(&private, "provider")?;
                    self.0.kept.keep(question, &private);
                    return Ok(key);
                }
                Err(error) => failures.push(error),
            }
        }
        Err(if failures.is_empty() {
            refusal::no_key(&self.0.providers, &infos)
        } else {
            refusal::none_opens(failures)
        })
    }

    /// The private options by a private key, and which kind of packet held them.
    fn open_by_key(
        &self,
        packets: &[Packet],
    ) -> Result<(PrivateOptions, &'static str), Vec<Error>> {
        let mut failures = Vec::new();
        for packet in packets {
            let opened = match packet.kind {
                PacketKind::Pkcs7 => Pkcs7::parse(&packet.bytes)
                    .map(|it| self.first(&mut failures, |key| Some(it.open(plain(key)?))))
                    .map(|found| found.map(|private| (private, "pkcs7"))),
                PacketKind::Pgp => self.open_pgp(packet, &mut failures),
                _ => Jwe::parse(&packet.bytes)
                    .map(|it| self.first(&mut failures, |key| Some(it.open(plain(key)?))))
                    .map(|found| found.map(|private| (private, "jwe"))),
            };
            match opened {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(error) => failures.push(error),
            }
        }
        Err(failures)
    }

    fn open_pgp(
        &self,
        packet: &Packet,
        failures: &mut Vec<Error>,
    ) -> Result<Option<(PrivateOptions, &'static str)>> {
        let pgp = |key: &HeldKey| matches!(key, HeldKey::Pgp(_));
        // Without such keys it need not be looked into.
        if !self.0.private_keys.iter().any(|(_, key)| pgp(key)) {
            return Ok(None);
        }
        let packet = PgpPacket::parse(&packet.bytes)?;
        let found = self.first(failures, |key| match key {
            HeldKey::Pgp(keys) => Some(packet.open(keys)),
            _ => None,
        });
        Ok(found.map(|private| (private, "pgp")))
    }

    /// What the first private key that fits opens; the others' complaints are kept. `open` gives
    /// nothing for keys of another kind.
    fn first(
        &self,
        failures: &mut Vec<Error>,
        open: impl Fn(&HeldKey) -> Option<Result<PrivateOptions>>,
    ) -> Option<PrivateOptions> {
        for (path, key) in &self.0.private_keys {
            match open(key) {
                Some(Ok(private)) => return Some(private),
                Some(Err(error)) => failures.push(error.context(path.display().to_string())),
                None => {}
            }
        }
        None
    }

    async fn ask_tokens(
        &self,
        packet: &Packet,
        failures: &mut Vec<Error>,
    ) -> Option<PrivateOptions> {
        let packet = match Pkcs11Packet::parse(&packet.bytes) {
            Ok(packet) => packet,
            Err(error) => {
                failures.push(error);
                return None;
            }
        };
        let program = self.0.token_program.as_deref();
        for (path, key) in &self.0.private_keys {
            let HeldKey::Token(key) = key else { continue };
            match token::open(key, &packet, program, self.0.deadline).await {
                Ok(private) => return Some(private),
                Err(error) => failures.push(error.context(path.display().to_string())),
            }
        }
        None
    }

    fn open_coco(&self, packet: &Packet, failures: &mut Vec<Error>) -> Option<PrivateOptions> {
        if !matches!(packet.kind, PacketKind::Provider(_)) || self.0.coco_keys.is_empty() {
            return None;
        }
        let coco = match CocoPacket::parse(&packet.bytes) {
            Ok(coco) => coco,
            // Another provider's packet is not a failure; a later version of CoCo's is.
            Err(error) if error.kind() == Kind::Invalid => return None,
            Err(error) => {
                failures.push(error);
                return None;
            }
        };
        for key in &self.0.coco_keys {
            if key.kid.as_ref().is_some_and(|kid| !coco.is_for(kid)) {
                continue;
            }
            let opened = match <&[u8; 32]>::try_from(&key.key[..]) {
                Ok(key) => coco.open(key),
                Err(_) => Err(Error::invalid(format!(
                    "the key {:?} has {} bytes, want 32",
                    coco.kid(),
                    key.key.len()
                ))),
            };
            match opened {
                Ok(private) => return Some(private),
                Err(error) => failures.push(error.context(key.path.display().to_string())),
            }
        }
        None
    }

    /// What an answer of a provider is kept by: another packet, provider or parameter is another
    /// question.
    fn question(&self, name: &str, provider: &Provider, packet: &Packet) -> [u8; 32] {
        let way = Zeroizing::new(format!("{provider:?}"));
        let params = self.0.params.get(name).map_or(&[][..], Vec::as_slice);
        let mut parts = vec![name.as_bytes(), way.as_bytes(), &packet.bytes];
        parts.extend(params.iter().map(|it| it.as_bytes()));
        Kept::key(&parts)
    }

    async fn ask(
        &self,
        name: &str,
        provider: &Provider,
        packet: &Packet,
    ) -> Result<PrivateOptions> {
        let params = self.0.params.get(name).map_or(&[][..], Vec::as_slice);
        provider
            .unwrap(name, params, &packet.bytes, self.0.deadline)
            .await
            .map_err(|e| e.context(format!("key provider {name:?}")))
    }
}

impl fmt::Debug for Keyring {
    /// Says which keys there are, and nothing of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let private: Vec<_> = self.0.private_keys.iter().map(|(path, _)| path).collect();
        let coco: Vec<_> = self.0.coco_keys.iter().map(|key| &key.path).collect();
        f.debug_struct("Keyring")
            .field("private_keys", &private)
            .field("coco_keys", &coco)
            .field("providers", &self.0.providers)
            .finish()
    }
}

/// Whether a private key in memory opens packets of this kind.
fn by_private_key(kind: &PacketKind) -> bool {
    matches!(kind, PacketKind::Jwe | PacketKind::Pkcs7 | PacketKind::Pgp)
}

fn plain(key: &HeldKey) -> Option<&PrivateKey> {
    match key {
        HeldKey::Plain(key) => Some(key),
        HeldKey::Pgp(_) | HeldKey::Token(_) => None,
    }
}

#[cfg(test)]
mod tests;
