//! A key provider that is a command. It gets a process group of its own, which is killed as a whole
//! if the caller stops waiting.

use std::{io, path::Path, process::Stdio};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};
use zeroize::Zeroizing;

use super::{MAX_REPLY, told};
use crate::error::{Error, Result};

/// Most of a command's standard error that is kept.
const MAX_STDERR: usize = 4 << 10;

/// Kills a process group unless its leader has been waited for.
struct Group(Option<Pid>);

/// Runs the command with `request` on its standard input and gives its standard output.
pub(super) async fn ask(
    path: &Path,
    args: &[String],
    request: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    run(Command::new(path).args(args), path, request).await
}

/// As [`ask`], by a command that is ready but for its pipes; errors call it `path`.
pub(in crate::keys) async fn run(
    command: &mut Command,
    path: &Path,
    request: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let name = path.display();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                Error::invalid(format!("command {name} cannot be run")).with_source(e)
            }
            _ => Error::io(format!("command {name}"), e),
        })?;
    let mut group = Group::of(&child);
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(Error::internal("a child without pipes"));
    };

    let write = async move {
        // A command that has heard enough closes the pipe; its answer tells whether that is well.
        let _ = stdin.write_all(request).await;
        drop(stdin);
        Ok(())
    };
    let (reply, complaint, ()) = tokio::try_join!(
        read(stdout, MAX_REPLY, true),
        read(stderr, MAX_STDERR, false),
        write
    )
    .map_err(|e| e.context(format!("command {name}")))?;
    let status = child
        .wait()
        .await
        .map_err(|e| Error::io(format!("command {name}"), e))?;
    group.0 = None;
    if status.success() {
        return Ok(reply);
    }
    let complaint = told(&String::from_utf8_lossy(&complaint));
    Err(match status.code() {
        Some(code) => Error::denied(format!(
            "command {name} ended with status {code}: {complaint}"
        )),
        None => Error::unavailable(format!("command {name} died ({status}): {complaint}")),
    })
}

/// Reads to the end; beyond `limit` it fails, or throws away.
async fn read(
    mut from: impl AsyncRead + Unpin,
    limit: usize,
    strict: bool,
) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |e| Error::io("reading from it", e);
    // Room from the start: a vector that grows leaves copies of secrets behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 64));
    (&mut from)
        .take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(failed)?;
    if bytes.len() > limit {
        if strict {
            return Err(Error::invalid(format!("it answered over {limit} bytes")));
        }
        tokio::io::copy(&mut from, &mut tokio::io::sink())
            .await
            .map_err(failed)?;
    }
    Ok(bytes)
}

// === impl Group ===

impl Group {
    fn of(child: &Child) -> Self {
        Self(
            child
                .id()
                .and_then(|id| i32::try_from(id).ok())
                .map(Pid::from_raw),
        )
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Its leader has not been waited for, so the number is still its own.
            let _ = killpg(leader, Signal::SIGKILL);
        }
    }
}
