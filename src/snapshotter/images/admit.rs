//! From a reference and a digest to an open image: admit, read the configuration, unwrap keys, open
//! all indexes at once.

use std::sync::Arc;

use futures::future::{BoxFuture, try_join_all};

use super::{
    Shared,
    config::{Confirm, Ordinary},
    image::{Image, ImageLayer, OpenLayer, Rules, Way, lazy_count},
    keep::Record,
    kept::{Kept, Mode},
};
use crate::{
    error::{Error, Kind, Result},
    keys::{KeyConfig, Keyring},
    oci::{Digest, Location, Reference, RegistryReference, media_type},
    open::{self, Finding, Opened, Opener, Subject},
    resource::off_thread,
    source::Remembered,
    trust::{self, Class, Grant, Policy},
};

/// What is to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    pub(super) reference: String,
    /// Of the manifest, or of an index that has it.
    pub(super) digest: Option<Digest>,
    /// So many layers were lazy before.
    pub(super) at_least: usize,
    pub(super) mode: Mode,
}

/// Opens an image. What was kept is enough if it serves; otherwise the registry is asked.
pub(super) async fn open_image(shared: &Shared, wanted: &Wanted) -> Result<Image> {
    let _not_swept = shared.keep.busy.read().await;
    let first = match attempt(shared, wanted, wanted.mode).await {
        Err(error) if wanted.mode == Mode::Again => error,
        result => return result,
    };
    tracing::info!(
        event = "kept_not_enough",
        image = wanted.reference,
        error = %first,
        "what is kept does not serve; asking the registry"
    );
    match attempt(shared, wanted, Mode::Fresh).await {
        Err(error) if error.kind() == Kind::Unavailable => Err(first),
        result => result,
    }
}

async fn attempt(shared: &Shared, wanted: &Wanted, mode: Mode) -> Result<Image> {
    let reference = Reference::Registry(wanted.reference.parse::<RegistryReference>()?);
    let (repository, named) = shared.config.repositories.open(&reference).await?;
    let repository = Arc::new(Remembered::with_configurations(repository));
    let kept = Kept::new(repository, Arc::clone(&shared.keep), mode);
    let _opening = kept.opening();
    with(shared, wanted, mode, &reference, &named, &kept).await
}

async fn with(
    shared: &Shared,
    wanted: &Wanted,
    mode: Mode,
    reference: &Reference,
    named: &Location,
    kept: &Arc<Kept>,
) -> Result<Image> {
    let watch = shared.config.watch.clone();
    // An image that was mounted before is not the registry's choice.
    let watch = match wanted.mode {
        Mode::Fresh => watch,
        Mode::Again => watch.without_tags(),
    };
    let policy = shared.config.policy.now().await?.watched(watch);
    let grant = admit(shared, wanted, mode, &policy, reference, named, kept).await?;
    let name = |e: Error| e.context(wanted.reference.clone());
    let opener = opener(shared, policy, &grant).await?;
    let (layers, attached) = tokio::join!(
        ImageLayer::all(&grant, &**kept),
        opener.attached(&grant, &**kept)
    );
    let mut layers = layers.map_err(name)?;
    // What only a key vouches for is read whole in any case.
    if grant.class() != Class::EncryptedUnsigned {
        for layer in &mut layers {
            layer.attach(&attached, &shared.findings);
        }
    }
    let rules = Rules {
        min_lazy_bytes: shared.config.min_lazy_bytes,
        index_here: shared.config.ordinary == Ordinary::Lazy,
        only_confirmed: shared.config.confirm == Confirm::Trusted,
        findings: &shared.findings,
        at_least: wanted.at_least,
    };
    let lazy = lazy_count(&mut layers, grant.class(), rules);
    let opened = opener.lowest_layers(&grant, &**kept, lazy).await;
    let mut opened = opened.map_err(name)?;
    for (open, layer) in opened.iter_mut().zip(&layers) {
        if layer.way == Way::Attached {
            open.attached = attached.clone();
        }
    }
    let opening = opened.iter().zip(&layers);
    let indexes = try_join_all(opening.map(|(open, layer)| async {
        let mut opened = open_index(shared, kept, open, layer, grant.class()).await;
        if let (Err(error), Way::Attached) = (&opened, layer.way) {
            // It cannot be read after all.
            tracing::debug!(layer = %layer.descriptor.digest, %error, "indexed here");
            opened = index_here(shared, open, layer).await;
        }
        match opened {
            Err(error) if !layer.is_left_to_containerd(&error) => Err(error),
            opened => Ok(opened),
        }
    }));
    let profile = opener.profile(&grant, &opened, &**kept);
    let (indexes, profile) = tokio::join!(indexes, profile);
    let mut lazy = 0;
    for ((layer, open), opened) in layers.iter_mut().zip(opened).zip(indexes.map_err(name)?) {
        let opened: Opened = match opened {
            // An index cannot describe it, but containerd can unpack it.
            Err(error) if lazy >= wanted.at_least => {
                layer.unpack(error.to_string());
                break;
            }
            opened => opened.map_err(name)?,
        };
        lazy += 1;
        if layer.way == Way::Attached && opened.artifact.is_none() {
            layer.index_here();
        }
        layer.open = Some(OpenLayer {
            layer: open,
            inodes: opened.index.entries.len() as u64,
            kind: opened.kind,
            index: Some(opened.index).into(),
        });
    }
    shared.keep.remember(&Record {
        reference: wanted.reference.clone(),
        manifest: grant.manifest_digest().clone(),
        admitted_by: grant.resolved_digest().clone(),
        files: kept.used(),
    });
    Ok(Image {
        reference: wanted.reference.clone(),
        grant,
        layers,
        lazy,
        profile,
        repository: Arc::clone(kept),
    })
}

