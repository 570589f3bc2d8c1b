//! The producing side: convert and sign images, record what they read.

pub mod convert;
pub mod record;
pub mod sign;
