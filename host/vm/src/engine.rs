//! The compiler, the pool of slots, and the threads that guests run on.
//!
//! One [`Engine`] serves a whole host. Its pool is laid out once, from [`PoolLimits`]: a slot for every VM that the
//! fleet may hold and for every store of the maintenance pool, each as large as the largest size and its headroom.
//! Slots are address space; memory is taken when a guest touches it.
//!
//! Guests run on a tokio runtime of their own, so that a busy guest never delays network I/O.

mod child;
mod turns;

#[cfg(test)]
mod tests;

pub use child::{
    CHILD_MEMORY_BYTES_MAX, CHILD_THREADS_MAX, COMPILED_BYTES_MAX, run_as_child, work_in_children, works_in_children,
};

pub use turns::LET_PAST_PER_BYTE;

use crate::store::{StoreData, VmPre, add_to_linker};
use crate::workload::{
    CONVERTER_TABLES, CORE_INSTANCES_MAX, LoadError, LoadLimits, MEMORIES_MAX, MODULE_BYTES_MAX, TABLE_ELEMENTS_MAX,
    TABLES_MAX, Workload,
};
use lifeboat_api::size::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use turns::{Turn, Turns};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, InstanceAllocationStrategy, ModuleVersionStrategy, PoolingAllocationConfig};

/// The stack that a guest may use, in bytes.
pub const STACK_BYTES_MAX: usize = 512 * 1024;

/// What compiling one workload may take, from its turn on.
pub const COMPILE_DEADLINE: Duration = Duration::from_secs(120);

/// What compiling one workload may take that is deployed, and as long it waits for its turn to be loaded, and for that to be
/// compiled. Less, so that one that was
/// deployed can be compiled when the host starts.
pub const DEPLOY_COMPILE_DEADLINE: Duration = Duration::from_secs(60);

/// What loading one workload in a process of its own may take that is deployed, or that a command names. Less than what is
/// stored may take, so that one that was deployed can be loaded when the host starts.
pub const LOAD_DEADLINE: Duration = Duration::from_secs(30);

/// What loading one that is stored already may take: when the host starts, others are loaded, compiled and replayed beside
/// it.
pub const STORED_LOAD_DEADLINE: Duration = Duration::from_secs(120);

/// Workloads whose files have up to so many bytes are small: they are compiled quickly, as a rule, and have turns of their
/// own.
pub const SMALL_BYTES_MAX: u64 = 192 << 10;

/// Small workloads that are compiled at once. One that takes long all the same keeps no other from its turn.
pub const SMALL_AT_ONCE_MAX: usize = 2;

/// Larger workloads that are compiled at once. One that takes long keeps no other from its turn, and no small one ever.
pub const LARGE_AT_ONCE_MAX: usize = 2;

/// What a pool slot offers beyond the largest size at the least: room for a snapshot or a restore. Beyond a largest size of
/// more than this, a slot offers as much again, as far as a 32-bit guest can address it: a guest may hold its state twice
/// while it exports it. A slot is address space, and what a guest does not touch costs nothing.
pub const MAINTENANCE_HEADROOM_BYTES: u64 = 64 * 1024 * 1024;

/// The most linear memory that a size may have: what a 32-bit guest can address, less the headroom.
pub const MEMORY_BYTES_MAX: u64 = (4 << 30) - MAINTENANCE_HEADROOM_BYTES;

/// A page of linear memory.
const PAGE_BYTES: u64 = 64 * 1024;

/// Linear memory that a slot holds for sizes of up to `largest_bytes`.
pub fn slot_bytes(largest_bytes: u64) -> u64 {
    let least_bytes = largest_bytes.saturating_add(MAINTENANCE_HEADROOM_BYTES);
    let twice_bytes = largest_bytes.saturating_mul(2).min(MEMORY_BYTES_MAX + MAINTENANCE_HEADROOM_BYTES);
    twice_bytes.max(least_bytes).next_multiple_of(PAGE_BYTES)
}

