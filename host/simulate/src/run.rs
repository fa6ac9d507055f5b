//! A seeded fleet of services under the traffic of its users, and the proof that nothing was lost.
//!
//! [`run`] plays a [`Scenario`]: it sets up a [`Host`] with users and services, and sends every request through the
//! entry point that a server uses. That is [`Host::request`]: authenticate, authorise, dedupe, admit, dispatch, meter,
//! fail over. It records the answers to the clients and reconciles them at the end: see `reconcile.rs`.
//!
//! **The same scenario and seed give the same report**, except for its `timings`. The clock is virtual, and ids,
//! secrets and tokens come from the seed. Requests are sent one at a time, and each is followed by a request for the
//! service's status, which waits until every resulting failover is over. The order over all services is therefore
//! fixed, and with it every choice of a machine and every unit of fuel. (A deadline is wall-clock time: a scenario in
//! which one passes depends on the speed of its machine.)
//!
//! Nothing is printed here: an [`Observer`] is notified of the progress.

#[cfg(test)]
mod tests;

use crate::model::Model;
use crate::reconcile::parcels::{self, Unacknowledged};
use crate::reconcile::{ClientRecord, Finding, FindingKind, Reconciled, RoomyVm, answer_after, reconcile};
use crate::report::{
    Failovers, Failure, Outcomes, PauseTimings, Peaks, Reconciliation, Report, RunTimings, ServiceReport,
};
use crate::scenario::{BuiltIn, OPERATOR, Scenario, ServicePlan};
use crate::traffic::{Outgoing, Stream, Traffic, bits, random};
use crate::webhook::Webhook;
use bytes::Bytes;
use lifeboat_api::access::Grant;
use lifeboat_api::clock::{Timestamp, VirtualClock};
use lifeboat_api::event::{Event, EventSink};
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::meter::{Resource, Usage};
use lifeboat_api::name::Name;
use lifeboat_api::size::Size;
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_api::transaction::{Answer, Kind, Outcome, Reply, Request, RequestError};
use lifeboat_host::answers::DeduplicationWindow;
use lifeboat_host::catalog::ServiceSettings;
use lifeboat_host::command_line::ProgramSettings;
use lifeboat_host::credential::Token;
use lifeboat_host::host::{Host, HostConfig};
use lifeboat_host::network::NetworkSettings;
use lifeboat_host::service::{LaunchError, ServiceSpec, Status};
use lifeboat_vm::engine::{EngineError, Program, load};
use lifeboat_vm::workload::LoadError;
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// The default seed of all random numbers.
pub const SEED_DEFAULT: u64 = 7;

/// The highest pace that may be requested, in transactions per second: far more than any host can play.
pub const PACE_MAX: u32 = 1_000_000;

/// The time at which a simulation begins: 2026-01-01T00:00:00Z.
const START: Timestamp = Timestamp(1_767_225_600_000_000_000);

/// The longest virtual time between two requests.
const BETWEEN_REQUESTS_MAX: Duration = Duration::from_millis(20);

/// The least linear memory of the pool's slots, in bytes. It gives the roomy VM enough room for a state that the
/// services compact again and again.
const ROOMY_MEMORY_BYTES_MIN: u64 = 256 * 1024 * 1024;

/// Follows a simulation while it runs. The methods are called from the task that polls [`run`]; they must not block for
/// long.
pub trait Observer {
    /// The workload of this service is about to be compiled, which takes some tenths of a second, and started.
    fn starting(&mut self, _service: &Name) {}

    /// All services run; `total` requests are expected, and a few repetitions in addition.
    fn started(&mut self, _services: &[ServiceView], _total: u64) {}

    /// An event of a service was reported.
    fn event(&mut self, _event: &Event) {}

    /// The service at this index answered the request number `done`.
    fn answered(&mut self, _services: &[ServiceView], _service: usize, _done: u64) {}

    /// All requests were answered, and the records of this service are about to be executed again.
    fn reconciling(&mut self, _service: &Name) {}
}

/// Ignores everything.
impl Observer for () {}

/// A service as an observer sees it.
#[derive(Debug, Clone)]
pub struct ServiceView {
    /// Its status after its last request.
    pub status: Status,
    /// The utilisation at which its resources fail their SLA.
    pub thresholds: Thresholds,
}

