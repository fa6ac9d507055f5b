//! Batches: many transactions in one request. Lines come in and answers go out in the same order, concurrently.

use super::connections::{Busy, Connection};
use super::pieces::{Outgoing, Pieces, WHOLE_BYTES_MAX};
use super::problem::Problem;
use super::transactions::{InFlight, disclosed, no_memory};
use super::{Phase, Shared, services};
use axum::Extension;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt};
use lifeboat_api::access::Grant;
use lifeboat_api::http::JSON_LINES;
use lifeboat_api::lines::{self, ENVELOPE_BYTES_MAX, Line, NotDone, Parsed};
use lifeboat_api::name::Name;
use lifeboat_api::transaction::{BODY_BYTES_MAX, Denial, Kind, Request};
use lifeboat_host::auth::Identity;
use lifeboat_host::budget::{
    ANSWER_BYTES_MAX, Account, BATCH_BASE_BYTES, CONNECTION_BYTES_MAX, Permit, ROOM_WAIT_MAX, UNCOUNTED_BYTES_MAX,
};
use lifeboat_host::credential::TokenHash;
use lifeboat_host::service::Answered;
use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The maximum number of requests of one batch in flight: half of the default capacity of a service's queue.
pub const BATCH_IN_FLIGHT_MAX: usize = 512;

/// The additional memory of a batch while it receives a line longer than `LINE_BYTES`, in bytes.
pub const LONG_LINE_BYTES: usize = 2 * ENVELOPE_BYTES_MAX + BODY_BYTES_MAX;

/// The maximum number of requests in flight while the length of answers is unknown.
const IN_FLIGHT_AT_FIRST: usize = 4;

/// The interval between checks for room in the service's queue.
const QUEUE_RETRY: Duration = Duration::from_millis(5);

/// The number of bytes of answers that are sent together. Fewer are sent if the next answer is not ready.
const PIECE_BYTES: usize = 64 * 1024;

/// The longest line that is read without more memory, in bytes.
const LINE_BYTES: usize = 64 * 1024;

pub(super) async fn transact(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Extension(connection): Extension<Arc<Connection>>,
    Path(service): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    // Without this check, every line would be denied separately.
    services::known(&shared, &service).await?;
    let account = shared.budgets.account(&connection.budget, &identity.user);
    let base = account.take_received_within(BATCH_BASE_BYTES, ROOM_WAIT_MAX).await;
    let base = base.ok_or_else(|| no_memory(&service))?;
    let idle_max = shared.config.server.limits.body_deadline;
    let lines = Splitter::new(body.into_data_stream(), idle_max, Some(Arc::clone(&account)));
    let phase = shared.phase.subscribe();
    let batch = Batch {
        shared,
        token: identity.token,
        user: identity.user,
        service: service.into(),
        account,
        _base: base,
        _busy: connection.busy(),
        lines,
        phase,
        under_way: VecDeque::new(),
        again: VecDeque::new(),
        collecting: None,
        waits_for: None,
        outgoing: Outgoing::default(),
        body_bytes: 0,
        window: IN_FLIGHT_AT_FIRST,
        answer_bytes: 0,
        ended: None,
    };
    let pieces = stream::unfold(batch, |mut batch| async move { batch.piece().await.map(|piece| (piece, batch)) });
    Ok(([(CONTENT_TYPE, JSON_LINES)], Body::from_stream(pieces)).into_response())
}

/// A line that waits for its answer.
struct UnderWay {
    asked: Asked,
    answer: Answering,
}

/// The request of a line. It is repeated if there was no memory for its answer.
struct Asked {
    id: Option<String>,
    body: Bytes,
    kind: Kind,
    /// The permit for a long body.
    received: Option<Arc<Permit>>,
}

enum Answering {
    Pending(InFlight),
    Known(Result<Answered, NotDone>),
}

struct Done {
    asked: Asked,
    result: Result<Answered, NotDone>,
}

