//! Serving a mount on that another process made and served.
//!
//! The kernel shakes hands once in the life of a file system; a `fuser` session does it at its
//! beginning, always. So the session is begun on one end of a socket pair, where it finds the same
//! handshake as the first session found, and is then given the file system's descriptor in the
//! socket's place.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{InitFlags, Session, SessionACL};
use nix::poll::PollFlags;

use super::{Descriptor, MountOptions, Mounted, kernel};
use crate::engine::ReadFile;
use crate::error::{Error, Kind, Result};
use crate::fuse::{Handshake, Shown, TreeFilesystem};
use crate::sys::{descriptors, mountinfo, processes};
use crate::tree::Tree;

/// A mount of another process that this one serves, or will: until it is [shown](Adopted::show) a
/// tree or [fails](Adopted::fail), requests wait in the kernel. Dropping it leaves the mount in place
/// if the options hand it over again.
#[derive(Debug)]
pub struct Adopted {
    mounted: Mounted,
    shown: Arc<Shown>,
    waiting: Mutex<Option<Session<TreeFilesystem>>>,
}

/// Takes over the mount at `directory`, whose file system has device number 0:`minor`. What its
/// former process had read and not answered is asked again, if the kernel can do that.
///
/// # Errors
/// `NotFound` if that file system is not mounted there, `Invalid` if the descriptor is another's, `Io`
/// if the kernel refuses.
pub fn adopt(
    descriptor: Descriptor,
    directory: &Path,
    minor: u32,
    options: &MountOptions,
) -> Result<Adopted> {
    let Descriptor { file, handshake } = descriptor;
    let shown = directory.display();
    let top = mountinfo::at(directory)?;
    let device = (0, minor);
    if descriptors::is_dead(&file)
        || !top.is_some_and(|it| it.kind == kernel::MOUNT_TYPE && it.device == device)
    {
        let message = format!("{shown}: file system 0:{minor} is not mounted there");
        return Err(Error::not_found(message));
    }
    // Kernels that do not tell are believed.
    if processes::own_connection(file.as_fd()).is_some_and(|it| it != minor) {
        let message = format!("{shown}: descriptor is not one of file system 0:{minor}");
        return Err(Error::invalid(message));
    }
    let content = Arc::<Shown>::default();
    let name = options.reference.clone();
    let filesystem = TreeFilesystem::showing(Arc::clone(&content), name, options.reads.clone());
    let filesystem = filesystem.for_hand_over();
    let session = session_on(filesystem, file.as_fd(), handshake, options)
        .map_err(|error| Error::io(format!("taking over {shown}"), error))?;
    if handshake.flags & InitFlags::FUSE_HAS_RESEND.bits() != 0 {
        let asked = kernel::resend(file.as_fd());
        asked.map_err(|error| Error::io(format!("asking for requests of {shown}"), error))?;
    } else {
        tracing::warn!(
            directory = %shown,
            "this kernel does not ask again what the former daemon did not answer"
        );
    }
    let mounted = Mounted {
        directory: directory.to_owned(),
        device,
        session: Arc::default(),
        open: true,
        stays: options.hand_over,
        descriptor: None,
    };
    Ok(Adopted {
        mounted,
        shown: content,
        waiting: Mutex::new(Some(session)),
    })
}

/// A session that has shaken hands with us as the kernel once did, and now talks to the kernel.
fn session_on(
    filesystem: TreeFilesystem,
    file: BorrowedFd<'_>,
    handshake: Handshake,
    options: &MountOptions,
) -> io::Result<Session<TreeFilesystem>> {
    let (ours, theirs) = descriptors::packet_pair()?;
    descriptors::send(&ours, &greeting(handshake), None, false)?;
    let config = options.session_config();
    let session = Session::from_fd(filesystem, theirs, SessionACL::All, config)?;
    // The kernel has had its answer; this one says nothing new.
    if !descriptors::wait_for(&ours, PollFlags::POLLIN, Some(std::time::Duration::ZERO))? {
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

// === impl Adopted ===

impl Adopted {
    /// Shows a tree, which must be the one that was shown before, and answers what waits.
    ///
    /// # Errors
    /// [`Kind::Io`] if there is no thread to serve it.
    pub fn show(&self, tree: Arc<Tree>, reader: Arc<dyn ReadFile>) -> Result<()> {
        self.shown.show(tree, reader);
        self.serve()
    }

    /// Answers everything with EIO until there is a tree to show; `why` is what the log says.
    ///
    /// # Errors
    /// [`Kind::Io`] if there is no thread to serve it.
    pub fn fail(&self, why: Error) -> Result<()> {
        self.shown.missing(why);
        self.serve()
    }

    /// Whether it shows a tree.
    #[must_use]
    pub fn shows(&self) -> bool {
        self.shown.is_set()
    }

    /// The mount.
    #[must_use]
    pub fn mounted(&self) -> &Mounted {
        &self.mounted
    }

    /// As [`Mounted::take_away`].
    ///
    /// # Errors
    /// As [`Mounted::take_away`].
    pub fn take_away(self) -> Result<()> {
        // Only a session that runs learns that its file system is gone.
        self.fail(Error::new(Kind::Unavailable, "is being unmounted"))?;
        self.mounted.take_away()
    }

    fn serve(&self) -> Result<()> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.take() {
            Some(session) => self.mounted.serve_in_background(session),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let session = session_on(filesystem, session_end.as_fd(), handshake, &options).unwrap();
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
