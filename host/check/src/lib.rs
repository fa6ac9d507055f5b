//! Finds the bugs of a workload that only a host would meet: at a failover, in a replay, in the thousandth transaction.
//!
//! A check runs a file of transactions several times against the real virtual machine: without and with a move at
//! each boundary, with queries and exports in between, with gaps between the sequence numbers, with servers that fail.
//! All of these runs must agree. `docs/check.md` describes each kind of bug; [`Kind`] lists them. `lifeboat check` is
//! this crate as a command.
//!
//! A test of a guest can use it as well:
//!
//! ```no_run
//! use lifeboat_check::{Guest, Input};
//!
//! let guest = Guest::load("target/wasm32-wasip1/release/counter.wasm").expect("the loader takes it");
//! let input = Input::of_bodies([r#"{"add":1}"#, r#"{"add":2}"#]).with_queries([r#""total""#]);
//! let report = guest.check(&input).expect("it starts");
//! assert!(report.findings.is_empty(), "{report}");
//! ```
//!
//! [`Service`] lets a test decide itself when a guest fails over, when its fuel ends, and what time it is:
//!
//! ```no_run
//! # use lifeboat_check::Guest;
//! # let guest = Guest::load("counter.wasm").expect("the loader takes it");
//! let mut service = guest.start().expect("it starts");
//! service.execute(r#"{"add":1}"#).expect("it goes on");
//! service.fail_over().expect("it can be moved");
//! assert_eq!(service.query(r#""total""#).expect("it goes on").content_bytes(), 1);
//! ```

#![forbid(unsafe_code)]

mod check;
mod input;
mod kind;
mod lab;
mod network;
mod profile;
mod report;
mod service;
mod trace;

pub use input::{Input, InputError, Transaction, default_user};
pub use kind::Kind;
pub use network::Script;
pub use profile::{Profile, Spent};
pub use report::{Failure, Finding, Outcomes, Report};
pub use service::Service;
pub use trace::{EXPORTED_BYTES_MAX, MOVES_MAX, QUERIES_MAX};

use lab::Lab;
use lifeboat_api::size::Size;
use lifeboat_vm::engine::{CodeCache, Engine, EngineError, PoolLimits};
use lifeboat_vm::instance::MoveError;
use lifeboat_vm::snapshot::Snapshot;
use lifeboat_vm::workload::{ReadError, Workload};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;
use tokio::runtime::Runtime;

/// The stores that a check needs at once: a few instances of one guest.
const STORES: u32 = 8;

/// A guest that cannot be checked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The file cannot be read, or is too large.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The loader or the compiler refused it, or there is no memory for the engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// There is no runtime.
    #[error("failed to start a runtime: {0}")]
    Runtime(#[from] io::Error),
}

/// A compiled workload.
///
/// Its functions block. They must not be called within an asynchronous runtime, where they panic.
pub struct Guest {
    lab: Lab,
    runtime: Runtime,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("workload", &self.lab.program.workload().name).finish_non_exhaustive()
    }
}

impl Guest {
    /// Loads and compiles the workload in a file, for the smallest size.
    ///
    /// # Errors
    /// The file cannot be read, or the loader refuses it.
    pub fn load(file: impl AsRef<Path>) -> Result<Self, GuestError> {
        let bytes = lifeboat_vm::workload::read(file.as_ref())?;
        Self::from_bytes(&file.as_ref().display().to_string(), &bytes)
    }

    /// Loads and compiles a workload, for the smallest size. `name` is its name in messages.
    ///
    /// # Errors
    /// The loader refuses it.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, GuestError> {
        let workload = lifeboat_vm::engine::load(name, bytes).map_err(EngineError::from)?;
        let size = Size::built_in().into_iter().next().expect("there are sizes");
        Self::new(workload, size)
    }

    /// Compiles a workload. Its first VM has `size`.
    ///
    /// # Errors
    /// The compiler refuses it, or the engine cannot be set up.
    pub fn new(workload: Workload, size: Size) -> Result<Self, GuestError> {
        Self::with_cache(workload, size, None)
    }

    /// Compiles a workload, or takes its code from `cache`. Its first VM has `size`.
    ///
    /// # Errors
    /// The compiler refuses it, or the engine cannot be set up.
    pub fn with_cache(workload: Workload, size: Size, cache: Option<Arc<CodeCache>>) -> Result<Self, GuestError> {
        Self::with_engine(workload, size, |limits| Ok(Engine::new(limits)?.with_cache(cache)))
    }

    /// Compiles a workload for a profile, or takes its code from `cache`. Its first VM has `size`.
    ///
    /// # Errors
    /// The compiler refuses it, or the engine cannot be set up.
    pub fn for_profile(workload: Workload, size: Size, cache: Option<Arc<CodeCache>>) -> Result<Self, GuestError> {
        Self::with_engine(workload, size, |limits| Ok(Engine::with_deep_traces(limits)?.with_cache(cache)))
    }

    fn with_engine(
        workload: Workload,
        size: Size,
        engine: impl FnOnce(PoolLimits) -> Result<Engine, EngineError>,
    ) -> Result<Self, GuestError> {
        let largest_bytes = Size::built_in().iter().map(|size| size.memory_bytes).max().unwrap_or_default();
        let limits = PoolLimits {
            stores: STORES,
            memories: workload.footprint.memories,
            memory_bytes: largest_bytes.max(size.memory_bytes),
        };
        let engine = Arc::new(engine(limits)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let program = runtime.block_on(engine.compile(workload))?;
        Ok(Self { lab: Lab::new(engine, program, size), runtime })
    }

    /// Checks the guest with these transactions and queries.
    ///
    /// # Errors
    /// The guest cannot be started.
    pub fn check(&self, input: &Input) -> Result<Report, MoveError> {
        self.check_with(input, None, &|_, _, _| {})
    }

    /// Checks the guest, and whether it takes `older`, a snapshot of an earlier release. Reports its progress: the
    /// stage, and how much of how much of it is done.
    ///
    /// # Errors
    /// The guest cannot be started.
    pub fn check_with(
        &self,
        input: &Input,
        older: Option<&Arc<Snapshot>>,
        progress: &dyn Fn(&'static str, usize, usize),
    ) -> Result<Report, MoveError> {
        self.runtime.block_on(check::check(&self.lab, input, older, progress))
    }

    /// Executes the transactions, and then each query once, and finds out where the guest burns its fuel. Reports its
    /// progress as [`check_with`](Self::check_with) does. The same input has the same profile. Stacks are cut at a few
    /// functions unless the guest was made by [`for_profile`](Self::for_profile).
    ///
    /// # Errors
    /// The guest cannot be started.
    pub fn profile(&self, input: &Input, progress: &dyn Fn(&'static str, usize, usize)) -> Result<Profile, MoveError> {
        self.runtime.block_on(profile::profile(&self.lab, input, progress))
    }

    /// Executes the transactions and returns a snapshot of the state after them, for
    /// [`check_with`](Self::check_with) of a later release.
    ///
    /// # Errors
    /// The guest cannot be started or exported.
    pub fn snapshot_after(&self, input: &Input) -> Result<Arc<Snapshot>, MoveError> {
        let mut service = self.start()?;
        for transaction in &input.transactions {
            service.execute_as(transaction.user.clone(), &transaction.id, &transaction.body)?;
        }
        service.snapshot()
    }

    /// Starts a service of the guest.
    ///
    /// # Errors
    /// The guest cannot be started.
    pub fn start(&self) -> Result<Service<'_>, MoveError> {
        Service::start(self)
    }
}
