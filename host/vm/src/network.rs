//! The network of one transaction, between the guest and its service.
//!
//! A guest makes requests through `wasi:http` (`wasi/http/calls.rs`). In a live transaction, each is a [`Wish`] that the
//! service grants: it records the intent, calls, records the outcome, and lets the [`Landing`] reach the guest. In a
//! replay, the recorded calls take its place, and nothing is sent.
//!
//! What a guest sees depends on one number for each call: the guest's time from which on it sees the outcome.
//! [`Timeline`] tells it. A guest that looks for an outcome finds it if its clock has reached that number, in a replay
//! as in the live transaction.

use futures::future::BoxFuture;
use lifeboat_api::call::{CallRecord, CallRequest, CallResult, RequestHash};
use lifeboat_api::clock::Timestamp;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// What a transaction reaches of the network.
#[derive(Debug, Clone, Default)]
pub enum Network {
    /// Nothing: every request is denied.
    #[default]
    None,
    /// Calls are made now.
    Live(LiveNetwork),
    /// The calls were made before. Any other call ends the guest.
    Recorded(Arc<[CallRecord]>),
}

/// The network of a live transaction.
#[derive(Debug, Clone)]
pub struct LiveNetwork {
    /// The calls of earlier attempts, by their index. A call without a result is in doubt.
    pub known: Arc<[CallRecord]>,
    /// Where the guest's requests go.
    pub wishes: mpsc::UnboundedSender<Wish>,
    /// The guest's clock, as the service sees it.
    pub timeline: Arc<Timeline>,
}

/// A request that the guest waits for.
#[derive(Debug)]
pub struct Wish {
    /// Its place among the calls of the transaction, from 0.
    pub index: u32,
    /// The hash of the request.
    pub hash: RequestHash,
    /// The request.
    pub request: CallRequest,
    /// The guest's time limits.
    pub timeouts: CallTimeouts,
    /// Where the outcome goes.
    pub landing: oneshot::Sender<Landing>,
}

/// The time limits that a guest gives a call. The host has its own, and the shorter of the two applies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallTimeouts {
    /// For the connection.
    pub connect: Option<Duration>,
    /// For the first byte of the response.
    pub first_byte: Option<Duration>,
    /// Between two reads of the response.
    pub between_bytes: Option<Duration>,
}

/// The outcome of a call, for the guest.
#[derive(Debug)]
pub struct Landing {
    /// The guest's time from which on it sees the outcome.
    pub seen: Timestamp,
    /// The outcome.
    pub result: CallResult,
}

/// The host's time, for guests that wait for the network.
pub trait HostTime: std::fmt::Debug + Send + Sync {
    /// Returns the time since some point of the past. It never goes back.
    fn now(&self) -> Duration;

    /// Waits until [`HostTime::now`] is at least `when`.
    fn reaches(&self, when: Duration) -> BoxFuture<'static, ()>;
}

/// The time of the runtime.
#[derive(Debug)]
pub struct RuntimeTime {
    origin: Instant,
}

impl Default for RuntimeTime {
    fn default() -> Self {
        Self { origin: Instant::now() }
    }
}

impl HostTime for RuntimeTime {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn reaches(&self, when: Duration) -> BoxFuture<'static, ()> {
        Box::pin(sleep_until(self.origin + when))
    }
}

/// The clock of a guest in a live transaction, as its service sees it.
///
/// The clock stands still while the guest computes. While the guest waits for the network, it goes on.
#[derive(Debug)]
pub struct Timeline {
    time: Arc<dyn HostTime>,
    reading: Mutex<Reading>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Reading {
    now: Timestamp,
    waiting_since: Option<Duration>,
}

impl Timeline {
    /// Creates the clock of a guest. The transaction sets it.
    #[must_use]
    pub fn new(time: Arc<dyn HostTime>) -> Self {
        Self { time, reading: Mutex::default() }
    }

    /// Returns the guest's time.
    #[must_use]
    pub fn read(&self) -> Timestamp {
        let Reading { now, waiting_since } = *self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        waiting_since.map_or(now, |since| now.plus(self.time.now().saturating_sub(since)))
    }

    /// Notes that the guest's clock shows `now`, and goes on from there if the guest has been waiting since a time of
    /// the host.
    pub(crate) fn set(&self, now: Timestamp, waiting_since: Option<Duration>) {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = Reading { now, waiting_since };
    }

    pub(crate) fn time(&self) -> &dyn HostTime {
        &*self.time
    }
}
