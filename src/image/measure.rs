//! What an image is, in a few digests that do not depend on how it was packed: for those who compare
//! what runs with what was built.

use std::collections::HashMap;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    engine::{Engine, FileData},
    error::{Error, Result},
    oci::Digest,
    open::OpenImage,
    tree::{Kind, Tree},
};

/// An image's digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Measurement {
    /// What was asked for.
    pub reference: String,
    /// Which image of an index.
    pub platform: String,
    /// The index, if the reference names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_digest: Option<Digest>,
    /// The manifest.
    pub manifest_digest: Digest,
    /// The configuration.
    pub config_digest: Digest,
    /// The merged tree (docs/formats/tree-digest.md).
    pub tree_digest: Digest,
    /// Names in the tree, the root among them.
    pub entries: u64,
    /// Bytes of all files.
    pub file_bytes: u64,
}

/// Bytes of a file that are read at a time.
const PIECE: u32 = 1 << 20;
/// What the hashed text begins with; another form would have another.
const MAGIC: &[u8] = b"nacre tree 1\n";

/// Measures an admitted image; every byte of its files is read and verified.
///
/// # Errors
/// As reading its files.
pub async fn measure(image: &OpenImage) -> Result<Measurement> {
    let grant = &image.grant;
    let mut hash = Sha256::new();
    hash.update(MAGIC);
    let (mut entries, mut file_bytes) = (0, 0);
    let mut seen: HashMap<u64, Vec<u8>> = HashMap::new();
    for (path, ino) in image.tree.walk() {
        entries += 1;
        let attributes = image.tree.attributes(ino);
        let mut text = Vec::new();
        field(&mut text, &path);
        let kind = letter(attributes.kind);
        let other_name = match attributes.kind {
            Kind::Directory => None,
            _ if attributes.nlink > 1 => seen.get(&ino.number()),
            _ => None,
        };
        if let Some(first) = other_name {
            text.push(b'h');
            field(&mut text, first);
            hash.update(&text);
            continue;
        }
        if attributes.nlink > 1 && attributes.kind != Kind::Directory {
            seen.insert(ino.number(), path.clone());
        }
        text.push(kind);
        for number in [
            u32::from(attributes.mode),
            attributes.uid,
            attributes.gid,
            attributes.mtime_nanos,
            attributes.rdev,
        ] {
            text.extend_from_slice(&number.to_le_bytes());
        }
        text.extend_from_slice(&attributes.mtime.to_le_bytes());
        attach_xattrs(&mut text, &image.tree, ino);
        if let Some(target) = image.tree.read_link(ino) {
            field(&mut text, target);
        }
        if let Some(file) = image.tree.file(ino) {
            let content = content(&image.engine, file).await;
            let within = |e: Error| e.context(String::from_utf8_lossy(&path).into_owned());
            text.extend_from_slice(&file.size.to_le_bytes());
            text.extend_from_slice(&content.map_err(within)?);
            file_bytes += file.size;
        }
        hash.update(&text);
    }
    let tree = format!("sha256:{}", hex::encode(hash.finalize()));
    Ok(Measurement {
        reference: grant.reference().to_string(),
        platform: grant.platform().to_string(),
        index_digest: grant.index_digest().cloned(),
        manifest_digest: grant.manifest_digest().clone(),
        config_digest: grant.manifest().config.digest.clone(),
        tree_digest: tree.parse()?,
        entries,
        file_bytes,
    })
}

fn attach_xattrs(text: &mut Vec<u8>, tree: &Tree, ino: crate::tree::Ino) {
    let all = tree.xattrs(ino);
    text.extend_from_slice(&(all.iter().len() as u64).to_le_bytes());
    for (name, value) in all.iter() {
        field(text, name);
        field(text, value);
    }
}

/// SHA-256 of a file's bytes.
async fn content(engine: &Engine, file: FileData) -> Result<[u8; 32]> {
    let (mut hash, mut offset) = (Sha256::new(), 0);
    while offset < file.size {
        let bytes = engine.read_async(file, offset, PIECE).await?;
        if bytes.is_empty() {
            return Err(Error::internal(format!("no bytes at {offset}")));
        }
        hash.update(&bytes);
        offset += bytes.len() as u64;
    }
    Ok(hash.finalize().into())
}

/// Its length, and then the text: no two lists of fields look alike.
fn field(text: &mut Vec<u8>, bytes: &[u8]) {
    text.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    text.extend_from_slice(bytes);
}

fn letter(kind: Kind) -> u8 {
    match kind {
        Kind::Directory => b'd',
        Kind::Regular => b'f',
        Kind::Symlink => b'l',
        Kind::CharDevice => b'c',
        Kind::BlockDevice => b'b',
        Kind::Fifo => b'p',
    }
}
