//! Starts a process that goes on when the command has returned.
//!
//! A process with threads cannot fork, so the parent starts its own program again with the
//! child's arguments and waits on a pipe (the child's standard output) for one line: ready, or the
//! error that the parent then prints as its own. Until then the child's messages go to the parent's
//! standard error, afterwards to the log file. The child has a session of its own, so what
//! interrupts the parent does not reach it; a child that finds its parent gone gives up.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::sys::processes::Watched;

/// A daemon that is starting, seen from its parent.
#[derive(Debug)]
pub struct Starting {
    child: Child,
}

/// The way back to the parent, held by the daemon while it starts.
#[derive(Debug)]
pub struct Readiness {
    parent: File,
    log: File,
}

/// The one line on the pipe.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Message {
    Ready,
    Error {
        kind: String,
        message: String,
        hint: Option<String>,
    },
}

// === impl Starting ===

impl Starting {
    /// Starts this program again with `arguments`, which must make it call [`Readiness::take`].
    ///
    /// # Errors
    /// [`Kind::Io`] if it cannot be started.
    pub fn spawn(arguments: impl IntoIterator<Item = OsString>) -> Result<Starting> {
        let program =
            std::env::current_exe().map_err(|error| Error::io("path of this program", error))?;
        let mut command = Command::new(&program);
        command.args(arguments);
        Starting::spawn_command(command)
    }

    /// As [`Starting::spawn`], with a command that has been put together elsewhere.
    ///
    /// # Errors
    /// [`Kind::Io`] if it cannot be started.
    pub fn spawn_command(mut command: Command) -> Result<Starting> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().map_err(|error| {
            let program = command.get_program().display();
            Error::io(format!("start {program} as a daemon"), error)
        })?;
        Ok(Starting { child })
    }

    /// Waits until the daemon is ready and gives its process number.
    ///
    /// # Errors
    /// The daemon's own error, or [`Kind::Internal`] if it ended without giving one.
    pub fn wait_ready(mut self) -> Result<u32> {
        let pipe = self.child.stdout.take().expect("standard output is piped");
        let lines = BufReader::new(io::Read::take(pipe, MAX_MESSAGE)).lines();
        for line in lines {
            let line = line.map_err(|error| Error::io("waiting for the daemon", error))?;
            match serde_json::from_str(&line) {
                Ok(Message::Ready) => return Ok(self.child.id()),
                Ok(Message::Error {
                    kind,
                    message,
                    hint,
                }) => {
                    // It is about to end; what it ended with has been said.
                    let _ = self.child.wait();
                    let error = Error::new(kind_named(&kind), message);
                    return Err(match hint {
                        Some(hint) => error.with_hint(hint),
                        None => error,
                    });
                }
                // Printed before the child took the pipe.
                Err(_) => {}
            }
        }
        // The pipe is closed, so it is ending; if not, nobody would ever hear of it.
        let ending = Watched::new(self.child.id());
        if !ending.is_none_or(|it| it.wait(END_PATIENCE).unwrap_or(false)) {
            let _ = self.child.kill();
        }
        let status = self.child.wait();
        let status = status.map_or_else(|error| error.to_string(), |it| it.to_string());
        Err(Error::internal(format!(
            "daemon ended before it was ready ({status})"
        )))
    }
}

// === impl Readiness ===

impl Readiness {
    /// In the child, before anything is printed: takes the pipe off standard output and begins a
    /// session. `log` is where messages go once it is ready; nowhere if there is none.
    ///
    /// # Errors
    /// [`Kind::Io`] if the log file cannot be opened; the parent has been told.
    pub fn take(log: Option<&Path>) -> Result<Readiness> {
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = null.map_err(|error| Error::io("/dev/null", error))?;
        let parent = take_stdout(&null).map_err(|error| Error::io("standard output", error))?;
        // Refused only to the leader of a group, who has been started by hand and needs none.
        let _ = setsid();
        let opened = match log {
            Some(path) => open_log(path),
            None => Ok(null),
        };
        match opened {
            Ok(log) => Ok(Readiness { parent, log }),
            Err(error) => {
                Message::error(&error).send(parent)?;
                Err(error)
            }
        }
    }

    /// Tells the parent that all is well, and sends further messages to the log.
    ///
    /// # Errors
    /// [`Kind::Io`] if the parent is gone: the user has given up, so the daemon should too.
    pub fn ready(self) -> Result<()> {
        Message::Ready.send(self.parent)?;
        let redirected = dup2_stdin(File::open("/dev/null").map_err(null_error)?)
            .and_then(|()| dup2_stderr(self.log.as_fd()));
        redirected.map_err(|errno| Error::io("standard error to the log", errno.into()))
    }

    /// Tells the parent why there will be no daemon.
    ///
    /// # Errors
    /// [`Kind::Io`] if the parent is gone.
    pub fn failed(self, error: &Error) -> Result<()> {
        Message::error(error).send(self.parent)
    }
}

// === impl Message ===

impl Message {
    fn error(error: &Error) -> Message {
        Message::Error {
            kind: error.kind().as_str().to_owned(),
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
        }
    }

    fn send(&self, mut pipe: File) -> Result<()> {
        let message = serde_json::to_string(self)
            .map_err(|error| Error::internal("daemon message").with_source(error))?;
        // A line of its own, even after something that was printed before without a line end.
        let line = format!("\n{message}\n");
        pipe.write_all(line.as_bytes())
            .map_err(|error| Error::io("the process that started this daemon is gone", error))
    }
}

/// Duplicates standard output and puts `null` in its place.
fn take_stdout(null: &File) -> io::Result<File> {
    let pipe: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
    dup2_stdout(null)?;
    Ok(pipe.into())
}

fn open_log(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| Error::io(format!("log file {}", path.display()), error))
}

fn null_error(error: io::Error) -> Error {
    Error::io("/dev/null", error)
}

fn kind_named(name: &str) -> Kind {
    const KINDS: [Kind; 9] = [
        Kind::Unavailable,
        Kind::Denied,
        Kind::Invalid,
        Kind::Corrupt,
        Kind::NotFound,
        Kind::Busy,
        Kind::Unsupported,
        Kind::Io,
        Kind::Internal,
    ];
    let found = { KINDS.into_iter() }.find(|kind| kind.as_str() == name);
    found.unwrap_or(Kind::Internal)
}

/// What is read from a daemon that does not become ready.
const MAX_MESSAGE: u64 = 1 << 20;
/// How long a daemon may take to end after it has closed the pipe.
const END_PATIENCE: Duration = Duration::from_secs(5);
