//! A host: one engine, one fleet, the users, and the services that run on them.
//!
//! [`Host::request`] is the door that every request comes through, from the command line, a simulation or a network:
//! it authenticates and authorises before a byte of the request reaches a service's queue.

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
use crate::journal::MemoryJournal;
use crate::monitor::Admission;
use crate::scratch::ProgramError;
use crate::service::{
    LaunchError, Ordered, Pending, Service, ServiceContext, ServiceHandle, ServiceSpec, SnapshotWriterTask, Status,
};
use attempts::AwaitedServices;
use lifeboat_api::access::Grant;
use lifeboat_api::clock::Clock;
use lifeboat_api::event::EventSink;
use lifeboat_api::name::Name;
use lifeboat_api::text::chain;
use lifeboat_api::transaction::{
    BODY_BYTES_MAX, Denial, Kind, Reply, Request, RequestError, check_id, check_id_length,
};
use lifeboat_vm::engine::{Engine, EngineError, PoolLimits, Program, joined};
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

/// What a host is made of.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// The machines of its fleet.
    pub machines: Vec<Machine>,
    /// Linear memory of the largest size that any service may have, in bytes.
    pub largest_memory_bytes: u64,
    /// Linear memories that any workload may have.
    pub memories_max: u64,
    /// Stores beyond those of the VMs.
    pub maintenance_stores: u32,
    /// Fuel for each instantiation, snapshot or restore.
    pub maintenance_fuel: u64,
    /// Time for each of them.
    pub maintenance_deadline: Duration,
    /// The longest transaction or query, in bytes.
    pub body_bytes_max: usize,
}

impl HostConfig {
    /// The usual limits, for `machines` and sizes of up to `largest_memory_bytes`.
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
        }
    }
}

/// What a service is that runs.
struct Running {
    handle: ServiceHandle,
    /// The task that keeps a durable service's snapshots. It ends when what it does is done, with why the last one was not
    /// written, if so.
    snapshot_writer: Option<JoinHandle<Option<String>>>,
}

impl Running {
    /// Waits until what keeps its snapshots has ended, after its task has. Says why the last one was not written, if so.
    async fn end_snapshot_writer(self) -> Option<String> {
        // A panic of it was printed.
        self.snapshot_writer?.await.unwrap_or_else(|_| Some("what writes its snapshots failed".into()))
    }
}

