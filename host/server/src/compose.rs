//! The only module that builds a server.

use crate::config::Config;
use crate::server::{EventLog, Parts, Server};
use lifeboat_api::clock::Clock;
use lifeboat_api::event::{Event, EventSink};
use lifeboat_api::name::Name;
use lifeboat_host::auth::{Accounts, argon2id};
use lifeboat_host::catalog::CatalogError;
use lifeboat_host::data::DataDirectory;
use lifeboat_host::host::{Host, HostConfig};
use lifeboat_host::metrics::Metrics;
use lifeboat_host::monitor::{Admission, Monitor};
use lifeboat_host::network::ServiceCredentials;
use lifeboat_vm::engine::{CodeCache, EngineError};
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;

/// The parts of a server that do not follow from its configuration.
pub struct Ground<W> {
    /// The data directory with the services and users. The caller opened it, and received the services to recover from
    /// that.
    pub directory: Arc<DataDirectory>,
    /// The secrets and certificate authorities of services, as [`Config::credentials`] reads them.
    pub credentials: BTreeMap<Name, ServiceCredentials>,
    /// The cache of compiled workloads, if there is one.
    pub code_cache: Option<Arc<CodeCache>>,
    /// The source of the time.
    pub clock: Arc<dyn Clock>,
    /// The last receiver of every event, after the log for clients and the metrics.
    pub last_sink: EventSink,
    /// The check that must pass before a service is created.
    pub admission: Admission,
    /// Starts the monitor of the machine's load, which notifies the admission and the sink. Returns `None` if the load
    /// is not monitored.
    pub watch: W,
}

/// The reason why a server could not be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ComposeError {
    /// The engine rejects the configuration.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The users could not be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Creates the host of a server, without services. Compiled workloads are kept in `code_cache`, if there is one.
///
/// # Errors
/// [`EngineError::SetUp`] if the engine rejects the configuration.
pub fn host(
    config: &Config,
    code_cache: Option<Arc<CodeCache>>,
    clock: Arc<dyn Clock>,
    sink: EventSink,
) -> Result<Host, EngineError> {
    Host::new(HostConfig { code_cache, ..config.host() }, clock, sink).map_err(EngineError::of_configuration)
}

/// Builds a server from its configuration. The server has its users, but no services: [`Host::recover`] recovers them,
/// and [`Server::begin`] begins to serve users.
///
/// # Errors
/// [`ComposeError`] if the engine rejects the configuration or the users cannot be read.
pub fn compose<W>(config: Config, ground: Ground<W>) -> Result<Server, ComposeError>
where
    W: FnOnce(Admission, EventSink) -> Option<Monitor>,
{
    let Ground { directory, credentials, code_cache, clock, last_sink, admission, watch } = ground;
    let events = Arc::new(EventLog::new(clock.now()));
    let metrics = Arc::new(Metrics::default());
    let sink: EventSink = {
        let (events, metrics, clock) = (Arc::clone(&events), Arc::clone(&metrics), Arc::clone(&clock));
        Arc::new(move |event: &Event| {
            metrics.observe(event);
            events.add(event, clock.now());
            last_sink(event);
        })
    };
    let host = host(&config, code_cache, Arc::clone(&clock), Arc::clone(&sink))?
        .with_data(Arc::clone(&directory))
        .with_credentials(credentials)
        .with_admission(admission.clone());
    let lifetime = config.tokens.lifetime;
    let accounts = Accounts::load(directory, host.shared_authority(), argon2id(), lifetime, clock.read())?;
    let monitor = watch(admission, sink);
    Ok(Server::new(Parts { host, accounts, events, metrics, monitor, clock, config }))
}
