//! One store and the guest in it: create, execute, query, snapshot, restore.
//!
//! A guest is of one of two kinds. An instance of the world lives from call to call, and exports its state. A program is
//! run anew for each call, and its state is its disk (`instance/program.rs`). Callers see no difference.
//!
//! A VM is one incarnation of a service: an identity, a size, a meter, a slot on a machine (`Vm`), and the stores that
//! run it one after another ([`Instance`]). A trap or a snapshot replaces the store, not the VM.
//!
//! `new_store` (`store.rs`) is the only place that creates a `Store`. An [`Allowance`] sets the limits of each call. A
//! transaction gets the VM's tank and its size's memory. Maintenance (restore, replay, snapshot) gets a separate
//! allowance, so that the state of a VM without fuel can still move.
//!
//! **Any trap ends a store.** After one, [`Instance::is_dead`] is true and every later call would fail; the service can
//! continue only by a rehydrate. Dropping the future of a call has the same effect.

mod program;

#[cfg(test)]
mod tests;

pub use program::{
    BYTES_PER_START_FUEL, CommandLine, FUEL_PER_CORE_INSTANCE, FUEL_PER_RUN, Ran, Run, RunEnd, Surroundings, run_once,
};

use crate::engine::{Entry as ProgramEntry, Program};
use crate::explain::explained;
use crate::network::Network;
use crate::profile::Profiler;
use crate::snapshot::{STATE_BYTES_MAX, Section, SectionKind, Snapshot};
use crate::stop::Stop;
use crate::store::{self, Allowance, Caller, FUEL_YIELD_INTERVAL, StateStream, StoreData, new_store};
pub use crate::wasi::Observed;
pub use crate::wasi::sockets::{
    KERNEL_BUFFER_BYTES_MAX, LINGER_MAX, NAME_ADDRESSES_MAX, NAME_TIME_MAX, Peer, Peers, SOCKET_BUFFER_BYTES_MAX,
    SOCKETS_MAX, TcpNetwork, is_granted,
};
use crate::wasi::{CallContext, Phase};
pub use crate::wasi::{ERRORS_BYTES_MAX, Machine, OwnStreams};
use bytes::Bytes;
use lifeboat_api::call::CallRecord;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::meter::{Levels, Resource};
use lifeboat_api::size::grouped;
use lifeboat_api::text::shortened;
use lifeboat_api::transaction::{Answer, Cause, REPLY_BYTES_MAX};
use lifeboat_disk::{Disk, Released};
use program::Runs;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::RuntimeFlavor;
use tokio::time::{Instant, Sleep, sleep_until};
use wasmtime::{Store, Trap, WasmBacktrace};

/// A call's user, id, time and body, as the guest sees them.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The transaction's or query's id.
    pub id: &'a str,
    /// The authenticated user's name.
    pub user: &'a str,
    /// The transaction's sequence number; a query has that of the last transaction.
    pub sequence: Sequence,
    /// The time that both clocks of the guest show.
    pub timestamp: Timestamp,
    /// The epoch, which selects the random numbers that the guest sees.
    pub epoch: Epoch,
    /// The body of the transaction or query.
    pub body: &'a [u8],
}

/// The outcome of a call.
#[derive(Debug)]
pub struct Attempt {
    /// The guest's answer, or the reason why it did not finish; in that case the instance is dead.
    pub answer: Answer,
    /// The fuel burnt, including host calls.
    pub fuel_used: u64,
    /// The calls to the network that it made, in order, with what it saw of them.
    pub calls: Vec<CallRecord>,
}

/// An error from exporting or restoring the state.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MoveError {
    /// The instance could not be created.
    #[error("failed to instantiate: {0}")]
    Instantiate(Cause),
    /// `snapshot` or `restore` answered `err`.
    #[error("the guest's {phase} returned an error: {text}")]
    Refused {
        /// The phase: `snapshot` or `restore`.
        phase: &'static str,
        /// The guest's text.
        text: String,
    },
    /// `snapshot` or `restore` did not finish.
    #[error("the guest's {phase} failed: {}", moving_cause(phase, cause))]
    Failed {
        /// The phase: `snapshot` or `restore`.
        phase: &'static str,
        /// The reason.
        cause: Cause,
    },
}

