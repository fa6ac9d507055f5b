//! The calls of a transaction to the network: each is made once, and recorded before and after.
//!
//! ```text
//!   the guest's wish -> allowed? -> allowance? -> intent -> durable -> call -> outcome -> the guest sees it
//!                          |            |        (record)                      (record)
//!                          +-> denied   +-> exhausted: roll back, and run again on a full allowance
//! ```
//!
//! All attempts of a transaction share one [`Book`]. A later attempt that makes the same request gets the outcome of the
//! first one. The service waits until all calls have ended before it journals the transaction, so no outcome comes after
//! that record. A call takes at most [`CALL_DEADLINE_PERCENT`] of what is left of the deadline, so this wait is short.

use super::doubts::{DOUBTS_MAX, DOUBTS_PER_USER_MAX};
use super::spec::Status;
use super::waits::WaitBoard;
use super::{Service, Work};
use crate::history::History;
use crate::journal::{CallIntent, CallOutcome, Commit, JournalError, NetworkRecord, Record};
use crate::network::{
    CALL_DEADLINE_PERCENT, CALLS_KEPT_BYTES_MAX, CALLS_PER_SERVICE_MAX, Called, Limits, Retry, ServiceNetwork,
};
use crate::vm::Rest;
use lifeboat_api::call::{CALL_BYTES_PER_TRANSACTION_MAX, CallError, CallRecord, CallResult, NEVER_SEEN};
use lifeboat_api::meter::NetworkAmount;
use lifeboat_api::size::{Bytes as ByteCount, BytesBeside, Size};
use lifeboat_api::transaction::{Answer, Cause, ReplyHash};
use lifeboat_vm::instance::Attempt;
use lifeboat_vm::network::{Landing, LiveNetwork, Network, Timeline, Wish};
use lifeboat_vm::store::Allowance;
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinSet};

/// The room that a transaction with a network needs in the journal beside its own record, in bytes.
pub(super) const CALLS_ROOM_BYTES: u64 = CALL_BYTES_PER_TRANSACTION_MAX + 1024 * 1024;

/// The most transactions in a row that may fail on a full allowance of network after the allowance of the VM was used up.
/// Afterwards guests get an error for each call until a transaction is kept. Without that, a guest that calls and fails
/// would have a network without bounds.
pub const NETWORK_CURES_IN_VAIN_MAX: u32 = 3;

/// The deadline of a transaction whose own no clock can express.
const DEADLINE_FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The longest wait for room in the journal's queue before an outcome is appended without it.
const OUTCOME_ROOM_MAX: Duration = Duration::from_millis(100);

/// The calls of one transaction, over all its attempts.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// The calls that were made, by their index.
    known: BTreeMap<u32, CallRecord>,
    /// The intents in records of this transaction, by the index of the call.
    intents: BTreeMap<u32, Arc<CallIntent>>,
    /// The outcomes in records of this transaction.
    outcomes: BTreeMap<u32, Arc<CallOutcome>>,
    /// The calls in doubt that may be made again. Another request in the place of one is in doubt.
    repeatable: BTreeMap<u32, CallRecord>,
    /// What this transaction is charged.
    charged: NetworkAmount,
    /// The bytes that its calls received.
    received_bytes: u64,
}

impl Book {
    /// Begins a transaction whose id was tried before, with these calls.
    pub(super) fn of_earlier(network: &NetworkRecord, retry: Retry) -> Self {
        let is_repeatable = |call: &CallRecord| call.doubt().is_some() && retry == Retry::Idempotent;
        let calls = network.calls.iter().map(|call| (call.index, call.clone()));
        let (repeatable, known) = calls.partition(|(_, call)| is_repeatable(call));
        Self { known, repeatable, ..Self::default() }
    }

    /// Adds the calls of an attempt that the end of its host interrupted.
    pub(super) fn add(&mut self, calls: BTreeMap<u32, CallRecord>, charged: NetworkAmount) {
        self.known.extend(calls);
        self.charged = charged;
    }

    /// Forgets the transaction. It costs next to nothing for one without calls.
    pub(super) fn clear(&mut self) {
        if !self.is_empty() || !self.outcomes.is_empty() {
            *self = Self::default();
        }
    }

    /// Returns what the transaction is charged so far.
    pub(super) fn charged(&self) -> NetworkAmount {
        self.charged
    }

