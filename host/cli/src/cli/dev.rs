//! `lifeboat dev`: builds a guest, serves it, and moves its state into each new build of it.
//!
//! `session.rs` decides what happens, `build.rs` builds, `watch.rs` finds changes. This file has the loop around them,
//! the host that serves the guest, and what is printed: replies on standard output, everything else on standard error.
//!
//! The loop alone changes anything. It carries out one action after the other, so a reload comes between two
//! transactions. Builds and scans of files go on in the background, each on a thread.

mod build;
mod notice;
mod session;
mod watch;

use super::arguments::NetworkArguments;
use super::limits::LimitArguments;
use super::on_disk::{Needs, largest};
use super::pack::{self, Dir};
use super::run::lines::Lines;
use super::run::{Usage, Users, event_line, name_like};
use super::stop::Stop;
use super::{UsageError, code_cache, exit, is_pipe_open, output, random, read_workload};
use anyhow::Context;
use build::{Build, Failed, Plan};
use clap::Args;
use lifeboat_api::access::Grant;
use lifeboat_api::clock::{Clock, SystemClock};
use lifeboat_api::event::{Event as HostEvent, EventSink};
use lifeboat_api::id::{Epoch, WorkloadHash};
use lifeboat_api::lines::{
    ENVELOPE_BYTES_MAX, Line, NotDone, json_line, outcome, parse_envelope, plain as plain_line, print,
};
use lifeboat_api::name::Name;
use lifeboat_api::sla::{THRESHOLD_DEFAULT, Thresholds};
use lifeboat_api::text::{Printable, plain};
use lifeboat_api::transaction::{BODY_BYTES_MAX, Denial, Kind, Outcome, Reply, Request};
use lifeboat_disk::Disk;
use lifeboat_host::answers::DeduplicationWindow;
use lifeboat_host::catalog::ServiceSettings;
use lifeboat_host::command_line::ProgramSettings;
use lifeboat_host::credential::Token;
use lifeboat_host::host::Host;
use lifeboat_host::network::{NetworkSettings, Retry};
use lifeboat_host::service::{ReplaceError, ServiceSpec, Status};
use lifeboat_vm::engine::Program;
use lifeboat_vm::workload::MEMORIES_MAX;
use notice::{Counts, Notice, Outcomes, meters};
use session::{Action, Built, COMMANDS, Event, Input, Keep, Moved, Report, Session};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use watch::{Ignored, Watch};

/// The most events that wait until the reply before them is printed. Further ones are printed at once.
const EVENTS_HELD_MAX: usize = 1024;

/// What comes before the body of a query. No other prefix of a body is as long.
const QUERY_PREFIX: &str = ":query ";

/// What is printed for somebody who types lines, once a guest runs.
const INTRODUCTION: &str = "Type transactions, one per line; :help lists the commands, Ctrl-D ends.";

/// The name of a service whose folder has none.
const NAME_DEFAULT: &str = "guest";

/// Arguments of `dev`.
#[derive(Debug, Args)]
#[command(after_help = after_help())]
pub(crate) struct Dev {
    /// Build with this command of a shell, in DIR [default: as its files show]
    #[arg(long, value_name = "COMMAND")]
    build: Option<String>,
    /// The module that the build leaves, a path in DIR [default: that of cargo, or the only .wasm file in DIR]
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// The service's name [default: that of DIR]
    #[arg(long, value_name = "NAME")]
    service: Option<Name>,
    /// Lines are JSON objects with an id, a user and a body; every user that a line names is accepted
    #[arg(long)]
    envelope: bool,
    #[command(flatten)]
    limits: LimitArguments,
    #[command(flatten)]
    network: NetworkArguments,
    /// The user of transactions that name none
    #[arg(long, value_name = "NAME", default_value = "operator")]
    user: Name,
    /// Print every reply, event, report and usage as JSON, one object per line
    #[arg(long)]
    json: bool,
    /// Begin with the files of this directory, as GUEST on the virtual disk [default: the same path]; repeatable
    #[arg(long = "dir", value_name = "HOST[::GUEST]")]
    dirs: Vec<Dir>,
    /// The folder of the guest
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
}

