//! What systemd hands to a service and wants to hear from it: sockets it listens on, descriptors it
//! stores, readiness (sd_listen_fds(3), sd_notify(3)).

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::{ffi::OsStrExt as _, net::UnixListener},
    },
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    poll::PollFlags,
    sys::socket::{
        AddressFamily, SockaddrLike as _, UnixAddr, getsockname, getsockopt, sockopt::AcceptConn,
    },
};
use rustix::net::SocketAddrUnix;

use super::descriptors;
use crate::error::{Error, Result};

/// Variables of `sd_listen_fds(3)` and `sd_notify(3)`.
#[derive(Clone, Copy, Debug)]
pub struct Environment<'a> {
    /// `LISTEN_PID`
    pub listen_pid: Option<&'a OsStr>,
    /// `LISTEN_FDS`
    pub listen_fds: Option<&'a OsStr>,
    /// `LISTEN_FDNAMES`
    pub listen_fdnames: Option<&'a OsStr>,
    /// `NOTIFY_SOCKET`
    pub notify_socket: Option<&'a OsStr>,
}

/// What systemd passed to this process.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The socket that it listens on.
    pub listener: Option<UnixListener>,
    /// What an earlier process had it store, by name.
    pub stored: Vec<(String, OwnedFd)>,
}

/// The first descriptor that systemd passes.
const FIRST: RawFd = 3;
/// More than any unit would store.
const MAX: u32 = 1 << 16;

// === impl Inherited ===

impl Inherited {
    /// Takes what systemd passed. Call it once, before anything else opens descriptors.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) if there are several listening sockets, or something
    /// that is neither one nor stored.
    pub fn take(environment: Environment<'_>, pid: u32) -> Result<Self> {
        let numbers = (FIRST..).zip(names(environment, pid)?);
        let taken = numbers.map(|(number, name)| {
            // SAFETY: LISTEN_PID names this process, so this number was opened by systemd for it and
            // belongs to nobody else here; of one that is not open nothing is made.
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
                .map_err(|e| Error::io("descriptor passed by systemd", e.into()))?;
            // SAFETY: as above, and fcntl has shown that it is open.
            Ok((name, unsafe { OwnedFd::from_raw_fd(number) }))
        });
        Self::sort(taken.collect::<Result<Vec<_>>>()?)
    }

    /// Tells sockets from what was stored.
    fn sort(passed: Vec<(Option<String>, OwnedFd)>) -> Result<Self> {
        let mut inherited = Self::default();
        for (name, descriptor) in passed {
            let listens = getsockopt(&descriptor, AcceptConn).unwrap_or(false);
            match (listens, name) {
                (true, _) if inherited.listener.is_some() => {
                    return Err(Error::invalid("systemd passes several sockets: want one"));
                }
                (true, _) if is_unix(&descriptor) => inherited.listener = Some(descriptor.into()),
                (false, Some(name)) => inherited.stored.push((name, descriptor)),
                _ => return Err(Error::invalid("what systemd passes is not a Unix socket")),
            }
        }
        Ok(inherited)
    }
}

/// A name for each descriptor that systemd passes to process `pid`, if it names them.
fn names(environment: Environment<'_>, pid: u32) -> Result<Vec<Option<String>>> {
    let number = |text: Option<&OsStr>| text?.to_str()?.parse::<u32>().ok();
    if number(environment.listen_pid) != Some(pid) {
        return Ok(Vec::new());
    }
    let count = number(environment.listen_fds).unwrap_or(0);
    if count > MAX {
        return Err(Error::invalid(format!(
            "systemd passes {count} descriptors"
        )));
    }
    let given = environment.listen_fdnames.map(OsStr::to_string_lossy);
    let mut given = given.as_deref().map(|names| names.split(':'));
    let name = |_| given.as_mut()?.next().map(str::to_owned);
    Ok((0..count).map(name).collect())
}

/// Tells systemd `state` (`READY=1`, `STOPPING=1`), if it listens.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io).
pub fn notify(environment: Environment<'_>, state: &str) -> Result<()> {
    match environment.notify_socket.filter(|it| !it.is_empty()) {
        Some(socket) => tell(socket, state, None),
        None => Ok(()),
    }
}

/// Has systemd store a descriptor under `name`, in which no colon may be.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io). That the unit does not allow it is not said.
pub fn store(socket: &OsStr, name: &str, descriptor: BorrowedFd<'_>) -> Result<()> {
    // Without FDPOLL=0 the manager would be woken by each request of a FUSE file system.
    let state = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
    tell(socket, &state, Some(descriptor))
}

