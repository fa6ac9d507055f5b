//! `lifeboat run`: runs one workload as one service of a local host, and sends it lines of input; or runs a program once.

pub(super) mod lines;
mod network;
pub(super) mod program;

use super::arguments::{NetworkArguments, network_text};
use super::limits::LimitArguments;
use super::on_disk::{Beside, Needs, bring_up, largest};
use super::pack::{self, Dir};
use super::stop::Stop;
use super::{
    DATA_VARIABLE, UsageError, arguments, code_cache, data, exit, is_pipe_open, load_workload, output, random,
    random_epoch,
};
use anyhow::Context;
use clap::Args;
use futures::FutureExt;
use lifeboat_api::access::Grant;
use lifeboat_api::clock::{Clock, SystemClock, Timestamp};
use lifeboat_api::event::{Event, EventSink};
use lifeboat_api::id::Epoch;
use lifeboat_api::id::WorkloadHash;
use lifeboat_api::lines::{ENVELOPE_BYTES_MAX, Line, NotDone, json_line, outcome, parse_envelope, plain, print};
use lifeboat_api::meter::{Resource, Unit};
use lifeboat_api::name::{NAME_BYTES_MAX, Name};
use lifeboat_api::size::{Bytes, BytesBeside, Size, grouped};
use lifeboat_api::sla::{THRESHOLD_DEFAULT, Thresholds};
use lifeboat_api::transaction::{BODY_BYTES_MAX, Outcome, Reply};
use lifeboat_disk::Disk;
use lifeboat_host::answers::DeduplicationWindow;
use lifeboat_host::catalog::{ServiceEntry, ServiceSettings};
use lifeboat_host::command_line::ProgramSettings;
use lifeboat_host::credential::Token;
use lifeboat_host::data::keep_workload;
use lifeboat_host::host::{Host, NewService};
use lifeboat_host::network::{NetworkSettings, Retry};
use lifeboat_host::service::{ServiceSpec, Status};
use lifeboat_vm::workload::{Kind, Workload};
use lines::Lines;
use network::RunNetwork;
use program::{Once, Variable};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

/// The most requests in flight. It is less than a service's queue holds, so that none is denied for want of room.
const IN_FLIGHT_MAX: usize = 256;

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(override_usage = "lifeboat run [OPTIONS] <WORKLOAD>\n       lifeboat run [OPTIONS] --data <DIR> --service <NAME>\n       lifeboat run [OPTIONS] <PROGRAM> [ARGS]...", after_help = after_help())]
pub(crate) struct Run {
    /// Store the service in this data directory: create it there, or continue it
    #[arg(long, value_name = "DIR", env = DATA_VARIABLE)]
    data: Option<PathBuf>,
    /// The service's name [default: that of the workload's file]
    #[arg(long, value_name = "NAME")]
    service: Option<Name>,
    /// Read transactions from FILE instead of standard input
    #[arg(long, value_name = "FILE")]
    transactions: Option<PathBuf>,
    /// Lines are JSON objects with an id, a user and a body; every user that a line names is accepted
    #[arg(long)]
    envelope: bool,
    #[command(flatten)]
    limits: LimitArguments,
    #[command(flatten)]
    network: RunNetwork,
    /// The user of transactions that name none
    #[arg(long, value_name = "NAME", default_value = "operator")]
    user: Name,
    /// Print every reply, event and the usage as JSON, one object per line
    #[arg(long)]
    json: bool,
    /// Begin with the files of this directory, as GUEST on the virtual disk [default: the same path]; repeatable. A
    /// program finds the directory by the name GUEST, and changes only the copy
    #[arg(long = "dir", value_name = "HOST[::GUEST]")]
    dirs: Vec<Dir>,
    /// A variable of the program's environment; without a value, that of this command; repeatable
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    environment: Vec<Variable>,
    /// The workload or program: a component, a core module, or either as text; an existing service does not need it. What
    /// follows is for the program
    #[arg(value_name = "WORKLOAD", trailing_var_arg = true)]
    workload_and_arguments: Vec<OsString>,
    // The last one: its heading is that of all that follow.
    #[command(flatten)]
    once: Once,
}

