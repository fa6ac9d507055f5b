//! A stream of events over as many connections as necessary.

use super::error::json_reason;
use super::sse::Parser;
use super::{Backoff, Client, ClientError, Sent};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use reqwest::Method;
use serde_json::Value;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// The longest silence on a stream of events before the connection counts as broken: three times the server's longest.
pub const SILENCE_MAX: Duration = Duration::from_secs(45);

/// The media type of a stream of events.
const EVENT_STREAM: &str = "text/event-stream";

/// The selection of events that a client receives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// The service whose events are wanted, if only one is.
    pub service: Option<String>,
    /// The only kind of event that is wanted, such as `failover` or `log`.
    pub kind: Option<String>,
    /// Whether to continue with new events.
    pub follow: bool,
}

/// An event of a service or of the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The id with which a client resumes after this event.
    pub id: String,
    /// The kind, such as `failover`.
    pub kind: String,
    /// The whole event; `time` and `text` are among its fields.
    pub data: Value,
}

impl Client {
    /// Returns events in order, from the oldest that the server retains, or after `last_event_id`.
    ///
    /// If a connection breaks or is refused, the client notifies its receiver, connects again and resumes after the
    /// last event. The stream ends with an error once `backoff` allows no more attempts, or if the server reports that
    /// a retry is of no use. An attempt counts as failed unless it brought a new event or lasted for [`SILENCE_MAX`].
    #[must_use]
    pub fn events(
        &self,
        filter: EventFilter,
        last_event_id: Option<String>,
        backoff: Backoff,
    ) -> BoxStream<'static, Result<Event, ClientError>> {
        let following = Following {
            client: self.clone(),
            filter,
            backoff,
            last_id: last_event_id.unwrap_or_default(),
            connection: None,
            was_connected: false,
            failures: 0,
            ready: VecDeque::new(),
            is_over: false,
        };
        stream::unfold(following, |mut following| async move { following.next().await.map(|event| (event, following)) })
            .boxed()
    }
}

struct Following {
    client: Client,
    filter: EventFilter,
    backoff: Backoff,
    last_id: String,
    connection: Option<Connection>,
    was_connected: bool,
    failures: u32,
    ready: VecDeque<Event>,
    is_over: bool,
}

struct Connection {
    bytes: BoxStream<'static, Result<Bytes, ClientError>>,
    parser: Parser,
    since: Instant,
}

