//! `nacre mount` and `nacre umount`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    args::{ImageArgs, StoreArgs},
    output::{Output, bytes},
    runtime,
};
use crate::{
    engine::{
        Background, BackgroundConfig, EngineSnapshot, FollowConfig, ReadFile, Switch, Switched,
    },
    error::{Error, Result},
    mount::{self, FrontEnd, MountOptions, Mounted, StopSignals, UmountOptions, daemon},
    open::{IndexKind, OpenImage, Unconfirmed},
    source::TrafficSnapshot,
    store::StoreSnapshot,
};

/// Between attempts to confirm a layer.
const AGAIN: Duration = Duration::from_secs(60);
/// The option that a daemon finds in place of `--daemon`.
const DAEMON_CHILD: &str = "--daemon-child";

/// Options of `nacre mount`.
#[derive(Debug, Args)]
pub(super) struct Mount {
    #[command(flatten)]
    image: ImageArgs,
    /// Directory to mount on.
    directory: PathBuf,
    /// Return when the mount is usable; another process serves it.
    #[arg(long)]
    daemon: bool,
    #[arg(long, hide = true)]
    daemon_child: bool,
    /// Where a daemon writes its messages; nowhere if left out.
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Write what was fetched as JSON to FILE, on SIGUSR1 and when unmounted.
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,
    /// How far the kernel reads ahead, in KiB.
    #[arg(long, value_name = "KIB")]
    read_ahead_kib: Option<u32>,
    /// How the kernel sees the image: fuse, erofs, or auto for erofs where it works.
    #[arg(long, value_name = "FRONT_END", default_value_t)]
    front_end: FrontEnd,
    /// Do not fetch ahead what the image's profile names.
    #[arg(long)]
    no_profile: bool,
    /// Fetch the rest of the image into the store once it is mounted, while nobody waits for anything.
    #[arg(long)]
    complete: bool,
    /// How long after the mount layers are read whole whose index nobody vouches for
    /// (nacreAllowUnsignedLayerIndex), to hold them against their DiffID.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    confirm_after: u64,
    /// How fast, in KiB a second; 0: no limit.
    #[arg(long, value_name = "KIB", default_value_t = 8192)]
    confirm_kib_per_second: u64,
    #[command(flatten)]
    store: StoreArgs,
}

/// Options of `nacre umount`.
#[derive(Debug, Args)]
pub(super) struct Umount {
    /// The mount point.
    directory: PathBuf,
    /// Take it out of sight even if it is in use.
    #[arg(long)]
    lazy: bool,
    /// How long to wait for the serving process to end.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
}

/// What a mount says when it is usable.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    reference: String,
    manifest: String,
    class: String,
    directory: &'a Path,
    front_end: FrontEnd,
    /// What each layer was opened by, the lowest first.
    indexes: &'a [IndexKind],
    /// Layers by whose index nobody vouches, which are confirmed while they are in use.
    unconfirmed: usize,
    inodes: usize,
    image_bytes: u64,
    traffic: TrafficSnapshot,
    seconds: f64,
}

/// What a mount did, for `--stats`.
#[derive(Debug, Serialize)]
struct Stats {
    requests: u64,
    bytes: u64,
    image_bytes: u64,
    engine: EngineSnapshot,
    store: StoreSnapshot,
}

// === impl Mount ===

impl Mount {
    pub(super) fn run(self, output: &Output) -> Result<()> {
        if self.daemon {
            let arguments = std::env::args_os().skip(1).map(|argument| {
                if argument == "--daemon" {
                    OsString::from(DAEMON_CHILD)
                } else {
                    argument
                }
            });
            let pid = daemon::Starting::spawn(arguments)?.wait_ready()?;
            let directory = self.directory.display().to_string();
            let ready = serde_json::json!({ "directory": directory, "pid": pid });
            return output.result(&ready, || {
                format!(
                    "{} mounted on {directory} by process {pid}",
                    self.image.reference
                )
            });
        }
        if !self.daemon_child {
            return self.serve(output, None);
        }
        let readiness = daemon::Readiness::take(self.log_file.as_deref())?;
        self.serve(output, Some(readiness))
    }