fn after_help() -> String {
    let sizes = sizes_table();
    format!(
        "\
A program is a WASI command: its file exports wasi:cli/run or _start. It runs once, with the limits of size huge, and this
command ends with its exit code: 134 if the host ended it, 141 if nobody reads its output. With --allow-net HOST:PORT it
may connect there by TCP. With --transactions, --data or --service it is a service instead: each transaction is one run,
with the body on standard input and the reply on standard output, and its files are the state.

A line of input is the body of a transaction, byte for byte. With --envelope it is a JSON object:
  {{\"id\"?: ID, \"user\"?: NAME, \"query\"?: true, and one of \"json\": ANY | \"text\": STRING | \"base64\": STRING}}
A reply of one line is printed unchanged. Any other reply, and every outcome except ok, is printed as:
  {{\"id\", \"outcome\", \"json\" | \"text\" | \"base64\", \"cause\"?}}
With --json every reply is printed so, with its \"fuel_used\".
Events and the closing usage table are printed on standard error.
With --data, a reply is printed once its transaction is durable. After a crash, send the transactions without a reply
again, with the same ids.

Compiled code is kept for the next run: in DIR/code with --data, and otherwise in lifeboat in $XDG_CACHE_HOME or
~/.cache. With LIFEBOAT_CACHE=off in the environment, none is kept.

Ctrl-C, SIGTERM or SIGHUP ends the input: the command waits for the answers under way, standard error reports the line
with which the rest begins, and the exit code is 1 if there may be a rest. A second signal ends the run at once;
transactions without an answer may or may not be done. With --data neither signal loses an answered transaction.

Sizes, smallest first; a service whose memory or disk is full moves to a larger one:
{sizes}
Examples:
  echo '{{\"add\":1}}' | lifeboat run counter.wasm
  lifeboat run --dir texts::/in wordcount.wasm /in/a.txt"
    )
}

/// Returns the table of the built-in sizes, for 80 columns.
fn sizes_table() -> String {
    let mut text = String::from("  name              fuel   memory     disk                    network  deadline\n");
    for size in Size::built_in() {
        let Size { name, fuel, memory_bytes, disk_bytes, network_calls, network_bytes, deadline } = size;
        let [memory, disk, bytes] = [memory_bytes, disk_bytes, network_bytes].map(|bytes| Bytes(bytes).to_string());
        let (fuel, calls, deadline) = (grouped(fuel), grouped(network_calls), deadline.as_secs());
        text +=
            &format!("  {name:<6} {fuel:>14}  {memory:>7}  {disk:>7}  {calls:>9} calls {bytes:>9}  {deadline:>6} s\n");
    }
    text
}

impl Run {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        if self.workload_and_arguments.first().is_some_and(|workload| workload.is_empty()) {
            return Err(UsageError("WORKLOAD is empty; write: lifeboat run [WORKLOAD]".into()).into());
        }
        let loaded = self.workload().ok().map(load_workload).transpose()?;
        let kind = loaded.as_ref().map(|(workload, _)| workload.kind);
        if kind != Some(Kind::World) {
            return self.execute_here(loaded);
        }
        // What follows a program is for the program. Options may follow a workload of the world.
        let is_option = |argument: &OsString| argument.as_encoded_bytes().starts_with(b"-") && argument != "--";
        if !self.arguments().first().is_some_and(is_option) {
            return self.execute_here(loaded);
        }
        match super::with_options_first(self.arguments().len()) {
            Ok(run) if run.arguments().is_empty() => run.execute_here(loaded),
            Ok(run) => Err(run.surplus(&run.workload_and_arguments[0])),
            Err(code) => Ok(code),
        }
    }

    /// Returns the error for what somebody may take for a file of transactions.
    fn surplus(&self, argument: &OsStr) -> anyhow::Error {
        let text = format!(
            "{} is an extra argument: a workload takes none, and --transactions FILE names a file of transactions",
            arguments::shown(&argument.to_string_lossy())
        );
        UsageError(text).into()
    }

    /// Runs what was loaded, after all options.
    fn execute_here(self, loaded: Option<(Workload, Vec<u8>)>) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match loaded {
            Some((workload, _)) if workload.kind == Kind::Program && !self.is_service() => {
                runtime.block_on(self.run_once(workload))
            }
            loaded => {
                if let Some(option) = self.once.option() {
                    let text = format!(
                        "{option} is for a program that runs once, and this is a service; leave it out{}",
                        self.how_to_run_once()
                    );
                    return Err(UsageError(text).into());
                }
                let is_of_world = matches!(&loaded, Some((Workload { kind: Kind::World, .. }, _)));
                let surplus = self.arguments().iter().find(|argument| *argument != "--");
                if let Some(argument) = surplus.filter(|_| is_of_world) {
                    return Err(self.surplus(argument));
                }
                runtime.block_on(self.serve(loaded))
            }
        }
    }

    /// Returns an option that was given and that only a service has.
    fn option_of_service(&self) -> Option<&'static str> {
        [
            (self.limits.threshold.is_some(), "--threshold"),
            (self.limits.failover.is_some(), "--failover"),
            (self.network.retry.is_some(), "--retry"),
        ]
        .into_iter()
        .find_map(|(is_given, option)| is_given.then_some(option))
    }

    /// Returns whether an option makes a program a service.
    fn is_service(&self) -> bool {
        self.transactions.is_some() || self.data.is_some() || self.service.is_some() || self.envelope
    }

    /// Returns what a message about an option of a program that runs once adds for a service.
    fn how_to_run_once(&self) -> &'static str {
        match self.is_service() {
            true => ", or leave out --transactions, --data (or LIFEBOAT_DATA), --service and --envelope",
            false => "",
        }
    }

    /// Returns the options for the network of a service.
    fn network_of_service(&self) -> Result<NetworkArguments, UsageError> {
        self.network.of_service(self.how_to_run_once())
    }

    async fn serve(self, loaded: Option<(Workload, Vec<u8>)>) -> anyhow::Result<ExitCode> {
        let settings = self.settings(loaded.as_ref().map(|(workload, _)| workload.kind))?;
        let service = self.service_name()?;
        let input = self.input()?;
        let failovers = Arc::new(AtomicU64::new(0));
        let (host, is_journal_damaged) = match &self.data {
            None => (self.host_in_memory(loaded, &service, &settings, &failovers).await?, false),
            Some(directory) => self.host_on_disk(directory, loaded, &service, &settings, &failovers).await?,
        };
        let mut users = Users::new(&host, &service);
        let operator = users.token(&self.user)?;
        let fed = self.feed(&mut users, input).await;
        if let Ok(Fed { interrupted: Some(interrupted), .. }) = &fed
            && interrupted.is_twice
        {
            // A second interruption waits neither for answers nor for a clean stop.
            interrupted.report(self.json);
            return Ok(ExitCode::from(exit::SOME_NOT_OK));
        }
        host.authority().grant(&self.user, &service, Grant::Observe);
        let status = host.status(operator.reveal(), &service).await;
        // Whatever happened, the next start must find the acknowledged transactions at once.
        let stopped = host.stop().await;
        let (Fed { outcomes, interrupted }, status) = (fed?, status?);
        let usage = Usage {
            status: &status,
            outcomes: &outcomes,
            failovers: failovers.load(Ordering::Relaxed),
            is_durable: self.data.is_some(),
        };
        usage.print(self.json)?;
        stopped.context("the data directory was not closed cleanly")?;
        if let Some(interrupted) = &interrupted {
            interrupted.report(self.json);
        }
        let is_cut_off = interrupted.is_some_and(|it| it.is_input_left || it.unread.is_some());
        let is_all_ok =
            !is_journal_damaged && !is_cut_off && outcomes.keys().all(|outcome| *outcome == Some(Outcome::Ok));
        Ok(ExitCode::from(if is_all_ok { exit::OK } else { exit::SOME_NOT_OK }))
    }

    /// Returns a host with one service, which ends with the host.
    async fn host_in_memory(
        &self,
        loaded: Option<(Workload, Vec<u8>)>,
        service: &Name,
        settings: &ServiceSettings,
        failovers: &Arc<AtomicU64>,
    ) -> anyhow::Result<Host> {
        let Some((workload, _)) = loaded else { return Err(self.no_workload()) };
        let needs =
            Needs { services: 1, memories: workload.footprint.memories, largest: largest(settings.sizes.iter()) };
        let host = needs.host(code_cache::of_user()?, self.events(service, failovers))?;
        let program = host.compile(workload).await?;
        let settings = ServiceSettings { deduplication_window: DeduplicationWindow::default(), ..settings.clone() };
        let spec = ServiceSpec::new(service.clone(), program, &settings, random()?, Epoch::default());
        // Nobody could settle a call in doubt of a service that ends with this command.
        let retry = self.network.retry.unwrap_or(Retry::Never);
        let network = host.network_of(service, &NetworkSettings { retry, ..settings.network.clone() });
        host.create_service(ServiceSpec { network, disk: self.disk_of(&settings)?, ..spec }).await?;
        Ok(host)
    }

    /// Returns a host with all services of a data directory, and whether the journal is damaged. Creates `service` if
    /// it is missing.
    async fn host_on_disk(
        &self,
        path: &Path,
        workload: Option<(Workload, Vec<u8>)>,
        service: &Name,
        settings: &ServiceSettings,
        failovers: &Arc<AtomicU64>,
    ) -> anyhow::Result<(Host, bool)> {
        let option = data::option(path);
        let locked = data::open(path, workload.is_some())?;
        let entries = locked.catalog().services()?;
        match (entries.get(service), &workload) {
            (Some(entry), workload) => {
                self.check_unchanged(service, entry, settings, workload.as_ref().map(|(workload, _)| workload.hash))?;
                if let Some((workload, bytes)) = workload {
                    // The stored workload may be missing or damaged.
                    keep_workload(&**locked.storage(), &workload.hash, bytes)?;
                }
            }
            (None, None) => {
                return Err(UsageError(format!(
                    "there is no service '{service}' in the data directory yet: name its workload to create it; \
                     lifeboat data services {option} lists the services"
                ))
                .into());
            }
            (None, Some(_)) => {}
        }
        let beside = Beside { workload: workload.as_ref().map(|(new, _)| new), sizes: &settings.sizes };
        let events = self.events(service, failovers);
        let (host, is_journal_damaged) = bring_up(path, locked, service, beside, events).await?;
        if let (Some((workload, workload_bytes)), false) = (workload, host.has_service(service)) {
            let (name, settings) = (service.clone(), settings.clone());
            let (secret, epoch) = (random()?, random_epoch()?);
            let workload_bytes = workload_bytes.into();
            let disk = self.disk_of(&settings)?;
            let new = NewService { name, workload, workload_bytes, settings, secret, epoch, disk };
            host.create_durable_service(new).await?;
        }
        Ok((host, is_journal_damaged))
    }

    fn events(&self, service: &Name, failovers: &Arc<AtomicU64>) -> EventSink {
        event_printer(self.json, service.clone(), self.data.clone(), Arc::clone(failovers))
    }

    /// Checks that an existing service continues as it was created. Options that differ are refused.
    fn check_unchanged(
        &self,
        service: &Name,
        entry: &ServiceEntry,
        settings: &ServiceSettings,
        workload: Option<WorkloadHash>,
    ) -> anyhow::Result<()> {
        if let Some(hash) = workload.filter(|hash| *hash != entry.workload) {
            return Err(UsageError(format!(
                "service '{service}' runs workload {}, and the file is {hash}: leave the file out, or create another \
                 service",
                entry.workload
            ))
            .into());
        }
        let LimitArguments { size, fuel, memory, disk, network_calls, network_bytes, threshold, failover } =
            &self.limits;
        let names_size =
            size.is_some() || [fuel, memory, disk, network_calls, network_bytes].into_iter().any(Option::is_some);
        let is_another_size =
            names_size && (&settings.size, &settings.sizes) != (&entry.settings.size, &entry.settings.sizes);
        let is_another_threshold = threshold.is_some() && settings.thresholds != entry.settings.thresholds;
        let is_another_mode = failover.is_some_and(|mode| mode != entry.settings.failover);
        if is_another_size || is_another_threshold || is_another_mode {
            let first = entry.settings.sizes.first().map(ToString::to_string).unwrap_or_default();
            return Err(UsageError(format!(
                "service '{service}' was created with size {first}, threshold {} and failover {}, and continues with \
                 them: leave these options out, or create another service",
                entry.settings.thresholds.cpu, entry.settings.failover
            ))
            .into());
        }
        let is_given = !self.arguments().is_empty() || !self.environment.is_empty();
        if is_given && settings.program != entry.settings.program {
            return Err(UsageError(format!(
                "service '{service}' has other arguments and variables, and keeps those that it was created with: leave \
                 these out, or create another service"
            ))
            .into());
        }
        if self.network_of_service()?.differ_from(&entry.settings.network) {
            return Err(UsageError(format!(
                "service '{service}' has {}, and `run` does not change that: leave these options out, or create another \
                 service; a server whose configuration has the service in [[service]] changes it",
                network_text(&entry.settings.network)
            ))
            .into());
        }
        Ok(())
    }

    fn workload(&self) -> anyhow::Result<&Path> {
        self.workload_and_arguments.first().map(Path::new).ok_or_else(|| self.no_workload())
    }

    fn no_workload(&self) -> anyhow::Error {
        UsageError("name a workload; or, with --data, an existing --service: lifeboat run --help".into()).into()
    }

    /// Returns what follows the workload.
    fn arguments(&self) -> &[OsString] {
        self.workload_and_arguments.get(1..).unwrap_or_default()
    }

    /// Returns the disk with which a new service begins.
    fn disk_of(&self, settings: &ServiceSettings) -> anyhow::Result<Option<Disk>> {
        let limit_bytes = settings.sizes.first().map_or(0, |size| size.disk_bytes);
        pack::disk(&self.dirs, limit_bytes, SystemClock.now())
    }

    /// Returns the arguments and the environment of a program that is a service.
    fn program_settings(&self, kind: Option<Kind>) -> anyhow::Result<ProgramSettings> {
        if kind == Some(Kind::World) && !self.environment.is_empty() {
            let text = "--env is for a program, and a workload of the world has no environment; leave it out";
            return Err(UsageError(text.into()).into());
        }
        let environment = program::environment(&self.environment)?.into_iter().collect();
        let settings = ProgramSettings::new(program::texts(self.arguments())?, environment);
        settings.map_err(|error| UsageError(error.to_string()).into())
    }

    fn service_name(&self) -> anyhow::Result<Name> {
        match &self.service {
            Some(name) => Ok(name.clone()),
            None => service_name(self.workload()?),
        }
    }

    fn settings(&self, kind: Option<Kind>) -> anyhow::Result<ServiceSettings> {
        let sizes = self.limits.sizes()?;
        Ok(ServiceSettings {
            size: sizes[0].name.clone(),
            sizes,
            thresholds: Thresholds::all(self.limits.threshold.unwrap_or(THRESHOLD_DEFAULT)),
            deduplication_window: DeduplicationWindow::durable(),
            failover: self.limits.failover.unwrap_or_default(),
            network: self.network_of_service()?.settings()?,
            program: self.program_settings(kind)?,
        })
    }

    fn unreadable(&self, error: &io::Error) -> UsageError {
        let name = self.transactions.as_ref().map_or("standard input".into(), |path| path.display().to_string());
        UsageError(format!("{}: cannot be read: {error}; name a file of transactions", name.escape_debug()))
    }

    /// Returns whether the transactions are typed on a terminal.
    fn is_typed(&self) -> bool {
        self.transactions.is_none() && io::stdin().is_terminal()
    }

    fn input(&self) -> anyhow::Result<Lines> {
        let line_bytes_max = if self.envelope { ENVELOPE_BYTES_MAX } else { BODY_BYTES_MAX };
        match &self.transactions {
            Some(path) => {
                let file = File::open(path).map_err(|error| self.unreadable(&error))?;
                Ok(Lines::read(file, line_bytes_max))
            }
            None => {
                if self.is_typed() {
                    let what = if self.envelope { "JSON envelopes" } else { "transactions" };
                    let _ = writeln!(io::stderr(), "Waiting for {what}, one per line; end with Ctrl-D.");
                }
                Ok(Lines::read(io::stdin(), line_bytes_max))
            }
        }
    }

    /// Sends the lines, many at once, and prints the replies in the order of the lines.
    async fn feed(&self, users: &mut Users<'_>, mut input: Lines) -> anyhow::Result<Fed> {
        let Fed { mut outcomes, mut interrupted } = Fed::default();
        // Lines read, and replies that were written for certain.
        let (mut lines, mut flushed) = (0, 0);
        let mut out = BufWriter::new(io::stdout().lock());
        let mut pending: VecDeque<Pending<'_>> = VecDeque::new();
        let mut is_at_end = false;
        let mut stop = Stop::new()?;
        // After a signal, the input counts as ended, whatever is left of it.
        let is_left = |is_at_end: bool, interrupted: &Option<Interrupted>| {
            interrupted.as_ref().map_or(!is_at_end, |interrupted| interrupted.is_input_left)
        };
        loop {
            if let Some(result) = pending.front_mut().and_then(|first| (&mut first.answer).now_or_never()) {
                let id = pending.pop_front().and_then(|first| first.id);
                *outcomes.entry(outcome(&result)).or_default() += 1;
                // Whoever runs the service is its operator.
                let result = result.map(|reply| Reply { answer: reply.answer.disclosed(), ..reply });
                let written = print(&mut out, id, &result, self.json);
                let unread = Unread { lines, written: flushed, is_durable: self.data.is_some() };
                if !is_pipe_open(written).with_context(|| unread.unwritable())? {
                    let interrupted =
                        Interrupted::without_reader(unread, pending.len(), is_left(is_at_end, &interrupted));
                    return Ok(Fed { outcomes, interrupted: Some(interrupted) });
                }
                continue;
            }
            // Replies are flushed before every wait, since their reader may act on them.
            let unread = Unread { lines, written: flushed, is_durable: self.data.is_some() };
            if !is_pipe_open(out.flush()).with_context(|| unread.unwritable())? {
                let interrupted = Interrupted::without_reader(unread, pending.len(), is_left(is_at_end, &interrupted));
                return Ok(Fed { outcomes, interrupted: Some(interrupted) });
            }
            flushed = outcomes.values().sum();
            if is_at_end && pending.is_empty() {
                return Ok(Fed { outcomes, interrupted });
            }
            let may_send = !is_at_end && pending.len() < IN_FLIGHT_MAX;
            let replied = async {
                match pending.front_mut() {
                    Some(first) => {
                        let result = (&mut first.answer).await;
                        // The next iteration prints it, like a reply that is already there.
                        first.answer = Box::pin(std::future::ready(result));
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = replied => {}
                () = stop.asked() => {
                    let is_twice = interrupted.is_some();
                    // A terminal has no lines beyond those that were typed.
                    let is_input_left = match &interrupted {
                        Some(Interrupted { is_input_left, .. }) => *is_input_left,
                        None => !is_at_end && input.give_up(!self.is_typed()),
                    };
                    is_at_end = true;
                    let unanswered = pending.len();
                    let now = Interrupted { lines, unanswered, is_input_left, is_twice, unread: None };
                    if is_twice {
                        return Ok(Fed { outcomes, interrupted: Some(now) });
                    }
                    if !pending.is_empty() {
                        now.report(self.json);
                    }
                    interrupted = Some(Interrupted { unanswered: 0, ..now });
                }
                line = input.next(), if may_send => {
                    match line.map_err(|error| self.unreadable(&error))? {
                        None => is_at_end = true,
                        Some(line) => {
                            lines = line.number;
                            pending.push_back(self.send(users, line).await?);
                        }
                    }
                }
            }
        }
    }

    /// Sends one line. When this returns, the line is in the service's queue.
    async fn send<'a>(&self, users: &mut Users<'a>, line: Line) -> anyhow::Result<Pending<'a>> {
        let parsed = if self.envelope { parse_envelope(line, &self.user) } else { plain(line, &self.user) };
        let (user, request) = match parsed {
            Ok(parsed) => parsed,
            Err((id, reason)) => return Ok(Pending { id, answer: Box::pin(std::future::ready(Err(reason))) }),
        };
        let token = users.token(&user)?;
        let id = request.id.clone();
        let (host, service) = (users.host, users.service);
        let mut answer: Answering<'a> =
            Box::pin(async move { host.request(token.reveal(), service, request).await.map_err(NotDone::from) });
        // The request runs to its first wait, which puts it into the queue. So lines are executed in their order.
        let answer = match std::future::poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await {
            Poll::Ready(result) => Box::pin(std::future::ready(result)),
            Poll::Pending => answer,
        };
        Ok(Pending { id, answer })
    }
}

