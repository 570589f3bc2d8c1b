//! Merged trees against what umoci unpacks from the same layers. Needs root and umoci; says so
//! when it skips.

// Clippy knows only functions marked as tests, not those that they call.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nacre::index::{Entry, EntryKind};
use nacre::tree::{Kind, Tree};
use sha2::{Digest, Sha256};

/// One name, as both sides tell it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    /// Of what an entry describes; implied directories have no time of their own.
    mtime: Option<i64>,
    size: u64,
    target: Option<Vec<u8>>,
    xattr: Option<Vec<u8>>,
    /// The first path of the same inode.
    first: PathBuf,
}

/// What an image leads to: its names, or a refusal.
type Outcome = Result<BTreeMap<PathBuf, Seen>, String>;

/// The random numbers of a seed (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        let names: Vec<_> = (0..depth)
            .map(|_| ["a", "b", "c"][usize::try_from(self.below(3)).unwrap()])
            .collect();
        names.join("/")
    }

    fn entry(&mut self) -> Entry {
        let path = self.path();
        let (parent, name) = match path.rsplit_once('/') {
            Some((parent, name)) => (format!("{parent}/"), name),
            None => (String::new(), &*path),
        };
        match self.below(16) {
            0 => return entry(&format!("{parent}.wh.{name}"), regular(0)),
            1 => return entry(&format!("{path}/.wh..wh..opq"), regular(0)),
            _ => {}
        }
        let kind = match self.below(14) {
            0..5 => EntryKind::Directory,
            5..9 => regular(self.below(5000)),
            9 => symlink(&self.path()),
            10 => symlink(&format!("/{}", self.path())),
            11 => symlink(&format!("../{}", self.path())),
            12 => EntryKind::Hardlink(self.path().into_bytes().into()),
            _ => EntryKind::Fifo,
        };
        let mut entry = entry(&path, kind);
        entry.mode = u16::try_from(self.below(0o10000)).unwrap();
        if entry.kind == EntryKind::Directory {
            // Implied directories would inherit the group from it, by the unpacking kernel.
            entry.mode &= !0o2000;
        }
        entry.uid = u32::try_from(self.below(3)).unwrap();
        entry.gid = u32::try_from(self.below(3)).unwrap();
        entry.mtime = 1_000_000 + i64::try_from(self.below(1_000_000)).unwrap();
        let marked = matches!(entry.kind, EntryKind::Regular { .. } | EntryKind::Directory);
        if marked && self.below(3) == 0 {
            let value = self.below(1000).to_string().into_bytes();
            entry.xattrs = vec![(XATTR.as_bytes().into(), value.into())];
        }
        entry
    }

    /// Layers as they come, or without the entries that we refuse.
    fn layers(&mut self, only_accepted: bool) -> Vec<Vec<Entry>> {
        let mut layers: Vec<Vec<Entry>> = Vec::new();
        for _ in 0..1 + self.below(3) {
            layers.push(Vec::new());
            for _ in 0..self.below(12) {
                let last = layers.len() - 1;
                layers[last].push(self.entry());
                if only_accepted && Tree::merge(layers.clone()).is_err() {
                    layers[last].pop();
                }
            }
        }
        layers
    }
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.as_bytes().into(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 1_000_000,
        mtime_nanos: 0,
        xattrs: Vec::new(),
    }
}

fn regular(size: u64) -> EntryKind {
    EntryKind::Regular { size, chunks: 0..1 }
}

fn symlink(target: &str) -> EntryKind {
    EntryKind::Symlink(target.as_bytes().into())
}

fn path_of(bytes: &[u8]) -> PathBuf {
    std::ffi::OsStr::from_bytes(bytes).into()
}

// === the two sides ===

fn merged(layers: &[Vec<Entry>]) -> Outcome {
    let tree = Tree::merge(layers.to_vec()).map_err(|error| error.to_string())?;
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut names: Vec<_> = tree
        .walk()
        .map(|(path, ino)| (path_of(&path), ino))
        .collect();
    names.sort();
    let seen = names.into_iter().map(|(path, ino)| {
        let found = tree.attributes(ino);
        let directory = found.kind == Kind::Directory;
        let seen = Seen {
            kind: found.kind,
            mode: u32::from(found.mode),
            owner: (found.uid, found.gid),
            mtime: (found.mtime != 0).then_some(found.mtime),
            size: if directory { 0 } else { found.size },
            target: tree.read_link(ino).map(<[u8]>::to_vec),
            xattr: tree.xattr(ino, XATTR.as_bytes()).map(<[u8]>::to_vec),
            first: first
                .entry(ino.number())
                .or_insert_with(|| path.clone())
                .clone(),
        };
        (path, seen)
    });
    Ok(seen.collect())
}

