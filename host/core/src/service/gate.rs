//! The path of a service's events to the host: in order, and none before its record is durable.

use super::logs::LOG_LINE_BYTES;
use crate::journal::Commit;
use lifeboat_api::event::{Event, EventSink};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most bytes of a service's events that wait for their records. Lines that the guest logs beyond that are dropped.
pub const EVENTS_HELD_BYTES_MAX: u64 = 1024 * 1024;

/// The size of any event other than a log line, for this bound, in bytes.
const EVENT_BYTES: u64 = 1024;

/// Passes a service's events on in the order in which they are emitted.
///
/// An event that reports a record is held until the record is durable, and later events wait behind it. If the record
/// cannot be made durable, the event is discarded.
///
/// The held events are bounded. The caller emits no more log lines than [`EventGate::room`] allows, and every other
/// event follows from a request or an order that was carried out.
#[derive(Clone)]
pub(super) struct EventGate(Arc<Gate>);

struct Gate {
    sink: EventSink,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// The number of the next held event.
    next: u64,
    events: VecDeque<HeldEvent>,
    /// The size of the held events, in bytes.
    bytes: u64,
}

struct HeldEvent {
    number: u64,
    /// Whether the event's record is not known to be durable yet.
    is_waiting: bool,
    event: Event,
}

impl EventGate {
    pub(super) fn new(sink: EventSink) -> Self {
        Self(Arc::new(Gate { sink, held: Mutex::default() }))
    }

    /// Returns a sink that passes events through this gate.
    pub(super) fn sink(&self) -> EventSink {
        let gate = self.clone();
        Arc::new(move |event| gate.emit(event.clone()))
    }

    /// Returns whether no event is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held().events.is_empty()
    }

    /// Returns how many bytes of log lines may be emitted now.
    pub(super) fn room(&self) -> u64 {
        EVENTS_HELD_BYTES_MAX.saturating_sub(self.held().bytes)
    }

    /// Passes an event on, after the held events.
    pub(super) fn emit(&self, event: Event) {
        let mut held = self.held();
        if held.events.is_empty() {
            // The lock stays held: this event and one that the journal's thread releases must not overtake each other.
            (self.0.sink)(&event);
        } else {
            held.push(event, false);
        }
    }

    /// Passes on an event that reports a record, once `commit` is durable.
    pub(super) fn emit_once(&self, event: Event, commit: &Commit) {
        let number = self.held().push(event, true);
        let gate = self.clone();
        // The callback may run here and now, so the lock is not held.
        commit.then(move |durable| gate.release(number, durable.is_ok()));
    }

    fn release(&self, number: u64, is_durable: bool) {
        let mut held = self.held();
        let Ok(index) = held.events.binary_search_by_key(&number, |held| held.number) else { return };
        if is_durable {
            held.events[index].is_waiting = false;
        } else {
            let discarded = held.events.remove(index);
            held.bytes -= discarded.map_or(0, |discarded| bytes(&discarded.event));
        }
        while let Some(first) = held.events.pop_front_if(|first| !first.is_waiting) {
            held.bytes -= bytes(&first.event);
            (self.0.sink)(&first.event);
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn push(&mut self, event: Event, is_waiting: bool) -> u64 {
        let number = self.next;
        self.next += 1;
        self.bytes += bytes(&event);
        self.events.push_back(HeldEvent { number, is_waiting, event });
        number
    }
}

/// Returns the size of an event while it waits, in bytes.
fn bytes(event: &Event) -> u64 {
    match event {
        Event::Log { line, .. } => line.len() as u64 + LOG_LINE_BYTES,
        _ => EVENT_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::name::Name;
    use lifeboat_journal::commit::CommitError;
    use lifeboat_journal::ticket::{self, Committed};
    use proptest::prelude::*;

    fn gate() -> (EventGate, Arc<Mutex<Vec<String>>>) {
        let reported: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = Arc::clone(&reported);
        let gate = EventGate::new(Arc::new(move |event: &Event| {
            let Event::Log { line, .. } = event else { panic!("another event") };
            sink.lock().expect("no panic").push(line.clone());
        }));
        (gate, reported)
    }

    fn event(number: usize) -> Event {
        Event::Log { service: Name::new("bank").expect("a name"), line: number.to_string() }
    }

    proptest! {
        /// Commits may end in any order and either way. The reported events are a prefix of the emitted ones, up to the
        /// first whose commit has not ended, without those whose record is not durable.
        #[test]
        fn events_keep_their_order_and_wait_for_their_records(
            records in prop::collection::vec(any::<Option<bool>>(), 0..20),
            ends in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let (gate, reported) = gate();
            let mut completions: Vec<_> = records.iter().enumerate().map(|(number, record)| {
                if record.is_none() {
                    gate.emit(event(number));
                    return None;
                }
                let (completion, ticket) = ticket::ticket();
                gate.emit_once(event(number), &Commit::pending(ticket));
                Some(completion)
            }).collect();
            let check = |completions: &[Option<_>]| {
                let known = records.iter().zip(completions).enumerate();
                let known = known.take_while(|(_, (record, completion))| record.is_none() || completion.is_none());
                let durable = known.filter(|(_, (record, _))| **record != Some(false));
                let expected: Vec<String> = durable.map(|(number, _)| number.to_string()).collect();
                let is_all = completions.iter().all(Option::is_none);
                assert_eq!((&*reported.lock().expect("no panic"), gate.is_empty()), (&expected, is_all));
                assert!(!is_all || gate.room() == EVENTS_HELD_BYTES_MAX);
            };
            check(&completions);
            for end in ends {
                if completions.is_empty() {
                    break;
                }
                let index = end.index(completions.len());
                if let Some(completion) = completions[index].take() {
                    let committed: Committed =
                        if records[index] == Some(true) { Ok(None) } else { Err(CommitError::Closed) };
                    completion.complete(committed);
                }
                check(&completions);
            }
        }
    }
}
