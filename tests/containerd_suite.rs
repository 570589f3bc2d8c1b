//! containerd's own snapshotter suite, written in Go, against `nacre serve`. Needs root and Go; the
//! first run downloads the modules that tests/containerd-suite/go.sum names.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::process::Command;

#[test]
fn containerd_s_snapshotter_suite_passes() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let suite = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/containerd-suite");
    let modules = Command::new("go")
        .args(["mod", "download"])
        .current_dir(suite)
        .output();
    match modules {
        Err(error) => {
            println!("skipped: go: {error}");
            return;
        }
        Ok(output) if !output.status.success() => {
            let text = String::from_utf8_lossy(&output.stderr);
            println!("skipped: Go modules cannot be had: {text}");
            return;
        }
        Ok(_) => {}
    }
    let output = Command::new("go")
        .args(["test", "-count=1", "-v", "./..."])
        .env("NACRE", env!("CARGO_BIN_EXE_nacre"))
        .current_dir(suite)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let count = |word: &str| text.matches(&format!("{word}TestNacre/")).count();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    // All cases of this version of the suite, and none of them skipped.
    let (ran, passed) = (count("=== RUN   "), count("--- PASS: "));
    assert!(
        ran >= 21 && passed == ran,
        "{passed} of {ran} cases: {text}"
    );
}
