//! The compiler, the pool of slots, and the threads that guests run on.
//!
//! One [`Engine`] serves a whole host. Its pool is laid out once, from [`PoolLimits`]: a slot for every VM that the
//! fleet may hold and for every store of the maintenance pool. Each slot is as large as the largest size and its
//! headroom. Slots are address space; a slot uses memory only where its guest touches it.
//!
//! Guests run on their own tokio runtime, so that a busy guest never delays network I/O.

mod cache;
mod child;
mod turns;

#[cfg(test)]
mod tests;

pub use cache::{CODE_CACHE_BYTES_MAX, CODE_CACHE_FREE_BYTES_MIN, CodeCache};
pub use child::{
    CHILD_MEMORY_BYTES_MAX, CHILD_THREADS_MAX, COMPILED_BYTES_MAX, run_as_child, work_in_children, works_in_children,
};

pub use turns::LET_PAST_PER_BYTE;

use crate::instance::CommandLine;
use crate::store::{StoreData, VmPre, add_to_linker};
use crate::wasi::{denied, sockets};
use crate::workload::{
    CONVERTER_TABLES, CORE_INSTANCES_MAX, Kind, LoadError, LoadLimits, MEMORIES_MAX, MODULE_BYTES_MAX,
    PROGRAM_FUNCTION, TABLE_ELEMENTS_MAX, TABLES_MAX, Workload, is_program_export,
};
use cache::Source;
use lifeboat_api::size::Bytes;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use turns::{Turn, Turns};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};
use wasmtime::{Config, InstanceAllocationStrategy, ModuleVersionStrategy, PoolingAllocationConfig};

/// The most stack that a guest may use, in bytes.
pub const STACK_BYTES_MAX: usize = 512 * 1024;

/// The time limit for compiling one workload, counted from its turn on.
pub const COMPILE_DEADLINE: Duration = Duration::from_secs(120);

/// The time limit for compiling a workload that is being deployed. Its wait for a turn to be loaded, and its wait for a
/// turn to be compiled, have the same limit. It is below [`COMPILE_DEADLINE`], so that a workload that was deployed can
/// be compiled when the host starts.
pub const DEPLOY_COMPILE_DEADLINE: Duration = Duration::from_secs(60);

/// The time limit for loading, in a separate process, a workload that is being deployed or that a command names. It is
/// below [`STORED_LOAD_DEADLINE`], so that a workload that was deployed can be loaded when the host starts.
pub const LOAD_DEADLINE: Duration = Duration::from_secs(30);

/// The time limit for loading a workload that is already stored: when the host starts, others are loaded, compiled and
/// replayed at the same time.
pub const STORED_LOAD_DEADLINE: Duration = Duration::from_secs(120);

/// The largest file of a small workload, in bytes. Small workloads usually compile quickly, and have turns of their
/// own.
pub const SMALL_BYTES_MAX: u64 = 192 << 10;

/// The number of small workloads that are compiled at once. One that takes long does not keep the others from their
/// turns.
pub const SMALL_AT_ONCE_MAX: usize = 2;

/// The number of larger workloads that are compiled at once. One that takes long does not keep the others from their
/// turns, and never a small one.
pub const LARGE_AT_ONCE_MAX: usize = 2;

/// The minimum that a pool slot offers beyond the largest size, as room for a snapshot or a restore. If the largest
/// size exceeds this, a slot offers twice the largest size, within the address space of a 32-bit guest: a guest may
/// hold its state twice during an export. A slot is address space, and untouched memory costs nothing.
pub const MAINTENANCE_HEADROOM_BYTES: u64 = 64 * 1024 * 1024;

/// The most linear memory that a size may have: the address space of a 32-bit guest, less the headroom.
pub const MEMORY_BYTES_MAX: u64 = (4 << 30) - MAINTENANCE_HEADROOM_BYTES;

/// The size of a Wasm page, in bytes.
const PAGE_BYTES: u64 = 64 * 1024;

/// Returns the linear memory, in bytes, that a slot holds for sizes of up to `largest_bytes`.
pub fn slot_bytes(largest_bytes: u64) -> u64 {
    let least_bytes = largest_bytes.saturating_add(MAINTENANCE_HEADROOM_BYTES);
    let twice_bytes = largest_bytes.saturating_mul(2).min(MEMORY_BYTES_MAX + MAINTENANCE_HEADROOM_BYTES);
    twice_bytes.max(least_bytes).next_multiple_of(PAGE_BYTES)
}