fn after_help() -> String {
    let commands: String = COMMANDS.iter().map(|(command, what)| format!("  {command:<12} {what}\n")).collect();
    format!(
        "\
The command builds the guest in DIR, runs it as a service, and takes each line of standard input as a transaction. When
a source changes, it builds again. The new guest goes on with the state of the old one. If the build fails, or the new
guest refuses the state, the old one goes on. No answered transaction is lost, except by :fresh and the end of the
session.

Files in DIR show how it is built, the first of these: Cargo.toml (cargo build --release --target wasm32-wasip1),
package.json (npm run build), Makefile (make). The command is printed before it runs.

A line of input is the body of a transaction, or with --envelope a JSON object, as lifeboat run reads it. A line that
begins with a colon is a command:
{commands}
Replies are printed on standard output; events, logs, builds and meters on standard error. The state is in memory, and
ends with the session. docs/dev.md describes a session.

Example:
  lifeboat dev --fuel 100000 tally"
    )
}

impl Dev {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let plan = Arc::new(Plan::find(&self.directory, self.build.as_deref(), self.workload.as_deref())?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ended = runtime.block_on(self.serve(plan));
        // A file that is still being read would hold the end up.
        runtime.shutdown_background();
        ended
    }

    async fn serve(&self, plan: Arc<Plan>) -> anyhow::Result<ExitCode> {
        let settings = self.settings()?;
        // What is wrong with --dir is reported before the first build, and read again for each guest that begins.
        self.disk(&settings)?;
        let service = self.service.clone().map_or_else(|| name_of(plan.directory()), Ok)?;
        let events = Arc::new(Events::new(self.json));
        let needs = Needs { services: 1, memories: MEMORIES_MAX, largest: largest(settings.sizes.iter()) };
        let host = needs.host(code_cache::of_user()?, events.sink())?;
        let mut users = Users::new(&host, &service);
        let operator = users.token(&self.user)?;
        for grant in [Grant::Observe, Grant::Operate] {
            host.authority().grant(&self.user, &service, grant);
        }
        let driver = Driver {
            dev: self,
            plan,
            settings,
            host: &host,
            service: &service,
            users,
            operator,
            events,
            build: None,
            built: None,
            running: None,
            out: BufWriter::new(io::stdout().lock()),
            counts: Counts::default(),
            outcomes: BTreeMap::new(),
            is_asking: false,
            is_introduced: false,
        };
        // The state ends with the process, so the host need not wait for a guest that is still busy.
        let is_well = driver.run().await?;
        Ok(ExitCode::from(if is_well { exit::OK } else { exit::SOME_NOT_OK }))
    }

    /// Returns the virtual disk with which a guest begins.
    fn disk(&self, settings: &ServiceSettings) -> anyhow::Result<Option<Disk>> {
        let limit_bytes = settings.sizes.first().map_or(0, |size| size.disk_bytes);
        pack::disk(&self.dirs, limit_bytes, SystemClock.now())
    }

    fn settings(&self) -> anyhow::Result<ServiceSettings> {
        let sizes = self.limits.sizes()?;
        // Nobody could settle a call in doubt of a service that ends with this command.
        let retry = self.network.retry().unwrap_or(Retry::Never);
        Ok(ServiceSettings {
            size: sizes[0].name.clone(),
            sizes,
            thresholds: Thresholds::all(self.limits.threshold.unwrap_or(THRESHOLD_DEFAULT)),
            deduplication_window: DeduplicationWindow::default(),
            failover: self.limits.failover.unwrap_or_default(),
            network: NetworkSettings { retry, ..self.network.settings()? },
            program: ProgramSettings::default(),
        })
    }
}

/// Returns the service's name: that of the folder.
fn name_of(directory: &Path) -> anyhow::Result<Name> {
    match name_like(&directory.file_name().unwrap_or_default().to_string_lossy()) {
        Some(name) => Ok(name),
        None => Name::new(NAME_DEFAULT).map_err(anyhow::Error::msg),
    }
}

/// The events of the host that wait for the reply before them.
struct Events {
    json: bool,
    held: Mutex<VecDeque<HostEvent>>,
    arrived: Notify,
    failovers: AtomicU64,
}

