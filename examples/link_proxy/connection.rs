//! One connection: two directions, each read at the pace of the link and written when it is due.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use crate::{
    http::Follower,
    ledger::{Ledger, Sent},
    link::{Direction, Link, SEGMENT, wait_until},
};

/// What all connections share.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) upstream: SocketAddr,
    pub(crate) link: Arc<Link>,
    pub(crate) ledger: Arc<Ledger>,
}

/// Both directions of one connection.
struct Connection {
    route: Route,
    client: TcpStream,
    server: TcpStream,
    /// When the first request may travel: opening takes a round trip, which loopback does not.
    open: Instant,
    /// Requests whose answers are to come, and their methods.
    waiting: Mutex<VecDeque<(Sent, String)>>,
}

/// Bytes in flight each way at most: about what Linux grows its window to by default.
const WINDOW: usize = 4 * 1024 * 1024;

// === impl Route ===

impl Route {
    pub(crate) fn accept(&self, listener: &TcpListener) {
        for client in listener.incoming() {
            let route = self.clone();
            let serving = client.and_then(|client| route.connect(client));
            if let Err(error) = serving {
                eprintln!("connection: {error}");
            }
        }
    }

    fn connect(self, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.upstream)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        self.ledger.connected();
        let open = Instant::now() + self.link.delay() * 2;
        let connection = Arc::new(Connection {
            route: self,
            client,
            server,
            open,
            waiting: Mutex::default(),
        });
        for direction in [Direction::Up, Direction::Down] {
            let connection = Arc::clone(&connection);
            std::thread::spawn(move || connection.run(direction));
        }
        Ok(())
    }
}

// === impl Connection ===

impl Connection {
    fn run(self: &Arc<Self>, direction: Direction) {
        // Either side may go at any time: that ends this direction, as it would without us.
        let _ended = self.pump(direction);
        let (from, to) = self.ends(direction);
        let _gone = from.shutdown(Shutdown::Read);
        let _gone = to.shutdown(Shutdown::Write);
    }

    /// Where a direction's bytes come from, and where they go.
    fn ends(&self, direction: Direction) -> (&TcpStream, &TcpStream) {
        match direction {
            Direction::Up => (&self.client, &self.server),
            Direction::Down => (&self.server, &self.client),
        }
    }

    fn pump(self: &Arc<Self>, direction: Direction) -> io::Result<()> {
        let delay = self.route.link.delay();
        if delay.is_zero() {
            return self.pump_directly(direction);
        }
        let (sender, receiver) = mpsc::sync_channel(WINDOW / self.route.link.segment());
        let writing = Arc::clone(self);
        let writer = std::thread::spawn(move || writing.deliver(direction, &receiver));
        let read = self.pump_delayed(direction, delay, &sender);
        drop(sender);
        let written = writer.join();
        read.and(written.unwrap_or_else(|_| Err(io::Error::other("the writer panicked"))))
    }

    fn pump_directly(&self, direction: Direction) -> io::Result<()> {
        let (mut from, mut to) = self.ends(direction);
        let mut follower = Follower::default();
        let mut buffer = vec![0; SEGMENT];
        loop {
            let segment = self.route.link.segment();
            let taken = from.read(&mut buffer[..segment])?;
            let bytes = &buffer[..taken];
            if direction == Direction::Up {
                self.follow(direction, &mut follower, bytes)?;
            }
            if taken == 0 {
                self.close(direction, &mut follower);
                return Ok(());
            }
            wait_until(self.route.link.reserve(direction, taken));
            if direction == Direction::Down {
                self.follow(direction, &mut follower, bytes)?;
            }
            to.write_all(bytes)?;
        }
    }

    fn pump_delayed(
        &self,
        direction: Direction,
        delay: Duration,
        sender: &mpsc::SyncSender<(Instant, Vec<u8>)>,
    ) -> io::Result<()> {
        let (mut from, _) = self.ends(direction);
        let mut follower = Follower::default();
        let mut buffer = vec![0; SEGMENT];
        loop {
            let segment = self.route.link.segment();
            let taken = from.read(&mut buffer[..segment])?;
            if taken == 0 {
                return Ok(());
            }
            let bytes = &buffer[..taken];
            if direction == Direction::Up {
                self.follow(direction, &mut follower, bytes)?;
            }
            let left = self.route.link.reserve(direction, taken).max(self.open);
            wait_until(left);
            if sender.send((left + delay, bytes.to_vec())).is_err() {
                return Ok(());
            }
        }
    }

    fn deliver(
        &self,
        direction: Direction,
        receiver: &mpsc::Receiver<(Instant, Vec<u8>)>,
    ) -> io::Result<()> {
        let (from, mut to) = self.ends(direction);
        let mut follower = Follower::default();
        for (due, bytes) in receiver {
            wait_until(due);
            if direction == Direction::Down {
                self.follow(direction, &mut follower, &bytes)?;
            }
            if let Err(error) = to.write_all(&bytes) {
                // Whoever reads for us must not wait for more.
                let _gone = from.shutdown(Shutdown::Read);
                return Err(error);
            }
        }
        self.close(direction, &mut follower);
        Ok(())
    }

    /// Counts bytes at the client's end: requests when they come, answers when they go.
    fn follow(
        &self,
        direction: Direction,
        follower: &mut Follower,
        bytes: &[u8],
    ) -> io::Result<()> {
        let ledger = &self.route.ledger;
        let lock = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match direction {
            Direction::Up => {
                ledger.moved(bytes.len(), 0);
                follower.requests(bytes, |head| {
                    let method = head.method.clone();
                    lock().push_back((ledger.sent(head), method));
                })
            }
            Direction::Down => {
                ledger.moved(0, bytes.len());
                let method = || lock().front().map(|(_, method)| method.clone());
                follower.answers(bytes, method, |answer| {
                    if let Some((sent, _)) = lock().pop_front() {
                        ledger.answered(sent, answer.status, answer.bytes);
                    }
                })
            }
        }
    }

    /// A direction ended: so did an answer that says no length.
    fn close(&self, direction: Direction, follower: &mut Follower) {
        if direction == Direction::Up {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = follower.close()
            && let Some((sent, _)) = waiting.pop_front()
        {
            let ledger = &self.route.ledger;
            ledger.answered(sent, answer.status, answer.bytes);
        }
    }
}
