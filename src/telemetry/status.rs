//! The status: what a daemon is doing, as `nacre status --json` prints it (`docs/status.md`). Fields
//! are added to it, and none changes its meaning.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::Telemetry;
use crate::{
    engine::EngineSnapshot,
    error::{Error, Result},
    keys::{KeyCounts, KeysReport},
    oci::Digest,
    snapshotter::{
        Uses,
        images::{Confirm, ImageReport, Images, MountReport},
    },
    source::registry::RegistryState,
    store::Store,
    trust::PolicyReport,
};

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the program that is running.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started, RFC 3339 in UTC as all times here.
    pub started: String,
    /// For how long it has been running.
    pub uptime_seconds: f64,
    /// Directory of everything that outlives it.
    pub root: PathBuf,
    /// The socket it listens on.
    pub socket: Option<PathBuf>,
    /// The address that answers Prometheus and probes.
    pub metrics_address: Option<SocketAddr>,
    /// Whether containers can be started.
    pub ready: bool,
    /// What that takes.
    pub checks: Vec<Check>,
    /// Snapshots in the database.
    pub snapshots: Snapshots,
    /// What there is of images; absent where `lazy = false`.
    pub lazy: Option<Lazy>,
}

/// One thing that it takes to start containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// `database`, `socket`, `policy`, `keys` or `store`.
    pub name: String,
    /// What is wrong.
    pub error: Option<String>,
}

/// How many snapshots there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshots {
    /// Committed and mounted lazily.
    pub lazy: usize,
    /// Committed and unpacked.
    pub unpacked: usize,
    /// Of containers, and being unpacked.
    pub active: usize,
    /// Read-only ones.
    pub views: usize,
}

/// What there is of lazily mounted images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lazy {
    /// Directories that show images.
    pub mounts: Vec<Mount>,
    /// Images that are open.
    pub images: Vec<Image>,
    /// Images that were admitted since the start.
    pub admitted: u64,
    /// Images that the policy or a missing key refused since the start.
    pub refused: u64,
    /// The confirmation of layers.
    pub confirmation: Confirmation,
    /// Chunks kept on this node.
    pub store: StoreUse,
    /// What opens encrypted layers.
    pub keys: Keys,
    /// What is admitted.
    pub policy: Policy,
    /// The registries that were reached for.
    pub registries: Vec<Registry>,
}

/// A directory that shows an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The image, as the user named it.
    pub reference: String,
    /// Digest of the admitted manifest.
    pub manifest: String,
    /// `encrypted+signed`, `encrypted+unsigned`, `plain+signed` or `plain+unsigned`.
    pub class: String,
    /// It shows the lowest so many layers.
    pub layers: usize,
    /// The image has so many.
    pub of_layers: usize,
    /// Where it is.
    pub directory: PathBuf,
    /// Since when.
    pub since: String,
    /// Whether the kernel has it.
    pub alive: bool,
    /// Committed snapshots that are it.
    pub snapshots: usize,
    /// Active snapshots and views that stand on it.
    pub containers: usize,
    /// Bytes of the blobs of the layers it shows.
    pub bytes: u64,
    /// Bytes of these blobs that were fetched since the start, for whichever image.
    pub fetched_bytes: u64,
    /// Reads of files.
    pub reads: u64,
    /// Bytes that they were answered with.
    pub read_bytes: u64,
    /// Of the reads, those answered with EIO.
    pub failed_reads: u64,
    /// Chunks that were not what was signed.
    pub mismatches: u64,
    /// Why all its reads fail, if they do.
    pub poisoned: Option<String>,
}

/// An image that is open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// As the user named it.
    pub reference: String,
    /// Digest of the admitted manifest.
    pub manifest: String,
    /// As of [`Mount::class`].
    pub class: String,
    /// The part of the policy that admitted it.
    pub rule: String,
    /// Its requirements, all of which were met.
    pub requirements: Vec<String>,
    /// The lowest so many layers are lazy.
    pub lazy: usize,
    /// So many there are.
    pub layers: usize,
    /// Bytes of their blobs.
    pub bytes: u64,
    /// How long ago it was last asked for.
    pub idle_seconds: f64,
}

/// The confirmation of layers by their DiffID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// `trusted`, `always` or `insecure_never`, as `trust.confirm` says.
    pub mode: String,
    /// Layers that wait.
    pub waiting: usize,
    /// Layers that were what their image claims, since the start.
    pub confirmed: u64,
    /// Attempts that came to nothing.
    pub unconfirmed: u64,
    /// Layers that were something else.
    pub poisoned: u64,
}

