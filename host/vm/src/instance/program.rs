//! Programs: a run in a fresh store for each call.
//!
//! ```text
//!   fresh store -> instantiate, `run` -> exit 0: the reply is standard output, and the disk is kept
//!        ^                         \---> another code: refused, and the disk is as before
//!        |                          \--> trap, deadline, full memory: failed, and the disk is as before
//!        +------------ the disk moves on into the next store ------------+
//! ```
//!
//! Nothing lives between two runs but the disk, and the memory that the last kept run had at its end, which is the level
//! of the VM. So a snapshot and a restore call no guest, and take the time of a clone.

use super::{Attempt, Call, DROPPED_BYTES_MAX, Guest, Instance, MoveError, Turns, beside, entry};
use crate::engine::{Entry, Program};
use crate::network::Network;
use crate::snapshot::{Section, SectionKind, Snapshot};
use crate::stop::{ClosedPipe, Stop};
use crate::store::{Allowance, Inputs, StoreData, new_store};
use crate::wasi::sockets::{LINGER_MAX, TcpNetwork};
use crate::wasi::{CallContext, CallStreams, Machine, Observed, OwnStreams, Phase, Preopen, Process, StandardStreams};
use crate::workload::Workload;
use bytes::Bytes;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::meter::{Levels, NetworkAmount};
use lifeboat_api::transaction::{Answer, Cause};
use lifeboat_disk::{Disk, Error as DiskError, Ino, Type};
use std::sync::Arc;
use tokio::time::Instant;
use wasmtime::Store;

/// The version of the state that a program's snapshot has: the memory of the last kept run, in bytes, as 8 bytes, the
/// lowest first.
const STATE_VERSION: u32 = 1;

/// The fuel charged for the start of a run, beside what it burns: some tens of microseconds for a store and an instance.
pub const FUEL_PER_RUN: u64 = 20_000;

/// The bytes of a program's component for one more unit of fuel: its data and the elements of its tables are a part of
/// them, and each instance gets its own.
pub const BYTES_PER_START_FUEL: u64 = 32;

/// The fuel of each core instance of a program, for its start.
pub const FUEL_PER_CORE_INSTANCE: u64 = 1_000;

/// Returns the fuel charged for the start of each run of a program. It depends on the program alone.
fn start_fuel(workload: &Workload) -> u64 {
    let of_instances = FUEL_PER_CORE_INSTANCE * workload.footprint.core_instances;
    FUEL_PER_RUN + of_instances + workload.component_bytes / BYTES_PER_START_FUEL
}

/// The command line and the environment of a program in a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// The arguments. The first is the name of the program.
    pub arguments: Vec<String>,
    /// The variables of the environment. Those of the call are added to them.
    pub environment: Vec<(String, String)>,
}

