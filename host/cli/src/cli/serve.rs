//! `lifeboat serve`: runs a host behind an HTTP API.

mod log;

use super::stop::{Stop, hangups};
use super::{UsageError, UsageErrors, code_cache, data, exit, load_workload, random, random_epoch};
use anyhow::Context;
use clap::Args;
use futures::{StreamExt, stream};
use lifeboat_api::clock::{Clock, SystemClock, Timestamp};
use lifeboat_api::event::{Event, EventSink};
use lifeboat_api::name::Name;
use lifeboat_api::sla::THRESHOLD_DEFAULT;
use lifeboat_host::catalog::{CATALOG_FILE, ServiceSettings};
use lifeboat_host::data::DataOptions;
use lifeboat_host::host::{Ended, Host, NewService};
use lifeboat_host::monitor::{Admission, HostThresholds, Monitor};
use lifeboat_host::network::NetworkSettings;
use lifeboat_host::service::LaunchError;
use lifeboat_server::config::{CONFIG_FILE, Config, ConfigError, ConfigErrors, Overrides, ServiceConfig, parse_listen};
use lifeboat_server::tls::{self, Validity};
use lifeboat_server::{ComposeError, Ground, Listener, Server, compose, connections_max};
use lifeboat_vm::engine::works_in_children;
use log::Log;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

const AFTER_HELP: &str = "\
SIGTERM or Ctrl-C stops the server: it accepts no new requests, answers those under way, takes a snapshot of every
service that it can, seals the journal, and exits with 0, all within shutdown_deadline_ms. A second signal ends the
process at once, unless it follows within half a second: nothing that was acknowledged is lost, and the next start
replays the history since the last snapshots. SIGHUP is logged and ignored.

Events are printed on standard error, one per line; with --json they are printed on standard output as JSON. A line
begins with its time, in UTC, unless standard error is systemd's journal, which adds its own.

The compiled code of workloads is kept in the folder code of the data directory, so that the next start is quicker. With
LIFEBOAT_CACHE=off in the environment, none is kept.

A service of the configuration that cannot be created is reported on a line. The other services are served, and the exit
code does not change.";

/// The share of the deadline for requests in flight. The rest is for snapshots and the seal.
const ANSWERING_SHARE: f64 = 0.5;

/// The most services of the configuration created at once. Meanwhile, the bytes of their workloads are in memory.
const CREATED_AT_ONCE: usize = 4;

/// The approximate number of files that a server opens besides its connections.
const FILES_BESIDE: u64 = 512;

/// A signal that follows the first one sooner than this counts as the same one. Some tools signal the process first,
/// and then its group.
const ASKED_AGAIN_MIN: Duration = Duration::from_millis(500);

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Serve {
    /// The configuration, as `lifeboat init` writes it
    #[arg(long, value_name = "FILE", env = "LIFEBOAT_CONFIG", default_value = CONFIG_FILE)]
    config: PathBuf,
    /// The address to listen on, instead of that of the configuration
    #[arg(long, value_name = "ADDRESS", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// The data directory, instead of that of the configuration
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Listen without TLS on an address that others can reach: a proxy in front of it encrypts
    #[arg(long)]
    insecure: bool,
    /// Print events as JSON
    #[arg(long)]
    json: bool,
}