/// Chunks kept on this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreUse {
    /// Absent if chunks are kept in memory only.
    pub directory: Option<PathBuf>,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// As many as may be.
    pub memory_limit_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// As many as may be.
    pub disk_limit_bytes: u64,
    /// Chunks served out of memory.
    pub memory_hits: u64,
    /// Chunks served out of the directory.
    pub disk_hits: u64,
    /// Chunks that had to be fetched.
    pub misses: u64,
    /// Hits among all; absent before the first.
    pub hit_rate: Option<f64>,
    /// Chunks dropped to make room.
    pub evictions: u64,
    /// Chunks on disk that were not what they should be.
    pub corrupt: u64,
    /// Chunks that could not be written.
    pub not_kept: u64,
}

/// What opens encrypted layers; nothing of the keys themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Files of private keys.
    pub private_keys: Vec<PathBuf>,
    /// Files of CoCo keys.
    pub coco_keys: Vec<CocoKey>,
    /// The key providers' configuration.
    pub keyprovider_config: Option<PathBuf>,
    /// The key providers.
    pub providers: Vec<Provider>,
    /// Why they cannot be read as they are now.
    pub error: Option<String>,
    /// Layers whose key was unwrapped since the start.
    pub unwrapped: u64,
    /// Layers whose key could not be.
    pub failed: u64,
    /// How the last one went.
    pub last: Option<LastUnwrap>,
}

/// A file of a CoCo key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CocoKey {
    /// The packets it is for; all if absent.
    pub kid: Option<String>,
    /// The file.
    pub file: PathBuf,
}

/// A key provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// As packets name it.
    pub name: String,
    /// How it is reached.
    pub way: String,
}

/// How the unwrapping of a layer's key went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUnwrap {
    /// When.
    pub at: String,
    /// The layer.
    pub layer: String,
    /// `jwe`, `coco` or `provider`: the packet that gave the key.
    pub packet: Option<String>,
    /// Why there is none.
    pub error: Option<String>,
}

/// What the policy file says now; it is read for every decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The file.
    pub file: String,
    /// Of its bytes.
    pub digest: Option<String>,
    /// When it was last written.
    pub modified: Option<String>,
    /// What an image must meet that no scope names.
    pub default: Vec<String>,
    /// Scopes with requirements of their own.
    pub scopes: usize,
    /// Why it does not serve: nothing is admitted.
    pub error: Option<String>,
}

/// A registry that was reached for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// `host[:port]` as references name it.
    pub registry: String,
    /// The `hosts.toml` that names its mirrors.
    pub hosts_file: Option<PathBuf>,
    /// In the order in which they are asked.
    pub hosts: Vec<Host>,
}

/// A host that stands for a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `host[:port]`
    pub host: String,
    /// It failed lately and is asked after the others.
    pub failing: bool,
    /// Requests sent to it since the start.
    pub requests: u64,
    /// Bytes that came from it.
    pub bytes: u64,
}

// === impl Status ===

impl Status {
    /// Reads an answer.
    ///
    /// # Errors
    /// `Unsupported` if another version wrote it so that it is not understood.
    pub fn parse(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).map_err(|e| {
            Error::unsupported("status of another version of nacre")
                .with_source(e)
                .with_hint("restart nacre serve, or use --json")
        })
    }

    pub(super) async fn of(telemetry: &Telemetry) -> Result<Self> {
        let sources = telemetry.sources();
        let readiness = telemetry.readiness().await;
        let counts = sources.snapshotter.count().await;
        // That it cannot be read is among the checks.
        let counts = counts.unwrap_or_default();
        let lazy = match &sources.images {
            None => None,
            Some(images) => {
                let (images, uses) = (Arc::clone(images), counts.uses);
                let lazy = tokio::task::spawn_blocking(move || Lazy::of(&images, &uses)).await;
                Some(lazy.map_err(|e| Error::internal("status of images").with_source(e))?)
            }
        };
        let checks = readiness.checks.iter();
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: rfc3339(sources.started),
            uptime_seconds: telemetry.uptime().as_secs_f64(),
            root: sources.root.clone(),
            socket: sources.socket.clone(),
            metrics_address: sources.address,
            ready: readiness.is_ready(),
            checks: checks
                .map(|it| Check {
                    name: it.name.to_owned(),
                    error: it.error.clone(),
                })
                .collect(),
            snapshots: Snapshots {
                lazy: counts.lazy,
                unpacked: counts.committed - counts.lazy,
                active: counts.active,
                views: counts.views,
            },
            lazy,
        })
    }
}

// === impl Lazy ===

impl Lazy {
    /// Looks at files and at the table of mounts.
    fn of(images: &Images, uses: &HashMap<(Digest, u16), Uses>) -> Self {
        let numbers = images.snapshot();
        let confirmation = images.confirmation();
        let mounts = images.mounts().into_iter();
        let registries = images.registries().into_iter();
        Self {
            mounts: mounts.map(|it| Mount::of(it, uses)).collect(),
            images: images.images().into_iter().map(Image::from).collect(),
            admitted: numbers.admitted,
            refused: numbers.refused,
            confirmation: Confirmation {
                mode: match confirmation.mode {
                    Confirm::Trusted => "trusted",
                    Confirm::Always => "always",
                    Confirm::Never => "insecure_never",
                }
                .to_owned(),
                waiting: confirmation.waiting,
                confirmed: numbers.confirmed,
                unconfirmed: numbers.unconfirmed,
                poisoned: numbers.poisoned,
            },
            store: StoreUse::of(images.store()),
            keys: Keys::of(images.keys(), images.counts().keys),
            policy: images.policy().into(),
            registries: registries.map(Registry::from).collect(),
        }
    }
}

