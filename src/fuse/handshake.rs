//! What the kernel and the one who serves agree on at the beginning of a file system.

use std::sync::{Arc, OnceLock};

use fuser::{InitFlags, KernelConfig};

/// What the kernel and the first session of a file system agreed on; it holds for all later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Minor version of the kernel's protocol.
    pub minor: u32,
    /// What the kernel offered of what was wanted: the bits of [`InitFlags`].
    pub flags: u64,
}

/// What a file system wants of the kernel, each if the kernel has it, and what came of it.
#[derive(Debug)]
pub(crate) struct Wanted {
    flags: InitFlags,
    agreed: Arc<OnceLock<Handshake>>,
}

// === impl Wanted ===

impl Wanted {
    pub(crate) fn new(flags: InitFlags) -> Self {
        Self {
            flags,
            agreed: Arc::default(),
        }
    }

    /// For a session that another process may take over: that one asks the kernel for the requests
    /// that this one has read and not answered.
    pub(crate) fn for_hand_over(&mut self) {
        self.flags |= InitFlags::FUSE_HAS_RESEND;
    }

    pub(super) fn without(&mut self, flags: InitFlags) {
        self.flags -= flags;
    }

    /// What is agreed on; set once the session has begun.
    pub(crate) fn agreed(&self) -> Arc<OnceLock<Handshake>> {
        Arc::clone(&self.agreed)
    }

    /// Shakes hands; gives what the kernel offers, wanted or not.
    pub(crate) fn agree(&self, config: &mut KernelConfig) -> InitFlags {
        for flag in self.flags.iter() {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "the kernel does not have this");
            }
        }
        let offered = config.capabilities();
        // A session has one.
        let _ = self.agreed.set(Handshake {
            minor: config.kernel_abi().1,
            flags: offered.intersection(self.flags).bits(),
        });
        // The nearest that is allowed is as good, so the results do not matter.
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_congestion_threshold(MAX_BACKGROUND);
        let _ = config.set_max_write(MAX_REQUEST);
        offered
    }
}

/// Requests under way at once that nobody waits for, as readahead: what a fast link keeps in flight.
const MAX_BACKGROUND: u16 = 128;
/// Largest request; the kernel's own limit by default.
const MAX_REQUEST: u32 = 1 << 20;
