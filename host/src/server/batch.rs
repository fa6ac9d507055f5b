//! Many transactions over one request: lines in, lines out, in the same order, while both flow.

use super::body::DRAINED_BYTES_MAX;
use super::problem::Problem;
use super::transactions::Counted;
use super::{Phase, Shared, services};
use crate::api::JSON_LINES;
use crate::auth::{Identity, TokenHash};
use crate::lines::{self, ENVELOPE_BYTES_MAX, Line, NotDone, Parsed};
use crate::name::Name;
use crate::transaction::{Reply, Request};
use axum::Extension;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt};
use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Requests of one batch that are under way at once, at the most: half of what a service's queue takes, unless configured
/// otherwise.
pub const BATCH_IN_FLIGHT_MAX: usize = 512;

/// Bytes of bodies and answers of one batch that are held at once, about: what is under way is reckoned with its body and
/// with the longest answer so far.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Requests that are under way before any answer tells how long answers are.
const IN_FLIGHT_AT_FIRST: usize = 4;

/// How soon a batch looks again for room in its service's queue.
const QUEUE_RETRY: Duration = Duration::from_millis(5);

/// Answers are handed on when they are so many bytes together, or when the next is not there yet.
const PIECE_BYTES: usize = 64 * 1024;

pub(super) async fn transact(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Path(service): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    // Nothing is gained by denying each line.
    services::known(&shared, &service).await?;
    let lines = Splitter::new(body.into_data_stream(), shared.config.server.limits.body_deadline);
    let phase = shared.phase.subscribe();
    let batch = Batch {
        shared,
        token: identity.token,
        user: identity.user,
        service: service.into(),
        lines,
        phase,
        under_way: VecDeque::new(),
        body_bytes: 0,
        window: IN_FLIGHT_AT_FIRST,
        answer_bytes: 0,
        ended: None,
    };
    let pieces = stream::unfold(batch, |mut batch| async move { batch.piece().await.map(|piece| (piece, batch)) });
    Ok(([(CONTENT_TYPE, JSON_LINES)], Body::from_stream(pieces)).into_response())
}

/// A line that is to be answered.
struct UnderWay {
    id: Option<String>,
    answer: Answering,
    body_bytes: usize,
}

enum Answering {
    Pending(Counted),
    Known(Result<Reply, NotDone>),
}

struct Done {
    id: Option<String>,
    result: Result<Reply, NotDone>,
    body_bytes: usize,
}

/// A batch under way.
struct Batch {
    shared: Arc<Shared>,
    token: TokenHash,
    user: Name,
    service: Arc<str>,
    lines: Splitter,
    phase: watch::Receiver<Phase>,
    /// In the order of their lines. A service answers most of them in that order, and all are told in it, so that only the
    /// first is waited for.
    under_way: VecDeque<UnderWay>,
    /// Of the requests under way.
    body_bytes: usize,
    /// Requests that may be under way: it grows with every answer.
    window: usize,
    /// The longest answer so far.
    answer_bytes: usize,
    /// No more lines are taken.
    ended: Option<Ended>,
}

/// Why a batch takes no more lines, which it tells once all that was begun is answered.
enum Ended {
    /// There are no more.
    Whole,
    /// They broke off.
    Broken(io::Error),
    /// The token has become void: the last line says so.
    Void(Problem),
    /// That was said.
    VoidTold,
}

impl Batch {
    /// The next answers, in the order of their lines; none at the end.
    async fn piece(&mut self) -> Option<io::Result<Bytes>> {
        let mut text = Vec::new();
        let mut phase = self.phase.clone();
        let mut draining = pin!(draining(&mut phase));
        loop {
            if text.len() >= PIECE_BYTES {
                return Some(Ok(text.into()));
            }
            let is_queue_full = !self.shared.host.has_queue_room(&self.service, &self.user);
            let takes_more = self.ended.is_none() && self.has_room() && !is_queue_full;
            tokio::select! {
                biased;
                Some(done) = first_done(&mut self.under_way) => {
                    self.body_bytes -= done.body_bytes;
                    let before = text.len();
                    if let Err(error) = lines::print_of_batch(&mut text, done.id, &done.result) {
                        return Some(Err(error));
                    }
                    self.answer_bytes = self.answer_bytes.max(text.len() - before);
                    self.window = (self.window + 1).min(BATCH_IN_FLIGHT_MAX);
                }
                // What was not begun is the client's to send again.
                () = &mut draining, if self.ended.is_none() => {
                    self.ended = Some(Ended::Broken(io::Error::other("the server is being stopped")));
                }
                line = self.lines.next(), if takes_more => match line {
                    None => self.ended = Some(Ended::Whole),
                    Some(Err(broken)) => self.ended = Some(Ended::Broken(broken)),
                    Some(Ok(line)) => self.begin(line),
                },
                () = std::future::ready(()), if !text.is_empty() => return Some(Ok(text.into())),
                // Others fill the queue: a line is not denied for that, it waits with those behind it.
                () = tokio::time::sleep(QUEUE_RETRY), if self.ended.is_none() && is_queue_full => {}
                else => return self.end().await,
            }
        }
    }

    /// What is told after the last answer; none at the end.
    async fn end(&mut self) -> Option<io::Result<Bytes>> {
        match self.ended.replace(Ended::Whole) {
            None | Some(Ended::Whole) => None,
            Some(Ended::Broken(error)) => Some(Err(error)),
            Some(Ended::Void(problem)) => {
                self.ended = Some(Ended::VoidTold);
                Some(Ok(problem.line()))
            }
            Some(Ended::VoidTold) => {
                tokio::select! {
                    () = self.lines.forget_rest() => {}
                    // Nor is the end of the server put off for what is only forgotten.
                    () = draining(&mut self.phase) => {}
                }
                None
            }
        }
    }

