//! The events of a host, as a stream that a client can resume.

use super::Shared;
use super::connections::{Busy, Connection};
use super::input::{Parameters, parameters, wrong_parameter};
use super::problem::Problem;
use super::services;
use super::shares::Share;
use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use lifeboat_api::access::Grant;
use lifeboat_api::clock::{Timestamp, Utc};
use lifeboat_api::event::Event;
use lifeboat_api::name::Name;
use lifeboat_api::size::grouped;
use lifeboat_api::text::Printable;
use lifeboat_host::auth::Identity;
use lifeboat_host::credential::TokenHash;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};

/// The maximum number of events that are retained for clients that reconnect, without the lines that guests logged.
pub const EVENTS_KEPT_MAX: usize = 10_000;

/// The maximum number of retained lines that guests logged, of all services.
pub const LOGS_KEPT_MAX: usize = 10_000;

/// The maximum number of retained lines of one service.
pub const LOGS_KEPT_PER_SERVICE_MAX: usize = 2_000;

/// The maximum number of bytes of retained lines, of all services.
pub const LOGS_KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The kind of the event that stands for events that a reader asked for and that are gone.
const GAP: &str = "gap";

/// The number of characters that are shown of an id from a client.
const SHOWN_ID_CHARS_MAX: usize = 64;

/// The maximum number of open streams of events.
pub const STREAMS_MAX: usize = 512;

/// The maximum number of streams of one user. A user also gets no more than half of the remaining ones.
pub const STREAMS_PER_USER_MAX: usize = 64;

/// The number of streams that are reserved for admins.
pub const STREAMS_RESERVED: usize = 16;

/// The maximum number of events that a reader holds at once.
const READ_AT_ONCE: usize = 256;

/// The approximate number of bytes of guests' lines that a reader holds at once. Only the last line may exceed it. The
/// reader holds them even after they are displaced from the log.
const READ_BYTES_AT_ONCE: usize = 64 * 1024;

/// The longest silence on a stream of events. A comment is then sent, so that each end notices if the other is gone.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An event, and the time at which it happened.
#[derive(Debug)]
struct Logged {
    /// The number of the event since the start of the server, from 1.
    number: u64,
    time: Timestamp,
    event: Event,
    /// Whether the event belongs to a removed service of the same name as a newer one.
    is_of_former: AtomicBool,
}

impl Logged {
    /// Returns the length of the logged line in bytes, or 0 for other events.
    fn line_bytes(&self) -> usize {
        match &self.event {
            Event::Log { line, .. } => line.len(),
            _ => 0,
        }
    }
}

/// The most recent events of a host, for any number of readers.
///
/// Lines that guests log are stored separately, so that they displace no other events. The lines of one service do not
/// displace those of many others.
#[derive(Debug)]
pub struct EventLog {
    /// Distinguishes the events of this start from those of others, whose numbers begin at 1 as well.
    start: u64,
    buffer: Mutex<Buffer>,
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Buffer {
    /// The number of the last event.
    last: u64,
    /// The events that are not lines of guests, in order.
    events: VecDeque<Arc<Logged>>,
    /// The lines of guests, by number.
    logs: BTreeMap<u64, Arc<Logged>>,
    /// The numbers of the lines of each service.
    logs_of: HashMap<Name, LogsOf>,
    log_bytes: usize,
}

/// The retained lines of a service.
#[derive(Debug, Default)]
struct LogsOf {
    /// The numbers of the lines, in order.
    numbers: VecDeque<u64>,
    bytes: usize,
}

impl Buffer {
    fn add(&mut self, logged: Arc<Logged>) {
        let Event::Log { service, .. } = &logged.event else {
            if self.events.len() == EVENTS_KEPT_MAX {
                self.events.pop_front();
            }
            self.events.push_back(logged);
            return;
        };
        let service = service.clone();
        let theirs = self.logs_of.entry(service.clone()).or_default();
        theirs.numbers.push_back(logged.number);
        theirs.bytes += logged.line_bytes();
        self.log_bytes += logged.line_bytes();
        self.logs.insert(logged.number, logged);
        if theirs.numbers.len() > LOGS_KEPT_PER_SERVICE_MAX {
            self.drop_log(&service);
        } else if self.logs.len() > LOGS_KEPT_MAX {
            self.drop_log_of_most(|theirs| theirs.numbers.len());
        }
        while self.log_bytes > LOGS_KEPT_BYTES_MAX {
            self.drop_log_of_most(|theirs| theirs.bytes);
        }
    }

    /// Discards the oldest line of the service with the most.
    fn drop_log_of_most(&mut self, has: impl Fn(&LogsOf) -> usize) {
        let most = self.logs_of.iter().max_by_key(|(_, theirs)| has(theirs));
        if let Some(most) = most.map(|(service, _)| service.clone()) {
            self.drop_log(&most);
        }
    }

