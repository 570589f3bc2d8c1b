//! Writes `snapshotter-proto/src/generated/` from `snapshotter-proto/proto/`.
//! Run it through `scripts/regenerate-proto`, from the root of the repository.

use std::{error::Error, fs, path::Path};

/// Every definition that nacre speaks; the file of a package is `generated/PACKAGE.rs`.
const PROTOS: &[&str] = &["keyprovider.proto", "services/snapshots/v1/snapshots.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("snapshotter-proto");
    let out = root.join("src/generated");
    fs::create_dir_all(&out)?;
    let include = root.join("proto");
    let files: Vec<_> = PROTOS.iter().map(|name| include.join(name)).collect();
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // Its comment has an indented block, which rustdoc would compile as Rust.
        .disable_comments([".containerd.services.snapshots.v1.ListSnapshotsRequest.filters"])
        .out_dir(&out)
        .compile_protos(&files, &[include])?;
    Ok(())
}
