//! Docker's credential helpers: `docker-credential-NAME get`, server on stdin, JSON on stdout.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
};
use zeroize::Zeroizing;

use super::{credentials::Login, secret::Secret};
use crate::error::{Error, Kind, Result};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Secret,
}

/// What helpers print when they have nothing for the server (docker-credential-helpers' protocol).
const NOT_FOUND: &str = "credentials not found";

/// The user name that marks the secret as an identity token.
const TOKEN_USER: &str = "<token>";

/// Most that is read of a helper's output; cloud tokens have a few KiB.
const MAX_OUTPUT: u64 = 64 << 10;

/// Asks the helper `name` for `server`; `None` if it has no login for it.
///
/// # Errors
/// `Invalid` if `name` is not a file name, `Denied` if the helper fails or cannot be understood,
/// `Unavailable` if it takes longer than `deadline`.
pub(super) async fn ask(
    name: &str,
    directory: Option<&Path>,
    server: &str,
    deadline: Duration,
) -> Result<Option<Login>> {
    let bad = |kind, what: String| {
        Error::new(
            kind,
            format!("credential helper {name:?} for {server}: {what}"),
        )
    };
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(safe) {
        return Err(bad(Kind::Invalid, "not a helper's name".into()));
    }
    let program = format!("docker-credential-{name}");
    let program: PathBuf =
        directory.map_or_else(|| program.clone().into(), |dir| dir.join(&program));
    let mut command = Command::new(program);
    command.arg("get");
    let run = run(&mut command, server.as_bytes().to_vec());
    let (success, out, err) = tokio::time::timeout(deadline, run)
        .await
        .map_err(|_| bad(Kind::Unavailable, format!("no answer in {deadline:?}")))?
        .map_err(|e| bad(Kind::Denied, e.to_string()).with_hint("is it installed and in PATH?"))?;
    if success {
        let answer: Answer = serde_json::from_slice(&out)
            .map_err(|_| bad(Kind::Denied, "its answer is not Username and Secret".into()))?;
        return Ok(match answer.username.as_str() {
            TOKEN_USER => Some(Login::Identity(answer.secret)),
            "" if answer.secret.is_empty() => None,
            _ => Some(Login::Basic {
                username: answer.username,
                password: answer.secret,
            }),
        });
    }
    // Helpers print why they failed on stdout; with a failure there is no secret in it.
    let said = String::from_utf8_lossy(if out.is_empty() { &err } else { &out }).into_owned();
    if said.contains(NOT_FOUND) {
        return Ok(None);
    }
    let first = said.lines().next().unwrap_or("it failed and said nothing");
    Err(bad(Kind::Denied, first.trim().to_owned()))
}

/// Whether it succeeded, its standard output and error.
pub(super) type Output = (bool, Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>);

/// Runs a program to its end; killed if this is dropped before.
pub(super) async fn run(command: &mut Command, question: Vec<u8>) -> std::io::Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let ask = async move {
        if let Some(mut stdin) = stdin {
            // A helper that does not read its input may still answer.
            let _ = stdin.write_all(&question).await;
        }
    };
    let ((), out, err) = tokio::join!(ask, limited(stdout), limited(stderr));
    let (out, err) = (out?, err?);
    Ok((child.wait().await?.success(), out, err))
}

async fn limited(from: Option<impl AsyncRead + Unpin>) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut all = Zeroizing::new(Vec::with_capacity(4096));
    if let Some(from) = from {
        from.take(MAX_OUTPUT).read_to_end(&mut all).await?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    async fn answer(script: &str, deadline: Duration) -> Result<Option<Login>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker-credential-test");
        // Written by a child: a file this process holds open for writing cannot be executed when
        // another test forks at that moment.
        let text = format!("#!/bin/sh\n{script}\n");
        let status = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$1\" > \"$2\"", "sh", &text])
            .arg(&path)
            .status()
            .unwrap();
        assert!(status.success());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        ask("test", Some(directory.path()), "r.example", deadline).await
    }

    #[tokio::test]
    async fn answers() {
        let long = Duration::from_secs(30);
        let script = r#"[ "$1" = get ] && read s; [ "$s" = r.example ] &&
            echo '{"ServerURL":"r.example","Username":"u","Secret":"p"}'"#;
        let got = answer(script, long).await.unwrap();
        assert!(matches!(got, Some(Login::Basic { username, password })
                if username == "u" && &*password == "p"));
        let script = r#"echo '{"ServerURL":"x","Username":"<token>","Secret":"t"}'"#;
        assert!(matches!(
            answer(script, long).await.unwrap(),
            Some(Login::Identity(token)) if &*token == "t"
        ));
        let script = "echo credentials not found in native keychain; exit 1";
        assert!(answer(script, long).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn failures_are_named() {
        let long = Duration::from_secs(30);
        let error = answer("echo vault is sealed; exit 1", long)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.to_string().contains("vault is sealed"), "{error}");
        let error = answer("echo s3cret", long).await.unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
        let hang = answer("exec sleep 60", Duration::from_millis(50)).await;
        assert_eq!(hang.unwrap_err().kind(), Kind::Unavailable);
        let missing = ask("none", Some(Path::new("/nonexistent")), "r", long).await;
        assert_eq!(missing.unwrap_err().kind(), Kind::Denied);
        let path = ask("../x", None, "r", long).await;
        assert_eq!(path.unwrap_err().kind(), Kind::Invalid);
    }
}
