//! `scripts/e2e-containerd` with the `nacre` under test and the system's containerd: the scenarios that
//! are quick, by ctr and as pods. Needs root and what `scripts/install-peers` installs; says which is
//! missing where it skips. The script alone runs all scenarios, with containerd 2 and nerdctl too.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::process::{Command, Stdio};

/// What is tried here; some five seconds each, and twenty for the kills.
const SCENARIOS: &[&str] = &[
    "encrypted-signed",
    "unsigned-lazy",
    "mixed",
    "multi-arch",
    "zstd-chunked-encrypted",
    "policy-refuses",
    "key-missing",
    "removed-while-running",
    "nothing-left",
    "shared-base",
    "killed-ten-times",
    "registry-down",
    "containerd-restarts",
    "exec",
    "read-only-rootfs",
    "usage",
    "diff",
];

const PROGRAMS: &[&str] = &[
    "containerd",
    "ctr",
    "ctr-remote",
    "crictl",
    "curl",
    "docker-registry",
    "jq",
    "openssl",
    "runc",
    "skopeo",
    "umoci",
];

#[test]
fn scenarios_with_real_containerd_pass() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    for program in PROGRAMS {
        if !std::env::split_paths(&paths).any(|path| path.join(program).is_file()) {
            println!("skipped: {program} is not installed (scripts/install-peers)");
            return;
        }
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/e2e-containerd");
    let output = Command::new(script)
        .args(["--containerd", "1", "--only", &SCENARIOS.join(",")])
        // All it needs has been found.
        .env("NACRE_E2E_READY", "1")
        .env("NACRE_BIN", env!("CARGO_BIN_EXE_nacre"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let wanted = format!("{} passed, 0 failed", SCENARIOS.len());
    assert!(output.status.success(), "{said}{errors}");
    assert_eq!(said.lines().last(), Some(&*wanted), "{said}{errors}");
}
