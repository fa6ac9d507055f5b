//! The one place that puts a server together.

use crate::config::Config;
use crate::server::{EventLog, Parts, Server};
use lifeboat_api::clock::Clock;
use lifeboat_api::event::{Event, EventSink};
use lifeboat_host::auth::{Accounts, argon2id};
use lifeboat_host::catalog::CatalogError;
use lifeboat_host::data::DataDirectory;
use lifeboat_host::host::Host;
use lifeboat_host::metrics::Metrics;
use lifeboat_host::monitor::{Admission, Monitor};
use lifeboat_vm::engine::EngineError;
use std::sync::Arc;
use thiserror::Error;

/// What a server stands on that its configuration does not say.
pub struct Ground<W> {
    /// Where its services and users are. It was opened by the caller, who gets with it what is to be brought back.
    pub directory: Arc<DataDirectory>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Is told every event, after the log for clients and the metrics.
    pub tell: EventSink,
    /// Asked before a service is created.
    pub admission: Admission,
    /// Begins to watch the load of the machine, of which it tells the admission and the sink; none if it is not watched.
    pub watch: W,
}

/// Why a server could not be put together.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ComposeError {
    /// The engine refuses what the configuration asks for.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The users could not be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// The host of a server, with nothing in it yet.
///
/// # Errors
/// [`EngineError::SetUp`]: the engine refuses what the configuration asks for.
pub fn host(config: &Config, clock: Arc<dyn Clock>, sink: EventSink) -> Result<Host, EngineError> {
    Host::new(config.host(), clock, sink).map_err(EngineError::of_configuration)
}

/// Makes a server of its configuration. It has its users, and no service yet: [`Host::recover`] brings them back, and
/// [`Server::begin`] lets users in.
///
/// # Errors
/// [`ComposeError`].
pub fn compose<W>(config: Config, ground: Ground<W>) -> Result<Server, ComposeError>
where
    W: FnOnce(Admission, EventSink) -> Option<Monitor>,
{
    let Ground { directory, clock, tell, admission, watch } = ground;
    let events = Arc::new(EventLog::new(clock.now()));
    let metrics = Arc::new(Metrics::default());
    let sink: EventSink = {
        let (events, metrics, clock) = (Arc::clone(&events), Arc::clone(&metrics), Arc::clone(&clock));
        Arc::new(move |event: &Event| {
            metrics.observe(event);
            events.add(event, clock.now());
            tell(event);
        })
    };
    let host = host(&config, Arc::clone(&clock), Arc::clone(&sink))?
        .with_data(Arc::clone(&directory))
        .with_admission(admission.clone());
    let lifetime = config.tokens.lifetime;
    let accounts = Accounts::load(directory, host.shared_authority(), argon2id(), lifetime, clock.read())?;
    let monitor = watch(admission, sink);
    Ok(Server::new(Parts { host, accounts, events, metrics, monitor, clock, config }))
}
