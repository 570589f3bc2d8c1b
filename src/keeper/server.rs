//! The keeper process: holds descriptors by name and gives duplicates of them to who may ask.
//!
//! One thread that waits in poll; no runtime, no log, nothing that grows. It looks at the descriptors
//! themselves only while no daemon is there: each request to a FUSE file system wakes all who poll
//! its descriptor, and a daemon says what is gone anyway.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    ops::Bound,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        stat::{Mode, umask},
    },
    unistd::{dup2_stderr, dup2_stdin, dup2_stdout, geteuid, setsid},
};
use rustix::net::{SocketFlags, accept_with, bind, listen, sockopt::socket_peercred};

use super::{
    check_name,
    lock::Lock,
    process::{LOCK, Listening},
    protocol::{Answer, MAX_PACKET, Request, VERSION},
};
use crate::{
    error::{Error, Result},
    sys::descriptors::{self, Received},
};

/// Descriptors that are kept at most: more images than a node has.
const MAX_KEPT: usize = 1 << 14;
/// Daemons that are connected at most; there should be one.
const MAX_CLIENTS: usize = 16;

/// What the process is.
#[derive(Debug)]
pub(super) struct Server {
    /// `None` in tests.
    pub(super) listener: Option<OwnedFd>,
    pub(super) clients: Vec<OwnedFd>,
    pub(super) kept: BTreeMap<String, OwnedFd>,
}

/// Becomes the keeper process of `root`. Standard input is the connection to the daemon that started
/// it; what goes wrong at the start is said there.
///
/// # Errors
/// What goes wrong.
pub fn run(root: &Path) -> Result<()> {
    let first = detach()?;
    let opened = open(root);
    match opened {
        Ok((listener, socket, _lock)) => {
            let mut server = Server {
                listener: Some(listener),
                clients: vec![first],
                kept: BTreeMap::new(),
            };
            crate::sys::release_free_memory();
            let served = server.serve();
            socket.remove();
            served.map_err(|e| Error::io("keeper", e))
        }
        Err(error) => {
            let text = Answer::Error(error.to_string()).encode();
            // As the answer to the first request: what has not been read when this process ends
            // would reset the connection. The daemon may be gone; then nobody wants to know.
            let _ = descriptors::receive(&first, &mut [0; MAX_PACKET], true)
                .and_then(|_| descriptors::send(&first, &text, None, false));
            Err(error)
        }
    }
}

/// Lets go of everything that belongs to the daemon, and gives the connection to it.
fn detach() -> Result<OwnedFd> {
    let what = |e: io::Error| Error::io("standard input", e);
    let first = io::stdin().as_fd().try_clone_to_owned().map_err(what)?;
    socket_peercred(&first).map_err(|_| {
        Error::invalid("standard input is not a socket").with_hint("nacre serve starts the keeper")
    })?;
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|e| Error::io("/dev/null", e))?;
    let silent = dup2_stdin(&null).and_then(|()| dup2_stdout(&null));
    silent
        .and_then(|()| dup2_stderr(&null))
        .map_err(|e| Error::io("standard descriptors", e.into()))?;
    // Refused only to the leader of a group, who needs none.
    let _ = setsid();
    // Tables of processes would show the name of the link that it was started by.
    let _ = rustix::thread::set_name(c"nacre-keeper");
    std::env::set_current_dir("/").map_err(|e| Error::io("/", e))?;
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Those that are left suffice for fewer mounts.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    Ok(first)
}

/// The file system's name of a socket, and which of that name it is.
struct Name {
    path: PathBuf,
    inode: u64,
}

/// Listens in `root`, which must be nobody else's to write to.
fn open(root: &Path) -> Result<(OwnedFd, Name, Lock)> {
    let metadata = fs::metadata(root).map_err(|e| Error::io(root.display().to_string(), e))?;
    if metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        let shown = root.display();
        return Err(Error::invalid(format!(
            "{shown}: others than its owner may write to it, or it is another user's"
        )));
    }
    // Held by a predecessor until it has removed its socket.
    let lock = Lock::wait(&root.join(LOCK))?;
    let listening = Listening::of(root)?;
    let path = listening.real();
    let what = |e: io::Error| Error::io(format!("socket {}", path.display()), e);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(what(e)),
        _ => {}
    }
    let socket = descriptors::packet_socket().map_err(what)?;
    umask(Mode::from_bits_truncate(0o177));
    let address = listening.address().map_err(what)?;
    bind(&socket, &address).map_err(|e| what(e.into()))?;
    listen(&socket, 16).map_err(|e| what(e.into()))?;
    let inode = fs::symlink_metadata(&path).map_err(what)?.ino();
    Ok((socket, Name { path, inode }, lock))
}

