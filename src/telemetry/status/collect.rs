//! From what the rooms say of themselves to the status.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Adopting, Check, CocoKey, Confirmation, Host, Image, Keys, LastUnwrap, Lazy, Mount, Policy,
    Provider, Registry, Snapshots, Status, StoreUse,
};
use crate::{
    engine::EngineSnapshot,
    error::{Error, Result},
    keys::{KeyCounts, KeysReport},
    oci::Digest,
    open::IndexKind,
    snapshotter::{
        Uses,
        images::{AdoptionReport, Confirm, ImageReport, Images, MountReport},
    },
    source::registry::RegistryState,
    store::Store,
    telemetry::Telemetry,
    trust::PolicyReport,
};

// === impl Status ===

impl Status {
    pub(in crate::telemetry) async fn of(telemetry: &Telemetry) -> Result<Self> {
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
        let adopting = images.adopting().into_iter();
        let registries = images.registries().into_iter();
        Self {
            mounts: mounts.map(|it| Mount::of(it, uses)).collect(),
            adopting: adopting.map(|it| Adopting::of(it, uses)).collect(),
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
            indexes: names(&report.indexes),
            directory: report.directory,
            since: rfc3339(report.since),
            front_end: report.front_end.to_string(),
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

// === impl Adopting ===

impl Adopting {
    fn of(report: AdoptionReport, uses: &HashMap<(Digest, u16), Uses>) -> Self {
        let tree = (report.manifest, report.layer_number);
        let uses = uses.get(&tree).copied().unwrap_or_default();
        Self {
            reference: report.reference,
            manifest: tree.0.to_string(),
            layers: usize::from(tree.1) + 1,
            directory: report.directory,
            since: rfc3339(report.since),
            containers: uses.containers,
            error: report.error,
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
            indexes: names(&report.indexes),
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

fn names(indexes: &[IndexKind]) -> Vec<String> {
    indexes.iter().map(ToString::to_string).collect()
}

/// To whole seconds; times that cannot be written are those of a broken clock.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let whole = Duration::from_secs(since.unwrap_or_default().as_secs());
    let time = OffsetDateTime::from(SystemTime::UNIX_EPOCH + whole);
    time.format(&Rfc3339).unwrap_or_default()
}
