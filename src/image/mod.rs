//! The producing side: convert and sign images.

pub mod convert;
pub mod sign;
