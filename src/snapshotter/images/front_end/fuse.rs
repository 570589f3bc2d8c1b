//! FUSE: a file system of ours for each image.

use std::{path::Path, sync::Arc};

use super::{
    FrontEnd, Mount, clear,
    descriptors::{Descriptors, Left},
    named,
    record::What,
};
use crate::{
    engine::ReadFile,
    error::{Error, Kind, Result},
    mount::{self, Adopted, MountOptions, Mounted},
    tree::Tree,
};

/// FUSE mounts that this process serves.
#[derive(Debug)]
pub(super) struct Fuse {
    /// The reference is filled in.
    options: MountOptions,
    descriptors: Arc<Descriptors>,
}

// === impl Fuse ===

impl Fuse {
    pub(super) fn new(options: MountOptions, descriptors: Arc<Descriptors>) -> Self {
        Self {
            options,
            descriptors,
        }
    }

    /// Gives the descriptor of a mount to the keeper.
    fn hand_over(&self, mounted: &mut Mounted) {
        let Some(descriptor) = mounted.take_descriptor() else {
            return;
        };
        let directory = mounted.directory();
        let named = directory.file_name().unwrap_or_default();
        let what = What::Image(named.to_string_lossy().into_owned());
        let (_, minor) = mounted.device();
        if let Some(name) = { &self.descriptors }.give(what, minor, &descriptor, directory) {
            mounted.leave();
            self.forget_when_gone(mounted, name);
        }
    }

    fn forget_when_gone(&self, mounted: &Mounted, name: String) {
        let descriptors = Arc::clone(&self.descriptors);
        mounted.when_gone(move || descriptors.forget(&name));
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
        let options = named(&self.options, reference);
        let mut mounted = mount::mount(tree, reader, directory, &options)?;
        self.hand_over(&mut mounted);
        Ok(Box::new(mounted))
    }

    fn clear(&self, directory: &Path) -> Result<()> {
        clear(directory)
    }

    fn adopt(&self, directory: &Path, reference: &str) -> Option<Box<dyn Mount>> {
        let named = directory.file_name().unwrap_or_default();
        let here = self
            .descriptors
            .take(|it| matches!(&it.what, What::Image(directory) if named == directory.as_str()));
        let mut adopted = None;
        for Left {
            record,
            descriptor,
            name,
        } in here
        {
            let options = super::named(&self.options, reference);
            match mount::adopt(descriptor, directory, record.minor, &options) {
                Ok(mount) => {
                    self.forget_when_gone(mount.mounted(), name);
                    adopted = Some(Box::new(mount) as Box<dyn Mount>);
                }
                // Another mount has taken its place, or it was unmounted while nobody looked.
                Err(error) if error.kind() == Kind::NotFound => {
                    tracing::info!(%error, "descriptor of a mount that is gone");
                    self.descriptors.forget(&name);
                }
                Err(error) => {
                    let directory = directory.display();
                    tracing::error!(event = "mount_lost", %directory, %error, "its users get errors");
                    self.descriptors.forget(&name);
                }
            }
        }
        adopted
    }

    fn forget_others(&self) {
        for left in { &self.descriptors }.take(|it| matches!(it.what, What::Image(_))) {
            let What::Image(directory) = &left.record.what else {
                continue;
            };
            tracing::info!(directory, "mount of an image that is gone");
            self.descriptors.forget(&left.name);
        }
    }
}

impl Mount for Mounted {
    fn front_end(&self) -> mount::FrontEnd {
        Mounted::front_end(self)
    }

    fn read_ahead(&self) -> Option<&mount::ReadAhead> {
        Mounted::read_ahead(self)
    }

    fn is_alive(&self) -> bool {
        Mounted::is_alive(self)
    }

    fn take_away(self: Box<Self>) -> Result<()> {
        (*self).take_away()
    }
}

impl Mount for Adopted {
    fn front_end(&self) -> mount::FrontEnd {
        self.mounted().front_end()
    }

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
