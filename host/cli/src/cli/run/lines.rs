//! Lines of input, each of limited length.

use lifeboat_api::lines::Line;
use serde::Serialize;
use std::io::{self, BufRead, BufReader, Read};
use std::task::{Context, Poll};
use tokio::sync::mpsc::{self, error::TryRecvError};

/// The number of lines that are read ahead.
const READ_AHEAD: usize = 64;

/// Lines that were read ahead, and that nobody has taken.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Waiting {
    pub(crate) lines: usize,
    /// Whether the input may have more: no further lines are read ahead.
    pub(crate) may_be_more: bool,
}

/// A reader of lines on its own thread, because a blocking read from a terminal cannot be awaited.
pub(crate) struct Lines(mpsc::Receiver<io::Result<Line>>);

impl Lines {
    pub(crate) fn read(input: impl Read + Send + 'static, line_bytes_max: usize) -> Self {
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        std::thread::spawn(move || {
            let mut input = LineReader::new(BufReader::with_capacity(64 * 1024, input), line_bytes_max);
            for number in 1.. {
                let line = match input.read_line() {
                    Ok(None) => return,
                    Ok(Some(bytes)) => Ok(Line { number, bytes }),
                    Err(error) => Err(error),
                };
                let is_last = line.is_err();
                if sender.blocking_send(line).is_err() || is_last {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// Returns the next line, or None at the end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        self.0.recv().await.transpose()
    }

    /// Polls for the next line, for a stream.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Line>>> {
        self.0.poll_recv(cx)
    }

    /// Returns the lines that wait to be taken.
    pub(crate) fn waiting(&self) -> Waiting {
        let lines = self.0.len();
        Waiting { lines, may_be_more: lines == READ_AHEAD }
    }

    /// Stops reading, and returns whether there may be more lines: those that were read ahead, or else, `if_unread`,
    /// those that nobody has read yet.
    pub(crate) fn give_up(&mut self, if_unread: bool) -> bool {
        let next = self.0.try_recv();
        self.0.close();
        match next {
            Ok(_) => true,
            Err(TryRecvError::Empty) => if_unread,
            Err(TryRecvError::Disconnected) => false,
        }
    }
}

/// A reader of lines that holds at most `bytes_max` bytes of each.
pub(crate) struct LineReader<R> {
    input: R,
    bytes_max: usize,
    /// Whether the end was read. A terminal would go on after it, so it is not read twice.
    is_at_end: bool,
}

impl<R: BufRead> LineReader<R> {
    pub(crate) fn new(input: R, bytes_max: usize) -> Self {
        Self { input, bytes_max, is_at_end: false }
    }

    /// Reads up to a line feed, which is dropped, or to the end. Of a line that is too long, only the length is
    /// returned.
    pub(crate) fn read_line(&mut self) -> io::Result<Option<Result<Vec<u8>, usize>>> {
        let mut line = Vec::new();
        let mut length = 0;
        let mut is_empty = true;
        while !self.is_at_end {
            let buffer = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if buffer.is_empty() {
                self.is_at_end = true;
                break;
            }
            is_empty = false;
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            length += part.len();
            if length <= self.bytes_max {
                line.extend_from_slice(part);
            }
            let consumed = end.map_or(buffer.len(), |end| end + 1);
            self.input.consume(consumed);
            if end.is_some() {
                break;
            }
        }
        Ok((!is_empty).then_some(if length <= self.bytes_max { Ok(line) } else { Err(length) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    fn all(input: &[u8], bytes_max: usize) -> Vec<Result<Vec<u8>, usize>> {
        let mut reader = LineReader::new(BufReader::with_capacity(3, input), bytes_max);
        std::iter::from_fn(|| reader.read_line().expect("a slice can be read")).collect()
    }

    /// What is typed on a terminal. Each text ends with a line feed or with Ctrl-D, and an empty one is Ctrl-D alone.
    struct Typed(VecDeque<&'static str>);

    impl Read for Typed {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let text = self.0.pop_front().expect("it is not read after its end");
            buffer[..text.len()].copy_from_slice(text.as_bytes());
            Ok(text.len())
        }
    }

    #[test]
    fn lines_are_bodies_byte_for_byte() {
        let bodies = all(b"a\r\n\n\xff\x00\nlast", 10);
        assert_eq!(bodies, [Ok(b"a\r".to_vec()), Ok(vec![]), Ok(vec![0xff, 0]), Ok(b"last".to_vec())]);
        assert_eq!(all(b"", 10), []);
    }

    #[test]
    fn end_of_the_input_after_a_line_without_a_line_feed_is_read_once() {
        let mut reader = LineReader::new(BufReader::new(Typed(["a\n", "b", ""].into())), 10);
        for expected in [Some(Ok(b"a".to_vec())), Some(Ok(b"b".to_vec())), None, None] {
            assert_eq!(reader.read_line().expect("it can be read"), expected);
        }
    }

    #[test]
    fn a_line_over_the_limit_is_only_measured() {
        assert_eq!(all(b"12345\n123456\nok\n", 5), [Ok(b"12345".to_vec()), Err(6), Ok(b"ok".to_vec())]);
    }
}