/// Address space that is reserved for each linear memory, however small: with all that a 32-bit guest can address, its
/// accesses need no bounds check.
pub const MEMORY_RESERVATION_BYTES: u64 = 4 << 30;

/// Address space behind each linear memory that stays empty: the default of wasmtime.
const GUARD_BYTES: u64 = 32 << 20;

/// Address space that a store takes beside its memories: its tables and its stack, of about 28 MiB.
const STORE_BESIDE_BYTES: u64 = 32 << 20;

/// Address space that a process takes beside its pool: its program, threads and heap. `inspect` takes 240 MiB on two cores.
const PROCESS_BYTES: u64 = 768 << 20;

/// How many stores an engine can hold at once, and how large they can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Stores that exist at once: VMs of the fleet and stores of the maintenance pool. None in an engine that only
    /// compiles.
    pub stores: u32,
    /// Linear memories of each, [`MEMORIES_MAX`] at most. A workload that has more cannot be instantiated.
    pub memories: u64,
    /// Linear memory of the largest size, in bytes.
    pub memory_bytes: u64,
}

impl PoolLimits {
    /// Address space that the memories of the pool take.
    fn reserved_bytes(&self) -> u64 {
        u64::from(self.stores).saturating_mul(self.memories).saturating_mul(MEMORY_RESERVATION_BYTES)
    }

    /// Address space that a process with this pool needs.
    fn address_space_bytes(&self) -> u64 {
        let guards = u64::from(self.stores).saturating_mul(self.memories).saturating_mul(GUARD_BYTES);
        let beside = u64::from(self.stores).saturating_mul(STORE_BESIDE_BYTES).saturating_add(PROCESS_BYTES);
        self.reserved_bytes().saturating_add(guards).saturating_add(beside).div_ceil(1 << 30).saturating_mul(1 << 30)
    }

    fn described(&self) -> String {
        if self.stores == 0 {
            return " for compiling".into();
        }
        format!(
            " for {} VMs and stores of maintenance, with {} of address space for their memories",
            self.stores,
            Bytes(self.reserved_bytes())
        )
    }
}

/// A workload cannot be compiled, or the engine not be set up.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The loader refused the file.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Cranelift refused it, or one of its imports has another type than ours.
    #[error("{name}: cannot be compiled: {reason}")]
    Compile {
        /// The workload's file.
        name: String,
        /// What the compiler said, on one line, and the remedy.
        reason: String,
    },
    /// It took more memory than it may, or its process failed.
    #[error("{name}: cannot be compiled: {reason}")]
    Exceeded {
        /// The workload's file.
        name: String,
        /// What became of the process, and the remedy.
        reason: String,
    },
    /// The process that was to compile it could not be started, or was killed by another. It may be had later.
    #[error("{name}: cannot be compiled: {reason}")]
    Process {
        /// The workload's file.
        name: String,
        /// What became of the process, and the remedy.
        reason: String,
    },
    /// Others are loaded and compiled first, for too long.
    #[error("{name}: neither loaded nor compiled, as others were for {} s; try again", wait.as_secs())]
    CompilerBusy {
        /// The workload's file.
        name: String,
        /// How long it waited.
        wait: Duration,
    },
    /// Cranelift took too long.
    #[error("{name}: not compiled within {} s; make the module smaller, or try again when the machine is less busy", deadline.as_secs())]
    CompileDeadline {
        /// The workload's file.
        name: String,
        /// [`COMPILE_DEADLINE`] or [`DEPLOY_COMPILE_DEADLINE`].
        deadline: Duration,
    },
    /// The pool or the threads could not be had.
    #[error(
        "failed to set up the engine{}{}: {reason}; {}",
        limits.described(),
        limit_bytes.map(|limit| format!(" under a limit of {}", Bytes(limit))).unwrap_or_default(),
        set_up_remedy(limits, *limit_bytes, *is_configured)
    )]
    SetUp {
        /// The pool.
        limits: PoolLimits,
        /// Whether an operator can configure it smaller.
        is_configured: bool,
        /// The limit of the process's address space, if it has one.
        limit_bytes: Option<u64>,
        /// What the operating system said.
        reason: String,
    },
}

