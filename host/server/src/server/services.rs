//! Services: deployment, inspection, operation and removal.

use super::connections::Connection;
use super::input::{Parameters, parameters, wrong_parameter};
use super::problem::Problem;
use super::{Shared, UPLOAD_TIME_MAX, body, disk, lists, path, users};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use lifeboat_api::access::Grant;
use lifeboat_api::call::CallResponse;
use lifeboat_api::clock::Utc;
use lifeboat_api::event::FailoverCause;
use lifeboat_api::http::{
    AllUsage, AllowedTarget, Deployment, Doubts, DropReply, DropRequest, ResourceUsage, SETTLED_BODY_BYTES_MAX,
    Service, ServiceNetwork, ServiceState, Services, SettleRequest, SettledResponse, Usage, Vm, Waiting,
};
use lifeboat_api::id::Epoch;
use lifeboat_api::meter::Resource;
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes as ByteCount, check_fuel};
use lifeboat_api::sla::FailoverMode;
use lifeboat_api::transaction::{Denial, Outcome, QUARANTINE_REMEDY, RequestError, check_id};
use lifeboat_host::auth::Identity;
use lifeboat_host::catalog::{ServiceEntry, ServiceSettings};
use lifeboat_host::command_line::ProgramSettings;
use lifeboat_host::files::{self, ARCHIVE_FILES_BYTES_MAX, Unpacked};
use lifeboat_host::host::NewService;
use lifeboat_host::network::{AllowList, Allowed, NetworkSettings};
use lifeboat_host::service::{LaunchError, Ordered, SettleError, Settlement, Status};
use lifeboat_vm::engine::joined;
use lifeboat_vm::workload::MODULE_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The longest time that a list waits for a busy service before it shows the service without its VM.
pub const STATUS_MAX: Duration = Duration::from_secs(1);

/// The maximum number of concurrent uploads and deployments of workloads. Each workload has up to 128 MiB.
pub const UPLOADS_MAX: usize = 4;

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
) -> Result<Response, Problem> {
    list_of(&shared, &identity, &Grant::ALL, async |entries: BTreeMap<Name, ServiceEntry>| {
        let views = entries.into_iter().map(|(name, entry)| {
            let (shared, may_observe) = (&shared, shared.host.authorise(&identity, &name, Grant::Observe).is_ok());
            async move {
                let service = view(shared, name, entry).await;
                // Only a user who may observe the service sees what it uses, and whom it may call.
                let queue_length = service.queue_length.filter(|_| may_observe);
                let (network, vm) = (service.network.filter(|_| may_observe), service.vm.filter(|_| may_observe));
                Service { network, queue_length, vm, ..service }
            }
        });
        Services { services: futures::future::join_all(views).await }
    })
    .await
}

