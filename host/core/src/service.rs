//! The task that owns a service's VM, and the path of a transaction through it.
//!
//! One task owns all state of a service, so transactions are serial and nothing here is locked. Requests arrive through
//! a bounded queue (`ServiceHandle`), in which users take turns (`service/turns.rs`). The host authenticates and
//! authorises the caller before a request enters the queue (`host.rs`).
//!
//! ```text
//!   queue -> dedupe -> room in the journal? -> execute -> journal -> crossing? -> reply (held until durable), snapshot?
//!                                               |
//!                                               +-- trap, deadline: journal `failed`, reply, roll back
//!                                               +-- exhausted: SLA failure, roll back, run again where that is cured
//! ```
//!
//! A service's store is replaced in three ways, all in `service/moves.rs`: rollback (rehydrate the state in the
//! journal), snapshot (export, restore into a fresh store), and failover (a snapshot, then a fresh VM: number, size,
//! slot, tank). `service/replace.rs` adds a fourth, a store of another workload.
//!
//! `service/conditions.rs` draws the conditions of a running service. It is *degraded* after a crossing that no
//! failover cured, and *unmovable* after a failed snapshot or restore. Its journal may fill up. It is *stopped* if its
//! state could not be brought back; then every request is denied.

mod backoff;
mod calls;
mod clock;
mod conditions;
mod counters;
pub(crate) mod doubts;
mod gate;
mod handle;
mod logs;
mod misses;
mod moves;
mod queries;
mod queue;
mod recover;
mod repetitions;
mod replace;
mod reply;
mod shadow;
mod snapshots;
mod spec;
mod trial;
mod turns;
mod waits;

pub use calls::NETWORK_CURES_IN_VAIN_MAX;
pub use doubts::{DOUBTS_MAX, DOUBTS_PER_USER_MAX, Doubt, SettleError, Settlement};
pub use gate::EVENTS_HELD_BYTES_MAX;
pub(crate) use handle::ServiceHandle;
pub use handle::{Ordered, Pending};
pub use logs::{LOG_BURST_BYTES, LOG_BYTES_PER_SECOND, LOG_DROPPED_INTERVAL, LOG_LINE_BYTES};
pub use queries::{QUERIES_HELD_BYTES_MAX, QUERIES_HELD_FUEL_MAX, QUERIES_HELD_MAX};
pub(crate) use recover::SnapshotWriterTask;
pub use replace::{ReplaceError, Replaced};
pub use reply::Answered;
pub use shadow::{PROMOTE_FUEL_MAX, SHADOW_STATE_BYTES_MIN};
pub use spec::{Counts, JournalStatus, LaunchError, ServiceSpec, Status, Waiting};
pub use trial::TRIAL_TRANSACTIONS;

use crate::answers::{Answers, Caller, ForgottenTimes, IdKey};
use crate::data::snapshot_writer::SnapshotWriter;
use crate::failover::{HEADROOM_POINTS, Policy};
use crate::fleet::Fleet;
use crate::history::History;
use crate::journal::{Commit, JournalError, Log, NetworkRecord, Record, TransactionRecord};
use crate::network::ServiceNetwork;
use crate::vm::{Rest, Vm};
use calls::{Book, CALLS_ROOM_BYTES};
use clock::ServiceClock;
use conditions::Conditions;
use counters::Counters;
use doubts::Doubts;
use gate::EventGate;
use handle::{LOOKS_MAX, Message, ORDERS_MAX, Order};
use lifeboat_api::clock::{Clock, Timestamp};
use lifeboat_api::event::{Event, EventSink, FailoverCause, SlaFailure, Triggered};
use lifeboat_api::id::{Epoch, Sequence, VmId};
use lifeboat_api::meter::{Resource, Unit, Usage};
use lifeboat_api::name::Name;
use lifeboat_api::size::Size;
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_api::text::Printable;
use lifeboat_api::transaction::{Answer, Cause, Denial, Kind, OutcomeUnknown, Reply, ReplyHash, Request, RequestError};
use lifeboat_journal::adaptive_spin::AdaptiveSpin;
use lifeboat_vm::engine::Program;
use lifeboat_vm::instance::{Attempt, Call, Instance};
use lifeboat_vm::network::{HostTime, Network};
use lifeboat_vm::rehydrate::{Maintenance, REPLAY_OVERHEAD_FUEL, ReplayContext};
use lifeboat_vm::snapshot::Snapshot;
use lifeboat_vm::store::{Allowance, Inputs};
use logs::LogBucket;
use misses::DeadlineMisses;
pub use misses::{
    BODY_REFUSAL_MAX, DEADLINE_MISSES_MAX, DEADLINE_REFUSAL, DEADLINE_REFUSAL_MAX, MISSED_KNOWN_FOR, MISSED_KNOWN_MAX,
};
use moves::Moved;
use queries::PendingQueries;
use queue::{Exit, Queued, Turn};
use reply::ReplySender;
use shadow::{Aim, Shadow};
use snapshots::Snapshots;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use trial::Trial;
use waits::WaitBoard;

/// The most requests of one user that may wait for a service, unless configured otherwise. A user may have fewer when
/// others wait as well. The requests of all users together are at most twice as many.
pub const QUEUE_MAX: usize = 1024;

/// The cost at which the turn of a user ends, in fuel: about a millisecond. The last request of a turn may cost more,
/// and is charged in full.
pub const TURN_FUEL_MAX: u64 = 1_000_000;

