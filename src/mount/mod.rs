//! The life cycle of a mount.
