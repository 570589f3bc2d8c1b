//! EROFS: all images on devices of one FUSE file system, whose descriptor is the only one that is handed
//! over.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    FrontEnd, Mount, clear,
    descriptors::{Descriptors, Left},
    named,
    record::What,
};
use crate::{
    engine::ReadFile,
    error::{Error, Kind, Result},
    mount::{self, DeviceMount, ErofsMounted, MountOptions, Overlays},
    tree::Tree,
};

/// EROFS mounts whose data this process serves.
#[derive(Debug)]
pub(super) struct Erofs {
    /// The reference is filled in.
    options: MountOptions,
    /// Of metadata images and the directory of devices.
    root: PathBuf,
    overlays: Overlays,
    descriptors: Arc<Descriptors>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What new images are mounted on; made for the first one.
    mounts: Option<Arc<mount::Erofs>>,
    /// File systems of devices that earlier processes made.
    adopted: Vec<Arc<DeviceMount>>,
}

/// Where the file system of devices is, below the root of everything that outlives a daemon.
#[must_use]
pub fn devices_of(root: &Path) -> PathBuf {
    root.join("devices")
}

// === impl Erofs ===

impl Erofs {
    pub(super) fn new(
        root: PathBuf,
        overlays: Overlays,
        options: MountOptions,
        descriptors: Arc<Descriptors>,
    ) -> Self {
        Self {
            options,
            root,
            overlays,
            descriptors,
            state: Mutex::default(),
        }
    }

    /// Tries whether it works; nothing is left of that.
    ///
    /// # Errors
    /// `Unsupported` or `Denied` with what the kernel says.
    pub(super) fn check(&self) -> Result<()> {
        std::fs::create_dir_all(&self.root).map_err(|e| self.failed(e))?;
        let images = std::slice::from_ref(&self.root);
        mount::Erofs::start(None, images, self.overlays, &self.options).map(drop)
    }