/// The cost of a request beside its fuel, in fuel. It is charged to the user in the turns of users.
const REQUEST_FUEL: u64 = 5_000;

/// The replay cost of the tail above which a snapshot is taken, in fuel: about 250 ms. If the last snapshot cost more,
/// that cost is the bound.
pub const TAIL_FUEL_MAX: u64 = 250_000_000;

/// The bytes in the journal since the last snapshot above which the next one is taken.
pub const TAIL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The least time by which the guest's time advances from one transaction or query to the next.
pub const GUEST_TIME_STEP: Duration = Duration::from_nanos(1);

/// The most bytes of requests that may wait for a service.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The line of the log about a guest that leaves files open. It is reported once.
const LEFT_OPEN: &str = "it leaves descriptors open: the host closes them at the end of a transaction or query, and the \
                         next one cannot use them; open files anew each time";

/// The parts of the host that a service shares.
#[derive(Clone)]
pub(crate) struct ServiceContext {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: EventSink,
    pub(crate) maintenance: Maintenance,
    /// A permit held by the one service that polls for its next request.
    pub(crate) spinning: Arc<Semaphore>,
    /// Held by the service whose state is tried.
    pub(crate) trials: Arc<Semaphore>,
    /// The runtime on which calls to the network are made. None if the host was set up outside of one.
    pub(crate) io: Option<tokio::runtime::Handle>,
    /// The time that passes while guests wait for the network.
    pub(crate) time: Arc<dyn HostTime>,
}

/// The reason why no live instance is in the service's state. The service is stopped, or tries again with the next
/// request. The contents of the journal are unchanged.
struct Stopped(String);

impl Stopped {
    /// Returns the denial of a request that needs the state.
    fn denial(self, service: &Name) -> Denial {
        Denial::Stopped { service: service.clone(), reason: self.0 }
    }
}

/// A request that the service is executing.
struct Work {
    kind: Kind,
    id: String,
    /// The key of a transaction whose id the client chose. A repetition of it must be recognised.
    key: Option<IdKey>,
    user: Name,
    incarnation: u64,
    body: bytes::Bytes,
    sequence: Sequence,
    timestamp: Timestamp,
    epoch: Epoch,
}

impl Work {
    fn call(&self) -> Call<'_> {
        Call {
            id: &self.id,
            user: &self.user,
            sequence: self.sequence,
            timestamp: self.timestamp,
            epoch: self.epoch,
            body: &self.body,
        }
    }
}

/// The inputs of every replay beside the service's history. They stay the same as long as the service runs, unless its
/// workload is replaced.
struct ReplayTerms {
    program: Arc<Program>,
    secret: [u8; 32],
    accepted_divergences: BTreeSet<Sequence>,
    maintenance: Maintenance,
}

impl ReplayTerms {
    /// Returns the context of a replay.
    fn context(&self) -> ReplayContext<'_> {
        ReplayContext {
            program: &self.program,
            secret: &self.secret,
            accepted_divergences: &self.accepted_divergences,
            maintenance: self.maintenance,
        }
    }
}

/// A service, owned by its task alone.
pub(crate) struct Service {
    // Identity and settings.
    name: Name,
    terms: Arc<ReplayTerms>,
    policy: Policy,
    failover: FailoverMode,
    epoch: Epoch,
    context: ServiceContext,
    network: ServiceNetwork,
    /// The calls of the current transaction.
    book: Book,
    waits: Arc<WaitBoard>,
    /// The transactions since the last kept one that failed on a full allowance of network.
    vain_cures: u32,
    doubts: Doubts,

    // The serving VM, and the shadow that may replace it.
    vm: Vm,
    shadow: Option<Shadow>,
    trial: Trial,

    // The history.
    history: History,
    /// The commit of the last record.
    last_commit: Commit,
    last_sequence: Sequence,
    /// Queries that the instance has seen, but the journal does not hold.
    queries: PendingQueries,
    snapshots: Snapshots,
    /// The writer of snapshot files, if the service is durable.
    snapshot_writer: Option<SnapshotWriter>,

    // Conditions and counters.
    clock: ServiceClock,
    conditions: Conditions,
    counters: Counters,
    misses: DeadlineMisses,
    /// The origin of the times in `misses`.
    created: Instant,
    /// The operator who ordered the last forced failover, or the forced failover that is about to happen.
    forced_by: Option<Name>,
    /// The last failover that the current request caused.
    triggered: Option<Triggered>,

    // Reports.
    events: EventGate,
    logs: LogBucket,
    /// Whether it was reported that the guest leaves files open.
    has_reported_open: bool,
}

