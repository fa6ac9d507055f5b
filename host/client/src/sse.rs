//! A parser of server-sent events, as defined by the HTML standard. It converts bytes to events.

use thiserror::Error;

/// The maximum length of an event, in bytes.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// An event of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// The last id in the stream so far, or empty if there is none.
    pub id: String,
    /// The kind of the event, or empty if it has none.
    pub event: String,
    /// The data of the event; its lines are separated by a line feed.
    pub data: String,
}

/// An event is longer than [`EVENT_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an event is longer than {EVENT_BYTES_MAX} bytes")]
pub struct TooLong;

/// Splits a stream into events. The stream may arrive in pieces of any length.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    is_past_first_line: bool,
    /// Whether the last byte was a carriage return, so that a line feed after it ends no other line.
    was_return: bool,
    frame: Frame,
    has_data: bool,
}

impl Parser {
    /// Creates a parser for a stream that resumes after event `last_id`.
    #[must_use]
    pub fn after(last_id: &str) -> Self {
        Self { frame: Frame { id: last_id.into(), ..Frame::default() }, ..Self::default() }
    }

    /// Parses the next bytes and returns the events that they complete.
    ///
    /// # Errors
    /// [`TooLong`]. The caller must then close the stream.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, TooLong> {
        let mut frames = Vec::new();
        for &byte in bytes {
            let follows_return = std::mem::replace(&mut self.was_return, byte == b'\r');
            match byte {
                b'\n' if follows_return => {}
                b'\n' | b'\r' => frames.extend(self.end_line()),
                byte => {
                    if self.line.len() + self.frame.data.len() >= EVENT_BYTES_MAX {
                        return Err(TooLong);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(frames)
    }

    fn end_line(&mut self) -> Option<Frame> {
        let line = std::mem::take(&mut self.line);
        let mut line = &*String::from_utf8_lossy(&line);
        if !std::mem::replace(&mut self.is_past_first_line, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.frame.data.push('\n');
                }
                self.frame.data.push_str(value);
            }
            "event" => self.frame.event = value.into(),
            "id" if !value.contains('\0') => self.frame.id = value.into(),
            // A comment, which has no name; `retry`, since the client decides how long to wait; or an unknown field.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Frame> {
        let next = Frame { id: self.frame.id.clone(), ..Frame::default() };
        let frame = std::mem::replace(&mut self.frame, next);
        std::mem::take(&mut self.has_data).then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(bytes: &[u8]) -> Vec<Frame> {
        Parser::default().push(bytes).expect("short")
    }

    fn frame(id: &str, event: &str, data: &str) -> Frame {
        Frame { id: id.into(), event: event.into(), data: data.into() }
    }

    #[test]
    fn events_are_what_the_standard_says() {
        assert_eq!(
            parsed(b": hello\n\nid: 1\nevent: log\ndata: {\"a\":1}\n\n:\n\ndata:x\ndata\ndata:  y\n\n"),
            [frame("1", "log", "{\"a\":1}"), frame("1", "", "x\n\n y")]
        );
        assert_eq!(
            parsed("\u{feff}data: \u{e9}\r\rdata: b\r\n\r\n".as_bytes()),
            [frame("", "", "é"), frame("", "", "b")]
        );
        // An event without data is none, but its id counts. An id with a NUL does not count. A stream that breaks off
        // yields no event.
        assert_eq!(parsed(b"id: 3\nevent: x\n\nretry: 1\nid: a\0b\ndata:\n\ndata: lost\n"), [frame("3", "", "")]);
        assert_eq!(Parser::after("9").push(b"data: a\n\n").expect("short"), [frame("9", "", "a")]);
    }

    #[test]
    fn an_event_over_the_limit_ends_the_stream() {
        let mut parser = Parser::default();
        let line = [b"data: ".to_vec(), vec![b'x'; 1000], b"\n".to_vec()].concat();
        assert!((0..2000).any(|_| parser.push(&line) == Err(TooLong)));
        assert_eq!(Parser::default().push(&vec![b'x'; EVENT_BYTES_MAX + 1]), Err(TooLong));
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_how_they_come(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    &b"data"[..], b":", b" ", b"\r", b"\n", b"\r\n", b"id", b"event", b"x", b"\0", b"\xff", b"\xef\xbb\xbf",
                ]),
                0..60,
            ),
            cuts in prop::collection::vec(1usize..5, 1..20),
        ) {
            let stream = pieces.concat();
            let mut parser = Parser::default();
            let mut frames = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                frames.extend(parser.push(piece).expect("short"));
                rest = after;
            }
            prop_assert_eq!(frames, parsed(&stream));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Parser::default().push(&bytes);
        }
    }
}
