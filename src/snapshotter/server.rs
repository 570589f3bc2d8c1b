//! The socket that containerd connects to.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nacre_snapshotter_proto::containerd::services::snapshots::v1::snapshots_server::SnapshotsServer;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{service::Routes, transport::Server};

use super::SnapshotsService;
use crate::error::{Error, Kind, Result};

/// How long requests under way may take when the daemon is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// A listening socket; one that this process made is removed when dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    made: Option<Made>,
}

#[derive(Debug)]
struct Made {
    path: PathBuf,
    /// So that the socket of a successor is not taken for this one.
    inode: u64,
}

// === impl Socket ===

impl Socket {
    /// Listens at `path`, for this user alone. A socket that nobody listens to any more is replaced.
    ///
    /// # Errors
    /// [`Kind::Busy`] if somebody listens there, [`Kind::Invalid`] if it is not a socket.
    pub fn bind(path: &Path) -> Result<Self> {
        let what = || format!("socket {}", path.display());
        if let Some(directory) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|e| Error::io(directory.display().to_string(), e))?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(|e| Error::io(what(), e))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(|e| Error::io(what(), e))?;
        let inode = fs::symlink_metadata(path)
            .map_err(|e| Error::io(what(), e))?
            .ino();
        let path = path.to_owned();
        let made = Some(Made { path, inode });
        Ok(Self { listener, made })
    }

    /// Takes a socket that systemd listens on.
    #[must_use]
    pub fn inherited(listener: UnixListener) -> Self {
        let made = None;
        Self { listener, made }
    }

    /// Where it is, if this process made it.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.made.as_ref().map(|made| made.path.as_path())
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> Option<PathBuf> {
        let address = self.listener.local_addr().ok()?;
        address.as_pathname().map(Path::to_owned)
    }

    /// Serves until `stop` is done, then lets requests under way finish.
    ///
    /// # Errors
    /// [`Kind::Io`] if the socket breaks.
    pub async fn serve(
        self,
        service: SnapshotsService,
        stop: impl Future<Output = ()>,
    ) -> Result<()> {
        self.serve_all(routes(service), stop).await
    }

    /// As [`serve`](Self::serve), with the services that were added to [`routes`]. HTTP/1 is answered
    /// as well as gRPC, so that pages may be among them.
    ///
    /// # Errors
    /// [`Kind::Io`] if the socket breaks.
    pub async fn serve_all(self, services: Routes, stop: impl Future<Output = ()>) -> Result<()> {
        let what = |e| Error::io("socket", e);
        let listener = self.listener.try_clone().map_err(what)?;
        listener.set_nonblocking(true).map_err(what)?;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(what)?;
        let (stopping, stopped) = oneshot::channel::<()>();
        let serving = Server::builder()
            .accept_http1(true)
            .add_routes(services)
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
                // Dropped is as good as sent.
                let _sent = stopped.await;
            });
        tokio::pin!(serving);
        let broken = |e| Error::new(Kind::Io, "services").with_source(e);
        tokio::select! {
            ended = &mut serving => return ended.map_err(broken),
            () = stop => drop(stopping),
        }
        match tokio::time::timeout(GRACE, serving).await {
            Ok(ended) => ended.map_err(broken),
            Err(_) => {
                tracing::warn!(seconds = GRACE.as_secs(), "requests under way are given up");
                Ok(())
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Some(made) = &self.made else { return };
        let ours = fs::symlink_metadata(&made.path).is_ok_and(|it| it.ino() == made.inode);
        if ours && let Err(error) = fs::remove_file(&made.path) {
            tracing::warn!(path = %made.path.display(), %error, "socket left behind");
        }
    }
}

/// The snapshots service, to which others can be added.
#[must_use]
pub fn routes(service: SnapshotsService) -> Routes {
    Routes::new(SnapshotsServer::new(service))
}

/// Removes a socket of a process that is gone.
fn remove_stale(path: &Path) -> Result<()> {
    let what = || format!("socket {}", path.display());
    let found = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|e| Error::io(what(), e))?,
    };
    if !found.file_type().is_socket() {
        return Err(Error::invalid(format!("{}: is not a socket", what())));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::new(Kind::Busy, format!("{}: in use", what()))
            .with_hint("another nacre serves it")),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|e| Error::io(what(), e))
        }
        Err(e) => Err(Error::io(what(), e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/s");
        let first = Socket::bind(&path).unwrap();
        assert_eq!(Socket::bind(&path).unwrap_err().kind(), Kind::Busy);
        // As a crash leaves it: nobody listens, the name is there.
        drop(first);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = Socket::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        // A successor's socket outlives us.
        fs::remove_file(&path).unwrap();
        let other = directory.path().join("run/other");
        let third = UnixListener::bind(&other).unwrap();
        fs::rename(&other, &path).unwrap();
        drop(second);
        assert!(path.exists());
        drop(third);
    }

    #[test]
    fn a_file_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        fs::write(&path, "x").unwrap();
        assert_eq!(Socket::bind(&path).unwrap_err().kind(), Kind::Invalid);
        assert!(path.exists());
    }
}
