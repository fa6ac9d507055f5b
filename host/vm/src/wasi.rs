//! The part of WASI that a guest sees: a clock that stands still, seeded random numbers, the virtual disk, HTTP, and the
//! standard streams. There is nothing else in a service.
//!
//! Every interface is linked individually, so this file lists everything that a guest can reach. What the command line
//! and the standard streams are depends on the guest (`wasi/process.rs`). Of any other interface, such as sockets, a
//! guest gets functions that deny (`wasi/denied.rs`). Only a program that is run once may get sockets
//! (`wasi/sockets.rs`).
//!
//! Determinism rests on this file: the same transaction gives the same reply on any machine, in every replay. Only a
//! program that is run once may get the clocks and random numbers of the machine (`wasi/machine.rs`).
//!
//! - Both clocks show the transaction's timestamp. Only a sleep moves them, at once, by the time slept, and that time
//!   counts towards the deadline. wasmtime-wasi's timers run on real time regardless of the clock they are given, so
//!   this file has its own `monotonic-clock`, and its own `poll` around the stock one.
//! - Random numbers are ChaCha20 (RFC 8439's cipher, 64-bit nonce) keyed by the service's secret and the epoch. The
//!   nonce consists of the phase and the sequence number. Instantiation, snapshot and restore belong to no epoch.

pub(crate) mod denied;
mod files;
mod http;
mod machine;
mod process;
pub(crate) mod sockets;
mod streams;

use files::Files;
pub(crate) use files::Preopen;
use http::Http;
use machine::Due;
pub use machine::Machine;
pub(crate) use process::{CallStreams, Process, StandardStreams};
pub use process::{ERRORS_BYTES_MAX, OwnStreams};
use sockets::Sockets;
use streams::Stream;

use crate::network::Network;
use crate::stop::Stop;
use bytes::Bytes;
use lifeboat_api::call::CallRecord;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::transaction::Cause;
use lifeboat_disk::{Disk, Mark, Released};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wasmtime::Result;
use wasmtime::component::{HasData, HasSelf, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::{cli, clocks, random};
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::bindings::wasi::io;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_io::streams::{OutputStream, StreamError, StreamResult};

/// The most bytes that a guest may write to its log in one call; further bytes are counted and discarded.
pub(crate) const LOG_BYTES_PER_CALL_MAX: usize = 16 * 1024;

/// The least bytes of the end of standard error that are held for the cause of a trap, if a call wrote as many.
const ERROR_BYTES_MAX: usize = 4 * 1024;

/// The most random bytes that a guest may request at once.
pub(crate) const RANDOM_BYTES_PER_CALL_MAX: u64 = 64 * 1024;

/// The most bytes that a guest may write to standard output or error at once.
pub(crate) const WRITE_BYTES_MAX: usize = 64 * 1024;

/// The most pollables that a guest may poll at once. Like the two bounds above, it keeps each host call short, because
/// a guest does not yield during a host call.
pub(crate) const POLLABLES_MAX: usize = 1_000;

/// The fuel charged for each pollable of a poll.
const FUEL_PER_POLLABLE: u64 = 20;

/// The current phase of the store, which selects the random numbers that the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Instantiation and restore.
    Init = 0,
    /// A transaction, at its first execution or in a replay.
    Execute = 1,
    /// A query.
    Query = 2,
    /// An export of the state.
    Snapshot = 3,
}

/// The context of a call, which determines its random numbers and the time on its clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallContext {
    pub(crate) phase: Phase,
    pub(crate) sequence: Sequence,
    pub(crate) epoch: Epoch,
    pub(crate) now: Timestamp,
}

/// What a guest did in its last call, for checks of guests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observed {
    /// The most readings of a clock between two of its movements.
    pub clock_reads: u64,
    /// The total of the sleeps.
    pub slept: Duration,
    /// The uses of descriptors, file streams and listings of earlier calls.
    pub stale_uses: u64,
    /// The changes of the disk that failed because an export may not change it, in all exports of the instance.
    pub refused_writes: u64,
    /// The requests to the network that were denied because the call has none, as a query.
    pub denied_requests: u64,
    /// The bytes of log lines that were dropped.
    pub dropped_log_bytes: u64,
    /// The reads of a program in a service from its standard input.
    pub stdin_reads: u64,
    /// Of these, the reads at its end, with the one that reports it.
    pub reads_at_end: u64,
    /// The questions of a program in a service whether a standard stream is a terminal. The adapter for preview 1 asks
    /// whenever it describes such a stream.
    pub terminal_questions: u64,
}

