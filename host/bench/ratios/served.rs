//! A host with services, and a client on this thread.

use bytes::Bytes;
use futures::StreamExt;
use lifeboat_api::access::Grant;
use lifeboat_api::clock::{SystemClock, Timestamp};
use lifeboat_api::event::{Event, Failover};
use lifeboat_api::id::Epoch;
use lifeboat_api::name::Name;
use lifeboat_api::size::Size;
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_api::transaction::{Answer, Kind, Request};
use lifeboat_host::answers::DeduplicationWindow;
use lifeboat_host::catalog::ServiceSettings;
use lifeboat_host::command_line::ProgramSettings;
use lifeboat_host::credential::Token;
use lifeboat_host::data::{DataDirectory, DataError, DataOptions, Locked};
use lifeboat_host::fleet::Machine;
use lifeboat_host::host::{Host, HostConfig, NewService};
use lifeboat_host::network::{AllowList, Allowed, NetworkSettings, Retry, Target};
use lifeboat_host::service::ServiceSpec;
use lifeboat_journal::commit::Totals;
use lifeboat_journal::frame::DirectoryId;
use lifeboat_journal::storage::DiskStorage;
use lifeboat_vm::engine::Program;
use lifeboat_vm::workload::{LoadLimits, load};
use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

const MIB: u64 = 1024 * 1024;

/// The default linear memory of a VM, in bytes.
const MEMORY_BYTES: u64 = 64 * MIB;

/// More calls, and more bytes of them, than any measurement needs.
const NETWORK_CALLS: u64 = 1_000_000_000;
const NETWORK_BYTES: u64 = 1_000_000 * MIB;

/// How long a dropped host may still hold its data directory: its tasks end by themselves.
const LET_GO_DEADLINE: Duration = Duration::from_secs(30);

/// The key of every guest's random numbers.
pub(crate) const SECRET: [u8; 32] = [7; 32];

/// A host with two machines, and a user with every grant.
pub(crate) struct Served {
    host: Host,
    token: Token,
    /// The client's runtime, built like that of `lifeboat run`.
    runtime: tokio::runtime::Runtime,
    printed: Arc<Mutex<Observed>>,
    /// The data directory, if the host has one.
    directory: Option<Arc<DataDirectory>>,
}

/// The last event of each kind.
#[derive(Default)]
struct Observed {
    failover: Option<Failover>,
    failovers: u64,
    restored: Option<Restored>,
}

/// The recovery of a service.
pub(crate) struct Restored {
    pub(crate) replayed_transactions: u64,
    /// The time from the snapshot's file to the service, as the event reports it.
    pub(crate) took: Duration,
    /// The time from opening the directory to the service, including reading the journal and compiling.
    pub(crate) opened: Duration,
}

/// The results of requests.
pub(crate) struct Answered {
    /// The time until all were answered.
    pub(crate) elapsed: Duration,
    /// The number of requests that were answered `failed`.
    pub(crate) failed: usize,
    /// The fuel that all of them burnt.
    pub(crate) fuel_used: u64,
}

/// A failover while a client was being served.
pub(crate) struct UnderLoad {
    /// The failover, or `None` if the host abandoned it.
    pub(crate) failover: Option<Failover>,
    /// The times of the answers, in order.
    pub(crate) answers: Vec<Instant>,
    /// The time at which the operator forced the failover.
    pub(crate) forced: Instant,
    /// The time at which the operator's request was answered.
    pub(crate) over: Instant,
}

/// Starts the guest in `file` as `service` of a host, in memory, with ample fuel.
pub(crate) async fn start_in_memory(host: &Host, service: &str, file: &str) {
    let workload = load(file, &guest(file), &LoadLimits::default()).expect("the loader takes it");
    let program = host.compile(workload).await.expect("it compiles");
    let spec = spec(service, &program, size(MEMORY_BYTES), FailoverMode::Direct);
    host.create_service(spec).await.expect("the service starts");
}

fn spec(service: &str, program: &Arc<Program>, size: Size, failover: FailoverMode) -> ServiceSpec {
    let settings = ServiceSettings {
        size: size.name.clone(),
        sizes: vec![size],
        thresholds: Thresholds::default(),
        deduplication_window: DeduplicationWindow::default(),
        failover,
        network: NetworkSettings::default(),
        program: ProgramSettings::default(),
    };
    ServiceSpec::new(name(service), Arc::clone(program), &settings, SECRET, Epoch::default())
}

impl Served {
    /// Creates a host without services.
    pub(crate) fn new() -> Self {
        Self::with_slots(8, 128 * MIB)
    }

