//! `lifeboat run`: one workload as one service of a local host, fed line by line.

mod lines;
mod reply;

use super::{UsageError, exit, is_pipe_open, load_workload, parse_memory};
use anyhow::Context;
use clap::Args;
use lifeboat::auth::{Grant, Token};
use lifeboat::clock::{SystemClock, Timestamp};
use lifeboat::event::{Event, EventSink};
use lifeboat::failover::{THRESHOLD_DEFAULT, Thresholds, threshold};
use lifeboat::fleet::Machine;
use lifeboat::host::{Host, HostConfig};
use lifeboat::meter::Percent;
use lifeboat::name::Name;
use lifeboat::service::{Horizon, QUEUE_MAX, ServiceSpec, Status};
use lifeboat::size::{Bytes, Size, grouped};
use lifeboat::transaction::{BODY_BYTES_MAX, Outcome, Reply};
use lines::{Line, Lines};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

/// Requests that are under way at once. Less than a service's queue holds, so that none is denied for want of room.
const IN_FLIGHT_MAX: usize = 256;

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(override_usage = "lifeboat run [OPTIONS] <WORKLOAD>", after_help = after_help())]
pub(crate) struct Run {
    /// Read transactions from FILE instead of standard input
    #[arg(long, value_name = "FILE")]
    transactions: Option<PathBuf>,
    /// Lines are JSON objects that carry an id, a user and a body; any user that a line names is let in
    #[arg(long)]
    envelope: bool,
    /// The size of the first VM
    #[arg(long, value_name = "NAME", default_value = "small")]
    size: String,
    /// Fuel in a full tank, instead of the size's [about one unit for each Wasm instruction]
    #[arg(long, value_name = "N", value_parser = parse_fuel, allow_negative_numbers = true)]
    fuel: Option<u64>,
    /// Linear memory of the first VM, instead of the size's [bytes; 64MiB, 10M, ...]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, allow_negative_numbers = true)]
    memory: Option<u64>,
    /// Utilisation at which a resource fails its SLA [percent, 20 to 100]
    #[arg(long, value_name = "PCT", default_value_t = THRESHOLD_DEFAULT, value_parser = parse_threshold)]
    threshold: Percent,
    /// Who sends the transactions that name no user
    #[arg(long, value_name = "NAME", default_value = "operator")]
    user: Name,
    /// Print every reply, event and the usage as JSON, one object a line
    #[arg(long)]
    json: bool,
    /// The workload: a component, a core module, or either as text
    // With all that follows it, or clap would take options there for its own.
    #[arg(value_name = "WORKLOAD", required = true, trailing_var_arg = true)]
    workload_and_arguments: Vec<OsString>,
}