/// The address space reserved for each linear memory, however small. It covers all that a 32-bit guest can address, so
/// that memory accesses need no bounds check.
pub const MEMORY_RESERVATION_BYTES: u64 = 4 << 30;

/// The unmapped address space behind each linear memory: wasmtime's default.
const GUARD_BYTES: u64 = 32 << 20;

/// The address space of a store besides its memories: its tables and its stack take about 28 MiB.
const STORE_BESIDE_BYTES: u64 = 32 << 20;

/// The address space of a process besides its pool: its program, threads and heap. `inspect` takes 240 MiB on two
/// cores.
const PROCESS_BYTES: u64 = 768 << 20;

/// The number of stores that an engine can hold at once, and their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// The number of stores at once: VMs of the fleet and stores of the maintenance pool. It is 0 in an engine that
    /// only compiles.
    pub stores: u32,
    /// The number of linear memories of each store, at most [`MEMORIES_MAX`]. A workload with more cannot be
    /// instantiated.
    pub memories: u64,
    /// The linear memory of the largest size, in bytes.
    pub memory_bytes: u64,
}

impl PoolLimits {
    /// Returns the address space that the pool's memories take, in bytes.
    fn reserved_bytes(&self) -> u64 {
        u64::from(self.stores).saturating_mul(self.memories).saturating_mul(MEMORY_RESERVATION_BYTES)
    }

    /// Returns the address space that a process with this pool needs, in bytes.
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

/// An error from compiling a workload or from setting up the engine.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The loader refused the file.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Cranelift refused the workload, or one of its imports has a type that differs from the host's.
    #[error("{name}: cannot be compiled: {reason}")]
    Compile {
        /// The name of the workload's file.
        name: String,
        /// The compiler's message, on one line, and the remedy.
        reason: String,
    },
    /// Compiling needed more memory than its limit, or its process failed.
    #[error("{name}: cannot be compiled: {reason}")]
    Exceeded {
        /// The name of the workload's file.
        name: String,
        /// How the process ended, and the remedy.
        reason: String,
    },
    /// The compiling process could not be started, or another process killed it. A later attempt may succeed.
    #[error("{name}: cannot be compiled: {reason}")]
    Process {
        /// The name of the workload's file.
        name: String,
        /// How the process ended, and the remedy.
        reason: String,
    },
    /// The workload waited too long for its turn: others were being loaded and compiled.
    #[error(
        "{name}: neither loaded nor compiled, because others took the compiler for {} s; try again",
        wait.as_secs()
    )]
    CompilerBusy {
        /// The name of the workload's file.
        name: String,
        /// How long the workload waited.
        wait: Duration,
    },
    /// Cranelift took too long.
    #[error(
        "{name}: not compiled within {} s; make the module smaller, or try again when the machine is less busy",
        deadline.as_secs()
    )]
    CompileDeadline {
        /// The name of the workload's file.
        name: String,
        /// The time limit: [`COMPILE_DEADLINE`] or [`DEPLOY_COMPILE_DEADLINE`].
        deadline: Duration,
    },
    /// The pool could not be reserved, or the threads could not be started.
    #[error(
        "failed to set up the engine{}{}: {reason}; {}",
        limits.described(),
        limit_bytes.map(|limit| format!(" under a limit of {}", Bytes(limit))).unwrap_or_default(),
        set_up_remedy(limits, *limit_bytes, *is_configured)
    )]
    SetUp {
        /// The pool that was requested.
        limits: PoolLimits,
        /// Whether an operator can configure a smaller pool.
        is_configured: bool,
        /// The limit of the process's address space, in bytes, if it has one.
        limit_bytes: Option<u64>,
        /// The operating system's message.
        reason: String,
    },
}

/// Returns the remedy for an engine that cannot be set up.
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

/// Returns the operating system's message without the library's prefix, which gives byte counts in hexadecimal.
fn without_mapping(reason: String) -> String {
    let of_system = reason.rsplit_once("mmap failed to reserve ").and_then(|(_, rest)| rest.split_once(": "));
    of_system.map_or(reason.clone(), |(_, of_system)| of_system.to_owned())
}

impl EngineError {
    /// Marks the pool as one that an operator configured and can make smaller.
    #[must_use]
    pub fn of_configuration(mut self) -> Self {
        if let Self::SetUp { is_configured, .. } = &mut self {
            *is_configured = true;
        }
        self
    }

    /// Returns whether the next attempt may succeed: no process or no thread was available, or the process was killed.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Load(error) => error.may_pass(),
            error => matches!(error, Self::Process { .. }),
        }
    }
}

