//! The way of a service's events to the host: in order, and none before the record that it reports is durable.

use super::logs::LOG_LINE_BYTES;
use crate::journal::Commit;
use lifeboat_api::event::{Event, EventSink};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of events that a service has wait for their records: lines that guests log beyond that are dropped.
pub const EVENTS_HELD_BYTES_MAX: u64 = 1024 * 1024;

/// What an event that is no line of a log is counted as, in bytes.
const EVENT_BYTES: u64 = 1024;

/// Passes a service's events on in the order in which they are emitted. An event that reports a record is held until the
/// record is durable, and later events wait behind it; if the record cannot be made durable, the event is discarded.
///
/// What waits here is bounded: of lines that guests log no more are taken than [`EventGate::room`] has, and whatever else is
/// reported follows from a request or an order that was carried out.
#[derive(Clone)]
pub(super) struct EventGate(Arc<Gate>);

struct Gate {
    sink: EventSink,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// Of the next event that is held.
    next: u64,
    events: VecDeque<HeldEvent>,
    /// What they count.
    bytes: u64,
}

struct HeldEvent {
    number: u64,
    /// Its record is not known to be durable yet.
    is_waiting: bool,
    event: Event,
}

impl EventGate {
    pub(super) fn new(sink: EventSink) -> Self {
        Self(Arc::new(Gate { sink, held: Mutex::default() }))
    }

    /// A sink that leads through this gate.
    pub(super) fn sink(&self) -> EventSink {
        let gate = self.clone();
        Arc::new(move |event| gate.emit(event.clone()))
    }

    /// Whether no event is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held().events.is_empty()
    }

    /// Bytes of lines that may be emitted now.
    pub(super) fn room(&self) -> u64 {
        EVENTS_HELD_BYTES_MAX.saturating_sub(self.held().bytes)
    }

    /// Passes an event on, after those that are held.
    pub(super) fn emit(&self, event: Event) {
        let mut held = self.held();
        if held.events.is_empty() {
            // Under the lock: an event that the journal's thread releases must not overtake this one, nor it that one.
            (self.0.sink)(&event);
        } else {
            held.push(event, false);
        }
    }

    /// The same for an event that reports a record, once `commit` says that the record is durable.
    pub(super) fn emit_once(&self, event: Event, commit: &Commit) {
        let number = self.held().push(event, true);
        let gate = self.clone();
        // It may run here and now.
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

/// What an event is counted as while it waits.
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
        /// Events with and without records, whose commits end in any order and way: what is reported is a prefix of what
        /// was emitted, without what is not durable, up to the first that is not known.
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