impl Events {
    fn new(json: bool) -> Self {
        Self { json, held: Mutex::default(), arrived: Notify::new(), failovers: AtomicU64::new(0) }
    }

    fn sink(self: &Arc<Self>) -> EventSink {
        let events = Arc::clone(self);
        Arc::new(move |event: &HostEvent| {
            // A notice reports the reload.
            if matches!(event, HostEvent::Replaced { .. }) {
                return;
            }
            if matches!(event, HostEvent::Failover(_)) {
                events.failovers.fetch_add(1, Ordering::Relaxed);
            }
            let mut held = events.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.push_back(event.clone());
            if held.len() > EVENTS_HELD_MAX {
                events.print_all(&mut held);
            }
            drop(held);
            events.arrived.notify_one();
        })
    }

    fn print(&self) {
        self.print_all(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn print_all(&self, held: &mut VecDeque<HostEvent>) {
        for event in held.drain(..) {
            // A failed write is ignored: standard error is closed.
            let _ = io::stderr().write_all(event_line(&event, self.json).as_bytes());
        }
    }
}

/// A module that was built and compiled.
struct Product {
    module: PathBuf,
    bytes: u64,
    hash: WorkloadHash,
    program: Arc<Program>,
}

/// A build under way, to the compiled module.
enum Underway<'a> {
    Building(Build),
    Compiling(Pin<Box<dyn Future<Output = anyhow::Result<Product>> + 'a>>),
}

/// What a session is made of, beside its state.
struct Driver<'a> {
    dev: &'a Dev,
    plan: Arc<Plan>,
    settings: ServiceSettings,
    host: &'a Host,
    service: &'a Name,
    users: Users<'a>,
    operator: Token,
    events: Arc<Events>,
    build: Option<Underway<'a>>,
    /// What was built last, until it runs or is refused.
    built: Option<Product>,
    /// The workload that runs.
    running: Option<WorkloadHash>,
    out: BufWriter<StdoutLock<'static>>,
    counts: Counts,
    outcomes: BTreeMap<Option<Outcome>, u64>,
    /// Whether a request is under way. Its outcome is unknown if a signal comes before its reply.
    is_asking: bool,
    /// Whether [`INTRODUCTION`] was printed.
    is_introduced: bool,
}

impl<'a> Driver<'a> {
    /// Runs the session to its end. Returns whether every transaction was ok, and the last build runs.
    async fn run(mut self) -> anyhow::Result<bool> {
        let mut stop = Stop::new()?;
        let line_bytes_max = if self.dev.envelope { ENVELOPE_BYTES_MAX } else { BODY_BYTES_MAX };
        // The longest body is also that of a query.
        let mut input = Lines::read(io::stdin(), line_bytes_max + QUERY_PREFIX.len());
        let watched = self.plan.watched();
        let mut watch = Watch::new(watched.scan());
        let mut scans = watch::scans(watched.clone());
        let mut is_partial = false;
        let (mut session, actions) = Session::begin();
        let mut actions = VecDeque::from(actions);
        let events = Arc::clone(&self.events);
        while !session.is_ended() || !actions.is_empty() {
            let event = match actions.pop_front() {
                Some(action) => {
                    if action == Action::Build {
                        watch.begin_build();
                    }
                    let is_end = session.is_ended();
                    let done = tokio::select! {
                        biased;
                        done = self.perform(action, session.is_well(), &input) => Some(done?),
                        () = asked(&mut stop), if !is_end => None,
                    };
                    self.events.print();
                    match done {
                        Some(None) => continue,
                        Some(Some(event)) => event,
                        None => {
                            if self.is_asking {
                                *self.outcomes.entry(None).or_default() += 1;
                            }
                            Event::Interrupted(input.waiting())
                        }
                    }
                }
                None => tokio::select! {
                    biased;
                    () = asked(&mut stop) => Event::Interrupted(input.waiting()),
                    () = events.arrived.notified() => {
                        events.print();
                        continue;
                    }
                    built = self.built(), if session.is_building() => {
                        self.report_ignored(watch.end_build(watched.scan()));
                        Event::Built(built)
                    }
                    Some(scan) = scans.recv() => {
                        if scan.is_partial && !is_partial {
                            is_partial = true;
                            self.notice(&Notice::Partial { files: watch::WATCHED_MAX });
                        }
                        match watch.see(scan) {
                            Some(file) => {
                                self.notice(&Notice::Changed { file: self.plan.shown(&file) });
                                Event::Changed
                            }
                            None => continue,
                        }
                    }
                    line = input.next(), if session.takes_lines() => match line {
                        Ok(Some(line)) => Event::Input(Input::of(line)),
                        Ok(None) => Event::EndOfInput,
                        Err(error) => {
                            let text = format!("standard input: cannot be read: {error}");
                            return Err(UsageError(text).into());
                        }
                    },
                },
            };
            session.proceed(event, &mut actions);
        }
        let is_all_ok = self.outcomes.keys().all(|outcome| *outcome == Some(Outcome::Ok));
        Ok(session.is_well() && is_all_ok)
    }

