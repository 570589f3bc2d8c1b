//! From a reference to a tree whose files can be read: resolve, admit, unwrap keys, open the indexes,
//! merge, start the engine.
//!
//! Everything that a mount needs before its first read happens here, layers in parallel: after
//! authentication two dependent round trips, the manifest (with what the policy wants beside it) and
//! then all layers' indexes.

mod attached;
mod check;
mod confirm;
mod findings;
mod inspect;
mod kind;
mod ordinary;
mod soci;
mod whole;

use std::sync::Arc;

use futures::future::try_join_all;

use self::whole::Whole;
pub(crate) use self::{
    attached::{Attached, Search},
    check::{Checked, Keep, check},
    findings::{Finding, Subject},
    kind::Opened,
    ordinary::{diff_ids, is_ordinary, ordinary},
};
pub use self::{
    confirm::Unconfirmed,
    findings::Findings,
    inspect::{ImageReport, IndexFrom, LayerReport, inspect},
    kind::IndexKind,
};
use crate::{
    engine::{Engine, EngineConfig, LayerData, Profile},
    error::{Error, Result},
    index::{self, Binding, nacre::IndexKey},
    keys::Keyring,
    oci::{Descriptor, Digest, Location, Platform, Reference, media_type},
    ocicrypt::{self, DecryptingSource},
    profile::{self, ProfileKey},
    source::{BlobSource, Remembered, Repository, Traffic},
    store::{Seal, Space, Store},
    tree::Tree,
    trust::{self, Class, Grant, Policy},
};

/// What images are opened with.
#[derive(Debug)]
pub struct Opener {
    /// Decides what is admitted.
    pub policy: Policy,
    /// Opens encrypted layers.
    pub keyring: Keyring,
    /// Keeps chunks.
    pub store: Arc<Store>,
    /// How chunks are fetched.
    pub engine: EngineConfig,
    /// Which image to take from an index.
    pub platform: Platform,
    /// Digest that the reference must resolve to, if it is known.
    pub expected_digest: Option<Digest>,
    /// What was found of layers whose index nobody vouched for; nothing is remembered without.
    pub findings: Option<Arc<Findings>>,
    /// Stores chunks of encrypted layers unsealed.
    pub insecure_plaintext_store: bool,
}

/// An image whose files can be read.
#[derive(Debug)]
pub struct OpenImage {
    /// Why it may be.
    pub grant: Grant,
    /// Its file system.
    pub tree: Arc<Tree>,
    /// Reads its files.
    pub engine: Arc<Engine>,
    /// Requests and bytes of its repository, from the manifest on.
    pub traffic: Arc<Traffic>,
    /// What each layer was opened by, the lowest first.
    pub indexes: Vec<IndexKind>,
    /// Layers whose index nobody vouches for, with which the policy puts up.
    pub unconfirmed: Vec<Arc<Unconfirmed>>,
}

/// An admitted layer that is ready to be read: decrypting if it is encrypted.
#[derive(Clone, Debug)]
pub struct Layer {
    /// As the admitted manifest names it.
    pub descriptor: Descriptor,
    /// What its media type says.
    pub kind: media_type::LayerKind,
    /// The plain blob.
    pub source: Arc<dyn BlobSource>,
    /// How its chunks are stored.
    pub space: Space,
    /// Seals its index if one is made here, and it is encrypted.
    pub index_seal: Option<Seal>,
    /// Opens the image's profile, if the layer is encrypted.
    pub profile_key: Option<ProfileKey>,
    /// Opens what somebody attached to the image as the layer's index, if the layer is encrypted.
    pub(crate) index_key: Option<IndexKey>,
    /// What somebody attached to the image as indexes of its ordinary layers.
    pub(crate) attached: Attached,
    /// Digest that its index must have, whatever the manifest says: whoever encrypted the layer
    /// wrapped it with the key.
    pub index_digest: Option<Digest>,
}

/// Label under which the store's keys are derived from a layer's key.
const SEAL_LABEL: &[u8] = b"nacre store";
/// Label under which the keys of kept indexes are.
const INDEX_SEAL_LABEL: &[u8] = b"nacre kept index";

// === impl OpenImage ===

impl OpenImage {
    /// Bytes of all its blobs.
    #[must_use]
    pub fn blob_bytes(&self) -> u64 {
        self.grant
            .manifest()
            .layers
            .iter()
            .map(|layer| layer.size)
            .sum()
    }
}

// === impl Opener ===

