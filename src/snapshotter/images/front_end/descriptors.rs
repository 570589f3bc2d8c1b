//! Descriptors of mounts: those that an earlier daemon left, and the keeper that is given this one's.

use std::{
    os::fd::AsFd as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use super::record::{Record, What};
use crate::{
    error::Error,
    keeper::{Keeper, Kept},
    mount::Descriptor,
};

/// What was left, and who keeps what is left next.
#[derive(Debug)]
pub(super) struct Descriptors {
    keeper: Option<Arc<dyn Keeper>>,
    left: Mutex<Vec<(Record, Kept)>>,
}

/// A descriptor that an earlier daemon left.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) record: Record,
    pub(super) descriptor: Descriptor,
    /// What the keeper calls it.
    pub(super) name: String,
}

// === impl Descriptors ===

impl Descriptors {
    /// `kept` is what an earlier daemon left. What another version of nacre left stays where it is and
    /// is not served.
    pub(super) fn new(keeper: Option<Arc<dyn Keeper>>, kept: Vec<Kept>) -> Arc<Self> {
        let parsed = kept.into_iter().filter_map(|kept| {
            let record = Record::parse(&kept.name);
            let unknown = |error: &Error| {
                tracing::error!(event = "descriptor_unknown", %error, "left alone");
            };
            Some((record.inspect_err(unknown).ok()?, kept))
        });
        Arc::new(Self {
            left: Mutex::new(parsed.collect()),
            keeper,
        })
    }

    /// Whether mounts outlive this process.
    pub(super) fn are_kept(&self) -> bool {
        self.keeper.is_some()
    }

    /// Takes what was left and is `wanted`.
    pub(super) fn take(&self, wanted: impl Fn(&Record) -> bool) -> Vec<Left> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = left.extract_if(.., |(record, _)| wanted(record));
        taken
            .map(|(record, kept)| Left {
                descriptor: Descriptor {
                    file: kept.descriptor,
                    handshake: record.handshake,
                },
                name: kept.name,
                record,
            })
            .collect()
    }

    /// Gives the descriptor of the file system 0:`minor`, mounted at `directory`, to the keeper. Gives
    /// the name to [forget](Self::forget) it by; none if it is not kept.
    pub(super) fn give(
        &self,
        what: What,
        minor: u32,
        descriptor: &Descriptor,
        directory: &Path,
    ) -> Option<String> {
        let keeper = self.keeper.as_ref()?;
        let record = Record {
            what,
            minor,
            handshake: descriptor.handshake,
            unique: unique(),
        };
        let name = record.name();
        match keeper.put(&name, descriptor.file.as_fd()) {
            Ok(()) => Some(name),
            Err(error) => {
                let directory = directory.display();
                tracing::error!(event = "not_handed_over", %directory, %error, "mount ends with this daemon");
                None
            }
        }
    }

    /// Has the keeper close what it calls so.
    pub(super) fn forget(&self, name: &str) {
        if let Some(Err(error)) = self.keeper.as_ref().map(|keeper| keeper.remove(name)) {
            tracing::warn!(name, %error, "descriptor of a mount that is gone stays with its keeper");
        }
    }
}

/// A number that nobody else has.
fn unique() -> u64 {
    // Without randomness, the name is that of the file system alone.
    getrandom::u64().unwrap_or_default()
}