    /// Creates a host without services that has `slots` slots on each machine, for sizes of up to `memory_bytes`.
    pub(crate) fn with_slots(slots: u32, memory_bytes: u64) -> Self {
        let printed = Arc::new(Mutex::new(Observed::default()));
        let sink = Arc::clone(&printed);
        let host = Host::new(
            HostConfig::new(Machine::pair(slots, memory_bytes * u64::from(slots)), memory_bytes),
            Arc::new(SystemClock),
            Arc::new(move |event: &Event| {
                let mut printed = sink.lock().expect("nobody panics in here");
                match event {
                    Event::Failover(failover) => {
                        printed.failover = Some(failover.clone());
                        printed.failovers += 1;
                    }
                    Event::Restored { replayed_transactions, took, .. } => {
                        let (replayed_transactions, took) = (*replayed_transactions, *took);
                        printed.restored = Some(Restored { replayed_transactions, took, opened: Duration::ZERO });
                    }
                    _ => {}
                }
            }),
        )
        .expect("a host");
        let mut authority = host.authority();
        authority.add_user(&name("ada"));
        let token = authority.issue("ada", Timestamp(u64::MAX), [1; 32]).expect("ada is known");
        drop(authority);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { host, token, runtime, printed, directory: None }
    }

    /// Opens a host on the data directory at `path`, and recovers its services.
    pub(crate) fn durable(path: &Path) -> Self {
        let mut served = Self::new();
        let storage = Arc::new(DiskStorage::create(path).expect("a directory"));
        let patience = Instant::now();
        let (locked, start) = loop {
            let start = Instant::now();
            match Locked::open(Arc::clone(&storage) as _, Some(DirectoryId([1; 16]))) {
                Err(DataError::InUse) if patience.elapsed() < LET_GO_DEADLINE => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                taken => break (taken.expect("the directory is ours"), start),
            }
        };
        let (directory, contents) = locked.open_journal(&DataOptions::default()).expect("it is whole");
        let services: Vec<Name> = contents.services.iter().map(|found| found.name.clone()).collect();
        served.host = served.host.with_data(Arc::clone(&directory));
        served.directory = Some(directory);
        served.runtime.block_on(served.host.recover(contents, Epoch::default));
        if let Some(restored) = &mut served.printed().restored {
            restored.opened = start.elapsed();
        }
        services.iter().for_each(|service| served.grant(service));
        served
    }

    /// Returns the totals that a durable host's journal wrote.
    pub(crate) fn journal_totals(&self) -> Totals {
        self.directory.as_ref().expect("it has a data directory").committer().totals()
    }

    /// Returns the recovery of the last recovered service.
    pub(crate) fn restored(&self) -> Restored {
        self.printed().restored.take().expect("a service was brought back")
    }

    /// Compiles a guest of `tests/guests`, or a prebuilt workload.
    pub(crate) fn compile(&self, file: &str) -> Arc<Program> {
        self.compile_bytes(file, &guest(file))
    }

    /// Compiles the guest in `bytes`, with the name `file`.
    pub(crate) fn compile_bytes(&self, file: &str, bytes: &[u8]) -> Arc<Program> {
        let workload = load(file, bytes, &LoadLimits::default()).expect("the loader takes it");
        self.runtime.block_on(self.host.compile(workload)).expect("it compiles")
    }

    /// Starts `program` as `service`, with ample fuel.
    pub(crate) fn start(&self, service: &str, program: &Arc<Program>) {
        self.start_as(service, program, MEMORY_BYTES, FailoverMode::Direct);
    }

    /// Starts `program` as `service`, with a tank of `fuel`.
    pub(crate) fn start_with_fuel(&self, service: &str, program: &Arc<Program>, fuel: u64) {
        self.start_sized(service, program, Size { fuel, ..size(MEMORY_BYTES) }, FailoverMode::Direct);
    }

    /// Starts `program` as `service`, with a disk of `disk_bytes`.
    pub(crate) fn start_with_disk(&self, service: &str, program: &Arc<Program>, disk_bytes: u64) {
        self.start_sized(service, program, Size { disk_bytes, ..size(MEMORY_BYTES) }, FailoverMode::Direct);
    }

    /// Starts `program` as `service`, with `memory_bytes` of memory and this failover mode.
    pub(crate) fn start_as(&self, service: &str, program: &Arc<Program>, memory_bytes: u64, failover: FailoverMode) {
        self.start_sized(service, program, size(memory_bytes), failover);
    }

