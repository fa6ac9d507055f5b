//! The store of an instance: its parts, its limits, and the cost of a guest's host calls.
//!
//! `new_store` is the only place that creates a `Store`, so that no limit can be forgotten.

use crate::engine::Program;
use crate::profile::Profiler;
use crate::snapshot::{CHUNK_BYTES_MAX, SectionKind, Snapshot};
use crate::stop::Stop;
use crate::wasi::{HasWasi, Wasi};
use crate::workload::{CONVERTER_TABLES, CORE_INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX, Workload};
use lifeboat_api::transaction::{Cause, REPLY_BYTES_MAX};
use lifeboat_disk::Disk;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
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
pub use crate::wasi::Inputs;
pub(crate) use bindings::exports::lifeboat::vm::workload::Context as Caller;
pub(crate) use bindings::{Vm, VmPre};

/// The fuel after which a guest yields to others, some tens of microseconds of work. The same amount applies to the
/// charges for its host calls. A yield takes about one microsecond: at a tenth of this interval, yields alone would
/// slow a guest down by a quarter.
pub const FUEL_YIELD_INTERVAL: u64 = 100_000;

/// The fuel charged for each entry into the host, which burns none by itself. Entries are calls of host functions,
/// growth of a memory or a table, and each yield for fuel that the guest burnt ([`FUEL_YIELD_INTERVAL`]). Bytes copied
/// for the guest cost extra.
pub const FUEL_PER_HOST_CALL: u64 = 100;

/// The time after which a guest that keeps calling the host yields, regardless of charges. This is a second guard, for
/// a host function that takes longer than its charge covers.
pub const HOST_CALL_TIME_MAX: Duration = Duration::from_millis(2);

/// The number of entries into the host and exits from it for each reading of the clock for [`HOST_CALL_TIME_MAX`]. A
/// reading at each of them would cost as much as the call itself.
pub const HOST_CALLS_PER_CLOCK_READ: u32 = 64;

/// The longest memory operation (`memory.fill`, `memory.copy`, `memory.init`), in bytes, that runs on the guest's
/// thread. A longer one cannot be interrupted for a millisecond or more. While it runs, another thread replaces the
/// guest's own, so that other guests continue. A deadline ends the guest only after the operation.
pub const BULK_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The number of handles to resources that a guest may hold at once.
pub const HANDLES_MAX: usize = 100_000;

/// The limits of one call into a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// The fuel that the call may burn.
    pub fuel: u64,
    /// The size up to which linear memory may grow, in bytes.
    pub memory_bytes: u64,
    /// The quota of the virtual disk, in bytes.
    pub disk_bytes: u64,
    /// Whether the call is live or a replay.
    pub inputs: Inputs,
}

/// Creates a store for `program` with every limit that applies to a guest; `allowance` holds until the next call replaces it. The
/// guest finds `disk` at `/`.
///
/// The limits set here are fuel and the yield interval, the quota of the disk, linear memory, table elements, core
/// instances, memories and tables (through [`ResourceLimiter`]), bytes of a reply and of the arguments of a host call,
/// component handles, and resource-table capacity. The engine limits the stack and the pool's slots. State chunks, logs
/// and random bytes are limited where they arise.
pub(crate) fn new_store(
    program: &Program,
    secret: [u8; 32],
    allowance: Allowance,
    disk: Disk,
    is_long: Arc<AtomicBool>,
) -> Store<StoreData> {
    let data = StoreData {
        limiter: Limiter { memory_bytes: 0, memory_limit_bytes: allowance.memory_bytes },
        wasi: Wasi::new(secret, HANDLES_MAX, disk, allowance.disk_bytes),
        state: StateStream::Closed,
        charges: Charges::new(allowance.fuel, is_long),
        workload: program.shared_workload(),
        profiler: None,
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

/// Charges host calls, and makes a guest yield during them.
///
/// A guest checks its fuel only at the start of a function and in each iteration of a loop, so it can call the host a
/// million times between two checks. All of these calls pass through this hook. The guest therefore yields here, on its
/// own fiber, without having to reach a check.
struct HostCalls;

// This is written out instead of using `async_trait`, whose box would allocate memory at every entry into the host. A
// box of a zero-sized type does not allocate.
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

/// A zero-sized future that is ready at once.
struct GoOn;

impl Future for GoOn {
    type Output = wasmtime::Result<()>;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(()))
    }
}

/// Lets every other ready task run first, as wasmtime does when a guest has burnt an interval.
///
/// `tokio::task::yield_now` would also wait until the runtime has checked its timers and sockets. A guest that calls
/// the host would then get less than its share beside one that only computes.
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

/// Whether a guest continues, or yields first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Goes,
    Ends,
}

