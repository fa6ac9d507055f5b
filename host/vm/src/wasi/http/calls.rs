//! The calls of a guest: `outgoing-handler.handle`, and the responses.
//!
//! ```text
//!   handle -> unsent -> sent ------------> landed -> taken
//!                |        (a look at any     (its number is known,
//!                |         response)          and the clock reaches it)
//!                +-> dropped: never sent
//! ```
//!
//! A *look* is a `get` or `ready` of a response, or a `poll` or `block` of its pollable. The first look sends every
//! request that is whole, in the order of their `handle`s. A look that finds a response missing moves the clock by
//! [`LOOK_TIME`] afterwards, so that what a guest sees later has a later number. See `network.rs`.
//!
//! A call belongs to the call of the guest in which it was made. Later, its response is an error.

use super::super::{FUEL_PER_POLLABLE, Wasi};
use super::Held;
use super::bindings::wasi::http::outgoing_handler;
use super::bindings::wasi::http::types::ErrorCode;
use super::error::HttpError;
use super::incoming_response::FutureIncomingResponse;
use super::outgoing_request::{OutgoingRequest, RequestOptions};
use crate::network::{CallTimeouts, Landing, LiveNetwork, Network, Timeline, Wish};
use crate::stop::Stop;
use lifeboat_api::call::{
    CALL_BYTES_PER_TRANSACTION_MAX, CALLS_PER_TRANSACTION_MAX, CallError, CallRecord, CallRequest, CallResult,
    DoubtReason, NEVER_SEEN,
};
use lifeboat_api::clock::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::oneshot;
use wasmtime::Result;
use wasmtime::component::Resource;

/// By how much a look that finds a response missing moves the guest's clock.
pub(crate) const LOOK_TIME: Duration = Duration::from_micros(1);

/// The longest wait at once. A clock cannot express the longest that a guest may ask for.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The state of a call.
#[derive(Debug)]
enum State {
    Unsent {
        request: Box<OutgoingRequest>,
        timeouts: CallTimeouts,
    },
    /// It is the call of this index, whose outcome is unknown yet. Without a receiver it stays unknown.
    Sent {
        index: usize,
        landing: Option<oneshot::Receiver<Landing>>,
    },
    Landed {
        seen: Timestamp,
        result: CallResult,
    },
    Taken,
}

/// The calls of a guest.
#[derive(Debug, Default)]
pub(in crate::wasi) struct Calls {
    network: Network,
    /// The calls whose responses the guest holds, by their numbers.
    held: BTreeMap<u64, State>,
    /// The number of calls so far.
    count: u64,
    /// The calls that were sent in the current call of the guest.
    sent: Vec<CallRecord>,
    /// What these sent.
    sent_bytes: u64,
    /// The numbers of the calls that the guest's pollables are for.
    pollables: HashMap<u32, u64>,
}

impl Calls {
    /// Begins a call of the guest.
    pub(in crate::wasi) fn enter(&mut self, network: Network, now: Timestamp) {
        self.network = network;
        self.note_time(now, None);
    }

    /// Ends a call of the guest, which keeps no response that it has not taken. Returns the calls that it made, in
    /// order, and the bodies of the requests that were not sent.
    pub(in crate::wasi) fn leave(&mut self) -> (Vec<CallRecord>, Vec<u64>) {
        self.network = Network::None;
        self.sent_bytes = 0;
        let mut unsent = Vec::new();
        for state in self.held.values_mut() {
            if let State::Taken = state {
                continue;
            }
            if let State::Unsent { request, .. } = state {
                unsent.extend(request.body);
            }
            let reason = "the request belongs to an earlier call of the guest".to_owned();
            *state = State::Landed { seen: Timestamp(0), result: Err(CallError::Internal { reason }) };
        }
        (std::mem::take(&mut self.sent), unsent)
    }

    /// Returns whether the guest may make requests.
    pub(super) fn is_on(&self) -> bool {
        !matches!(self.network, Network::None)
    }

