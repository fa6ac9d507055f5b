//! The life cycle of a session: events in, actions out. It does no input or output, and reads no clock.
//!
//! ```text
//!                  built                 moved
//!    Starting ------------> Moving ----------------> Serving
//!     ^    |                ^    |                   ^     |
//!     |    | failed         |    | no guest          |     | change, :reload, :fresh
//!     |    v                |    v        failed,    |     v
//!     +- Waiting <----------|----+       unchanged   +- Rebuilding
//!  change, :reload          |                              | built
//!                           +------------------------------+
//!
//!    any state -- end of input, :quit, a signal --> Ended
//! ```
//!
//! A guest runs in Serving, in Rebuilding and in most of Moving. It answers lines while a change is built. After an
//! order (`:reload`, `:fresh`), the lines that follow wait until it is carried out. So a script knows which guest
//! answers.
//!
//! The caller carries out the actions in their order, one at a time. Moving lasts as long as one action, so the state
//! moves between two transactions.

use super::super::run::lines::Waiting;
use lifeboat_api::lines::Line;
use std::collections::VecDeque;

/// The first byte of a command.
const PREFIX: u8 = b':';

/// The commands, and what they do.
pub(super) const COMMANDS: [(&str, &str); 7] = [
    (":query BODY", "ask a query"),
    (":failover", "move the guest to a fresh VM, as at a threshold"),
    (":reload", "build, and go on with the state in the new guest"),
    (":fresh", "build, and begin with an empty state"),
    (":meters", "show the meters and counts of the service"),
    (":help", "show these commands (:: sends a transaction that begins with :)"),
    (":quit", "end the session, as the end of input does"),
];

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Transaction(Line),
    Query(Line),
    FailOver,
    /// A build, and a guest with the state or without it.
    Build(Keep),
    Meters,
    Help,
    Quit,
    /// No command has this name.
    Unknown(String),
}

impl Input {
    /// Reads a line. Only a line that begins with one colon is a command.
    pub(super) fn of(line: Line) -> Self {
        let Line { number, bytes } = line;
        let bytes = match bytes {
            Ok(bytes) if bytes.first() == Some(&PREFIX) => bytes,
            bytes => return Self::Transaction(Line { number, bytes }),
        };
        if bytes.get(1) == Some(&PREFIX) {
            return Self::Transaction(Line { number, bytes: Ok(bytes[1..].to_vec()) });
        }
        let end = bytes.iter().position(u8::is_ascii_whitespace).unwrap_or(bytes.len());
        let rest = bytes.get(end + 1..).unwrap_or_default();
        match (&bytes[..end], rest.trim_ascii().is_empty()) {
            (b":query", _) => Self::Query(Line { number, bytes: Ok(rest.to_vec()) }),
            (b":failover", true) => Self::FailOver,
            (b":reload", true) => Self::Build(Keep::State),
            (b":fresh", true) => Self::Build(Keep::Nothing),
            (b":meters", true) => Self::Meters,
            (b":help", true) => Self::Help,
            (b":quit", true) => Self::Quit,
            _ => Self::Unknown(String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned()),
        }
    }
}

/// What the next guest gets of the state of the guest before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    State,
    Nothing,
}

impl Keep {
    /// Returns the command that orders this.
    pub(super) fn command(self) -> &'static str {
        match self {
            Self::State => ":reload",
            Self::Nothing => ":fresh",
        }
    }
}

/// What happened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Input(Input),
    EndOfInput,
    /// Sources changed. Never during a build.
    Changed,
    Built(Built),
    Moved(Moved),
    /// A signal asks for the end, or nobody reads the replies. The lines that wait are not done.
    Interrupted(Waiting),
}

/// The end of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Built {
    New,
    /// The workload is the one that runs.
    Same,
    Failed,
}

/// The guest that runs after an attempt to begin with another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    New,
    Old,
    None,
}

/// What the caller does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Build,
    EndBuild,
    /// Begins with what was built, in the place of the guest that runs.
    Begin(Keep),
    Request(Line, Kind),
    FailOver,
    Meters,
    Help,
    Report(Report),
    End,
}

/// What a request of a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Transaction,
    Query,
}

