//! OCI image layout directories: `oci-layout`, `index.json`, `blobs/ALGORITHM/HEX`.
//!
//! File names are made from parsed digests only, so no name in a document can lead elsewhere.

mod blob;
mod index;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};

use crate::{
    error::{Error, Result},
    oci::Digest,
};

pub use self::{read::Layout, write::LayoutWriter};

/// Where a blob is.
fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs")
        .join(digest.algorithm())
        .join(digest.hex())
}

/// `oci:DIRECTORY`, for messages.
fn name(root: &Path) -> String {
    format!("oci:{}", root.display())
}

/// Runs blocking file work off the async threads.
async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("file work ended early").with_source(e))?
}
