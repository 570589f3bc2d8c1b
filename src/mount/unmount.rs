//! `nacre umount`: takes away a mount that another process serves, or served before it died.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use super::front_end;
use super::kernel::{self, Detached};
use crate::error::{Error, Kind, Result};
use crate::sys::mountinfo::{self, MountEntry};
use crate::sys::processes::{self, Server, User, Watched};

/// How to take a mount away.
#[derive(Clone, Copy, Debug)]
pub struct UmountOptions {
    /// Takes it out of sight even if it is in use, and does not wait for its process.
    pub lazy: bool,
    /// How long the serving process may take to end.
    pub timeout: Duration,
}

/// Unmounts the image at `directory` and waits until the process that served it has ended (or, if
/// it serves other mounts as well, until it has let go of this one).
///
/// # Errors
/// `NotFound` if nothing is mounted there, `Invalid` if something else is, `Busy` naming the users
/// if it is in use or its process does not end in time.
pub fn umount(directory: &Path, options: UmountOptions) -> Result<()> {
    let place = place(directory)?;
    let shown = place.display();
    let Some(mount) = mountinfo::at(&place)? else {
        return Err(Error::not_found(format!("{shown} is not a mount point")));
    };
    let Some((_, connection)) = front_end::of(&mount) else {
        let source = mount.source.display();
        let message = format!(
            "{shown} is a mount of {} ({source}), not of nacre",
            mount.kind
        );
        return Err(Error::invalid(message).with_hint(format!("umount {shown}")));
    };
    let server = processes::server_of(connection, &place);
    let server = server.filter(|it| it.pid != std::process::id());
    // Before the unmount, so that the number cannot be another process' by then.
    let watched = server.as_ref().and_then(|it| Watched::new(it.pid));
    match kernel::detach(&place, options.lazy) {
        Ok(Detached::Clean) => {}
        Ok(Detached::Lazily) => return Ok(()),
        Err(error) if error.kind() == Kind::Busy => return Err(busy(&place, &mount)),
        Err(error) => return Err(error),
    }
    let (Some(server), Some(watched)) = (server, watched) else {
        return Ok(());
    };
    if options.lazy || has_let_go(&server, &watched, connection, options.timeout)? {
        return Ok(());
    }
    let message = format!(
        "{shown} is unmounted, but process {} still serves it after {:?}{}",
        server.pid,
        options.timeout,
        overlays(&place)
    );
    Err(Error::new(Kind::Busy, message)
        .with_hint("it ends when the last container or overlay that uses the image is gone"))
}

/// Absolute path of the place that `directory` names, without a look at what is mounted there: a
/// mount whose process has died answers nothing.
pub(super) fn place(directory: &Path) -> Result<PathBuf> {
    let resolved = match (directory.parent(), directory.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) => {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            parent.canonicalize().and_then(|parent| {
                let place = parent.join(name);
                let link = fs::symlink_metadata(&place).is_ok_and(|it| it.is_symlink());
                if link {
                    place.canonicalize()
                } else {
                    Ok(place)
                }
            })
        }
        _ => directory.canonicalize(),
    };
    resolved.map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let kind = if missing { Kind::NotFound } else { Kind::Io };
        Error::new(kind, directory.display().to_string()).with_source(error)
    })
}

/// Waits until `server` has ended, or serves only others.
fn has_let_go(server: &Server, watched: &Watched, minor: u32, timeout: Duration) -> Result<bool> {
    let serves_others = server.connections.iter().any(|&it| it != minor);
    if !serves_others {
        return watched.wait(timeout);
    }
    let end = Instant::now() + timeout;
    loop {
        let now = processes::server(server.pid);
        if now.is_none_or(|now| !now.connections.contains(&minor)) {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        // Nothing tells of a closed file in another process, so look again after a while.
        if watched.wait(LOOK_AGAIN)? {
            return Ok(true);
        }
    }
}

fn busy(place: &Path, mount: &MountEntry) -> Error {
    let users: Vec<String> = processes::users_of(place)
        .iter()
        .take(SHOWN_USERS)
        .map(|User { pid, command, how }| format!("{command} (process {pid}, {how})"))
        .collect();
    let users = if users.is_empty() {
        "something that is not in this process' sight".to_owned()
    } else {
        users.join(", ")
    };
    let shown = place.display();
    let source = mount.source.display();
    let message = format!("{shown} ({source}) is in use by {users}{}", overlays(place));
    Error::new(Kind::Busy, message).with_hint(format!(
        "end them, or take the mount out of sight with: nacre umount --lazy {shown}"
    ))
}

/// Overlays that have `place` as a layer, as the end of a sentence.
fn overlays(place: &Path) -> String {
    let place = place.display().to_string();
    let mounts = mountinfo::read().unwrap_or_default();
    let uses = |mount: &&MountEntry| {
        mount.kind == "overlay"
            && mount
                .options
                .split([',', ':', '='])
                .any(|it| Path::new(it).starts_with(&place))
    };
    let found: Vec<String> = { mounts.iter() }
        .filter(uses)
        .map(|mount| mount.mount_point.display().to_string())
        .collect();
    if found.is_empty() {
        String::new()
    } else {
        format!("; overlay at {}", found.join(", "))
    }
}

/// Users that are named when a mount is busy.
const SHOWN_USERS: usize = 8;
const LOOK_AGAIN: Duration = Duration::from_millis(20);
