//! Copying images as they are: manifests byte for byte, blobs only where they are not already.

use super::{
    From, LayerReport, OnProgress, Report, Step, convert::Platforms, document::check_destination,
    mover::Mover, rewrite::manifest_of,
};
use crate::{
    error::Result,
    oci::{Document, Index, Location, Manifest, RawManifest, media_type},
    source::RepositoryWriter,
};

/// Copies the image at `from` to `location` of `to`.
///
/// # Errors
/// `NotFound` if the index has no such platform, `Corrupt` if the source is not what its digests say,
/// `Unsupported` if the destination cannot hold it, and what reading and writing say.
pub async fn copy(
    from: &From,
    to: &dyn RepositoryWriter,
    location: &Location,
    progress: &OnProgress,
) -> Result<Report> {
    let copying = Copying(Mover { from, to, progress });
    let mut reports = Vec::new();
    let raw = from.repository.manifest(&from.location).await?;
    let made = match raw.parse()? {
        Document::Manifest(manifest) => {
            check_destination(location, &raw)?;
            copying.image(&manifest, &mut reports).await?;
            raw
        }
        Document::Index(index) => match &from.platforms {
            Platforms::One(platform) => {
                let (raw, manifest) = manifest_of(from, index.choose(platform)?).await?;
                check_destination(location, &raw)?;
                copying.image(&manifest, &mut reports).await?;
                raw
            }
            Platforms::All => {
                check_destination(location, &raw)?;
                copying.index(&index, &mut reports).await?;
                raw
            }
        },
    };
    to.put_manifest(location, &made).await?;
    Ok(Report {
        digest: made.digest,
        media_type: made.media_type,
        layers: reports,
        indexes: Vec::new(),
    })
}

struct Copying<'a>(Mover<'a>);

// === impl Copying ===

impl Copying<'_> {
    /// Copies everything that an index names, attestations too: nothing that they speak of changes.
    async fn index(&self, index: &Index, reports: &mut Vec<LayerReport>) -> Result<()> {
        for descriptor in &index.manifests {
            if !media_type::is_manifest(&descriptor.media_type) {
                // Something that is not an image is a blob, as far as a registry cares.
                self.0.blob(descriptor).await?;
                continue;
            }
            let (raw, manifest): (RawManifest, Manifest) =
                manifest_of(self.0.from, descriptor).await?;
            self.image(&manifest, reports).await?;
            let location = Location::Digest(raw.digest.clone());
            self.0.to.put_manifest(&location, &raw).await?;
        }
        Ok(())
    }

    async fn image(&self, manifest: &Manifest, reports: &mut Vec<LayerReport>) -> Result<()> {
        for layer in &manifest.layers {
            if reports.iter().any(|known| known.from == layer.digest) {
                continue;
            }
            (self.0.progress)(Step::Layer(layer.size));
            let how = self
                .0
                .blob(layer)
                .await
                .map_err(|e| e.context(format!("layer {}", layer.digest)))?;
            reports.push(LayerReport {
                from: layer.digest.clone(),
                to: layer.digest.clone(),
                size: layer.size,
                how,
            });
        }
        self.0.blob(&manifest.config).await?;
        Ok(())
    }
}
