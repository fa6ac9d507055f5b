//! The server: a host, its accounts, its events and its load, behind an HTTP API.
//!
//! ```text
//!   listener.rs -> routes.rs (guard) -> transactions.rs, batch.rs, events.rs, services.rs, users.rs, health.rs
//!   connections    identity, grant      the operations                                        problem.rs: the results
//! ```
//!
//! The server reads no part of a request's body before it has checked the token and the grant. The types of the API are
//! in [`lifeboat_api::http`]. `routes.rs` generates the API's description from the same table that the guard uses.

mod batch;
mod body;
mod connections;
mod deploys;
mod disk;
mod events;
mod health;
mod input;
mod listener;
mod lists;
mod long_lists;
mod path;
mod pieces;
mod problem;
mod read_rate;
mod routes;
mod services;
mod shares;
mod transactions;
mod users;

pub use batch::{BATCH_IN_FLIGHT_MAX, LONG_LINE_BYTES};
pub use connections::{REPLACED_IDLE_MIN, UNAUTHENTICATED_IDLE_MAX};
pub use deploys::{DEPLOY_WAIT_MAX, TRIAL_WAIT_MAX};
pub use disk::DISK_WAIT_MAX;
pub use events::{
    EVENTS_KEPT_MAX, EventLog, KEEP_ALIVE, LOGS_KEPT_BYTES_MAX, LOGS_KEPT_MAX, LOGS_KEPT_PER_SERVICE_MAX, STREAMS_MAX,
    STREAMS_PER_USER_MAX, STREAMS_RESERVED,
};
pub use listener::{ADDRESS_SHARE, DESCRIPTORS_RESERVED, Listener, ListenerError, UNSENT_BYTES_MAX, connections_max};
pub use long_lists::{LONG_LISTS_BYTES_MAX, LONG_LISTS_RESERVED_BYTES};
pub use problem::DETAIL_BYTES_MAX;
pub use read_rate::{DRAINED_BYTES_MAX, DRAINED_SILENCE_MAX, DRAINED_TIME_MAX, READ_RATE_MIN};
pub use services::{STATUS_MAX, UPLOADS_MAX};
pub use transactions::LOOK_UP_MAX;
pub use users::{LOG_IN_BODY_BYTES_MAX, USER_BODY_BYTES_MAX};

use crate::config::{Config, MetricsAccess};
use axum::Router;
use axum::http::Method;
use deploys::Deploys;
use lifeboat_api::access::Grant;
use lifeboat_api::call::Retry;
use lifeboat_api::clock::{Clock, Timestamp};
use lifeboat_api::http::{
    AllUsage, DiskListing, Doubts, DropReply, DropRequest, JSON_LINES, LogInReply, LogInRequest, NewPassword, NewUser,
    Service, Services, SettleRequest, TransactionState, Usage, User, Users, WhoAmI,
};
use lifeboat_api::name::Name;
use lifeboat_api::size::FUEL_MIN;
use lifeboat_host::auth::Accounts;
use lifeboat_host::budget::Budgets;
use lifeboat_host::host::Host;
use lifeboat_host::metrics::Metrics;
use lifeboat_host::monitor::{HostLoad, Monitor};
use long_lists::LongLists;
use path::name_schema;
use routes::{Api, Content, Needs, Route, json_of};
use serde_json::json;
use shares::Shares;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// The longest time that a client may take to send a workload.
pub const UPLOAD_TIME_MAX: Duration = Duration::from_secs(300);

/// The parts of a server.
pub(crate) struct Parts {
    pub(crate) host: Host,
    pub(crate) accounts: Accounts,
    /// The log of events for clients. The host's event sink fills it.
    pub(crate) events: Arc<EventLog>,
    /// The counters. The host's event sink feeds them too.
    pub(crate) metrics: Arc<Metrics>,
    /// The load of the machine, if it is monitored.
    pub(crate) monitor: Option<Monitor>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The limits of the server, and the defaults of its services.
    pub(crate) config: Config,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving,
    Draining,
}

