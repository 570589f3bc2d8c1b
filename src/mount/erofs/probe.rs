//! Whether this kernel mounts and reads EROFS as we need it, found out by doing so: a tree of one file
//! is mounted nowhere and read, and two overlays are mounted over it.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};

use super::attach::{self, Way};
use super::device_mount::DeviceMount;
use super::{Erofs, Overlays};
use crate::engine::{FileData, ReadDone, ReadFile};
use crate::error::{Error, Kind, Result};
use crate::index::{Entry, EntryKind};
use crate::mount::MountOptions;
use crate::tree::Tree;

/// Has the bytes of the one file.
struct Pattern;

/// What can be mounted over a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carries {
    /// As over a disk.
    Overlays,
    /// The kernel counts the mount as an overlay.
    OneOverlay,
}

/// The first way to mount, and directory for images, that work; one that carries two overlays rather
/// than one that does not.
///
/// # Errors
/// Why none does.
pub(super) fn find(
    mount: Arc<DeviceMount>,
    images: &[PathBuf],
    overlays: Overlays,
    options: &MountOptions,
) -> Result<Erofs> {
    let erofs = |way, directory: &Path| Erofs {
        mount: Arc::clone(&mount),
        images: directory.to_owned(),
        way,
    };
    let (mut reasons, mut second_best) = (Vec::<Error>::new(), None);
    for (number, way) in [Way::Files, Way::LoopDevices].into_iter().enumerate() {
        for (place, directory) in images.iter().enumerate() {
            let found = erofs(way, directory);
            let name = format!("probe-{number}-{place}");
            let tried = tree().and_then(|tree| try_out(&found, tree, &name, options));
            match tried.map_err(|error| error.context(told(way, directory))) {
                Ok(Carries::Overlays) => {
                    tracing::debug!(?way, directory = %directory.display(), "EROFS works");
                    return Ok(found);
                }
                Ok(Carries::OneOverlay) => {
                    let what = told(way, directory);
                    let message = format!("{what}: no overlay over an overlay over it");
                    reasons.push(Error::unsupported(message));
                    second_best.get_or_insert(found);
                }
                // It will not be allowed elsewhere either.
                Err(error) if error.kind() == Kind::Denied => return Err(error),
                Err(error) => reasons.push(error),
            }
        }
    }
    if let (Overlays::One, Some(found)) = (overlays, second_best) {
        let (way, directory) = (found.way, found.images.display());
        tracing::debug!(?way, %directory, "EROFS works, below one overlay");
        return Ok(found);
    }
    let kind = reasons.first().map_or(Kind::Unsupported, Error::kind);
    let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    Err(Error::new(
        kind,
        format!("no EROFS: {}", reasons.join("; ")),
    ))
}

impl ReadFile for Pattern {
    fn read(&self, _: FileData, offset: u64, length: u32, done: ReadDone) {
        done(Ok(pattern(offset..offset + u64::from(length))));
    }
}

fn try_out(erofs: &Erofs, tree: Tree, name: &str, options: &MountOptions) -> Result<Carries> {
    let options = MountOptions {
        reference: "probe".to_owned(),
        ..options.clone()
    };
    let prepared = erofs.prepare(Arc::new(tree), Arc::new(Pattern), name, &options);
    let (mount, _, _retired) = prepared?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut read = Vec::new();
    rustix::fs::openat(&mount, FILE, flags, Mode::empty())
        .map_err(std::io::Error::from)
        .and_then(|file| File::from(file).read_to_end(&mut read))
        .map_err(|error| Error::new(Kind::Unsupported, "read of a file").with_source(error))?;
    if read == pattern(0..SIZE) {
        Ok(carries(&mount))
    } else {
        Err(Error::unsupported("read of a file gives other bytes"))
    }
}

/// Where there are no overlays, nothing is missing.
fn carries(mount: &OwnedFd) -> Carries {
    let Ok(first) = attach::overlay(mount, LOWEST) else {
        return Carries::Overlays;
    };
    match attach::overlay(&first, LOWER) {
        Ok(_) => Carries::Overlays,
        Err(error) => {
            tracing::debug!(%error, "overlay over an overlay");
            Carries::OneOverlay
        }
    }
}

/// A file, and for each of two overlays two directories.
fn tree() -> Result<Tree> {
    let file = EntryKind::Regular {
        size: SIZE,
        chunks: 0..1,
    };
    let mut entries = vec![entry(FILE, file)];
    for (directory, inner) in LOWEST.into_iter().zip(LOWER) {
        entries.push(entry(directory, EntryKind::Directory));
        let inner = format!("{directory}/{inner}");
        entries.push(entry(&inner, EntryKind::Directory));
    }
    Tree::merge(vec![entries])
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.as_bytes().into(),
        kind,
        mode: 0o700,
        uid: 0,
        gid: 0,
        mtime: 0,
        mtime_nanos: 0,
        xattrs: Vec::new(),
    }
}

fn pattern(range: Range<u64>) -> Bytes {
    range.map(|at| (at % 251).to_le_bytes()[0]).collect()
}

fn told(way: Way, directory: &Path) -> String {
    let from = match way {
        Way::Files => "from files",
        Way::LoopDevices => "through loop devices",
    };
    format!("{from}, image in {}", directory.display())
}

const FILE: &str = "probe";
/// Layers of the first overlay, and what is in each, of which the second is made.
const LOWEST: [&str; 2] = ["a", "b"];
const LOWER: [&str; 2] = ["c", "d"];
/// More than a block, and not whole blocks.
const SIZE: u64 = 3 * 4096 + 100;