/// What the session reports about itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// No guest runs, and none is built.
    Waiting,
    /// The build failed, and the guest goes on.
    GoesOn,
    Unchanged,
    /// An order has ended the build under way, and begins another one.
    Anew(Keep),
    Unknown(String),
    /// Lines that waited at an interruption.
    NotDone(Waiting),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting(Keep),
    Waiting,
    Serving,
    /// The order for which lines wait, if it is one, and not a change.
    Rebuilding(Option<Keep>),
    Moving,
    Ended,
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    state: State,
    /// Whether what was built last runs.
    is_current: bool,
    /// Whether a line was no command, but looked like one.
    has_mistake: bool,
    /// Whether lines waited at an interruption.
    is_cut_off: bool,
}

impl Session {
    /// Begins with a build.
    pub(super) fn begin() -> (Self, Vec<Action>) {
        let state = State::Starting(Keep::State);
        (Self { state, is_current: false, has_mistake: false, is_cut_off: false }, vec![Action::Build])
    }

    /// Returns whether the next line may be read now.
    pub(super) fn takes_lines(&self) -> bool {
        matches!(self.state, State::Waiting | State::Serving | State::Rebuilding(None))
    }

    pub(super) fn is_building(&self) -> bool {
        matches!(self.state, State::Starting(_) | State::Rebuilding(_))
    }

    pub(super) fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Returns whether what was built last runs, no command was unknown, and no line was left.
    pub(super) fn is_well(&self) -> bool {
        self.is_current && !self.has_mistake && !self.is_cut_off
    }

    /// Takes an event, and adds what to do about it to what is left to do. Of that, an interruption leaves nothing, so
    /// that it begins no build.
    pub(super) fn proceed(&mut self, event: Event, left: &mut VecDeque<Action>) {
        if matches!(event, Event::Interrupted(_)) {
            left.clear();
        }
        left.extend(self.on(event));
    }

