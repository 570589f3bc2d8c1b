//! Codecs: what turns a unit's compressed bytes into plain ones.