/// What to do where an engine cannot be set up.
fn set_up_remedy(limits: &PoolLimits, limit_bytes: Option<u64>, is_configured: bool) -> String {
    let needed_bytes = limits.address_space_bytes();
    match (limit_bytes.filter(|limit| *limit < needed_bytes), is_configured) {
        (None, true) => "configure fewer slots or services, or free memory and threads of the host".into(),
        (None, false) => "free memory and threads of the host".into(),
        (Some(_), _) => format!(
            "raise the limit of address space to {} (ulimit -v {}){}",
            Bytes(needed_bytes),
            needed_bytes / 1024,
            if is_configured { ", or configure fewer slots or services" } else { "" }
        ),
    }
}

/// What the operating system said, without what the library says of it, whose bytes are in hexadecimal digits.
fn without_mapping(reason: String) -> String {
    let of_system = reason.rsplit_once("mmap failed to reserve ").and_then(|(_, rest)| rest.split_once(": "));
    of_system.map_or(reason.clone(), |(_, of_system)| of_system.to_owned())
}

impl EngineError {
    /// The same of a pool that an operator configured, who can have it smaller.
    #[must_use]
    pub fn of_configuration(mut self) -> Self {
        if let Self::SetUp { is_configured, .. } = &mut self {
            *is_configured = true;
        }
        self
    }

    /// Whether the next attempt may succeed: there was no process or no thread for it, or its process was killed.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Load(error) => error.may_pass(),
            error => matches!(error, Self::Process { .. }),
        }
    }
}

