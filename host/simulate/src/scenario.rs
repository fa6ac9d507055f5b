//! What a simulation is made of, as a TOML file says it.
//!
//! `default.toml` beside this file is the scenario that runs when none is named, and the format's commented example:
//!
//! | table | keys |
//! |---|---|
//! | `[[machine]]` | `name`, `slots`, `memory` |
//! | `[[size]]`, the built-in sizes if there is none | `name`, `fuel`, `memory`, `deadline_ms` |
//! | `[[service]]` | `name`; `workload`: `counter`, `ledger`, `notes`, `crunch`, or a file beside the scenario; optional: `size` (the one with the least memory), `thresholds = { cpu, memory }` in percent (98), `queries` (bodies of the queries whose answers are compared at the end), `fail_over_every` (an operator forces a failover after every so many requests) |
//! | `[[user]]` | `name`, `services` that they may transact with |
//! | `[[traffic]]` | `service`, `count`; optional: `users` (all), `repeat_percent` (0): how many requests are sent once more under the same id; and one of `generator`, `bodies`, `choices` |
//!
//! `generator` is a name (`"ledger"`) or a table of one ([`Generator`]); `bodies` are cycled through; `choices` are
//! drawn by their weights. Unknown keys are refused with their line, and everything has a bound.

mod generator;
mod tables;

#[cfg(test)]
mod tests;

pub use generator::{CounterTraffic, CrunchTraffic, Generator, LedgerTraffic, NotesTraffic};

use lifeboat_api::meter::Percent;
use lifeboat_api::name::Name;
use lifeboat_api::size::Size;
use lifeboat_api::sla::Thresholds;
use lifeboat_document::{Findings, Table, Wrong};
use lifeboat_host::fleet::Machine;
use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use tables::Resolver;
use thiserror::Error;

/// The longest scenario file, in bytes.
pub const SCENARIO_BYTES_MAX: u64 = 1024 * 1024;

/// Machines of a scenario.
pub const MACHINES_MAX: usize = 64;

/// Slots of all its machines together.
pub const SLOTS_MAX: u64 = 256;

/// Sizes of a scenario.
pub const SIZES_MAX: usize = 64;

/// Memory of a size, in bytes.
pub const SIZE_MEMORY_BYTES_MAX: u64 = lifeboat_vm::engine::MEMORY_BYTES_MAX;

/// Services of a scenario.
pub const SERVICES_MAX: usize = 64;

/// Users of a scenario.
pub const USERS_MAX: usize = 1_000;

/// `[[traffic]]` tables of a scenario.
pub const TRAFFIC_MAX: usize = 256;

/// Transactions of a scenario: the sum of all counts. Their records are kept until they are reconciled.
pub const TRANSACTIONS_MAX: u64 = 1_000_000;

/// Queries of a service.
pub const QUERIES_MAX: usize = 1_000;

/// Accounts or notes that a generator spreads its transactions over.
pub const KEYS_MAX: u32 = 1_000_000;

/// The longest text that the generator for `notes` writes, in bytes.
pub const TEXT_BYTES_MAX: u32 = 1_000_000;

/// The user who observes, forces failovers and asks the queries at the end. No scenario may have one of this name.
pub const OPERATOR: &str = "operator";

/// A simulation, checked: every name refers to something, every bound holds, every workload's file was read.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What reports call it: the path of its file, or `built-in`.
    pub title: String,
    /// The fleet.
    pub machines: Vec<Machine>,
    /// The sizes that VMs may have.
    pub sizes: Vec<Arc<Size>>,
    /// The services.
    pub services: Vec<ServicePlan>,
    /// The users.
    pub users: Vec<UserPlan>,
    /// What the users send.
    pub traffic: Vec<TrafficPlan>,
}

/// A service of a scenario.
#[derive(Debug, Clone)]
pub struct ServicePlan {
    /// Its name.
    pub name: Name,
    /// What it runs.
    pub workload: WorkloadSource,
    /// The size of its first VM.
    pub size: Arc<Size>,
    /// When a resource fails its SLA.
    pub thresholds: Thresholds,
    /// The queries that are asked at the end.
    pub queries: Vec<String>,
    /// After how many of its requests an operator forces a failover.
    pub fail_over_every: Option<NonZeroU64>,
}

/// Where a service's workload comes from.
#[derive(Debug, Clone)]
pub enum WorkloadSource {
    /// It is embedded.
    BuiltIn(BuiltIn),
    /// It was read from a file.
    File {
        /// The path.
        path: String,
        /// What it holds; one byte over the loader's limit if it is too long.
        bytes: Vec<u8>,
    },
}

/// A workload that is embedded in the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltIn {
    /// One number.
    Counter,
    /// Accounts.
    Ledger,
    /// Texts.
    Notes,
    /// Arithmetic.
    Crunch,
}

impl BuiltIn {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Counter, Self::Ledger, Self::Notes, Self::Crunch];

    /// The name by which scenarios call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Ledger => "ledger",
            Self::Notes => "notes",
            Self::Crunch => "crunch",
        }
    }

    /// The module. `prebuilt` leads to the prebuilt workloads, so that a packaged crate holds them.
    #[must_use]
    pub fn wasm(self) -> &'static [u8] {
        match self {
            Self::Counter => include_bytes!("../prebuilt/counter.wasm"),
            Self::Ledger => include_bytes!("../prebuilt/ledger.wasm"),
            Self::Notes => include_bytes!("../prebuilt/notes.wasm"),
            Self::Crunch => include_bytes!("../prebuilt/crunch.wasm"),
        }
    }
}