    fn start_sized(&self, service: &str, program: &Arc<Program>, size: Size, failover: FailoverMode) {
        self.create(spec(service, program, size, failover));
    }

    /// Starts `program` as `service`, which may call the server at `address`. The host must have been made within a
    /// runtime.
    pub(crate) fn start_calling(&self, service: &str, program: &Arc<Program>, address: SocketAddr) {
        let mut spec = spec(service, program, size(MEMORY_BYTES), FailoverMode::Direct);
        spec.network = self.host.network_of(&spec.name, &network_to(address));
        self.create(spec);
    }

    fn create(&self, spec: ServiceSpec) {
        self.grant(&spec.name);
        self.runtime.block_on(self.host.create_service(spec)).expect("the service starts");
    }

    /// Starts the guest in `file` as `service`, in the host's data directory, with ample fuel.
    pub(crate) fn start_durable(&self, service: &str, file: &str) {
        self.start_durable_with(service, file, guest(file), NetworkSettings::default());
    }

    /// Starts the guest in `bytes` as `service`, in the host's data directory, with ample fuel and this network.
    pub(crate) fn start_durable_with(&self, service: &str, file: &str, bytes: Vec<u8>, network: NetworkSettings) {
        let size = size(MEMORY_BYTES);
        let new = NewService {
            name: name(service),
            workload: load(file, &bytes, &LoadLimits::default()).expect("the loader takes it"),
            workload_bytes: bytes.into(),
            settings: ServiceSettings {
                size: size.name.clone(),
                sizes: vec![size],
                thresholds: Thresholds::default(),
                deduplication_window: DeduplicationWindow::durable(),
                failover: FailoverMode::Direct,
                network,
                program: ProgramSettings::default(),
            },
            secret: SECRET,
            epoch: Epoch::default(),
            disk: None,
        };
        self.grant(&new.name);
        self.runtime.block_on(self.host.create_durable_service(new)).expect("the service starts");
    }

    fn grant(&self, service: &Name) {
        for grant in [Grant::Transact, Grant::Observe, Grant::Operate] {
            self.host.authority().grant("ada", service, grant);
        }
    }

    /// Sends `requests`, keeping `in_flight` of them in flight, until all are answered.
    pub(crate) fn transact(
        &self,
        service: &str,
        requests: impl IntoIterator<Item = Request>,
        in_flight: usize,
    ) -> Answered {
        let token = self.token.reveal();
        self.runtime.block_on(async {
            let mut answered = Answered { elapsed: Duration::ZERO, failed: 0, fuel_used: 0 };
            let start = Instant::now();
            let mut answers = futures::stream::iter(requests)
                .map(|request| self.host.request(token, service, request))
                .buffer_unordered(in_flight);
            while let Some(reply) = answers.next().await {
                let reply = reply.expect("nothing is denied");
                answered.fuel_used += reply.fuel_used;
                match reply.answer {
                    Answer::Ok(_) => {}
                    Answer::Refused(text) => panic!("refused: {text}"),
                    Answer::Failed(_) => answered.failed += 1,
                }
            }
            answered.elapsed = start.elapsed();
            answered
        })
    }

