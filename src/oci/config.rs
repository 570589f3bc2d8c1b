//! The image configuration: what `nacre pull` needs for a bundle, and the diff ids.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, Platform};

/// OCI image configuration (also Docker's); fields nacre does not use are not kept.
#[derive(Clone, Debug, Deserialize)]
pub struct ImageConfig {
    /// Platform of the image.
    #[serde(flatten)]
    pub platform: Platform,
    /// How a container of this image runs.
    #[serde(default)]
    pub config: Option<RunConfig>,
    /// Layers by DiffID.
    pub rootfs: RootFs,
}

/// The `rootfs` of a configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digest of each layer's uncompressed tar, lowest first.
    pub diff_ids: Vec<Digest>,
}

/// The `config` of a configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// `KEY=VALUE`.
    pub env: Option<Vec<String>>,
    /// Program and its first arguments.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments, or the program where there is no entry point.
    pub cmd: Option<Vec<String>>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// Annotations of the image.
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal that stops the container.
    pub stop_signal: Option<String>,
}
