//! Options that several subcommands share. The environment is read here and nowhere below.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, ValueEnum};
use zeroize::Zeroizing;

use crate::{
    config::OWN_PROGRAM,
    engine::{EngineConfig, FollowConfig},
    error::{Error, Result},
    keys::{KeyConfig, Keyring},
    oci::{Digest, Location, Platform, Reference},
    open::{Findings, OpenImage, Opener},
    resource::{self, ResourceConfig, Resources},
    source::{
        Access, Place, Repository, RepositoryWriter,
        registry::{Credentials, LookasidePlaces, Options},
    },
    store::{Store, StoreConfig},
    trust::{self, Policy},
};

/// The image, and how it is reached, admitted and decrypted.
#[derive(Clone, Debug, Args)]
pub(super) struct ImageArgs {
    /// The image: registry/repository[:tag][@digest] or oci:DIRECTORY[:TAG].
    #[arg(value_parser = parse_reference)]
    pub(super) reference: Reference,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Two images that are compared, reached, admitted and decrypted by the same options.
#[derive(Clone, Debug, Args)]
pub(super) struct PairArgs {
    /// The first image: registry/repository[:tag][@digest] or oci:DIRECTORY[:TAG].
    #[arg(value_parser = parse_reference)]
    first: Reference,
    /// The second image.
    #[arg(value_parser = parse_reference)]
    second: Reference,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// An image and where it is.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) reference: Reference,
    pub(super) repository: Arc<dyn Repository>,
    pub(super) location: Location,
}

/// What opens two images, and where they are.
pub(super) struct PairOpening {
    pub(super) opener: Opener,
    pub(super) images: [Named; 2],
}

/// How registries are reached.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Registry")]
pub(super) struct RegistryArgs {
    /// PEM file with certificate authorities trusted besides the system's.
    #[arg(long, value_name = "FILE")]
    ca_file: Vec<PathBuf>,
    /// Registry (host[:port]) to speak plain HTTP to. Loopback registries need not be named.
    #[arg(long, value_name = "HOST")]
    insecure_plain_http: Vec<String>,
    /// Directory with a hosts.toml for each registry (containerd's certs.d): mirrors, certificates,
    /// headers. Not used unless given.
    #[arg(long, value_name = "DIR")]
    hosts_dir: Option<PathBuf>,
    /// Honour skip_verify in hosts.toml files; otherwise it is an error.
    #[arg(long, requires = "hosts_dir")]
    insecure_skip_verify: bool,
    /// Directory of YAML files that say where GPG signatures lie (containers-registries.d(5))
    /// [default: ~/.config/containers/registries.d if it is there, else the one in /etc].
    #[arg(long, value_name = "DIR")]
    registries_dir: Option<PathBuf>,
    /// Docker config.json with credentials, a file or a URI; otherwise where docker and containers keep
    /// theirs.
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// The kubelet's CredentialProviderConfig; its plugins are asked for logins that no file has.
    #[arg(long, value_name = "FILE", requires = "credential_provider_bin_dir")]
    credential_provider_config: Option<PathBuf>,
    /// Directory of the credential provider plugins.
    #[arg(long, value_name = "DIR", requires = "credential_provider_config")]
    credential_provider_bin_dir: Option<PathBuf>,
    /// How long one request to a registry may take with all its retries, in seconds. A read that
    /// needs the network and exceeds it fails with EIO.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    registry_deadline: u64,
    /// os/architecture[/variant] to take from an index [default: this machine's].
    #[arg(long)]
    platform: Option<String>,
    #[command(flatten)]
    resources: ResourceArgs,
}

/// Documents that are named by URIs: kbs:///repository/type/tag.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Resources")]
struct ResourceArgs {
    /// Socket of Confidential Containers' data hub, which is asked for kbs:// URIs.
    #[arg(long, value_name = "SOCKET", default_value = resource::HUB_SOCKET)]
    cdh_socket: PathBuf,
    /// offline-fs-kbc file of resources, asked before the hub.
    #[arg(long, value_name = "FILE")]
    offline_resources: Vec<PathBuf>,
    /// How long the hub may take for one resource, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    resource_deadline: u64,
}

/// What is admitted.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Trust")]
pub(super) struct TrustArgs {
    /// Policy (containers-policy.json), a file or a URI [default: the first that exists of
    /// ~/.config/containers/policy.json and the ones in /etc].
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Do without a policy file.
    #[arg(long, value_enum, conflicts_with = "policy")]
    insecure_policy: Option<InsecurePolicy>,
    /// File that gets a line of JSON for each decision.
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,
    /// Refuse a tag that goes back to an image which it was before it was another; FILE remembers what
    /// tags have been, and is made.
    #[arg(long, value_name = "FILE")]
    tag_history: Option<PathBuf>,
    /// Digest that the reference must resolve to.
    #[arg(long, value_name = "DIGEST")]
    pub(super) expected_digest: Option<Digest>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum InsecurePolicy {
    /// Admit every image, signed or not.
    AcceptAnything,
}

/// What opens encrypted layers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Keys")]
pub(super) struct KeyArgs {
    /// Private key, as skopeo takes it: FILE[:pass=PASSWORD|:file=FILE|:fd=N], or
    /// provider:NAME[:PARAMETER] for a key provider. FILE has a key for JWE, PKCS7 or PGP packets, or
    /// says on which PKCS#11 token one is; it may be a URI.
    #[arg(long, value_name = "KEY")]
    decryption_key: Vec<String>,
    /// ocicrypt key provider configuration.
    #[arg(long, value_name = "FILE", env = "OCICRYPT_KEYPROVIDER_CONFIG")]
    keyprovider_config: Option<PathBuf>,
    /// Key file for CoCo packets: [KID=]FILE, for instance kbs:///default/key/1=key.bin.
    #[arg(long, value_name = "[KID=]FILE")]
    coco_key: Vec<String>,
    /// offline-fs-kbc file of keys for CoCo packets.
    #[arg(long, value_name = "FILE")]
    offline_keys: Vec<PathBuf>,
    /// How long one key provider or token may take for one layer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    key_deadline: u64,
}

/// Where chunks are kept.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Store")]
pub(super) struct StoreArgs {
    /// Directory of the chunk store [default: /var/lib/nacre/store for root, else
    /// ~/.cache/nacre/store].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Largest size of the chunk store in MiB; 0 keeps chunks in memory only.
    #[arg(long, value_name = "MIB", default_value_t = 10_240)]
    store_mib: u64,
    /// Largest size of the indexes kept of layers that have none of their own, in MiB; 0 keeps none,
    /// as does --store-mib 0. They are beside the chunk store, or in `indexes` below --store DIR.
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    index_mib: u64,
    /// Chunks kept in memory, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 32)]
    memory_mib: usize,
    /// Keep chunks of encrypted images unsealed on disk.
    #[arg(long)]
    insecure_plaintext_store: bool,
}

/// What opens an image, and where it is.
pub(super) struct Opening {
    pub(super) opener: Opener,
    pub(super) repository: Arc<dyn Repository>,
    pub(super) location: Location,
}

// === impl ImageArgs ===

impl ImageArgs {
    /// Reads policy and keys and opens the store; nothing is fetched yet.
    pub(super) async fn opening(&self, store: &StoreArgs) -> Result<Opening> {
        let opener = opener(&self.registry, &self.trust, &self.keys, store)?;
        let (repository, location) = self.registry.access()?.open(&self.reference).await?;
        Ok(Opening {
            opener,
            repository,
            location,
        })
    }

