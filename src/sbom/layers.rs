//! The layers that labels name: the one that Buildpacks' lifecycle adds to an app, and the one of the
//! base image. Only such a layer is fetched, whole, and verified by its DiffID.

use serde::Deserialize;

use super::{MAX_SBOM, Place, Sbom, Trust};
use crate::{
    bundle,
    error::{Error, Result},
    oci::{Digest, ImageConfig},
    open::Opener,
    source::{Repository, read_verified},
    trust::Grant,
};

/// Label of the lifecycle: JSON that names the app's layers.
const LIFECYCLE: &str = "io.buildpacks.lifecycle.metadata";
/// Label of the base image: the DiffID.
const BASE: &str = "io.buildpacks.base.sbom";
/// Largest configuration that is read.
const MAX_CONFIG: u64 = 8 << 20;

#[derive(Deserialize)]
struct Lifecycle {
    sbom: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    sha: String,
}

pub(super) async fn find(
    opener: &Opener,
    grant: &Grant,
    repository: &dyn Repository,
) -> Result<Vec<Sbom>> {
    let descriptor = &grant.manifest().config;
    let raw = read_verified(repository, descriptor, MAX_CONFIG).await?;
    let within = |e: Error| e.context(format!("config {}", descriptor.digest));
    let config: ImageConfig =
        serde_json::from_slice(&raw).map_err(|e| within(Error::invalid(e.to_string())))?;
    let labels = config.config.as_ref().and_then(|it| it.labels.as_ref());
    let Some(labels) = labels else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    if let Some(text) = labels.get(LIFECYCLE) {
        let lifecycle: Lifecycle = serde_json::from_str(text)
            .map_err(|e| within(Error::invalid(format!("label {LIFECYCLE}: {e}"))))?;
        if let Some(Named { sha }) = lifecycle.sbom {
            let diff_id = diff_id(&sha, LIFECYCLE).map_err(within)?;
            let of = Place::BuildpacksLayer;
            found.extend(read(opener, grant, repository, &config, &diff_id, of).await?);
        }
    }
    if let Some(text) = labels.get(BASE) {
        let diff_id = diff_id(text, BASE).map_err(within)?;
        let of = Place::BaseImageLayer;
        found.extend(read(opener, grant, repository, &config, &diff_id, of).await?);
    }
    Ok(found)
}

fn diff_id(text: &str, label: &str) -> Result<Digest> {
    text.parse()
        .map_err(|_| Error::invalid(format!("label {label}: {text:?} is not a digest")))
}

/// The documents of the layer with this DiffID.
async fn read(
    opener: &Opener,
    grant: &Grant,
    repository: &dyn Repository,
    config: &ImageConfig,
    diff_id: &Digest,
    found_in: Place,
) -> Result<Vec<Sbom>> {
    let (ids, layers) = (&config.rootfs.diff_ids, &grant.manifest().layers);
    if ids.len() != layers.len() {
        return Err(Error::invalid(format!(
            "config {}: {} diff ids for {} layers",
            grant.manifest().config.digest,
            ids.len(),
            layers.len()
        )));
    }
    let Some(descriptor) = ids
        .iter()
        .position(|it| it == diff_id)
        .and_then(|n| layers.get(n))
    else {
        // A base image that was exchanged takes its layer with it; the label may stay.
        tracing::warn!(%diff_id, place = %found_in, "a label names a layer that the image has not");
        return Ok(Vec::new());
    };
    let layer = opener.whole_layer(descriptor, repository).await?;
    let layer = bundle::Layer {
        digest: descriptor.digest.clone(),
        kind: layer.kind,
        diff_id: diff_id.clone(),
        source: layer.source,
    };
    let files = bundle::collect(layer, is_document, MAX_SBOM).await?;
    Ok(files
        .into_iter()
        .map(|(path, bytes)| Sbom {
            path: Some(path.display().to_string()),
            ..Sbom::new(
                Trust::inside(grant),
                found_in,
                descriptor.digest.clone(),
                bytes,
            )
        })
        .collect())
}

/// Whether a file is a document: `.../sbom.cdx.json` and the like, of the base `cnb/sbom/bom.cdx.json`.
fn is_document(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let inside = path.starts_with("layers/sbom/") || path.starts_with("cnb/sbom/");
    inside
        && (name.starts_with("sbom.") || name.starts_with("bom."))
        && [".json", ".xml", ".spdx"]
            .iter()
            .any(|it| name.ends_with(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_where_buildpacks_put_them() {
        for (path, want) in [
            (
                "layers/sbom/launch/paketo-buildpacks_node/node/sbom.cdx.json",
                true,
            ),
            ("layers/sbom/launch/sbom.legacy.json", true),
            ("cnb/sbom/bom.syft.json", true),
            ("cnb/sbom/bom.txt", false),
            ("workspace/sbom.cdx.json", false),
            ("layers/sbom/launch/readme.json", false),
        ] {
            assert_eq!(is_document(path), want, "{path}");
        }
        assert!(diff_id("x", BASE).unwrap_err().to_string().contains(BASE));
    }
}
