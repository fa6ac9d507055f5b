//! One store and the instance in it: create, execute, query, snapshot, restore.
//!
//! A VM is one incarnation of a service: an identity, a size, a meter, a slot on a machine (`Vm`), and the stores
//! that run it one after another ([`Instance`]): a trap or a snapshot replaces the store, not the VM.
//!
//! `new_store` is the only place that makes a `Store`, so that no limit can be forgotten. What a call may use is
//! said anew for each call by an [`Allowance`]: a transaction gets the VM's tank and its size's memory, maintenance
//! (restore, replay, snapshot) an allowance of its own, so that a VM that is out of fuel can still leave.
//!
//! **Any trap ends a store.** After one, [`Instance::is_dead`] is true and every later call would fail; the only way
//! on is to rehydrate. Dropping the future of a call has the same effect.

use crate::clock::Timestamp;
use crate::engine::Program;
use crate::fleet::Lease;
use crate::id::{Epoch, Sequence, VmId};
use crate::meter::{Meter, Resource};
use crate::size::{Size, grouped};
use crate::snapshot::{CHUNK_BYTES_MAX, STATE_BYTES_MAX, Snapshot};
use crate::text::shortened;
use crate::transaction::{Answer, Cause};
use crate::wasi::{Phase, Scene, Wasi};
use crate::workload::{CONVERTER_TABLES, CORE_INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX};
use bytes::Bytes;
use std::fmt;
use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::RuntimeFlavor;
use tokio::time::{Instant, Sleep, sleep_until};
use wasmtime::{CallHook, CallHookHandler, ResourceLimiter, Store, StoreContextMut, Trap};

#[allow(missing_docs, unreachable_pub, reason = "generated; host/wit/vm.wit is the documentation")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "vm",
        ownership: Borrowing { duplicate_if_necessary: false },
        imports: { default: trappable },
        exports: { default: async },
    });
}
pub(crate) use bindings::VmPre;
use bindings::exports::lifeboat::vm::workload::Context as Caller;

/// A guest yields to others after burning this much fuel, some tens of microseconds, and after this much was charged
/// for its host calls. To yield takes about one microsecond: at a tenth of this interval, that alone would slow a guest
/// down by a quarter.
pub const FUEL_YIELD_INTERVAL: u64 = 100_000;

/// Fuel charged for each entry into the host, which burns none by itself: a call of a host function, growth of a memory
/// or a table, and each yield for fuel that the guest burnt ([`FUEL_YIELD_INTERVAL`]). Bytes that are copied for it cost
/// extra.
pub const FUEL_PER_HOST_CALL: u64 = 100;

/// A guest that goes on calling the host yields after this time whatever its calls are charged: a second guard, for a
/// host function that takes longer than its charge says.
pub const HOST_CALL_TIME_MAX: Duration = Duration::from_millis(2);

/// The clock of [`HOST_CALL_TIME_MAX`] is read once in so many entries into the host and exits from it: to read it at
/// each of them would cost as much as the call itself.
pub const HOST_CALLS_PER_CLOCK_READ: u32 = 64;

/// An operation on memory (`memory.fill`, `memory.copy`, `memory.init`) that is longer than so many bytes cannot be
/// interrupted for a millisecond and more: while it runs, another thread takes the place of the guest's own, and other
/// guests go on. A deadline ends the guest after it.
pub const BULK_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Handles to resources that a guest may hold at once.
pub const HANDLES_MAX: usize = 100_000;

/// The longest reply, and the most bytes that any one call may copy from the guest to the host. wasmtime's own default
/// is 128 MiB.
pub const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What one call into a guest may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Fuel that it may burn.
    pub fuel: u64,
    /// Bytes that linear memory may grow to.
    pub memory_bytes: u64,
    /// How long it may take, sleeps of the guest included. None in a replay.
    pub deadline: Option<Duration>,
}

/// Who asks for what and when, as the guest sees it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The transaction's or query's id.
    pub id: &'a str,
    /// The authenticated user's name.
    pub user: &'a str,
    /// The transaction's sequence; a query's is that of the last transaction.
    pub sequence: Sequence,
    /// What both clocks of the guest show.
    pub timestamp: Timestamp,
    /// Which random numbers it sees.
    pub epoch: Epoch,
    /// The bytes of the transaction or query.
    pub body: &'a [u8],
}