    /// What new images are mounted on.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(super) fn mounts(&self) -> Result<Arc<mount::Erofs>> {
        let mut state = self.state();
        if let Some(mounts) = &state.mounts
            && mounts.devices().is_serving()
        {
            return Ok(Arc::clone(mounts));
        }
        state.mounts = None;
        let root = self.root.canonicalize().map_err(|e| self.failed(e))?;
        let directory = devices_of(&root);
        let images = [root];
        let (overlays, options) = (self.overlays, &self.options);
        let usable = |it: &&Arc<DeviceMount>| it.is_serving() && it.directory().is_some();
        let started = match state.adopted.iter().find(usable) {
            Some(devices) => mount::Erofs::on(Arc::clone(devices), &images, overlays, options)?,
            None => {
                // Of an earlier process. It may be a dead mount: no look at the directory itself.
                clear(&directory)?;
                std::fs::create_dir_all(&directory).map_err(|e| self.failed(e))?;
                let started = mount::Erofs::start(Some(&directory), &images, overlays, options)?;
                self.hand_over(started.devices(), &directory);
                started
            }
        };
        Ok(Arc::clone(state.mounts.insert(Arc::new(started))))
    }

    /// Mounts on what [`mounts`](Self::mounts) gave.
    pub(super) fn mount_on(
        &self,
        mounts: &mount::Erofs,
        tree: Arc<Tree>,
        reader: Arc<dyn ReadFile>,
        directory: &Path,
        reference: &str,
    ) -> Result<Box<dyn Mount>> {
        clear(directory)?;
        let options = named(&self.options, reference);
        let name = device_name(directory)?;
        let mounted = mounts.mount(tree, reader, directory, name, &options)?;
        Ok(Box::new(mounted))
    }

    /// Gives the descriptor of all mounts to the keeper.
    fn hand_over(&self, devices: &DeviceMount, directory: &Path) {
        let Some(descriptor) = devices.take_descriptor() else {
            return;
        };
        let connection = devices.connection();
        let given = { &self.descriptors }.give(What::Devices, connection, &descriptor, directory);
        if let Some(name) = given {
            devices.leave();
            self.forget_when_gone(devices, name);
        }
    }

    fn forget_when_gone(&self, devices: &DeviceMount, name: String) {
        let descriptors = Arc::clone(&self.descriptors);
        devices.when_gone(move || descriptors.forget(&name));
    }

    /// The devices of connection `number`, taken over if they have not been yet.
    ///
    /// # Errors
    /// `NotFound` if nobody kept their descriptor.
    fn devices(&self, number: u32) -> Result<Arc<DeviceMount>> {
        let mut state = self.state();
        if let Some(devices) = { &state.adopted }
            .iter()
            .find(|it| it.connection() == number)
        {
            return Ok(Arc::clone(devices));
        }
        let root = self.root.canonicalize().map_err(|e| self.failed(e))?;
        let left = { &self.descriptors }
            .take(|it| it.what == What::Devices && it.minor == number)
            .pop();
        let Some(Left {
            descriptor, name, ..
        }) = left
        else {
            let message = format!("nobody has kept the devices of 0:{number}");
            return Err(Error::not_found(message));
        };
        let directory = devices_of(&root);
        match mount::adopt_devices(descriptor, number, &directory, &self.options) {
            Ok(devices) => {
                self.forget_when_gone(&devices, name);
                let devices = Arc::new(devices);
                state.adopted.push(Arc::clone(&devices));
                Ok(devices)
            }
            Err(error) => {
                self.descriptors.forget(&name);
                Err(error)
            }
        }
    }

    /// Takes away a file system of devices that nobody has adopted.
    fn clear_devices(&self) -> Result<()> {
        let root = match self.root.canonicalize() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|e| self.failed(e))?,
        };
        let directory = devices_of(&root);
        let owned = |it: &Arc<DeviceMount>| it.directory().is_some();
        if self.state().adopted.iter().any(owned) {
            return Ok(());
        }
        clear(&directory)?;
        match std::fs::remove_dir(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(self.failed(error)),
            _ => Ok(()),
        }
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io(format!("directory {}", self.root.display()), error)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn adopt(&self, directory: &Path, reference: &str) -> Option<Box<dyn Mount>> {
        let adopted = match mount::connection_at(directory) {
            Ok(None) => return None,
            Ok(Some(connection)) => self.devices(connection).and_then(|devices| {
                let name = device_name(directory)?;
                devices.adopt(directory, name, reference)
            }),
            Err(error) => Err(error),
        };
        match adopted {
            Ok(mount) => Some(Box::new(mount)),
            Err(error) => {
                let directory = directory.display();
                tracing::error!(event = "mount_lost", %directory, %error, "its users get errors");
                None
            }
        }
    }

    fn forget_others(&self) {
        for left in { &self.descriptors }.take(|it| it.what == What::Devices) {
            tracing::info!(
                connection = left.record.minor,
                "devices that no mount of an image hangs on"
            );
            self.descriptors.forget(&left.name);
        }
        for devices in &self.state().adopted {
            if let Err(error) = devices.serve() {
                tracing::error!(event = "mount_lost", %error, "all EROFS mounts of an earlier daemon");
            }
        }
        if let Err(error) = self.clear_devices() {
            tracing::warn!(%error, "devices of an earlier daemon stay behind");
        }
    }
}

impl Mount for ErofsMounted {
    fn front_end(&self) -> mount::FrontEnd {
        mount::FrontEnd::Erofs
    }

    fn read_ahead(&self) -> Option<&mount::ReadAhead> {
        ErofsMounted::read_ahead(self)
    }

    fn is_alive(&self) -> bool {
        ErofsMounted::is_alive(self)
    }

    fn shows(&self) -> bool {
        ErofsMounted::shows(self)
    }

    fn show(&self, tree: Arc<Tree>, reader: Arc<dyn ReadFile>) -> Result<()> {
        ErofsMounted::show(self, tree, reader)
    }

    fn fail(&self, why: Error) -> Result<()> {
        ErofsMounted::fail(self, why);
        Ok(())
    }

    fn take_away(self: Box<Self>) -> Result<()> {
        (*self).take_away()
    }
}

/// What tells an image's lower directory from others tells its device too.
fn device_name(directory: &Path) -> Result<&str> {
    let name = directory.file_name().and_then(|name| name.to_str());
    name.ok_or_else(|| {
        let message = format!("lower directory {}", directory.display());
        Error::new(Kind::Internal, message)
    })
}
