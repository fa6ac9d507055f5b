//! A host: one engine, one fleet, the users, and the services that run on them.
//!
//! [`Host::request`] is the entry point of every request, from the command line, a simulation or a network. It
//! authenticates and authorises the request before any byte of it reaches a service's queue.

mod attempts;
mod durable;
mod name_locks;
mod operate;
mod programs;
mod registry;

pub use attempts::{PROCESS_ATTEMPTS_MAX, PROCESS_PAUSE};
pub use durable::{Ended, NewService};

use crate::answers::Caller;
use crate::auth::{Authority, Identity};
use crate::budget::Account;
use crate::credential::TokenHash;
use crate::data::DataDirectory;
use crate::fleet::{Fleet, MAINTENANCE_STORES, Machine};
use crate::journal::{Log, MemoryLog};
use crate::monitor::Admission;
use crate::network::{Client, NetworkSettings, ServiceCredentials, ServiceNetwork, system_client};
use crate::scratch::ProgramError;
use crate::service::{
    LaunchError, Ordered, Pending, Service, ServiceContext, ServiceHandle, ServiceSpec, SnapshotWriterTask, Status,
};
use attempts::AwaitedServices;
use lifeboat_api::access::Grant;
use lifeboat_api::clock::Clock;
use lifeboat_api::event::EventSink;
use lifeboat_api::name::Name;
use lifeboat_api::size::{DISK_BYTES_MAX, DISK_BYTES_MIN};
use lifeboat_api::text::chain;
use lifeboat_api::transaction::{
    BODY_BYTES_MAX, Denial, Kind, Reply, Request, RequestError, check_id, check_id_length,
};
use lifeboat_vm::engine::{CodeCache, Engine, EngineError, PoolLimits, Program, joined};
use lifeboat_vm::network::RuntimeTime;
use lifeboat_vm::rehydrate::{MAINTENANCE_DEADLINE, MAINTENANCE_FUEL, Maintenance};
use lifeboat_vm::workload::{MEMORIES_MAX, Workload};
use name_locks::NameLocks;
use programs::{Programs, Purpose};
use registry::{Owned, Registry, Rest};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// The configuration of a host.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// The machines of the host's fleet.
    pub machines: Vec<Machine>,
    /// The linear memory of the largest size that any service may have, in bytes.
    pub largest_memory_bytes: u64,
    /// The most linear memories that a workload may have.
    pub memories_max: u64,
    /// The number of stores beyond those of the VMs.
    pub maintenance_stores: u32,
    /// The fuel for each instantiation, snapshot or restore.
    pub maintenance_fuel: u64,
    /// The time for each instantiation, snapshot or restore.
    pub maintenance_deadline: Duration,
    /// The longest body of a transaction or query, in bytes.
    pub body_bytes_max: usize,
    /// The cache of compiled workloads, if there is one.
    pub code_cache: Option<Arc<CodeCache>>,
}

impl HostConfig {
    /// Returns the default limits, for `machines` and sizes of up to `largest_memory_bytes`.
    #[must_use]
    pub fn new(machines: Vec<Machine>, largest_memory_bytes: u64) -> Self {
        Self {
            machines,
            largest_memory_bytes,
            memories_max: MEMORIES_MAX,
            maintenance_stores: MAINTENANCE_STORES,
            maintenance_fuel: MAINTENANCE_FUEL,
            maintenance_deadline: MAINTENANCE_DEADLINE,
            body_bytes_max: BODY_BYTES_MAX,
            code_cache: None,
        }
    }
}

struct Running {
    handle: ServiceHandle,
    /// The task that writes a durable service's snapshots. It ends once its work is done, and returns why the last
    /// snapshot was not written, if it was not.
    snapshot_writer: Option<JoinHandle<Option<String>>>,
}

impl Running {
    /// Waits for the end of the snapshot writer, after the end of the service's task. Returns why the last snapshot was
    /// not written, if it was not.
    async fn end_snapshot_writer(self) -> Option<String> {
        // A panic of the task was printed already.
        self.snapshot_writer?.await.unwrap_or_else(|_| Some("the writer of its snapshots failed".into()))
    }
}