/// Waits for a task, and passes its panic on. A task that was cancelled ended with its runtime, and with it whoever
/// waits.
pub async fn joined<T>(task: impl Future<Output = Result<T, tokio::task::JoinError>>) -> T {
    match task.await {
        Ok(output) => output,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

/// Loads a workload in a process of its own, which is held to [`LOAD_DEADLINE`] and [`CHILD_MEMORY_BYTES_MAX`], if this
/// program can be one, and waits for it. However small a file is, the types of a component may take a gigabyte.
///
/// # Errors
/// As [`load`](crate::workload::load), [`LoadError::Deadline`], [`LoadError::Exceeded`], and [`LoadError::Process`].
pub fn load(name: &str, bytes: &[u8]) -> Result<Workload, LoadError> {
    load_within(name, bytes, LOAD_DEADLINE)
}

/// The same for a workload that was loaded before it was stored: it has [`STORED_LOAD_DEADLINE`].
///
/// # Errors
/// As [`load`].
pub fn load_stored(name: &str, bytes: &[u8]) -> Result<Workload, LoadError> {
    load_within(name, bytes, STORED_LOAD_DEADLINE)
}

fn load_within(name: &str, bytes: &[u8], deadline: Duration) -> Result<Workload, LoadError> {
    // A file that is too large is refused before it is read.
    let Some(executable) = child::executable().filter(|_| bytes.len() as u64 <= MODULE_BYTES_MAX) else {
        return crate::workload::load(name, bytes, &LoadLimits::default());
    };
    child::load(executable, name, bytes, deadline).map_err(|failure| match failure {
        child::Failure::Refused(reason) => LoadError::Refused { reason },
        child::Failure::Exceeded(reason) => LoadError::exceeded(name, reason),
        child::Failure::Process(reason) => LoadError::process(name, reason),
        child::Failure::Deadline => LoadError::deadline(name, deadline),
    })
}

/// Compiles workloads and runs guests.
pub struct Engine {
    wasmtime: wasmtime::Engine,
    linker: Linker<StoreData>,
    guests: Option<tokio::runtime::Runtime>,
    /// Turns to compile small workloads, and large ones.
    small: Turns,
    large: Turns,
    compiled: AtomicU64,
    largest_bytes: u64,
    slot_bytes: u64,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("slot_bytes", &self.slot_bytes).finish_non_exhaustive()
    }
}

impl Engine {
    /// Reserves the pool and starts the guests' threads.
    ///
    /// # Errors
    /// [`EngineError::SetUp`] if the address space or the threads cannot be had.
    pub fn new(limits: PoolLimits) -> Result<Self, EngineError> {
        let largest_bytes = limits.memory_bytes.next_multiple_of(PAGE_BYTES);
        let slot_bytes = slot_bytes(largest_bytes);
        let fail = |reason: String| EngineError::SetUp {
            limits,
            is_configured: false,
            limit_bytes: address_space_limit(),
            reason,
        };
        let config = config(limits, slot_bytes).map_err(&fail)?;
        let wasmtime = wasmtime::Engine::new(&config).map_err(|error| fail(without_mapping(one_line(&error))))?;
        let mut linker = Linker::new(&wasmtime);
        add_to_linker(&mut linker).map_err(|error| fail(one_line(&error)))?;
        let guests = tokio::runtime::Builder::new_multi_thread()
            .thread_name("lifeboat-guest")
            .enable_time()
            .build()
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self {
            wasmtime,
            linker,
            guests: Some(guests),
            small: Turns::new(SMALL_AT_ONCE_MAX),
            large: Turns::new(LARGE_AT_ONCE_MAX),
            compiled: AtomicU64::new(0),
            largest_bytes,
            slot_bytes,
        })
    }

    /// Compiles `workload` when it is its turn.
    ///
    /// # Errors
    /// [`EngineError::Compile`] and [`EngineError::CompileDeadline`]; of a compiler in a process of its own also
    /// [`EngineError::Exceeded`] and [`EngineError::Process`]. After the deadline a compiler in this process still runs to
    /// its end in the background, and holds the turn of those that wait; one in a process of its own is gone.
    pub async fn compile(self: &Arc<Self>, workload: Workload) -> Result<Arc<Program>, EngineError> {
        let turn = self.turn(workload.input_bytes).await;
        self.compile_in_turn(workload, turn, COMPILE_DEADLINE).await
    }

    /// Loads and compiles a workload whose file has `file_bytes`, when it is its turn: what waits for one takes no memory,
    /// so that as many are loaded at once as are compiled. `load` may wait for the disk.
    ///
    /// # Errors
    /// As [`Engine::compile`], and those of `load`.
    pub async fn load_and_compile<E: From<EngineError> + Send + 'static>(
        self: &Arc<Self>,
        file_bytes: u64,
        load: impl FnOnce() -> Result<Workload, E> + Send + 'static,
    ) -> Result<Arc<Program>, E> {
        let turn = self.turn(file_bytes).await;
        // What nobody waits for any more has its turn until it has ended.
        let (loaded, turn) = joined(self.guests().spawn_blocking(move || (load(), turn))).await;
        Ok(self.compile_in_turn(loaded?, turn, COMPILE_DEADLINE).await?)
    }

    /// Loads a workload that is deployed, when it is its turn.
    ///
    /// # Errors
    /// As [`load`], and [`EngineError::CompilerBusy`].
    pub async fn load_deployed(&self, name: &str, bytes: bytes::Bytes) -> Result<Workload, EngineError> {
        let (turn, name) = (self.turn_of_deployed(name, bytes.len() as u64).await?, name.to_owned());
        // What nobody waits for any more has its turn until it has ended.
        let loading = self.guests().spawn_blocking(move || (load(&name, &bytes), turn));
        let (loaded, _turn) = joined(loading).await;
        Ok(loaded?)
    }

    /// Compiles a workload that is deployed.
    ///
    /// # Errors
    /// As [`Engine::compile`], and [`EngineError::CompilerBusy`].
    pub async fn compile_deployed(self: &Arc<Self>, workload: Workload) -> Result<Arc<Program>, EngineError> {
        let turn = self.turn_of_deployed(&workload.name, workload.input_bytes).await?;
        self.compile_in_turn(workload, turn, DEPLOY_COMPILE_DEADLINE).await
    }

    async fn turn_of_deployed(&self, name: &str, file_bytes: u64) -> Result<Turn, EngineError> {
        let wait = DEPLOY_COMPILE_DEADLINE;
        let turn = tokio::time::timeout(wait, self.turn(file_bytes)).await;
        turn.map_err(|_| EngineError::CompilerBusy { name: name.to_owned(), wait })
    }

    /// The turn of a workload whose file has so many bytes, until it is dropped. Small ones never wait for large ones, and
    /// of each the smallest is next.
    async fn turn(&self, file_bytes: u64) -> Turn {
        let turns = if file_bytes > SMALL_BYTES_MAX { &self.large } else { &self.small };
        turns.turn(file_bytes).await
    }

    async fn compile_in_turn(
        self: &Arc<Self>,
        workload: Workload,
        turn: Turn,
        deadline: Duration,
    ) -> Result<Arc<Program>, EngineError> {
        let name = workload.name.clone();
        self.compiled.fetch_add(1, Ordering::Relaxed);
        let engine = Arc::clone(self);
        let in_child = child::executable();
        let compiled = self.guests().spawn_blocking(move || {
            let _turn = turn;
            match in_child {
                Some(executable) => engine.compile_in_child(executable, workload, deadline),
                None => engine.compile_now(workload),
            }
        });
        // A child is ended by whoever waits for it, and so that its end is seen.
        let patience = if in_child.is_some() { deadline * 2 } else { deadline };
        match tokio::time::timeout(patience, compiled).await {
            Ok(Ok(program)) => program.map(Arc::new),
            Ok(Err(panic)) => {
                Err(EngineError::Compile { name, reason: format!("{panic}; make its functions smaller") })
            }
            Err(_) => Err(EngineError::CompileDeadline { name, deadline }),
        }
    }

    #[expect(unsafe_code, reason = "compiled code of another process is trusted here, and nowhere else")]
    fn compile_in_child(
        &self,
        executable: &Path,
        workload: Workload,
        deadline: Duration,
    ) -> Result<Program, EngineError> {
        let name = || workload.name.clone();
        let code = child::compile(executable, &workload.component, deadline).map_err(|failure| match failure {
            child::Failure::Deadline => EngineError::CompileDeadline { name: name(), deadline },
            child::Failure::Refused(reason) => EngineError::Compile { name: name(), reason },
            child::Failure::Exceeded(reason) => EngineError::Exceeded { name: name(), reason },
            child::Failure::Process(reason) => EngineError::Process { name: name(), reason },
        })?;
        // SAFETY: the bytes must be what a compiler of this engine's version and settings wrote, which wasmtime checks,
        // and nobody changed, which it does not. They came through a pipe from a process that this one started, of the
        // same executable, which runs no code of the guest, and were never in a file.
        let component = unsafe { Component::deserialize(&self.wasmtime, &code) };
        drop(code);
        self.link(workload, component)
    }

    fn compile_now(&self, workload: Workload) -> Result<Program, EngineError> {
        let component = Component::new(&self.wasmtime, &workload.component);
        self.link(workload, component)
    }

    fn link(&self, workload: Workload, component: wasmtime::Result<Component>) -> Result<Program, EngineError> {
        let linked = component.and_then(|component| self.linker.instantiate_pre(&component)).and_then(VmPre::new);
        match linked {
            Ok(pre) => Ok(Program { workload, pre }),
            Err(error) => {
                let reason = format!("{}; build it for lifeboat:vm@0.1.0", one_line(&error));
                Err(EngineError::Compile { name: workload.name, reason })
            }
        }
    }

    /// How many compilations began.
    pub fn compiled(&self) -> u64 {
        self.compiled.load(Ordering::Relaxed)
    }

    /// Runs `future` on the guests' threads.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.guests().spawn(future)
    }

    /// Linear memory that the largest size may have, in bytes.
    #[must_use]
    pub fn largest_bytes(&self) -> u64 {
        self.largest_bytes
    }

    /// Linear memory that a store may grow to when its slot alone holds it, in bytes.
    #[must_use]
    pub fn slot_bytes(&self) -> u64 {
        self.slot_bytes
    }

    fn guests(&self) -> &tokio::runtime::Handle {
        self.guests.as_ref().expect("only `drop` takes the runtime").handle()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A runtime must not be dropped from within another's task; this does not wait for a compiler in the
        // background either.
        if let Some(guests) = self.guests.take() {
            guests.shutdown_background();
        }
    }
}

