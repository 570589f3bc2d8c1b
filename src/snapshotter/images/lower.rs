//! From a snapshot's evidence to the directory that containers have below theirs.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use futures::future::try_join_all;
use tokio::{runtime::Handle, time::Instant};

use super::{
    Shared,
    admit::{self, Wanted},
    config::Confirm,
    confirm,
    front_end::Mount,
    image::{Image, Way},
    kept::Mode,
    mounts::{Slot, blocking},
    report::About,
};
use crate::{
    engine::{Engine, LayerData, Meter, ReadFile, Switch, Switched},
    error::{Error, Result},
    index::{ChunkTable, LayerIndex},
    oci::Digest,
    open::Subject,
    snapshotter::lazy::Evidence,
    tree::Tree,
};

/// A tree that is ready to be mounted.
struct Built {
    tree: Arc<Tree>,
    reader: Arc<Switched>,
    /// A profile is being followed.
    follows: bool,
    subjects: HashSet<Subject>,
    switch: Switch,
    meter: Meter,
}

impl Shared {
    pub(super) async fn lower(self: &Arc<Self>, evidence: &Evidence) -> Result<PathBuf> {
        let (image, number) = self.open(evidence).await?;
        let slot = self.mounts.slot(&evidence.manifest, evidence.layer_number);
        let mut mount = slot.mount.lock().await;
        if let Some(why) = slot.poisoned() {
            return Err(Error::denied(format!(
                "{}: poisoned: {why}",
                image.reference
            )));
        }
        match mount.as_ref().filter(|mount| mount.is_alive()) {
            Some(mount) if mount.shows() => {}
            // Adopted, and its image could not be opened until now.
            Some(mount) => self.show(&image, number, &slot, &**mount).await?,
            None => {
                let dead = mount.take();
                *mount = Some(self.mount(&image, number, &slot, dead).await?);
            }
        }
        drop(mount);
        self.after(&image, number)?;
        Ok(slot.directory.clone())
    }

    /// The image that a snapshot was made of, and the layer's number in it.
    ///
    /// # Errors
    /// If it cannot be opened, or may not be shown.
    pub(super) async fn open(self: &Arc<Self>, evidence: &Evidence) -> Result<(Arc<Image>, usize)> {
        let wanted = Wanted {
            reference: evidence.reference.clone(),
            digest: Some(evidence.manifest.clone()),
            at_least: usize::from(evidence.layer_number) + 1,
            mode: Mode::Again,
        };
        let image = self.image(&wanted).await?;
        let number = image.named_by(evidence)?;
        image.check_findings(&self.findings, number)?;
        Ok((image, number))
    }

    /// What is due once a tree is shown: a look at what was found meanwhile, confirmation.
    ///
    /// # Errors
    /// If its reads fail from now on because of what was found.
    pub(super) fn after(self: &Arc<Self>, image: &Arc<Image>, number: usize) -> Result<()> {
        if let Err(error) = image.check_findings(&self.findings, number) {
            let subjects = image.layers[..=number].iter().map(|it| it.subject());
            subjects
                .filter_map(|it| Some((self.findings.poisoned(&it)?, it)))
                .for_each(|(why, it)| _ = self.mounts.poison(&it, &why));
            return Err(error);
        }
        if self.config.confirm != Confirm::Never {
            self.queue.add(self, image, number + 1);
        }
        Ok(())
    }

    /// Mounts; `dead` is what was mounted there and is not served any more.
    async fn mount(
        &self,
        image: &Image,
        number: usize,
        slot: &Slot,
        dead: Option<Box<dyn Mount>>,
    ) -> Result<Box<dyn Mount>> {
        let begin = Instant::now();
        let built = self.build(image, number, true).await?;
        let (reference, directory) = (image.reference.clone(), slot.directory.clone());
        let front_end = Arc::clone(&self.config.front_end);
        let (tree, reader) = (
            Arc::clone(&built.tree),
            Arc::clone(&built.reader) as Arc<dyn ReadFile>,
        );
        let mounted = blocking(move || {
            if let Some(Err(error)) = dead.map(Mount::take_away) {
                tracing::debug!(directory = %directory.display(), %error, "dead mount");
            }
            // It may be there, and may be a dead mount, of which nothing more can be known.
            if let Err(error) = std::fs::create_dir(&directory)
                && error.kind() != std::io::ErrorKind::AlreadyExists
            {
                let what = format!("directory {}", directory.display());
                return Err(Error::io(what, error));
            }
            front_end.mount(tree, reader, &directory, &reference)
        })
        .await?;
        slot.shows(built.subjects, built.switch);
        self.measured.mounted.record(begin.elapsed());
        if let (true, Some(read_ahead)) = (built.follows, mounted.read_ahead()) {
            let followed = built.reader.engine.followed();
            tokio::spawn(read_ahead.clone().narrow_for_start(followed));
        }
        let about = About::new(image, number, built.meter, mounted.front_end());
        about.log_mounted(&slot.directory, begin.elapsed());
        slot.about(about);
        Ok(mounted)
    }