/// Charges a host call at its entry, and the work done in it at its return.
///
/// The charge is counted beside the store's own fuel. Setting that fuel on each call would also restart the yield
/// interval, and a guest that calls the host often enough would never yield.
fn charge_host_call(mut store: StoreContextMut<'_, StoreData>, hook: CallHook) -> wasmtime::Result<Turn> {
    let is_entry = match hook {
        CallHook::CallingHost => true,
        CallHook::ReturningFromHost => false,
        CallHook::CallingWasm | CallHook::ReturningFromWasm => return Ok(Turn::Goes),
    };
    if let Some(profiler) = store.data_mut().profiler.take() {
        return crate::profile::pass(store, profiler, hook).map(|()| Turn::Goes);
    }
    let fuel_left = store.get_fuel()?;
    let data = store.data_mut();
    if is_entry {
        data.wasi.note_time();
        data.charges.add(FUEL_PER_HOST_CALL);
        data.charges.note_fuel(fuel_left);
    }
    let charged = data.collect_charges();
    if fuel_left < charged { Err(Trap::OutOfFuel.into()) } else { Ok(data.charges.turn(std::time::Instant::now)) }
}

/// The charges for the host calls of one call into the guest, and the guest's last yield in one of them.
pub(crate) struct Charges {
    /// The total fuel charged.
    fuel: u64,
    /// The value of `fuel` at the guest's last yield here.
    yielded_at_fuel: u64,
    /// The number of entries into the host and exits from it since the last reading of the clock.
    passages: u32,
    /// The first reading of the clock after the guest's last yield here.
    since: Option<std::time::Instant>,
    /// The fuel left in the guest's tank at its last entry into the host.
    fuel_left: u64,
    /// Whether the guest is about to run a long operation. Shared with the instance.
    is_long: Arc<AtomicBool>,
}

impl Charges {
    fn new(fuel_left: u64, is_long: Arc<AtomicBool>) -> Self {
        Self { fuel: 0, yielded_at_fuel: 0, passages: 0, since: None, fuel_left, is_long }
    }

    /// Begins a call into the guest.
    pub(crate) fn enter(&mut self, fuel_left: u64) {
        (self.fuel, self.yielded_at_fuel) = (0, 0);
        (self.passages, self.since) = (0, None);
        self.fuel_left = fuel_left;
        self.is_long.store(false, Ordering::Relaxed);
    }

    pub(crate) fn add(&mut self, fuel: u64) {
        self.fuel = self.fuel.saturating_add(fuel);
    }

    /// Detects an imminent long operation from the fuel burnt since the last entry into the host.
    ///
    /// A bulk operation burns one unit of fuel for each byte before it begins. If an interval is over, it then yields,
    /// which enters the host. Nothing else burns this much between two entries, except a function of megabytes without
    /// a loop.
    pub(crate) fn note_fuel(&mut self, fuel_left: u64) {
        let burnt = self.fuel_left.saturating_sub(fuel_left);
        self.fuel_left = fuel_left;
        let is_long = burnt > BULK_BYTES_MAX;
        if is_long != self.is_long.load(Ordering::Relaxed) {
            self.is_long.store(is_long, Ordering::Relaxed);
        }
    }

    /// Decides whether the guest yields now: its host calls used up an interval of fuel or took too long.
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

/// The data of a store.
pub(crate) struct StoreData {
    pub(crate) limiter: Limiter,
    pub(crate) wasi: Wasi,
    pub(crate) state: StateStream,
    pub(crate) charges: Charges,
    /// What runs in the store.
    pub(crate) workload: Arc<Workload>,
    /// What is made of the guest's calls, if anybody wants to know.
    pub(crate) profiler: Option<Box<Profiler>>,
}

impl HasWasi for StoreData {
    fn wasi(&mut self) -> &mut Wasi {
        &mut self.wasi
    }
}

impl StoreData {
    pub(crate) fn collect_charges(&mut self) -> u64 {
        self.charges.add(self.wasi.take_owed_fuel());
        self.charges.fuel
    }
}

/// Enforces a store's memory and table limits. A refusal traps, so that no recorded reply can depend on it.
pub(crate) struct Limiter {
    pub(crate) memory_bytes: u64,
    pub(crate) memory_limit_bytes: u64,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // `maximum` is the limit that the module itself declares: beyond it, growth fails for the guest as on any host.
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
        // The pool's slot or the operating system had no more memory. No reply may depend on that.
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

/// The length below which a chunk of state is appended to the one before it, in bytes.
const SMALL_CHUNK_BYTES: usize = 16 * 1024;

/// The stream behind `lifeboat:vm/state`.
pub(crate) enum StateStream {
    /// No `snapshot` or `restore` is running.
    Closed,
    /// In `snapshot`: the chunks written so far, their total length, and its limit.
    Writing { chunks: Vec<Vec<u8>>, total_bytes: u64, limit_bytes: u64 },
    /// In `restore`: the snapshot that is read, and the position of the next byte.
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
        // Small chunks are joined: a guest that writes byte by byte costs the host bytes, not allocations.
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
        let Some(current) = snapshot.chunks_of(SectionKind::State).get(*chunk) else { return Ok(Vec::new()) };
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

/// Links the functions that a workload may import: the state stream and the host's part of WASI.
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
        // The first reading starts the turn's time, and the third one ends it.
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
    fn a_long_operation_is_expected_until_the_next_entry_into_the_host() {
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