/// What a call came to.
#[derive(Debug)]
pub struct Attempt {
    /// The guest's answer, or why it did not finish; in that case the instance is dead.
    pub answer: Answer,
    /// Fuel burnt, host calls included.
    pub fuel_used: u64,
}

/// Why the state could not be exported or restored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MoveError {
    /// The instance could not be created at all.
    #[error("failed to instantiate: {0}")]
    Instantiate(Cause),
    /// `snapshot` or `restore` answered `err`.
    #[error("the guest's {phase} answered err: {text}")]
    Refused {
        /// `snapshot` or `restore`.
        phase: &'static str,
        /// What the guest said.
        text: String,
    },
    /// `snapshot` or `restore` did not finish.
    #[error("the guest's {phase} failed: {cause}")]
    Failed {
        /// `snapshot` or `restore`.
        phase: &'static str,
        /// Why.
        cause: Cause,
    },
}

impl MoveError {
    /// What an export ran out of, if that is why it failed.
    pub(crate) fn export_lacked(&self) -> Option<Resource> {
        match self {
            Self::Failed { phase: SNAPSHOT, cause } => cause.exhausted(),
            _ => None,
        }
    }

    /// A guest's own words, as far as they go on one line.
    fn refused(phase: &'static str, text: &str) -> Self {
        Self::Refused { phase, text: shortened(text, 200) }
    }
}

/// The phase of an export, as errors call it.
const SNAPSHOT: &str = "snapshot";

/// One incarnation of a service.
pub(crate) struct Vm {
    pub(crate) id: VmId,
    pub(crate) size: Arc<Size>,
    pub(crate) meter: Meter,
    // Before the lease, as fields are dropped in order: the store is gone before its slot is given back.
    pub(crate) instance: Instance,
    /// The slot that it holds on its machine.
    pub(crate) lease: Lease,
}

/// A store and the workload's instance in it.
pub struct Instance {
    store: Store<StoreData>,
    vm: bindings::Vm,
    turns: Turns,
    is_dead: bool,
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance").field("is_dead", &self.is_dead).finish_non_exhaustive()
    }
}

impl Instance {
    /// Instantiates `program` in a fresh store; its start functions run on `allowance`. `secret` keys the random
    /// numbers that the guest will see.
    ///
    /// # Errors
    /// [`MoveError::Instantiate`] if a start function traps or exceeds the allowance, or the pool has no slot.
    pub async fn create(program: &Program, secret: [u8; 32], allowance: Allowance) -> Result<Self, MoveError> {
        let mut turns = Turns::default();
        let mut store = new_store(program, secret, allowance, Arc::clone(&turns.is_long));
        let instantiated = turns.run(allowance.deadline, entry::instantiate(program, &mut store)).await;
        match instantiated {
            Ok(vm) => Ok(Self { store, vm, turns, is_dead: false }),
            Err(error) => Err(MoveError::Instantiate(match cause_of(&error, allowance) {
                Cause::Fuel { limit_fuel } => {
                    let message = format!("its start function did not end within {} fuel", grouped(limit_fuel));
                    Cause::Trap { message }
                }
                cause => cause,
            })),
        }
    }

    /// Executes one transaction.
    pub async fn execute(&mut self, call: Call<'_>, allowance: Allowance) -> Attempt {
        self.answer(Phase::Execute, call, allowance).await
    }

    /// Answers one query.
    pub async fn query(&mut self, call: Call<'_>, allowance: Allowance) -> Attempt {
        self.answer(Phase::Query, call, allowance).await
    }

    async fn answer(&mut self, phase: Phase, call: Call<'_>, allowance: Allowance) -> Attempt {
        let scene = Scene { phase, sequence: call.sequence, epoch: call.epoch, now: call.timestamp };
        self.enter(scene, allowance);
        let context = Caller { id: call.id, user: call.user, sequence: call.sequence.0, timestamp: call.timestamp.0 };
        let Self { store, vm, turns, .. } = self;
        let called = match phase {
            Phase::Query => entry::query(store, vm, context, call.body),
            _ => entry::execute(store, vm, context, call.body),
        };
        let called = turns.run(allowance.deadline, called).await;
        let (fuel_used, called) = self.leave(allowance, called);
        let answer = match called {
            Ok(Ok(reply)) => Answer::Ok(Bytes::from(reply)),
            Ok(Err(text)) => Answer::Refused(text),
            Err(cause) => Answer::Failed(cause),
        };
        Attempt { answer, fuel_used }
    }

