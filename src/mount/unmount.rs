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
        listed(&overlays(&place))
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
                // A mount point is no link, and may have nobody who would say so.
                let mounted = mountinfo::at(&place).is_ok_and(|mount| mount.is_some());
                let link = || fs::symlink_metadata(&place).is_ok_and(|it| it.is_symlink());
                if !mounted && link() {
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
    let shown = place.display();
    let source = mount.source.display();
    let users = users(place).join(", ");
    let overlays = listed(&overlays(place));
    let message = format!("{shown} ({source}) is in use by {users}{overlays}");
    Error::new(Kind::Busy, message).with_hint(format!(
        "end them, or take the mount out of sight with: nacre umount --lazy {shown}"
    ))
}

/// Processes that use something below `place`, some of them.
pub(super) fn users(place: &Path) -> Vec<String> {
    let users: Vec<String> = processes::users_of(place)
        .iter()
        .take(SHOWN_USERS)
        .map(|User { pid, command, how }| format!("{command} (process {pid}, {how})"))
        .collect();
    if users.is_empty() {
        vec!["something that is not in this process' sight".to_owned()]
    } else {
        users
    }
}

/// Overlays that have `place` as a layer.
pub(super) fn overlays(place: &Path) -> Vec<String> {
    let mounts = mountinfo::read().unwrap_or_default();
    // Those with many layers are mounted with relative names, which then are of this form.
    let is_place = |it: &Path| {
        it.starts_with(place) || it.is_relative() && it.file_name() == place.file_name()
    };
    let uses = |mount: &&MountEntry| {
        let mut parts = mount.options.split([',', ':', '=']);
        mount.kind == "overlay" && parts.any(|it| is_place(Path::new(it)))
    };
    { mounts.iter() }
        .filter(uses)
        .map(|mount| format!("overlay at {}", mount.mount_point.display()))
        .collect()
}

/// As the end of a sentence.
fn listed(overlays: &[String]) -> String {
    let overlays = overlays.iter().map(|it| format!("; {it}"));
    overlays.collect()
}

/// Users that are named when a mount is busy.
const SHOWN_USERS: usize = 8;
const LOOK_AGAIN: Duration = Duration::from_millis(20);