fn unpacked(layers: &[Vec<Entry>], base: &Path) -> Outcome {
    let image = base.join("image");
    let rootfs = base.join("rootfs");
    write_layout(layers, &image);
    let mut umoci = Command::new("umoci");
    umoci
        .args(["raw", "unpack", "--image"])
        .arg(format!("{}:latest", image.display()));
    let output = umoci.arg(&rootfs).output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let mut paths = vec![PathBuf::new()];
    let mut at = 0;
    while let Some(path) = paths.get(at).cloned() {
        at += 1;
        let full = rootfs.join(&path);
        if fs::symlink_metadata(&full).unwrap().is_dir() {
            paths.extend(
                fs::read_dir(&full)
                    .unwrap()
                    .map(|it| path.join(it.unwrap().file_name())),
            );
        }
    }
    paths.sort();
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let seen = paths.into_iter().map(|path| {
        let full = rootfs.join(&path);
        let found = fs::symlink_metadata(&full).unwrap();
        let kind = match found.mode() & 0o170_000 {
            0o40000 => Kind::Directory,
            0o100_000 => Kind::Regular,
            0o120_000 => Kind::Symlink,
            0o20000 => Kind::CharDevice,
            0o60000 => Kind::BlockDevice,
            _ => Kind::Fifo,
        };
        let mut value = [0; 64];
        let length = rustix::fs::lgetxattr(&full, XATTR, &mut value);
        let seen = Seen {
            kind,
            mode: found.mode() & 0o7777,
            owner: (found.uid(), found.gid()),
            mtime: Some(found.mtime()),
            size: if kind == Kind::Directory {
                0
            } else {
                found.size()
            },
            target: fs::read_link(&full)
                .ok()
                .map(|it| it.as_os_str().as_bytes().to_vec()),
            xattr: length.ok().map(|length| value[..length].to_vec()),
            first: first
                .entry(found.ino())
                .or_insert_with(|| path.clone())
                .clone(),
        };
        (path, seen)
    });
    Ok(seen.collect())
}

fn write_layout(layers: &[Vec<Entry>], image: &Path) {
    let blobs = image.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(
        image.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    let add = |kind: &str, bytes: &[u8]| {
        let digest = hex::encode(Sha256::digest(bytes));
        fs::write(blobs.join(&digest), bytes).unwrap();
        let digest = format!("sha256:{digest}");
        let media_type = format!("application/vnd.oci.image.{kind}");
        serde_json::json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    let layers: Vec<_> = layers
        .iter()
        .map(|it| add("layer.v1.tar", &archive(it)))
        .collect();
    let ids: Vec<_> = layers.iter().map(|it| it["digest"].clone()).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": ids},
        "history": vec![serde_json::json!({"created_by": "test"}); layers.len()],
    });
    let config = add("config.v1+json", config.to_string().as_bytes());
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers});
    let mut manifest = add("manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "latest"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(image.join("index.json"), index.to_string()).unwrap();
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let pairs = entry.xattrs.iter().map(|(name, value)| {
            let name = std::str::from_utf8(name).unwrap();
            (format!("SCHILY.xattr.{name}"), value)
        });
        let pairs: Vec<_> = pairs.collect();
        let pairs = pairs.iter().map(|(name, value)| (name.as_str(), &***value));
        builder.append_pax_extensions(pairs).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_mode(u32::from(entry.mode));
        header.set_uid(u64::from(entry.uid));
        header.set_gid(u64::from(entry.gid));
        header.set_mtime(u64::try_from(entry.mtime).unwrap());
        header.set_size(0);
        let mut content = Vec::new();
        let mut link = None;
        let kind = match &entry.kind {
            EntryKind::Directory => tar::EntryType::Directory,
            EntryKind::Regular { size, .. } => {
                content = vec![b'.'; usize::try_from(*size).unwrap()];
                header.set_size(*size);
                tar::EntryType::Regular
            }
            EntryKind::Symlink(target) => {
                link = Some(target);
                tar::EntryType::Symlink
            }
            EntryKind::Hardlink(target) => {
                link = Some(target);
                tar::EntryType::Link
            }
            EntryKind::CharDevice { major, minor } => {
                header.set_device_major(*major).unwrap();
                header.set_device_minor(*minor).unwrap();
                tar::EntryType::Char
            }
            EntryKind::BlockDevice { major, minor } => {
                header.set_device_major(*major).unwrap();
                header.set_device_minor(*minor).unwrap();
                tar::EntryType::Block
            }
            EntryKind::Fifo => tar::EntryType::Fifo,
        };
        header.set_entry_type(kind);
        let path = if entry.path.is_empty() {
            Path::new("./")
        } else {
            &path_of(&entry.path)
        };
        match link {
            Some(target) => builder
                .append_link(&mut header, path, path_of(target))
                .unwrap(),
            None => builder.append_data(&mut header, path, &*content).unwrap(),
        }
    }
    builder.into_inner().unwrap()
}