/// The options of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The seed of all random numbers.
    pub seed: u64,
    /// The number of transactions that are sent per second of real time, so that somebody can watch; without it, as
    /// many as the host can serve. The report does not depend on it.
    pub pace: Option<NonZeroU32>,
    /// Injects a fault on purpose, to show that the reconciliation detects it.
    #[doc(hidden)]
    pub fault: Option<Fault>,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: SEED_DEFAULT, pace: None, fault: None }
    }
}

/// Returns the time at which transaction `number`, counted from 1, is due at this pace.
fn due(number: u64, pace: NonZeroU32) -> Duration {
    let nanoseconds = u128::from(number - 1) * 1_000_000_000 / u128::from(pace.get());
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// A fault between a client and the host, at one transaction.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The transaction is acknowledged, and does not reach the host.
    DropOne,
    /// The transaction reaches the host twice, under two ids.
    DoubleOne,
}

/// An error that prevents a simulation from reaching its end.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SimulateError {
    /// The loader refused a workload.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The engine could not be set up, or a workload could not be compiled.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The fault could not be injected, so that the reconciliation would prove nothing.
    #[error(
        "no transaction of this scenario could suffer the fault; name a scenario whose guest answers transactions with \
         ok, and refuses an empty one (drop-one) or answers a repetition with ok (double-one)"
    )]
    NoFault,
    /// The webhook of a service could not be started.
    #[error("the webhook of service '{service}' cannot be started on 127.0.0.1: {error}")]
    Webhook {
        /// The name of the service.
        service: Name,
        /// The operating system's error.
        error: io::Error,
    },
    /// A service could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The host refused a request of the simulation's own operator.
    #[error("service '{service}' cannot be observed: {error}")]
    Observe {
        /// The name of the service.
        service: Name,
        /// The host's error.
        error: RequestError,
    },
}

/// Plays `scenario` to its end and reconciles the answers to its clients.
///
/// Needs a tokio runtime with I/O and time. Dropping the future ends the simulation and all of its services.
///
/// # Errors
/// [`SimulateError`]. A failed or lost transaction is not an error: the report contains it.
pub async fn run(scenario: &Scenario, options: Options, observer: &mut impl Observer) -> Result<Report, SimulateError> {
    let started = Instant::now();
    let mut stage = Stage::set(scenario, options, observer).await?;
    let start_ms = milliseconds_since(started);

    let serving = Instant::now();
    stage.play(observer).await?;
    stage.ask_queries(observer).await?;
    if stage.is_fault_missing || stage.fault.is_some() {
        return Err(SimulateError::NoFault);
    }
    let serve_ms = milliseconds_since(serving);

    let reconciling = Instant::now();
    let mut report = stage.reconcile(observer).await;
    report.timings = RunTimings { start_ms, serve_ms, reconcile_ms: milliseconds_since(reconciling) };
    Ok(report)
}

fn milliseconds_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The host with everything that acts on it.
struct Stage<'a> {
    scenario: &'a Scenario,
    options: Options,
    host: Host,
    clock: Arc<VirtualClock>,
    clock_random: ChaCha20Rng,
    /// The events since the observer was last notified.
    events: Arc<Mutex<Vec<Event>>>,
    operator: Token,
    /// The tokens, by the index of the user.
    tokens: Vec<Token>,
    programs: Vec<Arc<Program>>,
    secrets: Vec<[u8; 32]>,
    /// The servers that the services' requests reach, for services that have a network.
    webhooks: Vec<Option<Arc<Webhook>>>,
    views: Vec<ServiceView>,
    tallies: Vec<Tally>,
    largest_memory_bytes: u64,
    /// The fault that is still to be injected.
    fault: Option<PlannedFault>,
    /// Whether a fault could not be injected.
    is_fault_missing: bool,
}

/// A fault, and where it is injected.
#[derive(Debug, Clone, Copy)]
struct PlannedFault {
    fault: Fault,
    service: usize,
    /// The first transaction of the service that may suffer it.
    from: Sequence,
}

/// The most causes of failures and denials that a report distinguishes for a service.
const CAUSES_MAX: usize = 20;