    fn report_ignored(&self, ignored: Ignored) {
        if let Some((first, others)) = ignored.outputs.split_first() {
            let file = self.plan.shown(first);
            self.notice(&Notice::Output { file, more: others.len(), builds: watch::OUTPUT_BUILDS });
        }
        if let Some(file) = ignored.unbuilt {
            self.notice(&Notice::Unbuilt { file: self.plan.shown(&file), builds: watch::FOLLOWING_BUILDS_MAX });
        }
    }

    /// Carries out an action. Returns the event that it leads to.
    async fn perform(&mut self, action: Action, is_well: bool, input: &Lines) -> anyhow::Result<Option<Event>> {
        match action {
            Action::Build => self.begin_build(),
            Action::EndBuild => {
                if let Some(Underway::Building(build)) = self.build.take() {
                    build.end().await;
                }
            }
            Action::Begin(keep) => return Ok(Some(Event::Moved(self.begin(keep).await))),
            Action::Request(line, kind) => {
                let is_read = self.request(line, kind).await?;
                return Ok((!is_read).then(|| Event::Interrupted(input.waiting())));
            }
            Action::FailOver => {
                match self.host.fail_over(self.operator.reveal(), self.service).await {
                    Ok(_) => self.events.print(),
                    Err(error) => self.notice(&Notice::Wrong { error: error.to_string() }),
                }
                self.print_meters(None).await;
            }
            Action::Meters => {
                if let Some(status) = self.status().await {
                    self.usage(&status).print(self.dev.json)?;
                }
            }
            Action::Help => self.notice(&Notice::Help { commands: COMMANDS.map(|(command, _)| command).into() }),
            Action::Report(report) => {
                self.notice(&match report {
                    Report::Waiting => Notice::Waiting,
                    Report::GoesOn => Notice::GoesOn { service: self.service },
                    Report::Unchanged => Notice::Unchanged { service: self.service },
                    Report::Anew(keep) => Notice::BuildEnded { order: keep.command() },
                    Report::NotDone(waiting) => Notice::NotDone(waiting),
                    Report::Unknown(command) => Notice::Unknown { command: Printable(&command).to_string() },
                });
            }
            Action::End => {
                let failovers = self.events.failovers.load(Ordering::Relaxed);
                self.notice(&Notice::Ended {
                    outcomes: Outcomes::of(|outcome| self.outcomes.get(&outcome).copied().unwrap_or_default()),
                    failovers,
                    counts: self.counts,
                    is_well,
                });
            }
        }
        Ok(None)
    }

    fn begin_build(&mut self) {
        // Without a command, somebody else builds the module, and it is only loaded.
        if let Some(command) = self.plan.command_line() {
            self.counts.builds += 1;
            self.notice(&Notice::Building { command: Printable(&command).to_string() });
        }
        self.build = Some(Underway::Building(Build::begin(&self.plan, self.dev.json)));
    }

    /// Waits until the build is over and its module is compiled. Dropping the future loses nothing.
    async fn built(&mut self) -> Built {
        if let Some(Underway::Building(build)) = &mut self.build {
            match build.ended().await {
                Ok(module) => {
                    let name = self.plan.shown(&module);
                    self.build = Some(Underway::Compiling(Box::pin(compiled(self.host, module, name))));
                }
                Err(failed) => return self.build_failed(failed),
            }
        }
        let Some(Underway::Compiling(compiling)) = &mut self.build else { return std::future::pending().await };
        match compiling.await {
            Ok(product) => {
                self.build = None;
                let is_same = self.running == Some(product.hash);
                self.built = Some(product);
                if is_same { Built::Same } else { Built::New }
            }
            Err(error) => self.build_failed(Failed { reason: plain(&format!("{error:#}")), output: None }),
        }
    }