    /// Exports the state as it is after transaction `sequence`. The instance's memory has grown afterwards, so it is
    /// to be replaced by one that was restored from the snapshot.
    ///
    /// Returns the snapshot and the fuel that it cost.
    ///
    /// # Errors
    /// [`MoveError::Refused`] leaves the instance alive, [`MoveError::Failed`] leaves it dead.
    pub async fn snapshot(
        &mut self,
        sequence: Sequence,
        timestamp: Timestamp,
        allowance: Allowance,
    ) -> Result<(Snapshot, u64), MoveError> {
        const PHASE: &str = SNAPSHOT;
        self.enter(Scene { phase: Phase::Snapshot, sequence, epoch: Epoch::default(), now: timestamp }, allowance);
        let limit_bytes = allowance.memory_bytes.min(STATE_BYTES_MAX);
        self.store.data_mut().state = StateStream::Writing { chunks: Vec::new(), total_bytes: 0, limit_bytes };
        let Self { store, vm, turns, .. } = self;
        let called = turns.run(allowance.deadline, entry::snapshot(store, vm)).await;
        let stream = std::mem::replace(&mut self.store.data_mut().state, StateStream::Closed);
        let (fuel_used, called) = self.leave(allowance, called);
        match (called, stream) {
            (Ok(Ok(version)), StateStream::Writing { chunks, .. }) => {
                let chunks = chunks.into_iter().map(Bytes::from).collect();
                Ok((Snapshot::new(sequence, timestamp, version, chunks), fuel_used))
            }
            (Ok(Ok(_)), _) => unreachable!("a call of `snapshot` leaves the stream open"),
            (Ok(Err(text)), _) => Err(MoveError::refused(PHASE, &text)),
            (Err(cause), _) => Err(MoveError::Failed { phase: PHASE, cause }),
        }
    }

    /// Reads `snapshot` back into this instance, which must be fresh. Returns the fuel that it cost.
    ///
    /// # Errors
    /// After any error the instance is of no use.
    pub async fn restore(&mut self, snapshot: &Arc<Snapshot>, allowance: Allowance) -> Result<u64, MoveError> {
        const PHASE: &str = "restore";
        let (sequence, now) = (snapshot.sequence(), snapshot.timestamp());
        self.enter(Scene { phase: Phase::Birth, sequence, epoch: Epoch::default(), now }, allowance);
        self.store.data_mut().state = StateStream::Reading { snapshot: Arc::clone(snapshot), chunk: 0, offset: 0 };
        let Self { store, vm, turns, .. } = self;
        let called = turns.run(allowance.deadline, entry::restore(store, vm, snapshot.state_version())).await;
        self.store.data_mut().state = StateStream::Closed;
        let (fuel_used, called) = self.leave(allowance, called);
        match called {
            Ok(Ok(())) => Ok(fuel_used),
            Ok(Err(text)) => Err(MoveError::refused(PHASE, &text)),
            Err(cause) => Err(MoveError::Failed { phase: PHASE, cause }),
        }
    }

