//! A host in this process, with a virtual clock and a user with all grants.

use lifeboat_api::access::Grant;
use lifeboat_api::clock::{Timestamp, VirtualClock};
use lifeboat_api::event::{Event, Failover};
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::name::Name;
use lifeboat_api::size::Size;
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_api::transaction::{Answer, Denial, Kind, Reply, Request, RequestError};
use lifeboat_disk::Disk;
use lifeboat_host::answers::DeduplicationWindow;
use lifeboat_host::catalog::ServiceSettings;
use lifeboat_host::command_line::ProgramSettings;
use lifeboat_host::credential::Token;
use lifeboat_host::data::{Contents, DataDirectory};
use lifeboat_host::fleet::Machine;
use lifeboat_host::host::{Host, HostConfig};
use lifeboat_host::journal::Log;
use lifeboat_host::network::NetworkSettings;
use lifeboat_host::service::{
    Doubt, LaunchError, ReplaceError, Replaced, ServiceSpec, SettleError, Settlement, Status,
};
use lifeboat_vm::workload::{LoadLimits, load};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub(crate) const MIB: u64 = 1024 * 1024;

/// Returns the bytes of a guest of `tests/guests`, or of a prebuilt workload.
pub(crate) fn guest_bytes(file: &str) -> Vec<u8> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let folder = if file.ends_with(".wat") { "tests/guests" } else { "workloads/prebuilt" };
    let path = format!("{root}/{folder}/{file}");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns a component that takes seconds and a gigabyte to load, and is then rejected. It is small, but the validator
/// copies each resource for each import.
pub(crate) fn slow_component() -> String {
    let exports: String = (0..1500).map(|index| format!("(export \"a{index}\" (type (sub resource)))")).collect();
    let imports: String = (0..150).map(|index| format!("(import \"a{index}\" (instance (type 0)))")).collect();
    format!("(component (type (instance {exports})) {imports})")
}

/// Returns a size with a long deadline.
pub(crate) fn size(name: &str, fuel: u64, memory_bytes: u64) -> Arc<Size> {
    let network = Size::network_for(memory_bytes);
    Arc::new(Size {
        name: name.into(),
        fuel,
        memory_bytes,
        disk_bytes: Size::disk_bytes_for(memory_bytes),
        network_calls: network.calls,
        network_bytes: network.bytes,
        deadline: Duration::from_secs(60),
    })
}

/// A host of two machines with eight slots each.
pub(crate) struct Rig {
    pub(crate) host: Host,
    pub(crate) clock: Arc<VirtualClock>,
    token: Token,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// Creates a rig that continues with a data directory. Each of its services begins a new epoch.
    pub(crate) async fn recovered(directory: Arc<DataDirectory>, contents: Contents) -> Self {
        let mut rig = Self::new();
        rig.host = rig.host.with_data(directory);
        let mut epoch = 0;
        let draw = || {
            epoch += 1;
            Epoch([epoch; 16])
        };
        rig.host.recover(contents, draw).await;
        rig
    }

    /// Creates a rig whose configuration was changed by `change`.
    pub(crate) fn with(change: impl FnOnce(&mut HostConfig)) -> Self {
        Self::build(change, |_| {})
    }

    /// Creates a rig that calls `watch` with each event before the service that emits it continues.
    pub(crate) fn watched(watch: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self::build(|_| {}, watch)
    }

    /// Creates a rig, and returns what the trials of its services will find.
    pub(crate) fn tried() -> (Self, UnboundedReceiver<String>) {
        let (found, reasons) = unbounded_channel();
        let rig = Self::watched(move |event| {
            if let Event::Fragile { reason, .. } = event {
                // The test may have ended.
                let _ = found.send(reason.clone());
            }
        });
        (rig, reasons)
    }

