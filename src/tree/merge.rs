//! Applies layers in order, as umoci and containerd unpack them one after the other.
//!
//! Every name carries the number of the layer that touched it last, because whiteouts remove what
//! lower layers left, never what their own layer has already added. A parent path that leads
//! through a symlink is followed inside the root, as the unpackers do.

use std::collections::BTreeMap;

use super::limits::{self, MAX_DEPTH, refusal};
use super::resolve::{Components, HopLimit, Step};
use super::xattrs::TableBuilder;
use super::{Kind, Tree};
use crate::error::{Error, Result};
use crate::index::{Entry, EntryKind};

/// The tree while layers are being applied: an arena of nodes, of which some may be unreachable.
#[derive(Debug)]
pub(super) struct Merge {
    pub(super) nodes: Vec<Node>,
    pub(super) xattrs: TableBuilder,
    layer: u16,
    /// The parent of the last entry, as tar files go through directories one by one.
    recent: Option<(Box<[u8]>, u32)>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) mtime_nanos: u32,
    pub(super) xattrs: u32,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Directory {
        children: BTreeMap<Box<[u8]>, Link>,
        depth: u32,
    },
    Regular {
        size: u64,
        layer: u16,
        first_chunk: u32,
        chunk_count: u32,
    },
    Symlink(Box<[u8]>),
    Device(Kind, u32),
    Fifo,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) node: u32,
    /// The layer that added the name or something below it.
    touched: u16,
}

impl Tree {
    /// Merges layers, the lowest first; a layer's position becomes
    /// [`FileData::layer`](crate::engine::FileData::layer).
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) naming layer and entry, if an eager unpack would
    /// fail there too or the kernel could not show the result.
    pub fn merge(layers: Vec<Vec<Entry>>) -> Result<Tree> {
        let mut merge = Merge::new();
        for (position, entries) in layers.into_iter().enumerate() {
            merge.begin_layer(position)?;
            for entry in entries {
                merge.apply(entry)?;
            }
        }
        merge.freeze()
    }
}

// === impl Merge ===

impl Merge {
    fn new() -> Merge {
        Merge {
            nodes: vec![Node::implied(0)],
            xattrs: TableBuilder::default(),
            layer: 0,
            recent: None,
        }
    }

    fn begin_layer(&mut self, position: usize) -> Result<()> {
        self.layer = u16::try_from(position)
            .map_err(|_| Error::invalid(format!("image of over {position} layers")))?;
        self.recent = None;
        Ok(())
    }

    fn apply(&mut self, entry: Entry) -> Result<()> {
        limits::check(&entry).map_err(|why| self.refuse(&entry.path, why))?;
        let (parent, name) = split(&entry.path);
        if name.is_empty() {
            return self.apply_root(entry);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.apply_whiteout(&entry.path, parent, hidden);
        }
        let directory = self.parent_of(&entry.path, parent)?;
        if let Some(existing) = self.child(directory, name).copied() {
            if entry.kind == EntryKind::Directory && self.is_directory(existing.node) {
                self.link(directory, name, existing.node);
                self.set_metadata(existing.node, entry);
                return Ok(());
            }
            // Before a hard link looks for its target, which this may be or may hold.
            self.children_mut(directory).remove(name);
            self.recent = None;
        }
        let node = self.make(directory, &entry)?;
        self.link(directory, name, node);
        if !matches!(entry.kind, EntryKind::Hardlink(_)) {
            self.set_metadata(node, entry);
        }
        Ok(())
    }

    fn apply_root(&mut self, entry: Entry) -> Result<()> {
        if entry.kind != EntryKind::Directory {
            return Err(self.refuse(&entry.path, "the root is not a directory"));
        }
        self.set_metadata(ROOT, entry);
        Ok(())
    }

