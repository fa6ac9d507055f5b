//! `lifeboat simulate`: plays a scenario, shows its progress, and prints a report.
//!
//! Standard output receives only the report. The progress goes to standard error: on a terminal as a meter for every
//! service with event lines above, elsewhere as plain lines.

mod live;

use super::{UsageError, arguments, exit, is_pipe_open, output};
use anyhow::Context;
use clap::{Args, ValueEnum};
use lifeboat_api::event::Event;
use lifeboat_api::meter::Resource;
use lifeboat_api::name::Name;
use lifeboat_host::service::LaunchError;
use lifeboat_simulate::{Fault, Observer, Options, Report, SEED_DEFAULT, Scenario, ServiceView, SimulateError, run};
use std::io::{self, IsTerminal, Write};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
The built-in scenario has three machines, six services of different workloads and three users. It takes a few seconds,
or with --pace 500 about sixteen, long enough to read the meters.
A scenario of your own is a TOML file with [[machine]], [[size]], [[service]], [[user]] and [[traffic]] tables. Unknown
keys are refused with their line.

Each acknowledged transaction is executed again, in order, in one VM with room for everything, from the records of the
clients alone. Every answer must be equal: `lost 0, duplicated 0`.";

/// Drive a fleet of services with users and traffic, and prove that nothing was lost.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Simulate {
    /// The number from which ids, secrets, tokens and traffic are drawn: the same number gives the same run, fuel
    /// included.
    #[arg(long, value_name = "N", default_value_t = SEED_DEFAULT, value_parser = arguments::whole, allow_negative_numbers = true)]
    seed: u64,

    /// Send N transactions a second, slow enough to watch; the report is the same [default: as fast as possible]
    #[arg(long, value_name = "N", value_parser = arguments::pace, allow_negative_numbers = true)]
    pace: Option<NonZeroU32>,

    /// Print the report as JSON. Only objects called `timings` differ between two runs of one seed.
    #[arg(long)]
    json: bool,

    /// Lose or duplicate one transaction on purpose, to show that the reconciliation notices it.
    #[arg(long, value_name = "HOW", hide = true)]
    sabotage: Option<FaultInjection>,

    /// The scenario, a TOML file; paths of workloads are relative to its folder. The default is the built-in scenario.
    #[arg(value_name = "SCENARIO.toml")]
    scenario: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FaultInjection {
    /// Acknowledge a transaction without sending it to the host.
    DropOne,
    /// Send a transaction to the host twice, with two ids.
    DoubleOne,
}

impl Simulate {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let scenario = match &self.scenario {
            None => Scenario::built_in(),
            Some(path) => Scenario::read(path).map_err(|error| UsageError(error.to_string()))?,
        };
        let fault = self.sabotage.map(|fault| match fault {
            FaultInjection::DropOne => Fault::DropOne,
            FaultInjection::DoubleOne => Fault::DoubleOne,
        });
        let options = Options { seed: self.seed, pace: self.pace, fault };
        let mut view = View::choose(self.json);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to start the simulation")?;
        let played = runtime.block_on(run(&scenario, options, &mut view));
        view.close();
        let report = played.map_err(sorted)?;
        print(&report, self.json)?;
        Ok(ExitCode::from(if report.is_reconciled() { exit::OK } else { exit::SOME_NOT_OK }))
    }
}

/// Converts the error to the type that determines its exit code.
fn sorted(error: SimulateError) -> anyhow::Error {
    match error {
        SimulateError::Load(error) => error.into(),
        SimulateError::Engine(error) => error.into(),
        // The scenario does not fit the request: its machines are too small, or no transaction can suffer the fault.
        SimulateError::Launch(LaunchError::NoRoom(error)) => UsageError(error.to_string()).into(),
        error @ SimulateError::NoFault => UsageError(error.to_string()).into(),
        SimulateError::Launch(error) => error.into(),
        error => error.into(),
    }
}

/// Writes the report. A reader that has gone is not an error.
fn print(report: &Report, as_json: bool) -> anyhow::Result<()> {
    let text = if as_json { lifeboat_api::lines::json_lines(report)? } else { output::fitting(report.to_string()) };
    let mut stdout = io::stdout().lock();
    is_pipe_open(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
        .context("failed to write the report")?;
    Ok(())
}

/// The view of a simulation while it runs.
enum View {
    /// Meters with event lines above them.
    Live(live::Live),
    /// Event lines, and usage lines after every tenth of the run.
    Lines(Lines),
}

impl View {
    fn choose(as_json: bool) -> Self {
        if io::stderr().is_terminal() && !as_json {
            return Self::Live(live::Live::new());
        }
        Self::Lines(Lines { shows_usage: !as_json, total: 0 })
    }

    fn close(&mut self) {
        if let Self::Live(live) = self {
            live.close();
        }
    }
}

impl Observer for View {
    fn starting(&mut self, service: &Name) {
        if let Self::Live(live) = self {
            live.starting(service);
        }
    }

    fn started(&mut self, services: &[ServiceView], total: u64) {
        match self {
            Self::Live(live) => live.started(services, total),
            Self::Lines(lines) => lines.started(services, total),
        }
    }

    fn event(&mut self, event: &Event) {
        // Guests end the report of a panic with empty lines.
        if matches!(event, Event::Log { line, .. } if line.is_empty()) {
            return;
        }
        match self {
            Self::Live(live) => live.event(event),
            Self::Lines(lines) => lines.event(event),
        }
    }

    fn answered(&mut self, services: &[ServiceView], service: usize, done: u64) {
        match self {
            Self::Live(live) => live.answered(services, service, done),
            Self::Lines(lines) => lines.answered(services, service, done),
        }
    }

    fn reconciling(&mut self, service: &Name) {
        if let Self::Live(live) = self {
            live.reconciling(service);
        }
    }
}

/// Plain lines on standard error, for pipes and files.
struct Lines {
    shows_usage: bool,
    total: u64,
}

/// The number of parts of a run. Usage is printed after each part.
const USAGE_PARTS: u64 = 10;

// Errors of writing are ignored: the run continues when the reader of standard error has gone.
impl Observer for Lines {
    fn started(&mut self, _services: &[ServiceView], total: u64) {
        self.total = total;
    }

    fn event(&mut self, event: &Event) {
        let _ = writeln!(io::stderr(), "{event}");
    }

    fn answered(&mut self, services: &[ServiceView], _service: usize, done: u64) {
        let part = (self.total / USAGE_PARTS).max(1);
        if !self.shows_usage || !done.is_multiple_of(part) {
            return;
        }
        let mut text = String::new();
        for ServiceView { status, .. } in services {
            let used = Resource::ALL
                .map(|resource| format!("{resource} {:.1}%", status.meter.usage(resource).utilisation_percent()));
            let (vm, machine, size) = (&status.vm, &status.machine, &status.size);
            text += &format!("Usage after {done} requests: {vm} on {machine} ({size}) {}\n", used.join(" "));
        }
        let _ = io::stderr().write_all(text.as_bytes());
    }
}
