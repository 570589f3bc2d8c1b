//! What stands between a mount and its engine: reads go through until the image turns out to be
//! poisoned.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, OnceLock},
};

use super::{Engine, FileData, ReadDone, ReadFile};
use crate::error::Error;

/// One image's switch, which all its mounts share. It goes one way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Switch(Arc<OnceLock<String>>);

/// An engine behind a switch.
pub(crate) struct Switched {
    pub(crate) engine: Arc<Engine>,
    pub(crate) switch: Switch,
}

// === impl Switch ===

impl Switch {
    /// Fails all reads from now on.
    pub(crate) fn poison(&self, why: &str) {
        // The first reason stays.
        let _ = self.0.set(why.to_owned());
    }

    /// Why reads fail, if they do.
    pub(crate) fn poisoned(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

impl ReadFile for Switched {
    fn read(&self, file: FileData, offset: u64, length: u32, done: ReadDone) {
        match self.switch.poisoned() {
            Some(why) => {
                let error = Error::corrupt(format!("image is poisoned: {why}"));
                self.engine.refuse(error, done);
            }
            None => self.engine.read(file, offset, length, done),
        }
    }

    fn zeros(&self, file: FileData) -> Vec<Range<u64>> {
        self.engine.zeros(file)
    }
}

impl fmt::Debug for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Switched").field(&self.switch).finish()
    }
}