impl Service {
    /// Starts a service at the beginning of its history, with its first VM on the fleet.
    ///
    /// # Errors
    /// The size does not hold the workload, no machine has room, or the workload cannot be instantiated.
    pub(crate) async fn launch(
        spec: ServiceSpec,
        context: ServiceContext,
        log: Box<dyn Log>,
    ) -> Result<Self, LaunchError> {
        check_size(&spec)?;
        let birth = Arc::new(spec.disk.clone().map_or_else(Snapshot::empty, Snapshot::birth));
        let Size { name: ref size, disk_bytes, .. } = *spec.size;
        if birth.disk().used_bytes() > disk_bytes {
            let (name, size, bytes) = (spec.name.clone(), size.clone(), birth.disk().used_bytes());
            return Err(LaunchError::Files { name, bytes, size, disk_bytes });
        }
        let lease = context.fleet.place(&spec.size)?;
        // What the start functions write belongs to the service, so its size is the limit.
        let allowance = Allowance { disk_bytes, ..context.maintenance.allowance() };
        let instance = Instance::create(&spec.program, spec.secret, allowance, birth.disk().clone())
            .await
            .map_err(|error| LaunchError::Instantiate { name: spec.name.clone(), error })?;
        let id = VmId { service: spec.name.clone(), number: 1 };
        let vm = Vm::new(id, Arc::clone(&spec.size), lease, instance);
        let answers = Answers::new(spec.deduplication_window, ForgottenTimes::default(), context.clock.now());
        let mut service = Self::new(spec, context, History::new(log, answers), vm);
        service.snapshots = Snapshots::begin(birth);
        service.trial = Trial::waiting(0);
        let lines = service.vm.instance.take_log();
        service.log(lines);
        Ok(service)
    }

    fn new(spec: ServiceSpec, context: ServiceContext, history: History, vm: Vm) -> Self {
        let mut sizes = spec.sizes;
        if !sizes.contains(&spec.size) {
            sizes.push(Arc::clone(&spec.size));
        }
        sizes.sort_by_key(|size| (size.memory_bytes, size.disk_bytes));
        let began = context.clock.read();
        let events = EventGate::new(Arc::clone(&context.events));
        let terms = ReplayTerms {
            program: spec.program,
            secret: spec.secret,
            accepted_divergences: spec.accepted_divergences,
            maintenance: context.maintenance,
        };
        Self {
            name: spec.name,
            terms: Arc::new(terms),
            policy: Policy { thresholds: spec.thresholds, sizes },
            failover: spec.failover,
            epoch: spec.epoch,
            context,
            network: spec.network,
            book: Book::default(),
            waits: Arc::default(),
            vain_cures: 0,
            doubts: Doubts::default(),
            vm,
            shadow: None,
            trial: Trial::default(),
            history,
            last_commit: Commit::done(),
            last_sequence: Sequence(0),
            queries: PendingQueries::default(),
            snapshots: Snapshots::begin(Arc::new(Snapshot::empty())),
            snapshot_writer: None,
            clock: ServiceClock::new(began),
            conditions: Conditions::default(),
            counters: Counters::default(),
            misses: DeadlineMisses::default(),
            created: Instant::now(),
            forced_by: None,
            triggered: None,
            events,
            logs: LogBucket::new(began.monotonic),
            has_reported_open: false,
        }
    }

    /// Returns the service's queue and its task. Spawn the task on the guests' threads.
    pub(crate) fn start(self, queue_max: usize) -> (ServiceHandle, impl Future<Output = ()> + Send) {
        let queue_max = queue_max.max(1);
        // One user alone may fill half of the queue, so there is always room for another user.
        let (entrance, exit) = queue::queue(self.name.clone(), queue_max.saturating_mul(2), QUEUE_BYTES_MAX);
        let handle = ServiceHandle {
            name: self.name.clone(),
            queue: Arc::new(entrance),
            queue_max,
            waits: Arc::clone(&self.waits),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            orders: Arc::new(Semaphore::new(ORDERS_MAX)),
        };
        (handle, self.run(exit))
    }

    async fn run(mut self, queue: Exit) {
        let mut turn = Turn::default();
        let mut spin = AdaptiveSpin::default();
        loop {
            let waits_since = queue.is_empty().then(Instant::now);
            if let Some(start) = waits_since {
                self.spin(&queue, &spin, start).await;
            }
            tokio::select! {
                biased;
                () = round_over(&mut self.shadow) => {
                    self.advance_shadow().await;
                    continue;
                }
                found = self.trial.ended() => {
                    self.end_trial(found);
                    continue;
                }
                count = queue.take(&mut turn) => {
                    let Some(count) = count else { return };
                    // A lone client already has the answer to its previous request.
                    let is_alone = count == 1 && self.last_commit.is_over();
                    spin.waited(waits_since.filter(|_| is_alone).map_or(Duration::MAX, |start| start.elapsed()));
                }
            }
            if let Some(message) = turn.order.take() {
                self.advance_ready_shadow().await;
                match message {
                    Message::Stop { done } => {
                        let left = self.stop_cleanly().await;
                        self.settle_events().await;
                        let _ = done.send(left);
                        return;
                    }
                    Message::Discard { done } => {
                        self.settle_events().await;
                        let _ = done.send(self.status());
                        return;
                    }
                    message => self.handle(message).await,
                }
            }
            if let Some(user) = turn.user.clone() {
                // A batch of cheap requests is one turn. Expensive requests get a turn each.
                while turn.cost < TURN_FUEL_MAX
                    && let Some(Queued { incarnation, request, reply }) = queue.next_of_turn()
                {
                    self.advance_ready_shadow().await;
                    let before = self.counters.burnt_fuel();
                    let caller = Caller { user: user.clone(), incarnation };
                    self.perform(caller, request, reply).await;
                    turn.cost += self.counters.burnt_fuel().saturating_sub(before) + REQUEST_FUEL;
                }
                queue.end_turn(&mut turn);
            }
        }
    }

    async fn advance_ready_shadow(&mut self) {
        if self.shadow.as_ref().is_some_and(Shadow::is_ready) {
            self.advance_shadow().await;
        }
    }

