//! How the kernel is to see a tree: through FUSE, or as EROFS where that works.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{MountOptions, Mounted, Overlays, check_directory, erofs, kernel, mount};
use crate::engine::ReadFile;
use crate::error::{Error, Result};
use crate::sys::mountinfo::MountEntry;
use crate::tree::Tree;

/// How the kernel is to see a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrontEnd {
    /// As EROFS if that works, else through FUSE. Found out by trying, for each image.
    #[default]
    Auto,
    /// Through FUSE: everything is asked of this process, once.
    Fuse,
    /// As EROFS: only data is asked of this process.
    Erofs,
}

/// Mounts as [`mount()`] does, by this front end. Metadata images of EROFS are written to the first of
/// `images` that can hold them.
///
/// # Errors
/// Those of [`mount()`]; `Unsupported` with the kernel's reason if EROFS is asked for and does not
/// work.
pub fn mount_by(
    front_end: FrontEnd,
    tree: Arc<Tree>,
    reader: Arc<dyn ReadFile>,
    directory: &Path,
    images: &[PathBuf],
    options: &MountOptions,
) -> Result<Mounted> {
    if front_end == FrontEnd::Fuse {
        return mount(tree, reader, directory, options);
    }
    // What is wrong with the place is wrong for both.
    let place = check_directory(directory)?;
    let (for_erofs, with_reader) = (Arc::clone(&tree), Arc::clone(&reader));
    let overlays = front_end.overlays();
    let mounted = erofs::mount_alone(for_erofs, with_reader, place, images, overlays, options);
    match mounted {
        Err(error) if front_end == FrontEnd::Auto => {
            let image = &options.reference;
            tracing::info!(image, "through FUSE, since EROFS does not work: {error}");
            mount(tree, reader, directory, options)
        }
        mounted => mounted,
    }
}

/// By which front end of nacre `mount` was made, and its FUSE connection; `None` if by none.
pub(super) fn of(mount: &MountEntry) -> Option<(FrontEnd, u32)> {
    let (_, minor) = mount.device;
    if mount.kind == kernel::MOUNT_TYPE {
        return Some((FrontEnd::Fuse, minor));
    }
    erofs::connection(mount).map(|connection| (FrontEnd::Erofs, connection))
}

// === impl FrontEnd ===

impl FrontEnd {
    /// What must be possible over an EROFS mount, for it to be preferred to a FUSE mount or wanted for
    /// its own sake.
    #[must_use]
    pub fn overlays(self) -> Overlays {
        match self {
            FrontEnd::Auto => Overlays::All,
            FrontEnd::Fuse | FrontEnd::Erofs => Overlays::One,
        }
    }

    /// As it is written in configurations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FrontEnd::Auto => "auto",
            FrontEnd::Fuse => "fuse",
            FrontEnd::Erofs => "erofs",
        }
    }
}

impl fmt::Display for FrontEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for FrontEnd {
    type Err = Error;

    fn from_str(text: &str) -> Result<FrontEnd> {
        let all = [FrontEnd::Auto, FrontEnd::Fuse, FrontEnd::Erofs];
        let found = { all.into_iter() }.find(|it| it.as_str() == text);
        found.ok_or_else(|| {
            Error::invalid(format!("front end {text:?}")).with_hint("one of auto, fuse and erofs")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str, source: &str) -> MountEntry {
        MountEntry {
            id: 1,
            device: (0, 5),
            mount_point: "/mnt".into(),
            kind: kind.to_owned(),
            source: source.into(),
            options: String::new(),
        }
    }

    #[test]
    fn mounts_of_ours_are_recognised() {
        let of = |kind, source| of(&entry(kind, source));
        assert_eq!(of("fuse.nacre", "nacre:a/b:1"), Some((FrontEnd::Fuse, 5)));
        assert_eq!(of("erofs", "nacre:a/b:1~77"), Some((FrontEnd::Erofs, 77)));
        assert_eq!(of("erofs", "nacre:oci:a~b~77"), Some((FrontEnd::Erofs, 77)));
        assert_eq!(of("erofs", "/dev/loop0"), None);
        assert_eq!(of("erofs", "nacre:a/b:1"), None);
        assert_eq!(of("fuse.other", "nacre:a/b:1~77"), None);
    }

    #[test]
    fn names_are_read_back() {
        for it in [FrontEnd::Auto, FrontEnd::Fuse, FrontEnd::Erofs] {
            assert_eq!(it.to_string().parse::<FrontEnd>().unwrap(), it);
        }
        assert!("kernel".parse::<FrontEnd>().is_err());
    }
}
