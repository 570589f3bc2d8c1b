//! From a reference to a tree whose files can be read.
