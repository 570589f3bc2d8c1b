//! The EROFS front end: a tree as an EROFS metadata image whose file data lies on one device.
//!
//! The kernel then answers lookups, attributes, listings and permissions itself; only data that it
//! does not have reaches this process. [`Layout`] says where each file's bytes are in the device's
//! address space, [`write()`] makes the metadata image for it (`docs/formats/erofs.md`), [`Devices`]
//! serves the devices of all images through one FUSE file system.

mod devices;
mod layout;
mod write;

pub use devices::{Device, DeviceFilesystem, Devices, NUMBERING};
pub use layout::{Layout, Piece};
pub use write::{Written, write};

/// Bytes in a block: of the file system, of the device, and of a page of memory.
pub const BLOCK: u64 = 1 << BLOCK_BITS;

/// [`BLOCK`] as a power of two.
const BLOCK_BITS: u32 = 12;