/// A line that is repeated: it was not executed, or it follows a line that was not.
struct Again {
    asked: Asked,
    known: Option<Result<Answered, NotDone>>,
}

struct Batch {
    shared: Arc<Shared>,
    token: TokenHash,
    user: Name,
    service: Arc<str>,
    account: Arc<Account>,
    _base: Permit,
    _busy: Busy,
    lines: Splitter,
    phase: watch::Receiver<Phase>,
    /// The lines in flight, in their order. A service answers most of them in that order, and answers are sent in it,
    /// so only the first line is awaited.
    under_way: VecDeque<UnderWay>,
    /// The lines to repeat, ahead of any other line, once no line is in flight.
    again: VecDeque<Again>,
    /// The number of lines that were put back since one was not executed, while the lines after it are awaited.
    collecting: Option<usize>,
    /// The memory for which the first line to repeat waits, and whether it is for a received body.
    waits_for: Option<(usize, bool)>,
    /// The long answer that is being sent.
    outgoing: Outgoing,
    /// The bytes of the bodies of the requests in flight.
    body_bytes: usize,
    /// The maximum number of requests in flight. It grows with every answer.
    window: usize,
    /// The length of the longest answer so far, in bytes.
    answer_bytes: usize,
    /// The reason why no more lines are read, if that is so.
    ended: Option<Ended>,
}

/// The reason why a batch reads no more lines. It is reported after the answers to all lines that were begun.
enum Ended {
    /// The body has ended.
    Whole,
    /// The body broke off.
    Broken(io::Error),
    /// The token has become void, or the server is stopping. The last line reports it.
    Told(Problem),
}

impl Batch {
    /// Returns the next answers, in the order of their lines, or `None` at the end.
    async fn piece(&mut self) -> Option<io::Result<Bytes>> {
        let piece = self.next_piece().await;
        // The pause lasts until these answers are sent.
        self.lines.pause();
        piece
    }

    async fn next_piece(&mut self) -> Option<io::Result<Bytes>> {
        let mut text = Vec::new();
        let mut phase = self.phase.clone();
        let mut draining = pin!(draining(&mut phase));
        let account = Arc::clone(&self.account);
        loop {
            if let Some(piece) = self.outgoing.next() {
                return Some(Ok(piece));
            }
            if text.len() >= PIECE_BYTES {
                return Some(Ok(text.into()));
            }
            let is_queue_full = !self.shared.host.has_queue_room(&self.service, &self.user);
            while self.takes_again() && !is_queue_full {
                self.begin_again();
            }
            let takes_more = self.ended.is_none() && self.again.is_empty() && self.has_room() && !is_queue_full;
            if !takes_more {
                self.lines.pause();
            }
            let is_owed = !self.under_way.is_empty();
            let waits_for = self.waits_for.filter(|_| !is_owed);
            let waits_for_queue = is_queue_full && (self.ended.is_none() || !self.again.is_empty());
            tokio::select! {
                biased;
                Some(done) = first_done(&mut self.under_way) => {
                    if let Some(done) = self.put_back(done)
                        && let Err(error) = self.answered(&mut text, done)
                    {
                        return Some(Err(error));
                    }
                }
                // The client must send again the lines that were not begun.
                () = &mut draining, if self.ended.is_none() || !self.again.is_empty() => {
                    self.again.clear();
                    self.waits_for = None;
                    self.ended = Some(Ended::Told(Problem::later(
                        "draining",
                        "the server is stopping: the lines without an answer were not executed; send them again when \
                         it has restarted",
                    )));
                }
                line = self.lines.next(is_owed), if takes_more => match line {
                    None => self.ended = Some(Ended::Whole),
                    Some(Err(broken)) => self.ended = Some(Ended::Broken(broken)),
                    Some(Ok(line)) => self.take(line),
                },
                () = std::future::ready(()), if !text.is_empty() => return Some(Ok(text.into())),
                () = room(&account, waits_for), if waits_for.is_some() => self.waits_for = None,
                // Other requests fill the queue. A line is not denied for that; it waits with the lines after it.
                () = tokio::time::sleep(QUEUE_RETRY), if waits_for_queue => {}
                else => return self.end(),
            }
        }
    }