// === impl Name ===

impl Name {
    fn remove(&self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|it| it.ino() == self.inode);
        if ours {
            // It is only a name; a successor replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

// === impl Server ===

impl Server {
    /// Serves until nothing is kept and nobody is connected.
    pub(super) fn serve(&mut self) -> io::Result<()> {
        loop {
            if self.clients.is_empty() {
                self.kept.retain(|_, it| !descriptors::is_dead(it));
                if self.kept.is_empty() {
                    return Ok(());
                }
            }
            let ready = self.wait()?;
            // From the last on, so that those before keep their places.
            for client in ready.clients.into_iter().rev() {
                if self.answer(client).is_err() {
                    self.clients.swap_remove(client);
                }
            }
            if ready.listener {
                self.accept();
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let polled = |fd, flags| PollFd::new(fd, flags);
        let listener = self.listener.iter();
        let mut all: Vec<PollFd<'_>> = listener
            .chain(&self.clients)
            .map(|it| polled(it.as_fd(), PollFlags::POLLIN))
            .collect();
        if self.clients.is_empty() {
            let kept = self.kept.values();
            all.extend(kept.map(|it| polled(it.as_fd(), PollFlags::empty())));
        }
        loop {
            match poll(&mut all, PollTimeout::NONE) {
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let any = |it: &PollFd<'_>| it.any().unwrap_or(true);
        let listeners = usize::from(self.listener.is_some());
        let clients = all.iter().skip(listeners).take(self.clients.len());
        let clients = clients.enumerate().filter(|(_, it)| any(it));
        Ok(Ready {
            listener: all.iter().take(listeners).any(any),
            clients: clients.map(|(number, _)| number).collect(),
        })
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        // A client that has gone meanwhile is none.
        let Ok(client) = accept_with(listener, SocketFlags::CLOEXEC) else {
            return;
        };
        let us = geteuid().as_raw();
        let allowed = socket_peercred(&client).is_ok_and(|peer| {
            let uid = peer.uid.as_raw();
            uid == us || uid == 0
        });
        if allowed && self.clients.len() < MAX_CLIENTS {
            self.clients.push(client);
        }
    }

    /// Answers one request.
    ///
    /// # Errors
    /// If the client is to be forgotten.
    fn answer(&mut self, client: usize) -> io::Result<()> {
        let mut buffer = [0; MAX_PACKET];
        let received = match descriptors::receive(&self.clients[client], &mut buffer, false) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        if received.length == 0 {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let answer = self.act(&buffer, received);
        let passed: Option<BorrowedFd<'_>> = match &answer {
            Answer::Descriptor(name) => self.kept.get(name).map(|it| it.as_fd()),
            _ => None,
        };
        descriptors::send(&self.clients[client], &answer.encode(), passed, false)
    }

    fn act(&mut self, buffer: &[u8], received: Received) -> Answer {
        let error = |text: &str| Answer::Error(text.to_owned());
        if received.truncated {
            return error("request is too long");
        }
        let request = match Request::parse(&buffer[..received.length]) {
            Ok(request) => request,
            Err(why) => return error(why),
        };
        match request {
            Request::Version => Answer::Version(VERSION),
            Request::Put(name) => {
                let Ok([descriptor]) = <[OwnedFd; 1]>::try_from(received.descriptors) else {
                    return error("want one descriptor");
                };
                if check_name(name).is_err() {
                    return error("name cannot be kept");
                }
                if self.kept.len() >= MAX_KEPT && !self.kept.contains_key(name) {
                    return error("too many descriptors");
                }
                self.kept.insert(name.to_owned(), descriptor);
                Answer::Done
            }
            Request::Remove(name) => match self.kept.remove(name) {
                Some(_closed) => Answer::Done,
                None => Answer::Nothing,
            },
            Request::Next(name) => {
                let after = (Bound::Excluded(name), Bound::Unbounded);
                match self.kept.range::<str, _>(after).next() {
                    Some((name, _)) => Answer::Descriptor(name.clone()),
                    None => Answer::Nothing,
                }
            }
        }
    }
}

/// What poll found.
struct Ready {
    listener: bool,
    clients: Vec<usize>,
}
