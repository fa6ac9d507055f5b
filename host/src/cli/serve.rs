//! `lifeboat serve`: a host behind an HTTP API.

use super::{UsageError, data, exit, load_workload, random, random_epoch};
use anyhow::Context;
use clap::Args;
use lifeboat::auth::{Accounts, argon2id};
use lifeboat::clock::{Clock, SystemClock};
use lifeboat::config::{CONFIG_FILE, Config, ConfigError, Overrides, ServiceConfig, parse_listen};
use lifeboat::data::{DataDirectory, DataOptions};
use lifeboat::event::{Event, EventSink};
use lifeboat::failover::THRESHOLD_DEFAULT;
use lifeboat::host::{Host, NewService};
use lifeboat::metrics::Metrics;
use lifeboat::monitor::{Admission, HostThresholds, Monitor};
use lifeboat::server::{EventLog, Listener, Parts, Server, tls};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

const AFTER_HELP: &str = "\
SIGTERM or Ctrl-C: no new requests are taken, those under way are answered, every service is snapshotted, the journal is
sealed, and the exit code is 0; all within shutdown_deadline_ms. A second one ends the process at once: nothing that was
acknowledged is lost, and the next start replays what was not snapshotted.

Events go to standard error, a line each; with --json to standard output as JSON.";

/// The share of the deadline that requests under way may take; the rest is for snapshots and the seal.
const ANSWERING_SHARE: f64 = 0.5;

/// Files that a server opens beside its connections, about.
const FILES_BESIDE: u64 = 512;

/// Lines that wait to be printed: then events are counted, and not printed. Services do not wait for a terminal.
const LINES_MAX: usize = 4_096;

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Serve {
    /// The configuration, as `lifeboat init` writes it
    #[arg(long, value_name = "FILE", env = "LIFEBOAT_CONFIG", default_value = CONFIG_FILE)]
    config: PathBuf,
    /// Where to listen, in the place of what the configuration says
    #[arg(long, value_name = "ADDRESS", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// The data directory, in the place of that of the configuration
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Listen without TLS although others can reach the address: something in front of it encrypts
    #[arg(long)]
    insecure: bool,
    /// Print events as JSON
    #[arg(long)]
    json: bool,
}

