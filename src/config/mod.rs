//! `nacre.toml`, what `nacre serve` is configured with.
//!
//! Every key has a default and may be left out; a key that nobody knows is an error, because a
//! misspelt one would otherwise be a silent default. The text of [`DEFAULT`] documents them all and is
//! what `nacre config default` prints.

mod build;
mod metrics;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub(crate) use self::build::OWN_PROGRAM;
pub use self::{build::Surroundings, metrics::MetricsConfig};
use crate::{
    error::{Error, Result},
    keeper::HandOver,
    mount::FrontEnd,
    resource,
};

/// Every key with its default and what it means.
pub const DEFAULT: &str = include_str!("nacre.toml");

/// Where `nacre serve` looks unless it is told otherwise.
pub const DEFAULT_PATH: &str = "/etc/nacre/nacre.toml";

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of everything that outlives the daemon.
    pub root: PathBuf,
    /// Socket that containerd connects to.
    pub socket: PathBuf,
    /// Mount images lazily, under the policy.
    pub lazy: bool,
    /// How the kernel sees lazily mounted images.
    pub front_end: FrontEnd,
    /// Who keeps mounts alive while no daemon is there.
    pub hand_over: HandOver,
    /// `[snapshotter]`
    pub snapshotter: SnapshotterConfig,
    /// `[registry]`
    pub registry: RegistryConfig,
    /// `[cri]`
    pub cri: CriConfig,
    /// `[trust]`
    pub trust: TrustConfig,
    /// `[keys]`
    pub keys: KeysConfig,
    /// `[resources]`
    pub resources: ResourcesConfig,
    /// `[fetch]`
    pub fetch: FetchConfig,
    /// `[store]`
    pub store: StoreConfig,
    /// `[metrics]`
    pub metrics: MetricsConfig,
    /// `[log]`
    pub log: LogConfig,
}

/// `[snapshotter]`: directories that containerd unpacks into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotterConfig {
    /// Remove directories after containerd's garbage collection instead of during it.
    pub async_remove: bool,
    /// Plain layers below this size are unpacked, if no larger one lies above them.
    pub min_lazy_kib: u64,
    /// What becomes of plain layers without an index that somebody vouches for.
    pub ordinary: OrdinaryConfig,
}

/// What becomes of plain layers without an index that somebody vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrdinaryConfig {
    /// Read whole once, verified and indexed on the way; lazy from then on.
    Lazy,
    /// Unpacked by containerd.
    Unpack,
}

/// `[registry]`: how registries are reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// PEM files with certificate authorities besides the system's.
    pub ca_files: Vec<PathBuf>,
    /// Registries to speak plain HTTP to.
    pub insecure_plain_http: Vec<String>,
    /// Docker `config.json` files with credentials.
    pub auth_files: Vec<PathBuf>,
    /// How long one request may take with all its retries.
    pub deadline_seconds: u64,
    /// Platform to take from an index; empty for this machine's.
    pub platform: String,
    /// Directory of `hosts.toml` files; empty for none.
    pub hosts_dir: PathBuf,
    /// Directory of files that say where GPG signatures lie; empty for the usual one.
    pub registries_dir: PathBuf,
    /// The kubelet's credential provider configuration; empty for none.
    pub credential_provider_config: PathBuf,
    /// Directory of its plugins.
    pub credential_provider_bin_dir: PathBuf,
}

/// `[cri]`: the image service that the kubelet can be pointed at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CriConfig {
    /// Hand the CRI's image calls on to containerd, and use their pull secrets.
    pub enabled: bool,
    /// containerd's socket, where its CRI is.
    pub containerd_socket: PathBuf,
}

/// `[trust]`: what is admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrustConfig {
    /// The policy file; empty for the first that exists of the usual places.
    pub policy: PathBuf,
    /// Refuse tags that go back to an image they have been before.
    pub refuse_rollback: bool,
    /// The audit log; empty for none.
    pub audit_log: PathBuf,
    /// What may rely on a layer that has not been confirmed.
    pub confirm: ConfirmConfig,
    /// How fast layers are read to confirm them; 0 for no limit.
    pub confirm_kib_per_second: u64,
    /// How long after its first use a layer is read to confirm it.
    pub confirm_after_seconds: u64,
}

