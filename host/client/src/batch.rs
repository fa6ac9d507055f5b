//! Batches: many transactions, one per line, over as many connections as necessary.
//!
//! One request at a time carries lines to the server while answers come back in the order of the lines. When its
//! connection breaks, the client opens another one and sends the unanswered lines again under their ids.

mod silence;
mod window;

pub use window::{WINDOW_BYTES_MAX, WINDOW_LINES_MAX};

use super::error::json_reason;
use super::{Backoff, Client, ClientError, Sent};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use lifeboat_api::http::JSON_LINES;
use lifeboat_api::lines::{self, Line, parse_envelope};
use lifeboat_api::name::Name;
use lifeboat_api::text::Printable;
use lifeboat_api::transaction::Outcome;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Method};
use serde::Deserialize;
use silence::Silence;
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use window::Window;

/// The longest time that a server may owe answers without giving one. After that, its connection counts as broken.
/// Lines that are sent meanwhile do not extend this time.
pub const BATCH_SILENCE_MAX: Duration = super::ANSWER_TIME_MAX;

/// The maximum number of lines in one chunk of a request's body.
const CHUNK_LINES_MAX: usize = 256;

/// The maximum length of a line of answers, in bytes.
const ANSWER_LINE_BYTES_MAX: usize = super::REPLY_BYTES_MAX;

/// The answer to a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchAnswer {
    /// The id of the line, whether sent or generated, or `None` if the line was invalid.
    pub id: Option<String>,
    /// The outcome of the line.
    pub outcome: Outcome,
    /// The whole answer as JSON, `{"id","outcome","json"|"text"|"base64","cause"?,"failover"?}`, without a line end.
    pub line: Bytes,
    /// The line that operators see, if the transaction caused a failover.
    pub failover: Option<String>,
}

/// The next result of a batch.
#[derive(Debug)]
pub enum Progress {
    /// The next answer, in the order of the lines.
    Answer(BatchAnswer),
    /// The connection broke. The unanswered lines are sent again after a delay.
    Retrying {
        /// The reason why the connection broke.
        error: ClientError,
        /// The number of lines that are sent again.
        unanswered: usize,
        /// The time until the lines are sent again.
        wait: Duration,
    },
}

/// A batch in flight.
pub struct Batch {
    client: Client,
    service: String,
    input: BoxStream<'static, io::Result<Line>>,
    is_input_over: bool,
    /// The number of the last line that was read.
    last_line: u64,
    draw_id: Box<dyn FnMut(u64) -> io::Result<String> + Send>,
    window: Window,
    connection: Option<Connection>,
    silence: Silence,
    backoff: Backoff,
    /// Whether the server has been reachable. One that never was is not awaited, unless the connection was refused.
    was_there: bool,
    may_be_done: bool,
    failures: u32,
    wait: Option<Duration>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("service", &self.service).field("window", &self.window).finish_non_exhaustive()
    }
}

struct Connection {
    /// The channel of lines to send, or `None` once the last line was sent.
    lines: Option<mpsc::UnboundedSender<Bytes>>,
    answers: BoxStream<'static, Result<Bytes, ClientError>>,
}

impl Client {
    /// Sends the envelopes of `input`, `{"id"?,"query"?,"json"|"text"|"base64"}`, one per line, to a service.
    /// [`Batch::next`] drives the batch.
    ///
    /// `draw_id` returns an id for each line that has none, by the line's number and in the order of lines. No other
    /// line may ever have the same id. It is called before the line is sent, and its error ends the batch.
    pub fn batch(
        &self,
        service: &str,
        input: BoxStream<'static, io::Result<Line>>,
        draw_id: impl FnMut(u64) -> io::Result<String> + Send + 'static,
        backoff: Backoff,
    ) -> Batch {
        Batch {
            client: self.clone(),
            service: service.to_owned(),
            input,
            is_input_over: false,
            last_line: 0,
            draw_id: Box::new(draw_id),
            window: Window::default(),
            connection: None,
            silence: Silence::new(BATCH_SILENCE_MAX, Instant::now),
            backoff,
            was_there: false,
            may_be_done: false,
            failures: 0,
            wait: None,
        }
    }

