//! The writer's word that a record is safe: a [`Ticket`] for who handed it in, a `Completion` for the writer.
//!
//! What waits for a record is run by the writer's thread at the moment the record is safe. So an answer that is held
//! until then wakes its client once, when it may be told, and not before.

use super::commit::CommitError;
use super::recovery::Location;
use smallvec::SmallVec;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// Where a record is, or why it may not be there. [`super::commit::Change::End`] is nowhere.
pub type Committed = Result<Option<Location>, CommitError>;

type Waiting = Box<dyn FnOnce(&Committed) + Send>;

enum State {
    /// As a rule two wait: the service's journal, and the answer.
    UnderWay(SmallVec<[Waiting; 2]>),
    Over(Committed),
}

type Cell = Mutex<State>;

/// Tells when a record can no longer be lost. Clones tell of the same record; dropping all of them changes nothing
/// about it.
#[derive(Clone)]
pub struct Ticket(Arc<Cell>);

/// The other end of a [`Ticket`]. Dropped without a word, it says that the writer is gone.
pub(crate) struct Completion(Arc<Cell>);

/// A ticket, and what completes it.
pub(crate) fn ticket() -> (Completion, Ticket) {
    let cell = Arc::new(Mutex::new(State::UnderWay(SmallVec::new())));
    (Completion(Arc::clone(&cell)), Ticket(cell))
}

impl Ticket {
    /// Has `then` run when the record is safe, or known not to be: now, or later on the writer's thread, which it must
    /// not hold up.
    pub fn then(&self, then: impl FnOnce(&Committed) + Send + 'static) {
        let committed = {
            // No code that can panic runs under the lock, here and below.
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *state {
                State::UnderWay(waiting) => return waiting.push(Box::new(then)),
                State::Over(committed) => committed.clone(),
            }
        };
        then(&committed);
    }

    /// Whether it is known what became of the record.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(&*self.0.lock().unwrap_or_else(PoisonError::into_inner), State::Over(_))
    }

    /// Waits until the record is safe, and says where it is. Dropping the future changes nothing about the record.
    ///
    /// # Errors
    /// [`CommitError`]: after a failure of the log, whether the record is there after a restart is unknown.
    pub async fn committed(self) -> Committed {
        self.told().await.unwrap_or(Err(CommitError::Closed))
    }

    /// The same, for a thread that may block.
    ///
    /// # Errors
    /// As [`Ticket::committed`].
    ///
    /// # Panics
    /// Within an asynchronous task.
    pub fn wait(self) -> Committed {
        self.told().blocking_recv().unwrap_or(Err(CommitError::Closed))
    }

    fn told(self) -> oneshot::Receiver<Committed> {
        let (teller, told) = oneshot::channel();
        // A receiver that is gone has lost interest.
        self.then(move |committed| drop(teller.send(committed.clone())));
        told
    }
}

impl Completion {
    /// Says what became of the record, to all who wait and to all who ask later.
    pub(crate) fn complete(self, committed: Committed) {
        self.tell(committed);
    }

    fn tell(&self, committed: Committed) {
        let waiting = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *state {
                State::Over(_) => return,
                State::UnderWay(waiting) => {
                    let waiting = std::mem::take(waiting);
                    *state = State::Over(committed.clone());
                    waiting
                }
            }
        };
        for then in waiting {
            // It runs on the thread of all services' journal, which one that panics must not end: who waits for it finds
            // its channel closed.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| then(&committed)));
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.tell(Err(CommitError::Closed));
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket(..)")
    }
}

impl std::fmt::Debug for Completion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Completion(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn all_who_wait_are_told_once_and_those_who_ask_later_at_once() {
        let (completion, ticket) = ticket();
        let told = Arc::new(AtomicUsize::new(0));
        let count = |committed: &Committed, told: &AtomicUsize| {
            assert!(matches!(committed, Ok(None)));
            told.fetch_add(1, Ordering::Relaxed);
        };
        for _ in 0..3 {
            let told = Arc::clone(&told);
            ticket.clone().then(move |committed| count(committed, &told));
        }
        assert!(told.load(Ordering::Relaxed) == 0 && !ticket.is_over());
        completion.complete(Ok(None));
        assert!(ticket.is_over());
        assert_eq!(told.load(Ordering::Relaxed), 3);
        let late = Arc::clone(&told);
        ticket.then(move |committed| count(committed, &late));
        assert_eq!(told.load(Ordering::Relaxed), 4);
        assert!(matches!(ticket.wait(), Ok(None)));
    }

    #[test]
    fn a_writer_that_is_gone_leaves_nobody_waiting() {
        let (completion, ticket) = ticket();
        let waiting = std::thread::spawn({
            let ticket = ticket.clone();
            move || ticket.wait()
        });
        drop(completion);
        assert!(matches!(waiting.join().expect("it does not panic"), Err(CommitError::Closed)));
        assert!(matches!(ticket.wait(), Err(CommitError::Closed)));
    }
}