/// What may rely on a layer whose DiffID has not been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfirmConfig {
    /// Signed images.
    Trusted,
    /// Nothing.
    Always,
    /// All that the policy admits; nothing is ever checked.
    #[serde(rename = "insecure_never")]
    Never,
}

/// `[keys]`: what opens encrypted layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeysConfig {
    /// Private keys or key providers, as `--decryption-key` takes them.
    pub decryption_keys: Vec<String>,
    /// ocicrypt's key provider configuration; empty for none.
    pub keyprovider_config: PathBuf,
    /// Keys for the packets of CoCo's key provider.
    pub coco_keys: Vec<String>,
    /// Files of offline-fs-kbc with keys for the packets of CoCo's key provider.
    pub offline_keys: Vec<PathBuf>,
    /// How long one key provider may take for one packet.
    pub deadline_seconds: u64,
    /// How long what one answered is kept in memory; 0: not at all.
    pub keep_seconds: u64,
}

/// `[resources]`: documents that are named by `kbs://` URIs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourcesConfig {
    /// Socket of Confidential Containers' data hub.
    pub cdh_socket: PathBuf,
    /// Files of offline-fs-kbc, which are asked first.
    pub offline_files: Vec<PathBuf>,
    /// How long the hub may take for one resource.
    pub deadline_seconds: u64,
    /// How long one is kept in memory; 0: not at all.
    pub keep_seconds: u64,
}

/// `[fetch]`: what is fetched before it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FetchConfig {
    /// Follow the profiles of images.
    pub profiles: bool,
    /// How much of one image at most.
    pub profile_budget_mib: u64,
    /// Fetch the rest of mounted images while nobody waits.
    pub complete: bool,
    /// How fast for all images together; 0 is no limit.
    pub complete_kib_per_second: u64,
    /// How long after the mount.
    pub complete_after_seconds: u64,
    /// What comes within so long is fetched at once.
    pub complete_at_once_ms: u64,
}

/// `[store]`: verified chunks kept on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Directory; empty for `store` below the root.
    pub directory: PathBuf,
    /// Largest size on disk; 0 keeps chunks in memory only.
    pub size_mib: u64,
    /// Largest size of the indexes of ordinary layers, in `indexes` below the root; 0 keeps none.
    pub index_mib: u64,
    /// Chunks kept in memory.
    pub memory_mib: u64,
    /// Keep chunks of encrypted images unsealed on disk.
    pub insecure_plaintext_store: bool,
}

/// `[log]`: what is written to standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// How much.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What fails.
    Error,
    /// What may need attention.
    Warn,
    /// What happens, one line an image or layer.
    Info,
    /// Every request.
    Debug,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What a password follows in a key's name; see [`KeyFile`](crate::keys::KeyFile).
const PASSWORD: &str = ":pass=";

// === impl Config ===

