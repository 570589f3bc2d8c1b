//! Extended attributes: what several inodes have is stored once, the rest behind its inode.

use std::collections::HashMap;

use super::disk::XATTR_HEADER;
use crate::error::{Error, Result};
use crate::tree::{Ino, Tree, Xattrs};

/// All sets of a tree as the image has them.
#[derive(Debug, Default)]
pub(super) struct Sets {
    /// What follows an inode, by the number of its set less one.
    bodies: Vec<Box<[u8]>>,
    /// The attributes that several inodes have.
    shared: Vec<u8>,
}

type Pair<'t> = (&'t [u8], &'t [u8]);

// === impl Sets ===

impl Sets {
    /// Encodes the sets of `tree`.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported) naming the file that has an attribute which
    /// the format cannot hold.
    pub(super) fn new(tree: &Tree) -> Result<Sets> {
        if !tree.has_xattrs() {
            return Ok(Sets::default());
        }
        let inodes = || (1..=tree.inode_count() as u64).filter_map(|number| tree.ino(number));
        let mut users: HashMap<Pair<'_>, u32> = HashMap::new();
        // Sets are numbered in the order of the inodes that have them.
        let mut first_user: Vec<Ino> = Vec::new();
        for ino in inodes() {
            let Some(index) = index(tree, ino) else {
                continue;
            };
            if index == first_user.len() {
                first_user.push(ino);
            }
            for pair in tree.xattrs(ino).iter() {
                *users.entry(pair).or_default() += 1;
            }
        }
        let mut sets = Sets::default();
        let mut ids = HashMap::new();
        for ino in first_user {
            let body = sets.encode(tree.xattrs(ino), &users, &mut ids);
            let body = body.map_err(|why| {
                let path = tree.path(ino);
                Error::unsupported(format!("file \"{}\": {why}", path.escape_ascii()))
            })?;
            sets.bodies.push(body.into());
        }
        Ok(sets)
    }

    /// What follows inode `ino`.
    pub(super) fn body(&self, tree: &Tree, ino: Ino) -> &[u8] {
        index(tree, ino).map_or(&[], |index| &self.bodies[index])
    }

    /// The area of attributes that several inodes have.
    pub(super) fn shared(&self) -> &[u8] {
        &self.shared
    }

    fn encode<'t>(
        &mut self,
        set: Xattrs<'t>,
        users: &HashMap<Pair<'t>, u32>,
        ids: &mut HashMap<Pair<'t>, u32>,
    ) -> Result<Vec<u8>, String> {
        let (mut shared, mut own) = (Vec::new(), Vec::new());
        for pair in set.iter() {
            let several = users.get(&pair).is_some_and(|&users| users > 1);
            if !several || shared.len() == MAX_SHARED {
                put(pair, &mut own)?;
                continue;
            }
            let id = match ids.get(&pair) {
                Some(&id) => id,
                None => {
                    let id = u32::try_from(self.shared.len() / 4)
                        .map_err(|_| "extended attributes of over 16 GiB".to_owned())?;
                    put(pair, &mut self.shared)?;
                    ids.insert(pair, id);
                    id
                }
            };
            shared.push(id);
        }
        let mut body = vec![0; XATTR_HEADER];
        body[4] = u8::try_from(shared.len()).expect("it has been counted");
        body.extend(shared.iter().flat_map(|id| id.to_le_bytes()));
        body.append(&mut own);
        if (body.len() - XATTR_HEADER) / 4 >= usize::from(u16::MAX) {
            return Err(format!(
                "extended attributes of {} bytes; EROFS has room for 256 KiB",
                body.len()
            ));
        }
        Ok(body)
    }
}

/// Appends one attribute, aligned.
fn put((name, value): Pair<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let shown = || name.escape_ascii();
    let found = PREFIXES
        .iter()
        .find_map(|(prefix, number)| Some((name.strip_prefix(*prefix)?, number)));
    let (rest, number) = found.ok_or_else(|| {
        format!(
            "extended attribute {} is in a name space that EROFS does not have",
            shown()
        )
    })?;
    let whole = WHOLE.contains(number);
    if rest.is_empty() != whole {
        return Err(format!("extended attribute {} has no such name", shown()));
    }
    let name_length = u8::try_from(rest.len())
        .map_err(|_| format!("extended attribute {}: name of over 255 bytes", shown()))?;
    let value_length = u16::try_from(value.len()).map_err(|_| {
        format!(
            "extended attribute {}: value of {} bytes; EROFS has room for 65,535",
            shown(),
            value.len()
        )
    })?;
    out.extend([name_length, *number]);
    out.extend(value_length.to_le_bytes());
    out.extend_from_slice(rest);
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

fn index(tree: &Tree, ino: Ino) -> Option<usize> {
    (tree.xattr_set(ino) as usize).checked_sub(1)
}

/// Name spaces and their numbers.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];
/// Those that are whole names.
const WHOLE: [u8; 2] = [2, 3];
/// What an inode can count of shared ones.
const MAX_SHARED: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(name: &[u8], value: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        put((name, value), &mut out).map(|()| out)
    }

    #[test]
    fn prefixes_become_numbers() {
        assert_eq!(encoded(b"user.a", b"v").unwrap(), b"\x01\x01\x01\0av\0\0");
        assert_eq!(encoded(b"trusted.ab", b"").unwrap(), b"\x02\x04\0\0ab\0\0");
        assert_eq!(
            encoded(b"security.s", b"vvv").unwrap(),
            b"\x01\x06\x03\0svvv"
        );
        assert_eq!(
            encoded(b"system.posix_acl_access", b"acl").unwrap(),
            b"\x00\x02\x03\0acl\0"
        );
        assert_eq!(
            encoded(b"system.posix_acl_default", b"").unwrap(),
            b"\0\x03\0\0"
        );
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        for name in [
            &b"system.nfs4_acl"[..],
            b"btrfs.compression",
            b"nothing",
            b"user.",
            b"system.posix_acl_access2",
        ] {
            assert!(encoded(name, b"").is_err(), "{}", name.escape_ascii());
        }
        let long = [&b"user."[..], &[b'n'; 256]].concat();
        assert!(encoded(&long[..260], b"").is_ok());
        assert!(encoded(&long, b"").is_err());
        assert!(encoded(b"user.v", &[0; 65_535]).is_ok());
        assert!(encoded(b"user.v", &[0; 65_536]).is_err());
    }
}