/// The data of a store whose guest sees this WASI.
pub(crate) trait HasWasi: Send + 'static {
    /// Returns the part of the data that belongs to WASI.
    fn wasi(&mut self) -> &mut Wasi;
}

/// Links every WASI function that a guest may import.
///
/// # Errors
/// Fails only if a name is linked twice, which only a mistake in this function could cause.
pub(crate) fn add_to_linker<D: HasWasi>(linker: &mut Linker<D>) -> Result<()> {
    type Own = HasSelf<Wasi>;
    io::error::add_to_linker::<D, HasSelf<ResourceTable>>(linker, |data| &mut data.wasi().table)?;
    io::streams::add_to_linker::<D, Own>(linker, D::wasi)?;
    io::poll::add_to_linker::<D, Own>(linker, D::wasi)?;
    clocks::wall_clock::add_to_linker::<D, Own>(linker, D::wasi)?;
    clocks::monotonic_clock::add_to_linker::<D, Own>(linker, D::wasi)?;
    random::random::add_to_linker::<D, Own>(linker, D::wasi)?;
    random::insecure::add_to_linker::<D, Own>(linker, D::wasi)?;
    random::insecure_seed::add_to_linker::<D, Own>(linker, D::wasi)?;
    cli::environment::add_to_linker::<D, Own>(linker, D::wasi)?;
    cli::exit::add_to_linker::<D, Own>(linker, D::wasi)?;
    cli::stdin::add_to_linker::<D, Own>(linker, D::wasi)?;
    cli::stdout::add_to_linker::<D, Own>(linker, D::wasi)?;
    cli::stderr::add_to_linker::<D, Own>(linker, D::wasi)?;
    cli::terminal_input::add_to_linker::<D, Own>(linker, D::wasi)?;
    cli::terminal_output::add_to_linker::<D, Own>(linker, D::wasi)?;
    cli::terminal_stdin::add_to_linker::<D, Own>(linker, D::wasi)?;
    cli::terminal_stdout::add_to_linker::<D, Own>(linker, D::wasi)?;
    cli::terminal_stderr::add_to_linker::<D, Own>(linker, D::wasi)?;
    files::add_to_linker(linker)?;
    http::add_to_linker(linker)
}

/// The source of a call's inputs besides its body, and therefore of its time limit.
///
/// A replay must end as the original call did, on a faster or a slower host, so only fuel ends it. Any further input
/// that the host ever gives to a guest belongs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// The call happens now.
    Live {
        /// The time limit of the call, including the guest's sleeps.
        deadline: Duration,
    },
    /// The call happened before and is being repeated.
    Replay,
}

impl Inputs {
    /// Returns the time limit of the call, or `None` in a replay.
    #[must_use]
    pub fn deadline(self) -> Option<Duration> {
        match self {
            Self::Live { deadline } => Some(deadline),
            Self::Replay => None,
        }
    }
}

/// The part of a store's data that the WASI functions use.
pub(crate) struct Wasi {
    /// The streams and pollables that the guest holds; bounded.
    table: ResourceTable,
    /// The virtual disk.
    files: Files,
    /// The messages of HTTP.
    http: Http,
    /// The streams over files and bodies, by the stream's number in `table`.
    streams: HashMap<u32, Stream>,
    /// The command line and the standard streams.
    pub(crate) process: Process,
    /// The clocks and random numbers of the machine, for a program that is run once.
    machine: Option<Box<dyn Machine>>,
    /// The sockets of a program that is run once.
    sockets: Option<Box<Sockets>>,
    secret: [u8; 32],
    phase: Phase,
    sequence: Sequence,
    epoch: Epoch,
    /// The generator of random numbers, created on its first use within a call.
    random: Option<ChaCha20Rng>,
    /// The time that both clocks show, in nanoseconds since 1970.
    now_ns: u64,
    inputs: Inputs,
    /// The total by which the guest's sleeps have moved its clocks.
    slept: Duration,
    /// The readings of the clocks since they last moved.
    clock_reads: u64,
    /// What the guest did in the current or the last call, as far as no other field has it.
    pub(in crate::wasi) observed: Observed,
    /// The due time of each pollable that is a timer, by the pollable's number in `table`.
    timers: HashMap<u32, u64>,
    log: Arc<Mutex<LogBuffer>>,
    /// The fuel charged for host work since the host last collected it.
    pub(crate) owed_fuel: u64,
    /// The fuel charged for bytes written to the log.
    owed_log_fuel: Arc<AtomicU64>,
}