    /// Mounts and serves until it is unmounted. A daemon tells its parent instead of the user.
    fn serve(&self, output: &Output, readiness: Option<daemon::Readiness>) -> Result<()> {
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(error) => return tell(readiness, error),
        };
        let result = runtime.block_on(async {
            let mount = match self.mount().await {
                Ok(mount) => mount,
                Err(error) => return tell(readiness, error),
            };
            match readiness {
                Some(readiness) => readiness.ready()?,
                None => output.result(&mount.ready(self), || mount.text(self))?,
            }
            mount.serve(self.stats.as_deref()).await
        });
        // Fetches ahead that nobody needs any more must not hold the process.
        runtime.shutdown_background();
        result
    }

    async fn mount(&self) -> Result<Serving> {
        let started = Instant::now();
        // Caught before the mount, so that none comes in between and leaves a dead one.
        let stop = StopSignals::catch()?;
        let report =
            signal(SignalKind::user_defined1()).map_err(|e| Error::io("signal handler", e))?;
        let follow = (!self.no_profile).then_some(FollowConfig::RECOMMENDED);
        let image = self.image.open(&self.store, follow).await?;
        let options = MountOptions {
            read_ahead_kib: self.read_ahead_kib,
            ..MountOptions::new(self.image.reference.to_string())
        };
        let switch = Switch::default();
        let reader: Arc<dyn ReadFile> = Arc::new(Switched {
            engine: Arc::clone(&image.engine),
            switch: switch.clone(),
        });
        let mounted = mount::mount_by(
            self.front_end,
            Arc::clone(&image.tree),
            reader,
            &self.directory,
            &self.store.image_directories(),
            &options,
        )?;
        if self.complete {
            let background = Arc::new(Background::new(BackgroundConfig::RECOMMENDED));
            let name = self.image.reference.to_string();
            image.engine.complete(&background, &name, true, async {});
        }
        if let (None, Some(read_ahead)) = (self.read_ahead_kib, mounted.read_ahead()) {
            tokio::spawn(read_ahead.clone().narrow_for_start(image.engine.followed()));
        }
        for layer in &image.unconfirmed {
            let after = Duration::from_secs(self.confirm_after);
            let rate = self.confirm_kib_per_second.saturating_mul(1024);
            tokio::spawn(confirm(Arc::clone(layer), after, rate, switch.clone()));
        }
        Ok(Serving {
            image,
            mounted,
            stop,
            report,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

/// Holds a layer against its DiffID, again and again until that can be done; if it is something else, all
/// reads fail from then on.
async fn confirm(layer: Arc<Unconfirmed>, after: Duration, rate: u64, switch: Switch) {
    tokio::time::sleep(after).await;
    let layer_digest = layer.digest();
    loop {
        match layer.difference(rate).await {
            Ok(None) => {
                tracing::info!(event = "layer_confirmed", layer = %layer_digest, "confirmed");
                return;
            }
            Ok(Some(why)) => {
                switch.poison(&why);
                tracing::error!(
                    event = "layer_poisoned",
                    layer = %layer_digest,
                    why,
                    "layer is not what its image claims; reads fail from now on"
                );
                return;
            }
            Err(error) => {
                tracing::warn!(
                    event = "layer_not_confirmed",
                    layer = %layer_digest,
                    kind = error.kind().as_str(),
                    %error,
                    "not confirmed; tried again"
                );
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Passes a daemon's error to its parent, which prints it.
fn tell(readiness: Option<daemon::Readiness>, error: Error) -> Result<()> {
    if let Some(readiness) = readiness {
        readiness.failed(&error)?;
    }
    Err(error)
}

/// A mount under way.
struct Serving {
    image: OpenImage,
    mounted: Mounted,
    stop: StopSignals,
    report: Signal,
    seconds: f64,
}

// === impl Serving ===

impl Serving {
    fn ready<'a>(&'a self, mount: &'a Mount) -> Ready<'a> {
        Ready {
            reference: mount.image.reference.to_string(),
            manifest: self.image.grant.manifest_digest().to_string(),
            class: self.image.grant.class().to_string(),
            directory: &mount.directory,
            front_end: self.mounted.front_end(),
            indexes: &self.image.indexes,
            unconfirmed: self.image.unconfirmed.len(),
            inodes: self.image.tree.inode_count(),
            image_bytes: self.image.blob_bytes(),
            traffic: self.image.traffic.snapshot(),
            seconds: self.seconds,
        }
    }

    fn text(&self, mount: &Mount) -> String {
        let ready = self.ready(mount);
        format!(
            "{}\nmounted on {} ({}, {}) in {:.3} s: {} inodes, {} of {} fetched in {} requests",
            self.image.grant,
            ready.directory.display(),
            ready.front_end,
            IndexKind::summary(ready.indexes),
            ready.seconds,
            ready.inodes,
            bytes(ready.traffic.bytes),
            bytes(ready.image_bytes),
            ready.traffic.requests
        )
    }

    /// Serves until unmounted; writes statistics when asked and at the end.
    async fn serve(self, stats: Option<&Path>) -> Result<()> {
        let Self {
            image,
            mounted,
            stop,
            mut report,
            ..
        } = self;
        let serving = mounted.serve(stop);
        tokio::pin!(serving);
        let result = loop {
            tokio::select! {
                result = &mut serving => break result,
                _ = report.recv() => {
                    // The mount goes on if its statistics cannot be written.
                    if let Err(error) = write_stats(&image, stats) {
                        tracing::warn!(%error, "statistics not written");
                    }
                }
            }
        };
        image.engine.store().flush();
        write_stats(&image, stats)?;
        result.map(drop)
    }
}

/// Writes the file whole or not at all.
fn write_stats(image: &OpenImage, file: Option<&Path>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let traffic = image.traffic.snapshot();
    let stats = Stats {
        requests: traffic.requests,
        bytes: traffic.bytes,
        image_bytes: image.blob_bytes(),
        engine: image.engine.snapshot(),
        store: image.engine.store().snapshot(),
    };
    let json = serde_json::to_vec(&stats)
        .map_err(|e| Error::internal("statistics as JSON").with_source(e))?;
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, json)
        .and_then(|()| std::fs::rename(&partial, file))
        .map_err(|e| Error::io(format!("statistics file {}", file.display()), e))
}

// === impl Umount ===

impl Umount {
    pub(super) fn run(self, output: &Output) -> Result<()> {
        let options = UmountOptions {
            lazy: self.lazy,
            timeout: Duration::from_secs(self.timeout),
        };
        mount::umount(&self.directory, options)?;
        let directory = self.directory.display().to_string();
        output.result(&serde_json::json!({ "unmounted": directory }), || {
            format!("{directory} unmounted")
        })
    }
}