    fn open_batch(&self, service: &str) -> Result<Connection, ClientError> {
        // The channel is unbounded, but the window bounds its contents.
        let (sender, receiver) = mpsc::unbounded_channel();
        let lines = stream::unfold(receiver, |mut receiver: mpsc::UnboundedReceiver<Bytes>| async move {
            receiver.recv().await.map(|line| (line, receiver))
        });
        let chunks = lines.ready_chunks(CHUNK_LINES_MAX).map(|lines| Ok::<_, io::Error>(Bytes::from(lines.concat())));
        let request = self
            .untimed_request(Method::POST, &["services", service, "transactions:batch"])?
            .header(CONTENT_TYPE, JSON_LINES)
            .body(Body::wrap_stream(chunks));
        let client = self.clone();
        // Lines flow even before the reply begins.
        let opening = async move {
            let response = client.open(request, JSON_LINES, Sent::WRITING_STREAM).await?;
            let bytes = response.bytes_stream();
            Ok(split(bytes.map_err(move |error| client.broken(&error, Sent::WRITING_STREAM)).boxed()))
        };
        Ok(Connection { lines: Some(sender), answers: stream::once(opening).try_flatten().boxed() })
    }
}

impl Batch {
    /// Returns the next result, or `None` when every line is answered. The future may be dropped and the method called
    /// again at any point.
    ///
    /// # Errors
    /// [`ClientError`], if there are no more attempts or a retry would not help. The batch is then over. The unanswered
    /// lines may have been executed; the same lines may be sent again with the same ids.
    pub async fn next(&mut self) -> Result<Option<Progress>, ClientError> {
        loop {
            if let Some(answer) = self.window.pop_told() {
                return Ok(Some(Progress::Answer(answer)));
            }
            if self.is_input_over && self.window.is_empty() {
                return Ok(None);
            }
            if let Some(wait) = self.wait {
                tokio::time::sleep(wait).await;
                self.wait = None;
            }
            self.send()?;
            let listening = self.silence.listen(self.window.is_awaiting());
            let happened = tokio::select! {
                biased;
                answer = answer(&mut self.connection) => Happened::Answer(answer),
                line = self.input.next(), if !self.is_input_over && self.window.has_room() => Happened::Line(line),
                () = listening.over() => Happened::Silence,
            };
            drop(listening);
            let lost = match happened {
                Happened::Line(line) => {
                    self.take(line)?;
                    continue;
                }
                Happened::Silence => {
                    self.interrupted(format!("no answer arrived for {} s", BATCH_SILENCE_MAX.as_secs()))
                }
                Happened::Answer(None) => self.interrupted("the batch was interrupted".into()),
                // The server answered the request as a whole, or nothing listened: this connection delivered no line.
                Happened::Answer(Some(Err(error @ (ClientError::Problem { .. } | ClientError::Refused { .. })))) => {
                    if let Some(progress) = self.lose_connection(error)? {
                        return Ok(Some(progress));
                    }
                    continue;
                }
                Happened::Answer(Some(Err(error))) => error,
                Happened::Answer(Some(Ok(line))) => match read(line).map_err(|reason| self.client.bad_reply(reason))? {
                    Ok(answer) => {
                        self.window.answered(answer.id.as_deref()).map_err(|reason| self.client.bad_reply(reason))?;
                        self.silence.ended();
                        (self.failures, self.was_there, self.may_be_done) = (0, true, true);
                        return Ok(Some(Progress::Answer(answer)));
                    }
                    // Answers arrive in order. The remaining lines need another connection, if they are sent again at
                    // all.
                    Err(error) => error,
                },
            };
            self.may_be_done |= self.window.unanswered() > 0;
            if let Some(progress) = self.lose_connection(lost)? {
                return Ok(Some(progress));
            }
        }
    }