/// Describes why `snapshot` or `restore` did not finish. Its fuel limit is not the service's tank, so a deployment with
/// more fuel does not help.
fn moving_cause(phase: &str, cause: &Cause) -> String {
    match cause {
        Cause::Fuel { limit_fuel } => format!(
            "cpu: it did not end within {} fuel, the most that a {phase} may burn on any size and with any --fuel; fix \
             the workload's {phase}, and deploy it as a new service",
            grouped(*limit_fuel)
        ),
        cause => cause.to_string(),
    }
}

impl MoveError {
    /// Returns the text for operators of the service, with all that is known about the cause.
    #[must_use]
    pub fn detailed(&self) -> String {
        match self {
            Self::Instantiate(Cause::Explained { details, .. })
            | Self::Failed { cause: Cause::Explained { details, .. }, .. } => format!("{self}; {details}"),
            error => error.to_string(),
        }
    }

    /// Returns the resource that the export exhausted, if that is why it failed.
    pub fn export_lacked(&self) -> Option<Resource> {
        match self {
            Self::Failed { phase: SNAPSHOT, cause } => cause.exhausted(),
            _ => None,
        }
    }

    /// Creates [`MoveError::Refused`] with the guest's text, shortened to one line.
    fn refused(phase: &'static str, text: &str) -> Self {
        Self::Refused { phase, text: shortened(text, 200) }
    }
}

/// The name of the export phase in errors.
const SNAPSHOT: &str = "snapshot";

/// When a deadline is due that the clock cannot express.
const DEADLINE_FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The fuel of a call, at most, after which what it removed or wrote in vain is dropped on a guest's thread: to make it
/// took as long.
const DROPPED_FUEL_MAX: u64 = 1_000_000;

/// The memory of a store that is dropped on a guest's thread, at most, in bytes.
const DROPPED_BYTES_MAX: u64 = 1024 * 1024;

/// A store and the guest in it.
pub struct Instance {
    store: Store<StoreData>,
    guest: Guest,
    turns: Turns,
    is_dead: bool,
}

/// What is called in the store of an instance.
enum Guest {
    /// An instance of the world, which lives from call to call.
    World(store::Vm),
    /// A program, of which each call makes an instance. Between two calls, the store has none.
    Program(Box<Runs>),
}

impl Guest {
    fn program(&self) -> Option<&Runs> {
        match self {
            Self::World(_) => None,
            Self::Program(runs) => Some(runs),
        }
    }

    fn program_mut(&mut self) -> Option<&mut Runs> {
        match self {
            Self::World(_) => None,
            Self::Program(runs) => Some(runs),
        }
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance").field("is_dead", &self.is_dead).finish_non_exhaustive()
    }
}

impl Instance {
    /// Instantiates `program` in a fresh store and runs its start functions on `allowance`. `secret` keys the random
    /// numbers that the guest will see. The guest finds `disk` at `/`, and what its start functions write is kept. A
    /// program does nothing before its first call.
    ///
    /// # Errors
    /// [`MoveError::Instantiate`] if a start function traps or exceeds the allowance, or if the pool has no free slot.
    pub async fn create(
        program: &Program,
        secret: [u8; 32],
        allowance: Allowance,
        disk: Disk,
    ) -> Result<Self, MoveError> {
        let mut turns = Turns::default();
        let pre = match program.entry() {
            ProgramEntry::World(pre) => pre,
            ProgramEntry::Program { .. } => return Ok(Self::of_program(program, secret, disk)),
        };
        let mut store = new_store(program, secret, allowance, disk, Arc::clone(&turns.is_long));
        let instantiated = turns.run(allowance.inputs.deadline(), entry::instantiate(pre, &mut store)).await;
        store.data_mut().wasi.leave(true);
        match instantiated {
            Ok(vm) => Ok(Self { store, guest: Guest::World(vm), turns, is_dead: false }),
            Err(error) => Err(MoveError::Instantiate(match cause_in(&store, &error, allowance) {
                Cause::Fuel { limit_fuel } => {
                    let message = format!("its start function did not end within {} fuel", grouped(limit_fuel));
                    Cause::Trap { message }
                }
                cause => cause,
            })),
        }
    }

    /// Executes one transaction, which may use `network`.
    pub async fn execute(&mut self, call: Call<'_>, allowance: Allowance, network: Network) -> Attempt {
        self.answer(Phase::Execute, call, allowance, network).await
    }