    /// Takes a request from the guest. Returns the number of the call.
    pub(super) fn handle(&mut self, request: OutgoingRequest, options: RequestOptions) -> u64 {
        let RequestOptions { connect_ns, first_byte_ns, between_bytes_ns } = options;
        let duration = |nanoseconds: Option<u64>| nanoseconds.map(Duration::from_nanos);
        let timeouts = CallTimeouts {
            connect: duration(connect_ns),
            first_byte: duration(first_byte_ns),
            between_bytes: duration(between_bytes_ns),
        };
        self.count += 1;
        self.held.insert(self.count, State::Unsent { request: Box::new(request), timeouts });
        self.count
    }

    /// Forgets a call whose response the guest drops. Returns the number of its body if it was never sent.
    pub(super) fn forget(&mut self, number: u64) -> Option<u64> {
        match self.held.remove(&number) {
            Some(State::Unsent { request, .. }) => request.body,
            _ => None,
        }
    }

    /// Notes that a pollable is for a call.
    pub(super) fn subscribe(&mut self, pollable: u32, number: u64) {
        self.pollables.insert(pollable, number);
    }

    /// Returns the call that a pollable is for.
    pub(in crate::wasi) fn of_pollable(&self, pollable: u32) -> Option<u64> {
        self.pollables.get(&pollable).copied()
    }

    /// Notes that a pollable is gone.
    pub(in crate::wasi) fn unsubscribe(&mut self, pollable: u32) {
        self.pollables.remove(&pollable);
    }

    /// Returns whether the outcome of a call is there, by the guest's clock.
    fn is_ready(&self, number: u64, now: Timestamp) -> bool {
        match self.held.get(&number) {
            Some(State::Landed { seen, .. }) => *seen <= now,
            Some(State::Taken) | None => true,
            Some(State::Unsent { .. } | State::Sent { .. }) => false,
        }
    }

    /// Moves the outcomes that have arrived to their calls.
    fn collect(&mut self) {
        let mut arrived = Vec::new();
        for (number, state) in &mut self.held {
            if let State::Sent { landing: Some(landing), .. } = state
                && let Ok(landing) = landing.try_recv()
            {
                arrived.push((*number, landing));
            }
        }
        arrived.into_iter().for_each(|(number, landing)| self.land(number, landing));
    }

    fn land(&mut self, number: u64, landing: Landing) {
        let Landing { seen, result } = landing;
        if let Some(state @ State::Sent { .. }) = self.held.get_mut(&number) {
            if let State::Sent { index, .. } = state
                && let Some(record) = self.sent.get_mut(*index)
            {
                (record.seen, record.result) = (seen, Some(result.clone()));
            }
            *state = State::Landed { seen, result };
        }
    }

    /// Takes the outcome of a call that is ready. None if the guest has taken it.
    fn take(&mut self, number: u64) -> Option<CallResult> {
        match std::mem::replace(self.held.get_mut(&number)?, State::Taken) {
            State::Landed { result, .. } => Some(result),
            _ => None,
        }
    }