/// Waits for a task and propagates its panic. A task is cancelled only when its runtime ends, and then its waiter ends
/// too.
pub async fn joined<T>(task: impl Future<Output = Result<T, tokio::task::JoinError>>) -> T {
    match task.await {
        Ok(output) => output,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

/// Loads a workload in a separate process if this program can start one, and waits for it. [`LOAD_DEADLINE`] and
/// [`CHILD_MEMORY_BYTES_MAX`] limit the process. The types of a component may take a gigabyte of memory, however small
/// its file is.
///
/// # Errors
/// As for [`load`](crate::workload::load), and [`LoadError::Deadline`], [`LoadError::Exceeded`] and
/// [`LoadError::Process`].
pub fn load(name: &str, bytes: &[u8]) -> Result<Workload, LoadError> {
    load_within(name, bytes, LOAD_DEADLINE)
}

/// Loads a workload that was loaded once before it was stored, like [`load`], but within [`STORED_LOAD_DEADLINE`].
///
/// # Errors
/// As for [`load`].
pub fn load_stored(name: &str, bytes: &[u8]) -> Result<Workload, LoadError> {
    load_within(name, bytes, STORED_LOAD_DEADLINE)
}

fn load_within(name: &str, bytes: &[u8], deadline: Duration) -> Result<Workload, LoadError> {
    // A file that is too large is refused before it is read, so it needs no process.
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

/// What an engine has beside that of a service.
#[derive(Debug, Clone, Copy, Default)]
struct Extras {
    has_sockets: bool,
    has_deep_traces: bool,
}

/// Compiles workloads and runs guests.
pub struct Engine {
    wasmtime: wasmtime::Engine,
    linker: Linker<StoreData>,
    guests: Option<tokio::runtime::Runtime>,
    /// Whether programs get sockets.
    has_sockets: bool,
    /// The turns to compile small workloads, and those for large ones.
    small: Turns,
    large: Turns,
    compiled: AtomicU64,
    cache: Option<Arc<CodeCache>>,
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
    /// [`EngineError::SetUp`] if the address space cannot be reserved or the threads cannot be started.
    pub fn new(limits: PoolLimits) -> Result<Self, EngineError> {
        Self::set_up(limits, Extras::default())
    }

    /// Does the same as [`Engine::new`] for programs that are run once and may have a
    /// [`TcpNetwork`](crate::instance::TcpNetwork): the guests' threads also wait for sockets.
    ///
    /// # Errors
    /// As for [`Engine::new`].
    pub fn with_sockets(limits: PoolLimits) -> Result<Self, EngineError> {
        Self::set_up(limits, Extras { has_sockets: true, ..Extras::default() })
    }

    /// Creates an engine whose traces have one function more than a profile keeps. Its compiled code is that of
    /// [`Engine::new`].
    ///
    /// # Errors
    /// As for [`Engine::new`].
    pub fn with_deep_traces(limits: PoolLimits) -> Result<Self, EngineError> {
        Self::set_up(limits, Extras { has_deep_traces: true, ..Extras::default() })
    }

    fn set_up(limits: PoolLimits, extras: Extras) -> Result<Self, EngineError> {
        let largest_bytes = limits.memory_bytes.next_multiple_of(PAGE_BYTES);
        let slot_bytes = slot_bytes(largest_bytes);
        let fail = |reason: String| EngineError::SetUp {
            limits,
            is_configured: false,
            limit_bytes: address_space_limit(),
            reason,
        };
        let mut config = config(limits, slot_bytes).map_err(&fail)?;
        if extras.has_deep_traces {
            config.wasm_backtrace_max_frames(NonZeroUsize::new(lifeboat_profile::DEPTH_MAX + 1));
        }
        let wasmtime = wasmtime::Engine::new(&config).map_err(|error| fail(without_mapping(one_line(&error))))?;
        let mut linker = Linker::new(&wasmtime);
        add_to_linker(&mut linker).map_err(|error| fail(one_line(&error)))?;
        let mut guests = tokio::runtime::Builder::new_multi_thread();
        guests.thread_name("lifeboat-guest").enable_time();
        if extras.has_sockets {
            guests.enable_io();
        }
        let guests = guests.build().map_err(|error| fail(error.to_string()))?;
        Ok(Self {
            wasmtime,
            linker,
            guests: Some(guests),
            has_sockets: extras.has_sockets,
            small: Turns::new(SMALL_AT_ONCE_MAX),
            large: Turns::new(LARGE_AT_ONCE_MAX),
            compiled: AtomicU64::new(0),
            cache: None,
            largest_bytes,
            slot_bytes,
        })
    }

    /// Returns this engine with a cache of the code that it compiles, if there is one.
    #[must_use]
    pub fn with_cache(mut self, cache: Option<Arc<CodeCache>>) -> Self {
        self.cache = cache;
        self
    }

    /// Waits for a turn, then compiles `workload`.
    ///
    /// # Errors
    /// [`EngineError::Compile`] and [`EngineError::CompileDeadline`]; a compiler in a separate process also returns
    /// [`EngineError::Exceeded`] and [`EngineError::Process`]. After the deadline, a compiler in this process still
    /// runs to its end in the background and keeps its turn; one in a separate process is killed.
    pub async fn compile(self: &Arc<Self>, workload: Workload) -> Result<Arc<Program>, EngineError> {
        let turn = self.turn(workload.input_bytes).await;
        self.compile_in_turn(workload, turn, COMPILE_DEADLINE).await
    }

    /// Waits for a turn, then loads and compiles a workload whose file has `file_bytes` bytes. A waiting workload takes
    /// no memory: at most as many are loaded at once as are compiled. `load` may wait for the disk.
    ///
    /// # Errors
    /// As for [`Engine::compile`], and the errors of `load`.
    pub async fn load_and_compile<E: From<EngineError> + Send + 'static>(
        self: &Arc<Self>,
        file_bytes: u64,
        load: impl FnOnce() -> Result<Workload, E> + Send + 'static,
    ) -> Result<Arc<Program>, E> {
        let turn = self.turn(file_bytes).await;
        // The load keeps its turn until it ends, even if its caller has stopped waiting.
        let (loaded, turn) = joined(self.guests().spawn_blocking(move || (load(), turn))).await;
        Ok(self.compile_in_turn(loaded?, turn, COMPILE_DEADLINE).await?)
    }

    /// Waits for a turn, then loads a workload that is being deployed.
    ///
    /// # Errors
    /// As for [`load`], and [`EngineError::CompilerBusy`].
    pub async fn load_deployed(&self, name: &str, bytes: bytes::Bytes) -> Result<Workload, EngineError> {
        let (turn, name) = (self.turn_of_deployed(name, bytes.len() as u64).await?, name.to_owned());
        // The load keeps its turn until it ends, even if its caller has stopped waiting.
        let loading = self.guests().spawn_blocking(move || (load(&name, &bytes), turn));
        let (loaded, _turn) = joined(loading).await;
        Ok(loaded?)
    }

    /// Waits for a turn, then compiles a workload that is being deployed.
    ///
    /// # Errors
    /// As for [`Engine::compile`], and [`EngineError::CompilerBusy`].
    pub async fn compile_deployed(self: &Arc<Self>, workload: Workload) -> Result<Arc<Program>, EngineError> {
        let turn = self.turn_of_deployed(&workload.name, workload.input_bytes).await?;
        self.compile_in_turn(workload, turn, DEPLOY_COMPILE_DEADLINE).await
    }

    async fn turn_of_deployed(&self, name: &str, file_bytes: u64) -> Result<Turn, EngineError> {
        let wait = DEPLOY_COMPILE_DEADLINE;
        let turn = tokio::time::timeout(wait, self.turn(file_bytes)).await;
        turn.map_err(|_| EngineError::CompilerBusy { name: name.to_owned(), wait })
    }

    /// Waits for the turn of a workload whose file has `file_bytes` bytes. Dropping the turn ends it. Small workloads
    /// never wait for large ones, and within each group the smallest is next.
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
        let engine = Arc::clone(self);
        let in_child = child::executable();
        let compiled = self.guests().spawn_blocking(move || {
            let _turn = turn;
            engine.find_or_compile(in_child, workload, deadline)
        });
        // The thread that waits for a child ends it at the deadline, and its error is the one to report.
        let patience = if in_child.is_some() { deadline * 2 } else { deadline };
        match tokio::time::timeout(patience, compiled).await {
            Ok(Ok(program)) => program.map(Arc::new),
            Ok(Err(panic)) => {
                Err(EngineError::Compile { name, reason: format!("{panic}; make its functions smaller") })
            }
            Err(_) => Err(EngineError::CompileDeadline { name, deadline }),
        }
    }

    /// Takes the code of `workload` from the cache, or else compiles it, in a child of `executable` or here.
    fn find_or_compile(
        &self,
        executable: Option<&Path>,
        workload: Workload,
        deadline: Duration,
    ) -> Result<Program, EngineError> {
        let cache = self.cache.as_deref().map(|cache| (cache, Source::of(&workload.component, self.settings())));
        let kept = cache.and_then(|(cache, source)| cache.find(source));
        // The code was compiled for this engine, so wasmtime accepts it.
        if let Some(component) = kept.and_then(|code| self.component(&code).ok()) {
            return self.link(workload, Ok(component));
        }
        self.compiled.fetch_add(1, Ordering::Relaxed);
        let name = || workload.name.clone();
        let code = match executable {
            Some(executable) => {
                child::compile(executable, &workload.component, deadline).map_err(|failure| match failure {
                    child::Failure::Deadline => EngineError::CompileDeadline { name: name(), deadline },
                    child::Failure::Refused(reason) => EngineError::Compile { name: name(), reason },
                    child::Failure::Exceeded(reason) => EngineError::Exceeded { name: name(), reason },
                    child::Failure::Process(reason) => EngineError::Process { name: name(), reason },
                })?
            }
            None => match self.wasmtime.precompile_component(&workload.component) {
                Ok(code) => code,
                Err(error) => return self.link(workload, Err(error)),
            },
        };
        let component = self.component(&code);
        if let (Ok(_), Some((cache, source))) = (&component, cache) {
            cache.keep(source, &code);
        }
        drop(code);
        self.link(workload, component)
    }

    #[expect(unsafe_code, reason = "compiled code is trusted here, and nowhere else")]
    fn component(&self, code: &[u8]) -> wasmtime::Result<Component> {
        // SAFETY: the bytes must come from a compiler of this engine's version and settings, which wasmtime checks, and
        // must be unchanged, which it does not check. They come from one of three places, and none of them runs code of
        // the guest:
        // - this process;
        // - a process that this one started from the same executable, through a pipe;
        // - a file that a process of the same executable wrote, by its hash. `CodeCache::find` has checked that the
        //   file belongs to this user and that nobody else may write to it. It has also checked a hash over these very
        //   bytes, their component and the executable. Whoever can forge such a file can replace the executable.
        unsafe { Component::deserialize(&self.wasmtime, code) }
    }

    /// Returns a hash of the settings and the features of the processor that compiled code depends on.
    fn settings(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.wasmtime.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    }

    fn link(&self, workload: Workload, component: wasmtime::Result<Component>) -> Result<Program, EngineError> {
        let instantiable = |component: Component| {
            if workload.denied.is_empty() {
                return self.linker.instantiate_pre(&component);
            }
            let mut linker = self.linker.clone();
            let mut denied = workload.denied.clone();
            if self.has_sockets && workload.is_program() {
                sockets::add_to_linker(&mut linker)?;
                denied.retain(|import| !sockets::is_granted(import));
            }
            denied::define(&mut linker, &component, &denied)?;
            linker.instantiate_pre(&component)
        };
        let linked = component.and_then(instantiable).and_then(|pre| Entry::new(&workload, pre));
        match linked {
            Ok(entry) => {
                let (workload, command_line) = (Arc::new(workload), CommandLine::default());
                Ok(Program { workload, entry, command_line, _shared: None })
            }
            Err(error) => {
                let reason = format!("{}; build it for lifeboat:vm@0.1.0", one_line(&error));
                Err(EngineError::Compile { name: workload.name, reason })
            }
        }
    }

    /// Returns the number of compilations that began.
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

    /// Returns the linear memory that the largest size may have, in bytes.
    #[must_use]
    pub fn largest_bytes(&self) -> u64 {
        self.largest_bytes
    }

    /// Returns the linear memory, in bytes, up to which a store may grow if only its slot limits it.
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
        // A runtime must not be dropped within another runtime's task. This call also does not wait for a compiler in
        // the background.
        if let Some(guests) = self.guests.take() {
            guests.shutdown_background();
        }
    }
}

