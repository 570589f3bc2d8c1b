//! The policy engine: what makes a grant.