/// A compiled workload, linked and ready to instantiate.
pub struct Program {
    workload: Workload,
    pre: VmPre<StoreData>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("workload", &self.workload.name).finish_non_exhaustive()
    }
}

impl Program {
    /// What was compiled.
    #[must_use]
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    pub(crate) fn pre(&self) -> &VmPre<StoreData> {
        &self.pre
    }

    /// The engine that compiled it: for the benches, which set a bare instance of the same engine beside a VM.
    #[doc(hidden)]
    #[must_use]
    pub fn engine(&self) -> &wasmtime::Engine {
        self.pre.engine()
    }
}

/// Determinism (NaNs, relaxed SIMD, no threads), metering, and the pool.
fn config(limits: PoolLimits, slot_bytes: u64) -> Result<Config, String> {
    let PoolLimits { stores, memories, .. } = limits;
    let per_store = |count: u64| u32::try_from(count).ok().and_then(|count| stores.checked_mul(count));
    let too_many = || "the pool would have over 2^32 slots".to_owned();
    let tables = TABLES_MAX + CONVERTER_TABLES;
    let tables_of_one = u32::try_from(tables).map_err(|error| error.to_string())?;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(stores)
        .total_stacks(stores)
        // Every store may be as large as the loader lets a workload be: what one service takes up is never missing for
        // another's rollback. These are address space and counts.
        .total_memories(per_store(memories.min(MEMORIES_MAX)).ok_or_else(too_many)?)
        // A module with a table is compiled only for a pool that has some.
        .total_tables(per_store(tables).ok_or_else(too_many)?.max(tables_of_one))
        .total_core_instances(per_store(CORE_INSTANCES_MAX).ok_or_else(too_many)?)
        .max_memories_per_component(u32::try_from(MEMORIES_MAX).map_err(|error| error.to_string())?)
        .max_memories_per_module(u32::try_from(MEMORIES_MAX).map_err(|error| error.to_string())?)
        .max_tables_per_component(tables_of_one)
        .max_core_instances_per_component(u32::try_from(CORE_INSTANCES_MAX).map_err(|error| error.to_string())?)
        .max_tables_per_module(u32::try_from(TABLES_MAX).map_err(|error| error.to_string())?)
        .table_elements(usize::try_from(TABLE_ELEMENTS_MAX).map_err(|error| error.to_string())?)
        .max_memory_size(usize::try_from(slot_bytes).map_err(|error| error.to_string())?)
        // A slot that was used before keeps this much of its memory, zeroed by hand: cheaper than to give it back to
        // the kernel and fault it in again.
        .linear_memory_keep_resident(64 * 1024)
        .table_keep_resident(4 * 1024);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .consume_fuel(true)
        .memory_reservation(MEMORY_RESERVATION_BYTES)
        .max_wasm_stack(STACK_BYTES_MAX)
        .async_stack_size(STACK_BYTES_MAX + 1024 * 1024)
        .wasm_component_model(true)
        .wasm_memory64(false)
        .wasm_relaxed_simd(true)
        .relaxed_simd_deterministic(true)
        .cranelift_nan_canonicalization(true);
    // Code of another release is not taken: of its own version, wasmtime compares the first number only.
    let version = ModuleVersionStrategy::Custom(format!("lifeboat {}", child::VERSION));
    config.module_version(version).map_err(|error| one_line(&error))?;
    Ok(config)
}

/// The limit of this process's address space, if it has one.
fn address_space_limit() -> Option<u64> {
    #[cfg(unix)]
    return rlimit::Resource::AS.get_soft().ok().filter(|limit| *limit != rlimit::INFINITY);
    #[cfg(not(unix))]
    None
}

/// An error of wasmtime with its causes, on one line.
pub(crate) fn one_line(error: &wasmtime::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let part = cause.to_string();
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&part.replace('\n', " "));
    }
    text
}