    /// Sends a request, or answers it at once.
    ///
    /// # Errors
    /// The request is none of those that were recorded.
    fn send(
        &mut self,
        number: u64,
        request: std::result::Result<CallRequest, CallError>,
        timeouts: CallTimeouts,
        now: Timestamp,
    ) -> Result<()> {
        let landed = |result| State::Landed { seen: now, result };
        let request = request.and_then(|request| self.count_in(&request, now).map(|()| request));
        let state = match request {
            // These answers depend on the guest alone, so nothing records them.
            Err(error) => landed(Err(error)),
            Ok(request) => {
                let (index, hash) = (self.sent.len(), request.hash());
                let known = match &self.network {
                    Network::Live(LiveNetwork { known, .. }) | Network::Recorded(known) => {
                        known.iter().find(|known| known.index as usize == index).cloned()
                    }
                    Network::None => None,
                };
                let index_number = u32::try_from(index)?;
                let mut record = CallRecord {
                    index: index_number,
                    hash,
                    method: request.method.clone(),
                    target: request.target(),
                    seen: NEVER_SEEN,
                    result: None,
                };
                let state = match (&self.network, known) {
                    (Network::Recorded(_), Some(known)) if known.hash == hash => match known.result {
                        Some(result) if known.seen < NEVER_SEEN => {
                            (record.seen, record.result) = (known.seen, Some(result.clone()));
                            State::Landed { seen: known.seen, result }
                        }
                        _ => State::Sent { index, landing: None },
                    },
                    (Network::Recorded(_), known) => {
                        let instead = match known {
                            Some(known) => format!("the record has another request to {}", known.target),
                            None => "the record has no such call".to_owned(),
                        };
                        let (method, target) = (&record.method, &record.target);
                        return Err(Stop::trap(format!("call {index} is {method} {target}: {instead}")));
                    }
                    (_, Some(CallRecord { hash: known, result: Some(result), seen, .. })) if known == hash => {
                        let seen = seen.min(Timestamp(NEVER_SEEN.0 - 1));
                        (record.seen, record.result) = (seen, Some(result.clone()));
                        State::Landed { seen, result }
                    }
                    (_, Some(known)) => {
                        let result = Err(CallError::InDoubt { reason: doubt(index, &known, hash == known.hash) });
                        (record.seen, record.result) = (now, Some(result.clone()));
                        landed(result)
                    }
                    (Network::Live(LiveNetwork { wishes, .. }), None) => {
                        let (sender, receiver) = oneshot::channel();
                        let wish = Wish { index: index_number, hash, request, timeouts, landing: sender };
                        // A service that is gone drops the guest, too.
                        let _ = wishes.send(wish);
                        State::Sent { index, landing: Some(receiver) }
                    }
                    (Network::None, None) => State::Sent { index, landing: None },
                };
                self.sent.push(record);
                state
            }
        };
        self.held.insert(number, state);
        Ok(())
    }

    /// Counts a request against the bounds of a transaction.
    fn count_in(&mut self, request: &CallRequest, now: Timestamp) -> std::result::Result<(), CallError> {
        let limit = |reason| Err(CallError::Limit { reason });
        if self.sent.len() >= CALLS_PER_TRANSACTION_MAX {
            return limit(format!("a transaction may make {CALLS_PER_TRANSACTION_MAX} calls"));
        }
        // What the guest does not see yet does not count, because a replay has it at another time.
        let received = self.sent.iter().filter(|record| record.seen <= now).filter_map(|record| record.result.as_ref());
        let received_bytes: u64 = received.map(received_bytes).sum();
        let sent_bytes = self.sent_bytes.saturating_add(request.bytes());
        if sent_bytes.saturating_add(received_bytes) > CALL_BYTES_PER_TRANSACTION_MAX {
            let max = lifeboat_api::size::Bytes(CALL_BYTES_PER_TRANSACTION_MAX);
            return limit(format!("the calls of a transaction may send and receive {max}"));
        }
        self.sent_bytes = sent_bytes;
        Ok(())
    }

    /// Tells the service the guest's time, which goes on if it waits.
    pub(in crate::wasi) fn note_time(&self, now: Timestamp, waiting_since: Option<Duration>) {
        if let Some(timeline) = self.timeline() {
            timeline.set(now, waiting_since);
        }
    }

    /// Returns the guest's clock as the service sees it, in a live transaction.
    fn timeline(&self) -> Option<&Arc<Timeline>> {
        if let Network::Live(LiveNetwork { timeline, .. }) = &self.network { Some(timeline) } else { None }
    }

    /// Returns whether the outcome of one of these calls may arrive at any time.
    fn is_in_flight(&self, numbers: &[u64]) -> bool {
        let is_awaited = |number| matches!(self.held.get(number), Some(State::Sent { landing: Some(_), .. }));
        numbers.iter().any(is_awaited)
    }

    /// Returns the earliest of the guest's times at which one of these calls is ready.
    fn earliest(&self, numbers: &[u64]) -> Option<Timestamp> {
        let seen = |number| match self.held.get(number) {
            Some(State::Landed { seen, .. }) => Some(*seen),
            _ => None,
        };
        numbers.iter().filter_map(seen).min()
    }