/// Runs services for users.
pub struct Host {
    engine: Arc<Engine>,
    context: ServiceContext,
    authority: Arc<RwLock<Authority>>,
    services: RwLock<Registry<Running>>,
    /// Of a host with a data directory.
    data: Option<Arc<DataDirectory>>,
    /// Taken by whatever begins or ends a durable service.
    name_locks: NameLocks,
    programs: Programs,
    /// Services for which more attempts are to be made.
    awaited: AwaitedServices,
    body_bytes_max: usize,
    /// Services are being ended, for good.
    is_stopping: watch::Sender<bool>,
    /// Asked before a service is created.
    admission: Admission,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl Host {
    /// Sets up a host without users or services. Every event of its services goes to `events`, every transaction gets
    /// its time from `clock`.
    ///
    /// # Errors
    /// [`EngineError::SetUp`].
    pub fn new(config: HostConfig, clock: Arc<dyn Clock>, events: EventSink) -> Result<Self, EngineError> {
        let fleet = Fleet::new(config.machines, config.maintenance_stores);
        let engine = Arc::new(Engine::new(PoolLimits {
            stores: fleet.slots().saturating_add(config.maintenance_stores.max(1)),
            memories: config.memories_max,
            memory_bytes: config.largest_memory_bytes,
        })?);
        let maintenance = Maintenance {
            fuel: config.maintenance_fuel,
            deadline: config.maintenance_deadline,
            memory_bytes: engine.slot_bytes(),
        };
        Ok(Self {
            engine,
            context: ServiceContext { fleet, clock, events, maintenance, spinning: Arc::new(Semaphore::new(1)) },
            authority: Arc::default(),
            services: RwLock::default(),
            data: None,
            name_locks: NameLocks::default(),
            programs: Programs::default(),
            body_bytes_max: config.body_bytes_max,
            awaited: AwaitedServices::default(),
            is_stopping: watch::Sender::new(false),
            admission: Admission::default(),
        })
    }

    /// The same host, which creates a service only if `admission` does not refuse it.
    #[must_use]
    pub fn with_admission(mut self, admission: Admission) -> Self {
        self.admission = admission;
        self
    }

    /// The users, to change them. Requests wait while the guard is held.
    pub fn authority(&self) -> RwLockWriteGuard<'_, Authority> {
        self.authority.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The users, for [`Accounts`](crate::auth::Accounts) that keep them on the disk.
    #[must_use]
    pub fn shared_authority(&self) -> Arc<RwLock<Authority>> {
        Arc::clone(&self.authority)
    }

    /// Compiles `workload`, unless a program of the same content is in use or being compiled already.
    ///
    /// # Errors
    /// As [`Engine::compile`].
    pub async fn compile(&self, workload: Workload) -> Result<Arc<Program>, EngineError> {
        let engine = Arc::clone(&self.engine);
        self.made(workload, Purpose::Start, |workload| async move { engine.compile(workload).await }).await
    }

    /// Loads a workload that is deployed, when it is its turn. Small ones wait for no large one.
    ///
    /// # Errors
    /// [`EngineError::Load`], and [`EngineError::CompilerBusy`].
    pub async fn load_deployed(&self, name: &str, bytes: bytes::Bytes) -> Result<Workload, EngineError> {
        self.engine.load_deployed(name, bytes).await
    }

    /// As [`Host::compile`], for a workload that is deployed, which waits less.
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
            // Another one was to read it from the disk.
            ProgramError::Data(error) => EngineError::Compile { name, reason: chain(error) },
        })
    }

    /// How many workloads were compiled.
    #[doc(hidden)]
    #[must_use]
    pub fn compiled(&self) -> u64 {
        self.engine.compiled()
    }

    /// Waits until the host takes on something new.
    pub async fn admitted(&self) {
        self.admission.relieved().await;
    }

    /// Creates a service, whose history is kept in memory, and its first VM.
    ///
    /// # Errors
    /// Nothing was created; see [`LaunchError`].
    pub async fn create_service(&self, spec: ServiceSpec) -> Result<(), LaunchError> {
        self.admission.check()?;
        let place = self.begin(&spec.name)?;
        self.check_sizes(&spec)?;
        let queue_max = spec.queue_max;
        let journal = Box::new(MemoryJournal::default());
        let service = self.on_guests(Service::launch(spec, self.context.clone(), journal)).await?;
        place.run(service, queue_max, None);
        Ok(())
    }

    /// Begins to create a service or to bring one back.
    ///
    /// # Errors
    /// [`LaunchError::Exists`]: it runs, or is being started or stopped.
    fn begin(&self, name: &Name) -> Result<Place<'_>, LaunchError> {
        self.registry().begin(name).map_err(|Owned| LaunchError::Exists { name: name.clone() })?;
        Ok(Place { host: self, name: Some(name.clone()) })
    }

    /// Whether the fleet has room for the sizes of a service.
    fn check_sizes(&self, spec: &ServiceSpec) -> Result<(), LaunchError> {
        let largest_bytes = self.engine.largest_bytes();
        if let Some(size) = spec.sizes.iter().chain([&spec.size]).find(|size| size.memory_bytes > largest_bytes) {
            return Err(LaunchError::SizeTooLarge { size: size.name.clone(), bytes: size.memory_bytes, largest_bytes });
        }
        Ok(())
    }

    fn registry(&self) -> RwLockWriteGuard<'_, Registry<Running>> {
        self.services.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> RwLockReadGuard<'_, Registry<Running>> {
        self.services.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs something on the guests' threads: a start function may run for long.
    async fn on_guests<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        joined(self.engine.spawn(future)).await
    }

    /// Finds out whose token this is.
    ///
    /// # Errors
    /// [`Denial::NotAuthenticated`].
    pub fn authenticate(&self, token: &str) -> Result<Identity, Denial> {
        self.authenticate_hash(&TokenHash::of(token))
    }

    /// The same for a token whose hash is known already.
    ///
    /// # Errors
    /// As [`Host::authenticate`].
    pub fn authenticate_hash(&self, token: &TokenHash) -> Result<Identity, Denial> {
        let now = self.context.clock.read();
        self.authority.read().unwrap_or_else(PoisonError::into_inner).authenticate_hash(token, now)
    }

    /// Whether a request of `user` to a service would find room in its queue now, with some to spare. True if it does not
    /// run: the request is denied for that.
    #[must_use]
    pub fn has_queue_room(&self, service: &str, user: &Name) -> bool {
        self.look().get(service).is_none_or(|running| running.handle.has_room(user))
    }

    /// How many requests and orders wait in the queue of a service; none if it does not run. It does not wait for it.
    #[must_use]
    pub fn queue_length(&self, service: &str) -> Option<usize> {
        self.look().get(service).map(|running| running.handle.queue_length())
    }

    /// How many requests and orders wait in the queue of each service that runs, by name. It waits for none of them.
    #[must_use]
    pub fn queue_lengths(&self) -> BTreeMap<Name, usize> {
        self.look().running().map(|(name, running)| (name.clone(), running.handle.queue_length())).collect()
    }

    /// Has a request executed for the user whose token it is, and waits for its answer. Dropping the future does not
    /// take the request back.
    ///
    /// # Errors
    /// [`RequestError::Denied`]: it had no effect. [`RequestError::OutcomeUnknown`]: whether it had is not known.
    pub async fn request(&self, token: &str, service: &str, request: Request) -> Result<Reply, RequestError> {
        self.request_as(&self.authenticate(token)?, service, request).await
    }

    /// The same for a user who was authenticated before.
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

    /// The same without waiting for the answer: the request stands in the service's queue.
    ///
    /// # Errors
    /// [`Denial`]: it does not, and never reaches the guest.
    pub fn begin_as(&self, identity: &Identity, service: &str, request: Request) -> Result<Pending, Denial> {
        self.begin_within(identity, service, request, None)
    }

    /// The same, held to the budgets of an account: the request is executed only while its largest possible answer fits
    /// them, else it is denied with [`Denial::NoMemory`].
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
            // The service knows whether it has an answer to one that would be none today.
            (Some(id), Kind::Transaction) => check_id_length(id)?,
            (None, _) => {}
        }
        handle.request(caller(identity), request, account)
    }

    /// The kept answer to a transaction of this user, once all that was sent to the service before is done. None if
    /// there is none: it was never sent, was denied, or is beyond the deduplication window.
    ///
    /// # Errors
    /// Without the grant to transact; if there is no such service; if the id is too old to tell; or if the service has
    /// stopped.
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

    /// Tells how a service is, after all that was sent before.
    ///
    /// # Errors
    /// Without the grant to observe, or if the service's task has ended.
    pub async fn status(&self, token: &str, service: &str) -> Result<Status, Denial> {
        self.status_as(&self.authenticate(token)?, service).await
    }

    /// The same for a user who was authenticated before.
    ///
    /// # Errors
    /// As [`Host::status`].
    pub async fn status_as(&self, by: &Identity, service: &str) -> Result<Status, Denial> {
        self.enter(by, service, Grant::Observe)?.status().await
    }

    /// Drops the requests of `user` that wait in the queue of a service, or those with an id. Returns how many: they are
    /// denied, and were not executed. What is being executed is not dropped.
    ///
    /// # Errors
    /// Without the grant to operate, or if there is no such service.
    pub fn drop_queued(&self, by: &Identity, service: &str, user: &Name, id: Option<&str>) -> Result<usize, Denial> {
        Ok(self.enter(by, service, Grant::Operate)?.drop_queued(user, id))
    }

    /// Makes a service fail over now. Returns how it is afterwards.
    ///
    /// # Errors
    /// Without the grant to operate, or if the service's task has ended.
    pub async fn fail_over(&self, token: &str, service: &str) -> Result<Status, RequestError> {
        self.fail_over_as(&self.authenticate(token)?, service).await
    }

    /// The same for a user who was authenticated before.
    ///
    /// # Errors
    /// As [`Host::fail_over`].
    pub async fn fail_over_as(&self, by: &Identity, service: &str) -> Result<Status, RequestError> {
        self.order_fail_over(by, service).await.map(|(status, _)| status)
    }

    /// The same, with the VM in which the service was when it was its turn.
    ///
    /// # Errors
    /// As [`Host::fail_over`].
    pub async fn order_fail_over(&self, by: &Identity, service: &str) -> Result<Ordered, RequestError> {
        self.enter(by, service, Grant::Operate)?.fail_over(by.user.clone()).await
    }

    /// Makes a service take a snapshot now. Returns how it is afterwards.
    ///
    /// # Errors
    /// Without the grant to operate, or if the service's task has ended.
    pub async fn snapshot(&self, token: &str, service: &str) -> Result<Status, RequestError> {
        self.snapshot_as(&self.authenticate(token)?, service).await
    }

    /// The same for a user who was authenticated before.
    ///
    /// # Errors
    /// As [`Host::snapshot`].
    pub async fn snapshot_as(&self, by: &Identity, service: &str) -> Result<Status, RequestError> {
        self.enter(by, service, Grant::Operate)?.snapshot().await
    }

    /// Authorises, and only then looks for the service: who has no grant does not learn whether there is one.
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

/// The place of a service that is being created or brought back. Dropped, the service is as it was before.
#[must_use]
struct Place<'a> {
    host: &'a Host,
    /// None once the service is as it is to be.
    name: Option<Name>,
}

impl Place<'_> {
    /// Lets requests in to the service; `snapshot_writer` keeps the snapshots of a durable one.
    fn run(mut self, service: Service, queue_max: usize, snapshot_writer: Option<SnapshotWriterTask>) {
        let engine = &self.host.engine;
        let snapshot_writer = snapshot_writer.map(|snapshot_writer| engine.spawn(snapshot_writer));
        let (handle, task) = service.start(queue_max);
        engine.spawn(task);
        if let Some(name) = self.name.take() {
            self.host.registry().run(&name, Running { handle, snapshot_writer });
        }
    }

    /// It could not be brought back.
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

/// As whom an authenticated user sends requests.
fn caller(identity: &Identity) -> Caller {
    Caller { user: identity.user.clone(), incarnation: identity.incarnation }
}