impl Config {
    /// As it may be shown to anybody: passwords in it are left out.
    #[must_use]
    pub fn without_secrets(mut self) -> Self {
        for key in &mut self.keys.decryption_keys {
            if let Some(at) = key.find(PASSWORD) {
                key.replace_range(at + PASSWORD.len().., "(not shown)");
            }
        }
        self
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) with line, column and key.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text)
            .map_err(|e| Error::invalid(e.to_string().trim_end().to_owned()))?;
        config.check()?;
        Ok(config)
    }

    /// Reads `path`; without one the default file, which need not exist.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid), [`Kind::NotFound`](crate::Kind::NotFound) or
    /// [`Kind::Io`](crate::Kind::Io).
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let what = || format!("configuration {}", file.display());
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text).map_err(|e| {
                e.context(what())
                    .with_hint("`nacre config default` prints every key with its meaning")
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => match path {
                None => Ok(Self::default()),
                Some(_) => Err(Error::not_found(what()).with_source(e)),
            },
            Err(e) => Err(Error::io(what(), e)),
        }
    }

    /// Checks what types cannot say; for whoever changed a field.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) with the key.
    pub fn check(&self) -> Result<()> {
        let cri = &self.cri.containerd_socket;
        for (key, path) in [
            ("root", &self.root),
            ("socket", &self.socket),
            ("cri.containerd_socket", cri),
        ] {
            if !path.is_absolute() {
                let found = path.display();
                return Err(Error::invalid(format!(
                    "{key} = {found:?}: want an absolute path"
                )));
            }
        }
        if *cri == self.socket {
            let found = cri.display();
            return Err(Error::invalid(format!(
                "cri.containerd_socket = {found:?}: is nacre's own socket, want containerd's"
            )));
        }
        // overlayfs separates lower directories by colons and options by commas, and containerd does
        // not escape them.
        if self
            .root
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .any(|b| b":,\\".contains(b))
        {
            let found = self.root.display();
            return Err(Error::invalid(format!(
                "root = {found:?}: has one of : , \\"
            )));
        }
        let zero = [
            ("registry.deadline_seconds", self.registry.deadline_seconds),
            ("keys.deadline_seconds", self.keys.deadline_seconds),
            (
                "resources.deadline_seconds",
                self.resources.deadline_seconds,
            ),
        ];
        for (key, seconds) in zero {
            if seconds == 0 {
                return Err(Error::invalid(format!("{key} = 0: want at least 1")));
            }
        }
        self.metrics.address().map(drop)
    }

    /// Where lazily mounted images are.
    #[must_use]
    pub fn mounts_root(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Where it is remembered what tags have been.
    #[must_use]
    pub fn tag_history(&self) -> PathBuf {
        self.root.join("tags.json")
    }

    /// Where database and directories of snapshots are.
    #[must_use]
    pub fn snapshots_root(&self) -> PathBuf {
        self.root.join("snapshotter")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/nacre".into(),
            socket: "/run/nacre/nacre.sock".into(),
            lazy: true,
            front_end: FrontEnd::Auto,
            hand_over: HandOver::Auto,
            snapshotter: SnapshotterConfig::default(),
            registry: RegistryConfig::default(),
            cri: CriConfig::default(),
            trust: TrustConfig::default(),
            keys: KeysConfig::default(),
            resources: ResourcesConfig::default(),
            fetch: FetchConfig::default(),
            store: StoreConfig::default(),
            metrics: MetricsConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for SnapshotterConfig {
    fn default() -> Self {
        Self {
            async_remove: true,
            min_lazy_kib: 256,
            ordinary: OrdinaryConfig::Lazy,
        }
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            ca_files: Vec::new(),
            insecure_plain_http: Vec::new(),
            auth_files: Vec::new(),
            deadline_seconds: 60,
            platform: String::new(),
            hosts_dir: PathBuf::new(),
            registries_dir: PathBuf::new(),
            credential_provider_config: PathBuf::new(),
            credential_provider_bin_dir: PathBuf::new(),
        }
    }
}

impl Default for CriConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            containerd_socket: "/run/containerd/containerd.sock".into(),
        }
    }
}

impl Default for TrustConfig {
    fn default() -> Self {
        Self {
            policy: PathBuf::new(),
            refuse_rollback: false,
            audit_log: PathBuf::new(),
            confirm: ConfirmConfig::Trusted,
            confirm_kib_per_second: 8192,
            confirm_after_seconds: 30,
        }
    }
}

impl Default for KeysConfig {
    fn default() -> Self {
        Self {
            decryption_keys: Vec::new(),
            keyprovider_config: PathBuf::new(),
            coco_keys: Vec::new(),
            offline_keys: Vec::new(),
            deadline_seconds: 30,
            keep_seconds: 300,
        }
    }
}

impl Default for ResourcesConfig {
    fn default() -> Self {
        Self {
            cdh_socket: resource::HUB_SOCKET.into(),
            offline_files: Vec::new(),
            deadline_seconds: 30,
            keep_seconds: 300,
        }
    }
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            profiles: true,
            profile_budget_mib: 256,
            complete: true,
            complete_kib_per_second: 8192,
            complete_after_seconds: 30,
            complete_at_once_ms: 2000,
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            directory: PathBuf::new(),
            size_mib: 10_240,
            index_mib: 512,
            memory_mib: 128,
            insecure_plaintext_store: false,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Text,
        }
    }
}

// === impl LogLevel ===

impl LogLevel {
    /// As `tracing` filters write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        }
    }
}
