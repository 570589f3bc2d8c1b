//! From configuration to what the rooms below are made of.

use std::{path::Path, sync::Arc, time::Duration};

use super::{Config, ConfirmConfig, OrdinaryConfig};
use crate::{
    engine::{BackgroundConfig, EngineConfig, FollowConfig},
    error::{Error, Kind, Result},
    keys::{KeyConfig, Keyring},
    mount::MountOptions,
    oci::Platform,
    resource::{Kept, ResourceConfig, Resources},
    snapshotter::{
        Options as SnapshotterOptions,
        images::{Confirm, FrontEnds, ImagesConfig, Ordinary, PolicySource},
    },
    source::{
        Access,
        registry::{Credentials, HandedLogins, LookasidePlaces, Options},
    },
    store::{Store, StoreConfig},
    trust::{self, AuditLog, Policy, TagHistory, Watch},
};

/// How long a mount that no snapshot names is spared: a pull may be under way.
const GRACE: Duration = Duration::from_secs(600);

/// This program, also after another took its place on disk.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";

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

    /// What reads documents that are named by URIs.
    #[must_use]
    pub fn resources(&self) -> Resources {
        let resources = &self.resources;
        Resources::new(ResourceConfig {
            hub: named(&resources.cdh_socket).map(Path::to_owned),
            offline: resources.offline_files.clone(),
            deadline: Duration::from_secs(resources.deadline_seconds),
            keep: Duration::from_secs(resources.keep_seconds),
        })
    }

    /// How registries are reached. Logins that are `handed` over are tried before those that are
    /// configured.
    ///
    /// # Errors
    /// If the credential provider configuration is wrong.
    pub fn access(
        &self,
        surroundings: &Surroundings<'_>,
        handed: Option<&HandedLogins>,
        resources: &Resources,
    ) -> Result<Access> {
        let registry = &self.registry;
        let files = match registry.auth_files.is_empty() {
            true => Credentials::default_files(surroundings.variable),
            false => registry.auth_files.clone(),
        };
        if !registry.insecure_plain_http.is_empty() {
            let hosts = &registry.insecure_plain_http;
            tracing::warn!(?hosts, "plain HTTP (registry.insecure_plain_http)");
        }
        let mut credentials = Credentials::from_files(files).with_resources(resources.clone());
        if let Some(file) = named(&registry.credential_provider_config) {
            let plugins = &registry.credential_provider_bin_dir;
            credentials = credentials
                .with_provider_plugins(file, plugins)
                .map_err(|e| e.context("registry.credential_provider_config"))?;
        }
        if let Some(handed) = handed {
            credentials = credentials.with_handed(handed.clone());
        }
        let root = nix::unistd::geteuid().is_root();
        let mut lookaside = LookasidePlaces::usual(surroundings.home, root);
        if let Some(directory) = named(&registry.registries_dir) {
            directory.clone_into(&mut lookaside.directory);
        }
        Ok(Access::new(Options {
            lookaside: Some(lookaside),
            ca_files: registry.ca_files.clone(),
            plain_http: registry.insecure_plain_http.clone(),
            credentials,
            resources: resources.clone(),
            deadline: Duration::from_secs(registry.deadline_seconds),
            certs_dir: named(&registry.hosts_dir).map(Path::to_owned),
            ..Options::default()
        }))
    }

    /// Lazily mounted images: registries, policy, keys and store.
    ///
    /// # Errors
    /// What is wrong with one of them, naming the key.
    pub fn images(
        &self,
        surroundings: &Surroundings<'_>,
        handed: Option<&HandedLogins>,
    ) -> Result<ImagesConfig> {
        if self.store.insecure_plaintext_store {
            tracing::warn!("chunks of encrypted images lie unsealed (insecure_plaintext_store)");
        }
        if self.trust.confirm == ConfirmConfig::Never {
            tracing::warn!("layers are never confirmed by their DiffID (confirm = insecure_never)");
        }
        let resources = self.resources();
        let keys = self.key_config(&resources)?;
        // Keys are read anew for every image; what is wrong with them is told at the start.
        may_come_later("keys", Keyring::new(&keys).map(drop))?;
        let trust = &self.trust;
        Ok(ImagesConfig {
            root: self.root.clone(),
            repositories: Arc::new(self.access(surroundings, handed, &resources)?),
            policy: self.policy_source(surroundings, &resources)?,
            watch: self.watch()?,
            keys,
            store: Arc::new(Store::open(&self.store()?)?),
            engine: self.engine(),
            complete: self.fetch.complete.then(|| self.background()),
            platform: self.platform()?,
            insecure_plaintext_store: self.store.insecure_plaintext_store,
            min_lazy_bytes: self.snapshotter.min_lazy_kib.saturating_mul(1024),
            ordinary: match self.snapshotter.ordinary {
                OrdinaryConfig::Lazy => Ordinary::Lazy,
                OrdinaryConfig::Unpack => Ordinary::Unpack,
            },
            confirm: match trust.confirm {
                ConfirmConfig::Trusted => Confirm::Trusted,
                ConfirmConfig::Always => Confirm::Always,
                ConfirmConfig::Never => Confirm::Never,
            },
            confirm_rate: trust.confirm_kib_per_second.saturating_mul(1024),
            confirm_after: Duration::from_secs(trust.confirm_after_seconds),
            grace: GRACE,
            adoption_deadline: Duration::from_secs(self.registry.deadline_seconds),
            front_end: self.front_end()?,
        })
    }

    fn front_end(&self) -> Result<Arc<FrontEnds>> {
        let (root, options) = (self.root.clone(), MountOptions::new("image"));
        let front_end = FrontEnds::new(self.front_end, root, options);
        front_end.check().map_err(|e| e.context("front_end"))?;
        Ok(Arc::new(front_end))
    }

    fn engine(&self) -> EngineConfig {
        let budget = self.fetch.profile_budget_mib.saturating_mul(1 << 20);
        let follow = FollowConfig {
            budget,
            ..FollowConfig::RECOMMENDED
        };
        EngineConfig {
            follow: self.fetch.profiles.then_some(follow),
            ..EngineConfig::RECOMMENDED
        }
    }

    fn background(&self) -> BackgroundConfig {
        let fetch = &self.fetch;
        BackgroundConfig {
            after: Duration::from_secs(fetch.complete_after_seconds),
            rate: fetch.complete_kib_per_second.saturating_mul(1024),
            at_once: Duration::from_millis(fetch.complete_at_once_ms),
            ..BackgroundConfig::RECOMMENDED
        }
    }

    /// Where the policy is; that it can be read and parsed has been checked, as far as nobody is away.
    fn policy_source(
        &self,
        surroundings: &Surroundings<'_>,
        resources: &Resources,
    ) -> Result<PolicySource> {
        let candidates = trust::default_policy_paths(surroundings.home);
        let explicit = named(&self.trust.policy);
        let place = match (Policy::find_by(explicit, &candidates, resources), explicit) {
            (Ok(policy), _) => match policy.origin() {
                trust::Origin::File(file) => file.clone(),
                trust::Origin::InsecureFlag => {
                    return Err(Error::internal("a policy file that is none"));
                }
            },
            (Err(error), Some(place)) => {
                may_come_later("trust.policy", Err(error))?;
                place.to_owned()
            }
            (Err(error), None) => return Err(error),
        };
        Ok(PolicySource::Document(place, resources.clone()))
    }

    /// What is told of every decision.
    fn watch(&self) -> Result<Watch> {
        let trust = &self.trust;
        let audit = named(&trust.audit_log).map(AuditLog::open).transpose();
        let history = self.tag_history();
        let tags = trust.refuse_rollback.then(|| TagHistory::open(&history));
        Ok(Watch {
            audit: audit
                .map_err(|e| e.context("trust.audit_log"))?
                .map(Arc::new),
            tags: tags
                .transpose()
                .map_err(|e| e.context("trust.refuse_rollback"))?
                .map(Arc::new),
        })
    }

    fn key_config(&self, resources: &Resources) -> Result<KeyConfig> {
        let keys = &self.keys;
        let mut config = KeyConfig {
            keyprovider_config: named(&keys.keyprovider_config).map(Path::to_owned),
            offline_keys: keys.offline_keys.clone(),
            deadline: Duration::from_secs(keys.deadline_seconds),
            token_program: Some(OWN_PROGRAM.into()),
            kept: Kept::new(Duration::from_secs(keys.keep_seconds)),
            resources: resources.clone(),
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
        Ok(config)
    }

    /// The keys.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn keyring(&self) -> Result<Keyring> {
        Keyring::new(&self.key_config(&self.resources())?)
    }

    /// The platform to take from an index.
    ///
    /// # Errors
    /// [`Kind::Invalid`].
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
        let indexes = match bytes("store.index_mib", store.index_mib)? {
            0 => None,
            size => Some((self.root.join("indexes"), size)),
        };
        Ok(StoreConfig {
            memory_bytes: usize::try_from(memory)
                .map_err(|e| Error::invalid("store.memory_mib: too much").with_source(e))?,
            disk,
            indexes,
        })
    }
}

/// What hinders at the start may be somebody who is still starting: then it is looked at again when it
/// is needed, and refused until it is there.
fn may_come_later(what: &'static str, read: Result<()>) -> Result<()> {
    match read {
        Err(error) if error.kind() == Kind::Unavailable => {
            tracing::warn!(event = "not_there_yet", %error, "{what}: cannot be read yet");
            Ok(())
        }
        other => other,
    }
}

/// An empty path is none.
fn named(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}
