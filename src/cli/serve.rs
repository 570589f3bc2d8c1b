//! `nacre serve`: the snapshotter that containerd talks to.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::Args;

use tokio::sync::oneshot;
use tonic::service::Routes;

use super::{
    behind::{Behind, lock_root},
    logging,
    output::Output,
    runtime,
};
use crate::{
    config::{Config, LogConfig, LogFormat},
    cri::ImageService,
    error::{Error, Result},
    keeper::Places,
    mount::StopSignals,
    snapshotter::{
        SnapshotsService, Snapshotter,
        server::{self, Socket},
    },
    source::registry::HandedLogins,
    sys::systemd::{self, Environment, Inherited},
    telemetry::{Listener, Sources, Telemetry},
};

/// Options of `nacre serve`.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Configuration file [default: /etc/nacre/nacre.toml if it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of everything that outlives the daemon, instead of the configured one.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Socket to listen on, instead of the configured one.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Variables that systemd sets.
struct Systemd {
    listen_pid: Option<OsString>,
    listen_fds: Option<OsString>,
    listen_fdnames: Option<OsString>,
    notify_socket: Option<OsString>,
}

// === impl Serve ===

impl Serve {
    /// The configuration with what the command line says instead.
    fn config(&self) -> Result<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(root) = &self.root {
            config.root = absolute(root)?;
        }
        if let Some(socket) = &self.socket {
            config.socket = absolute(socket)?;
        }
        config.check()?;
        Ok(config)
    }

    pub(super) fn run(&self, verbose: u8, output: &Output) -> Result<()> {
        let started = SystemTime::now();
        let config = &self.config()?;
        init_logging(&config.log, verbose, output.is_json());
        let systemd = Systemd::read();
        // Before anything opens descriptors.
        let inherited = Inherited::take(systemd.environment(), std::process::id())?;
        let _root = lock_root(&config.root)?;
        let runtime = runtime()?;
        let result = runtime.block_on(async {
            let mut stop = StopSignals::catch()?;
            let handed = config.cri.enabled.then(HandedLogins::default);
            let places = Places {
                root: config.root.clone(),
                // This program, even if another has taken its place in the file system.
                program: "/proc/self/exe".into(),
                notify_socket: systemd.notify_socket.clone(),
                stored: inherited.stored,
            };
            let behind = Behind::open(config, handed.as_ref(), places)?;
            let (snapshotter, reconciled) =
                Snapshotter::open(config.snapshotter(), behind.dynamic())?;
            let image_service = match handed {
                Some(handed) => ImageService::new(&config.cri.containerd_socket, handed)?,
                None => ImageService::off(),
            };
            for name in &reconciled.damaged {
                tracing::error!(
                    event = "snapshot_damaged",
                    snapshot = name,
                    "directory is gone: remove the image and pull it"
                );
            }
            let adopted = behind.adopt(&snapshotter).await?;
            let socket = match inherited.listener {
                Some(listener) => Socket::inherited(listener),
                None => Socket::bind(&config.socket)?,
            };
            let at = socket.path().unwrap_or(Path::new("a socket of systemd"));
            let at = at.display().to_string();
            let listener = match config.metrics.address()? {
                Some(address) => Some(Listener::bind(address).await?),
                None => None,
            };
            let metrics = listener.as_ref().map(Listener::address);
            let telemetry = Telemetry::new(Sources {
                started,
                root: config.root.clone(),
                socket: socket.address(),
                address: metrics,
                snapshotter: snapshotter.clone(),
                images: behind.images.clone(),
            });
            tracing::info!(
                event = "serving",
                version = env!("CARGO_PKG_VERSION"),
                socket = at,
                metrics = metrics.map(tracing::field::display),
                root = %config.root.display(),
                lazy = config.lazy,
                cri = config.cri.enabled,
                orphans = reconciled.removed,
                adopted,
                "serving"
            );
            let ready =
                serde_json::json!({ "socket": at, "root": config.root, "metrics": metrics });
            output.result(&ready, || format!("serving on {at}"))?;
            tell(&systemd, "READY=1");
            let stopped = async {
                let signal = stop.received().await;
                tracing::info!(event = "stopping", signal, "stopping");
                tell(&systemd, "STOPPING=1");
            };
            let services = server::routes(SnapshotsService::new(snapshotter));
            let services = services.add_service(image_service);
            let services = Routes::from(services.into_axum_router().merge(telemetry.pages()));
            let (ended, end) = oneshot::channel::<()>();
            let served = async {
                let served = socket.serve_all(services, stopped).await;
                drop(ended);
                served
            };
            let metrics = async {
                if let Some(listener) = listener {
                    // Dropped is as good as sent.
                    listener
                        .serve(telemetry.public_pages(), async { _ = end.await })
                        .await;
                }
            };
            futures::future::join(served, metrics).await.0?;
            behind.settle().await
        });
        // What nobody waits for any more must not hold the process.
        runtime.shutdown_background();
        result
    }
}

/// Starts logging as the configuration says; `-v` and `RUST_LOG` win.
fn init_logging(log: &LogConfig, verbose: u8, json: bool) {
    let level = match verbose {
        0 => log.level.as_str(),
        1 => "info",
        _ => "debug",
    };
    logging::init(
        &format!("nacre={level}"),
        json || log.format == LogFormat::Json,
    );
}

fn tell(systemd: &Systemd, state: &str) {
    if let Err(error) = systemd::notify(systemd.environment(), state) {
        tracing::warn!(%error, state, "systemd does not hear");
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io(path.display().to_string(), e))
}

// === impl Systemd ===

impl Systemd {
    fn read() -> Self {
        Self {
            listen_pid: std::env::var_os("LISTEN_PID"),
            listen_fds: std::env::var_os("LISTEN_FDS"),
            listen_fdnames: std::env::var_os("LISTEN_FDNAMES"),
            notify_socket: std::env::var_os("NOTIFY_SOCKET"),
        }
    }

    fn environment(&self) -> Environment<'_> {
        Environment {
            listen_pid: self.listen_pid.as_deref(),
            listen_fds: self.listen_fds.as_deref(),
            listen_fdnames: self.listen_fdnames.as_deref(),
            notify_socket: self.notify_socket.as_deref(),
        }
    }
}