impl Serve {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let flags = Overrides { listen: self.listen, data: self.data.clone() };
        let environment = Overrides::from_environment(|name| std::env::var_os(name));
        let environment = environment.map_err(|error| usage(&error.into()))?;
        let overrides = flags.over(environment);
        let config = Config::read(&self.config, &overrides);
        let config = config.map_err(|errors| unreadable(&errors, &self.config, overrides.data.as_deref()))?;
        let log = Log::start(self.json)?;
        raise_file_limit(&config, &log);
        let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("server").enable_all().build()?;
        let code = runtime.block_on(self.serve(config, &log));
        log.flush();
        // The remaining tasks are connections whose clients did not leave in time.
        runtime.shutdown_background();
        code
    }

    async fn serve(self, config: Config, log: &Log) -> anyhow::Result<ExitCode> {
        let mut stop = Stop::of_server()?;
        ignore_hangups(log)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let tls = config.server.tls.as_ref().map(|files| tls::load(&files.certificate, &files.key, clock.now()));
        let tls = tls.transpose();
        let tls = tls.map_err(|errors| UsageErrors(errors.iter().map(ToString::to_string).collect()))?;
        let validity = tls.as_ref().and_then(|loaded| loaded.validity);
        if let Some((files, validity)) = config.server.tls.as_ref().zip(validity)
            && let Some(warning) = certificate_warning(&files.certificate, validity, clock.now())
        {
            log.note(&warning);
        }
        let tls = tls.map(|loaded| loaded.config);
        let credentials = config.credentials(|name| std::env::var_os(name));
        let credentials =
            credentials.map_err(|errors| UsageErrors(errors.iter().map(ToString::to_string).collect()))?;
        let listener = Listener::bind(config.server.listen, tls, self.insecure).await;
        let listener = listener.map_err(|error| UsageError(error.to_string()))?;
        let address = listener.address()?;
        let scheme = if listener.has_tls() { "https" } else { "http" };

        let of_cache = log.clone();
        let code_cache = code_cache::of_served_directory(&config.data, move |line| of_cache.note(line))?;
        let of_directory = || format!("data directory '{}'", config.data.display().to_string().escape_debug());
        let locked = data::open(&config.data, false)?;
        // Before any service begins: an address that the file does not allow any more is not called again.
        let networks = config.networks();
        let changed = locked.set_networks(&networks).map_err(data::graded).with_context(of_directory)?;
        let (directory, contents) =
            locked.open_journal(&DataOptions::default()).map_err(data::graded).with_context(of_directory)?;
        let admission = Admission::default();
        let starting_up = admission.begin_start();
        let server = compose(
            config.clone(),
            Ground {
                directory: Arc::clone(&directory),
                credentials,
                code_cache,
                last_sink: event_printer(log, &clock),
                admission,
                watch: |admission, sink| {
                    let thresholds = HostThresholds::all(THRESHOLD_DEFAULT);
                    let monitor = Monitor::start(&config.data, thresholds, admission, Arc::clone(&clock), sink);
                    monitor.inspect_err(|error| log.note(&format!("{error}; the server continues without it"))).ok()
                },
                clock: Arc::clone(&clock),
            },
        );
        // Exit codes depend on the cause of an error, not on its place.
        let server = server.map_err(|error| match error {
            ComposeError::Engine(error) => anyhow::Error::from(error),
            ComposeError::Catalog(error) => error.into(),
            error => error.into(),
        })?;
        data::check_users(&config.data, server.accounts().list().len())?;
        let (of_journal, journal) = (log.clone(), directory.committer().clone());
        tokio::spawn(async move {
            let error = anyhow::Error::from(journal.failed().await);
            of_journal.note(&format!(
                "{error:#}: no service accepts transactions until the server is restarted; check the disk first: \
                 everything acknowledged is in the files that the server had opened"
            ));
        });
        let deadline = config.server.shutdown_deadline;
        log.note(&format!("listening on {scheme}://{address}"));
        for name in changed {
            log.note(&network_note(&name, &networks[&name]));
        }
        let (wanted, max) = (config.server.limits.connections_max, connections_max(&config.server.limits));
        if max < wanted {
            log.note(&format!(
                "connections_max is {max} instead of {wanted}, because of the limit of open files; raise that (ulimit \
                 -n), or lower connections_max"
            ));
        }
        if !works_in_children() {
            log.note(
                "warning: /proc does not name this executable, so the server itself loads and compiles workloads, \
                 without a limit of their time and memory; mount /proc",
            );
        }
        let of_host = server.clone();
        tokio::spawn(async move { of_host.host().bring_back().await });
        let starting = async {
            let mut failed = None;
            let epochs = std::iter::from_fn(|| random_epoch().map_err(|error| failed = Some(error)).ok());
            let mut epochs = epochs.take(contents.services.len()).collect::<Vec<_>>().into_iter();
            if let Some(error) = failed {
                return Err(error);
            }
            let draw = || epochs.next().expect("one for each service");
            server.host().recover(contents, draw).await;
            let not_created = create_missing(&server, &config, log).await;
            drop(starting_up);
            server.begin();
            log.note(&standing(server.host(), not_created)?);
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
        log.note("stopping: requests under way are answered");
        let start = Instant::now();
        drop(end);
        let ending = async {
            serving.await;
            tokio::time::timeout(deadline.saturating_sub(start.elapsed()), server.host().stop()).await
        };
        let ended = tokio::select! {
            ended = ending => ended,
            () = asked_again(&mut stop, start) => {
                log.note("asked twice: ended at once; the next start replays the history since the last snapshots");
                return Ok(ExitCode::from(exit::HOST));
            }
        };
        let ended = match ended {
            Err(_) => {
                let text = "the services did not end in time: the journal is not sealed, nothing acknowledged is lost, \
                            and the next start replays the history since the last snapshots; a larger \
                            shutdown_deadline_ms gives them more time";
                anyhow::bail!("{text}");
            }
            Ok(stopped) => stopped.context("the journal could not be sealed; the next start replays its files")?,
        };
        if let Some(Err(error)) = started {
            return Err(error);
        }
        let snapshotted = snapshotted(&ended, log);
        log.note(&format!("stopped: {snapshotted}, the journal is sealed ({} ms)", start.elapsed().as_millis()));
        Ok(ExitCode::from(exit::OK))
    }
}