impl HasData for Wasi {
    type Data<'a> = &'a mut Wasi;
}

impl Wasi {
    /// Creates the data of a store with `disk`, whose quota for the start functions is `disk_bytes`.
    pub(crate) fn new(secret: [u8; 32], handles_max: usize, disk: Disk, disk_bytes: u64) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(handles_max);
        let mut wasi = Self {
            table,
            files: Files::new(disk),
            http: Http::default(),
            streams: HashMap::new(),
            process: Process::default(),
            machine: None,
            sockets: None,
            secret,
            phase: Phase::Init,
            sequence: Sequence(0),
            epoch: Epoch::default(),
            random: None,
            now_ns: 0,
            inputs: Inputs::Replay,
            slept: Duration::ZERO,
            clock_reads: 0,
            observed: Observed::default(),
            timers: HashMap::new(),
            log: Arc::default(),
            owed_fuel: 0,
            owed_log_fuel: Arc::default(),
        };
        // The start functions run before any call is entered, and may write.
        wasi.enter_disk(disk_bytes);
        wasi
    }

    /// Sets the context for one call. A live call may sleep until its deadline. `disk_bytes` is the quota of the disk.
    pub(crate) fn enter(&mut self, call_context: CallContext, inputs: Inputs, disk_bytes: u64, network: Network) {
        let CallContext { phase, sequence, epoch, now } = call_context;
        (self.phase, self.sequence, self.epoch) = (phase, sequence, epoch);
        self.random = None;
        // Sleeps of earlier calls have no effect: the clocks start at the transaction's timestamp.
        self.now_ns = now.0;
        (self.inputs, self.slept) = (inputs, Duration::ZERO);
        (self.clock_reads, self.observed) = (0, Observed::default());
        self.enter_disk(disk_bytes);
        self.http.calls.enter(network, now);
    }

    /// Gives a program that is run once the clocks and random numbers of the machine.
    pub(crate) fn set_machine(&mut self, machine: Box<dyn Machine>) {
        self.machine = Some(machine);
    }

    /// Sets what a program that is run once sees of the disk: directories by their names, and a full disk as an error.
    pub(crate) fn set_preopens(&mut self, preopens: Vec<Preopen>) {
        self.files.set_preopens(preopens);
    }

    /// Notes the time of the machine, if the guest sees it, for what it writes to the disk next.
    pub(crate) fn note_time(&mut self) {
        if let Some(machine) = &mut self.machine {
            self.files.set_time(machine.wall_ns());
        }
    }

    /// Returns the phase of the current or the last call.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Moves the log of another store's guest into this one.
    pub(crate) fn adopt_log(&mut self, other: &Self) {
        self.log = Arc::clone(&other.log);
    }

    /// Begins a call for the virtual disk: an export may not change it, and what a query changes is dropped.
    fn enter_disk(&mut self, limit_bytes: u64) {
        // The mark of sequence 0 is that of chunks that no call has written.
        let mark = Mark::new(self.sequence.0 + 1, self.phase as u8);
        self.files.enter(self.now_ns, mark, limit_bytes, self.phase);
    }

    /// Ends the call, which `is_finished` or was cut off. Returns the disk that its writes made, if they are undone.
    pub(crate) fn leave(&mut self, is_finished: bool) -> Option<Disk> {
        self.files.leave(is_finished)
    }

    /// Ends the calls to the network that the call has made, and returns them in order.
    pub(crate) fn leave_network(&mut self) -> Vec<CallRecord> {
        let (calls, unsent) = self.http.calls.leave();
        unsent.into_iter().for_each(|body| self.http.end_message(Some(body)));
        calls
    }

    /// Returns what the guest did in the last call.
    pub(crate) fn observed(&self) -> Observed {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        Observed {
            slept: self.slept,
            stale_uses: self.files.stale_uses(),
            refused_writes: self.files.disk().refused_writes(),
            dropped_log_bytes: log.dropped_bytes as u64,
            ..self.observed
        }
    }

    /// Counts a reading of a clock.
    fn count_clock_read(&mut self) {
        self.clock_reads += 1;
        self.observed.clock_reads = self.observed.clock_reads.max(self.clock_reads);
    }

    /// Returns the virtual disk as it is between two calls.
    pub(crate) fn disk(&self) -> &Disk {
        self.files.disk()
    }

    /// Returns whether any call so far has left a descriptor, stream or listing open.
    pub(crate) fn has_left_open(&self) -> bool {
        self.files.has_left_open()
    }

    /// Replaces the virtual disk between two calls.
    pub(crate) fn set_disk(&mut self, disk: Disk) {
        self.files.set_disk(disk);
    }

    /// Takes the chunks of files that the last call has removed.
    pub(crate) fn take_released(&mut self) -> Released {
        self.files.take_released()
    }

    /// Returns and resets the fuel that the guest owes for host work.
    pub(crate) fn take_owed_fuel(&mut self) -> u64 {
        let mut fuel = std::mem::take(&mut self.owed_fuel);
        fuel = fuel.saturating_add(self.files.take_fuel());
        if self.owed_log_fuel.load(Ordering::Relaxed) > 0 {
            fuel = fuel.saturating_add(self.owed_log_fuel.swap(0, Ordering::Relaxed));
        }
        if let Some(sockets) = &self.sockets {
            fuel = fuel.saturating_add(sockets.take_fuel());
        }
        fuel
    }

    /// Returns and removes the lines that the guest wrote since the last call of this function.
    pub(crate) fn take_log(&mut self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns the end of what the guest wrote to standard error since the last call of [`Wasi::take_log`].
    pub(crate) fn last_errors(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&log.errors).into_owned()
    }

    fn rng(&mut self) -> &mut ChaCha20Rng {
        self.random.get_or_insert_with(|| {
            let mut rng = ChaCha20Rng::from_seed(self.epoch.key(&self.secret));
            rng.set_stream(self.sequence.0 << 2 | self.phase as u64);
            rng
        })
    }

    fn random_bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        if len > RANDOM_BYTES_PER_CALL_MAX {
            return Err(Stop::trap(format!(
                "the guest asked for {len} random bytes at once, the limit is {RANDOM_BYTES_PER_CALL_MAX}"
            )));
        }
        self.owed_fuel += len;
        let mut bytes = vec![0; usize::try_from(len)?];
        match &mut self.machine {
            Some(machine) => machine.fill_random(&mut bytes)?,
            None => self.rng().fill_bytes(&mut bytes),
        }
        Ok(bytes)
    }

    fn random_u64(&mut self) -> Result<u64> {
        let Some(machine) = &mut self.machine else { return Ok(self.rng().next_u64()) };
        let mut bytes = [0; 8];
        machine.fill_random(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Moves the clocks to `when_ns` if the time limit permits a sleep of that length.
    fn sleep_until(&mut self, when_ns: u64) -> Result<()> {
        let duration = Duration::from_nanos(when_ns.saturating_sub(self.now_ns));
        self.slept = self.slept.saturating_add(duration);
        if let Inputs::Live { deadline } = self.inputs
            && self.slept > deadline
        {
            return Err(wasmtime::Error::new(Stop(Cause::Deadline { deadline })));
        }
        self.set_now(self.now_ns.max(when_ns));
        Ok(())
    }

    fn monotonic_ns(&mut self) -> u64 {
        self.machine.as_mut().map_or(self.now_ns, |machine| machine.monotonic_ns())
    }

    fn set_now(&mut self, now_ns: u64) {
        if now_ns != self.now_ns {
            self.clock_reads = 0;
        }
        self.now_ns = now_ns;
        self.files.set_time(now_ns);
        self.http.calls.note_time(Timestamp(now_ns), None);
    }

    fn timer(&mut self, when_ns: u64) -> Result<Resource<DynPollable>> {
        if let Some(machine) = &mut self.machine {
            let wait = Duration::from_nanos(when_ns.saturating_sub(machine.monotonic_ns()));
            let due = self.table.push(Due::after(wait))?;
            return subscribe(&mut self.table, due);
        }
        let timer = self.table.push(Timer)?;
        let pollable = subscribe(&mut self.table, timer)?;
        self.timers.insert(pollable.rep(), when_ns);
        Ok(pollable)
    }
}

/// A timer's entry in the table. [`Wasi::timers`] holds its due time; nothing ever waits for this pollable.
struct Timer;

#[async_trait]
impl Pollable for Timer {
    async fn ready(&mut self) {}
}

/// The stock `poll`, except for timers and responses: they are due by the guest's clock. If nothing else is ready, the
/// clock moves to the earliest of them.
impl io::poll::Host for Wasi {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> Result<Vec<u32>> {
        if pollables.len() > POLLABLES_MAX {
            return Err(Stop::trap(format!(
                "the guest polled {} pollables at once, the limit is {POLLABLES_MAX}",
                pollables.len()
            )));
        }
        self.owed_fuel += FUEL_PER_POLLABLE * pollables.len() as u64;
        if self.machine.is_some() {
            // Time passes by itself, peers answer by themselves, and every request by HTTP is denied at once.
            return io::poll::Host::poll(&mut self.table, pollables).await;
        }
        let mut ready = Vec::new();
        let mut others = Vec::new();
        let mut other_indices = Vec::new();
        let mut later = Vec::new();
        let mut calls = Vec::new();
        for (index, pollable) in pollables.into_iter().enumerate() {
            let index = u32::try_from(index)?;
            if let Some(&when_ns) = self.timers.get(&pollable.rep()) {
                if when_ns <= self.now_ns { ready.push(index) } else { later.push((when_ns, index)) }
            } else if let Some(number) = self.http.calls.of_pollable(pollable.rep()) {
                calls.push((number, index));
            } else {
                others.push(pollable);
                other_indices.push(index);
            }
        }
        if !others.is_empty() {
            let poll = io::poll::Host::poll(&mut self.table, others);
            // In a service, all other pollables that a guest can hold (standard streams, files) are ready at once. The
            // streams of a program that is run once are not, and its clock does not pass them by.
            let stock = match self.process.streams {
                StandardStreams::Own(_) if ready.is_empty() => poll.await?,
                _ => futures::future::poll_immediate(poll).await.transpose()?.unwrap_or_default(),
            };
            ready.extend(stock.into_iter().filter_map(|index| other_indices.get(usize::try_from(index).ok()?)));
        }
        let earliest_ns = later.iter().min().map(|&(when_ns, _)| when_ns);
        if calls.is_empty() {
            if ready.is_empty() {
                let Some(earliest_ns) = earliest_ns else {
                    return Err(Stop::trap("the guest waits for an event that never happens".into()));
                };
                self.sleep_until(earliest_ns)?;
            }
        } else {
            let numbers: Vec<u64> = calls.iter().map(|(number, _)| *number).collect();
            let arrived = self.poll_calls(&numbers, earliest_ns, ready.is_empty()).await?;
            let has_arrived = |number: &u64| arrived.binary_search(number).is_ok();
            ready.extend(calls.into_iter().filter(|(number, _)| has_arrived(number)).map(|(_, index)| index));
        }
        ready.extend(later.into_iter().filter(|&(when_ns, _)| when_ns <= self.now_ns).map(|(_, index)| index));
        ready.sort_unstable();
        Ok(ready)
    }
}

impl io::poll::HostPollable for Wasi {
    async fn block(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        if let Some(&when_ns) = self.timers.get(&pollable.rep()) {
            return self.sleep_until(when_ns);
        }
        match self.http.calls.of_pollable(pollable.rep()) {
            Some(number) => self.poll_calls(&[number], None, true).await.map(drop),
            None => io::poll::HostPollable::block(&mut self.table, pollable).await,
        }
    }

    async fn ready(&mut self, pollable: Resource<DynPollable>) -> Result<bool> {
        if let Some(&when_ns) = self.timers.get(&pollable.rep()) {
            return Ok(when_ns <= self.now_ns);
        }
        match self.http.calls.of_pollable(pollable.rep()) {
            Some(number) => self.is_call_ready(number),
            None => io::poll::HostPollable::ready(&mut self.table, pollable).await,
        }
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        self.timers.remove(&pollable.rep());
        self.http.calls.unsubscribe(pollable.rep());
        io::poll::HostPollable::drop(&mut self.table, pollable)
    }
}

impl clocks::wall_clock::Host for Wasi {
    fn now(&mut self) -> Result<clocks::wall_clock::Datetime> {
        self.count_clock_read();
        Ok(datetime(self.machine.as_mut().map_or(self.now_ns, |machine| machine.wall_ns())))
    }

    fn resolution(&mut self) -> Result<clocks::wall_clock::Datetime> {
        Ok(datetime(1))
    }
}

fn datetime(ns: u64) -> clocks::wall_clock::Datetime {
    // A remainder of 10^9 fits in 32 bits.
    let nanoseconds = (ns % 1_000_000_000) as u32;
    clocks::wall_clock::Datetime { seconds: ns / 1_000_000_000, nanoseconds }
}

impl clocks::monotonic_clock::Host for Wasi {
    fn now(&mut self) -> Result<u64> {
        self.count_clock_read();
        // While start functions run, the time is 0. Go's runtime takes a clock at 0 for a broken one, and ends.
        Ok(self.monotonic_ns().max(1))
    }

    fn resolution(&mut self) -> Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, when_ns: u64) -> Result<Resource<DynPollable>> {
        self.timer(when_ns)
    }

    fn subscribe_duration(&mut self, duration_ns: u64) -> Result<Resource<DynPollable>> {
        let now_ns = self.monotonic_ns();
        self.timer(now_ns.saturating_add(duration_ns))
    }
}