/// Runs services for users.
pub struct Host {
    engine: Arc<Engine>,
    context: ServiceContext,
    authority: Arc<RwLock<Authority>>,
    services: RwLock<Registry<Running>>,
    /// The data directory, if the host has one.
    data: Option<Arc<DataDirectory>>,
    /// Locked by every operation that begins or ends a durable service.
    name_locks: NameLocks,
    programs: Programs,
    /// The services that the host will try again to bring back.
    awaited: AwaitedServices,
    body_bytes_max: usize,
    /// Whether all services are being ended for good.
    is_stopping: watch::Sender<bool>,
    /// Checked before a service is created.
    admission: Admission,
    /// Makes the calls of all services.
    client: Client,
    /// The secrets and authorities of services, whether they exist or not.
    credentials: BTreeMap<Name, ServiceCredentials>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl Host {
    /// Sets up a host without users or services. All events of its services go to `events`, and every transaction gets
    /// its time from `clock`. Their calls to the network are made on the current runtime.
    ///
    /// # Errors
    /// [`EngineError::SetUp`].
    pub fn new(config: HostConfig, clock: Arc<dyn Clock>, events: EventSink) -> Result<Self, EngineError> {
        let fleet = Fleet::new(config.machines, config.maintenance_stores);
        let engine = Engine::new(PoolLimits {
            stores: fleet.slots().saturating_add(config.maintenance_stores.max(1)),
            memories: config.memories_max,
            memory_bytes: config.largest_memory_bytes,
        })?;
        let engine = Arc::new(engine.with_cache(config.code_cache));
        let maintenance = Maintenance {
            fuel: config.maintenance_fuel,
            deadline: config.maintenance_deadline,
            memory_bytes: engine.slot_bytes(),
        };
        Ok(Self {
            engine,
            context: ServiceContext {
                fleet,
                clock,
                events,
                maintenance,
                spinning: Arc::new(Semaphore::new(1)),
                trials: Arc::new(Semaphore::new(1)),
                io: tokio::runtime::Handle::try_current().ok(),
                time: Arc::new(RuntimeTime::default()),
            },
            authority: Arc::default(),
            services: RwLock::default(),
            data: None,
            name_locks: NameLocks::default(),
            programs: Programs::default(),
            body_bytes_max: config.body_bytes_max,
            awaited: AwaitedServices::default(),
            is_stopping: watch::Sender::new(false),
            admission: Admission::default(),
            client: system_client(),
            credentials: BTreeMap::new(),
        })
    }

    /// Returns this host with an `admission` that may refuse new services.
    #[must_use]
    pub fn with_admission(mut self, admission: Admission) -> Self {
        self.admission = admission;
        self
    }

    /// Returns this host with a `client` that makes the calls of its services. The default one asks the operating
    /// system for addresses and certificate authorities.
    #[must_use]
    pub fn with_client(mut self, client: Client) -> Self {
        self.client = client;
        self
    }

    /// Returns this host with the secrets and certificate authorities of services, by name. They are stored nowhere,
    /// and apply to every service of that name that may call somebody.
    #[must_use]
    pub fn with_credentials(mut self, credentials: BTreeMap<Name, ServiceCredentials>) -> Self {
        self.credentials = credentials;
        self
    }

    /// Returns the network of a service with these settings.
    #[must_use]
    pub fn network_of(&self, service: &Name, settings: &NetworkSettings) -> ServiceNetwork {
        let credentials = self.credentials.get(service).cloned().unwrap_or_default();
        ServiceNetwork::new(&self.client, settings, credentials)
    }

    /// Returns the users for a change. Requests wait while the guard is held.
    pub fn authority(&self) -> RwLockWriteGuard<'_, Authority> {
        self.authority.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the users, for [`Accounts`](crate::auth::Accounts) that store them on disk.
    #[must_use]
    pub fn shared_authority(&self) -> Arc<RwLock<Authority>> {
        Arc::clone(&self.authority)
    }

    /// Compiles `workload`, unless a program of the same content is in use or already being compiled.
    ///
    /// # Errors
    /// As [`Engine::compile`].
    pub async fn compile(&self, workload: Workload) -> Result<Arc<Program>, EngineError> {
        let engine = Arc::clone(&self.engine);
        self.made(workload, Purpose::Start, |workload| async move { engine.compile(workload).await }).await
    }

    /// Loads a deployed workload, in its turn. Small workloads do not wait for large ones.
    ///
    /// # Errors
    /// [`EngineError::Load`], and [`EngineError::CompilerBusy`].
    pub async fn load_deployed(&self, name: &str, bytes: bytes::Bytes) -> Result<Workload, EngineError> {
        self.engine.load_deployed(name, bytes).await
    }

    /// Compiles a deployed workload as [`Host::compile`] does, with a shorter wait.
    async fn compile_deployed(&self, workload: Workload) -> Result<Arc<Program>, EngineError> {
        let engine = Arc::clone(&self.engine);
        self.made(workload, Purpose::Deploy, |workload| async move { engine.compile_deployed(workload).await }).await
    }

    async fn made<F>(
        &self,
        workload: Workload,
        purpose: Purpose,
        make: impl FnOnce(Workload) -> F,
    ) -> Result<Arc<Program>, EngineError>
    where
        F: Future<Output = Result<Arc<Program>, EngineError>> + Send + 'static,
    {
        let (hash, name) = (workload.hash, workload.name.clone());
        let made = self.programs.get(hash, purpose, make(workload)).await;
        made.map_err(|error| match &*error {
            ProgramError::Engine(error) => error.clone(),
            ProgramError::Load(error) => error.clone().into(),
            // Another caller's attempt was to read the workload from the disk.
            ProgramError::Data(error) => EngineError::Compile { name, reason: chain(error) },
        })
    }

    /// Returns how many workloads were compiled.
    #[doc(hidden)]
    #[must_use]
    pub fn compiled(&self) -> u64 {
        self.engine.compiled()
    }

    /// Waits until the host admits new work.
    pub async fn admitted(&self) {
        self.admission.relieved().await;
    }

    /// Creates a service with its history in memory, and its first VM.
    ///
    /// # Errors
    /// [`LaunchError`]: nothing was created.
    pub async fn create_service(&self, spec: ServiceSpec) -> Result<(), LaunchError> {
        self.create_service_with(spec, Box::new(MemoryLog::default())).await
    }

    /// Creates a service whose records go to `log`, which is empty, and its first VM.
    ///
    /// # Errors
    /// [`LaunchError`]: nothing was created.
    pub async fn create_service_with(&self, spec: ServiceSpec, log: Box<dyn Log>) -> Result<(), LaunchError> {
        self.admission.check()?;
        let place = self.begin(&spec.name)?;
        self.check_sizes(&spec)?;
        let queue_max = spec.queue_max;
        let service = self.on_guests(Service::launch(spec, self.context.clone(), log)).await?;
        place.run(service, queue_max, None);
        Ok(())
    }

    /// Begins to create a service or to bring one back.
    ///
    /// # Errors
    /// [`LaunchError::Exists`]: the service runs, or is being started or stopped.
    fn begin(&self, name: &Name) -> Result<Place<'_>, LaunchError> {
        self.registry().begin(name).map_err(|Owned| LaunchError::Exists { name: name.clone() })?;
        Ok(Place { host: self, name: Some(name.clone()) })
    }