/// Describes the network that the configuration gives to an existing service.
fn network_note(name: &Name, NetworkSettings { allow, retry }: &NetworkSettings) -> String {
    if allow.is_empty() {
        return format!("service '{name}' of the configuration calls nobody from now on");
    }
    let entries: Vec<String> = allow.entries().iter().map(ToString::to_string).collect();
    format!("service '{name}' of the configuration calls {} from now on, retry {retry}", entries.join(", "))
}

/// Returns a warning if the certificate expires soon.
fn certificate_warning(file: &Path, validity: Validity, now: Timestamp) -> Option<String> {
    let warning = validity.warning(now)?;
    Some(format!("warning: the certificate '{}' {warning}", file.display().to_string().escape_debug()))
}

/// Logs each SIGHUP. The signal does not end a server, and the server reloads nothing on it.
fn ignore_hangups(log: &Log) -> io::Result<()> {
    let Some(mut hangups) = hangups()? else { return Ok(()) };
    let log = log.clone();
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            log.note(
                "SIGHUP is ignored: the server reads its configuration and its certificate only when it starts; \
                 restart it to load new ones; SIGTERM stops it",
            );
        }
    });
    Ok(())
}

/// Returns a sink that logs events for the operator.
fn event_printer(log: &Log, clock: &Arc<dyn Clock>) -> EventSink {
    let (log, clock) = (log.clone(), Arc::clone(clock));
    Arc::new(move |event: &Event| log.event(event, clock.now()))
}

/// Creates the services of the configuration that are missing, and returns those that could not be created.
async fn create_missing(server: &Server, config: &Config, log: &Log) -> BTreeSet<Name> {
    // Each creation is its own task, so that a stop of the server does not leave it half done.
    let creating = |service: ServiceConfig| async {
        (service.clone(), tokio::spawn(create(server.clone(), service)).await.map_err(anyhow::Error::from).flatten())
    };
    // A service that takes long, or cannot be created, does not delay the others.
    let mut created = stream::iter(config.services.clone()).map(creating).buffered(CREATED_AT_ONCE);
    let mut not_created = BTreeSet::new();
    while let Some((service, created)) = created.next().await {
        let Err(error) = created else { continue };
        let name = &service.name;
        let is_refused_for_now = matches!(error.downcast_ref(), Some(LaunchError::UnderPressure(_)));
        let then = if is_refused_for_now { "; it is created as soon as the host is relieved" } else { "" };
        log.note(&format!("service '{name}' of the configuration is missing, and cannot be created: {error:#}{then}"));
        if is_refused_for_now {
            tokio::spawn(create_admitted(server.clone(), service.clone(), log.clone()));
        }
        not_created.insert(name.clone());
    }
    not_created
}

/// Creates a service that was refused under pressure, once the host admits services again.
async fn create_admitted(server: Server, service: ServiceConfig, log: Log) {
    let name = service.name.clone();
    loop {
        server.host().admitted().await;
        match create(server.clone(), service.clone()).await {
            Ok(()) => return,
            Err(error) if matches!(error.downcast_ref(), Some(LaunchError::UnderPressure(_))) => {}
            Err(error) => {
                return log.note(&format!("service '{name}' of the configuration cannot be created: {error:#}"));
            }
        }
    }
}

/// Creates a service if it is missing.
async fn create(server: Server, service: ServiceConfig) -> anyhow::Result<()> {
    let network = service.network();
    let ServiceConfig { name, workload, size, failover, thresholds, program, .. } = service;
    if server.host().entry(&name)?.is_some() {
        return Ok(());
    }
    let settings = server.config().settings(Some(&size), Some(thresholds), failover).map_err(UsageError)?;
    let settings = ServiceSettings { network, program, ..settings };
    let (workload, bytes) = tokio::task::spawn_blocking(move || load_workload(&workload)).await??;
    let (secret, epoch) = (random()?, random_epoch()?);
    let workload_bytes = bytes.into();
    let new = NewService { name, workload, workload_bytes, settings, secret, epoch, disk: None };
    Ok(server.host().create_durable_service(new).await?)
}