/// The variables of the environment that describe a call.
fn variables(call: Call<'_>, phase: Phase) -> [(String, String); 5] {
    let kind = if phase == Phase::Query { "query" } else { "transaction" };
    [
        ("LIFEBOAT_TRANSACTION", call.id.to_owned()),
        ("LIFEBOAT_USER", call.user.to_owned()),
        ("LIFEBOAT_SEQUENCE", call.sequence.0.to_string()),
        ("LIFEBOAT_TIMESTAMP", call.timestamp.0.to_string()),
        ("LIFEBOAT_KIND", kind.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

/// What an instance of a program keeps between two runs.
pub(super) struct Runs {
    pub(super) program: Arc<Program>,
    secret: [u8; 32],
    /// The memory at the end of the last kept run, in bytes.
    memory_bytes: u64,
    /// Whether nothing is left of the last run.
    has_undone: bool,
    /// Whether the program is told that its standard streams are terminals.
    has_terminals: bool,
    /// What the program did in the last run.
    observed: Observed,
    /// The fuel of the last run that came to its end.
    fuel_used: u64,
    /// The disk before the run that is under way.
    before: Option<Disk>,
}

impl Runs {
    pub(super) fn new(program: &Program, secret: [u8; 32]) -> Self {
        Self {
            program: Arc::new(program.clone()),
            secret,
            memory_bytes: 0,
            has_undone: false,
            has_terminals: false,
            observed: Observed::default(),
            fuel_used: 0,
            before: None,
        }
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    pub(super) fn has_undone(&self) -> bool {
        self.has_undone
    }

    /// Returns the fuel of the last run if none is under way.
    pub(super) fn fuel_of_ended(&self) -> Option<u64> {
        self.before.is_none().then_some(self.fuel_used)
    }

    pub(super) fn observed(&self) -> Observed {
        self.observed
    }

    pub(super) fn snapshot(&self, sequence: Sequence, timestamp: Timestamp, disk: Disk) -> Snapshot {
        let chunks = vec![Bytes::copy_from_slice(&self.memory_bytes.to_le_bytes())];
        let state = Section { kind: SectionKind::State, chunks };
        Snapshot::new(sequence, timestamp, STATE_VERSION, vec![state], disk)
    }

    pub(super) fn restore(&mut self, snapshot: &Snapshot) -> Result<(), MoveError> {
        let chunks = snapshot.chunks_of(SectionKind::State);
        let state = <[u8; 8]>::try_from(chunks.concat()).ok().filter(|_| snapshot.state_version() == STATE_VERSION);
        let Some(state) = state else {
            let text = format!(
                "the snapshot has no state of a program, which is 8 bytes of version {STATE_VERSION}, but one of version {}; \
                 restore it with the workload that made it",
                snapshot.state_version()
            );
            return Err(MoveError::refused("restore", &text));
        };
        self.memory_bytes = u64::from_le_bytes(state);
        Ok(())
    }
}

impl Instance {
    /// Creates an instance of a program with `disk`.
    pub(super) fn of_program(program: &Program, secret: [u8; 32], disk: Disk) -> Self {
        let turns = Turns::default();
        let store = empty_store(program, secret, disk, &turns);
        Self { store, guest: Guest::Program(Box::new(Runs::new(program, secret))), turns, is_dead: false }
    }

    /// Runs a program once for a transaction or query.
    pub(super) async fn run(
        &mut self,
        phase: Phase,
        call: Call<'_>,
        allowance: Allowance,
        network: Network,
    ) -> Attempt {
        let disk = self.disk().clone();
        let Some(runs) = self.guest.program_mut() else { unreachable!("only a program is run") };
        runs.before = Some(disk);
        let CommandLine { arguments, environment } = runs.program.command_line();
        let environment = environment.iter().cloned().chain(variables(call, phase)).collect();
        let (body, has_terminals) = (Bytes::copy_from_slice(call.body), runs.has_terminals);
        let streams = StandardStreams::Call(CallStreams { body, has_terminals, ..CallStreams::default() });
        let process = Process { arguments: arguments.clone(), environment, streams, exit: None };
        let call_context = CallContext { phase, sequence: call.sequence, epoch: call.epoch, now: call.timestamp };
        self.enter(call_context, allowance, network);
        let (fuel_used, end) = self.run_process(process, allowance).await;
        let calls = self.store.data_mut().wasi.leave_network();
        let answer = match end {
            RunEnd::Exit(code) => self.answer_of(code),
            RunEnd::Failed(cause) => Answer::Failed(cause),
            RunEnd::OutputClosed => unreachable!("the streams of a call stay open"),
        };
        // Nothing waits from here on, so nobody can drop this future between the outcome and its return.
        drop_store(self.go_on(&answer));
        self.is_dead = false;
        if let Some(runs) = self.guest.program_mut() {
            runs.fuel_used = fuel_used;
        }
        Attempt { answer, fuel_used, calls }
    }

    /// Tells a program from now on that its standard streams are terminals, for checks of guests. In a service they
    /// never are.
    pub fn pretend_terminals(&mut self) {
        if let Some(runs) = self.guest.program_mut() {
            runs.has_terminals = true;
        }
    }

    /// Instantiates the program in the store, which was entered, and runs it. Returns the fuel that it burnt, and its end.
    async fn run_process(&mut self, process: Process, allowance: Allowance) -> (u64, RunEnd) {
        let Some(runs) = self.guest.program() else { unreachable!("only a program is run") };
        let Entry::Program { pre, run } = runs.program.entry() else { unreachable!("only a program is run") };
        let (pre, run) = (pre.clone(), *run);
        let start_fuel = start_fuel(runs.program.workload());
        let wasi = &mut self.store.data_mut().wasi;
        wasi.process = process;
        wasi.owed_fuel += start_fuel;
        let Self { store, turns, .. } = self;
        let ran = turns.run(allowance.inputs.deadline(), entry::run(&pre, &run, store)).await;
        let is_output_closed = ran.as_ref().is_err_and(|error| error.is::<ClosedPipe>());
        let ran = with_exit_code(store, ran);
        let (fuel_used, ran) = self.leave(allowance, ran);
        let end = match ran {
            Ok(code) => RunEnd::Exit(code),
            Err(_) if is_output_closed => RunEnd::OutputClosed,
            Err(cause) => RunEnd::Failed(cause),
        };
        (fuel_used, end)
    }

    /// Ends a run whose future was dropped, if one was. Nothing is left of it.
    pub(super) fn interrupt_run(&mut self) {
        if self.guest.program().is_some_and(|runs| runs.before.is_some()) {
            drop_store(self.go_on(&Answer::Failed(Cause::Interrupted)));
            self.is_dead = false;
        }
    }

    /// Returns the outcome of a run that ended with `code`.
    fn answer_of(&mut self, code: u8) -> Answer {
        let StandardStreams::Call(streams) = &mut self.store.data_mut().wasi.process.streams else {
            unreachable!("a run has the streams of its call")
        };
        if code == 0 {
            return Answer::Ok(std::mem::take(&mut streams.reply).into());
        }
        let errors = String::from_utf8_lossy(&streams.errors);
        Answer::Refused(match errors.trim() {
            "" => format!("exit code {code}"),
            errors => format!("exit code {code}: {errors}"),
        })
    }

    /// Makes the next run's store, with the disk that the last one leaves. Returns the old store.
    fn go_on(&mut self, answer: &Answer) -> Store<StoreData> {
        let StoreData { wasi, limiter, .. } = self.store.data();
        let (phase, after, memory_bytes) = (wasi.phase(), wasi.disk().clone(), limiter.memory_bytes);
        let observed = wasi.observed();
        let Some(runs) = self.guest.program_mut() else { unreachable!("only a program is run") };
        let disk = match (answer, runs.before.take()) {
            (Answer::Refused(_) | Answer::Failed(_), Some(before)) => before,
            // A query has left the disk as it was.
            (_, _) => after,
        };
        runs.observed = observed;
        // A query leaves nothing behind, however it ends.
        runs.has_undone = phase == Phase::Query || !answer.is_kept();
        if !runs.has_undone {
            runs.memory_bytes = memory_bytes;
        }
        let mut store = empty_store(&runs.program, runs.secret, disk, &self.turns);
        store.data_mut().wasi.adopt_log(&self.store.data().wasi);
        store.data_mut().profiler = self.store.data_mut().profiler.take();
        std::mem::replace(&mut self.store, store)
    }
}

/// Creates a store for the next run. `enter` sets its limits.
pub(super) fn empty_store(program: &Program, secret: [u8; 32], disk: Disk, turns: &Turns) -> Store<StoreData> {
    let allowance = Allowance { fuel: 0, memory_bytes: 0, disk_bytes: 0, inputs: Inputs::Replay };
    let mut store = new_store(program, secret, allowance, disk, Arc::clone(&turns.is_long));
    store.data_mut().wasi.leave(true);
    store
}

/// Drops a store whose run has ended. Its slot is free afterwards, for the next run.
fn drop_store(store: Store<StoreData>) {
    // To give back a megabyte of touched memory takes tens of microseconds.
    if store.data().limiter.memory_bytes > DROPPED_BYTES_MAX { beside(|| drop(store)) } else { drop(store) }
}

/// Returns the exit code of a run that came to its end.
fn with_exit_code(store: &Store<StoreData>, ran: wasmtime::Result<Result<(), ()>>) -> wasmtime::Result<u8> {
    match ran {
        Ok(ended) => Ok(u8::from(ended.is_err())),
        Err(error) => match (error.downcast_ref::<Stop>(), store.data().wasi.process.exit) {
            (Some(Stop(Cause::Exit { .. })), Some(code)) => Ok(code),
            _ => Err(error),
        },
    }
}

/// A run of a program outside of any service.
#[derive(Debug)]
pub struct Run {
    /// The command line, whose first argument is the name of the program, and the environment.
    pub command_line: CommandLine,
    /// The standard streams.
    pub streams: OwnStreams,
    /// The disk.
    pub disk: Disk,
    /// The directories that the program finds open: their names, and their paths on the disk, without a slash at the
    /// beginning. The root is empty.
    pub preopens: Vec<(String, String)>,
    /// The limits.
    pub allowance: Allowance,
    /// The clocks, the random numbers and the network.
    pub surroundings: Surroundings,
}

/// The clocks, the random numbers and the network of a program that is run once.
pub enum Surroundings {
    /// The clocks and random numbers of the machine.
    Machine {
        /// The machine.
        machine: Box<dyn Machine>,
        /// What the program reaches by TCP. It needs an engine of
        /// [`Engine::with_sockets`](crate::engine::Engine::with_sockets).
        network: Option<TcpNetwork>,
    },
    /// Those of a transaction at this time, with random numbers keyed by this secret. There is no network, whose peers
    /// another run could not repeat.
    Fixed {
        /// The time.
        now: Timestamp,
        /// The key of the random numbers.
        secret: [u8; 32],
    },
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Machine { network, .. } => {
                f.debug_struct("Machine").field("network", network).finish_non_exhaustive()
            }
            Self::Fixed { now, .. } => f.debug_struct("Fixed").field("now", now).finish_non_exhaustive(),
        }
    }
}

/// What a run has left.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub end: RunEnd,
    /// The disk afterwards.
    pub disk: Disk,
    /// The fuel burnt.
    pub fuel_used: u64,
    /// The memory at the end, which is its peak, and the disk in use.
    pub levels: Levels,
    /// The use of the network: connections and look-ups that the program began, and bytes that it wrote and read.
    pub network: NetworkAmount,
    /// Whether a peer had not taken all that the program sent when the host stopped waiting for it. Then the rest may
    /// be lost. It is false if the program did not end by itself: then the host does not wait.
    pub has_unsent: bool,
    /// The first address or name that it asked its network for and may not reach, printable.
    pub denied_peer: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// With this exit code.
    Exit(u8),
    /// The host ended it.
    Failed(Cause),
    /// Nobody reads its output any more.
    OutputClosed,
}

/// Runs a program once, outside of any service. A full disk is an error that the program sees.
///
/// # Errors
/// [`DiskError`] if a path of [`Run::preopens`] is no directory of the disk.
///
/// # Panics
/// If the workload is not a program.
pub async fn run_once(program: &Program, run: Run) -> Result<Ran, DiskError> {
    let Run { command_line, streams, mut disk, preopens, allowance, surroundings } = run;
    assert!(program.workload().is_program(), "only a program is run");
    let mut opened = Vec::with_capacity(preopens.len());
    for (name, path) in preopens {
        let stat = disk.stat_at(Ino::ROOT, if path.is_empty() { "." } else { &path }, true)?;
        if stat.kind != Type::Directory {
            return Err(DiskError::NotDirectory);
        }
        opened.push(Preopen { name, ino: stat.ino });
    }
    let (now, secret, machine, network) = match surroundings {
        Surroundings::Fixed { now, secret } => (now, secret, None, None),
        Surroundings::Machine { mut machine, network } => {
            (Timestamp(machine.wall_ns()), [0; 32], Some(machine), network)
        }
    };
    let mut instance = Instance::of_program(program, secret, disk);
    let call_context = CallContext { phase: Phase::Execute, sequence: Sequence(1), epoch: Epoch::default(), now };
    instance.enter(call_context, allowance, Network::None);
    let wasi = &mut instance.store.data_mut().wasi;
    wasi.set_preopens(opened);
    if let Some(machine) = machine {
        wasi.set_machine(machine);
    }
    if let Some(network) = network {
        wasi.set_network(network);
    }
    let CommandLine { arguments, environment } = command_line;
    let process = Process { arguments, environment, streams: StandardStreams::Own(streams), exit: None };
    let begun = Instant::now();
    let (fuel_used, end) = instance.run_process(process, allowance).await;
    let mut has_unsent = false;
    if let RunEnd::Exit(_) = end {
        let time_left =
            allowance.inputs.deadline().map_or(LINGER_MAX, |deadline| deadline.saturating_sub(begun.elapsed()));
        has_unsent = !instance.store.data_mut().wasi.linger(time_left.min(LINGER_MAX)).await;
    }
    let network = instance.store.data().wasi.network_used();
    let disk = instance.disk().clone();
    let memory_bytes = instance.store.data().limiter.memory_bytes;
    let levels = Levels { memory_bytes, disk_bytes: disk.used_bytes() };
    let denied_peer = instance.store.data().wasi.denied_peer();
    Ok(Ran { end, disk, fuel_used, levels, network, has_unsent, denied_peer })
}