    /// Ends a transaction whose future was dropped, for `cause`.
    pub fn interrupt(&mut self, allowance: Allowance, cause: Cause) -> Attempt {
        // The guest may have ended well, but what it did is not kept.
        self.is_dead = true;
        let (fuel_used, _) = self.leave::<()>(allowance, Err(wasmtime::Error::new(Stop(cause.clone()))));
        // The store of a run that has ended is gone, and its disk is kept: a rollback follows.
        let fuel_used = self.guest.program().and_then(Runs::fuel_of_ended).unwrap_or(fuel_used);
        let calls = self.store.data_mut().wasi.leave_network();
        self.interrupt_run();
        Attempt { answer: Answer::Failed(cause), fuel_used, calls }
    }

    /// Answers one query.
    pub async fn query(&mut self, call: Call<'_>, allowance: Allowance) -> Attempt {
        self.answer(Phase::Query, call, allowance, Network::None).await
    }

    async fn answer(&mut self, phase: Phase, call: Call<'_>, allowance: Allowance, network: Network) -> Attempt {
        if matches!(self.guest, Guest::Program(_)) {
            return self.run(phase, call, allowance, network).await;
        }
        let call_context = CallContext { phase, sequence: call.sequence, epoch: call.epoch, now: call.timestamp };
        self.enter(call_context, allowance, network);
        let context = Caller { id: call.id, user: call.user, sequence: call.sequence.0, timestamp: call.timestamp.0 };
        let Self { store, guest: Guest::World(vm), turns, .. } = self else { unreachable!("a program is run") };
        let called = match phase {
            Phase::Query => entry::query(store, vm, context, call.body),
            _ => entry::execute(store, vm, context, call.body),
        };
        let called = turns.run(allowance.inputs.deadline(), called).await;
        let (fuel_used, called) = self.leave(allowance, called);
        let calls = self.store.data_mut().wasi.leave_network();
        let answer = match called {
            Ok(Ok(reply)) => Answer::Ok(Bytes::from(reply)),
            Ok(Err(text)) => Answer::Refused(text),
            Err(cause) => Answer::Failed(cause),
        };
        Attempt { answer, fuel_used, calls }
    }

    /// Exports the state after transaction `sequence`. The export grows the instance's memory, so the caller should
    /// replace the instance with one restored from the snapshot.
    ///
    /// Returns the snapshot and the fuel that it burnt.
    ///
    /// # Errors
    /// [`MoveError::Refused`], which leaves the instance alive, or [`MoveError::Failed`], which leaves it dead.
    pub async fn snapshot(
        &mut self,
        sequence: Sequence,
        timestamp: Timestamp,
        allowance: Allowance,
    ) -> Result<(Snapshot, u64), MoveError> {
        const PHASE: &str = SNAPSHOT;
        if let Guest::Program(runs) = &self.guest {
            return Ok((runs.snapshot(sequence, timestamp, self.disk().clone()), 0));
        }
        self.enter(
            CallContext { phase: Phase::Snapshot, sequence, epoch: Epoch::default(), now: timestamp },
            allowance,
            Network::None,
        );
        let limit_bytes = allowance.memory_bytes.min(STATE_BYTES_MAX);
        self.store.data_mut().state = StateStream::Writing { chunks: Vec::new(), total_bytes: 0, limit_bytes };
        let Self { store, guest: Guest::World(vm), turns, .. } = self else { unreachable!("a program has returned") };
        let called = turns.run(allowance.inputs.deadline(), entry::snapshot(store, vm)).await;
        let stream = std::mem::replace(&mut self.store.data_mut().state, StateStream::Closed);
        let (fuel_used, called) = self.leave(allowance, called);
        match (called, stream) {
            (Ok(Ok(version)), StateStream::Writing { chunks, .. }) => {
                let chunks = chunks.into_iter().map(Bytes::from).collect();
                let state = Section { kind: SectionKind::State, chunks };
                let disk = self.disk().clone();
                Ok((Snapshot::new(sequence, timestamp, version, vec![state], disk), fuel_used))
            }
            (Ok(Ok(_)), _) => unreachable!("a call of `snapshot` leaves the stream open"),
            (Ok(Err(text)), _) => Err(MoveError::refused(PHASE, &text)),
            (Err(cause), _) => Err(MoveError::Failed { phase: PHASE, cause }),
        }
    }