    /// Discards the oldest line of a service.
    fn drop_log(&mut self, service: &Name) {
        let Some(theirs) = self.logs_of.get_mut(service) else { return };
        if let Some(number) = theirs.numbers.pop_front() {
            let bytes = self.logs.remove(&number).map_or(0, |logged| logged.line_bytes());
            theirs.bytes -= bytes;
            self.log_bytes -= bytes;
        }
        if theirs.numbers.is_empty() {
            self.logs_of.remove(service);
        }
    }

    /// Returns the retained events after event `after`, in order.
    fn after(&self, after: u64) -> impl Iterator<Item = &Arc<Logged>> {
        let first = self.events.partition_point(|logged| logged.number <= after);
        let mut events = self.events.range(first..).peekable();
        let mut logs = self.logs.range(after + 1..).map(|(_, logged)| logged).peekable();
        std::iter::from_fn(move || match (events.peek(), logs.peek()) {
            (Some(event), Some(log)) if event.number > log.number => logs.next(),
            (Some(_), _) => events.next(),
            (None, _) => logs.next(),
        })
    }

    /// Returns how many of the events after `after` and up to `last` are retained.
    fn count(&self, after: u64, last: u64) -> u64 {
        let events = |number: u64| self.events.partition_point(|logged| logged.number <= number);
        let logs = self.logs.range(after + 1..=last.max(after + 1)).count();
        (events(last).saturating_sub(events(after)) + logs) as u64
    }
}

/// The position of a reader, and the events that it is owed.
///
/// A reader that resumes is owed every event after the one that it names. Any other reader is owed the events that were
/// retained when it began. It reads each of them, or learns how many are gone.
#[derive(Debug)]
struct Cursor {
    /// The last event that was read or reported as gone.
    read: u64,
    /// The last event when the reader began. The reader did not ask for events up to here that were already gone.
    began: u64,
    /// The number of events up to `began` that were retained then and have neither been read nor reported as gone
    /// since.
    owed: u64,
}

impl EventLog {
    /// Creates a log that begins at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { start: now.0 / 1_000_000, buffer: Mutex::default(), last: watch::Sender::new(0) }
    }

    /// Adds an event. It blocks only briefly, so it is suitable for an [`EventSink`](lifeboat_api::event::EventSink).
    pub fn add(&self, event: &Event, time: Timestamp) {
        let mut buffer = self.buffer();
        if let Event::Created { vm, .. } = event {
            let of_former = buffer.after(0).filter(|logged| logged.event.service() == Some(&vm.service));
            of_former.for_each(|logged| logged.is_of_former.store(true, Ordering::Relaxed));
        }
        buffer.last += 1;
        let number = buffer.last;
        let is_of_former = AtomicBool::new(false);
        buffer.add(Arc::new(Logged { number, time, event: event.clone(), is_of_former }));
        drop(buffer);
        self.last.send_replace(number);
    }

    /// Returns the cursor of a reader that resumes after event `after`, or that wants all retained events.
    fn cursor(&self, after: Option<u64>) -> Cursor {
        let buffer = self.buffer();
        match after {
            Some(read) => Cursor { read, began: read, owed: 0 },
            None => Cursor { read: 0, began: buffer.last, owed: buffer.count(0, buffer.last) },
        }
    }

    /// Returns the next events, and how many of the events that the reader is owed are gone.
    ///
    /// The count covers the events from the last one read to the last one returned, or to the last of all if none is
    /// returned. Events that are gone beyond that are counted when the cursor gets there, since their number may still
    /// grow.
    fn read(&self, cursor: &mut Cursor) -> (Vec<Arc<Logged>>, u64) {
        let buffer = self.buffer();
        let mut bytes = 0;
        let is_little = |logged: &&Arc<Logged>| {
            let is_little = bytes < READ_BYTES_AT_ONCE;
            bytes += logged.line_bytes();
            is_little
        };
        let read: Vec<_> = buffer.after(cursor.read).take(READ_AT_ONCE).take_while(is_little).map(Arc::clone).collect();
        let until = read.last().map_or(buffer.last, |logged| logged.number);
        let old = read.partition_point(|logged| logged.number <= cursor.began);
        let mut missed = until.saturating_sub(cursor.read.max(cursor.began)) - (read.len() - old) as u64;
        if cursor.read < cursor.began {
            let left = buffer.count(cursor.read, cursor.began);
            missed += cursor.owed - left;
            cursor.owed = left - old as u64;
        }
        cursor.read = until;
        (read, missed)
    }