    /// Whether the instance trapped, or a call into it was dropped: it can do nothing any more.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// Bytes of linear memory, over all memories.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.store.data().limiter.memory_bytes
    }

    /// Takes the lines that the guest logged since the last time.
    pub fn take_log(&mut self) -> Vec<String> {
        self.store.data_mut().wasi.take_log()
    }

    fn enter(&mut self, scene: Scene, allowance: Allowance) {
        // Until `leave` says otherwise: if the future of the call is dropped, the store cannot be entered again.
        self.is_dead = true;
        self.store.set_fuel(allowance.fuel).expect("the engine consumes fuel");
        let data = self.store.data_mut();
        data.limiter.memory_limit_bytes = allowance.memory_bytes;
        data.wasi.enter(scene, allowance.deadline);
        data.charges.enter(allowance.fuel);
    }

    fn leave<T>(&mut self, allowance: Allowance, called: wasmtime::Result<T>) -> (u64, Result<T, Cause>) {
        let fuel_left = self.store.get_fuel().expect("the engine consumes fuel");
        let fuel_used = (allowance.fuel - fuel_left).saturating_add(self.store.data_mut().collect_charges());
        match called {
            // Host calls are charged when they are made, but the guest's own check does not see them: it may have
            // finished on fuel that they had used up.
            Ok(_) if fuel_used > allowance.fuel => (allowance.fuel, Err(Cause::Fuel { limit_fuel: allowance.fuel })),
            Ok(value) => {
                self.is_dead = false;
                (fuel_used, Ok(value))
            }
            Err(error) => (fuel_used.min(allowance.fuel), Err(cause_of(&error, allowance))),
        }
    }
}

/// A call into a guest.
type Entry<'a, T> = Pin<Box<dyn Future<Output = wasmtime::Result<T>> + Send + 'a>>;

/// The only ways into a guest.
///
/// They decide how deep a guest may recurse. wasmtime reads the stack pointer when it enters a guest, and the guest's
/// stack ends [`STACK_BYTES_MAX`] below that; what wasmtime itself puts on the stack from there to the guest's first
/// frame is taken from the guest. So the machine code on that way has to be the same one in all calls of a kind, or what
/// was just deep enough live is too deep in a replay.
///
/// The compiler does not see to that by itself. The body of an `async fn` is compiled in each crate that awaits it, and
/// what it calls that is generic is compiled with it: the command and this library had a copy each, with frames of
/// different sizes, and a service ran on the one and was recovered on the other. A plain function without type
/// parameters that is not inlined is compiled once, here, and with it all that it makes a `dyn Future` of.
///
/// [`STACK_BYTES_MAX`]: crate::engine::STACK_BYTES_MAX
mod entry {
    use super::{Caller, Entry, Program, Store, StoreData, bindings};

    #[inline(never)]
    pub(super) fn instantiate<'a>(program: &'a Program, store: &'a mut Store<StoreData>) -> Entry<'a, bindings::Vm> {
        Box::pin(program.pre().instantiate_async(store))
    }

    #[inline(never)]
    pub(super) fn execute<'a>(
        store: &'a mut Store<StoreData>,
        vm: &'a bindings::Vm,
        context: Caller<'a>,
        body: &'a [u8],
    ) -> Entry<'a, Result<Vec<u8>, String>> {
        Box::pin(vm.lifeboat_vm_workload().call_execute(store, context, body))
    }

    #[inline(never)]
    pub(super) fn query<'a>(
        store: &'a mut Store<StoreData>,
        vm: &'a bindings::Vm,
        context: Caller<'a>,
        body: &'a [u8],
    ) -> Entry<'a, Result<Vec<u8>, String>> {
        Box::pin(vm.lifeboat_vm_workload().call_query(store, context, body))
    }

    /// Returns the version of the state as well.
    #[inline(never)]
    pub(super) fn snapshot<'a>(
        store: &'a mut Store<StoreData>,
        vm: &'a bindings::Vm,
    ) -> Entry<'a, Result<u32, String>> {
        Box::pin(async move {
            let workload = vm.lifeboat_vm_workload();
            let version = workload.call_state_version(&mut *store).await?;
            Ok(workload.call_snapshot(&mut *store).await?.map(|()| version))
        })
    }

    #[inline(never)]
    pub(super) fn restore<'a>(
        store: &'a mut Store<StoreData>,
        vm: &'a bindings::Vm,
        version: u32,
    ) -> Entry<'a, Result<(), String>> {
        Box::pin(vm.lifeboat_vm_workload().call_restore(store, version))
    }
}

