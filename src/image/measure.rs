//! What an image is, in a few digests: of its tree, which does not depend on how it was packed, and of
//! its EROFS form as dm-verity has it. For those who compare what runs with what was built.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::verity::{Root, Verity};
use crate::{
    engine::{Engine, FileData, ReadFile as _},
    erofs::{self, BLOCK, Layout, Piece},
    error::{Error, Kind as ErrorKind, Result},
    oci::Digest,
    open::OpenImage,
    tree::{Ino, Kind, Tree},
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
    /// Root hashes of the EROFS form (docs/formats/erofs.md); `None` if EROFS cannot hold the tree.
    pub erofs: Option<ErofsRoots>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erofs_missing: Option<String>,
}

/// Root hashes of an image's EROFS form, as `veritysetup format --format=1` gives them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErofsRoots {
    /// `sha256`
    pub hash: &'static str,
    /// Bytes in a block, of data and of hashes.
    pub block_size: u64,
    /// Hexadecimal; empty for none.
    pub salt: String,
    /// Of the metadata image: names, attributes, and where data is.
    pub metadata: VerityRoot,
    /// Of the device that has the files' data.
    pub data: VerityRoot,
}

/// The root hash of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerityRoot {
    /// Blocks of the device.
    pub blocks: u64,
    /// Hexadecimal.
    pub root_hash: String,
}

/// How an image is measured.
#[derive(Clone, Debug, Default)]
pub struct MeasureOptions {
    /// What comes before each block that is hashed; at most [`MAX_SALT`] bytes.
    pub salt: Vec<u8>,
    /// Directory that gets both devices as files, which must not be there; not of encrypted images.
    pub export: Option<PathBuf>,
}

/// Longest salt that dm-verity takes.
pub const MAX_SALT: usize = 256;
/// Files that [`MeasureOptions::export`] gets.
const METADATA: &str = "metadata.erofs";
const DATA: &str = "data.img";

/// Bytes of a file that are read at a time.
const PIECE: u32 = 1 << 20;
/// What the hashed text begins with; another form would have another.
const MAGIC: &[u8] = b"nacre tree 1\n";

/// Measures an admitted image; every byte of its files is read and verified.
///
/// # Errors
/// As reading its files; `Invalid` if the salt is too long, `Denied` if plaintext of an encrypted image
/// would be exported, `Io` if that cannot be written.
pub async fn measure(image: &OpenImage, options: &MeasureOptions) -> Result<Measurement> {
    let grant = &image.grant;
    if options.salt.len() > MAX_SALT {
        return Err(Error::invalid(format!(
            "salt of {} bytes: at most {MAX_SALT}",
            options.salt.len()
        )));
    }
    if options.export.is_some() && grant.class().is_encrypted() {
        return Err(Error::denied(format!(
            "{}: plaintext of an encrypted image is not written to disk",
            grant.reference()
        ))
        .with_hint("measure it without exporting, or decrypt it with `nacre image decrypt`"));
    }
    let mut contents = HashMap::new();
    let (erofs, erofs_missing) = match roots(image, options, &mut contents).await {
        Ok(roots) => (Some(roots), None),
        // Without it files are read one by one.
        Err(error) if error.kind() == ErrorKind::Unsupported && options.export.is_none() => {
            (None, Some(error.to_string()))
        }
        Err(error) => return Err(error),
    };
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
            let content = match contents.remove(&ino.number()) {
                Some(content) => Ok(content),
                None => content(&image.engine, file).await,
            };
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
        erofs,
        erofs_missing,
    })
}

