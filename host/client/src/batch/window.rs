//! The lines of a batch without an answer, in order, and the choice of those to send: a state machine without a
//! connection.
//!
//! ```text
//!   taken --next_to_send--> sent --answered--> gone
//!     ^                       |
//!     +---connection_lost-----+
//! ```
//!
//! A line is sent again with the same id, so that a transaction that was executed is answered and not repeated.

use super::BatchAnswer;
use bytes::Bytes;
use std::collections::VecDeque;

/// The maximum number of lines in flight.
pub const WINDOW_LINES_MAX: usize = 1024;

/// The maximum number of bytes of lines in flight. A longer line is sent alone.
pub const WINDOW_BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Debug)]
enum Entry {
    /// A line that waits for its answer from the server.
    Line { id: String, text: Bytes },
    /// An answer that needs no server, in its turn.
    Told(BatchAnswer),
}

/// The lines without an answer.
#[derive(Debug, Default)]
pub(super) struct Window {
    entries: VecDeque<Entry>,
    /// The number of entries, from the first, that this connection does not need to send any more.
    sent: usize,
    /// The number of lines among them.
    sent_lines: usize,
    lines: usize,
    bytes: usize,
}

impl Window {
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() < WINDOW_LINES_MAX && self.bytes < WINDOW_BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of lines that the server has not answered.
    pub(super) fn unanswered(&self) -> usize {
        self.lines
    }

    /// Returns whether the server owes an answer on this connection.
    pub(super) fn is_awaiting(&self) -> bool {
        self.sent_lines > 0
    }

    /// Adds a line with its id, to be sent.
    pub(super) fn push(&mut self, id: String, text: Bytes) {
        self.bytes += text.len();
        self.lines += 1;
        self.entries.push_back(Entry::Line { id, text });
    }

    /// Adds an answer that needs no server, to be returned in its turn.
    pub(super) fn push_answer(&mut self, answer: BatchAnswer) {
        self.entries.push_back(Entry::Told(answer));
    }

    /// Returns the answer at the front, if it needs no server.
    pub(super) fn pop_told(&mut self) -> Option<BatchAnswer> {
        match self.entries.pop_front()? {
            Entry::Told(answer) => {
                self.sent = self.sent.saturating_sub(1);
                Some(answer)
            }
            line @ Entry::Line { .. } => {
                self.entries.push_front(line);
                None
            }
        }
    }

    /// Returns the next line that this connection has not sent, and marks it as sent.
    pub(super) fn next_to_send(&mut self) -> Option<Bytes> {
        while let Some(entry) = self.entries.get(self.sent) {
            self.sent += 1;
            if let Entry::Line { text, .. } = entry {
                self.sent_lines += 1;
                return Some(text.clone());
            }
        }
        None
    }

    /// Removes the line at the front, whose answer arrived.
    ///
    /// # Errors
    /// A sentence, if the line was not sent or has another id.
    pub(super) fn answered(&mut self, id: Option<&str>) -> Result<(), String> {
        let expected = match self.entries.front() {
            Some(Entry::Line { id, .. }) if self.sent_lines > 0 => id,
            _ => return Err("an answer without a line arrived".into()),
        };
        if id != Some(expected) {
            return Err(format!("an answer to '{}' arrived instead of one to '{expected}'", id.unwrap_or_default()));
        }
        if let Some(Entry::Line { text, .. }) = self.entries.pop_front() {
            self.bytes -= text.len();
        }
        self.lines -= 1;
        self.sent -= 1;
        self.sent_lines -= 1;
        Ok(())
    }

    /// Marks every unanswered line to be sent again.
    pub(super) fn connection_lost(&mut self) {
        self.sent = 0;
        self.sent_lines = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::transaction::Outcome;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn answer_to(number: usize) -> BatchAnswer {
        BatchAnswer { id: Some(number.to_string()), outcome: Outcome::Denied, line: Bytes::new(), failover: None }
    }

    #[test]
    fn a_window_is_bounded_in_lines() {
        let mut window = Window::default();
        (0..WINDOW_LINES_MAX).for_each(|number| window.push(number.to_string(), Bytes::new()));
        assert!(!window.has_room());
    }

    #[test]
    fn a_window_is_bounded_in_bytes() {
        let mut window = Window::default();
        window.push("a".into(), Bytes::from(vec![0; WINDOW_BYTES_MAX]));
        assert!(!window.has_room());
        window.next_to_send();
        window.answered(Some("a")).expect("the answer to a");
        assert!(window.has_room() && window.is_empty());
    }

    #[test]
    fn an_answer_to_nothing_or_to_another_line_is_noticed() {
        let mut window = Window::default();
        assert!(window.answered(Some("a")).is_err());
        window.push("a".into(), Bytes::new());
        assert!(window.answered(Some("a")).is_err(), "it was not sent");
        window.next_to_send();
        assert!(window.answered(Some("b")).is_err());
        assert!(window.answered(None).is_err());
        window.connection_lost();
        assert!(window.answered(Some("a")).is_err(), "not on this connection");
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Take,
        TakeWrong,
        Send,
        Execute,
        Answer,
        Lose,
    }

    proptest! {
        /// Models a server that executes each id once, and connections that break with lines and answers in flight.
        #[test]
        fn nothing_is_lost_or_doubled(steps in prop::collection::vec(
            prop::sample::select(vec![
                Step::Take, Step::Take, Step::TakeWrong, Step::Send, Step::Send, Step::Execute, Step::Execute, Step::Answer,
                Step::Answer, Step::Lose,
            ]),
            0..300,
        )) {
            let mut window = Window::default();
            let mut taken = 0;
            let mut executed: BTreeMap<String, u32> = BTreeMap::new();
            let (mut to_server, mut to_client) = (VecDeque::new(), VecDeque::new());
            let mut out = Vec::new();
            // Whatever happened before, everything is sent and answered in the end.
            let end = std::iter::repeat_n([Step::Send, Step::Execute, Step::Answer], steps.len() * 2 + 2).flatten();
            for step in steps.iter().copied().chain([Step::Lose]).chain(end) {
                match step {
                    Step::Take => {
                        window.push(taken.to_string(), Bytes::from(taken.to_string()));
                        taken += 1;
                    }
                    Step::TakeWrong => {
                        window.push_answer(answer_to(taken));
                        taken += 1;
                    }
                    Step::Send => to_server.extend(window.next_to_send()),
                    Step::Execute => if let Some(line) = to_server.pop_front() {
                        let id = String::from_utf8(line.to_vec()).expect("a number");
                        executed.entry(id.clone()).or_insert(1);
                        to_client.push_back(id);
                    }
                    Step::Answer => {
                        while let Some(answer) = window.pop_told() {
                            out.push(answer.id.expect("numbered"));
                        }
                        if let Some(id) = to_client.pop_front() {
                            prop_assert_eq!(window.answered(Some(&id)), Ok(()));
                            out.push(id);
                        }
                    }
                    Step::Lose => {
                        to_server.clear();
                        to_client.clear();
                        window.connection_lost();
                        prop_assert!(!window.is_awaiting());
                    }
                }
                prop_assert_eq!(window.is_awaiting(), to_server.len() + to_client.len() > 0);
            }
            let expected: Vec<String> = (0..taken).map(|number| number.to_string()).collect();
            prop_assert_eq!(out, expected);
            prop_assert!(window.is_empty() && window.unanswered() == 0 && window.bytes == 0);
        }
    }
}