    fn build(change: impl FnOnce(&mut HostConfig), watch: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        let mut config = HostConfig::new(Machine::pair(8, 1024 * MIB), 128 * MIB);
        change(&mut config);
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let clock = Arc::new(VirtualClock::new(Timestamp(1_700_000_000_000_000_000)));
        let host = Host::new(
            config,
            Arc::clone(&clock) as _,
            Arc::new(move |event: &Event| {
                sink.lock().expect("no test panics in here").push(event.clone());
                watch(event);
            }),
        )
        .expect("a host");
        let user = name("ada");
        let mut authority = host.authority();
        authority.add_user(&user);
        let token = authority.issue(&user, Timestamp(u64::MAX), [1; 32]).expect("ada is known");
        drop(authority);
        Self { host, clock, token, events }
    }

    /// Starts `guest` as `service`. The first of `sizes` is its initial size.
    pub(crate) async fn start(&self, service: &str, guest: &str, sizes: &[Arc<Size>]) {
        self.try_start(service, guest, sizes, |_| {}).await.expect("the service starts");
    }

    /// Does the same with a specification changed by `change`, and returns the error.
    pub(crate) async fn try_start(
        &self,
        service: &str,
        guest: &str,
        sizes: &[Arc<Size>],
        change: impl FnOnce(&mut ServiceSpec),
    ) -> Result<(), LaunchError> {
        self.launch(service, guest, &guest_bytes(guest), sizes, change).await
    }

    /// Starts a guest from its bytes.
    pub(crate) async fn start_bytes(&self, service: &str, guest: &[u8], sizes: &[Arc<Size>]) {
        self.launch(service, "inline", guest, sizes, |_| {}).await.expect("the service starts");
    }

    /// Starts a guest from its bytes, with a specification changed by `change`.
    pub(crate) async fn launch(
        &self,
        service: &str,
        file: &str,
        bytes: &[u8],
        sizes: &[Arc<Size>],
        change: impl FnOnce(&mut ServiceSpec),
    ) -> Result<(), LaunchError> {
        let mut spec = self.spec(service, file, bytes, sizes).await;
        change(&mut spec);
        self.host.create_service(spec).await
    }

    /// Starts `guest` as `service`, with records that go to `log`.
    pub(crate) async fn start_with_log(&self, service: &str, guest: &str, sizes: &[Arc<Size>], log: Box<dyn Log>) {
        let spec = self.spec(service, guest, &guest_bytes(guest), sizes).await;
        self.host.create_service_with(spec, log).await.expect("the service starts");
    }

    /// Compiles a guest, and returns a specification of its service, on which ada has all grants.
    async fn spec(&self, service: &str, file: &str, bytes: &[u8], sizes: &[Arc<Size>]) -> ServiceSpec {
        let workload = load(file, bytes, &LoadLimits::default()).expect("the loader takes it");
        let program = self.host.compile(workload).await.expect("it compiles");
        let settings = ServiceSettings {
            size: sizes[0].name.clone(),
            sizes: sizes.iter().map(|size| Size::clone(size)).collect(),
            thresholds: Thresholds::default(),
            deduplication_window: DeduplicationWindow::default(),
            failover: FailoverMode::Direct,
            network: NetworkSettings::default(),
            program: ProgramSettings::default(),
        };
        let spec = ServiceSpec::new(name(service), program, &settings, [7; 32], Epoch::default());
        self.grant(&spec.name);
        spec
    }

    /// Gives ada all grants on `service`.
    pub(crate) fn grant(&self, service: &str) {
        for grant in [Grant::Transact, Grant::Observe, Grant::Operate] {
            self.host.authority().grant("ada", &name(service), grant);
        }
    }

    /// Sends a transaction without an id.
    pub(crate) async fn send(&self, service: &str, body: impl AsRef<[u8]>) -> Result<Reply, RequestError> {
        self.request(service, None, body, Kind::Transaction).await
    }

    /// Sends a transaction with an id.
    pub(crate) async fn send_as(&self, service: &str, id: &str, body: impl AsRef<[u8]>) -> Result<Reply, RequestError> {
        self.request(service, Some(id), body, Kind::Transaction).await
    }

