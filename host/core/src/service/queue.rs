//! The queue between the senders of requests and the service's task: [`Turns`] behind a lock, and a lane for orders.
//!
//! An order, or a message that only reads, waits until all requests that arrived before it are done. Requests of users
//! whose turn it is may come in between, but it waits for nothing else.

use super::handle::{Message, gone};
use super::reply::ReplySender;
use super::turns::{Turns, Waiting};
use lifeboat_api::name::Name;
use lifeboat_api::transaction::Request;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The most requests that are taken for one turn.
const TURN_REQUESTS_MAX: usize = 64;

/// The most bytes of the requests of one turn, not counting the first.
const TURN_BYTES_MAX: usize = 1024 * 1024;

/// A request in a line.
pub(super) struct Queued {
    /// Distinguishes the users who have had the name of the line's user.
    pub(super) incarnation: u64,
    pub(super) request: Request,
    pub(super) reply: ReplySender,
}

struct State {
    turns: Turns<Queued>,
    orders: VecDeque<(u64, Message)>,
    /// Whether the task has ended.
    is_over: bool,
}

/// The reason why a request was not queued.
pub(super) enum Refused {
    /// The user has as many requests in the queue as they may have, or as many bytes.
    Full,
    /// The task has ended.
    Over,
}

/// The state that the handles and the task share.
pub(super) struct Queue {
    service: Name,
    state: Mutex<State>,
    /// The requests of the turn that have not begun yet. Locked after `state`, or alone.
    turn: Mutex<VecDeque<Waiting<Queued>>>,
    /// The number of waiting requests and orders.
    length: AtomicUsize,
    /// Whether the last handle was dropped. Set under the lock of `state`.
    is_closed: AtomicBool,
    arrived: Notify,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, VecDeque<Waiting<Queued>>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_length(&self, state: &State) {
        self.length.store(state.turns.len() + state.orders.len(), Ordering::Release);
    }

    /// Returns how many requests and orders wait.
    pub(super) fn len(&self) -> usize {
        self.length.load(Ordering::Acquire)
    }

    /// Returns whether `user` has room to spare.
    pub(super) fn has_room(&self, user: &Name) -> bool {
        self.state().turns.has_room(user)
    }

    /// Puts a request in the line of its user.
    pub(super) fn push(&self, user: &Name, queued: Queued) -> Result<(), Refused> {
        let mut state = self.state();
        if state.is_over {
            return Err(Refused::Over);
        }
        let bytes = queued.request.body.len();
        let refused = state.turns.push(user, bytes, queued);
        self.note_length(&state);
        drop(state);
        // A refused request is dropped without the lock.
        refused.map_err(|_| Refused::Full)?;
        self.arrived.notify_one();
        Ok(())
    }

    /// Wakes the task to check the queue again.
    pub(super) fn wake(&self) {
        self.arrived.notify_one();
    }

    /// Removes requests of `user` that have not begun, from the queue and from its turn. With an id, removes only the
    /// requests with that id.
    pub(super) fn remove(&self, user: &Name, id: Option<&str>) -> Vec<Queued> {
        let is_meant = |queued: &Queued| id.is_none() || queued.request.id.as_deref() == id;
        let mut state = self.state();
        let mut removed = Vec::new();
        if state.turns.running() == Some(user) {
            let mut turn = self.turn();
            for waiting in std::mem::take(&mut *turn) {
                if is_meant(&waiting.request) { removed.push(waiting.request) } else { turn.push_back(waiting) }
            }
        }
        removed.extend(state.turns.remove(user, is_meant));
        self.note_length(&state);
        removed
    }

    /// Puts an order in its lane. Returns false if the task has ended.
    pub(super) fn order(&self, message: Message) -> bool {
        let mut state = self.state();
        if state.is_over {
            return false;
        }
        let arrival = state.turns.arrive();
        state.orders.push_back((arrival, message));
        self.note_length(&state);
        drop(state);
        self.arrived.notify_one();
        true
    }
}