    /// Removes what lower layers left at `parent/hidden`, or below `parent` if it is opaque.
    fn apply_whiteout(&mut self, path: &[u8], parent: &[u8], hidden: &[u8]) -> Result<()> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(self.refuse(path, "whiteout without a name"));
        }
        self.recent = None;
        let Some(directory) = self.find_directory(path, parent)? else {
            return Ok(());
        };
        if hidden == OPAQUE {
            self.remove_lower(directory);
            return Ok(());
        }
        let layer = self.layer;
        let Some(link) = self.child(directory, hidden).copied() else {
            return Ok(());
        };
        if link.touched == layer {
            self.remove_lower(link.node);
        } else {
            self.children_mut(directory).remove(hidden);
        }
        Ok(())
    }

    /// Removes all names below `directory` that this layer has not touched.
    fn remove_lower(&mut self, directory: u32) {
        let layer = self.layer;
        let mut pending = vec![directory];
        while let Some(node) = pending.pop() {
            if let Content::Directory { children, .. } = &mut self.nodes[node as usize].content {
                children.retain(|_, link| link.touched == layer);
                pending.extend(children.values().map(|link| link.node));
            }
        }
    }

    /// The node for a new name: a new one, or for a hard link the one that it names.
    fn make(&mut self, directory: u32, entry: &Entry) -> Result<u32> {
        let content = match &entry.kind {
            EntryKind::Directory => {
                let depth = self.depth(directory) + 1;
                if depth > MAX_DEPTH {
                    return Err(self.refuse(&entry.path, "directory is too deep"));
                }
                Content::directory(depth)
            }
            EntryKind::Regular { size, chunks } => Content::Regular {
                size: *size,
                layer: self.layer,
                first_chunk: chunks.start,
                chunk_count: chunks.end - chunks.start,
            },
            EntryKind::Symlink(target) => Content::Symlink(target.clone()),
            EntryKind::Hardlink(target) => return self.link_target(&entry.path, target),
            EntryKind::CharDevice { major, minor } => {
                Content::Device(Kind::CharDevice, encode_device(*major, *minor))
            }
            EntryKind::BlockDevice { major, minor } => {
                Content::Device(Kind::BlockDevice, encode_device(*major, *minor))
            }
            EntryKind::Fifo => Content::Fifo,
        };
        self.add(Node {
            content,
            ..Node::implied(0)
        })
    }

    /// What a hard link's target names now. A symlink as the last component is linked itself.
    fn link_target(&mut self, path: &[u8], target: &[u8]) -> Result<u32> {
        let (parent, name) = split(target);
        let found = match self.find_directory(path, parent)? {
            Some(directory) if !name.is_empty() => self.child(directory, name).map(|it| it.node),
            Some(_) => Some(ROOT),
            None => None,
        };
        let shown = target.escape_ascii();
        let Some(node) = found else {
            return Err(self.refuse(path, format!("hard link to \"{shown}\", which is missing")));
        };
        if self.is_directory(node) {
            return Err(self.refuse(path, format!("hard link to \"{shown}\", a directory")));
        }
        Ok(node)
    }

    /// The directory of a new entry, made if it is implied, its names marked as this layer's.
    fn parent_of(&mut self, path: &[u8], parent: &[u8]) -> Result<u32> {
        if let Some((recent, node)) = &self.recent
            && **recent == *parent
        {
            return Ok(*node);
        }
        let trail = self.follow(path, parent)?;
        let mut at = ROOT;
        for name in trail {
            let link = self.child(at, &name).copied();
            let node = match link {
                Some(link) if self.is_directory(link.node) => link.node,
                Some(_) => {
                    let shown = name.escape_ascii();
                    let why = format!("its parent \"{shown}\" is not a directory");
                    return Err(self.refuse(path, why));
                }
                None => {
                    let depth = self.depth(at) + 1;
                    if depth > MAX_DEPTH {
                        return Err(self.refuse(path, "directory is too deep"));
                    }
                    self.add(Node::implied(depth))?
                }
            };
            let touched = self.layer;
            self.children_mut(at).insert(name, Link { node, touched });
            at = node;
        }
        self.recent = Some((parent.into(), at));
        Ok(at)
    }

    /// As [`Merge::parent_of`], but only if it is there already.
    fn find_directory(&mut self, path: &[u8], parent: &[u8]) -> Result<Option<u32>> {
        let trail = self.follow(path, parent)?;
        let mut at = ROOT;
        for name in trail {
            match self.child(at, &name).copied() {
                Some(link) if self.is_directory(link.node) => at = link.node,
                _ => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// The components of `parent` after following symlinks inside the root. What does not exist
    /// stays as it is written, so that it can be made.
    fn follow(&self, path: &[u8], parent: &[u8]) -> Result<Vec<Box<[u8]>>> {
        let mut trail: Vec<(Box<[u8]>, Option<u32>)> = Vec::new();
        let mut components = Components::new(parent);
        while let Some(step) = components.next() {
            let name = match step {
                Step::Root => {
                    trail.clear();
                    continue;
                }
                Step::Up => {
                    trail.pop();
                    continue;
                }
                Step::Down(name) => name,
            };
            let at = trail.last().map_or(Some(ROOT), |(_, node)| *node);
            let child = at.and_then(|at| self.child(at, &name)).map(|it| it.node);
            match child.map(|node| &self.nodes[node as usize].content) {
                Some(Content::Symlink(target)) => {
                    let followed = components.follow(target);
                    followed.map_err(|HopLimit| self.refuse(path, HopLimit))?;
                }
                _ => trail.push((name, child)),
            }
        }
        Ok(trail.into_iter().map(|(name, _)| name).collect())
    }

    fn link(&mut self, directory: u32, name: &[u8], node: u32) {
        let touched = self.layer;
        let link = Link { node, touched };
        self.children_mut(directory).insert(name.into(), link);
    }

    fn set_metadata(&mut self, node: u32, entry: Entry) {
        let xattrs = self.xattrs.number(entry.xattrs);
        let node = &mut self.nodes[node as usize];
        node.mode = match node.content {
            Content::Symlink(_) => 0o777,
            _ => entry.mode & 0o7777,
        };
        node.uid = entry.uid;
        node.gid = entry.gid;
        node.mtime = entry.mtime;
        node.mtime_nanos = entry.mtime_nanos;
        node.xattrs = xattrs;
    }

    fn add(&mut self, node: Node) -> Result<u32> {
        let number = u32::try_from(self.nodes.len());
        let number = number.map_err(|_| Error::invalid("image of over 2^32 entries"))?;
        self.nodes.push(node);
        Ok(number)
    }

    fn child(&self, directory: u32, name: &[u8]) -> Option<&Link> {
        match &self.nodes[directory as usize].content {
            Content::Directory { children, .. } => children.get(name),
            _ => None,
        }
    }

    fn children_mut(&mut self, directory: u32) -> &mut BTreeMap<Box<[u8]>, Link> {
        match &mut self.nodes[directory as usize].content {
            Content::Directory { children, .. } => children,
            _ => unreachable!("only directories are looked into"),
        }
    }

    fn is_directory(&self, node: u32) -> bool {
        matches!(self.nodes[node as usize].content, Content::Directory { .. })
    }

    fn depth(&self, node: u32) -> u32 {
        match self.nodes[node as usize].content {
            Content::Directory { depth, .. } => depth,
            _ => 0,
        }
    }

    fn refuse(&self, path: &[u8], why: impl std::fmt::Display) -> Error {
        refusal(usize::from(self.layer), path, why)
    }
}

// === impl Node ===

impl Node {
    /// A directory that no entry describes.
    fn implied(depth: u32) -> Node {
        Node {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_nanos: 0,
            xattrs: 0,
            content: Content::directory(depth),
        }
    }
}

// === impl Content ===

impl Content {
    fn directory(depth: u32) -> Content {
        Content::Directory {
            children: BTreeMap::new(),
            depth,
        }
    }
}

/// Parent path and last component.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// The kernel's 32-bit encoding; [`limits::check`] has seen that both fit.
fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Number of the root's node.
pub(super) const ROOT: u32 = 0;
/// Prefix of a name that removes the rest of the name.
const WHITEOUT: &[u8] = b".wh.";
/// What follows [`WHITEOUT`] in the name that removes a directory's lower content.
const OPAQUE: &[u8] = b".wh..opq";