/// Makes a store with every limit that a guest is held to; `allowance` holds until the next call says otherwise.
///
/// Limited here: fuel and how often it yields, linear memory, table elements, core instances, memories and tables
/// (through [`ResourceLimiter`]), bytes copied per host call, component handles, and resource-table capacity. The
/// stack and the pool's slots are limited by the engine, reply, state chunks, log and random bytes where they arise.
fn new_store(program: &Program, secret: [u8; 32], allowance: Allowance, is_long: Arc<AtomicBool>) -> Store<StoreData> {
    let data = StoreData {
        limiter: Limiter { memory_bytes: 0, memory_limit_bytes: allowance.memory_bytes },
        wasi: Wasi::new(secret, HANDLES_MAX),
        state: StateStream::Closed,
        charges: Charges::new(allowance.fuel, is_long),
    };
    let mut store = Store::new(program.engine(), data);
    store.limiter(|data| &mut data.limiter);
    store.set_fuel(allowance.fuel).expect("the engine consumes fuel");
    store.fuel_async_yield_interval(Some(FUEL_YIELD_INTERVAL)).expect("the interval is above zero");
    store.set_hostcall_fuel(REPLY_BYTES_MAX);
    store.set_max_component_handles(HANDLES_MAX);
    store.call_hook_async(HostCalls);
    store
}

/// Charges host calls, and makes a guest yield in them.
///
/// A guest checks its fuel only where a function begins and where a loop goes round, so that it can call the host a
/// million times between two checks. This is the place that every one of these calls passes, and so the guest yields
/// here, on its own fiber, without having to come to a check.
struct HostCalls;

// Written out rather than with `async_trait`, whose box would take memory from the allocator at every entry into the
// host: a box of something without a size does not.
impl CallHookHandler<StoreData> for HostCalls {
    fn handle_call_event<'handler, 'store, 'event>(
        &'handler self,
        store: StoreContextMut<'store, StoreData>,
        hook: CallHook,
    ) -> Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send + 'event>>
    where
        'handler: 'event,
        'store: 'event,
        Self: 'event,
    {
        match charge_host_call(store, hook) {
            Ok(Turn::Goes) => Box::pin(GoOn),
            Ok(Turn::Ends) => Box::pin(YieldOnce { has_yielded: false }),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }
}

/// Ready at once, and without a size.
struct GoOn;

impl Future for GoOn {
    type Output = wasmtime::Result<()>;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(()))
    }
}

/// Lets every other task that is ready go first, as wasmtime does when a guest has burnt an interval.
///
/// `tokio::task::yield_now` would also wait until the runtime has looked at its timers and sockets, so that a guest
/// that calls the host would get less than its share beside one that only computes.
struct YieldOnce {
    has_yielded: bool,
}

impl Future for YieldOnce {
    type Output = wasmtime::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::replace(&mut self.has_yielded, true) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Whether a guest goes on or yields first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Goes,
    Ends,
}

/// Charges a host call when it is made and what was done in it when it returns.
///
/// The charge is kept beside the store's own fuel: setting that anew on each call would start the yield interval
/// anew too, and a guest that calls the host often enough would never yield.
fn charge_host_call(mut store: StoreContextMut<'_, StoreData>, hook: CallHook) -> wasmtime::Result<Turn> {
    let is_entry = match hook {
        CallHook::CallingHost => true,
        CallHook::ReturningFromHost => false,
        CallHook::CallingWasm | CallHook::ReturningFromWasm => return Ok(Turn::Goes),
    };
    let fuel_left = store.get_fuel()?;
    let data = store.data_mut();
    if is_entry {
        data.charges.add(FUEL_PER_HOST_CALL);
        data.charges.note_fuel(fuel_left);
    }
    let charged = data.collect_charges();
    if fuel_left < charged { Err(Trap::OutOfFuel.into()) } else { Ok(data.charges.turn(std::time::Instant::now)) }
}

/// What the host calls of one call into the guest were charged, and when the guest last yielded in one.
struct Charges {
    /// Fuel for all of them.
    fuel: u64,
    /// How much of it there was when the guest last yielded here.
    yielded_at_fuel: u64,
    /// Entries into the host and exits from it since the clock was last read.
    passages: u32,
    /// When the clock was first read after the guest last yielded here.
    since: Option<std::time::Instant>,
    /// What the guest had left in its tank when it last entered the host.
    fuel_left: u64,
    /// Whether the guest is about to do something long. Shared with [`Turns`].
    is_long: Arc<AtomicBool>,
}