    /// Polls briefly for the next request of a lone client. Such a client sends each request once the previous one is
    /// durable, and most of its time goes to threads that wake one another. With several clients the thread has enough
    /// work. Only one service of a host polls at a time, so that services do not slow one another down.
    async fn spin(&mut self, queue: &Exit, spin: &AdaptiveSpin, start: Instant) {
        if self.snapshot_writer.is_none() || self.shadow.is_some() || !spin.should_spin(Duration::ZERO) {
            return;
        }
        let Ok(_only_one) = self.context.spinning.try_acquire() else { return };
        while queue.is_empty() && !queue.is_closed() && spin.should_spin(start.elapsed()) {
            std::thread::yield_now();
            tokio::task::yield_now().await;
        }
    }

    /// Waits until no event is held back, so that no event follows the host's report that the service has ended, or
    /// until the journal stalls: it does not wait for room.
    async fn settle_events(&mut self) {
        if !self.events.is_empty() {
            // If the journal fails, the events are reported or discarded as well.
            let _ = self.last_commit.clone().durable_or_held().await;
        }
    }

    /// Runs `report` at once, or after the events that are held back, because the report may depend on their records.
    /// It does not wait for room in the journal, but gets an error if these records are not on the disk: an operator
    /// must be able to inspect a service whose journal has no room.
    fn after_events(&self, report: impl FnOnce(Result<(), JournalError>) + Send + 'static) {
        if self.events.is_empty() {
            report(Ok(()));
        } else {
            self.last_commit.then_or_held(report);
        }
    }

    fn answer_order(&self, order: Order) {
        let (status, proven) = (self.status(), self.snapshots.last().sequence());
        self.after_events(move |durable| order.answer(status, proven, durable));
    }

    /// Leaves as little as possible to replay at the next start. If anything is left, returns the reason.
    async fn stop_cleanly(&mut self) -> Option<String> {
        if self.snapshot_writer.is_none() || !self.snapshots.has_tail() {
            return None;
        }
        if let Some(reason) = self.conditions.stopped() {
            return Some(reason.to_owned());
        }
        if !self.may_export() {
            return Some(self.conditions.why_not_moved());
        }
        if let Err(denial) = self.revive().await {
            return Some(denial.to_string());
        }
        match self.take_snapshot().await {
            Ok(Moved::Fresh) => None,
            Ok(Moved::Not | Moved::Rehydrated(_)) => Some(self.conditions.why_not_moved()),
            Err(Stopped(reason)) => Some(reason),
        }
    }

    // Ignores receivers that are gone. Their orders are carried out all the same.
    async fn handle(&mut self, message: Message) {
        match message {
            Message::FailOver { by, done, .. } => {
                // The failover's record would wait for room, and the caller would wait with it.
                if self.history.is_stalled()
                    && let Err(error @ JournalError::Stalled { .. }) = self.history.reserve(0).await
                {
                    let reason = error.to_string();
                    return drop(done.send(Err(Denial::Stalled { service: self.name.clone(), reason }.into())));
                }
                let Some((is_alive, done)) = self.revive_for(done).await else { return };
                let order = Order { from: self.vm.id.clone(), snapshot_of: None, done };
                // The shadow of an earlier forced failover serves this order as well, and keeps that operator's name.
                let is_under_way = self.shadow.as_ref().and_then(Shadow::failover_cause) == Some(FailoverCause::Forced);
                if !is_under_way {
                    self.forced_by = Some(by);
                }
                if is_alive && self.prefers_shadow() {
                    return self.begin_shadow(Aim::FailOver(FailoverCause::Forced), vec![order]);
                }
                if is_alive {
                    let _ = self.fail_over(FailoverCause::Forced).await;
                }
                self.answer_order(order);
            }
            Message::Snapshot { done, .. } => {
                let Some((is_alive, done)) = self.revive_for(done).await else { return };
                let order = Order { from: self.vm.id.clone(), snapshot_of: Some(self.last_sequence), done };
                if is_alive && self.prefers_shadow() {
                    // A failover in progress may export nothing, and then yields no snapshot.
                    self.finish_shadow().await;
                    return self.begin_shadow(Aim::Snapshot, vec![order]);
                }
                if is_alive {
                    let _ = self.take_snapshot().await;
                }
                self.answer_order(order);
            }
            Message::Status { done, .. } => {
                let status = self.status();
                self.after_events(move |_| drop(done.send(status)));
            }
            Message::Disk { done, .. } => {
                let copy = self
                    .revive()
                    .await
                    .map(|()| (self.vm.instance.disk().clone(), self.last_sequence, self.last_commit.clone()));
                drop(done.send(copy));
            }
            Message::Doubts { done, .. } => {
                let doubts = self.doubts();
                self.after_events(move |_| drop(done.send(doubts)));
            }
            Message::Settle { by, user, id, index, settlement, done, .. } => {
                let settled = self.settle_doubt(by, user.as_ref(), &id, index, settlement).await;
                match settled {
                    Ok(()) => self.last_commit.then_or_held(|durable| drop(done.send(durable.map_err(Into::into)))),
                    Err(error) => drop(done.send(Err(error))),
                }
            }
            Message::Try { done, .. } => self.try_for(done),
            Message::Replace { program, done, .. } => drop(done.send(self.replace(program).await)),
            Message::Find { user, incarnation, id, found, .. } => {
                self.find(&Caller { user, incarnation }, id, found).await;
            }
            // The loop in `run` handles these messages before they get here.
            Message::Stop { .. } | Message::Discard { .. } => {}
        }
    }

