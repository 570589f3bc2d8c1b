//! How a tree becomes a directory: mounted by FUSE or as EROFS, handed over to the next daemon, adopted
//! from the last.

mod choice;
mod descriptors;
mod erofs;
mod fuse;
mod record;

use std::{fmt::Debug, path::Path, sync::Arc, time::Duration};

pub use self::{choice::FrontEnds, erofs::devices_of};
use crate::{
    engine::ReadFile,
    error::{Error, Result},
    mount::{self, MountOptions},
    sys::mountinfo,
    tree::Tree,
};

/// Mounts trees. Its functions may block.
pub trait FrontEnd: Send + Sync + Debug {
    /// Shows `tree` at `directory`, which is there; `reader` has its bytes, `reference` is what
    /// tables of mounts call it. A mount that an earlier process left there is replaced.
    ///
    /// # Errors
    /// As [`mount::mount`].
    fn mount(
        &self,
        tree: Arc<Tree>,
        reader: Arc<dyn ReadFile>,
        directory: &Path,
        reference: &str,
    ) -> Result<Box<dyn Mount>>;

    /// Takes away what an earlier process left at `directory`, if anything.
    ///
    /// # Errors
    /// What the system says.
    fn clear(&self, directory: &Path) -> Result<()>;

    /// Takes over what an earlier process mounted at `directory`, if that is possible; whether this one
    /// would mount in the same way does not matter. It shows nothing yet: requests wait until it is
    /// [given a tree](Mount::show) or [fails](Mount::fail).
    fn adopt(&self, directory: &Path, reference: &str) -> Option<Box<dyn Mount>> {
        let _ = (directory, reference);
        None
    }

    /// Lets go of what could be adopted and was not; nothing is adopted after this.
    fn forget_others(&self) {}
}

/// A tree that is mounted. Dropping it takes it away, unless another process can adopt it.
pub trait Mount: Send + Sync + Debug {
    /// By which front end it was made.
    fn front_end(&self) -> mount::FrontEnd;

    /// How far the kernel reads ahead in it, if that is known.
    fn read_ahead(&self) -> Option<&mount::ReadAhead> {
        None
    }

    /// Whether it is still there.
    fn is_alive(&self) -> bool;

    /// Whether it shows a tree; only one that was adopted may not.
    fn shows(&self) -> bool {
        true
    }

    /// Shows the tree that it showed when an earlier process served it.
    ///
    /// # Errors
    /// What the system says.
    fn show(&self, tree: Arc<Tree>, reader: Arc<dyn ReadFile>) -> Result<()> {
        drop((tree, reader));
        Ok(())
    }

    /// Fails all requests from now on, until it is given a tree.
    ///
    /// # Errors
    /// What the system says.
    fn fail(&self, why: Error) -> Result<()> {
        drop(why);
        Ok(())
    }

    /// Takes it away.
    ///
    /// # Errors
    /// What the system says.
    fn take_away(self: Box<Self>) -> Result<()>;
}

/// Takes away what is mounted at `directory`, if anything.
fn clear(directory: &Path) -> Result<()> {
    let options = mount::UmountOptions {
        lazy: true,
        timeout: Duration::ZERO,
    };
    if mountinfo::at(directory)?.is_some() {
        mount::umount(directory, options)?;
    }
    Ok(())
}

fn named(options: &MountOptions, reference: &str) -> MountOptions {
    MountOptions {
        reference: reference.to_owned(),
        ..options.clone()
    }
}
