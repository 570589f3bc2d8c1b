//! From configuration to what the rooms below are made of.

use std::{path::Path, sync::Arc, time::Duration};

use super::Config;
use crate::{
    engine::EngineConfig,
    error::{Error, Result},
    keys::{KeyConfig, Keyring},
    oci::Platform,
    open::Opener,
    snapshotter::Options as SnapshotterOptions,
    source::{
        Access,
        registry::{Credentials, Options},
    },
    store::{Store, StoreConfig},
    trust::{self, Policy},
};

/// What the process was started with; read once, at the edge.
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    /// `HOME`
    pub home: Option<&'a Path>,
    /// Any environment variable, for the places where credentials may be.
    pub variable: fn(&str) -> Option<std::ffi::OsString>,
}

// === impl Config ===

impl Config {
    /// How the snapshotter is made.
    #[must_use]
    pub fn snapshotter(&self) -> SnapshotterOptions {
        SnapshotterOptions {
            async_remove: self.snapshotter.async_remove,
            ..SnapshotterOptions::new(self.snapshots_root())
        }
    }

    /// How registries are reached.
    #[must_use]
    pub fn access(&self, surroundings: &Surroundings<'_>) -> Access {
        let registry = &self.registry;
        let files = match registry.auth_files.is_empty() {
            true => Credentials::default_files(surroundings.variable),
            false => registry.auth_files.clone(),
        };
        if !registry.insecure_plain_http.is_empty() {
            let hosts = &registry.insecure_plain_http;
            tracing::warn!(?hosts, "plain HTTP (registry.insecure_plain_http)");
        }
        Access::new(Options {
            ca_files: registry.ca_files.clone(),
            plain_http: registry.insecure_plain_http.clone(),
            credentials: Credentials::from_files(files),
            deadline: Duration::from_secs(registry.deadline_seconds),
            ..Options::default()
        })
    }

    /// Opens images: policy, keys and store.
    ///
    /// # Errors
    /// What is wrong with one of them, naming the key.
    pub fn opener(&self, surroundings: &Surroundings<'_>) -> Result<Opener> {
        if self.store.insecure_plaintext_store {
            tracing::warn!("chunks of encrypted images lie unsealed (insecure_plaintext_store)");
        }
        Ok(Opener {
            policy: self.policy(surroundings)?,
            keyring: self.keyring()?,
            store: Arc::new(Store::open(&self.store()?)?),
            engine: EngineConfig::RECOMMENDED,
            platform: self.platform()?,
            expected_digest: None,
            insecure_plaintext_store: self.store.insecure_plaintext_store,
        })
    }

    /// The policy.
    ///
    /// # Errors
    /// If the file is missing or malformed.
    pub fn policy(&self, surroundings: &Surroundings<'_>) -> Result<Policy> {
        let candidates = trust::default_policy_paths(surroundings.home);
        Policy::find(named(&self.trust.policy), &candidates)
    }

    /// The keys.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn keyring(&self) -> Result<Keyring> {
        let keys = &self.keys;
        let mut config = KeyConfig {
            keyprovider_config: named(&keys.keyprovider_config).map(Path::to_owned),
            deadline: Duration::from_secs(keys.deadline_seconds),
            ..KeyConfig::default()
        };
        for key in &keys.decryption_keys {
            let added = config.add_decryption_key(key);
            added.map_err(|e| e.context("keys.decryption_keys"))?;
        }
        for key in &keys.coco_keys {
            let key = key
                .parse()
                .map_err(|e: Error| e.context("keys.coco_keys"))?;
            config.coco_keys.push(key);
        }
        Keyring::new(&config)
    }

    /// The platform to take from an index.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid).
    pub fn platform(&self) -> Result<Platform> {
        match self.registry.platform.as_str() {
            "" => Ok(Platform::host()),
            text => Platform::parse(text).map_err(|e| e.context("registry.platform")),
        }
    }

    pub(super) fn store(&self) -> Result<StoreConfig> {
        let bytes = |key: &str, mib: u64| {
            let too_much = || Error::invalid(format!("{key} = {mib}: too much"));
            mib.checked_mul(1 << 20).ok_or_else(too_much)
        };
        let store = &self.store;
        let directory =
            named(&store.directory).map_or_else(|| self.root.join("store"), Path::to_owned);
        let memory = bytes("store.memory_mib", store.memory_mib)?;
        let disk = match bytes("store.size_mib", store.size_mib)? {
            0 => None,
            size => Some((directory, size)),
        };
        Ok(StoreConfig {
            memory_bytes: usize::try_from(memory)
                .map_err(|e| Error::invalid("store.memory_mib: too much").with_source(e))?,
            disk,
        })
    }
}

/// An empty path is none.
fn named(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}