/// The side of the handles. Once the last one is dropped, the queue ends when it is empty.
pub(super) struct Entrance(pub(super) Arc<Queue>);

impl Drop for Entrance {
    fn drop(&mut self) {
        let state = self.0.state();
        self.0.is_closed.store(true, Ordering::Release);
        drop(state);
        self.0.arrived.notify_one();
    }
}

/// The task's side. Dropping it denies all waiting requests and orders. A request or an order that the task has taken
/// and not answered is another matter: it may have had an effect.
pub(super) struct Exit(Arc<Queue>);

/// The next work of the task: an order, or the turn of a user.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) order: Option<Message>,
    pub(super) user: Option<Name>,
    /// The cost of the turn's requests so far.
    pub(super) cost: u64,
}

/// Returns the queue of `service`, for at most `count_max` requests of `bytes_max` bytes altogether.
pub(super) fn queue(service: Name, count_max: usize, bytes_max: usize) -> (Entrance, Exit) {
    let state = State { turns: Turns::new(count_max, bytes_max), orders: VecDeque::new(), is_over: false };
    let queue = Arc::new(Queue {
        service,
        state: Mutex::new(state),
        turn: Mutex::default(),
        length: AtomicUsize::new(0),
        is_closed: AtomicBool::new(false),
        arrived: Notify::new(),
    });
    (Entrance(Arc::clone(&queue)), Exit(queue))
}

impl Exit {
    pub(super) fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed.load(Ordering::Acquire)
    }

    /// Waits for work, and returns how many requests were taken, or 1 for an order. Returns `None` if nothing waits and
    /// no handle is left. Dropping the future loses nothing.
    pub(super) async fn take(&self, turn: &mut Turn) -> Option<usize> {
        loop {
            {
                let mut state = self.0.state();
                let State { turns, orders, .. } = &mut *state;
                if let Some((arrival, _)) = orders.front() {
                    let earliest = turns.earliest().unwrap_or(u64::MAX);
                    if *arrival < earliest {
                        // One at a time: those that the task has not begun are denied when it ends.
                        turn.order = orders.pop_front().map(|(_, message)| message);
                        self.0.note_length(&state);
                        return Some(1);
                    }
                }
                let until = orders.front().map(|(arrival, _)| *arrival);
                let mut requests = self.0.turn();
                turn.user = turns.begin_turn(TURN_REQUESTS_MAX, TURN_BYTES_MAX, until, &mut requests);
                if turn.user.is_some() {
                    self.0.note_length(&state);
                    return Some(requests.len());
                }
                if self.is_closed() {
                    return None;
                }
            }
            self.0.arrived.notified().await;
        }
    }

    /// Returns the next request of the turn.
    pub(super) fn next_of_turn(&self) -> Option<Queued> {
        self.0.turn().pop_front().map(|waiting| waiting.request)
    }

    /// Ends a turn. Charges its user, and returns the remaining requests to the front of the line.
    pub(super) fn end_turn(&self, turn: &mut Turn) {
        if turn.user.take().is_some() {
            let mut state = self.0.state();
            state.turns.end_turn(std::mem::take(&mut turn.cost), &mut self.0.turn());
            self.0.note_length(&state);
        }
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_over = true;
        let of_turn = std::mem::take(&mut *self.0.turn());
        let (requests, orders) = (state.turns.take_all(), std::mem::take(&mut state.orders));
        self.0.note_length(&state);
        drop(state);
        for queued in of_turn.into_iter().map(|waiting| waiting.request).chain(requests) {
            queued.reply.send(Err(gone(&self.0.service).into()));
        }
        for (_, message) in orders {
            if let Message::FailOver { done, .. } | Message::Snapshot { done, .. } = message {
                let _ = done.send(Err(gone(&self.0.service).into()));
            }
        }
    }
}
