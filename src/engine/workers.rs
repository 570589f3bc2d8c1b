//! The threads that look on disk, decode and verify. Readers' work goes before fetched-ahead work.

use std::{ops::Range, sync::Arc, thread::JoinHandle};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, select_biased};

use super::{FileData, Shared, fetch::Why, flights::Waiter, plan::Extent};
use crate::error::{Error, Result};

/// One piece of work.
pub(super) enum Task {
    /// Look on disk for what readers wait for, and fetch the rest; `ahead` is what
    /// to fetch of a file that is read sequentially.
    Look {
        layer: u16,
        waiters: Vec<Waiter>,
        ahead: Option<(FileData, Range<u64>)>,
    },
    /// Fetch units that nobody waits for yet.
    Prefetch { layer: u16, units: Vec<u32> },
    /// Fetch what will probably be wanted next.
    Neighbours,
    /// Fetch what a profile names, in this order.
    Follow { extents: Vec<(u16, Extent)> },
    /// Decode a fetched unit and hand out its chunks.
    Decode {
        layer: u16,
        unit: u32,
        compressed: Bytes,
        why: Why,
    },
    /// Decode the next unit that nobody waits for.
    DecodeNext,
    /// End the thread.
    Stop,
}

/// The pool; dropping it ends the threads after the work under way.
#[derive(Debug)]
pub(super) struct Workers {
    queues: Queues,
    threads: Vec<JoinHandle<()>>,
}

/// Where tasks are put.
#[derive(Clone, Debug)]
pub(super) struct Queues {
    urgent: Sender<Task>,
    later: Sender<Task>,
}

// === impl Workers ===

impl Workers {
    pub(super) fn start(shared: &Arc<Shared>) -> Result<Self> {
        let count = match shared.config.workers {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            n => n,
        };
        // Unbounded, but what waits is bounded by the kernel's requests and the stream windows.
        let (urgent, urgent_tasks) = crossbeam_channel::unbounded();
        let (later, later_tasks) = crossbeam_channel::unbounded();
        let queues = Queues { urgent, later };
        let mut workers = Self {
            queues,
            threads: Vec::with_capacity(count),
        };
        for i in 0..count {
            let (shared, queues) = (Arc::clone(shared), workers.queues.clone());
            let (urgent, later) = (urgent_tasks.clone(), later_tasks.clone());
            let thread = std::thread::Builder::new()
                .name(format!("nacre-work-{i}"))
                .spawn(move || work(&shared, &queues, &urgent, &later))
                .map_err(|e| Error::io("engine worker thread", e))?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    pub(super) fn send(&self, task: Task) {
        self.queues.send(task);
    }

    /// Where tasks are put.
    pub(super) fn queues(&self) -> Queues {
        self.queues.clone()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for _ in &self.threads {
            self.queues.send(Task::Stop);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("engine worker panicked");
            }
        }
    }
}

// === impl Queues ===

impl Queues {
    /// Queues a task. After the pool has ended it is dropped, and with it whoever waits for it,
    /// which answers their reads with an error.
    pub(super) fn send(&self, task: Task) {
        let queue = match &task {
            Task::Prefetch { .. } | Task::DecodeNext => &self.later,
            Task::Look { .. }
            | Task::Neighbours
            | Task::Follow { .. }
            | Task::Decode { .. }
            | Task::Stop => &self.urgent,
        };
        if queue.send(task).is_err() {
            tracing::debug!("task after the engine stopped");
        }
    }
}

fn work(shared: &Arc<Shared>, queues: &Queues, urgent: &Receiver<Task>, later: &Receiver<Task>) {
    loop {
        let task = select_biased! {
            recv(urgent) -> task => task,
            recv(later) -> task => task,
        };
        match task {
            Ok(Task::Look {
                layer,
                waiters,
                ahead,
            }) => shared.look(queues, layer, waiters, ahead),
            Ok(Task::Prefetch { layer, units }) => shared.fetch_ahead(queues, layer, units),
            Ok(Task::Neighbours) => shared.fetch_neighbours(queues),
            Ok(Task::Follow { extents }) => shared.follow(queues, extents),
            Ok(Task::Decode {
                layer,
                unit,
                compressed,
                why,
            }) => {
                shared.decode(queues, layer, unit, &compressed, why);
            }
            // It may have been taken out of turn.
            Ok(Task::DecodeNext) => {
                if let Some(it) = shared.laid.next() {
                    shared.decode(queues, it.layer, it.unit, &it.compressed, it.why);
                }
            }
            Ok(Task::Stop) | Err(_) => return,
        }
    }
}
