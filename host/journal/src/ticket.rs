//! The notification that a record is durable: a [`Ticket`] for the submitter, a `Completion` for the writer.
//!
//! The writer's thread runs the waiting callbacks as soon as the record is durable. So a withheld answer wakes its
//! client once, when the client may receive it, and not before.

use super::recovery::Location;
use super::segments::LogError;
use smallvec::SmallVec;
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;
use tokio::sync::oneshot;

/// The reason why a record was not committed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The log refused the record, or failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The journal is short of room, and cannot begin its next segment.
    #[error("the journal {0}")]
    Stalled(Arc<str>),
    /// The writer was stopped first.
    #[error("the journal was closed")]
    Closed,
}

/// The location of a committed record, or the reason why it may not be in the journal. [`super::commit::Change::End`]
/// has no location.
pub type Committed = Result<Option<Location>, CommitError>;

type Waiting = Box<dyn FnOnce(&Committed) + Send>;

enum State {
    UnderWay {
        /// Usually two callbacks wait: one of the service's journal, and one of the answer.
        waiting: SmallVec<[(Patience, Waiting); 2]>,
        /// The reason why the record waits, once it is held.
        held: Option<CommitError>,
    },
    Over(Committed),
}

/// How long a callback waits for a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Until the outcome of the record is known.
    ToTheEnd,
    /// Until then, or until the record is held.
    UntilHeld,
}

type Cell = Mutex<State>;

/// A handle that notifies its holder when a record can no longer be lost. Clones refer to the same record. Dropping all
/// of them does not affect the record.
#[derive(Clone)]
pub struct Ticket(Arc<Cell>);

/// The other end of a [`Ticket`]. Dropping it without an outcome completes the ticket with [`CommitError::Closed`].
pub struct Completion(Arc<Cell>);

/// Returns a ticket and its completion.
#[must_use]
pub fn ticket() -> (Completion, Ticket) {
    let cell = Arc::new(Mutex::new(State::UnderWay { waiting: SmallVec::new(), held: None }));
    (Completion(Arc::clone(&cell)), Ticket(cell))
}

impl Ticket {
    /// Runs `then` when the record is durable or known not to be, after all callbacks that were registered before. It
    /// runs now, or later on the writer's thread, which it must not block.
    pub fn then(&self, then: impl FnOnce(&Committed) + Send + 'static) {
        self.wait_for(Patience::ToTheEnd, then);
    }

    /// Runs `then` like [`Ticket::then`], but not later than [`HELD_MAX`](super::commit::HELD_MAX) after the record
    /// began to wait for room. In that case `then` gets [`CommitError::Stalled`], and the record is committed later.
    pub fn then_or_held(&self, then: impl FnOnce(&Committed) + Send + 'static) {
        self.wait_for(Patience::UntilHeld, then);
    }

    fn wait_for(&self, patience: Patience, then: impl FnOnce(&Committed) + Send + 'static) {
        let committed = {
            // No code that can panic runs under the lock, here and below.
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *state {
                State::UnderWay { held: Some(held), .. } if patience == Patience::UntilHeld => Err(held.clone()),
                State::UnderWay { waiting, .. } => return waiting.push((patience, Box::new(then))),
                State::Over(committed) => committed.clone(),
            }
        };
        then(&committed);
    }

    /// Returns whether the outcome of the record is known.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(&*self.0.lock().unwrap_or_else(PoisonError::into_inner), State::Over(_))
    }

    /// Waits until the record is durable, and returns its location. Dropping the future does not affect the record.
    ///
    /// # Errors
    /// [`CommitError`]: after a failure of the log it is unknown whether the record is there after a restart.
    pub async fn committed(self) -> Committed {
        self.ended(Patience::ToTheEnd).await.unwrap_or(Err(CommitError::Closed))
    }

    /// Waits like [`Ticket::committed`], but no longer than [`Ticket::then_or_held`].
    ///
    /// # Errors
    /// As [`Ticket::committed`], and [`CommitError::Stalled`].
    pub async fn committed_or_held(self) -> Committed {
        self.ended(Patience::UntilHeld).await.unwrap_or(Err(CommitError::Closed))
    }

    /// Waits like [`Ticket::committed`], in a thread that may block.
    ///
    /// # Errors
    /// As [`Ticket::committed`].
    ///
    /// # Panics
    /// Within an asynchronous task.
    pub fn wait(self) -> Committed {
        self.ended(Patience::ToTheEnd).blocking_recv().unwrap_or(Err(CommitError::Closed))
    }

    fn ended(self, patience: Patience) -> oneshot::Receiver<Committed> {
        let (teller, ended) = oneshot::channel();
        // A dropped receiver no longer needs the result.
        self.wait_for(patience, move |committed| drop(teller.send(committed.clone())));
        ended
    }
}

