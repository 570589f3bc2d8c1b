//! One read under way: collects the parts as they come and answers once.

use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use super::ServedFrom;
use crate::error::{Error, Kind, Result};

/// A read that waits for some of its parts.
pub(super) struct Operation(Mutex<Option<State>>);

/// Called once with the bytes of a read and the slowest place they came from, or with why there are
/// none.
pub(super) type Answer = Box<dyn FnOnce(Result<Bytes>, ServedFrom) + Send + 'static>;

struct State {
    parts: Vec<Bytes>,
    missing: usize,
    from: ServedFrom,
    done: Answer,
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
    pub(super) fn new(parts: usize, done: Answer) -> Self {
        let state = State {
            parts: vec![Bytes::new(); parts],
            missing: parts,
            from: ServedFrom::Memory,
            done,
        };
        let operation = Self(Mutex::new(Some(state)));
        if parts == 0 {
            operation.finish(Ok(Bytes::new()));
        }
        operation
    }

    /// Gives a part; the last one answers the read.
    pub(super) fn fill(&self, part: usize, bytes: Bytes, from: ServedFrom) {
        let mut guard = self.lock();
        let Some(state) = guard.as_mut() else { return };
        state.parts[part] = bytes;
        state.from = state.from.max(from);
        state.missing -= 1;
        if state.missing > 0 {
            return;
        }
        let Some(state) = guard.take() else { return };
        drop(guard);
        (state.done)(Ok(join(state.parts)), state.from);
    }

    /// Answers the read with an error, unless it has been answered.
    pub(super) fn fail(&self, fault: &Fault) {
        self.finish(Err(Error::new(fault.kind, fault.message.clone())));
    }

    fn finish(&self, result: Result<Bytes>) {
        let state = self.lock().take();
        if let Some(state) = state {
            (state.done)(result, state.from);
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

    use ServedFrom::{Disk, Memory, Source};

    type Answers = mpsc::Receiver<(Result<Bytes>, ServedFrom)>;

    fn operation(parts: usize) -> (Operation, Answers) {
        let (send, receive) = mpsc::channel();
        let done: Answer =
            Box::new(move |result, from| send.send((result, from)).expect("the test listens"));
        (Operation::new(parts, done), receive)
    }

    #[test]
    fn answers_once_with_the_parts_in_order() {
        let (operation, answers) = operation(3);
        operation.fill(1, Bytes::from_static(b"b"), Source);
        operation.fill(2, Bytes::from_static(b"c"), Disk);
        assert!(answers.try_recv().is_err());
        operation.fill(0, Bytes::from_static(b"a"), Memory);
        operation.fail(&Fault {
            kind: Kind::Corrupt,
            message: "late".into(),
        });
        let (bytes, from) = answers.recv().unwrap();
        assert_eq!((bytes.unwrap().as_ref(), from), (&b"abc"[..], Source));
        assert!(answers.try_recv().is_err());
    }

    #[test]
    fn the_first_fault_answers() {
        let (operation, answers) = operation(2);
        operation.fail(&Fault {
            kind: Kind::Corrupt,
            message: "layer x chunk 1".into(),
        });
        operation.fill(0, Bytes::new(), Memory);
        operation.fill(1, Bytes::new(), Memory);
        let (result, _) = answers.recv().unwrap();
        assert_eq!(result.unwrap_err().kind(), Kind::Corrupt);
        assert!(answers.try_recv().is_err());
        let (nothing, from) = self::operation(0).1.recv().unwrap();
        assert_eq!((nothing.unwrap().as_ref(), from), (&b""[..], Memory));
    }

    #[test]
    fn dropping_it_answers() {
        let (operation, answers) = operation(1);
        drop(operation);
        let (result, _) = answers.recv().unwrap();
        assert_eq!(result.unwrap_err().kind(), Kind::Unavailable);
    }
}
