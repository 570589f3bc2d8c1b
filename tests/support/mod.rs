//! What integration tests share.
#![allow(dead_code, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

pub(crate) mod images;
pub(crate) mod tree_compare;