    fn build_failed(&mut self, failed: Failed) -> Built {
        self.build = None;
        self.counts.failed_builds += u64::from(!self.plan.is_module_alone());
        let Failed { reason, output } = failed;
        self.notice(&match self.plan.is_module_alone() {
            true => Notice::NotLoaded { reason },
            false => Notice::BuildFailed { reason, output },
        });
        Built::Failed
    }

    /// Begins with what was built.
    async fn begin(&mut self, keep: Keep) -> Moved {
        let Some(product) = self.built.take() else { return Moved::None };
        match (self.running, keep) {
            (Some(_), Keep::State) => self.reload(product).await,
            _ => self.launch(product).await,
        }
    }

    async fn reload(&mut self, product: Product) -> Moved {
        let replaced = match self.host.authenticate(self.operator.reveal()) {
            Ok(operator) => self.host.replace_workload(&operator, self.service, product.program).await,
            Err(denial) => Err(denial.into()),
        };
        match replaced {
            Ok(replaced) => {
                self.events.print();
                self.counts.reloads += 1;
                self.running = Some(product.hash);
                self.notice(&Notice::Reloaded {
                    from: replaced.from.to_string(),
                    to: replaced.status.vm.to_string(),
                    state_bytes: replaced.state_bytes,
                    pause_ms: replaced.pause.as_secs_f64() * 1e3,
                });
                Moved::New
            }
            Err(error) => {
                self.events.print();
                let (goes_on, remedy) = remedy_of(&error);
                let reason = plain(&error.to_string());
                self.notice(&Notice::NotReloaded { service: self.service, reason, goes_on, remedy });
                Moved::Old
            }
        }
    }

    /// Starts the guest without a state, in the place of the one that runs.
    async fn launch(&mut self, product: Product) -> Moved {
        let launched = match (self.dev.disk(&self.settings), self.running) {
            (Ok(disk), _) => self.try_launch(&product, disk).await,
            (Err(error), Some(_)) => {
                // The state of the old guest is not given up for one that cannot begin.
                let (reason, remedy) = (plain(&format!("{error:#}")), "mend that, and send :fresh again");
                self.notice(&Notice::NotReloaded { service: self.service, reason, goes_on: true, remedy });
                return Moved::Old;
            }
            (Err(error), None) => Err(error),
        };
        self.events.print();
        match launched {
            Ok(status) => {
                self.running = Some(product.hash);
                self.notice(&Notice::Serving {
                    vm: status.vm.to_string(),
                    module: self.plan.shown(&product.module),
                    bytes: product.bytes,
                    size: status.size,
                });
                if io::stdin().is_terminal() && !self.is_introduced && !self.dev.json {
                    self.is_introduced = true;
                    output::note(INTRODUCTION);
                }
                Moved::New
            }
            Err(error) => {
                self.running = None;
                self.notice(&Notice::NotStarted { reason: plain(&format!("{error:#}")) });
                Moved::None
            }
        }
    }

    async fn try_launch(&mut self, product: &Product, disk: Option<Disk>) -> anyhow::Result<Status> {
        self.host.end_service(self.service).await?;
        let program = Arc::clone(&product.program);
        let spec = ServiceSpec::new(self.service.clone(), program, &self.settings, random()?, Epoch::default());
        let network = self.host.network_of(self.service, &self.settings.network);
        self.host.create_service(ServiceSpec { network, disk, ..spec }).await?;
        Ok(self.host.status(self.operator.reveal(), self.service).await?)
    }