    /// Executes a transaction or query, from deduplication to the failover or snapshot that it causes.
    async fn perform(&mut self, caller: Caller, request: Request, reply: ReplySender) {
        let Some(reply) = reply.reserve(&self.name) else { return };
        self.counters.request();
        self.triggered = None;
        self.book.clear();
        let id = request.id.as_ref().filter(|_| request.kind == Kind::Transaction);
        let key = id.map(|id| IdKey::new(&caller.user, caller.incarnation, id));
        let admitted = match self.repetition(key.as_ref(), &caller, &request).await {
            Some(answered) => answered.map(Admitted::Answered),
            None => match self.refused_for_misses(key, &caller, &request) {
                Some(denial) => Err(denial),
                None => self.admit(caller, key, request).await.map(Admitted::Run),
            },
        };
        let work = match admitted {
            Ok(Admitted::Run(work)) => work,
            Ok(Admitted::Answered(repeated)) => {
                // The repeated answer may not be durable yet.
                let commit = self.last_commit.clone();
                self.release(reply, repeated, true, &commit);
                return;
            }
            Err(denial) => {
                reply.send(Err(denial.into()));
                return;
            }
        };
        let size = Arc::clone(&self.vm.size);
        let attempt = self.attempt(&work, self.vm.rest(), &size).await;
        let settled = match &attempt.answer {
            Answer::Failed(cause) => match cause.exhausted() {
                Some(resource) => self.cure(&work, resource, attempt).await,
                None => Ok(attempt),
            },
            Answer::Ok(_) | Answer::Refused(_) => Ok(attempt),
        };
        match settled {
            Ok(attempt) => {
                let is_kept = attempt.answer.is_kept();
                match self.settle(&work, attempt) {
                    Err(denial) => reply.send(Err(denial.into())),
                    Ok((answered, commit)) => {
                        if is_kept && !self.conditions.is_stopped() {
                            self.fail_over_if_crossed(&work).await;
                        }
                        self.release(reply, answered, work.key.is_some(), &commit);
                    }
                }
                if self.conditions.is_stopped() {
                    return;
                }
                let is_alive = !self.vm.instance.is_dead() || self.roll_back().await.is_ok();
                self.relocate_answers().await;
                // A failed transaction takes up space in the journal, too.
                if is_alive {
                    self.snapshot_if_long().await;
                    self.begin_trial_if_due();
                    self.watch_journal();
                }
            }
            Err(denial) => {
                self.close_denied(&work);
                reply.send(Err(denial.into()));
            }
        }
    }

    /// Journals a transaction that is denied after it has made calls, so that its next attempt finds them.
    fn close_denied(&mut self, work: &Work) {
        if self.book.is_unused() || self.conditions.is_stopped() {
            return;
        }
        self.vain_cures += u32::from(self.has_borrowed());
        let reply = Reply {
            id: work.id.clone(),
            sequence: work.sequence,
            timestamp: work.timestamp,
            answer: Answer::Failed(Cause::Interrupted),
            fuel_used: 0,
            is_repeated: false,
            vm: self.vm.id.clone(),
            failover: None,
        };
        self.clock.pass(work.timestamp);
        let network = self.book.of_failed();
        // A journal that refuses the record stops the service.
        if let Ok(commit) = self.journal_transaction(work, &reply, Some(network)) {
            self.last_commit = commit;
        }
    }

    /// Sends an answer once `commit` is durable. Ignores a client that is gone.
    fn release(&mut self, mut reply: ReplySender, mut answered: Reply, is_id_kept: bool, commit: &Commit) {
        answered.failover = self.triggered.take().map(Box::new);
        // The answer reports a failover as well, whose record is the last one.
        let commit = if answered.failover.is_some() { &self.last_commit } else { commit };
        reply.shrink_to(&answered.answer);
        self.send_when_safe(commit, answered, is_id_kept, |answer| reply.send(answer.map_err(RequestError::from)));
    }

    fn send_when_safe(
        &self,
        commit: &Commit,
        answered: Reply,
        is_id_kept: bool,
        send: impl FnOnce(Result<Reply, OutcomeUnknown>) + Send + 'static,
    ) {
        let service = self.name.clone();
        commit.then_or_held(move |durable| {
            send(match durable {
                Ok(()) => Ok(answered),
                Err(error) => {
                    let id = is_id_kept.then_some(answered.id);
                    Err(OutcomeUnknown { service, id, reason: error.to_string() })
                }
            });
        });
    }