impl Charges {
    fn new(fuel_left: u64, is_long: Arc<AtomicBool>) -> Self {
        Self { fuel: 0, yielded_at_fuel: 0, passages: 0, since: None, fuel_left, is_long }
    }

    /// Begins a call into the guest.
    fn enter(&mut self, fuel_left: u64) {
        (self.fuel, self.yielded_at_fuel) = (0, 0);
        (self.passages, self.since) = (0, None);
        self.fuel_left = fuel_left;
        self.is_long.store(false, Ordering::Relaxed);
    }

    fn add(&mut self, fuel: u64) {
        self.fuel = self.fuel.saturating_add(fuel);
    }

    /// Sees from the fuel that was burnt since the last entry into the host whether a long operation comes next.
    ///
    /// A bulk operation burns one unit a byte before it begins, and then yields if an interval is over, by way of the
    /// host. Nothing else burns this much between two entries, unless a function of megabytes does without a loop.
    fn note_fuel(&mut self, fuel_left: u64) {
        let burnt = self.fuel_left.saturating_sub(fuel_left);
        self.fuel_left = fuel_left;
        let is_long = burnt > BULK_BYTES_MAX;
        if is_long != self.is_long.load(Ordering::Relaxed) {
            self.is_long.store(is_long, Ordering::Relaxed);
        }
    }

    /// Decides whether the guest yields now: it has used up an interval in host calls, or was long about them.
    fn turn(&mut self, now: impl FnOnce() -> std::time::Instant) -> Turn {
        let mut is_over = self.fuel - self.yielded_at_fuel >= FUEL_YIELD_INTERVAL;
        self.passages += 1;
        if !is_over && self.passages >= HOST_CALLS_PER_CLOCK_READ {
            self.passages = 0;
            let now = now();
            let since = *self.since.get_or_insert(now);
            is_over = now.saturating_duration_since(since) >= HOST_CALL_TIME_MAX;
        }
        if !is_over {
            return Turn::Goes;
        }
        self.yielded_at_fuel = self.fuel;
        (self.passages, self.since) = (0, None);
        Turn::Ends
    }
}

/// Lets a guest run turn by turn, from one yield to the next, until its call is over or its deadline has come.
#[derive(Default)]
struct Turns {
    timer: Timer,
    /// Whether the next turn is a long one. The store's [`Charges`] say so.
    is_long: Arc<AtomicBool>,
}

impl Turns {
    /// Waits for a call, for `deadline` at most.
    async fn run<T>(&mut self, deadline: Option<Duration>, mut call: Entry<'_, T>) -> wasmtime::Result<T> {
        // From when it first yields, which is after a tenth of a millisecond: most calls are over by then, and never
        // ask what time it is.
        let mut end = None;
        poll_fn(|cx| {
            let polled = match self.is_long.load(Ordering::Relaxed) {
                false => call.as_mut().poll(cx),
                true => beside(|| call.as_mut().poll(cx)),
            };
            let Some(deadline) = deadline else { return polled };
            if polled.is_ready() {
                return polled;
            }
            let now = Instant::now();
            let end = *end.get_or_insert(now + deadline);
            // The timer alone would be late: a runtime whose tasks never rest looks at its timers once in a while.
            if now >= end || self.timer.poll(cx, end).is_ready() {
                return Poll::Ready(Err(wasmtime::Error::new(Stop(Cause::Deadline { deadline }))));
            }
            Poll::Pending
        })
        .await
    }
}

/// Does long work while another thread takes the place of this one among the guests' threads.
fn beside<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Wakes a call at its deadline.
///
/// It stays armed when a call is over, and is armed anew only when it goes off too early for the call of then. One for
/// every call would take the lock of the runtime's timers twice in each transaction, and keep a thread of the guests
/// busy with them: a fifth of the time of a transaction of 10 us.
#[derive(Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Is ready at `end`.
    fn poll(&mut self, cx: &mut Context<'_>, end: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if sleep.deadline() > end {
            sleep.as_mut().reset(end);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= end {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(end);
        }
        Poll::Pending
    }
}