struct Shared {
    host: Host,
    accounts: Accounts,
    events: Arc<EventLog>,
    metrics: Arc<Metrics>,
    monitor: Option<Monitor>,
    clock: Arc<dyn Clock>,
    /// The time at which the server was built.
    start: Timestamp,
    config: Config,
    /// The maximum size of a transaction or a query, in bytes.
    body_bytes_max: usize,
    phase: watch::Sender<Phase>,
    /// The memory budgets of requests and answers.
    budgets: Budgets,
    /// The memory budgets of answers that only report state, such as lists.
    lists: Budgets,
    /// The lists that may need more memory than any other answer.
    long_lists: LongLists,
    /// The permits for uploads of workloads.
    uploads: Arc<Semaphore>,
    /// The permit for the upload of an archive.
    archives: Arc<Semaphore>,
    /// The permits for streams of events.
    streams: Arc<Semaphore>,
    /// The number of streams of each user.
    streams_of: Shares<Name>,
    /// The turns of users to deploy.
    deploys: Deploys,
}

impl Shared {
    fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    fn load(&self) -> Option<HostLoad> {
        self.monitor.as_ref().and_then(Monitor::load)
    }
}

/// A server. Clones share the same state.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    router: Router,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("phase", &self.shared.phase()).finish_non_exhaustive()
    }
}

impl Server {
    /// Builds a server. Until [`Server::begin`], it answers `starting` to every request, except those to a service that
    /// already runs.
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { host, accounts, events, metrics, monitor, clock, config } = parts;
        let body_bytes_max = usize::try_from(config.server.limits.body_bytes_max).unwrap_or(usize::MAX);
        let phase = watch::Sender::new(Phase::Starting);
        let (streams, streams_of) = (Arc::new(Semaphore::new(STREAMS_MAX)), Shares::new(STREAMS_PER_USER_MAX));
        let shared = Arc::new(Shared {
            host,
            accounts,
            events,
            metrics,
            monitor,
            start: clock.now(),
            clock,
            config,
            body_bytes_max,
            phase,
            budgets: Budgets::default(),
            lists: Budgets::of_lists(),
            long_lists: LongLists::default(),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            archives: Arc::new(Semaphore::new(1)),
            streams,
            streams_of,
            deploys: Deploys::default(),
        });
        let router = router(&shared);
        Self { shared, router }
    }

    /// Returns the host of the server.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.shared.host
    }

    /// Returns the accounts of the server.
    #[must_use]
    pub fn accounts(&self) -> &Accounts {
        &self.shared.accounts
    }

    /// Returns the log of recent events.
    #[must_use]
    pub fn events(&self) -> &Arc<EventLog> {
        &self.shared.events
    }

    /// Returns the counters of the server.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Returns the configuration of the server.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Begins to serve users. The caller has recovered the services.
    pub fn begin(&self) {
        self.shared.phase.send_replace(Phase::Serving);
    }

    /// Answers requests on `listener` until `stop` resolves. It then waits until the requests in flight are answered,
    /// for `deadline` at most. The host continues to run: [`Host::stop`] is the next step.
    pub async fn serve(&self, listener: Listener, stop: impl Future<Output = ()>, deadline: Duration) {
        let limits = &self.shared.config.server.limits;
        let draining = async {
            stop.await;
            self.shared.phase.send_replace(Phase::Draining);
        };
        listener.serve(self.router.clone(), limits, self.shared.budgets.clone(), draining, deadline).await;
    }
}