    /// Returns the number of lines that were read but not answered by the server yet.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.window.unanswered()
    }

    /// Returns whether the server may have executed any of the lines: it answered one, or a connection broke that had
    /// delivered some.
    #[must_use]
    pub fn may_be_done(&self) -> bool {
        self.may_be_done
    }

    /// Returns the number of the last line that was read, or 0 before the first.
    #[must_use]
    pub fn last_line(&self) -> u64 {
        self.last_line
    }

    /// Stops reading lines. The batch ends when the lines that were read are answered.
    pub fn end_input(&mut self) {
        self.is_input_over = true;
        self.input = stream::empty().boxed();
    }

    fn interrupted(&self, reason: String) -> ClientError {
        ClientError::Interrupted { url: self.client.url().to_owned(), reason, may_be_done: true }
    }

    /// Sends the lines that the connection has not had. It opens a connection if there is something to send.
    fn send(&mut self) -> Result<(), ClientError> {
        if self.connection.is_none() && self.window.unanswered() > 0 {
            self.connection = Some(self.client.open_batch(&self.service)?);
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        while let Some(line) = self.window.next_to_send() {
            // A broken connection fails at its reading end. All of these lines are then sent on another one.
            if let Some(lines) = &connection.lines {
                let _ = lines.send(line);
            }
        }
        if self.is_input_over {
            connection.lines = None;
        }
        Ok(())
    }

    fn take(&mut self, line: Option<io::Result<Line>>) -> Result<(), ClientError> {
        match line {
            None => self.is_input_over = true,
            Some(Err(error)) => return Err(ClientError::Input(error)),
            Some(Ok(line)) => {
                let number = line.number;
                match named(line, &mut self.draw_id).map_err(ClientError::Ids)? {
                    Ok((id, text)) => self.window.push(id, text),
                    Err(answer) => self.window.push_answer(answer),
                }
                self.last_line = number;
            }
        }
        Ok(())
    }

    /// Handles a broken connection. Without a line in flight, it returns `None`: a server may close an idle connection.
    fn lose_connection(&mut self, error: ClientError) -> Result<Option<Progress>, ClientError> {
        self.connection = None;
        self.silence.ended();
        self.window.connection_lost();
        self.was_there |= !matches!(error, ClientError::Unreachable { .. });
        let error = error.after_attempts(self.failures + 1);
        if !error.is_retryable() || !self.was_there {
            return Err(error);
        }
        let unanswered = self.window.unanswered();
        if unanswered == 0 {
            return Ok(None);
        }
        self.failures += 1;
        let Some(delay) = self.backoff.delay(self.failures) else { return Err(error) };
        let wait = delay.max(error.retry_after().unwrap_or_default());
        self.wait = Some(wait);
        Ok(Some(Progress::Retrying { error, unanswered, wait }))
    }
}

enum Happened {
    Line(Option<io::Result<Line>>),
    Answer(Option<Result<Bytes, ClientError>>),
    /// The server has owed answers for too long.
    Silence,
}

/// Returns the next answer on a connection.
async fn answer(connection: &mut Option<Connection>) -> Option<Result<Bytes, ClientError>> {
    match connection {
        Some(connection) => connection.answers.next().await,
        None => std::future::pending().await,
    }
}

/// Returns a line with its id, as it is sent; or the answer to an invalid line.
///
/// # Errors
/// The error of `draw_id`.
fn named(
    line: Line,
    draw_id: &mut impl FnMut(u64) -> io::Result<String>,
) -> io::Result<Result<(String, Bytes), BatchAnswer>> {
    let number = line.number;
    let mut text = line.bytes.as_ref().cloned().unwrap_or_default();
    let id = match check(line) {
        Err(answer) => return Ok(Err(answer)),
        Ok(Some(id)) => id,
        Ok(None) => {
            let id = draw_id(number)?;
            // An envelope begins with a brace, and generated ids need no escapes.
            let brace = text.iter().position(|byte| *byte == b'{').map_or(0, |brace| brace + 1);
            text.splice(brace..brace, format!("\"id\":{},", serde_json::Value::from(&*id)).into_bytes());
            if let Err(answer) = check(Line { number, bytes: Ok(text.clone()) }) {
                return Ok(Err(answer));
            }
            id
        }
    };
    text.push(b'\n');
    Ok(Ok((id, Bytes::from(text))))
}