impl Following {
    async fn next(&mut self) -> Option<Result<Event, ClientError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.last_id.clone_from(&event.id);
                return Some(Ok(event));
            }
            if self.is_over {
                return None;
            }
            if let Err(error) = self.advance().await {
                let error = error.after_attempts(self.failures + 1);
                // A server that was never reachable, and did not refuse the connection, will probably not return.
                let is_hopeless = !self.was_connected && matches!(error, ClientError::Unreachable { .. });
                self.connection = None;
                self.failures += 1;
                match self.backoff.delay(self.failures) {
                    Some(delay) if error.is_retryable() && !is_hopeless => {
                        self.client.waiting.begins(&error);
                        tokio::time::sleep(delay.max(error.retry_after().unwrap_or_default())).await;
                    }
                    _ => {
                        self.is_over = true;
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    /// Connects, or reads the next events.
    async fn advance(&mut self) -> Result<(), ClientError> {
        let Some(Connection { bytes, parser, since }) = &mut self.connection else {
            let bytes = connect(self.client.clone(), self.filter.clone(), self.last_id.clone()).await?;
            self.connection = Some(Connection { bytes, parser: Parser::after(&self.last_id), since: Instant::now() });
            self.was_connected = true;
            return Ok(());
        };
        let url = self.client.url();
        let interrupted = |reason: &str| ClientError::Interrupted {
            url: url.to_owned(),
            reason: reason.to_owned(),
            may_be_done: false,
        };
        match tokio::time::timeout(SILENCE_MAX, bytes.next()).await {
            Err(_) => Err(interrupted("it sent nothing for too long")),
            Ok(None) if self.filter.follow => Err(interrupted("the stream of events ended")),
            Ok(None) => {
                self.is_over = true;
                self.client.waiting.is_over();
                Ok(())
            }
            Ok(Some(bytes)) => {
                let frames = parser.push(&bytes?).map_err(|error| self.client.bad_reply(error.to_string()))?;
                // A server that closes every connection before it has sent anything counts as failing.
                let has_held = since.elapsed() >= SILENCE_MAX;
                if has_held || frames.iter().any(|frame| frame.id != self.last_id) {
                    self.failures = 0;
                    self.client.waiting.is_over();
                }
                for frame in frames {
                    if frame.id.is_empty() {
                        return Err(self.client.bad_reply("an event has no id".into()));
                    }
                    let data = serde_json::from_str(&frame.data)
                        .map_err(|error| self.client.bad_reply(format!("in an event, {}", json_reason(&error))))?;
                    self.ready.push_back(Event { id: frame.id, kind: frame.event, data });
                }
                Ok(())
            }
        }
    }
}

/// Connects to the stream after event `last_id`, or at its beginning if that is empty.
async fn connect(
    client: Client,
    filter: EventFilter,
    last_id: String,
) -> Result<BoxStream<'static, Result<Bytes, ClientError>>, ClientError> {
    let EventFilter { service, kind, follow } = filter;
    let mut query = vec![("follow", follow.to_string())];
    query.extend(service.map(|service| ("service", service)));
    query.extend(kind.map(|kind| ("event", kind)));
    // The stream has no end: only its beginning and its silences are limited.
    let mut request = client.untimed_request(Method::GET, &["events"])?.query(&query);
    if !last_id.is_empty() {
        request = request.header("last-event-id", &last_id);
    }
    let opening = tokio::time::timeout(SILENCE_MAX, client.open(request, EVENT_STREAM, Sent::READING_STREAM)).await;
    let response = opening.map_err(|_| ClientError::Interrupted {
        url: client.url().to_owned(),
        reason: "it sent nothing for too long".into(),
        may_be_done: false,
    })??;
    Ok(response.bytes_stream().map_err(move |error| client.broken(&error, Sent::READING_STREAM)).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Notice, Server};
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    /// Starts a server that announces a stream of `length` on each connection, but sends only `body`.
    fn cutting(length: usize, body: impl Fn(u32) -> String + Send + 'static) -> (String, Arc<AtomicU32>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let connections = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&connections);
        // The thread ends with the process.
        std::thread::spawn(move || {
            for mut connection in listener.incoming().map_while(Result::ok) {
                let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(read @ 1..) = connection.read(&mut buffer) else { break };
                    request.extend_from_slice(&buffer[..read]);
                }
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: ";
                let body = body(count.fetch_add(1, Relaxed) + 1);
                let _ = connection.write_all(format!("{head}{length}\r\n\r\n{body}").as_bytes());
                let _ = connection.shutdown(Shutdown::Write);
                while let Ok(1..) = connection.read(&mut buffer) {}
            }
        });
        (url, connections)
    }

    /// Returns the results until the end, as words, and the notices meanwhile.
    fn all(url: &str, follow: bool, failures_max: u32) -> (Vec<String>, Vec<&'static str>) {
        let (sender, printed) = std::sync::mpsc::channel();
        let client = Client::new(&Server { url: url.into(), ca: None }, None).expect("a client");
        let client = client.with_notice(move |notice| {
            let word = if matches!(notice, Notice::Back) { "back" } else { "waiting" };
            sender.send(word).expect("somebody listens");
        });
        let backoff = Backoff { first: Duration::ZERO, longest: Duration::ZERO, failures_max };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let filter = EventFilter { follow, ..EventFilter::default() };
        let events = runtime.block_on(client.events(filter, None, backoff).collect::<Vec<_>>());
        let words = events.into_iter().map(|event| match event {
            Ok(event) => event.id,
            Err(ClientError::Interrupted { .. }) => "interrupted".into(),
            Err(ClientError::BadReply { reason, .. }) => reason,
            Err(error) => error.to_string(),
        });
        (words.collect(), printed.try_iter().collect())
    }

    #[test]
    fn connections_without_a_new_event_count_as_failed_attempts() {
        for follow in [false, true] {
            let (url, connections) = cutting(900, |_| ": hello\n\n".into());
            assert_eq!(all(&url, follow, 4), (vec!["interrupted".into()], vec!["waiting"]));
            assert_eq!(connections.load(Relaxed), 4);
        }
        // An event that the client has already is not new.
        let (url, connections) = cutting(900, |_| "id: 1\ndata: {}\n\n".into());
        let (events, printed) = all(&url, true, 2);
        assert_eq!(events.last().map(String::as_str), Some("interrupted"));
        assert_eq!((printed, connections.load(Relaxed)), (vec!["waiting"], 2));
    }

    #[test]
    fn a_connection_that_brought_an_event_resets_the_attempts() {
        let body = |number| if number <= 5 { format!("id: {number}\ndata: {{}}\n\n") } else { String::new() };
        let (url, connections) = cutting(900, body);
        let (events, _) = all(&url, true, 2);
        assert_eq!(events, ["1", "2", "3", "4", "5", "interrupted"]);
        assert_eq!(connections.load(Relaxed), 6);
    }

    #[test]
    fn a_stream_that_comes_to_its_end_is_not_opened_again() {
        let event = "id: 1\ndata: {}\n\n";
        let (url, _) = cutting(event.len(), |_| event.into());
        assert_eq!(all(&url, false, 2), (vec!["1".into()], vec![]));
    }

    #[test]
    fn an_event_without_an_id_is_refused() {
        let (url, _) = cutting(900, |_| "data: {}\n\n".into());
        assert_eq!(all(&url, true, 2), (vec!["an event has no id".into()], vec![]));
    }
}
