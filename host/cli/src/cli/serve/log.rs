//! The log of a server for its operator: events and notes, in their order.
//!
//! A separate thread prints them, so that no caller waits for a blocked terminal.

use lifeboat_api::clock::{Clock, SystemClock, Timestamp, Utc};
use lifeboat_api::event::Event;
use lifeboat_api::size::grouped;
use lifeboat_api::text::plain;
use serde::Serialize;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

/// The most events that wait to be printed. Further events are counted and discarded. The server's own notes are few,
/// and always printed.
const EVENTS_MAX: usize = 4_096;

/// The longest wait at the end of a server for its last lines.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// The variable by which systemd tells a process that its output goes to the journal: `DEVICE:INODE` of the stream.
const JOURNAL_VARIABLE: &str = "JOURNAL_STREAM";

enum Line {
    /// A note for standard error, with its time unless the journal adds one.
    Note(Timestamp, String),
    /// An event for standard error, with its time unless the journal adds one.
    Event(Timestamp, String),
    /// An event for standard output.
    Json(String),
    /// A request to report that all lines before it are printed.
    Flush(Sender<()>),
}

/// The log of a server. Clones share one thread, which ends with the last of them.
#[derive(Debug, Clone)]
pub(super) struct Log {
    lines: Sender<Line>,
    waiting: Arc<Waiting>,
    events_are_json: bool,
}

/// The events that wait to be printed.
#[derive(Debug, Default)]
struct Waiting {
    count: AtomicUsize,
    /// The number of events discarded since the last report.
    not_printed: AtomicU64,
}

impl Log {
    /// Starts the log. JSON events go to standard output, others to standard error.
    pub(super) fn start(events_are_json: bool) -> io::Result<Self> {
        let stderr = std::fs::metadata("/dev/stderr").map(|file| (file.dev(), file.ino())).ok();
        let journal = std::env::var(JOURNAL_VARIABLE).ok().and_then(|text| journal_stream(&text));
        let has_times = stderr.is_none() || stderr != journal;
        let (lines, printed) = mpsc::channel();
        let log = Self { lines, waiting: Arc::default(), events_are_json };
        let waiting = Arc::clone(&log.waiting);
        std::thread::Builder::new().name("log".into()).spawn(move || print(&printed, has_times, &waiting))?;
        Ok(log)
    }

    /// Adds a line of the server's own.
    pub(super) fn note(&self, text: &str) {
        self.add(Line::Note(SystemClock.now(), format!("lifeboat: {}", plain(text))));
    }

    pub(super) fn event(&self, event: &Event, time: Timestamp) {
        if self.waiting.count.fetch_add(1, Ordering::Relaxed) >= EVENTS_MAX {
            self.waiting.count.fetch_sub(1, Ordering::Relaxed);
            self.waiting.not_printed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.add(if self.events_are_json {
            Line::Json(Timed::new(time, event).json())
        } else {
            Line::Event(time, event.to_string())
        });
    }

    /// Waits until all earlier lines are printed, for at most [`FLUSH_MAX`].
    pub(super) fn flush(&self) {
        let (flushed, is_flushed) = mpsc::channel();
        self.add(Line::Flush(flushed));
        let _ = is_flushed.recv_timeout(FLUSH_MAX);
    }

    fn add(&self, line: Line) {
        // The thread lives as long as `self`.
        let _ = self.lines.send(line);
    }
}

/// Prints lines until the last [`Log`] is gone. Errors are ignored: they mean that a stream was closed.
fn print(lines: &Receiver<Line>, has_times: bool, waiting: &Waiting) {
    let tell = |time: Timestamp, text: &str| {
        let mut stderr = io::stderr().lock();
        let _ = if has_times { writeln!(stderr, "{} {text}", Utc(time)) } else { writeln!(stderr, "{text}") };
    };
    for line in lines {
        if matches!(line, Line::Event(..) | Line::Json(_)) {
            waiting.count.fetch_sub(1, Ordering::Relaxed);
        }
        let missed = waiting.not_printed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            let missed = grouped(missed);
            tell(
                SystemClock.now(),
                &format!("lifeboat: {missed} events were not printed: they occurred faster than they could be printed"),
            );
        }
        match line {
            Line::Note(time, text) | Line::Event(time, text) => tell(time, &text),
            Line::Json(line) => drop(writeln!(io::stdout().lock(), "{line}")),
            Line::Flush(flushed) => drop(flushed.send(())),
        }
    }
}

/// An event with its time, as printed.
#[derive(Serialize)]
struct Timed<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

impl<'a> Timed<'a> {
    fn new(time: Timestamp, event: &'a Event) -> Self {
        Self { time: format!("{:.6}", Utc(time)), event }
    }

    fn json(&self) -> String {
        lifeboat_api::lines::escaped_text(serde_json::to_string(self).unwrap_or_default())
    }
}

/// Parses the device and inode of the journal from [`JOURNAL_VARIABLE`].
fn journal_stream(text: &str) -> Option<(u64, u64)> {
    let (device, file) = text.split_once(':')?;
    Some((device.parse().ok()?, file.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::name::Name;

    #[test]
    fn the_journal_of_systemd_is_known_by_its_stream() {
        assert_eq!(journal_stream("9:4711"), Some((9, 4_711)));
        for wrong in ["", "9", ":", "9:x", "9:4711:"] {
            assert_eq!(journal_stream(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_event_is_printed_with_its_time() {
        let event = Event::Started { service: Name::new("bank").expect("a name") };
        let time = Timestamp(1_772_366_400_000_001_000);
        let line = r#"{"time":"2026-03-01T12:00:00.000001Z","event":"started","service":"bank"}"#;
        assert_eq!(Timed::new(time, &event).json(), line);
    }

    /// Returns how many events were counted as not printed, and how many notes and events were queued.
    fn queued_of(events: usize, notes: usize) -> (usize, usize, usize) {
        let (lines, unread) = mpsc::channel();
        let log = Log { lines, waiting: Arc::default(), events_are_json: false };
        let event = Event::Started { service: Name::new("bank").expect("a name") };
        (0..events).for_each(|_| log.event(&event, Timestamp(0)));
        (0..notes).for_each(|_| log.note("a line"));
        let not_printed = log.waiting.not_printed.load(Ordering::Relaxed);
        drop(log);
        let (notes, events): (Vec<_>, Vec<_>) = unread.iter().partition(|line| matches!(line, Line::Note(..)));
        (not_printed.try_into().expect("few"), notes.len(), events.len())
    }

    #[test]
    fn events_that_nobody_prints_are_counted_beyond_the_limit() {
        assert_eq!(queued_of(EVENTS_MAX + 2, 0), (2, 0, EVENTS_MAX));
    }

    #[test]
    fn a_note_is_queued_however_many_events_wait() {
        assert_eq!(queued_of(EVENTS_MAX + 2, 1), (2, 1, EVENTS_MAX));
    }
}
