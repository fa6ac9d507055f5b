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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIGNAL: Event = Event::Signal { is_input_left: true, unanswered: 0 };

    fn away() -> Event {
        Event::Away { error: "nobody listens".into() }
    }

    fn broke() -> Event {
        Event::ConnectionBroke { error: "it broke".into(), unanswered: 2, wait: Duration::from_millis(500) }
    }

    /// Returns the state of a batch after some events, and what it reported.
    fn run(events: &[Event]) -> (State, Vec<String>) {
        let (mut state, mut notes) = (State::default(), Vec::new());
        for event in events {
            let (next, note) = state.after(event);
            state = next;
            notes.extend(note);
        }
        (state, notes)
    }

    #[test]
    fn an_outage_of_the_server_is_reported_only_when_it_begins_or_ends() {
        let waiting = "lifeboat: waiting for the server: nobody listens".to_owned();
        let back = "lifeboat: the server answers again".to_owned();
        let (state, notes) = run(&[away(), away(), Event::Answered, Event::Answered]);
        assert_eq!((state, notes), (State::Sending(Server::There), vec![waiting.clone(), back.clone()]));
        let (state, notes) = run(&[Event::Answered, away(), away(), broke(), away(), Event::Answered]);
        let again = "lifeboat: it broke; sending 2 lines again in 0.5 s".to_owned();
        assert_eq!((state, notes), (State::Sending(Server::There), vec![waiting, again, back]));
    }

    #[test]
    fn an_interrupted_batch_is_complete_if_its_input_had_no_more_lines() {
        for (is_input_left, end) in [(true, End::Interrupted), (false, End::Complete)] {
            let signal = Event::Signal { is_input_left, unanswered: 1 };
            let (state, notes) = run(&[Event::Answered, signal.clone()]);
            assert_eq!(state, State::Draining { server: Server::There, is_input_left });
            assert_eq!(notes, ["lifeboat: interrupted: waiting for 1 answer; interrupt again to end at once"]);
            assert_eq!(run(&[Event::Answered, signal, Event::Answered, Event::AllAnswered]).0, State::Over(end));
        }
    }

    #[test]
    fn a_second_signal_ends_a_batch_whatever_is_unanswered() {
        assert_eq!(run(&[SIGNAL, Event::Answered, SIGNAL]).0.end(), Some(End::InterruptedTwice));
    }

    #[test]
    fn an_error_means_what_was_seen_of_the_server_before() {
        let failed = |before: &[Event], failure| {
            let events = [before, &[Event::Failed(failure)]].concat();
            run(&events).0.end().expect("it is over")
        };
        let (broken, void) = (End::Broken { is_token_void: false }, End::Broken { is_token_void: true });
        assert_eq!(failed(&[], Failure::NoServer), End::Unreached);
        assert_eq!(failed(&[away(), SIGNAL], Failure::NoServer), End::Unreached);
        assert_eq!(failed(&[Event::Answered], Failure::NoServer), broken);
        assert_eq!(failed(&[away(), broke()], Failure::NoServer), broken);
        assert_eq!(failed(&[away()], Failure::RefusedWhole), End::Untaken);
        assert_eq!(failed(&[Event::Answered], Failure::Other { is_token_void: true }), void);
    }

    #[test]
    fn errors_of_the_client_are_failures_by_what_may_be_done() {
        let problem = |status| ClientError::Problem {
            status,
            code: String::new(),
            detail: String::new(),
            retry_after: None,
            outcome: None,
        };
        let unreachable = ClientError::Unreachable { url: String::new(), reason: String::new() };
        assert_eq!(Failure::of(&unreachable, true), Failure::NoServer);
        assert_eq!(Failure::of(&problem(401), false), Failure::RefusedWhole);
        assert_eq!(Failure::of(&problem(401), true), Failure::Other { is_token_void: true });
        assert_eq!(Failure::of(&problem(503), true), Failure::Other { is_token_void: false });
    }

    #[test]
    fn the_reason_says_which_line_is_next() {
        let mut answers = Answers::default();
        let sent = Sent { unanswered: 0, last_line: 1_002, has_file: false };
        let reason = |end: End, answers: &Answers, sent| end.reason(answers, sent).expect("it ended early");
        let text = "interrupted before the first line; the rest was not sent: continue with line 1";
        assert_eq!(reason(End::Interrupted, &answers, sent), text);
        (0..1_000).for_each(|_| answers.add(Outcome::Ok));
        answers.flushed = 900;
        let text = "interrupted with 1,000 lines answered; the rest was not sent: continue with line 1,001";
        assert_eq!(reason(End::Interrupted, &answers, sent), text);
        let open = Sent { unanswered: 2, ..sent };
        let twice = ", with the same ids; a line without an id may then be done twice, which --resume FILE prevents";
        let text = format!(
            "interrupted twice: 1,000 lines are answered, 2 more may or may not be done; continue with line \
             1,001{twice}"
        );
        assert_eq!(reason(End::InterruptedTwice, &answers, open), text);
        let text = format!(
            "the reader of the answers has gone; all lines up to 1,002 may be done: continue with line 901{twice}"
        );
        assert_eq!(reason(End::NobodyReads, &answers, open), text);
        let text = format!(
            "all lines up to 1,002 may be done: make room for the answers or write them to another file, then continue \
             with line 901{twice}"
        );
        assert_eq!(reason(End::Unwritable, &answers, open), text);
        let with_file = Sent { has_file: true, ..open };
        let text = "1,000 lines are answered, 2 more may or may not be done; after lifeboat login the same command \
                    sends the rest, and prints all answers";
        assert_eq!(reason(End::Broken { is_token_void: true }, &answers, with_file), text);
        for end in [End::Complete, End::Unreached, End::Untaken] {
            assert_eq!(end.reason(&answers, sent), None);
        }
    }

    /// A model of the same batch, which records what happened and has no states.
    #[derive(Default)]
    struct Model {
        happened: Vec<Event>,
        end: Option<End>,
    }

    impl Model {
        fn has(&self, is_it: impl Fn(&Event) -> bool) -> bool {
            self.happened.iter().any(is_it)
        }

        /// Returns whether the server was reported to be away since its last answer.
        fn is_away(&self) -> bool {
            let since = self.happened.iter().rposition(|event| matches!(event, Event::Answered)).map_or(0, |at| at + 1);
            self.happened[since..].iter().any(|event| matches!(event, Event::Away { .. }))
        }

        /// Returns whether something is reported.
        fn happen(&mut self, event: &Event) -> bool {
            if self.end.is_some() {
                return false;
            }
            let signalled = self.happened.iter().find_map(|event| match event {
                Event::Signal { is_input_left, .. } => Some(*is_input_left),
                _ => None,
            });
            let was_there = self.has(|event| matches!(event, Event::Answered | Event::ConnectionBroke { .. }));
            let (end, is_reported) = match event {
                Event::Answered => (None, self.is_away()),
                Event::Away { .. } => (None, !self.is_away()),
                Event::ConnectionBroke { .. } => (None, true),
                Event::Signal { unanswered, .. } if signalled.is_none() => (None, *unanswered > 0),
                Event::Signal { .. } => (Some(End::InterruptedTwice), false),
                Event::ReaderGone => (Some(End::NobodyReads), false),
                Event::Unwritable => (Some(End::Unwritable), false),
                Event::AllAnswered if signalled == Some(true) => (Some(End::Interrupted), false),
                Event::AllAnswered => (Some(End::Complete), false),
                Event::Failed(Failure::NoServer) if !was_there => (Some(End::Unreached), false),
                Event::Failed(Failure::NoServer) => (Some(End::Broken { is_token_void: false }), false),
                Event::Failed(Failure::RefusedWhole) => (Some(End::Untaken), false),
                Event::Failed(Failure::Other { is_token_void }) => {
                    (Some(End::Broken { is_token_void: *is_token_void }), false)
                }
            };
            self.end = end;
            self.happened.push(event.clone());
            is_reported
        }
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            6 => Just(Event::Answered),
            4 => Just(away()),
            3 => Just(broke()),
            2 => (any::<bool>(), 0..3_u64)
                .prop_map(|(is_input_left, unanswered)| Event::Signal { is_input_left, unanswered }),
            1 => Just(Event::ReaderGone),
            1 => Just(Event::Unwritable),
            1 => Just(Event::AllAnswered),
            1 => prop_oneof![
                Just(Failure::NoServer),
                Just(Failure::RefusedWhole),
                any::<bool>().prop_map(|is_token_void| Failure::Other { is_token_void }),
            ]
            .prop_map(Event::Failed),
        ];
        prop::collection::vec(event, 0..20)
    }

    proptest! {
        #[test]
        fn states_are_those_of_the_history(events in events()) {
            let (mut state, mut model) = (State::default(), Model::default());
            for event in events {
                let (next, note) = state.after(&event);
                prop_assert_eq!(note.is_some(), model.happen(&event), "{:?} in {:?}", event, state);
                state = next;
                prop_assert_eq!(state.end(), model.end);
            }
        }
    }
}
