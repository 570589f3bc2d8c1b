//! Finding images by name: lookup tables that say where an image lies for whom, and the signed
//! measurements of what is in it, in the form of Constellation's documents (docs/discover.md).
//!
//! A [`Name`] becomes an [`Info`] (a local file first, then a web server, [`Tables`]), of which an
//! [`Entry`] is picked; [`Measurements`] are made only by the function that verifies their
//! signature. A lookup table is not signed: what it names is admitted by the policy, like everything
//! else.

mod info;
mod measurements;
mod name;
mod tables;
#[cfg(test)]
mod tests;

pub use self::{
    info::{Entry, Info, Wanted},
    measurements::{Compared, Expected, Measurements, parse_actual},
    name::{Form, Name},
    tables::{Found, Tables},
};
