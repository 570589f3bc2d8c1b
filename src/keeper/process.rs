//! The keeper process as a daemon sees it: reached, started when needed, started again when it dies.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use nix::{poll::PollFlags, unistd::geteuid};
use rustix::{
    fs::{Mode, OFlags},
    net::{Shutdown, SocketAddrUnix, connect, shutdown, sockopt::socket_peercred},
};

use super::{
    Keeper, Kept, check_name,
    protocol::{Answer, MAX_PACKET, Request},
};
use crate::{
    error::{Error, Kind, Result},
    sys::{descriptors, processes::Watched},
};

/// A process that keeps descriptors, or will do so when there is something to keep.
#[derive(Debug)]
pub struct KeeperProcess {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    program: PathBuf,
    state: Mutex<State>,
    /// Sends nothing: those who pause hear when it is dropped.
    _alive: Sender<()>,
    ended: Receiver<()>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    /// Counts connections.
    generation: u64,
    /// What a new keeper process must be given.
    kept: BTreeMap<String, OwnedFd>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    pid: Option<u32>,
}

/// The socket below a root. Its name may be longer than the address of a socket, so it is reached
/// through the directory's descriptor.
pub(super) struct Listening {
    directory: OwnedFd,
    root: PathBuf,
}

/// Name of the socket below the root.
const SOCKET: &str = "keeper.sock";
/// Name of the file that the process has locked as long as it lives.
pub(super) const LOCK: &str = "keeper.lock";
/// How long the process may take to start or to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a file system that nobody uses may take to end.
const MOMENT: Duration = Duration::from_millis(500);
/// Pauses between attempts to start it.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

// === impl KeeperProcess ===

impl KeeperProcess {
    /// The process of `root`, if there is one; else `program` is started when needed.
    #[must_use]
    pub fn reach(root: &Path, program: &Path) -> Self {
        let (alive, ended) = crossbeam_channel::bounded(0);
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            program: program.to_owned(),
            state: Mutex::default(),
            _alive: alive,
            ended,
        });
        let mut state = shared.state();
        match shared.connect() {
            Ok(Some(socket)) => shared.use_connection(&mut state, socket, None),
            Ok(None) => {}
            Err(error) => tracing::error!(event = "keeper_failed", %error, "keeper process"),
        }
        drop(state);
        Self { shared }
    }

    /// Everything that it keeps.
    ///
    /// # Errors
    /// [`Kind::Io`] if it does not answer.
    pub fn list(&self) -> Result<Vec<Kept>> {
        let mut state = self.shared.state();
        let Some(Connection { socket, .. }) = &state.connection else {
            return Ok(Vec::new());
        };
        let mut found: Vec<Kept> = Vec::new();
        loop {
            let after = found.last().map_or("", |it| &it.name);
            let (answer, descriptors) = exchange(socket, Request::Next(after), None)?;
            match (answer, <[OwnedFd; 1]>::try_from(descriptors)) {
                (Answer::Descriptor(name), Ok([descriptor])) if *name > *after => {
                    found.push(Kept { name, descriptor });
                }
                (Answer::Nothing, _) => break,
                (other, _) => return Err(unexpected(&other)),
            }
        }
        for Kept { name, descriptor } in &found {
            let copy = descriptor.try_clone();
            let copy = copy.map_err(|e| Error::io(format!("descriptor {name}"), e))?;
            state.kept.insert(name.clone(), copy);
        }
        Ok(found)
    }

    /// Has it close what is left of file systems that are gone, or `all`, and waits for its end if it
    /// then keeps nothing. Gives how much it still keeps.
    ///
    /// # Errors
    /// [`Kind::Io`] if it does not answer, [`Kind::Busy`] if it does not end.
    pub fn release(self, all: bool) -> Result<usize> {
        let mut left = 0;
        for Kept { name, descriptor } in self.list()? {
            // The kernel may take a moment after the unmount.
            let dead = descriptors::wait_for(&descriptor, PollFlags::empty(), Some(MOMENT));
            match all || dead.unwrap_or(false) {
                true => self.remove(&name)?,
                false => left += 1,
            }
        }
        let process = self.pid().and_then(Watched::new);
        drop(self);
        match process {
            Some(process) if left == 0 && !process.wait(PATIENCE)? => {
                let message = "keeper process does not end";
                Err(Error::new(Kind::Busy, message).with_hint("another process is connected to it"))
            }
            _ => Ok(left),
        }
    }

    /// Number of the process, if there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.shared.state().connection.as_ref()?.pid
    }
}