    /// Sends a line, and prints its reply, what happened meanwhile, and the meters. Returns whether somebody may still
    /// read the replies.
    async fn request(&mut self, line: Line, kind: session::Kind) -> anyhow::Result<bool> {
        let is_query = kind == session::Kind::Query;
        let parsed = match line {
            // The body of a query follows its command, also with envelopes.
            Line { bytes: Ok(body), .. } if is_query => {
                Ok((self.dev.user.clone(), Request { id: None, body: body.into(), kind: Kind::Query }))
            }
            line if self.dev.envelope => parse_envelope(line, &self.dev.user),
            line => plain_line(line, &self.dev.user),
        };
        let (id, result) = match parsed {
            Err((id, reason)) => (id, Err(reason)),
            Ok((user, request)) => {
                self.counts.queries += u64::from(request.kind == Kind::Query);
                let id = request.id.clone();
                (id, self.send(&user, request).await?)
            }
        };
        *self.outcomes.entry(outcome(&result)).or_default() += 1;
        // Whoever runs the service is its operator.
        let result = result.map(|reply| Reply { answer: reply.answer.disclosed(), ..reply });
        let written = print(&mut self.out, id, &result, self.dev.json).and_then(|()| self.out.flush());
        if !is_pipe_open(written).context("cannot write the replies")? {
            return Ok(false);
        }
        self.events.print();
        if self.running.is_some() {
            self.print_meters(result.as_ref().ok().map(|reply| reply.fuel_used)).await;
        }
        Ok(true)
    }

    async fn send(&mut self, user: &Name, request: Request) -> anyhow::Result<Result<Reply, NotDone>> {
        if self.running.is_none() {
            let reason = "no guest runs; fix its build, or send :reload".into();
            return Ok(Err(NotDone::Denied(Denial::Stopped { service: self.service.clone(), reason })));
        }
        let token = self.users.token(user)?;
        self.is_asking = true;
        let result = self.host.request(token.reveal(), self.service, request).await.map_err(NotDone::from);
        self.is_asking = false;
        Ok(result)
    }

    async fn status(&self) -> Option<Status> {
        self.host.status(self.operator.reveal(), self.service).await.ok()
    }

    fn usage<'b>(&'b self, status: &'b Status) -> Usage<'b> {
        let failovers = self.events.failovers.load(Ordering::Relaxed);
        Usage { status, outcomes: &self.outcomes, failovers, is_durable: false }
    }

    /// Prints how full the VM is, after the fuel of a request.
    async fn print_meters(&self, fuel_used: Option<u64>) {
        let Some(status) = self.status().await else { return };
        if self.dev.json {
            // A failed write is ignored: standard error is closed.
            let _ = self.usage(&status).print(true);
            return;
        }
        let text = meters(&status.vm.to_string(), fuel_used, &status.meter);
        let _ = io::stderr().write_all(output::fitting_error(text + "\n").as_bytes());
    }

    fn notice(&self, notice: &Notice<'_>) {
        let text = if self.dev.json { json_line(notice).unwrap_or_default() } else { notice.text() };
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Waits for a signal that asks for the end. What follows does not stand behind the ^C that a terminal shows.
async fn asked(stop: &mut Stop) {
    stop.asked().await;
    if io::stderr().is_terminal() {
        let _ = io::stderr().write_all(b"\n");
    }
}

/// Returns whether the old guest goes on after this error, and what helps.
fn remedy_of(error: &ReplaceError) -> (bool, &'static str) {
    match error {
        ReplaceError::Denied(Denial::Stopped { .. } | Denial::NoService { .. }) => {
            (false, ":fresh begins with an empty state")
        }
        ReplaceError::Denied(_) => (true, "send :reload again"),
        ReplaceError::Export { .. } => (true, "send :reload again, or :fresh begins with an empty state"),
        ReplaceError::OtherKind { .. } => (true, ":fresh begins with an empty state"),
        ReplaceError::Restore { .. } => (true, "change how it reads the state, or :fresh begins with an empty one"),
        _ => (true, "change it, or send :reload to try again"),
    }
}

/// Loads and compiles a module, which errors name by `name`.
async fn compiled(host: &Host, module: PathBuf, name: String) -> anyhow::Result<Product> {
    let bytes = read_workload(&module)?;
    let length = bytes.len() as u64;
    let workload = host.load_deployed(&name, bytes.into()).await?;
    let hash = workload.hash;
    let program = host.compile(workload).await?;
    Ok(Product { module, bytes: length, hash, program })
}