    /// A writer to the image's repository.
    pub(super) async fn writer(&self) -> Result<Arc<dyn RepositoryWriter>> {
        let (writer, _) = self.registry.access()?.create(&self.reference).await?;
        Ok(writer)
    }

    /// Admits the image and opens it lazily. `follow` is how far its profile is fetched ahead.
    pub(super) async fn open(
        &self,
        store: &StoreArgs,
        follow: Option<FollowConfig>,
    ) -> Result<OpenImage> {
        let Opening {
            mut opener,
            repository,
            location,
        } = self.opening(store).await?;
        opener.engine.follow = follow;
        opener.open(&self.reference, &repository, &location).await
    }
}

// === impl PairArgs ===

impl PairArgs {
    /// Reads policy and keys; nothing is fetched yet.
    pub(super) async fn opening(&self, store: &StoreArgs) -> Result<PairOpening> {
        if self.trust.expected_digest.is_some() {
            return Err(
                Error::invalid("--expected-digest is of one image, here are two")
                    .with_hint("write IMAGE@DIGEST"),
            );
        }
        let opener = opener(&self.registry, &self.trust, &self.keys, store)?;
        let access = self.registry.access()?;
        let named = async |reference: &Reference| {
            let (repository, location) = access.open(reference).await?;
            Ok::<_, Error>(Named {
                reference: reference.clone(),
                repository,
                location,
            })
        };
        Ok(PairOpening {
            opener,
            images: [named(&self.first).await?, named(&self.second).await?],
        })
    }
}

fn opener(
    registry: &RegistryArgs,
    trust: &TrustArgs,
    keys: &KeyArgs,
    store: &StoreArgs,
) -> Result<Opener> {
    Ok(Opener {
        policy: trust.policy(&registry.resources())?,
        keyring: keys.keyring(&registry.resources())?,
        store: Arc::new(Store::open(&store.config()?)?),
        engine: EngineConfig::RECOMMENDED,
        platform: registry.platform()?,
        expected_digest: trust.expected_digest.clone(),
        findings: store.findings()?,
        insecure_plaintext_store: store.insecure_plaintext_store,
    })
}

// === impl RegistryArgs ===

impl RegistryArgs {
    pub(super) fn access(&self) -> Result<Access> {
        let files = match &self.authfile {
            Some(file) => vec![file.clone()],
            None => Credentials::default_files(|name| std::env::var_os(name)),
        };
        if !self.insecure_plain_http.is_empty() {
            tracing::warn!(hosts = ?self.insecure_plain_http, "plain HTTP (insecure_plain_http)");
        }
        let resources = self.resources();
        let mut credentials = Credentials::from_files(files).with_resources(resources.clone());
        if let (Some(config), Some(directory)) = (
            &self.credential_provider_config,
            &self.credential_provider_bin_dir,
        ) {
            credentials = credentials.with_provider_plugins(config, directory)?;
        }
        Ok(Access::new(Options {
            ca_files: self.ca_file.clone(),
            plain_http: self.insecure_plain_http.clone(),
            certs_dir: self.hosts_dir.clone(),
            insecure_skip_verify: self.insecure_skip_verify,
            lookaside: Some(self.lookaside()),
            credentials,
            resources,
            deadline: Duration::from_secs(self.registry_deadline),
            ..Options::default()
        }))
    }

