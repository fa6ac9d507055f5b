//! A limited number of turns to load and compile workloads; the smallest workload is next.
//!
//! When the host starts, all of its workloads wait, and large ones take long. A workload therefore waits for larger
//! ones only if they already have turns. Smaller ones could delay a large one without end, so it lets past only those
//! that arrive within a time proportional to its size ([`LET_PAST_PER_BYTE`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The time after its arrival during which a workload lets smaller ones past, for each of its bytes: a second for a
/// megabyte.
pub const LET_PAST_PER_BYTE: Duration = Duration::from_micros(1);

/// A place in the queue, in ascending order of turns.
type Place = (Duration, u64);

/// The waiting workloads, and the number of turns held. Times count from an arbitrary moment and never go back.
#[derive(Debug)]
struct Queue<W> {
    at_once_max: usize,
    held: usize,
    came: u64,
    waiting: BTreeMap<Place, W>,
}

impl<W> Queue<W> {
    fn new(at_once_max: usize) -> Self {
        Self { at_once_max, held: 0, came: 0, waiting: BTreeMap::new() }
    }

    /// Adds a waiter for a workload of `file_bytes` bytes.
    fn come(&mut self, file_bytes: u64, now: Duration, waiter: W) -> Place {
        let factor = u32::try_from(file_bytes).unwrap_or(u32::MAX);
        let place = (now.saturating_add(LET_PAST_PER_BYTE.saturating_mul(factor)), self.came);
        self.came += 1;
        self.waiting.insert(place, waiter);
        place
    }

    /// Removes the next waiter and counts its turn as held, if a turn is available.
    fn next(&mut self) -> Option<W> {
        if self.held >= self.at_once_max {
            return None;
        }
        let (_, waiter) = self.waiting.pop_first()?;
        self.held += 1;
        Some(waiter)
    }

    /// Removes a waiter, which may already have its turn.
    fn leave(&mut self, place: &Place) {
        self.waiting.remove(place);
    }

    fn end(&mut self) {
        self.held -= 1;
    }
}

/// A limited number of turns. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    queue: Arc<Mutex<Queue<oneshot::Sender<Turn>>>>,
    created: Instant,
}

/// A turn, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn(Turns);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.queue().end();
        self.0.give();
    }
}

/// A waiter, which leaves the queue when this is dropped.
struct Waits<'a> {
    turns: &'a Turns,
    place: Place,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.turns.queue().leave(&self.place);
    }
}

impl Turns {
    pub(super) fn new(at_once_max: usize) -> Self {
        Self { queue: Arc::new(Mutex::new(Queue::new(at_once_max))), created: Instant::now() }
    }

    /// Waits for the turn of a workload whose file has `file_bytes` bytes.
    pub(super) async fn turn(&self, file_bytes: u64) -> Turn {
        let (sender, turn) = oneshot::channel();
        let place = self.queue().come(file_bytes, self.created.elapsed(), sender);
        let _waits = Waits { turns: self, place };
        self.give();
        turn.await.expect("one that waits is removed when it goes away, or has its turn")
    }

    /// Hands out all available turns.
    fn give(&self) {
        loop {
            // The lock must not be held when a turn is dropped.
            let next = self.queue().next();
            let Some(waiter) = next else { return };
            // If the waiter has left, dropping the unsent turn ends it.
            drop(waiter.send(Turn(self.clone())));
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<oneshot::Sender<Turn>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        /// A workload of so many bytes arrives, so many microseconds after the previous step.
        Come(u64, u64),
        /// A turn is requested.
        Next,
        End,
        /// The waiter at this index leaves.
        Leave(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_u64..1_000, 0_u64..300).prop_map(|(bytes, time)| Step::Come(bytes, time)),
            3 => Just(Step::Next),
            2 => Just(Step::End),
            1 => (0_usize..8).prop_map(Step::Leave),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn only_smaller_waiters_that_came_soon_after_a_large_one_pass_it(steps in steps()) {
            const AT_ONCE_MAX: usize = 2;
            let mut queue = Queue::new(AT_ONCE_MAX);
            // The number, size, arrival time and place of each waiter.
            let mut waiting: Vec<(u64, u64, u64, Place)> = Vec::new();
            let (mut now, mut number, mut held) = (0, 0, 0);
            for step in steps {
                match step {
                    Step::Come(bytes, time) => {
                        now += time;
                        number += 1;
                        let place = queue.come(bytes, Duration::from_micros(now), number);
                        waiting.push((number, bytes, now, place));
                    }
                    Step::Next => {
                        let next = queue.next();
                        prop_assert_eq!(next.is_some(), held < AT_ONCE_MAX && !waiting.is_empty());
                        let Some(next) = next else { continue };
                        held += 1;
                        let at = waiting.iter().position(|(number, ..)| *number == next).expect("it waited");
                        let (_, bytes, came, _) = waiting.remove(at);
                        for (other, other_bytes, other_came, _) in &waiting {
                            // It did not arrive too late to pass an earlier one.
                            prop_assert!(*other > next || came <= other_came + other_bytes, "{other} before {next}");
                            // It is the smallest of those that arrived at the same time.
                            prop_assert!(*other_came != came || bytes <= *other_bytes, "{other} before {next}");
                            // No earlier one that is as small still waits.
                            prop_assert!(*other > next || *other_bytes > bytes, "{other} before {next}");
                        }
                    }
                    Step::End if held > 0 => {
                        queue.end();
                        held -= 1;
                    }
                    Step::End => {}
                    Step::Leave(at) if at < waiting.len() => queue.leave(&waiting.remove(at).3),
                    Step::Leave(_) => {}
                }
                prop_assert_eq!((queue.held, queue.waiting.len()), (held, waiting.len()));
            }
        }
    }

    #[tokio::test]
    async fn a_turn_that_ends_or_that_nobody_waits_for_goes_to_the_next() {
        let turns = Turns::new(1);
        let first = turns.turn(5).await;
        let (mut large, mut small) = (Box::pin(turns.turn(1 << 30)), Box::pin(turns.turn(1)));
        let mut gone = Box::pin(turns.turn(0));
        assert!(large.as_mut().now_or_never().is_none() && small.as_mut().now_or_never().is_none());
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        assert_eq!(turns.queue().waiting.len(), 2);
        drop(first);
        assert!(large.as_mut().now_or_never().is_none());
        // It was given its turn, and leaves before it receives it.
        drop(small);
        drop(large.as_mut().now_or_never().expect("its turn"));
        let queue = turns.queue();
        assert_eq!((queue.held, queue.waiting.len()), (0, 0));
    }
}
