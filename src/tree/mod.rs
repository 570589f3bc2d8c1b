//! One image's merged, read-only file system.