/// Returns the id of an envelope, if it has one; or the answer to an invalid one.
fn check(line: Line) -> Result<Option<String>, BatchAnswer> {
    let nobody = Name::new("nobody").expect("a name");
    match parse_envelope(line, &nobody) {
        Ok((_, request)) => Ok(request.id),
        Err((id, not_done)) => {
            let mut text = Vec::new();
            // Writing to a vector does not fail.
            let _ = lines::print(&mut text, id.clone(), &Err(not_done), true);
            text.truncate(text.trim_ascii_end().len());
            Err(BatchAnswer { id, outcome: Outcome::Denied, line: text.into(), failover: None })
        }
    }
}

/// An answer, or the problem that ends a batch.
#[derive(Deserialize)]
struct AnswerOrProblem {
    id: Option<String>,
    /// The outcome, or `None` if the server does not know it.
    outcome: Option<Outcome>,
    cause: Option<String>,
    failover: Option<String>,
    /// The status; only a problem has one.
    status: Option<u16>,
    code: Option<String>,
    detail: Option<String>,
}

/// Parses a line into an answer, or into the reason why this line and those after it have none. An error means that it
/// is no line of a batch.
fn read(line: Bytes) -> Result<Result<BatchAnswer, ClientError>, String> {
    let parsed: AnswerOrProblem = serde_json::from_slice(&line).map_err(|error| json_reason(&error))?;
    let problem = |status, code: String, detail: Option<String>, retry_after| ClientError::Problem {
        status,
        code,
        detail: detail.unwrap_or_default(),
        retry_after,
        outcome: None,
    };
    Ok(match parsed {
        // A temporary problem is retried after a second, since a line has no `Retry-After` header.
        AnswerOrProblem { status: Some(status), code: Some(code), detail, .. } => {
            let retry_after = (status == 503).then(|| Duration::from_secs(1));
            Err(problem(status, code, detail, retry_after))
        }
        AnswerOrProblem { id, outcome: Some(outcome), failover, .. } => {
            let failover = failover.map(|line| Printable(&line).to_string());
            Ok(BatchAnswer { id, outcome, line, failover })
        }
        // The line was executed. Whether its effect persists must be looked up.
        AnswerOrProblem { cause, .. } => {
            Err(problem(503, "outcome_unknown".into(), cause, Some(Duration::from_secs(1))))
        }
    })
}