/// A compiled workload, linked and ready to instantiate. A clone shares all of it.
#[derive(Clone)]
pub struct Program {
    workload: Arc<Workload>,
    entry: Entry,
    command_line: CommandLine,
    /// The program without a command line, which lives as long: its host shares it among services.
    _shared: Option<Arc<Program>>,
}

/// What the host calls in a workload, ready to instantiate.
#[derive(Clone)]
pub(crate) enum Entry {
    /// The functions of the world.
    World(VmPre<StoreData>),
    /// The function that runs a program.
    Program { pre: InstancePre<StoreData>, run: ComponentExportIndex },
}

impl Entry {
    fn new(workload: &Workload, pre: InstancePre<StoreData>) -> wasmtime::Result<Self> {
        if workload.kind == Kind::World {
            return VmPre::new(pre).map(Self::World);
        }
        let component = pre.component();
        let interface = workload.exports.iter().find(|export| is_program_export(export));
        let interface = interface.and_then(|name| component.get_export_index(None, name));
        let run = interface.and_then(|interface| component.get_export_index(Some(&interface), PROGRAM_FUNCTION));
        let run = run.ok_or_else(|| wasmtime::Error::msg("the program has no function to run"))?;
        Ok(Self::Program { pre, run })
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("workload", &self.workload.name).finish_non_exhaustive()
    }
}