    /// Returns whether neither this transaction nor an earlier attempt of its id has made a call.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.repeatable.is_empty()
    }

    /// Returns whether the transaction has made no call.
    pub(super) fn is_unused(&self) -> bool {
        self.intents.is_empty()
    }

    /// Returns whether the outcome of a call was known to this transaction, or would be if it had been recorded.
    pub(super) fn has_made_or_knows(&self, index: u32) -> bool {
        self.intents.contains_key(&index) || self.known.get(&index).is_some_and(|call| call.result.is_some())
    }

    /// Returns what the record of a failed transaction says: what a later attempt of its id needs.
    pub(super) fn of_failed(&self) -> NetworkRecord {
        let mut bytes = 0;
        // A call in doubt that was not made again stays in doubt.
        let mut all = self.repeatable.clone();
        all.extend(self.known.clone());
        let calls = all.into_values().map(|call| {
            bytes += call.bytes();
            match bytes <= CALLS_KEPT_BYTES_MAX {
                true => call,
                false => {
                    bytes -= call.bytes();
                    // Its `seen` says that it has an outcome.
                    CallRecord { result: None, ..call }
                }
            }
        });
        self.record(calls.collect())
    }

    fn record(&self, calls: Arc<[CallRecord]>) -> NetworkRecord {
        NetworkRecord { charged: self.charged, calls }
    }
}

/// The reason why an attempt ends before its guest does.
enum Ended {
    /// The allowance of its VM is used up.
    Exhausted(Cause),
    /// The journal refuses the record of a call.
    Journal(JournalError),
}

/// A call that is being made.
struct InFlight {
    call: CallRecord,
    landing: oneshot::Sender<Landing>,
}

/// The calls of one attempt.
struct LiveCalls<'a> {
    work: &'a Work,
    network: ServiceNetwork,
    io: Option<tokio::runtime::Handle>,
    /// The service's secret, which keys the idempotency keys.
    secret: &'a [u8; 32],
    history: &'a mut History,
    last_commit: &'a mut Commit,
    book: &'a mut Book,
    /// What is left of the VM's allowance, without what `book` has charged.
    left: NetworkAmount,
    /// The allowance of a fresh VM.
    full: NetworkAmount,
    /// Whether the transaction may run again on a full allowance.
    may_cure: bool,
    timeline: Arc<Timeline>,
    /// When the transaction's deadline passes.
    deadline: Instant,
    /// Whether too many transactions of the user or of the service have calls in doubt.
    has_many_doubts: bool,
    /// What others see while the service waits, and its status before this transaction.
    waits: &'a WaitBoard,
    status: Status,
    waiting: VecDeque<Wish>,
    in_flight: BTreeMap<u32, InFlight>,
    tasks: JoinSet<Result<Called, JournalError>>,
    /// The index of the call that each task makes.
    calls_of_tasks: BTreeMap<task::Id, u32>,
}

impl Drop for LiveCalls<'_> {
    fn drop(&mut self) {
        self.waits.end();
    }
}