/// Splits a stream into lines. An incomplete line at the end is discarded.
fn split(bytes: BoxStream<'static, Result<Bytes, ClientError>>) -> BoxStream<'static, Result<Bytes, ClientError>> {
    let state = (bytes, BytesMut::new(), VecDeque::<Bytes>::new());
    stream::try_unfold(state, |(mut bytes, mut rest, mut lines)| async move {
        loop {
            if let Some(line) = lines.pop_front() {
                return Ok(Some((line, (bytes, rest, lines))));
            }
            let Some(piece) = bytes.next().await.transpose()? else { return Ok(None) };
            let mut searched = rest.len();
            rest.extend_from_slice(&piece);
            while let Some(end) = rest[searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = rest.split_to(searched + end + 1);
                line.truncate(searched + end);
                lines.push_back(line.freeze());
                searched = 0;
            }
            if rest.len() > ANSWER_LINE_BYTES_MAX {
                let reason = format!("an answer is longer than {ANSWER_LINE_BYTES_MAX} bytes");
                return Err(ClientError::BadReply { url: "the server".into(), reason });
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Server;
    use std::cell::Cell;

    fn named_text(text: &str) -> Result<(String, String), String> {
        let line = Line { number: 7, bytes: Ok(text.as_bytes().to_vec()) };
        match named(line, &mut |number| Ok(format!("line-{number}"))).expect("an id is drawn") {
            Ok((id, text)) => Ok((id, String::from_utf8(text.to_vec()).expect("text"))),
            Err(answer) => Err(String::from_utf8(answer.line.to_vec()).expect("text")),
        }
    }

    #[test]
    fn an_added_id_is_the_only_change_to_a_line() {
        let named = |text| named_text(text).expect("an envelope");
        assert_eq!(named(r#" {"json": [1.0 ]}"#), ("line-7".into(), " {\"id\":\"line-7\",\"json\": [1.0 ]}\n".into()));
        assert_eq!(named(r#"{"id":"a","text":"x"}"#), ("a".into(), "{\"id\":\"a\",\"text\":\"x\"}\n".into()));
    }

    #[test]
    fn a_wrong_line_is_answered_where_it_stands() {
        for wrong in ["", "{}", "[1]", r#"{"id":null,"text":""}"#, r#"{"json":1,"text":""}"#] {
            let answer = named_text(wrong).expect_err(wrong);
            assert!(
                answer.starts_with("{\"id\":null,\"outcome\":\"denied\",\"cause\":\"line 7 is not an envelope"),
                "{answer}"
            );
            assert!(!answer.ends_with('\n'));
        }
    }

    #[test]
    fn a_silent_server_ends_the_connection_however_many_lines_are_sent() {
        // The kernel accepts the connection and the bytes, but nothing answers.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let client = Client::new(&Server { url, ca: None }, None).expect("a client");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            // Each line is ready as soon as it is polled.
            let dripping = stream::unfold(1, |number| async move {
                tokio::task::yield_now().await;
                Some((Ok(Line { number, bytes: Ok(b"{\"text\":\"\"}".to_vec()) }), number + 1))
            });
            let mut batch = client.batch("bank", dripping.boxed(), |number| Ok(number.to_string()), Backoff::default());
            batch.silence = Silence::new(Duration::from_secs(100), a_second_later);
            let Ok(Some(Progress::Retrying { error, unanswered, .. })) = batch.next().await else {
                panic!("there is nobody to answer");
            };
            assert!(error.to_string().contains("no answer arrived"), "{error}");
            assert!(unanswered < WINDOW_LINES_MAX, "lines were still taken");
        });
    }

    thread_local! {
        static TIME: Cell<Instant> = Cell::new(Instant::now());
    }

    /// A clock of this thread that advances by a second at each reading.
    fn a_second_later() -> Instant {
        TIME.set(TIME.get() + Duration::from_secs(1));
        TIME.get()
    }

    #[test]
    fn a_problem_in_the_place_of_an_answer_ends_the_batch() {
        let problem = br#"{"type":"about:blank","title":"Unauthorized","status":401,"code":"not_authenticated",
            "detail":"not authenticated","outcome":"denied"}"#;
        let error = read(Bytes::from_static(problem)).expect("a line").expect_err("no answer");
        assert!(matches!(error, ClientError::Problem { status: 401, .. }) && !error.is_retryable(), "{error:?}");
    }

    #[test]
    fn a_line_of_unknown_outcome_may_be_sent_again() {
        let unknown = read(Bytes::from_static(br#"{"id":"a","outcome":null,"cause":"why"}"#)).expect("a line");
        assert!(unknown.expect_err("no answer").is_retryable());
    }

    #[test]
    fn a_denial_of_a_line_is_an_answer() {
        let denied = read(Bytes::from_static(br#"{"id":"a","outcome":"denied","cause":"why"}"#)).expect("a line");
        assert_eq!(denied.expect("an answer").outcome, Outcome::Denied);
    }

    #[test]
    fn answers_are_split_into_whole_lines_however_they_arrive() {
        let pieces = ["{\"a\"", ":1}\n{}", "\n", "\n{\"torn"].map(|piece| Ok(Bytes::from_static(piece.as_bytes())));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let lines = runtime.block_on(split(stream::iter(pieces).boxed()).collect::<Vec<_>>());
        let lines: Vec<Bytes> = lines.into_iter().map(|line| line.expect("whole")).collect();
        assert_eq!(lines, ["{\"a\":1}", "{}", ""]);
    }
}