    /// Restores `snapshot` into this instance. It must be fresh, except in a check of the guest. The disk is that of the
    /// snapshot afterwards, whatever the start functions and `restore` itself wrote: otherwise the disk would depend on
    /// how often the service was moved. Returns the fuel that it burnt.
    ///
    /// # Errors
    /// Any [`MoveError`]; the instance is unusable afterwards.
    pub async fn restore(&mut self, snapshot: &Arc<Snapshot>, allowance: Allowance) -> Result<u64, MoveError> {
        const PHASE: &str = "restore";
        let (sequence, now) = (snapshot.sequence(), snapshot.timestamp());
        self.store.data_mut().wasi.set_disk(snapshot.disk().clone());
        if let Guest::Program(runs) = &mut self.guest {
            return runs.restore(snapshot).map(|()| 0);
        }
        let call_context = CallContext { phase: Phase::Init, sequence, epoch: Epoch::default(), now };
        self.enter(call_context, allowance, Network::None);
        self.store.data_mut().state = StateStream::Reading { snapshot: Arc::clone(snapshot), chunk: 0, offset: 0 };
        let Self { store, guest: Guest::World(vm), turns, .. } = self else { unreachable!("a program has returned") };
        let called = turns.run(allowance.inputs.deadline(), entry::restore(store, vm, snapshot.state_version())).await;
        self.store.data_mut().state = StateStream::Closed;
        let (fuel_used, called) = self.leave(allowance, called);
        match called {
            Ok(Ok(())) => {
                self.store.data_mut().wasi.set_disk(snapshot.disk().clone());
                Ok(fuel_used)
            }
            Ok(Err(text)) => Err(MoveError::refused(PHASE, &text)),
            Err(cause) => Err(MoveError::Failed { phase: PHASE, cause }),
        }
    }

    /// Returns whether the instance is unusable, because it trapped or the future of a call into it was dropped.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// Returns whether nothing is left of the last call: it was a query, or was not kept, of a program. Then a rollback has
    /// nothing to do.
    #[must_use]
    pub fn has_undone(&self) -> bool {
        !self.is_dead && self.guest.program().is_some_and(Runs::has_undone)
    }

    /// Returns the size of all linear memories together, in bytes. Of a program, it is the size that they had at the end
    /// of the last kept run.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.guest.program().map_or(self.store.data().limiter.memory_bytes, Runs::memory_bytes)
    }

    /// Returns the memory and the disk in use.
    #[must_use]
    pub fn levels(&self) -> Levels {
        Levels { memory_bytes: self.memory_bytes(), disk_bytes: self.disk().used_bytes() }
    }

    /// Returns the virtual disk. After a call that ended the instance, it shows what that call has written.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        self.store.data().wasi.disk()
    }

    /// Returns whether any call so far has left a file, a stream over one, or a listing open. Its descriptor cannot be used
    /// by later calls. The end of a program closes what it has open.
    #[must_use]
    pub fn has_left_open(&self) -> bool {
        self.guest.program().is_none() && self.store.data().wasi.has_left_open()
    }

    /// Returns what the guest did in its last call. The dropped bytes of its log count until
    /// [`take_log`](Self::take_log) takes the log.
    #[must_use]
    pub fn observed(&self) -> Observed {
        self.guest.program().map_or_else(|| self.store.data().wasi.observed(), Runs::observed)
    }

    /// Returns and removes the lines that the guest logged since the last call of this function.
    pub fn take_log(&mut self) -> Vec<String> {
        self.store.data_mut().wasi.take_log()
    }

    /// Makes a profile of every call from now on. The program should be one of [`Engine::with_deep_traces`].
    ///
    /// [`Engine::with_deep_traces`]: crate::engine::Engine::with_deep_traces
    pub fn start_profile(&mut self, profiler: Box<Profiler>) {
        self.turns.count = Some(profiler.turns());
        self.store.data_mut().profiler = Some(profiler);
    }

    /// Ends the profile, if one is being made, also that of a dead instance.
    pub fn end_profile(&mut self) -> Option<Box<Profiler>> {
        self.turns.count = None;
        let profiler = self.store.data_mut().profiler.take()?;
        self.store.fuel_async_yield_interval(Some(FUEL_YIELD_INTERVAL)).expect("the interval is above zero");
        Some(profiler)
    }

    fn enter(&mut self, call_context: CallContext, allowance: Allowance, network: Network) {
        // This holds until `leave` resets it: if the future of the call is dropped, the store cannot be entered again.
        self.is_dead = true;
        self.store.set_fuel(allowance.fuel).expect("the engine consumes fuel");
        if let Some(profiler) = &mut self.store.data_mut().profiler {
            profiler.enter(allowance.fuel);
            let interval = profiler.interval();
            self.store.fuel_async_yield_interval(Some(interval)).expect("the interval is above zero");
        }
        let data = self.store.data_mut();
        data.limiter.memory_limit_bytes = allowance.memory_bytes;
        data.wasi.enter(call_context, allowance.inputs, allowance.disk_bytes, network);
        data.charges.enter(allowance.fuel);
    }

    fn leave<T>(&mut self, allowance: Allowance, called: wasmtime::Result<T>) -> (u64, Result<T, Cause>) {
        // What the call left open is closed at its expense.
        let wasi = &mut self.store.data_mut().wasi;
        let undone = wasi.leave(called.is_ok());
        let released = wasi.take_released();
        let fuel_left = self.store.get_fuel().expect("the engine consumes fuel");
        let fuel_used = (allowance.fuel - fuel_left).saturating_add(self.store.data_mut().collect_charges());
        if fuel_used > DROPPED_FUEL_MAX {
            drop_elsewhere((undone, released));
        }
        if let Some(profiler) = &mut self.store.data_mut().profiler {
            profiler.leave(fuel_used.min(allowance.fuel));
        }
        match called {
            // Host calls are charged when they are made, but the guest's own fuel check does not include them. The
            // guest may have finished on fuel that its host calls had already used up.
            Ok(_) if fuel_used > allowance.fuel => (allowance.fuel, Err(Cause::Fuel { limit_fuel: allowance.fuel })),
            Ok(value) => {
                self.is_dead = false;
                (fuel_used, Ok(value))
            }
            Err(error) => (fuel_used.min(allowance.fuel), Err(cause_in(&self.store, &error, allowance))),
        }
    }
}

