//! What needs `unsafe` or reads the kernel's text files raw.

pub mod descriptors;
pub mod loop_device;
pub mod mountinfo;
pub mod processes;
pub mod systemd;
pub mod usage;

/// Gives memory that was freed back to the system: what building a tree took is several times the
/// tree, and the allocator would keep it for a process that never needs it again.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointers, locks what it looks at, and frees only pages that no
    // live allocation uses.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
