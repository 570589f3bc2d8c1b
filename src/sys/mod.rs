//! The only unsafe code outside the codecs.