impl Opener {
    /// Opens an image lazily. A layer without an index that the manifest vouches for is read whole if
    /// no index of it is kept.
    ///
    /// # Errors
    /// `Denied` by the policy or for want of a key, `Corrupt` if an index is not the one that was
    /// signed or a layer not what the image claims, `Unsupported` if a layer cannot be read in parts,
    /// and what the registry says.
    pub async fn open(
        &self,
        reference: &Reference,
        repository: &Arc<dyn Repository>,
        location: &Location,
    ) -> Result<OpenImage> {
        let repository = &Remembered::new(Arc::clone(repository));
        let grant = self.admit(reference, repository, location).await?;
        let attached = async { Ok(self.attached(&grant, repository).await) };
        let (mut layers, claims, attached) = tokio::try_join!(
            self.layers(&grant, repository),
            self.claims(&grant, repository),
            attached
        )?;
        attach(&mut layers, &attached);
        let open = |(number, layer)| self.open_layer(layer, number, &grant, claims.as_deref());
        let opened = try_join_all(layers.iter().enumerate().map(open));
        let profile = self.profile(&grant, &layers, repository);
        let (opened, profile) = tokio::join!(opened, profile);
        let opened = opened?;
        let indexes = opened.iter().map(|it| it.kind).collect();
        let claims = claims.as_deref().unwrap_or_default();
        let unconfirmed = self.unconfirmed(&layers, &opened, claims);
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        let mut prefetches = Vec::new();
        for (layer, Opened { index, .. }) in layers.iter().zip(opened) {
            entries.push(index.entries);
            prefetches.push(index.prefetch);
            data.push(LayerData {
                digest: layer.descriptor.digest.clone(),
                table: Arc::new(index.table),
                source: Arc::clone(&layer.source),
                space: layer.space.clone(),
            });
        }
        let tree = Tree::merge(entries).map_err(|e| e.context(reference.to_string()))?;
        let runtime = tokio::runtime::Handle::current();
        let engine = Engine::start(data, Arc::clone(&self.store), runtime, self.engine)?;
        for (layer, bytes) in (0..).zip(prefetches).filter(|&(_, bytes)| bytes > 0) {
            engine.prefetch(layer, bytes);
        }
        if let (Some(profile), Some(follow)) = (profile, self.engine.follow) {
            engine.follow(&profile, follow);
        }
        Ok(OpenImage {
            grant,
            tree: Arc::new(tree),
            engine: Arc::new(engine),
            traffic: repository.traffic(),
            indexes,
            unconfirmed,
        })
    }

    /// Asks the policy.
    ///
    /// # Errors
    /// `Denied`, and what the registry says.
    pub async fn admit(
        &self,
        reference: &Reference,
        repository: &dyn Repository,
        location: &Location,
    ) -> Result<Grant> {
        trust::admit(&trust::Request {
            policy: &self.policy,
            reference,
            repository,
            location,
            platform: &self.platform,
            expected_digest: self.expected_digest.as_ref(),
        })
        .await
    }

    /// The indexes of the image's ordinary layers that somebody attached, as far as they are to be
    /// believed.
    pub(crate) async fn attached(&self, grant: &Grant, repository: &dyn Repository) -> Attached {
        let search = Search {
            policy: &self.policy,
            grant,
            repository,
        };
        search.find().await
    }

    /// The image's profile, if profiles are followed and there is one that can be read.
    pub(crate) async fn profile(
        &self,
        grant: &Grant,
        layers: &[Layer],
        repository: &dyn Repository,
    ) -> Option<Profile> {
        self.engine.follow?;
        profile::find(repository, grant.manifest_digest(), profile_key(layers)).await
    }

    /// The layers of an admitted image, keys unwrapped, to be read at any offset.
    ///
    /// # Errors
    /// `Unsupported` if a layer is not a tar archive, `Denied` if a key is missing or wrong.
    pub async fn layers(&self, grant: &Grant, repository: &dyn Repository) -> Result<Vec<Layer>> {
        self.lowest_layers(grant, repository, grant.manifest().layers.len())
            .await
    }

    /// The lowest `count` layers of an admitted image, as [`layers`](Self::layers).
    ///
    /// # Errors
    /// As [`layers`](Self::layers).
    pub async fn lowest_layers(
        &self,
        grant: &Grant,
        repository: &dyn Repository,
        count: usize,
    ) -> Result<Vec<Layer>> {
        let authenticate = grant.class() == Class::EncryptedUnsigned;
        try_join_all(
            grant
                .manifest()
                .layers
                .iter()
                .take(count)
                .map(|descriptor| {
                    self.ready(descriptor, repository.blob(descriptor), authenticate)
                }),
        )
        .await
    }

    /// The layers of an admitted image, keys unwrapped, to be read whole: a stream ends well only
    /// if blob digest and HMAC are what they should be.
    ///
    /// # Errors
    /// As [`layers`](Self::layers).
    pub async fn whole_layers(
        &self,
        grant: &Grant,
        repository: &dyn Repository,
    ) -> Result<Vec<Layer>> {
        let layers = &grant.manifest().layers;
        try_join_all(layers.iter().map(|it| self.whole_layer(it, repository))).await
    }

