//! Numbers a merged tree's inodes and packs them.

use std::collections::BTreeMap;

use super::merge::{Content, Link, Merge, Node, ROOT};
use super::{Inode, Kind, Name, Tree};
use crate::error::{Error, Result};

// === impl Merge ===

impl Merge {
    /// Goes through the directories breadth first, names sorted, and numbers each inode at its
    /// first name.
    pub(super) fn freeze(self) -> Result<Tree> {
        let Merge {
            mut nodes, xattrs, ..
        } = self;
        let mut tree = Tree {
            inodes: Vec::with_capacity(nodes.len()),
            names: Vec::with_capacity(nodes.len()),
            bytes: Vec::new(),
            xattrs: super::xattrs::Table::default(),
            file_bytes: 0,
        };
        let mut numbers = vec![UNSEEN; nodes.len()];
        numbers[ROOT as usize] = 0;
        let children = tree.push(&mut nodes[ROOT as usize], 0)?;
        let mut level = vec![(0_u32, children)];
        while !level.is_empty() {
            let mut below = Vec::new();
            for (directory, children) in level {
                tree.begin_names(directory, children.len())?;
                for (name, link) in children {
                    let number = &mut numbers[link.node as usize];
                    if *number == UNSEEN {
                        *number = to_u32(tree.inodes.len())?;
                        let content = tree.push(&mut nodes[link.node as usize], directory)?;
                        if tree.inodes[*number as usize].kind() == Kind::Directory {
                            below.push((*number, content));
                        }
                    }
                    tree.push_name(directory, &name, *number)?;
                }
            }
            level = below;
        }
        drop(nodes);
        tree.xattrs = xattrs.freeze(tree.inodes.iter_mut().map(|inode| &mut inode.xattrs));
        tree.inodes.shrink_to_fit();
        tree.names.shrink_to_fit();
        tree.bytes.shrink_to_fit();
        Ok(tree)
    }
}

// === impl Tree ===

impl Tree {
    /// Packs `node` as the next inode and takes its children from it.
    fn push(&mut self, node: &mut Node, parent: u32) -> Result<BTreeMap<Box<[u8]>, Link>> {
        let mut inode = Inode {
            mtime: node.mtime,
            a: 0,
            b: 0,
            c: 0,
            mtime_nanos: node.mtime_nanos,
            uid: node.uid,
            gid: node.gid,
            nlink: 0,
            parent,
            xattrs: node.xattrs,
            layer: 0,
            mode: 0,
        };
        let mut children = BTreeMap::new();
        let kind = match &mut node.content {
            Content::Directory {
                children: taken, ..
            } => {
                children = std::mem::take(taken);
                inode.nlink = 2;
                Kind::Directory
            }
            Content::Regular {
                size,
                layer,
                first_chunk,
                chunk_count,
            } => {
                inode.a = *size;
                inode.b = *first_chunk;
                inode.c = *chunk_count;
                inode.layer = *layer;
                self.file_bytes = self.file_bytes.saturating_add(*size);
                Kind::Regular
            }
            Content::Symlink(target) => {
                inode.b = to_u32(self.bytes.len())?;
                inode.c = to_u32(target.len())?;
                self.bytes.extend_from_slice(target);
                Kind::Symlink
            }
            Content::Device(kind, number) => {
                inode.a = u64::from(*number);
                *kind
            }
            Content::Fifo => Kind::Fifo,
        };
        inode.mode = kind.code() << 12 | node.mode & 0o7777;
        self.inodes.push(inode);
        Ok(children)
    }

    fn begin_names(&mut self, directory: u32, count: usize) -> Result<()> {
        let first = to_u32(self.names.len())?;
        let inode = &mut self.inodes[directory as usize];
        inode.b = first;
        inode.c = to_u32(count)?;
        Ok(())
    }

    fn push_name(&mut self, directory: u32, name: &[u8], inode: u32) -> Result<()> {
        let offset = to_u32(self.bytes.len())?;
        let length = u8::try_from(name.len()).expect("names were checked to be at most 255 bytes");
        self.bytes.push(length);
        self.bytes.extend_from_slice(name);
        self.names.push(Name { offset, inode });
        let named = &mut self.inodes[inode as usize];
        if named.kind() == Kind::Directory {
            self.inodes[directory as usize].nlink += 1;
        } else {
            named.nlink += 1;
        }
        Ok(())
    }
}

fn to_u32(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(|_| Error::invalid("image whose names take over 4 GiB"))
}

/// Number of a node that no name has led to yet.
const UNSEEN: u32 = u32::MAX;