pub(super) async fn inspect(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Json<Service>, Problem> {
    one(&shared, &name).await.map(Json)
}

pub(super) async fn deploy(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    given: Parameters,
    body: Body,
) -> Result<(StatusCode, Json<Service>), Problem> {
    let (deployment, is_archive) = deployment(given)?;
    let name = path::name(&name)?;
    let settings = settings(&shared, deployment)?;
    let turn = shared.deploys.turn(&identity.user).await?;
    // An archive may be long, so one is sent at a time. It leaves others their places.
    let (bytes_max, uploads, most) = match is_archive {
        true => (MODULE_BYTES_MAX + ARCHIVE_FILES_BYTES_MAX, &shared.archives, "1 archive is".to_owned()),
        false => (MODULE_BYTES_MAX, &shared.uploads, format!("{UPLOADS_MAX} workloads are")),
    };
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let upload = Arc::clone(uploads).try_acquire_owned().map_err(|_| {
        let text = format!("{most} being sent, which is the limit; try again soon");
        Problem::later("too_many_uploads", text)
    })?;
    let bytes = body::read(body, bytes_max, UPLOAD_TIME_MAX).await?;
    // The upload may have taken minutes.
    shared.host.authorise_admin(&shared.host.authenticate_hash(&identity.token)?)?;
    let tried = name.clone();
    let created = uninterrupted(&shared, move |shared| async move {
        let created = match is_archive {
            true => unpacked(&shared, bytes, &settings).await,
            false => Ok(Unpacked { workload: bytes, disk: None }),
        };
        let created = match created {
            Ok(unpacked) => create(&shared, name, settings, unpacked).await,
            Err(problem) => Err(problem),
        };
        drop((turn, upload));
        created
    });
    let service = created.await?;
    // The service exists, whatever the trial finds. The user's turn has ended, so no other deployment waits for this.
    let warning = shared.deploys.warning(shared.host.try_state(&tried)).await;
    Ok((StatusCode::CREATED, Json(Service { warning, ..service })))
}

/// Unpacks an archive for a service with these settings.
async fn unpacked(shared: &Shared, archive: Bytes, settings: &ServiceSettings) -> Result<Unpacked, Problem> {
    let (limit_bytes, now) = (settings.first_size().map_or(0, |size| size.disk_bytes), shared.clock.now());
    let unpack = move || files::unpack(&archive, limit_bytes, now);
    Ok(joined(tokio::task::spawn_blocking(unpack)).await?)
}

async fn create(
    shared: &Arc<Shared>,
    name: Name,
    settings: ServiceSettings,
    unpacked: Unpacked,
) -> Result<Service, Problem> {
    let Unpacked { workload: bytes, disk } = unpacked;
    let workload = shared.host.load_deployed(&name, bytes.clone()).await.map_err(LaunchError::Engine)?;
    let (mut secret, mut epoch) = ([0; 32], Epoch::default());
    getrandom::fill(&mut secret)
        .and_then(|()| getrandom::fill(&mut epoch.0))
        .map_err(|error| Problem::later("no_randomness", format!("no random numbers are available: {error}")))?;
    let new = NewService { name: name.clone(), workload, workload_bytes: bytes, settings, secret, epoch, disk };
    shared.host.create_durable_service(new).await?;
    one(shared, &name).await
}

pub(super) async fn remove(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    let name = path::name(&name)?;
    uninterrupted(&shared, move |shared| async move {
        shared.host.remove_service(&name).await?;
        shared.metrics.forget(&name);
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

pub(super) async fn fail_over(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
) -> Result<Json<Service>, Problem> {
    let Ordered { status, from, .. } = shared.host.order_fail_over(&identity, &name).await.map_err(not_operated)?;
    let Status { vm, stopped, unmovable, degraded, .. } = status;
    if let Some(reason) = stopped {
        return Err(Denial::Stopped { service: vm.service, reason }.into());
    }
    if vm == from {
        let reason = no_effect_reason(degraded.or(unmovable));
        return Err(Problem::later("not_moved", format!("service '{}' stays in {vm}: {reason}", vm.service)));
    }
    one(&shared, &name).await.map(Json)
}

/// Returns the reason why an order had no effect, from the condition of its service.
fn no_effect_reason(condition: Option<String>) -> String {
    condition.unwrap_or_else(|| "another operation, or its end, came in between; try again".into())
}

pub(super) async fn drop_queued(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Extension(connection): Extension<Arc<Connection>>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<DropReply>, Problem> {
    let DropRequest { user, id } = users::json(&shared, &connection, body).await?;
    let user = path::name(&user)?;
    id.as_deref().map_or(Ok(()), check_id).map_err(|denial| Problem::from(denial).without_outcome())?;
    let dropped = shared.host.drop_queued(&identity, &name, &user, id.as_deref()).map_err(not_operated)?;
    Ok(Json(DropReply { dropped }))
}

pub(super) async fn doubts(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
) -> Result<Json<Doubts>, Problem> {
    let name = path::name(&name)?;
    doubts_of(&shared, &identity, &name).await.map(Json)
}

async fn doubts_of(shared: &Shared, identity: &Identity, name: &Name) -> Result<Doubts, Problem> {
    let doubts = disk::in_time(name, shared.host.doubts(identity, name)).await?.map_err(not_operated)?;
    Ok(Doubts { doubts: doubts.into_iter().map(Into::into).collect() })
}

pub(super) async fn settle(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Extension(connection): Extension<Arc<Connection>>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<Doubts>, Problem> {
    let SettleRequest { user, id, index, answered } = users::json(&shared, &connection, body).await?;
    let name = path::name(&name)?;
    let user = user.as_deref().map(path::name).transpose()?;
    let settlement = answered.map(response).transpose()?.map_or(Settlement::NotSent, Settlement::Answered);
    let settled = shared.host.settle_doubt(&identity, &name, user, id, index, settlement).await;
    settled.map_err(not_operated)?.map_err(|error| match error {
        SettleError::NotInDoubt { .. } => Problem::new(StatusCode::NOT_FOUND, "not_in_doubt", error.to_string()),
        SettleError::WasMade { .. } => Problem::new(StatusCode::CONFLICT, "was_made", error.to_string()),
        SettleError::Denied(denial) => not_operated(denial),
        SettleError::Journal(_) => Problem::later("storage", error.to_string()),
        _ => Problem::new(StatusCode::CONFLICT, "several_users", error.to_string()),
    })?;
    doubts_of(&shared, &identity, &name).await.map(Json)
}

/// Makes a response of what an operator knows.
fn response(SettledResponse { status, body }: SettledResponse) -> Result<CallResponse, Problem> {
    if !(200..600).contains(&status) {
        let detail = format!("{status} is no status of a response; write a number from 200 to 599");
        return Err(Problem::bad_request("status", detail));
    }
    let body = BASE64_STANDARD.decode(body);
    let body = body.map_err(|error| Problem::bad_request("body", format!("the body is not Base64: {error}")))?;
    if body.len() > SETTLED_BODY_BYTES_MAX {
        let (bytes, max) = (ByteCount(body.len() as u64), ByteCount(SETTLED_BODY_BYTES_MAX as u64));
        return Err(Problem::bad_request("body", format!("the body has {bytes}, it may have {max}")));
    }
    Ok(CallResponse { status, headers: Vec::new(), body: body.into(), trailers: Vec::new() })
}

pub(super) async fn snapshot(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
) -> Result<Json<Service>, Problem> {
    let service = path::name(&name)?;
    let Ordered { status, is_snapshotted, .. } =
        shared.host.order_snapshot(&identity, &name).await.map_err(not_operated)?;
    let Status { stopped, unmovable, degraded, .. } = status;
    if let Some(reason) = stopped {
        return Err(Denial::Stopped { service, reason }.into());
    }
    if !is_snapshotted {
        let reason = no_effect_reason(unmovable.or(degraded));
        return Err(Problem::later("not_snapshotted", format!("service '{service}' has no new snapshot: {reason}")));
    }
    if let Some(directory) = shared.host.data() {
        directory.snapshots_written(&service).await?;
    }
    one(&shared, &name).await.map(Json)
}

pub(super) async fn stop(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Json<Service>, Problem> {
    let service = path::name(&name)?;
    uninterrupted(&shared, move |shared| async move { Ok(shared.host.stop_service(&service).await?) }).await?;
    one(&shared, &name).await.map(Json)
}

pub(super) async fn start(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Json<Service>, Problem> {
    let mut epoch = Epoch::default();
    getrandom::fill(&mut epoch.0)
        .map_err(|error| Problem::later("no_randomness", format!("no random numbers are available: {error}")))?;
    let service = path::name(&name)?;
    uninterrupted(&shared, move |shared| async move { Ok(shared.host.start_service(&service, epoch).await?) }).await?;
    one(&shared, &name).await.map(Json)
}

pub(super) async fn usage(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Result<Json<Usage>, Problem> {
    let name = path::name(&name)?;
    entry(&shared, &name).await?;
    Ok(Json(usage_of(&shared, name).await))
}

pub(super) async fn all_usage(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
) -> Result<Response, Problem> {
    list_of(&shared, &identity, &[Grant::Observe], async |entries: BTreeMap<Name, ServiceEntry>| {
        let services = entries.into_keys().map(|name| usage_of(&shared, name));
        let services = futures::future::join_all(services).await;
        let is_admin = shared.host.authorise_admin(&identity).is_ok();
        let host = shared.load().filter(|_| is_admin).and_then(|load| serde_json::to_value(load).ok());
        AllUsage { since: Some(since(&shared)), host, services }
    })
    .await
}

/// Returns the list that `make` makes of the services on which the user has any of `grants`. Other services are not
/// read.
async fn list_of<T: Serialize>(
    shared: &Arc<Shared>,
    identity: &Identity,
    grants: &'static [Grant],
    make: impl AsyncFnOnce(BTreeMap<Name, ServiceEntry>) -> T,
) -> Result<Response, Problem> {
    let (of_shared, user) = (Arc::clone(shared), identity.clone());
    let is_theirs = move |name: &Name| grants.iter().any(|grant| of_shared.host.authorise(&user, name, *grant).is_ok());
    let (of_shared, is_counted) = (Arc::clone(shared), is_theirs.clone());
    let count = joined(tokio::task::spawn_blocking(move || of_shared.host.count_entries(is_counted))).await?;
    let of_shared = Arc::clone(shared);
    let list = async {
        let entries = joined(tokio::task::spawn_blocking(move || of_shared.host.entries_where(is_theirs))).await?;
        Ok(make(entries).await)
    };
    lists::list(&shared.long_lists, &lists::audience(shared, Some(identity)), count, list).await
}

/// Runs `work` to its end, even if the client disconnects.
///
/// A disconnect drops the handler of a request wherever it waits, and a service must not be left between two states.
async fn uninterrupted<T, F>(shared: &Arc<Shared>, work: impl FnOnce(Arc<Shared>) -> F) -> Result<T, Problem>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Problem>> + Send + 'static,
{
    joined(tokio::spawn(work(Arc::clone(shared)))).await
}

/// Returns the catalog entry of a service.
pub(super) async fn entry(shared: &Arc<Shared>, name: &Name) -> Result<ServiceEntry, Problem> {
    if let Some(denial) = shared.host.orphan(name) {
        return Err(Problem::from(denial).without_outcome());
    }
    let (shared, service) = (Arc::clone(shared), name.clone());
    let entry = joined(tokio::task::spawn_blocking(move || shared.host.entry(&service))).await?;
    entry.ok_or_else(|| Problem::no_service(name))
}

/// Checks that a service exists, for a request to it.
///
/// # Errors
/// The same problem as that of a transaction.
pub(super) async fn known(shared: &Arc<Shared>, service: &str) -> Result<(), Problem> {
    let missing = || Problem::from(Denial::NoService { service: service.to_owned() });
    let name = Name::new(service).map_err(|_| missing())?;
    if shared.host.has_service(&name) {
        return Ok(());
    }
    if let Some(denial) = shared.host.orphan(&name) {
        return Err(denial.into());
    }
    let shared = Arc::clone(shared);
    let entry = joined(tokio::task::spawn_blocking(move || shared.host.entry(&name))).await?;
    entry.map(|_| ()).ok_or_else(missing)
}

/// Returns the problem of an operation on a service that was denied.
pub(super) fn not_operated(error: impl Into<RequestError>) -> Problem {
    match error.into() {
        RequestError::Denied(Denial::NoService { service }) => Problem::no_service(&service),
        error => error.into(),
    }
}

async fn one(shared: &Arc<Shared>, name: &str) -> Result<Service, Problem> {
    let name = path::name(name)?;
    let entry = entry(shared, &name).await?;
    Ok(view(shared, name, entry).await)
}

async fn view(shared: &Shared, name: Name, entry: ServiceEntry) -> Service {
    // Read before the status, whose request waits in the queue as well.
    let queue_length = shared.host.queue_length(&name);
    let vm = status(shared, &name).await.map(vm);
    let (state, reason) = match shared.host.quarantined(&name) {
        _ if shared.host.has_service(&name) => match vm.as_ref().and_then(|vm| vm.stopped.as_ref()) {
            Some(reason) => (
                ServiceState::Stopped,
                Some(format!("{reason}; once that is fixed, lifeboat start {name} brings it back")),
            ),
            None => (ServiceState::Running, None),
        },
        Some(reason) => (ServiceState::Quarantined, Some(format!("{reason}; {QUARANTINE_REMEDY}"))),
        None => (ServiceState::Stopped, Some("an operator stopped it; start it to serve again".into())),
    };
    Service {
        name: name.to_string(),
        workload: entry.workload.to_string(),
        state,
        reason,
        failover: entry.settings.failover.to_string(),
        network: Some(network(entry.settings.network)),
        queue_length,
        vm,
        warning: None,
    }
}

fn network(NetworkSettings { allow, retry }: NetworkSettings) -> ServiceNetwork {
    let target = |Allowed { target, private }| AllowedTarget { target: String::from(target), private };
    ServiceNetwork { allow: Vec::from(allow).into_iter().map(target).collect(), retry: retry.to_string() }
}

async fn status(shared: &Shared, name: &Name) -> Option<Status> {
    tokio::time::timeout(STATUS_MAX, shared.host.status_of(name)).await.ok().flatten()
}

fn vm(status: Status) -> Vm {
    let resource = |resource: Resource| {
        let usage = status.meter.usage(resource);
        let shown = ResourceUsage {
            used: usage.used,
            limit: usage.limit,
            unit: status.meter.unit(resource).to_string(),
            utilisation_percent: usage.utilisation_percent(),
        };
        (resource.to_string(), shown)
    };
    Vm {
        id: status.vm.to_string(),
        machine: status.machine.to_string(),
        size: status.size,
        sequence: status.sequence.0,
        snapshot_sequence: status.snapshot_sequence.0,
        resources: Resource::ALL.into_iter().map(resource).collect(),
        degraded: status.degraded,
        unmovable: status.unmovable,
        journal_filling: status.journal.as_ref().map(|journal| journal.fill.to_string()),
        journal_full: status.journal.is_some_and(|journal| journal.is_full),
        stopped: status.stopped,
        calls_in_doubt: status.doubts,
        waiting: status.waiting.map(|waiting| Waiting {
            target: waiting.target,
            waited_ms: u64::try_from(waiting.waited.as_millis()).unwrap_or(u64::MAX),
        }),
    }
}

/// Returns the time at which the server began to count.
fn since(shared: &Shared) -> String {
    format!("{:.0}", Utc(shared.start))
}

async fn usage_of(shared: &Shared, name: Name) -> Usage {
    let counted = shared.metrics.known(&name).unwrap_or_default();
    let queue_length = shared.host.queue_length(&name).unwrap_or(0);
    Usage {
        since: Some(since(shared)),
        vm: status(shared, &name).await.map(vm),
        queue_length,
        outcomes: Outcome::ALL.into_iter().map(|outcome| (outcome.to_string(), counted.outcomes(outcome))).collect(),
        sla_failures: Resource::ALL
            .into_iter()
            .map(|resource| (resource.to_string(), counted.sla_failures(resource)))
            .collect(),
        failovers: FailoverCause::ALL.into_iter().map(|cause| (cause.to_string(), counted.failovers(cause))).collect(),
        service: name.to_string(),
    }
}

/// Parses the query of a deployment. Returns also whether its body is an archive.
fn deployment(given: Parameters) -> Result<(Deployment, bool), Problem> {
    const NAMES: [&str; 8] = ["size", "fuel", "failover", "allow_net", "retry", "arguments", "environment", "archive"];
    let mut given = parameters(given, &NAMES)?;
    let is_archive = match given.remove("archive").as_deref() {
        None => false,
        Some("tar") => true,
        Some(other) => {
            return Err(wrong_parameter("archive", other, "'tar', or left out for a body that is a workload"));
        }
    };
    let fuel = given.remove("fuel").map(|text| {
        text.parse().map_err(|_| wrong_parameter("fuel", &text, "a whole number of units of fuel, such as 50000000"))
    });
    let fuel = fuel.transpose()?;
    let mut text = |name| given.remove(name);
    let (size, failover, allow_net, retry) = (text("size"), text("failover"), text("allow_net"), text("retry"));
    let (arguments, environment) = (text("arguments"), text("environment"));
    Ok((Deployment { size, fuel, failover, allow_net, retry, arguments, environment }, is_archive))
}

/// Returns the settings of a deployment, with the configuration's defaults for what it leaves out.
fn settings(shared: &Shared, deployment: Deployment) -> Result<ServiceSettings, Problem> {
    let Deployment { size, fuel, failover, allow_net, retry, arguments, environment } = deployment;
    let failover = match failover {
        None => FailoverMode::default(),
        Some(text) => text.parse().map_err(|reason| Problem::bad_request("failover", reason))?,
    };
    let settings = shared.config.settings(size.as_deref(), None, failover);
    let mut settings = settings.map_err(|reason| Problem::bad_request("no_such_size", reason))?;
    if let Some(fuel) = fuel {
        let fuel = check_fuel(fuel).map_err(|reason| Problem::bad_request("fuel", reason))?;
        settings.sizes.iter_mut().for_each(|size| size.fuel = fuel);
    }
    if let Some(text) = allow_net {
        let entries = text.split_ascii_whitespace().map(str::parse).collect::<Result<Vec<Allowed>, _>>();
        let entries = entries.map_err(|error| Problem::bad_request("allow_net", error.to_string()))?;
        let allow = AllowList::new(entries).map_err(|error| Problem::bad_request("allow_net", error.to_string()));
        settings.network.allow = allow?;
    }
    if let Some(text) = retry {
        settings.network.retry = text.parse().map_err(|reason| Problem::bad_request("retry", reason))?;
    }
    let arguments = of_json("arguments", arguments, "a JSON array of texts, such as [\"--verbose\"]")?;
    let environment = of_json("environment", environment, "a JSON object of texts, such as {\"LANG\":\"C\"}")?;
    settings.program = ProgramSettings::new(arguments, environment)
        .map_err(|error| Problem::bad_request("arguments", error.to_string()))?;
    Ok(settings)
}

/// Parses a parameter that is JSON. Returns the default if it was left out.
fn of_json<T: Default + DeserializeOwned>(
    name: &'static str,
    text: Option<String>,
    expected: &'static str,
) -> Result<T, Problem> {
    let Some(text) = text else { return Ok(T::default()) };
    serde_json::from_str(&text).map_err(|_| wrong_parameter(name, &text, expected))
}

/// Returns the statuses of the running services, without those that are too busy to report theirs.
pub(super) async fn statuses(shared: &Shared) -> BTreeMap<Name, Status> {
    let names = shared.host.queue_lengths().into_keys();
    let asked = names.map(|name| async move { status(shared, &name).await.map(|status| (name, status)) });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::event::JournalFill;
    use lifeboat_api::id::{Sequence, VmId};
    use lifeboat_api::meter::{Levels, Meter, NetworkAmount};
    use lifeboat_host::service::{Counts, JournalStatus};

    fn meter(calls: u64, bytes: u64) -> Meter {
        let (network, levels) = (NetworkAmount { calls: 10, bytes: 1_000 }, Levels { memory_bytes: 1, disk_bytes: 1 });
        let mut meter = Meter::new(1, network, levels, Levels::default());
        meter.charge_network(calls, bytes);
        meter
    }

    fn status(journal: Option<JournalStatus>) -> Status {
        Status {
            vm: VmId { service: Name::new("bank").expect("a name"), number: 1 },
            machine: Name::new("m1").expect("a name"),
            size: "small".into(),
            meter: meter(0, 0),
            sequence: Sequence(1),
            snapshot_sequence: Sequence(0),
            degraded: None,
            unmovable: None,
            journal,
            stopped: None,
            counts: Counts::default(),
            doubts: 0,
            waiting: None,
        }
    }

    #[test]
    fn the_network_of_a_vm_is_shown_in_the_unit_that_is_fuller() {
        let shown = |meter| vm(Status { meter, ..status(None) }).resources["network"].clone();
        let usage = |used, limit, unit: &str, utilisation_percent| {
            let unit = unit.into();
            ResourceUsage { used, limit, unit, utilisation_percent }
        };
        assert_eq!(shown(meter(0, 0)), usage(0, 10, "calls", 0.0));
        assert_eq!(shown(meter(5, 499)), usage(5, 10, "calls", 50.0));
        assert_eq!(shown(meter(5, 750)), usage(750, 1_000, "bytes", 75.0));
    }

    #[test]
    fn a_journal_that_fills_up_is_a_condition_of_its_vm() {
        let journal = |is_full| {
            let fill = JournalFill { vm: status(None).vm, bytes: 8, limit_bytes: 10, reason: Some("no thanks".into()) };
            JournalStatus { fill, is_full }
        };
        let shown = |journal: Option<JournalStatus>| vm(status(journal));
        assert_eq!((shown(None).journal_filling, shown(None).journal_full), (None, false));
        let filling = shown(Some(journal(false)));
        assert!(!filling.journal_full && filling.journal_filling.is_some_and(|text| text.contains("(80%)")));
        assert!(shown(Some(journal(true))).journal_full);
    }
}