/// Says in our words why a call did not finish.
fn cause_of(error: &wasmtime::Error, allowance: Allowance) -> Cause {
    if let Some(Stop(cause)) = error.downcast_ref::<Stop>() {
        return cause.clone();
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Cause::Fuel { limit_fuel: allowance.fuel },
        Some(trap) => Cause::Trap { message: trap.to_string().trim_start_matches("wasm trap: ").to_owned() },
        None => {
            // The root cause is the sentence; what wraps it is where in the call it arose.
            let message = error.root_cause().to_string().replace('\n', " ");
            // wasmtime has no type for this one; `a_reply_over_the_limit_is_refused_by_the_host` pins the words.
            if message.contains("fuel allocated for hostcalls has been exhausted") {
                return Cause::ReplyBytes { limit_bytes: REPLY_BYTES_MAX as u64 };
            }
            Cause::Trap { message }
        }
    }
}

/// Ends a call from within a host function or the limiter.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Stop(pub(crate) Cause);

impl Stop {
    /// A guest's misuse of a host function, as a trap.
    pub(crate) fn trap(message: String) -> wasmtime::Error {
        wasmtime::Error::new(Self(Cause::Trap { message }))
    }
}

/// The data of a store.
pub(crate) struct StoreData {
    limiter: Limiter,
    pub(crate) wasi: Wasi,
    state: StateStream,
    charges: Charges,
}

impl StoreData {
    fn collect_charges(&mut self) -> u64 {
        self.charges.add(self.wasi.take_owed_fuel());
        self.charges.fuel
    }
}

/// Holds a store to its memory and table limits. What it refuses traps, so that no kept reply can depend on it.
struct Limiter {
    memory_bytes: u64,
    memory_limit_bytes: u64,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // `maximum` is the one that the module itself declares: beyond it, growth fails for the guest as anywhere.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted_bytes = self.memory_bytes.saturating_add(desired.saturating_sub(current) as u64);
        if wanted_bytes > self.memory_limit_bytes {
            let limit_bytes = self.memory_limit_bytes;
            return Err(wasmtime::Error::new(Stop(Cause::Memory { wanted_bytes, limit_bytes })));
        }
        self.memory_bytes = wanted_bytes;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // The pool's slot or the operating system had no more: not something that a reply may depend on.
        Err(error)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum && maximum < count(TABLE_ELEMENTS_MAX)) {
            return Ok(false);
        }
        if desired as u64 > TABLE_ELEMENTS_MAX {
            let (wanted, limit) = (desired as u64, TABLE_ELEMENTS_MAX);
            return Err(wasmtime::Error::new(Stop(Cause::TableElements { wanted, limit })));
        }
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn instances(&self) -> usize {
        count(CORE_INSTANCES_MAX)
    }

    fn tables(&self) -> usize {
        count(TABLES_MAX + CONVERTER_TABLES)
    }

    fn memories(&self) -> usize {
        count(MEMORIES_MAX)
    }
}

fn count(bound: u64) -> usize {
    usize::try_from(bound).unwrap_or(usize::MAX)
}

/// A shorter chunk of state is appended to the one before it.
const SMALL_CHUNK_BYTES: usize = 16 * 1024;

/// The stream behind `lifeboat:vm/state`.
enum StateStream {
    /// Outside of `snapshot` and `restore`.
    Closed,
    /// In `snapshot`: what was written so far, its bytes, and how many it may be.
    Writing { chunks: Vec<Vec<u8>>, total_bytes: u64, limit_bytes: u64 },
    /// In `restore`: what is read from, and the place of the next byte.
    Reading { snapshot: Arc<Snapshot>, chunk: usize, offset: usize },
}

impl bindings::lifeboat::vm::state::Host for StoreData {
    fn write(&mut self, chunk: Vec<u8>) -> wasmtime::Result<()> {
        let StateStream::Writing { chunks, total_bytes, limit_bytes } = &mut self.state else {
            return Err(Stop::trap("the guest called state.write outside of snapshot".into()));
        };
        if chunk.len() > CHUNK_BYTES_MAX {
            return Err(Stop::trap(format!(
                "the guest wrote a state chunk of {} bytes, the limit is {CHUNK_BYTES_MAX}",
                chunk.len()
            )));
        }
        *total_bytes += chunk.len() as u64;
        if *total_bytes > *limit_bytes {
            return Err(Stop::trap(format!("the guest exported over {limit_bytes} bytes of state, the limit")));
        }
        self.wasi.owed_fuel += chunk.len() as u64 / 16;
        // Small chunks are put together: a guest that writes byte by byte costs the host bytes, not allocations.
        match chunks.last_mut() {
            Some(last) if chunk.len() < SMALL_CHUNK_BYTES && last.len() + chunk.len() <= CHUNK_BYTES_MAX => {
                last.extend_from_slice(&chunk);
            }
            _ if chunk.is_empty() => {}
            _ => chunks.push(chunk),
        }
        Ok(())
    }