    fn concerns(&self, service: &Name) -> bool {
        self.buffer().after(0).any(|logged| logged.event.service() == Some(service))
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.start)
    }

    /// Returns the number of the event with this id, or `None` if the id is not one of this start.
    fn number(&self, id: &str) -> Option<u64> {
        let (_, number) = id.split_once('-').filter(|(start, _)| start.parse() == Ok(self.start))?;
        let last = self.buffer().last;
        number.parse().ok().filter(|number| *number <= last)
    }

    /// Returns whether an id looks like one from an earlier start of the server, whatever its clock showed then.
    fn is_of_earlier_start(&self, id: &str) -> bool {
        let parts = id.split_once('-').map(|(start, number)| (start.parse::<u64>(), number.parse::<u64>()));
        matches!(parts, Some((Ok(start), Ok(_))) if start != self.start)
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        // No code that can panic runs under the lock.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns every kind of event that a stream may contain.
pub(super) fn kinds() -> impl Iterator<Item = &'static str> {
    Event::KINDS.iter().copied().chain([GAP])
}

/// The events that a client asks for.
#[derive(Debug)]
struct Wanted {
    /// The service whose events are wanted, if only one is.
    service: Option<Name>,
    /// Whether to continue with new events.
    follow: bool,
    /// The only kind of event that is wanted, such as `log`.
    event: Option<String>,
}

impl Wanted {
    fn new(given: Parameters) -> Result<Self, Problem> {
        let mut given = parameters(given, &["service", "follow", "event"])?;
        let service = given.remove("service").map(|text| {
            Name::new(&text).map_err(|error| wrong_parameter("service", &text, format_args!("a name: {error}")))
        });
        let follow = given
            .remove("follow")
            .map_or(Ok(true), |text| text.parse().map_err(|_| wrong_parameter("follow", &text, "true or false")));
        let event = given.remove("event");
        if let Some(kind) = event.as_deref().filter(|kind| !kinds().any(|known| known == *kind)) {
            let kinds = kinds().collect::<Vec<_>>().join(", ");
            return Err(wrong_parameter("event", kind, format_args!("one of {kinds}")));
        }
        Ok(Self { service: service.transpose()?, follow: follow?, event })
    }
}

pub(super) async fn stream_events(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Extension(connection): Extension<Arc<Connection>>,
    given: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wanted = Wanted::new(given)?;
    let too_many = |count, whose| {
        let text = format!("{count} event streams{whose} are open, which is the limit; close one, or try again soon");
        Problem::later("too_many_streams", text)
    };
    let is_admin = shared.host.authorise_admin(&identity).is_ok();
    if !is_admin && !shared.accounts.may_observe_any(&identity.user) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "not_granted",
            format!(
                "user '{}' may observe no service, so there are no events to send; ask an admin for a grant",
                identity.user
            ),
        ));
    }
    let left = shared.streams.available_permits();
    if !is_admin && left <= STREAMS_RESERVED {
        return Err(too_many(STREAMS_MAX - STREAMS_RESERVED, ""));
    }
    let share = shared.streams_of.take_up_to(identity.user.clone(), if is_admin { usize::MAX } else { left / 2 });
    let share = share.ok_or_else(|| too_many(shared.streams_of.count(&identity.user), " of yours"))?;
    let place = Arc::clone(&shared.streams).try_acquire_owned().map_err(|_| too_many(STREAMS_MAX, ""))?;
    if let Some(service) = &wanted.service {
        shared.host.authorise(&identity, service, Grant::Observe)?;
        // The events of a removed service are visible as long as they are retained.
        if !shared.events.concerns(service) {
            services::entry(&shared, service).await?;
        }
    }
    // The events after an unknown event cannot be determined.
    let id = headers.get("last-event-id").map(|id| String::from_utf8_lossy(id.as_bytes()));
    let after = id.as_ref().and_then(|id| shared.events.number(id));
    let unknown_id = id.filter(|_| after.is_none()).map(|id| id.chars().take(SHOWN_ID_CHARS_MAX).collect());
    let cursor = shared.events.cursor(after);
    let follow = wanted.follow;
    let news = shared.events.last.subscribe();
    let reading = Reading {
        shared,
        token: identity.token,
        wanted,
        _place: (place, share),
        after: cursor.read,
        cursor,
        missed: 0,
        unknown_id,
        _busy: connection.busy(),
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
    /// The last event that was sent or skipped.
    after: u64,
    cursor: Cursor,
    /// The number of events that are gone, to be reported before the next event.
    missed: u64,
    _busy: Busy,
    /// The id after which the client wants to resume, if it is not an id of this start of the server.
    unknown_id: Option<String>,
    ready: VecDeque<Arc<Logged>>,
    news: watch::Receiver<u64>,
    follow: bool,
}

