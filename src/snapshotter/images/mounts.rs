//! Lower directories: one mount for each image and layer number, made when first asked for.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{findings::Subject, switch::Switch};
use crate::{
    engine::ReadFile,
    error::{Error, Result},
    oci::Digest,
    tree::Tree,
};

/// Mounts trees. Its functions may block.
pub trait FrontEnd: Send + Sync + Debug {
    /// Shows `tree` at `directory`, which is there; `reader` has its bytes, `reference` is what
    /// tables of mounts call it. A mount that an earlier process left there is replaced.
    ///
    /// # Errors
    /// As [`mount::mount`].
    fn mount(
        &self,
        tree: Arc<Tree>,
        reader: Arc<dyn ReadFile>,
        directory: &Path,
        reference: &str,
    ) -> Result<Box<dyn Mount>>;

    /// Takes away what an earlier process left at `directory`, if anything.
    ///
    /// # Errors
    /// What the system says.
    fn clear(&self, directory: &Path) -> Result<()>;
}

/// A tree that is mounted until it is dropped.
pub trait Mount: Send + Sync + Debug {
    /// Whether it is still there.
    fn is_alive(&self) -> bool;
}

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
    /// Locked while mounting, so that all who ask share one mount.
    pub(super) mount: tokio::sync::Mutex<Option<Box<dyn Mount>>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    asked: Instant,
    /// What the mount shows, and its switch.
    shows: Option<(HashSet<Subject>, Switch)>,
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

    /// The place of a lower directory.
    pub(super) fn slot(&self, manifest: &Digest, layer: u16) -> Arc<Slot> {
        let mut all = self.lock();
        let slot = all.entry((manifest.clone(), layer)).or_insert_with(|| {
            Arc::new(Slot {
                directory: self.root.join(name(manifest, layer)),
                mount: tokio::sync::Mutex::default(),
                state: Mutex::new(State {
                    asked: Instant::now(),
                    shows: None,
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
            blocking(move || {
                drop(mount);
                remove(&directory)
            })
            .await?;
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