/// Returns the router with every operation and the access that it requires.
fn router(shared: &Arc<Shared>) -> Router {
    use Needs::{Admin, Nobody, User as AnyUser};
    const TRANSACT: Needs = Needs::Grant(Grant::Transact);
    const OBSERVE: Needs = Needs::Grant(Grant::Observe);
    const OPERATE: Needs = Needs::Grant(Grant::Operate);
    const PROBLEM: Option<Content> = Some(Content::Problem);
    const TEXT: Option<Content> = Some(Content::Bytes("text/plain"));
    let scrapes = match shared.config.server.metrics {
        MetricsAccess::Admin => Admin,
        MetricsAccess::Open => Nobody,
    };
    const ANY: Content = Content::Bytes("application/octet-stream");
    const GUESTS: Content = Content::Any(&["application/octet-stream", "application/json"]);
    let key_pattern = transactions::key_pattern();
    let answered = |route: Route| {
        route
            .gives(200, "ok: the guest's reply", Some(GUESTS))
            .gives(422, "refused or failed: the header Lifeboat-Outcome reports which", PROBLEM)
            .gives(503, "failed, and a retry may succeed; or denied for now", PROBLEM)
    };
    let sizes: Vec<&str> = shared.config.sizes.iter().map(|size| size.name.as_str()).collect();
    let get = |path, needs, summary| Route::new(Method::GET, path, needs, summary);
    let post = |path, needs, summary| Route::new(Method::POST, path, needs, summary);
    let put = |path, needs, summary| Route::new(Method::PUT, path, needs, summary);
    let delete = |path, needs, summary| Route::new(Method::DELETE, path, needs, summary).gives(204, "removed", None);
    Api::new(Arc::clone(shared))
        .route(get("/healthz", Nobody, "Check that the server answers").gives(200, "it answers", TEXT), health::health)
        .route(get("/readyz", Nobody, "Check that the server is ready").gives(200, "it is ready", TEXT), health::ready)
        .route(
            get("/metrics", scrapes, "Get all metrics, for Prometheus").gives(
                200,
                "text in the format of OpenMetrics or of Prometheus",
                Some(Content::Any(&["application/openmetrics-text", "text/plain"])),
            ),
            health::metrics,
        )
        .route(
            post("/v1/login", Nobody, "Log in and get a token").takes(json_of::<LogInRequest>()).gives(
                200,
                "a token, which is returned only once",
                Some(json_of::<LogInReply>()),
            ),
            users::log_in,
        )
        .route(post("/v1/logout", AnyUser, "Make the token void").gives(204, "the token is void", None), users::log_out)
        .route(
            get("/v1/whoami", AnyUser, "Get the user of the token").gives(
                200,
                "the user and the grants",
                Some(json_of::<WhoAmI>()),
            ),
            users::who_am_i,
        )
        .route(
            get("/v1/users", Admin, "List all users").gives(200, "the users by name", Some(json_of::<Users>())),
            users::list,
        )
        .route(
            post("/v1/users", Admin, "Add a user").takes(json_of::<NewUser>()).gives(
                201,
                "added",
                Some(json_of::<User>()),
            ),
            users::add,
        )
        .route(
            put("/v1/users/{user}/password", AnyUser, "Change a password: a user's own or, for an admin, any user's")
                .describes(
                    "Users change their own passwords with \"old\", and so do admins. An admin sets the password of \
                     another user without \"old\". Whether \"old\" may be omitted depends on the user of the token.",
                )
                .takes(json_of::<NewPassword>())
                .gives(204, "changed; all tokens of the user are void", None)
                .gives(403, "not granted; or old_password: a user's own password needs old, which is missing", PROBLEM)
                .gives(401, "no valid token; or wrong_credentials: old is not the password", PROBLEM),
            users::set_password,
        )
        .route(delete("/v1/users/{user}", Admin, "Remove a user"), users::remove)
        .route(
            put("/v1/users/{user}/grants/{service}/{grant}", Admin, "Grant a user access to a service")
                .gives(204, "granted", None),
            users::grant,
        )
        .route(delete("/v1/users/{user}/grants/{service}/{grant}", Admin, "Revoke a grant"), users::revoke)
        .route(
            get("/v1/services", AnyUser, "List the services on which the user has a grant").gives(
                200,
                "the services by name",
                Some(json_of::<Services>()),
            ),
            services::list,
        )
        .route(
            put("/v1/services/{name}", Admin, "Deploy a workload as a new service")
                .takes(Content::Any(&["application/wasm", "application/x-tar"]))
                .parameter("query", "size", "the name of the size of its first VM", json!({ "enum": sizes }))
                .parameter(
                    "query",
                    "fuel",
                    "fuel of each VM, instead of the size's",
                    json!({ "type": "integer", "minimum": FUEL_MIN, "maximum": u64::MAX }),
                )
                .parameter(
                    "query",
                    "failover",
                    "how the service moves to a fresh VM",
                    json!({ "enum": ["direct", "shadow", "auto"] }),
                )
                .parameter(
                    "query",
                    "allow_net",
                    "the addresses that the service may call, separated by spaces: `https://api.example.org`, \
                     `https://*.example.org` for all names below one; with `,private` after it, a name may resolve to \
                     addresses that are not public",
                    json!({ "type": "string" }),
                )
                .parameter(
                    "query",
                    "retry",
                    "what the service does about calls in doubt",
                    json!({ "enum": Retry::ALL.map(|retry| retry.to_string()) }),
                )
                .parameter(
                    "query",
                    "archive",
                    "the body is a tar archive: its entry `workload` is the workload, and the entries below `disk/` are \
                     the files with which the service begins",
                    json!({ "enum": ["tar"] }),
                )
                .gives(201, "the service runs", Some(json_of::<Service>()))
                .gives(422, "the workload is refused, or a file: files_refused", PROBLEM),
            services::deploy,
        )
        .route(
            get("/v1/services/{name}", OBSERVE, "Get the state of a service").gives(
                200,
                "the state",
                Some(json_of::<Service>()),
            ),
            services::inspect,
        )
        .route(delete("/v1/services/{name}", Admin, "Remove a service and its history permanently"), services::remove)
        .route(
            post("/v1/services/{name}/stop", OPERATE, "Take a snapshot of a service and release its VM").gives(
                200,
                "the state of the service afterwards",
                Some(json_of::<Service>()),
            ),
            services::stop,
        )
        .route(
            post("/v1/services/{name}/start", OPERATE, "Start a service that was stopped or quarantined").gives(
                200,
                "the state of the service afterwards",
                Some(json_of::<Service>()),
            ),
            services::start,
        )
        .route(
            post("/v1/services/{name}/failover", OPERATE, "Move a service to a fresh VM").gives(
                200,
                "the state of the service afterwards",
                Some(json_of::<Service>()),
            ),
            services::fail_over,
        )
        .route(
            post("/v1/services/{name}/drop", OPERATE, "Drop the queued requests of a user to a service")
                .takes(json_of::<DropRequest>())
                .gives(200, "the number of dropped requests", Some(json_of::<DropReply>())),
            services::drop_queued,
        )
        .route(
            get("/v1/services/{name}/doubts", OBSERVE, "List the calls in doubt of a service").gives(
                200,
                "the calls that may or may not have been made",
                Some(json_of::<Doubts>()),
            ),
            services::doubts,
        )
        .route(
            post("/v1/services/{name}/doubts", OPERATE, "Settle a call in doubt of a service")
                .describes("The next attempt of the transaction finds what was decided.")
                .takes(json_of::<SettleRequest>())
                .gives(200, "the calls that are still in doubt", Some(json_of::<Doubts>())),
            services::settle,
        )
        .route(
            post("/v1/services/{name}/snapshot", OPERATE, "Take a snapshot of a service").gives(
                200,
                "the state of the service afterwards",
                Some(json_of::<Service>()),
            ),
            services::snapshot,
        )
        .route(
            answered(
                post("/v1/services/{name}/transactions", TRANSACT, "Execute a transaction, once for each id")
                    .may_take(ANY)
                    .parameter(
                        "header",
                        "Idempotency-Key",
                        "the transaction's id: a repetition of the same id and body gets the same answer and is not \
                         executed again",
                        json!({ "type": "string", "pattern": key_pattern }),
                    ),
            ),
            transactions::transact,
        )
        .route(
            answered(get(
                "/v1/services/{name}/transactions/{id}",
                TRANSACT,
                "Look up the answer to one of the user's own transactions",
            ))
            .gives(202, "pending: try again later", Some(json_of::<TransactionState>()))
            .gives(404, "unknown: never executed, or beyond the deduplication window", PROBLEM),
            transactions::look_up,
        )
        .route(
            post(
                "/v1/services/{name}/transactions:batch",
                TRANSACT,
                "Execute many transactions, one per line, with answers streamed meanwhile",
            )
            .may_take(Content::Bytes(JSON_LINES))
            .gives(
                200,
                "one answer per line, in the order of the requests",
                Some(Content::Bytes(JSON_LINES)),
            ),
            batch::transact,
        )
        .route(
            answered(
                post("/v1/services/{name}/query", TRANSACT, "Query a service without changing its state").may_take(ANY),
            ),
            transactions::query,
        )
        .route(
            get("/v1/services/{name}/usage", OBSERVE, "Get the usage of a service since the server started").gives(
                200,
                "the usage",
                Some(json_of::<Usage>()),
            ),
            services::usage,
        )
        .route(
            get("/v1/services/{name}/disk", OBSERVE, "List a directory on the virtual disk of a service")
                .describes(
                    "A long directory is listed in parts. The member `next` shows that there are more entries: its \
                     value is the parameter `after` of the next request.",
                )
                .parameter("query", "path", "the directory, or a file", json!({ "type": "string", "default": "/" }))
                .parameter(
                    "query",
                    "after",
                    "list the entries whose names come after this one, in the order of their bytes",
                    json!({ "type": "string" }),
                )
                .gives(200, "the entries", Some(json_of::<DiskListing>()))
                .gives(404, "there is no such service, or no such file: no_such_file", PROBLEM),
            disk::list,
        )
        .route(
            get("/v1/services/{name}/disk/file", OBSERVE, "Read a part of a file on the virtual disk of a service")
                .describes(
                    "The body has up to 1 MiB of the file from the offset on, and nothing at its end. The header \
                     Lifeboat-File-Bytes has the length of the file, and ETag its version: with that in If-Match, \
                     further parts are of the same contents.",
                )
                .parameter("query", "path", "the file; required", json!({ "type": "string" }))
                .parameter(
                    "query",
                    "offset",
                    "the offset of the part, in bytes",
                    json!({ "type": "integer", "minimum": 0, "default": 0 }),
                )
                .parameter(
                    "header",
                    "If-Match",
                    "the version, from the header ETag of an earlier part",
                    json!({ "type": "string" }),
                )
                .gives(200, "the bytes", Some(ANY))
                .gives(404, "there is no such service, or no such file: no_such_file", PROBLEM)
                .gives(412, "file_changed: read the file again from its beginning", PROBLEM),
            disk::read,
        )
        .route(
            get(
                "/v1/usage",
                AnyUser,
                "Get the usage of all services that the user may observe, and of the host for admins",
            )
            .gives(200, "the usage", Some(json_of::<AllUsage>())),
            services::all_usage,
        )
        .route(
            get(
                "/v1/events",
                AnyUser,
                "Stream the events of all services that the user may observe, and of the host for admins",
            )
            .parameter("query", "service", "only the events of this service", name_schema())
            .parameter(
                "query",
                "event",
                "only the events of this kind, such as failover, sla_failure or log; a gap is always sent",
                json!({ "type": "string", "enum": events::kinds().collect::<Vec<_>>() }),
            )
            .parameter(
                "query",
                "follow",
                "if false, the stream ends after the events so far",
                json!({ "type": "boolean", "default": true }),
            )
            .parameter(
                "header",
                "Last-Event-ID",
                "continue after this event; a gap event reports the events that are no longer retained",
                json!({ "type": "string" }),
            )
            .gives(
                200,
                "server-sent events; a gap has the ids after and before of its two neighbours, and missed, the number \
                 of missing events",
                Some(Content::Bytes("text/event-stream")),
            )
            .gives(404, "there is no service of that name, and no event of one is retained", PROBLEM),
            events::stream_events,
        )
        .finish()
}
