//! The ocicrypt specification: annotations, packets, the layer cipher.
