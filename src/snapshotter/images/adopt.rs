//! Mounts that an earlier daemon left: adopted at the start, opened beside everything else.
//!
//! Requests wait in the kernel while an image is opened; they must not wait for ever. What fails for
//! good, or until the deadline, fails the requests; and it is tried again, because a registry comes
//! back and a policy is mended, while the container that reads does not go away.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    Shared,
    front_end::Mount,
    image::Image,
    mounts::{Slot, blocking},
};
use crate::{
    error::{Error, Kind, Result},
    snapshotter::lazy::Evidence,
};

/// The first and the longest pause between attempts to open an image.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A mount whose image is being opened.
struct Adoption {
    shared: Weak<Shared>,
    evidence: Evidence,
    slot: Arc<Slot>,
}

impl Shared {
    /// Adopts what earlier daemons mounted for these snapshots; gives how many mounts. Returns
    /// before they are open.
    pub(super) async fn adopt(self: &Arc<Self>, alive: &[Evidence]) -> usize {
        let mut seen = HashSet::new();
        let mut count = 0;
        for evidence in alive {
            let key = (&evidence.manifest, evidence.layer_number);
            if !seen.insert(key) {
                continue;
            }
            let directory = self.mounts.directory(key.0, key.1);
            let Some(mount) = self.take_over(&directory, &evidence.reference).await else {
                continue;
            };
            let slot = self.mounts.slot(key.0, key.1);
            slot.adopting(&evidence.reference);
            let adoption = Adoption {
                shared: Arc::downgrade(self),
                evidence: evidence.clone(),
                slot: Arc::clone(&slot),
            };
            // Whoever wants the directory waits from now on.
            let place = Arc::clone(&slot.mount).lock_owned().await;
            tokio::spawn(adoption.run(mount, place));
            count += 1;
        }
        let front_end = Arc::clone(&self.config.front_end);
        let forgotten = blocking(move || {
            front_end.forget_others();
            Ok(())
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, "descriptors of mounts that are gone");
        }
        count
    }

    async fn take_over(&self, directory: &Path, reference: &str) -> Option<Box<dyn Mount>> {
        let front_end = Arc::clone(&self.config.front_end);
        let (directory, reference) = (directory.to_owned(), reference.to_owned());
        let adopted = blocking(move || Ok(front_end.adopt(&directory, &reference)));
        adopted.await.unwrap_or_else(|error| {
            tracing::error!(%error, "adopting a mount");
            None
        })
    }
}

type Place = tokio::sync::OwnedMutexGuard<Option<Box<dyn Mount>>>;

// === impl Adoption ===

impl Adoption {
    async fn run(self, mount: Box<dyn Mount>, mut place: Place) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let begin = Instant::now();
        let opened = self.until_deadline(&shared, &*mount, begin).await;
        drop(shared);
        match opened {
            Ok(()) => {
                self.log_adopted(begin);
                *place = Some(mount);
            }
            Err(error) => {
                self.fail(&*mount, error);
                *place = Some(mount);
                drop(place);
                self.in_background(begin).await;
            }
        }
    }

    /// Opens the image; if the registry is away, again and again until the deadline.
    async fn until_deadline(
        &self,
        shared: &Arc<Shared>,
        mount: &dyn Mount,
        begin: Instant,
    ) -> Result<()> {
        let limit = shared.config.adoption_deadline;
        let deadline = begin + limit;
        let mut pause = PAUSES.0;
        let mut last = None;
        loop {
            match timeout_at(deadline, self.attempt(shared, mount)).await {
                Ok(Err(error)) if error.kind() == Kind::Unavailable => last = Some(error),
                Ok(other) => return other,
                Err(_) => {
                    let late = || Error::new(Kind::Unavailable, format!("not open in {limit:?}"));
                    return Err(last.unwrap_or_else(late));
                }
            }
            sleep_until(deadline.min(Instant::now() + pause)).await;
            pause *= 2;
        }
    }

    async fn attempt(&self, shared: &Arc<Shared>, mount: &dyn Mount) -> Result<()> {
        let (image, number) = shared.open(&self.evidence).await?;
        self.show(shared, &image, number, mount).await
    }

    async fn show(
        &self,
        shared: &Arc<Shared>,
        image: &Arc<Image>,
        number: usize,
        mount: &dyn Mount,
    ) -> Result<()> {
        shared.show(image, number, &self.slot, mount).await?;
        if let Err(error) = shared.after(image, number) {
            // It is shown, and its switch is turned.
            tracing::error!(image = image.reference, %error, "adopted");
        }
        Ok(())
    }

    /// Tries on until it works, or somebody else has done it, or the mount is gone.
    async fn in_background(self, begin: Instant) {
        let mut pause = PAUSES.0;
        loop {
            sleep(pause).await;
            pause = PAUSES.1.min(pause * 2);
            let Some(shared) = self.shared.upgrade() else {
                return;
            };
            // Opened first, so that nobody waits for it.
            let opened = shared.open(&self.evidence).await;
            let place = self.slot.mount.lock().await;
            let Some(mount) = place.as_deref().filter(|it| it.is_alive() && !it.shows()) else {
                return;
            };
            let shown = match opened {
                Ok((image, number)) => {
                    let shown = self.show(&shared, &image, number, mount);
                    shown.await
                }
                Err(error) => Err(error),
            };
            match shown {
                Ok(()) => return self.log_adopted(begin),
                Err(error) => self.fail(mount, error),
            }
        }
    }

    fn log_adopted(&self, begin: Instant) {
        tracing::info!(
            event = "mount_adopted",
            image = self.evidence.reference,
            directory = %self.slot.directory.display(),
            seconds = begin.elapsed().as_secs_f64(),
            "mount of an earlier daemon is served on"
        );
    }

    /// Has requests fail, with this in the log.
    fn fail(&self, mount: &dyn Mount, error: Error) {
        let directory = self.slot.directory.display();
        self.slot.adoption_failed(&error);
        if let Some(shared) = self.shared.upgrade() {
            shared.measured.adoption_failed();
        }
        tracing::error!(
            event = "adoption_failed",
            image = self.evidence.reference,
            %directory,
            kind = error.kind().as_str(),
            %error,
            "requests to a mount of an earlier daemon fail for now"
        );
        if let Err(error) = mount.fail(error) {
            tracing::error!(%directory, %error, "mount of an earlier daemon is not served");
        }
    }
}
