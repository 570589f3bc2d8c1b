//! How a tree becomes a directory: mounted by FUSE, handed over to the next daemon, adopted from the
//! last.

use std::{
    fmt::Debug,
    os::fd::AsFd as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::record::Record;
use crate::{
    engine::ReadFile,
    error::{Error, Kind, Result},
    keeper::{Keeper, Kept},
    mount::{self, Adopted, Descriptor, MountOptions, Mounted},
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

    /// Takes over what an earlier process mounted at `directory`, if that is possible. It shows
    /// nothing yet: requests wait until it is [given a tree](Mount::show) or [fails](Mount::fail).
    fn adopt(&self, directory: &Path, reference: &str) -> Option<Box<dyn Mount>> {
        let _ = (directory, reference);
        None
    }

    /// Lets go of what could be adopted and was not.
    fn forget_others(&self) {}
}

/// A tree that is mounted. Dropping it takes it away, unless another process can adopt it.
pub trait Mount: Send + Sync + Debug {
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

/// FUSE mounts that this process serves.
#[derive(Debug)]
pub struct Fuse {
    /// The reference is filled in.
    options: MountOptions,
    keeper: Option<Arc<dyn Keeper>>,
    /// What an earlier process left.
    kept: Mutex<Vec<(Record, Kept)>>,
}

// === impl Fuse ===

impl Fuse {
    /// Mounts that end with this process.
    #[must_use]
    pub fn new(options: MountOptions) -> Self {
        Self::handing_over(options, None, Vec::new())
    }

    /// Mounts whose descriptors are given to `keeper`, if there is one, so that they outlive this
    /// process; `kept` is what an earlier one left. What another version of nacre left stays where
    /// it is and is not served.
    #[must_use]
    pub fn handing_over(
        options: MountOptions,
        keeper: Option<Arc<dyn Keeper>>,
        kept: Vec<Kept>,
    ) -> Self {
        let parsed = kept.into_iter().filter_map(|kept| {
            let record = Record::parse(&kept.name);
            let unknown = |error: &Error| {
                tracing::error!(event = "descriptor_unknown", %error, "left alone");
            };
            Some((record.inspect_err(unknown).ok()?, kept))
        });
        Self {
            options: MountOptions {
                hand_over: keeper.is_some(),
                ..options
            },
            kept: Mutex::new(parsed.collect()),
            keeper,
        }
    }

    fn options(&self, reference: &str) -> MountOptions {
        MountOptions {
            reference: reference.to_owned(),
            ..self.options.clone()
        }
    }

    /// Gives the descriptor of a mount to the keeper.
    fn hand_over(&self, mounted: &mut Mounted) {
        let (Some(keeper), Some(descriptor)) = (&self.keeper, mounted.take_descriptor()) else {
            return;
        };
        let Descriptor { file, handshake } = descriptor;
        let directory = mounted.directory().file_name().unwrap_or_default();
        let record = Record {
            directory: directory.to_string_lossy().into_owned(),
            minor: mounted.device().1,
            handshake,
            unique: unique(),
        };
        let name = record.name();
        match keeper.put(&name, file.as_fd()) {
            Ok(()) => {
                mounted.leave();
                self.forget_when_gone(mounted, name);
            }
            Err(error) => {
                let directory = mounted.directory().display();
                tracing::error!(event = "not_handed_over", %directory, %error, "mount ends with this daemon");
            }
        }
    }

    fn forget_when_gone(&self, mounted: &Mounted, name: String) {
        let keeper = self.keeper.clone();
        mounted.when_gone(move || forget(keeper.as_deref(), &name));
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(Record, Kept)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FrontEnd for Fuse {
    fn mount(
        &self,
        tree: Arc<Tree>,
        reader: Arc<dyn ReadFile>,
        directory: &Path,
        reference: &str,
    ) -> Result<Box<dyn Mount>> {
        self.clear(directory)?;
        let options = self.options(reference);
        let mut mounted = mount::mount(tree, reader, directory, &options)?;
        self.hand_over(&mut mounted);
        Ok(Box::new(mounted))
    }

    fn clear(&self, directory: &Path) -> Result<()> {
        let options = mount::UmountOptions {
            lazy: true,
            timeout: Duration::ZERO,
        };
        if mountinfo::at(directory)?.is_some() {
            mount::umount(directory, options)?;
        }
        Ok(())
    }

    fn adopt(&self, directory: &Path, reference: &str) -> Option<Box<dyn Mount>> {
        let named = directory.file_name().unwrap_or_default();
        let is_here = |it: &mut (Record, Kept)| named == it.0.directory.as_str();
        let here: Vec<_> = self.kept().extract_if(.., is_here).collect();
        let mut adopted = None;
        for (record, kept) in here {
            let descriptor = Descriptor {
                file: kept.descriptor,
                handshake: record.handshake,
            };
            let options = self.options(reference);
            match mount::adopt(descriptor, directory, record.minor, &options) {
                Ok(mount) => {
                    if self.keeper.is_some() {
                        self.forget_when_gone(mount.mounted(), kept.name);
                    }
                    adopted = Some(Box::new(mount) as Box<dyn Mount>);
                }
                // Another mount has taken its place, or it was unmounted while nobody looked.
                Err(error) if error.kind() == Kind::NotFound => {
                    tracing::info!(%error, "descriptor of a mount that is gone");
                    forget(self.keeper.as_deref(), &kept.name);
                }
                Err(error) => {
                    let directory = directory.display();
                    tracing::error!(event = "mount_lost", %directory, %error, "its users get errors");
                    forget(self.keeper.as_deref(), &kept.name);
                }
            }
        }
        adopted
    }

    fn forget_others(&self) {
        for (record, Kept { name, .. }) in self.kept().drain(..) {
            tracing::info!(
                directory = record.directory,
                "mount of an image that is gone"
            );
            forget(self.keeper.as_deref(), &name);
        }
    }
}

impl Mount for Mounted {
    fn is_alive(&self) -> bool {
        Mounted::is_alive(self)
    }

    fn take_away(self: Box<Self>) -> Result<()> {
        (*self).take_away()
    }
}

impl Mount for Adopted {
    fn is_alive(&self) -> bool {
        self.mounted().is_alive()
    }

    fn shows(&self) -> bool {
        Adopted::shows(self)
    }

    fn show(&self, tree: Arc<Tree>, reader: Arc<dyn ReadFile>) -> Result<()> {
        Adopted::show(self, tree, reader)
    }

    fn fail(&self, why: Error) -> Result<()> {
        Adopted::fail(self, why)
    }

    fn take_away(self: Box<Self>) -> Result<()> {
        (*self).take_away()
    }
}

/// A number that nobody else has.
fn unique() -> u64 {
    // Without randomness, the name is that of the file system alone.
    getrandom::u64().unwrap_or_default()
}

fn forget(keeper: Option<&dyn Keeper>, name: &str) {
    if let Some(Err(error)) = keeper.map(|keeper| keeper.remove(name)) {
        tracing::warn!(name, %error, "descriptor of a mount that is gone stays with its keeper");
    }
}