    pub(crate) async fn query(&self, service: &str, body: impl AsRef<[u8]>) -> Result<Reply, RequestError> {
        self.request(service, None, body, Kind::Query).await
    }

    async fn request(
        &self,
        service: &str,
        id: Option<&str>,
        body: impl AsRef<[u8]>,
        kind: Kind,
    ) -> Result<Reply, RequestError> {
        let request = Request { id: id.map(str::to_owned), body: body.as_ref().to_vec().into(), kind };
        self.host.request(self.token.reveal(), service, request).await
    }

    /// Returns the status of the service after all requests that were sent before.
    pub(crate) async fn status(&self, service: &str) -> Status {
        self.host.status(self.token.reveal(), service).await.expect("ada may observe")
    }

    /// Returns a copy of the virtual disk of a service, and the last transaction that it shows.
    pub(crate) async fn disk(&self, service: &str) -> Result<(Disk, Sequence), Denial> {
        let ada = self.host.authenticate(self.token.reveal()).expect("valid");
        self.host.disk_of(&ada, service).await
    }

    /// Fails over, as an operator's order.
    pub(crate) async fn fail_over(&self, service: &str) -> Status {
        self.try_fail_over(service).await.expect("ada may operate")
    }

    /// Does the same on a disk that may fail.
    pub(crate) async fn try_fail_over(&self, service: &str) -> Result<Status, RequestError> {
        self.host.fail_over(self.token.reveal(), service).await
    }

    /// Replaces the workload of a service by a guest from its bytes.
    pub(crate) async fn replace(&self, service: &str, guest: &[u8]) -> Result<Replaced, ReplaceError> {
        let workload = load("inline", guest, &LoadLimits::default()).expect("the loader takes it");
        let program = self.host.compile(workload).await.expect("it compiles");
        let ada = self.host.authenticate(self.token.reveal()).expect("valid");
        self.host.replace_workload(&ada, service, program).await
    }

    pub(crate) async fn snapshot(&self, service: &str) -> Status {
        self.host.snapshot(self.token.reveal(), service).await.expect("ada may operate")
    }

    /// Does the same on a disk that may fail.
    pub(crate) async fn try_snapshot(&self, service: &str) -> Result<Status, RequestError> {
        self.host.snapshot(self.token.reveal(), service).await
    }

    /// Returns the calls in doubt of a service.
    pub(crate) async fn doubts(&self, service: &str) -> Vec<Doubt> {
        let ada = self.host.authenticate(self.token.reveal()).expect("valid");
        self.host.doubts(&ada, service).await.expect("ada may observe")
    }

    /// Settles a call in doubt.
    pub(crate) async fn settle(
        &self,
        service: &str,
        id: &str,
        index: u32,
        settlement: Settlement,
    ) -> Result<(), SettleError> {
        let ada = self.host.authenticate(self.token.reveal()).expect("valid");
        self.host.settle_doubt(&ada, service, None, id.to_owned(), index, settlement).await.expect("ada may operate")
    }

    /// Returns all events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().expect("no test panics in here").clone()
    }

    /// Returns the failovers so far.
    pub(crate) fn failovers(&self) -> Vec<Failover> {
        let failover = |event| if let Event::Failover(failover) = event { Some(failover) } else { None };
        self.events().into_iter().filter_map(failover).collect()
    }
}

/// Creates a name from a valid text.
pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// Returns the text of an `ok`, or panics with the actual result.
#[track_caller]
pub(crate) fn ok(result: &Result<Reply, RequestError>) -> &str {
    match result {
        Ok(Reply { answer: Answer::Ok(bytes), .. }) => std::str::from_utf8(bytes).expect("text"),
        other => panic!("not ok: {other:?}"),
    }
}

/// Returns the cause of a `failed`, or panics with the actual result.
#[track_caller]
pub(crate) fn cause(result: &Result<Reply, RequestError>) -> String {
    match result {
        Ok(Reply { answer: Answer::Failed(cause), .. }) => cause.to_string(),
        other => panic!("not failed: {other:?}"),
    }
}
