//! The devices of all EROFS images of this process, as files of one FUSE file system.
//!
//! A device appears when an image is to be mounted and stays as long as the kernel has it open, which
//! an EROFS mount does until its last user is gone. The number of a device follows from its name and
//! from what its addresses mean, so that a process that takes the file system over answers for the
//! same numbers, or for none: never with the bytes of another layout.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::fuse::{Reads, Throttle};

mod device;
mod filesystem;

pub use device::{Device, NUMBERING};
pub use filesystem::DeviceFilesystem;

/// The devices of one file system; clones share them.
#[derive(Clone, Default)]
pub struct Devices(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    /// By what their names come to.
    devices: HashMap<u32, Served>,
    names: BTreeMap<String, u32>,
    expected: HashMap<u32, Expected>,
}

struct Served {
    device: Arc<Device>,
    /// How often the kernel has it open.
    opens: u32,
    /// Not to be found by name any more, and gone when it is closed.
    retired: bool,
}

/// A device that an earlier process served and this one will.
struct Expected {
    name: String,
    /// What log lines call it.
    image: String,
    /// Why requests fail, if they do not wait.
    failing: Option<Failing>,
    waiting: Vec<Waiting>,
}

struct Failing {
    why: Error,
    log: Arc<Throttle>,
}

/// What goes on when the device is there, or when it is known that it will not come.
type Waiting = Box<dyn FnOnce(Option<Arc<Device>>) + Send>;

// === impl Devices ===

impl Devices {
    /// No devices.
    #[must_use]
    pub fn new() -> Devices {
        Devices::default()
    }

    /// The FUSE file system that shows them, and counts `reads`.
    #[must_use]
    pub fn filesystem(&self, reads: Reads) -> DeviceFilesystem {
        DeviceFilesystem::new(self.clone(), reads)
    }

    /// Adds a device. Reads that have waited for it go on. One that was retired and is still open takes
    /// the place of its predecessor, if the two mean the same.
    ///
    /// # Errors
    /// [`Kind::Busy`] if there is one of that name, or one of another meaning is still in use.
    pub fn add(&self, device: Device) -> Result<()> {
        let key = device.key();
        let device = Arc::new(device);
        let mut table = self.lock();
        let other = table.devices.get(&key);
        let opens = match other {
            Some(other) if other.retired && other.device.number() == device.number() => other.opens,
            Some(other) => {
                let what = if other.retired {
                    "one with other files is still in use"
                } else {
                    "there is one already"
                };
                let name = device.name();
                return Err(Error::new(Kind::Busy, format!("device {name}: {what}")));
            }
            None => u32::from(table.expected.contains_key(&key)),
        };
        let expected = table.expected.remove(&key);
        let served = Served {
            device: Arc::clone(&device),
            opens,
            retired: false,
        };
        let replaced = table.devices.insert(key, served);
        table.names.insert(device.name().to_owned(), key);
        drop(table);
        end(replaced);
        for waiting in expected.map_or_else(Vec::new, |it| it.waiting) {
            waiting(Some(Arc::clone(&device)));
        }
        Ok(())
    }

    /// Notes that the mount of an earlier process has the device `name` open, which will be added:
    /// requests wait for it. `image` is what log lines call it.
    pub fn expect(&self, name: &str, image: &str) {
        let expected = Expected {
            name: name.to_owned(),
            image: image.to_owned(),
            failing: None,
            waiting: Vec::new(),
        };
        self.lock().expected.insert(device::key(name), expected);
    }

    /// Fails requests that wait for an expected device, and those to come until it is added; `why` is
    /// what the log says.
    pub fn fail(&self, name: &str, why: Error) {
        let mut table = self.lock();
        let waiting = match table.expected.get_mut(&device::key(name)) {
            Some(expected) if expected.name == name => {
                let log = match expected.failing.take() {
                    Some(before) => before.log,
                    None => Arc::new(Throttle::new(LOGGED_AT_ONCE, LOG_EVERY)),
                };
                expected.failing = Some(Failing { why, log });
                std::mem::take(&mut expected.waiting)
            }
            _ => Vec::new(),
        };
        drop(table);
        for waiting in waiting {
            waiting(None);
        }
    }

