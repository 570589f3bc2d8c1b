//! Front ends of the kernel: FUSE, a file system of ours for each image, and EROFS, all images on
//! devices of one.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::mounts::{FrontEnd, Mount};
use crate::{
    engine::ReadFile,
    error::{Error, Result},
    mount::{self, ErofsMounted, MountOptions, Mounted},
    sys::mountinfo,
    tree::Tree,
};

/// FUSE mounts that this process serves.
#[derive(Clone, Debug)]
pub struct Fuse {
    /// How to mount; the reference is filled in.
    pub options: MountOptions,
}

/// EROFS mounts whose data this process serves.
#[derive(Debug)]
pub struct Erofs {
    options: MountOptions,
    /// Of metadata images and the directory of devices.
    root: PathBuf,
    /// Made for the first image: until then another process may be at work here.
    mounts: Mutex<Option<Arc<mount::Erofs>>>,
}

/// EROFS where it works, else FUSE.
#[derive(Debug)]
pub struct Auto {
    erofs: Erofs,
    fuse: Fuse,
    /// That EROFS does not work here has been found out and said.
    given_up: Mutex<bool>,
}

// === impl Fuse ===

impl FrontEnd for Fuse {
    fn mount(
        &self,
        tree: Arc<Tree>,
        reader: Arc<dyn ReadFile>,
        directory: &Path,
        reference: &str,
    ) -> Result<Box<dyn Mount>> {
        self.clear(directory)?;
        let options = named(&self.options, reference);
        Ok(Box::new(mount::mount(tree, reader, directory, &options)?))
    }

    fn clear(&self, directory: &Path) -> Result<()> {
        clear(directory)
    }
}

impl Mount for Mounted {
    fn is_alive(&self) -> bool {
        // Not a look at the directory: what is dead there would not answer.
        mountinfo::at(self.directory()).is_ok_and(|mount| mount.is_some())
    }
}

// === impl Erofs ===

impl Erofs {
    /// EROFS mounts with the directory of devices, and metadata images without names, below `root`.
    #[must_use]
    pub fn new(root: PathBuf, options: MountOptions) -> Erofs {
        Erofs {
            options,
            root,
            mounts: Mutex::default(),
        }
    }

    /// Tries whether it works; nothing is left of that.
    ///
    /// # Errors
    /// `Unsupported` or `Denied` with what the kernel says.
    pub fn check(&self) -> Result<()> {
        std::fs::create_dir_all(&self.root)
            .map_err(|e| Error::io(format!("directory {}", self.root.display()), e))?;
        mount::Erofs::start(None, &[self.root.clone()], &self.options).map(drop)
    }

    fn mounts(&self) -> Result<Arc<mount::Erofs>> {
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mounts) = &*mounts
            && mounts.is_serving()
        {
            return Ok(Arc::clone(mounts));
        }
        *mounts = None;
        let failed = |e| Error::io(format!("directory {}", self.root.display()), e);
        let root = self.root.canonicalize().map_err(failed)?;
        let directory = root.join(DEVICES);
        // Of an earlier process. It may be a dead mount: no look at the directory itself.
        clear(&directory)?;
        std::fs::create_dir_all(&directory).map_err(failed)?;
        let started = mount::Erofs::start(Some(&directory), &[root], &self.options)?;
        Ok(Arc::clone(mounts.insert(Arc::new(started))))
    }

    fn mount_on(
        &self,
        mounts: &mount::Erofs,
        tree: Arc<Tree>,
        reader: Arc<dyn ReadFile>,
        directory: &Path,
        reference: &str,
    ) -> Result<Box<dyn Mount>> {
        clear(directory)?;
        let options = named(&self.options, reference);
        // What tells an image's lower directory from others tells its device too.
        let name = directory.file_name().and_then(|name| name.to_str());
        let name = name
            .ok_or_else(|| Error::internal(format!("lower directory {}", directory.display())))?;
        let mounted = mounts.mount(tree, reader, directory, name, &options)?;
        Ok(Box::new(mounted))
    }
}

impl FrontEnd for Erofs {
    fn mount(
        &self,
        tree: Arc<Tree>,
        reader: Arc<dyn ReadFile>,
        directory: &Path,
        reference: &str,
    ) -> Result<Box<dyn Mount>> {
        let mounts = self.mounts()?;
        self.mount_on(&mounts, tree, reader, directory, reference)
    }

    fn clear(&self, directory: &Path) -> Result<()> {
        clear(directory)
    }
}

impl Mount for ErofsMounted {
    fn is_alive(&self) -> bool {
        ErofsMounted::is_alive(self)
    }
}

// === impl Auto ===

impl Auto {
    /// As [`Erofs::new`], if that works; else FUSE.
    #[must_use]
    pub fn new(root: PathBuf, options: MountOptions) -> Auto {
        Auto {
            fuse: Fuse {
                options: options.clone(),
            },
            erofs: Erofs::new(root, options),
            given_up: Mutex::default(),
        }
    }

    /// Tries once; that it does not work is said once.
    fn erofs(&self) -> Option<Arc<mount::Erofs>> {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        if *given_up {
            return None;
        }
        match self.erofs.mounts() {
            Ok(mounts) => Some(mounts),
            Err(error) => {
                tracing::info!(
                    "images are mounted through FUSE, since EROFS does not work: {error}"
                );
                *given_up = true;
                None
            }
        }
    }
}

impl FrontEnd for Auto {
    fn mount(
        &self,
        tree: Arc<Tree>,
        reader: Arc<dyn ReadFile>,
        directory: &Path,
        reference: &str,
    ) -> Result<Box<dyn Mount>> {
        if let Some(mounts) = self.erofs() {
            let (tree, reader) = (Arc::clone(&tree), Arc::clone(&reader));
            let mounted = { &self.erofs }.mount_on(&mounts, tree, reader, directory, reference);
            match mounted {
                Ok(mounted) => return Ok(mounted),
                Err(error) => {
                    tracing::info!(
                        image = reference,
                        "through FUSE, since EROFS does not work: {error}"
                    );
                }
            }
        }
        self.fuse.mount(tree, reader, directory, reference)
    }

    fn clear(&self, directory: &Path) -> Result<()> {
        clear(directory)
    }
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

/// Name of the directory of devices below the root.
const DEVICES: &str = "devices";
