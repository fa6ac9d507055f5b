//! A network that answers as a script says, at once and always alike.

use bytes::Bytes;
use lifeboat_api::call::{CallError, CallRequest, CallResponse, CallResult};
use lifeboat_api::clock::Timestamp;
use lifeboat_vm::network::{HostTime, Landing, LiveNetwork, Network, Timeline, Wish};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// The guest's time that a response takes.
const RESPONSE_TIME: Duration = Duration::from_millis(1);

/// The guest's time after which a slow server's response counts as missing.
const SLOW_TIME: Duration = Duration::from_secs(1);

/// How servers answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Script {
    /// With status 200 and an empty JSON object.
    #[default]
    Answer,
    /// Not at all: the connection is refused.
    Refuse,
    /// With status 500.
    Fail,
    /// Too late.
    Delay,
    /// With a part of the response.
    Cut,
}

impl Script {
    /// All scripts by which a call fails.
    pub(crate) const FAILURES: [Self; 4] = [Self::Refuse, Self::Fail, Self::Delay, Self::Cut];

    /// Describes the failure.
    pub(crate) fn described(self) -> &'static str {
        match self {
            Self::Answer => "status 200",
            Self::Refuse => "a refused connection",
            Self::Fail => "status 500",
            Self::Delay => "no response in time",
            Self::Cut => "a response that was cut off",
        }
    }

    fn result(self, request: &CallRequest) -> CallResult {
        let response =
            |status, body| Ok(Arc::new(CallResponse { status, headers: Vec::new(), body, trailers: Vec::new() }));
        match self {
            Self::Answer => response(200, Bytes::from_static(b"{}")),
            Self::Fail => response(500, Bytes::from_static(b"the server failed")),
            Self::Refuse => Err(CallError::ConnectionRefused { address: request.authority.clone() }),
            Self::Delay => {
                Err(CallError::ResponseTimeout { limit_ms: u64::try_from(SLOW_TIME.as_millis()).unwrap_or(u64::MAX) })
            }
            Self::Cut => Err(CallError::ResponseIncomplete { reason: "the connection was closed".into() }),
        }
    }

    fn time(self) -> Duration {
        if self == Self::Delay { SLOW_TIME } else { RESPONSE_TIME }
    }
}

/// The scripted network of one attempt of a transaction.
pub(crate) struct Scripted {
    script: Script,
    wishes: UnboundedReceiver<Wish>,
    timeline: Arc<Timeline>,
    bytes: Arc<AtomicU64>,
}

impl Scripted {
    /// Returns the network of an attempt, and the side that answers. `known` are the calls of an earlier attempt.
    pub(crate) fn new(script: Script, known: Arc<[lifeboat_api::call::CallRecord]>) -> (Network, Self) {
        let (sender, wishes) = unbounded_channel();
        let timeline = Arc::new(Timeline::new(Arc::new(StillTime)));
        let network = Network::Live(LiveNetwork { known, wishes: sender, timeline: Arc::clone(&timeline) });
        (network, Self { script, wishes, timeline, bytes: Arc::default() })
    }

    /// Returns the counter of the bytes of requests and responses.
    pub(crate) fn bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes)
    }

    /// Answers requests until `attempt` ends.
    pub(crate) async fn serve<T>(mut self, attempt: impl Future<Output = T>) -> T {
        let mut attempt = std::pin::pin!(attempt);
        loop {
            tokio::select! {
                biased;
                output = &mut attempt => return output,
                Some(wish) = self.wishes.recv() => self.answer(wish),
            }
        }
    }

    fn answer(&self, wish: Wish) {
        let seen: Timestamp = self.timeline.read().plus(self.script.time());
        let result = self.script.result(&wish.request);
        let received_bytes = result.as_ref().map_or(0, |response| response.bytes());
        self.bytes.fetch_add(wish.request.bytes() + received_bytes, Ordering::Relaxed);
        // A guest that has ended meanwhile needs no answer.
        let _ = wish.landing.send(Landing { seen, result });
    }
}

/// The time of a host in which nothing takes time.
#[derive(Debug)]
struct StillTime;

impl HostTime for StillTime {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn reaches(&self, _when: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        // Every request is answered, and the guest waits for an answer at most.
        Box::pin(std::future::pending())
    }
}
