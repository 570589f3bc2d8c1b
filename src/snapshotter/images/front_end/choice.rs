//! Which front end: one for new mounts, both for those of an earlier daemon, which may have been told
//! something else.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{FrontEnd, Mount, clear, descriptors::Descriptors, erofs::Erofs, fuse::Fuse};
use crate::{
    engine::ReadFile,
    error::Result,
    keeper::{Keeper, Kept},
    mount::{self, MountOptions},
    tree::Tree,
};

/// The front ends of a node.
#[derive(Debug)]
pub struct FrontEnds {
    choice: mount::FrontEnd,
    fuse: Fuse,
    erofs: Erofs,
    /// That EROFS does not work here has been found out and said.
    given_up: Mutex<bool>,
}

// === impl FrontEnds ===

impl FrontEnds {
    /// Mounts that end with this process, new ones by `choice`. Metadata images of EROFS, which have no
    /// names, and the directory of devices are below `root`.
    #[must_use]
    pub fn new(choice: mount::FrontEnd, root: PathBuf, options: MountOptions) -> Self {
        Self::handing_over(choice, root, options, None, Vec::new())
    }

    /// Mounts whose descriptors are given to `keeper`, if there is one, so that they outlive this
    /// process; `kept` is what an earlier one left. What another version of nacre left stays where it
    /// is and is not served.
    #[must_use]
    pub fn handing_over(
        choice: mount::FrontEnd,
        root: PathBuf,
        options: MountOptions,
        keeper: Option<Arc<dyn Keeper>>,
        kept: Vec<Kept>,
    ) -> Self {
        let descriptors = Descriptors::new(keeper, kept);
        let options = MountOptions {
            hand_over: descriptors.are_kept(),
            ..options
        };
        Self {
            choice,
            fuse: Fuse::new(options.clone(), Arc::clone(&descriptors)),
            erofs: Erofs::new(root, choice.overlays(), options, descriptors),
            given_up: Mutex::default(),
        }
    }

    /// Whether new mounts can be made, where that is not found out image by image.
    ///
    /// # Errors
    /// `Unsupported` or `Denied` with what the kernel says, if only EROFS will do and does not work.
    pub fn check(&self) -> Result<()> {
        match self.choice {
            mount::FrontEnd::Erofs => self.erofs.check(),
            mount::FrontEnd::Auto | mount::FrontEnd::Fuse => Ok(()),
        }
    }

    /// Tries once; that it does not work is said once.
    fn try_erofs(&self) -> Option<Arc<mount::Erofs>> {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        if *given_up {
            return None;
        }
        match self.erofs.mounts() {
            Ok(mounts) => Some(mounts),
            Err(error) => {
                tracing::info!(
                    event = "erofs_unusable",
                    %error,
                    "images are mounted through FUSE, since EROFS does not work"
                );
                *given_up = true;
                None
            }
        }
    }

    /// As EROFS if that works, else through FUSE.
    fn mount_either(
        &self,
        tree: Arc<Tree>,
        reader: Arc<dyn ReadFile>,
        directory: &Path,
        reference: &str,
    ) -> Result<Box<dyn Mount>> {
        if let Some(mounts) = self.try_erofs() {
            let (tree, reader) = (Arc::clone(&tree), Arc::clone(&reader));
            let mounted = { &self.erofs }.mount_on(&mounts, tree, reader, directory, reference);
            match mounted {
                Ok(mounted) => return Ok(mounted),
                Err(error) => {
                    tracing::info!(
                        event = "erofs_unusable",
                        image = reference,
                        %error,
                        "mounted through FUSE, since EROFS does not work"
                    );
                }
            }
        }
        self.fuse.mount(tree, reader, directory, reference)
    }
}

impl FrontEnd for FrontEnds {
    fn mount(
        &self,
        tree: Arc<Tree>,
        reader: Arc<dyn ReadFile>,
        directory: &Path,
        reference: &str,
    ) -> Result<Box<dyn Mount>> {
        match self.choice {
            mount::FrontEnd::Auto => self.mount_either(tree, reader, directory, reference),
            mount::FrontEnd::Fuse => self.fuse.mount(tree, reader, directory, reference),
            mount::FrontEnd::Erofs => self.erofs.mount(tree, reader, directory, reference),
        }
    }

    fn clear(&self, directory: &Path) -> Result<()> {
        clear(directory)
    }

    fn adopt(&self, directory: &Path, reference: &str) -> Option<Box<dyn Mount>> {
        let by_fuse = self.fuse.adopt(directory, reference);
        by_fuse.or_else(|| self.erofs.adopt(directory, reference))
    }

    fn forget_others(&self) {
        self.fuse.forget_others();
        self.erofs.forget_others();
    }
}