// === impl Mount ===

impl Mount {
    fn of(report: MountReport, uses: &HashMap<(Digest, u16), Uses>) -> Self {
        let tree = (report.manifest.clone(), report.layer_number);
        let uses = uses.get(&tree).copied().unwrap_or_default();
        let EngineSnapshot {
            reads,
            read_bytes,
            failed_reads,
            mismatches,
            ..
        } = report.engine;
        Self {
            reference: report.reference,
            manifest: report.manifest.to_string(),
            class: report.class.to_string(),
            layers: usize::from(report.layer_number) + 1,
            of_layers: report.of_layers,
            directory: report.directory,
            since: rfc3339(report.since),
            alive: report.alive,
            snapshots: uses.snapshots,
            containers: uses.containers,
            bytes: report.bytes,
            fetched_bytes: report.fetched,
            reads,
            read_bytes,
            failed_reads,
            mismatches,
            poisoned: report.poisoned,
        }
    }
}

// === impl Image ===

impl From<ImageReport> for Image {
    fn from(report: ImageReport) -> Self {
        Self {
            reference: report.reference,
            manifest: report.manifest.to_string(),
            class: report.class.to_string(),
            rule: report.rule.scope,
            requirements: report.rule.requirements,
            lazy: report.lazy,
            layers: report.layers,
            bytes: report.bytes,
            idle_seconds: report.idle.as_secs_f64(),
        }
    }
}

// === impl StoreUse ===

impl StoreUse {
    fn of(store: &Store) -> Self {
        let (found, limits) = (store.snapshot(), store.limits());
        let hits = found.memory_hits + found.disk_hits;
        Self {
            directory: limits.directory,
            memory_bytes: found.memory_bytes,
            memory_limit_bytes: limits.memory_bytes,
            disk_bytes: found.disk_bytes,
            disk_limit_bytes: limits.disk_bytes,
            memory_hits: found.memory_hits,
            disk_hits: found.disk_hits,
            misses: found.misses,
            hit_rate: rate(hits, hits + found.misses),
            evictions: found.memory_evictions + found.disk_evictions,
            corrupt: found.corrupt,
            not_kept: found.not_kept,
        }
    }
}

// === impl Keys ===

impl Keys {
    fn of(report: KeysReport, counts: KeyCounts) -> Self {
        let coco_keys = report.coco_keys.into_iter().map(|key| CocoKey {
            kid: key.kid,
            file: key.file,
        });
        let providers = report.providers.into_iter().map(|it| Provider {
            name: it.name,
            way: it.way,
        });
        let last = counts.last.map(|last| LastUnwrap {
            at: rfc3339(last.at),
            layer: last.layer.to_string(),
            packet: last.outcome.as_ref().ok().map(|it| (*it).to_owned()),
            error: last.outcome.err().map(|(_, error)| error),
        });
        Self {
            private_keys: report.private_keys,
            coco_keys: coco_keys.collect(),
            keyprovider_config: report.keyprovider_config,
            providers: providers.collect(),
            error: report.error,
            unwrapped: counts.opened.iter().map(|(_, n)| n).sum(),
            failed: counts.failed.total(),
            last,
        }
    }
}

// === impl Policy ===

impl From<PolicyReport> for Policy {
    fn from(report: PolicyReport) -> Self {
        Self {
            file: report.origin,
            digest: report.digest.map(|it| it.to_string()),
            modified: report.modified.map(rfc3339),
            default: report.default,
            scopes: report.scopes,
            error: report.error,
        }
    }
}

// === impl Registry ===

impl From<RegistryState> for Registry {
    fn from(state: RegistryState) -> Self {
        let hosts = state.hosts.into_iter().map(|it| Host {
            host: it.host,
            failing: it.failing,
            requests: it.requests,
            bytes: it.bytes,
        });
        Self {
            registry: state.registry,
            hosts_file: state.hosts_file,
            hosts: hosts.collect(),
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a rate of counts beyond 2^53 is still a rate"
)]
fn rate(some: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| some as f64 / all as f64)
}

/// To whole seconds; times that cannot be written are those of a broken clock.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let whole = Duration::from_secs(since.unwrap_or_default().as_secs());
    let time = OffsetDateTime::from(SystemTime::UNIX_EPOCH + whole);
    time.format(&Rfc3339).unwrap_or_default()
}
