//! The OCI runtime configuration (`config.json`, runtime-spec 1.0.2) of an image, for `runc run`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::users;
use crate::{
    error::{Error, Result},
    oci::{ImageConfig, RunConfig},
};

/// What the image does not say about its container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// Whether the process gets a terminal.
    pub terminal: bool,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// Name of the host in the container; `nacre` if none.
    pub hostname: Option<String>,
    /// Program and arguments in place of the image's.
    pub args: Option<Vec<String>>,
}

/// The runtime configuration of an image whose root file system lies at `rootfs`, where the user is
/// looked up. The bundle names it `rootfs`.
///
/// # Errors
/// `Invalid` if the image's user or group is unknown or its environment malformed.
pub fn runtime_config(
    config: &ImageConfig,
    rootfs: &Path,
    options: &RuntimeOptions,
) -> Result<Value> {
    let empty = RunConfig::default();
    let run = config.config.as_ref().unwrap_or(&empty);
    let user = users::resolve(run.user.as_deref().unwrap_or_default(), rootfs)?;
    let mut process = json!({
        "terminal": options.terminal,
        "user": { "uid": user.uid, "gid": user.gid },
        "args": args(run, options),
        "env": env(run, options, user.home.as_deref())?,
        "cwd": working_directory(run),
        "capabilities": {
            "bounding": CAPABILITIES,
            "effective": CAPABILITIES,
            "permitted": CAPABILITIES,
        },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
        "noNewPrivileges": true,
    });
    if !user.groups.is_empty() {
        process["user"]["additionalGids"] = json!(user.groups);
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": { "path": "rootfs", "readonly": options.read_only },
        "hostname": options.hostname.as_deref().unwrap_or("nacre"),
        "mounts": mounts(),
        "annotations": annotations(config, run),
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": NAMESPACES.map(|kind| json!({ "type": kind })),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }))
}

/// Entry point and command; a shell where the image names neither.
fn args(run: &RunConfig, options: &RuntimeOptions) -> Vec<String> {
    if let Some(args) = &options.args {
        return args.clone();
    }
    let parts = [&run.entrypoint, &run.cmd];
    let args: Vec<_> = parts.into_iter().flatten().flatten().cloned().collect();
    if args.is_empty() {
        vec!["sh".into()]
    } else {
        args
    }
}

/// The image's environment, with what every process expects.
fn env(run: &RunConfig, options: &RuntimeOptions, home: Option<&str>) -> Result<Vec<String>> {
    let mut env = run.env.clone().unwrap_or_default();
    if let Some(bad) = env.iter().find(|line| !line.contains('=')) {
        return Err(Error::invalid(format!(
            "image configuration: environment {bad:?} has no ="
        )));
    }
    let mut otherwise = |key: &str, value: &str| {
        let told = |line: &String| line.split_once('=').is_some_and(|(k, _)| k == key);
        if !env.iter().any(told) {
            env.push(format!("{key}={value}"));
        }
    };
    otherwise("PATH", PATH);
    otherwise("HOME", home.filter(|home| !home.is_empty()).unwrap_or("/"));
    if options.terminal {
        otherwise("TERM", "xterm");
    }
    Ok(env)
}

fn working_directory(run: &RunConfig) -> String {
    match run.working_dir.as_deref() {
        None | Some("") => "/".into(),
        Some(path) if path.starts_with('/') => path.into(),
        Some(path) => format!("/{path}"),
    }
}

/// What the image specification says to convert: labels, platform, stop signal.
fn annotations(config: &ImageConfig, run: &RunConfig) -> Map<String, Value> {
    let mut all = Map::new();
    let mut told = |key: &str, value: &str| {
        all.insert(format!("org.opencontainers.image.{key}"), json!(value));
    };
    told("os", &config.platform.os);
    told("architecture", &config.platform.architecture);
    if let Some(signal) = &run.stop_signal {
        told("stopSignal", signal);
    }
    for (key, value) in run.labels.iter().flatten() {
        all.insert(key.clone(), json!(value));
    }
    all
}

fn mounts() -> Value {
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        {
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]
        },
        {
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        },
        {
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]
        },
        {
            "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"]
        },
        {
            "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"]
        },
        {
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]
        },
    ])
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What container engines give: an image's own package manager and servers work with it.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

const NAMESPACES: [&str; 6] = ["pid", "network", "ipc", "uts", "mount", "cgroup"];

/// Kernel interfaces that show or change the host.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn config(run: &Value) -> ImageConfig {
        serde_json::from_value(json!({
            "os": "linux", "architecture": "amd64",
            "config": run, "rootfs": { "type": "layers", "diff_ids": [] },
        }))
        .unwrap()
    }

    #[test]
    fn what_the_image_says_is_what_runs() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), "app:x:7:8::/srv:\n").unwrap();
        std::fs::write(root.path().join("etc/group"), "more:x:9:app\n").unwrap();
        let config = config(&json!({
            "User": "app", "Env": ["PATH=/x", "A=b"], "Entrypoint": ["/e"], "Cmd": ["c", "d"],
            "WorkingDir": "w", "Labels": { "l": "m" }, "StopSignal": "SIGQUIT",
        }));
        let made = runtime_config(&config, root.path(), &RuntimeOptions::default()).unwrap();
        let process = &made["process"];
        assert_eq!(process["args"], json!(["/e", "c", "d"]));
        assert_eq!(process["env"], json!(["PATH=/x", "A=b", "HOME=/srv"]));
        assert_eq!(process["cwd"], "/w");
        assert_eq!(
            process["user"],
            json!({ "uid": 7, "gid": 8, "additionalGids": [9] })
        );
        assert_eq!(
            made["annotations"],
            json!({
                "org.opencontainers.image.os": "linux",
                "org.opencontainers.image.architecture": "amd64",
                "org.opencontainers.image.stopSignal": "SIGQUIT",
                "l": "m",
            })
        );
    }

    #[test]
    fn what_the_image_leaves_out_is_filled_in() {
        let root = tempfile::tempdir().unwrap();
        let options = RuntimeOptions {
            terminal: true,
            ..RuntimeOptions::default()
        };
        let made = runtime_config(&config(&Value::Null), root.path(), &options).unwrap();
        let process = &made["process"];
        assert_eq!(process["args"], json!(["sh"]));
        assert_eq!(process["cwd"], "/");
        assert_eq!(process["user"], json!({ "uid": 0, "gid": 0 }));
        assert_eq!(
            process["env"],
            json!([format!("PATH={PATH}"), "HOME=/", "TERM=xterm"])
        );
        let bad = config(&json!({ "Env": ["PATH"] }));
        assert!(runtime_config(&bad, root.path(), &options).is_err());
    }
}