    /// Denies a request that cannot be executed, after an attempt to make room for it. Numbers any other request.
    async fn admit(&mut self, caller: Caller, key: Option<IdKey>, request: Request) -> Result<Work, Denial> {
        let Request { id, body, kind } = request;
        // The answer to an id that is retained takes the place of the earlier one.
        if key.is_some_and(|key| self.history.answers().find(&key).is_none()) {
            self.make_room_for_id(&caller)?;
        }
        self.revive().await?;
        self.keep_pace(kind).await;
        if self.vm.meter.cpu.remaining() == 0 {
            self.finish_shadow().await;
        }
        if self.vm.meter.cpu.remaining() == 0 && self.may_fail_over(Resource::Cpu) {
            let _ = self.fail_over(FailoverCause::Cpu).await;
        }
        if self.vm.meter.cpu.remaining() == 0
            && let Some(reason) = self.conditions.degraded()
        {
            return Err(self.degraded_denial(format!("its tank is empty, and {reason}")));
        }
        if kind == Kind::Transaction {
            let calls = if self.has_network() { CALLS_ROOM_BYTES } else { 0 };
            let room = (body.len() + lifeboat_api::transaction::REPLY_BYTES_MAX) as u64 + self.queries.bytes() + calls;
            // A shadow in progress may make the room, and should not be dropped for it.
            while self.history.check_room(room).is_err() && self.shadow.is_some() {
                self.advance_shadow().await;
            }
            if self.history.check_room(room).is_err() && self.may_export() {
                let _ = self.take_snapshot().await;
            }
            if self.history.check_room(room).is_err() {
                return Err(self.journal_full());
            }
        }
        if kind == Kind::Transaction && self.queries.is_lost() {
            // Queries that the journal does not hold must not influence a journalled transaction.
            self.roll_back().await.map_err(|stopped| stopped.denial(&self.name))?;
        }
        // The attempt to make room may have lost the store.
        self.revive().await?;
        if kind == Kind::Transaction
            && let Err(error) = self.history.reserve(body.len() as u64).await
        {
            if matches!(error, JournalError::Stalled { .. }) {
                return Err(Denial::Stalled { service: self.name.clone(), reason: error.to_string() });
            }
            return Err(self.stop(error.to_string()).denial(&self.name));
        }
        // The answer could not be sent, and would be held as long as the journal is stalled.
        if kind == Kind::Query && !self.last_commit.is_over() && self.history.is_stalled() {
            let reason = "the journal is short of room, and what the query would show is not on the disk yet".into();
            return Err(Denial::Stalled { service: self.name.clone(), reason });
        }
        let sequence = if kind == Kind::Transaction { self.last_sequence.next() } else { self.last_sequence };
        // This id differs from all ids that the service generated for retained transactions, also after a restart.
        let id = id.unwrap_or_else(|| match kind {
            Kind::Transaction => format!("host-{sequence}"),
            Kind::Query => format!("query-{}", self.counters.name_query()),
        });
        let timestamp = self.next_timestamp();
        let Caller { user, incarnation } = caller;
        Ok(Work { kind, id, key, user, incarnation, body, sequence, timestamp, epoch: self.epoch })
    }

    /// Ensures a live instance in the service's state. If an instance was lost while the host was too busy to bring it
    /// back, it is brought back now.
    async fn revive(&mut self) -> Result<(), Denial> {
        if let Some(reason) = self.conditions.stopped() {
            return Err(Stopped(reason.to_owned()).denial(&self.name));
        }
        if self.vm.instance.is_dead() {
            self.roll_back().await.map_err(|stopped| stopped.denial(&self.name))?;
        }
        Ok(())
    }

    /// Does the same for an order. Returns whether the instance is alive, with the order's channel. If the instance
    /// cannot be brought back for now, denies the order with that reason, and returns `None`.
    async fn revive_for<T>(&mut self, done: Answering<T>) -> Option<(bool, Answering<T>)> {
        match self.revive().await {
            Err(denial) if !self.conditions.is_stopped() => {
                let _ = done.send(Err(denial.into()));
                None
            }
            revived => Some((revived.is_ok(), done)),
        }
    }

    /// Executes `work` with the rest of a VM's tank and of its allowance, under the other limits of `size`.
    async fn attempt(&mut self, work: &Work, rest: Rest, size: &Size) -> Attempt {
        let Rest { fuel, network: left } = rest;
        let Size { memory_bytes, disk_bytes, deadline, .. } = *size;
        let allowance = Allowance { fuel, memory_bytes, disk_bytes, inputs: Inputs::Live { deadline } };
        let attempt = match work.kind {
            Kind::Query => self.vm.instance.query(work.call(), allowance).await,
            Kind::Transaction if !self.has_network() => {
                self.vm.instance.execute(work.call(), allowance, Network::None).await
            }
            Kind::Transaction => {
                let executed = self.execute_with_network(work, allowance, size.network(), left).await;
                match executed {
                    Ok(attempt) => attempt,
                    Err(error) => {
                        drop(self.stop(format!("a call could not be journalled: {error}")));
                        self.vm.instance.interrupt(allowance, Cause::Interrupted)
                    }
                }
            }
        };
        let mut lines = self.vm.instance.take_log();
        if let Answer::Failed(cause @ Cause::Explained { .. }) = &attempt.answer {
            let (id, vm) = (Printable(&work.id), &self.vm.id);
            let what = if work.kind == Kind::Query { "query" } else { "transaction" };
            lines.push(format!("{what} '{id}' failed in {vm}: {}", cause.detailed()));
        }
        if self.vm.instance.has_left_open() && !self.has_reported_open {
            self.has_reported_open = true;
            lines.push(LEFT_OPEN.to_owned());
        }
        self.log(lines);
        attempt
    }

    /// Reports lines of the guest, as far as it may log them.
    fn log(&mut self, lines: Vec<String>) {
        if lines.is_empty() {
            return;
        }
        let passed = self.logs.pass(lines, self.events.room(), self.context.clock.monotonic());
        self.counters.dropped_lines(passed.dropped_lines);
        for line in passed.lines {
            self.emit(Event::Log { service: self.name.clone(), line });
        }
    }

    /// Returns whether the current transaction may make calls, or an earlier attempt of its id did.
    fn has_network(&self) -> bool {
        self.network.maker.is_some() || !self.book.is_empty()
    }