impl LiveCalls<'_> {
    /// Begins the calls that wait, as many as may be made at once.
    fn begin_waiting(&mut self) -> Result<(), Ended> {
        while self.in_flight.len() < CALLS_PER_SERVICE_MAX
            && let Some(wish) = self.waiting.pop_front()
        {
            self.begin(wish)?;
        }
        Ok(())
    }

    fn begin(&mut self, wish: Wish) -> Result<(), Ended> {
        let Wish { index, hash, request, timeouts, landing } = wish;
        let call = CallRecord {
            index,
            hash,
            method: request.method.clone(),
            target: request.target(),
            seen: NEVER_SEEN,
            result: None,
        };
        let begun = InFlight { call, landing };
        let bytes = request.bytes();
        let Some(io) = self.io.clone() else {
            let reason = "the host was set up outside of a runtime, and can make no calls".into();
            return self.refuse(begun, CallError::Internal { reason });
        };
        let permitted = match &self.network.maker {
            Some(maker) => maker.check(&request).map(|()| Arc::clone(maker)),
            None => Err(CallError::Denied { target: request.target() }),
        };
        let maker = match permitted {
            Ok(maker) => maker,
            Err(error) => return self.refuse(begun, error),
        };
        let repeated = self.book.repeatable.get(&index).map(|known| known.hash);
        if repeated.is_some_and(|hash| hash != begun.call.hash) {
            let reason = "the request is another one; make the same requests in each attempt".into();
            return self.refuse(begun, CallError::InvalidRequest { reason });
        }
        if self.has_many_doubts && repeated.is_none() {
            let reason = format!(
                "{DOUBTS_PER_USER_MAX} transactions of user '{}' or {DOUBTS_MAX} of service '{}' have calls in doubt; \
                 settle them with lifeboat doubts first",
                self.work.user, self.status.vm.service
            );
            return self.refuse(begun, CallError::Limit { reason });
        }
        let used = self.book.charged.plus(NetworkAmount { calls: 1, bytes });
        let fits = |allowance: NetworkAmount| used.calls <= allowance.calls && used.bytes <= allowance.bytes;
        if !fits(self.left) {
            let NetworkAmount { calls: limit_calls, bytes: limit_bytes } = self.full;
            let is_curable = self.left != self.full && fits(self.full);
            if is_curable && self.may_cure {
                return Err(Ended::Exhausted(Cause::Network { limit_calls, limit_bytes }));
            }
            let max = ByteCount(limit_bytes);
            let call = format!("call {index}, {} {}", begun.call.method, begun.call.target);
            let reason = match is_curable {
                true => format!(
                    "{call}: transactions that failed have used up the allowance of {limit_calls} calls and {max}"
                ),
                false => {
                    let (calls, bytes) = (used.calls, BytesBeside { bytes: used.bytes, bound: limit_bytes });
                    format!(
                        "{call}: the transaction would have {calls} calls and {bytes}, a full allowance is {limit_calls} \
                         calls and {max}; call less in one transaction, or deploy the workload as a new service of a \
                         larger size"
                    )
                }
            };
            return self.refuse(begun, CallError::Limit { reason });
        }
        let work = self.work;
        let intent = CallIntent {
            sequence: work.sequence,
            id: work.id.as_str().into(),
            is_id_kept: work.key.is_some(),
            user: work.user.clone(),
            incarnation: work.incarnation,
            timestamp: work.timestamp,
            body_hash: ReplyHash::of_body(&work.body),
            index,
            hash,
            method: begun.call.method.clone(),
            target: begun.call.target.clone(),
            bytes,
        };
        let intent = Arc::new(intent);
        let (commit, _) = self.history.append(&Record::CallIntent(Arc::clone(&intent))).map_err(Ended::Journal)?;
        *self.last_commit = commit.clone();
        self.book.intents.insert(index, intent);
        self.book.charged = used;
        self.book.known.insert(index, begun.call.clone());
        if self.in_flight.is_empty() {
            self.waits.begin(&self.status, &begun.call.target);
        }
        self.in_flight.insert(index, begun);
        let left = self.deadline.saturating_duration_since(Instant::now());
        let whole = left * CALL_DEADLINE_PERCENT / 100;
        let limit = |wanted: Option<Duration>| wanted.map_or(whole, |wanted| wanted.min(whole));
        let limits = Limits {
            connect: limit(timeouts.connect),
            first_byte: limit(timeouts.first_byte),
            between_bytes: limit(timeouts.between_bytes),
            whole,
        };
        let key = idempotency_key(self.secret, work, index);
        let make = async move {
            let began = Instant::now();
            let called = match tokio::time::timeout(whole, commit.durable()).await {
                Ok(Ok(())) => {
                    let limits = Limits { whole: whole.saturating_sub(began.elapsed()), ..limits };
                    maker.call(request, key, limits).await
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    let reason = "the journal did not take the intent in time, so the call was not made".into();
                    not_made(CallError::Limit { reason })
                }
            };
            Ok(called)
        };
        let task = self.tasks.spawn_on(make, &io);
        self.calls_of_tasks.insert(task.id(), index);
        Ok(())
    }

    /// Answers a call that is not made. One that an earlier attempt may have made stays in doubt.
    fn refuse(&mut self, begun: InFlight, error: CallError) -> Result<(), Ended> {
        let error = match self.book.repeatable.get(&begun.call.index) {
            Some(CallRecord { index, method, target, .. }) => CallError::InDoubt {
                reason: format!(
                    "call {index} of an earlier attempt, {method} {target}, may or may not have arrived, and it cannot be \
                     made again now: {error}"
                ),
            },
            None => error,
        };
        self.land(begun, Err(error), Duration::ZERO, 0)
    }

    /// Waits for the next call that ends. Dropping the future changes nothing.
    async fn next(&mut self) -> Option<(u32, Result<Called, JournalError>)> {
        let (task, called) = match self.tasks.join_next_with_id().await? {
            Ok((task, called)) => (task, called),
            // A task ends without a result only if it panicked, or with its runtime. The call may have been made.
            Err(error) => {
                let reason = format!("the host's client failed: {error}");
                (error.id(), Ok(not_made(CallError::Internal { reason })))
            }
        };
        Some((self.calls_of_tasks.remove(&task)?, called))
    }

    async fn conclude(&mut self, index: u32, called: Result<Called, JournalError>) -> Result<(), Ended> {
        let Called { result, bytes_in, duration, .. } = called.map_err(Ended::Journal)?;
        let Some(begun) = self.in_flight.remove(&index) else { return Ok(()) };
        match self.in_flight.values().next() {
            Some(other) => self.waits.begin(&self.status, &other.call.target),
            None => self.waits.end(),
        }
        // Without room the outcome is appended all the same: what a transaction receives is bounded. A longer wait could
        // be one for services that wait for this one.
        let _ = tokio::time::timeout(OUTCOME_ROOM_MAX, self.history.reserve_outcome(bytes_in)).await;
        self.book.charged.bytes = self.book.charged.bytes.saturating_add(bytes_in);
        self.book.received_bytes = self.book.received_bytes.saturating_add(bytes_in);
        let result = match result {
            Ok(_) if self.book.received_bytes > CALL_BYTES_PER_TRANSACTION_MAX => {
                let max = CALL_BYTES_PER_TRANSACTION_MAX;
                let received = BytesBeside { bytes: self.book.received_bytes, bound: max };
                let CallRecord { method, target, .. } = &begun.call;
                let reason = format!(
                    "call {index}, {method} {target}: its response is dropped, since the calls of the transaction have \
                     received {received}, and may receive {}; ask for less in one transaction",
                    ByteCount(max)
                );
                Err(CallError::Limit { reason })
            }
            result => result.map(Arc::new),
        };
        self.land(begun, result, duration, bytes_in)?;
        self.begin_waiting()
    }

    /// Records the outcome of a call, and lets the guest see it.
    fn land(&mut self, begun: InFlight, result: CallResult, took: Duration, bytes: u64) -> Result<(), Ended> {
        let InFlight { call, landing } = begun;
        let seen = self.timeline.read();
        let call = CallRecord { seen, result: Some(result.clone()), ..call };
        let outcome = CallOutcome { sequence: self.work.sequence, call: call.clone(), took, bytes };
        let outcome = Arc::new(outcome);
        let (commit, _) = self.history.append(&Record::CallOutcome(Arc::clone(&outcome))).map_err(Ended::Journal)?;
        *self.last_commit = commit;
        self.book.outcomes.insert(call.index, outcome);
        // A call that was not made is decided anew by the next attempt.
        if self.book.intents.contains_key(&call.index) {
            self.book.known.insert(call.index, call);
        }
        // A guest that has ended or has dropped the response needs none.
        let _ = landing.send(Landing { seen, result });
        Ok(())
    }
}

