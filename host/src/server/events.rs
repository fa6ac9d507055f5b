//! The events of a host as a stream that can be resumed.

use super::Shared;
use super::problem::Problem;
use super::services;
use super::shares::Share;
use crate::auth::{Grant, Identity, TokenHash};
use crate::clock::{Timestamp, Utc};
use crate::event::{Event, Printable};
use crate::name::Name;
use crate::size::grouped;
use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};

/// Events that are kept for clients that come back.
pub const EVENTS_KEPT_MAX: usize = 10_000;

/// What a reader is told in the place of events that it asked for and that are gone.
const GAP: &str = "gap";

/// Characters that are shown of an id that a client gave.
const SHOWN_ID_CHARS_MAX: usize = 64;

/// Streams of events that are open at once.
pub const STREAMS_MAX: usize = 512;

/// Those of one user.
pub const STREAMS_PER_USER_MAX: usize = 64;

/// Events that a reader holds at once.
const READ_AT_ONCE: usize = 256;

/// The longest silence on a stream of events: then a comment is sent, so that both ends notice if the other is gone.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An event, and when it happened.
#[derive(Debug)]
struct Logged {
    /// Counts up by one from the first since the server started.
    number: u64,
    time: Timestamp,
    event: Event,
}

/// The last events of a host, for any number of readers.
#[derive(Debug)]
pub struct EventLog {
    /// Tells the events of this start from those of others, whose numbers begin at 1 as well.
    start: u64,
    kept: Mutex<VecDeque<Arc<Logged>>>,
    last: watch::Sender<u64>,
}

