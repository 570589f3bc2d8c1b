//! What systemd hands to a service and wants to hear from it: sockets it listens on, readiness.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd, RawFd},
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram, UnixListener},
        },
    },
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{AddressFamily, SockaddrLike as _, UnixAddr, getsockname},
};

use crate::error::{Error, Result};

/// Variables of `sd_listen_fds(3)` and `sd_notify(3)`.
#[derive(Clone, Copy, Debug)]
pub struct Environment<'a> {
    /// `LISTEN_PID`
    pub listen_pid: Option<&'a OsStr>,
    /// `LISTEN_FDS`
    pub listen_fds: Option<&'a OsStr>,
    /// `NOTIFY_SOCKET`
    pub notify_socket: Option<&'a OsStr>,
}

/// The first descriptor that systemd passes.
const FIRST: RawFd = 3;

/// The one socket that systemd listens on for this process, if there is one. Call it once, before
/// anything else opens descriptors.
///
/// # Errors
/// [`Kind::Invalid`](crate::Kind::Invalid) if there are several, or it is not a Unix socket.
pub fn inherited_listener(environment: Environment<'_>, pid: u32) -> Result<Option<UnixListener>> {
    let number = |text: Option<&OsStr>| text?.to_str()?.parse::<u32>().ok();
    if number(environment.listen_pid) != Some(pid) {
        return Ok(None);
    }
    match number(environment.listen_fds) {
        None | Some(0) => return Ok(None),
        Some(1) => {}
        Some(more) => {
            return Err(Error::invalid(format!(
                "systemd passes {more} sockets: want one"
            )));
        }
    }
    let what = |e: nix::Error| Error::io("socket passed by systemd", e.into());
    let address = getsockname::<UnixAddr>(FIRST);
    if address.is_err() || address.is_ok_and(|it| it.family() != Some(AddressFamily::Unix)) {
        return Err(Error::invalid("what systemd passes is not a Unix socket"));
    }
    // SAFETY: LISTEN_PID names this process, so descriptor 3 was opened by systemd for it and belongs
    // to nobody else here; getsockname has shown that it is open.
    let descriptor = unsafe { OwnedFd::from_raw_fd(FIRST) };
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(what)?;
    Ok(Some(descriptor.into()))
}

/// Tells systemd `state` (`READY=1`, `STOPPING=1`), if it listens.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io).
pub fn notify(environment: Environment<'_>, state: &str) -> Result<()> {
    let Some(path) = environment.notify_socket.filter(|it| !it.is_empty()) else {
        return Ok(());
    };
    let send = || -> io::Result<()> {
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
        Ok(())
    };
    send().map_err(|e| Error::io("telling systemd", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Environment<'_> = Environment {
        listen_pid: None,
        listen_fds: None,
        notify_socket: None,
    };

    #[test]
    fn sockets_for_others_are_left_alone() {
        let of = |pid: &'static str, fds: &'static str| Environment {
            listen_pid: Some(pid.as_ref()),
            listen_fds: Some(fds.as_ref()),
            ..NONE
        };
        assert!(inherited_listener(NONE, 7).unwrap().is_none());
        assert!(inherited_listener(of("8", "1"), 7).unwrap().is_none());
        assert!(inherited_listener(of("7", "0"), 7).unwrap().is_none());
        assert!(inherited_listener(of("7", "2"), 7).is_err());
    }

    #[test]
    fn readiness_arrives() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let environment = Environment {
            notify_socket: Some(path.as_os_str()),
            ..NONE
        };
        notify(environment, "READY=1").unwrap();
        let mut buffer = [0; 16];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        notify(NONE, "READY=1").unwrap();
    }
}
