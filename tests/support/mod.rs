//! What integration tests share.
#![allow(
    unreachable_pub,
    reason = "each test crate includes these modules as its own"
)]
#![allow(dead_code, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

pub(crate) mod docker_registry;
pub(crate) mod images;
pub(crate) mod pipeline;
pub(crate) mod tree_compare;