    /// Waits until the outcome of one of these calls arrives, or until `until`.
    async fn arrival(&mut self, numbers: &[u64], until: Option<Duration>) {
        let timer = until.zip(self.timeline()).map(|(until, timeline)| timeline.time().reaches(until));
        let mut timer = pin!(timer);
        poll_fn(|cx| {
            let mut arrived = None;
            for number in numbers {
                let Some(State::Sent { landing, .. }) = self.held.get_mut(number) else { continue };
                let Some(receiver) = landing else { continue };
                match Pin::new(receiver).poll(cx) {
                    Poll::Ready(Ok(landing)) => {
                        arrived = Some((*number, landing));
                        break;
                    }
                    // The service is gone. It drops the guest, too.
                    Poll::Ready(Err(_)) => *landing = None,
                    Poll::Pending => {}
                }
            }
            if let Some((number, landing)) = arrived {
                self.land(number, landing);
                return Poll::Ready(());
            }
            match timer.as_mut().as_pin_mut() {
                Some(timer) => timer.poll(cx),
                None if self.is_in_flight(numbers) => Poll::Pending,
                None => Poll::Ready(()),
            }
        })
        .await;
    }
}

/// Returns the bytes of a response.
fn received_bytes(result: &CallResult) -> u64 {
    result.as_ref().map_or(0, |response| response.bytes())
}

/// Says why a call is not made.
fn doubt(index: usize, known: &CallRecord, is_same: bool) -> String {
    let CallRecord { method, target, .. } = known;
    match (is_same, known.doubt()) {
        (true, Some(DoubtReason::TooLarge)) => format!(
            "call {index}, {method} {target}, was made by an earlier attempt, and its response was too large to be kept; it \
             is not made again"
        ),
        (true, _) => format!(
            "call {index} of an earlier attempt, {method} {target}, may or may not have arrived, and is not made again"
        ),
        (false, _) => format!(
            "an earlier attempt made another request as call {index}, {method} {target}; make the same requests in each \
             attempt"
        ),
    }
}

impl Wasi {
    /// Sends every request that is whole. The guest waits for the responses of `awaited`.
    ///
    /// # Errors
    /// A request that the guest waits for is not whole, or the record has another.
    fn send_calls(&mut self, awaited: &[u64]) -> Result<()> {
        let unsent = |(number, state): (&u64, &State)| matches!(state, State::Unsent { .. }).then_some(*number);
        let unsent: Vec<u64> = self.http.calls.held.iter().filter_map(unsent).collect();
        for number in unsent {
            let Some(State::Unsent { request, .. }) = self.http.calls.held.get(&number) else { continue };
            let body = request.body.and_then(|body| self.http.bodies.get(&body));
            if body.is_some_and(|body| body.has_writer) {
                if awaited.contains(&number) {
                    let problem = "the guest waits for the response to a request whose body it has not finished";
                    return Err(Stop::trap(problem.into()));
                }
                continue;
            }
            let Some(State::Unsent { request, timeouts }) = self.http.calls.held.remove(&number) else { continue };
            let request = self.whole_request(*request);
            self.charge_body(request.as_ref().map_or(0, |request| request.body.len()));
            let now = Timestamp(self.now_ns);
            self.http.calls.send(number, request, timeouts, now)?;
        }
        Ok(())
    }

    /// Looks whether the responses of these calls are there. Returns those that are.
    fn look(&mut self, numbers: &[u64]) -> Result<Vec<u64>> {
        // Every call is looked at, whether the guest waits for it or not.
        let held = self.http.calls.held.len() as u64;
        self.owed_fuel = self.owed_fuel.saturating_add(FUEL_PER_POLLABLE.saturating_mul(held));
        self.http.calls.collect();
        self.send_calls(numbers)?;
        Ok(self.ready_calls(numbers))
    }

