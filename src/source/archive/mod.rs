//! Files as `docker save` writes them and `docker load` reads them: a tar of `manifest.json`, the
//! configuration, and the layers' tars (`docs/formats/docker-archive.md`).

mod read;
#[cfg(test)]
mod tests;
mod write;

use serde::{Deserialize, Serialize};

pub use self::{read::Archive, write::ArchiveWriter};

/// One image of `manifest.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    /// Name of the configuration's file.
    config: String,
    /// What the image is called.
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    /// Names of the layers' files, lowest first.
    #[serde(default)]
    layers: Vec<String>,
}

/// The file that says what there is.
const MANIFEST: &str = "manifest.json";
