//! One read under way: collects the parts as they come and answers once.

use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use super::ReadDone;
use crate::error::{Error, Kind, Result};

/// A read that waits for some of its parts.
pub(super) struct Operation(Mutex<Option<State>>);

struct State {
    parts: Vec<Bytes>,
    missing: usize,
    done: ReadDone,
}

/// An error that can be told to several readers.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) message: String,
}

// === impl Operation ===

impl Operation {
    /// A read of `parts` pieces, all still missing.
    pub(super) fn new(parts: usize, done: ReadDone) -> Self {
        let state = State {
            parts: vec![Bytes::new(); parts],
            missing: parts,
            done,
        };
        let operation = Self(Mutex::new(Some(state)));
        if parts == 0 {
            operation.finish(Ok(Bytes::new()));
        }
        operation
    }

    /// Gives a part; the last one answers the read.
    pub(super) fn fill(&self, part: usize, bytes: Bytes) {
        let mut guard = self.lock();
        let Some(state) = guard.as_mut() else { return };
        state.parts[part] = bytes;
        state.missing -= 1;
        if state.missing > 0 {
            return;
        }
        let Some(state) = guard.take() else { return };
        drop(guard);
        (state.done)(Ok(join(state.parts)));
    }

    /// Answers the read with an error, unless it has been answered.
    pub(super) fn fail(&self, fault: &Fault) {
        self.finish(Err(Error::new(fault.kind, fault.message.clone())));
    }

    fn finish(&self, result: Result<Bytes>) {
        let state = self.lock().take();
        if let Some(state) = state {
            (state.done)(result);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<State>> {
        // `done` is never called under the lock, so a panic in it leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Operation {
    /// A read whose last part will never come, because the engine stops, is answered all the same.
    fn drop(&mut self) {
        self.finish(Err(Error::unavailable("the engine stopped in mid-read")));
    }
}

/// One part is passed on without a copy.
fn join(mut parts: Vec<Bytes>) -> Bytes {
    if let [only] = &mut parts[..] {
        return std::mem::take(only);
    }
    let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| all.extend_from_slice(part));
    all.freeze()
}

// === impl Fault ===

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn operation(parts: usize) -> (Operation, mpsc::Receiver<Result<Bytes>>) {
        let (send, receive) = mpsc::channel();
        let done: ReadDone = Box::new(move |result| send.send(result).expect("the test listens"));
        (Operation::new(parts, done), receive)
    }

    #[test]
    fn answers_once_with_the_parts_in_order() {
        let (operation, answers) = operation(2);
        operation.fill(1, Bytes::from_static(b"b"));
        assert!(answers.try_recv().is_err());
        operation.fill(0, Bytes::from_static(b"a"));
        operation.fail(&Fault {
            kind: Kind::Corrupt,
            message: "late".into(),
        });
        assert_eq!(answers.recv().unwrap().unwrap(), "ab");
        assert!(answers.try_recv().is_err());
    }

    #[test]
    fn the_first_fault_answers() {
        let (operation, answers) = operation(2);
        operation.fail(&Fault {
            kind: Kind::Corrupt,
            message: "layer x chunk 1".into(),
        });
        operation.fill(0, Bytes::new());
        operation.fill(1, Bytes::new());
        assert_eq!(answers.recv().unwrap().unwrap_err().kind(), Kind::Corrupt);
        assert!(answers.try_recv().is_err());
        assert_eq!(self::operation(0).1.recv().unwrap().unwrap(), "");
    }

    #[test]
    fn dropping_it_answers() {
        let (operation, answers) = operation(1);
        drop(operation);
        assert_eq!(
            answers.recv().unwrap().unwrap_err().kind(),
            Kind::Unavailable
        );
    }
}
