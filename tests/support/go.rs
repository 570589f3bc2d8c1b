//! Go programs of `tests/go`, built where Go is installed and can reach its modules.

use std::{path::PathBuf, process::Command};

/// A program that was built, and the directory it is in.
#[derive(Debug)]
pub struct GoProgram {
    pub path: PathBuf,
    _directory: tempfile::TempDir,
}

/// Builds `tests/go/NAME`.
///
/// # Errors
/// Why it cannot be built here.
pub fn build(name: &str) -> Result<GoProgram, String> {
    let version = Command::new("go").args(["env", "GOVERSION"]).output();
    let version = version.map_err(|_| "go is not installed".to_owned())?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let minor: Option<u32> = version
        .strip_prefix("go1.")
        .and_then(|rest| rest.split('.').next()?.parse().ok());
    if minor.is_none_or(|minor| minor < 21) {
        return Err(format!("{version} cannot build modules for go 1.25"));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    let source = format!("{}/tests/go/{name}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("go")
        .args(["build", "-o"])
        .arg(&path)
        .arg(".")
        .current_dir(source)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let offline = [
        "dial tcp",
        "no such host",
        "connection refused",
        "module lookup disabled",
    ];
    if offline.iter().any(|word| text.contains(word)) {
        return Err("go cannot download its modules here".to_owned());
    }
    assert!(output.status.success(), "go build: {text}");
    Ok(GoProgram {
        path,
        _directory: directory,
    })
}
