//! `nacre cat`: prints a file of an image without mounting it.

use std::{io::Write, os::unix::ffi::OsStrExt, path::PathBuf};

use clap::Args;

use super::args::{ImageArgs, StoreArgs};
use crate::error::{Error, Result};

/// Bytes asked of the engine at a time.
const PIECE: u32 = 1 << 20;

/// Options of `nacre cat`.
#[derive(Debug, Args)]
pub(super) struct Cat {
    #[command(flatten)]
    image: ImageArgs,
    /// File in the image; symlinks are followed inside it.
    path: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
}

// === impl Cat ===

impl Cat {
    pub(super) async fn run(self) -> Result<()> {
        let image = self.image.open(&self.store, None).await?;
        let name = || format!("{}: {}", self.image.reference, self.path.display());
        let ino = image
            .tree
            .resolve_following(self.path.as_os_str().as_bytes())
            .ok_or_else(|| Error::not_found(format!("{}: not in the image", name())))?;
        let file = image
            .tree
            .file(ino)
            .ok_or_else(|| Error::invalid(format!("{}: not a regular file", name())))?;
        let mut offset = 0;
        while offset < file.size {
            let bytes = image.engine.read_async(file, offset, PIECE).await?;
            if bytes.is_empty() {
                return Err(Error::internal(format!("{}: no bytes at {offset}", name())));
            }
            std::io::stdout()
                .write_all(&bytes)
                .map_err(|e| Error::io("standard output", e))?;
            offset += bytes.len() as u64;
        }
        std::io::stdout()
            .flush()
            .map_err(|e| Error::io("standard output", e))
    }
}