/// The data about one service from the answers to its clients, its events and its meters.
#[derive(Default)]
struct Tally {
    requests: u64,
    outcomes: Outcomes,
    repeated: u64,
    sla_failures: u64,
    failovers: Failovers,
    pauses: Vec<Duration>,
    peaks: Peaks,
    failures: BTreeMap<(Outcome, String), u64>,
    acknowledged: Vec<ClientRecord>,
    /// The failed and denied transactions, if the service has a network.
    unacknowledged: Vec<Unacknowledged>,
    queries: Vec<ClientRecord>,
    queries_unanswered: u64,
}

impl<'a> Stage<'a> {
    /// Sets up the host, users and services.
    async fn set(
        scenario: &'a Scenario,
        options: Options,
        observer: &mut impl Observer,
    ) -> Result<Self, SimulateError> {
        let largest = scenario.sizes.iter().map(|size| size.memory_bytes).max().unwrap_or(0);
        let largest_memory_bytes = largest.max(ROOMY_MEMORY_BYTES_MIN);
        let clock = Arc::new(VirtualClock::new(START));
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let sink: EventSink = {
            let events = Arc::clone(&events);
            Arc::new(move |event| events.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone()))
        };
        let config = HostConfig::new(scenario.machines.clone(), largest_memory_bytes);
        let host = Host::new(config, Arc::clone(&clock) as _, sink).map_err(EngineError::of_configuration)?;
        let (operator, tokens) = admit_users(&host, scenario, options.seed);
        let mut stage = Self {
            scenario,
            options,
            host,
            clock,
            clock_random: random(options.seed, Stream::Clock),
            events,
            operator,
            tokens,
            programs: Vec::new(),
            secrets: Vec::new(),
            webhooks: Vec::new(),
            views: Vec::new(),
            tallies: Vec::new(),
            largest_memory_bytes,
            fault: options.fault.map(|fault| PlannedFault::new(fault, scenario)),
            is_fault_missing: false,
        };
        stage.launch_services(observer).await?;
        Ok(stage)
    }

    async fn launch_services(&mut self, observer: &mut impl Observer) -> Result<(), SimulateError> {
        let mut secrets = random(self.options.seed, Stream::Secrets);
        for (index, plan) in self.scenario.services.iter().enumerate() {
            observer.starting(&plan.name);
            let workload = load(plan.workload.name(), plan.workload.bytes())?;
            let program = self.host.compile(workload).await?;
            let secret = bits(&mut secrets);
            let settings = ServiceSettings {
                size: plan.size.name.clone(),
                sizes: self.scenario.sizes.iter().map(|size| Size::clone(size)).collect(),
                thresholds: plan.thresholds,
                deduplication_window: DeduplicationWindow::default(),
                failover: FailoverMode::Direct,
                network: NetworkSettings::default(),
                program: ProgramSettings::default(),
            };
            let mut spec =
                ServiceSpec::new(plan.name.clone(), Arc::clone(&program), &settings, secret, Epoch::default());
            let webhook = match plan.workload.built_in() {
                Some(BuiltIn::Courier) => Some(Arc::new(start_webhook(&plan.name).await?)),
                _ => None,
            };
            spec.network = webhook.as_ref().map(|webhook| webhook.network()).unwrap_or_default();
            self.host.create_service(spec).await?;
            self.programs.push(program);
            self.secrets.push(secret);
            self.webhooks.push(webhook);
            self.tallies.push(Tally::default());
            let status = self.status(index).await?;
            self.views.push(ServiceView { status, thresholds: plan.thresholds });
        }
        Ok(())
    }

    /// Sends every request, one at a time.
    async fn play(&mut self, observer: &mut impl Observer) -> Result<(), SimulateError> {
        self.report_events(observer);
        observer.started(&self.views, self.scenario.transactions());
        let begun = tokio::time::Instant::now();
        for (done, outgoing) in (1..).zip(Traffic::new(self.scenario, self.options.seed)) {
            if let Some(pace) = self.options.pace {
                tokio::time::sleep_until(begun + due(done, pace)).await;
            }
            let service = outgoing.service;
            self.send(outgoing).await;
            let every = self.scenario.services[service].fail_over_every;
            if every.is_some_and(|every| self.tallies[service].requests.is_multiple_of(every.get())) {
                let name = &self.scenario.services[service].name;
                let moved = self.host.fail_over(self.operator.reveal(), name).await;
                moved.map_err(|error| SimulateError::Observe { service: name.clone(), error })?;
            }
            self.look_at(service, observer).await?;
            observer.answered(&self.views, service, done);
        }
        Ok(())
    }

    async fn send(&mut self, outgoing: Outgoing) {
        let pause = self.clock_random.random_range(0..=nanoseconds(BETWEEN_REQUESTS_MAX));
        self.clock.advance(Duration::from_nanos(pause));
        let service = outgoing.service;
        let due = self
            .fault
            .filter(|planned| planned.service == service && self.views[service].status.sequence.next() >= planned.from);
        let injects = |fault| due.is_some_and(|planned| planned.fault == fault);
        if injects(Fault::DropOne) && self.drop_one(&outgoing).await {
            self.fault = None;
            return;
        }
        let Outgoing { user, id, body, .. } = outgoing;
        let answered = self.transact(service, user, id.clone(), body.clone()).await;
        let name = &self.scenario.users[user].name;
        if injects(Fault::DoubleOne) && matches!(&answered, Ok(Reply { answer: Answer::Ok(_), .. })) {
            // Only the client's own request counts.
            let again = self.transact(service, user, format!("{id}-again"), body.clone()).await;
            if matches!(again, Ok(Reply { answer: Answer::Ok(_), .. })) {
                self.fault = None;
            }
        }
        let tally = &mut self.tallies[service];
        tally.requests += 1;
        let is_acknowledged = matches!(&answered, Ok(reply) if reply.answer.is_kept());
        if !is_acknowledged && self.webhooks[service].is_some() {
            tally.unacknowledged.push(Unacknowledged { user: name.clone(), id, body: body.clone() });
        }
        match answered {
            Ok(reply) => {
                tally.outcomes.count(reply.answer.outcome());
                tally.repeated += u64::from(reply.is_repeated);
                match &reply.answer {
                    Answer::Failed(cause) => tally.fail(Outcome::Failed, cause.to_string()),
                    Answer::Ok(_) | Answer::Refused(_) => {
                        tally.acknowledged.push(client_record(name.clone(), body, reply));
                    }
                }
            }
            Err(denial) => {
                tally.outcomes.count(Outcome::Denied);
                tally.fail(Outcome::Denied, denial.to_string());
            }
        }
    }

    async fn transact(&self, service: usize, user: usize, id: String, body: Bytes) -> Result<Reply, RequestError> {
        let request = Request { id: Some(id), body, kind: Kind::Transaction };
        self.host.request(self.tokens[user].reveal(), &self.scenario.services[service].name, request).await
    }

    /// Acknowledges a transaction that the host does not get. Returns false if its answer is not known to be `ok`: then
    /// the transaction was not acknowledged. Gives up if the guest takes an empty transaction.
    ///
    /// The host gets an empty transaction in its place, which the guest refuses. So the dropped one has a sequence of
    /// its own, and its answer is what a VM gives that executes all acknowledged transactions before it.
    async fn drop_one(&mut self, Outgoing { service, user, id, body }: &Outgoing) -> bool {
        let in_place = self.transact(*service, *user, format!("{id}-dropped"), Bytes::new()).await;
        let Ok(Reply { answer: Answer::Refused(_), sequence, timestamp, .. }) = in_place else {
            // Each further attempt could change the state.
            self.fault = None;
            self.is_fault_missing = true;
            return false;
        };
        let (service, user) = (*service, self.scenario.users[*user].name.clone());
        let (id, body, answer) = (id.clone(), body.clone(), Answer::Ok(Bytes::new()));
        let dropped = ClientRecord { user, id, body, sequence, timestamp, answer };
        let (program, webhook) = (Arc::clone(&self.programs[service]), self.webhooks[service].clone());
        let mut replica = RoomyVm::new(program, self.secrets[service], self.largest_memory_bytes, webhook);
        let tally = &mut self.tallies[service];
        let name = &self.scenario.services[service].name;
        match answer_after(name, &mut replica, &tally.acknowledged, &dropped).await {
            Some(answer @ Answer::Ok(_)) => {
                tally.requests += 1;
                tally.outcomes.count(answer.outcome());
                tally.acknowledged.push(ClientRecord { answer, ..dropped });
                true
            }
            _ => false,
        }
    }

    /// Sends the scenario's queries at the end.
    async fn ask_queries(&mut self, observer: &mut impl Observer) -> Result<(), SimulateError> {
        let operator = Name::new(OPERATOR).expect("a literal name");
        for (service, plan) in self.scenario.services.iter().enumerate() {
            for (index, query) in plan.queries.iter().enumerate() {
                let body = Bytes::copy_from_slice(query.as_bytes());
                let request = Request { id: Some(format!("query-{index}")), body: body.clone(), kind: Kind::Query };
                let answered = self.host.request(self.operator.reveal(), &plan.name, request).await;
                match answered {
                    Ok(reply) if matches!(reply.answer, Answer::Ok(_)) => {
                        let record = client_record(operator.clone(), body, reply);
                        self.tallies[service].queries.push(record);
                    }
                    _ => self.tallies[service].queries_unanswered += 1,
                }
            }
            self.look_at(service, observer).await?;
        }
        Ok(())
    }

    /// Waits until the service has finished everything that followed from its last request, and records its status.
    async fn look_at(&mut self, service: usize, observer: &mut impl Observer) -> Result<(), SimulateError> {
        let status = self.status(service).await?;
        let meter = status.meter;
        let peaks = &mut self.tallies[service].peaks;
        for resource in Resource::ALL {
            let usage = meter.usage(resource);
            let used = meter.peak(resource).unwrap_or(usage.used);
            note_peak(peaks, resource, Usage { used, ..usage });
        }
        self.views[service].status = status;
        self.report_events(observer);
        Ok(())
    }

    async fn status(&self, service: usize) -> Result<Status, SimulateError> {
        let name = &self.scenario.services[service].name;
        let status = self.host.status(self.operator.reveal(), name).await;
        status.map_err(|denial| SimulateError::Observe { service: name.clone(), error: denial.into() })
    }

    fn report_events(&mut self, observer: &mut impl Observer) {
        let events = std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner));
        for event in events {
            let tally_of = |name: &Name| self.scenario.services.iter().position(|plan| plan.name == *name);
            match &event {
                Event::SlaFailure(failure) => {
                    if let Some(service) = tally_of(&failure.vm.service) {
                        let tally = &mut self.tallies[service];
                        tally.sla_failures += 1;
                        note_peak(&mut tally.peaks, failure.resource, failure.usage);
                    }
                }
                Event::Failover(failover) => {
                    if let Some(service) = tally_of(&failover.to.service) {
                        let tally = &mut self.tallies[service];
                        tally.failovers.count(failover.cause);
                        tally.pauses.push(failover.pause);
                    }
                }
                _ => {}
            }
            observer.event(&event);
        }
    }

    async fn reconcile(self, observer: &mut impl Observer) -> Report {
        let mut findings = Vec::new();
        let mut services = Vec::new();
        let vms = self.programs.into_iter().zip(self.secrets).zip(self.webhooks);
        let parts = self.scenario.services.iter().zip(vms).zip(self.tallies).zip(self.views);
        for (((plan, ((program, secret), webhook)), mut tally), view) in parts {
            observer.reconciling(&plan.name);
            let of_parcels = webhook.as_ref().map(|webhook| {
                parcels::compare(&plan.name, &tally.acknowledged, &tally.unacknowledged, &webhook.counts())
            });
            let mut replica = RoomyVm::new(program, secret, self.largest_memory_bytes, webhook);
            let model = plan.workload.built_in().map(Model::new);
            let acknowledged = std::mem::take(&mut tally.acknowledged);
            let of_parcels = of_parcels.unwrap_or_default();
            let mut reconciled =
                reconcile(&plan.name, acknowledged, &tally.queries, of_parcels, &mut replica, model).await;
            if let Some(reason) = &view.status.stopped {
                reconciled.findings.push(stopped(&plan.name, reason));
            }
            services.push(tally.report(plan, view.status, &reconciled));
            findings.extend(reconciled.findings);
        }
        let mut report = Report {
            scenario: self.scenario.title.clone(),
            seed: self.options.seed,
            lost: 0,
            duplicated: 0,
            diverged: 0,
            findings,
            requests: 0,
            users: self.scenario.users.len() as u64,
            machines: self.scenario.machines.len() as u64,
            outcomes: Outcomes::default(),
            failovers: Failovers::default(),
            services,
            timings: RunTimings::default(),
        };
        report.sum_up();
        report
    }
}