/// The outcomes of the lines.
#[derive(Debug, Default)]
struct Fed {
    /// The number of lines with each outcome.
    outcomes: BTreeMap<Option<Outcome>, u64>,
    interrupted: Option<Interrupted>,
}

/// The progress of a run whose replies are not read any more, or cannot be written.
#[derive(Debug, Clone, Copy, Serialize)]
struct Unread {
    #[serde(skip)]
    lines: u64,
    /// The number of lines whose replies were written for certain.
    written: u64,
    /// Whether the service is in a data directory, and can continue.
    is_durable: bool,
}

impl Unread {
    /// Explains what to do about replies that cannot be written.
    fn unwritable(self) -> String {
        let remedy = "make room for the replies or write them to another file";
        if self.is_durable {
            format!("cannot write the replies: {self}; {remedy} first")
        } else {
            format!("cannot write the replies: {self}: {remedy}, and give the same command again")
        }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lines, written, is_durable } = *self;
        if !is_durable {
            return f.write_str("the service and its state ended with this run");
        }
        write!(
            f,
            "all lines up to {} may be done: continue with line {}, with the same ids; a line without an id may then be \
             done twice",
            grouped(lines),
            grouped(written + 1)
        )
    }
}

/// The progress of a run when a signal interrupted it, or when nobody read its replies any more.
#[derive(Debug, Clone, Copy, Serialize)]
struct Interrupted {
    /// The number of lines read.
    lines: u64,
    /// The number of these lines without an answer.
    unanswered: usize,
    /// Whether the input may have more lines, which were not sent.
    is_input_left: bool,
    /// Whether a second signal ended every wait.
    is_twice: bool,
    /// The progress if the reader of the replies has gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<Unread>,
}