/// Has systemd close what it stores under `name`.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io).
pub fn forget(socket: &OsStr, name: &str) -> Result<()> {
    tell(socket, &format!("FDSTOREREMOVE=1\nFDNAME={name}"), None)
}

/// Waits until systemd has done all that it was told; `false` if it has not within `timeout`, as one
/// before version 246.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io).
pub fn barrier(socket: &OsStr, timeout: Duration) -> Result<bool> {
    let (waiting, passed) = io::pipe().map_err(|e| Error::io("pipe", e))?;
    tell(socket, "BARRIER=1", Some(passed.as_fd()))?;
    drop(passed);
    descriptors::wait_for(&waiting, PollFlags::empty(), Some(timeout))
        .map_err(|e| Error::io("waiting for systemd", e))
}

fn tell(socket: &OsStr, state: &str, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
    let send = || -> io::Result<()> {
        let address = match socket.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            path => SocketAddrUnix::new(path)?,
        };
        descriptors::send_datagram(&address, state.as_bytes(), descriptor)
    };
    send().map_err(|e| Error::io("telling systemd", e))
}

fn is_unix(descriptor: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd as _;
    let address = getsockname::<UnixAddr>(descriptor.as_raw_fd());
    address.is_ok_and(|it| it.family() == Some(AddressFamily::Unix))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    const NONE: Environment<'_> = Environment {
        listen_pid: None,
        listen_fds: None,
        listen_fdnames: None,
        notify_socket: None,
    };

    fn of(
        pid: &'static str,
        fds: &'static str,
        names: Option<&'static str>,
    ) -> Environment<'static> {
        Environment {
            listen_pid: Some(pid.as_ref()),
            listen_fds: Some(fds.as_ref()),
            listen_fdnames: names.map(AsRef::as_ref),
            ..NONE
        }
    }

    #[test]
    fn descriptors_for_others_are_left_alone_and_ours_have_their_names() {
        assert!(names(NONE, 7).unwrap().is_empty());
        assert!(names(of("8", "1", None), 7).unwrap().is_empty());
        assert!(names(of("7", "0", None), 7).unwrap().is_empty());
        assert!(names(of("7", "4000000000", None), 7).is_err());
        assert_eq!(names(of("7", "2", None), 7).unwrap(), [None, None]);
        let found = names(of("7", "3", Some("nacre.socket:nacre.1")), 7).unwrap();
        let text = |it: &str| Some(it.to_owned());
        assert_eq!(found, [text("nacre.socket"), text("nacre.1"), None]);
    }

    #[test]
    fn sockets_are_told_from_what_was_stored() {
        let directory = tempfile::tempdir().unwrap();
        let listener = |name: &str| -> OwnedFd {
            UnixListener::bind(directory.path().join(name))
                .unwrap()
                .into()
        };
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        let passed = vec![
            (Some("s".to_owned()), listener("a")),
            (Some("stored".to_owned()), file()),
        ];
        let inherited = Inherited::sort(passed).unwrap();
        assert!(inherited.listener.is_some());
        assert_eq!(inherited.stored[0].0, "stored");

        let two = vec![(None, listener("b")), (None, listener("c"))];
        assert!(Inherited::sort(two).is_err());
        assert!(Inherited::sort(vec![(None, file())]).is_err());
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(Inherited::sort(vec![(Some("s".into()), tcp.into())]).is_err());
    }

    #[test]
    fn what_is_told_arrives_with_its_descriptor() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let environment = Environment {
            notify_socket: Some(path.as_os_str()),
            ..NONE
        };
        notify(environment, "READY=1").unwrap();
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        notify(NONE, "READY=1").unwrap();

        let file = tempfile::tempfile().unwrap();
        store(path.as_os_str(), "name", file.as_fd()).unwrap();
        let got = descriptors::receive(&socket, &mut buffer, true).unwrap();
        assert_eq!(&buffer[..got.length], b"FDSTORE=1\nFDNAME=name\nFDPOLL=0");
        assert_eq!(got.descriptors.len(), 1);
    }

    #[test]
    fn a_barrier_waits_for_the_manager() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        assert!(!barrier(path.as_os_str(), Duration::from_millis(10)).unwrap());
        let manager = std::thread::spawn(move || {
            // The one that was not waited for, then the one that is.
            for _ in 0..2 {
                let mut buffer = [0; 16];
                let got = descriptors::receive(&socket, &mut buffer, true).unwrap();
                assert_eq!(&buffer[..got.length], b"BARRIER=1");
            }
        });
        assert!(barrier(path.as_os_str(), Duration::from_secs(60)).unwrap());
        manager.join().unwrap();
    }
}