impl random::random::Host for Wasi {
    fn get_random_bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        self.random_bytes(len)
    }

    fn get_random_u64(&mut self) -> Result<u64> {
        self.random_u64()
    }
}

impl random::insecure::Host for Wasi {
    fn get_insecure_random_bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        self.random_bytes(len)
    }

    fn get_insecure_random_u64(&mut self) -> Result<u64> {
        self.random_u64()
    }
}

impl random::insecure_seed::Host for Wasi {
    fn insecure_seed(&mut self) -> Result<(u64, u64)> {
        Ok((self.random_u64()?, self.random_u64()?))
    }
}

/// Standard output or error: always ready, and truncated at [`LOG_BYTES_PER_CALL_MAX`].
struct LogStream {
    buffer: Arc<Mutex<LogBuffer>>,
    is_error: bool,
    /// One unit of fuel for each byte.
    owed_fuel: Arc<AtomicU64>,
}

#[async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > WRITE_BYTES_MAX {
            return Err(StreamError::trap("the guest wrote more to its log than the stream was ready to take"));
        }
        self.owed_fuel.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.write(&bytes);
        if self.is_error {
            buffer.write_error(&bytes);
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

/// The text that a guest wrote during one call.
#[derive(Default)]
struct LogBuffer {
    text: Vec<u8>,
    dropped_bytes: usize,
    /// The end of what it wrote to standard error, also if it is not part of the text any more.
    errors: Vec<u8>,
}

impl LogBuffer {
    fn write(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(LOG_BYTES_PER_CALL_MAX - self.text.len());
        self.text.extend_from_slice(&bytes[..kept]);
        self.dropped_bytes += bytes.len() - kept;
    }

    fn write_error(&mut self, bytes: &[u8]) {
        self.errors.extend_from_slice(bytes);
        if self.errors.len() > 2 * ERROR_BYTES_MAX {
            self.errors.drain(..self.errors.len() - ERROR_BYTES_MAX);
        }
    }

    fn take(&mut self) -> Vec<String> {
        if self.text.is_empty() {
            return Vec::new();
        }
        let mut lines: Vec<String> = String::from_utf8_lossy(&self.text)
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(str::to_owned)
            .collect();
        if self.dropped_bytes > 0 {
            lines.push(format!(
                "({} more bytes dropped: a call may log {LOG_BYTES_PER_CALL_MAX} bytes)",
                self.dropped_bytes
            ));
        }
        *self = Self::default();
        lines
    }
}