    /// Has an adopted mount show its tree.
    ///
    /// # Errors
    /// If it cannot be built.
    pub(super) async fn show(
        &self,
        image: &Image,
        number: usize,
        slot: &Slot,
        mount: &dyn Mount,
    ) -> Result<()> {
        // What its containers read at their start, they have read.
        let built = self.build(image, number, false).await?;
        // First the switch: what is found from here on concerns it.
        slot.shows(built.subjects, built.switch);
        mount.show(built.tree, built.reader)?;
        slot.about(About::new(image, number, built.meter, mount.front_end()));
        self.measured.adopted();
        Ok(())
    }

    /// Merges the lowest layers and starts an engine for them; `first` fetches ahead what a container
    /// reads at its start.
    async fn build(&self, image: &Image, number: usize, first: bool) -> Result<Built> {
        let indexes = (0..=number).map(|it| self.index_to_show(image, it));
        let indexes = try_join_all(indexes).await?;
        let (mut entries, mut data, mut prefetches) = (Vec::new(), Vec::new(), Vec::new());
        for (layer, (index, of)) in image.layers.iter().zip(indexes) {
            let Some(opened) = &layer.open else {
                let digest = &layer.descriptor.digest;
                return Err(Error::internal(format!("layer {digest} is not lazy")));
            };
            let LayerIndex {
                entries: own,
                table,
                prefetch,
            } = index;
            entries.push(own);
            prefetches.push(prefetch);
            data.push(LayerData {
                digest: layer.descriptor.digest.clone(),
                table: self.shared_table(&layer.descriptor.digest, of.as_ref(), table),
                source: Arc::clone(&opened.layer.source),
                space: opened.layer.space.clone(),
            });
        }
        let store = Arc::clone(&self.config.store);
        let engine = Engine::start(data, store, Handle::current(), self.config.engine)?;
        let meter = engine.meter();
        self.measured.engine(engine.meter());
        let ahead = (0..)
            .zip(prefetches)
            .filter(|&(_, bytes)| first && bytes > 0);
        for (layer, bytes) in ahead {
            engine.prefetch(layer, bytes);
        }
        let followed = image.profile.as_ref().zip(self.config.engine.follow);
        let followed = followed.filter(|_| first);
        if let Some((profile, follow)) = followed {
            engine.follow(profile, follow);
        }
        if let Some(background) = &self.background {
            // What is confirmed is read whole, and kept.
            engine.complete(background, &image.reference, first, self.queue.settles());
        }
        let switch = Switch::default();
        let reader = Arc::new(Switched {
            engine: Arc::new(engine),
            switch: switch.clone(),
        });
        let reference = image.reference.clone();
        let tree = blocking(move || Tree::merge(entries).map_err(|e| e.context(reference)));
        let subjects = image.layers[..=number].iter().map(|it| it.subject());
        Ok(Built {
            tree: Arc::new(tree.await?),
            reader,
            follows: followed.is_some(),
            subjects: subjects.collect(),
            switch,
            meter,
        })
    }

    /// The index of layer `number`, with its digest as it is known by; made here if the attached one is
    /// gone since the image was opened.
    async fn index_to_show(
        &self,
        image: &Image,
        number: usize,
    ) -> Result<(LayerIndex, Option<Digest>)> {
        let layer = &image.layers[number];
        let held = layer.open.as_ref().and_then(|it| {
            let mut held = it.index.lock().unwrap_or_else(PoisonError::into_inner);
            held.take()
        });
        if let Some(index) = held {
            return Ok((index, layer.index.clone()));
        }
        match (confirm::index_of(self, image, number).await, &layer.open) {
            (Ok(opened), _) => Ok((opened.index, layer.index.clone())),
            (Err(error), Some(opened)) if layer.way == Way::Attached => {
                let digest = &layer.descriptor.digest;
                tracing::warn!(layer = %digest, %error, "its attached index is gone; indexed here");
                let opened = admit::index_here(self, &opened.layer, layer).await?;
                Ok((opened.index, None))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// The table that other images use for the same layer and index, or this one.
    fn shared_table(
        &self,
        layer: &Digest,
        index: Option<&Digest>,
        table: ChunkTable,
    ) -> Arc<ChunkTable> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = tables.entry((layer.clone(), index.cloned())).or_default();
        // A kept index that was made anew may cut files otherwise.
        let same = |it: &Arc<ChunkTable>| it.chunks == table.chunks && it.units == table.units;
        slot.upgrade().filter(same).unwrap_or_else(|| {
            let table = Arc::new(table);
            *slot = Arc::downgrade(&table);
            table
        })
    }
}
