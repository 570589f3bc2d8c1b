//! FUSE sessions in background threads: begun, taken over from another process, and their end.
//!
//! The kernel shakes hands once in the life of a file system; a `fuser` session does it at its
//! beginning, always. So a session that takes over is begun on one end of a socket pair, where it finds
//! the same handshake as the first session found, and is then given the file system's descriptor in the
//! socket's place.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use fuser::{Filesystem, InitFlags, Session, SessionACL};
use nix::poll::PollFlags;
use tokio::sync::Notify;

use super::{Descriptor, MountOptions, kernel};
use crate::error::{Error, Result};
use crate::fuse::Handshake;
use crate::sys::{descriptors, processes};

/// Set when the session's threads have ended: the file system is gone from the kernel.
#[derive(Debug, Default)]
pub(super) struct SessionEnd {
    ended: Mutex<Option<Result<(), String>>>,
    changed: Condvar,
    pub(super) notify: Notify,
    when_gone: Mutex<Option<WhenGone>>,
}

/// What is done when a file system is gone.
struct WhenGone(Box<dyn FnOnce() + Send>);

/// Serves in background threads; `end` hears of their end.
pub(super) fn serve<F>(session: Session<F>, end: &Arc<SessionEnd>) -> Result<()>
where
    F: Filesystem + Send + Sync + 'static,
{
    let end = Arc::clone(end);
    let thread = thread::Builder::new().name("fuse-session".to_owned());
    let file = session.as_fd().try_clone_to_owned();
    let started = thread.spawn(move || {
        let result = match session.run() {
            // Unmounted before all its threads had begun, which is what they then fail with.
            Err(_) if file.is_ok_and(descriptors::is_dead) => Ok(()),
            result => result,
        };
        end.set(result.map_err(|error| error.to_string()));
    });
    match started {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::io("thread of the FUSE session", error)),
    }
}

/// A session on file system 0:`minor` that another process made and served; `what` is what errors call
/// it. Nothing is answered yet. What the former process had read and not answered is asked again, if
/// the kernel can do that.
///
/// # Errors
/// `NotFound` if that file system is gone, `Invalid` if the descriptor is another's, `Io` if the kernel
/// refuses.
pub(super) fn take_over<F: Filesystem>(
    filesystem: F,
    descriptor: Descriptor,
    minor: u32,
    what: &str,
    options: &MountOptions,
) -> Result<Session<F>> {
    let Descriptor { file, handshake } = descriptor;
    if descriptors::is_dead(&file) {
        return Err(Error::not_found(format!(
            "{what}: file system 0:{minor} is gone"
        )));
    }
    // Kernels that do not tell are believed.
    if processes::own_connection(file.as_fd()).is_some_and(|it| it != minor) {
        let message = format!("{what}: descriptor is not one of file system 0:{minor}");
        return Err(Error::invalid(message));
    }
    let session = greeted(filesystem, file.as_fd(), handshake, options)
        .map_err(|error| Error::io(format!("taking over {what}"), error))?;
    if handshake.flags & InitFlags::FUSE_HAS_RESEND.bits() != 0 {
        let asked = kernel::resend(file.as_fd());
        asked.map_err(|error| Error::io(format!("asking for requests of {what}"), error))?;
    } else {
        tracing::warn!(
            directory = what,
            "this kernel does not ask again what the former daemon did not answer"
        );
    }
    Ok(session)
}

/// A session that has shaken hands with us as the kernel once did, and now talks to the kernel.
fn greeted<F: Filesystem>(
    filesystem: F,
    file: BorrowedFd<'_>,
    handshake: Handshake,
    options: &MountOptions,
) -> io::Result<Session<F>> {
    let (ours, theirs) = descriptors::packet_pair()?;
    descriptors::send(&ours, &greeting(handshake), None, false)?;
    let config = options.session_config();
    let session = Session::from_fd(filesystem, theirs, SessionACL::All, config)?;
    // The kernel has had its answer; this one says nothing new.
    if !descriptors::wait_for(&ours, PollFlags::POLLIN, Some(Duration::ZERO))? {
        return Err(io::Error::other("no answer to the handshake"));
    }
    descriptors::replace(session.as_fd(), file)?;
    Ok(session)
}

