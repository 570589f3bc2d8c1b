//! Runs the `nacre` program under test.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Output, Stdio},
};

/// What a run of `nacre` gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// A `nacre` command that sees nothing of this machine's configuration.
pub(crate) fn command<S: AsRef<OsStr>>(
    home: &Path,
    arguments: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nacre"));
    command
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null());
    command
}

/// Runs `nacre` to its end.
pub(crate) fn run<S: AsRef<OsStr>>(home: &Path, arguments: impl IntoIterator<Item = S>) -> Ran {
    Ran::from(command(home, arguments).output().unwrap())
}

/// Takes away what `nacre serve` left of a root: mounts, and the process that keeps them.
pub(crate) fn release(root: &Path) {
    let root_option = root.as_os_str();
    let arguments = [
        "release".as_ref(),
        "--force".as_ref(),
        "--root".as_ref(),
        root_option,
    ];
    let ran = run(root, arguments);
    if !std::thread::panicking() {
        ran.ok();
    }
}

// === impl Ran ===

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// Its standard output, if it went well.
    pub(crate) fn ok(self) -> Vec<u8> {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }

    /// The same as text.
    pub(crate) fn text(self) -> String {
        String::from_utf8(self.ok()).unwrap()
    }

    /// The same as JSON.
    pub(crate) fn json(self) -> serde_json::Value {
        serde_json::from_slice(&self.ok()).unwrap()
    }

    /// Checks that it failed with this exit code and said this.
    pub(crate) fn failed(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, code, "{}", self.stderr);
        for text in said {
            assert!(
                self.stderr.contains(text),
                "{text:?} is not in: {}",
                self.stderr
            );
        }
    }
}