    /// What reads documents that are named by URIs.
    pub(super) fn resources(&self) -> Resources {
        let resources = &self.resources;
        Resources::new(ResourceConfig {
            hub: Some(resources.cdh_socket.clone()),
            offline: resources.offline_resources.clone(),
            deadline: Duration::from_secs(resources.resource_deadline),
            ..ResourceConfig::default()
        })
    }

    fn lookaside(&self) -> LookasidePlaces {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let root = nix::unistd::geteuid().is_root();
        let mut places = LookasidePlaces::usual(home.as_deref(), root);
        if let Some(directory) = &self.registries_dir {
            places.directory.clone_from(directory);
        }
        places
    }

    pub(super) fn platform(&self) -> Result<Platform> {
        self.platform
            .as_deref()
            .map_or_else(|| Ok(Platform::host()), Platform::parse)
    }
}

// === impl TrustArgs ===

impl TrustArgs {
    pub(super) fn policy(&self, resources: &Resources) -> Result<Policy> {
        let policy = match self.insecure_policy {
            Some(InsecurePolicy::AcceptAnything) => Policy::insecure_accept_anything(),
            None => {
                let home = std::env::var_os("HOME").map(PathBuf::from);
                let candidates = trust::default_policy_paths(home.as_deref());
                Policy::find_by(self.policy.as_deref(), &candidates, resources)?
            }
        };
        let audit = self.audit_log.as_deref().map(trust::AuditLog::open);
        let tags = self.tag_history.as_deref().map(trust::TagHistory::open);
        Ok(policy.watched(trust::Watch {
            audit: audit.transpose()?.map(Arc::new),
            tags: tags.transpose()?.map(Arc::new),
        }))
    }
}

// === impl KeyArgs ===

impl KeyArgs {
    /// The file that configures key providers.
    pub(super) fn keyprovider_config(&self) -> Option<&std::path::Path> {
        self.keyprovider_config.as_deref()
    }