impl Program {
    /// Returns the workload that was compiled.
    #[must_use]
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    pub(crate) fn shared_workload(&self) -> Arc<Workload> {
        Arc::clone(&self.workload)
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Returns the command line of a program in a service.
    #[must_use]
    pub fn command_line(&self) -> &CommandLine {
        &self.command_line
    }

    /// Returns the same program with another command line. A workload of the world sees none.
    #[must_use]
    pub fn with_command_line(self: &Arc<Self>, command_line: CommandLine) -> Arc<Self> {
        Arc::new(Self { command_line, _shared: Some(Arc::clone(self)), ..Self::clone(self) })
    }

    /// Returns the engine that compiled the program, for benches that compare a VM with a bare instance of the same
    /// engine.
    #[doc(hidden)]
    #[must_use]
    pub fn engine(&self) -> &wasmtime::Engine {
        match &self.entry {
            Entry::World(pre) => pre.engine(),
            Entry::Program { pre, .. } => pre.engine(),
        }
    }
}

/// Returns the configuration: determinism (NaNs, relaxed SIMD, no threads), metering, and the pool.
fn config(limits: PoolLimits, slot_bytes: u64) -> Result<Config, String> {
    let PoolLimits { stores, memories, .. } = limits;
    let per_store = |count: u64| u32::try_from(count).ok().and_then(|count| stores.checked_mul(count));
    let too_many = || "the pool would have over 2^32 slots".to_owned();
    let tables = TABLES_MAX + CONVERTER_TABLES;
    let tables_of_one = u32::try_from(tables).map_err(|error| error.to_string())?;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(stores)
        .total_stacks(stores)
        // Every store may be as large as the loader permits, so that one service's use never prevents another's
        // rollback. These totals cost only address space and counters.
        .total_memories(per_store(memories.min(MEMORIES_MAX)).ok_or_else(too_many)?)
        // A module with a table compiles only for a pool that has tables.
        .total_tables(per_store(tables).ok_or_else(too_many)?.max(tables_of_one))
        .total_core_instances(per_store(CORE_INSTANCES_MAX).ok_or_else(too_many)?)
        .max_memories_per_component(u32::try_from(MEMORIES_MAX).map_err(|error| error.to_string())?)
        .max_memories_per_module(u32::try_from(MEMORIES_MAX).map_err(|error| error.to_string())?)
        .max_tables_per_component(tables_of_one)
        .max_core_instances_per_component(u32::try_from(CORE_INSTANCES_MAX).map_err(|error| error.to_string())?)
        .max_tables_per_module(u32::try_from(TABLES_MAX).map_err(|error| error.to_string())?)
        .table_elements(usize::try_from(TABLE_ELEMENTS_MAX).map_err(|error| error.to_string())?)
        .max_memory_size(usize::try_from(slot_bytes).map_err(|error| error.to_string())?)
        // A reused slot retains this much of its memory, which wasmtime zeroes by hand. That is cheaper than releasing
        // it to the kernel and faulting it in again.
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
    // Code of another release is refused. By default, wasmtime compares only the first number of its own version.
    let version = ModuleVersionStrategy::Custom(format!("lifeboat {}", child::VERSION));
    config.module_version(version).map_err(|error| one_line(&error))?;
    Ok(config)
}

/// Returns the limit of this process's address space, in bytes, if it has one.
fn address_space_limit() -> Option<u64> {
    #[cfg(unix)]
    return rlimit::Resource::AS.get_soft().ok().filter(|limit| *limit != rlimit::INFINITY);
    #[cfg(not(unix))]
    None
}

/// Renders an error of wasmtime and its causes on one line.
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