    fn has_room(&self) -> bool {
        let count = self.under_way.len();
        let bytes = self.body_bytes.saturating_add(self.answer_bytes.saturating_mul(count + 1));
        count == 0 || (count < self.window && bytes < BATCH_BYTES_MAX)
    }

    fn begin(&mut self, line: Line) {
        let by = match self.shared.host.authenticate_hash(&self.token) {
            Ok(by) => by,
            // It has become void since the batch began: no line that is left could end otherwise.
            Err(denial) => {
                self.ended = Some(Ended::Void(denial.into()));
                return;
            }
        };
        let parsed = parse(line, &self.user);
        let body_bytes = parsed.as_ref().map_or(0, |(_, request)| request.body.len());
        self.body_bytes += body_bytes;
        let (id, answer) = match parsed {
            Err((id, not_done)) => (id, Answering::Known(Err(not_done))),
            Ok((_, request)) => (request.id.clone(), self.ask(&by, request)),
        };
        self.under_way.push_back(UnderWay { id, answer, body_bytes });
    }

    fn ask(&self, by: &Identity, request: Request) -> Answering {
        match Counted::begin(&self.shared, by, &self.service, request) {
            Ok(counted) => Answering::Pending(counted),
            Err(denial) => Answering::Known(Err(NotDone::Denied(denial))),
        }
    }
}

/// The first line, once it is answered; none if there is no line. Dropping the future loses nothing.
async fn first_done(under_way: &mut VecDeque<UnderWay>) -> Option<Done> {
    let first = under_way.front_mut()?;
    if let Answering::Pending(counted) = &mut first.answer {
        let result = counted.await;
        first.answer = Answering::Known(result.map_err(NotDone::Denied));
    }
    let UnderWay { id, answer: Answering::Known(result), body_bytes } = under_way.pop_front()? else { return None };
    Some(Done { id, result, body_bytes })
}

async fn draining(phase: &mut watch::Receiver<Phase>) {
    // The other end lives as long as the server.
    let _ = phase.wait_for(|phase| *phase == Phase::Draining).await;
}

fn parse(line: Line, by: &Name) -> Parsed {
    let number = line.number;
    let (user, request) = lines::parse_envelope(line, by)?;
    if user != *by {
        let reason = format!("its user is '{user}', and the token is that of '{by}'; leave \"user\" out");
        return Err((request.id, NotDone::Envelope { line: number, reason }));
    }
    Ok((user, request))
}

/// Cuts a body into lines. It ends with an error if the body breaks off or stands still, so that the last line is never
/// taken for whole when it is not.
struct Splitter {
    body: BodyDataStream,
    buffer: BytesMut,
    /// Bytes of a line that is too long, which are gone.
    dropped: usize,
    number: u64,
    is_over: bool,
    idle_max: std::time::Duration,
}

impl Splitter {
    fn new(body: BodyDataStream, idle_max: std::time::Duration) -> Self {
        Self { body, buffer: BytesMut::new(), dropped: 0, number: 0, is_over: false, idle_max }
    }

    /// The next line; none at the end. Dropping the future loses nothing.
    async fn next(&mut self) -> Option<io::Result<Line>> {
        let mut searched = 0;
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
            match tokio::time::timeout(self.idle_max, self.body.next()).await {
                Err(_) => return Some(Err(self.broken(&"no line came in time"))),
                Ok(None) => self.is_over = true,
                Ok(Some(Err(error))) => return Some(Err(self.broken(&error))),
                Ok(Some(Ok(data))) => self.buffer.extend_from_slice(&data),
            }
        }
    }

    /// Reads on for a while: a client that is still sending would otherwise find the connection broken, and not the line
    /// that says why.
    async fn forget_rest(&mut self) {
        let forgetting = async {
            let mut bytes = 0;
            while let Some(Ok(data)) = self.body.next().await {
                bytes += data.len();
                if bytes > DRAINED_BYTES_MAX {
                    return;
                }
            }
        };
        // What comes after that has no reader.
        let _ = tokio::time::timeout(self.idle_max, forgetting).await;
    }

    fn line(&mut self, bytes: &[u8]) -> Line {
        self.number += 1;
        let bytes_all = std::mem::take(&mut self.dropped) + bytes.len();
        let bytes = if bytes_all > ENVELOPE_BYTES_MAX { Err(bytes_all) } else { Ok(bytes.to_vec()) };
        Line { number: self.number, bytes }
    }

    fn broken(&mut self, error: &dyn std::fmt::Display) -> io::Error {
        self.is_over = true;
        self.buffer.clear();
        self.dropped = 0;
        io::Error::new(io::ErrorKind::UnexpectedEof, format!("the batch broke off: {error}"))
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
        let splitter = Splitter::new(body, Duration::from_secs(60));
        let lines =
            stream::unfold(splitter, |mut splitter| async move { splitter.next().await.map(|line| (line, splitter)) });
        let lines = lines.collect::<Vec<_>>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(lines).into_iter().map(|line| line.expect("whole").bytes).collect()
    }

    #[test]
    fn a_line_that_is_too_long_is_measured_and_not_held() {
        let long = vec![b'x'; ENVELOPE_BYTES_MAX];
        let pieces = vec![long.clone(), b"y\nshort\n".to_vec(), b"last".to_vec()];
        assert_eq!(split(pieces), [Err(ENVELOPE_BYTES_MAX + 1), Ok(b"short".to_vec()), Ok(b"last".to_vec())]);
        assert_eq!(split(vec![long.clone(), b"\n".to_vec()]), [Ok(long)]);
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
