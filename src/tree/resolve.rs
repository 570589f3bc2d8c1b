//! Paths to inodes, with symlinks followed inside the root: none can lead out of it.

use std::fmt;

use super::limits::MAX_LINK_HOPS;
use super::{Ino, Tree};

/// A path that grows at its front when a symlink is followed.
#[derive(Debug)]
pub(super) struct Components {
    /// What is still to be walked, the nearest part last; each with the offset to go on from.
    parts: Vec<(Box<[u8]>, usize)>,
    hops: usize,
}

/// One step of a walk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Back to the root.
    Root,
    /// To the parent; from the root to the root.
    Up,
    /// To a child.
    Down(Box<[u8]>),
}

/// Over [`MAX_LINK_HOPS`] symlinks on one path.
#[derive(Debug)]
pub(super) struct HopLimit;

// === impl Components ===

impl Components {
    pub(super) fn new(path: &[u8]) -> Components {
        Components {
            parts: vec![(path.into(), 0)],
            hops: 0,
        }
    }

    /// Goes through `target` before what is left.
    pub(super) fn follow(&mut self, target: &[u8]) -> Result<(), HopLimit> {
        self.hops += 1;
        if self.hops > MAX_LINK_HOPS {
            return Err(HopLimit);
        }
        self.parts.push((target.into(), 0));
        Ok(())
    }

    fn is_last(&self) -> bool {
        let mut left = self.parts.iter().map(|(part, at)| &part[*at..]);
        left.all(|part| part.iter().all(|&byte| byte == b'/'))
    }
}

impl Iterator for Components {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            let (part, at) = self.parts.last_mut()?;
            let rest = &part[*at..];
            if rest.is_empty() {
                self.parts.pop();
                continue;
            }
            if *at == 0 && rest[0] == b'/' {
                *at = 1;
                return Some(Step::Root);
            }
            let length = rest.iter().position(|&byte| byte == b'/');
            let length = length.unwrap_or(rest.len());
            let name: Box<[u8]> = rest[..length].into();
            *at += (length + 1).min(rest.len());
            match &*name {
                b"" | b"." => {}
                b".." => return Some(Step::Up),
                _ => return Some(Step::Down(name)),
            }
        }
    }
}

// === impl HopLimit ===

impl fmt::Display for HopLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "over {MAX_LINK_HOPS} symlinks on its path")
    }
}

// === impl Tree ===

impl Tree {
    /// The inode at `path`, absolute or relative to the root. Symlinks on the way are followed
    /// inside the root, the last component is not.
    #[must_use]
    pub fn resolve(&self, path: &[u8]) -> Option<Ino> {
        self.walk_to(path, false)
    }

    /// As [`Tree::resolve`], but a symlink as the last component is followed too.
    #[must_use]
    pub fn resolve_following(&self, path: &[u8]) -> Option<Ino> {
        self.walk_to(path, true)
    }

    fn walk_to(&self, path: &[u8], follow_last: bool) -> Option<Ino> {
        let mut components = Components::new(path);
        let mut at = Ino::ROOT;
        while let Some(step) = components.next() {
            at = match step {
                Step::Root => Ino::ROOT,
                Step::Up => self.parent(at),
                Step::Down(name) => {
                    let child = self.lookup(at, &name)?;
                    match self.read_link(child) {
                        Some(target) if follow_last || !components.is_last() => {
                            components.follow(target).ok()?;
                            at
                        }
                        _ => child,
                    }
                }
            };
        }
        Some(at)
    }
}
