//! The state machine of a running batch, without I/O. It consumes events and produces notes for standard error.
//!
//! ```text
//!            signal              signal
//!  Sending ----------> Draining ----------> Over(InterruptedTwice)
//!     |                   |
//!     | all answered      | all answered
//!     v                   v
//!  Over(Complete)      Over(Interrupted), or Over(Complete) if no line of the input was left
//!
//!  Sending, Draining:  the reader of the answers has gone   -> Over(NobodyReads)
//!  Sending, Draining:  the answers cannot be written        -> Over(Unwritable)
//!                      an error, where no server was there  -> Over(Unreached)
//!                      it refused the batch as a whole      -> Over(Untaken)
//!                      any other error                      -> Over(Broken)
//! ```
//!
//! Sending and Draining contain the state of the server. A server that is away is reported once, and again when it is
//! back:
//!
//! ```text
//!  Untried ---- answer, or a connection breaks ----> There <--+
//!     |                                                |      | answer: reported
//!     | away: reported                    away: reported      |
//!     v                                                v      |
//!  Absent ----------- a connection breaks -----------> Away --+
//!     |
//!     +-- answer: reported --> There
//! ```

use super::super::run::counted;
use lifeboat_api::size::grouped;
use lifeboat_api::transaction::Outcome;
use lifeboat_client::ClientError;
use std::collections::BTreeMap;
use std::time::Duration;

/// The state of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Lines are read, sent and answered.
    Sending(Server),
    /// No more lines are read. The lines that were sent are being answered.
    Draining {
        server: Server,
        /// Whether the input may have had more lines.
        is_input_left: bool,
    },
    /// Nothing is sent any more.
    Over(End),
}

/// The state of a batch's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    /// The server has not answered yet.
    Untried,
    /// The server has not answered yet, and the batch waits for it.
    Absent,
    /// The server answered a line, or a connection broke that may have brought it some.
    There,
    /// The server was there, and the batch waits for it.
    Away,
}

/// The way in which a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Every line is answered.
    Complete,
    /// All lines that were sent are answered, and the rest of the input was not sent.
    Interrupted,
    /// The lines without an answer may be done or not.
    InterruptedTwice,
    /// Nobody reads the answers, so the last ones may be lost.
    NobodyReads,
    /// The answers cannot be written, so the last ones may be lost.
    Unwritable,
    /// The server was never there.
    Unreached,
    /// The server refused the batch as a whole, and executed none of it.
    Untaken,
    /// An error occurred in the middle of the batch. The token may have become void.
    Broken { is_token_void: bool },
}

/// An event of a batch.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// A line was answered, and the answer printed.
    Answered,
    /// The reader of the answers has gone.
    ReaderGone,
    /// The answers cannot be written, to a full disk for instance.
    Unwritable,
    /// A signal asks for the end. If `is_input_left`, there may be more lines, which are not read.
    Signal { is_input_left: bool, unanswered: u64 },
    /// Nobody listens at the server, or it is starting. It has executed nothing.
    Away { error: String },
    /// A connection broke. The lines without an answer are sent again after `wait`.
    ConnectionBroke { error: String, unanswered: u64, wait: Duration },
    /// Every line that was read is answered.
    AllAnswered,
    /// The client stopped with an error.
    Failed(Failure),
}

/// The reason for which the client stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server cannot be reached.
    NoServer,
    /// The server refused the request as a whole, and answered no line.
    RefusedWhole,
    /// An error of any other kind.
    Other { is_token_void: bool },
}

impl Failure {
    /// Classifies an error. `may_be_done` states whether the server may have executed some of the lines.
    pub(super) fn of(error: &ClientError, may_be_done: bool) -> Self {
        match error {
            ClientError::Unreachable { .. } | ClientError::Refused { .. } => Self::NoServer,
            ClientError::Problem { .. } if !may_be_done => Self::RefusedWhole,
            error => Self::Other { is_token_void: matches!(error, ClientError::Problem { status: 401, .. }) },
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self::Sending(Server::Untried)
    }
}

impl State {
    /// Returns how the batch ended, if it did.
    pub(super) fn end(self) -> Option<End> {
        match self {
            Self::Over(end) => Some(end),
            Self::Sending(_) | Self::Draining { .. } => None,
        }
    }

    /// Returns the state after an event, and the note for standard error. A batch that is over ignores all events.
    pub(super) fn after(self, event: &Event) -> (Self, Option<String>) {
        let (server, is_input_left) = match self {
            Self::Sending(server) => (server, None),
            Self::Draining { server, is_input_left } => (server, Some(is_input_left)),
            Self::Over(_) => return (self, None),
        };
        let end = match (event, is_input_left) {
            (Event::ReaderGone, _) => End::NobodyReads,
            (Event::Unwritable, _) => End::Unwritable,
            (Event::AllAnswered, Some(true)) => End::Interrupted,
            (Event::AllAnswered, _) => End::Complete,
            (Event::Failed(failure), _) => failure.end(server),
            (Event::Signal { .. }, Some(_)) => End::InterruptedTwice,
            (Event::Signal { is_input_left, unanswered }, None) => {
                let note = (*unanswered > 0).then(|| {
                    let answers = counted(*unanswered, "answer");
                    format!("lifeboat: interrupted: waiting for {answers}; interrupt again to end at once")
                });
                return (Self::Draining { server, is_input_left: *is_input_left }, note);
            }
            (Event::Answered | Event::Away { .. } | Event::ConnectionBroke { .. }, _) => {
                let (server, note) = server.after(event);
                return (self.with(server), note);
            }
        };
        (Self::Over(end), None)
    }