impl Reading {
    async fn next(&mut self) -> Option<axum::response::sse::Event> {
        loop {
            while let Some(next) = self.ready.front().map(|logged| logged.number) {
                // The token may have become void, or the user may have lost grants.
                let Ok(identity) = self.shared.host.authenticate_hash(&self.token) else { return None };
                if let Some(gap) = self.gap(next) {
                    return Some(gap);
                }
                let Some(logged) = self.ready.pop_front() else { break };
                self.after = logged.number;
                if self.is_for_them(&identity, &logged) {
                    let id = self.shared.events.id(logged.number);
                    return Some(sent(id, logged.event.kind(), &body(&logged)));
                }
            }
            self.news.mark_unchanged();
            let (ready, missed) = self.shared.events.read(&mut self.cursor);
            (self.ready, self.missed) = (ready.into(), missed);
            if !self.ready.is_empty() {
                continue;
            }
            let is_token_valid = self.shared.host.authenticate_hash(&self.token).is_ok();
            if is_token_valid && let Some(gap) = self.gap(self.cursor.read + 1) {
                return Some(gap);
            }
            if !self.follow || !is_token_valid {
                return None;
            }
            let mut phase = self.shared.phase.subscribe();
            tokio::select! {
                changed = self.news.changed() => changed.ok()?,
                // An open stream would delay the end of the server.
                _ = phase.wait_for(|phase| *phase == super::Phase::Draining) => return None,
                // The token is checked again at this interval.
                () = tokio::time::sleep(KEEP_ALIVE) => {}
            }
        }
    }

    /// Returns the gap event that the client gets before event `next`, if events that it is owed are gone. Filters do
    /// not apply, since the contents of those events are unknown.
    fn gap(&mut self, next: u64) -> Option<axum::response::sse::Event> {
        let unknown = self.unknown_id.take();
        let missed = std::mem::take(&mut self.missed);
        if unknown.is_none() && missed == 0 {
            return None;
        }
        let log = &self.shared.events;
        let before = log.id(next);
        let remedy = "lifeboat services and lifeboat usage show the present state";
        let (after, missed, text) = match unknown {
            Some(id) => {
                let text = if log.is_of_earlier_start(&id) {
                    let start = format!("{:.0}", Utc(self.shared.start));
                    format!(
                        "Gap: the server was restarted at {start}, and earlier events that were not sent are lost: \
                         events are retained only until the server ends; {remedy}"
                    )
                } else {
                    format!("Gap: there is no event {}: all retained events follow; {remedy}", Printable(&id))
                };
                (id, None, text)
            }
            None => {
                let events = if missed == 1 { "event was" } else { "events were" };
                let text = format!(
                    "Gap: {} {events} discarded, because only the last {} events and {} log lines are retained; \
                     {remedy}",
                    grouped(missed),
                    grouped(EVENTS_KEPT_MAX as u64),
                    grouped(LOGS_KEPT_MAX as u64)
                );
                (log.id(self.after), Some(missed), text)
            }
        };
        // The gap event precedes that event and has its time.
        let following = self.ready.front().filter(|logged| logged.number == next);
        let time = following.map_or_else(|| self.shared.clock.now(), |logged| logged.time);
        let body = json!({
            "event": GAP, "after": after, "before": before, "missed": missed, "time": format!("{:.6}", Utc(time)),
            "text": text,
        });
        self.after = next - 1;
        Some(sent(log.id(self.after), GAP, &body))
    }

    /// Returns whether the user may see the event now: a grant may have been revoked since the stream began.
    fn is_for_them(&self, identity: &Identity, logged: &Logged) -> bool {
        let event = &logged.event;
        let service = event.service();
        if self.wanted.service.as_ref().is_some_and(|wanted| Some(wanted) != service) {
            return false;
        }
        if self.wanted.event.as_ref().is_some_and(|wanted| *wanted != event.kind()) {
            return false;
        }
        match service {
            // A user who may observe a service may have had no grant on the former service of that name.
            Some(_) if logged.is_of_former.load(Ordering::Relaxed) => {
                self.shared.host.authorise_admin(identity).is_ok()
            }
            Some(service) => self.shared.host.authorise(identity, service, Grant::Observe).is_ok(),
            None => self.shared.host.authorise_admin(identity).is_ok(),
        }
    }
}

fn sent(id: String, kind: &str, body: &Value) -> axum::response::sse::Event {
    axum::response::sse::Event::default().id(id).event(kind).data(body.to_string())
}

/// Returns the event as JSON, with its time and the line that operators see.
fn body(logged: &Logged) -> Value {
    let mut body = serde_json::to_value(&logged.event).unwrap_or_else(|_| json!({}));
    body["time"] = Value::from(format!("{:.6}", Utc(logged.time)));
    body["text"] = Value::from(logged.event.to_string());
    body
}

#[cfg(test)]
mod tests;