impl Interrupted {
    fn without_reader(unread: Unread, unanswered: usize, is_input_left: bool) -> Self {
        Self { lines: unread.lines, unanswered, is_input_left, is_twice: false, unread: Some(unread) }
    }

    fn report(&self, json: bool) {
        match json {
            true => {
                let line = json_line(&serde_json::json!({ "interrupted": self })).unwrap_or_default();
                drop(io::stderr().write_all(line.as_bytes()));
            }
            false => output::note(&format!("lifeboat: {self}")),
        }
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lines, unanswered, is_input_left, is_twice, unread } = *self;
        if let Some(unread) = unread {
            return write!(f, "the reader of the replies is gone: {unread}");
        }
        match (is_twice, unanswered as u64, lines) {
            (true, ..) => write!(
                f,
                "interrupted twice: of {} that were sent, the last {unanswered} got no answer and may or may not be \
                 done; send them again, with the same ids",
                counted(lines, "line"),
            )?,
            (false, 0, 0) => f.write_str("interrupted before the first line")?,
            (false, 0, _) => write!(f, "interrupted with {} sent and answered", counted(lines, "line"))?,
            (false, waiting, _) => {
                let waiting = counted(waiting, "answer");
                return write!(f, "interrupted: waiting for {waiting}; interrupt again to end at once");
            }
        }
        if is_input_left {
            write!(f, "; the rest of the input was not sent: it begins with line {}", grouped(lines + 1))
        } else {
            f.write_str("; no input was left")
        }
    }
}