/// Drops chunks of files on a blocking thread, because many take milliseconds.
fn drop_elsewhere(chunks: (Option<Disk>, Released)) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn_blocking(move || drop(chunks));
    }
}

/// A call into a guest.
type Entry<'a, T> = Pin<Box<dyn Future<Output = wasmtime::Result<T>> + Send + 'a>>;

/// The only functions that enter a guest.
///
/// They decide how deep a guest may recurse. wasmtime reads the stack pointer when it enters a guest, and the guest's
/// stack ends [`STACK_BYTES_MAX`] below it. What wasmtime itself puts on the stack between there and the guest's first
/// frame counts against the guest. All calls of one kind must therefore run the same machine code on that path.
/// Otherwise, a recursion that just fits live is too deep in a replay.
///
/// The compiler alone does not ensure that. The body of an `async fn` is compiled in each crate that awaits it,
/// together with the generic functions that it calls. The command and this library once had a copy each, with frames of
/// different sizes: a service ran on one and was recovered on the other. A plain function that has no type parameters
/// and is not inlined is compiled once, here, together with everything that it turns into a `dyn Future`.
///
/// [`STACK_BYTES_MAX`]: crate::engine::STACK_BYTES_MAX
mod entry {
    use super::{Caller, Entry, Store, StoreData, store::Vm};
    use crate::store::VmPre;
    use wasmtime::component::{ComponentExportIndex, InstancePre};

    #[inline(never)]
    pub(super) fn instantiate<'a>(pre: &'a VmPre<StoreData>, store: &'a mut Store<StoreData>) -> Entry<'a, Vm> {
        Box::pin(pre.instantiate_async(store))
    }

    /// Instantiates a program and runs it. Returns what its `run` returned.
    #[inline(never)]
    pub(super) fn run<'a>(
        pre: &'a InstancePre<StoreData>,
        run: &'a ComponentExportIndex,
        store: &'a mut Store<StoreData>,
    ) -> Entry<'a, Result<(), ()>> {
        Box::pin(async move {
            let instance = pre.instantiate_async(&mut *store).await?;
            let run = instance.get_typed_func::<(), (Result<(), ()>,)>(&mut *store, run)?;
            Ok(run.call_async(&mut *store, ()).await?.0)
        })
    }

    #[inline(never)]
    pub(super) fn execute<'a>(
        store: &'a mut Store<StoreData>,
        vm: &'a Vm,
        context: Caller<'a>,
        body: &'a [u8],
    ) -> Entry<'a, Result<Vec<u8>, String>> {
        Box::pin(vm.lifeboat_vm_workload().call_execute(store, context, body))
    }

    #[inline(never)]
    pub(super) fn query<'a>(
        store: &'a mut Store<StoreData>,
        vm: &'a Vm,
        context: Caller<'a>,
        body: &'a [u8],
    ) -> Entry<'a, Result<Vec<u8>, String>> {
        Box::pin(vm.lifeboat_vm_workload().call_query(store, context, body))
    }

    /// Exports the state and returns its version.
    #[inline(never)]
    pub(super) fn snapshot<'a>(store: &'a mut Store<StoreData>, vm: &'a Vm) -> Entry<'a, Result<u32, String>> {
        Box::pin(async move {
            let workload = vm.lifeboat_vm_workload();
            let version = workload.call_state_version(&mut *store).await?;
            Ok(workload.call_snapshot(&mut *store).await?.map(|()| version))
        })
    }

    #[inline(never)]
    pub(super) fn restore<'a>(
        store: &'a mut Store<StoreData>,
        vm: &'a Vm,
        version: u32,
    ) -> Entry<'a, Result<(), String>> {
        Box::pin(vm.lifeboat_vm_workload().call_restore(store, version))
    }
}