fn after_help() -> String {
    let mut sizes = String::new();
    for size in Size::built_in() {
        let Size { name, fuel, memory_bytes, deadline } = size;
        let (fuel, memory) = (grouped(fuel), Bytes(memory_bytes).to_string());
        sizes += &format!("  {name:<7} {fuel:>14} fuel  {memory:>8}  {:>3} s for a transaction\n", deadline.as_secs());
    }
    format!(
        "\
A line of input is the body of a transaction, byte for byte. With --envelope it is a JSON object:
  {{\"id\"?: ID, \"user\"?: NAME, \"query\"?: true, and one of \"json\": ANY | \"text\": STRING | \"base64\": STRING}}
A reply of one line is printed as it is; any other reply, and every outcome but ok, as
  {{\"id\", \"outcome\", \"json\" | \"text\" | \"base64\", \"cause\"?}}
Events and the closing usage table go to standard error.

Sizes, smallest first; a service whose memory is full moves to a larger one:
{sizes}
Example:
  echo '{{\"add\":1}}' | lifeboat run counter.wasm"
    )
}

fn parse_threshold(text: &str) -> Result<Percent, String> {
    threshold(text.parse()?)
}

fn parse_fuel(text: &str) -> Result<u64, String> {
    match text.replace(['_', ','], "").parse() {
        Ok(0) => Err("a tank holds at least 1 unit of fuel".into()),
        Ok(fuel) => Ok(fuel),
        Err(_) => Err(format!("'{text}' is not an amount of fuel: write a whole number such as 50000000")),
    }
}

impl Run {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        if let Some(argument) = self.workload_and_arguments.get(1) {
            return Err(UsageError(format!(
                "'{}' stands after the workload, where arguments of the program stand; a workload that answers \
                 transactions takes none: put options of lifeboat before the file",
                argument.to_string_lossy().escape_debug()
            ))
            .into());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> anyhow::Result<ExitCode> {
        let sizes = self.sizes()?;
        let input = self.input()?;
        let workload = load_workload(self.workload())?;
        let largest_memory_bytes = sizes.iter().map(|size| size.memory_bytes).max().unwrap_or_default();
        let machines = Machine::pair(1, largest_memory_bytes);
        let failovers = Arc::new(AtomicU64::new(0));
        let host = Host::new(
            HostConfig::new(machines, largest_memory_bytes),
            Arc::new(SystemClock),
            event_printer(self.json, Arc::clone(&failovers)),
        )?;
        let service = service_name(self.workload())?;
        let program = host.compile(workload).await?;
        host.create_service(ServiceSpec {
            name: service.clone(),
            program,
            size: Arc::clone(&sizes[0]),
            sizes,
            thresholds: Thresholds::all(self.threshold),
            secret: random()?,
            horizon: Horizon::default(),
            queue_max: QUEUE_MAX,
            sabotage: None,
        })
        .await?;

        let mut users = Users { host: &host, service: &service, tokens: HashMap::new() };
        let operator = users.token(&self.user)?;
        let outcomes = self.feed(&mut users, input).await?;
        host.authority().grant(&self.user, &service, Grant::Observe);
        let status = host.status(operator.reveal(), &service).await?;
        let usage = Usage { status: &status, outcomes: &outcomes, failovers: failovers.load(Ordering::Relaxed) };
        usage.print(self.json)?;
        let is_all_ok = outcomes.keys().all(|outcome| *outcome == Outcome::Ok);
        Ok(ExitCode::from(if is_all_ok { exit::OK } else { exit::SOME_NOT_OK }))
    }

    fn workload(&self) -> &Path {
        Path::new(self.workload_and_arguments.first().expect("clap requires one"))
    }

    /// The size of the first VM, and the larger ones that exist.
    fn sizes(&self) -> anyhow::Result<Vec<Arc<Size>>> {
        let built_in = Size::built_in();
        let Some(named) = built_in.iter().find(|size| size.name == self.size) else {
            let names: Vec<&str> = built_in.iter().map(|size| size.name.as_str()).collect();
            return Err(UsageError(format!("there is no size '{}': use one of {}", self.size, names.join(", "))).into());
        };
        let mut first = named.clone();
        if let Some(memory_bytes) = self.memory {
            first.memory_bytes = memory_bytes;
            first.name = "custom".into();
        }
        let larger = built_in.iter().filter(|size| size.memory_bytes > first.memory_bytes).cloned();
        let mut sizes: Vec<Size> = std::iter::once(first.clone()).chain(larger).collect();
        if let Some(fuel) = self.fuel {
            // A tank that was asked for is the tank of every size that the service may move to.
            for size in &mut sizes {
                size.fuel = fuel;
            }
        }
        Ok(sizes.into_iter().map(Arc::new).collect())
    }

    fn unreadable(&self, error: &io::Error) -> UsageError {
        let name = self.transactions.as_ref().map_or("standard input".into(), |path| path.display().to_string());
        UsageError(format!("{}: cannot be read: {error}; name a file of transactions", name.escape_debug()))
    }

    fn input(&self) -> anyhow::Result<Lines> {
        let line_bytes_max = if self.envelope { lines::ENVELOPE_BYTES_MAX } else { BODY_BYTES_MAX };
        match &self.transactions {
            Some(path) => {
                let file = File::open(path).map_err(|error| self.unreadable(&error))?;
                Ok(Lines::read(file, line_bytes_max))
            }
            None => {
                let stdin = io::stdin();
                if stdin.is_terminal() {
                    let what = if self.envelope { "JSON envelopes" } else { "transactions" };
                    let _ = writeln!(io::stderr(), "Waiting for {what}, one a line; end with Ctrl-D.");
                }
                Ok(Lines::read(stdin, line_bytes_max))
            }
        }
    }

    /// Sends the lines, many at once, and prints the replies in their order. Returns how many ended in which way.
    async fn feed(&self, users: &mut Users<'_>, mut input: Lines) -> anyhow::Result<BTreeMap<Outcome, u64>> {
        let mut outcomes = BTreeMap::new();
        let mut out = BufWriter::new(io::stdout().lock());
        let mut pending: VecDeque<Pending<'_>> = VecDeque::new();
        let mut is_at_end = false;
        loop {
            let may_send = !is_at_end && pending.len() < IN_FLIGHT_MAX;
            let replied = async {
                match pending.front_mut() {
                    Some(first) => (&mut first.answer).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                result = replied => {
                    let id = pending.pop_front().map(|first| first.id).unwrap_or_default();
                    *outcomes.entry(reply::outcome(&result)).or_default() += 1;
                    let written = reply::print(&mut out, id, &result, self.json)
                        .and_then(|()| if pending.is_empty() { out.flush() } else { Ok(()) });
                    if !is_pipe_open(written).context("cannot write the replies")? {
                        return Ok(outcomes);
                    }
                }
                line = input.next(), if may_send => {
                    match line.map_err(|error| self.unreadable(&error))? {
                        None => is_at_end = true,
                        Some(line) => pending.push_back(self.send(users, line).await?),
                    }
                }
            }
            if is_at_end && pending.is_empty() {
                is_pipe_open(out.flush()).context("cannot write the replies")?;
                return Ok(outcomes);
            }
        }
    }

    /// Sends one line. It is in the service's queue when this returns.
    async fn send<'a>(&self, users: &mut Users<'a>, line: Line) -> anyhow::Result<Pending<'a>> {
        let parsed =
            if self.envelope { lines::parse_envelope(line, &self.user) } else { lines::plain(line, &self.user) };
        let (user, request) = match parsed {
            Ok(parsed) => parsed,
            Err((id, reason)) => return Ok(Pending { id, answer: Box::pin(std::future::ready(Err(reason))) }),
        };
        let token = users.token(&user)?;
        let id = request.id.clone();
        let (host, service) = (users.host, users.service);
        let mut answer: Answering<'a> =
            Box::pin(
                async move { host.request(token.reveal(), service, request).await.map_err(reply::NotDone::Denied) },
            );
        // Up to its first wait: into the queue, so that lines are executed in their order.
        let answer = match std::future::poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await {
            Poll::Ready(result) => Box::pin(std::future::ready(result)),
            Poll::Pending => answer,
        };
        Ok(Pending { id, answer })
    }
}

type Answering<'a> = Pin<Box<dyn Future<Output = Result<Reply, reply::NotDone>> + 'a>>;

/// A request under way.
struct Pending<'a> {
    id: Option<String>,
    answer: Answering<'a>,
}

/// Makes the users that lines name, with a grant to transact: who runs `lifeboat run` owns the service.
struct Users<'a> {
    host: &'a Host,
    service: &'a Name,
    tokens: HashMap<Name, Token>,
}

impl Users<'_> {
    fn token(&mut self, user: &Name) -> anyhow::Result<Token> {
        if let Some(token) = self.tokens.get(user) {
            return Ok(token.clone());
        }
        let random = random()?;
        let mut authority = self.host.authority();
        authority.add_user(user);
        authority.grant(user, self.service, Grant::Transact);
        let expires = Timestamp(u64::MAX);
        let token = authority.issue(user, expires, random).context("a user that was just added is not known")?;
        self.tokens.insert(user.clone(), token.clone());
        Ok(token)
    }
}

fn random() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers can be had: {error}"))?;
    Ok(bytes)
}

