//! Where an image is being made: nobody sees it there before it is whole.
//!
//! In a registry, and in a layout that is there already, blobs come first and the manifest last. A
//! new layout is made beside its place and renamed, and so is an archive.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{RepositoryWriter, archive::ArchiveWriter, layout::LayoutWriter};
use crate::{
    error::{Error, Result},
    oci::Location,
};

/// A place that is written; nothing is there, or what was there before, until it is
/// [committed](Self::commit).
#[derive(Debug)]
pub struct Destination {
    /// Takes what belongs to the image.
    pub writer: Arc<dyn RepositoryWriter>,
    /// What to store the image's manifest as.
    pub location: Location,
    end: End,
}

/// What makes it appear.
#[derive(Debug)]
enum End {
    /// The manifest.
    Manifest,
    /// The directory's name.
    Layout(Staged),
    /// The file's name.
    Archive(Arc<ArchiveWriter>),
}

/// A directory that is removed unless it gets its name.
#[derive(Debug)]
struct Staged {
    path: PathBuf,
    name: PathBuf,
    kept: bool,
}

// === impl Destination ===

impl Destination {
    /// One that appears by its manifest.
    pub(super) fn direct(writer: Arc<dyn RepositoryWriter>, location: Location) -> Self {
        Self {
            writer,
            location,
            end: End::Manifest,
        }
    }

    /// A layout: the one that is there, or a new one.
    pub(super) async fn layout(directory: &Path, location: Location) -> Result<Self> {
        let there = tokio::fs::try_exists(directory)
            .await
            .map_err(|e| Error::io(format!("oci:{}", directory.display()), e))?;
        if there {
            let writer = LayoutWriter::create(directory).await?;
            return Ok(Self::direct(Arc::new(writer), location));
        }
        let staged = Staged::beside(directory)
            .map_err(|e| Error::io(format!("oci:{}", directory.display()), e))?;
        let writer = LayoutWriter::create(&staged.path).await?;
        Ok(Self {
            writer: Arc::new(writer),
            location,
            end: End::Layout(staged),
        })
    }

    /// An archive, which must not be there.
    pub(super) fn archive(writer: ArchiveWriter, location: Location) -> Self {
        let writer = Arc::new(writer);
        Self {
            writer: Arc::clone(&writer) as Arc<dyn RepositoryWriter>,
            location,
            end: End::Archive(writer),
        }
    }

    /// Makes the image appear, after its manifest has been stored.
    ///
    /// # Errors
    /// `Busy` if somebody else made a layout or an archive of this name meanwhile, `Io`.
    pub async fn commit(self) -> Result<()> {
        match self.end {
            End::Manifest => Ok(()),
            End::Layout(staged) => staged.commit(),
            End::Archive(writer) => writer.commit().await,
        }
    }
}

// === impl Staged ===

impl Staged {
    fn beside(name: &Path) -> io::Result<Self> {
        let random = getrandom::u64().map_err(io::Error::other)?;
        let parent = parent_of(name);
        fs::create_dir_all(parent)?;
        let path = parent.join(format!(".nacre-{random:016x}"));
        fs::create_dir(&path)?;
        Ok(Self {
            path,
            name: name.to_owned(),
            kept: false,
        })
    }

    fn commit(mut self) -> Result<()> {
        rename_new(&self.path, &self.name)
            .map_err(|e| taken(e, &format!("oci:{}", self.name.display())))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.kept {
            // Its name says whose it is; nothing reads it.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The directory that holds `name`.
pub(super) fn parent_of(name: &Path) -> &Path {
    match name.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Renames to a name that nobody has.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // A file system that cannot do both at once.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !to.try_exists()? => {
            fs::rename(from, to)
        }
        Err(error) => Err(error.into()),
    }
}

/// The error for a name that somebody else has taken.
pub(super) fn taken(error: io::Error, name: &str) -> Error {
    if error.kind() == io::ErrorKind::AlreadyExists {
        return Error::new(
            crate::Kind::Busy,
            format!("{name}: somebody else has made it meanwhile"),
        );
    }
    Error::io(name.to_owned(), error)
}