/// Asks the policy for the digest that is wanted. containerd names the platform's manifest even
/// where only its index is signed; then the tag leads to that index.
async fn admit(
    shared: &Shared,
    wanted: &Wanted,
    mode: Mode,
    policy: &Policy,
    reference: &Reference,
    named: &Location,
    kept: &Kept,
) -> Result<Grant> {
    let record = match (mode, &wanted.digest) {
        (Mode::Again, Some(digest)) => shared.keep.record(&wanted.reference, digest),
        _ => None,
    };
    let by = record.map(|it| it.admitted_by);
    let by = by.or_else(|| wanted.digest.clone()).map(Location::Digest);
    let location = by.as_ref().unwrap_or(named);
    let at = |location: &Location| -> BoxFuture<'_, Result<Grant>> {
        let location = location.clone();
        Box::pin(async move {
            trust::admit(&trust::Request {
                policy,
                reference,
                repository: kept,
                location: &location,
                platform: &shared.config.platform,
                expected_digest: None,
            })
            .await
        })
    };
    let fits = |grant: &Grant| match &wanted.digest {
        Some(digest) => grant.manifest_digest() == digest || grant.index_digest() == Some(digest),
        None => true,
    };
    let grant = match at(location).await {
        Err(error) if error.kind() == Kind::Denied && location != named => match at(named).await {
            Ok(grant) if fits(&grant) => grant,
            _ => return Err(error),
        },
        other => other?,
    };
    if !fits(&grant) {
        let other = grant.resolved_digest();
        let asked = wanted.digest.as_ref().map(ToString::to_string);
        return Err(Error::denied(format!(
            "{}: is {other}, asked for {}",
            wanted.reference,
            asked.unwrap_or_default()
        )));
    }
    Ok(grant)
}

/// Opens the index of a layer that is made here: the kept one, or it is read whole. Either way it has
/// been confirmed.
pub(super) async fn index_here(
    shared: &Shared,
    open: &open::Layer,
    layer: &ImageLayer,
) -> Result<Opened> {
    let plain = open::Layer {
        attached: open::Attached::default(),
        ..open.clone()
    };
    let opened = open::ordinary(&shared.config.store, &plain, &layer.diff_id, None).await?;
    let subject = Subject::new(&layer.descriptor.digest, &layer.diff_id, None);
    if shared.findings.of(&subject).is_none() {
        shared.findings.add(&subject, Finding::Confirmed)?;
    }
    Ok(opened)
}

/// Opens a layer's index, the one that it had when its image was opened.
pub(super) async fn open_index(
    shared: &Shared,
    kept: &Kept,
    open: &open::Layer,
    layer: &ImageLayer,
    class: Class,
) -> Result<Opened> {
    match layer.way {
        Way::Here => index_here(shared, open, layer).await,
        Way::Named | Way::None => from_kept(kept, open, class).await,
        Way::Attached => {
            let opened = from_kept(kept, open, class).await?;
            match opened.artifact == layer.index {
                true => Ok(opened),
                // Of several only the first was looked at by those who admitted the layer.
                false => Err(Error::unsupported(format!(
                    "layer {}: its attached index cannot be read",
                    layer.descriptor.digest
                ))),
            }
        }
    }
}

/// Opens the index that a manifest names, or that is attached, from what is kept if that serves.
async fn from_kept(kept: &Kept, layer: &open::Layer, class: Class) -> Result<Opened> {
    let _opening = kept.opening();
    let blob = &layer.descriptor.digest;
    let had = kept.has_ranges(blob);
    match open::open_index(layer, class).await {
        Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Invalid) => {
            kept.forget_ranges(blob);
            if !had {
                return Err(error);
            }
            tracing::warn!(
                event = "kept_index_corrupt",
                layer = %blob,
                %error,
                "kept index is not what it was; fetching it again"
            );
            open::open_index(layer, class).await
        }
        result => result,
    }
}

/// What opens the layers of an image; keys are read only if one is encrypted.
pub(super) async fn opener(shared: &Shared, policy: Policy, grant: &Grant) -> Result<Opener> {
    let encrypted =
        grant.manifest().layers.iter().any(|layer| {
            media_type::layer_kind(&layer.media_type).is_some_and(|kind| kind.encrypted)
        });
    let keyring = if encrypted {
        let (meter, keys) = (
            Arc::clone(&shared.measured.keys),
            shared.config.keys.clone(),
        );
        off_thread(move || Keyring::counted_by(meter, &keys)).await?
    } else {
        Keyring::new(&KeyConfig::default())?
    };
    Ok(Opener {
        policy,
        keyring,
        store: Arc::clone(&shared.config.store),
        engine: shared.config.engine,
        platform: shared.config.platform.clone(),
        expected_digest: None,
        // Who opens layers one by one looks them up.
        findings: None,
        insecure_plaintext_store: shared.config.insecure_plaintext_store,
    })
}