    /// Prints a short answer to `text`. A long answer goes to `outgoing`, which is sent next.
    fn answered(&mut self, text: &mut Vec<u8>, done: Done) -> io::Result<()> {
        let Done { asked, result } = done;
        self.body_bytes -= asked.body.len();
        self.window = (self.window + 1).min(BATCH_IN_FLIGHT_MAX);
        let result = match result {
            Ok(Answered { reply, permit }) if reply.answer.content_bytes() > WHOLE_BYTES_MAX => {
                self.answer_bytes = self.answer_bytes.max(reply.answer.content_bytes());
                if let Some(parts) = lines::parts_of_batch(asked.id.as_deref(), reply) {
                    self.outgoing.begin(Bytes::from(std::mem::take(text)), Pieces::of_line(parts, permit));
                }
                return Ok(());
            }
            // The batch's permit covers printed answers.
            Ok(answered) => {
                let host = &self.shared.host;
                let is_operator = || {
                    let by = host.authenticate_hash(&self.token);
                    by.is_ok_and(|by| host.authorise(&by, &self.service, Grant::Operate).is_ok())
                };
                Ok(disclosed(answered, is_operator).reply)
            }
            Err(not_done) => Err(not_done),
        };
        let before = text.len();
        lines::print_of_batch(text, asked.id, &result)?;
        self.answer_bytes = self.answer_bytes.max(text.len() - before);
        Ok(())
    }

    /// Puts back a line that was not executed for lack of memory, and the lines after it, so that their order is
    /// preserved.
    fn put_back(&mut self, done: Done) -> Option<Done> {
        let is_undone = matches!(done.result, Err(NotDone::Denied(Denial::NoMemory { .. })));
        if !is_undone && self.collecting.is_none() {
            return Some(done);
        }
        let Done { asked, result } = done;
        self.body_bytes -= asked.body.len();
        if matches!(self.ended, Some(Ended::Told(_))) {
            // The last line reports that neither this line nor those after it were executed.
            self.collecting = Some(0);
            return None;
        }
        let collected = self.collecting.unwrap_or(0);
        self.again.insert(collected, Again { asked, known: (!is_undone).then_some(result) });
        self.collecting = Some(collected + 1);
        if is_undone {
            self.window = IN_FLIGHT_AT_FIRST;
            self.waits_for = Some((ANSWER_BYTES_MAX, false));
        }
        if self.under_way.is_empty() {
            // None of the lines that found no memory is in flight any more.
            self.account.unblock();
            self.collecting = None;
        }
        None
    }

    /// Returns whether the first line to repeat may begin.
    fn takes_again(&self) -> bool {
        !self.again.is_empty() && self.collecting.is_none() && self.waits_for.is_none() && self.has_room()
    }

    /// Returns what is sent after the last answer, or `None` at the end.
    fn end(&mut self) -> Option<io::Result<Bytes>> {
        match self.ended.replace(Ended::Whole) {
            None | Some(Ended::Whole) => None,
            Some(Ended::Broken(error)) => Some(Err(error)),
            // The shutdown of the connection reads and discards what the client sends after that.
            Some(Ended::Told(problem)) => Some(Ok(problem.line())),
        }
    }

    fn has_room(&self) -> bool {
        let count = self.under_way.len();
        let bytes = self.body_bytes.saturating_add(self.answer_bytes.saturating_mul(count + 1));
        count == 0 || (count < self.window && bytes < CONNECTION_BYTES_MAX)
    }