    /// Takes an event, and returns what to do about it.
    fn on(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::EndOfInput => self.end(),
            Event::Interrupted(waiting) => self.interrupted(waiting),
            Event::Input(input) => self.input(input),
            Event::Changed => self.changed(),
            Event::Built(built) => self.built(built),
            Event::Moved(moved) => self.moved(moved),
        }
    }

    fn end(&mut self) -> Vec<Action> {
        let is_building = self.is_building();
        self.state = State::Ended;
        let end_build = is_building.then_some(Action::EndBuild);
        end_build.into_iter().chain([Action::End]).collect()
    }

    fn interrupted(&mut self, waiting: Waiting) -> Vec<Action> {
        let mut actions = self.end();
        if waiting.lines > 0 {
            self.is_cut_off = true;
            actions.insert(0, Action::Report(Report::NotDone(waiting)));
        }
        actions
    }

    fn input(&mut self, input: Input) -> Vec<Action> {
        match input {
            // Without a guest, the requests are denied.
            Input::Transaction(line) => vec![Action::Request(line, Kind::Transaction)],
            Input::Query(line) => vec![Action::Request(line, Kind::Query)],
            Input::Build(keep) => self.order(keep),
            Input::FailOver | Input::Meters if self.state == State::Waiting => vec![Action::Report(Report::Waiting)],
            Input::FailOver => vec![Action::FailOver],
            Input::Meters => vec![Action::Meters],
            Input::Help => vec![Action::Help],
            Input::Unknown(command) => {
                self.has_mistake = true;
                vec![Action::Report(Report::Unknown(command))]
            }
            Input::Quit => self.end(),
        }
    }

    fn order(&mut self, keep: Keep) -> Vec<Action> {
        match self.state {
            State::Waiting => {
                self.state = State::Starting(keep);
                vec![Action::Build]
            }
            State::Serving => {
                self.state = State::Rebuilding(Some(keep));
                vec![Action::Build]
            }
            // The build under way may lack the last change, which the order is for.
            State::Rebuilding(None) => {
                self.state = State::Rebuilding(Some(keep));
                vec![Action::EndBuild, Action::Report(Report::Anew(keep)), Action::Build]
            }
            State::Starting(_) | State::Rebuilding(Some(_)) | State::Moving | State::Ended => Vec::new(),
        }
    }

    fn changed(&mut self) -> Vec<Action> {
        self.state = match self.state {
            State::Waiting => State::Starting(Keep::State),
            State::Serving => State::Rebuilding(None),
            _ => return Vec::new(),
        };
        vec![Action::Build]
    }

    fn built(&mut self, built: Built) -> Vec<Action> {
        let (keep, has_guest) = match self.state {
            State::Starting(keep) => (keep, false),
            State::Rebuilding(order) => (order.unwrap_or(Keep::State), true),
            _ => return Vec::new(),
        };
        match (built, has_guest, keep) {
            (Built::Failed, ..) => {
                self.is_current = false;
                self.state = if has_guest { State::Serving } else { State::Waiting };
                vec![Action::Report(if has_guest { Report::GoesOn } else { Report::Waiting })]
            }
            (Built::Same, true, Keep::State) => {
                self.is_current = true;
                self.state = State::Serving;
                vec![Action::Report(Report::Unchanged)]
            }
            (Built::New | Built::Same, ..) => {
                self.state = State::Moving;
                vec![Action::Begin(keep)]
            }
        }
    }

    fn moved(&mut self, moved: Moved) -> Vec<Action> {
        if self.state != State::Moving {
            return Vec::new();
        }
        self.is_current = moved == Moved::New;
        self.state = if moved == Moved::None { State::Waiting } else { State::Serving };
        // What went wrong was reported by then.
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { number: 7, bytes: Ok(text.into()) }
    }

    fn input(text: &str) -> Event {
        Event::Input(Input::of(line(text)))
    }

    /// Returns a session whose first guest runs.
    fn serving() -> Session {
        let (mut session, actions) = Session::begin();
        assert_eq!(actions, [Action::Build]);
        assert_eq!(session.on(Event::Built(Built::New)), [Action::Begin(Keep::State)]);
        assert_eq!(session.on(Event::Moved(Moved::New)), []);
        assert!(session.takes_lines() && session.is_well());
        session
    }

    #[test]
    fn only_a_line_with_one_colon_is_a_command() {
        let transaction = |text: &str| Input::Transaction(line(text));
        for text in ["", "{\"add\":1}", " :quit", "quit", "?", "a:b"] {
            assert_eq!(Input::of(line(text)), transaction(text));
        }
        assert_eq!(Input::of(line("::quit")), transaction(":quit"));
        assert_eq!(Input::of(line(":::")), transaction("::"));
        assert_eq!(Input::of(line(":quit")), Input::Quit);
        assert_eq!(Input::of(line(":fresh \r")), Input::Build(Keep::Nothing));
        assert_eq!(Input::of(line(":query {\"of\": 1} ")), Input::Query(line("{\"of\": 1} ")));
        assert_eq!(Input::of(line(":query")), Input::Query(line("")));
        for text in [":", ":q", ":quit now", ":Quit", ":query1"] {
            assert_eq!(Input::of(line(text)), Input::Unknown(text.into()));
        }
        let long = || Line { number: 1, bytes: Err(9_000_000) };
        assert_eq!(Input::of(long()), Input::Transaction(long()), "the host denies it");
    }

    #[test]
    fn every_command_of_the_help_is_one() {
        for (command, _) in COMMANDS {
            assert!(!matches!(Input::of(line(command)), Input::Unknown(_) | Input::Transaction(_)), "{command}");
        }
    }

    #[test]
    fn lines_wait_for_the_first_guest() {
        let (session, _) = Session::begin();
        assert!(!session.takes_lines() && session.is_building());
    }

    #[test]
    fn guest_answers_lines_while_a_change_is_built() {
        let mut session = serving();
        assert_eq!(session.on(Event::Changed), [Action::Build]);
        assert!(session.takes_lines() && session.is_building());
        assert_eq!(session.on(input("5")), [Action::Request(line("5"), Kind::Transaction)]);
        assert_eq!(session.on(Event::Built(Built::New)), [Action::Begin(Keep::State)]);
        assert!(!session.takes_lines(), "no transaction comes between the snapshot and the new guest");
        session.on(Event::Moved(Moved::New));
        assert!(session.takes_lines() && !session.is_building());
    }

    #[test]
    fn lines_after_an_order_wait_until_it_is_carried_out() {
        for (command, keep) in [(":reload", Keep::State), (":fresh", Keep::Nothing)] {
            let mut session = serving();
            assert_eq!(session.on(input(command)), [Action::Build]);
            assert!(!session.takes_lines());
            assert_eq!(session.on(Event::Built(Built::New)), [Action::Begin(keep)]);
            session.on(Event::Moved(Moved::New));
            assert!(session.takes_lines());
        }
    }

    #[test]
    fn order_during_a_build_of_a_change_begins_the_build_anew_and_says_so() {
        for (command, keep) in [(":reload", Keep::State), (":fresh", Keep::Nothing)] {
            let mut session = serving();
            session.on(Event::Changed);
            let anew = [Action::EndBuild, Action::Report(Report::Anew(keep)), Action::Build];
            assert_eq!(session.on(input(command)), anew);
            assert!(!session.takes_lines());
            assert_eq!(session.on(Event::Built(Built::New)), [Action::Begin(keep)]);
        }
    }

    #[test]
    fn unchanged_workload_is_not_reloaded() {
        let mut session = serving();
        session.on(Event::Changed);
        assert_eq!(session.on(Event::Built(Built::Same)), [Action::Report(Report::Unchanged)]);
        assert!(session.takes_lines() && session.is_well());
    }

    #[test]
    fn guest_goes_on_after_a_failed_build_and_after_a_refused_state() {
        let mut session = serving();
        session.on(input(":reload"));
        assert_eq!(session.on(Event::Built(Built::Failed)), [Action::Report(Report::GoesOn)]);
        assert!(session.takes_lines() && !session.is_well());
        session.on(Event::Changed);
        session.on(Event::Built(Built::New));
        session.on(Event::Moved(Moved::Old));
        assert_eq!(session.on(input("5")), [Action::Request(line("5"), Kind::Transaction)]);
        assert!(!session.is_well());
        session.on(Event::Changed);
        session.on(Event::Built(Built::New));
        session.on(Event::Moved(Moved::New));
        assert!(session.is_well(), "the last build counts");
    }

    #[test]
    fn session_without_a_guest_waits_for_a_change_or_an_order() {
        for next in [Event::Changed, input(":reload"), input(":fresh")] {
            let (mut session, _) = Session::begin();
            assert_eq!(session.on(Event::Built(Built::Failed)), [Action::Report(Report::Waiting)]);
            assert!(session.takes_lines(), "the end of input ends it");
            assert_eq!(session.on(input(":meters")), [Action::Report(Report::Waiting)]);
            assert_eq!(session.on(next), [Action::Build]);
            assert!(!session.takes_lines());
        }
        let mut session = serving();
        session.on(input(":fresh"));
        session.on(Event::Built(Built::New));
        session.on(Event::Moved(Moved::None));
        assert_eq!(session.on(Event::Changed), [Action::Build]);
        assert_eq!(
            session.on(Event::Built(Built::Same)),
            [Action::Begin(Keep::State)],
            "nothing runs, so nothing is same"
        );
    }

    #[test]
    fn end_of_input_and_signals_end_the_build_as_well() {
        for end in [Event::EndOfInput, Event::Interrupted(Waiting::default()), input(":quit")] {
            let mut session = serving();
            session.on(Event::Changed);
            assert_eq!(session.on(end), [Action::EndBuild, Action::End]);
            assert!(session.is_ended() && !session.takes_lines());
            assert_eq!(session.on(Event::Built(Built::New)), [], "it is late");
        }
        let (mut session, _) = Session::begin();
        assert_eq!(session.on(Event::Interrupted(Waiting::default())), [Action::EndBuild, Action::End]);
        assert_eq!(serving().on(Event::EndOfInput), [Action::End]);
    }

    #[test]
    fn interruption_names_the_lines_that_waited_and_is_not_well() {
        let mut session = serving();
        let actions = session.on(Event::Interrupted(Waiting::default()));
        assert_eq!((actions, session.is_well()), (vec![Action::End], true), "no line waited");
        let mut session = serving();
        session.on(input(":reload"));
        let waiting = Waiting { lines: 2, may_be_more: false };
        let not_done = Action::Report(Report::NotDone(waiting));
        assert_eq!(session.on(Event::Interrupted(waiting)), [not_done, Action::EndBuild, Action::End]);
        assert!(session.is_ended() && !session.is_well());
    }

    #[test]
    fn interruption_begins_no_build_that_was_left_to_do() {
        let mut session = serving();
        session.on(Event::Changed);
        let mut left = VecDeque::new();
        session.proceed(input(":reload"), &mut left);
        assert_eq!(left.pop_front(), Some(Action::EndBuild));
        assert_eq!(left, [Action::Report(Report::Anew(Keep::State)), Action::Build]);
        session.proceed(Event::Interrupted(Waiting::default()), &mut left);
        assert_eq!(left, [Action::EndBuild, Action::End]);
    }

    #[test]
    fn unknown_command_is_a_mistake_and_not_a_transaction() {
        let mut session = serving();
        assert_eq!(session.on(input(":relaod")), [Action::Report(Report::Unknown(":relaod".into()))]);
        assert!(!session.is_well());
    }
}