impl Completion {
    /// Reports the outcome of the record to all waiting callbacks, and to those that are registered later.
    pub fn complete(self, committed: Committed) {
        self.resolve(committed);
    }

    /// Reports that the record waits for room, to the callbacks that do not wait any longer in that case.
    pub(crate) fn hold(&self, error: &CommitError) {
        let ended: SmallVec<[Waiting; 2]> = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let State::UnderWay { waiting, held } = &mut *state else { return };
            if held.is_some() {
                return;
            }
            *held = Some(error.clone());
            let (ended, patient) =
                std::mem::take(waiting).into_iter().partition(|(patience, _)| *patience == Patience::UntilHeld);
            *waiting = patient;
            let ended: SmallVec<[(Patience, Waiting); 2]> = ended;
            ended.into_iter().map(|(_, then)| then).collect()
        };
        run(ended, &Err(error.clone()));
    }

    fn resolve(&self, committed: Committed) {
        loop {
            let waiting: SmallVec<[(Patience, Waiting); 2]> = {
                let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                match &mut *state {
                    State::Over(_) => return,
                    State::UnderWay { waiting, .. } if waiting.is_empty() => {
                        *state = State::Over(committed);
                        return;
                    }
                    // Callbacks that are registered meanwhile run after these: an answer must not overtake the event
                    // that it depends on.
                    State::UnderWay { waiting, held } => {
                        *held = None;
                        std::mem::take(waiting)
                    }
                }
            };
            run(waiting.into_iter().map(|(_, then)| then), &committed);
        }
    }
}

fn run(waiting: impl IntoIterator<Item = Waiting>, committed: &Committed) {
    for then in waiting {
        // The callback runs on the thread of all services' journal, and its panic must not end that thread. Its waiter
        // finds a closed channel.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| then(committed)));
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.resolve(Err(CommitError::Closed));
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
    fn every_callback_runs_once_when_its_ticket_is_complete() {
        let (completion, ticket) = ticket();
        let ended = Arc::new(AtomicUsize::new(0));
        let count = |committed: &Committed, ended: &AtomicUsize| {
            assert!(matches!(committed, Ok(None)));
            ended.fetch_add(1, Ordering::Relaxed);
        };
        for _ in 0..3 {
            let ended = Arc::clone(&ended);
            ticket.clone().then(move |committed| count(committed, &ended));
        }
        assert!(ended.load(Ordering::Relaxed) == 0 && !ticket.is_over());
        completion.complete(Ok(None));
        assert!(ticket.is_over());
        assert_eq!(ended.load(Ordering::Relaxed), 3);
        let late = Arc::clone(&ended);
        ticket.then(move |committed| count(committed, &late));
        assert_eq!(ended.load(Ordering::Relaxed), 4);
        assert!(matches!(ticket.wait(), Ok(None)));
    }

    #[test]
    fn a_held_record_notifies_all_but_those_that_wait_for_its_commit() {
        let (completion, ticket) = ticket();
        let ended: Arc<Mutex<Vec<(u8, bool)>>> = Arc::default();
        let note = |who: u8| {
            let ended = Arc::clone(&ended);
            move |committed: &Committed| ended.lock().expect("no panic").push((who, committed.is_ok()))
        };
        ticket.then(note(1));
        ticket.then_or_held(note(2));
        let stalled = CommitError::Stalled("has no room".into());
        completion.hold(&stalled);
        completion.hold(&stalled);
        ticket.then_or_held(note(3));
        ticket.then(note(4));
        assert_eq!(*ended.lock().expect("no panic"), [(2, false), (3, false)]);
        assert!(!ticket.is_over());
        completion.complete(Ok(None));
        ticket.then_or_held(note(5));
        assert_eq!(*ended.lock().expect("no panic"), [(2, false), (3, false), (1, true), (4, true), (5, true)]);
    }

    #[test]
    fn a_callback_that_is_added_during_others_runs_after_them() {
        let (completion, ticket) = ticket();
        let order: Arc<Mutex<Vec<u32>>> = Arc::default();
        let tell = |number: u32| {
            let order = Arc::clone(&order);
            move |_: &Committed| order.lock().expect("no panic").push(number)
        };
        let (other, late) = (ticket.clone(), tell(3));
        ticket.then(move |_| other.then(late));
        ticket.then(tell(1));
        ticket.then(tell(2));
        completion.complete(Ok(None));
        assert_eq!(*order.lock().expect("no panic"), [1, 2, 3]);
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
