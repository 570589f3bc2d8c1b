//! Confirmation in the background: one layer at a time, slowly, once for each blob.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::Ordering},
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    Shared, admit,
    image::{Image, ImageLayer},
};
use crate::{
    error::{Error, Result},
    index::{Chunk, LayerIndex},
    open::{Checked, Finding, Keep, Opened, Subject, check},
};

/// Layers that wait for their confirmation.
#[derive(Debug)]
pub(super) struct Queue {
    jobs: mpsc::UnboundedSender<Job>,
    waiting: Mutex<HashSet<Subject>>,
    left: watch::Sender<usize>,
}

/// A layer to confirm.
#[derive(Debug)]
pub(super) struct Job {
    image: Arc<Image>,
    number: usize,
    due: Instant,
}

// === impl Queue ===

impl Queue {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Job>) {
        let (jobs, receive) = mpsc::unbounded_channel();
        let queue = Self {
            jobs,
            waiting: Mutex::default(),
            left: watch::Sender::new(0),
        };
        (queue, receive)
    }

    /// Has the lowest `count` layers of an image confirmed, those that are not yet.
    pub(super) fn add(&self, shared: &Shared, image: &Arc<Image>, count: usize) {
        let due = Instant::now() + shared.config.confirm_after;
        for (number, layer) in image.layers.iter().enumerate().take(count) {
            let subject = layer.subject();
            if shared.findings.of(&subject).is_some() {
                continue;
            }
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if !waiting.insert(subject) {
                continue;
            }
            drop(waiting);
            self.left.send_modify(|left| *left += 1);
            let image = Arc::clone(image);
            // The worker ends only with everything else.
            let _ = self.jobs.send(Job { image, number, due });
        }
    }

    /// How many wait, and are being confirmed.
    pub(super) fn left(&self) -> usize {
        *self.left.borrow()
    }

    /// Ends when nothing is left to confirm.
    pub(super) fn settles(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut left = self.left.subscribe();
        async move {
            // An error means that the queue has ended: nothing is left then either.
            let _ = left.wait_for(|left| *left == 0).await;
        }
    }

    fn done(&self, subject: &Subject) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(subject);
        drop(waiting);
        self.left.send_modify(|left| *left -= 1);
    }
}

/// Confirms layer after layer until the images are dropped.
pub(super) async fn work(shared: Weak<Shared>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    while let Some(Job { image, number, due }) = jobs.recv().await {
        tokio::time::sleep_until(due).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let layer = &image.layers[number];
        if let Err(error) = confirm(&shared, &image, number).await {
            let layer = &layer.descriptor.digest;
            tracing::warn!(
                event = "layer_not_confirmed",
                image = image.reference,
                %layer,
                kind = error.kind().as_str(),
                %error,
                "not confirmed; tried again at its next use"
            );
            shared.counters.unconfirmed.fetch_add(1, Ordering::Relaxed);
        }
        shared.queue.done(&layer.subject());
    }
}

/// Confirms one layer unless that has been done; what is found otherwise poisons it.
///
/// # Errors
/// What keeps it from being read; then it is neither confirmed nor poisoned.
pub(super) async fn confirm(shared: &Shared, image: &Image, number: usize) -> Result<()> {
    let begin = Instant::now();
    let layer = &image.layers[number];
    let subject = layer.subject();
    if shared.findings.of(&subject).is_some() {
        return Ok(());
    }
    let policy = shared.config.policy.now().await?;
    let opener = admit::opener(shared, policy, &image.grant).await?;
    let direct = image.repository.direct();
    let whole = opener.whole_layer(&layer.descriptor, &**direct).await?;
    let index = index_of(shared, image, number).await?.index;
    let rate = shared.config.confirm_rate;
    let diff_id = layer.diff_id.clone();
    let keep = keep(shared, layer, &index);
    let checked = check(
        whole.source,
        whole.kind.compression,
        diff_id,
        index,
        rate,
        keep,
    );
    match checked.await? {
        Checked::Same => {
            tracing::info!(
                event = "layer_confirmed",
                image = image.reference,
                layer = %layer.descriptor.digest,
                bytes = layer.descriptor.size,
                seconds = begin.elapsed().as_secs_f64(),
                "confirmed"
            );
            shared.counters.confirmed.fetch_add(1, Ordering::Relaxed);
            shared.findings.add(&subject, Finding::Confirmed)
        }
        Checked::Other(why) => {
            // First the finding, then the mounts: a mount that is made meanwhile looks after.
            let kept = shared
                .findings
                .add(&subject, Finding::Poisoned(why.clone()));
            let mounts = shared.mounts.poison(&subject, &why);
            shared.counters.poisoned.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                event = "layer_poisoned",
                image = image.reference,
                manifest = %image.grant.manifest_digest(),
                layer = %layer.descriptor.digest,
                chain_id = layer.chain_id,
                why,
                mounts,
                "layer is not what its image claims; reads fail from now on"
            );
            kept
        }
    }
}

/// Where to keep the chunks of a layer that is read whole, if its image is to be complete and there is
/// room for it.
fn keep(shared: &Shared, layer: &ImageLayer, index: &LayerIndex) -> Option<Keep> {
    shared.background.as_ref()?;
    let store = &shared.config.store;
    let length = |chunk: &Chunk| u64::from(chunk.length);
    let plain: u64 = index.table.chunks.iter().map(length).sum();
    let fits = plain > 0 && plain <= store.room();
    fits.then_some(Keep {
        store: Arc::clone(store),
        space: layer.open.as_ref()?.layer.space.clone(),
    })
}

/// Opens a layer's index once more, from what is kept if that serves.
pub(super) async fn index_of(shared: &Shared, image: &Image, number: usize) -> Result<Opened> {
    let layer = &image.layers[number];
    let opened = layer.open.as_ref().ok_or_else(|| {
        let digest = &layer.descriptor.digest;
        Error::internal(format!("layer {digest} is not lazy"))
    })?;
    let (kept, class) = (&image.repository, image.grant.class());
    admit::open_index(shared, kept, &opened.layer, layer, class).await
}