    /// Takes a device out of sight, and away once the kernel does not have it open. Reads that wait
    /// for one that was only expected fail.
    pub fn retire(&self, name: &str) {
        let key = device::key(name);
        let mut table = self.lock();
        let mut gone = None;
        if table.names.remove(name).is_some()
            && let Some(served) = table.devices.get_mut(&key)
        {
            served.retired = true;
            if served.opens == 0 {
                gone = table.devices.remove(&key);
            }
        }
        let given_up = { table.expected.get(&key) }.is_some_and(|it| it.name == name);
        let given_up = given_up.then(|| table.expected.remove(&key)).flatten();
        drop(table);
        end(gone);
        for waiting in given_up.map_or_else(Vec::new, |it| it.waiting) {
            waiting(None);
        }
    }

    /// Names of the devices that can be found, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// Whether the device can be found: it was added, and not retired since.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.lock().names.contains_key(name)
    }

    /// How many devices there are, with those that are only kept because they are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().devices.len()
    }

    /// Whether none can be found, and none are expected: there may be some that are only kept because
    /// they are open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let table = self.lock();
        table.names.is_empty() && table.expected.is_empty()
    }

    fn named(&self, name: &str) -> Option<Arc<Device>> {
        let table = self.lock();
        let served = table.devices.get(table.names.get(name)?)?;
        Some(Arc::clone(&served.device))
    }

    /// Counts an open file; `false` if there is no such device.
    fn opened(&self, number: u64) -> bool {
        let key = device::key_of(number);
        let mut table = self.lock();
        match table.devices.get_mut(&key) {
            Some(served) if !served.retired && served.device.number() == number => {
                served.opens += 1;
                true
            }
            _ => false,
        }
    }

    fn closed(&self, number: u64) {
        let key = device::key_of(number);
        let mut table = self.lock();
        let mut gone = None;
        if let Some(served) = table.devices.get_mut(&key) {
            served.opens = served.opens.saturating_sub(1);
            if served.retired && served.opens == 0 {
                gone = table.devices.remove(&key);
            }
        }
        // Nobody has it open any more, so nobody waits for it either.
        let unused = table.expected.remove(&key);
        drop(table);
        drop(unused);
        end(gone);
    }

    /// Goes on with device `number`, now or when it is there.
    fn when_there(&self, number: u64, next: impl FnOnce(Option<Arc<Device>>) + Send + 'static) {
        let key = device::key_of(number);
        let next = move |device: Option<Arc<Device>>| {
            let device = device.filter(|it| it.means(number));
            next(device);
        };
        let mut table = self.lock();
        if let Some(served) = table.devices.get(&key) {
            let device = Arc::clone(&served.device);
            drop(table);
            next(Some(device));
        } else if let Some(expected) = table.expected.get_mut(&key) {
            let Some(failing) = &expected.failing else {
                return expected.waiting.push(Box::new(next));
            };
            let said = { failing.log.admit(Instant::now()) }
                .map(|suppressed| (suppressed, failing.why.to_string()));
            let image = said.is_some().then(|| expected.image.clone());
            drop(table);
            if let (Some((suppressed, why)), Some(image)) = (said, image) {
                tracing::error!(
                    event = "request_failed",
                    image,
                    suppressed,
                    "answered with EIO: {why}"
                );
            }
            next(None);
        } else {
            drop(table);
            next(None);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing of a caller's runs under the lock, so a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops a device away from here: an engine may end with it, which takes as long as the work that it
/// has begun, and this may be a thread that answers the kernel.
fn end(device: Option<Served>) {
    let Some(device) = device else { return };
    let thread = std::thread::Builder::new().name("nacre-device".to_owned());
    if let Err(error) = thread.spawn(move || drop(device)) {
        tracing::debug!(%error, "no thread to end a device in");
    }
}

/// Failed requests that are logged one by one before the log is limited.
const LOGGED_AT_ONCE: u32 = 8;
/// And then one each:
const LOG_EVERY: Duration = Duration::from_secs(10);

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Devices").field(&self.names()).finish()
    }
}

#[cfg(test)]
mod tests;