type Answering<'a> = Pin<Box<dyn Future<Output = Result<Reply, NotDone>> + 'a>>;

/// A request in flight.
struct Pending<'a> {
    id: Option<String>,
    answer: Answering<'a>,
}

/// Creates the users that lines name, and grants them to transact: the user of `lifeboat run` owns the service.
pub(super) struct Users<'a> {
    host: &'a Host,
    service: &'a Name,
    tokens: HashMap<Name, Token>,
}

impl<'a> Users<'a> {
    pub(super) fn new(host: &'a Host, service: &'a Name) -> Self {
        Self { host, service, tokens: HashMap::new() }
    }

    pub(super) fn token(&mut self, user: &Name) -> anyhow::Result<Token> {
        if let Some(token) = self.tokens.get(user) {
            return Ok(token.clone());
        }
        let random = random()?;
        // So the transaction ids are the same as those of the user of this name at a server.
        let incarnation = self.host.stored_incarnation(user)?;
        let mut authority = self.host.authority();
        authority.add_user_as(user, incarnation);
        authority.grant(user, self.service, Grant::Transact);
        let expires = Timestamp(u64::MAX);
        let token = authority.issue(user, expires, random).context("a user that was just added is not known")?;
        self.tokens.insert(user.clone(), token.clone());
        Ok(token)
    }
}