/// The service is named as the file is, as far as a name allows.
fn service_name(workload: &Path) -> anyhow::Result<Name> {
    let stem = workload.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let text: String = stem
        .chars()
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .map(allowed)
        .take(lifeboat::name::NAME_BYTES_MAX)
        .collect();
    Name::new(&text).map_err(|error| UsageError(error).into())
}

/// Prints events to standard error as they happen.
fn event_printer(json: bool, failovers: Arc<AtomicU64>) -> EventSink {
    Arc::new(move |event: &Event| {
        if matches!(event, Event::Failover(_)) {
            failovers.fetch_add(1, Ordering::Relaxed);
        }
        let line = if json {
            serde_json::to_string(event).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
        } else {
            event.to_string()
        };
        // Who closed standard error does not want to know.
        let _ = writeln!(io::stderr(), "{line}");
    })
}

/// The closing table.
struct Usage<'a> {
    status: &'a Status,
    outcomes: &'a BTreeMap<Outcome, u64>,
    failovers: u64,
}

impl Usage<'_> {
    fn print(&self, json: bool) -> anyhow::Result<()> {
        let text = if json { format!("{}\n", self.json()) } else { self.table() };
        is_pipe_open(io::stderr().write_all(text.as_bytes()))?;
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let Self { status, outcomes, failovers } = self;
        let outcome = |outcome: Outcome| outcomes.get(&outcome).copied().unwrap_or_default();
        serde_json::json!({"usage": {
            "vm": status.vm.to_string(), "machine": status.machine, "size": status.size, "meter": status.meter,
            "ok": outcome(Outcome::Ok), "refused": outcome(Outcome::Refused), "failed": outcome(Outcome::Failed),
            "denied": outcome(Outcome::Denied), "failovers": failovers, "counts": status.counts,
            "degraded": status.degraded, "unmovable": status.unmovable, "stopped": status.stopped,
        }})
    }

    fn table(&self) -> String {
        let Self { status, outcomes, failovers } = self;
        let memory = status.meter.memory;
        let cpu = status.meter.cpu;
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
        text += &row("cpu", cpu.utilisation_percent(), grouped(cpu.used), format!("{} fuel", grouped(cpu.limit)));
        text += &row(
            "memory",
            memory.utilisation_percent(),
            Bytes(memory.used).to_string(),
            Bytes(memory.limit).to_string(),
        );
        let ended = Outcome::ALL
            .map(|outcome| format!("{outcome} {}", grouped(outcomes.get(&outcome).copied().unwrap_or_default())));
        text += &format!("  {}", ended.join("  "));
        text += &format!(
            "\n  snapshots {}  rollbacks {}  replayed {}\n",
            status.counts.snapshots,
            status.counts.rollbacks,
            grouped(status.counts.replayed_transactions)
        );
        for (condition, reason) in
            [("degraded", &status.degraded), ("unmovable", &status.unmovable), ("stopped", &status.stopped)]
        {
            if let Some(reason) = reason {
                text += &format!("  {condition}: {reason}\n");
            }
        }
        text
    }
}

fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}