impl EventLog {
    /// A log that begins at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { start: now.0 / 1_000_000, kept: Mutex::default(), last: watch::Sender::new(0) }
    }

    /// Adds an event. It does not block but for a moment: fit for an [`EventSink`](crate::event::EventSink).
    pub fn add(&self, event: &Event, time: Timestamp) {
        let mut kept = self.kept();
        let number = kept.back().map_or(1, |last| last.number + 1);
        if kept.len() == EVENTS_KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(Arc::new(Logged { number, time, event: event.clone() }));
        drop(kept);
        self.last.send_replace(number);
    }

    /// What came after event `after`, as far as it is kept. The first of it may be a later one than the next.
    fn after(&self, after: u64) -> Vec<Arc<Logged>> {
        let kept = self.kept();
        let first = kept.partition_point(|logged| logged.number <= after);
        kept.range(first..).take(READ_AT_ONCE).map(Arc::clone).collect()
    }

    fn tells_of(&self, service: &Name) -> bool {
        self.kept().iter().any(|logged| logged.event.service() == Some(service))
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.start)
    }

    /// The number of the event with this id; none if it is of another start, or of none.
    fn number(&self, id: &str) -> Option<u64> {
        let (_, number) = id.split_once('-').filter(|(start, _)| start.parse() == Ok(self.start))?;
        let last = self.kept().back().map_or(0, |last| last.number);
        number.parse().ok().filter(|number| *number <= last)
    }

    /// Whether an id looks like one that the server gave before it was started this time, by whatever its clock said then.
    fn is_of_earlier_start(&self, id: &str) -> bool {
        let parts = id.split_once('-').map(|(start, number)| (start.parse::<u64>(), number.parse::<u64>()));
        matches!(parts, Some((Ok(start), Ok(_))) if start != self.start)
    }

    /// The number before the first event that is kept.
    fn beginning(&self) -> u64 {
        self.kept().front().map_or(0, |first| first.number - 1)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Logged>>> {
        // No code that can panic runs under the lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client wants of the events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Those of this service alone.
    service: Option<Name>,
    /// Whether to go on with what happens from now on; true unless it says otherwise.
    follow: Option<bool>,
    /// The kind of event alone, such as `log`.
    event: Option<String>,
}

pub(super) async fn stream_events(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    wanted: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(wanted) = wanted.map_err(|error| Problem::bad_request("query", error.body_text()))?;
    let too_many = |count, whose| {
        let text =
            format!("{count} streams of events{whose} are open, the most there may be; end one, or try again soon");
        Problem::later("too_many_streams", text)
    };
    let share = shared.streams_of.take(identity.user.clone());
    let share = share.ok_or_else(|| too_many(STREAMS_PER_USER_MAX, " of yours"))?;
    let place = Arc::clone(&shared.streams).try_acquire_owned().map_err(|_| too_many(STREAMS_MAX, ""))?;
    if let Some(service) = &wanted.service {
        shared.host.authorise(&identity, service, Grant::Observe)?;
        // What happened to one that was removed is told as long as it is kept.
        if !shared.events.tells_of(service) {
            services::entry(&shared, service).await?;
        }
    }
    let (after, unknown_id) = match headers.get("last-event-id").map(|id| String::from_utf8_lossy(id.as_bytes())) {
        None => (shared.events.beginning(), None),
        Some(id) => match shared.events.number(&id) {
            Some(number) => (number, None),
            None => (0, Some(id.chars().take(SHOWN_ID_CHARS_MAX).collect())),
        },
    };
    let follow = wanted.follow.unwrap_or(true);
    let news = shared.events.last.subscribe();
    let reading = Reading {
        shared,
        token: identity.token,
        wanted,
        _place: (place, share),
        after,
        unknown_id,
        ready: VecDeque::new(),
        news,
        follow,
    };
    let events = stream::unfold(reading, |mut reading| async move {
        reading.next().await.map(|event| (Ok::<_, Infallible>(event), reading))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

struct Reading {
    shared: Arc<Shared>,
    token: TokenHash,
    _place: (OwnedSemaphorePermit, Share<Name>),
    wanted: Wanted,
    after: u64,
    /// The id after which the client wants to go on, if this start of the server has not given it.
    unknown_id: Option<String>,
    ready: VecDeque<Arc<Logged>>,
    news: watch::Receiver<u64>,
    follow: bool,
}

impl Reading {
    async fn next(&mut self) -> Option<axum::response::sse::Event> {
        loop {
            while let Some(next) = self.ready.front().map(|logged| logged.number) {
                // It may be void by now, or its user may do less than before.
                let Ok(identity) = self.shared.host.authenticate_hash(&self.token) else { return None };
                if let Some(gap) = self.gap(next) {
                    return Some(gap);
                }
                let Some(logged) = self.ready.pop_front() else { break };
                self.after = logged.number;
                if self.is_for_them(&identity, &logged.event) {
                    let id = self.shared.events.id(logged.number);
                    return Some(sent(id, logged.event.kind(), &body(&logged)));
                }
            }
            self.news.mark_unchanged();
            self.ready = self.shared.events.after(self.after).into();
            if !self.ready.is_empty() {
                continue;
            }
            let is_token_valid = self.shared.host.authenticate_hash(&self.token).is_ok();
            if is_token_valid && let Some(gap) = self.gap(self.after + 1) {
                return Some(gap);
            }
            if !self.follow || !is_token_valid {
                return None;
            }
            let mut phase = self.shared.phase.subscribe();
            tokio::select! {
                changed = self.news.changed() => changed.ok()?,
                // A stream would otherwise hold up the end of the server.
                _ = phase.wait_for(|phase| *phase == super::Phase::Draining) => return None,
                // Now and then the token is looked at.
                () = tokio::time::sleep(KEEP_ALIVE) => {}
            }
        }
    }

    /// What the client is told before event `next`, if others that it asked for are gone: whatever it filters by, since
    /// nobody knows what they were.
    fn gap(&mut self, next: u64) -> Option<axum::response::sse::Event> {
        let unknown = self.unknown_id.take();
        if unknown.is_none() && next == self.after + 1 {
            return None;
        }
        let log = &self.shared.events;
        let before = log.id(next);
        let remedy = "lifeboat services and lifeboat usage tell how all is now";
        let (after, missed, text) = match unknown {
            Some(id) => {
                let text = if log.is_of_earlier_start(&id) {
                    let start = format!("{:.0}", Utc(self.shared.start));
                    format!(
                        "Gap: the server was started again at {start}, and what happened before and was not told is gone: \
                         events are kept until the server ends; {remedy}"
                    )
                } else {
                    format!("Gap: there is no event {}: what follows is all that is kept; {remedy}", Printable(&id))
                };
                (id, None, text)
            }
            None => {
                let missed = next - self.after - 1;
                let events = if missed == 1 { "event is" } else { "events are" };
                let text = format!(
                    "Gap: {} {events} gone, as only the last {} are kept; {remedy}",
                    grouped(missed),
                    grouped(EVENTS_KEPT_MAX as u64)
                );
                (log.id(self.after), Some(missed), text)
            }
        };
        // It stands before that event, and so does its time.
        let following = self.ready.front().filter(|logged| logged.number == next);
        let time = following.map_or_else(|| self.shared.clock.now(), |logged| logged.time);
        let body = json!({
            "event": GAP, "after": after, "before": before, "missed": missed, "time": format!("{:.6}", Utc(time)),
            "text": text,
        });
        self.after = next - 1;
        Some(sent(log.id(self.after), GAP, &body))
    }

    /// Whether the user may see it, now: a grant may be gone since the stream began.
    fn is_for_them(&self, identity: &Identity, event: &Event) -> bool {
        let service = event.service();
        if self.wanted.service.as_ref().is_some_and(|wanted| Some(wanted) != service) {
            return false;
        }
        if self.wanted.event.as_ref().is_some_and(|wanted| *wanted != event.kind()) {
            return false;
        }
        match service {
            Some(service) => self.shared.host.authorise(identity, service, Grant::Observe).is_ok(),
            None => self.shared.host.authorise_admin(identity).is_ok(),
        }
    }
}

fn sent(id: String, kind: &str, body: &Value) -> axum::response::sse::Event {
    axum::response::sse::Event::default().id(id).event(kind).data(body.to_string())
}

/// The event with its time and the line that operators see.
fn body(logged: &Logged) -> Value {
    let mut body = serde_json::to_value(&logged.event).unwrap_or_else(|_| json!({}));
    body["time"] = Value::from(format!("{:.6}", Utc(logged.time)));
    body["text"] = Value::from(logged.event.to_string());
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: usize) -> Event {
        Event::Log { service: Name::new("bank").expect("a name"), line: number.to_string() }
    }

    #[test]
    fn a_reader_goes_on_where_it_was_and_sees_what_is_kept() {
        let log = EventLog::new(Timestamp(5_000_000));
        (1..=EVENTS_KEPT_MAX + 10).for_each(|number| log.add(&event(number), Timestamp(0)));
        assert_eq!((log.after(0).first().expect("some").number, log.beginning()), (11, 10));
        let last = log.after(log.number(&format!("5-{}", EVENTS_KEPT_MAX + 8)).expect("of this start"));
        assert_eq!(last.len(), 2);
        assert_eq!(log.id(last[0].number), format!("5-{}", EVENTS_KEPT_MAX + 9));
        assert_eq!(log.number("5-3"), Some(3));
        assert!(log.is_of_earlier_start("4-7") && log.is_of_earlier_start("6-7"));
        assert!(!["5-7", "4-", "4", "x-7"].iter().any(|id| log.is_of_earlier_start(id)));
        for unknown in ["4-7", "nonsense", "5-", "5-x", &format!("5-{}", EVENTS_KEPT_MAX + 11)] {
            assert_eq!(log.number(unknown), None, "{unknown}");
        }
    }
}
