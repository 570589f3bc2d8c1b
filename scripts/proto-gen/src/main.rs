//! Writes `snapshotter-proto/src/generated/` from `snapshotter-proto/proto/`.
//! Run it through `scripts/regenerate-proto`, from the root of the repository.

mod prune;

use std::{error::Error, fs, path::Path};

/// Every definition that nacre speaks; the file of a package is `generated/PACKAGE.rs`.
const PROTOS: &[&str] = &[
    "keyprovider.proto",
    "runtime/v1/api.proto",
    "services/snapshots/v1/snapshots.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("snapshotter-proto");
    let out = root.join("src/generated");
    fs::create_dir_all(&out)?;
    let mut all = protox::compile(PROTOS, [root.join("proto")])?;
    for file in &mut all.file {
        // Nine tenths of the CRI are about containers.
        if file.package() == "runtime.v1" {
            prune::keep_service(file, "ImageService");
        }
    }
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // Its comment has an indented block, which rustdoc would compile as Rust.
        .disable_comments([".containerd.services.snapshots.v1.ListSnapshotsRequest.filters"])
        // It holds secrets; lib.rs has one that does not print them.
        .skip_debug([".runtime.v1.AuthConfig"])
        .out_dir(&out)
        .compile_fds(all)?;
    Ok(())
}
