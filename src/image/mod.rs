//! The producing side: convert and sign images.