impl PlannedFault {
    /// Plans a fault halfway. It is for a counter if there is one, since every addition shows in every later answer.
    fn new(fault: Fault, scenario: &Scenario) -> Self {
        let is_counter = |plan: &ServicePlan| plan.workload.built_in() == Some(BuiltIn::Counter);
        let service = scenario.services.iter().position(is_counter).unwrap_or(0);
        let traffic = scenario.traffic.iter().filter(|traffic| traffic.service == service);
        Self { fault, service, from: Sequence(traffic.map(|traffic| traffic.count).sum::<u64>() / 2) }
    }
}

/// Creates the users, with their grants and a token each, and the operator with every grant.
fn admit_users(host: &Host, scenario: &Scenario, seed: u64) -> (Token, Vec<Token>) {
    const FOREVER: Timestamp = Timestamp(u64::MAX);
    let mut random = random(seed, Stream::Tokens);
    let mut authority = host.authority();
    let mut token = |authority: &mut lifeboat_host::auth::Authority, user: &Name| {
        authority.add_user(user);
        authority.issue(user, FOREVER, bits(&mut random)).expect("the user was added")
    };
    let operator = Name::new(OPERATOR).expect("a literal name");
    let operators = token(&mut authority, &operator);
    for service in &scenario.services {
        for grant in [Grant::Transact, Grant::Observe, Grant::Operate] {
            authority.grant(&operator, &service.name, grant);
        }
    }
    let mut tokens = Vec::with_capacity(scenario.users.len());
    for user in &scenario.users {
        tokens.push(token(&mut authority, &user.name));
        for service in &user.services {
            authority.grant(&user.name, service, Grant::Transact);
        }
    }
    (operators, tokens)
}

