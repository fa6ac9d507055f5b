//! Many transactions, a line each, over as many connections as it takes.
//!
//! One request at a time carries lines to the server while answers come back, in the order of the lines. When its
//! connection breaks, another one is made, and the lines without an answer are sent again under their ids.

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

/// How long a server may owe answers and give none before its connection counts as broken. Lines that are sent meanwhile
/// do not count for anything.
pub const BATCH_SILENCE_MAX: Duration = super::ANSWER_TIME_MAX;

/// Lines that are put into one chunk of a request's body, at the most.
const CHUNK_LINES_MAX: usize = 256;

/// The longest line of answers, in bytes.
const ANSWER_LINE_BYTES_MAX: usize = super::REPLY_BYTES_MAX;

/// The answer to a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchAnswer {
    /// The id that the line had, or that it was given; none if the line was wrong.
    pub id: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// The whole answer as JSON, `{"id","outcome","json"|"text"|"base64","cause"?,"failover"?}`, without a line end.
    pub line: Bytes,
    /// The line that operators see, if the transaction caused a failover.
    pub failover: Option<String>,
}

/// What a batch comes to next.
#[derive(Debug)]
pub enum Progress {
    /// The next answer, in the order of the lines.
    Answer(BatchAnswer),
    /// The connection broke: what has no answer is sent again after a while.
    Retrying {
        /// Why.
        error: ClientError,
        /// Lines that are sent again.
        unanswered: usize,
        /// After how long.
        wait: Duration,
    },
}

/// A batch under way.
pub struct Batch {
    client: Client,
    service: String,
    input: BoxStream<'static, io::Result<Line>>,
    is_input_over: bool,
    /// The last line that was taken.
    last_line: u64,
    draw_id: Box<dyn FnMut(u64) -> io::Result<String> + Send>,
    window: Window,
    connection: Option<Connection>,
    silence: Silence,
    backoff: Backoff,
    /// Whether the server has been there: one that never was, and not for want of a listener, is not waited for.
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
    /// None once the last line was sent.
    lines: Option<mpsc::UnboundedSender<Bytes>>,
    answers: BoxStream<'static, Result<Bytes, ClientError>>,
}

impl Client {
    /// Sends the envelopes of `input`, `{"id"?,"query"?,"json"|"text"|"base64"}`, a line each, to a service.
    /// [`Batch::next`] drives it. `draw_id` gives the ids of lines that have none, by their number and in their order: ids
    /// that no other line ever has. It is called before the line is sent, and an error of it ends the batch.
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
        // The window bounds what is in it.
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
        // The reply begins when it likes: until then lines flow already.
        let opening = async move {
            let response = client.open(request, JSON_LINES, Sent::WRITING_STREAM).await?;
            let bytes = response.bytes_stream();
            Ok(split(bytes.map_err(move |error| client.broken(&error, Sent::WRITING_STREAM)).boxed()))
        };
        Ok(Connection { lines: Some(sender), answers: stream::once(opening).try_flatten().boxed() })
    }
}

impl Batch {
    /// What comes next; none when every line is answered. May be dropped and called again at any point.
    ///
    /// # Errors
    /// [`ClientError`], after which it is over: no more attempts, or no use in any. What has no answer then may have been
    /// executed; the same lines with the same ids may be sent again.
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
                Happened::Silence => self.interrupted(format!("no answer came for {} s", BATCH_SILENCE_MAX.as_secs())),
                Happened::Answer(None) => self.interrupted("the batch broke off".into()),
                // It answered the request as a whole, or nobody had it: this connection brought it no line.
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
                    // Answers come in order: what is left is asked for on another connection, if at all.
                    Err(error) => error,
                },
            };
            self.may_be_done |= self.window.unanswered() > 0;
            if let Some(progress) = self.lose_connection(lost)? {
                return Ok(Some(progress));
            }
        }
    }

    /// Lines that the server has not answered yet, of those that were read.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.window.unanswered()
    }

    /// Whether the server may have done any of the lines: it answered one, or a connection broke that had brought it some.
    #[must_use]
    pub fn may_be_done(&self) -> bool {
        self.may_be_done
    }

    /// The number of the last line that was read; 0 before the first.
    #[must_use]
    pub fn last_line(&self) -> u64 {
        self.last_line
    }

    /// Reads no more lines: the batch is over when those that were read are answered.
    pub fn end_input(&mut self) {
        self.is_input_over = true;
        self.input = stream::empty().boxed();
    }

    fn interrupted(&self, reason: String) -> ClientError {
        ClientError::Interrupted { url: self.client.url().to_owned(), reason, may_be_done: true }
    }

    /// Sends what the connection has not had; makes one if there is something to send.
    fn send(&mut self) -> Result<(), ClientError> {
        if self.connection.is_none() && self.window.unanswered() > 0 {
            self.connection = Some(self.client.open_batch(&self.service)?);
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        while let Some(line) = self.window.next_to_send() {
            // One that is broken says so at its other end, and then all of this is sent on another.
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
                    Err(answer) => self.window.push_told(answer),
                }
                self.last_line = number;
            }
        }
        Ok(())
    }

    /// What to do about a connection that broke; nothing, if nothing was under way: a server ends one that idles.
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
    /// Of a server that owes answers, for too long.
    Silence,
}

/// The next answer on a connection.
async fn answer(connection: &mut Option<Connection>) -> Option<Result<Bytes, ClientError>> {
    match connection {
        Some(connection) => connection.answers.next().await,
        None => std::future::pending().await,
    }
}

