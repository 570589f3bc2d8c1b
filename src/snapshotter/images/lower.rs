//! From a snapshot's evidence to the directory that containers have below theirs.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use futures::future::try_join_all;
use tokio::{runtime::Handle, time::Instant};

use super::{
    Shared,
    admit::Wanted,
    config::Confirm,
    confirm,
    image::Image,
    kept::Mode,
    mounts::{Mount, Slot, blocking},
    report::About,
    switch::{Switch, Switched},
};
use crate::{
    engine::{Engine, LayerData},
    error::{Error, Result},
    index::{ChunkTable, LayerIndex},
    oci::Digest,
    snapshotter::lazy::Evidence,
    tree::Tree,
};

impl Shared {
    pub(super) async fn lower(self: &Arc<Self>, evidence: &Evidence) -> Result<PathBuf> {
        let wanted = Wanted {
            reference: evidence.reference.clone(),
            digest: Some(evidence.manifest.clone()),
            at_least: usize::from(evidence.layer_number) + 1,
            mode: Mode::Again,
        };
        let image = self.image(&wanted).await?;
        let number = image.named_by(evidence)?;
        image.check_findings(&self.findings, number)?;
        let slot = self.mounts.slot(&evidence.manifest, evidence.layer_number);
        let mut mount = slot.mount.lock().await;
        if let Some(why) = slot.poisoned() {
            return Err(Error::denied(format!(
                "{}: poisoned: {why}",
                image.reference
            )));
        }
        if !mount.as_ref().is_some_and(|mount| mount.is_alive()) {
            *mount = Some(self.mount(&image, number, &slot).await?);
        }
        drop(mount);
        // What was found while it was being mounted.
        if let Err(error) = image.check_findings(&self.findings, number) {
            let subjects = image.layers[..=number].iter().map(|it| it.subject());
            subjects
                .filter_map(|it| Some((self.findings.poisoned(&it)?, it)))
                .for_each(|(why, it)| _ = self.mounts.poison(&it, &why));
            return Err(error);
        }
        if self.config.confirm != Confirm::Never {
            self.queue.add(self, &image, number + 1);
        }
        Ok(slot.directory.clone())
    }

    async fn mount(&self, image: &Image, number: usize, slot: &Slot) -> Result<Box<dyn Mount>> {
        let begin = Instant::now();
        let indexes = (0..=number).map(|it| async move {
            let opened = image.layers[it].open.as_ref();
            let held = opened.and_then(|it| {
                let mut held = it.index.lock().unwrap_or_else(PoisonError::into_inner);
                held.take()
            });
            match held {
                Some(index) => Ok(index),
                None => confirm::index_of(image, it).await,
            }
        });
        let indexes = try_join_all(indexes).await?;
        let (mut entries, mut data, mut prefetches) = (Vec::new(), Vec::new(), Vec::new());
        for (layer, index) in image.layers.iter().zip(indexes) {
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
                table: self.shared_table(&layer.descriptor.digest, layer.index.as_ref(), table),
                source: Arc::clone(&opened.layer.source),
                space: opened.layer.space.clone(),
            });
        }
        let store = Arc::clone(&self.config.store);
        let engine = Engine::start(data, store, Handle::current(), self.config.engine)?;
        let about = About::new(image, number, engine.meter());
        self.measured.engine(engine.meter());
        for (layer, bytes) in (0..).zip(prefetches).filter(|&(_, bytes)| bytes > 0) {
            engine.prefetch(layer, bytes);
        }
        if let (Some(profile), Some(follow)) = (&image.profile, self.config.engine.follow) {
            engine.follow(profile, follow);
        }
        let switch = Switch::default();
        let reader = Arc::new(Switched {
            engine,
            switch: switch.clone(),
        });
        let (reference, directory) = (image.reference.clone(), slot.directory.clone());
        let front_end = Arc::clone(&self.config.front_end);
        let mounted = blocking(move || {
            let tree = Tree::merge(entries).map_err(|e| e.context(reference.clone()))?;
            // It may be there, and may be a dead mount, of which nothing more can be known.
            if let Err(error) = std::fs::create_dir(&directory)
                && error.kind() != std::io::ErrorKind::AlreadyExists
            {
                let what = format!("directory {}", directory.display());
                return Err(Error::io(what, error));
            }
            front_end.mount(Arc::new(tree), reader, &directory, &reference)
        })
        .await?;
        let subjects = image.layers[..=number].iter().map(|it| it.subject());
        slot.shows(subjects.collect(), switch);
        self.measured.mounted.record(begin.elapsed());
        about.log_mounted(&slot.directory, begin.elapsed());
        slot.about(about);
        Ok(mounted)
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
        slot.upgrade().unwrap_or_else(|| {
            let table = Arc::new(table);
            *slot = Arc::downgrade(&table);
            table
        })
    }
}