/// Returns the service's name: that of the file.
fn service_name(workload: &Path) -> anyhow::Result<Name> {
    name_like(&workload.file_stem().unwrap_or_default().to_string_lossy()).ok_or_else(|| {
        let file = arguments::shown(&workload.display().to_string());
        UsageError(format!("the file name {file} gives the service no name; use --service NAME")).into()
    })
}

/// Returns a name like that of a file, with characters replaced that a name does not allow. None if nothing is left.
pub(super) fn name_like(file: &str) -> Option<Name> {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let text: String =
        file.chars().skip_while(|c| !c.is_ascii_alphanumeric()).map(allowed).take(NAME_BYTES_MAX).collect();
    Name::new(&text).ok()
}

/// Returns a sink that prints events to standard error as they happen. The run ends with an error if `service` is
/// quarantined, so that event is printed only as JSON.
fn event_printer(json: bool, service: Name, directory: Option<PathBuf>, failovers: Arc<AtomicU64>) -> EventSink {
    Arc::new(move |event: &Event| {
        if matches!(event, Event::Failover(_)) {
            failovers.fetch_add(1, Ordering::Relaxed);
        }
        if !json && matches!(event, Event::Quarantined { service: quarantined, .. } if *quarantined == service) {
            return;
        }
        let completed;
        let event = match (event, &directory) {
            (Event::Quarantined { service, reason }, Some(directory)) => {
                let (service, reason) = (service.clone(), data::completed(reason, directory));
                completed = Event::Quarantined { service, reason };
                &completed
            }
            _ => event,
        };
        let line = event_line(event, json);
        // A failed write is ignored: standard error is closed.
        let _ = io::stderr().write_all(line.as_bytes());
    })
}