    fn take(&mut self, line: Line) {
        let (asked, known) = match parse(line, &self.user) {
            Ok((_, Request { id, body, kind })) => (Asked { id, body, kind, received: None }, None),
            Err((id, not_done)) => {
                let asked = Asked { id, body: Bytes::new(), kind: Kind::Transaction, received: None };
                (asked, Some(Err(not_done)))
            }
        };
        self.begin(Again { asked, known });
    }

    fn begin_again(&mut self) {
        if let Some(again) = self.again.pop_front() {
            self.begin(again);
        }
    }

    fn begin(&mut self, again: Again) {
        let Again { mut asked, known } = again;
        let by = match self.shared.host.authenticate_hash(&self.token) {
            Ok(by) => by,
            // The token has become void since the batch began. All remaining lines would end the same way.
            Err(denial) => {
                self.again.clear();
                self.ended = Some(Ended::Told(denial.into()));
                return;
            }
        };
        if asked.body.len() > UNCOUNTED_BYTES_MAX && asked.received.is_none() {
            let bytes = asked.body.len();
            match self.account.take_received(bytes) {
                Some(permit) => asked.received = Some(Arc::new(permit)),
                None => {
                    self.again.push_front(Again { asked, known });
                    self.waits_for = Some((bytes, true));
                    return;
                }
            }
        }
        self.body_bytes += asked.body.len();
        let answer = match known {
            Some(known) => Answering::Known(known),
            None => self.ask(&by, &asked),
        };
        self.under_way.push_back(UnderWay { asked, answer });
    }

    fn ask(&self, by: &Identity, asked: &Asked) -> Answering {
        let request = Request { id: asked.id.clone(), body: asked.body.clone(), kind: asked.kind };
        match InFlight::begin(&self.shared, by, &self.account, &self.service, request, asked.received.clone()) {
            Ok(in_flight) => Answering::Pending(in_flight),
            Err(denial) => Answering::Known(Err(NotDone::Denied(denial))),
        }
    }
}

/// Waits until there is room for the memory in `waits_for`.
async fn room(account: &Arc<Account>, waits_for: Option<(usize, bool)>) {
    if let Some((bytes, is_received)) = waits_for {
        account.has_room_for(bytes, is_received).await;
    }
}

/// Returns the first line once it is answered, or `None` if there is no line. Dropping the future loses nothing.
async fn first_done(under_way: &mut VecDeque<UnderWay>) -> Option<Done> {
    let result = match &mut under_way.front_mut()?.answer {
        Answering::Pending(in_flight) => Some(in_flight.await.map_err(NotDone::from)),
        Answering::Known(_) => None,
    };
    let UnderWay { asked, answer } = under_way.pop_front()?;
    let result = match (result, answer) {
        (Some(result), _) | (None, Answering::Known(result)) => result,
        (None, Answering::Pending(_)) => return None,
    };
    Some(Done { asked, result })
}

async fn draining(phase: &mut watch::Receiver<Phase>) {
    // The sender lives as long as the server.
    let _ = phase.wait_for(|phase| *phase == Phase::Draining).await;
}

fn parse(line: Line, by: &Name) -> Parsed {
    let number = line.number;
    let (user, request) = lines::parse_envelope(line, by)?;
    if user != *by {
        let reason = format!("its user is '{user}', but the token belongs to '{by}'; leave \"user\" out");
        return Err((request.id, NotDone::Envelope { line: number, reason }));
    }
    Ok((user, request))
}

/// Splits a body into lines.
///
/// It ends with an error if the body breaks off or stalls, or if a line does not arrive whole in time. An incomplete
/// last line is therefore never taken for a whole one.
struct Splitter {
    body: BodyDataStream,
    buffer: BytesMut,
    /// The number of discarded bytes of a line that is too long.
    dropped: usize,
    number: u64,
    is_over: bool,
    idle_max: Duration,
    /// The deadline for the rest of a line that has begun.
    line_deadline: Option<Instant>,
    /// When the batch stopped waiting for a line.
    paused: Option<Instant>,
    /// The account that long lines are charged to.
    account: Option<Arc<Account>>,
    /// The permit for a long line.
    long: Option<Permit>,
}