/// Root hashes of the EROFS form. Files are read once, in the order in which they lie on the device;
/// what is learned of their contents on the way comes into `contents`, by inode.
async fn roots(
    image: &OpenImage,
    options: &MeasureOptions,
    contents: &mut HashMap<u64, [u8; 32]>,
) -> Result<ErofsRoots> {
    let (tree, engine) = (&image.tree, &image.engine);
    let layout = Layout::new(tree, |file| engine.zeros(file))?;
    let mut export = options.export.as_deref().map(Export::create).transpose()?;
    let metadata = metadata(tree, &layout, &options.salt, export.as_mut())?;
    let mut verity = Verity::new(&options.salt);
    let mut reading: Option<Reading> = None;
    let mut offset = 0;
    while offset < layout.bytes() {
        for piece in layout.pieces(tree, offset, PIECE) {
            let bytes = match piece {
                Piece::Zeros(count) => {
                    let count = usize::try_from(count);
                    vec![0; count.map_err(|_| Error::internal("a piece of a device"))?].into()
                }
                Piece::File {
                    ino,
                    offset,
                    length,
                } => {
                    let file = tree.file(ino);
                    let file = file.ok_or_else(|| Error::internal("a device without its file"))?;
                    let bytes = engine.read_async(file, offset, length).await;
                    let within = |e: Error| e.context(tree.path(ino).escape_ascii().to_string());
                    let bytes = bytes.map_err(within)?;
                    if bytes.len() as u64 != u64::from(length) {
                        return Err(within(Error::internal(format!("no bytes at {offset}"))));
                    }
                    let mut now = match reading.take() {
                        Some(same) if same.ino == ino => same,
                        other => {
                            finish(other, contents);
                            Reading::new(ino, file.size)
                        }
                    };
                    now.take(offset, &bytes);
                    reading = Some(now);
                    bytes
                }
            };
            verity.update(&bytes);
            if let Some(export) = &mut export {
                export.data(&bytes)?;
            }
        }
        offset += u64::from(PIECE);
    }
    finish(reading, contents);
    if let Some(export) = export {
        export.finish()?;
    }
    Ok(ErofsRoots {
        hash: "sha256",
        block_size: BLOCK,
        salt: hex::encode(&options.salt),
        metadata: metadata.into(),
        data: verity.finish().into(),
    })
}

fn metadata(
    tree: &Tree,
    layout: &Layout,
    salt: &[u8],
    export: Option<&mut Export>,
) -> Result<Root> {
    // Names in an encrypted image are nothing for a disk.
    let failed = |e| Error::io("EROFS image in memory", e);
    let memory = memfd_create(c"nacre-erofs", MemfdFlags::CLOEXEC);
    let mut image = File::from(memory.map_err(|e| failed(e.into()))?);
    erofs::write(tree, layout, &mut image)?;
    image.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut verity = Verity::new(salt);
    let mut piece = vec![0; 1 << 20];
    let mut copy = export.map(|it| &mut it.metadata);
    loop {
        let count = image.read(&mut piece).map_err(failed)?;
        if count == 0 {
            return Ok(verity.finish());
        }
        verity.update(&piece[..count]);
        if let Some((path, file)) = copy.as_deref_mut() {
            let written = file.write_all(&piece[..count]);
            written.map_err(|e| Error::io(path.display().to_string(), e))?;
        }
    }
}

/// The content of a file that is being read, from the beginning on.
struct Reading {
    ino: Ino,
    size: u64,
    at: u64,
    hash: Sha256,
}

// === impl Reading ===

impl Reading {
    fn new(ino: Ino, size: u64) -> Self {
        Self {
            ino,
            size,
            at: 0,
            hash: Sha256::new(),
        }
    }

    fn take(&mut self, offset: u64, bytes: &[u8]) {
        self.zeros(offset);
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
    }

    /// What has no place on the device is zeros.
    fn zeros(&mut self, until: u64) {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.at < until {
            let count = (until - self.at).min(ZEROS.len() as u64);
            self.hash
                .update(&ZEROS[..usize::try_from(count).unwrap_or(0)]);
            self.at += count;
        }
    }
}

fn finish(reading: Option<Reading>, contents: &mut HashMap<u64, [u8; 32]>) {
    if let Some(mut reading) = reading {
        reading.zeros(reading.size);
        contents.insert(reading.ino.number(), reading.hash.finalize().into());
    }
}

/// Both devices as files.
struct Export {
    metadata: (PathBuf, File),
    data: (PathBuf, File),
}

// === impl Export ===

impl Export {
    fn create(directory: &Path) -> Result<Self> {
        let failed = |path: &Path, e| Error::io(path.display().to_string(), e);
        std::fs::create_dir_all(directory).map_err(|e| failed(directory, e))?;
        let create = |name: &str| {
            let path = directory.join(name);
            let file = File::create_new(&path).map_err(|e| failed(&path, e))?;
            Ok::<_, Error>((path, file))
        };
        Ok(Self {
            metadata: create(METADATA)?,
            data: create(DATA)?,
        })
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let (path, file) = &mut self.data;
        let written = file.write_all(bytes);
        written.map_err(|e| Error::io(path.display().to_string(), e))
    }

    fn finish(self) -> Result<()> {
        for (path, file) in [self.metadata, self.data] {
            let synced = file.sync_all();
            synced.map_err(|e| Error::io(path.display().to_string(), e))?;
        }
        Ok(())
    }
}

// === impl VerityRoot ===

impl From<Root> for VerityRoot {
    fn from(root: Root) -> Self {
        Self {
            blocks: root.blocks,
            root_hash: hex::encode(root.hash),
        }
    }
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
