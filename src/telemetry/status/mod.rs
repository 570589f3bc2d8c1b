//! The status: what a daemon is doing, as `nacre status --json` prints it (`docs/status.md`). Fields
//! are added to it, and none changes its meaning.

mod collect;

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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
    /// Directories that an earlier daemon mounted and whose image is not open yet.
    #[serde(default)]
    pub adopting: Vec<Adopting>,
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
    /// What each layer that it shows was opened by, the lowest first (`docs/status.md`).
    #[serde(default)]
    pub indexes: Vec<String>,
    /// Where it is.
    pub directory: PathBuf,
    /// Since when.
    pub since: String,
    /// How the kernel sees it: `fuse` or `erofs`; empty if an older daemon does not say.
    #[serde(default)]
    pub front_end: String,
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

/// A directory that an earlier daemon mounted and whose image is not open yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopting {
    /// The image, as the user named it.
    pub reference: String,
    /// Digest of the admitted manifest.
    pub manifest: String,
    /// It shows the lowest so many layers.
    pub layers: usize,
    /// Where it is.
    pub directory: PathBuf,
    /// Since when.
    pub since: String,
    /// Active snapshots and views that stand on it.
    pub containers: usize,
    /// Why its requests fail; absent while they wait.
    pub error: Option<String>,
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
    /// What each lazy layer was opened by, the lowest first.
    #[serde(default)]
    pub indexes: Vec<String>,
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
}
