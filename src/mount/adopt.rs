//! Serving a FUSE mount on that another process made and served.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use fuser::Session;

use super::session::{self, SessionEnd};
use super::{Descriptor, FrontEnd, MountOptions, Mounted, kernel};
use crate::engine::ReadFile;
use crate::error::{Error, Kind, Result};
use crate::fuse::{Shown, TreeFilesystem};
use crate::sys::mountinfo;
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
    let shown = directory.display().to_string();
    let top = mountinfo::at(directory)?;
    let device = (0, minor);
    if !top.is_some_and(|it| it.kind == kernel::MOUNT_TYPE && it.device == device) {
        let message = format!("{shown}: file system 0:{minor} is not mounted there");
        return Err(Error::not_found(message));
    }
    let content = Arc::<Shown>::default();
    let name = options.reference.clone();
    let filesystem = TreeFilesystem::showing(Arc::clone(&content), name, options.reads.clone());
    let filesystem = filesystem.for_hand_over();
    let session = session::take_over(filesystem, descriptor, minor, &shown, options)?;
    let mounted = Mounted {
        directory: directory.to_owned(),
        device,
        read_ahead: None,
        front_end: FrontEnd::Fuse,
        session: Arc::<SessionEnd>::default(),
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
            Some(session) => session::serve(session, &self.mounted.session),
            None => Ok(()),
        }
    }
}