/// Returns the end of a call that was not made.
fn not_made(error: CallError) -> Called {
    Called { result: Err(error), bytes_out: 0, bytes_in: 0, duration: Duration::ZERO }
}

/// Returns the key by which a server recognises a call that is made again. It tells no server anything about users.
fn idempotency_key(secret: &[u8; 32], work: &Work, index: u32) -> String {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    for part in [&b"lifeboat call"[..], work.user.as_bytes(), &work.incarnation.to_le_bytes(), work.id.as_bytes()] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.update(&index.to_le_bytes());
    if work.key.is_none() {
        // A client may choose an id that the host makes up for another transaction.
        hasher.update(b"made up");
    }
    let hash = hasher.finalize();
    hash.to_hex()[..32].to_owned()
}

impl Service {
    /// Executes a transaction that may use the network.
    ///
    /// # Errors
    /// The journal refused the record of a call, and the service must stop.
    pub(super) async fn execute_with_network(
        &mut self,
        work: &Work,
        allowance: Allowance,
        full: NetworkAmount,
        left: NetworkAmount,
    ) -> Result<Attempt, JournalError> {
        let deadline = allowance.inputs.deadline().unwrap_or_default();
        let (sender, mut wishes) = mpsc::unbounded_channel();
        let timeline = Arc::new(Timeline::new(Arc::clone(&self.context.time)));
        let known: Arc<[CallRecord]> = self.book.known.values().cloned().collect();
        let live = LiveNetwork { known, wishes: sender, timeline: Arc::clone(&timeline) };
        let (has_many_doubts, may_cure) = (self.has_many_doubts(&work.user), self.may_cure_network());
        let status = self.status();
        let mut calls = LiveCalls {
            work,
            network: self.network.clone(),
            io: self.context.io.clone(),
            secret: &self.terms.secret,
            history: &mut self.history,
            last_commit: &mut self.last_commit,
            book: &mut self.book,
            left,
            full,
            may_cure,
            timeline,
            deadline: Instant::now().checked_add(deadline).unwrap_or_else(|| Instant::now() + DEADLINE_FAR),
            has_many_doubts,
            waits: &self.waits,
            status,
            waiting: VecDeque::new(),
            in_flight: BTreeMap::new(),
            tasks: JoinSet::new(),
            calls_of_tasks: BTreeMap::new(),
        };
        let mut ended = {
            let mut executing = pin!(self.vm.instance.execute(work.call(), allowance, Network::Live(live)));
            loop {
                let step = tokio::select! {
                    biased;
                    Some(wish) = wishes.recv() => {
                        calls.waiting.push_back(wish);
                        // The wishes of one look share a commit.
                        calls.waiting.extend(std::iter::from_fn(|| wishes.try_recv().ok()));
                        calls.begin_waiting()
                    }
                    Some((index, called)) = calls.next() => calls.conclude(index, called).await,
                    attempt = &mut executing => break Ok(attempt),
                };
                if let Err(ended) = step {
                    break Err(ended);
                }
            }
        };
        // A guest that ends well may not have waited for what it sent last.
        calls.waiting.extend(std::iter::from_fn(|| wishes.try_recv().ok()));
        if !matches!(&ended, Ok(attempt) if attempt.answer.is_kept()) {
            calls.waiting.clear();
        } else if let Err(error) = calls.begin_waiting() {
            ended = Err(error);
        }
        // Calls that are being made end before the transaction does.
        while let Some((index, called)) = calls.next().await {
            match calls.conclude(index, called).await {
                Ok(()) => {}
                Err(Ended::Journal(error)) => return Err(error),
                Err(exhausted) => {
                    calls.waiting.clear();
                    ended = ended.and(Err(exhausted));
                }
            }
        }
        drop(calls);
        match ended {
            Ok(attempt) => Ok(attempt),
            Err(Ended::Exhausted(cause)) => Ok(self.vm.instance.interrupt(allowance, cause)),
            Err(Ended::Journal(error)) => Err(error),
        }
    }