/// `FUSE_INIT` as the kernel sends it: fuse_in_header, fuse_init_in.
fn greeting(handshake: Handshake) -> Vec<u8> {
    const LENGTH: u32 = 104;
    const INIT: u32 = 26;
    const MAJOR: u32 = 7;
    const READ_AHEAD: u32 = 128 << 10;
    let flags = handshake.flags | InitFlags::FUSE_INIT_EXT.bits();
    let mut packet = Vec::with_capacity(LENGTH as usize);
    for word in [LENGTH, INIT] {
        packet.extend_from_slice(&word.to_ne_bytes());
    }
    // Number of the request, inode; user, group, process, extensions.
    packet.extend_from_slice(&1_u64.to_ne_bytes());
    packet.resize(40, 0);
    for word in [MAJOR, handshake.minor, READ_AHEAD] {
        packet.extend_from_slice(&word.to_ne_bytes());
    }
    let halves = [flags & u64::from(u32::MAX), flags >> 32];
    for half in halves {
        let half = u32::try_from(half).unwrap_or_default();
        packet.extend_from_slice(&half.to_ne_bytes());
    }
    packet.resize(LENGTH as usize, 0);
    packet
}

// === impl SessionEnd ===

impl SessionEnd {
    fn set(&self, result: Result<(), String>) {
        let gone = result.is_ok();
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.changed.notify_all();
        self.notify.notify_waiters();
        let what = self.waiting().take();
        if let (true, Some(WhenGone(what))) = (gone, what) {
            what();
        }
    }

    /// Does `what` when the file system is gone from the kernel, at once if it is. Not when the session
    /// ends because of an error.
    pub(super) fn when_gone(&self, what: impl FnOnce() + Send + 'static) {
        let mut waiting = self.waiting();
        match self.result() {
            None => *waiting = Some(WhenGone(Box::new(what))),
            Some(Ok(())) => {
                drop(waiting);
                what();
            }
            Some(Err(_)) => {}
        }
    }

    pub(super) fn result(&self) -> Option<Result<(), String>> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.clone()
    }

    /// Whether it has ended, after at most `patience`.
    pub(super) fn wait(&self, patience: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(ended, patience, |ended| ended.is_none());
        let (ended, _) = waited.unwrap_or_else(PoisonError::into_inner);
        ended.is_some()
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Option<WhenGone>> {
        let waiting = self.when_gone.lock();
        waiting.unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for WhenGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WhenGone")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::{Shown, TreeFilesystem};

    #[test]
    fn the_greeting_is_what_the_kernel_sends() {
        let handshake = Handshake {
            minor: 45,
            flags: InitFlags::FUSE_HAS_RESEND.bits() | InitFlags::FUSE_NO_OPEN_SUPPORT.bits(),
        };
        let packet = greeting(handshake);
        let word = |at: usize| u32::from_ne_bytes(packet[at..at + 4].try_into().unwrap());
        assert_eq!(packet.len(), 104);
        assert_eq!([word(0), word(4)], [104, 26]);
        assert_eq!([word(40), word(44)], [7, 45]);
        assert_eq!(word(52), 1 << 30 | 1 << 17);
        assert_eq!(word(56), 1 << (39 - 32));
    }

    #[test]
    fn a_session_begins_with_the_first_handshake_and_then_talks_to_another() {
        let handshake = Handshake {
            minor: 45,
            flags: InitFlags::FUSE_NO_OPEN_SUPPORT.bits(),
        };
        let shown = Arc::<Shown>::default();
        let options = MountOptions::new("image");
        let filesystem = TreeFilesystem::showing(shown, "image", options.reads.clone());
        let agreed = filesystem.handshake();
        let (kernel, session_end) = descriptors::packet_pair().unwrap();
        let session = greeted(filesystem, session_end.as_fd(), handshake, &options).unwrap();
        assert_eq!(agreed.get(), Some(&handshake));
        descriptors::send(&session, b"x", None, false).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(
            descriptors::receive(&kernel, &mut buffer, false)
                .unwrap()
                .length,
            1
        );
    }
}