/// Runs a guest turn by turn, from one yield to the next, until its call ends or its deadline passes.
#[derive(Default)]
struct Turns {
    timer: Timer,
    /// Whether the next turn is a long one, as the store's [`Charges`] report.
    is_long: Arc<AtomicBool>,
    /// Counts the turns for a profile.
    count: Option<Arc<AtomicU64>>,
}

impl Turns {
    /// Waits for a call, at most for `deadline`.
    async fn run<T>(&mut self, deadline: Option<Duration>, mut call: Entry<'_, T>) -> wasmtime::Result<T> {
        // The deadline counts from the first yield, which is after a tenth of a millisecond: most calls end before it
        // and never read the clock.
        let mut end = None;
        poll_fn(|cx| {
            if let Some(count) = &self.count {
                count.fetch_add(1, Ordering::Relaxed);
            }
            let polled = match self.is_long.load(Ordering::Relaxed) {
                false => call.as_mut().poll(cx),
                true => beside(|| call.as_mut().poll(cx)),
            };
            let Some(deadline) = deadline else { return polled };
            if polled.is_ready() {
                return polled;
            }
            let now = Instant::now();
            // A deadline that no clock can express is as good as none.
            let end = *end.get_or_insert_with(|| now.checked_add(deadline).unwrap_or(now + DEADLINE_FAR));
            // The timer alone would be late: a runtime whose tasks never rest checks its timers only rarely.
            if now >= end || self.timer.poll(cx, end).is_ready() {
                return Poll::Ready(Err(wasmtime::Error::new(Stop(Cause::Deadline { deadline }))));
            }
            Poll::Pending
        })
        .await
    }
}

/// Runs long work while another thread replaces this one among the guests' threads.
fn beside<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Wakes a call at its deadline.
///
/// It stays armed after a call, and is rearmed only if it fires too early for the call of that time. A timer for every
/// call would take the lock of the runtime's timers twice in each transaction and keep a guest thread busy with them.
/// That cost a fifth of the time of a transaction of 10 us.
#[derive(Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Polls for the time `end`.
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

/// Converts an error of wasmtime into the cause for which a call did not finish, with what the guest said about it.
fn cause_in(store: &Store<StoreData>, error: &wasmtime::Error, allowance: Allowance) -> Cause {
    let data = store.data();
    match cause_of(error, allowance) {
        // To read the source positions takes tens of milliseconds in the worst case.
        cause @ (Cause::Trap { .. } | Cause::Exit { .. }) => {
            beside(|| explained(cause, error, &data.wasi.last_errors(), &data.workload.component))
        }
        cause => cause,
    }
}

/// Converts an error of wasmtime into the cause for which a call did not finish.
fn cause_of(error: &wasmtime::Error, allowance: Allowance) -> Cause {
    if let Some(Stop(cause)) = error.downcast_ref::<Stop>() {
        return cause.clone();
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Cause::Fuel { limit_fuel: allowance.fuel },
        Some(trap) => Cause::Trap { message: trap.to_string().trim_start_matches("wasm trap: ").to_owned() },
        None => {
            // The root cause is the message; its wrappers only locate it within the call.
            let message = error.root_cause().to_string().replace('\n', " ");
            // wasmtime has no type for this error; `a_reply_over_the_limit_is_refused_by_the_host` pins its text.
            if message.contains("fuel allocated for hostcalls has been exhausted") {
                let limit_bytes = REPLY_BYTES_MAX as u64;
                // The arguments of a host function are copied while the guest is on the stack, and wasmtime adds the
                // guest's frames to the error. A reply is copied after the guest has returned.
                return match error.is::<WasmBacktrace>() {
                    true => Cause::ArgumentBytes { limit_bytes },
                    false => Cause::ReplyBytes { limit_bytes },
                };
            }
            Cause::Trap { message }
        }
    }
}
