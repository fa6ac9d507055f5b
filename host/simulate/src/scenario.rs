//! The description of a simulation, in a TOML file.
//!
//! `default.toml` beside this file is the default scenario, and the commented example of the format:
//!
//! | table | keys |
//! |---|---|
//! | `[[machine]]` | `name`, `slots`, `memory`; optional: `disk` |
//! | `[[size]]`, the built-in sizes if there is none | `name`, `fuel`, `memory`, `deadline_ms`; optional: `disk`, `network_calls`, `network_bytes` (those of the next larger built-in size) |
//! | `[[service]]` | `name`; `workload`: `counter`, `ledger`, `notes`, `crunch`, `archive`, `courier`, or a file beside the scenario; optional: `size` (the one with the least memory), `thresholds = { cpu, memory, disk, network }` in percent (98), `queries` (bodies of the queries whose answers are compared at the end), `fail_over_every` (the number of requests after which an operator forces a failover, each time) |
//! | `[[user]]` | `name`, `services` that they may transact with |
//! | `[[traffic]]` | `service`, `count`; optional: `users` (all), `repeat_percent` (0): the share of requests that are sent once more under the same id; and one of `generator`, `bodies`, `choices` |
//!
//! `generator` is a name (`"ledger"`) or a table with one key ([`Generator`]); `bodies` are cycled through; `choices`
//! are drawn by weight. Unknown keys are refused with their line, and everything has a bound.

mod generator;
mod tables;

#[cfg(test)]
mod tests;

pub use generator::{
    ArchiveTraffic, CounterTraffic, CourierTraffic, CrunchTraffic, Generator, LedgerTraffic, NotesTraffic,
};

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

/// The most machines of a scenario.
pub const MACHINES_MAX: usize = 64;

/// The most slots of all machines of a scenario together.
pub const SLOTS_MAX: u64 = 256;

/// The most sizes of a scenario.
pub const SIZES_MAX: usize = 64;

/// The most memory of a size, in bytes.
pub const SIZE_MEMORY_BYTES_MAX: u64 = lifeboat_vm::engine::MEMORY_BYTES_MAX;

/// The most services of a scenario.
pub const SERVICES_MAX: usize = 64;

/// The most users of a scenario.
pub const USERS_MAX: usize = 1_000;

/// The most `[[traffic]]` tables of a scenario.
pub const TRAFFIC_MAX: usize = 256;

/// The most transactions of a scenario: the sum of all counts. Their records are retained until they are reconciled.
pub const TRANSACTIONS_MAX: u64 = 1_000_000;

/// The most queries of a service.
pub const QUERIES_MAX: usize = 1_000;

/// The most accounts, notes or documents over which a generator spreads its transactions.
pub const KEYS_MAX: u32 = 1_000_000;

/// The longest text that the generator for `notes` writes, in bytes.
pub const TEXT_BYTES_MAX: u32 = 1_000_000;

/// The longest text that the generator for `archive` writes, in bytes: the most that one transaction takes.
pub const ARCHIVE_TEXT_BYTES_MAX: u32 = 64 * 1024;

/// The longest text that the generator for `courier` posts, in bytes: the most that one parcel has.
pub const COURIER_TEXT_BYTES_MAX: u32 = 64 * 1024;

/// The most parcels that the generator for `courier` posts at once: as many as one transaction takes.
pub const COURIER_PARCELS_MAX: u32 = 16;

/// The user who observes, forces failovers and sends the queries at the end. No user of a scenario may have this name.
pub const OPERATOR: &str = "operator";

/// A checked simulation: every name refers to something, every bound holds, and every workload's file was read.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The title in reports: the path of its file, or `built-in`.
    pub title: String,
    /// The machines of the fleet.
    pub machines: Vec<Machine>,
    /// The sizes that VMs may have.
    pub sizes: Vec<Arc<Size>>,
    /// The services of the fleet.
    pub services: Vec<ServicePlan>,
    /// The users of the services.
    pub users: Vec<UserPlan>,
    /// The requests of the users.
    pub traffic: Vec<TrafficPlan>,
}

/// A service of a scenario.
#[derive(Debug, Clone)]
pub struct ServicePlan {
    /// The name of the service.
    pub name: Name,
    /// The workload that it runs.
    pub workload: WorkloadSource,
    /// The size of its first VM.
    pub size: Arc<Size>,
    /// The utilisation at which a resource fails its SLA.
    pub thresholds: Thresholds,
    /// The queries that are sent at the end.
    pub queries: Vec<String>,
    /// The number of its requests after which an operator forces a failover, each time.
    pub fail_over_every: Option<NonZeroU64>,
}

/// The source of a service's workload.
#[derive(Debug, Clone)]
pub enum WorkloadSource {
    /// A workload that is embedded in the host.
    BuiltIn(BuiltIn),
    /// A workload that was read from a file.
    File {
        /// The path of the file.
        path: String,
        /// The contents, truncated at one byte over the loader's limit.
        bytes: Vec<u8>,
    },
}

/// A workload that is embedded in the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltIn {
    /// The workload with one number.
    Counter,
    /// The workload with accounts.
    Ledger,
    /// The workload with texts.
    Notes,
    /// The workload with arithmetic.
    Crunch,
    /// The workload with documents in files.
    Archive,
    /// The workload with parcels that are posted to webhooks.
    Courier,
}