    /// Charges and journals the outcome of an attempt, and returns the reply.
    fn settle(&mut self, work: &Work, attempt: Attempt) -> Result<(Reply, Commit), Denial> {
        let network = match work.kind == Kind::Transaction && self.has_network() {
            true => Some(self.network_record(work, &attempt).map_err(|error| {
                let stopped = self.stop(format!("a call could not be journalled: {error}"));
                stopped.denial(&self.name)
            })?),
            false => None,
        };
        let Attempt { answer, fuel_used, .. } = attempt;
        self.clock.pass(work.timestamp);
        if answer.is_kept() {
            if work.kind == Kind::Transaction {
                self.vain_cures = 0;
                self.trial.note_kept();
            }
            match work.kind {
                Kind::Transaction => self.vm.charge(fuel_used),
                Kind::Query => self.vm.charge_query(fuel_used),
            }
            self.counters.charged(fuel_used);
        } else {
            self.counters.rolled_back(fuel_used);
        }
        if let Answer::Failed(Cause::Deadline { deadline }) = &answer {
            self.counters.missed_deadline(*deadline, fuel_used);
        }
        self.note_deadline(work, matches!(answer, Answer::Failed(Cause::Deadline { .. })));
        let reply = Reply {
            id: work.id.clone(),
            sequence: work.sequence,
            timestamp: work.timestamp,
            answer,
            fuel_used,
            is_repeated: false,
            vm: self.vm.id.clone(),
            failover: None,
        };
        let commit = match work.kind {
            Kind::Transaction => self.journal_transaction(work, &reply, network)?,
            Kind::Query => {
                // A query of a program leaves nothing in its instance, so no replay repeats it.
                if reply.answer.is_kept() && !self.terms.program.workload().is_program() {
                    self.note_query(work, &reply);
                }
                // The answer shows a state that may not be durable yet.
                self.last_commit.clone()
            }
        };
        self.last_commit = commit.clone();
        Ok((reply, commit))
    }

    fn journal_transaction(
        &mut self,
        work: &Work,
        reply: &Reply,
        network: Option<NetworkRecord>,
    ) -> Result<Commit, Denial> {
        self.append_queries().map_err(|stopped| stopped.denial(&self.name))?;
        self.last_sequence = work.sequence;
        let record = TransactionRecord {
            sequence: work.sequence,
            id: work.id.as_str().into(),
            is_id_kept: work.key.is_some(),
            user: work.user.clone(),
            incarnation: work.incarnation,
            timestamp: work.timestamp,
            epoch: work.epoch,
            body_hash: ReplyHash::of_body(&work.body),
            body: work.body.clone(),
            answer: reply.answer.clone(),
            fuel_used: reply.fuel_used,
            query_fuel_used: self.vm.take_unwritten_fuel(),
            network: network.map(Arc::new),
        };
        let record = Arc::new(record);
        if let Some(network) = &record.network {
            self.vm.charge_network(network);
            // An id that the host made up may be one that a client chose.
            if record.is_id_kept {
                self.doubts.note(&record);
            }
        }
        let (commit, answer_bytes) = match self.history.append(&Record::Transaction(Arc::clone(&record))) {
            Ok(appended) => appended,
            Err(error) => {
                // The transaction was executed, but is not in the history. The guest must not continue from this state.
                let stopped = self.stop(format!("a transaction could not be journalled: {error}"));
                return Err(stopped.denial(&self.name));
            }
        };
        self.last_commit = commit.clone();
        self.report_new_doubts(&record);
        self.book.clear();
        if work.key.is_some() || self.history.answers().users() > 0 {
            self.retain_answer(work, answer_bytes);
        }
        if reply.answer.is_kept() {
            self.snapshots.note_kept(reply.fuel_used + REPLAY_OVERHEAD_FUEL);
        }
        Ok(commit)
    }

    /// Fails over if kept work brought a resource to its threshold. The answer waits for the failover, so that it can
    /// report it.
    async fn fail_over_if_crossed(&mut self, work: &Work) {
        self.watch_levels();
        let may_try = |resource| self.may_fail_over(resource);
        let Some(resource) = self.policy.crossing(&self.vm.meter, may_try) else { return };
        if self.shadow.as_ref().and_then(Shadow::failover_cause).is_some() {
            // The failover in progress cures this crossing, too.
            return;
        }
        let usage = (self.vm.meter.unit(resource), self.vm.meter.usage(resource));
        self.fail_sla(resource, usage, &work.id);
        if self.prefers_shadow() {
            let (from, from_machine) = (self.vm.id.clone(), self.vm.lease.machine().clone());
            self.begin_shadow(Aim::FailOver(resource.into()), Vec::new());
            if self.shadow.is_some() {
                self.triggered = Some(Triggered::Begun { cause: resource.into(), from, from_machine });
            }
            return;
        }
        // A failed move is reported by an event, and leaves the service in one of its conditions.
        let _ = self.fail_over(resource.into()).await;
    }

    /// Notes whether a level of a degraded service has its headroom again. Memory is never released without a restore,
    /// so only a snapshot or a move can do that for memory, except in a program, which begins anew.
    fn watch_levels(&mut self) {
        let is_program = self.terms.program.workload().is_program();
        let levels = if is_program { &[Resource::Disk, Resource::Memory][..] } else { &[Resource::Disk] };
        for &level in levels {
            if self.policy.level_has_headroom(level, self.vm.meter.levels(), &self.vm.size)
                && let Some(event) = self.conditions.relieved(&self.vm.id, level)
            {
                self.emit_once_durable(event);
            }
        }
    }