impl WorkloadSource {
    /// The name or the path.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::BuiltIn(built_in) => built_in.name(),
            Self::File { path, .. } => path,
        }
    }

    /// The name, or the last part of the path.
    #[must_use]
    pub fn short_name(&self) -> &str {
        let name = self.name();
        Path::new(name).file_name().and_then(|last| last.to_str()).unwrap_or(name)
    }

    /// The workload's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::BuiltIn(built_in) => built_in.wasm(),
            Self::File { bytes, .. } => bytes,
        }
    }

    /// Which of the embedded workloads it is, also if it was read from a file.
    #[must_use]
    pub fn built_in(&self) -> Option<BuiltIn> {
        match self {
            Self::BuiltIn(built_in) => Some(*built_in),
            Self::File { bytes, .. } => BuiltIn::ALL.into_iter().find(|built_in| built_in.wasm() == bytes),
        }
    }
}

/// A user of a scenario.
#[derive(Debug, Clone)]
pub struct UserPlan {
    /// Their name.
    pub name: Name,
    /// The services that they may transact with.
    pub services: Vec<Name>,
}

/// Transactions for one service.
#[derive(Debug, Clone)]
pub struct TrafficPlan {
    /// The index of the service in [`Scenario::services`].
    pub service: usize,
    /// The indices in [`Scenario::users`] of those who send them, each as often as another.
    pub users: Vec<usize>,
    /// How many, repetitions not counted.
    pub count: u64,
    /// How many of them are sent once more, under the same id.
    pub repeat: Option<Percent>,
    /// What they say.
    pub bodies: Bodies,
}

/// Where the bodies of transactions come from.
#[derive(Debug, Clone)]
pub enum Bodies {
    /// Made up.
    Generated(Generator),
    /// One after another, and again from the first.
    Cycled(Vec<String>),
    /// Drawn by weight.
    Chosen(Vec<Choice>),
}

/// A body and its weight among others.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The transaction, byte for byte.
    pub body: String,
    /// How often it is drawn, compared with the others.
    pub weight: u32,
}

/// A scenario cannot be run as it is written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// Its file, or that of a workload, cannot be read.
    #[error("{file}: cannot be read: {error}; name a scenario file, and workloads by paths relative to it")]
    Unreadable {
        /// The file.
        file: String,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The file is too long.
    #[error("{file}: a scenario is at most {SCENARIO_BYTES_MAX} bytes long; write a smaller one")]
    TooLong {
        /// The file.
        file: String,
    },
    /// The file is not UTF-8.
    #[error("{file}: not a scenario: it is not UTF-8 text; write TOML")]
    NotText {
        /// The file.
        file: String,
    },
    /// It is no TOML, or says what cannot be.
    #[error("{file}: line {line}: {message}")]
    Invalid {
        /// The file.
        file: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// More than one thing is wrong.
    #[error("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several {
        /// All of them.
        errors: Vec<ScenarioError>,
    },
    /// A bound does not hold.
    #[error("{file}: {message}")]
    Bound {
        /// The file.
        file: String,
        /// Which, with the actual value and the bound.
        message: String,
    },
}

const DEFAULT: &str = include_str!("default.toml");

impl Scenario {
    /// The scenario that runs when none is named.
    ///
    /// # Panics
    /// Never: a test reads it.
    #[must_use]
    pub fn built_in() -> Self {
        Self::parse("built-in", DEFAULT, Path::new("")).expect("the embedded scenario is valid")
    }

    /// Reads the scenario in `path` and the workloads that it names, whose paths are relative to its folder.
    ///
    /// # Errors
    /// [`ScenarioError`]. Whether a workload is one is left to the loader.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let file = path.display().to_string();
        let bytes = read_bounded(path, SCENARIO_BYTES_MAX)?;
        if bytes.len() as u64 > SCENARIO_BYTES_MAX {
            return Err(ScenarioError::TooLong { file });
        }
        let Ok(text) = String::from_utf8(bytes) else { return Err(ScenarioError::NotText { file }) };
        Self::parse(&file, &text, path.parent().unwrap_or(Path::new("")))
    }

    /// Parses and checks `text`. `title` is what messages call it; workloads are read relative to `folder`.
    ///
    /// # Errors
    /// [`ScenarioError`].
    pub fn parse(title: &str, text: &str, folder: &Path) -> Result<Self, ScenarioError> {
        let findings = Findings::default();
        let mut errors = Vec::new();
        let scenario = lifeboat_document::parse(text, &findings).map(|document| {
            let resolver = Resolver {
                title,
                folder,
                findings: &findings,
                others: RefCell::default(),
                declared: RefCell::default(),
            };
            let scenario = resolver.resolve(Table::root(&document, &findings));
            errors = resolver.others.into_inner();
            scenario
        });
        let invalid = |wrong: Wrong| ScenarioError::Invalid {
            file: title.to_owned(),
            line: line_of(text, wrong.offset),
            message: wrong.message,
        };
        errors.splice(0..0, findings.sorted().into_iter().map(invalid));
        match (scenario, errors.pop()) {
            (Some(scenario), None) => Ok(scenario),
            (_, Some(error)) if errors.is_empty() => Err(error),
            (_, last) => {
                errors.extend(last);
                Err(ScenarioError::Several { errors })
            }
        }
    }

    /// How many transactions the users make up, repetitions not counted.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.traffic.iter().map(|traffic| traffic.count).sum()
    }
}

/// One byte more than `limit` is enough to know that a file is too long.
fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, ScenarioError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|error| ScenarioError::Unreadable { file: path.display().to_string(), error })?;
    Ok(bytes)
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}