impl BuiltIn {
    /// All embedded workloads.
    pub const ALL: [Self; 6] = [Self::Counter, Self::Ledger, Self::Notes, Self::Crunch, Self::Archive, Self::Courier];

    /// Returns its name in scenarios.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Ledger => "ledger",
            Self::Notes => "notes",
            Self::Crunch => "crunch",
            Self::Archive => "archive",
            Self::Courier => "courier",
        }
    }

    /// Returns the module. The link `prebuilt` leads to the prebuilt workloads, so that a packaged crate contains them.
    #[must_use]
    pub fn wasm(self) -> &'static [u8] {
        match self {
            Self::Counter => include_bytes!("../prebuilt/counter.wasm"),
            Self::Ledger => include_bytes!("../prebuilt/ledger.wasm"),
            Self::Notes => include_bytes!("../prebuilt/notes.wasm"),
            Self::Crunch => include_bytes!("../prebuilt/crunch.wasm"),
            Self::Archive => include_bytes!("../prebuilt/archive.wasm"),
            Self::Courier => include_bytes!("../prebuilt/courier.wasm"),
        }
    }
}

impl WorkloadSource {
    /// Returns the name or the path.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::BuiltIn(built_in) => built_in.name(),
            Self::File { path, .. } => path,
        }
    }

    /// Returns the name, or the last part of the path.
    #[must_use]
    pub fn short_name(&self) -> &str {
        let name = self.name();
        Path::new(name).file_name().and_then(|last| last.to_str()).unwrap_or(name)
    }

    /// Returns the workload's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::BuiltIn(built_in) => built_in.wasm(),
            Self::File { bytes, .. } => bytes,
        }
    }

    /// Returns which embedded workload this is, even if it was read from a file.
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
    /// The name of the user.
    pub name: Name,
    /// The services with which they may transact.
    pub services: Vec<Name>,
}

/// Transactions for one service.
#[derive(Debug, Clone)]
pub struct TrafficPlan {
    /// The index of the service in [`Scenario::services`].
    pub service: usize,
    /// The indices in [`Scenario::users`] of the users who send them, all equally often.
    pub users: Vec<usize>,
    /// The number of transactions, without repetitions.
    pub count: u64,
    /// The share of them that is sent once more, under the same id.
    pub repeat: Option<Percent>,
    /// The bodies of the transactions.
    pub bodies: Bodies,
}

/// The source of the bodies of transactions.
#[derive(Debug, Clone)]
pub enum Bodies {
    /// Generated bodies.
    Generated(Generator),
    /// Bodies that are sent one after another, in a cycle.
    Cycled(Vec<String>),
    /// Bodies that are drawn by weight.
    Chosen(Vec<Choice>),
}

/// A body and its weight.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The exact bytes of the transaction.
    pub body: String,
    /// Its frequency relative to the others.
    pub weight: u32,
}

/// An error that prevents a scenario from running.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// Its file, or that of a workload, cannot be read.
    #[error("{file}: cannot be read: {error}; name a scenario file, and workloads by paths relative to it")]
    Unreadable {
        /// The path of the file.
        file: String,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// The file exceeds [`SCENARIO_BYTES_MAX`].
    #[error("{file}: a scenario is at most {SCENARIO_BYTES_MAX} bytes long; write a smaller one")]
    TooLong {
        /// The path of the file.
        file: String,
    },
    /// The file is not UTF-8.
    #[error("{file}: not a scenario: it is not UTF-8 text; write TOML")]
    NotText {
        /// The path of the file.
        file: String,
    },
    /// The file is not TOML, or a value in it is invalid.
    #[error("{file}: line {line}: {message}")]
    Invalid {
        /// The path of the file.
        file: String,
        /// The line, counted from 1.
        line: usize,
        /// The error on that line.
        message: String,
    },
    /// The scenario has more than one error.
    #[error("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several {
        /// All of the errors.
        errors: Vec<ScenarioError>,
    },
    /// A bound does not hold.
    #[error("{file}: {message}")]
    Bound {
        /// The path of the file.
        file: String,
        /// The bound, with the actual value.
        message: String,
    },
}

const DEFAULT: &str = include_str!("default.toml");

impl Scenario {
    /// Returns the default scenario, which is embedded.
    ///
    /// # Panics
    /// Never: a test parses it.
    #[must_use]
    pub fn built_in() -> Self {
        Self::parse("built-in", DEFAULT, Path::new("")).expect("the embedded scenario is valid")
    }

    /// Reads the scenario in `path` and the workloads that it names; their paths are relative to its folder.
    ///
    /// # Errors
    /// [`ScenarioError`]. Only the loader checks that the workloads are valid.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let file = path.display().to_string();
        let bytes = read_bounded(path, SCENARIO_BYTES_MAX)?;
        if bytes.len() as u64 > SCENARIO_BYTES_MAX {
            return Err(ScenarioError::TooLong { file });
        }
        let Ok(text) = String::from_utf8(bytes) else { return Err(ScenarioError::NotText { file }) };
        Self::parse(&file, &text, path.parent().unwrap_or(Path::new("")))
    }

    /// Parses and checks `text`. `title` is its name in messages; the paths of workloads are relative to `folder`.
    ///
    /// # Errors
    /// [`ScenarioError`] with every error that was found.
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

    /// Returns the number of transactions of all users, without repetitions.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.traffic.iter().map(|traffic| traffic.count).sum()
    }
}

/// Reads at most one byte more than `limit`, which is enough to detect a file that is too long.
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