/// Returns the line in which an event is printed on standard error.
pub(super) fn event_line(event: &Event, json: bool) -> String {
    if json {
        json_line(event).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}\n"))
    } else if matches!(event, Event::Failover(_)) {
        // It stays one line, so that text copied from a terminal has it on one line too.
        format!("{event}\n")
    } else {
        output::fitting_error(format!("{event}\n"))
    }
}

/// The closing table of a run.
pub(super) struct Usage<'a> {
    pub(super) status: &'a Status,
    /// The number of lines with each outcome. The key None counts those whose outcome is unknown.
    pub(super) outcomes: &'a BTreeMap<Option<Outcome>, u64>,
    pub(super) failovers: u64,
    pub(super) is_durable: bool,
}

impl Usage<'_> {
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        let text = if json { json_line(&self.json())? } else { self.table() };
        is_pipe_open(io::stderr().write_all(text.as_bytes()))?;
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let Self { status, outcomes, failovers, .. } = self;
        let count = |outcome: Option<Outcome>| outcomes.get(&outcome).copied().unwrap_or_default();
        let outcome = |outcome: Outcome| count(Some(outcome));
        serde_json::json!({"usage": {
            "vm": status.vm.to_string(), "machine": status.machine, "size": status.size, "meter": status.meter,
            "ok": outcome(Outcome::Ok), "refused": outcome(Outcome::Refused), "failed": outcome(Outcome::Failed),
            "denied": outcome(Outcome::Denied), "outcome_unknown": count(None), "failovers": failovers, "counts": status.counts,
            "degraded": status.degraded, "unmovable": status.unmovable, "stopped": status.stopped,
            "journal_filling": status.journal.as_ref().map(|journal| journal.fill.to_string()),
        }})
    }

    fn table(&self) -> String {
        let Self { status, outcomes, failovers, is_durable } = self;
        let mut text = format!(
            "\n{} on {}, size {}, after {} and {}\n",
            status.vm,
            status.machine,
            status.size,
            counted(outcomes.values().sum(), "request"),
            counted(*failovers, "failover"),
        );
        let row = |name: &str, percent: f64, used: String, limit: String| {
            format!("  {name:<8} {percent:>5.1}%  {used:>16} of {limit}\n")
        };
        let usages = |resource| status.meter.usages(resource).map(move |(unit, usage)| (resource, unit, usage));
        for (resource, unit, usage) in Resource::ALL.into_iter().flat_map(usages) {
            let (used, limit) = match unit {
                Unit::Bytes => {
                    let used = BytesBeside { bytes: usage.used, bound: usage.limit };
                    (used.to_string(), Bytes(usage.limit).to_string())
                }
                Unit::Fuel | Unit::Calls => (grouped(usage.used), format!("{} {unit}", grouped(usage.limit))),
            };
            text += &row(&resource.to_string(), usage.utilisation_percent(), used, limit);
        }
        let ended = Outcome::ALL
            .map(|outcome| format!("{outcome} {}", grouped(outcomes.get(&Some(outcome)).copied().unwrap_or_default())));
        text += &format!("  {}", ended.join("  "));
        if let Some(unknown) = outcomes.get(&None) {
            text += &format!("  not known {}", grouped(*unknown));
        }
        text += &format!(
            "\n  snapshots {}{}  rollbacks {}  replayed {}\n",
            status.counts.snapshots,
            // These are the counts before the stop.
            if *is_durable { " (and one at the stop if anything is new)" } else { "" },
            status.counts.rollbacks,
            grouped(status.counts.replayed_transactions)
        );
        let journal = status.journal.as_ref().map(|journal| journal.fill.to_string());
        for (condition, reason) in [
            ("degraded", &status.degraded),
            ("unmovable", &status.unmovable),
            ("journal", &journal),
            ("stopped", &status.stopped),
        ] {
            if let Some(reason) = reason {
                text += &format!("  {condition}: {reason}\n");
            }
        }
        text
    }
}

/// Formats a count with its noun: `1 line`, `2,000 lines`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_service_is_like_that_of_its_file() {
        let name = |file: &str| name_like(file).map(|name| name.to_string());
        assert_eq!(name("_my guest-1.0").as_deref(), Some("my-guest-1.0"));
        assert_eq!(name("."), None);
        assert_eq!(name(&"a".repeat(1_000)).map(|name| name.len()), Some(NAME_BYTES_MAX));
    }

    #[test]
    fn the_table_of_sizes_fits_80_columns() {
        let table = sizes_table();
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        let small = "  small      50,000,000   16 MiB   64 MiB      1,000 calls    64 MiB       5 s";
        assert_eq!(table.lines().nth(1), Some(small), "{table}");
        assert!(table.contains(" 1,000,000 calls 64000 MiB "), "{table}");
    }
}