    /// Takes a snapshot if the tail is long.
    async fn snapshot_if_long(&mut self) {
        let is_due = self.snapshots.is_tail_long(self.history.tail_bytes(), self.written_bytes());
        if is_due && self.shadow.is_none() && self.may_export() {
            let _ = self.snapshot_soon().await;
        }
    }

    /// Returns the bytes that were written to the disk for the last snapshot, if the service is durable.
    fn written_bytes(&self) -> u64 {
        self.snapshot_writer.as_ref().map_or(0, SnapshotWriter::written_bytes)
    }

    /// Reports that the journal fills up, or that it has room again.
    fn watch_journal(&mut self) {
        let due = self.conditions.journal_holds(&self.vm.id, self.history.held_bytes());
        self.report(due);
    }

    /// Denies a transaction for which the journal has no room, and reports the first such denial.
    fn journal_full(&mut self) -> Denial {
        let (denial, due) = self.conditions.journal_denies(&self.vm.id, self.history.held_bytes());
        self.report(due);
        denial
    }

    /// Returns whether the state may be exported now. After failed exports, some requests pass without a new attempt.
    fn may_export(&self) -> bool {
        self.conditions.may_export(self.counters.requests())
    }

    /// Returns whether a failover because of `resource` may be tried now.
    fn may_fail_over(&self, resource: Resource) -> bool {
        self.conditions.may_fail_over(resource, self.counters.requests())
    }

    /// Journals and reports an SLA failure. Of the network, `usage` is that of its fuller unit.
    fn fail_sla(&mut self, resource: Resource, (unit, usage): (Unit, Usage), transaction: &str) {
        let failure = SlaFailure {
            vm: self.vm.id.clone(),
            resource,
            usage,
            unit,
            threshold_percent: self.policy.thresholds.of(resource),
            transaction: transaction.to_owned(),
            sequence: self.last_sequence,
            timestamp: Some(self.service_time()),
        };
        self.journal_event(Record::SlaFailure(failure.clone()));
        self.emit_once_durable(Event::SlaFailure(failure));
    }

    /// Journals a record that is not a transaction. Its loss would lose no state, but a journal that fails has ended.
    fn journal_event(&mut self, record: Record) {
        match self.history.append(&record) {
            Ok((commit, _)) => self.last_commit = commit,
            Err(error) => drop(self.stop(format!("an event could not be journalled: {error}"))),
        }
    }

    fn stop(&mut self, reason: String) -> Stopped {
        let due = self.conditions.stop(&self.name, &reason);
        self.report(due);
        Stopped(reason)
    }

    fn emit(&self, event: Event) {
        self.events.emit(event);
    }

    /// Reports the events that are due after a transition of the conditions.
    fn report(&self, due: impl IntoIterator<Item = Event>) {
        for event in due {
            self.emit(event);
        }
    }

    /// Reports an event once its record, the last one, is durable. After a crash, the history must not contradict
    /// anything that was reported.
    fn emit_once_durable(&self, event: Event) {
        if !self.conditions.is_stopped() {
            self.events.emit_once(event, &self.last_commit);
        }
    }

    fn degraded_denial(&self, reason: String) -> Denial {
        Denial::Degraded { service: self.name.clone(), reason }
    }

    pub(crate) fn status(&self) -> Status {
        Status {
            vm: self.vm.id.clone(),
            machine: self.vm.lease.machine().clone(),
            size: self.vm.size.name.clone(),
            meter: self.vm.meter,
            sequence: self.last_sequence,
            snapshot_sequence: self
                .snapshot_writer
                .as_ref()
                .map_or_else(|| self.snapshots.last().sequence(), SnapshotWriter::sequence),
            degraded: self.conditions.degraded().map(str::to_owned),
            unmovable: self.conditions.unmovable().map(str::to_owned),
            journal: self.conditions.journal(&self.vm.id, self.history.held_bytes()),
            stopped: self.conditions.stopped().map(str::to_owned),
            counts: self.counters.counts(),
            doubts: self.doubts.count(),
            waiting: None,
        }
    }
}

/// The channel to the caller of an order.
type Answering<T> = tokio::sync::oneshot::Sender<Result<T, RequestError>>;

/// Waits until the shadow's round is over. Waits forever if there is no shadow.
async fn round_over(shadow: &mut Option<Shadow>) {
    match shadow {
        Some(shadow) => shadow.round_over().await,
        None => std::future::pending().await,
    }
}

enum Admitted {
    Run(Work),
    Answered(Reply),
}

/// Checks that the size of the first VM holds the workload.
fn check_size(spec: &ServiceSpec) -> Result<(), lifeboat_vm::workload::LoadError> {
    check_memory(&spec.program, &spec.size, &spec.thresholds)
}

/// Checks that `size` holds the workload of `program`, with headroom below the threshold of memory.
fn check_memory(
    program: &Program,
    size: &Size,
    thresholds: &Thresholds,
) -> Result<(), lifeboat_vm::workload::LoadError> {
    let level = thresholds.memory.less_points(HEADROOM_POINTS);
    program.workload().check_size(&size.name, size.memory_bytes, level.whole_points())
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("vm", &self.vm.id).finish_non_exhaustive()
    }
}