    /// Returns the resources of a cure on a fresh VM of `size`. After too many cures in vain the network is not among
    /// them.
    pub(super) fn rest_of_cure(&self, size: &Size) -> Rest {
        let full = Rest::full(size);
        match self.may_cure_network() {
            true => full,
            false => Rest { network: self.vm.rest().network, ..full },
        }
    }

    /// Returns whether the current transaction used more of the network than its VM had left.
    pub(super) fn has_borrowed(&self) -> bool {
        let (used, left) = (self.book.charged, self.vm.rest().network);
        used.calls > left.calls || used.bytes > left.bytes
    }

    fn may_cure_network(&self) -> bool {
        self.vain_cures < NETWORK_CURES_IN_VAIN_MAX
    }

    /// Journals the calls of the current transaction once more. A snapshot that begins within it lets the journal be
    /// truncated up to here, and the transaction's own record comes later.
    pub(super) fn repeat_calls(&mut self) {
        let intents = self.book.intents.values().map(|intent| Record::CallIntent(Arc::clone(intent)));
        let outcomes = self.book.outcomes.values().map(|outcome| Record::CallOutcome(Arc::clone(outcome)));
        let records: Vec<Record> = intents.chain(outcomes).collect();
        records.into_iter().for_each(|record| self.journal_event(record));
    }

    /// Returns what the record of a transaction says about its calls, and journals the outcomes that a replay will need.
    pub(super) fn network_record(&mut self, work: &Work, attempt: &Attempt) -> Result<NetworkRecord, JournalError> {
        match &attempt.answer {
            Answer::Ok(_) | Answer::Refused(_) => {}
            Answer::Failed(cause) if cause.is_retryable() => return Ok(self.book.of_failed()),
            // No attempt follows.
            Answer::Failed(_) => return Ok(self.book.record(Arc::default())),
        }
        for call in attempt.calls.iter().filter(|call| call.result.is_some()) {
            // An earlier transaction of the same id made it, or it is in doubt.
            if self.book.outcomes.get(&call.index).is_none_or(|recorded| recorded.call.hash != call.hash) {
                let (sequence, call) = (work.sequence, call.clone());
                let outcome = CallOutcome { sequence, call, took: Duration::ZERO, bytes: 0 };
                self.history.append(&Record::CallOutcome(Arc::new(outcome)))?;
            }
        }
        Ok(self.book.record(attempt.calls.clone().into()))
    }
}
