//! Descriptors on their way between processes and places: passed over sockets, put in another's
//! place, closed by number.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    recvmsg, sendmsg, sendmsg_addr, socket_with, socketpair,
};

/// What came in one packet.
#[derive(Debug)]
pub struct Received {
    /// How many bytes of the buffer are the packet; 0 if the other end is closed.
    pub length: usize,
    /// Descriptors that came along, closed in programs that this one starts.
    pub descriptors: Vec<OwnedFd>,
    /// Bytes or descriptors were more than fit.
    pub truncated: bool,
}

/// Descriptors that one packet may bring; more are not received.
const MAX_DESCRIPTORS: usize = 8;

/// Two connected ends of a socket that keeps packets apart.
///
/// # Errors
/// What the system says.
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// A Unix socket that keeps packets apart, not connected yet.
///
/// # Errors
/// What the system says.
pub fn packet_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// Sends one packet with at most one descriptor.
///
/// # Errors
/// What the system says; `BrokenPipe` if the other end is closed.
pub fn send(
    socket: impl AsFd,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
    wait: bool,
) -> io::Result<()> {
    let flags = match wait {
        true => SendFlags::NOSIGNAL,
        false => SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    };
    let bytes = [IoSlice::new(bytes)];
    with_rights(descriptor, |rights| {
        Ok(sendmsg(socket.as_fd(), &bytes, rights, flags).map(drop)?)
    })
}

/// Sends a datagram with at most one descriptor to the socket at `address`.
///
/// # Errors
/// What the system says.
pub fn send_datagram(
    address: &SocketAddrUnix,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    let bytes = [IoSlice::new(bytes)];
    with_rights(descriptor, |rights| {
        Ok(sendmsg_addr(&socket, address, &bytes, rights, SendFlags::NOSIGNAL).map(drop)?)
    })
}

/// Receives one packet.
///
/// # Errors
/// What the system says; `WouldBlock` if there is none and it should not `wait`.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], wait: bool) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    if !wait {
        flags |= RecvFlags::DONTWAIT;
    }
    let got = loop {
        let into = &mut [IoSliceMut::new(buffer)];
        match recvmsg(socket.as_fd(), into, &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
    Ok(Received {
        length: got.bytes.min(buffer.len()),
        descriptors,
        truncated: got.flags.intersects(cut),
    })
}

/// Waits until one of `wanted` is true of the descriptor, or the other end is gone or broken; `false`
/// if that is not so within `timeout` (`None`: however long it takes).
///
/// # Errors
/// What the system says.
pub fn wait_for(
    descriptor: impl AsFd,
    wanted: PollFlags,
    timeout: Option<Duration>,
) -> io::Result<bool> {
    let timeout = match timeout {
        Some(timeout) => PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX),
        None => PollTimeout::NONE,
    };
    loop {
        let mut polled = [PollFd::new(descriptor.as_fd(), wanted)];
        match poll(&mut polled, timeout) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the other end of a descriptor is gone: of `/dev/fuse`, the file system.
pub fn is_dead(descriptor: impl AsFd) -> bool {
    wait_for(descriptor, PollFlags::empty(), Some(Duration::ZERO)).unwrap_or(false)
}

/// Puts what `by` refers to in the place of what `place` refers to, whoever owns that descriptor.
///
/// # Errors
/// What the system says; nothing has changed then.
pub fn replace(place: BorrowedFd<'_>, by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both are open, as they are borrowed. The number `place` stays open throughout, since
    // dup3 replaces it in one step, so its owner still owns an open descriptor.
    let done = unsafe { libc::dup3(by.as_raw_fd(), place.as_raw_fd(), libc::O_CLOEXEC) };
    Errno::result(done).map(drop).map_err(io::Error::from)
}

/// Closes all descriptors from number `first` on. For a program that has just been started and has
/// opened none of them itself: what it inherited, it does not know.
///
/// # Errors
/// What the system says; `Unsupported` before Linux 5.9.
pub fn close_inherited(first: RawFd) -> io::Result<()> {
    let first =
        libc::c_uint::try_from(first).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: close_range takes no pointers. The caller has opened no descriptor from `first` on, so
    // none that is closed has an owner in this process.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    Errno::result(done).map(drop).map_err(io::Error::from)
}

fn with_rights(
    descriptor: Option<BorrowedFd<'_>>,
    send: impl FnOnce(&mut SendAncillaryBuffer<'_, '_, '_>) -> io::Result<()>,
) -> io::Result<()> {
    let Some(descriptor) = descriptor else {
        return send(&mut SendAncillaryBuffer::default());
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let passed = [descriptor];
    if !rights.push(SendAncillaryMessage::ScmRights(&passed)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    send(&mut rights)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Seek as _, Write as _},
    };

    use super::*;

    #[test]
    fn packets_keep_apart_and_bring_descriptors() {
        let (here, there) = packet_pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        send(&here, b"one", None, true).unwrap();
        send(&here, b"two", Some(file.as_fd()), true).unwrap();
        let mut buffer = [0; 16];
        let first = receive(&there, &mut buffer, true).unwrap();
        assert_eq!(
            (&buffer[..first.length], first.descriptors.len()),
            (&b"one"[..], 0)
        );
        let second = receive(&there, &mut buffer, true).unwrap();
        assert_eq!(&buffer[..second.length], b"two");
        let [passed] = <[OwnedFd; 1]>::try_from(second.descriptors).unwrap();
        let mut passed = File::from(passed);
        passed.rewind().unwrap();
        let mut text = String::new();
        passed.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");

        send(&here, &[7; 40], None, true).unwrap();
        assert!(receive(&there, &mut buffer, true).unwrap().truncated);
        let nothing = receive(&there, &mut buffer, false).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        assert!(!is_dead(&there));
        drop(here);
        assert!(is_dead(&there));
        assert_eq!(receive(&there, &mut buffer, true).unwrap().length, 0);
        let gone = send(&there, b"x", None, true).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_descriptor_takes_the_place_of_another() {
        let (here, there) = packet_pair().unwrap();
        let (other, _its_end) = packet_pair().unwrap();
        replace(other.as_fd(), here.as_fd()).unwrap();
        drop(here);
        send(&other, b"x", None, true).unwrap();
        let mut buffer = [0; 4];
        assert_eq!(receive(&there, &mut buffer, true).unwrap().length, 1);
    }
}