    fn with(self, server: Server) -> Self {
        match self {
            Self::Sending(_) => Self::Sending(server),
            Self::Draining { is_input_left, .. } => Self::Draining { server, is_input_left },
            Self::Over(_) => self,
        }
    }
}

impl Server {
    fn after(self, event: &Event) -> (Self, Option<String>) {
        match (event, self) {
            (Event::Away { error }, Self::Untried) => (Self::Absent, Some(waiting(error))),
            (Event::Away { error }, Self::There) => (Self::Away, Some(waiting(error))),
            (Event::ConnectionBroke { error, unanswered, wait }, server) => {
                let (lines, wait) = (counted(*unanswered, "line"), wait.as_secs_f64());
                let server = match server {
                    Self::Untried | Self::There => Self::There,
                    Self::Absent | Self::Away => Self::Away,
                };
                (server, Some(format!("lifeboat: {error}; sending {lines} again in {wait:.1} s")))
            }
            (Event::Answered, Self::Absent | Self::Away) => {
                (Self::There, Some("lifeboat: the server answers again".into()))
            }
            (Event::Answered, Self::Untried | Self::There) => (Self::There, None),
            (_, server) => (server, None),
        }
    }
}

fn waiting(error: &str) -> String {
    format!("lifeboat: waiting for the server: {error}")
}

impl Failure {
    fn end(self, server: Server) -> End {
        match (self, server) {
            (Self::NoServer, Server::Untried | Server::Absent) => End::Unreached,
            (Self::NoServer, Server::There | Server::Away) => End::Broken { is_token_void: false },
            (Self::RefusedWhole, _) => End::Untaken,
            (Self::Other { is_token_void }, _) => End::Broken { is_token_void },
        }
    }
}

/// The answers of a batch.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The number of answers with each outcome.
    pub(super) outcomes: BTreeMap<Outcome, u64>,
    /// The number of answers that have certainly left this process.
    pub(super) flushed: u64,
}

impl Answers {
    pub(super) fn add(&mut self, outcome: Outcome) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    pub(super) fn total(&self) -> u64 {
        self.outcomes.values().sum()
    }
}

/// The lines that a batch has sent when it is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) unanswered: u64,
    /// The number of the last line, or 0 before the first.
    pub(super) last_line: u64,
    /// Whether a `--resume` file has the seed and times of the ids.
    pub(super) has_file: bool,
}

impl End {
    /// Returns why a batch ended before the last line, and how to continue. None if it did not, or if its error
    /// explains everything.
    pub(super) fn reason(self, answers: &Answers, sent: Sent) -> Option<String> {
        let answered = answers.total();
        let is_clean = sent.unanswered == 0;
        match self {
            Self::Complete | Self::Unreached | Self::Untaken => None,
            Self::Interrupted => {
                let before = match answered {
                    0 => "before the first line".into(),
                    answered => format!("with {} answered", counted(answered, "line")),
                };
                let go_on = how_to_go_on(answered, true, sent.has_file);
                Some(format!("interrupted {before}; the rest was not sent: {go_on}"))
            }
            Self::InterruptedTwice => {
                let go_on = how_to_go_on(answered, is_clean, sent.has_file);
                Some(format!("interrupted twice: {}; {go_on}", so_far(answered, sent.unanswered)))
            }
            Self::NobodyReads | Self::Unwritable => {
                let (last, go_on) = (grouped(sent.last_line), how_to_go_on(answers.flushed, false, sent.has_file));
                let (cause, remedy) = match self {
                    Self::NobodyReads => ("the reader of the answers has gone; ", ""),
                    _ => ("", "make room for the answers or write them to another file, then "),
                };
                Some(format!("{cause}all lines up to {last} may be done: {remedy}{go_on}"))
            }
            Self::Broken { is_token_void } => {
                let after = if is_token_void { "after lifeboat login " } else { "" };
                let go_on = how_to_go_on(answered, is_clean, sent.has_file);
                Some(format!("{}; {after}{go_on}", so_far(answered, sent.unanswered)))
            }
        }
    }
}

/// Returns how to continue after `answered` lines. `is_clean` if none of the lines after them was sent.
fn how_to_go_on(answered: u64, is_clean: bool, has_file: bool) -> String {
    if has_file {
        return "the same command sends the rest, and prints all answers".into();
    }
    let twice = if is_clean {
        ""
    } else {
        ", with the same ids; a line without an id may then be done twice, which --resume FILE prevents"
    };
    format!("continue with line {}{twice}", grouped(answered + 1))
}

/// Formats `4,000 lines are answered, 12 more may be done or not`.
fn so_far(answered: u64, unanswered: u64) -> String {
    let is = if answered == 1 { "is" } else { "are" };
    let answered = format!("{} {is} answered", counted(answered, "line"));
    match unanswered {
        0 => answered,
        unanswered => format!("{answered}, {} more may or may not be done", grouped(unanswered)),
    }
}

#[cfg(test)]
mod tests;
