//! Whether this kernel mounts and reads EROFS as we need it, found out by doing so: a tree of one file
//! is mounted nowhere and read.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};

use super::Erofs;
use super::attach::Way;
use super::device_mount::DeviceMount;
use crate::engine::{FileData, ReadDone, ReadFile};
use crate::error::{Error, Kind, Result};
use crate::index::{Entry, EntryKind};
use crate::mount::MountOptions;
use crate::tree::Tree;

/// Has the bytes of the one file.
struct Pattern;

/// The first directory for images, and way to mount them, that work.
///
/// # Errors
/// Why none does.
pub(super) fn find(
    mount: Arc<DeviceMount>,
    images: &[PathBuf],
    options: &MountOptions,
) -> Result<Erofs> {
    let mut erofs = Erofs {
        mount,
        images: PathBuf::new(),
        way: Way::Files,
    };
    let mut reasons: Vec<Error> = Vec::new();
    for way in [Way::Files, Way::LoopDevices] {
        for directory in images {
            erofs.way = way;
            erofs.images.clone_from(directory);
            let name = format!("probe-{}", reasons.len());
            let tried = tree().and_then(|tree| try_out(&erofs, tree, &name, options));
            match tried.map_err(|error| error.context(told(way, directory))) {
                Ok(()) => {
                    tracing::debug!(?way, directory = %directory.display(), "EROFS works");
                    return Ok(erofs);
                }
                // It will not be allowed elsewhere either.
                Err(error) if error.kind() == Kind::Denied => return Err(error),
                Err(error) => reasons.push(error),
            }
        }
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

fn try_out(erofs: &Erofs, tree: Tree, name: &str, options: &MountOptions) -> Result<()> {
    let options = MountOptions {
        reference: "probe".to_owned(),
        ..options.clone()
    };
    let (mount, _retired) = erofs.prepare(Arc::new(tree), Arc::new(Pattern), name, &options)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut read = Vec::new();
    rustix::fs::openat(&mount, FILE, flags, Mode::empty())
        .map_err(std::io::Error::from)
        .and_then(|file| File::from(file).read_to_end(&mut read))
        .map_err(|error| Error::new(Kind::Unsupported, "read of a file").with_source(error))?;
    if read == pattern(0..SIZE) {
        Ok(())
    } else {
        Err(Error::unsupported("read of a file gives other bytes"))
    }
}

fn tree() -> Result<Tree> {
    let file = Entry {
        path: FILE.as_bytes().into(),
        kind: EntryKind::Regular {
            size: SIZE,
            chunks: 0..1,
        },
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: 0,
        mtime_nanos: 0,
        xattrs: Vec::new(),
    };
    Tree::merge(vec![vec![file]])
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
/// More than a block, and not whole blocks.
const SIZE: u64 = 3 * 4096 + 100;
