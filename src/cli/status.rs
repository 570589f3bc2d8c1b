//! `nacre status`: what a running `nacre serve` is doing.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use clap::Args;
use indicatif::HumanDuration;

use super::{
    output::{Output, bytes},
    runtime, table,
};
use crate::{
    config::Config,
    error::{Error, Result},
    open::IndexKind,
    telemetry::{
        ask,
        status::{Adopting, Keys, Lazy, Mount, Policy, Registry, Status as Report, StoreUse},
    },
};

/// Options of `nacre status`.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Configuration file of the daemon [default: /etc/nacre/nacre.toml if it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Socket of the daemon, instead of the configured one.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
}

// === impl Status ===

impl Status {
    pub(super) fn run(&self, output: &Output) -> Result<()> {
        let socket = match &self.socket {
            Some(socket) => socket.clone(),
            None => Config::load(self.config.as_deref())?.socket,
        };
        let json = runtime()?.block_on(ask(&socket, "/status"))?;
        if output.is_json() {
            // As it came: a later daemon may say more than this program knows of.
            let value: serde_json::Value = serde_json::from_slice(&json)
                .map_err(|e| Error::unsupported("status that is not JSON").with_source(e))?;
            return output.result(&value, String::new);
        }
        let report = Report::parse(&json)?;
        output.result(&report, || text(&report))
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut put = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<10} {}", plain(value));
    };
    let up = Duration::from_secs_f64(report.uptime_seconds.max(0.0));
    let Report {
        version,
        pid,
        started,
        ..
    } = report;
    let up = HumanDuration(up);
    put(
        "nacre",
        &format!("{version}, process {pid}, up {up}, since {started}"),
    );
    put("root", &report.root.display().to_string());
    if let Some(socket) = &report.socket {
        put("socket", &socket.display().to_string());
    }
    if let Some(address) = report.metrics_address {
        put("metrics", &address.to_string());
    }
    put("ready", if report.ready { "yes" } else { "NO" });
    for check in &report.checks {
        if let Some(error) = &check.error {
            put("", &format!("{}: {error}", check.name));
        }
    }
    let it = &report.snapshots;
    put(
        "snapshots",
        &format!(
            "{} lazy, {} unpacked, {} active, {} views",
            it.lazy, it.unpacked, it.active, it.views
        ),
    );
    let Some(lazy) = &report.lazy else {
        put("lazy", "no: containerd unpacks every layer");
        return text.trim_end().to_owned();
    };
    policy(&mut put, &lazy.policy);
    keys(&mut put, &lazy.keys);
    store(&mut put, &lazy.store);
    let it = &lazy.confirmation;
    put(
        "confirm",
        &format!(
            "{}: {} waiting, {} confirmed, {} not confirmed, {} poisoned",
            it.mode, it.waiting, it.confirmed, it.unconfirmed, it.poisoned
        ),
    );
    put(
        "images",
        &format!(
            "{} admitted, {} refused since the start",
            lazy.admitted, lazy.refused
        ),
    );
    for lines in [
        mounts(&lazy.mounts),
        adopting(&lazy.adopting),
        images(lazy),
        registries(&lazy.registries),
    ] {
        if !lines.is_empty() {
            text.push('\n');
        }
        for line in lines {
            text.push_str(&plain(&line));
            text.push('\n');
        }
    }
    text.trim_end().to_owned()
}

fn policy(put: &mut impl FnMut(&str, &str), policy: &Policy) {
    if let Some(error) = &policy.error {
        put("policy", &format!("nothing is admitted: {error}"));
        return;
    }
    let written = match &policy.modified {
        Some(time) => format!(" of {time}"),
        None => String::new(),
    };
    let Policy { file, scopes, .. } = policy;
    let default = policy.default.join(" and ");
    put(
        "policy",
        &format!("{file}{written}: {scopes} scopes, otherwise {default}"),
    );
    if let Some(digest) = &policy.digest {
        put("", digest);
    }
}

fn keys(put: &mut impl FnMut(&str, &str), keys: &Keys) {
    let private = keys.private_keys.iter().map(|it| it.display().to_string());
    let coco = keys
        .coco_keys
        .iter()
        .map(|it| it.file.display().to_string());
    let providers = { keys.providers.iter() }.map(|it| format!("{} ({})", it.name, it.way));
    let all: Vec<_> = private.chain(coco).chain(providers).collect();
    let all = match all.is_empty() {
        true => "none".to_owned(),
        false => all.join(", "),
    };
    let Keys {
        unwrapped, failed, ..
    } = keys;
    put(
        "keys",
        &format!("{all}; {unwrapped} layers opened, {failed} not"),
    );
    if let Some(error) = &keys.error {
        put("", &format!("cannot be read: {error}"));
    }
    if let Some(last) = &keys.last {
        let outcome = match (&last.packet, &last.error) {
            (_, Some(error)) => format!("not opened: {error}"),
            (Some(packet), None) => format!("opened ({packet})"),
            (None, None) => "opened".to_owned(),
        };
        put(
            "",
            &format!("last {}: layer {} {outcome}", last.at, short(&last.layer)),
        );
    }
}