    pub(super) fn keyring(&self, resources: &Resources) -> Result<Keyring> {
        let mut config = KeyConfig {
            keyprovider_config: self.keyprovider_config.clone(),
            offline_keys: self.offline_keys.clone(),
            token_program: Some(OWN_PROGRAM.into()),
            deadline: Duration::from_secs(self.key_deadline),
            resources: resources.clone(),
            ..KeyConfig::default()
        };
        for key in &self.decryption_key {
            config.add_decryption_key(key)?;
        }
        for key in &self.coco_key {
            config.coco_keys.push(key.parse()?);
        }
        Keyring::new(&config)
    }
}

// === impl StoreArgs ===

impl StoreArgs {
    /// Nothing is kept: for those who read an image once.
    pub(super) fn none() -> Self {
        Self {
            store: None,
            store_mib: 0,
            index_mib: 0,
            memory_mib: 0,
            insecure_plaintext_store: false,
        }
    }

    /// The store of this directory, or the usual one.
    pub(super) fn at(store: Option<PathBuf>) -> Self {
        Self {
            store,
            ..Self::none()
        }
    }

    /// Chunks stay in memory: for those who read much of an image once.
    pub(super) fn in_memory() -> Self {
        Self {
            memory_mib: 256,
            ..Self::none()
        }
    }

    fn config(&self) -> Result<StoreConfig> {
        let disk = match self.store_mib {
            0 => None,
            mib => Some((self.directory()?, mib << 20)),
        };
        let indexes = match self.index_mib {
            // Who wants no chunks on disk wants no names there either.
            _ if self.store_mib == 0 => None,
            0 => None,
            mib => Some((self.index_directory()?, mib << 20)),
        };
        Ok(StoreConfig {
            memory_bytes: self.memory_mib << 20,
            disk,
            indexes,
        })
    }

    /// What was found of layers by their whole content; kept where their indexes are.
    fn findings(&self) -> Result<Option<Arc<Findings>>> {
        if self.store_mib == 0 || self.index_mib == 0 {
            return Ok(None);
        }
        let file = self.index_directory()?.join("findings.json");
        Ok(Some(Arc::new(Findings::open(file))))
    }

    /// Where metadata images of EROFS mounts may be written, best first: a disk, not memory, and not
    /// the upper layer of a container.
    pub(super) fn image_directories(&self) -> Vec<PathBuf> {
        let store = (self.store_mib > 0).then(|| self.directory().ok());
        let others = [PathBuf::from("/var/tmp"), std::env::temp_dir()];
        store.flatten().into_iter().chain(others).collect()
    }

    pub(super) fn index_directory(&self) -> Result<PathBuf> {
        Ok(match &self.store {
            Some(directory) => directory.join("indexes"),
            None => self.directory()?.with_file_name("indexes"),
        })
    }

    fn directory(&self) -> Result<PathBuf> {
        if let Some(directory) = &self.store {
            return Ok(directory.clone());
        }
        if nix::unistd::geteuid().is_root() {
            return Ok("/var/lib/nacre/store".into());
        }
        std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
            .map(|cache| cache.join("nacre/store"))
            .ok_or_else(|| {
                Error::invalid("neither HOME nor XDG_CACHE_HOME is set")
                    .with_hint("give --store DIR")
            })
    }
}

/// For clap.
pub(super) fn parse_place(text: &str) -> Result<Place, String> {
    text.parse().map_err(|e: Error| e.to_string())
}

/// A key file's bytes, zeroized when they are dropped.
pub(super) fn read_key(file: &std::path::Path) -> Result<Zeroizing<Vec<u8>>> {
    let name = format!("key {}", file.display());
    std::fs::read(file)
        .map(Zeroizing::new)
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::not_found(format!("{name}: no such file")),
            _ => Error::io(name, e),
        })
}

/// The time that reproducible builds take for their own (`SOURCE_DATE_EPOCH`), if there is one.
pub(super) fn source_date_epoch() -> Result<Option<u64>> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let Some(text) = std::env::var_os(NAME).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    seconds.map(Some).ok_or_else(|| {
        Error::invalid(format!(
            "{NAME}={}: not a number of seconds",
            text.display()
        ))
    })
}

/// For clap.
pub(super) fn parse_reference(text: &str) -> Result<Reference, String> {
    text.parse().map_err(|e: Error| e.to_string())
}
