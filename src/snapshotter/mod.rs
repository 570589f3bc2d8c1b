//! The containerd snapshotter.

pub mod images;
pub mod lazy;
