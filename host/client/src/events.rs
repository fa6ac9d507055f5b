//! Events, followed over as many connections as it takes.

use super::sse::Parser;
use super::{Backoff, Client, ClientError};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use reqwest::Method;
use serde_json::Value;
use std::collections::VecDeque;
use std::time::Duration;

/// The longest silence on a stream of events before it counts as broken: three times the server's longest.
pub const SILENCE_MAX: Duration = Duration::from_secs(45);

/// The type of a stream of events.
const EVENT_STREAM: &str = "text/event-stream";

/// Which events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Those of this service alone.
    pub service: Option<String>,
    /// Those of this kind alone, such as `failover` or `log`.
    pub kind: Option<String>,
    /// Whether to go on with what happens from now on.
    pub follow: bool,
}

/// Something that happened to a service, or to the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What to give as the last event to go on after this one.
    pub id: String,
    /// Which kind, such as `failover`.
    pub kind: String,
    /// All that is known of it; `time` and `text` among others.
    pub data: Value,
}

impl Client {
    /// Events in their order, from what the server keeps of the past on, or after `last_event_id`. A connection that
    /// breaks, or cannot be made since nobody listens, is made again and goes on after the last event, of which the client's
    /// notice is told; the stream ends with an error once `backoff` has no more attempts, or the server says that there is
    /// no use.
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
    connection: Option<(BoxStream<'static, Result<Bytes, ClientError>>, Parser)>,
    was_connected: bool,
    failures: u32,
    ready: VecDeque<Event>,
    is_over: bool,
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
                // What was never reached, and not for want of a server, is no server that comes back.
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

    /// Connects, or takes what comes next.
    async fn advance(&mut self) -> Result<(), ClientError> {
        let Some((bytes, parser)) = &mut self.connection else {
            let bytes = connect(self.client.clone(), self.filter.clone(), self.last_id.clone()).await?;
            self.connection = Some((bytes, Parser::after(&self.last_id)));
            self.was_connected = true;
            self.client.waiting.is_over();
            return Ok(());
        };
        let url = self.client.url();
        let interrupted = |reason: &str| ClientError::Interrupted { url: url.to_owned(), reason: reason.to_owned() };
        match tokio::time::timeout(SILENCE_MAX, bytes.next()).await {
            Err(_) => Err(interrupted("it has been silent for too long")),
            Ok(None) if self.filter.follow => Err(interrupted("the stream of events ended")),
            Ok(None) => {
                self.is_over = true;
                Ok(())
            }
            Ok(Some(bytes)) => {
                let frames = parser.push(&bytes?).map_err(|error| self.client.bad_reply(error.to_string()))?;
                self.failures = 0;
                for frame in frames {
                    let data = serde_json::from_str(&frame.data)
                        .map_err(|error| self.client.bad_reply(format!("an event is not JSON: {error}")))?;
                    self.ready.push_back(Event { id: frame.id, kind: frame.event, data });
                }
                Ok(())
            }
        }
    }
}

/// Begins after event `last_id`; at the beginning, if that is empty.
async fn connect(
    client: Client,
    filter: EventFilter,
    last_id: String,
) -> Result<BoxStream<'static, Result<Bytes, ClientError>>, ClientError> {
    let EventFilter { service, kind, follow } = filter;
    let mut query = vec![("follow", follow.to_string())];
    query.extend(service.map(|service| ("service", service)));
    query.extend(kind.map(|kind| ("event", kind)));
    // It has no end: only its beginning and its silences are timed.
    let mut request = client.untimed_request(Method::GET, &["events"])?.query(&query);
    if !last_id.is_empty() {
        request = request.header("last-event-id", &last_id);
    }
    let opening = tokio::time::timeout(SILENCE_MAX, client.open(request, EVENT_STREAM)).await;
    let response = opening.map_err(|_| ClientError::Interrupted {
        url: client.url().to_owned(),
        reason: "it has been silent for too long".into(),
    })??;
    Ok(response.bytes_stream().map_err(move |error| client.broken(&error)).boxed())
}