impl Keeper for KeeperProcess {
    fn put(&self, name: &str, descriptor: BorrowedFd<'_>) -> Result<()> {
        check_name(name)?;
        let copy = descriptor.try_clone_to_owned();
        let copy = copy.map_err(|e| Error::io(format!("descriptor {name}"), e))?;
        let mut state = self.shared.state();
        state.kept.insert(name.to_owned(), copy);
        let put = self.shared.put(&mut state, name);
        if put.is_err() {
            state.kept.remove(name);
        }
        put
    }

    fn remove(&self, name: &str) -> Result<()> {
        let mut state = self.shared.state();
        state.kept.remove(name);
        let Some(Connection { socket, .. }) = &state.connection else {
            return Ok(());
        };
        match exchange(socket, Request::Remove(name), None) {
            Ok((Answer::Done | Answer::Nothing, _)) => Ok(()),
            Ok((other, _)) => Err(unexpected(&other)),
            Err(error) => Err(error),
        }
    }
}

// === impl Shared ===

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the process what is kept under `name`; starts it if there is none.
    fn put(self: &Arc<Self>, state: &mut State, name: &str) -> Result<()> {
        if let Some(Connection { socket, .. }) = &state.connection {
            match put(socket, name, &state.kept) {
                Err(error) if error.kind() == Kind::Io => {
                    tracing::debug!(%error, "keeper process is gone");
                    state.connection = None;
                }
                other => return other,
            }
        }
        self.connect_or_start(state)
    }

    /// Finds or starts a process and gives it everything.
    fn connect_or_start(self: &Arc<Self>, state: &mut State) -> Result<()> {
        let (socket, child) = match self.connect()? {
            Some(socket) => (socket, None),
            None => {
                let (socket, child) = self.start()?;
                (socket, Some(child))
            }
        };
        state.kept.retain(|_, it| !descriptors::is_dead(it));
        for name in state.kept.keys() {
            put(&socket, name, &state.kept)?;
        }
        self.use_connection(state, socket, child);
        Ok(())
    }

    /// The process that listens below the root, if any does.
    fn connect(&self) -> Result<Option<OwnedFd>> {
        let what =
            |e: io::Error| Error::io(format!("keeper process of {}", self.root.display()), e);
        let listening = match Listening::of(&self.root) {
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            other => other?,
        };
        let socket = descriptors::packet_socket().map_err(what)?;
        match connect(&socket, &listening.address().map_err(what)?) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => return Ok(None),
            other => other.map_err(|e| what(e.into()))?,
        }
        let peer = socket_peercred(&socket).map_err(|e| what(e.into()))?;
        if peer.uid.as_raw() != geteuid().as_raw() {
            let uid = peer.uid.as_raw();
            return Err(Error::denied(format!("keeper process is user {uid}'s")));
        }
        // One that has just ended is none.
        let greeted = greet(&socket);
        Ok(greeted
            .inspect_err(|error| tracing::debug!(%error, "no keeper"))
            .is_ok()
            .then_some(socket))
    }

    /// Starts the process. It is connected from its first moment on, so that it never finds itself
    /// without anything to do.
    fn start(&self) -> Result<(OwnedFd, Child)> {
        let (ours, theirs) = descriptors::packet_pair().map_err(|e| Error::io("socket pair", e))?;
        let mut command = Command::new(&self.program);
        command.arg("keeper").arg("--root").arg(&self.root);
        command.env_clear();
        command.stdin(Stdio::from(theirs));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        let mut child = child.map_err(|e| Error::io("starting the keeper process", e))?;
        // The command has the other end as well.
        drop(command);
        match greet(&ours) {
            Ok(()) => {
                let pid = child.id();
                tracing::info!(event = "keeper_started", pid, "keeper process started");
                Ok((ours, child))
            }
            Err(error) => {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                Err(error.context("starting the keeper process"))
            }
        }
    }

    fn use_connection(self: &Arc<Self>, state: &mut State, socket: OwnedFd, child: Option<Child>) {
        state.generation += 1;
        let watched = socket.try_clone();
        // A pair of sockets names the one who made it as its peer.
        let pid = match &child {
            Some(child) => Some(child.id()),
            None => socket_peercred(&socket)
                .ok()
                .and_then(|peer| u32::try_from(peer.pid.as_raw_pid()).ok()),
        };
        state.connection = Some(Connection { socket, pid });
        let watch = Watch {
            shared: Arc::downgrade(self),
            ended: self.ended.clone(),
            generation: state.generation,
            child,
        };
        let started = watched.and_then(|socket| {
            let thread = std::thread::Builder::new().name("keeper-watch".to_owned());
            thread.spawn(move || watch.run(&socket)).map(drop)
        });
        if let Err(error) = started {
            tracing::warn!(%error, "the death of the keeper process will not be noticed");
        }
    }

    /// After the end of connection `generation`: a new one, if something is kept.
    fn restore(self: &Arc<Self>, generation: u64) -> Result<()> {
        let mut state = self.state();
        if state.generation != generation {
            return Ok(());
        }
        state.connection = None;
        state.kept.retain(|_, it| !descriptors::is_dead(it));
        if state.kept.is_empty() {
            return Ok(());
        }
        self.connect_or_start(&mut state)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The watching thread has a duplicate; this ends its wait. The other end may be gone.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

/// Waits for the end of a connection.
struct Watch {
    shared: Weak<Shared>,
    ended: Receiver<()>,
    generation: u64,
    child: Option<Child>,
}

// === impl Watch ===

impl Watch {
    fn run(mut self, socket: &OwnedFd) {
        if let Err(error) = descriptors::wait_for(socket, PollFlags::empty(), None) {
            tracing::warn!(%error, "watching the keeper process");
        }
        let mut pause = PAUSES.0;
        while let Some(shared) = self.shared.upgrade() {
            match shared.restore(self.generation) {
                Ok(()) => break,
                Err(error) => tracing::error!(
                    event = "keeper_failed",
                    %error,
                    "mounts do not outlive this daemon for now"
                ),
            }
            drop(shared);
            if self.ended.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                break;
            }
            pause = PAUSES.1.min(pause * 2);
        }
        // So that no dead process is left behind.
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

// === impl Listening ===

impl Listening {
    pub(super) fn of(root: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(root, flags, Mode::empty()) {
            Ok(directory) => Ok(Self {
                directory,
                root: root.to_owned(),
            }),
            Err(error) => {
                let error = io::Error::from(error);
                let missing = error.kind() == io::ErrorKind::NotFound;
                let kind = if missing { Kind::NotFound } else { Kind::Io };
                Err(Error::new(kind, root.display().to_string()).with_source(error))
            }
        }
    }

    pub(super) fn address(&self) -> io::Result<SocketAddrUnix> {
        let number = self.directory.as_raw_fd();
        Ok(SocketAddrUnix::new(format!(
            "/proc/self/fd/{number}/{SOCKET}"
        ))?)
    }

    pub(super) fn real(&self) -> PathBuf {
        self.root.join(SOCKET)
    }
}

/// Learns that the other end is a keeper that speaks our version.
fn greet(socket: &OwnedFd) -> Result<()> {
    match exchange(socket, Request::Version, None)?.0 {
        Answer::Version(1..) => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn put(socket: &OwnedFd, name: &str, kept: &BTreeMap<String, OwnedFd>) -> Result<()> {
    let descriptor = kept.get(name).map(|it| it.as_fd());
    match exchange(socket, Request::Put(name), descriptor)?.0 {
        Answer::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn exchange(
    socket: &OwnedFd,
    request: Request<'_>,
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<(Answer, Vec<OwnedFd>)> {
    let what = |e: io::Error| Error::io("keeper process", e);
    descriptors::send(socket, &request.encode(), descriptor, false).map_err(what)?;
    if !descriptors::wait_for(socket, PollFlags::POLLIN, Some(PATIENCE)).map_err(what)? {
        return Err(what(io::ErrorKind::TimedOut.into()));
    }
    let mut buffer = [0; MAX_PACKET];
    let received = descriptors::receive(socket, &mut buffer, false).map_err(what)?;
    if received.length == 0 {
        return Err(what(io::ErrorKind::UnexpectedEof.into()));
    }
    match Answer::parse(&buffer[..received.length]) {
        Some(answer) => Ok((answer, received.descriptors)),
        None => Err(what(io::ErrorKind::InvalidData.into())),
    }
}

fn unexpected(answer: &Answer) -> Error {
    match answer {
        Answer::Error(text) => Error::invalid(format!("keeper process: {text}")),
        other => Error::internal(format!("keeper process answers {other:?}")),
    }
}