async fn start_webhook(service: &Name) -> Result<Webhook, SimulateError> {
    Webhook::start().await.map_err(|error| SimulateError::Webhook { service: service.clone(), error })
}

fn client_record(user: Name, body: Bytes, reply: Reply) -> ClientRecord {
    let Reply { id, sequence, timestamp, answer, .. } = reply;
    ClientRecord { user, id, body, sequence, timestamp, answer }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Raises the peak of `resource`, to at most 100 %: any use beyond that was not granted.
fn note_peak(peaks: &mut Peaks, resource: Resource, usage: Usage) {
    let percent = usage.utilisation_percent().min(100.0);
    let peak = peaks.of_mut(resource);
    // Hundredths are enough for a report.
    *peak = peak.max((percent * 100.0).round() / 100.0);
}

fn stopped(service: &Name, reason: &str) -> Finding {
    Finding {
        kind: FindingKind::Diverged,
        service: service.clone(),
        transaction: None,
        sequence: None,
        text: format!("stopped: {reason}"),
    }
}

impl Tally {
    /// Counts the cause of a failed or denied request. Causes with a different text each time (an id) are few, but the
    /// bound holds for them too.
    fn fail(&mut self, outcome: Outcome, cause: String) {
        let is_known = self.failures.contains_key(&(outcome, cause.clone()));
        let cause = if is_known || self.failures.len() < CAUSES_MAX { cause } else { "other causes".into() };
        *self.failures.entry((outcome, cause)).or_default() += 1;
    }

    fn report(self, plan: &ServicePlan, status: Status, reconciled: &Reconciled) -> ServiceReport {
        let mut failures: Vec<Failure> = self
            .failures
            .into_iter()
            .map(|((outcome, cause), transactions)| Failure { outcome, cause, transactions })
            .collect();
        failures.sort_by_key(|failure| std::cmp::Reverse(failure.transactions));
        ServiceReport {
            name: plan.name.clone(),
            workload: plan.workload.short_name().to_owned(),
            requests: self.requests,
            outcomes: self.outcomes,
            repeated: self.repeated,
            sla_failures: self.sla_failures,
            failovers: self.failovers,
            peaks: self.peaks,
            vm: status.vm.to_string(),
            machine: status.machine,
            size: status.size,
            sequence: status.sequence,
            degraded: status.degraded,
            unmovable: status.unmovable,
            stopped: status.stopped,
            counts: status.counts,
            failures,
            reconciliation: Reconciliation {
                records: reconciled.records,
                queries: reconciled.queries,
                queries_unanswered: self.queries_unanswered,
                model_agrees: reconciled.model,
                findings: reconciled.findings.len() as u64,
            },
            timings: PauseTimings::of(self.pauses),
        }
    }
}
