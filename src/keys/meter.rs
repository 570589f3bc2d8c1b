//! How often layers' keys were unwrapped, and how the last time went.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use super::LayerKey;
use crate::{
    error::{Error, Result},
    measure::{Histogram, KindCounts, PerKind, Times},
    oci::Digest,
};

/// Counts the unwrappings of all keyrings it was given to.
#[derive(Debug, Default)]
pub struct KeyMeter {
    opened: [AtomicU64; PACKETS.len()],
    failed: PerKind,
    took: Histogram,
    last: Mutex<Option<LastUnwrap>>,
}

/// The counts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// Keys unwrapped, by the kind of packet that they were in.
    pub opened: [(&'static str, u64); PACKETS.len()],
    /// Layers whose key could not be unwrapped, by the kind of error.
    pub failed: KindCounts,
    /// How long unwrapping took where it succeeded.
    pub took: Times,
    /// How the last one went.
    pub last: Option<LastUnwrap>,
}

/// How the unwrapping of one layer's key went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastUnwrap {
    /// When.
    pub at: SystemTime,
    /// The layer.
    pub layer: Digest,
    /// The kind of packet that gave the key, or why there is none.
    pub outcome: Result<&'static str, (crate::Kind, String)>,
}

/// Kinds of packets, as [`LayerKey::packet`] names them.
const PACKETS: [&str; 6] = ["jwe", "coco", "provider", "pkcs7", "pgp", "pkcs11"];

// === impl KeyMeter ===

impl KeyMeter {
    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> KeyCounts {
        KeyCounts {
            opened: std::array::from_fn(|i| (PACKETS[i], self.opened[i].load(Ordering::Relaxed))),
            failed: self.failed.counts(),
            took: self.took.times(),
            last: self.last().clone(),
        }
    }

    /// Counts and logs what became of a layer's key.
    pub(super) fn note(&self, layer: &Digest, begin: Instant, result: &Result<LayerKey>) {
        let outcome = match result {
            Ok(key) => {
                let packet = key.packet();
                if let Some(kind) = PACKETS.iter().position(|known| *known == packet) {
                    self.opened[kind].fetch_add(1, Ordering::Relaxed);
                }
                self.took.record(begin.elapsed());
                let seconds = begin.elapsed().as_secs_f64();
                tracing::info!(event = "key_unwrapped", %layer, packet, seconds, "key unwrapped");
                Ok(packet)
            }
            Err(error) => {
                self.failed.count(error);
                // What fails for it is told by who wanted the layer.
                tracing::debug!(
                    event = "key_not_unwrapped",
                    %layer,
                    kind = error.kind().as_str(),
                    %error,
                    "key not unwrapped"
                );
                Err((error.kind(), Error::to_string(error)))
            }
        };
        *self.last() = Some(LastUnwrap {
            at: SystemTime::now(),
            layer: layer.clone(),
            outcome,
        });
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<LastUnwrap>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