    fn read(&mut self, max: u32) -> wasmtime::Result<Vec<u8>> {
        let StateStream::Reading { snapshot, chunk, offset } = &mut self.state else {
            return Err(Stop::trap("the guest called state.read outside of restore".into()));
        };
        let Some(current) = snapshot.chunks().get(*chunk) else { return Ok(Vec::new()) };
        let rest = &current[*offset..];
        let taken = rest.len().min(usize::try_from(max)?);
        self.wasi.owed_fuel += taken as u64 / 16;
        let bytes = rest[..taken].to_vec();
        if taken == rest.len() {
            (*chunk, *offset) = (*chunk + 1, 0);
        } else {
            *offset += taken;
        }
        Ok(bytes)
    }
}

/// Links what a workload may import: the state stream and our part of WASI.
pub(crate) fn add_to_linker(linker: &mut wasmtime::component::Linker<StoreData>) -> wasmtime::Result<()> {
    bindings::lifeboat::vm::state::add_to_linker::<_, wasmtime::component::HasSelf<_>>(linker, |data| data)?;
    crate::wasi::add_to_linker(linker)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charges() -> Charges {
        let mut charges = Charges::new(0, Arc::default());
        charges.enter(u64::MAX);
        charges
    }

    #[test]
    fn a_guest_yields_once_in_each_interval_of_host_calls() {
        let mut charges = charges();
        let start = std::time::Instant::now();
        let mut yields_at = Vec::new();
        for call in 1..=3_000 {
            charges.add(FUEL_PER_HOST_CALL);
            if charges.turn(|| start) == Turn::Ends {
                yields_at.push(call);
            }
        }
        assert_eq!(yields_at, [1_000, 2_000, 3_000]);
    }

    #[test]
    fn a_guest_whose_host_calls_are_slow_yields_whatever_they_are_charged() {
        let mut charges = charges();
        let start = std::time::Instant::now();
        let (mut reads, mut yields_at) = (0, Vec::new());
        for passage in 1..=6 * HOST_CALLS_PER_CLOCK_READ {
            let now = || {
                reads += 1;
                start + reads * (HOST_CALL_TIME_MAX / 2)
            };
            if charges.turn(now) == Turn::Ends {
                yields_at.push(passage / HOST_CALLS_PER_CLOCK_READ);
            }
        }
        // The first look tells when the turn began, the third that it is over.
        assert_eq!((reads, yields_at), (6, vec![3, 6]));
    }

    #[test]
    fn a_clock_that_goes_back_harms_nobody() {
        let mut charges = charges();
        let start = std::time::Instant::now() + Duration::from_secs(60);
        for passage in 0..10 * HOST_CALLS_PER_CLOCK_READ {
            assert_eq!(charges.turn(|| start - Duration::from_millis(passage.into())), Turn::Goes);
        }
    }

    #[test]
    fn a_long_operation_is_foreseen_and_forgotten_at_the_next_entry_into_the_host() {
        let mut charges = charges();
        let is_long = Arc::clone(&charges.is_long);
        let mut foreseen = Vec::new();
        let mut fuel_left = u64::MAX;
        for burnt in [10, BULK_BYTES_MAX, BULK_BYTES_MAX + 1, 0, 1 << 32] {
            fuel_left -= burnt;
            charges.note_fuel(fuel_left);
            foreseen.push(is_long.load(Ordering::Relaxed));
        }
        assert_eq!(foreseen, [false, false, true, false, true]);
        charges.enter(u64::MAX);
        assert!(!is_long.load(Ordering::Relaxed), "the next call begins anew");
    }
}