    /// Checks that the engine's slots are large enough for the sizes of a service.
    fn check_sizes(&self, spec: &ServiceSpec) -> Result<(), LaunchError> {
        let largest_bytes = self.engine.largest_bytes();
        if let Some(size) = spec.sizes.iter().chain([&spec.size]).find(|size| size.memory_bytes > largest_bytes) {
            return Err(LaunchError::SizeTooLarge { size: size.name.clone(), bytes: size.memory_bytes, largest_bytes });
        }
        let disks = DISK_BYTES_MIN..=DISK_BYTES_MAX;
        if let Some(size) = spec.sizes.iter().chain([&spec.size]).find(|size| !disks.contains(&size.disk_bytes)) {
            return Err(LaunchError::Disk { size: size.name.clone(), bytes: size.disk_bytes });
        }
        Ok(())
    }

    fn registry(&self) -> RwLockWriteGuard<'_, Registry<Running>> {
        self.services.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> RwLockReadGuard<'_, Registry<Running>> {
        self.services.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a future on the guests' threads, because a start function may run for long.
    async fn on_guests<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        joined(self.engine.spawn(future)).await
    }

    /// Finds the user that a token belongs to.
    ///
    /// # Errors
    /// [`Denial::NotAuthenticated`].
    pub fn authenticate(&self, token: &str) -> Result<Identity, Denial> {
        self.authenticate_hash(&TokenHash::of(token))
    }

    /// Finds the user that a token belongs to, by the token's hash.
    ///
    /// # Errors
    /// As [`Host::authenticate`].
    pub fn authenticate_hash(&self, token: &TokenHash) -> Result<Identity, Denial> {
        let now = self.context.clock.read();
        self.authority.read().unwrap_or_else(PoisonError::into_inner).authenticate_hash(token, now)
    }

    /// Returns whether a service's queue now has room, with some to spare, for a request of `user`. Returns true if the
    /// service does not run: its requests are denied for that reason instead.
    #[must_use]
    pub fn has_queue_room(&self, service: &str, user: &Name) -> bool {
        self.look().get(service).is_none_or(|running| running.handle.has_room(user))
    }

    /// Returns how many requests and orders wait in the queue of a service, or none if the service does not run. Does
    /// not wait for the service.
    #[must_use]
    pub fn queue_length(&self, service: &str) -> Option<usize> {
        self.look().get(service).map(|running| running.handle.queue_length())
    }

    /// Returns how many requests and orders wait in the queue of each running service. Waits for no service.
    #[must_use]
    pub fn queue_lengths(&self) -> BTreeMap<Name, usize> {
        self.look().running().map(|(name, running)| (name.clone(), running.handle.queue_length())).collect()
    }

    /// Executes a request of the user that the token belongs to, and waits for the answer. Dropping the future does not
    /// cancel the request.
    ///
    /// # Errors
    /// [`RequestError::Denied`]: the request had no effect. [`RequestError::OutcomeUnknown`]: the request may have had
    /// an effect.
    pub async fn request(&self, token: &str, service: &str, request: Request) -> Result<Reply, RequestError> {
        self.request_as(&self.authenticate(token)?, service, request).await
    }

    /// Executes a request of an authenticated user, and waits for the answer.
    ///
    /// # Errors
    /// As [`Host::request`].
    pub async fn request_as(
        &self,
        identity: &Identity,
        service: &str,
        request: Request,
    ) -> Result<Reply, RequestError> {
        self.begin_as(identity, service, request)?.await
    }

    /// Puts a request of an authenticated user into the service's queue, without waiting for the answer.
    ///
    /// # Errors
    /// [`Denial`]: the request is not in the queue, and never reaches the guest.
    pub fn begin_as(&self, identity: &Identity, service: &str, request: Request) -> Result<Pending, Denial> {
        self.begin_within(identity, service, request, None)
    }

    /// Puts a request into the service's queue, within the budgets of an account. The request is executed only if its
    /// largest possible answer fits the budgets. Otherwise it is denied with [`Denial::NoMemory`].
    pub fn begin_within(
        &self,
        identity: &Identity,
        service: &str,
        request: Request,
        account: Option<Arc<Account>>,
    ) -> Result<Pending, Denial> {
        let handle = self.enter(identity, service, Grant::Transact)?;
        if request.body.len() > self.body_bytes_max {
            return Err(Denial::BodyTooLarge { bytes: request.body.len(), limit_bytes: self.body_bytes_max });
        }
        match (&request.id, request.kind) {
            (Some(id), Kind::Query) => check_id(id)?,
            // The service may have an answer to an id that would be invalid today.
            (Some(id), Kind::Transaction) => check_id_length(id)?,
            (None, _) => {}
        }
        handle.request(caller(identity), request, account)
    }

    /// Finds the retained answer to a transaction of this user, after all earlier requests to the service. Returns none
    /// if the transaction was never sent, was denied, or is beyond the deduplication window.
    ///
    /// # Errors
    /// Without the grant to transact; if there is no such service; if the id is too old to be certain; or if the
    /// service has stopped.
    pub async fn find_transaction(
        &self,
        by: &Identity,
        service: &str,
        id: &str,
    ) -> Result<Option<Reply>, RequestError> {
        let handle = self.enter(by, service, Grant::Transact)?;
        check_id_length(id)?;
        handle.find(caller(by), id.to_owned()).await
    }

    /// Returns the status of a service, after all earlier requests to it.
    ///
    /// # Errors
    /// Without the grant to observe, or if the service's task has ended.
    pub async fn status(&self, token: &str, service: &str) -> Result<Status, Denial> {
        self.status_as(&self.authenticate(token)?, service).await
    }

    /// Returns the status of a service to an authenticated user.
    ///
    /// # Errors
    /// As [`Host::status`].
    pub(crate) async fn status_as(&self, by: &Identity, service: &str) -> Result<Status, Denial> {
        self.enter(by, service, Grant::Observe)?.status().await
    }

    /// Drops the waiting requests of `user` from the queue of a service: all of them, or those with the given id.
    /// Returns how many were dropped. They are denied, and were not executed. A request in execution is not dropped.
    ///
    /// # Errors
    /// Without the grant to operate, or if there is no such service.
    pub fn drop_queued(&self, by: &Identity, service: &str, user: &Name, id: Option<&str>) -> Result<usize, Denial> {
        Ok(self.enter(by, service, Grant::Operate)?.drop_queued(user, id))
    }

    /// Orders a failover of a service, and returns the status after it.
    ///
    /// # Errors
    /// Without the grant to operate, or if the service's task has ended.
    pub async fn fail_over(&self, token: &str, service: &str) -> Result<Status, RequestError> {
        self.fail_over_as(&self.authenticate(token)?, service).await
    }

    /// Orders a failover for an authenticated user, and returns the status after it.
    ///
    /// # Errors
    /// As [`Host::fail_over`].
    pub(crate) async fn fail_over_as(&self, by: &Identity, service: &str) -> Result<Status, RequestError> {
        Ok(self.order_fail_over(by, service).await?.status)
    }

    /// Orders a failover for an authenticated user. Returns the status after it, and the VM that served when the order
    /// was carried out.
    ///
    /// # Errors
    /// As [`Host::fail_over`].
    pub async fn order_fail_over(&self, by: &Identity, service: &str) -> Result<Ordered, RequestError> {
        self.enter(by, service, Grant::Operate)?.fail_over(by.user.clone()).await
    }

    /// Orders a snapshot of a service, and returns the status after it.
    ///
    /// # Errors
    /// Without the grant to operate, or if the service's task has ended.
    pub async fn snapshot(&self, token: &str, service: &str) -> Result<Status, RequestError> {
        self.snapshot_as(&self.authenticate(token)?, service).await
    }

    /// Orders a snapshot for an authenticated user, and returns the status after it.
    ///
    /// # Errors
    /// As [`Host::snapshot`].
    pub(crate) async fn snapshot_as(&self, by: &Identity, service: &str) -> Result<Status, RequestError> {
        Ok(self.order_snapshot(by, service).await?.status)
    }

    /// Orders a snapshot for an authenticated user. Returns the status after it, and whether there is a snapshot with
    /// all that was executed before.
    ///
    /// # Errors
    /// As [`Host::snapshot`].
    pub async fn order_snapshot(&self, by: &Identity, service: &str) -> Result<Ordered, RequestError> {
        self.enter(by, service, Grant::Operate)?.snapshot().await
    }

    /// Authorises a request, and only then looks up the service. So a user without a grant does not learn whether the
    /// service exists.
    fn enter(&self, identity: &Identity, service: &str, grant: Grant) -> Result<ServiceHandle, Denial> {
        self.authorise(identity, service, grant)?;
        let services = self.look();
        if let Some(running) = services.get(service) {
            return Ok(running.handle.clone());
        }
        match services.resting(service) {
            Some((name, rest)) => Err(rest.denial(name)),
            None => Err(match Name::new(service) {
                Ok(service) if self.is_stopping() => {
                    Denial::Stopped { service, reason: "the host is being stopped".into() }
                }
                _ => Denial::NoService { service: service.to_owned() },
            }),
        }
    }
}

/// A registry entry of a service that is being created or brought back. Dropping it restores the service's earlier
/// state.
#[must_use]
struct Place<'a> {
    host: &'a Host,
    /// None once the service has its final state.
    name: Option<Name>,
}

impl Place<'_> {
    /// Lets requests in to the service. `snapshot_writer` writes the snapshots of a durable service.
    fn run(mut self, service: Service, queue_max: usize, snapshot_writer: Option<SnapshotWriterTask>) {
        let engine = &self.host.engine;
        let snapshot_writer = snapshot_writer.map(|snapshot_writer| engine.spawn(snapshot_writer));
        let (handle, task) = service.start(queue_max);
        engine.spawn(task);
        if let Some(name) = self.name.take() {
            self.host.registry().run(&name, Running { handle, snapshot_writer });
        }
    }

    /// Records why the service could not be brought back.
    fn rest(mut self, rest: Rest) {
        if let Some(name) = self.name.take() {
            self.host.registry().rest(&name, rest);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.host.registry().give_up(&name);
        }
    }
}

/// Returns the caller that an authenticated user's requests carry.
fn caller(identity: &Identity) -> Caller {
    Caller { user: identity.user.clone(), incarnation: identity.incarnation }
}