    /// Returns which of these calls are ready, in ascending order.
    fn ready_calls(&self, numbers: &[u64]) -> Vec<u64> {
        let now = Timestamp(self.now_ns);
        let mut ready: Vec<u64> =
            numbers.iter().copied().filter(|number| self.http.calls.is_ready(*number, now)).collect();
        ready.sort_unstable();
        ready
    }

    /// Moves the clock by [`LOOK_TIME`], because a look has found a response missing.
    fn has_missed(&mut self) {
        self.set_now(Timestamp(self.now_ns).plus(LOOK_TIME).0);
    }

    /// Returns whether the response of a call is there.
    pub(in crate::wasi) fn is_call_ready(&mut self, number: u64) -> Result<bool> {
        let is_ready = !self.look(&[number])?.is_empty();
        if !is_ready {
            self.has_missed();
        }
        Ok(is_ready)
    }

    /// Returns the response of a call, if it is there. The inner option is none if the guest has taken it.
    pub(super) fn call_result(&mut self, number: u64) -> Result<Option<Option<CallResult>>> {
        if !self.is_call_ready(number)? {
            return Ok(None);
        }
        Ok(Some(self.http.calls.take(number)))
    }

    /// Returns which of these calls are ready, in ascending order, and waits if none is and `may_wait`. A wait ends at
    /// the earliest of the guest's timers, whose time is `timer_ns`, too. The clock shows when.
    ///
    /// # Errors
    /// Nothing of what the guest waits for can happen, or its sleeps exceed its deadline.
    pub(in crate::wasi) async fn poll_calls(
        &mut self,
        numbers: &[u64],
        timer_ns: Option<u64>,
        may_wait: bool,
    ) -> Result<Vec<u64>> {
        let ready = self.look(numbers)?;
        if !may_wait || !ready.is_empty() {
            if ready.len() < numbers.len() {
                self.has_missed();
            }
            return Ok(ready);
        }
        let (start, timeline) = (Timestamp(self.now_ns), self.http.calls.timeline().cloned());
        let host_now = || timeline.as_ref().map_or(Duration::ZERO, |timeline| timeline.time().now());
        let began = host_now();
        loop {
            let target = self.http.calls.earliest(numbers).into_iter().chain(timer_ns.map(Timestamp)).min();
            // The host's time at which the guest's clock reaches the target.
            let until = target.map(|target| {
                began.saturating_add(Duration::from_nanos(target.0.saturating_sub(start.0)).min(WAIT_MAX))
            });
            let is_in_flight = self.http.calls.is_in_flight(numbers);
            if is_in_flight && until.is_none_or(|until| host_now() < until) {
                self.http.calls.note_time(start, Some(began));
                self.http.calls.arrival(numbers, until).await;
                // Others may have arrived before the guest runs again, at earlier times.
                self.http.calls.collect();
                continue;
            }
            let Some(target) = target else {
                return Err(Stop::trap("the guest waits for an event that never happens".into()));
            };
            // If nothing can arrive, the wait takes no time, so it counts as a sleep.
            match is_in_flight {
                true => self.set_now(target.0.max(self.now_ns)),
                false => self.sleep_until(target.0)?,
            }
            let ready = self.ready_calls(numbers);
            if ready.len() < numbers.len() {
                self.has_missed();
            }
            return Ok(ready);
        }
    }
}

impl outgoing_handler::Host for Wasi {
    fn handle(
        &mut self,
        request: Resource<OutgoingRequest>,
        options: Option<Resource<RequestOptions>>,
    ) -> std::result::Result<Resource<FutureIncomingResponse>, HttpError> {
        let options = options.map(|options| self.take(options)).transpose()?;
        let request = self.take(request)?;
        if !self.http.calls.is_on() {
            self.observed.denied_requests += 1;
            self.http.end_message(request.body);
            return Err(ErrorCode::HttpRequestDenied.into());
        }
        let request_bytes = request.content_bytes();
        let number = self.http.calls.handle(request, options.unwrap_or_default());
        Ok(self.hold(FutureIncomingResponse { number, request_bytes })?)
    }
}
