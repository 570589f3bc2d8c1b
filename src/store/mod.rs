//! Verified chunks kept on this node.
