//! The producing side: convert, encrypt, decrypt, rewrap, copy, compare, measure and sign images,
//! record what they read.
//!
//! Whatever is made, its manifest is stored last: who looks finds all of an image, or none.

pub mod convert;
pub mod copy;
mod cosign_key;
pub mod decrypt;
pub mod diff;
mod document;
pub mod encrypt;
pub mod index;
pub mod measure;
mod mover;
pub mod record;
pub mod rewrap;
mod rewrite;
pub mod sign;
mod temporary;
mod verity;

pub use self::{
    mover::{From, OnProgress, Step},
    rewrite::{How, LayerReport, Report},
};