impl Serve {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let flags = Overrides { listen: self.listen, data: self.data.clone() };
        let environment = Overrides::from_environment(|name| std::env::var_os(name)).map_err(usage)?;
        let config = Config::read(&self.config, &flags.over(environment)).map_err(usage)?;
        raise_file_limit(&config);
        let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("server").enable_all().build()?;
        let code = runtime.block_on(self.serve(config));
        // What is left is connections whose clients did not leave in time.
        runtime.shutdown_background();
        code
    }

    async fn serve(self, config: Config) -> anyhow::Result<ExitCode> {
        let mut stop = Stop::new()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let events = Arc::new(EventLog::new(clock.now()));
        let metrics = Arc::new(Metrics::default());
        let sink = self.sink(&events, &metrics, &clock);

        let tls = config.server.tls.as_ref().map(|files| tls(&files.certificate, &files.key));
        let tls = tls.transpose().map_err(|error| UsageError(error.to_string()))?;
        let listener = Listener::bind(config.server.listen, tls, self.insecure).await;
        let listener = listener.map_err(|error| UsageError(format!("{:#}", anyhow::Error::from(error))))?;
        let address = listener.address()?;
        let scheme = if listener.has_tls() { "https" } else { "http" };

        let (directory, contents) = data::take(&config.data, false)?
            .open(&DataOptions::default())
            .with_context(|| format!("data directory '{}'", config.data.display().to_string().escape_debug()))?;
        let admission = Admission::default();
        let host = Host::new(config.host(), Arc::clone(&clock), Arc::clone(&sink))?
            .with_data(Arc::clone(&directory))
            .with_admission(admission.clone());
        let catalog: Arc<DataDirectory> = Arc::clone(&directory);
        let lifetime = config.tokens.lifetime;
        let accounts = Accounts::load(catalog, host.shared_authority(), argon2id(), lifetime, clock.now())?;
        if accounts.list().is_empty() {
            let text = "the data directory has no users, so nobody could log in; lifeboat init makes one with an admin";
            return Err(UsageError(text.into()).into());
        }
        let thresholds = HostThresholds::all(THRESHOLD_DEFAULT);
        let monitor = Monitor::start(&config.data, thresholds, admission, Arc::clone(&clock), Arc::clone(&sink));
        let monitor = monitor.inspect_err(|error| note(&format!("{error}; it goes on without"))).ok();

        let deadline = config.server.shutdown_deadline;
        let counted = Arc::clone(&metrics);
        let server = Server::new(Parts { host, accounts, events, metrics, monitor, clock, config: config.clone() });
        note(&format!("listening on {scheme}://{address}"));
        let starting = async {
            let mut failed = None;
            let epochs = std::iter::from_fn(|| random_epoch().map_err(|error| failed = Some(error)).ok());
            let mut epochs = epochs.take(contents.services.len()).collect::<Vec<_>>().into_iter();
            if let Some(error) = failed {
                return Err(error);
            }
            let draw = || epochs.next().expect("one for each service");
            server.host().recover(contents, draw).await;
            create_missing(server.host(), &counted, &config).await;
            server.begin();
            let entries = server.host().entries()?;
            let running = entries.keys().filter(|name| server.host().has_service(name)).count();
            note(&format!("serving {running} of {} services", entries.len()));
            Ok(())
        };
        let mut started = None;
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let answering = deadline.mul_f64(ANSWERING_SHARE);
        let mut serving = std::pin::pin!(server.serve(listener, async { drop(ended.await) }, answering));
        tokio::select! {
            () = &mut serving => {}
            result = starting => started = Some(result),
            () = stop.asked() => {}
        }
        if matches!(started, Some(Ok(()))) {
            tokio::select! {
                () = &mut serving => {}
                () = stop.asked() => {}
            }
        }
        note("stopping: requests under way are answered");
        let start = Instant::now();
        drop(end);
        let ending = async {
            serving.await;
            tokio::time::timeout(deadline.saturating_sub(start.elapsed()), server.host().stop()).await
        };
        let ended = tokio::select! {
            ended = ending => ended,
            () = stop.asked() => {
                note("asked twice: ended at once; the next start replays what was not snapshotted");
                return Ok(ExitCode::from(exit::HOST));
            }
        };
        match ended {
            Err(_) => {
                let text = "the services did not end in time: the journal is not sealed, nothing acknowledged is lost, and \
                            the next start replays what was not snapshotted; a larger shutdown_deadline_ms gives them more";
                anyhow::bail!("{text}");
            }
            Ok(stopped) => stopped.context("the journal could not be sealed; nothing acknowledged is lost")?,
        }
        if let Some(Err(error)) = started {
            return Err(error);
        }
        note(&format!(
            "stopped: every service is snapshotted, the journal is sealed ({} ms)",
            start.elapsed().as_millis()
        ));
        Ok(ExitCode::from(exit::OK))
    }

    /// Events go to the log for clients, to the metrics, and to the operator.
    fn sink(&self, events: &Arc<EventLog>, metrics: &Arc<Metrics>, clock: &Arc<dyn Clock>) -> EventSink {
        let (events, metrics, clock, json) = (Arc::clone(events), Arc::clone(metrics), Arc::clone(clock), self.json);
        let (lines, printed) = mpsc::sync_channel::<String>(LINES_MAX);
        let unprinted = Arc::new(AtomicU64::new(0));
        let of_thread = Arc::clone(&unprinted);
        // It ends with the last sink. An operator who is not there misses lines, and no client anything.
        std::thread::spawn(move || {
            for line in printed {
                let missed = of_thread.swap(0, Ordering::Relaxed);
                if missed > 0 {
                    note(&format!("{missed} events were not printed: they came faster than they could be"));
                }
                let _ = if json {
                    writeln!(io::stdout().lock(), "{line}")
                } else {
                    writeln!(io::stderr().lock(), "{line}")
                };
            }
        });
        Arc::new(move |event: &Event| {
            metrics.observe(event);
            events.add(event, clock.now());
            let line = if json { serde_json::to_string(event).unwrap_or_default() } else { event.to_string() };
            if lines.try_send(line).is_err() {
                unprinted.fetch_add(1, Ordering::Relaxed);
            }
        })
    }
}

/// Creates the services of the configuration that are not there.
async fn create_missing(host: &Host, metrics: &Metrics, config: &Config) {
    for service in &config.services {
        // One that cannot be created keeps no other from being served.
        match create(host, service, config).await {
            Ok(false) => {}
            Ok(true) => {
                let _ = metrics.service(&service.name);
                note(&format!("created service {}", service.name));
            }
            Err(error) => note(&format!("cannot create service '{}': {error:#}", service.name)),
        }
    }
}

/// Creates a service if it is not there. Says whether it was created.
async fn create(host: &Host, service: &ServiceConfig, config: &Config) -> anyhow::Result<bool> {
    if host.entry(&service.name)?.is_some() {
        return Ok(false);
    }
    {
        let (workload, bytes) = load_workload(&service.workload)?;
        let settings =
            config.settings(Some(&service.size), Some(service.thresholds), service.failover).map_err(UsageError)?;
        let name = service.name.clone();
        let new = NewService {
            name: name.clone(),
            workload,
            workload_bytes: bytes.into(),
            settings,
            secret: random()?,
            epoch: random_epoch()?,
            sabotage: None,
        };
        host.create_durable_service(new).await?;
    }
    Ok(true)
}

/// Lets the process have as many files as it may: each connection is one, and shells give a thousand.
fn raise_file_limit(config: &Config) {
    let connections = u64::from(config.server.limits.connections_max);
    // Segments, snapshots, pipes, and what the libraries have.
    let wanted = connections + FILES_BESIDE;
    match rlimit::increase_nofile_limit(wanted) {
        Ok(limit) if limit >= wanted => {}
        Ok(limit) => note(&format!(
            "the process may open {limit} files, {wanted} are wanted for connections_max = {connections}: beyond that \
             connections wait; raise the limit (ulimit -n), or lower connections_max"
        )),
        Err(error) => note(&format!("the limit of open files cannot be raised: {error}")),
    }
}

fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "lifeboat: {text}");
}

fn usage(error: ConfigError) -> anyhow::Error {
    UsageError(error.to_string()).into()
}

/// The signals that ask the process to end.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
