//! Lower directories: one mount for each image and layer number, made when first asked for.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    front_end::{FrontEnd, Mount},
    report::About,
};
use crate::{
    engine::Switch,
    error::{Error, Result},
    oci::Digest,
    open::Subject,
};

/// All lower directories.
#[derive(Debug)]
pub(super) struct Mounts {
    root: PathBuf,
    all: Mutex<HashMap<Key, Arc<Slot>>>,
}

/// Manifest and layer number.
pub(super) type Key = (Digest, u16);

/// One lower directory, mounted or not.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) directory: PathBuf,
    /// Locked while mounting or adopting, so that all who ask share one mount.
    pub(super) mount: Arc<tokio::sync::Mutex<Option<Box<dyn Mount>>>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    asked: Instant,
    /// What the mount shows, and its switch.
    shows: Option<(HashSet<Subject>, Switch)>,
    about: Option<Arc<About>>,
    /// Set from its adoption until it shows something.
    adopting: Option<Adopting>,
}

/// What is told of a mount whose image is not open yet.
#[derive(Clone, Debug)]
pub(super) struct Adopting {
    /// The image, as the user named it.
    pub(super) reference: String,
    pub(super) since: SystemTime,
    /// Why requests fail, if they do not wait.
    pub(super) error: Option<String>,
}

// === impl Mounts ===