    /// Sends `requests` to `service` one after another, and returns how long each took. Meanwhile each service in
    /// `beside` is sent its body again and again, whatever the outcome.
    pub(crate) fn latencies_beside(
        &self,
        service: &str,
        requests: impl IntoIterator<Item = Request>,
        beside: &[(&str, &'static [u8])],
    ) -> Vec<Duration> {
        let is_over = Cell::new(false);
        let measured = async {
            let took = self.latencies(service, requests).await;
            is_over.set(true);
            took
        };
        let others = beside.iter().map(async |(other, body)| {
            while !is_over.get() {
                self.request(other, anonymous(*body)).await;
            }
        });
        self.runtime.block_on(futures::future::join(measured, futures::future::join_all(others))).0
    }

    /// Sends each service in `waiting` a transaction with `body`. Once `are_waiting` is over, sends `requests` to
    /// `service` one after another, and returns how long each took. Then calls `release`, after which the transactions
    /// of the others must end.
    pub(crate) fn latencies_while(
        &self,
        service: &str,
        requests: impl IntoIterator<Item = Request>,
        (waiting, body): (&[String], &str),
        are_waiting: impl Future<Output = ()>,
        release: impl FnOnce(),
    ) -> Vec<Duration> {
        let measured = async {
            are_waiting.await;
            let took = self.latencies(service, requests).await;
            release();
            took
        };
        let others = waiting.iter().map(async |other| {
            let answer = self.request(other, anonymous(body.to_owned())).await;
            assert!(matches!(answer, Answer::Ok(_)), "{answer:?}");
        });
        self.runtime.block_on(futures::future::join(measured, futures::future::join_all(others))).0
    }

    async fn latencies(&self, service: &str, requests: impl IntoIterator<Item = Request>) -> Vec<Duration> {
        let mut took = Vec::new();
        for next in requests {
            let start = Instant::now();
            let answer = self.request(service, next).await;
            took.push(start.elapsed());
            assert!(matches!(answer, Answer::Ok(_)), "{answer:?}");
        }
        took
    }

    async fn request(&self, service: &str, request: Request) -> Answer {
        self.host.request(self.token.reveal(), service, request).await.expect("nothing is denied").answer
    }

    /// Returns the number of failovers of its services.
    pub(crate) fn failovers(&self) -> u64 {
        self.printed().failovers
    }

    /// Takes snapshots until nothing is left to replay: the first may have begun earlier.
    pub(crate) fn snapshot(&self, service: &str) {
        self.runtime.block_on(async {
            loop {
                let status = self.host.snapshot(self.token.reveal(), service).await.expect("ada may operate");
                assert_eq!(status.unmovable, None, "it can be exported");
                if status.sequence == status.snapshot_sequence {
                    break;
                }
            }
        });
    }

    /// Forces a failover and returns it.
    pub(crate) fn fail_over(&self, service: &str) -> Failover {
        let forced = self.host.fail_over(self.token.reveal(), service);
        let status = self.runtime.block_on(forced).expect("ada may operate");
        let failover = self.printed().failover.take().expect("it failed over");
        assert_eq!(failover.to, status.vm, "the failover is the one that was forced");
        failover
    }

    /// Keeps `in_flight` of `requests` in flight, forces a failover after `before`, and continues until it is over.
    pub(crate) fn fail_over_under_load(
        &self,
        service: &str,
        requests: impl Iterator<Item = Request>,
        in_flight: usize,
        before: Duration,
    ) -> UnderLoad {
        let token = self.token.reveal();
        let is_over = Cell::new(false);
        self.runtime.block_on(async {
            let mut replies = futures::stream::iter(requests.take_while(|_| !is_over.get()))
                .map(|request| self.host.request(token, service, request))
                .buffer_unordered(in_flight);
            let mut answers = Vec::new();
            let mut failing_over = pin!(async {
                tokio::time::sleep(before).await;
                let forced = Instant::now();
                self.host.fail_over(token, service).await.expect("ada may operate");
                (forced, Instant::now())
            });
            let (forced, over) = loop {
                tokio::select! {
                    biased;
                    times = &mut failing_over => break times,
                    reply = replies.next() => {
                        let reply = reply.expect("there are more").expect("nothing is denied");
                        assert!(matches!(reply.answer, Answer::Ok(_)), "{:?}", reply.answer);
                        answers.push(Instant::now());
                    }
                }
            };
            is_over.set(true);
            while replies.next().await.is_some() {}
            UnderLoad { failover: self.printed().failover.take(), answers, forced, over }
        })
    }

    fn printed(&self) -> MutexGuard<'_, Observed> {
        self.printed.lock().expect("nobody panics in here")
    }
}

/// Reads a guest of `tests/guests`, or a prebuilt workload.
fn guest(file: &str) -> Vec<u8> {
    let folder = if file.ends_with(".wat") { "tests/guests" } else { "workloads/prebuilt" };
    let path = format!("{}/../../{folder}/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn size(memory_bytes: u64) -> Size {
    Size {
        name: "bench".into(),
        fuel: crate::bare::FUEL,
        memory_bytes,
        disk_bytes: Size::disk_bytes_for(memory_bytes),
        network_calls: NETWORK_CALLS,
        network_bytes: NETWORK_BYTES,
        deadline: Duration::from_secs(60),
    }
}

/// Returns the settings of a service that may call the server at `address`, over HTTP, and no other.
pub(crate) fn network_to(address: SocketAddr) -> NetworkSettings {
    let target: Target = format!("http://{address}").parse().expect("a target");
    let allow = AllowList::new(vec![Allowed::from(target)]).expect("one");
    NetworkSettings { allow, retry: Retry::Never }
}

/// Returns a transaction without an id: the host creates one.
pub(crate) fn anonymous(body: impl Into<Bytes>) -> Request {
    Request { id: None, body: body.into(), kind: Kind::Transaction }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}