/// A line with its id, as it is sent; or the answer to one that is wrong.
///
/// # Errors
/// Those of `draw_id`.
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
            // It begins with a brace, or it would be no envelope; and ids that are drawn need no escapes.
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

/// The id of an envelope, if it has one; or the answer to one that is wrong.
fn check(line: Line) -> Result<Option<String>, BatchAnswer> {
    let nobody = Name::new("nobody").expect("a name");
    match parse_envelope(line, &nobody) {
        Ok((_, request)) => Ok(request.id),
        Err((id, not_done)) => {
            let mut text = Vec::new();
            // A vector takes everything.
            let _ = lines::print(&mut text, id.clone(), &Err(not_done), true);
            text.truncate(text.trim_ascii_end().len());
            Err(BatchAnswer { id, outcome: Outcome::Denied, line: text.into(), failover: None })
        }
    }
}

/// An answer, or the problem that ends a batch.
#[derive(Deserialize)]
struct Told {
    id: Option<String>,
    /// None if the server does not know it.
    outcome: Option<Outcome>,
    cause: Option<String>,
    failover: Option<String>,
    /// Of a problem alone.
    status: Option<u16>,
    code: Option<String>,
    detail: Option<String>,
}

/// An answer, or why there is none, here or to any line after it. An error is no line of a batch.
fn read(line: Bytes) -> Result<Result<BatchAnswer, ClientError>, String> {
    let told: Told = serde_json::from_slice(&line).map_err(|error| json_reason(&error))?;
    let problem = |status, code: String, detail: Option<String>, retry_after| ClientError::Problem {
        status,
        code,
        detail: detail.unwrap_or_default(),
        retry_after,
        outcome: None,
    };
    Ok(match told {
        // What passes by itself is tried again: a line has no header that says when.
        Told { status: Some(status), code: Some(code), detail, .. } => {
            let retry_after = (status == 503).then(|| Duration::from_secs(1));
            Err(problem(status, code, detail, retry_after))
        }
        Told { id, outcome: Some(outcome), failover, .. } => {
            let failover = failover.map(|line| Printable(&line).to_string());
            Ok(BatchAnswer { id, outcome, line, failover })
        }
        // It was executed, and whether that is kept is to be asked for again.
        Told { cause, .. } => Err(problem(503, "outcome_unknown".into(), cause, Some(Duration::from_secs(1)))),
    })
}

/// Cuts a stream into lines. One that breaks off is none.
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
    fn a_line_without_an_id_gets_one_and_nothing_else_of_it_changes() {
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
    fn a_silent_server_is_given_up_although_lines_are_sent_to_it_all_the_time() {
        // The kernel takes the connection and what is sent: nobody answers.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let client = Client::new(&Server { url, ca: None }, None).expect("a client");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            // Each is there as soon as it is waited for.
            let dripping = stream::unfold(1, |number| async move {
                tokio::task::yield_now().await;
                Some((Ok(Line { number, bytes: Ok(b"{\"text\":\"\"}".to_vec()) }), number + 1))
            });
            let mut batch = client.batch("bank", dripping.boxed(), |number| Ok(number.to_string()), Backoff::default());
            batch.silence = Silence::new(Duration::from_secs(100), a_second_later);
            let Ok(Some(Progress::Retrying { error, unanswered, .. })) = batch.next().await else {
                panic!("there is nobody to answer");
            };
            assert!(error.to_string().contains("no answer came"), "{error}");
            assert!(unanswered < WINDOW_LINES_MAX, "lines were still taken");
        });
    }

    thread_local! {
        static TIME: Cell<Instant> = Cell::new(Instant::now());
    }

    /// A clock of this thread, which goes on by a second each time that somebody looks.
    fn a_second_later() -> Instant {
        TIME.set(TIME.get() + Duration::from_secs(1));
        TIME.get()
    }

    #[test]
    fn a_problem_in_the_place_of_an_answer_ends_the_batch_and_is_no_answer() {
        let problem = br#"{"type":"about:blank","title":"Unauthorized","status":401,"code":"not_authenticated",
            "detail":"not authenticated","outcome":"denied"}"#;
        let error = read(Bytes::from_static(problem)).expect("a line").expect_err("no answer");
        assert!(matches!(error, ClientError::Problem { status: 401, .. }) && !error.is_retryable(), "{error:?}");
        let unknown = read(Bytes::from_static(br#"{"id":"a","outcome":null,"cause":"why"}"#)).expect("a line");
        assert!(unknown.expect_err("no answer").is_retryable());
        let denied = read(Bytes::from_static(br#"{"id":"a","outcome":"denied","cause":"why"}"#)).expect("a line");
        assert_eq!(denied.expect("an answer").outcome, Outcome::Denied);
    }

    #[test]
    fn answers_are_cut_into_lines_and_a_torn_one_is_dropped() {
        let pieces = ["{\"a\"", ":1}\n{}", "\n", "\n{\"torn"].map(|piece| Ok(Bytes::from_static(piece.as_bytes())));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let lines = runtime.block_on(split(stream::iter(pieces).boxed()).collect::<Vec<_>>());
        let lines: Vec<Bytes> = lines.into_iter().map(|line| line.expect("whole")).collect();
        assert_eq!(lines, ["{\"a\":1}", "{}", ""]);
    }
}