/// Formats how many of the services are served, and why the others are not.
fn standing(host: &Host, mut not_created: BTreeSet<Name>) -> anyhow::Result<String> {
    let entries = host.entries()?;
    not_created.retain(|name| !entries.contains_key(name));
    let idle = host.idle_services();
    let orphans = idle.keys().filter(|name| !entries.contains_key(*name) && !not_created.contains(*name)).count();
    let (running, idle): (Vec<_>, Vec<_>) = entries.into_keys().partition(|name| host.has_service(name));
    let quarantined = idle.iter().filter(|name| host.quarantined(name).is_some()).count();
    let others = [
        (idle.len() - quarantined, "stopped"),
        (quarantined, "quarantined"),
        (not_created.len(), "could not be created"),
        (orphans, "not in the catalog"),
    ];
    let others: Vec<String> =
        others.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let all = running.len() + idle.len() + not_created.len() + orphans;
    let why = if others.is_empty() { String::new() } else { format!(": {}", others.join(", ")) };
    Ok(format!("serving {} of {all} services{why}", running.len()))
}

/// Formats how many of the running services are snapshotted. Logs each of the others on its own line.
fn snapshotted(ended: &Ended, log: &Log) -> String {
    let Ended { services, not_snapshotted } = ended;
    for (name, reason) in not_snapshotted {
        log.note(&format!("service '{name}' is not snapshotted, and the next start replays it: {reason}"));
    }
    match not_snapshotted.len() {
        0 => "every service is snapshotted".into(),
        others => format!("{} of {services} services are snapshotted", services.saturating_sub(others)),
    }
}

/// Raises the limit of open files as far as needed. Each connection is a file, and shells allow a thousand.
fn raise_file_limit(config: &Config, log: &Log) {
    let connections = u64::from(config.server.limits.connections_max);
    // `FILES_BESIDE` is for segments, snapshots, pipes, and the files of libraries.
    let wanted = connections + FILES_BESIDE;
    if let Err(error) = rlimit::increase_nofile_limit(wanted) {
        log.note(&format!("the limit of open files cannot be raised: {error}"));
    }
}

/// Returns the error of a missing or wrong configuration. A user in a data directory expects the directory to be
/// served, so the error explains how.
fn unreadable(errors: &ConfigErrors, config: &Path, data: Option<&Path>) -> anyhow::Error {
    // The current folder has an empty name.
    let folder = config.parent().unwrap_or(Path::new(""));
    let is_data = |path: &Path| path.join(CATALOG_FILE).is_file();
    let of_init = Path::new("..").join(CONFIG_FILE);
    match &errors.0[..] {
        [error @ ConfigError::Missing { .. }] if is_data(folder) && folder.join(&of_init).is_file() => {
            UsageError(format!(
                "{error}; this is the data directory of another configuration: run lifeboat serve --config {}",
                folder.join(&of_init).display().to_string().escape_debug()
            ))
            .into()
        }
        [error @ ConfigError::Missing { .. }] if is_data(folder) || data.is_some_and(is_data) => UsageError(format!(
            "{error}, also for a data directory that lifeboat run created: move it to FOLDER/data, and run lifeboat \
             init FOLDER to add an admin and a configuration; its services stay"
        ))
        .into(),
        _ => usage(errors),
    }
}

fn usage(errors: &ConfigErrors) -> anyhow::Error {
    UsageErrors(errors.0.iter().map(ToString::to_string).collect()).into()
}

/// Waits for a signal that does not echo the one at `first`.
async fn asked_again(stop: &mut Stop, first: Instant) {
    loop {
        stop.asked().await;
        if first.elapsed() >= ASKED_AGAIN_MIN {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_expires_soon_is_warned_of() {
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/tls/server.pem"));
        let loaded = tls::load(file, &file.with_file_name("server.key"), SystemClock.now()).expect("a certificate");
        let validity = loaded.validity.expect("it says so");
        let end = validity.not_after;
        let before = |days: u64| Timestamp(end.0 - days * 24 * 60 * 60 * 1_000_000_000);
        assert_eq!(certificate_warning(file, validity, before(31)), None);
        let warning = certificate_warning(file, validity, before(10)).expect("not for long");
        assert!(warning.starts_with("warning: the certificate '"), "{warning}");
        let shown = "server.pem' expires in 10 days, at 2126-10-29T19:25:26Z; renew it and restart the server";
        assert!(warning.ends_with(shown), "{warning}");
        assert_eq!(certificate_warning(file, validity, Timestamp(end.0 + 1)), None, "it is refused then");
    }
}