    /// One layer of an admitted manifest, to be read whole as by
    /// [`whole_layers`](Self::whole_layers).
    ///
    /// # Errors
    /// As [`layers`](Self::layers).
    pub(crate) async fn whole_layer(
        &self,
        descriptor: &Descriptor,
        repository: &dyn Repository,
    ) -> Result<Layer> {
        let blob = Arc::new(Whole(repository.blob(descriptor)));
        self.ready(descriptor, blob, false).await
    }

    async fn ready(
        &self,
        descriptor: &Descriptor,
        blob: Arc<dyn BlobSource>,
        authenticate: bool,
    ) -> Result<Layer> {
        let kind = media_type::layer_kind(&descriptor.media_type).ok_or_else(|| {
            Error::unsupported(format!(
                "layer {}: media type {:?} is not a layer's",
                descriptor.digest, descriptor.media_type
            ))
        })?;
        let ordinary = is_ordinary(descriptor);
        let blob = match ordinary {
            // Read from first to last, it must be the blob.
            true => Arc::new(Whole(blob)),
            false => blob,
        };
        if !kind.encrypted {
            return Ok(Layer {
                descriptor: descriptor.clone(),
                kind,
                source: blob,
                space: Space::Plain,
                index_seal: None,
                profile_key: None,
                index_key: None,
                attached: Attached::default(),
                index_digest: None,
            });
        }
        let key = self.keyring.unwrap(descriptor).await?;
        let index_digest = key
            .index_digest()
            .map_err(|e| e.context(format!("layer {}", descriptor.digest)))?;
        if authenticate && index_digest.is_none() && !ordinary {
            // Nobody signed the manifest that names the index, and the cipher is malleable:
            // only the HMAC, over all of the layer, tells that who had the key made it.
            tracing::info!(layer = %descriptor.digest, "unsigned: read whole to check its HMAC");
            ocicrypt::authenticate(&*blob, &key).await?;
        }
        let space = if self.insecure_plaintext_store {
            tracing::warn!(layer = %descriptor.digest, "plaintext goes to disk (insecure_plaintext_store)");
            Space::Plain
        } else {
            Space::Sealed(Seal::new(&key.derive(SEAL_LABEL)))
        };
        let source = DecryptingSource::new(blob, &key);
        Ok(Layer {
            descriptor: descriptor.clone(),
            kind,
            source,
            space,
            index_seal: Some(Seal::new(&key.derive(INDEX_SEAL_LABEL))),
            profile_key: Some(ProfileKey::of(&key)),
            index_key: Some(IndexKey::of(&key, &descriptor.digest)),
            attached: Attached::default(),
            index_digest,
        })
    }
}

/// Gives the layers what is attached to their image.
pub(crate) fn attach(layers: &mut [Layer], attached: &Attached) {
    for layer in layers {
        layer.attached = attached.clone();
    }
}

/// The key of an image's profile: that of the lowest encrypted layer.
pub(crate) fn profile_key(layers: &[Layer]) -> Option<&ProfileKey> {
    layers.iter().find_map(|layer| layer.profile_key.as_ref())
}

/// Opens the index that the manifest names for a layer, or one that is attached to the image.
///
/// # Errors
/// `Unsupported` if there is none, `Corrupt` if it is not the one that was signed, and what the
/// source says.
pub(crate) async fn open_index(layer: &Layer, class: Class) -> Result<Opened> {
    let digest = &layer.descriptor.digest;
    let Some(binding) = Binding::of(&layer.descriptor)? else {
        if let Some(index) = layer.attached.index(layer).await? {
            return Ok(index);
        }
        return Err(Error::unsupported(format!(
            "layer {digest}: no index that the manifest vouches for"
        ))
        .with_hint(
            "make a lazy image with `nacre image convert SRC DST --format estargz`, then encrypt \
                 and sign that; or unpack this one with `nacre pull`",
        ));
    };
    if let Some(wrapped) = &layer.index_digest
        && wrapped != binding.digest()
    {
        return Err(Error::corrupt(format!(
            "layer {digest}: the manifest names the index {}, the one that was encrypted is {wrapped}",
            binding.digest()
        )));
    }
    let verified = index::open(&*layer.source, &binding).await.map_err(|e| {
        // A wrong key gives garbage where the index should be.
        if layer.kind.encrypted && class == Class::EncryptedUnsigned {
            e.context(format!("layer {digest}, as decrypted"))
        } else {
            e.context(format!("layer {digest}"))
        }
    })?;
    Ok(Opened::certain(
        verified.into_inner(),
        IndexKind::of(&binding),
    ))
}