impl Mounts {
    /// Makes `root` if it is not there.
    pub(super) fn open(root: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&root)
            .and_then(|()| root.canonicalize())
            .map(|root| Self {
                root,
                all: Mutex::default(),
            })
            .map_err(|e| Error::io("directory of mounts", e))
    }

    /// Where a lower directory is, if it is mounted.
    pub(super) fn directory(&self, manifest: &Digest, layer: u16) -> PathBuf {
        self.root.join(name(manifest, layer))
    }

    /// The place of a lower directory.
    pub(super) fn slot(&self, manifest: &Digest, layer: u16) -> Arc<Slot> {
        let mut all = self.lock();
        let slot = all.entry((manifest.clone(), layer)).or_insert_with(|| {
            Arc::new(Slot {
                directory: self.directory(manifest, layer),
                mount: Arc::default(),
                state: Mutex::new(State {
                    asked: Instant::now(),
                    shows: None,
                    about: None,
                    adopting: None,
                }),
            })
        });
        slot.state().asked = Instant::now();
        Arc::clone(slot)
    }

    /// Fails all reads of mounts that show the layer; gives how many there are.
    pub(super) fn poison(&self, subject: &Subject, why: &str) -> usize {
        let all = self.lock();
        let hit = all.values().filter(|slot| slot.poison(subject, why));
        hit.count()
    }

    /// How many are mounted.
    pub(super) fn count(&self) -> usize {
        let all = self.lock();
        all.values()
            .filter(|slot| slot.state().shows.is_some())
            .count()
    }

    /// Those that an earlier process mounted, and whose image is not open yet.
    pub(super) fn adopting(&self) -> Vec<(Key, Arc<Slot>, Adopting)> {
        let all = self.lock();
        let adopting = all.iter().filter_map(|(key, slot)| {
            let adopting = slot.state().adopting.clone()?;
            Some((key.clone(), Arc::clone(slot), adopting))
        });
        adopting.collect()
    }

    /// All that are or were mounted, with what is told of them.
    pub(super) fn described(&self) -> Vec<(Arc<Slot>, Arc<About>)> {
        let all = self.lock();
        let described = all.values().filter_map(|slot| {
            let about = slot.state().about.clone()?;
            Some((Arc::clone(slot), about))
        });
        described.collect()
    }

    /// Takes away what is not `alive` and was not asked for within `grace`, directories of earlier
    /// processes too.
    pub(super) async fn retain(
        &self,
        alive: &HashSet<Key>,
        grace: Duration,
        front_end: &Arc<dyn FrontEnd>,
    ) -> Result<()> {
        let mut gone = Vec::new();
        let mut kept = HashSet::new();
        self.lock().retain(|key, slot| {
            let busy = slot.mount.try_lock().is_err();
            let keep = busy || alive.contains(key) || slot.state().asked.elapsed() < grace;
            if keep {
                kept.insert(name(&key.0, key.1));
            } else {
                gone.push(Arc::clone(slot));
            }
            keep
        });
        kept.extend(alive.iter().map(|(manifest, layer)| name(manifest, *layer)));
        for slot in gone {
            let mount = slot.mount.lock().await.take();
            let directory = slot.directory.clone();
            let was_mounted = mount.is_some();
            let taken = blocking(move || {
                mount.map_or(Ok(()), Mount::take_away)?;
                remove(&directory)
            });
            let directory = slot.directory.display();
            match taken.await {
                Ok(()) if was_mounted => {
                    tracing::info!(event = "image_unmounted", %directory, "unmounted");
                }
                Ok(()) => {}
                // The sweep below and those to come try again.
                Err(error) => tracing::warn!(%directory, %error, "stays for now"),
            }
        }
        let (root, front_end) = (self.root.clone(), Arc::clone(front_end));
        blocking(move || sweep(&root, &kept, &*front_end)).await
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Slot ===

impl Slot {
    /// Notes what the mount shows.
    pub(super) fn shows(&self, subjects: HashSet<Subject>, switch: Switch) {
        self.state().shows = Some((subjects, switch));
    }

    /// Notes what is told of the mount.
    pub(super) fn about(&self, about: About) {
        let mut state = self.state();
        state.about = Some(Arc::new(about));
        state.adopting = None;
    }

    /// Notes that an earlier process mounted it, and that its image is being opened.
    pub(super) fn adopting(&self, reference: &str) {
        self.state().adopting = Some(Adopting {
            reference: reference.to_owned(),
            since: SystemTime::now(),
            error: None,
        });
    }

    /// Notes why its requests fail for now.
    pub(super) fn adoption_failed(&self, error: &Error) {
        if let Some(adopting) = &mut self.state().adopting {
            adopting.error = Some(error.to_string());
        }
    }

    /// Whether it is mounted, or being mounted at this moment. Looks at the table of mounts.
    pub(super) fn is_alive(&self) -> bool {
        let Ok(mount) = self.mount.try_lock() else {
            return true;
        };
        mount.as_ref().is_some_and(|mount| mount.is_alive())
    }

    /// Why its reads fail, if they do.
    pub(super) fn poisoned(&self) -> Option<String> {
        let state = self.state();
        let (_, switch) = state.shows.as_ref()?;
        switch.poisoned().map(str::to_owned)
    }

    fn poison(&self, subject: &Subject, why: &str) -> bool {
        match &self.state().shows {
            Some((subjects, switch)) if subjects.contains(subject) => {
                switch.poison(why);
                true
            }
            _ => false,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("a blocking task").with_source(e))?
}

fn name(manifest: &Digest, layer: u16) -> String {
    format!("{}-{layer}", manifest.hex())
}

/// Removes directories that are not in `kept`.
fn sweep(root: &Path, kept: &HashSet<String>, front_end: &dyn FrontEnd) -> Result<()> {
    let entries = std::fs::read_dir(root)
        .map_err(|e| Error::io(format!("directory {}", root.display()), e))?;
    for entry in entries.flatten() {
        let named = entry.file_name();
        if named.to_str().is_some_and(|it| kept.contains(it)) {
            continue;
        }
        let directory = entry.path();
        if let Err(error) = front_end
            .clear(&directory)
            .and_then(|()| remove(&directory))
        {
            tracing::warn!(directory = %directory.display(), %error, "left behind");
        }
    }
    Ok(())
}

fn remove(directory: &Path) -> Result<()> {
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(
            format!("directory {}", directory.display()),
            error,
        )),
        _ => Ok(()),
    }
}
