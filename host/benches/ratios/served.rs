//! A host with services, and a client on this thread.

use bytes::Bytes;
use futures::StreamExt;
use lifeboat::auth::{Grant, Token};
use lifeboat::clock::{SystemClock, Timestamp};
use lifeboat::engine::Program;
use lifeboat::event::{Event, Failover};
use lifeboat::failover::{FailoverMode, Thresholds};
use lifeboat::fleet::Machine;
use lifeboat::host::{Host, HostConfig};
use lifeboat::name::Name;
use lifeboat::service::{Horizon, QUEUE_MAX, ServiceSpec};
use lifeboat::size::Size;
use lifeboat::transaction::{Answer, Epoch, Kind, Request};
use lifeboat::workload::{LoadLimits, load};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MIB: u64 = 1024 * 1024;

/// Keys the random numbers of every guest.
pub(crate) const SECRET: [u8; 32] = [7; 32];

/// A host of two machines, and a user who may do everything.
pub(crate) struct Served {
    host: Host,
    token: Token,
    /// The client's, as `lifeboat run` has it.
    runtime: tokio::runtime::Runtime,
    last_failover: Arc<Mutex<Option<Failover>>>,
}

impl Served {
    /// A host without services.
    pub(crate) fn new() -> Self {
        let last_failover = Arc::new(Mutex::new(None));
        let sink = Arc::clone(&last_failover);
        let host = Host::new(
            HostConfig::new(Machine::pair(8, 1024 * MIB), 128 * MIB),
            Arc::new(SystemClock),
            Arc::new(move |event: &Event| {
                if let Event::Failover(failover) = event {
                    *sink.lock().expect("nobody panics in here") = Some(failover.clone());
                }
            }),
        )
        .expect("a host");
        let mut authority = host.authority();
        authority.add_user(&name("ada"));
        let token = authority.issue("ada", Timestamp(u64::MAX), [1; 32]).expect("ada is known");
        drop(authority);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { host, token, runtime, last_failover }
    }

    /// Compiles a guest of `tests/guests`, or a prebuilt workload.
    pub(crate) fn compile(&self, file: &str) -> Arc<Program> {
        let folder = if file.ends_with(".wat") { "tests/guests" } else { "workloads/prebuilt" };
        let path = format!("{}/../{folder}/{file}", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let workload = load(file, &bytes, &LoadLimits::default()).expect("the loader takes it");
        self.runtime.block_on(self.host.compile(workload)).expect("it compiles")
    }

    /// Starts `program` as `service`, with a tank that lasts.
    pub(crate) fn start(&self, service: &str, program: &Arc<Program>) {
        let fuel = crate::bare::FUEL;
        let size = Size { name: "bench".into(), fuel, memory_bytes: 64 * MIB, deadline: Duration::from_secs(60) };
        let spec = ServiceSpec {
            name: name(service),
            program: Arc::clone(program),
            size: Arc::new(size),
            sizes: Vec::new(),
            thresholds: Thresholds::default(),
            secret: SECRET,
            epoch: Epoch::default(),
            accepted_divergences: BTreeSet::new(),
            failover: FailoverMode::Direct,
            horizon: Horizon::default(),
            queue_max: QUEUE_MAX,
            sabotage: None,
        };
        for grant in [Grant::Transact, Grant::Observe, Grant::Operate] {
            self.host.authority().grant("ada", &spec.name, grant);
        }
        self.runtime.block_on(self.host.create_service(spec)).expect("the service starts");
    }

    /// Sends `requests`, `in_flight` of them at a time, and says how long it took until all were answered, and how
    /// many were answered `failed`.
    pub(crate) fn transact(&self, service: &str, requests: Vec<Request>, in_flight: usize) -> (Duration, usize) {
        let token = self.token.reveal();
        self.runtime.block_on(async {
            let mut failed = 0;
            let start = Instant::now();
            let mut answers = futures::stream::iter(requests)
                .map(|request| self.host.request(token, service, request))
                .buffer_unordered(in_flight);
            while let Some(reply) = answers.next().await {
                match reply.expect("nothing is denied").answer {
                    Answer::Ok(_) => {}
                    Answer::Refused(text) => panic!("refused: {text}"),
                    Answer::Failed(_) => failed += 1,
                }
            }
            (start.elapsed(), failed)
        })
    }

    /// Forces a failover and tells of it.
    pub(crate) fn fail_over(&self, service: &str) -> Failover {
        let forced = self.host.fail_over(self.token.reveal(), service);
        let status = self.runtime.block_on(forced).expect("ada may operate");
        let failover = self.last_failover.lock().expect("nobody panics in here").take();
        let failover = failover.expect("it failed over");
        assert_eq!(failover.to, status.vm, "the failover is the one that was forced");
        failover
    }
}

/// A transaction without an id: the host makes one.
pub(crate) fn anonymous(body: impl Into<Bytes>) -> Request {
    Request { id: None, body: body.into(), kind: Kind::Transaction }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}