impl Splitter {
    fn new(body: BodyDataStream, idle_max: Duration, account: Option<Arc<Account>>) -> Self {
        let buffer = BytesMut::new();
        let (line_deadline, paused) = (None, None);
        Self {
            body,
            buffer,
            dropped: 0,
            number: 0,
            is_over: false,
            idle_max,
            line_deadline,
            paused,
            account,
            long: None,
        }
    }

    /// Notes that the batch waits for no line now. This time does not count against the client.
    fn pause(&mut self) {
        if self.line_deadline.is_some() {
            self.paused.get_or_insert_with(Instant::now);
        }
    }

    fn resume(&mut self) {
        if let (Some(paused), Some(deadline)) = (self.paused.take(), &mut self.line_deadline) {
            *deadline += paused.elapsed();
        }
    }

    /// Returns the next line, or `None` at the end. A client that `is_owed` answers may wait for them before it begins
    /// a line. Dropping the future loses nothing.
    async fn next(&mut self, is_owed: bool) -> Option<io::Result<Line>> {
        self.resume();
        let mut searched = 0;
        if self.long.is_some() && self.buffer.len() <= LINE_BYTES {
            // The buffer grew for the long line, which is gone.
            self.buffer = BytesMut::from(&self.buffer[..]);
            self.long = None;
        }
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(searched + end + 1);
                line.truncate(searched + end);
                return Some(Ok(self.line(&line)));
            }
            if self.is_over {
                if self.buffer.is_empty() && self.dropped == 0 {
                    return None;
                }
                let line = self.buffer.split();
                return Some(Ok(self.line(&line)));
            }
            if self.buffer.len() > ENVELOPE_BYTES_MAX {
                self.dropped += self.buffer.len();
                self.buffer.clear();
            }
            searched = self.buffer.len();
            if searched > LINE_BYTES
                && self.long.is_none()
                && let Some(account) = &self.account
            {
                let account = Arc::clone(account);
                self.pause();
                self.long = Some(account.take_received_when_free(LONG_LINE_BYTES).await);
                self.resume();
            }
            let has_begun = !self.buffer.is_empty() || self.dropped > 0;
            let more = match has_begun || !is_owed {
                true => {
                    let deadline = Instant::now() + self.idle_max;
                    let deadline = if has_begun { *self.line_deadline.get_or_insert(deadline) } else { deadline };
                    tokio::time::timeout_at(deadline, self.body.next()).await
                }
                false => Ok(self.body.next().await),
            };
            match more {
                Err(_) => return Some(Err(self.broken(&"no line arrived in time"))),
                Ok(None) => self.is_over = true,
                Ok(Some(Err(error))) => return Some(Err(self.broken(&error))),
                Ok(Some(Ok(data))) => self.buffer.extend_from_slice(&data),
            }
        }
    }

    fn line(&mut self, bytes: &[u8]) -> Line {
        self.number += 1;
        (self.line_deadline, self.paused) = (None, None);
        let bytes_all = std::mem::take(&mut self.dropped) + bytes.len();
        let bytes = if bytes_all > ENVELOPE_BYTES_MAX { Err(bytes_all) } else { Ok(bytes.to_vec()) };
        Line { number: self.number, bytes }
    }

    fn broken(&mut self, error: &dyn std::fmt::Display) -> io::Error {
        self.is_over = true;
        self.buffer.clear();
        self.dropped = 0;
        io::Error::new(io::ErrorKind::UnexpectedEof, format!("the batch was interrupted: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn split(pieces: Vec<Vec<u8>>) -> Vec<Result<Vec<u8>, usize>> {
        let pieces: Vec<io::Result<Bytes>> = pieces.into_iter().map(|piece| Ok(Bytes::from(piece))).collect();
        let body = Body::from_stream(stream::iter(pieces)).into_data_stream();
        let splitter = Splitter::new(body, Duration::from_secs(60), None);
        let lines =
            stream::unfold(
                splitter,
                |mut splitter| async move { splitter.next(false).await.map(|line| (line, splitter)) },
            );
        let lines = lines.collect::<Vec<_>>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(lines).into_iter().map(|line| line.expect("whole").bytes).collect()
    }

    #[test]
    fn a_line_over_the_limit_is_only_measured() {
        let long = vec![b'x'; ENVELOPE_BYTES_MAX];
        let pieces = vec![long.clone(), b"y\nshort\n".to_vec(), b"last".to_vec()];
        assert_eq!(split(pieces), [Err(ENVELOPE_BYTES_MAX + 1), Ok(b"short".to_vec()), Ok(b"last".to_vec())]);
        assert_eq!(split(vec![long.clone(), b"\n".to_vec()]), [Ok(long)]);
    }

    #[tokio::test]
    async fn a_line_that_comes_a_byte_at_a_time_breaks_off() {
        let trickle = stream::repeat(()).then(|()| async {
            tokio::task::yield_now().await;
            Ok::<_, io::Error>(Bytes::from_static(b"x"))
        });
        let body = Body::from_stream(trickle).into_data_stream();
        let mut splitter = Splitter::new(body, Duration::from_millis(20), None);
        assert!(splitter.next(true).await.expect("an error").is_err());
    }

    /// A limit longer than any of these tests takes.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn pauses_do_not_give_a_line_its_time_again() {
        let body = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"x"))]).chain(stream::pending());
        let mut splitter = Splitter::new(Body::from_stream(body).into_data_stream(), Duration::from_millis(50), None);
        let pausing = async {
            loop {
                match tokio::time::timeout(Duration::from_millis(5), splitter.next(false)).await {
                    Ok(line) => return line,
                    Err(_) => splitter.pause(),
                }
            }
        };
        let line = tokio::time::timeout(PATIENCE, pausing).await.expect("it breaks off");
        assert!(line.expect("an error").is_err());
        // Nor do pauses take any of the line's time.
        let body = stream::iter([b"x", b"\n"]).map(|piece| Ok::<_, io::Error>(Bytes::from_static(piece)));
        let mut splitter = Splitter::new(Body::from_stream(body).into_data_stream(), PATIENCE, None);
        let start = Instant::now();
        (splitter.line_deadline, splitter.paused) = (Some(start), start.checked_sub(PATIENCE));
        splitter.resume();
        assert!(splitter.line_deadline.is_some_and(|deadline| deadline >= start + PATIENCE));
        assert_eq!(splitter.next(false).await.expect("a line").expect("whole").bytes, Ok(b"x".to_vec()));
    }

    #[tokio::test]
    async fn a_client_may_wait_for_its_answers_before_it_begins_a_line() {
        let idle_max = Duration::from_millis(20);
        let nothing = Body::from_stream(stream::pending::<io::Result<Bytes>>());
        let mut splitter = Splitter::new(nothing.into_data_stream(), idle_max, None);
        let waited = tokio::time::timeout(5 * idle_max, splitter.next(true)).await;
        assert!(waited.is_err(), "it waits for as long as answers are owed");
        let broken = tokio::time::timeout(PATIENCE, splitter.next(false)).await.expect("and then for its time");
        assert!(broken.expect("an error").is_err());
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_they_come(
            text in prop::collection::vec(prop::sample::select(vec![b'a', b'\n', b'\r', 0xff]), 0..60),
            cuts in prop::collection::vec(1usize..7, 1..40),
        ) {
            let mut pieces = Vec::new();
            let mut rest = &text[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece.to_vec());
                rest = after;
            }
            let mut expected: Vec<Result<Vec<u8>, usize>> = text.split(|byte| *byte == b'\n').map(|line| Ok(line.to_vec())).collect();
            if text.is_empty() || text.ends_with(b"\n") { expected.pop(); }
            prop_assert_eq!(split(pieces), expected);
        }
    }
}