// === comparison ===

fn have_umoci() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let umoci = Command::new("umoci").arg("--version").output().is_ok();
    if !root || !umoci {
        println!("skipped: this needs root and umoci");
    }
    root && umoci
}

fn show(layers: &[Vec<Entry>]) -> String {
    let mut text = String::new();
    for (layer, entries) in layers.iter().enumerate() {
        for entry in entries {
            let kind = match &entry.kind {
                EntryKind::Symlink(target) => format!("-> {}", target.escape_ascii()),
                EntryKind::Hardlink(target) => format!("= {}", target.escape_ascii()),
                kind => format!("{kind:?}"),
            };
            text += &format!("{layer} {} {kind}\n", entry.path.escape_ascii());
        }
    }
    text
}

/// Whether both accept `layers`; fails if they differ.
fn compare(what: &str, layers: &[Vec<Entry>]) -> bool {
    let base = tempfile::tempdir().unwrap();
    let ours = merged(layers);
    let theirs = unpacked(layers, base.path());
    let (mut ours, mut theirs) = match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (Err(_), Err(_)) => return false,
        (ours, theirs) => {
            let (ours, theirs) = (ours.err(), theirs.err());
            panic!(
                "{what}: refused by us: {ours:?}, by umoci: {theirs:?}\n{}",
                show(layers)
            );
        }
    };
    for (path, seen) in &mut theirs {
        // The time of a directory is that of the unpacking if no entry describes it, or if umoci
        // has made an implied directory in it: it restores only that of the nearest parent.
        if let Some(it) = ours.get_mut(path)
            && (it.mtime.is_none() || (seen.kind == Kind::Directory && seen.mtime > LATEST))
        {
            it.mtime = None;
            seen.mtime = None;
        }
        if path.as_os_str().is_empty() && ours[path].mtime.is_none() {
            seen.mode = ours[path].mode;
        }
    }
    let paths: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for path in paths {
        let (ours, theirs) = (ours.get(path), theirs.get(path));
        assert_eq!(ours, theirs, "{what}: {}\n{}", path.display(), show(layers));
    }
    true
}

#[test]
fn random_images_unpack_to_the_merged_tree() {
    if !have_umoci() {
        return;
    }
    let mut accepted = 0;
    for seed in 1..=120_u64 {
        let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let layers = numbers.layers(seed % 3 > 0);
        accepted += u32::from(compare(&format!("seed {seed}"), &layers));
    }
    println!("{accepted} of 120 images accepted by both");
    assert!(accepted > 60, "{accepted}");
}

#[test]
fn odd_images_unpack_to_the_merged_tree() {
    if !have_umoci() {
        return;
    }
    let mut root = entry("", EntryKind::Directory);
    root.mode = 0o1711;
    root.uid = 5;
    let mut other_mode = entry("l", EntryKind::Hardlink(b"f"[..].into()));
    other_mode.mode = 0o600;
    other_mode.uid = 9;
    other_mode.mtime = 5;
    let cases = [
        ("root entry", vec![vec![root, entry("a", regular(1))]]),
        (
            "metadata of a hard link",
            vec![vec![entry("f", regular(3)), other_mode]],
        ),
        (
            "devices",
            vec![vec![
                entry("c", EntryKind::CharDevice { major: 1, minor: 3 }),
                entry("b", EntryKind::BlockDevice { major: 8, minor: 1 }),
                entry("p", EntryKind::Fifo),
            ]],
        ),
        (
            "symlinked parent",
            vec![
                vec![
                    entry("usr/bin/x", regular(1)),
                    entry("bin", symlink("usr/bin")),
                ],
                vec![entry("bin/y", regular(1)), entry("bin/.wh.x", regular(0))],
            ],
        ),
        (
            "dangling parent",
            vec![vec![
                entry("s", symlink("/n/o/w")),
                entry("s/y", regular(1)),
            ]],
        ),
        (
            "whiteout of a parent that this layer fills",
            vec![
                vec![entry("d/old", regular(1)), entry("d/e/old", regular(1))],
                vec![entry("d/e/new", regular(1)), entry(".wh.d", regular(0))],
            ],
        ),
    ];
    for (what, layers) in cases {
        assert!(compare(what, &layers), "{what} is refused by both");
    }
}

/// After all times in the images, before this was written.
const LATEST: Option<i64> = Some(1_600_000_000);
const XATTR: &str = "user.test";