fn store(put: &mut impl FnMut(&str, &str), store: &StoreUse) {
    let (memory, limit) = (bytes(store.memory_bytes), bytes(store.memory_limit_bytes));
    let mut used = format!("{memory} of {limit} in memory");
    if let Some(directory) = &store.directory {
        let (disk, limit) = (bytes(store.disk_bytes), bytes(store.disk_limit_bytes));
        used += &format!(", {disk} of {limit} in {}", directory.display());
    }
    put("store", &used);
    let mut found = match store.hit_rate {
        Some(rate) => format!("{:.1} % of chunks were here", rate * 100.0),
        None => "nothing read yet".to_owned(),
    };
    for (count, what) in [
        (store.evictions, "dropped"),
        (store.corrupt, "corrupt"),
        (store.not_kept, "not kept"),
    ] {
        if count > 0 {
            found += &format!(", {count} {what}");
        }
    }
    put("", &found);
}

fn mounts(mounts: &[Mount]) -> Vec<String> {
    if mounts.is_empty() {
        return Vec::new();
    }
    let rows: Vec<_> = mounts
        .iter()
        .map(|it| {
            [
                it.reference.clone(),
                short(&it.manifest),
                it.class.clone(),
                format!("{}/{}", it.layers, it.of_layers),
                IndexKind::summary(&it.indexes),
                it.snapshots.to_string(),
                it.containers.to_string(),
                format!("{} of {}", bytes(it.fetched_bytes), bytes(it.bytes)),
                it.reads.to_string(),
                it.failed_reads.to_string(),
                it.front_end.clone(),
                match (&it.poisoned, it.alive) {
                    (Some(_), _) => "POISONED".to_owned(),
                    (None, false) => "GONE".to_owned(),
                    (None, true) => "ok".to_owned(),
                },
                it.directory.display().to_string(),
            ]
        })
        .collect();
    let head = [
        "MOUNTED",
        "MANIFEST",
        "CLASS",
        "LAYERS",
        "INDEX",
        "SNAPSHOTS",
        "CONTAINERS",
        "FETCHED",
        "READS",
        "FAILED",
        "BY",
        "STATE",
        "DIRECTORY",
    ];
    let mut lines = table::lines(head, &rows);
    for mount in mounts {
        if let Some(why) = &mount.poisoned {
            lines.push(format!("{} is poisoned: {why}", mount.reference));
        }
    }
    lines
}

fn adopting(adopting: &[Adopting]) -> Vec<String> {
    if adopting.is_empty() {
        return Vec::new();
    }
    let rows: Vec<_> = { adopting.iter() }
        .map(|it| {
            [
                it.reference.clone(),
                short(&it.manifest),
                it.layers.to_string(),
                it.containers.to_string(),
                it.since.clone(),
                it.directory.display().to_string(),
                match &it.error {
                    None => "requests wait".to_owned(),
                    Some(error) => format!("requests fail: {error}"),
                },
            ]
        })
        .collect();
    let head = [
        "NOT OPEN SINCE THE RESTART",
        "MANIFEST",
        "LAYERS",
        "CONTAINERS",
        "SINCE",
        "DIRECTORY",
        "STATE",
    ];
    table::lines(head, &rows)
}

fn images(lazy: &Lazy) -> Vec<String> {
    if lazy.images.is_empty() {
        return Vec::new();
    }
    let rows: Vec<_> = { lazy.images.iter() }
        .map(|it| {
            [
                it.reference.clone(),
                short(&it.manifest),
                it.class.clone(),
                format!("{}/{}", it.lazy, it.layers),
                IndexKind::summary(&it.indexes),
                bytes(it.bytes),
                it.rule.clone(),
            ]
        })
        .collect();
    let head = ["OPEN", "MANIFEST", "CLASS", "LAZY", "INDEX", "SIZE", "RULE"];
    table::lines(head, &rows)
}

fn registries(registries: &[Registry]) -> Vec<String> {
    if registries.is_empty() {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for registry in registries {
        for host in &registry.hosts {
            rows.push([
                registry.registry.clone(),
                host.host.clone(),
                host.requests.to_string(),
                bytes(host.bytes),
                if host.failing { "FAILING" } else { "ok" }.to_owned(),
            ]);
        }
    }
    table::lines(["REGISTRY", "HOST", "REQUESTS", "RECEIVED", "STATE"], &rows)
}

/// The beginning of a digest, enough to find it by.
fn short(digest: &str) -> String {
    digest.chars().take("sha256:".len() + 12).collect()
}

/// What others wrote must not steer a terminal.
fn plain(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    shown.collect()
}
