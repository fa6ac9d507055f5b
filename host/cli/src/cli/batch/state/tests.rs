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
    let text =
        format!("the reader of the answers has gone; all lines up to 1,002 may be done: continue with line 901{twice}");
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
